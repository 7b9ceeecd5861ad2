# Attempts to connect that fail: each in its time, with one error, without exceptions or warnings anywhere else,
# and with nothing left.

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;
use AnyEvent;
use AnyEvent::DNS;
use AnyEvent::WebSocket::Client;
use IO::Socket::INET;
use Peer qw(frame run_until run_for settle);
use RawServer qw(
    raw_server response connection_of error_of peer_of open_descriptors settled_descriptors closed_port
    run_through_exceptions
);
use Scalar::Util qw(weaken);
use Socket qw(SOL_SOCKET SO_LINGER);

my $CLIENT = 'AnyEvent::WebSocket::Client';

# All that goes wrong where nobody asked.
my @elsewhere;
{
    no warnings 'once';
    $EV::DIED = sub { push @elsewhere, $@ };
}
$SIG{__WARN__} = sub { push @elsewhere, @_ };

# The times that condition variables were told something.
my $told = 0;
my $mock = mock 'AnyEvent::CondVar::Base' => (
    before => [ croak => sub { $told++ }, send => sub { $told++ if ref $_[1] } ],
);

# No name is asked for outside of this machine.
my $dns = mock 'AnyEvent::DNS' => (override => { map { $_ => sub ($$) { $_[1]->() } } qw(a aaaa) });

sub reset_on_close {
    my ($fh) = @_;
    setsockopt $fh, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0 or die "SO_LINGER: $!";
}

my $RIGHT = response({ field => { 'sec-websocket-key' => 'x' } });

# name => [answer of the server, or URI; error; attributes]
my %WAYS = (
    'nobody listens'     => ['ws://127.0.0.1:' . closed_port() . '/', qr/^unable to connect: Connection refused$/],
    'there is no such host' => ['ws://name.invalid/', qr/^unable to connect/],
    'no WebSocket URI'   => ['http://127.0.0.1/', qr/^URI is not a websocket$/],
    'no such service'    => [
        'ws://127.0.0.1/', qr/^unable to connect: no-such-service/,
        port => 'no-such-service',
    ],
    'a bad header'       => [sub { undef }, qr/^handshake error: http_headers: /, http_headers => undef],
    'an HTTP error'      => [
        sub { "HTTP/1.1 500 Oops\r\n\r\n" }, qr/^handshake error: Wrong response line.*500 Oops/,
    ],
    'an HTTP error with a body' => [
        sub { "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" . 'x' x 100_000 },
        qr/^handshake error: Wrong response line/,
    ],
    'a wrong Accept'     => [sub { $RIGHT }, qr/^handshake error: .*Accept does not fit/],
    'garbage'            => [sub { "\0" x 5 }, qr/^handshake error: Wrong response line/],
    'too large'          => [
        sub { 'HTTP/1.1 101 ' . 'x' x 1000 }, qr/^handshake error: Message is too long/,
        max_header_size => 500,
    ],
    'no subprotocol'     => [sub { response($_[0]) }, qr/^no subprotocol/, subprotocol => 'x'],
    'no subprotocol, but frames' => [
        sub { response($_[0]) . frame(payload => 'x' x 100_000) }, qr/^no subprotocol/,
        subprotocol => 'x',
    ],
    'an extension'       => [
        sub { response($_[0], 'Sec-WebSocket-Extensions' => 'x') }, qr/^handshake error: extension x was not/,
    ],
    'a redirect nowhere' => [
        sub { "HTTP/1.1 302 x\r\nLocation: ftp://x/\r\n\r\n" }, qr/^handshake error: the redirect to/,
        max_redirects => 1,
    ],
    'no answer'          => [
        sub { undef }, qr/^handshake error: timeout, .* within 0.3 seconds$/,
        timeout => 0.3,
    ],
    'half an answer'     => [sub { "HTTP/1.1 101 x\r\nX: " }, qr/^handshake error: timeout/, timeout => 0.3],
    'EOF'                => [
        sub { $_[0]{handle}->push_shutdown; undef }, qr/^connect error: Unexpected end-of-file$/,
    ],
    'EOF in the answer'  => [
        sub { $_[0]{handle}->push_write("HTTP/1.1 101 x\r\nX"); $_[0]{handle}->push_shutdown; undef },
        qr/^connect error: Unexpected end-of-file$/,
    ],
    'reset'              => [
        sub { reset_on_close($_[0]{handle}->fh); $_[0]{handle}->destroy; undef },
        qr/^connect error: Connection reset by peer$/,
    ],
);

