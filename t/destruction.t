# What lets go of a connection: the program drops it or destroys its handle, in whatever moment; the
# program ends; the descriptor goes away.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use POSIX ();
use Peer qw(
    connection_and_peer socket_pair tcp_pair handle_on frame close_frame parse_frames read_frames
    read_until_eof run_until run_for settle nested record start_program
);
use Scalar::Util qw(weaken);
use Socket qw(SOL_SOCKET SO_RCVBUF SO_SNDBUF);
use Test2::V0;
use Time::HiRes ();

# More than the socket takes.
my $BIG  = 4 << 20;
my $DATA = join '', map { pack 'N', $_ } 1 .. $BIG / 4;

sub frames_of {
    my ($bytes) = @_;
    my @frames = map { [$_->{opcode}, $_->{payload}] } parse_frames($bytes);
    is length $bytes, 0, 'no part of a frame at the end';
    return \@frames;
}

sub rest_of { return frames_of(read_until_eof($_[0])) }

sub close_body { return pack 'n a*', @_ }

my $CLOSE = [8, close_body(1000, '')];

sub weak {
    my ($object) = @_;
    my $weak = $object;
    weaken $weak;
    return \$weak;
}

sub is_open {
    my ($fd) = @_;
    my $copy = POSIX::dup($fd);
    POSIX::close($copy) if defined $copy;
    return defined $copy;
}

# What wakes each kind of callback.
my %WAKE = (
    next_message => frame(payload => 'message'),
    each_message => frame(payload => 'message'),
    parse_error  => frame(rsv => 7),
    finish       => undef,
);
my @EVENTS = qw(next_message each_message parse_error finish);

sub wake {
    my ($peer, $event) = @_;
    return shutdown $peer, 1 unless defined $WAKE{$event};
    syswrite $peer, $WAKE{$event};
}

# Runs a test for each kind of callback, called from the first delivery (compat C13) and from a later one.
sub in_each_callback(&) {
    my ($test) = @_;
    for my $event (@EVENTS) {
        for my $when ('first delivery', 'later') {
            # Made by the test, since whoever calls it would hold the connection too.
            $test->($event, "$event, $when", sub {
                my @made = connection_and_peer();
                settle() if $when eq 'later';
                return @made;
            });
        }
    }
}

# Nothing of ours may be left on a descriptor that is closed, or that is another connection's by now.
sub descriptor_is_free {
    my ($fd, $name) = @_;
    ok !is_open($fd), "$name: the descriptor is closed" or return;
    my ($end, $other, @unused);
    until ($end) {
        my @pair = socket_pair();
        die 'the descriptor does not come back' if @unused > 100;
        ($end, $other) = fileno $pair[0] == $fd ? @pair : fileno $pair[1] == $fd ? reverse @pair : ();
        push @unused, @pair unless $end;
    }
    my $bytes = frame(payload => 'for somebody else');
    syswrite $other, $bytes;
    my $cpu = Time::HiRes::clock();
    run_for(0.03);
    cmp_ok Time::HiRes::clock() - $cpu, '<', 0.01, "$name: no watcher spins on the one that has its number now";
    AnyEvent::fh_unblock($end);
    sysread $end, my $got, 1000;
    is $got, $bytes, "$name: nor reads from it";
    AnyEvent::fh_unblock($other);
    is sysread($other, $got, 1000), undef, "$name: nor writes to it";
}

subtest 'a dropped connection closes (D3)' => sub {
    for my $when ('before the loop has run', 'later') {
        my ($connection, $peer) = connection_and_peer();
        my $weak   = weak($connection);
        my $handle = weak($connection->handle);
        settle() if $when eq 'later';
        $connection->send('last words');
        undef $connection;
        ok !$$weak, "$when: the connection is gone at once";
        is rest_of($peer), [[1, 'last words'], $CLOSE], "$when: what was sent, Close 1000, EOF";
        close $peer;
        run_until { !$$handle } "$when: end of the handle";
        pass "$when: the handle is gone";
    }
};

