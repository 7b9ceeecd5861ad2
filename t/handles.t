# What programs do with the AnyEvent::Handle of a connection goes on working (C20).

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;
use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::Socket qw(tcp_server);
use AnyEvent::WebSocket::Connection;
use Errno qw(ECONNREFUSED ENOSPC ETIMEDOUT);
use Socket;
use Peer qw(
    socket_pair tcp_pair handle_on connection_and_peer frame close_frame parse_frames receive_frames
    read_until_eof write_all run_until settle history finished payloads short narrow_pair
);

my $CONNECTION = 'AnyEvent::WebSocket::Connection';
my $MIB        = 1 << 20;

sub error_text { local $! = shift; return "$!" }

# ---- descriptor, timeouts

subtest 'fh is the descriptor (C20)' => sub {
    my ($ours, $theirs) = tcp_pair();
    my $handle     = handle_on($ours);
    my $connection = $CONNECTION->new(handle => $handle);
    ref_is $connection->handle, $handle, 'the handle is the one that was given';
    ref_is $handle->fh, $ours, 'its fh is the socket';
    my ($port) = sockaddr_in(getpeername $connection->handle->fh);
    is $port, $theirs->sockport, 'and can be asked for its peer';
    ok setsockopt($handle->fh, SOL_SOCKET, SO_KEEPALIVE, 1), 'and be given options';
    ok lives { $handle->no_delay(1); $handle->keepalive(1); $handle->oobinline(0) }, 'also by the handle';
    $connection->send('still works');
    AnyEvent::fh_unblock($theirs);
    is payloads(receive_frames($theirs, 1)), ['still works'], 'sending goes on';
};

# A timeout callback that comes too early would come shortly after traffic, since that is more frequent
# than the timeout is long. Time is taken before the traffic, so that a slow machine makes no difference.
my $TIMEOUT   = 0.09;
my $INTERVAL  = 0.02;
my $TOLERANCE = 0.03;
my %traffic   = (
    receiving => sub { syswrite $_[1], frame(payload => AE::time) },
    sending   => sub { $_[0]->send(AE::time) },
);
for my $case ([timeout => qw(receiving sending)], [rtimeout => 'receiving'], [wtimeout => 'sending']) {
    my ($timeout, @put_off_by) = @$case;
    my $on_timeout = "on_$timeout";
    for my $traffic (@put_off_by) {
        subtest "$timeout is put off by $traffic, and comes without it (C20)" => sub {
            AE::now_update;
            my $last = AE::time;
            my ($connection, $peer) = connection_and_peer();
            my (@gaps, $rounds);
            $connection->on(each_message => sub { $last = $_[1]->body });
            $connection->handle->$on_timeout(sub { push @gaps, AE::time - $last });
            $connection->handle->$timeout($TIMEOUT);
            my $timer;
            $timer = AE::timer 0, $INTERVAL, sub {
                undef $timer if ++$rounds == 10;
                $last = AE::time if $traffic eq 'sending';
                $traffic{$traffic}->($connection, $peer);
            };
            run_until { !$timer } 'traffic';
            run_until { @gaps } "the $timeout";
            cmp_ok $gaps[0], '>=', $TIMEOUT - $TOLERANCE, 'not while there was traffic';
            $connection->handle->$timeout(0);
            my $count = @gaps;
            run_until { AE::time - $last > 3 * $TIMEOUT } 'some time';
            is scalar @gaps, $count, 'and can be turned off';
        };
    }
}

for my $case ([rtimeout => 'sending'], [wtimeout => 'receiving']) {
    my ($timeout, $traffic) = @$case;
    my $on_timeout = "on_$timeout";
    subtest "$timeout is not put off by $traffic (C20)" => sub {
        my ($connection, $peer) = connection_and_peer();
        my ($received, $fired) = (0, 0);
        $connection->on(each_message => sub { $received++ });
        $connection->handle->$on_timeout(sub { $fired++ });
        $connection->handle->$timeout($TIMEOUT);
        my $timer = AE::timer 0, $INTERVAL, sub { $traffic{$traffic}->($connection, $peer) };
        run_until { $fired } "the $timeout";
        pass 'it came';
        run_until { $received || $traffic eq 'sending' } 'a message';
    };
}

