# AnyEvent::WebSocket::Server: from a request on a socket to a connection.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Server;
use Opening qw(:all);
use Peer qw(
    frame close_frame read_frames parse_frames run_until settle socket_pair tcp_pair history finished read_until_eof
);
use Scalar::Util qw(blessed);
use Test2::V0;

my @MASK = (mask => 'serv');

subtest 'a request becomes a connection, and is answered as RFC 6455 says' => sub {
    my ($outcome, $client) = opening({});
    my $connection = $outcome->{connection};
    isa_ok $connection, 'AnyEvent::WebSocket::Connection';
    is $outcome->{other}, [], 'nothing comes with it';
    my $response = read_response($client);
    like $response, qr{\AHTTP/1\.1 101 [^\r\n]*\r\n}, 'status 101';
    is lc response_field($response, 'Upgrade'),    'websocket', 'Upgrade';
    is lc response_field($response, 'Connection'), 'upgrade',   'Connection';
    is response_field($response, 'Sec-WebSocket-Accept'), 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=',
        'Sec-WebSocket-Accept is that of RFC 6455 section 1.3';
    is response_field($response, $_), undef, "no $_" for qw(Sec-WebSocket-Protocol Sec-WebSocket-Extensions Set-Cookie);
    is $connection->role, 'server', 'role';
    ok !$connection->masked, 'frames go out unmasked';
    is $connection->subprotocol, undef, 'no subprotocol';
    is $connection->extensions, undef, 'no extensions';
    isa_ok $connection->handle, 'AnyEvent::Handle';

    $connection->on(each_message => sub { $_[0]->send('re: ' . $_[1]->body) });
    syswrite $client, frame(payload => 'hello', @MASK);
    is [map { @$_{qw(opcode masked payload)} } read_frames($client, 1)], [1, 0, 're: hello'], 'messages go both ways';
};

subtest 'the key is used as it was sent' => sub {
    for my $key ('AAAAAAAAAAAAAAAAAAAAAA==', '+/+/+/+/+/+/+/+/+/+/+w==', 'x3JJHMbDL1EzLkh9GBhXDw==') {
        my (undef, undef, $response) = established({}, request('Sec-WebSocket-Key' => $key));
        is response_field($response, 'Sec-WebSocket-Accept'), accept_for($key), $key;
    }
};

my %FINE = (
    'names and tokens in any case' => [
        Host => undef, hOST => 'h', Upgrade => 'WebSocket', Connection => 'UPGRADE',
    ],
    'lists with the tokens among others'    => [Upgrade => 'h2c, websocket', Connection => "keep-alive ,\tUpgrade"],
    'lists in several fields' => [Upgrade => ['h2c', 'websocket'], Connection => ['keep-alive', 'Upgrade']],
    'white space around values'             => [Upgrade => "  websocket \t", Connection => "Upgrade ", Host => "\th "],
    'no white space'                        => [Upgrade => undef, 'Upgrade:websocket' => ''],
    'lines that end with LF alone'          => [newline => "\n"],
    'HTTP/1.2'                              => [line => 'GET / HTTP/1.2'],
    'bytes beyond ASCII in target and field' => [line => "GET /\xFC HTTP/1.1", 'X-Name' => "J\xFCrgen"],
    'an empty field'                        => ['X-Empty' => ''],
    'a Content-Length of 0'                 => ['Content-Length' => '0'],
    'Host with port, as an IPv6 address'    => [Host => '[::1]:8080'],
    'cookies of any kind'                   => [Cookie => ['a=b; c="d e"; =; ;;', '', '";"']],
    'a protocol and extensions that nobody asked the server for' =>
        ['Sec-WebSocket-Protocol' => 'x, y', 'Sec-WebSocket-Extensions' => 'foo; bar=1, permessage-deflate'],
);
subtest "is accepted: $_" => do {
    my @change = @{ $FINE{$_} };
    sub {
        my $request = request(@change) =~ s/^Upgrade:websocket: /Upgrade:websocket/mr;
        my $warnings = warnings {
            my ($connection, undef, $response) = established({}, $request);
            like $response, qr{\AHTTP/1.1 101 }, 'status';
            ok $connection, 'connection';
        };
        is $warnings, [], 'no warnings';
    };
} for sort keys %FINE;

