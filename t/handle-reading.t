# Programs that take a hand in what the AnyEvent::Handle of a connection reads, or tells (C20).

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

done_testing;
