# What programs do with the AnyEvent::Handle of a connection goes on working (C20), and the states in which
# they hand one over (C21).

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
    read_until_eof write_all run_until settle
);

my $CONNECTION = 'AnyEvent::WebSocket::Connection';
my $MIB        = 1 << 20;

sub error_text { local $! = shift; return "$!" }

# What a connection tells the program, as a list: bodies of messages, then [finish => text].
sub history {
    my ($connection) = @_;
    my @history;
    $connection->on(each_message => sub { push @history, $_[1]->body });
    $connection->on(finish       => sub { push @history, [finish => $_[1]] });
    return \@history;
}

sub finished { my ($history) = @_; return scalar grep { ref } @$history }

sub payloads { return [map { $_->{payload} } @_] }

# Long payloads by their start and length, so that a difference is readable.
sub short { return [map { length > 40 ? substr($_, 0, 20) . '...' . length : $_ } @{ $_[0] }] }

# A socket that takes little at a time.
sub narrow_pair {
    my ($ours, $theirs) = socket_pair();
    setsockopt $_, SOL_SOCKET, SO_SNDBUF, pack 'i', 4096 or die "SO_SNDBUF: $!" for $ours, $theirs;
    AnyEvent::fh_unblock($theirs);
    return ($ours, $theirs);
}

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

# ---- the state of a handle that is handed over

for my $autocork (0, 1) {
    subtest 'unsent bytes of the handle leave first' . ($autocork ? ', autocork' : '') . ' (C21)' => sub {
        my ($ours, $theirs) = socket_pair();
        AnyEvent::fh_unblock($theirs);
        my $handle = handle_on($ours, autocork => $autocork);
        my $head   = "HTTP/1.1 101 Switching Protocols\r\n" . 'x' x (3 * $MIB) . "\r\n\r\n";
        $handle->push_write($head);
        cmp_ok length $handle->{wbuf}, '>', 0, 'the handle has a backlog';
        my $connection = $CONNECTION->new(handle => $handle);
        $connection->send('first')->send('y' x $MIB)->close(1000, 'bye');
        my $bytes = read_until_eof($theirs);
        ok substr($bytes, 0, length $head, '') eq $head, 'what it held leaves first';
        is short(payloads(parse_frames($bytes))), short(['first', 'y' x $MIB, pack 'n a*', 1000, 'bye']),
            'then the frames, then EOF';
    };
}

subtest 'unsent bytes of the handle, and the connection is dropped at once (C8, C21)' => sub {
    my ($ours, $theirs) = socket_pair();
    AnyEvent::fh_unblock($theirs);
    my $head = 'x' x (3 * $MIB);
    {
        my $handle = handle_on($ours);
        $handle->push_write($head);
        $CONNECTION->new(handle => $handle)->send('first');
    }
    undef $ours;
    my $bytes = read_until_eof($theirs);
    ok substr($bytes, 0, length $head, '') eq $head, 'what it held leaves first';
    is payloads(parse_frames($bytes)), ['first', pack 'n', 1000], 'then the frames, then EOF';
};

# A handle that has read everything up to EOF.
sub handle_at_eof {
    my ($held, %options) = @_;
    my ($ours, $theirs) = socket_pair();
    AnyEvent::fh_unblock($theirs);
    syswrite $theirs, $held if length $held;
    shutdown $theirs, 1;
    my $eof    = 0;
    my $on_eof = delete $options{on_eof} || sub { $eof = 1 };
    my $handle = handle_on($ours, on_eof => sub { $eof = 1; $on_eof->(@_) }, %options);
    run_until { $handle->start_read if !$eof; $eof } 'EOF at the handle';
    return ($handle, $theirs);
}

subtest 'a handle at EOF with messages (C21)' => sub {
    my ($handle, $peer) = handle_at_eof(join '', map { frame(payload => $_) } 1 .. 3);
    my $connection = $CONNECTION->new(handle => $handle);
    my $history    = history($connection);
    run_until { finished($history) } 'finish';
    settle();
    is $history, [1 .. 3, [finish => undef]], 'they are delivered, then finish';
    is $connection->close_code, undef, 'there is no close code';
    is read_until_eof($peer), '', 'the peer sees EOF';
};

subtest 'a handle at EOF with nothing (C21)' => sub {
    my ($handle, $peer) = handle_at_eof('');
    my $connection = $CONNECTION->new(handle => $handle);
    my $history    = history($connection);
    is $history, [], 'nothing inside new';
    run_until { finished($history) } 'finish';
    settle();
    is $history, [[finish => undef]], 'finish, once';
    ok lives { $connection->send('x')->close }, 'sending then is harmless';
};

