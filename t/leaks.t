# Nothing stays behind: objects, descriptors and memory after many connections and many messages.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use POSIX ();
use Peer qw(connection_and_peer connection_pair connection_through_handle frame close_frame settle);
use Scalar::Util qw(weaken);
use Test2::V0;

# Resident memory in bytes, or undef where the system does not tell.
my $PAGE = POSIX::sysconf(POSIX::_SC_PAGESIZE());

sub resident {
    open my $statm, '<', '/proc/self/statm' or return undef;
    return (split ' ', readline $statm)[1] * $PAGE;
}

diag 'there is no /proc/self/statm: memory is not measured' unless defined resident();

sub open_descriptors {
    return scalar grep { my $copy = POSIX::dup($_); defined $copy && POSIX::close($copy) } 0 .. 255;
}

# Some event loops have idle watchers of AnyEvent's making, which let time pass. With them a few rounds
# have to do, and say nothing about memory.
my $started = AE::time;
turn() for 1 .. 5;
my $slow = AE::time - $started > 0.15;
diag 'this event loop is slow to be idle: memory is not measured' if $slow;

# By how many bytes memory grows in a round; undef where that is not measured. A leak makes most of the five windows
# grow, anything else only some.
sub usual_growth {
    my ($rounds, $allowed, $code) = @_;
    my $usual;
    # Large buffers come and go in the heap, which may take some time to find its size.
    for my $attempt (1 .. ($slow ? 0 : 4)) {
        my @grown;
        for my $window (1 .. 5) {
            my $before = resident() // last;
            $code->() for 1 .. $rounds;
            push @grown, (resident() - $before) / $rounds;
        }
        $usual = (sort { $a <=> $b } @grown)[2];
        last if !defined $usual || $usual <= $allowed;
    }
    return $usual;
}

# Runs code over and over. The first rounds fill what is kept for reuse; from then on neither
# descriptors nor memory grow.
sub stays_flat {
    my ($name, $warm_up, $rounds, $allowed, $code) = @_;
    ($warm_up, $rounds) = (1, 1) if $slow;
    $code->() for 1 .. $warm_up;
    turn() for 1 .. 5;
    my $descriptors = open_descriptors();
    my $usual = usual_growth($rounds, $allowed, $code);
    $code->() if $slow;
    turn() for 1 .. 5;
    is open_descriptors(), $descriptors, "$name: descriptors";
    cmp_ok $usual, '<=', $allowed, "$name: bytes per round" if defined $usual;
}

