# Clients that go through a proxy (env_proxy).

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;

BEGIN {
    if (!eval { require AnyEvent::Connector; 1 }) {
        diag 'proxies are not tested without AnyEvent::Connector';
        plan skip_all => 'AnyEvent::Connector is needed';
    }
    delete $ENV{$_} for map { ($_, uc) } qw(ws_proxy wss_proxy http_proxy https_proxy no_proxy);
}

use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::Socket qw(tcp_connect);
use AnyEvent::WebSocket::Client;
use File::Temp ();
use Peer qw(frame run_until settle history);
use RawServer qw(raw_server response connection_of error_of peer_of open_descriptors settled_descriptors closed_port);
use Scalar::Util qw(weaken);

my $CLIENT = 'AnyEvent::WebSocket::Client';

# A proxy that relays to this machine, whatever it is asked for; or answers with a text or what a code reference does
# with its handle.
sub proxy {
    my ($answer) = @_;
    my $proxy = { requests => [], handles => [] };
    weaken(my $weak = $proxy);
    my $server = raw_server(accept => sub {
        my ($fh) = @_;
        my $client = AnyEvent::Handle->new(fh => $fh, linger => 0, on_error => sub { $_[0]->destroy });
        push @{ $weak->{handles} }, $client;
        $client->on_read(sub {
            my ($client) = @_;
            return unless $client->{rbuf} =~ s/\A(.*?\r\n\r\n)//s;
            push @{ $weak->{requests} }, $1;
            $client->on_read(sub { $_[0]{rbuf} = '' });
            return ref $answer ? $answer->($client) : $client->push_write($answer) if defined $answer;
            my ($port) = $1 =~ /\ACONNECT \S*:(\d+) /;
            tcp_connect '127.0.0.1', $port, sub {
                my ($fh) = @_ or return $client->push_write("HTTP/1.1 502 Bad Gateway\r\n\r\n");
                my $target = AnyEvent::Handle->new(fh => $fh, linger => 0,
                    on_error => sub { $client->push_shutdown });
                push @{ $weak->{handles} }, $target;
                $client->push_write("HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n");
                $client->on_read(sub { $target->push_write(delete $_[0]{rbuf}); $_[0]{rbuf} = '' });
                $target->on_read(sub { $client->push_write(delete $_[0]{rbuf}); $_[0]{rbuf} = '' });
            };
        });
    });
    @$proxy{qw(server uri)} = ($server, "http://127.0.0.1:$server->{port}/");
    return $proxy;
}

my $server = raw_server();
my $PORT   = $server->{port};

subtest 'which proxy' => sub {
    my @proxies = (proxy(), proxy());
    my ($first, $second) = map { $_->{uri} } @proxies;
    for my $case (
        # environment, how often each is asked
        [{},                                                      0, 0, 'none'],
        [{ ws_proxy  => $first },                                 1, 0, 'ws_proxy'],
        [{ WS_PROXY  => $first },                                 1, 0, 'WS_PROXY'],
        [{ http_proxy => $second },                               0, 1, 'http_proxy'],
        [{ HTTP_PROXY => $second },                               0, 1, 'HTTP_PROXY'],
        [{ ws_proxy => $first, http_proxy => $second },           1, 0, 'ws_proxy before http_proxy'],
        [{ ws_proxy => '', http_proxy => $second },               0, 1, 'but not where it is empty'],
        [{ wss_proxy => $first, https_proxy => $second },         0, 0, 'those for wss do not count'],
        [{ ws_proxy => $first, no_proxy => 'x.test,127.0.0.1' },  0, 0, 'no_proxy'],
        [{ ws_proxy => $first, no_proxy => 'x.test' },            1, 0, 'no_proxy for another'],
    ) {
        my ($environment, @expected) = @$case;
        my $name = pop @expected;
        local @ENV{ keys %$environment } = values %$environment;
        my @before = map { scalar @{ $_->{requests} } } @proxies;
        is error_of($CLIENT->new(env_proxy => 1)->connect($server->{uri})), 'a connection', $name;
        is [map { @{ $proxies[$_]{requests} } - $before[$_] } 0, 1], \@expected, "$name: who was asked";
        connection_of($CLIENT->new->connect($server->{uri}));
        is [map { @{ $proxies[$_]{requests} } - $before[$_] } 0, 1], \@expected, "$name: nobody without env_proxy";
    }
};