subtest 'a dropped connection masks its Close (C7, D3)' => sub {
    my ($connection, $peer) = connection_and_peer(masked => 1);
    undef $connection;
    my ($frame) = read_frames($peer, 1);
    is $frame, hash { field opcode => 8; field masked => 1; field payload => close_body(1000, ''); etc }, 'masked';
};

subtest 'registered callbacks do not keep a connection alive (C14)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $weak = weak($connection);
    my $called = 0;
    my @cancel = map { $connection->on($_ => sub { $called++ }) } @EVENTS;
    settle();
    undef $connection;
    ok !$$weak, 'gone, though cancelling coderefs are kept (C9)';
    syswrite $peer, frame(payload => 'x') . frame(rsv => 1);
    shutdown $peer, 1;
    settle();
    is $called, 0, 'and no callback runs';
    ok lives { $_->() for @cancel }, 'cancelling afterwards is harmless';
};

subtest 'a connection that was closed before is dropped without a word (C17)' => sub {
    my %ended = (
        'close'          => sub { my ($connection) = @_; $connection->close(4000, 'mine') },
        'Close of peer'  => sub {
            my ($connection, $peer) = @_;
            syswrite $peer, close_frame(4000, 'x');
            run_until { $connection->was_clean };
        },
        'a raw Close' => sub {
            my ($connection) = @_;
            $connection->send(AnyEvent::WebSocket::Message->new(opcode => 8, body => close_body(4000, '')));
        },
    );
    for my $name (sort keys %ended) {
        my ($connection, $peer) = connection_and_peer();
        $ended{$name}->($connection, $peer);
        my $weak = weak($connection);
        undef $connection;
        ok !$$weak, "$name: gone";
        my $frames = rest_of($peer);
        is scalar(@$frames), 1, "$name: one Close frame, then EOF";
        is substr($frames->[0][1], 0, 2), close_body(4000, ''), "$name: that of before";
    }
};

subtest 'a finished connection is dropped quietly' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    close $peer;
    run_until { @{ $record->{finish} } };
    my $weak   = weak($connection);
    my $handle = weak($connection->handle);
    ok no_warnings { undef $connection }, 'no warning';
    ok !$$weak,   'the connection is gone';
    ok !$$handle, 'and its handle';
};

subtest 'dropping does not disturb what the program is doing (D3)' => sub {
    my ($connection, $peer) = connection_and_peer();
    close $peer;
    eval { die "mine\n" };
    $! = 5;
    local $_ = 'topic';
    my @caught;
    local $SIG{__DIE__}  = sub { push @caught, @_ };
    local $SIG{__WARN__} = sub { push @caught, @_ };
    undef $connection;
    is [$@, $! + 0, $_], ["mine\n", 5, 'topic'], '$@, $! and $_ are as they were, though sending fails';
    is \@caught, [], 'no warning, no exception';
};

subtest 'a connection dropped in its own callback (C14)' => sub {
    in_each_callback {
        my ($event, $name, $make) = @_;
        my ($connection, $peer) = $make->();
        my $weak   = weak($connection);
        my $handle = weak($connection->handle);
        my ($called, $alive) = 0;
        $connection->on($event => sub {
            my $self = shift;
            $called++;
            undef $connection;
            $alive = defined $$weak && !!$self->handle;
            $self->send('reply');
        });
        wake($peer, $event);
        run_until { $called } $name;
        ok $alive, "$name: alive in the callback";
        run_until { !$$weak } "$name: end of the connection";
        my $expected = $event eq 'finish' ? [] : $event eq 'parse_error' ? [[8, close_body(1002, '')]]
            : [[1, 'reply'], $CLOSE];
        is rest_of($peer), $expected, "$name: the peer gets what was sent, Close, EOF";
        close $peer;
        run_until { !$$handle } "$name: end of the handle";
        is $called, 1, "$name: called once";
    };
};

subtest 'dropped in its callback as the only argument (C14)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $weak = weak($connection);
    my @got;
    $connection->on(each_message => sub { undef $connection; undef $_[0]; push @got, $_[1]->body });
    $connection->on(each_message => sub { push @got, ref $_[0] });
    syswrite $peer, frame(payload => 'one') . frame(payload => 'two');
    run_until { !$$weak };
    is \@got, ['one', 'AnyEvent::WebSocket::Connection', 'two', 'AnyEvent::WebSocket::Connection'],
        'the next callback still gets the connection';
    is rest_of($peer), [$CLOSE], 'Close';
};

