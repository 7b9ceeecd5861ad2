# What of a Client depends on the event loop. t/client-backends.t runs it once for each of them. Prints the loop's
# name, a line for each topic, and "done".

use strict;
use warnings;

use AnyEvent;
use AnyEvent::WebSocket::Client;
use File::Temp qw(tempdir);
use Peer qw(frame run_until history finished);
use RawServer qw(raw_server response connection_of error_of peer_of closed_port);
use Scalar::Util qw(weaken);
use Topics;

my $CLIENT = 'AnyEvent::WebSocket::Client';

sub fails {
    my ($text, $attributes, @where) = @_;
    my $client = $CLIENT->new($attributes);
    my $done   = $client->connect(@where);
    my $error = error_of($done);
    die "error: $error\n" if $error !~ /\A$text/;
    weaken($_) for $client, $done;
    run_until { !$client && !$done } 'client and condition variable to go';
    return;
}

topic 'messages and close' => sub {
    my $server     = raw_server();
    my $client     = $CLIENT->new;
    my $done       = $client->connect($server->{uri});
    my $connection = connection_of($done);
    my $history    = history($connection);
    my $peer       = peer_of($server);
    weaken($_) for $client, $done;
    run_until { !$client && !$done } 'client and condition variable to go';
    $connection->send($_) for 1 .. 3;
    run_until { @{ $peer->{frames} } == 3 } 'messages';
    $peer->{handle}->push_write(frame(payload => 'back') . frame(opcode => 8, payload => pack 'n', 1000));
    run_until { @{ $peer->{frames} } == 4 } 'Close';
    $peer->{handle}->destroy;
    run_until { finished($history) } 'finish';
    same([map { $_->{payload} } @{ $peer->{frames} }], [1 .. 3, pack 'n', 1000], 'at the server');
    same([$history->[0], $history->[1][1]], ['back', undef], 'at the client');
};

topic 'frames that come with the answer' => sub {
    my $server = raw_server(answer => sub {
        $_[0]{handle}->push_write(response($_[0]) . join '', map { frame(payload => $_) } 1 .. 3);
        $_[0]{handle}->push_shutdown;
        return;
    });
    my $connection = connection_of($CLIENT->new->connect($server->{uri}));
    my $history    = history($connection);
    run_until { finished($history) } 'finish';
    same([@$history[0 .. 2]], [1 .. 3], 'messages');
};

topic 'in a callback' => sub {
    my $server = raw_server(answer => sub { response($_[0]) . frame(payload => 'first') });
    my ($history, $connection);
    $CLIENT->new->connect($server->{uri})->cb(sub {
        $connection = $_[0]->recv;
        $history    = history($connection);
    });
    run_until { $history && @$history } 'the message';
    same($history, ['first'], 'messages');
};

topic 'a UNIX socket' => sub {
    my $path   = tempdir(CLEANUP => 1) . '/socket';
    my $server = raw_server(path => $path);
    same([connection_of($CLIENT->new->connect('ws://x/', 'unix/', $path))->role], ['client'], 'role');
};

topic 'a redirect' => sub {
    my $server   = raw_server();
    my $redirect = raw_server(answer => sub { "HTTP/1.1 302 x\r\nLocation: $server->{uri}\r\n\r\n" });
    same([connection_of($CLIENT->new(max_redirects => 1)->connect($redirect->{uri}))->role], ['client'], 'role');
    fails('handshake error: Wrong response line', {}, $redirect->{uri});
};

topic 'nobody listens' => sub {
    fails('unable to connect', {}, 'ws://127.0.0.1:' . closed_port() . '/');
};

topic 'the server closes' => sub {
    my $server = raw_server(answer => sub { $_[0]{handle}->push_shutdown; undef });
    fails('connect error: Unexpected end-of-file', {}, $server->{uri});
};

topic 'the server says nothing' => sub {
    my $server = raw_server(answer => sub { undef });
    fails('handshake error: timeout', { timeout => 0.5 }, $server->{uri});
};

topic 'descriptors are given back' => sub {
    my $count = sub { opendir my $fds, '/proc/self/fd' or return 0; my @fds = readdir $fds; scalar @fds };
    my $once  = sub {
        my $server     = raw_server();
        my $connection = connection_of($CLIENT->new->connect($server->{uri}));
        my $handle     = $connection->handle;
        peer_of($server)->{handle}->destroy;
        my $history = history($connection);
        run_until { finished($history) } 'finish';
        $handle->destroy;
        fails('unable to connect', {}, 'ws://127.0.0.1:' . closed_port());
    };
    $once->();
    my $before = $count->();
    $once->() for 1 .. 5;
    my $after = $count->();
    die "$before open descriptors before, $after after\n" if $after >= $before + 5;
};

topic 'many at once' => sub {
    my $server = raw_server();
    my $client = $CLIENT->new;
    my @done   = map { $client->connect("$server->{uri}$_") } 1 .. 30;
    my @connections = map { connection_of($_) } @done;
    same([sort map { $_->{request} =~ m{GET /(\d+)} } @{ $server->{peers} }], [sort 1 .. 30], 'requests');
};

topic 'TLS' => sub {
    eval { require Net::SSLeay; require AnyEvent::TLS; require Certificate; 1 }
        or skip_topic('Net::SSLeay is not installed');
    my $certificate = Certificate::issue(Certificate::authority('tests'), ['DNS:localhost']);
    my $server = raw_server(tls => AnyEvent::TLS->new(cert => $certificate), answer => sub {
        $_[0]{handle}->push_write(response($_[0]) . frame(payload => 'tls'));
        $_[0]{handle}->push_shutdown;
        return;
    });
    my $connection = connection_of($CLIENT->new(ssl_no_verify => 1)->connect($server->{uri}));
    my $history    = history($connection);
    run_until { finished($history) } 'finish';
    same([$history->[0], $history->[1][1]], ['tls', undef], 'a message and the end');
    fails('connect error: .*certificate verify failed', {}, $server->{uri});
    return;
};

run_topics();