subtest 'what the proxy is asked for, and what goes through it' => sub {
    my $proxy = proxy();
    local $ENV{ws_proxy} = $proxy->{uri};
    my $client = $CLIENT->new(env_proxy => 1);
    my $connection = connection_of($client->connect("ws://name.invalid:$PORT/path"));
    my $history = history($connection);
    is $proxy->{requests}[-1], "CONNECT name.invalid:$PORT HTTP/1.1\r\nHost: name.invalid:$PORT\r\n\r\n", 'by name';
    my $peer = peer_of($server);
    is $peer->{field}{host}, "name.invalid:$PORT", 'the server is told its name';
    like $peer->{request}, qr{\AGET /path }, 'and the path';
    $connection->send('there');
    $peer->{handle}->push_write(frame(payload => 'back'));
    run_until { @$history && @{ $peer->{frames} } } 'messages';
    is [$peer->{frames}[0]{payload}, @$history], ['there', 'back'], 'messages go both ways';

    connection_of($client->connect("ws://[2001:db8::1]:$PORT/"));
    like $proxy->{requests}[-1], qr/\ACONNECT \[2001:db8::1\]:$PORT HTTP/, 'an IPv6 address in brackets';
    connection_of($client->connect("ws://name.invalid/", 'other.invalid', "http=$PORT"));
    like $proxy->{requests}[-1], qr/\ACONNECT other\.invalid:$PORT HTTP/, 'host and port that were given to connect';
    my $count = @{ $proxy->{requests} };
    like error_of($client->connect('ws://name.invalid/', "x:1\r\nEvil: yes", $PORT)), qr/is not the name of a host/,
        'a host that would be more than a name is refused';
    is scalar @{ $proxy->{requests} }, $count, 'and not asked for';
};

subtest 'wss through a proxy' => sub {
    if (!eval { require Net::SSLeay; require AnyEvent::TLS; require Certificate; 1 }) {
        diag 'wss through a proxy is not tested: Net::SSLeay is not installed';
        skip_all 'Net::SSLeay is needed';
    }
    my $authority = Certificate::authority('tests');
    my $tls   = raw_server(tls => AnyEvent::TLS->new(cert => Certificate::issue($authority, ['DNS:name.invalid'])));
    my $proxy = proxy();
    my $file  = File::Temp->new;
    print {$file} Certificate::pem_of($authority);
    close $file;
    for my $variable (qw(wss_proxy https_proxy)) {
        local $ENV{$variable} = $proxy->{uri};
        my $client     = $CLIENT->new(env_proxy => 1, ssl_ca_file => "$file");
        my $connection = connection_of($client->connect("wss://name.invalid:$tls->{port}/"));
        is $connection->role, 'client', "$variable: the server is verified by its name";
        like $proxy->{requests}[-1], qr/\ACONNECT name\.invalid:$tls->{port} /,
            "$variable: which the proxy was asked for";
        like error_of($client->connect("wss://wrong.invalid:$tls->{port}/")),
            qr/^connect error: .*verify failed/, "$variable: another is not trusted";
    }
};