# Runs the event loop until the condition holds, without the pauses of run_until.
sub turn_until(&;$) {
    my ($condition, $what) = @_;
    my $deadline = AE::time + 10;
    until ($condition->()) {
        die 'timeout waiting for ' . ($what // 'something') if AE::time > $deadline;
        turn();
    }
}

sub turn {
    my $turned = AE::cv;
    # Not the condition variable itself, of which EV would keep something each time.
    my $idle = AE::idle sub { $turned->send };
    $turned->recv;
}

# Reads what comes until EOF or an error.
sub drain {
    my ($peer) = @_;
    turn_until {
        while (1) {
            my $n = sysread $peer, my $bytes, 1 << 18;
            return !$!{EAGAIN} unless defined $n;
            return 1 if !$n;
        }
    } 'EOF';
}

# Ways in which connections end. The connection is $_[0], the only reference to it.
my %ENDING = (
    'close' => sub {
        my (undef, $peer, $finished) = @_;
        $_[0]->close(1000, 'bye');
        syswrite $peer, close_frame(1000);
        drain($peer);
        close $peer;
        turn_until { $$finished } 'finish';
    },
    'Close of the peer' => sub {
        my (undef, $peer, $finished) = @_;
        syswrite $peer, close_frame(1001, 'bye');
        drain($peer);
        close $peer;
        turn_until { $$finished } 'finish';
    },
    'EOF' => sub {
        my (undef, $peer, $finished) = @_;
        close $peer;
        turn_until { $$finished } 'finish';
    },
    'an error' => sub {
        my (undef, $peer, $finished) = @_;
        close $peer;
        $_[0]->send('into the void');
        turn_until { $$finished } 'finish';
    },
    'a bad frame' => sub {
        my (undef, $peer, $finished) = @_;
        syswrite $peer, frame(payload => 'x' x 200, fin => 0) . frame(rsv => 7);
        drain($peer);
        close $peer;
        turn_until { $$finished } 'finish';
    },
    'EOF in a message' => sub {
        my (undef, $peer, $finished) = @_;
        syswrite $peer, frame(payload => 'x' x 2000, fin => 0) . substr frame(opcode => 0, payload => 'y' x 3000), 0, 2000;
        shutdown $peer, 1;
        turn_until { $$finished } 'finish';
    },
    'die' => sub {
        my (undef, $peer, $finished) = @_;
        $_[0]->on(each_message => sub { die { big => 'x' x 1000 } });
        syswrite $peer, frame(payload => 'x') x 3;
        shutdown $peer, 1;
        turn_until { $$finished } 'finish';
    },
    'close timeout' => sub {
        my (undef, $peer, $finished) = @_;
        $_[0]->close;
        turn_until { $$finished } 'finish';
    },
    'drop' => sub {
        my (undef, $peer) = @_;
        undef $_[0];
        drain($peer);
    },
    'close, then drop' => sub {
        my (undef, $peer) = @_;
        # The close timeout runs.
        $_[0]->{close_timeout} = 30;
        $_[0]->close;
        undef $_[0];
        drain($peer);
    },
    'drop in a callback' => sub {
        my (undef, $peer) = @_;
        my $connection = $_[0];
        undef $_[0];
        $connection->on(next_message => sub { undef $connection });
        syswrite $peer, frame(payload => 'x') x 3;
        drain($peer);
    },
    'drop with unsent data' => sub {
        my (undef, $peer) = @_;
        $_[0]->send('x' x 500_000);
        undef $_[0];
        drain($peer);
    },
    'destroyed handle' => sub {
        my (undef, $peer) = @_;
        syswrite $peer, frame(payload => 'x' x 1000);
        $_[0]->handle->destroy;
        drain($peer);
    },
    'handle destroyed in a callback' => sub {
        my (undef, $peer) = @_;
        $_[0]->on(next_message => sub { $_[0]->handle->destroy });
        syswrite $peer, frame(payload => 'x') x 3;
        drain($peer);
    },
    'handle destroyed with unsent data' => sub {
        my (undef, $peer) = @_;
        $_[0]->send('x' x 500_000);
        $_[0]->handle->destroy;
        drain($peer);
    },
    'callbacks that hold their connection' => sub {
        my (undef, $peer, $finished) = @_;
        my $connection = $_[0];
        $connection->on($_ => sub { $connection && 1 }) for qw(next_message each_message parse_error finish);
        close $peer;
        turn_until { $$finished } 'finish';
    },
);

my %MAKE = (
    direct               => \&connection_and_peer,
    'through the handle' => \&connection_through_handle,
);

# 16 endings, 2 transports and 135 rounds: about 4,000 connections.
subtest 'many connections' => sub {
    for my $transport (sort keys %MAKE) {
        for my $ending (sort keys %ENDING) {
            my @left;
            my $round = sub {
                my $finished = 0;
                my ($connection, $peer) = $MAKE{$transport}->(masked => 1, close_timeout => 0.001);
                # It knows itself, as callbacks do that cancel themselves.
                my $cancel;
                my $callback = sub { $cancel && $finished };
                $cancel = $connection->on(each_message => $callback);
                $connection->on(next_message => $callback);
                $connection->on(parse_error  => $callback);
                $connection->on(finish       => sub { $finished++ });
                $connection->on(each_message => sub { $finished })->();
                weaken(my $weak_connection = $connection);
                weaken(my $weak_handle     = $connection->handle);
                weaken(my $weak_callback   = $callback);
                @left = (\$weak_connection, \$weak_handle, \$weak_callback);
                syswrite $peer, frame(payload => 'hello');
                $connection->send('hello');
                $ENDING{$ending}->($connection, $peer, \$finished);
                close $peer;
                turn() for 1 .. 3;
            };
            stays_flat("$ending, $transport", 10, 25, 200, $round);
            turn_until { !grep { defined $$_ } @left } "end of what is left after $ending, $transport";
            pass "$ending, $transport: connection, handle and callbacks are gone";
        }
    }
};

# What goes over a connection, 500 messages at a time: about 150,000 in all.
my %TRAFFIC = (
    'text'              => { bytes => frame(payload => 'hello') },
    'masked'            => { bytes => frame(payload => 'hello', mask => 'abcd'), options => { masked => 1 } },
    'binary as message' => { bytes => frame(opcode => 2, payload => "\x00\xff"), echo => 'message' },
    'UTF-8 decoded'     => { bytes => frame(payload => "\xe2\x82\xac"), echo => 'decoded' },
    'fragments'         => {
        bytes => frame(payload => 'one', fin => 0) . frame(opcode => 0, payload => 'two', fin => 0)
            . frame(opcode => 9, payload => 'ping') . frame(opcode => 0, payload => 'three'),
        pongs => 500,
    },
    'large'             => { bytes => frame(payload => 'x' x 20_000), count => 20 },
    'next_message'      => { bytes => frame(payload => 'hello'), echo => 'next' },
    'cancelled callbacks' => { bytes => frame(payload => 'hello'), echo => 'cancel' },
    'exceptions caught'   => { bytes => frame(payload => 'hello'), echo => 'eval' },
);

my %ECHO = (
    text    => sub { $_[0]->send($_[1]->body) },
    message => sub { $_[0]->send($_[1]) },
    decoded => sub { $_[0]->send($_[1]->decoded_body) },
    eval    => sub { eval { die { message => $_[1] } }; $_[0]->send($@->{message}) },
    cancel  => sub {
        my ($connection, $message) = @_;
        my $cancel = $connection->on(each_message => sub { $message });
        $connection->on(each_message => sub { $_[2]->(); $cancel->() });
        $connection->send($message);
    },
);

subtest 'many messages' => sub {
    for my $transport (sort keys %MAKE) {
        for my $traffic (sort keys %TRAFFIC) {
            my ($bytes, $options, $echo, $pongs, $count) = @{ $TRAFFIC{$traffic} }{qw(bytes options echo pongs count)};
            $count ||= 500;
            my ($connection, $peer) = $MAKE{$transport}->(%{ $options || {} });
            my ($got, $weak) = 0;
            if (($echo // '') eq 'next') {
                my $next;
                $next = sub { $got++; $_[0]->send($_[1]); $_[0]->on(next_message => $next) };
                $connection->on(next_message => $next);
            }
            else {
                my $reply = $ECHO{ $echo // 'text' };
                $connection->on(each_message => sub { $got++; weaken($weak = $_[1]); goto &$reply });
            }
            my $round = sub {
                $got = 0;
                my $unsent = $bytes x $count;
                turn_until {
                    my $n = length $unsent ? syswrite $peer, $unsent : 0;
                    substr $unsent, 0, $n, '' if $n;
                    1 while sysread $peer, my $reply, 1 << 18;
                    $got >= $count;
                } 'messages';
                turn_until { !sysread $peer, my $reply, 1 << 18 } 'the last replies';
            };
            stays_flat("$traffic, $transport", 2, 3, 8 * $count, $round);
            undef $connection;
            ok !$weak, "$traffic, $transport: messages are gone";
            drain($peer);
        }
    }
};

subtest 'descriptors of connections that end together' => sub {
    settle();
    my $before = open_descriptors();
    my @pairs = map { [connection_pair()] } 1 .. 50;
    cmp_ok open_descriptors(), '>=', $before + 100, 'they are counted';
    turn_until { 1 };
    @$_ = (undef, undef) for @pairs;
    turn_until { open_descriptors() == $before } 'descriptors';
    is open_descriptors(), $before, 'all closed, though both sides were dropped at once';
};


# A condition variable's `recv` grows by itself, so the loop is run by the backend's own means where there are
# such; one Perl value for each read would not show otherwise.
subtest 'nothing stays behind of a read' => sub {
    my $backend = AnyEvent::detect();
    my $turn = $backend =~ /::EV$/ ? sub { EV::run(EV::RUN_ONCE()) }
        : $backend =~ /::Perl$/    ? \&AnyEvent::Loop::one_event
        :                            undef;
    $turn or skip_all "no way known to run a single turn of $backend";
    defined resident() or skip_all 'memory is not measured';
    my ($connection, $peer) = connection_and_peer();
    my $count = 0;
    $connection->on(each_message => sub { $count++ });
    settle();
    my $bytes = frame(payload => 'x');
    my $read  = sub {
        my $until = $count + shift;
        while ($count < $until) {
            my $before = $count;
            syswrite $peer, $bytes;
            $turn->() while $count == $before;
        }
    };
    $read->(5_000);
    my $before = resident();
    $read->(40_000);
    cmp_ok((resident() - $before) / 40_000, '<', 5, 'bytes for each');
};

# A compressor has some 300 KiB, a decompressor 40.
subtest 'a finished connection that is kept has no memory for compression' => sub {
    require Compress::Raw::Zlib;
    my ($deflate) = Compress::Raw::Zlib::Deflate->new(-WindowBits => -15, -AppendOutput => 1);
    $deflate->deflate('x' x 500, my $payload = '');
    $deflate->flush($payload, Compress::Raw::Zlib::Z_SYNC_FLUSH());
    substr($payload, -4) = '';
    for my $name ('close', 'Close of the peer', 'EOF', 'an error', 'close timeout') {
        my @kept;
        my $round = sub {
            my ($connection, $peer) = connection_and_peer(
                role          => 'server',
                extensions    => 'permessage-deflate',
                close_timeout => $name eq 'close timeout' ? 0.001 : 30,
            );
            my ($received, $finished);
            $connection->on(next_message => sub { $received = 1 });
            $connection->on(finish => sub { $finished = 1 });
            $connection->send('x' x 500);
            syswrite $peer, frame(rsv => 4, payload => $payload, mask => 'mask');
            turn_until { $received } 'the message';
            push @kept, $connection;
            $ENDING{$name}->($connection, $peer, \$finished);
        };
        $round->() for 1 .. 10;
        my $growth = usual_growth(10, 20_000, $round) // next;
        cmp_ok $growth, '<', 20_000, "$name: bytes for each";
    }
    pass 'not measured' if $slow || !defined resident();
};

done_testing;
