# How much of one connection is read before others have their turn, and what ends a turn.

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;
use AnyEvent;
use AnyEvent::WebSocket::Connection;
use POSIX ();
use Socket;
use Time::HiRes qw(sleep);
use Peer qw(
    socket_pair handle_on connection_and_peer frame receive_frames run_until settle history payloads
);

# What one read takes at most, and one turn.
my $READ = 129 * 1024;
my $TURN = 1 << 20;

# More than one read takes.
my @payloads = map { $_ x 60_000 } 'a' .. 'd';
my $stream   = join '', map { frame(opcode => 2, payload => $_) } @payloads;

# A connection that has been idle, and its peer, who can write all of the stream at once.
sub connection_and_wide_peer {
    my ($connection, $peer) = connection_and_peer();
    setsockopt $peer, SOL_SOCKET, SO_SNDBUF, pack 'i', 1 << 20 or die "SO_SNDBUF: $!";
    settle();
    return ($connection, $peer);
}

sub send_stream {
    my ($peer) = @_;
    is syswrite($peer, $stream), length $stream, 'all is there at once';
}

subtest 'a peer that never stops sending does not keep the others waiting' => sub {
    my (@senders, @runs, @connections);
    for my $name ('first', 'second') {
        my ($ours, $theirs) = socket_pair();
        my $sender = fork // die "fork: $!";
        if (!$sender) {
            close $ours;
            alarm 60;
            1 while syswrite $theirs, $stream;
            POSIX::_exit(0);
        }
        push @senders, $sender;
        close $theirs;
        my $connection = AnyEvent::WebSocket::Connection->new(handle => handle_on($ours));
        $connection->on(each_message => sub {
            my (undef, $message) = @_;
            push @runs, [$name, 0] if !@runs || $runs[-1][0] ne $name;
            $runs[-1][1] += length $message->body;
            # Time for the peer to send more.
            sleep 0.0005;
        });
        push @connections, $connection;
    }
    run_until { @runs >= 10 } 'ten turns';
    my ($longest) = sort { $b <=> $a } map { $_->[1] } @runs;
    ok $longest <= $TURN + 2 * $READ, 'the longest turn has its limit' or diag "$longest bytes";
    undef @connections;
    kill KILL => @senders;
    waitpid $_, 0 for @senders;
};

# How many messages have been delivered when the event loop goes on after the first turn; and in the end all are.
sub messages_in_first_turn {
    my ($connection, $peer) = @_;
    my $history = history($connection);
    my $count;
    $connection->on(next_message => sub { AnyEvent::postpone { $count = @$history } });
    send_stream($peer);
    run_until { @$history == 4 } 'all messages';
    settle();
    is $history, \@payloads, 'in order, and intact';
    return $count;
}

subtest 'several reads are one turn' => sub {
    is messages_in_first_turn(connection_and_wide_peer()), 4, 'the event loop goes on when all has been delivered';
};

subtest 'replies that the peer does not take end the turn' => sub {
    my ($connection, $peer) = connection_and_wide_peer();
    setsockopt $connection->handle->fh, SOL_SOCKET, SO_SNDBUF, pack 'i', 4096 or die "SO_SNDBUF: $!";
    $connection->on(each_message => sub { $_[0]->send($_[1]) });
    is messages_in_first_turn($connection, $peer), 2, 'the event loop goes on after one read';
    is payloads(receive_frames($peer, 4)), \@payloads, 'they leave when it does';
};

# What a callback does in the middle of a turn, and what still comes in it.
my @changes = (
    ['stop_read'                 => sub { $_[0]->handle->stop_read }],
    ['on_read taken away'        => sub { $_[0]->handle->on_read(undef) }],
    ['the handle is destroyed'   => sub { $_[0]->handle->destroy }],
    ['the connection is dropped' => sub { undef ${ $_[1] } }],
);

for my $change (@changes) {
    my ($name, $code) = @$change;
    subtest "$name in a callback ends the turn (C20)" => sub {
        my ($connection, $peer) = connection_and_wide_peer();
        my @seen;
        $connection->on(each_message => sub {
            push @seen, $_[1]->body;
            $code->($_[0], \$connection) if @seen == 1;
        });
        send_stream($peer);
        run_until { @seen } 'a message';
        settle();
        if ($name =~ /destroyed/) { is \@seen, [$payloads[0]], 'nothing else is delivered' }
        else                      { is \@seen, [@payloads[0, 1]], 'what was read with it is delivered' }
    };
}
done_testing;
