# AnyEvent::WebSocket::Server with requests that a PSGI server has read: environments made by hand, and Twiggy.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::Socket qw(tcp_connect);
use AnyEvent::WebSocket::Server;
use Ending qw(is_open);
use Opening qw(:all);
use Peer qw(frame read_frames read_until_eof run_until settle socket_pair history finished);
use Test2::V0;

my @MASK = (mask => 'psgi');

# The condition variable, the client's end and the server's; the environment has the latter where there is no other.
sub start_psgi {
    my ($options, $env, @fh) = @_;
    my ($ours, $theirs) = socket_pair();
    AnyEvent::fh_unblock($theirs);
    $env->{'psgix.io'} = $ours if !@fh && $env;
    my $condvar = AnyEvent::WebSocket::Server->new(%$options)
        ->establish_psgi($env, map { $_ eq 'given' ? $ours : $_ } @fh);
    return ($condvar, $theirs, $ours);
}

subtest 'an environment becomes a connection' => sub {
    for my $fh ([], ['given']) {
        my ($condvar, $client) = start_psgi({}, psgi_env(), @$fh);
        ok $condvar->ready, 'the condition variable is ready at once';
        my ($connection, @other) = $condvar->recv;
        isa_ok $connection, 'AnyEvent::WebSocket::Connection';
        is \@other, [], 'nothing comes with it';
        is $connection->role, 'server', 'role';
        my $response = read_response($client);
        like $response, qr{\AHTTP/1\.1 101 }, 'status';
        is response_field($response, 'Sec-WebSocket-Accept'), accept_for($KEY), 'Sec-WebSocket-Accept';
        $connection->on(each_message => sub { $_[0]->send($_[1]->body) });
        syswrite $client, frame(payload => 'hello', @MASK);
        is [map { $_->{payload} } read_frames($client, 1)], ['hello'], 'messages go both ways';
    }
};

subtest 'a socket that is given goes before psgix.io' => sub {
    my ($other) = socket_pair();
    my ($condvar, $client) = start_psgi({}, psgi_env('psgix.io' => $other), 'given');
    like read_response($client), qr/ 101 /, 'the response comes there';
};

subtest 'the program sees the request' => sub {
    my ($req, $res);
    my ($condvar) = start_psgi(
        {handshake => sub { ($req, $res) = @_; ($res, 'other') }, subprotocols => ['y']},
        psgi_env(
            HTTP_ORIGIN => 'https://page.example', HTTP_COOKIE => 'a=1', HTTP_USER_AGENT => 'test',
            HTTP_SEC_WEBSOCKET_PROTOCOL => 'x, y', HTTP_CONNECTION => 'keep-alive, Upgrade',
            HTTP_UPGRADE => 'WebSocket', HTTP_X_FORWARDED_FOR => '10.0.0.1',
        )
    );
    my ($connection, $other) = $condvar->recv;
    is $other, 'other', 'what it returns comes behind the connection';
    isa_ok $req, 'Protocol::WebSocket::Request';
    isa_ok $res, 'Protocol::WebSocket::Response';
    is $req->resource_name, '/script/path?query=1', 'resource_name';
    is $req->host, 'server.example', 'host';
    is $req->origin, 'https://page.example', 'origin';
    is $req->subprotocol, 'x, y', 'subprotocols';
    is $req->cookies->pairs, [['a', '1']], 'cookies';
    is [map { $req->field($_) } qw(User-Agent X-Forwarded-For Upgrade Sec-WebSocket-Version)],
        ['test', '10.0.0.1', 'WebSocket', '13'], 'fields, as on a socket';
    is $connection->subprotocol, 'y', 'a subprotocol is chosen';
    isa_ok $condvar, 'AnyEvent::CondVar';
};

