package Torture::Actions;

# What a program may do to a connection. Each action is called with the end that it is about, the episode, and, inside a
# callback for messages, the connection and the message. A new one is a new line in the table.

use v5.36;

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use Encode ();
use EV;
use Exporter qw(import);
use Peer     qw(frame nested);

our @EXPORT_OK = qw(actions action);

# An object that a program may send, whose methods do anything.
package Torture::Object {
    sub new    ($class, %arg) { return bless {%arg}, $class }
    sub opcode ($self)        { return $self->{opcode} }
    sub body   ($self)        { $self->{before}->(); return $self->{body} }
}

sub _message ($opcode, $body) { AnyEvent::WebSocket::Message->new(opcode => $opcode, body => $body) }

sub _send ($end, $what, $opcode, $octets) {
    my $connection = $end->connection;
    $end->sends($opcode, $octets);
    my $returned = $connection->send($what);
    $end->violation('send did not return the connection') if $returned != $connection;
    return;
}

# What has to die at the caller's, and send nothing.
sub _must_die ($end, $pattern, $code) {
    # Of one that is closed nothing is asked.
    return if grep { $_->{is_ending} } $end, $end->{other};
    return if eval { $code->(); $end->violation("what should die like $pattern did not"); 1 };
    $end->violation("died of '$@', not like $pattern") if $@ !~ $pattern;
    return;
}

sub _on ($end, $event, $code) {
    my $cancel = $end->connection->on($event => $code);
    # Kept for some time, and called now or then.
    push @{ $end->{cancels} }, $cancel;
    shift @{ $end->{cancels} } if @{ $end->{cancels} } > 5;
    return;
}

# A callback that does so many random things, and perhaps dies then.
sub _callback ($end, $episode, $count, $dies) {
    my $left = $count;
    Scalar::Util::weaken($end);
    Scalar::Util::weaken($episode);
    return sub ($connection, $message = undef, $cancel = undef) {
        return if !$end || !$episode;
        $episode->{callbacks}++;
        $episode->act($end, $connection, $message) for 1 .. $count;
        if (--$left < 0 && ref $cancel) {
            $cancel->();
        }
        return if !$dies;
        $end->disturb;
        $episode->{exceptions}++;
        die $Torture::End::ON_PURPOSE;
    };
}

my @BAD_CLOSES = ([999], [1005], [1006], [5000], ['x'], [1000, 'x' x 124], [1000, "\x{20AC}" x 42]);
my @BAD_SENDS  = (\1, [], {}, sub { }, qr/x/, \*STDOUT);
my @EVENTS     = qw(next_message each_message each_message parse_error finish);

