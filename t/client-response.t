# What a Client makes of a server's answer to its handshake (RFC 6455 section 4.1).

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;
use AnyEvent;
use AnyEvent::WebSocket::Client;
use Digest::MD5 qw(md5);
use Peer qw(frame run_until run_for history);
use RawServer qw(raw_server accept_for response connection_of error_of peer_of);
use Time::HiRes ();

my $CLIENT = 'AnyEvent::WebSocket::Client';

# What comes of an answer: changes to the right one, or a text.
my ($answer, %change);
my $server = raw_server(answer => sub { $answer // response($_[0], %change) });

sub error_with {
    my ($what, %attribute) = @_;
    ($answer, %change) = ref $what ? (undef, %$what) : ($what);
    my $error = error_of($CLIENT->new(%attribute)->connect($server->{uri}));
    my $peer  = peer_of($server);
    run_until { $peer->{end} || $error eq 'a connection' } 'the end of the socket';
    return $error;
}

sub connection_with {
    my ($change, %attribute) = @_;
    ($answer, %change) = (undef, %$change);
    return connection_of($CLIENT->new(%attribute)->connect($server->{uri}));
}

# Without a socket.
sub handshake {
    my ($target) = AnyEvent::WebSocket::Client::Target->new('ws://h/');
    return AnyEvent::WebSocket::Client::Handshake->new(target => $target, max_header_size => 16384, @_);
}

sub peer_with_key_of { return { field => { 'sec-websocket-key' => $_[0]{key} } } }

subtest 'an answer in any pieces' => sub {
    my $frames = frame(payload => 'first') . frame(payload => "\r\n\r\n");
    my $more   = "Server: x\r\n" x 3;
    my $try = sub {
        my ($name, $split) = @_;
        my $handshake = handshake();
        my $bytes = response(peer_with_key_of($handshake), more => $more) . $frames;
        my ($result, $rest) = (undef, '');
        for my $piece ($split->($bytes)) {
            if ($result) { $rest .= $piece }
            else         { $result = $handshake->receive($piece) }
        }
        is $result && $result->{rest} . $rest, $frames, $name if !$result || $result->{rest} . $rest ne $frames;
    };
    $try->('byte by byte', sub { split //, $_[0] });
    my $length = length(response({ field => {} }, more => $more) . $frames);
    for my $at (0 .. $length) {
        $try->("split at $at", sub { (substr($_[0], 0, $at), substr($_[0], $at)) });
        $try->("split at $at and $_ later", sub { unpack "a$at a$_ a*", $_[0] }) for 1 .. 4;
    }
    pass 'what follows it is kept';
};

subtest 'an answer byte by byte over a socket' => sub {
    ($answer, %change) = ('');
    my @old  = @{ $server->{peers} };
    my $done = $CLIENT->new->connect($server->{uri});
    my $peer = peer_of($server, @old);
    $peer->{handle}->no_delay(1);
    for my $byte (split //, response($peer) . frame(payload => 'slow')) {
        $peer->{handle}->push_write($byte);
        run_for(0.0005) unless $done->ready;
    }
    my $connection = connection_of($done);
    my $history    = history($connection);
    run_until { @$history } 'the message';
    is $history, ['slow'], 'is the same';
};

subtest 'what an answer may look like' => sub {
    for my $case (
        ['names in any case'        => { Upgrade => undef, Connection => undef,
            more => "UPGRADE: WebSocket\r\nconnection: upgrade\r\n" }],
        ['Connection is a list'     => { Connection => 'keep-alive, Upgrade' }],
        ['Connection is repeated'   => { Connection => 'keep-alive', more => "Connection: Upgrade\r\n" }],
        ['spaces around values'     => { Upgrade => " websocket \t", Connection => " \tupgrade  " }],
        ['no reason'                => { status => 'HTTP/1.1 101' }],
        ['an empty reason'          => { status => 'HTTP/1.1 101 ' }],
        ['a long reason'            => { status => 'HTTP/1.1 101 ' . 'x' x 4000 }],
        ['octets in the reason'     => { status => "HTTP/1.1 101 \xE9\xFF" }],
        ['octets in headers'        => { more => "X: \x80\xFF\r\n" }],
        ['empty headers'            => { more => "X:\r\nY: \r\n" }],
        ['an empty subprotocol'     => { 'Sec-WebSocket-Protocol' => '' }],
        ['an empty extension'       => { 'Sec-WebSocket-Extensions' => '' }],
        ['many headers'             => { more => "X: y\r\n" x 120 }],
        ['a Location'               => { Location => 'http://elsewhere.invalid/' }],
        ['a Content-Length'         => { 'Content-Length' => 10 }],
        ['interim responses first'  => {
            status => "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 101 x",
        }],
    ) {
        my ($name, $change) = @$case;
        is connection_with($change)->role, 'client', $name;
    }
    my $bare = raw_server(answer => sub { response($_[0]) =~ s/\r//gr });
    is connection_of($CLIENT->new->connect($bare->{uri}))->role, 'client', 'lines that end with LF alone';
};

subtest 'what is wrong is told' => sub {
    my $wrong = 'handshake error: Not a valid response: ';
    for my $case (
        ['no headers'               => "HTTP/1.1 101 x\r\n\r\n", $wrong . 'it has no Upgrade header'],
        ['no Upgrade'               => { Upgrade => undef }, $wrong . 'it has no Upgrade header'],
        ['another Upgrade'          => { Upgrade => 'h2c' }, $wrong . 'Upgrade is not websocket: h2c'],
        ['Upgrade is a list'        => { Upgrade => 'websocket, h2c' },
            $wrong . 'Upgrade is not websocket: websocket, h2c'],
        ['Upgrade is repeated'      => { more => "Upgrade: websocket\r\n" },
            $wrong . 'Upgrade is not websocket: websocket, websocket'],
        ['no Connection'            => { Connection => undef }, $wrong . 'it has no Connection header'],
        ['another Connection'       => { Connection => 'close, upgrade-not' },
            $wrong . 'Connection has no Upgrade: close, upgrade-not'],
        ['no Accept'                => { 'Sec-WebSocket-Accept' => undef },
            $wrong . 'it has no Sec-WebSocket-Accept header'],
        ['the Accept of RFC 6455'   => { 'Sec-WebSocket-Accept' => 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=' },
            $wrong . 'Sec-WebSocket-Accept does not fit the key: s3pPLMBiTxaQ9kYGzzhZRbK+xOo='],
        ['an empty Accept'          => { 'Sec-WebSocket-Accept' => '' },
            $wrong . 'Sec-WebSocket-Accept does not fit the key: '],
        ['an Accept with escapes'   => { 'Sec-WebSocket-Accept' => "\xFF" . 'x' x 100 },
            $wrong . 'Sec-WebSocket-Accept does not fit the key: \\xFF' . 'x' x 76 . '...'],
        ['a second subprotocol'     => { more => "Sec-WebSocket-Protocol: a\r\n" x 2 },
            $wrong . 'it has more than one Sec-WebSocket-Protocol header'],
        ['a header without a name'  => { more => ": x\r\n" }, $wrong . 'an invalid header name'],
        ['a header without a colon' => { more => "x\r\n" }, $wrong . 'an invalid header name'],
        ['a folded header'          => { more => "x: y\r\n z\r\n" }, $wrong . 'an invalid header name'],
        ['space before the colon'   => { more => "x : y\r\n" }, $wrong . 'an invalid header name'],
        ['NUL in a header'          => { more => "x: y\0\r\n" }, $wrong . 'an invalid header value'],
        ['CR in a header'           => { more => "x: y\rz\r\n" }, $wrong . 'an invalid header value'],
        ['too many headers'         => { more => "X: y\r\n" x 126 }, $wrong . 'too many headers'],
        ['only interim responses'   => "HTTP/1.1 100 Continue\r\n\r\n" x 1000,
            'handshake error: Message is too long, more than max_header_size (16384 bytes)'],
    ) {
        my ($name, $what, $error) = @$case;
        is error_with($what), $error, $name;
    }
    ($answer, %change) = (undef);
    my $twice = raw_server(answer => sub {
        my $accept = accept_for($_[0]{field}{'sec-websocket-key'});
        response($_[0], more => "Sec-WebSocket-Accept: $accept\r\n");
    });
    like error_of($CLIENT->new->connect($twice->{uri})), qr/^\Q$wrong\ESec-WebSocket-Accept does not fit the key/,
        'Accept twice';
    my $lower = raw_server(answer => sub {
        response($_[0], 'Sec-WebSocket-Accept' => lc accept_for($_[0]{field}{'sec-websocket-key'}));
    });
    like error_of($CLIENT->new->connect($lower->{uri})), qr/Accept does not fit/, 'Accept in another case';
};

subtest 'another status is told as it came, at once' => sub {
    my $text = sub { "handshake error: Wrong response line. Got [[$_[0]]], expected [[HTTP/1.1 101 ]]" };
    for my $line (
        'HTTP/1.1 404 Not Found', 'HTTP/1.1 401 Unauthorized', 'HTTP/1.1 503 Service Unavailable', 'HTTP/1.0 200 OK',
        'HTTP/1.1 200 OK', 'HTTP/1.1 302 Found', 'HTTP/1.1 426', 'HTTP/1.0 101 Switching Protocols', 'HTTP/1.1 999 x',
    ) {
        # Not even the end of the head is there.
        is error_with("$line\r\nServer: x\r\n"), $text->($line), $line;
    }
    is error_with("HTTP/1.1 404 Not Found\r\n\r\n" . 'x' x 100_000), $text->('HTTP/1.1 404 Not Found'),
        'whatever follows';
    is error_with("HTTP/1.1 404 \e[31m\xFFred\r\n"), $text->('HTTP/1.1 404 \\x1B[31m\\xFFred'), 'fit for a terminal';
    is error_with('HTTP/1.1 404 ' . 'x' x 100 . "\n"), $text->('HTTP/1.1 404 ' . 'x' x 64 . '...'), 'in a line';
    is error_with("HTTP/1.1 302 Found\r\nLocation: $server->{uri}\r\n\r\n"), $text->('HTTP/1.1 302 Found'),
        'a redirect, too, where none are to be followed';
};

subtest 'what is no HTTP is told from its first bytes' => sub {
    my $text = sub { "handshake error: Wrong response line. Got [[$_[0]]], expected [[HTTP/1.1 101 ]]" };
    for my $case (
        ["SSH-2.0-OpenSSH\r\n", 'SSH-2.0-OpenSSH'], ["220 mail\r\n", '220 mail'], ['no line end', 'no line end'],
        ["\0", '\\x00'], ["\r\nHTTP/1.1 101 x\r\n\r\n", ''], ["http/1.1 101 x\r\n", 'http/1.1 101 x'],
        ["HTTP/2 101 x\r\n", 'HTTP/2 101 x'], ["HTTP/1.2 101 x\r\n", 'HTTP/1.2 101 x'],
        ["HTTP/1.1 101x\r\n", 'HTTP/1.1 101x'],
        ["HTTP/1.1  101 x\r\n", 'HTTP/1.1  101 x'], ["HTTP/1.1 1010 x\r\n", 'HTTP/1.1 1010 x'],
        ["HTTP/1.1 099 x\r\n", 'HTTP/1.1 099 x'], ["HTTP/1.1\r\n", 'HTTP/1.1'],
        ["HTTP/1.1 -10 x\r\n", 'HTTP/1.1 -10 x'],
        ["\x16\x03\x01 TLS", '\\x16\\x03\\x01 TLS'], [frame(payload => 'frame'), '\\x81\\x05frame'],
    ) {
        is error_with($case->[0]), $text->($case->[1]), $case->[0] =~ s/[^ -~]/./gr;
    }
};

subtest 'max_header_size' => sub {
    my $too_long = sub { "handshake error: Message is too long, more than max_header_size ($_[0] bytes)" };
    my $size = length response({ field => { 'sec-websocket-key' => 'x' x 24 } }, more => "X: \r\n");
    my $fill = sub { return { more => 'X: ' . 'y' x ($_[0] - $size) . "\r\n" } };
    for my $limit (16384, 1000, 100_000) {
        my @attribute = $limit == 16384 ? () : (max_header_size => $limit);
        is connection_with($fill->($limit), @attribute)->role, 'client', "$limit bytes with a limit of $limit";
        is error_with($fill->($limit + 1), @attribute), $too_long->($limit), 'one more';
    }
    is connection_with($fill->(300_000), max_header_size => 0)->role, 'client', '0 is none';
    is error_with('HTTP/1.1 101 ' . 'x' x 20_000), $too_long->(16384), 'a line without an end';
    is error_with("HTTP/1.1 101 x\r\nX: " . 'x' x 20_000), $too_long->(16384), 'a header without an end';
    is error_with("HTTP/1.1 101 x\r\n" . "X: y\r\n" x 4000), $too_long->(16384), 'headers without an end';

    my $bytes = "HTTP/1.1 101 x\n" . "\rx" x 50_000;
    my %time;
    for my $limit (10_000, 80_000) {
        my $handshake = handshake(max_header_size => $limit);
        my ($result, $count) = (undef, 0);
        my $start = Time::HiRes::clock();
        for my $byte (unpack '(a1)*', $bytes) {
            $count++;
            last if $result = $handshake->receive($byte);
        }
        $time{$limit} = Time::HiRes::clock() - $start;
        is $result, { error => $too_long->($limit) }, 'byte by byte';
        is $count, $limit + 1, 'at the first byte too many';
    }
    # Eight times as many bytes. Searching them from the start each time would take 64 times as long.
    cmp_ok $time{80_000}, '<', 25 * $time{10_000}, 'without looking at all of it again and again';
};

subtest 'subprotocols' => sub {
    my %wanted = (subprotocol => ['klingon', 'cardassian']);
    my $name   = 'Sec-WebSocket-Protocol';
    is connection_with({ $name => 'cardassian' }, %wanted)->subprotocol, 'cardassian',
        'the connection has what was agreed';
    is error_with({}, %wanted), 'no subprotocol in response', 'none';
    is error_with({ $name => 'romulan' }, %wanted),
        'subprotocol mismatch, requested: klingon, cardassian, got: romulan', 'another';
    is error_with({ $name => '' }, %wanted), 'subprotocol mismatch, requested: klingon, cardassian, got: ',
        'an empty one';
    is error_with({ $name => 'Klingon' }, %wanted),
        'subprotocol mismatch, requested: klingon, cardassian, got: Klingon', 'one in another case';
    is error_with({ $name => 'klingon, cardassian' }, %wanted),
        'subprotocol mismatch, requested: klingon, cardassian, got: klingon, cardassian', 'both';
    is error_with({ $name => 'x' }), 'subprotocol mismatch, requested: , got: x', 'one, though none was requested';
    my %by_header = (http_headers => { $name => 'a, b' });
    is connection_with({ $name => 'b' }, %by_header)->subprotocol, 'b', 'one requested by a header of the program';
    is connection_with({}, %by_header)->subprotocol, undef, 'which is no demand';
    is error_with({ $name => 'c' }, %by_header), 'subprotocol mismatch, requested: a, b, got: c', 'but no other';
};

subtest 'after a failed check there is no connection, and the socket closes' => sub {
    my $made = 0;
    my $mock = mock 'AnyEvent::WebSocket::Connection' => (before => [BUILD => sub { $made++ }]);
    is error_with({ more => "Sec-WebSocket-Protocol: x\r\n" }, subprotocol => 'y'),
        'subprotocol mismatch, requested: y, got: x', 'the error';
    is $made, 0, 'no connection was made';
    my $peer = peer_of($server);
    ok $peer->{end}, 'the server sees the end of the socket';
    is $peer->{frames}, [], 'without a frame';
};

subtest 'extensions' => sub {
    my $name = 'Sec-WebSocket-Extensions';
    my $refused = 'handshake error: ';
    is error_with({ $name => 'permessage-deflate' }), $refused . 'extension permessage-deflate was not offered',
        'not offered';
    is error_with({ $name => ' x-other; a=b' }), $refused . 'extension x-other was not offered', 'nor this one';
    my @on = (permessage_deflate => 1);
    is error_with({ $name => 'x-other' }, @on), $refused . 'extension x-other was not offered',
        'another than was offered';
    is error_with({ $name => 'permessage-deflate', more => "$name: x-other\r\n" }, @on),
        $refused . 'extension x-other was not offered', 'another besides, in a header of its own';
    like error_with({ $name => 'permessage-deflate, permessage-deflate' }, @on),
        qr/^handshake error: permessage-deflate is there more than once/, 'twice';
    like error_with({ $name => 'permessage-deflate; foo' }, @on),
        qr/^handshake error: permessage-deflate has no parameter foo/, 'an unknown parameter';
    like error_with({ $name => ';' }, @on), qr/^handshake error: .*malformed/, 'what is malformed';
    like error_with({ $name => ';' }), qr/^handshake error: .*malformed/, 'also where nothing was offered';
    like error_with({ $name => 'permessage-deflate' }, permessage_deflate => { server_no_context_takeover => 1 }),
        qr/^handshake error: .*server_no_context_takeover/, 'without what was demanded';

    is connection_with({}, @on)->extensions // '', '', 'a server may decline';
    my $agreed = 'permessage-deflate; server_no_context_takeover';
    my $connection = connection_with({ $name => $agreed }, @on);
    is $connection->extensions, $agreed, 'the connection has what was agreed';
    my $history = history($connection);
    my $peer = peer_of($server);
    # "Hello", as in RFC 7692 section 7.2.3.1.
    $peer->{handle}->push_write(frame(rsv => 4, payload => "\xf2\x48\xcd\xc9\xc9\x07\x00"));
    run_until { @$history } 'the message';
    is $history, ['Hello'], 'and inflates';
    $connection->send('x' x 1000);
    run_until { @{ $peer->{frames} } } 'the answer';
    is $peer->{frames}[0]{rsv}, 4, 'and compresses';
    cmp_ok length $peer->{frames}[0]{payload}, '<', 100, 'as it says';

    # Copied from a browser, perhaps. The original's connection fails at the first message that is compressed.
    my @by_header = (http_headers => { $name => 'x-webkit, permessage-deflate; client_max_window_bits' });
    $connection = connection_with({ $name => 'permessage-deflate' }, @by_header);
    $history    = history($connection);
    peer_of($server)->{handle}->push_write(frame(rsv => 4, payload => "\xf2\x48\xcd\xc9\xc9\x07\x00"));
    run_until { @$history } 'the message';
    is $history, ['Hello'], 'permessage-deflate can be offered by a header of the program';
    is error_with({ $name => 'x-webkit' }, @by_header), $refused . 'extension x-webkit was not offered',
        'another cannot be made use of';
    is connection_with({}, @by_header)->extensions // '', '', 'the server may decline';

    # Each is what a header offers, an answer, and how it does not fit; or the options of the connection.
    my %wide = (
        server_no_context_takeover => 0,  client_no_context_takeover => 0,
        server_max_window_bits     => 15, client_max_window_bits     => 15,
    );
    my $it = 'permessage-deflate';
    for (
        [$it, "$it; client_max_window_bits=10", "parameter client_max_window_bits of $it was not offered"],
        [$it, "$it; server_max_window_bits=10; client_no_context_takeover", {%wide}],
        ["$it; client_max_window_bits", "$it; client_max_window_bits=10", {%wide}],
        ["$it;client_max_window_bits=\"10\"", $it, {%wide, client_max_window_bits => 10}],
        ["$it; server_max_window_bits=10", "$it; server_max_window_bits=11",
            "server_max_window_bits of $it is 11, more than the 10 offered"],
        ["$it; server_no_context_takeover", $it,
            "parameter server_no_context_takeover of $it was offered, but is missing in the response"],
        ["$it; client_no_context_takeover; server_max_window_bits=9", "$it; server_max_window_bits=8",
            {%wide, client_no_context_takeover => 1, server_max_window_bits => 9}],
        ["$it; server_max_window_bits=10, x, $it; client_max_window_bits", "$it; client_max_window_bits=9", {%wide}],
        ["$it; client_max_window_bits, $it; server_max_window_bits=10",
            "$it; client_max_window_bits=9; server_max_window_bits=10", {%wide}],
        ["$it; x=\"$it, $it\"", $it, "extension $it was not offered"],
        ["$it; server_max_window_bits=16", $it, "extension $it was not offered"],
        )
    {
        my ($offered, $answered, $comes) = @$_;
        my @headers = (http_headers => { $name => $offered });
        if (ref $comes) {
            my $connection = connection_with({ $name => $answered }, @headers);
            is $connection->{permessage_deflate}, $comes, "$offered, then $answered";
        }
        else {
            is error_with({ $name => $answered }, @headers), $refused . $comes, "$offered, then $answered";
        }
    }
    my @both = (http_headers => { $name => "$it; server_max_window_bits=9" }, permessage_deflate => { level => 1 });
    is connection_with({ $name => $it }, @both)->{permessage_deflate}, { level => 1 },
        'an answer to the client\'s own offer';
    is connection_with({ $name => "$it; server_max_window_bits=9" },
        @both, permessage_deflate => { server_no_context_takeover => 1, level => 1 })->{permessage_deflate},
        { %wide, server_max_window_bits => 9, level => 1 }, 'and to that of the header';
    is error_with({ $name => 'permessage-deflate' }, http_headers => { $name => 'x-permessage-deflate' }),
        $refused . 'extension permessage-deflate was not offered', 'the name has to be that';
};

subtest 'the old versions' => sub {
    my $hixie = "HTTP/1.1 101 Web Socket Protocol Handshake\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
        . "WebSocket-Origin: http://h\r\nWebSocket-Location: ws://h/\r\nWebSocket-Protocol: chat\r\n\r\n";
    my @hixie = (protocol_version => 'draft-hixie-75');
    $answer = $hixie . frame(payload => 'x');
    my $connection = connection_of($CLIENT->new(@hixie, subprotocol => 'chat')->connect($server->{uri}));
    my $history = history($connection);
    is $connection->subprotocol, 'chat', 'draft-hixie-75: subprotocol';
    run_until { @$history } 'the message';
    is $history, ['x'], 'draft-hixie-75: what follows the answer';
    is error_with($hixie, @hixie, subprotocol => 'other'), 'subprotocol mismatch, requested: other, got: chat',
        'draft-hixie-75: another subprotocol';
    is error_with($hixie =~ s/WebSocket-Location: .*?\r\n//r, @hixie), 'handshake error: Not a valid response',
        'draft-hixie-75: what Protocol::WebSocket does not like';
    is error_with("HTTP/1.1 404 Not Found\r\n", @hixie),
        'handshake error: Wrong response line. Got [[HTTP/1.1 404 Not Found]], expected [[HTTP/1.1 101 ]]',
        'draft-hixie-75: another status';
    is error_with($hixie =~ s/\r\n\r\n/"\r\nX: " . 'y' x 20_000 . "\r\n\r\n"/er, @hixie),
        'handshake error: Message is too long, more than max_header_size (16384 bytes)', 'draft-hixie-75: too large';

    my $hybi = sub {
        my ($peer, $checksum) = @_;
        my @keys    = map { $peer->{field}{"sec-websocket-key$_"} } 1, 2;
        my @numbers = map { s/\D//gr / tr/ // } @keys;
        return "HTTP/1.1 101 x\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Origin: http://h\r\n"
            . "Sec-WebSocket-Location: ws://h/\r\n\r\n" . ($checksum // md5(pack 'N N a8', @numbers, $peer->{bytes}));
    };
    for my $pieces (1, 0) {
        ($answer, %change) = ('');
        my @old  = @{ $server->{peers} };
        my $done = $CLIENT->new(protocol_version => 'draft-ietf-hybi-00')->connect($server->{uri});
        my $peer = peer_of($server, @old);
        run_until { length $peer->{bytes} == 8 } 'the challenge';
        my $bytes = $hybi->($peer) . frame(payload => 'x');
        for my $piece ($pieces ? split(//, $bytes) : $bytes) {
            $peer->{handle}->push_write($piece);
            run_for(0.0005) if $pieces && !$done->ready;
        }
        my $connection = connection_of($done);
        my $history    = history($connection);
        run_until { @$history } 'the message';
        is $history, ['x'], 'draft-ietf-hybi-00' . ($pieces ? ', byte by byte' : '');
    }
    my @hybi = (protocol_version => 'draft-ietf-hybi-00');
    is error_with($hybi->({ field => { map { ("sec-websocket-key$_" => '1 ') } 1, 2 }, bytes => 'x' x 8 }), @hybi),
        'handshake error: Checksum is wrong.', 'draft-ietf-hybi-00: a wrong checksum';
    is error_with({}, @hybi), 'handshake error: Not a valid response: it is not one of draft-ietf-hybi-00',
        'draft-ietf-hybi-00: an answer of RFC 6455';
    is error_with({ 'Sec-WebSocket-Origin' => 'x' }, @hybi),
        'handshake error: Not a valid response: it is not one of draft-ietf-hybi-00',
            'draft-ietf-hybi-00: one of both';
    is error_with($hixie, @hybi), 'handshake error: Not a valid response: it is not one of draft-ietf-hybi-00',
        'draft-ietf-hybi-00: an answer of draft-hixie-75';
    is connection_with({}, protocol_version => 'draft-ietf-hybi-10')->role, 'client', 'draft-ietf-hybi-10';
    is error_with({ 'Sec-WebSocket-Accept' => 'x' }, protocol_version => 'draft-ietf-hybi-10'),
        'handshake error: Not a valid response: Sec-WebSocket-Accept does not fit the key: x',
            'draft-ietf-hybi-10: a wrong Accept';
};

subtest 'garbage of all kinds fails once, and at once' => sub {
    srand 20260101;
    my $valid = response({ field => {} }, 'Sec-WebSocket-Accept' => 'x');
    for my $n (1 .. 300) {
        my $bytes = $valid;
        for (1 .. 1 + rand 5) {
            my $at = int rand length $bytes;
            my $kind = int rand 4;
            my $new  = $kind == 0 ? chr rand 256 : $kind == 1 ? "\n" x rand 4 : '';
            substr $bytes, $at, $kind == 2 ? int rand 20 : 1, $new;
        }
        my $result;
        my $handshake = handshake();
        my $end = length $bytes;
        for my $piece (unpack '(a7)*', $bytes . "\r\n\r\n") {
            last if $result = $handshake->receive($piece);
        }
        next if $result && defined $result->{error} && $result->{error} =~ /\Ahandshake error: [ -~]+\z/;
        fail "garbage number $n";
        diag $bytes, $result ? $result->{error} : 'no result';
    }
    pass 'with a text that can be read';
};

done_testing;