subtest 'what the same read brought is delivered after the drop (C14)' => sub {
    for my $event (qw(next_message each_message)) {
        for my $when ('first delivery', 'later') {
            my $name = "$event, $when";
            my ($connection, $peer) = connection_and_peer();
            settle() if $when eq 'later';
            my $weak = weak($connection);
            my @messages;
            $connection->on(each_message => sub { push @messages, $_[1]->body; $_[0]->send('reply ' . @messages) });
            $connection->on($event => sub { undef $connection });
            syswrite $peer, join '', map { frame(payload => $_) } 1 .. 5;
            run_until { !$$weak } $name;
            is \@messages, [1 .. 5], "$name: all messages";
            is rest_of($peer), [(map { [1, "reply $_"] } 1 .. 5), $CLOSE], "$name: all replies, Close, EOF";
        }
    }
};

subtest 'a Close or an error in the same read as a drop (C14)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $weak = weak($connection);
    my $code;
    $connection->on(each_message => sub { undef $connection });
    syswrite $peer, frame(payload => 'x') . close_frame(4000, 'bye');
    run_until { !$$weak };
    is rest_of($peer), [[8, close_body(4000, '')]], 'Close is answered';

    ($connection, $peer) = connection_and_peer();
    $weak = weak($connection);
    my @errors;
    $connection->on(each_message => sub { undef $connection });
    $connection->on(parse_error  => sub { push @errors, $_[1] });
    syswrite $peer, frame(payload => 'x') . frame(rsv => 7);
    run_until { !$$weak };
    is scalar(@errors), 1, 'an error is told';
    is rest_of($peer), [[8, close_body(1002, '')]], 'to both sides';
};

subtest 'a callback that dies after dropping its connection (C14, C15)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $weak = weak($connection);
    my @errors;
    $connection->on(parse_error  => sub { push @errors, $_[1] });
    $connection->on(each_message => sub { undef $connection; die "oops\n" });
    syswrite $peer, frame(payload => 'x') . frame(payload => 'y');
    run_until { !$$weak };
    is \@errors, ["oops\n"], 'parse_error';
    is rest_of($peer), [[8, close_body(1011, '')]], 'Close 1011';
};

subtest 'dropped while a nested loop runs in its callback (C14, C22)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $weak = weak($connection);
    my @messages;
    $connection->on(each_message => sub {
        push @messages, $_[1]->body;
        return if @messages > 1;
        my $drop = AE::timer 0.01, 0, sub { undef $connection };
        nested { run_until { !$connection } };
        ok $$weak, 'alive until the callback has returned';
    });
    syswrite $peer, frame(payload => 1) . frame(payload => 2);
    run_until { !$$weak };
    is \@messages, [1, 2], 'both messages of that read';
    is rest_of($peer), [$CLOSE], 'Close';
};