subtest 'a handle at EOF with a Close frame (C18, C21)' => sub {
    my ($handle, $peer) = handle_at_eof(frame(payload => 'm') . close_frame(1001, 'away'));
    my $connection = $CONNECTION->new(handle => $handle);
    my $history    = history($connection);
    run_until { finished($history) } 'finish';
    is $history, ['m', [finish => undef]], 'the message is delivered, then finish';
    is [$connection->close_code, $connection->close_reason], [1001, 'away'], 'code and reason are known';
    my $bytes = read_until_eof($peer);
    is payloads(parse_frames($bytes)), [pack 'n', 1001], 'the answer arrives';
};

subtest 'a handle at EOF with a part of a frame (C21)' => sub {
    my ($handle, $peer) = handle_at_eof(frame(payload => 'm') . substr frame(payload => 'part'), 0, 4);
    my $connection = $CONNECTION->new(handle => $handle);
    my $history    = history($connection);
    run_until { finished($history) } 'finish';
    is $history, ['m', [finish => undef]], 'what is whole is delivered, then finish';
};

subtest "made inside the handle's on_eof (C21)" => sub {
    my ($connection, $history);
    my ($handle, $peer) = handle_at_eof(
        frame(payload => 'held'),
        on_eof => sub {
            $connection ||= $CONNECTION->new(handle => $_[0]);
            $history     ||= history($connection);
        },
    );
    run_until { finished($history) } 'finish';
    settle();
    is $history, ['held', [finish => undef]], 'what it holds is delivered, then finish, once';
};

# Makes a connection inside a callback of the handle that is reading; $how installs that callback.
sub made_while_reading {
    my ($how, @written) = @_;
    my ($ours, $theirs) = socket_pair();
    AnyEvent::fh_unblock($theirs);
    my $handle = handle_on($ours);
    my $self   = {peer => $theirs, handle => $handle};
    $how->($handle, sub {
        my ($handle) = @_;
        $self->{connection} = $CONNECTION->new(handle => $handle);
        $self->{history}     = history($self->{connection});
    });
    syswrite $theirs, $_ for @written;
    return $self;
}

