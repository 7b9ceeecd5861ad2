# Redirects, which a Client follows on request.

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;
use AnyEvent;
use AnyEvent::DNS;
use AnyEvent::WebSocket::Client;
use File::Temp qw(tempdir);
use Peer qw(frame run_until history);
use RawServer qw(raw_server response error_of open_descriptors settled_descriptors);
use Scalar::Util qw(weaken);

my $CLIENT = 'AnyEvent::WebSocket::Client';

# Every name is this machine.
my $dns = mock 'AnyEvent::DNS' => (override => { a => sub ($$) { $_[1]->('127.0.0.1') },
    aaaa => sub ($$) { $_[1]->() } });

sub location { return "HTTP/1.1 $_[0] Elsewhere\r\nContent-Length: 4\r\nLocation: $_[1]\r\n\r\nhere" }

# A server that answers by the path: what is a code reference is called, other things are where a redirect leads.
my %path;
my $server = raw_server(answer => sub {
    my ($peer) = @_;
    my ($path) = $peer->{request} =~ m{\AGET (\S+)};
    my $what = $path{$path} // return response($peer);
    return ref $what ? $what->($peer) : location(302, $what);
});
my $PORT = $server->{port};
my $HERE = "ws://127.0.0.1:$PORT";

# The requests of one connect, as "Host path", and the connection or the error.
sub follow {
    my ($uri, @more) = @_;
    my @override  = ref $more[0] ? @{ shift @more } : ();
    my $from      = @{ $server->{peers} };
    my ($connection, $error) = RawServer::outcome($CLIENT->new(max_redirects => 5, @more)->connect($uri, @override));
    my @peers = @{ $server->{peers} }[$from .. $#{ $server->{peers} }];
    my @requests = map { join ' ', $_->{field}{host}, $_->{request} =~ m{\AGET (\S+)} } @peers;
    if ($error) {
        run_until { !grep { !$_->{end} } @peers } 'the sockets to end';
    }
    return ($error // 'a connection', \@requests, \@peers, $connection);
}

subtest 'each status that is a redirect' => sub {
    for my $status (301, 302, 303, 307, 308) {
        %path = ('/' => sub { location($status, '/there') });
        my ($outcome, $requests, $peers) = follow("$HERE/");
        is $outcome, 'a connection', $status;
        is $requests, ["127.0.0.1:$PORT /", "127.0.0.1:$PORT /there"], "$status: with a request of its own";
        run_until { $peers->[0]{end} } 'the first socket to end';
        isnt $peers->[0]{field}{'sec-websocket-key'}, $peers->[1]{field}{'sec-websocket-key'},
            "$status: and a key of its own";
    }
    for my $status (300, 304, 305, 306, 200, 404) {
        %path = ('/' => sub { location($status, '/there') });
        like [follow("$HERE/")]->[0], qr/^handshake error: Wrong response line.*HTTP\/1\.1 $status Elsewhere/,
            "$status is none";
    }
};

subtest 'where they lead' => sub {
    for my $case (
        # Location, Host and path
        ['/there',                        "127.0.0.1:$PORT /there"],
        ['there?x=/y',                    "127.0.0.1:$PORT /a/there?x=/y"],
        ['../up',                         "127.0.0.1:$PORT /up"],
        ['?only=query',                   "127.0.0.1:$PORT /a/b?only=query"],
        ['/there#fragment',               "127.0.0.1:$PORT /there"],
        ["//localhost:$PORT/x",           "localhost:$PORT /x"],
        ["ws://localhost:$PORT/x",        "localhost:$PORT /x"],
        ["http://localhost:$PORT/x",      "localhost:$PORT /x"],
        ["HTTP://localhost:$PORT/x",      "localhost:$PORT /x"],
        ["http://user:pw\@localhost:$PORT", "localhost:$PORT /"],
        ["/\xFC\"<>",                     "127.0.0.1:$PORT /%FC%22%3C%3E"],
    ) {
        my ($location, $request) = @$case;
        %path = ('/a/b' => $location);
        my ($outcome, $requests) = follow("$HERE/a/b");
        is $outcome, 'a connection', $location;
        is $requests->[1], $request, "$location: request";
    }
    %path = ('/' => '/1', '/1' => '/2', '/2' => '/3');
    my ($outcome, $requests, $peers, $connection) = follow("$HERE/");
    is [map { s/.* //r } @$requests], ['/', '/1', '/2', '/3'], 'from one to the next';
    my $history = history($connection);
    $peers->[-1]{handle}->push_write(frame(payload => 'arrived'));
    run_until { @$history } 'the message';
    is $history, ['arrived'], 'the connection is with the last';
};

subtest 'where they are not followed' => sub {
    my $not = 'is not followed: URI is not a websocket';
    for my $case (
        ['ftp://x/'            => "the redirect to ftp://x/ $not"],
        ['http:///x'           => "the redirect to http:///x $not: it has no host"],
        ['http://a b/'         => "the redirect to http://a b/ $not: its host is malformed"],
        ["http://h:99999/\xFF" => "the redirect to http://h:99999/\\xFF $not: port 99999 is too large"],
        ['javascript:alert(1)' => "the redirect to javascript:alert(1) $not"],
        [''                    => 'Wrong response line. Got [[HTTP/1.1 302 Elsewhere]], expected [[HTTP/1.1 101 ]]'],
        ["/a\r\nLocation: /b"  => 'Wrong response line. Got [[HTTP/1.1 302 Elsewhere]], expected [[HTTP/1.1 101 ]]'],
    ) {
        my ($location, $error) = @$case;
        %path = ('/' => $location);
        my ($outcome, $requests) = follow("$HERE/");
        is $outcome, "handshake error: $error", $location =~ s/[\r\n]+/ /r;
        is scalar @$requests, 1, 'there is no second request';
    }
    %path = ('/' => sub { "HTTP/1.1 302 x\r\n\r\n" });
    like [follow("$HERE/")]->[0], qr/^handshake error: Wrong response line.*302/, 'no Location';
    %path = ('/' => sub { "HTTP/1.1 302 x\r\nLocation: /\r\nX\r\n\r\n" });
    is [follow("$HERE/")]->[0], 'handshake error: Not a valid response: an invalid header name', 'a malformed head';
    %path = ('/' => sub { "HTTP/1.1 302 x\r\nLocation: /" . 'x' x 20_000 });
    like [follow("$HERE/")]->[0], qr/^handshake error: Message is too long/, 'a Location without an end';
    %path = ('/' => sub { location(101, '/there') });
    like [follow("$HERE/")]->[0], qr/^handshake error: Not a valid response: it has no Upgrade/, '101 is none';
    is error_of($CLIENT->new(max_redirects => 1)->connect("ws://127.0.0.1:$PORT/" . 'x' x 10_000)), 'a connection',
        'long URIs of the program are its own affair';
};

subtest 'at most max_redirects' => sub {
    %path = ('/' => '/1', '/1' => '/2', '/2' => '/3', '/loop' => '/loop');
    for my $most (0 .. 4) {
        my ($outcome, $requests) = follow("$HERE/", max_redirects => $most);
        is $outcome,
            $most == 0
                ? 'handshake error: Wrong response line. Got [[HTTP/1.1 302 Elsewhere]], expected [[HTTP/1.1 101 ]]'
            : $most < 3 ? "handshake error: too many redirects, max_redirects is $most"
            : 'a connection',
            "max_redirects is $most";
        is scalar @$requests, $most > 3 ? 4 : $most + 1, 'so many requests';
    }
    my ($outcome, $requests) = follow("$HERE/loop", max_redirects => 30);
    is $outcome, 'handshake error: too many redirects, max_redirects is 30', 'a loop comes to an end';
    is scalar @$requests, 31, 'by the limit';
};

my @SECRETS = (Authorization => 'Basic x', COOKIE => 'a=b', 'proxy-authorization' => 'y');
my @HEADERS = (@SECRETS, 'X-Other' => 'stays', 'Sec-WebSocket-Protocol' => 'p');

sub told {
    my ($peer) = @_;
    return join ' ', grep { defined $peer->{field}{$_} } qw(authorization cookie proxy-authorization x-other);
}

subtest 'secrets are for the server they were meant for' => sub {
    my $all = 'authorization cookie proxy-authorization x-other';
    my $other = raw_server(answer => sub {
        my ($peer) = @_;
        return $peer->{request} =~ m{GET /back} ? location(302, "$HERE/end") : response($peer);
    });
    my @attribute = (http_headers => \@HEADERS);
    %path = ('/' => '/there');
    my ($outcome, undef, $peers) = follow("$HERE/", @attribute);
    is [map { told($_) } @$peers], [$all, $all], 'they are told to the same host and port';
    %path = ('/' => "ws://localhost:$PORT/there");
    (undef, undef, $peers) = follow("$HERE/", @attribute);
    is [map { told($_) } @$peers], [$all, 'x-other'], 'not to another name';
    %path = ('/' => $other->{uri});
    (undef, undef, $peers) = follow("$HERE/", @attribute);
    is [map { told($_) } @$peers, $other->{peers}[-1]], [$all, 'x-other'], 'nor to another port';
    %path = ('/' => "$other->{uri}back");
    (undef, undef, $peers) = follow("$HERE/", @attribute);
    is [map { told($_) } @$peers], [$all, 'x-other'], 'nor again where somebody else leads back';
    is \@HEADERS, [@SECRETS, 'X-Other' => 'stays', 'Sec-WebSocket-Protocol' => 'p'],
        'the program\'s list is left as it was';

    my $target = sub { my ($target) = AnyEvent::WebSocket::Client::Target->new($_[0]); return $target };
    for my $case (
        ['ws://h/',      'wss://h/',      1, 'TLS added, at the usual ports'],
        ['ws://h:80/',   'wss://H:443/x', 1, 'also where they are named'],
        ['ws://h:81/',   'wss://h/',      0, 'but not from another port'],
        ['ws://h/',      'wss://h:444/',  0, 'nor to another port'],
        ['ws://h:81/',   'wss://h:81/',   1, 'at the same port, however'],
        ['wss://h/',     'ws://h:443/',   0, 'never without TLS'],
        ['wss://h/',     'wss://h.h/',    0, 'not to a name below'],
        ['wss://a.h/',   'wss://h/',      0, 'nor to one above'],
        ['wss://[::1]/', 'wss://[::1]/x', 1, 'addresses are names'],
    ) {
        my ($from, $to, $allowed, $name) = @$case;
        is !!$target->($to)->may_know_secrets_of($target->($from)), !!$allowed, "$from to $to: $name";
    }
};

subtest 'a Host of the program goes no further than its server' => sub {
    my @attribute = (http_headers => { Host => 'virtual' });
    %path = ('/' => '/there');
    my (undef, $requests) = follow("$HERE/", @attribute);
    is $requests, ['virtual /', 'virtual /there'], 'it is told again where that leads';
    %path = ('/' => "ws://localhost:$PORT/there");
    (undef, $requests) = follow("$HERE/", @attribute);
    is $requests, ['virtual /', "localhost:$PORT /there"], 'but not to another';
};

subtest 'host and port given to connect are for the URI\'s own' => sub {
    my $path = tempdir(CLEANUP => 1) . '/socket';
    my $unix = raw_server(path => $path, answer => sub {
        my ($peer) = @_;
        my ($resource) = $peer->{request} =~ m{GET (\S+)};
        return $resource eq '/' ? location(302, 'http://name.test:81/next')
            : $resource eq '/away' ? location(302, "http://other.test:$PORT/there")
            : response($peer);
    });
    is error_of($CLIENT->new(max_redirects => 1)->connect('ws://name.test:81/', 'unix/', $path)), 'a connection',
        'a redirect to the same host and port comes to the same socket';
    is [map { $_->{field}{host} } @{ $unix->{peers} }], ['name.test:81', 'name.test:81'], 'with that name';
    %path = ();
    my ($outcome, $requests) = follow('ws://name.test:81/away', ['unix/', $path]);
    is [$outcome, $requests], ['a connection', ["other.test:$PORT /there"]], 'one to another goes there';
};

subtest 'from wss to ws' => sub {
    my ($from) = AnyEvent::WebSocket::Client::Target->new('wss://h/');
    for my $location ('http://h/', 'ws://h/', 'ws://h:443/', 'http://other/') {
        is [$from->redirect($location)], [undef, 'it leads from wss to ws'], "$location: is not followed";
    }
    for my $location ('https://h/x', 'wss://h/x', '/x', '//h/x') {
        my ($target) = $from->redirect($location);
        is [@$target{qw(scheme resource)}], ['wss', '/x'], "$location: stays with TLS";
    }
    my ($plain) = AnyEvent::WebSocket::Client::Target->new('ws://h/');
    is [map { $_->redirect('https://h/') } $plain]->[0]{scheme}, 'wss', 'from ws to wss is followed';
};

subtest 'on the way nothing is left behind' => sub {
    %path = ('/' => '/1', '/1' => '/2', '/2' => 'ftp://x/');
    my $forget = sub { @{ $server->{peers} } = () };
    follow("$HERE/");
    $forget->();
    my $descriptors = settled_descriptors();
    my $client = $CLIENT->new(max_redirects => 5);
    my $done   = $client->connect("$HERE/");
    like error_of($done), qr/is not followed/, 'an error at the end';
    weaken($_) for $client, $done;
    run_until { !$client && !$done } 'client and condition variable to go';
    is [$client, $done], [undef, undef], 'client and condition variable go';
    run_until { @{ $server->{peers} } == 3 && !grep { !$_->{end} } @{ $server->{peers} } } 'the sockets to end';
    $forget->();
    run_until { open_descriptors() <= $descriptors } 'the descriptors to close';
    is open_descriptors(), $descriptors, 'no descriptor is left';

    # Each request has its time, and the program may have gone.
    %path = ('/' => '/silence', '/silence' => sub { undef });
    is [follow("$HERE/", timeout => 0.3)]->[0],
        'handshake error: timeout, the server has not answered within 0.3 seconds',
        'a timeout after a redirect';
    $client = $CLIENT->new(max_redirects => 5, timeout => 0.3);
    $client->connect("$HERE/");
    weaken($client);
    run_until { !$client } 'the end of the attempt';
    pass 'the attempt ends where nobody waits for it';
};

done_testing;
