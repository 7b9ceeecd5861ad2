# AnyEvent::WebSocket::Server over TLS, with a plain AnyEvent::Handle at the other end.

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
use AnyEvent::Handle;
use AnyEvent::WebSocket::Server;
use Certificate qw(self_signed write_file);
use File::Temp qw(tempdir);
use Opening qw(:all);
use Peer qw(frame close_frame parse_frames nested run_for run_until settle history finished socket_pair);
use Scalar::Util qw(weaken);

my @MASK = (mask => 'tls.');
my $DIR  = tempdir(CLEANUP => 1);

my ($KEY_PEM, $CERT_PEM)     = self_signed('first.example');
my ($OTHER_KEY, $OTHER_CERT) = self_signed('second.example');
my $CERT  = write_file("$DIR/cert.pem", $CERT_PEM);
my $KEY   = write_file("$DIR/key.pem",  $KEY_PEM);
my $BOTH  = write_file("$DIR/both.pem", $KEY_PEM, $CERT_PEM);
my @FILES = (ssl_cert_file => $CERT, ssl_key_file => $KEY);

my $CLIENT = AnyEvent::TLS->new;

# A client that reads all there is: {bytes} so far, {eof} or {error} at the end. Does not own itself.
sub tls_client {
    my ($socket) = @_;
    my $client = {bytes => ''};
    my $weak   = $client;
    weaken($weak);
    $client->{handle} = AnyEvent::Handle->new(
        fh          => $socket,
        tls         => 'connect',
        tls_ctx     => $CLIENT,
        on_starttls => sub { $weak->{name} = $_[1] && subject($_[0]) },
        on_read     => sub { $weak->{bytes} .= delete $_[0]{rbuf} },
        on_eof      => sub { $weak->{eof}   = 1 },
        on_error    => sub { $weak->{error} = $_[2] },
    );
    return $client;
}

sub subject {
    my ($handle) = @_;
    my $certificate = Net::SSLeay::get_peer_certificate($handle->{tls});
    my $name = Net::SSLeay::X509_NAME_oneline(Net::SSLeay::X509_get_subject_name($certificate));
    Net::SSLeay::X509_free($certificate);
    return $name =~ s{.*/CN=}{}r;
}

# The condition variable, a client with TLS, and the server's end of the socket.
sub start_tls {
    my (@options) = @_;
    my $server = @options == 1 ? $options[0] : AnyEvent::WebSocket::Server->new(@options);
    my ($ours, $theirs) = socket_pair();
    return ($server->establish($ours), tls_client($theirs), $ours);
}

sub head_of {
    my ($client) = @_;
    run_until { $client->{bytes} =~ /\r\n\r\n/ || $client->{eof} || $client->{error} } 'a response';
    return $client->{bytes} =~ s/\A(.*?\r\n\r\n)//s ? $1 : '';
}

sub frames_of {
    my ($client, $count) = @_;
    my @frames;
    run_until { push @frames, parse_frames($client->{bytes}); @frames >= $count || $client->{eof} || $client->{error} }
        "$count frames";
    return map { $_->{payload} } @frames;
}

my %FILES = (
    'certificate and key' => [@FILES],
    'the key in the certificate file' => [ssl_cert_file => $BOTH],
);
subtest "a connection, $_" => do {
    my @files = @{ $FILES{$_} };
    sub {
        my ($condvar, $client) = start_tls(@files, validator => sub { $_[0]->resource_name });
        $client->{handle}->push_write(request(line => 'GET /secret HTTP/1.1'));
        my $outcome = outcome($condvar);
        my $connection = $outcome->{connection} or return fail "no connection: $outcome->{error}";
        is $outcome->{other}, ['/secret'], 'the request';
        like head_of($client), qr/\AHTTP\/1.1 101 .*\Q@{[accept_for($Opening::KEY)]}\E/s, 'the response';
        is $client->{name}, 'first.example', 'the certificate';
        $connection->on(each_message => sub { $_[0]->send($_[1]->body) });
        $client->{handle}->push_write(frame(payload => $_, @MASK)) for 'hello', 'l' x 60_000;
        is [map { length } frames_of($client, 2)], [5, 60_000], 'messages go both ways';
        is $connection->role, 'server', 'role';
        $connection->close(1000, 'bye');
        $client->{handle}->push_write(close_frame(1000, 'bye', @MASK));
        run_until { $client->{eof} || $client->{error} } 'the end';
        ok $client->{eof}, 'and it ends well';
    };
} for sort keys %FILES;

