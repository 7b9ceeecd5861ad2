# Half-open connections: the other machine is gone without a word, so that neither FIN nor RST says so. A socket that is
# closed while it is under repair ends like that; what is sent to it later is answered with RST.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Client;
use AnyEvent::WebSocket::Server;
use Ending    qw(is_open);
use Errno;
use Far       qw(each_way connection_and_far text_of_errno);
use Opening   qw(request);
use Peer      qw(history finished run_for run_until settle tcp_pair);
use RawServer qw(raw_server error_of peer_of);
use Socket    qw(IPPROTO_TCP);
use Test2::V0;

my ($TEXT, $BINARY, $CLOSE) = (1, 2, 8);
my $RESET = text_of_errno(Errno::ECONNRESET);
# Of Linux.
my ($TCP_INFO, $TCP_REPAIR) = (11, 19);

sub vanish {
    my ($socket) = @_;
    setsockopt $socket, IPPROTO_TCP, $TCP_REPAIR, pack 'i', 1 or return;
    return close $socket;
}

# Waits until the kernel of the peer has confirmed all that ours has sent, which would be sent again otherwise.
sub confirmed {
    my ($connection) = @_;
    run_until {
        my $info = getsockopt $connection->handle->fh, IPPROTO_TCP, $TCP_INFO or die "TCP_INFO: $!";
        my $unacked = unpack 'x24 L', $info;
        !$unacked;
    } 'the kernel';
}

{
    my ($ours, $theirs) = tcp_pair();
    my $why = $^O ne 'linux' ? 'only Linux has TCP_REPAIR' : vanish($theirs) ? undef : "TCP_REPAIR: $!";
    skip_all "no connection can be left half-open here: $why" if defined $why;
}

# Each: its name, what happens before and after the peer is gone, and what is told in the end.
my @tests;
sub half_open { push @tests, [@_] }

half_open 'and something is sent' => sub { }, sub { $_[0]->send('anybody there?') }, [[finish => $RESET]];

half_open 'and we close' => sub { }, sub { $_[0]->close }, [[finish => $RESET]];

half_open 'while data is unsent' => sub { $_[0]->send('x' x (4 << 20)) }, sub { }, [[finish => $RESET]];

half_open 'while data and our Close are unsent' => sub { $_[0]->send('x' x (4 << 20))->close }, sub { },
    [[finish => $RESET]];

half_open 'when it has our Close' => sub {
    my ($connection, $far) = @_;
    $connection->close(1001);
    $far->rest;
    confirmed($connection);
}, sub { }, [[finish => 'close timeout']];

half_open 'when the connection has failed (D1)' => sub {
    my ($connection, $far) = @_;
    $far->say([3, 'x']);
    $far->rest;
    confirmed($connection);
}, sub { }, [[parse_error => match qr/opcode 3/], [finish => 'close timeout']];

half_open 'in the middle of a message' => sub {
    my ($connection, $far) = @_;
    $far->say([$BINARY, 'm' x 20_000, length => 60_000]);
    settle();
}, sub { $_[0]->close }, [[finish => $RESET]];

for my $test (@tests) {
    my ($name, $before, $after, $expected) = @$test;
    for my $way (each_way()) {
        my ($way_name, @options) = @$way;
        subtest "the peer is gone without a word $name, $way_name" => sub {
            my ($connection, $far) = connection_and_far(@options, tcp => 1, close_timeout => 0.5);
            my $history = history($connection);
            my $fd      = fileno $connection->handle->fh;
            $far->say([$TEXT, 'still here']);
            run_until { @$history } 'a message';
            $before->($connection, $far);
            is finished($history), 0, 'not finished before';
            ok vanish($far->{socket}), 'then it is gone';
            $after->($connection);
            run_until { finished($history) } 'finish';
            is $history, ['still here', @$expected], 'finish comes once, and says why';
            ok !$connection->was_clean, 'not clean';
            run_until { !is_open($fd) } 'the descriptor to close';
        };
    }
}

for my $way (each_way()) {
    my ($way_name, @options) = @$way;
    subtest "as long as nothing is sent nobody can know, $way_name" => sub {
        my ($connection, $far) = connection_and_far(@options, tcp => 1);
        my $history = history($connection);
        confirmed($connection);
        ok vanish($far->{socket}), 'gone';
        run_for(0.2);
        is $history, [], 'nothing is told';
        $connection->handle->rtimeout(0.05);
        run_until { finished($history) } 'the timeout of the handle, for a program that wants to know';
        is $history, [[finish => text_of_errno(Errno::ETIMEDOUT)]], 'which ends it';
    };

    subtest "a connection is dropped when the peer is gone, $way_name (D3)" => sub {
        for my $unsent ('', 'x' x (4 << 20)) {
            my ($connection, $far) = connection_and_far(@options, tcp => 1);
            my $history = history($connection);
            my $fd      = fileno $connection->handle->fh;
            $connection->send($unsent) if length $unsent;
            vanish($far->{socket});
            undef $connection;
            run_until { !is_open($fd) } 'the descriptor to close';
            is $history, [], length($unsent) ? 'data was unsent' : 'nothing was unsent';
        }
    };
}

subtest 'a client is gone in the middle of its request' => sub {
    my ($ours, $theirs) = tcp_pair();
    my $done = AnyEvent::WebSocket::Server->new(handshake_timeout => 0.1)->establish($ours);
    syswrite $theirs, substr request(), 0, 50;
    settle();
    vanish($theirs);
    is error_of($done), 'handshake error: timeout: there was no complete request after 0.1 seconds', 'is told';
    close $ours;
};

subtest 'a server is gone before it has answered' => sub {
    my @accepted;
    my $server = raw_server(accept => sub { push @accepted, $_[0]; vanish($_[0]) });
    my $done   = AnyEvent::WebSocket::Client->new(timeout => 0.2)->connect($server->{uri});
    # Its request may be on its way before, or be answered with RST.
    like error_of($done), qr/^(?:handshake error: timeout\b.*|connect error: \Q$RESET\E)$/, 'is told';
    is scalar @accepted, 1, 'it had accepted';
};

done_testing;
