# The request that a Client sends.

use strict;
use warnings;
use utf8;
use lib 't/lib';

use Test2::V0;
use AnyEvent;
use AnyEvent::WebSocket::Client;
use MIME::Base64 qw(decode_base64 encode_base64);
use Peer qw(run_until);
use Protocol::WebSocket::Handshake::Client;
use Protocol::WebSocket::Request;
use RawServer qw(raw_server connection_of error_of);
use URI;

my $CLIENT = 'AnyEvent::WebSocket::Client';

my $server = raw_server();

# The request for a URI, whose host is connected to on loopback. (The others of the server may still be open.)
sub peer_for {
    my ($uri, %attribute) = @_;
    my $count = @{ $server->{peers} };
    my $done  = $CLIENT->new(%attribute)->connect($uri, '127.0.0.1', $server->{port});
    run_until { @{ $server->{peers} } > $count && defined $server->{peers}[-1]{request} || $done->ready } 'a request';
    die 'no request: ' . error_of($done) if @{ $server->{peers} } == $count;
    return $server->{peers}[-1];
}

sub request_for { return peer_for(@_)->{request} }

# As the original makes it, with a given key.
sub original {
    my ($uri, $key, %attribute) = @_;
    my $request = Protocol::WebSocket::Request->new(
        $attribute{http_headers} ? (headers => $attribute{http_headers}) : ());
    my $handshake = Protocol::WebSocket::Handshake::Client->new(
        url => $uri,
        req => $request,
        $attribute{protocol_version} ? (version => $attribute{protocol_version}) : (),
    );
    $request->subprotocol(join ',', @{ $attribute{subprotocol} }) if $attribute{subprotocol};
    $request->key($key);
    return $handshake->to_string;
}

subtest 'is the same as the original\'s, but for the key' => sub {
    for my $case (
        ['ws://example.test/'],
        ['ws://example.test'],
        ['ws://example.test:80/'],
        ['ws://example.test:8080/chat?room=1&x=%20y'],
        ['ws://Example.TEST/CamelCase//twice/./dot'],
        ['ws://127.0.0.1/'],
        ['ws://example.test/', subprotocol => ['a', 'b.c']],
        ['ws://example.test/', http_headers => ['X-B' => 1, 'X-A' => "tab\tand space", 'X-B' => "\xE9"]],
        ['ws://example.test/', http_headers => [Cookie => 'a=b', Authorization => encode_base64('x' x 90)]],
        ['ws://example.test/', http_headers => ['X-Empty' => '', 'X-Zero' => 0], subprotocol => ['chat']],
        ['ws://example.test/', protocol_version => 'draft-ietf-hybi-10', subprotocol => ['chat']],
        ['ws://example.test/', protocol_version => 'draft-ietf-hybi-17'],
    ) {
        my ($uri, %attribute) = @$case;
        my $peer = peer_for($uri, %attribute);
        is $peer->{request}, original($uri, $peer->{field}{'sec-websocket-key'}, %attribute),
            join(' ', $uri, map { ref ? "[@$_]" : $_ } @attribute{ sort keys %attribute }) =~ s/\n//gr;
    }
};

subtest 'the old versions ask in their own way' => sub {
    my $hixie = peer_for('ws://example.test/x', protocol_version => 'draft-hixie-75', subprotocol => 'chat');
    is $hixie->{request}, original('ws://example.test/x', '', protocol_version => 'draft-hixie-75',
        subprotocol => ['chat']),
        'draft-hixie-75';
    my $hybi = peer_for('ws://example.test/x', protocol_version => 'draft-ietf-hybi-00', http_headers => [X => 'y']);
    run_until { length $hybi->{bytes} } 'the challenge';
    is length $hybi->{bytes}, 8, 'draft-ietf-hybi-00: the challenge is the body';
    like $hybi->{field}{'sec-websocket-key1'}, qr/ /, 'with keys';
    is [@{ $hybi->{field} }{qw(x sec-websocket-version)}], ['y', undef], 'and headers of the program, but no version';
};

