# What AnyEvent::WebSocket::Server does not accept: each error with its text, and the socket left as it was.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Server;
use IO::Handle ();
use Opening qw(:all);
use Peer qw(frame run_for run_until settle socket_pair tcp_pair read_until_eof);
use POSIX ();
use Test2::V0;
use Time::HiRes ();

my $HANDSHAKE = 'handshake error';

# Each is a request and what its error says.
my %REFUSED = (
    'another method' => [[line => 'POST / HTTP/1.1'], "the method is 'POST', not GET"],
    'a method in lower case' => [[line => 'get / HTTP/1.1'], "the method is 'get', not GET"],
    'HTTP/1.0'  => [[line => 'GET / HTTP/1.0'], "the protocol is 'HTTP/1.0', not HTTP/1.1"],
    'HTTP/2'    => [[line => 'PRI * HTTP/2.0'], "the method is 'PRI', not GET"],
    'HTTP/2.0'  => [[line => 'GET / HTTP/2.0'], "the protocol is 'HTTP/2.0', not HTTP/1.1"],
    'HTTP/0.9'  => [[line => 'GET /'], "the request line is malformed: 'GET /'"],
    'no target' => [[line => 'GET  HTTP/1.1'], "the request line is malformed: 'GET  HTTP/1.1'"],
    'a space in the target' => [[line => 'GET /a b HTTP/1.1'], "the request line is malformed: 'GET /a b HTTP/1.1'"],
    'control characters in the target' =>
        [[line => "GET /\e[2J\x00 HTTP/1.1"], q(the request line is malformed: 'GET /\\x1B[2J\\x00 HTTP/1.1')],
    'an empty request line' => [[line => ''], "the request line is malformed: ''"],
    'garbage' => [
        [line => "\x16\x03\x01\x02\x00\x01"],
        q(the request line is malformed: '\\x16\\x03\\x01\\x02\\x00\\x01')
    ],
    'a long line is shortened' => [[line => 'x' x 100], "the request line is malformed: '" . 'x' x 77 . "...'"],

    'a plain HTTP request' => [
        [Upgrade => undef, Connection => 'keep-alive'],
        'this is not a WebSocket request, since there is no Upgrade field'
    ],
    'an empty Upgrade field' => [[Upgrade => ''], 'this is not a WebSocket request, since there is no Upgrade field'],
    'another upgrade' => [[Upgrade => 'h2c'], "the Upgrade field is 'h2c', without websocket"],
    'websocket as part of a word' =>
        [[Upgrade => 'websockets, xwebsocket'], "the Upgrade field is 'websockets, xwebsocket', without websocket"],
    'no Connection' => [[Connection => undef], 'there is no Connection field'],
    'Connection without Upgrade' =>
        [[Connection => 'keep-alive'], "the Connection field is 'keep-alive', without Upgrade"],

    'version 8' => [
        ['Sec-WebSocket-Version' => 8],
        "unsupported WebSocket protocol version draft-ietf-hybi-10 (Sec-WebSocket-Version is '8', not 13)"
    ],
    'version 013' => [
        ['Sec-WebSocket-Version' => '013'],
        "unsupported WebSocket protocol version draft-ietf-hybi-10 (Sec-WebSocket-Version is '013', not 13)"
    ],
    'a list of versions' => [
        ['Sec-WebSocket-Version' => '13, 8'],
        "unsupported WebSocket protocol version draft-ietf-hybi-10 (Sec-WebSocket-Version is '13, 8', not 13)"
    ],
    'no version' => [
        ['Sec-WebSocket-Version' => undef],
        'unsupported WebSocket protocol version draft-ietf-hybi-10 (there is no Sec-WebSocket-Version field)'
    ],
    'hixie-76' => [
        [
            'Sec-WebSocket-Version' => undef, 'Sec-WebSocket-Key' => undef, 'Sec-WebSocket-Key1' => '3e6b263  4 17 80',
            'Sec-WebSocket-Key2' => '17  9 G`ZD9   2 2b 7X 3 /r90',
        ],
        'unsupported WebSocket protocol version draft-ietf-hybi-00 (there is no Sec-WebSocket-Version field)'
    ],
    'hixie-75' => [
        ['Sec-WebSocket-Version' => undef, 'Sec-WebSocket-Key' => undef],
        'unsupported WebSocket protocol version draft-hixie-75 (there is no Sec-WebSocket-Version field)'
    ],

    'no Host'    => [[Host => undef], 'there is no Host field'],
    'empty Host' => [[Host => ''], 'there is no Host field'],
    'two Hosts'  => [[Host => ['a', 'b']], 'there is more than one Host field'],
    'the same Host twice' => [[Host => ['a', 'a']], 'there is more than one Host field'],
    'a Host with a path'  => [[Host => 'h/x'], "the Host field is malformed: 'h/x'"],
    'a Host with spaces'  => [[Host => 'a b'], "the Host field is malformed: 'a b'"],
    'no key'      => [['Sec-WebSocket-Key' => undef], 'there is no Sec-WebSocket-Key field'],
    'an empty key' => [['Sec-WebSocket-Key' => ''], 'there is no Sec-WebSocket-Key field'],
    'two keys'    => [['Sec-WebSocket-Key' => [$KEY, $KEY]], 'there is more than one Sec-WebSocket-Key field'],
    'two versions' => [['Sec-WebSocket-Version' => [13, 13]], 'there is more than one Sec-WebSocket-Version field'],
    (map { my $key = $_; ("the key $key" => [
        ['Sec-WebSocket-Key' => $key], "Sec-WebSocket-Key is not 16 bytes in Base64: '$key'"
    ]) } 'short', 'A' x 24, 'A' x 20 . '====',
        (map { 'A' x $_ . '==' } 20, 21, 23, 24), 'A' x 21 . '=', 'A' x 22 . '=', 'A' x 23 . '=', 'A' x 22,
        'A' x 21 . '-==', "$KEY,$KEY", "$KEY$KEY"),

    'a folded field' => [['X-A' => "1\r\n folded: 2"], q(a header field is malformed: ' folded: 2')],
    'a line without a colon' => [['X-A' => "1\r\nno colon"], q(a header field is malformed: 'no colon')],
    'a space before the colon' => [['X-A ' => '1'], q(a header field is malformed: 'X-A : 1')],
    'a field without a name' => [['' => '1'], q(a header field is malformed: ': 1')],
    'a name that is no token' => [['X(A)' => '1'], q(a header field is malformed: 'X(A): 1')],
    'NUL in a field' => [['X-A' => "1\x002"], q(there is a control character in the header field 'x-a')],
    # Which some take for white space, or for the end of a string.
    (map {
        my ($byte, $field) = @$_;
        my $name = sprintf 'byte %02x at the end of %s', ord $byte, $field;
        ($name => [[$field => "server.example$byte"], "there is a control character in the header field '\L$field'"])
    } map { my $byte = $_; map { [$byte, $_] } qw(Host Origin Upgrade X-A) } "\0", "\x0b", "\f", "\r", "\0 \t"),
    'CR in a field'  => [['X-A' => "1\rX-B: 2"], q(there is a control character in the header field 'x-a')],
    'CR in the subprotocol' => [
        ['Sec-WebSocket-Protocol' => "a\rSet-Cookie: x=y"],
        q(there is a control character in the header field 'sec-websocket-protocol')
    ],
    'a body by length'   => [['Content-Length' => 5], 'the request has a body'],
    'a chunked body'     => [['Transfer-Encoding' => 'chunked'], 'the request has a body'],
    'two lengths'        => [['Content-Length' => [0, 5]], 'the request has a body'],
    'a Host that is none to Protocol::WebSocket' => [[Host => '0'], "the Host field is malformed: '0'"],
);
# The program has the server's end of a socket, with nothing of ours on it.
sub is_usable {
    my ($socket, $client, $name) = @_;
    ok defined fileno $socket, "$name: the socket is open" or return;
    my $cpu = Time::HiRes::clock();
    syswrite $client, 'from the client';
    run_for(0.02);
    cmp_ok Time::HiRes::clock() - $cpu, '<', 0.015, "$name: no watcher spins on it";
    my $got = '';
    is sysread($socket, $got, 100), 15, "$name: nor reads from it";
    is $got, 'from the client', "$name: so that the program can";
    syswrite $socket, "HTTP/1.1 400 Bad Request\r\n\r\n";
    is read_response($client), "HTTP/1.1 400 Bad Request\r\n\r\n", "$name: and it can answer";
    close $socket;
    is read_until_eof($client), '', "$name: and close it, nothing of ours having been sent";
    return;
}