subtest 'the program sees the request' => sub {
    my @seen;
    my ($connection) = established(
        {handshake => sub { push @seen, @_; return $_[1] }},
        request(
            line => 'GET /chat/room?x=%20y HTTP/1.1', Host => 'chat.example:81', Origin => 'https://page.example',
            Upgrade => 'WebSocket, other', Cookie => 'a=1; b=two', 'Sec-WebSocket-Protocol' => ['x', 'y, z'],
            'X-Forwarded-For' => ['10.0.0.1', '10.0.0.2'], 'User-Agent' => 'test: 1',
        )
    );
    my ($req, $res) = @seen;
    isa_ok $req, 'Protocol::WebSocket::Request';
    isa_ok $res, 'Protocol::WebSocket::Response';
    is scalar @seen, 2, 'and nothing else';
    is $req->resource_name, '/chat/room?x=%20y', 'resource_name';
    is $req->host, 'chat.example:81', 'host';
    is $req->origin, 'https://page.example', 'origin';
    is $req->key, $KEY, 'key';
    is $req->version, 'draft-ietf-hybi-17', 'version';
    is $req->subprotocol, 'x, y, z', 'all subprotocols';
    is $req->cookies->pairs, [['a', '1'], ['b', 'two']], 'cookies';
    is $req->field('User-Agent'), 'test: 1', 'a field';
    is $req->field('X-Forwarded-For'), '10.0.0.1, 10.0.0.2', 'a field that came twice';
    is $req->upgrade, 'WebSocket, other', 'Upgrade as it came';
    ok $req->is_done && !defined $req->error, 'it is complete';
    ok !defined $res->subprotocol, 'the response has no subprotocol of its own';
};

subtest 'what Protocol::WebSocket would see otherwise' => sub {
    my $req;
    my $asked = sub {
        undef $req;
        established({handshake => sub { $req = $_[0]; $_[1] }}, request(@_));
        return $req;
    };
    my @origins = (Origin => 'http://page.example', 'Sec-WebSocket-Origin' => 'https://other.example');
    is $asked->(@origins)->origin, 'http://page.example', 'the origin is that of the field Origin';
    ok !$req->secure, 'and all that follows from it';
    is $req->field('Sec-WebSocket-Origin'), 'https://other.example', 'though the program can see the other';
    is $asked->(@origins[2, 3])->origin, undef, 'also where there is no Origin';

    is $asked->(Cookie => "a=\"x  \t y\"; b=2")->field('Cookie'), "a=\"x  \t y\"; b=2", 'cookies are as they came';
    is $req->cookies->pairs, [['a', 'x y'], ['b', '2']], 'but for runs of white space where they are taken apart';
};

subtest 'the target may be a whole URI (RFC 6455 section 4.2.1)' => sub {
    for (
        ['http://h/a/b?c' => '/a/b?c'], ['HTTPS://h:81/' => '/'], ['http://h' => '/'], ['https://h?q' => '/?q'],
        ['/http://h/' => '/http://h/'],
        )
    {
        my ($target, $resource) = @$_;
        my ($outcome) = opening({validator => sub { $_[0]->resource_name }}, request(line => "GET $target HTTP/1.1"));
        is $outcome->{other}, [$resource], $target;
    }
};

my $REQUEST = request('Sec-WebSocket-Protocol' => 'p', 'X-Long' => 'x' x 40);
my $FRAMES  = frame(payload => 'first', @MASK) . frame(payload => 'second' x 30, @MASK);

