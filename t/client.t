# What a Client is as a Perl object, and what `connect` comes to where all goes well.

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;
use AnyEvent;
use AnyEvent::WebSocket::Client;
use Dying qw(dies_here);
use File::Temp qw(tempdir);
use Peer qw(frame run_until settle nested history finished);
use RawServer qw(raw_server response connection_of error_of peer_of closed_port run_through_exceptions);
use Scalar::Util qw(weaken);
use URI;

my $CLIENT = 'AnyEvent::WebSocket::Client';

subtest 'defaults' => sub {
    my $client = $CLIENT->new;
    is $client->timeout,         30,    'timeout';
    is $client->env_proxy,       0,     'env_proxy';
    is $client->max_header_size, 16384, 'max_header_size';
    is $client->max_redirects,   0,     'max_redirects';
    is $client->$_, undef, $_
        for qw(ssl_no_verify ssl_ca_file protocol_version subprotocol http_headers max_payload_size max_fragments
        max_message_size validate_utf8 close_timeout permessage_deflate);
    is $CLIENT->new(timeout => undef)->timeout, undef, 'undef can be given where it means none';
    is $CLIENT->new({ timeout => 5 })->timeout, 5, 'attributes can come in a hash reference';
    is $CLIENT->VERSION('0.12'), $AnyEvent::WebSocket::Client::VERSION, 'programs that ask for 0.12 are content';
};

subtest 'subprotocol and http_headers become lists' => sub {
    is $CLIENT->new(subprotocol => 'foo')->subprotocol, ['foo'], 'a string';
    is $CLIENT->new(subprotocol => ['foo', 'bar'])->subprotocol, ['foo', 'bar'], 'an array stays';
    is $CLIENT->new(subprotocol => undef)->subprotocol, undef, 'undef is none';
    my @list = ('X-B' => 1, 'X-A' => 2, 'X-B' => 3);
    is $CLIENT->new(http_headers => \@list)->http_headers, \@list, 'an array stays, in its order';
    is $CLIENT->new(http_headers => { 'X-B' => 1, 'X-A' => ['a', 'b'] })->http_headers,
        ['X-A' => 'a', 'X-A' => 'b', 'X-B' => 1], 'a hash is sorted by name, arrays in it are repeated headers';
    is $CLIENT->new(http_headers => {})->http_headers,    [], 'an empty hash';
    is $CLIENT->new(http_headers => undef)->http_headers, [], 'undef is none';
    is $CLIENT->new(http_headers => { Origin => URI->new('http://a/') })->http_headers, [Origin => 'http://a/'],
        'an object stands for its string';
};

subtest 'what cannot be meant dies at the line of the caller' => sub {
    dies_here(sub { $CLIENT->new($_->[0] => $_->[1]) }, $_->[2], "$_->[0]: $_->[2]") for
        [timeout            => -1,                     'timeout must be a number that is not negative'],
        [timeout            => 'soon',                 'timeout must be a number'],
        [max_header_size    => 'x',                    'max_header_size must be a number'],
        [max_redirects      => -1,                     'max_redirects must be a number'],
        [max_payload_size   => 'x',                    'max_payload_size must be a number'],
        [max_fragments      => -5,                     'max_fragments must be a number'],
        [max_message_size   => [],                     'max_message_size must be a number'],
        [close_timeout      => 'x',                    'close_timeout must be a number'],
        [protocol_version   => 'rfc6455',              q{protocol_version 'rfc6455' is not known}],
        [subprotocol        => {},                     'subprotocol must be a string or an array reference'],
        [subprotocol        => '',                     q{subprotocol: '' is not a name}],
        [subprotocol        => ['a', undef],           q{subprotocol: '' is not a name}],
        [subprotocol        => 'a,b',                  q{subprotocol: 'a,b' is not a name}],
        [subprotocol        => "a\r\nX: y",            q{subprotocol: 'a\\\\x0D\\\\x0AX: y' is not a name}],
        [http_headers       => 'X: y',                 'http_headers must be a hash or array reference'],
        [http_headers       => ['X'],                  'http_headers: the last one has no value'],
        [http_headers       => { 'X Y'  => 1 },        q{http_headers: 'X Y' is not a header name}],
        [http_headers       => { 'X:'   => 1 },        q{http_headers: 'X:' is not a header name}],
        [http_headers       => { ''     => 1 },        q{http_headers: '' is not a header name}],
        [http_headers       => { "X\nY" => 1 },        q{http_headers: 'X\\\\x0AY' is not a header name}],
        [http_headers       => { X      => "a\0b" },   'http_headers: the value of X has a control character'],
        [permessage_deflate => { level => 11 },        'permessage_deflate: level must be an integer'],
        [permessage_deflate => { levle => 1 },         'permessage_deflate: unknown options: levle'];
    dies_here(sub { $CLIENT->new('timeout') }, 'AnyEvent::WebSocket::Client->new takes a hash reference',
        'half an attribute');
    my $client = $CLIENT->new;
    dies_here(sub { $client->timeout(5) }, 'timeout is a read-only accessor', 'accessors are read-only');
};

