# Nothing stays behind: objects, descriptors and memory after many connections and many messages.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use POSIX ();
use Peer qw(
    connection_and_peer connection_pair connection_through_handle socket_pair frame close_frame parse_frames
    read_until_eof run_until run_for settle
);
use Scalar::Util qw(weaken);
use Test2::V0;

# Resident memory in bytes, or undef where the system does not tell.
my $PAGE = POSIX::sysconf(POSIX::_SC_PAGESIZE());

sub resident {
    open my $statm, '<', '/proc/self/statm' or return undef;
    return (split ' ', readline $statm)[1] * $PAGE;
}

sub open_descriptors { return scalar grep { defined POSIX::lseek($_, 0, 1) || $!{ESPIPE} } 0 .. 255 }

# Runs code over and over. The first rounds fill what is kept for reuse; after them neither descriptors
# nor memory may grow. `$allowed` bytes per round are below the size of anything that could be left behind.
sub stays_flat {
    my ($name, $warm_up, $rounds, $allowed, $code) = @_;
    $code->() for 1 .. $warm_up;
    my ($descriptors, $memory) = (open_descriptors(), resident());
    $code->() for 1 .. $rounds;
    is open_descriptors(), $descriptors, "$name: descriptors";
    if (!defined $memory) {
        diag 'no /proc/self/statm: memory is not measured' unless our $told++;
        return;
    }
    my $grown = resident() - $memory;
    cmp_ok $grown, '<=', $allowed * $rounds, "$name: memory" or diag sprintf '%.1f bytes per round', $grown / $rounds;
}

# Runs the event loop until the condition holds, without the waiting of run_until.
sub turn_until(&) {
    my ($condition) = @_;
    my $deadline = AE::time + 10;
    until ($condition->()) {
        die 'timeout' if AE::time > $deadline;
        my $done = AE::cv;
        my $idle = AE::idle $done;
        $done->recv;
    }
}

# Reads until EOF or an error.
sub drain {
    my ($peer) = @_;
    turn_until {
        while (1) {
            my $n = sysread $peer, my $bytes, 1 << 16;
            return 1 if defined $n ? !$n : !$!{EAGAIN};
            return 0 if !defined $n;
        }
    };
}

# Ways in which connections end, each called with a connection and its peer. What they hold may go
# only by what we do.
my %ENDING = (
    'close' => sub {
        my ($connection, $peer) = @_;
        $connection->close(1000, 'bye');
        syswrite $peer, close_frame(1000);
        close $peer;
        turn_until { $connection->{finished_by_test} };
    },
    'Close of the peer' => sub {
        my ($connection, $peer) = @_;
        syswrite $peer, close_frame(1001, 'bye');
        turn_until { $connection->was_clean };
        close $peer;
        turn_until { $connection->{finished_by_test} };
    },
    'EOF' => sub {
        my ($connection, $peer) = @_;
        close $peer;
        turn_until { $connection->{finished_by_test} };
    },
    'an error' => sub {
        my ($connection, $peer) = @_;
        close $peer;
        $connection->send('into the void');
        turn_until { $connection->{finished_by_test} };
    },
    'a bad frame' => sub {
        my ($connection, $peer) = @_;
        syswrite $peer, frame(payload => 'x' x 200, fin => 0) . frame(rsv => 7);
        drain($peer);
        close $peer;
        turn_until { $connection->{finished_by_test} };
    },
    'part of a message' => sub {
        my ($connection, $peer) = @_;
        syswrite $peer, frame(payload => 'x' x 2000, fin => 0) . substr frame(opcode => 0, payload => 'y' x 3000), 0, 2000;
        shutdown $peer, 1;
        turn_until { $connection->{finished_by_test} };
    },
    'die' => sub {
        my ($connection, $peer) = @_;
        $connection->on(each_message => sub { die { big => 'x' x 1000 } });
        syswrite $peer, frame(payload => 'x') x 3;
        shutdown $peer, 1;
        turn_until { $connection->{finished_by_test} };
    },
    'dropped' => sub {
        my (undef, $peer) = @_;
        undef $_[0];
        close $peer;
    },
    'dropped in a callback' => sub {
        my (undef, $peer) = @_;
        weaken(my $weak = $_[0]);
        my $connection = $_[0];
        undef $_[0];
        $connection->on(next_message => sub { undef $connection });
        syswrite $peer, frame(payload => 'x') x 3;
        turn_until { !$weak };
        close $peer;
    },
    'dropped with unsent data' => sub {
        my (undef, $peer) = @_;
        $_[0]->send('x' x 500_000);
        undef $_[0];
        drain($peer);
        close $peer;
    },
    'handle destroyed' => sub {
        my ($connection, $peer) = @_;
        syswrite $peer, frame(payload => 'x' x 1000);
        $connection->handle->destroy;
        close $peer;
    },
    'handle destroyed in a callback' => sub {
        my ($connection, $peer) = @_;
        $connection->on(next_message => sub { $_[0]->handle->destroy });
        syswrite $peer, frame(payload => 'x') x 3;
        turn_until { $connection->handle->destroyed };
        close $peer;
    },
    'close timeout' => sub {
        my ($connection, $peer) = @_;
        $connection->close;
        turn_until { $connection->{finished_by_test} };
        close $peer;
    },
);

# What a round of one way leaves; all ways make up 2,000 connections.
subtest 'many connections' => sub {
    my $rounds = int 2000 / (2 * keys %ENDING);
    for my $make ([direct => \&connection_and_peer], ['through the handle' => \&connection_through_handle]) {
        for my $ending (sort keys %ENDING) {
            my $name = "$ending, $make->[0]";
            my @left;
            my $round = sub {
                my ($connection, $peer) =
                    $make->[1]->($ending eq 'close timeout' ? (close_timeout => 0.001) : (), masked => 1);
                my $callback = sub { };
                # Callbacks of all kinds, some of which know their connection or what cancels them.
                my $cancel;
                $cancel = $connection->on(each_message => sub { $cancel->() if @_ > 3; $callback->() });
                $connection->on(next_message => $callback);
                $connection->on(parse_error => sub { $callback->() });
                $connection->on(finish => sub { $_[0]{finished_by_test} = 1; $callback->() });
                $connection->on(each_message => $callback)->();
                weaken(my $gone = $connection->handle);
                my @watch = ($connection, $callback);
                weaken $_ for @watch;
                $cancel = undef if rand() < 0;
                push @left, \@watch, [$gone];
                weaken $left[-1][0];
                syswrite $peer, frame(payload => 'hello');
                $connection->send('hello');
                $ENDING{$ending}->($connection, $peer);
                undef $cancel;
            };
            stays_flat($name, 20, $rounds, 200, $round);
            turn_until { !grep { defined } map { @$_ } @left };
            pass "$name: connections, handles and callbacks are gone";
        }
    }
};

done_testing;