subtest 'dropped with unsent data (C8, D3)' => sub {
    for my $transport (qw(unix tcp)) {
        for my $held (0, 1) {
            my $name = "$transport, " . ($held ? 'handle held by the program' : 'nothing held');
            my ($connection, $peer) = connection_and_peer(tcp => $transport eq 'tcp');
            my $handle = $held ? $connection->handle : undef;
            my $weak   = weak($connection);
            $connection->send(AnyEvent::WebSocket::Message->new(opcode => 2, body => $DATA));
            $connection->send("message $_") for 1 .. 3;
            undef $connection;
            ok !$$weak, "$name: gone at once";
            my $frames = rest_of($peer);
            ok $frames->[0][0] == 2 && $frames->[0][1] eq $DATA, "$name: the data, complete";
            is [@$frames[1 .. $#$frames]], [(map { [1, "message $_"] } 1 .. 3), $CLOSE],
                "$name: the rest, Close, EOF";
        }
    }
};

subtest 'dropped with unsent data and unread input (C8)' => sub {
    for my $transport (qw(unix tcp)) {
        # A socket that is closed with input unread is reset, and what the peer has not got by then is lost:
        # nearly all, where the kernel has it but the peer has little room.
        my ($ours, $peer) = $transport eq 'tcp' ? tcp_pair() : socket_pair();
        setsockopt $ours, SOL_SOCKET, SO_SNDBUF, 1 << 20;
        setsockopt $peer, SOL_SOCKET, SO_RCVBUF, 1 << 14;
        AnyEvent::fh_unblock($peer);
        my $connection = AnyEvent::WebSocket::Connection->new(handle => handle_on($ours));
        undef $ours;
        settle();
        my $data = 'z' x (300 << 10);
        $connection->send($data);
        syswrite $peer, frame(payload => 'unread ' . $_) for 1 .. 3;
        undef $connection;
        settle();
        my $frames = rest_of($peer);
        is scalar(@$frames), 2, "$transport: two frames, then EOF";
        ok $frames->[0] && $frames->[0][1] eq $data, "$transport: the data, complete";
        is $frames->[1], $CLOSE, "$transport: Close";
    }
};

subtest 'dropped while the program keeps the handle (D3)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    my $handle = $connection->handle;
    my $fd     = fileno $handle->fh;
    settle();
    undef $connection;
    is rest_of($peer), [$CLOSE], 'Close 1000 and EOF';
    syswrite $peer, frame(payload => 'nobody home') x 100;
    my $cpu = Time::HiRes::clock();
    run_for(0.03);
    cmp_ok Time::HiRes::clock() - $cpu, '<', 0.01, 'what arrives then does not make the loop spin';
    close $peer;
    run_for(0.06);
    is $record, { messages => [], parse_errors => [], finish => [] }, 'no callback runs';
    undef $handle;
    run_until { !is_open($fd) } 'end of the descriptor';
    descriptor_is_free($fd, 'when the handle is dropped');
};

subtest 'the descriptor of a dropped connection (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $fd = fileno $connection->handle->fh;
    settle();
    undef $connection;
    rest_of($peer);
    close $peer;
    run_until { !is_open($fd) } 'end of the descriptor';
    descriptor_is_free($fd, 'dropped');
};

subtest 'handle->destroy before the loop has run (C20)' => sub {
    for my $dropped (0, 1) {
        my $name = $dropped ? 'then dropped' : 'kept';
        my ($connection, $peer) = connection_and_peer();
        my $record = record($connection);
        my $weak   = weak($connection);
        my $fd     = fileno $connection->handle->fh;
        syswrite $peer, frame(payload => 'early');
        $connection->handle->destroy;
        undef $connection if $dropped;
        is read_until_eof($peer), '', "$name: the peer sees the end";
        settle();
        is $record, { messages => [], parse_errors => [], finish => [] }, "$name: no callback runs";
        descriptor_is_free($fd, $name);
        is !!$$weak, !$dropped, "$name: the connection";
    }
};

subtest 'after handle->destroy everything is harmless (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    settle();
    my $fd = fileno $connection->handle->fh;
    $connection->handle->destroy;
    my @caught;
    local $SIG{__WARN__} = sub { push @caught, @_ };
    my $handle = $connection->handle;
    ok $handle->destroyed, 'the handle is still there';
    ref_is $connection->send('x'), $connection, 'send';
    ref_is $connection->send('x' x $BIG), $connection, 'send of much';
    ref_is $connection->close(1001, 'y'), $connection, 'close';
    ref_is $connection->close, $connection, 'close again';
    ok lives { $connection->on($_ => sub { push @caught, 'called' })->() for @EVENTS }, 'on and cancel';
    ok lives { $handle->destroy; $handle->push_shutdown; $handle->push_write('x') }, 'more for the handle';
    ok !$connection->was_clean, 'was_clean';
    is [$connection->close_code, $connection->close_reason, $connection->close_error], [(undef) x 3], 'the rest';
    settle();
    descriptor_is_free($fd, 'destroyed');
    my $weak = weak($connection);
    undef $connection;
    ok !$$weak, 'and it can be dropped';
    is \@caught, [], 'no warning';
};