sub refused {
    my ($error, $text, $name) = @_;
    ok defined $error, "$name: croaks" or return;
    is $error =~ s/ at \S+ line \d+\.\n\z//r, $text, "$name: says why";
    return;
}

my $server = AnyEvent::WebSocket::Server->new(
    handshake => sub { die 'the program should not see such a request' },
);

subtest 'requests that RFC 6455 does not allow' => sub {
    for my $name (sort keys %REFUSED) {
        my ($change, $text) = @{ $REFUSED{$name} };
        my ($outcome, $client, $socket);
        is warnings { ($outcome, $client, $socket) = opening($server, request(@$change)) }, [], "$name: no warnings";
        refused($outcome->{error}, "$HANDSHAKE: $text", $name);
        is sysread($client, my $nothing, 1), undef, "$name: nothing was sent";
    }
};

subtest 'and the socket after that' => sub {
    for my $name ('another method', 'a plain HTTP request', 'version 8', 'no key') {
        my ($condvar, $client, $socket) = start($server);
        syswrite $client, request(@{ $REFUSED{$name}[0] });
        run_until { $condvar->ready } 'the error';
        is_usable($socket, $client, $name);
    }
};

subtest 'the program answers from inside the callback' => sub {
    my ($condvar, $client, $socket) = start($server);
    $condvar->cb(sub {
        return if eval { $_[0]->recv };
        syswrite $socket, "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\n\r\n";
        close $socket;
    });
    syswrite $client, request('Sec-WebSocket-Version' => 8);
    like read_until_eof($client), qr/\AHTTP\/1.1 426 .*\r\n\r\n\z/s, 'the client has it';
};