subtest 'connect takes a string or a URI object, and yields a connection' => sub {
    my $server = raw_server();
    for my $uri ($server->{uri}, URI->new($server->{uri}), "WS" . substr $server->{uri}, 2) {
        my $done       = $CLIENT->new->connect($uri);
        my $connection = connection_of($done);
        isa_ok $connection, 'AnyEvent::WebSocket::Connection';
        isa_ok $done, 'AnyEvent::CondVar';
        ref_is $done->recv, $connection, 'the condition variable has it for whoever asks again';
        is peer_of($server)->{field}{host}, "127.0.0.1:$server->{port}", 'the server is told its name';
    }
    my $uri = URI->new($server->{uri});
    my $done = $CLIENT->new->connect($uri);
    $uri->host('elsewhere.invalid');
    is connection_of($done)->role, 'client', 'the program may change its URI meanwhile';
};

subtest 'the connection is a client, with the attributes that are for it' => sub {
    my $server     = raw_server();
    my $connection = connection_of($CLIENT->new->connect($server->{uri}));
    is $connection->masked, 1,        'it masks';
    is $connection->role,   'client', 'and knows its role';
    is $connection->$_, undef, "$_ is undef where the client has none"
        for qw(subprotocol max_payload_size max_fragments max_message_size extensions);
    is $connection->close_timeout, 30, 'close_timeout is its default';
    ok $connection->validate_utf8, 'so is validate_utf8';
    my %attribute = (
        max_payload_size => 1000,
        max_fragments    => 7,
        max_message_size => 5000,
        validate_utf8    => 0,
        close_timeout    => 3,
    );
    $connection = connection_of($CLIENT->new(%attribute)->connect($server->{uri}));
    is $connection->$_, $attribute{$_}, $_ for sort keys %attribute;
};

subtest 'messages go both ways, and close is clean' => sub {
    my $server     = raw_server();
    my $connection = connection_of($CLIENT->new->connect($server->{uri}));
    my $peer       = peer_of($server);
    my $history    = history($connection);
    $connection->send('hello');
    run_until { @{ $peer->{frames} } } 'the message';
    is $peer->{frames}[0]{payload}, 'hello', 'the server has the message';
    ok $peer->{frames}[0]{masked}, 'masked';
    $peer->{handle}->push_write(frame(payload => 'hi') . frame(opcode => 8, payload => pack('n a*', 1000, 'bye')));
    run_until { finished($history) || $peer->{end} } 'the end';
    $peer->{handle}->destroy;
    run_until { finished($history) } 'finish';
    is $history, ['hi', [finish => undef]], 'and the client the answer';
    is [$connection->close_code, $connection->close_reason], [1000, 'bye'], 'and the reason';
    ok $connection->was_clean, 'the close was clean';
};

