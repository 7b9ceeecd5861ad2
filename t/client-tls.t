# Clients over TLS: whom they trust, and the handshake.

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;

BEGIN {
    for my $module ('Net::SSLeay', 'AnyEvent::TLS') {
        next if eval "require $module; 1";
        my ($reason) = $@ =~ /(.*)/;
        diag "TLS is not tested without $module: $reason";
        plan skip_all => "$module is needed: $reason";
    }
}

use AnyEvent;
use AnyEvent::DNS;
use AnyEvent::WebSocket::Client;
use Certificate qw(authority issue pem_of);
use File::Temp qw(tempdir);
use Peer qw(frame run_until nested history finished);
use RawServer qw(raw_server response connection_of error_of peer_of open_descriptors settled_descriptors);
use Scalar::Util qw(weaken);

my $CLIENT    = 'AnyEvent::WebSocket::Client';
my $DIRECTORY = tempdir(CLEANUP => 1);

# Every name is this machine.
my $dns = mock 'AnyEvent::DNS' => (override => { a => sub ($$) { $_[1]->('127.0.0.1') },
    aaaa => sub ($$) { $_[1]->() } });

my $authority = authority('tests');
my $other     = authority('others');

sub file {
    my ($name, $content) = @_;
    open my $out, '>', "$DIRECTORY/$name" or die "$name: $!";
    print {$out} $content;
    close $out or die "$name: $!";
    return "$DIRECTORY/$name";
}
my $CA_FILE    = file('ca', pem_of($authority));
my $OTHER_FILE = file('other', pem_of($other));

sub trusting { return $CLIENT->new(ssl_ca_file => $CA_FILE, @_) }

# No other than those that a test names are trusted.
$ENV{PERL_ANYEVENT_CA_FILE} = file('empty', '');

# The name that a client told with its TLS handshake.
my $told_name;

# A server with such a certificate, and the options of raw_server.
sub tls_server {
    my ($names, %option) = @_;
    my $issuer = delete $option{issuer} // $authority;
    my $valid  = delete $option{valid};
    my $tls = AnyEvent::TLS->new(cert => issue($issuer, $names, $valid));
    Net::SSLeay::CTX_set_tlsext_servername_callback($tls->ctx,
        sub { $told_name = Net::SSLeay::get_servername($_[0]) });
    return raw_server(tls => $tls, %option);
}

# As the URI of a server, by another name.
sub uri_of {
    my ($server, $name) = @_;
    return "wss://$name:$server->{port}/";
}

my $server = tls_server(['DNS:localhost', 'DNS:*.wild.test', 'IP:127.0.0.1', 'IP:::1']);

subtest 'a certificate for that name, by an authority that is trusted' => sub {
    for my $name ('localhost', 'LocalHost', '127.0.0.1', 'a.wild.test') {
        my $connection = connection_of(trusting()->connect(uri_of($server, $name)));
        my $history    = history($connection);
        my $peer       = peer_of($server);
        is $peer->{field}{origin}, "https://$name:$server->{port}", "$name: Origin says https";
        is lc $told_name, lc $name, "$name: the server is told which certificate is wanted";
        $connection->send('over TLS');
        $peer->{handle}->push_write(frame(payload => 'back'));
        run_until { @{ $peer->{frames} } && @$history } 'messages';
        is [$peer->{frames}[0]{payload}, @$history], ['over TLS', 'back'], "$name: messages go both ways";
    }
    is error_of(trusting()->connect('wss://localhost:1/', '127.0.0.1', $server->{port})), 'a connection',
        'the name in the URI counts, wherever that is connected to';
    my $six = eval { raw_server(address => '::1', tls => AnyEvent::TLS->new(cert => issue($authority, ['IP:::1']))) };
    if ($six) {
        is error_of(trusting()->connect("wss://[::1]:$six->{port}/")), 'a connection', 'an IPv6 address';
    }
    else {
        diag "wss://[::1]/ is not tested: $@";
        SKIP: { skip 'no IPv6 on this machine', 1 }
    }
    local $ENV{PERL_ANYEVENT_CA_FILE} = $CA_FILE;
    is connection_of($CLIENT->new->connect(uri_of($server, 'localhost')))->role, 'client',
        'without ssl_ca_file, those that AnyEvent::TLS trusts count';
};