subtest 'the program goes on with a handle of its own' => sub {
    my ($condvar, $client, $socket) = start($server);
    my $handle;
    $condvar->cb(sub {
        eval { $_[0]->recv };
        $handle = AnyEvent::Handle->new(fh => $socket, on_error => sub { });
        $handle->push_read(line => sub { $_[0]->push_write("echo $_[1]\n") });
    });
    syswrite $client, request(Upgrade => undef);
    run_until { $handle } 'the error';
    syswrite $client, "line\n";
    is read_some($client, 10), "echo line\n", 'and it works';
};

subtest 'the same socket again' => sub {
    my ($condvar, $client, $socket) = start({});
    syswrite $client, request(Upgrade => undef);
    ok outcome($condvar)->{error}, 'a plain request first';
    my $again = AnyEvent::WebSocket::Server->new->establish($socket);
    syswrite $client, request();
    ok outcome($again)->{connection}, 'then one that opens a connection';
};

subtest 'a socket that the program does not keep closes' => sub {
    my ($ours, $theirs) = socket_pair();
    AnyEvent::fh_unblock($theirs);
    my $condvar = $server->establish($ours);
    undef $ours;
    syswrite $theirs, request(Host => undef);
    is read_until_eof($theirs), '', 'without an answer';
    like outcome($condvar)->{error}, qr/no Host/, 'and the error is there';
};

subtest 'missing and unfit sockets' => sub {
    my $establish = sub { outcome(AnyEvent::WebSocket::Server->new->establish(@_))->{error} };
    my $ok = sub { my ($text, @arguments) = @_; refused($establish->(@arguments), $text, $text) };
    $ok->('fh parameter is mandatory for establish() method');
    $ok->('fh parameter is mandatory for establish() method', undef);
    my ($closed) = socket_pair();
    close $closed;
    $ok->('connection error: this is not an open file handle', $closed);
    $ok->('connection error: this is not an open file handle', 'a string');
    $ok->('connection error: this is not an open file handle', {});
    $ok->('connection error: this is not an open file handle', '');
    open my $memory, '<', \'memory';
    $ok->('connection error: this is not an open file handle', $memory);
    socket my $datagram, Socket::AF_UNIX(), Socket::SOCK_DGRAM(), 0 or die $!;
    like $establish->($datagram), qr/^connection error: .*only stream sockets/, 'a datagram socket';
    unlike $establish->($datagram), qr/ at .* at /, 'with the line of the program, and no other';
};

