# No descriptors left: who has a connection keeps it, who wants one is told or waits, and when there are descriptors
# again all is as before.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use File::Temp qw(tempdir);
use IO::Socket::INET;
use Limited   qw(start_limited why_no_limit);
use Opening   qw(request);
use Peer      qw(frame close_frame parse_frames run_until run_for settle);
use RawServer qw(raw_server response);
use Test2::V0;
use Errno;

my $LIMIT  = 40;
my $EMFILE = do { local $! = Errno::EMFILE; "$!" };
my $REASON = why_no_limit("-n $LIMIT");
skip_all $REASON if $REASON;

# What programs here have in common: orders come as lines on a socket, and what they say goes back there.
my $COMMON = <<'END';
    $| = 1;
    my $control = AnyEvent::Handle->new(fh => program_socket(), on_eof => sub { exit }, on_error => sub { exit });
    sub answer { $control->push_write("@_\n") }
    my (%order, @hoard);
    $order{hoard} = sub {
        while (open my $fh, '<', '/dev/null') { push @hoard, $fh }
        answer("hoard: $!");
    };
    $order{free} = sub { my ($count) = @_; splice @hoard, 0, $count; answer("free") };
    my $wait = sub {
        $control->on_read(sub {
            $_[0]->push_read(line => sub { my ($name, @more) = split / /, $_[1]; $order{$name}->(@more) });
        });
        AE::cv->recv;
    };
END