subtest 'a timeout without a callback of its own ends the connection (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $history = history($connection);
    $connection->handle->timeout(0.05);
    run_until { finished($history) } 'finish';
    is $history, [[finish => error_text(ETIMEDOUT)]], 'finish gets the text';
    is $connection->close_error, error_text(ETIMEDOUT), 'so does close_error';
    is read_until_eof($peer), '', 'the peer sees the end';
};

subtest 'a callback for a timeout may close the connection (C20)' => sub {
    my ($connection, $peer) = connection_and_peer(
        handle_options => [timeout => 0.05, on_timeout => sub { $_[0]{closes}->() }]);
    $connection->handle->{closes} = sub { $connection->close(1001, 'idle') };
    my @frames = receive_frames($peer, 1);
    is payloads(@frames), [pack 'n a*', 1001, 'idle'], 'the Close frame arrives';
    $connection->handle->timeout(0);
};

# ---- the write buffer

subtest 'on_drain comes at once, and when a backlog is gone (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @drained;
    $connection->handle->on_drain(sub { push @drained, length($_[0]{wbuf} // '') });
    is \@drained, [0], 'at once where nothing waits';
    $connection->send('z' x (4 * $MIB));
    settle();
    is scalar @drained, 1, 'not while the peer does not read';
    cmp_ok length $connection->handle->{wbuf}, '>', 0, 'and {wbuf} shows what waits';
    my @frames = receive_frames($peer, 1);
    run_until { @drained > 1 } 'the second on_drain';
    is \@drained, [0, 0], 'when all is written';
    is length $frames[0]{payload}, 4 * $MIB, 'which all arrives';
    $connection->send('small');
    run_until { @drained > 2 } 'the third on_drain';
    is \@drained, [0, 0, 0], 'also after a message that the socket takes at once';
};

subtest 'on_drain set while there is a backlog (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    $connection->send('z' x (4 * $MIB));
    my $drained = 0;
    $connection->handle->on_drain(sub { $drained++ });
    is $drained, 0, 'not at once';
    receive_frames($peer, 1);
    run_until { $drained } 'on_drain';
    is $drained, 1, 'once when the backlog is gone';
};

subtest 'low_water_mark says when on_drain comes (C20)' => sub {
    my ($ours, $theirs) = narrow_pair();
    my $connection = $CONNECTION->new(handle => handle_on($ours, low_water_mark => 100_000));
    my @drained;
    $connection->send('z' x 400_000);
    $connection->handle->on_drain(sub { push @drained, length $_[0]{wbuf} });
    is \@drained, [], 'not above the mark';
    my $reader = AE::io $theirs, 0, sub { sysread $theirs, my $bytes, 4096 if !@drained };
    run_until { @drained } 'on_drain';
    cmp_ok $drained[0], '<=', 100_000, 'below the mark';
    cmp_ok $drained[0], '>', 0, 'and before the end';
};

subtest 'on_drain as flow control (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $sent = 0;
    $connection->handle->on_drain(sub {
        $connection->send($sent++ . '-' . 'f' x 100_000) if $sent < 40;
    });
    my @frames = receive_frames($peer, 40);
    is [map { $_->{payload} =~ /^(\d+)-/ } @frames], [0 .. 39], 'all messages arrive in order';
};

subtest 'on_drain that destroys the handle: all that was sent arrives (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    $connection->send('last words' . 'z' x (2 * $MIB));
    $connection->handle->on_drain(sub { $_[0]->destroy });
    my $bytes  = read_until_eof($peer);
    my @frames = parse_frames($bytes);
    is length $frames[0]{payload}, 2 * $MIB + 10, 'the message, and then EOF';
};