# Weight, name, code. Those that do worse than to close are marked by calling `disturb`.
my @ACTIONS = (
    # ---- sending
    [30, 'send octets' => sub ($end, $episode, @) {
        my $octets = $episode->{numbers}->text($episode->length);
        _send($end, $octets, 1, $octets);
    }],
    [20, 'send characters' => sub ($end, $episode, @) {
        my $characters = $episode->{numbers}->characters($episode->length);
        utf8::upgrade($characters);
        # By which noncharacters become U+FFFD, as with the original.
        my $octets = Encode::encode('UTF-8', my $copy = $characters);
        _send($end, $characters, 1, $octets);
    }],
    [20, 'send binary' => sub ($end, $episode, @) {
        my $octets = $episode->{numbers}->binary($episode->length);
        _send($end, _message(2, $octets), 2, $octets);
    }],
    [6, 'send something false' => sub ($end, $episode, @) {
        my $what = $episode->{numbers}->pick('', 0, '0', undef, 0.0);
        _send($end, $what, 1, $what // '');
    }],
    [3, 'send much' => sub ($end, $episode, @) {
        my $octets = $episode->{numbers}->binary($episode->{numbers}->between(65_000, 400_000));
        _send($end, _message(2, $octets), 2, $octets);
    }],
    [10, 'send many' => sub ($end, $episode, @) {
        for (1 .. $episode->{numbers}->between(2, 30)) {
            last if !$end->connection;
            _send($end, "many $_", 1, "many $_");
        }
    }],
    [15, 'send back' => sub ($end, $episode, $connection = undef, $message = undef) {
        return if !ref $message;
        _send($end, $message, $message->opcode, $message->body);
    }],
    [4, 'send an object that acts' => sub ($end, $episode, @) {
        my $octets = 'object ' . $episode->{numbers}->text($episode->length);
        my $object = Torture::Object->new(opcode => 1, body => $octets, before => sub {
            $episode->act($end);
            # Whatever that has sent is before this.
            $end->sends(1, $octets);
        });
        my $connection = $end->connection;
        eval { $connection->send($object); 1 } or die $@;
    }],
    [4, 'send ping or pong' => sub ($end, $episode, @) {
        $end->connection->send(_message($episode->{numbers}->pick(9, 10), 'x' x $episode->{numbers}->below(126)));
    }],
    [4, 'send what cannot be sent' => sub ($end, $episode, @) {
        my $what = $episode->{numbers}->pick(@BAD_SENDS);
        _must_die($end, qr/\Asend takes a string or a message object at /, sub { $end->connection->send($what) });
    }],
    [3, 'send a bad opcode' => sub ($end, $episode, @) {
        my $opcode = $episode->{numbers}->pick(16, -1, 255);
        _must_die($end, qr/ is not between 0 and 15 at /, sub { $end->connection->send(_message($opcode, 'x')) });
    }],
    [8, 'broadcast' => sub ($end, $episode, @) {
        my @ends = grep { $_->connection } $episode->some_ends;
        my $octets = 'all ' . $episode->{numbers}->text($episode->length);
        $_->sends(1, $octets) for @ends;
        # What callbacks send meanwhile comes before this on those that it has not come to yet.
        local $episode->{depth} = $episode->DEEPEST;
        AnyEvent::WebSocket::Connection->broadcast($octets, map { $_->connection } @ends);
    }],
    [2, 'broadcast to what is none' => sub ($end, $episode, @) {
        my $none = $episode->{numbers}->pick(undef, 'x', {}, bless {}, 'Torture::End');
        _must_die($end, qr/ at .*Actions\.pm line /s, sub {
            AnyEvent::WebSocket::Connection->broadcast('x', $end->connection, $none);
        });
    }],

    # ---- closing
    [3, 'close' => sub ($end, $episode, @) {
        $end->ends;
        $end->connection->close($episode->{numbers}->pick([], [1000], [1001, 'bye'], [4999, "\x{20AC}" x 41], [0])->@*);
    }],
    [2, 'close badly' => sub ($end, $episode, @) {
        my $bad = $episode->{numbers}->pick(@BAD_CLOSES);
        _must_die($end, qr/./, sub { $end->connection->close(@$bad) });
    }],
    [1, 'send Close' => sub ($end, $episode, @) {
        $end->ends;
        $end->connection->send(_message(8, $episode->{numbers}->pick('', pack('n a*', 1000, 'raw'))));
    }],
    [2, 'drop' => sub ($end, $episode, @) { $end->drop }],

    # ---- callbacks
    [20, 'add a callback' => sub ($end, $episode, @) {
        my ($numbers, $event) = ($episode->{numbers}, $episode->{numbers}->pick(@EVENTS));
        _on($end, $event, _callback($end, $episode, $numbers->between(0, 2), $numbers->percent(2)));
    }],
    [8, 'cancel a callback' => sub ($end, $episode, @) {
        my $cancels = $end->{cancels};
        return if !@$cancels;
        my $cancel = $cancels->[ $episode->{numbers}->below(scalar @$cancels) ];
        $cancel->() for 1 .. $episode->{numbers}->between(1, 2);
    }],
    [5, 'add a callback and cancel it' => sub ($end, $episode, @) {
        my $name = $end->{name};
        $end->connection->on($episode->{numbers}->pick(@EVENTS) => sub (@) {
            $episode->violation("$name: a callback that was cancelled has run");
        })->();
    }],
    [2, 'add a callback for nothing' => sub ($end, $episode, @) {
        _must_die($end, qr/\Aunrecongized event: nothing at /, sub { $end->connection->on(nothing => sub { }) });
    }],
    [2, 'add what is no callback' => sub ($end, $episode, @) {
        my $none = $episode->{numbers}->pick('x', undef, []);
        _must_die($end, qr/is not a code reference at /, sub { $end->connection->on(finish => $none) });
    }],
    [10, 'ask' => sub ($end, $episode, @) {
        my $connection = $end->connection;
        my @all = map { $connection->$_ } qw(handle masked subprotocol max_payload_size max_fragments close_code
            close_reason close_error was_clean role validate_utf8 close_timeout);
    }],

    # ---- event loops
    [4, 'run the event loop' => sub ($end, $episode, @) {
        EV::run(EV::RUN_NOWAIT()) for 1 .. $episode->{numbers}->between(1, 4);
    }],
    [3, 'wait in the event loop' => sub ($end, $episode, @) {
        my $done  = AE::cv;
        my $timer = AE::timer $episode->{numbers}->below(3) / 1000, 0, sub { $done->send };
        nested { $done->recv };
    }],

    # ---- the handle, as it may be used
    [12, 'write a frame' => sub ($end, $episode, @) {
        my $connection = $end->connection;
        # Behind a Close it may still go out, or there may be no write side left.
        return if $end->{is_ending} || $end->{other}{is_ending};
        my ($opcode, $octets) = (2, 'raw ' . $episode->{numbers}->binary($episode->length));
        $end->sends($opcode, $octets);
        $connection->handle->push_write(frame(
            opcode => $opcode, payload => $octets, $connection->masked ? (mask => $episode->{numbers}->binary(4)) : (),
        ));
    }],
    [4, 'stop reading' => sub ($end, $episode, @) {
        my $handle = $end->connection->handle;
        return if $handle->destroyed;
        $handle->stop_read;
        $end->{is_stopped} = 1;
        # From then on everything goes through the handle.
        $end->{lingers} = 0;
    }],
    [8, 'start reading' => sub ($end, $episode, @) { $end->start_reading }],
    [4, 'set options of the handle' => sub ($end, $episode, @) {
        my $handle = $end->connection->handle;
        return if $handle->destroyed;
        # Behind a close it would shut the write side too early.
        $handle->{low_water_mark} = $episode->{numbers}->pick(0, 100, 100_000)
            if !$end->{is_ending} && !$end->{other}{is_ending};
        $handle->no_delay(1);
        $handle->timeout($episode->{numbers}->pick(0, 1000));
        $handle->{linger} = $episode->{numbers}->pick(1, 4);
    }],
    [3, 'wait for the handle to drain' => sub ($end, $episode, @) {
        my $handle = $end->connection->handle;
        # That place is ours from then on: the write side is shut there.
        return if $handle->destroyed || $end->{is_ending} || $end->{other}{is_ending};
        Scalar::Util::weaken(my $weak = $episode);
        $handle->on_drain(sub ($handle) { $weak->{callbacks}++ if $weak; $handle->on_drain(undef) });
    }],

    # ---- and as it may not
    [1, 'destroy the handle' => sub ($end, $episode, @) {
        $end->disturb;
        $end->connection->handle->destroy;
    }],
    [1, 'shut the handle' => sub ($end, $episode, @) {
        $end->disturb;
        $end->connection->handle->push_shutdown;
    }],
    [1, 'write garbage' => sub ($end, $episode, @) {
        $end->disturb;
        my @garbage = ("\xF0\x00", "\x8B\x00", "\xC9\x80", "\x81\xFF\xFF", "\x08\x00", "\x80\x00");
        $end->connection->handle->push_write($episode->{numbers}->pick(@garbage));
    }],
    [1, 'close the descriptor' => sub ($end, $episode, @) {
        my $socket = $end->connection->handle->fh or return;
        $end->disturb;
        $episode->{has_closed} = 1;
        close $socket;
    }],
    [1, 'shut the socket' => sub ($end, $episode, @) {
        my $socket = $end->connection->handle->fh or return;
        return if !defined fileno $socket;
        $end->disturb;
        shutdown $socket, $episode->{numbers}->below(3);
    }],
    [1, 'take over reading' => sub ($end, $episode, @) {
        my $handle = $end->connection->handle;
        return if $handle->destroyed;
        $end->disturb;
        $end->{is_taken} = 1;
        $episode->{numbers}->percent(50)
            ? $handle->on_read(sub ($handle) { $handle->{rbuf} = '' })
            : $handle->push_read(chunk => 100, sub (@) { });
    }],
    [1, 'limit the write buffer' => sub ($end, $episode, @) {
        my $handle = $end->connection->handle;
        return if $handle->destroyed;
        $end->disturb;
        $handle->wbuf_max(1000);
    }],
    [1, 'time out' => sub ($end, $episode, @) {
        my $handle = $end->connection->handle;
        return if $handle->destroyed;
        $end->disturb;
        $handle->rtimeout(0.001);
    }],
);

my %CODE = map { $_->[1] => $_->[2] } @ACTIONS;

sub actions_listed () { map { [@$_[0, 1]] } @ACTIONS }

# Pairs of weight and name, in one list.
sub actions ()     { map { @$_[0, 1] } @ACTIONS }
sub action ($name) { $CODE{$name} }

# ---- what an end needs besides

package Torture::End {
    # Where the program has stopped it.
    sub start_reading ($self) {
        return if !delete $self->{is_stopped};
        my $handle = $self->{handle};
        return if !$handle || $handle->destroyed || $self->{is_taken} || !$handle->fh || !defined fileno $handle->fh;
        $handle->start_read;
        return;
    }
}

1;
