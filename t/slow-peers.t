# Peers that take their time, to hold what they can: requests and frames a byte at a time. That one of them is cut off
# is in server-refusing.t, server-tls.t, client-failures.t and close-timeout.t.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Server;
use Ending  qw(is_open);
use Opening qw(request established start);
use Peer    qw(
    connection_and_peer frame finished history parse_frames record run_for run_until settle short socket_pair trickle write_all
);
use Test2::V0;
use Time::HiRes ();

subtest 'many clients that send their requests a byte at a time' => sub {
    # Where everything is slow (under valgrind), so is what is compared with it.
    my $timeout = ($ENV{AEWS_TEST_TIMEOUT} // 0) > 10 ? 10 : 0.6;
    my $server  = AnyEvent::WebSocket::Server->new(handshake_timeout => $timeout);
    my $request = request();
    my $most    = length($request) - 5;
    my (@slow, @errors, @fds);
    my $began = AE::time;
    for (1 .. 200) {
        my ($condvar, $client, $socket) = start($server);
        push @slow, $client;
        push @fds,  fileno $socket;
        $condvar->cb(sub { push @errors, $@ if !eval { $_[0]->recv; 1 } });
    }
    my ($sent, $served, $longest) = (0, 0, 0);
    until (@errors) {
        die 'no timeout' if AE::time > $began + $timeout + 10;
        if ($sent < $most) {
            syswrite $_, substr $request, $sent, 1 for @slow;
            $sent++;
        }
        # Somebody else meanwhile, served as if they were not there.
        my $then = AE::time;
        my ($connection, $client) = established($server);
        $connection->on(each_message => sub { $_[0]->send($_[1]) });
        syswrite $client, frame(payload => 'hello', mask => 'mask');
        run_until { sysread $client, my $echo, 100 } 'the echo';
        my $took = AE::time - $then;
        $longest = $took if $took > $longest;
        $served++;
    }
    run_until { @errors == @slow } 'all errors';
    cmp_ok AE::time - $began, '>=', $timeout, 'they have handshake_timeout';
    is [grep { !/^handshake error: timeout: / } @errors], [], 'and then an error';
    cmp_ok $sent, '>', 10, 'though they have sent something all the time';
    cmp_ok $served, '>', 5, 'others are served meanwhile';
    run_until { !grep { is_open($_) } @fds } 'the descriptors of the slow ones to close';
    note sprintf '%d slow clients, %d others served meanwhile, the slowest in %.0f ms', scalar @slow, $served,
        $longest * 1000;
};

# Time that grew with the square of the length would show here long before it hurts.
my $LENGTH = 60_000;
my $TEXT   = "\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80" x ($LENGTH / 9);
my $BYTES  = join '', map { chr($_ * 7 & 255) } 1 .. $LENGTH;
my %STREAM = (
    'a binary message'   => [[], frame(opcode => 2, payload => $BYTES), $BYTES],
    'a masked message'   => [[], frame(opcode => 2, payload => $BYTES, mask => 'mask'), $BYTES],
    'a text message'     => [[], frame(payload => $TEXT), $TEXT],
    'single-byte frames' => [
        [max_fragments => 0],
        join('', map { frame(opcode => $_ == 1 ? 2 : 0, fin => $_ == 20_000 ? 1 : 0, payload => 'f') } 1 .. 20_000),
        'f' x 20_000,
    ],
    # Stored rather than compressed, so that a byte on the wire is a byte of the message.
    'a compressed message' => [
        [role => 'server', extensions => 'permessage-deflate'],
        frame(opcode => 2, rsv => 4, mask => 'mask',
            payload => pack('C v v a* C', 0, 50_000, ~50_000 & 0xFFFF, substr($BYTES, 0, 50_000), 0)),
        substr($BYTES, 0, 50_000),
    ],
);

for my $name (sort keys %STREAM) {
    subtest "$name a byte at a time costs the same from the first to the last" => sub {
        my ($options, $bytes, $expected) = @{ $STREAM{$name} };
        my ($connection, $peer) = connection_and_peer(@$options);
        my $record = record($connection);
        settle();
        my $part = 1500;
        my $cost = sub {
            my ($bytes) = @_;
            my $cpu = Time::HiRes::clock();
            trickle($connection, $peer, $bytes);
            return Time::HiRes::clock() - $cpu;
        };
        # What is needed for the first time has to be made first.
        $cost->(substr $bytes, 0, 200);
        my $first = $cost->(substr $bytes, 200, $part);
        write_all($peer, substr $bytes, 200 + $part, length($bytes) - 200 - 2 * $part);
        settle();
        my $last = $cost->(substr $bytes, -$part);
        run_until { @{ $record->{messages} } } 'the message';
        is short($record->{messages}), short([$expected]), 'the message is whole';
        ok $record->{messages}[0] eq $expected, 'and right';
        # Of a message copied for each byte, the last bytes would take a hundred times as long.
        cmp_ok $last, '<', 3 * $first + 0.1, 'the last bytes cost what the first ones did';
        note sprintf '%s: %.1f us for each of the first bytes, %.1f us for each of the last', $name,
            map { $_ / $part * 1e6 } $first, $last;
    };
}

subtest 'Pings without end from a peer that does not read' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    settle();
    my $pings = frame(opcode => 9, payload => 'p' x 125) x 1000;
    write_all($peer, $pings) for 1 .. 50;
    syswrite $peer, frame(opcode => 9, payload => 'the last');
    settle();
    cmp_ok length($connection->handle->{wbuf} // ''), '<', 1 << 20, 'no more than 1 MiB waits for 6 MiB of them';
    my ($bytes, @pongs) = ('');
    run_until {
        sysread $peer, $bytes, 1 << 18, length $bytes;
        push @pongs, parse_frames($bytes);
        @pongs && $pongs[-1]{payload} eq 'the last';
    } 'the answer to the last';
    is [grep { $_->{opcode} != 10 } @pongs], [], 'nothing but Pongs';
    note scalar(@pongs), ' Pongs for 50001 Pings';
};

# ---- what is known and not dealt with

todo 'a peer that sends a byte now and then is waited for (D6)' => sub {
    my ($connection, $peer) = connection_and_peer(close_timeout => 0.2);
    my $history = history($connection);
    settle();
    $connection->close;
    syswrite $peer, frame(payload => '', length => 60_000);
    for (1 .. 20) {
        syswrite $peer, 'x';
        run_for(0.05);
    }
    is finished($history), 1, 'close_timeout holds for a peer that trickles';
};

todo 'a connection that was dropped lingers as long as its handle does, an hour by default' => sub {
    my ($connection, $peer) = connection_and_peer(close_timeout => 0.1);
    my $fd = fileno $connection->handle->fh;
    settle();
    $connection->send('x' x (4 << 20));
    undef $connection;
    run_for(0.5);
    ok !is_open($fd), 'close_timeout holds for a connection that was dropped with unsent data';
};

done_testing;