subtest 'what Protocol::WebSocket would see otherwise' => sub {
    my $req;
    my ($condvar) = start_psgi(
        {handshake => sub { $req = $_[0]; $_[1] }},
        psgi_env(
            HTTP_ORIGIN => 'https://page.example', HTTP_SEC_WEBSOCKET_ORIGIN => 'https://other.example',
            HTTP_COOKIE => 'a="x  y"',
        )
    );
    $condvar->recv;
    is $req->origin, 'https://page.example', 'the origin is that of the field Origin';
    is $req->field('Sec-WebSocket-Origin'), 'https://other.example', 'though the program can see the other';
    is $req->field('Cookie'), 'a="x  y"', 'cookies are as they came';
};

subtest 'environments that are not complete' => sub {
    for my $leave_out (qw(REQUEST_METHOD SERVER_PROTOCOL SCRIPT_NAME PATH_INFO QUERY_STRING REQUEST_URI)) {
        my $connection;
        is warnings { ($connection) = (start_psgi({}, psgi_env($leave_out => undef)))[0]->recv }, [],
            "without $leave_out: no warnings";
        ok $connection, "without $leave_out: a connection";
    }
};

subtest 'errors' => sub {
    my $error = sub { my ($condvar) = @_; return raises(sub { $condvar->recv }) };
    my $server = AnyEvent::WebSocket::Server->new;
    like $error->($server->establish_psgi), qr/^psgi_env parameter is mandatory at /, 'no environment';
    like $error->($server->establish_psgi(undef, \*STDIN)), qr/^psgi_env parameter is mandatory at /, 'undef';
    for my $wrong ('string', [], \*STDIN, sub { }) {
        my ($socket) = socket_pair();
        my $number = fileno $socket;
        like $error->($server->establish_psgi($wrong, $socket)), qr/^psgi_env must be a hash reference at /, "$wrong";
        undef $socket;
        ok !is_open($number), 'with nothing left open';
        like $error->($server->establish_psgi($wrong)), qr/^psgi_env must be a hash reference at /,
            'or without a socket';
    }
    like $error->($server->establish_psgi(psgi_env())), qr/^No connection file handle provided.*psgix\.io/, 'no socket';
    like $error->($server->establish_psgi(psgi_env('psgix.io' => 'no handle'))),
        qr/^connection error: this is not an open file handle/, 'something else for a socket';

    my %refused = (
        'another method'  => [[REQUEST_METHOD => 'POST'], "the method is 'POST', not GET"],
        'HTTP/1.0'        => [[SERVER_PROTOCOL => 'HTTP/1.0'], "the protocol is 'HTTP/1.0', not HTTP/1.1"],
        'a plain request' => [[HTTP_UPGRADE => undef], 'this is not a WebSocket request'],
        'no Connection'   => [[HTTP_CONNECTION => undef], 'there is no Connection field'],
        'version 8'       => [[HTTP_SEC_WEBSOCKET_VERSION => 8],
            'unsupported WebSocket protocol version draft-ietf-hybi-10'],
        'no version'      => [[HTTP_SEC_WEBSOCKET_VERSION => undef], 'unsupported WebSocket protocol version'],
        'no key'          => [[HTTP_SEC_WEBSOCKET_KEY => undef], 'there is no Sec-WebSocket-Key'],
        'a bad key'       => [[HTTP_SEC_WEBSOCKET_KEY => 'x'], 'Sec-WebSocket-Key is not 16 bytes'],
        'no Host'         => [[HTTP_HOST => undef], 'there is no Host field'],
        'a body'          => [[CONTENT_LENGTH => 3], 'the request has a body'],
        'NUL at the end'  => [[HTTP_ORIGIN => "https://page.example\0"],
            "there is a control character in the header field 'origin'"],
        'a break in the subprotocol' =>
            [[HTTP_SEC_WEBSOCKET_PROTOCOL => "a\nX: y"],
            "there is a control character in the header field 'sec-websocket-protocol'"],
    );
    for my $name (sort keys %refused) {
        my ($change, $text) = @{ $refused{$name} };
        my ($condvar, $client, $socket);
        is warnings { ($condvar, $client, $socket) = start_psgi({}, psgi_env(@$change)) }, [], "$name: no warnings";
        like $error->($condvar), qr/^handshake error: \Q$text\E/, "$name: the error";
        syswrite $socket, 'an answer';
        is read_some($client, 9), 'an answer', "$name: the program can answer";
    }
    my ($condvar, $client, $socket) = start_psgi({handshake => sub { die "no entry\n" }}, psgi_env());
    like $error->($condvar), qr/^no entry\n/, 'the exception of the handshake code';
    ($condvar) = start_psgi({handshake => sub { }}, psgi_env());
    like $error->($condvar), qr/^handshake response was undef/, 'no response';
};