subtest 'the key is 16 bytes, another each time' => sub {
    my %seen;
    for (1 .. 20) {
        my $key = peer_for('ws://h/')->{field}{'sec-websocket-key'};
        like $key, qr{\A[A-Za-z0-9+/]{22}==\z}, 'in base64';
        is length decode_base64($key), 16, '16 bytes';
        $seen{$key} = 1;
    }
    is scalar keys %seen, 20, 'none comes twice';
    srand 1;
    my $first = peer_for('ws://h/')->{field}{'sec-websocket-key'};
    srand 1;
    isnt peer_for('ws://h/')->{field}{'sec-websocket-key'}, $first, 'it does not come from rand';
    my $bytes = AnyEvent::WebSocket::Client::Handshake::random_bytes(4096);
    is length $bytes, 4096, 'as many random bytes as asked for';
    cmp_ok scalar(keys %{ { map { $_ => 1 } unpack 'C*', $bytes } }), '>', 250, 'and random they are';
    is AnyEvent::WebSocket::Client::Handshake::random_bytes(0), '', 'none, where none are asked for';
};

subtest 'what a URI asks for (RFC 6455 section 3)' => sub {
    for my $case (
        # URI, resource name, Host
        ['ws://h?query',               '/?query',            'h'],
        ['ws://h/?',                   '/?',                 'h'],
        ['ws://h/a#fragment',          '/a',                 'h'],
        ['ws://h/a?b=/c/d#e?f',        '/a?b=/c/d',          'h'],
        ['ws://h#fragment/x',          '/',                  'h'],
        ['ws://[::1]/',                '/',                  '[::1]'],
        ['ws://[2001:db8::1]:8080/x',  '/x',                 '[2001:db8::1]:8080'],
        ['ws://[::ffff:1.2.3.4]:80/',  '/',                  '[::ffff:1.2.3.4]'],
        ['ws://user:secret@h:81/',     '/',                  'h:81'],
        ['ws://u@v@h/',                '/',                  'h'],
        ['ws://h:/',                   '/',                  'h'],
        ['ws://h:0080/',               '/',                  'h'],
        ['ws://h:443/',                '/',                  'h:443'],
        ['ws://h/a b',                 '/a%20b',             'h'],
        ['ws://h/ü?ü',                 '/%C3%BC?%C3%BC',     'h'],
        ['ws://h/☺',                   '/%E2%98%BA',         'h'],
        ['ws://bücher.test/',          '/',                  'xn--bcher-kva.test'],
        ["ws://h/a\r\nX-Evil: yes",    '/a%0D%0AX-Evil:%20yes', 'h'],
        ["ws://h/a\0b",                '/a%00b',             'h'],
        ["ws://h/%0d%0aX-Evil:yes",    '/%0d%0aX-Evil:yes',  'h'],
        ['WS://H.test/',               '/',                  'H.test'],
        ['<ws://h/x>',                 '/x',                 'h'],
        ["  ws://h/x\n",               '/x',                 'h'],
    ) {
        my ($uri, $resource, $host) = @$case;
        my $peer = peer_for($uri);
        my $name = $uri =~ s/[\r\n\0]/?/gr;
        is $peer->{request} =~ /\AGET (.*) HTTP\/1\.1\r\n/ && $1, $resource, "$name: resource name";
        is $peer->{field}{host},   $host,          "$name: Host";
        is $peer->{field}{origin}, "http://$host", "$name: Origin";
        is [sort keys %{ $peer->{fields} }],
            [qw(connection host origin sec-websocket-key sec-websocket-version upgrade)], "$name: no other headers";
    }
};

subtest 'a program\'s header takes the place of one that may only be there once' => sub {
    my %headers = (
        HOST                    => 'other',
        origin                  => 'http://o',
        'SEC-WebSocket-Key'     => 'a2V5',
        'sec-websocket-version' => 14,
    );
    my $peer = peer_for('ws://h:81/', http_headers => \%headers);
    is $peer->{fields}{ lc $_ }, [$headers{$_}], $_ for sort keys %headers;
    is $peer->{field}{upgrade}, 'WebSocket', 'the rest stays';
    # As browsers send it, and people copy it from there.
    my @copied = (Connection => 'keep-alive, Upgrade', Origin => 'a', Origin => 'b');
    $peer = peer_for('ws://h/', http_headers => \@copied);
    is $peer->{fields}{connection}, ['Upgrade', 'keep-alive, Upgrade'], 'lists are added to';
    is $peer->{fields}{origin}, ['a', 'b'], 'what the program repeats stays repeated';
    my $client = $CLIENT->new(http_headers => { 'Sec-WebSocket-Key' => 'a2V5' });
    is connection_of($client->connect($server->{uri}))->role, 'client',
        'the answer is compared with the key that was sent';
};