sub limited {
    my ($options, $bytes, $text, $name) = @_;
    my ($condvar, $client, $socket) = start({%$options, handshake => sub { die 'not reached' }});
    run_until { substr $bytes, 0, syswrite($client, $bytes) // 0, ''; $condvar->ready } 'the error';
    refused(outcome($condvar)->{error}, $text, $name);
    return;
}

subtest 'max_header_size' => sub {
    my $too_large = sub { "$HANDSHAKE: the request's header is larger than $_[0] bytes (max_header_size)" };
    my $padded    = sub {
        my ($size) = @_;
        my $without = length request('X-Padding' => '');
        return request('X-Padding' => 'p' x ($size - $without));
    };
    for my $size (300, 1000, 16_384) {
        my %options = $size == 16_384 ? () : (max_header_size => $size);
        my ($outcome) = opening({%options}, $padded->($size));
        ok $outcome->{connection}, "$size bytes pass with " . (%options ? $size : 'the default');
        limited(\%options, $padded->($size + 1), $too_large->($size), $size + 1 . ' do not');
    }
    for my $size (20_000, 100_000) {
        my ($condvar, $client) = start({max_header_size => 0, validator => sub { length $_[0]->field('X-Long') }});
        my $bytes = request('X-Long' => 'l' x $size);
        run_until { substr $bytes, 0, syswrite($client, $bytes) // 0, ''; $condvar->ready } 'the end';
        is outcome($condvar)->{other}, [$size], "$size bytes pass with 0";
    }
    limited({}, "GET / HTTP/1.1\r\n" . 'x' x 20_000, $too_large->(16_384), 'a field that does not end');
    limited({}, 'G' x 20_000, $too_large->(16_384), 'a request line that does not end');
    limited({}, "\r\n" x 20_000, "$HANDSHAKE: the request line is malformed: ''", 'empty lines');
    limited({}, "GET / HTTP/1.1\r\n" . "a: b\r\n" x 5000, $too_large->(16_384), 'fields that do not end');

    my ($condvar, $client) = start({max_header_size => 300});
    syswrite $client, request() . frame(payload => 'x' x 1000, mask => 'mask');
    ok outcome($condvar)->{connection}, 'frames behind the request do not count';
};

subtest 'a request over the limit, byte by byte' => sub {
    my ($condvar, $client, $socket) = start({max_header_size => 50});
    my $sent = drip($client, $socket, 'x' x 60, sub { $condvar->ready });
    is $sent, 51, 'ends at the first byte too many';
    like outcome($condvar)->{error}, qr/larger than 50 bytes/, 'with the error';
    is_usable($socket, $client, 'after that');
};

# CPU time that grows with the square of the size would be minutes here.
subtest 'large hostile headers take no long time' => sub {
    my $size = 1 << 20;
    my %hostile = (
        'spaces in a value'  => ['X-A' => 'a' . ' ' x $size . 'b'],
        'spaces at the end'  => ['X-A' => 'a' . " \t" x ($size / 2)],
        'spaces in a list'   => [Connection => 'Upgrade' . ' ' x $size . ', x'],
        'tabs in a value'    => ['X-A' => "a\t " x ($size / 3) . 'b'],
        'spaces in a cookie' => [Cookie => '"' . ' ' x $size . '"'],
        'tabs in a cookie'   => [Cookie => '"' . " \t" x ($size / 2) . '"'],
        'a quoted cookie'    => [Cookie => 'a="' . '\\"' x ($size / 2)],
        'commas'             => ['Sec-WebSocket-Protocol' => ',' x $size],
        'commas and spaces'  => [Connection => 'Upgrade' . ', ' x ($size / 2)],
        'many fields'        => ['X-A' => [('') x ($size / 8)]],
        'many extensions'    => ['Sec-WebSocket-Extensions' => 'permessage-deflate; x, ' x ($size / 20)],
    );
    for my $name (sort keys %hostile) {
        my ($condvar, $client) = start({max_header_size => 0, permessage_deflate => 1, subprotocols => ['p']});
        my $bytes = request(@{ $hostile{$name} });
        my $cpu   = Time::HiRes::clock();
        is warnings {
            run_until { substr $bytes, 0, syswrite($client, $bytes) // 0, ''; $condvar->ready } $name;
        }, [], "$name: no warnings";
        cmp_ok Time::HiRes::clock() - $cpu, '<', 2, "$name: 1 MiB";
        ok outcome($condvar)->{connection}, "$name: is a request all the same";
    }
};

subtest 'handshake_timeout' => sub {
    my $text = "$HANDSHAKE: timeout: there was no complete request after 0.05 seconds";
    my ($condvar, $client, $socket) = start({handshake_timeout => 0.05});
    refused(outcome($condvar)->{error}, $text, 'nothing comes');
    is_usable($socket, $client, 'after that');

    ($condvar, $client, $socket) = start({handshake_timeout => 0.05});
    my $bytes = request();
    run_until { syswrite $client, substr $bytes, 0, 1, '' if length $bytes > 4; $condvar->ready } 'the timeout';
    refused(outcome($condvar)->{error}, $text, 'bytes come slowly');
    1 while sysread $socket, my $late, 100;
    is_usable($socket, $client, 'after that');

    my $took;
    my ($outcome, $client_of_slow) = opening({handshake_timeout => 0.5, handshake => sub {
        my $until = Time::HiRes::time() + 0.7;
        Peer::nested { run_until { Time::HiRes::time() > $until } };
        $took = 1;
        return $_[1];
    }});
    ok $took && $outcome->{connection}, "the program's code may take longer";
    run_for(0.1);
    ok !$outcome->{connection}->handle->destroyed, 'and nothing comes of it afterwards';
};

subtest 'handshake_timeout where the program keeps the event loop waiting' => sub {
    my ($condvar, $client);
    my $timer = AE::timer 0, 0, sub {
        select undef, undef, undef, 0.6;
        ($condvar, $client) = start({handshake_timeout => 0.5});
        syswrite $client, request();
    };
    run_until { $condvar } 'the start';
    ok outcome($condvar)->{connection}, 'counts from the beginning';
};

subtest 'without handshake_timeout there is none' => sub {
    my ($condvar, $client) = start({});
    run_for(0.1);
    ok !$condvar->ready, 'it waits';
    syswrite $client, request();
    ok outcome($condvar)->{connection}, 'for as long as the client likes';
};

subtest 'the client goes away' => sub {
    my %sent = (nothing => '', 'a part' => "GET / HTTP/1.1\r\nHost: x", 'nearly all' => substr request(), 0, -1);
    for my $name (sort keys %sent) {
        my ($condvar, $client, $socket) = start({handshake => sub { die 'not reached' }});
        syswrite $client, $sent{$name} if length $sent{$name};
        settle();
        shutdown $client, 1;
        run_until { $condvar->ready } 'the error';
        refused(outcome($condvar)->{error}, 'connection error: Unexpected end-of-file', "EOF after $name");
        syswrite $socket, 'late';
        close $socket;
        is read_until_eof($client), 'late', "EOF after $name: a client that reads still gets an answer";

        ($condvar, $client, $socket) = start({handshake => sub { die 'not reached' }});
        syswrite $client, $sent{$name} if length $sent{$name};
        close $client;
        run_until { $condvar->ready } 'the error';
        refused(outcome($condvar)->{error}, 'connection error: Unexpected end-of-file', "closed after $name");
    }

    my ($ours, $theirs) = tcp_pair();
    my $condvar = AnyEvent::WebSocket::Server->new->establish($ours);
    syswrite $theirs, 'GET /';
    settle();
    setsockopt $theirs, Socket::SOL_SOCKET(), Socket::SO_LINGER(), pack 'ii', 1, 0;
    close $theirs;
    my $reset = do { local $! = Errno::ECONNRESET(); "$!" };
    refused(outcome($condvar)->{error}, "connection error: $reset", 'a reset');
    ok defined fileno $ours, 'the socket is open even then';
};

subtest 'the client has gone when the response is to be sent' => sub {
    my ($condvar, $client, $socket);
    ($condvar, $client, $socket) = start({handshake => sub { close $client; $_[1] }});
    syswrite $client, request();
    my $broken = do { local $! = Errno::EPIPE(); "$!" };
    my $outcome;
    is warnings { $outcome = outcome($condvar); settle() }, [], 'no warnings';
    refused($outcome->{error}, "connection error: $broken", 'a connection error');
    ok defined fileno $socket, 'the socket is still open';
};

# With TLS it may still be writing then.
subtest 'the handle fails while the program is asked' => sub {
    my $handle;
    my $new = AnyEvent::Handle->can('new');
    no warnings 'redefine';
    local *AnyEvent::Handle::new = sub { $handle = $new->(@_) };
    my ($outcome, $client, $socket);
    is warnings {
        ($outcome, $client, $socket) = opening({handshake => sub { $handle->_error(Errno::EPIPE(), 1); $_[1] }});
    }, [], 'no warnings';
    like $outcome->{error}, qr/^connection error: ./, 'a connection error';
    syswrite $socket, 'an answer';
    is read_some($client, 9), 'an answer', 'the socket is as it was';
};

subtest 'the program closes the socket while it is asked' => sub {
    my ($condvar, $client, $socket);
    ($condvar, $client, $socket) = start({handshake => sub { close $socket; $_[1] }});
    syswrite $client, request();
    my $error = outcome($condvar)->{error};
    refused($error, 'connection error: the program has closed the socket', 'a connection error');
};

done_testing;
