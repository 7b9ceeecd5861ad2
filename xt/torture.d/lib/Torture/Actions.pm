package Torture::Actions;

# What a program may do to a connection. Each action is called with the end that it is about, the episode, and, inside a
# callback for messages, the connection and the message. A new one is a new line in the table.

use v5.36;

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use Encode ();
use Exporter      qw(import);
use Peer          qw(frame nested);
use Torture::Loop qw(poll survives_closing);

our @EXPORT_OK = qw(actions action);

# An object that a program may send, whose methods do anything.
package Torture::Object {
    sub new    ($class, %arg) { return bless {%arg}, $class }
    sub opcode ($self)        { return $self->{opcode} }
    sub body   ($self)        { $self->{before}->(); return $self->{body} }
}

sub _message ($opcode, $body) { AnyEvent::WebSocket::Message->new(opcode => $opcode, body => $body) }

sub _send ($end, $what, $opcode, $octets, $method = 'send') {
    my $connection = $end->connection;
    $end->sends($opcode, $octets);
    my $returned = $connection->$method($what);
    $end->violation("$method did not return the connection") if $returned != $connection;
    $end->has_sent($connection, $opcode);
    return;
}

sub _send_octets ($end, $octets) { _send($end, $octets, 1, $octets) }

sub _ping ($end, $payload) { _send($end, $payload, 9, $payload, 'ping') }

# What has to die at the caller's, and send nothing.
sub _must_die ($end, $pattern, $code) {
    # Of one that is closed nothing is asked.
    _always_dies($end, $pattern, $code) if $end->is_calm;
    return;
}