subtest 'on_drain set, then a burst of replies from callbacks (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $drained = 0;
    $connection->handle->on_drain(sub { $drained++ });
    $drained = 0;
    $connection->on(each_message => sub { $_[0]->send('re: ' . $_[1]->body) });
    syswrite $peer, join '', map { frame(payload => $_) } 1 .. 20;
    is payloads(receive_frames($peer, 20)), [map { "re: $_" } 1 .. 20], 'the replies arrive in order';
    run_until { $drained } 'on_drain';
    pass 'on_drain came';
};

subtest '{wbuf} shrinks as the peer reads, and a copy of it stays as it is (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $handle = $connection->handle;
    $connection->send('z' x (4 * $MIB));
    my $copy  = $handle->{wbuf};
    my $again = $copy . '';
    cmp_ok length $copy, '>', $MIB, 'most of it waits';
    $connection->send('more');
    cmp_ok length $handle->{wbuf}, '==', length($copy) + length frame(payload => 'more'),
        'more is put behind it';
    ok $copy eq $again, 'but not into the copy';
    receive_frames($peer, 2);
    run_until { !length($handle->{wbuf} // '') } 'the end of the backlog';
    ok $copy eq $again, 'which is the same in the end';
};

for my $way ('option', 'method') {
    subtest "wbuf_max as $way: an overflow ends the connection (C20)" => sub {
        my ($connection, $peer) =
            connection_and_peer(handle_options => $way eq 'option' ? [wbuf_max => $MIB] : []);
        my $history = history($connection);
        my $handle = $connection->handle;
        $handle->wbuf_max($MIB) if $way eq 'method';
        settle();
        ref_is $connection->send('z' x (8 * $MIB)), $connection, 'send returns the connection';
        run_until { finished($history) } 'finish';
        is $history, [[finish => error_text(ENOSPC)]], 'finish gets the text';
        is $connection->close_error, error_text(ENOSPC), 'so does close_error';
        ok $handle->destroyed, 'the handle is destroyed';
        ok lives { $connection->send('more')->close }, 'sending and closing then is harmless';
        settle();
        is scalar @$history, 1, 'finish comes once';
    };
}

subtest 'wbuf_max: an overflow before the event loop has run is told later (C13, C20)' => sub {
    my ($connection, $peer) = connection_and_peer(handle_options => [wbuf_max => $MIB]);
    syswrite $peer, frame(payload => 'before');
    $connection->send('z' x (8 * $MIB));
    my $history = history($connection);
    run_until { finished($history) } 'finish';
    is $history->[-1], [finish => error_text(ENOSPC)], 'finish gets the text';
};

subtest 'wbuf_max: an overflow inside a callback (C20)' => sub {
    my ($connection, $peer) = connection_and_peer(handle_options => [wbuf_max => $MIB]);
    my $history = history($connection);
    $connection->on(each_message => sub { $_[0]->send('z' x (8 * $MIB)) });
    syswrite $peer, frame(payload => 'go');
    run_until { finished($history) } 'finish';
    is $history, ['go', [finish => error_text(ENOSPC)]], 'the message, then finish with the text';
};

subtest 'wbuf_max: what stays below it is no overflow (C20)' => sub {
    my ($connection, $peer) = connection_and_peer(handle_options => [wbuf_max => 4 * $MIB]);
    my $history = history($connection);
    $connection->send('z' x (2 * $MIB));
    my @frames = receive_frames($peer, 1);
    is length $frames[0]{payload}, 2 * $MIB, 'all arrives';
    is $history, [], 'the connection goes on';
};

# ---- push_write of the program

# Sends numbered messages in turn with frames that the program writes itself; returns what has to arrive.
sub write_in_turn {
    my ($connection, @lengths) = @_;
    my @expected;
    for my $length (@lengths) {
        my $number = @expected;
        push @expected, "ours $number " . 'c' x $length, "program's $number " . 'p' x $length;
        $connection->send($expected[-2]);
        $connection->handle->push_write(frame(payload => $expected[-1]));
    }
    return \@expected;
}

for my $masked (0, 1) {
    for my $autocork (0, 1) {
        my $how = ($masked ? 'masked' : 'unmasked') . ($autocork ? ', autocork' : '');

        subtest "push_write and send, $how: in order while the socket takes it (C20)" => sub {
            my ($connection, $peer) =
                connection_and_peer(masked => $masked, handle_options => [autocork => $autocork]);
            my $expected = write_in_turn($connection, 0, 1, 100, 1000);
            is payloads(receive_frames($peer, scalar @$expected)), $expected, 'before the event loop has run';
            $expected = write_in_turn($connection, 0, 1, 100, 1000);
            is payloads(receive_frames($peer, scalar @$expected)), $expected, 'and afterwards';
        };

        subtest "push_write and send, $how: in order behind several MiB (C20)" => sub {
            my ($ours, $theirs) = narrow_pair();
            my $connection =
                $CONNECTION->new(handle => handle_on($ours, autocork => $autocork), masked => $masked);
            my $expected = write_in_turn($connection, 10, 700_000, 0, 1, 900_000, 3);
            settle();
            push @$expected, @{ write_in_turn($connection, 5, 300_000, 20) };
            is short(payloads(receive_frames($theirs, scalar @$expected))), short($expected), 'all arrives in order';
        };

        subtest "push_write and send, $how: in order inside callbacks (C20)" => sub {
            my ($connection, $peer) =
                connection_and_peer(masked => $masked, handle_options => [autocork => $autocork]);
            my @expected;
            $connection->on(each_message => sub {
                push @expected, @{ write_in_turn($_[0], $_[1]->body) };
            });
            my @lengths = ((1) x 20, 20_000, 5, 400_000, (7) x 10, 1_000_000, 30);
            write_all($peer, join '', map { frame(payload => $_) } @lengths);
            my @frames = receive_frames($peer, 2 * @lengths);
            is short(payloads(@frames)), short(\@expected), 'all arrives in order';
        };
    }
}

subtest 'push_write in on_drain (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $drained = 0;
    $connection->send('m' x (3 * $MIB));
    $connection->handle->on_drain(sub { $_[0]->push_write(frame(payload => 'drained')) if !$drained++ });
    $connection->send('behind');
    is short(payloads(receive_frames($peer, 3))), short(['m' x (3 * $MIB), 'behind', 'drained']),
        'leaves behind what waited';
};