subtest 'what goes wrong' => sub {
    my $prefix = qr/^unable to connect: proxy 127\.0\.0\.1:\d+: /;
    my %ways = (
        'refused'          => ["HTTP/1.1 403 Forbidden\r\n\r\n", qr/it answered HTTP\/1\.1 403 Forbidden$/],
        'authentication'   => ["HTTP/1.1 407 Who?\r\n", qr/it answered HTTP\/1\.1 407 Who\?$/],
        'a redirect'       => ["HTTP/1.1 302 x\r\nLocation: http://x/\r\n\r\n", qr/it answered HTTP\/1\.1 302 x$/],
        'an upgrade'       => ["HTTP/1.1 101 x\r\n\r\n", qr/it answered HTTP\/1\.1 101 x$/],
        'no HTTP'          => ["220 mail\e\r\n", qr/Wrong response line\. Got \[\[220 mail\\x1B\]\], expected/],
        'too large'        => ["HTTP/1.1 200 x\r\nX: " . 'y' x 20_000, qr/Message is too long/],
        'a line without end' => ["HTTP/1.1 200 " . 'y' x 20_000, qr/Message is too long/],
        'malformed'        => ["HTTP/1.1 200 x\r\nX\r\n\r\n", qr/Not a valid response: an invalid header name$/],
        'more than that'   => ["HTTP/1.1 200 x\r\n\r\nHTTP/1.1 101 x\r\n",
            qr/it says more than that it has connected$/],
        'EOF'              => [sub { $_[0]->push_shutdown }, qr/Unexpected end-of-file$/],
        'EOF in the head'  => [sub { $_[0]->push_write("HTTP/1.1 200 x\r\n"); $_[0]->push_shutdown },
            qr/Unexpected end-of-file$/],
        'no answer'        => [sub { }, qr/no answer within 0\.3 seconds$/],
        'half an answer'   => [sub { $_[0]->push_write("HTTP/1.1 200 x\r\n") }, qr/no answer within 0\.3 seconds$/],
    );
    my @elsewhere;
    no warnings 'once';
    local $EV::DIED      = sub { push @elsewhere, $@ };
    local $SIG{__WARN__} = sub { push @elsewhere, @_ };
    for my $name (sort keys %ways) {
        my ($answer, $error) = @{ $ways{$name} };
        my $proxy = proxy($answer);
        local $ENV{ws_proxy} = $proxy->{uri};
        my $descriptors = settled_descriptors();
        my $client = $CLIENT->new(env_proxy => 1, timeout => $name =~ /answer/ ? 0.3 : 10);
        my $done   = $client->connect($server->{uri});
        like error_of($done), qr/$prefix$error/, $name;
        weaken($_) for $client, $done;
        run_until { !$client && !$done } 'client and condition variable to go';
        is [$client, $done], [undef, undef], "$name: client and condition variable go";
        settle();
        @{ $proxy->{handles} } = ();
        run_until { open_descriptors() <= $descriptors } 'the descriptors to close';
        is open_descriptors(), $descriptors, "$name: no descriptor is left";
        is \@elsewhere, [], "$name: nobody else is told";
    }
    local $ENV{ws_proxy} = 'http://127.0.0.1:' . closed_port();
    like error_of($CLIENT->new(env_proxy => 1)->connect($server->{uri})), qr/${prefix}Connection refused$/,
        'nobody is there';
    $ENV{ws_proxy} = 'socks://127.0.0.1:1/';
    like error_of($CLIENT->new(env_proxy => 1)->connect($server->{uri})),
        qr/^unable to connect: Only http proxy is supported: socks/,
        'a proxy of another kind';
    $ENV{ws_proxy} = 'http:proxy';
    is error_of($CLIENT->new(env_proxy => 1)->connect($server->{uri})),
        'unable to connect: the proxy http:proxy has no host',
        'a proxy without a host';
    my $gone = proxy();
    $ENV{ws_proxy} = $gone->{uri};
    like error_of($CLIENT->new(env_proxy => 1)->connect('ws://x.invalid:' . closed_port() . '/')),
        qr/${prefix}it answered HTTP\/1\.1 502 Bad Gateway$/, 'a server that does not listen';
};

subtest 'a connection through a proxy leaves nothing' => sub {
    my $proxy = proxy();
    local $ENV{ws_proxy} = $proxy->{uri};
    my $descriptors = settled_descriptors();
    my $client = $CLIENT->new(env_proxy => 1);
    my $done   = $client->connect($server->{uri});
    my $connection = connection_of($done);
    weaken($_) for $client, $done;
    run_until { !$client && !$done } 'client and condition variable to go';
    is [$client, $done], [undef, undef], 'client and condition variable go, though the connection stays';
    weaken(my $handle = $connection->handle);
    $handle->destroy;
    undef $connection;
    @{ $proxy->{handles} } = ();
    @{ $server->{peers} } = ();
    run_until { !$handle } 'the handle to go';
    run_until { open_descriptors() <= $descriptors } 'the descriptors to close';
    pass 'so do its descriptors';
};

subtest 'without AnyEvent::Connector' => sub {
    my $program = q{
        BEGIN { unshift @INC, sub { die "not here\n" if $_[1] eq 'AnyEvent/Connector.pm' } }
        use AnyEvent::WebSocket::Client;
        eval { AnyEvent::WebSocket::Client->new(env_proxy => 1)->connect('ws://127.0.0.1:1/')->recv };
        print $@;
    };
    open my $run, '-|', $^X, (map { "-I$_" } grep { !ref } @INC), '-e', $program or die "$^X: $!";
    like join('', <$run>), qr/^unable to connect: not here/, 'is an error of connect';
};

done_testing;