subtest 'who is not trusted' => sub {
    my $failed = qr/^connect error: .*certificate verify failed/;
    my @ca = (ssl_ca_file => $CA_FILE);
    my $by_other = tls_server(['DNS:localhost'], issuer => $other);
    my $expired  = tls_server(['DNS:localhost'], valid => -3600);
    for my $case (
        ['another name',                $server,   'other.test'],
        ['a name below a wildcard\'s',  $server,   'a.b.wild.test'],
        ['the address of the name',     $by_other, '127.0.0.1'],
        ['by an unknown authority',     $by_other, 'localhost'],
        ['expired',                     $expired,  'localhost'],
    ) {
        my ($name, $server, $host) = @$case;
        like error_of($CLIENT->new(@ca)->connect(uri_of($server, $host))), $failed, $name;
        is connection_of($CLIENT->new(ssl_no_verify => 1)->connect(uri_of($server, $host)))->role, 'client',
            "$name: ssl_no_verify trusts all";
    }
    like error_of($CLIENT->new(@ca)->connect('wss://other.test/', '127.0.0.1', $server->{port})), $failed,
        'a host given to connect does not count';
    like error_of($CLIENT->new->connect(uri_of($server, 'localhost'))), $failed,
        'without an authority nobody is trusted';
    is error_of($CLIENT->new(ssl_ca_file => "$DIRECTORY/not")->connect(uri_of($server, 'localhost'))),
        "connect error: ssl_ca_file $DIRECTORY/not: No such file or directory",
        'a file of authorities that is not there';
    my $careless = $CLIENT->new(ssl_ca_file => "$DIRECTORY/not", ssl_no_verify => 1);
    is error_of($careless->connect(uri_of($server, 'localhost'))), 'a connection',
        'is of no interest where nothing is verified';
};

subtest 'without verification the server is still told the name' => sub {
    my @no_verify = (ssl_no_verify => 1);
    undef $told_name;
    connection_of($CLIENT->new(@no_verify)->connect(uri_of($server, 'some.name.test')));
    is $told_name, 'some.name.test', 'so that it can choose its certificate';
    undef $told_name;
    connection_of($CLIENT->new(@no_verify)->connect(uri_of($server, '127.0.0.1')));
    is $told_name, undef, 'an address is no name (RFC 6066 section 3)';
};

subtest 'the answer and what follows it, in records of any size' => sub {
    my $frames = join '', map { frame(payload => "$_") } 1 .. 3;
    for my $split (1, 7, 1000) {
        my $server = tls_server(['DNS:localhost'], answer => sub {
            my ($peer) = @_;
            $peer->{handle}->push_write($_) for unpack "(a$split)*", response($peer) . $frames;
            $peer->{handle}->push_shutdown if $split == 1000;
            return;
        });
        my $connection = connection_of(trusting()->connect(uri_of($server, 'localhost')));
        my $history    = history($connection);
        run_until { @$history >= 3 } 'the messages';
        is [@$history[0 .. 2]], [1 .. 3], "records of $split bytes";
        next unless $split == 1000;
        run_until { finished($history) } 'finish';
        is $history->[3], [finish => undef], 'then EOF';
    }
};

subtest 'an answer, a message and the end of TLS at once' => sub {
    my $server = tls_server(['DNS:localhost'], answer => sub {
        my ($peer) = @_;
        $peer->{handle}->push_write(response($peer) . frame(payload => 'last'));
        $peer->{handle}->stoptls;
        return;
    });
    my $connection = connection_of(trusting()->connect(uri_of($server, 'localhost')));
    my $history    = history($connection);
    run_until { finished($history) } 'finish';
    is $history, ['last', [finish => undef]], 'are a connection with a message, and its end';
};

subtest 'a callback may run the event loop' => sub {
    my $server = tls_server(['DNS:localhost'], answer => sub { response($_[0]) . frame(payload => 'first') });
    my @got;
    trusting()->connect(uri_of($server, 'localhost'))->cb(sub {
        my $connection = $_[0]->recv;
        my $history    = history($connection);
        nested { run_until { @$history == 1 } 'the first message' };
        $server->{peers}[0]{handle}->push_write(frame(payload => 'second'));
        nested { run_until { @$history == 2 } 'the second message' };
        @got = @$history;
    });
    run_until { @got } 'the callback';
    is \@got, ['first', 'second'], 'messages come meanwhile';
};

subtest 'octets and characters in the request' => sub {
    my @headers = ('X-Latin' => "\xE9", 'X-Wide' => "\x{263A}");
    utf8::upgrade($headers[1]);
    utf8::upgrade(my $name = 'chat');
    my $client = trusting(http_headers => \@headers, subprotocol => $name);
    is error_of($client->connect(uri_of($server, 'localhost'))), 'no subprotocol in response',
        'the request is understood';
    my $peer = peer_of($server);
    is [@{ $peer->{field} }{qw(x-latin x-wide)}], ["\xE9", "\xE2\x98\xBA"], 'arrive as without TLS';
    is $peer->{bytes}, '', 'and nothing behind it';
};