subtest 'line ends in headers do not make headers' => sub {
    my $peer = peer_for('ws://h/', http_headers => { 'X-A' => "a\r\nX-Evil: yes\r\n\r\n", 'X-B' => "\nb\n" });
    is $peer->{field}{'x-a'}, 'aX-Evil: yes', 'they are taken out of values, as in the original';
    is $peer->{field}{'x-b'}, 'b', 'at their ends, too';
    is $peer->{field}{'x-evil'}, undef, 'no header comes of it';
    is $peer->{bytes}, '', 'nor does another request';

    # Where the program changes the list after the checks.
    my @headers = (X => 'y');
    my @subprotocols = ('a');
    my $client = $CLIENT->new(http_headers => \@headers, subprotocol => \@subprotocols);
    push @headers, "Y: z\r\nEvil" => 1;
    is error_of($client->connect($server->{uri})),
        q{handshake error: http_headers: 'Y: z\x0D\x0AEvil' is not a header name},
        'a name is checked when it is sent';
    splice @headers, 2;
    $headers[1] = "a\0";
    is error_of($client->connect($server->{uri})),
        'handshake error: http_headers: the value of X has a control character',
        'so is a value';
    $headers[1] = 'y';
    $subprotocols[0] = "a\r\nEvil: yes";
    is error_of($client->connect($server->{uri})),
        q{handshake error: subprotocol: 'a\x0D\x0AEvil: yes' is not a name},
        'so is a subprotocol';
};

subtest 'values that are no octets' => sub {
    my $text = 'é☺';
    my $peer = peer_for('ws://h/', http_headers => { 'X-Wide' => $text, 'X-Latin' => 'é', 'X-Undef' => undef });
    is $peer->{field}{'x-wide'}, "\xC3\xA9\xE2\x98\xBA", 'characters that are none are sent as UTF-8';
    is $peer->{field}{'x-latin'}, "\xE9", 'others as in the original';
    is $peer->{field}{'x-undef'}, '', 'undef is empty';
    is $text, 'é☺', 'the program\'s value stays as it was';
    is(AnyEvent::WebSocket::Client->new(http_headers => ['X' => $text])->http_headers, ['X', $text],
        'in the attribute, too');
};

subtest 'subprotocols are named once each' => sub {
    is peer_for('ws://h/', subprotocol => ['b', 'a', 'b'])->{field}{'sec-websocket-protocol'}, 'b,a',
        'in their order';
    is peer_for('ws://h/', subprotocol => [])->{field}{'sec-websocket-protocol'}, undef, 'an empty list is none';
};

subtest 'permessage-deflate is offered on request only' => sub {
    my $name = 'sec-websocket-extensions';
    is peer_for('ws://h/', permessage_deflate => 0)->{field}{$name}, undef, 'not where it is off';
    is peer_for('ws://h/', permessage_deflate => 1)->{field}{$name}, 'permessage-deflate; client_max_window_bits',
        'on';
    like peer_for('ws://h/', permessage_deflate => { server_no_context_takeover => 1, server_max_window_bits => 9 })
        ->{field}{$name}, qr/^(?=.*; server_no_context_takeover)(?=.*; server_max_window_bits=9)permessage-deflate;/,
        'with parameters';
    is peer_for('ws://h/', http_headers => { 'Sec-WebSocket-Extensions' => 'x-own' })->{fields}{$name}, ['x-own'],
        'a header of the program stays as it is';
};

subtest 'more than the socket takes at once' => sub {
    my $value = 'x' x 8_000_000;
    is peer_for('ws://h/', http_headers => { 'X-Large' => $value })->{field}{'x-large'} eq $value, T(), 'arrives';
    my $gone = raw_server(answer => sub { undef });
    my $done = $CLIENT->new(http_headers => { 'X-Large' => $value }, timeout => 0.3)->connect($gone->{uri});
    like error_of($done), qr/^handshake error: timeout/, 'and the answer is waited for';
};

done_testing;