# The other end of that.
sub start_ordered {
    my ($code, %environment) = @_;
    my ($control, $wait) = start_limited("-n $LIMIT", "$COMMON\n$code\n\$wait->();\n", %environment);
    my ($bytes, $pending) = ('', '');
    my $answer = sub {
        my $line;
        run_until { sysread $control, $bytes, 1000, length $bytes; ($line) = $bytes =~ s/\A(.*)\n// ? $1 : () } 'an answer';
        return $line;
    };
    my $order = sub { syswrite $control, "@_\n"; return $answer->() };
    my $end = sub { close $control; return $wait->() };
    return ($order, $answer, $end);
}

# A client that says what it has to say when it is connected, accepted or not.
sub client_of {
    my ($port, $request) = @_;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "connect: $!";
    AnyEvent::fh_unblock($socket);
    syswrite $socket, $request // request();
    return {socket => $socket, bytes => '', frames => []};
}

sub look {
    my ($client) = @_;
    my $got = sysread $client->{socket}, $client->{bytes}, 65_536, length $client->{bytes};
    $client->{eof} ||= defined $got && !$got;
    $client->{accepted} ||= $client->{bytes} =~ s/\A(HTTP.*?\r\n\r\n)//s ? $1 : undef;
    push @{ $client->{frames} }, map { $_->{payload} } parse_frames($client->{bytes}) if $client->{accepted};
    return;
}

# Those that have been answered by the time that nothing happens any more.
sub accepted_of {
    my (@clients) = @_;
    my ($count, $quiet) = (0, 0);
    run_until {
        look($_) for @clients;
        my $now = grep { $_->{accepted} } @clients;
        $quiet = $now == $count ? $quiet + 1 : 0;
        $count = $now;
        $quiet >= 40 || $now == @clients;
    } 'answers';
    return grep { $_->{accepted} } @clients;
}

# Each has its own back.
sub all_echo {
    my ($name, @clients) = @_;
    my $context = context();
    for my $i (0 .. $#clients) {
        @{ $clients[$i]{frames} } = ();
        syswrite $clients[$i]{socket}, frame(payload => "$name $i", mask => 'mask');
    }
    run_until { look($_) for @clients; !grep { !@{ $_->{frames} } } @clients } 'the echoes';
    is [map { $_->{frames} } @clients], [map { ["$name $_"] } 0 .. $#clients], "$name: each has its echo";
    $context->release;
    return;
}

my $SERVER = <<'END';
    use AnyEvent::Socket;
    use AnyEvent::WebSocket::Server;
    my %connection;
    my $refuse;
    my $server = AnyEvent::WebSocket::Server->new(handshake => sub {
        return $refuse ? "HTTP/1.1 403 Forbidden\r\n\r\n" . 'n' x (8 << 20) : $_[1];
    });
    $order{refuse} = sub { $refuse = 1; answer('refuse') };
    my $listener = tcp_server '127.0.0.1', 0, sub {
        my ($fh) = @_;
        $server->establish($fh)->cb(sub {
            my $connection = eval { $_[0]->recv };
            return answer('error:', $@ =~ s/ at .*//sr) unless $connection;
            $connection{$connection} = $connection;
            $connection->on(each_message => sub { $_[0]->send($_[1]) });
            $connection->on(finish => sub { delete $connection{$_[0]}; answer('finished') });
        });
    }, sub { answer("port $_[2]"); 0 };
END

subtest 'a server on tcp_server' => sub {
    my ($order, $answer, $end) = start_ordered($SERVER);
    my ($port)   = $answer->() =~ /^port (\d+)$/;
    my @clients  = map { client_of($port) } 1 .. 60;
    my @accepted = accepted_of(@clients);
    my @waiting  = grep { !$_->{accepted} } @clients;
    cmp_ok scalar @accepted, '>', 20, 'as many are accepted as there are descriptors';
    cmp_ok scalar @accepted, '<', $LIMIT, 'which are not enough for all';
    note scalar(@accepted), " accepted, ", scalar(@waiting), " waiting, with $LIMIT descriptors";
    is [grep { $_->{eof} || length $_->{bytes} } @waiting], [], 'the others wait';
    all_echo('who is accepted', @accepted);
    all_echo('again', @accepted);

    my @leaving = splice @accepted, 0, 7;
    syswrite $_->{socket}, close_frame(1000, '', mask => 'mask') for @leaving;
    run_until { look($_) for @leaving; !grep { !$_->{eof} } @leaving } 'the ends of those who leave';
    is [map { $_->{frames}[-1] } @leaving], [(pack 'n', 1000) x 7], 'who leaves has Close';
    close $_->{socket} for @leaving;
    is [map { $answer->() } @leaving], [('finished') x 7], 'and is finished';
    my @next = accepted_of(@waiting);
    is scalar @next, 7, 'as many of the others have their places';
    all_echo('all together', @accepted, @next);

    # One who was accepted, and resets, makes place, too.
    my $gone = shift @accepted;
    setsockopt $gone->{socket}, Socket::SOL_SOCKET(), Socket::SO_LINGER(), pack 'ii', 1, 0;
    close $gone->{socket};
    is $answer->(), 'finished', 'one is reset';
    @waiting = grep { !$_->{accepted} } @waiting;
    my @one = accepted_of(@waiting);
    is scalar @one, 1, 'one takes its place';
    all_echo('in the end', @accepted, @next, @one);
    close $_->{socket} for @clients;
    my ($status, $printed) = $end->();
    is [$status, $printed], [0, ''], 'no warnings, and an orderly end';
};

subtest 'a response that refuses needs a descriptor of its own where it is long' => sub {
    my ($order, $answer, $end) = start_ordered($SERVER);
    my ($port) = $answer->() =~ /^port (\d+)$/;
    my ($echo) = accepted_of(client_of($port));
    is $order->('refuse'), 'refuse', 'the program refuses from now on';
    is $order->('hoard'), "hoard: $EMFILE", 'there are no descriptors left';
    is $order->('free 1'), 'free', 'but one';
    my $refused = client_of($port);
    is $answer->(), 'error: handshake error: the response has status 403, not 101, and not all of it could be sent: '
        . $EMFILE, 'the program is told';
    all_echo('another', $echo);
    close $_->{socket} for $refused, $echo;
    is $answer->(), 'finished', 'which goes on to its end';
    my ($status, $printed) = $end->();
    is [$status, $printed], [0, ''], 'no warnings, and an orderly end';
};

my $CLIENT = <<'END';
    use AnyEvent::WebSocket::Client;
    my (%connection, $count);
    $order{connect} = sub {
        my ($uri, @more) = @_;
        AnyEvent::WebSocket::Client->new->connect($uri, @more)->cb(sub {
            my $connection = eval { $_[0]->recv };
            return answer('error:', $@ =~ s/ at \S+ line .*//sr) unless $connection;
            $connection{++$count} = $connection;
            $connection->on(each_message => sub { $_[0]->send($_[1]) });
            $connection->on(finish => sub { answer('finished') });
            answer("connected");
        });
    };
END

subtest 'a client' => sub {
    my $path   = tempdir(CLEANUP => 1) . '/socket';
    my $plain  = raw_server();
    my $unix   = raw_server(path => $path);
    my ($order, $answer, $end) = start_ordered($CLIENT);
    is $order->("connect $plain->{uri}"), 'connected', 'one is connected';
    my $echoes = sub {
        my ($peer) = @_;
        @{ $peer->{frames} } = ();
        $peer->{handle}->push_write(frame(payload => 'echo'));
        run_until { @{ $peer->{frames} } } 'the echo';
        is $peer->{frames}[0]{payload}, 'echo', 'a connection that is there goes on';
    };
    # What is loaded when it is first needed has to be there by then.
    for my $where (["ws://localhost:$plain->{port}/"], [$unix->{uri}, 'unix/', $path]) {
        is $order->("connect @$where"), 'connected', "@$where";
    }
    is $order->('hoard'), "hoard: $EMFILE", 'there are no descriptors left';
    my $peers = @{ $plain->{peers} };
    for my $where ([$plain->{uri}], ["ws://localhost:$plain->{port}/"], [$unix->{uri}, 'unix/', $path]) {
        is $order->("connect @$where"), "error: unable to connect: $EMFILE", "@$where";
        $echoes->($_) for $plain->{peers}[0], $unix->{peers}[0];
    }
    is scalar @{ $plain->{peers} }, $peers, 'nobody has come to the server meanwhile';
    is $order->('free 1'), 'free', 'one is free again';
    is $order->("connect $plain->{uri}"), 'connected', 'there is a connection again';
    $echoes->($_) for @{ $plain->{peers} }, @{ $unix->{peers} };
    is $order->("connect $plain->{uri}"), "error: unable to connect: $EMFILE", 'but no further one';
    my ($status, $printed) = $end->();
    is [$status, $printed], [0, ''], 'no warnings, and an orderly end';
};

done_testing;