subtest 'from ws to wss' => sub {
    my $https = "https://localhost:$server->{port}/";
    my $plain = raw_server(answer => sub { "HTTP/1.1 301 x\r\nLocation: $https\r\n\r\n" });
    my @attribute = (max_redirects => 1, ssl_ca_file => $CA_FILE);
    is connection_of($CLIENT->new(@attribute)->connect($plain->{uri}))->role, 'client', 'a redirect is followed';
    like error_of($CLIENT->new(@attribute, ssl_ca_file => $OTHER_FILE)->connect($plain->{uri})),
        qr/certificate verify failed/,
        'the certificate is verified then';
    my $back = tls_server(['DNS:localhost'], answer => sub { "HTTP/1.1 302 x\r\nLocation: $plain->{uri}\r\n\r\n" });
    my $count = @{ $plain->{peers} };
    is error_of($CLIENT->new(@attribute)->connect(uri_of($back, 'localhost'))),
        "handshake error: the redirect to $plain->{uri} is not followed: it leads from wss to ws", 'not back';
    is scalar @{ $plain->{peers} }, $count, 'nothing is sent there';
};

subtest 'what goes wrong' => sub {
    my @held;
    my $tls  = sub { my ($answer) = @_; return sub { tls_server(['DNS:localhost'], answer => $answer) } };
    my $raw  = sub {
        my ($accept) = @_;
        return sub { raw_server(accept => sub { push @held, $_[0]; $accept->(@_) }) };
    };
    my $half = "HTTP/1.1 101 x\r\n";
    my $eof  = qr/^connect error: Unexpected end-of-file$/;
    my %ways = (
        'no TLS' => [
            $raw->(sub { syswrite $_[0], "220 mail\r\n" }),
            qr/^connect error: .*(?:wrong version|packet|record)/i,
        ],
        'no answer at all' => [
            $raw->(sub { }),
            qr/^handshake error: timeout, the server has not answered within 0\.5 seconds$/, timeout => 0.5,
        ],
        'EOF in the TLS handshake' => [
            $raw->(sub { my ($fh) = @_; push @held, AE::io $fh, 0, sub { shutdown $fh, 1 } }), $eof,
        ],
        'EOF after it' => [$tls->(sub { $_[0]{handle}->push_shutdown; undef }), $eof],
        'EOF in the answer' => [
            $tls->(sub { $_[0]{handle}->push_write($half); $_[0]{handle}->push_shutdown; undef }), $eof,
        ],
        'TLS ends in the answer, the socket does not' => [
            $tls->(sub { $_[0]{handle}->push_write($half); $_[0]{handle}->stoptls; undef }), $eof,
        ],
        'an HTTP error' => [
            $tls->(sub { "HTTP/1.1 403 Forbidden\r\n\r\n" . 'x' x 50_000 }), qr/^handshake error: .*403 Forbidden/,
        ],
        'no subprotocol' => [
            $tls->(sub { response($_[0]) }), qr/^no subprotocol in response/, subprotocol => 'x',
        ],
        'an unknown authority' => [
            sub { tls_server(['DNS:localhost'], issuer => $other) }, qr/certificate verify failed/,
        ],
        'a file of no authorities' => [
            $tls->(sub { undef }), qr/^connect error: ssl_ca_file/, ssl_ca_file => "$DIRECTORY/not",
        ],
    );
    my @elsewhere;
    no warnings 'once';
    local $EV::DIED      = sub { push @elsewhere, $@ };
    local $SIG{__WARN__} = sub { push @elsewhere, @_ };
    for my $name (sort keys %ways) {
        my ($make, $error, %attribute) = @{ $ways{$name} };
        my $server      = $make->();
        my $descriptors = settled_descriptors();
        my $client      = trusting(%attribute);
        my $done        = $client->connect(uri_of($server, 'localhost'));
        like error_of($done), $error, $name;
        weaken($_) for $client, $done;
        run_until { !$client && !$done } 'client and condition variable to go';
        is [$client, $done], [undef, undef], "$name: client and condition variable go";
        @held = ();
        run_until { !grep { !$_->{end} } @{ $server->{peers} } } 'the sockets to end';
        @{ $server->{peers} } = ();
        run_until { open_descriptors() <= $descriptors } 'the descriptors to close';
        is open_descriptors(), $descriptors, "$name: no descriptor is left";
        is \@elsewhere, [], "$name: nobody else is told";
    }
    like error_of($CLIENT->new->connect("ws://localhost:$server->{port}/")),
        qr/^(?:handshake error: Wrong response line|connect error)/, 'ws where there is TLS';
};

done_testing;