# Starts a client on one of these ways, whose server is kept by what is returned; with what `connect` returned.
sub start {
    my ($name, %more) = @_;
    my ($what, $error, %attribute) = @{ $WAYS{$name} };
    my $port   = delete $attribute{port};
    my $server = ref $what ? raw_server(answer => $what) : undef;
    my $client = $CLIENT->new(%attribute, %more);
    $client->{http_headers} = ["\n" => 1] if exists $attribute{http_headers};
    my $done = $client->connect($server ? $server->{uri} : $what, undef, $port);
    return ($done, $client, $server);
}

# Resolvers and the like keep something at their first use.
error_of((start($_))[0]) for 'there is no such host', 'nobody listens';

for my $name (sort keys %WAYS) {
    subtest $name => sub {
        @elsewhere = ();
        my $descriptors = settled_descriptors();
        my $before = $told;
        my ($done, $client, $server) = start($name);
        my @calls;
        $done->cb(sub { push @calls, 1 });
        like error_of($done), $WAYS{$name}[1], 'the error';
        run_until { @calls } 'the callback';
        my @peers = $server ? @{ $server->{peers} } : ();
        run_until { !grep { !$_->{end} && !$_->{handle}->destroyed } @peers } 'the end at the server';
        is scalar @calls, 1, 'the callback is called once';
        is $told - $before, 1, 'the condition variable is told once';
        weaken($_) for $client, $done;
        run_until { !$client && !$done } 'client and condition variable to go';
        is [$client, $done], [undef, undef], 'client and condition variable go with their last references';
        ($server, @peers) = ();
        run_until { open_descriptors() <= $descriptors } 'the descriptors to close';
        is open_descriptors(), $descriptors, 'no descriptor is left';
        is \@elsewhere, [], 'nobody else is told';

        ($done, $client, $server) = start($name);
        weaken($_) for $client, $done;
        run_until { !$client && !$done } 'the end of the attempt';
        pass 'the same where the program keeps neither';

        my $exception;
        ($done, $client, $server) = start($name);
        weaken($client);
        # It is called here where the error is known already.
        eval { $done->cb(sub { die "on purpose\n" }); 1 } or push @elsewhere, $@;
        undef $done;
        run_through_exceptions(\@elsewhere, sub { @elsewhere });
        settle();
        is $client, undef, 'the same where its callback dies';
        ok !(grep { !/on purpose/ } @elsewhere), 'whose exception the event loop gets';
        @elsewhere = ();
    };
}

subtest 'EOF after each byte of a right answer' => sub {
    my $cut = 0;
    my $server = raw_server(answer => sub {
        my ($peer) = @_;
        $peer->{handle}->push_write(substr response($peer), 0, $cut) if $cut;
        $peer->{handle}->push_shutdown;
        return;
    });
    my $length = length response({ field => { 'sec-websocket-key' => 'x' x 24 } });
    my %errors;
    for ($cut = 0; $cut < $length; $cut++) {
        $errors{ error_of($CLIENT->new->connect($server->{uri})) }++;
    }
    is \%errors, { 'connect error: Unexpected end-of-file' => $length }, 'is the same error each time';
    is connection_of($CLIENT->new->connect($server->{uri}))->role, 'client', 'but after the last it is a connection';
};

subtest 'the server is gone when its connection is accepted' => sub {
    for my $reset (0, 1) {
        my $server = raw_server(accept => sub { reset_on_close($_[0]) if $reset; close $_[0] });
        like error_of($CLIENT->new->connect($server->{uri})),
            qr/^(?:connect error|unable to connect): (?:Unexpected end-of-file|Broken pipe|Connection reset)/,
            $reset ? 'by reset' : 'by EOF';
    }
};

