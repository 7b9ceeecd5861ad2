# The program drops a connection, in whatever moment (C8, C14, D3).

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use Peer qw(
    connection_and_peer socket_pair tcp_pair handle_on frame close_frame read_frames run_until
    run_for settle nested record parse_frames read_until_eof
);
use Socket qw(SOL_SOCKET SO_RCVBUF SO_SNDBUF);
use Test2::V0;
use Time::HiRes ();
use Ending qw(
    rest_of close_body weak is_open wake in_each_callback descriptor_is_free $DATA $CLOSE @EVENTS
);

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

# A connection that the kernel takes much from, on two sockets, and a peer that has little room for it.
sub connection_and_full_peer {
    my ($class, $ours, $peer) = @_;
    setsockopt $ours, SOL_SOCKET, SO_SNDBUF, 1 << 20;
    setsockopt $peer, SOL_SOCKET, SO_RCVBUF, 1 << 14;
    AnyEvent::fh_unblock($peer);
    my $connection = AnyEvent::WebSocket::Connection->new(handle => $class->new(fh => $ours));
    settle();
    return ($connection, $peer);
}

subtest 'dropped with unsent data and unread input (C8)' => sub {
    @Local::Handle::ISA = ('AnyEvent::Handle');
    for my $case (['unix', 'AnyEvent::Handle'], ['tcp', 'AnyEvent::Handle'], ['tcp', 'Local::Handle']) {
        my ($transport, $class) = @$case;
        # A socket that is closed with input unread is reset, and what the peer has not got by then is lost:
        # nearly all, where the kernel has it but the peer has little room.
        my ($connection, $peer) = connection_and_full_peer($class, $transport eq 'tcp' ? tcp_pair() : socket_pair());
        $connection->pause;
        my $data = 'z' x (300 << 10);
        $connection->send($data);
        syswrite $peer, frame(payload => 'unread ' . $_) for 1 .. 3;
        undef $connection;
        settle();
        my $frames = rest_of($peer);
        is scalar(@$frames), 2, "$transport, $class: two frames, then EOF";
        ok $frames->[0] && $frames->[0][1] eq $data, "$transport, $class: the data, complete";
        is $frames->[1], $CLOSE, "$transport, $class: Close";
    }
};

subtest 'dropped in a callback that the handle runs, with more to read (C8, C14)' => sub {
    my ($connection, $peer) = connection_and_full_peer('AnyEvent::Handle', tcp_pair());
    # From now on the handle reads by itself.
    $_->stop_read, $_->start_read for $connection->handle;
    my $data = 'y' x (300 << 10);
    $connection->on(next_message => sub {
        $connection->send($data);
        undef $connection;
    });
    # More than the handle reads at once.
    my $input  = frame(payload => 'x' x 30_000) x 60;
    my $writer = AE::io $peer, 1, sub { substr $input, 0, syswrite($peer, $input) // 0, '' };
    run_until { !$connection } 'the drop';
    undef $writer;
    settle();
    my $frames = rest_of($peer);
    is scalar(@$frames), 2, 'two frames, then EOF';
    ok $frames->[0] && $frames->[0][1] eq $data, 'the data, complete';
    is $frames->[1], $CLOSE, 'Close';
};

subtest 'two connections of one handle dropped at once, which the program keeps (D3)' => sub {
    for my $class (qw(AnyEvent::Handle Local::Handle)) {
        my ($ours, $peer) = socket_pair();
        AnyEvent::fh_unblock($peer);
        my $handle      = $class->new(fh => $ours);
        my @connections = map { AnyEvent::WebSocket::Connection->new(handle => $handle) } 1, 2;
        settle();
        @connections = ();
        settle();
        like read_until_eof($peer), qr/\A\x88\x02\x03\xE8/, "$class: Close, and the end of what we send";
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

subtest 'what is unsent is sent after the end of the peer, too (C8)' => sub {
    my ($connection, $peer) = connection_and_peer();
    $connection->send('x' x 60_000) for 1 .. 50;
    my $finished;
    $connection->on(finish => sub { $finished = 1 });
    syswrite $peer, close_frame(1000);
    shutdown $peer, 1;
    run_until { $finished } 'finish';
    undef $connection;
    my @frames = parse_frames(my $bytes = read_until_eof($peer));
    is [scalar(grep { $_->{opcode} == 1 } @frames), $frames[-1]{opcode}], [50, 8], 'all messages, and Close';
};

done_testing;