# In one go, so that it does not take a turn of the event loop for each byte of each.
subtest 'a request and frames, split at each byte (C13)' => sub {
    my $bytes = $REQUEST . $FRAMES;
    my @runs  = map { {at => $_, parts => [substr($bytes, 0, $_), substr $bytes, $_]} } 1 .. length($bytes) - 1;
    for my $run (@runs) {
        @$run{qw(condvar client)} = start({});
        $run->{condvar}->cb(sub {
            $run->{connection} = $_[0]->recv;
            $run->{history}    = history($run->{connection});
        });
        syswrite $run->{client}, $run->{parts}[0];
    }
    settle();
    syswrite $_->{client}, $_->{parts}[1] for @runs;
    run_until { !grep { !$_->{history} || @{ $_->{history} } < 2 } @runs } 'all messages';
    my @wrong = grep { "@{ $_->{history} }" ne 'first ' . 'second' x 30 } @runs;
    is [map { $_->{at} } @wrong], [], 'each is delivered, wherever the split';
    is [grep { read_response($_->{client}) !~ /\AHTTP.1.1 101 / } @runs], [], 'and each request answered';
};

subtest 'byte by byte' => sub {
    my ($condvar, $client, $socket) = start({});
    my ($connection, $history);
    $condvar->cb(sub { $connection = $_[0]->recv; $history = history($connection) });
    drip($client, $socket, $REQUEST . $FRAMES, sub { 0 });
    run_until { $history && @$history == 2 } 'the messages';
    is $history, ['first', 'second' x 30], 'request and frames are put together';
};

subtest 'frames that come with the request wait for callbacks (C13)' => sub {
    my ($condvar, $client) = start({});
    syswrite $client, $REQUEST . $FRAMES . close_frame(4000, 'bye', @MASK);
    my ($connection) = $condvar->recv;
    my $history = history($connection);
    is $history, [], 'nothing is delivered before the program had time to register';
    run_until { defined $connection->close_code } 'Close';
    is $history, ['first', 'second' x 30], 'then all of it';
    is [$connection->close_code, $connection->close_reason], [4000, 'bye'], 'and the Close frame';
};

subtest 'frames and EOF with the request (C13)' => sub {
    my ($condvar, $client) = start({});
    syswrite $client, $REQUEST . $FRAMES;
    shutdown $client, 1;
    my ($connection) = $condvar->recv;
    my $history = history($connection);
    run_until { finished($history) } 'finish';
    is $history, ['first', 'second' x 30, [finish => undef]], 'messages, then finish';
    like read_response($client), qr{ 101 }, 'the response came';
};