subtest 'handle->destroy in a callback (C20)' => sub {
    in_each_callback {
        my ($event, $name, $make) = @_;
        my ($connection, $peer) = $make->();
        my $fd = fileno $connection->handle->fh;
        my $record = record($connection);
        my $called = 0;
        $connection->on($event => sub {
            my ($connection) = @_;
            $called++;
            $connection->send('reply');
            $connection->handle->destroy;
            ref_is $connection->send('too late'), $connection, "$name: send is harmless";
            ref_is $connection->close, $connection, "$name: close is harmless";
        });
        wake($peer, $event);
        run_until { $called } $name;
        my $before = { map { $_ => [@{ $record->{$_} }] } keys %$record };
        my $expected = $event eq 'finish' ? [] : $event eq 'parse_error' ? [[8, close_body(1002, '')]]
            : [[1, 'reply']];
        is rest_of($peer), $expected, "$name: the peer gets what was sent before, and the end";
        close $peer;
        settle();
        is $called, 1, "$name: called once";
        is $record, $before, "$name: no callback afterwards";
        descriptor_is_free($fd, $name);
        my $weak = weak($connection);
        undef $connection;
        ok !$$weak, "$name: and it can be dropped";
    };
};

subtest 'handle->destroy between two messages of one read (C20)' => sub {
    for my $event (qw(next_message each_message)) {
        for my $when ('first delivery', 'later') {
            my $name = "$event, $when";
            my ($connection, $peer) = connection_and_peer();
            settle() if $when eq 'later';
            my $record = record($connection);
            $connection->on($event => sub { $_[0]->handle->destroy });
            syswrite $peer, frame(payload => 1) . frame(payload => 2) . frame(rsv => 7);
            shutdown $peer, 1;
            read_until_eof($peer);
            settle();
            # A next_message callback runs before those of each_message, which get the same message still
            # or not; but none gets the next.
            is [grep { $_ != 1 } @{ $record->{messages} }], [], "$name: no second message";
            is [@{ $record->{parse_errors} }, @{ $record->{finish} }], [], "$name: and nothing else";
        }
    }
};

subtest 'handle->destroy with replies that have not left yet (C8, C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $count = 0;
    $connection->on(each_message => sub {
        my ($connection) = @_;
        $connection->send('reply ' . ++$count);
        $connection->handle->destroy if $count == 3;
    });
    syswrite $peer, join '', map { frame(payload => $_) } 1 .. 5;
    is rest_of($peer), [map { [1, "reply $_"] } 1 .. 3], 'they are delivered';
    is $count, 3, 'and no further message is';
};

subtest 'handle->destroy with unsent data (C8, C20)' => sub {
    for my $dropped (0, 1) {
        my $name = $dropped ? 'dropped too' : 'kept';
        my ($connection, $peer) = connection_and_peer();
        my $record = record($connection);
        my $fd     = fileno $connection->handle->fh;
        $connection->send(AnyEvent::WebSocket::Message->new(opcode => 2, body => $DATA));
        $connection->send('and this');
        $connection->handle->destroy;
        $connection->send('but not this');
        undef $connection if $dropped;
        my $frames = rest_of($peer);
        is scalar(@$frames), 2, "$name: two frames, then the end";
        ok $frames->[0] && $frames->[0][1] eq $DATA, "$name: the data, complete";
        is $frames->[1], [1, 'and this'], "$name: and what came after it";
        close $peer;
        run_until { !is_open($fd) } "$name: end of the descriptor";
        descriptor_is_free($fd, $name);
        is $record, { messages => [], parse_errors => [], finish => [] }, "$name: no callback ran";
    }
};

subtest 'handle->destroy while a nested loop holds the messages back (C20, C22)' => sub {
    my ($connection, $peer) = connection_and_peer();
    settle();
    my $fd = fileno $connection->handle->fh;
    my $record = record($connection);
    my $done;
    $connection->on(next_message => sub {
        my ($connection) = @_;
        syswrite $peer, frame(payload => 'waiting');
        nested { settle() };
        $connection->handle->destroy;
        nested { settle() };
        $done = 1;
    });
    syswrite $peer, frame(payload => 'first') . frame(payload => 'second');
    run_until { $done };
    read_until_eof($peer);
    settle();
    is [grep { $_ ne 'first' } @{ $record->{messages} }], [], 'no further message';
    is $record->{finish}, [], 'no finish';
    descriptor_is_free($fd, 'destroyed');
};

