# The program destroys or shuts down the handle of a connection, or closes its descriptor (C20).

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use Errno qw(EBADF);
use Peer qw(
    connection_and_peer connection_through_handle frame read_until_eof run_until run_for settle nested record
);
use Test2::V0;
use Ending qw(
    rest_of close_body weak is_open wake in_each_callback descriptor_is_free $BIG $DATA @EVENTS
);

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

subtest 'handle->destroy in a callback after the end was known (C20)' => sub {
    my %end = (
        'the end of the socket'        => sub { shutdown $_[1], 1; nested { run_for(0.05) } },
        'a send that has failed'       => sub { close $_[1]; $_[0]->send('x') for 1 .. 3 },
        'max_write_buffer is exceeded' => sub { $_[0]->send('x' x $BIG) for 1 .. 2 },
    );
    for my $what (sort keys %end) {
        my ($connection, $peer) = connection_and_peer(max_write_buffer => $BIG);
        my $record = record($connection);
        my $done;
        $connection->on(next_message => sub {
            my ($connection) = @_;
            $end{$what}->($connection, $peer);
            $connection->handle->destroy;
            $done = 1;
        });
        syswrite $peer, join '', map { frame(payload => $_) } 1 .. 3;
        run_until { $done } 'a message';
        settle();
        is $record, {messages => [1], parse_errors => [], finish => []}, "$what: no callback runs any more";
    }
};

subtest 'a handle that its own errors destroy in a callback is another matter (C19)' => sub {
    for my $through (0, 1) {
        my ($connection, $peer) = $through ? connection_through_handle() : connection_and_peer();
        my $record = record($connection);
        settle();
        $connection->on(each_message => sub { $_[0]->send('reply') });
        syswrite $peer, join '', map { frame(payload => $_) } 1 .. 3;
        close $peer;
        # The first of several that fail.
        $connection->send('x' x $BIG);
        run_until { @{ $record->{finish} } } 'finish';
        is scalar(@{ $record->{finish} }), 1, 'finish comes' . ($through ? ', through the handle' : '');
    }
};

subtest 'a handle that another connection has taken (C20)' => sub {
    my ($connection, $peer) = connection_and_peer(idle_timeout => 0.05, ping_interval => 0.02, ping_timeout => 0.05);
    my $other = AnyEvent::WebSocket::Connection->new(handle => $connection->handle);
    $other->on(each_message => sub { $_[0]->send('reply') });
    run_for(0.2);
    syswrite $peer, frame(payload => 'there?');
    my $answer = '';
    run_until { sysread $peer, $answer, 100, length $answer; length $answer } 'the answer';
    is $answer, frame(payload => 'reply'), 'is not closed, or sent Pings, by the first';
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

subtest 'the descriptor of a derived handle closed, then dropped or sent to (C20)' => sub {
    for my $case (['drop', 0], ['send', 0], ['close', 0], ['drop', 1], ['send', 1], ['close', 1]) {
        my ($then, $unsent) = @$case;
        my ($connection, $peer) = connection_through_handle();
        settle();
        $connection->send('x' x $BIG) if $unsent;
        $connection->handle->stop_read;
        close $connection->handle->fh;
        my $weak   = weak($connection);
        my $record = record($connection);
        ok lives {
            if   ($then eq 'drop') { undef $connection }
            else                   { $connection->$then }
        }, "$then: no exception";
        next if $then eq 'drop';
        run_until { @{ $record->{finish} } } 'finish';
        is $record->{finish}, [do { local $! = EBADF; "$!" }], "$then: finish";
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

done_testing;