subtest 'a subprotocol from the decoded path cannot break the response' => sub {
    my ($condvar, $client, $socket) = start_psgi(
        {handshake => sub {
            my ($req, $res) = @_;
            $res->subprotocol($req->resource_name =~ m{([^/]+)\?}s);
            return $res;
        }},
        psgi_env(PATH_INFO => "/chat\r\nSet-Cookie: id=1"));
    like raises(sub { $condvar->recv }), qr/control character in Sec-WebSocket-Protocol of/, 'it is an error';
    syswrite $socket, 'an answer';
    is read_some($client, 9), 'an answer', 'and nothing was sent';
};

subtest 'what the PSGI server has read too far is not lost' => sub {
    my ($ours, $theirs) = socket_pair();
    AnyEvent::fh_unblock($_) for $ours, $theirs;
    syswrite $theirs, request() . frame(payload => 'first', @MASK) . frame(payload => 'm' x 20_000, @MASK);
    # By lines, as Twiggy does: the rest is in Perl's buffer.
    local $/ = "\n";
    1 while readline($ours) ne "\r\n";
    my ($connection) = AnyEvent::WebSocket::Server->new->establish_psgi(psgi_env('psgix.io' => $ours))->recv;
    my $history = history($connection);
    syswrite $theirs, frame(payload => 'last', @MASK);
    run_until { @$history == 3 } 'the messages';
    is [map { length } @$history], [5, 20_000, 4], 'frames are delivered, in order';
    shutdown $theirs, 1;
    run_until { finished($history) } 'finish';
    is $history->[-1], [finish => undef], 'and EOF is seen';

    ($ours, $theirs) = socket_pair();
    AnyEvent::fh_unblock($_) for $ours, $theirs;
    syswrite $theirs, request() . frame(payload => 'only', @MASK);
    shutdown $theirs, 1;
    1 while readline($ours) ne "\r\n";
    ($connection) = AnyEvent::WebSocket::Server->new->establish_psgi(psgi_env('psgix.io' => $ours))->recv;
    $history = history($connection);
    run_until { finished($history) } 'finish';
    is $history, ['only', [finish => undef]], 'also with EOF';
};

subtest 'more than a client can mean to send ahead of the response' => sub {
    # A file, since a socket may not take as much at once.
    my $read = sub {
        my ($size) = @_;
        open my $file, '+>', undef or die "temporary file: $!";
        print $file "\0" x $size;
        seek $file, 0, 0;
        return raises(sub {
            AnyEvent::WebSocket::Server->new(handshake => sub { die "read\n" })
                ->establish_psgi(psgi_env('psgix.io' => $file))->recv;
        });
    };
    my $limit = 1 << 20;
    for my $size (0, 1, 65_535, 65_536, 65_537, 131_072, $limit - 1, $limit) {
        like $read->($size), qr/^read\n/, "$size bytes pass";
    }
    like $read->($limit + $_), qr/^connection error: more than 1 MiB of data came with the request/,
        "1 MiB and $_ do not"
        for 1, 65_536, 1 << 20;
};

subtest 'TLS is the PSGI server\'s affair' => sub {
    my $server = AnyEvent::WebSocket::Server->new;
    $server->{tls} = bless {}, 'MustNotBeUsed';
    my ($ours, $client) = socket_pair();
    AnyEvent::fh_unblock($client);
    my ($connection) = $server->establish_psgi(psgi_env('psgix.io' => $ours))->recv;
    like read_response($client), qr/ 101 /, 'the options for it are for sockets';
};