subtest 'handle->destroy while the close timeout runs (C20, D6)' => sub {
    my ($connection, $peer) = connection_and_peer(close_timeout => 0.05);
    my $record = record($connection);
    $connection->close;
    $connection->handle->destroy;
    run_for(0.15);
    is $record->{finish}, [], 'no finish';
};

subtest 'handle->destroy in the finish of a close timeout (C20, D6)' => sub {
    my ($connection, $peer) = connection_and_peer(close_timeout => 0.05);
    my @finish;
    $connection->on(finish => sub { push @finish, $_[1]; $_[0]->handle->destroy });
    $connection->close;
    run_until { @finish };
    settle();
    is \@finish, ['close timeout'], 'once, and nothing breaks';
};

subtest 'dropped in the finish of a close timeout (C14, D6)' => sub {
    my ($connection, $peer) = connection_and_peer(close_timeout => 0.05);
    my $weak = weak($connection);
    my @finish;
    $connection->on(finish => sub { push @finish, $_[1]; undef $connection; ok $$weak, 'alive' });
    $connection->close;
    run_until { @finish };
    run_until { !$$weak } 'end of the connection';
    is \@finish, ['close timeout'], 'once';
};

subtest 'handle->push_shutdown by the program (C20)' => sub {
    for my $when ('before the loop has run', 'later') {
        my ($connection, $peer) = connection_and_peer();
        my $record = record($connection);
        settle() if $when eq 'later';
        $connection->send('before');
        $connection->handle->push_shutdown;
        is rest_of($peer), [[1, 'before']], "$when: what was sent before, then EOF";
        syswrite $peer, frame(payload => 'to you');
        run_until { @{ $record->{messages} } };
        is $record->{messages}, ['to you'], "$when: messages are still delivered";
        close $peer;
        run_until { @{ $record->{finish} } };
        settle();
        is scalar(@{ $record->{finish} }), 1, "$when: finish, once";
    }
};

subtest 'handle->push_shutdown with unsent data (C8, C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $data = 'w' x $BIG;
    $connection->send($data);
    $connection->handle->push_shutdown;
    my $frames = rest_of($peer);
    ok @$frames == 1 && $frames->[0][1] eq $data, 'all of it, then EOF';
};

subtest 'handle->push_shutdown in a callback (C20)' => sub {
    in_each_callback {
        my ($event, $name, $make) = @_;
        my ($connection, $peer) = $make->();
        my $called = 0;
        my $finished = 0;
        $connection->on($event => sub {
            $called++;
            $_[0]->send('reply');
            $_[0]->handle->push_shutdown;
        });
        $connection->on(finish => sub { $finished++ });
        wake($peer, $event);
        run_until { $called } $name;
        my $expected = $event eq 'finish' ? [] : $event eq 'parse_error' ? [[8, close_body(1002, '')]]
            : [[1, 'reply']];
        is rest_of($peer), $expected, "$name: what was sent before, then EOF";
        close $peer;
        run_until { $finished } "$name: finish";
        settle();
        is [$called, $finished], [1, 1], "$name: each once";
    };
};

subtest 'handle->push_shutdown between replies to one read (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @messages;
    $connection->on(each_message => sub {
        my ($connection, $message) = @_;
        push @messages, $message->body;
        $connection->send('reply ' . @messages) if @messages <= 2;
        $connection->handle->push_shutdown if @messages == 2;
    });
    syswrite $peer, join '', map { frame(payload => $_) } 1 .. 4;
    is rest_of($peer), [[1, 'reply 1'], [1, 'reply 2']], 'those before it leave, then EOF';
    run_until { @messages == 4 };
    is \@messages, [1 .. 4], 'all messages are delivered';
};