subtest 'frames that come with the request (C13)' => sub {
    my ($condvar, $client) = start_tls(@FILES, max_payload_size => 0);
    my ($connection, $history);
    $condvar->cb(sub { $connection = $_[0]->recv; $history = history($connection) });
    $client->{handle}->push_write(request()
        . join '', map { frame(payload => $_, @MASK) } 'first', 'l' x 300_000, 'last');
    run_until { $history && @$history == 3 } 'the messages';
    is [map { length } @$history], [5, 300_000, 4], 'are delivered';
};

subtest 'a record for each byte' => sub {
    my ($condvar, $client) = start_tls(@FILES);
    my ($connection, $history);
    $condvar->cb(sub { $connection = $_[0]->recv; $history = history($connection) });
    $client->{handle}->push_write($_)
        for split //, request() . frame(payload => 'm', @MASK) . frame(payload => 'n', @MASK);
    run_until { $history && @$history == 2 } 'the messages';
    is $history, ['m', 'n'], 'request and frames are put together';
};

subtest 'the handshake code runs the event loop (C22)' => sub {
    my ($condvar, $client);
    ($condvar, $client) = start_tls(@FILES, handshake => sub {
        $client->{handle}->push_write(frame(payload => 'second', @MASK));
        nested { run_for(0.05) };
        return $_[1];
    });
    my ($connection, $history);
    $condvar->cb(sub { $connection = $_[0]->recv; $history = history($connection) });
    $client->{handle}->push_write(request() . frame(payload => 'first', @MASK));
    run_until { $history && @$history == 2 } 'the messages';
    is $history, ['first', 'second'], 'nothing is lost, in order';
};

subtest 'nothing is read meanwhile' => sub {
    my ($condvar, $client, $unsent);
    ($condvar, $client) = start_tls(@FILES, max_payload_size => 0, handshake => sub {
        $client->{handle}->push_write(frame(payload => 'l' x (4 << 20), @MASK));
        nested { run_for(0.1) };
        $unsent = length $client->{handle}{wbuf};
        return $_[1];
    });
    my ($connection, $history);
    $condvar->cb(sub { $connection = $_[0]->recv; $history = history($connection) });
    $client->{handle}->push_write(request());
    run_until { $history && @$history } 'the message';
    cmp_ok $unsent, '>', 2 << 20, 'so that the client has to wait with what it sends';
    is length $history->[0], 4 << 20, 'which arrives when the program is ready';
};

# A connection that goes on being fine tells that no error was left in OpenSSL's queue.
my ($witness_condvar, $witness_client) = start_tls(@FILES);
$witness_client->{handle}->push_write(request());
my $witness = outcome($witness_condvar)->{connection};
$witness->on(each_message => sub { $_[0]->send($_[1]->body) });
head_of($witness_client);

sub the_others_go_on {
    my ($name) = @_;
    $witness_client->{handle}->push_write(frame(payload => $name, @MASK));
    is [frames_of($witness_client, 1)], [$name], "$name: other connections go on";
    return;
}