# The same, whether or not it is closed.
sub _always_dies ($end, $pattern, $code) {
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

# A callback for an event that does so many random things, and perhaps dies then.
sub _callback ($end, $episode, $event, $count, $dies) {
    my $left = $count;
    Scalar::Util::weaken($end);
    Scalar::Util::weaken($episode);
    return sub ($connection, $message = undef, $cancel = undef) {
        return if !$end || !$episode;
        $episode->{callbacks}++;
        my @message = $event =~ /_message|p[io]ng/ ? $message : ();
        $end->in_callback($event, sub { $episode->act($end, $connection, @message) for 1 .. $count });
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
my @EVENTS     = qw(next_message each_message each_message parse_error finish ping pong drain drain);

# Payloads of the test's Pings begin with P, where they are not empty, and those of its Pongs with D: what answers a Ping is
# told from what does not.
sub _payload ($episode, $first, $length) { substr $first . $episode->{numbers}->text($length), 0, $length }

# Characters in either of the forms that perl has for them, where both are possible.
sub _in_any_form ($episode, $characters) {
    $episode->{numbers}->percent(50) ? utf8::upgrade($characters) : utf8::downgrade($characters, 1);
    return $characters;
}

# Weight, name, code. Those that do worse than to close are marked by calling `disturb`.
my @ACTIONS = (
    # ---- sending
    [30, 'send octets' => sub ($end, $episode, @) {
        _send_octets($end, $episode->{numbers}->text($episode->length));
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
            _send_octets($end, "many $_");
        }
    }],
    [15, 'send back' => sub ($end, $episode, $connection = undef, $message = undef) {
        return if !ref $message;
        # A Pong that answers nothing would look like an answer.
        my $again = $message->opcode < 8 ? $message : _message(2, $message->body);
        _send($end, $again, $again->opcode, $again->body);
    }],
    [10, 'send_text' => sub ($end, $episode, @) {
        my $numbers    = $episode->{numbers};
        my $characters = $numbers->percent(50)
            ? $numbers->characters($episode->length)
            : join '', map { chr $numbers->below(256) } 1 .. $numbers->below(300);
        utf8::encode(my $octets = $characters);
        _send($end, _in_any_form($episode, $characters), 1, $octets, 'send_text');
    }],
    [10, 'send_binary' => sub ($end, $episode, @) {
        my $octets = $episode->{numbers}->binary($episode->length);
        _send($end, _in_any_form($episode, $octets), 2, $octets, 'send_binary');
    }],
    [2, 'send_text and send_binary badly' => sub ($end, $episode, @) {
        my $numbers   = $episode->{numbers};
        my $reference = $numbers->pick(\1, [], {}, sub { });
        no warnings qw(surrogate non_unicode);
        my $character = $numbers->pick("\x{D800}", "\x{DFFF}", "\x{110000}");
        my ($method, $what, $pattern) = $numbers->pick(
            ['send_text',   $reference,               qr/\Asend_text takes a string at .*Actions\.pm line /],
            ['send_binary', $reference,               qr/\Asend_binary takes a string at .*Actions\.pm line /],
            ['send_text',   'x' x 9 . $character,     qr/\Asend_text: the string has a character that UTF-8 has not, U\+/],
            ['send_binary', "\xE9" x 9 . "\x{100}", qr/\Asend_binary: the string has a wide character/],
        )->@*;
        _always_dies($end, $pattern, sub { $end->connection->$method($what) });
    }],
    [4, 'send an object that acts' => sub ($end, $episode, @) {
        my $octets = 'object ' . $episode->{numbers}->text($episode->length);
        my $object = Torture::Object->new(opcode => 1, body => $octets, before => sub {
            $episode->act($end);
            # Whatever that has sent is before this.
            $end->sends(1, $octets);
            # From the socket's point of view it has been there all the time.
            $end->{talked} = AE::time;
        });
        my $connection = $end->connection;
        eval { $connection->send($object); 1 } or die $@;
    }],
    [4, 'send ping or pong' => sub ($end, $episode, @) {
        my ($opcode, $first, $least) = $episode->{numbers}->pick([9, 'P', 0], [10, 'D', 1])->@*;
        my $octets = _payload($episode, $first, $episode->{numbers}->between($least, 125));
        _send($end, _message($opcode, $octets), $opcode, $octets);
    }],
    [8, 'ping' => sub ($end, $episode, @) {
        my $octets = _payload($episode, 'P', $episode->{numbers}->below(126));
        my $characters = $octets;
        utf8::decode($characters) if $episode->{numbers}->percent(30);
        _send($end, $characters, 9, $octets, 'ping');
    }],
    [3, 'ping without a payload' => sub ($end, $episode, @) {
        _send($end, $episode->{numbers}->pick('', undef), 9, '', 'ping');
    }],
    [2, 'ping with too much' => sub ($end, $episode, @) {
        my $much = $episode->{numbers}->pick('x' x 126, 'x' x 70_000, "\x{20AC}" x 42);
        _always_dies($end, qr/\Aping: the payload has \d+ bytes, and 125 is the limit at .*Actions\.pm line /,
            sub { $end->connection->ping($much) });
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
        $_->connection && $_->has_sent($_->connection, 1) for @ends;
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
        $end->{has_closed} = 1;
    }],
    [2, 'close badly' => sub ($end, $episode, @) {
        my $bad = $episode->{numbers}->pick(@BAD_CLOSES);
        _must_die($end, qr/./, sub { $end->connection->close(@$bad) });
    }],
    [1, 'send Close' => sub ($end, $episode, @) {
        $end->ends;
        $end->connection->send(_message(8, $episode->{numbers}->pick('', pack('n a*', 1000, 'raw'))));
        $end->{has_closed} = 1;
    }],
    [2, 'drop' => sub ($end, $episode, @) { $end->drop }],

    # ---- callbacks
    [20, 'add a callback' => sub ($end, $episode, @) {
        my ($numbers, $event) = ($episode->{numbers}, $episode->{numbers}->pick(@EVENTS));
        _on($end, $event, _callback($end, $episode, $event, $numbers->between(0, 2), $numbers->percent(2)));
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
            close_reason close_error was_clean role validate_utf8 close_timeout max_write_buffer ping_interval
            ping_timeout idle_timeout);
    }],
    [6, 'buffered_amount' => sub ($end, $episode, @) {
        my $amount = $end->connection->buffered_amount;
        $end->violation("buffered_amount is '" . ($amount // 'undef') . "'") if ($amount // '') !~ /\A[0-9]+\z/;
        my $most = $end->most_buffered;
        $end->violation("buffered_amount is $amount, of $most at most") if $amount > $most;
    }],
    [4, 'latency' => sub ($end, $episode, @) {
        my $latency = $end->connection->latency;
        return if !defined $latency;
        $end->violation("latency is $latency s") if $latency < 0 || $latency > AE::time - $episode->{started};
    }],

    # ---- pauses
    [4, 'pause' => sub ($end, $episode, @) {
        my $connection = $end->connection;
        $end->violation('pause did not return the connection') if $connection->pause != $connection;
        $end->pauses;
    }],
    [8, 'resume' => sub ($end, $episode, @) {
        my ($connection, $received) = ($end->connection, $end->{received});
        $end->resumes;
        $end->violation('resume did not return the connection') if $connection->resume != $connection;
        # Where the descriptor was closed, what had arrived comes at once, and then finish.
        $end->violation('resume delivered by itself') if $end->{received} != $received && !$end->{is_disturbed};
    }],

    # ---- event loops
    [4, 'run the event loop' => sub ($end, $episode, @) {
        poll() for 1 .. $episode->{numbers}->between(1, 4);
    }],
    [3, 'wait in the event loop' => sub ($end, $episode, @) {
        my $done  = AE::cv;
        my $timer = AE::timer $episode->{numbers}->below(3) / 1000, 0, sub { $done->send };
        nested { $done->recv };
    }],

    [2, 'let time pass' => sub ($end, $episode, @) {
        my $done  = AE::cv;
        my $timer = AE::timer $episode->{numbers}->between(5, 40) / 1000, 0, sub { $done->send };
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
        $end->stops_reading;
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
        Scalar::Util::weaken(my $weak = $end);
        # Who sets this anew does without `drain`, now and where it is taken away again.
        my $set = sub ($code) { $weak->{awaits_drain} = 0 if $weak; $handle->on_drain($code) };
        Scalar::Util::weaken($handle);
        $set->(sub ($handle) { $weak->{episode}{callbacks}++ if $weak; $set->(undef) });
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
        return if !survives_closing();
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

1;