subtest 'sending after handle->push_shutdown (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    settle();
    $connection->handle->push_shutdown;
    ref_is $connection->send('nothing'), $connection, 'send returns the connection';
    ref_is $connection->close, $connection, 'so does close';
    is read_until_eof($peer), '', 'nothing gets through';
    close $peer;
    run_until { @{ $record->{finish} } };
    settle();
    is scalar(@{ $record->{finish} }), 1, 'finish, once';
};

subtest 'the descriptor closed behind our back (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    settle();
    my $fd = fileno $connection->handle->fh;
    my @caught;
    local $SIG{__WARN__} = sub { push @caught, @_ };
    close $connection->handle->fh;
    descriptor_is_free($fd, 'closed');
    ref_is $connection->send('x'), $connection, 'send returns the connection';
    run_until { @{ $record->{finish} } } 'finish';
    settle();
    is $record->{finish}, [T()], 'finish gets an error, once';
    is $record->{messages}, [], 'no message';
    ref_is $connection->send('x'), $connection, 'send returns the connection again';
    ref_is $connection->close, $connection, 'so does close';
    my $weak = weak($connection);
    undef $connection;
    ok !$$weak, 'and it can be dropped';
};

subtest 'the descriptor closed behind our back, then dropped (C20)' => sub {
    for my $unsent (0, 1) {
        my $name = $unsent ? 'with unsent data' : 'without';
        my ($connection, $peer) = connection_and_peer();
        settle();
        $connection->send('x' x $BIG) if $unsent;
        my $fd = fileno $connection->handle->fh;
        close $connection->handle->fh;
        my $weak = weak($connection);
        ok lives { undef $connection }, "$name: no exception";
        ok !$$weak, "$name: gone";
        descriptor_is_free($fd, $name);
    }
};

subtest 'the descriptor closed in a callback (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    settle();
    my $fd = fileno $connection->handle->fh;
    my $called = 0;
    $connection->on(each_message => sub {
        $called++;
        close $_[0]->handle->fh if $called == 1;
    });
    syswrite $peer, frame(payload => 1) . frame(payload => 2);
    run_until { $called };
    settle();
    descriptor_is_free($fd, 'closed');
    ok $called <= 2, 'what the same read brought, no more';
};

subtest 'objects go when they are done with' => sub {
    my ($connection, $peer) = connection_and_peer();
    my (@messages, $other);
    $connection->on(each_message => sub { push @messages, weak($_[1]); $other = weak($_[2]) });
    syswrite $peer, frame(payload => $_) for 1 .. 3;
    run_until { @messages == 3 };
    is [grep { defined $$_ } @messages], [], 'messages after their callbacks';
    my @weak = map { weak($_) } $connection, $connection->handle;
    syswrite $peer, close_frame(1000);
    rest_of($peer);
    close $peer;
    settle();
    ok defined ${ $weak[0] }, 'the connection stays while the program has it';
    undef $connection;
    is [grep { defined $$_ } @weak], [], 'then it goes, with its handle';
};

# What programs print and how they end, and what their peers get, by name. They run at the same time.
sub outcomes_of {
    my ($code_of) = @_;
    my %program = map { $_ => [start_program($code_of->{$_})] } keys %$code_of;
    syswrite $program{$_}[0], frame(payload => 'go') for keys %program;
    my %outcome;
    for my $name (keys %program) {
        my ($peer, $wait) = @{ $program{$name} };
        my $bytes = read_until_eof($peer);
        $outcome{$name} = [$bytes, $wait->()];
    }
    return \%outcome;
}