subtest 'frames that are masked, as a server must not, fail the connection' => sub {
    my $server     = raw_server();
    my $connection = connection_of($CLIENT->new->connect($server->{uri}));
    my $history    = history($connection);
    peer_of($server)->{handle}->push_write(frame(payload => 'x', mask => 'abcd'));
    run_until { @$history } 'the error';
    is $history->[0][0], 'parse_error', 'parse_error is called';
};

subtest 'host and port can be others than those of the URI' => sub {
    my $server = raw_server();
    my $port   = $server->{port};
    for my $case (
        ["ws://name.invalid:$port/", '127.0.0.1'],
        ["ws://127.0.0.1:1/", undef, $port],
        ["ws://name.invalid:1/", '127.0.0.1', $port],
        ["ws://name.invalid/", '127.0.0.1', "http=$port"],
    ) {
        my ($uri, @override) = @$case;
        connection_of($CLIENT->new->connect($uri, @override));
        is peer_of($server)->{field}{host}, $uri =~ m{//([^/]*)} && $1, "$uri at @{[map { $_ // '-' } @override]}";
    }
};

subtest 'UNIX sockets' => sub {
    my $path   = tempdir(CLEANUP => 1) . '/socket';
    my $server = raw_server(path => $path);
    my $connection = connection_of($CLIENT->new->connect('ws://somewhere.invalid:81/chat', 'unix/', $path));
    my $peer = peer_of($server);
    is $peer->{field}{host}, 'somewhere.invalid:81', 'the server is told the name in the URI';
    my $history = history($connection);
    $peer->{handle}->push_write(frame(payload => 'over a file'));
    run_until { @$history } 'the message';
    is $history, ['over a file'], 'messages arrive';
    connection_of($CLIENT->new->connect('ws:///', 'unix/', $path));
    is peer_of($server)->{field}{host}, '', 'the URI needs no host then';
    local $ENV{ws_proxy} = 'http://127.0.0.1:' . closed_port();
    is error_of($CLIENT->new(env_proxy => 1)->connect('ws://x/', 'unix/', $path)), 'a connection',
        'no proxy is asked for them';
    like error_of($CLIENT->new->connect('ws://x/', 'unix/', "$path-not")), qr/^unable to connect: No such file/,
        'an error where there is no such socket';
    like error_of($CLIENT->new->connect('ws://x/', 'unix/', 'relative')), qr/^unable to connect/,
        'and where it is no absolute path';
};

subtest 'what is no WebSocket URI, or leads nowhere, is an error of the condition variable' => sub {
    my @no_websocket = (
        undef, '', 'garbage', 'http://h/', 'https://h/', '//h/', '/path', 'wsx://h/', 'ws:h', 'ws://', 'ws:///path',
        'ws://:80/', 'ws://h:x/', 'ws://h:1:2/', 'ws://h:65536/', 'ws://[::1/', 'ws://[h]/', 'ws://::1/', "ws://h\n/",
        'ws://h%0d%0aX:%20y/', 'ws://a%20b/', 'ws://a%00/', 'ws://a%2Fb/', [], {}, sub { }, URI->new('http://h/'),
        URI->new('x'),
    );
    for my $uri (@no_websocket) {
        my $done = $CLIENT->new->connect($uri);
        ok $done->ready, 'is known at once';
        like error_of($done), qr/^URI is not a websocket/, defined $uri ? "'$uri'" =~ s/\n/\\n/r : 'undef';
    }
    is error_of($CLIENT->new->connect('ws://h/', '127.0.0.1', 99999)), 'unable to connect: port 99999 is too large',
        'a port that is none';
    like error_of($CLIENT->new->connect('ws://h/', '127.0.0.1', 'no-such-service')),
        qr/^unable to connect: no-such-service/,
        'a service that is none';
    my $line = __LINE__ + 1;
    eval { $CLIENT->new->connect('http://h/')->recv };
    like $@, qr/^URI is not a websocket at \Q@{[__FILE__]}\E line $line\.?$/, 'recv dies at the line of the program';
};

subtest 'frames that come with the answer are delivered' => sub {
    my $frames = join '', map { frame(payload => "$_") } 1 .. 3;
    for my $cut (0 .. 3) {
        my $server = raw_server(answer => sub { response($_[0]) . substr $frames, 0, length($frames) - $cut });
        my $connection = connection_of($CLIENT->new->connect($server->{uri}));
        my $history = history($connection);
        peer_of($server)->{handle}->push_write(substr $frames, -$cut) if $cut;
        run_until { @$history == 3 } 'the messages';
        is $history, [1 .. 3], "all but the last $cut bytes";
    }
    my $server = raw_server(answer => sub {
        my ($peer) = @_;
        $peer->{handle}->push_write(response($peer) . $frames);
        $peer->{handle}->push_shutdown;
        return;
    });
    my $connection = connection_of($CLIENT->new->connect($server->{uri}));
    my $history    = history($connection);
    run_until { finished($history) } 'finish';
    is $history, [1 .. 3, [finish => undef]], 'also where the server closes at once';

    my $many = join '', map { frame(payload => 'x' x 5000) } 1 .. 20;
    $server = raw_server(answer => sub { response($_[0]) . $many });
    $connection = connection_of($CLIENT->new->connect($server->{uri}));
    $history    = history($connection);
    run_until { @$history == 20 } 'the messages';
    is scalar @$history, 20, 'also where they are more than a head may be';
};

subtest 'a connection nobody takes is closed' => sub {
    my $server = raw_server();
    $CLIENT->new->connect($server->{uri});
    my $peer = peer_of($server);
    run_until { $peer->{end} || @{ $peer->{frames} } } 'Close';
    is [map { [$_->{opcode}, $_->{payload}] } @{ $peer->{frames} }], [[8, pack 'n', 1000]], 'with Close 1000 (D3)';
};

subtest 'a connection that its callback lets go of loses nothing (C8)' => sub {
    # With input unread, so that just closing the socket would reset it.
    my $server = raw_server(answer => sub { response($_[0]) . frame(payload => 'x' x 50_000) });
    my $data   = join '', map { pack 'N', $_ } 1 .. 1 << 20;
    $CLIENT->new->connect($server->{uri})->cb(sub { $_[0]->recv->send($data) });
    my $peer = peer_of($server);
    $peer->{handle}->stop_read;
    $peer->{handle}->push_write(frame(payload => 'y' x 50_000));
    settle();
    $peer->{handle}->start_read;
    run_until { $peer->{end} } 'the end';
    is $peer->{end}, 'EOF', 'the socket is not reset';
    is [map { length $_->{payload} } @{ $peer->{frames} }], [length $data, 2], 'what was sent arrives, and Close';
    ok $peer->{frames}[0]{payload} eq $data, 'as it was';
};

subtest 'only the condition variable has to be kept, or a callback set' => sub {
    my $server = raw_server();
    my $connection;
    $CLIENT->new->connect($server->{uri})->cb(sub { $connection = shift->recv });
    run_until { $connection } 'the callback';
    pass 'the client and the condition variable were let go of';
};

subtest 'connect many times at once, also from callbacks' => sub {
    my $server = raw_server();
    my $client = $CLIENT->new;
    my (@connections, @errors);
    for my $n (1 .. 20) {
        $client->connect("$server->{uri}$n")->cb(sub {
            push @connections, shift->recv;
            $client->connect("$server->{uri}inner$n")->cb(sub { push @connections, shift->recv });
            $client->connect('http://h/')->cb(sub { eval { shift->recv } or push @errors, $@ });
        });
    }
    run_until { @connections == 40 } 'the connections';
    is scalar @errors, 20, 'each error is told once';
    is [sort map { $_->{request} =~ m{^GET /(\S+)} } @{ $server->{peers} }], [sort map { ($_, "inner$_") } 1 .. 20],
        'each asked for its own';
};

subtest 'a callback may run the event loop' => sub {
    my $server = raw_server(answer => sub { response($_[0]) . frame(payload => 'first') });
    my $client = $CLIENT->new;
    my ($body, $inner);
    $client->connect($server->{uri})->cb(sub {
        my $connection = shift->recv;
        nested { $inner = connection_of($client->connect($server->{uri})) };
        my $history = history($connection);
        nested { run_until { @$history } 'the message' };
        $body = $history->[0];
    });
    run_until { $body } 'the callback';
    is $body, 'first', 'messages of the connection come meanwhile';
    isa_ok $inner, 'AnyEvent::WebSocket::Connection';
};

subtest 'a callback that dies harms nothing else' => sub {
    my $server = raw_server();
    my $client = $CLIENT->new;
    my @died;
    # Where it goes is the event loop's affair.
    no warnings 'once';
    local $EV::DIED = sub { push @died, $@ };
    local $SIG{__WARN__} = sub { push @died, @_ };
    my $nowhere = 'ws://127.0.0.1:' . closed_port() . '/';
    for my $case (['a connection', $server->{uri}], ['an error', $nowhere]) {
        my ($what, $uri) = @$case;
        weaken(my $weak = my $other = $CLIENT->new);
        $other->connect($uri)->cb(sub { die "on purpose\n" });
        undef $other;
        my $count = @died;
        run_through_exceptions(\@died, sub { @died > $count });
        like $died[-1], qr/on purpose/, "$what: the exception goes to the event loop";
        settle();
        is $weak, undef, "$what: nothing is left";
    }
    isa_ok connection_of($client->connect($server->{uri})), 'AnyEvent::WebSocket::Connection';

    my @errors;
    my $before = @died;
    for (1 .. 10) {
        $client->connect($nowhere)->cb(sub {
            eval { $_[0]->recv } or push @errors, $@;
            die "on purpose\n";
        });
    }
    run_through_exceptions(\@died, sub { @errors == 10 && @died >= $before + 10 });
    is scalar @errors, 10, 'each of several attempts that fail at once is told';
};

subtest 'derived classes' => sub {
    my $server = raw_server();
    {
        package Derived;
        our @ISA = ('AnyEvent::WebSocket::Client');
        sub http_headers { return ['X-Derived' => 'yes'] }
    }
    connection_of(Derived->new(timeout => 3)->connect($server->{uri}));
    is peer_of($server)->{field}{'x-derived'}, 'yes', 'may have accessors of their own';

    if (!eval { require Moo; 1 }) {
        diag 'derived classes with Moo are not tested: it is not installed';
        return;
    }
    eval q{
        package WithMoo;
        use Moo;
        extends 'AnyEvent::WebSocket::Client';
        has token => (is => 'ro', required => 1);
        has timeout => (is => 'ro', default => 7);
        around connect => sub { my ($next, $self, @where) = @_; $self->$next(@where) };
        sub BUILD { my ($self) = @_; $self->{built} = $self->subprotocol }
        1;
    } or die $@;
    my $client = WithMoo->new(token => 't', subprotocol => 'chat', http_headers => { A => 'b' });
    is [$client->token, $client->timeout], ['t', 7], 'Moo: attributes of their own, and with other defaults';
    is $client->{built},       ['chat'],   'Moo: BUILD comes after ours';
    is $client->http_headers,  [A => 'b'], 'Moo: what becomes a list does';
    my $chat = raw_server(answer => sub { response($_[0], 'Sec-WebSocket-Protocol' => 'chat') });
    is connection_of($client->connect($chat->{uri}))->subprotocol, 'chat', 'Moo: they connect';
};

done_testing;