subtest 'a request that is refused' => sub {
    my %refused = (
        'a plain request' => [[Upgrade => undef], qr/^handshake error: this is not a WebSocket request/],
        'version 8'       => [['Sec-WebSocket-Version' => 8], qr/^handshake error: unsupported WebSocket protocol/],
        'a large one'     => [['X-A' => 'a' x 20_000], qr/^handshake error: .* larger than/],
    );
    for my $name (sort keys %refused) {
        my ($change, $text) = @{ $refused{$name} };
        my ($condvar, $client, $socket) = start_tls(@FILES);
        $client->{handle}->push_write(request(@$change));
        like outcome($condvar)->{error}, $text, "$name: the error";
        run_until { $client->{eof} || $client->{error} } 'the end of TLS';
        ok $client->{eof}, "$name: TLS has an end that is no error" or diag $client->{error};
        is $client->{bytes}, '', "$name: and nothing was sent over it";
        ok defined fileno $socket, "$name: the socket is open, for the program to close";
        the_others_go_on($name);
    }
};

subtest 'the handshake code refuses' => sub {
    my ($condvar, $client) = start_tls(@FILES, handshake => sub { die "no entry\n" });
    $client->{handle}->push_write(request());
    like outcome($condvar)->{error}, qr/^no entry/, 'by an exception';
    run_until { $client->{eof} || $client->{error} } 'the end of TLS';
    ok $client->{eof}, 'TLS ends';
    the_others_go_on('an exception');

    my $answer = "HTTP/1.1 403 Forbidden\r\n\r\n" . 'n' x 500_000;
    ($condvar, $client, my $socket) = start_tls(@FILES, handshake => sub { $answer });
    $client->{handle}->push_write(request());
    like outcome($condvar)->{error}, qr/status 403/, 'by a response';
    undef $socket;
    run_until { $client->{eof} || $client->{error} } 'the end';
    is $client->{bytes}, $answer, 'which arrives';
    ok $client->{eof}, 'and then the end';
    the_others_go_on('a response');
};

subtest 'what is no TLS at all' => sub {
    my ($ours, $theirs) = socket_pair();
    my $condvar = AnyEvent::WebSocket::Server->new(@FILES)->establish($ours);
    syswrite $theirs, request();
    like outcome($condvar)->{error}, qr/^connection error: ./, 'is an error of the connection';
    the_others_go_on('no TLS');
};

subtest 'the client goes away' => sub {
    my ($ours, $theirs) = socket_pair();
    my $condvar = AnyEvent::WebSocket::Server->new(@FILES)->establish($ours);
    close $theirs;
    like outcome($condvar)->{error}, qr/^connection error: ./, 'before TLS';
    the_others_go_on('before TLS');

    for my $sent ('', 'GET /half HT') {
        ($condvar, my $client) = start_tls(@FILES);
        $client->{handle}->push_write($sent) if length $sent;
        run_until { $client->{name} } 'TLS';
        $client->{handle}->push_shutdown;
        like outcome($condvar)->{error}, qr/^connection error: Unexpected end-of-file/, "after '$sent'";
        the_others_go_on("after '$sent'");

        ($condvar, $client) = start_tls(@FILES);
        $client->{handle}->push_write($sent) if length $sent;
        run_until { $client->{name} } 'TLS';
        $client->{handle}->stoptls;
        like outcome($condvar)->{error}, qr/^connection error: Unexpected end-of-file/, "TLS ends after '$sent'";
        the_others_go_on("TLS ends after '$sent'");
    }

    ($condvar, my $client) = start_tls(@FILES);
    run_until { $client->{name} } 'TLS';
    $client->{handle}->push_write(request());
    $client->{handle}->stoptls;
    my $outcome = outcome($condvar);
    like $outcome->{error}, qr/^connection error: Unexpected end-of-file/, 'TLS ends with the request';
    run_until { $client->{eof} || $client->{error} } 'the end';
    is $client->{bytes}, '', 'nothing is sent to it, least of all in plain text';
};