subtest 'a large message with the request (C13)' => sub {
    my ($condvar, $client) = start({max_payload_size => 0});
    my $connection;
    my $history;
    $condvar->cb(sub { $connection = $_[0]->recv; $history = history($connection) });
    my $bytes = $REQUEST . frame(payload => 'l' x 3_000_000, @MASK) . frame(payload => 'end', @MASK);
    run_until { substr $bytes, 0, syswrite($client, $bytes) // 0, ''; $history && @$history == 2 } 'messages';
    is [map { length } @$history], [3_000_000, 3], 'is delivered';
};

subtest 'the condition variable\'s callback dies after it has registered callbacks (C13)' => sub {
    my ($condvar, $client) = start({});
    my ($connection, $history);
    $condvar->cb(sub {
        $connection = $_[0]->recv;
        $history    = history($connection);
        die "a mistake of the program\n";
    });
    # Where it goes is the event loop's choice: it warns, or throws.
    my $caught = '';
    local $SIG{__WARN__} = sub { $caught .= $_[0] };
    syswrite $client, $REQUEST . $FRAMES;
    run_until { eval { settle(); 1 } or $caught .= $@; $history && @$history == 2 } 'messages';
    like $caught, qr/a mistake of the program/, 'the exception goes where the event loop sends it';
    is $history, ['first', 'second' x 30], 'and the frames that came with the request are delivered';
};

subtest 'role: masking is enforced on what comes' => sub {
    my ($connection, $client) = established({});
    my $history = history($connection);
    syswrite $client, frame(payload => 'unmasked');
    run_until { @$history } 'an error';
    is $history->[0][0], 'parse_error', 'a frame without a mask fails the connection';
    my ($close) = read_frames($client, 1);
    is [$close->{opcode}, substr $close->{payload}, 0, 2], [8, pack 'n', 1002], 'with 1002';
};

subtest 'options of the connection are passed on' => sub {
    my %passed = (max_payload_size => 100, max_fragments => 2, max_message_size => 150, validate_utf8 => 0,
        close_timeout => 7);
    my ($connection) = established({%passed, role => 'client', masked => 1, subprotocol => 'x', handle => 'none',
        extensions => 'permessage-deflate', close_code => 1});
    is $connection->$_, $passed{$_}, $_ for grep { $connection->can($_) } sort keys %passed;
    is $connection->{$_}, $passed{$_}, "$_, in the hash" for sort keys %passed;
    is [map { $connection->$_ } qw(role masked subprotocol extensions close_code)], ['server', 0, undef, undef, undef],
        'but not what the handshake decides';

    my %breaks = (
        max_payload_size => frame(payload => 'x' x 101, @MASK),
        max_message_size => frame(payload => 'x' x 90, fin => 0, @MASK)
            . frame(payload => 'x' x 90, opcode => 0, @MASK),
        max_fragments    => join('', map { frame(payload => 'x', fin => 0, opcode => $_, @MASK) } 1, 0, 0),
    );
    for my $limit (sort keys %breaks) {
        my ($connection, $client) = established({%passed});
        my $history = history($connection);
        syswrite $client, $breaks{$limit};
        run_until { @$history } 'an error';
        is $history->[0][0], 'parse_error', "$limit is in force";
    }
    my $history = history($connection = (my @made = established({%passed}))[0]);
    syswrite $made[1], frame(payload => "\xFF", @MASK);
    run_until { @$history } 'a message';
    is $history, ["\xFF"], 'validate_utf8 => 0, too';
};

subtest 'one server for many sockets at once' => sub {
    my $server = AnyEvent::WebSocket::Server->new(validator => sub { $_[0]->resource_name });
    my @all = map { [start($server)] } 1 .. 50;
    syswrite $all[$_][1], request(line => "GET /$_ HTTP/1.1") for reverse 0 .. $#all;
    my @outcomes = map { outcome($_->[0]) } @all;
    is [map { $_->{other}[0] } @outcomes], [map { "/$_" } 0 .. $#all], 'each has its own connection';
};

subtest 'over TCP, no_delay is set' => sub {
    my ($ours, $theirs) = tcp_pair();
    my $condvar = AnyEvent::WebSocket::Server->new->establish($ours);
    syswrite $theirs, request();
    ok outcome($condvar)->{connection}, 'a connection';
    ok unpack('i', getsockopt $ours, Socket::IPPROTO_TCP(), Socket::TCP_NODELAY()), 'TCP_NODELAY';
};

subtest 'the connection alone keeps everything' => sub {
    my ($ours, $theirs) = socket_pair();
    AnyEvent::fh_unblock($theirs);
    my $connection;
    AnyEvent::WebSocket::Server->new->establish($ours)->cb(sub { $connection = $_[0]->recv });
    undef $ours;
    syswrite $theirs, request();
    run_until { $connection } 'a connection';
    pass 'neither server, nor condition variable, nor socket are kept by the program';
    read_response($theirs);
    $connection->on(each_message => sub { $_[0]->send($_[1]->body) });
    settle();
    syswrite $theirs, frame(payload => 'still there', @MASK);
    is [map { $_->{payload} } read_frames($theirs, 1)], ['still there'], 'and it works';
    undef $connection;
    my $rest = read_until_eof($theirs);
    is [map { $_->{opcode} } parse_frames($rest)], [8], 'letting go of it closes it (D3)';
};

subtest 'a derived class' => sub {
    package Derived {
        our @ISA = ('AnyEvent::WebSocket::Server');
        sub new {
            my ($class, %args) = @_;
            my $self = $class->SUPER::new(%args, max_fragments => 3);
            $self->{own} = 1;
            return $self;
        }
    }
    my $server = Derived->new(validator => sub { 'v' });
    is [blessed $server, $server->{own}], ['Derived', 1], 'is made';
    my ($outcome) = opening($server);
    is [$outcome->{connection}->max_fragments, @{ $outcome->{other} }], [3, 'v'], 'and works';
    ok +AnyEvent::WebSocket::Server->new({max_payload_size => 1}), 'a hash reference will do';
};

my %WRONG = (
    'ssl_key_file without a certificate' => [[ssl_key_file => 'key.pem'], qr/^ssl_key_file .*ssl_cert_file/],
    'handshake that is no code'   => [[handshake => 'code'], qr/^handshake parameter must be a code-ref/],
    'handshake that is a hash'    => [[handshake => {}], qr/^handshake parameter must be a code-ref/],
    'validator that is no code'   => [[validator => []], qr/^validator parameter must be a code-ref/],
    'an odd number of arguments'  => [[handshake => sub { }, 'validator'], qr/the last key has no value/],
    'max_payload_size'            => [[max_payload_size => 'big'], qr/^max_payload_size must be a number/],
    'max_fragments'               => [[max_fragments => -1], qr/^max_fragments must be a number/],
    'max_message_size'            => [[max_message_size => ''], qr/^max_message_size must be a number/],
    'close_timeout'               => [[close_timeout => 'x'], qr/^close_timeout must be a number/],
    'handshake_timeout'           => [[handshake_timeout => '5s'], qr/^handshake_timeout must be a number/],
    'max_header_size'             => [[max_header_size => -1], qr/^max_header_size must be a number/],
    'subprotocols as a string'    => [[subprotocols => 'a'], qr/^subprotocols must be an array reference/],
    'a subprotocol with a break'  => [[subprotocols => ["a\r\nb"]], qr/^subprotocols: 'a\r\nb' is not a token/],
    'a subprotocol list'          => [[subprotocols => ['a,b']], qr/^subprotocols: 'a,b' is not a token/],
    'a subprotocol of undef'      => [[subprotocols => [undef]], qr/^subprotocols: undef is not a token/],
    'permessage_deflate' => [[permessage_deflate => {levle => 1}], qr/^permessage_deflate: unknown options: levle/],
    'permessage_deflate as list'  => [[permessage_deflate => [1]], qr/^permessage_deflate must be a hash reference/],
);
subtest "new dies at the caller's line: $_" => do {
    my ($arguments, $text) = @{ $WRONG{$_} };
    sub {
        my $error = raises(sub { AnyEvent::WebSocket::Server->new(@$arguments) }); my $line = __LINE__;
        like $error, $text, 'text';
        like $error, qr/ at \Q$0\E line $line\.$/, 'place';
    };
} for sort keys %WRONG;

subtest 'the response is the same whether or not the program has a say in it' => sub {
    my %fields = ('Sec-WebSocket-Protocol' => 'one, two', 'Sec-WebSocket-Extensions' => 'permessage-deflate');
    my @servers = ({}, {subprotocols => ['two']}, {permessage_deflate => 1},
        {subprotocols => ['two'], permessage_deflate => {server_no_context_takeover => 1}});
    for my $server (@servers) {
        my @responses = map {
            my ($outcome, $client) = opening({%$server, @$_}, request(%fields));
            ok $outcome->{connection}, 'a connection';
            read_response($client);
        } [], [handshake => sub { $_[1] }], [validator => sub { }];
        is [@responses[1, 2]], [($responses[0]) x 2], join(', ', %$server) || 'nothing agreed upon';
    }
};

subtest 'objects that can be called will do for code' => sub {
    package Callable {
        use overload '&{}' => sub { my $self = shift; sub { (@_ > 1 ? $_[1] : ()), $self->{answer} } };
    }
    for my $option (qw(handshake validator)) {
        my ($outcome) = opening({$option => bless {answer => 42}, 'Callable'});
        is $outcome->{other}, [42], $option;
    }
};

done_testing;