my $head    = "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
my %reading = (
    'on_read' => sub {
        my ($handle, $make) = @_;
        $handle->on_read(sub { $make->($_[0]) if $_[0]{rbuf} =~ s/^.*?\r\n\r\n//s });
    },
    'push_read' => sub {
        my ($handle, $make) = @_;
        $handle->push_read(regex => qr/\r\n\r\n/, sub { $make->($_[0]) });
    },
    'push_read behind on_read' => sub {
        my ($handle, $make) = @_;
        $handle->on_read(sub { $_[0]->push_read(line => "\r\n\r\n", sub { $make->($_[0]) }) });
    },
);
for my $callback (sort keys %reading) {
    subtest "made inside the handle's $callback (C21)" => sub {
        my $made = made_while_reading($reading{$callback}, $head . frame(payload => 'left over'));
        run_until { @{ $made->{history} || [] } } 'a message';
        syswrite $made->{peer}, frame(payload => 'later');
        run_until { @{ $made->{history} } == 2 } 'another';
        is $made->{history}, ['left over', 'later'], 'what was read already is delivered, and what follows';
        $made->{connection}->send('reply');
        is payloads(receive_frames($made->{peer}, 1)), ['reply'], 'sending works';
    };

    subtest "made inside the handle's $callback with nothing left over (C21)" => sub {
        my $made = made_while_reading($reading{$callback}, $head);
        run_until { $made->{connection} } 'the connection';
        syswrite $made->{peer}, frame(payload => 'later');
        run_until { @{ $made->{history} } } 'a message';
        is $made->{history}, ['later'], 'what follows is delivered';
    };

    subtest "made inside the handle's $callback with a part of a frame left over (C21)" => sub {
        my $frame = frame(payload => 'in two parts', mask => 'abcd');
        my $made  = made_while_reading($reading{$callback}, $head . substr $frame, 0, 7);
        run_until { $made->{connection} } 'the connection';
        settle();
        syswrite $made->{peer}, substr $frame, 7;
        run_until { @{ $made->{history} } } 'a message';
        is $made->{history}, ['in two parts'], 'it is put together';
    };

    subtest "made inside the handle's $callback, and EOF at once (C13, C21)" => sub {
        my $made = made_while_reading($reading{$callback}, $head . join '', map { frame(payload => $_) } 1 .. 3);
        shutdown $made->{peer}, 1;
        run_until { $made->{history} && finished($made->{history}) } 'finish';
        is $made->{history}, [1 .. 3, [finish => undef]], 'messages first, then finish';
    };
}

subtest "made inside the handle's on_read that has consumed nothing (C13, C21)" => sub {
    my $made = made_while_reading(
        sub {
            my ($handle, $make) = @_;
            $handle->on_read(sub { $make->($_[0]) });
        },
        frame(payload => 'all of it'),
    );
    run_until { @{ $made->{history} || [] } } 'the message';
    is $made->{history}, ['all of it'], 'what it holds is delivered without more having to come';
};

subtest 'bytes in the read buffer of a handle that is not reading (C13, C21)' => sub {
    my ($ours, $theirs) = socket_pair();
    my $handle = handle_on($ours);
    $handle->{rbuf} = frame(payload => 'held') . substr frame(payload => 'two parts'), 0, 5;
    my $connection = $CONNECTION->new(handle => $handle);
    my $history    = history($connection);
    is $history, [], 'nothing inside new';
    run_until { @$history } 'a message';
    syswrite $theirs, substr frame(payload => 'two parts'), 5;
    run_until { @$history == 2 } 'another';
    is $history, ['held', 'two parts'], 'delivered once the event loop was idle';
};

subtest 'a handle that was destroyed before (C20)' => sub {
    my ($ours, $theirs) = socket_pair();
    my $handle = handle_on($ours);
    $handle->destroy;
    my $connection;
    ok lives { $connection = $CONNECTION->new(handle => $handle) }, 'new does not mind' or note $@;
    return if !$connection;
    my $history = history($connection);
    ok lives { $connection->send('x')->close }, 'neither do send and close';
    settle();
    is $history, [], 'no callback runs';
};

# ---- the program takes a hand in reading

for my $when ('at once', 'later') {
    subtest "on_read is replaced $when (C20)" => sub {
        my ($connection, $peer) = connection_and_peer();
        my $history = history($connection);
        settle() if $when eq 'later';
        my $bytes  = '';
        my $handle = $connection->handle;
        my @handles;
        $handle->on_read(sub {
            push @handles, $_[0];
            $bytes .= delete $handle->{rbuf};
        });
        syswrite $peer, frame(payload => 'raw');
        run_until { length $bytes } 'the bytes';
        is $bytes, frame(payload => 'raw'), 'the program gets the bytes';
        ref_is $handles[0], $handle, 'with the handle as argument';
        settle();
        is $history, [], 'and the connection none';
        $connection->send('out');
        is payloads(receive_frames($peer, 1)), ['out'], 'sending goes on';
    };

    subtest "on_read is taken away $when and put back (C20)" => sub {
        my ($connection, $peer) = connection_and_peer();
        my $history = history($connection);
        settle() if $when eq 'later';
        my $handle = $connection->handle;
        my $ours   = $handle->{on_read};
        $handle->on_read(undef);
        syswrite $peer, frame(payload => 1);
        settle();
        is $history, [], 'nothing is delivered meanwhile';
        $handle->on_read($ours);
        run_until { @$history } 'a message';
        syswrite $peer, frame(payload => 2);
        run_until { @$history == 2 } 'another';
        is $history, [1, 2], 'then all is';
    };

    subtest "stop_read $when, then start_read (C20)" => sub {
        my ($connection, $peer) = connection_and_peer();
        my $history = history($connection);
        settle() if $when eq 'later';
        $connection->handle->stop_read;
        syswrite $peer, frame(payload => 1) . frame(payload => 2);
        shutdown $peer, 1;
        settle();
        is $history, [], 'nothing is delivered meanwhile, nor is EOF seen';
        $connection->handle->start_read;
        run_until { finished($history) } 'finish';
        is $history, [1, 2, [finish => undef]], 'then all is';
    };

    for my $method ('push_read', 'unshift_read') {
        subtest "$method $when (C20)" => sub {
            my ($connection, $peer) = connection_and_peer();
            my $history = history($connection);
            settle() if $when eq 'later';
            $connection->handle->$method(chunk => 5, sub { push @$history, "chunk $_[1]" });
            syswrite $peer, 'a chu';
            run_until { @$history } 'the chunk';
            syswrite $peer, frame(payload => 'frame');
            run_until { @$history == 2 } 'the message';
            $connection->handle->$method(line => sub { push @$history, "line $_[1]" });
            syswrite $peer, "of text\n" . frame(payload => 'again');
            run_until { @$history == 4 } 'the rest';
            is $history, ['chunk a chu', 'frame', 'line of text', 'again'],
                'the program gets its bytes, the connection what follows';
        };
    }

    subtest "on_error and on_eof are replaced $when (C20)" => sub {
        my ($connection, $peer) = connection_and_peer();
        my $history = history($connection);
        settle() if $when eq 'later';
        my $handle = $connection->handle;
        my $ours   = $handle->{on_eof};
        $handle->on_error(sub { push @$history, ['error', $_[1], $_[2]] });
        $handle->on_eof(sub { push @$history, ['eof', ref $_[0]]; $ours->(@_) });
        syswrite $peer, frame(payload => 'm');
        shutdown $peer, 1;
        run_until { finished($history) } 'EOF';
        run_until { @$history == 3 } 'finish';
        is $history, ['m', ['eof', 'AnyEvent::Handle'], [finish => undef]],
            'the one of the program runs, and may call ours';
    };
}

subtest 'bytes stay in the read buffer while on_read is taken away (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $history = history($connection);
    my $handle  = $connection->handle;
    my $ours    = $handle->{on_read};
    $handle->on_read(undef);
    $handle->stop_read;
    $handle->start_read;
    syswrite $peer, frame(payload => 'held');
    run_until { length($handle->{rbuf} // '') || @$history } 'bytes';
    # Also over the moment in which the event loop is idle first.
    my $idle;
    my $watcher = AE::idle sub { $idle = 1 };
    run_until { $idle } 'the event loop to be idle';
    settle();
    is $history, [], 'nothing is delivered meanwhile';
    is $handle->{rbuf}, frame(payload => 'held'), 'the program sees them';
    $handle->on_read($ours);
    run_until { @$history } 'the message';
    is $history, ['held'], 'then they are delivered';
};

subtest 'an on_error of the program gets the error (C20)' => sub {
    my ($connection, $peer) = connection_and_peer(tcp => 1);
    my $history = history($connection);
    settle();
    $connection->handle->on_error(sub { push @$history, [error => $_[1] ? 1 : 0, $_[2]] });
    setsockopt $peer, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
    close $peer;
    run_until { @$history } 'the error';
    my $reset = do { local $! = Errno::ECONNRESET(); "$!" };
    is $history, [[error => 1, $reset]], 'with its text, and finish does not run';
};

subtest 'stop_read in a callback, start_read by a timer (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my ($stopped, @timers, @bodies) = (0);
    $connection->on(each_message => sub {
        my ($connection, $message) = @_;
        push @bodies, $message->body . ($stopped ? ' while stopped' : '');
        $connection->handle->stop_read;
        push @timers, AE::timer 0.002, 0, sub {
            $stopped = 0;
            $connection->handle->start_read;
        };
    });
    for my $number (1 .. 5) {
        syswrite $peer, frame(payload => $number);
        run_until { @bodies == $number } "message $number";
    }
    is \@bodies, [1 .. 5], 'every message is delivered once';
};

# ---- kinds of handles

# A handle for a server that is not connected yet, and a condition variable for the server's end of it.
sub connecting {
    my ($accepted, @options) = @_;
    my $port;
    my $guard = tcp_server '127.0.0.1', 0, sub { $accepted->send($_[0]) }, sub { $port = $_[2]; 0 };
    my $handle = AnyEvent::Handle->new(connect => ['127.0.0.1', $port], @options);
    return ($handle, $guard);
}

subtest 'a handle that is not connected yet (C21)' => sub {
    my ($handle, $guard) = connecting(my $accepted = AE::cv);
    my $connection = $CONNECTION->new(handle => $handle, masked => 1);
    my $history    = history($connection);
    $connection->send('early')->send('e' x $MIB);
    my $peer = $accepted->recv;
    is short(payloads(receive_frames($peer, 2))), short(['early', 'e' x $MIB]),
        'what was sent before arrives';
    syswrite $peer, frame(payload => 'welcome');
    run_until { @$history } 'a message';
    $connection->send('late');
    is payloads(receive_frames($peer, 1)), ['late'], 'and what is sent afterwards';
    shutdown $peer, 1;
    run_until { finished($history) } 'finish';
    is $history, ['welcome', [finish => undef]], 'receiving works';
};

subtest 'a handle that is not connected yet, with on_connect and on_prepare (C21)' => sub {
    my @called;
    my ($handle, $guard) = connecting(
        my $accepted = AE::cv,
        on_prepare => sub { push @called, 'prepare'; 5 },
        on_connect => sub { push @called, 'connect' },
    );
    my $connection = $CONNECTION->new(handle => $handle);
    my $history    = history($connection);
    my $peer       = $accepted->recv;
    syswrite $peer, frame(payload => 'm');
    run_until { @$history } 'a message';
    is \@called, ['prepare', 'connect'], 'both run';
    is $history, ['m'], 'and receiving works';
};

subtest 'close before the handle is connected (C17, C21)' => sub {
    my ($handle, $guard) = connecting(my $accepted = AE::cv);
    my $connection = $CONNECTION->new(handle => $handle);
    $connection->send('early')->close(1000, 'bye');
    my $peer = $accepted->recv;
    AnyEvent::fh_unblock($peer);
    my $bytes = read_until_eof($peer);
    is payloads(parse_frames($bytes)), ['early', pack 'n a*', 1000, 'bye'], 'nothing is lost';
};

subtest 'a handle that cannot connect (C19, C21)' => sub {
    my ($ours, $theirs) = tcp_pair();
    my $port = $ours->sockport;
    close $_ for $ours, $theirs;
    my $connection =
        $CONNECTION->new(handle => AnyEvent::Handle->new(connect => ['127.0.0.1', $port]));
    my $history = history($connection);
    $connection->send('nowhere to go');
    run_until { finished($history) } 'finish';
    is $history, [[finish => error_text(ECONNREFUSED)]], 'finish gets the text';
};

my %pairs = (
    'socketpair' => sub { return socket_pair() },
    'TCP'        => sub { return tcp_pair() },
    'UNIX'       => sub {
        require File::Temp;
        my $directory = File::Temp::tempdir(CLEANUP => 1);
        socket my $listener, AF_UNIX, SOCK_STREAM, 0 or die "socket: $!";
        bind $listener, pack_sockaddr_un("$directory/s") or die "bind: $!";
        listen $listener, 1;
        socket my $ours, AF_UNIX, SOCK_STREAM, 0 or die "socket: $!";
        connect $ours, pack_sockaddr_un("$directory/s") or die "connect: $!";
        accept my ($theirs), $listener or die "accept: $!";
        return ($ours, $theirs);
    },
);
for my $kind (sort keys %pairs) {
    subtest "a conversation over $kind (C21)" => sub {
        my ($ours, $theirs) = $pairs{$kind}->();
        AnyEvent::fh_unblock($theirs);
        my $connection = $CONNECTION->new(handle => handle_on($ours), max_payload_size => 0);
        my $history    = history($connection);
        my @bodies     = ('', 'short', 'm' x 70_000, 'l' x (2 * $MIB));
        write_all($theirs, join '', map { frame(payload => $_, mask => 'wxyz') } @bodies);
        run_until { @$history == @bodies } 'the messages';
        is short($history), short(\@bodies), 'messages of all lengths are received';
        $connection->send($_) for @bodies;
        is short(payloads(receive_frames($theirs, scalar @bodies))), short(\@bodies), 'and sent';
        write_all($theirs, close_frame(1000, 'done', mask => 'wxyz'));
        my $bytes = read_until_eof($theirs);
        is payloads(parse_frames($bytes)), [pack 'n', 1000], 'Close is answered, then comes EOF';
    };
}

subtest 'the reading end of a pipe (C21)' => sub {
    pipe my $out, my $in or die "pipe: $!";
    $in->autoflush;
    my $connection = $CONNECTION->new(handle => handle_on($out));
    my $history    = history($connection);
    syswrite $in, frame(payload => 'through a pipe');
    run_until { @$history } 'a message';
    syswrite $in, frame(payload => 'another');
    close $in;
    run_until { finished($history) } 'finish';
    is $history, ['through a pipe', 'another', [finish => undef]], 'messages are received, then finish';
};

subtest 'the writing end of a pipe (C21)' => sub {
    pipe my $out, my $in or die "pipe: $!";
    AnyEvent::fh_unblock($out);
    my $connection = $CONNECTION->new(handle => handle_on($in), masked => 1);
    undef $in;
    $connection->send('through a pipe')->send('p' x $MIB);
    is short(payloads(receive_frames($out, 2))), short(['through a pipe', 'p' x $MIB]), 'messages are sent';
    undef $connection;
    my $bytes = read_until_eof($out);
    is payloads(parse_frames($bytes)), [pack 'n', 1000], 'a dropped connection says so';
};

done_testing;