subtest 'push_write from a timer while a callback runs an event loop (C20, C22)' => sub {
    my ($connection, $peer) = connection_and_peer();
    $connection->on(each_message => sub {
        my ($connection, $message) = @_;
        $connection->send('before ' . $message->body);
        if ($message->body eq '2') {
            my $done;
            my $timer = AE::timer 0.01, 0, sub {
                $connection->handle->push_write(frame(payload => 'nested'));
                $connection->send('nested too');
                $done = 1;
            };
            # A condition variable refuses to be waited for inside another.
            AnyEvent->_poll until $done;
        }
        $connection->send('after ' . $message->body);
    });
    syswrite $peer, join '', map { frame(payload => $_) } 1 .. 3;
    is payloads(receive_frames($peer, 8)),
        ['before 1', 'after 1', 'before 2', 'nested', 'nested too', 'after 2', 'before 3', 'after 3'],
        'everything in order';
};

subtest 'autocork: frames leave with the next turn of the event loop (C20)' => sub {
    my ($connection, $peer) = connection_and_peer(handle_options => [autocork => 1]);
    $connection->send($_) for 1 .. 5;
    is sysread($peer, my $bytes, 1000), undef, 'not at once';
    is payloads(receive_frames($peer, 5)), [1 .. 5], 'but then';
    $connection->handle->autocork(0);
    $connection->send('at once');
    sysread $peer, $bytes, 1000;
    is $bytes, frame(payload => 'at once'), 'at once again where it is turned off';
};

done_testing;
