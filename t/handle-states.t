# The states in which programs hand over an AnyEvent::Handle, and the kinds of it (C21).

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