subtest 'the end of the program (D3)' => sub {
    my $connect = 'AnyEvent::WebSocket::Connection->new(handle => handle_on(program_socket()))';
    my $watch   = '$c->on($_ => sub { print "called: @_\n" }) for qw(parse_error finish);';
    my %program = (
        'a global variable' =>
            [0, '', "our \$c = $connect; \$c->send('up'); $watch settle()"],
        'a lexical variable of the file, used in a sub' =>
            [0, '', "my \$c = $connect; \$c->send('up'); $watch settle(); sub use_it { \$c }"],
        'before the loop has run' =>
            [0, '', "our \$c = $connect; \$c->send('up'); $watch"],
        'exit' =>
            [3, '', "our \$c = $connect; \$c->send('up'); $watch settle(); exit 3"],
        'exit in a callback' =>
            [4, '', "our \$c = $connect; $watch \$c->on(each_message => sub { \$c->send('up'); exit 4 });"
                . ' run_until { 0 }'],
        'exit in a callback, with a lexical variable' =>
            [4, '', "my \$c = $connect; $watch \$c->on(each_message => sub { \$c->send('up'); exit 4 });"
                . ' run_until { 0 }'],
        'die' =>
            [255, "oops\n", "our \$c = $connect; \$c->send('up'); $watch settle(); \$! = 0; die qq(oops\n)"],
        'a cycle that nobody breaks' =>
            [0, '', "{ my \$c = $connect; \$c->send('up'); \$c->{cycle} = \$c; $watch settle() }"],
        'an exit code set in END' =>
            [5, '', "our \$c = $connect; \$c->send('up'); settle(); END { \$? = 5 }"],
        'a destructor that sends' =>
            [0, '', "our \$c = $connect; \$c->send('up'); sub Late::DESTROY { \$c->send('late'); \$c->close }"
                . q( our $late = bless [], 'Late'; our $cycle = [bless [], 'Late']; push @$cycle, $cycle;)],
    );
    my $outcomes = outcomes_of({ map { $_ => $program{$_}[2] } keys %program });
    for my $name (sort keys %program) {
        my ($code, $output) = @{ $program{$name} };
        my ($bytes, $status, $printed) = @{ $outcomes->{$name} };
        is frames_of($bytes), [[1, 'up'], [8, close_body(1001, '')]], "$name: Close 1001";
        is $status, $code << 8, "$name: the exit code is that of the program";
        is $printed, $output, "$name: no callback, no warning";
    }
};

subtest 'the end of the program, where no Close is due (D3)' => sub {
    my $new     = 'AnyEvent::WebSocket::Connection->new(handle => handle_on(program_socket()));';
    my $connect = "our \$c = $new";
    my %program = (
        'closed before' => [[[8, close_body(4000, 'own')]], "$connect \$c->close(4000, 'own'); settle()"],
        'handle destroyed' => [[[1, 'up']], "$connect \$c->send('up'); \$c->handle->destroy; settle()"],
        # Perl frees it before the end has begun.
        'a lexical variable of the file' => [[$CLOSE], "my \$c = $new settle()"],
        'dropped before'   => [[$CLOSE], "$connect undef \$c; settle()"],
        'dropped in END'   => [[$CLOSE], "$connect END { undef \$c }"],
    );
    my $outcomes = outcomes_of({ map { $_ => $program{$_}[1] } keys %program });
    for my $name (sort keys %program) {
        my ($expected) = @{ $program{$name} };
        my ($bytes, $status, $printed) = @{ $outcomes->{$name} };
        is frames_of($bytes), $expected, "$name: nothing more is sent";
        is [$status, $printed], [0, ''], "$name: a quiet end";
    }
};

subtest 'the end of the program with unsent data (D3)' => sub {
    my ($peer, $wait) = start_program(<<'    END');
        our $c = AnyEvent::WebSocket::Connection->new(handle => handle_on(program_socket()));
        $c->send('x' x (32 << 20));
    END
    my ($status, $printed) = $wait->();
    is [$status, $printed], [0, ''], 'it does not wait for the peer';
    my $bytes = read_until_eof($peer);
    my $whole = frame(payload => 'x' x (32 << 20)) . close_frame(1001);
    ok substr($whole, 0, length $bytes) eq $bytes, 'the peer gets no Close in the middle of a message';
};

subtest 'the end of the program while the peer is gone (D3)' => sub {
    my ($peer, $wait) = start_program(<<'    END');
        our $c = AnyEvent::WebSocket::Connection->new(handle => handle_on(program_socket()));
        $SIG{PIPE} = 'DEFAULT';
        $c->on(each_message => sub { select undef, undef, undef, 0.05; exit 6 });
        run_until { 0 };
    END
    syswrite $peer, frame(payload => 'go');
    close $peer;
    my ($status, $printed) = $wait->();
    is [$status, $printed], [6 << 8, ''], 'neither a signal nor a warning';
};

done_testing;