subtest 'Twiggy' => sub {
    eval { require Twiggy::Server; 1 } or skip_all 'Twiggy is not installed: ' . ($@ =~ /(.*)/)[0];

    my ($port, %connections, @refused, @histories);
    my $server = AnyEvent::WebSocket::Server->new(validator => sub {
        my ($req) = @_;
        die "no entry\n" if $req->resource_name =~ /forbidden/;
        return $req->resource_name;
    });
    my $twiggy = Twiggy::Server->new(host => '127.0.0.1', port => 0, server_ready => sub { $port = $_[0]{port} });
    $twiggy->register_service(sub {
        my ($env) = @_;
        return [200, ['Content-Type' => 'text/plain'], ['plain']] if $env->{PATH_INFO} eq '/plain';
        return sub {
            my ($respond) = @_;
            $server->establish_psgi($env)->cb(sub {
                my ($connection, $name) = eval { $_[0]->recv };
                if (!$connection) {
                    push @refused, $@;
                    return $respond->([403, ['Content-Type' => 'text/plain'], ["refused\n"]]);
                }
                $connections{$name} = $connection;
                push @histories, history($connection);
                $connection->on(each_message => sub { $_[0]->send($_[1]->body) });
                $connection->on(finish => sub { delete $connections{$name} });
            });
        };
    });
    run_until { $port } 'Twiggy';
    my $connect = sub {
        my ($request) = @_;
        my $client;
        tcp_connect '127.0.0.1', $port, sub { $client = $_[0] // die "connect: $!" };
        run_until { $client } 'connect';
        syswrite $client, $request;
        return $client;
    };

    my $client = $connect->(request(line => 'GET /echo?x=1 HTTP/1.1'));
    like read_response($client), qr/\AHTTP\/1.1 101 .*\Q@{[accept_for($KEY)]}\E/s, 'the response';
    run_until { $connections{'/echo?x=1'} } 'the connection';
    for my $size (5, 50_000) {
        syswrite $client, frame(payload => 'x' x $size, @MASK);
        is [map { length $_->{payload} } read_frames($client, 1)], [$size], "$size bytes and back";
    }
    shutdown $client, 1;
    run_until { !%connections } 'finish';
    is read_until_eof($client), '', 'it ends with EOF, as it was ended';

    $client = $connect->(request(line => 'GET /early HTTP/1.1') . frame(payload => 'early', @MASK)
            . frame(payload => 'bird', @MASK));
    read_response($client);
    is [map { $_->{payload} } read_frames($client, 2)], ['early', 'bird'],
        'frames that come with the request are answered';

    # In two parts, so that Twiggy's own watcher reads the rest.
    my $request = request(line => 'GET /parts HTTP/1.1') . frame(payload => 'part', @MASK);
    $client = $connect->(substr $request, 0, 40);
    settle();
    syswrite $client, substr $request, 40;
    read_response($client);
    is [map { $_->{payload} } read_frames($client, 1)], ['part'], 'also where the request comes in parts';
    syswrite $client, frame(payload => 'later', @MASK);
    is [map { $_->{payload} } read_frames($client, 1)], ['later'], 'and Twiggy reads nothing of what comes then';

    for (
        ['GET /forbidden HTTP/1.1', [], qr/^no entry/],
        ['GET /old HTTP/1.1', ['Sec-WebSocket-Version' => 8], qr/^handshake error: unsupported/],
        )
    {
        my ($line, $change, $error) = @$_;
        my $refused = read_until_eof($connect->(request(line => $line, @$change)));
        like $refused, qr{\AHTTP/1.0 403 .*refused\n\z}s, "$line: the application's answer arrives";
        like pop @refused, $error, "$line: the error";
    }
    like read_until_eof($connect->(request(line => 'GET /plain HTTP/1.1', Upgrade => undef))), qr/plain\z/,
        'plain requests are the application\'s';
};

done_testing;