subtest 'handshake_timeout holds for TLS, too' => sub {
    my ($ours, $theirs) = socket_pair();
    my $condvar = AnyEvent::WebSocket::Server->new(@FILES, handshake_timeout => 0.05)->establish($ours);
    like outcome($condvar)->{error}, qr/^handshake error: timeout/, 'no TLS';
    the_others_go_on('no TLS');

    ($condvar, my $client) = start_tls(@FILES, handshake_timeout => 0.3);
    run_until { $client->{name} } 'TLS';
    like outcome($condvar)->{error}, qr/^handshake error: timeout/, 'no request';
    the_others_go_on('no request');
};

subtest 'certificates are read again when they have changed' => sub {
    my $cert   = write_file("$DIR/renewed.pem", $CERT_PEM);
    my $key    = write_file("$DIR/renewed.key", $KEY_PEM);
    my $server = AnyEvent::WebSocket::Server->new(ssl_cert_file => $cert, ssl_key_file => $key);
    my $name   = sub {
        my ($condvar, $client) = start_tls($server);
        run_until { $client->{name} || $client->{eof} || $client->{error} } 'TLS';
        return $client->{name};
    };
    is $name->(), 'first.example', 'the certificate at first';
    my $context = $server->{tls}->context;
    $name->();
    ref_is $server->{tls}->context, $context, 'the context is not made for each connection';

    write_file($key, $OTHER_KEY);
    is warnings { is $name->(), 'first.example', 'goes on in the middle of a renewal' },
        [match qr/goes on with the certificate that it has\. TLS: the key in \Q$key\E is not that of .* \Q$cert\E\n\z/],
        'with a warning';
    the_others_go_on('half a renewal');
    is warnings { $name->() }, [], 'not for each connection';
    write_file($cert, $OTHER_CERT);
    is warnings { is $name->(), 'second.example', 'and is the new one after it' }, [], 'without a warning';
    unlink $cert;
    like warnings { is $name->(), 'second.example', 'which stays when the file goes' },
        [qr/TLS: cannot read \Q$cert\E: /], 'with a warning';
};

subtest 'files that cannot be used' => sub {
    my $garbage  = write_file("$DIR/garbage.pem", "no certificate\n");
    my $only_key = write_file("$DIR/other.key", $OTHER_KEY);
    my %wrong = (
        'no such file'         => [[ssl_cert_file => "$DIR/none"], qr{^TLS: cannot read \Q$DIR\E/none: }],
        'no such key'          => [[ssl_cert_file => $CERT, ssl_key_file => "$DIR/none"],
            qr{^TLS: cannot read \Q$DIR\E/none: }],
        'garbage'              => [[ssl_cert_file => $garbage],
            qr{^TLS: \Q$garbage\E: failed to load local private key}],
        'no key'               => [[ssl_cert_file => $CERT], qr{^TLS: \Q$CERT\E: failed to load local private key}],
        'no certificate'       => [[ssl_cert_file => $only_key],
            qr{^TLS: \Q$only_key\E: failed to use local certificate}],
        'the key of another'   => [[ssl_cert_file => $CERT, ssl_key_file => $only_key],
            qr{^TLS: the key in \Q$only_key\E is not that of the certificate in \Q$CERT\E}],
    );
    for my $name (sort keys %wrong) {
        my ($arguments, $text) = @{ $wrong{$name} };
        my $error = raises(sub { AnyEvent::WebSocket::Server->new(@$arguments) }); my $line = __LINE__;
        like $error, $text, "$name: text";
        like $error, qr/ at \Q$0\E line $line\.$/, "$name: place";
        unlike $error, qr/ at .* at /, "$name: one place only";
        the_others_go_on($name);
    }
};

subtest 'nothing stays' => sub {
    my @handles;
    for my $change ([], [Upgrade => undef]) {
        my ($condvar, $client, $socket) = start_tls(@FILES);
        $client->{handle}->push_write(request(@$change));
        my $outcome = outcome($condvar);
        push @handles, $client->{handle}, $outcome->{connection} ? $outcome->{connection}->handle : ();
    }
    weaken($_) for @handles;
    run_until { !grep { defined } @handles } 'the handles to go';
    pass 'when program and client have let go';
};

done_testing;