subtest 'a server that answers a byte at a time does not gain time' => sub {
    my $peer;
    my $server = raw_server(answer => sub { $peer = $_[0]; '' });
    my $drip = AE::timer 0, 0.01, sub {
        $peer->{handle}->push_write($peer->{dripped}++ ? 'x' : "HTTP/1.1 101 x\r\nX: ") if $peer;
    };
    my $start = AE::time;
    like error_of($CLIENT->new(timeout => 0.2)->connect($server->{uri})), qr/^handshake error: timeout/,
        'it is a timeout';
    cmp_ok AE::time - $start, '<', 2, 'in time';
    cmp_ok $peer->{dripped}, '>', 3, 'though it was busy';
};

subtest 'a server that does not accept' => sub {
    my $listener = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die "listen: $!";
    my ($uri, @waiting) = ('ws://127.0.0.1:' . $listener->sockport . '/');
    # Until the kernel, too, leaves them unanswered.
    my $full;
    for (1 .. 20) {
        my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $listener->sockport, Blocking => 0)
            or last;
        push @waiting, $socket;
        run_for(0.02);
        last if $full = !defined getpeername $socket;
    }
    if (!$full) {
        diag 'a server that does not accept is not tested: here the kernel accepts for it';
        skip_all 'the kernel accepts for it';
    }
    is error_of($CLIENT->new(timeout => 0.1)->connect($uri)), 'unable to connect: Connection timed out',
        'timeout is for this, too';
};

subtest 'a server that does not read' => sub {
    my @held;
    my $server = raw_server(accept => sub { push @held, $_[0] });
    my $descriptors = settled_descriptors();
    my %large = (http_headers => { X => 'y' x (16 << 20) });
    # Connecting is to be over by then, on slow machines, too.
    my $time = $ENV{AEWS_TEST_TIMEOUT} ? 10 : 2;
    like error_of($CLIENT->new(%large, timeout => $time)->connect($server->{uri})), qr/^handshake error: timeout/,
        'is a timeout';
    run_until { open_descriptors() <= $descriptors + @held } 'the descriptor to close';
    pass 'nobody waits for the rest of the request to be sent';
    @held = ();
    my $reading = raw_server();
    is connection_of($CLIENT->new(%large)->connect($reading->{uri}))->role, 'client',
        'with one that does it is no matter';
};

subtest 'what the program did before does not count' => sub {
    my $server = raw_server();
    settle();
    select undef, undef, undef, 0.7;
    is error_of($CLIENT->new(timeout => 0.6)->connect($server->{uri})), 'a connection', 'to the timeout';
};

subtest 'no timeout' => sub {
    for my $none (0, undef) {
        my $peer;
        my $server = raw_server(answer => sub { $peer = $_[0]; '' });
        my $done = $CLIENT->new(timeout => $none)->connect($server->{uri});
        run_until { $peer } 'the request';
        settle();
        ok !$done->ready, 'the client waits';
        $peer->{handle}->push_write(response($peer));
        is connection_of($done)->role, 'client', 'until there is an answer';
        undef $peer;
    }
};

subtest 'an error in the accessors of a derived class goes to the caller' => sub {
    {
        package Dying;
        our @ISA = ('AnyEvent::WebSocket::Client');
        our $dies;
        sub http_headers { die "http_headers dies\n" if $dies; return }
    }
    my $client = Dying->new;
    local $Dying::dies = 1;
    like dies { $client->connect('ws://127.0.0.1/') }, qr/^http_headers dies/, 'at once';
};

subtest 'the same attempt leaves nothing when it succeeds' => sub {
    my $server = raw_server();
    connection_of($CLIENT->new->connect($server->{uri}))->handle->destroy;
    my $descriptors = settled_descriptors();
    my $peers = @{ $server->{peers} };
    my $client = $CLIENT->new;
    my $done = $client->connect($server->{uri});
    my $connection = connection_of($done);
    weaken($_) for $client, $done;
    run_until { !$client && !$done } 'client and condition variable to go';
    is [$client, $done], [undef, undef], 'client and condition variable go, though the connection stays';
    my $handle = $connection->handle;
    undef $connection;
    weaken($handle);
    run_until { peer_of($server)->{frames}[0] } 'Close';
    $_->{handle}->destroy for @{ $server->{peers} };
    run_until { !$handle } 'the handle to go';
    run_until { open_descriptors() < $descriptors } 'the descriptors to close';
    pass 'handle and descriptors go with the connection';
};

is \@elsewhere, [], 'nobody was told in all this but who had to be';

done_testing;
