# examples/echo-server, examples/echo-server-tls and examples/echo.psgi, each in a process of its own.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::Handle;
use File::Temp qw(tempdir);
use IO::Socket::INET;
use Opening qw(:all);
use Peer qw(frame close_frame parse_frames read_frames read_until_eof run_until run_for);
use Test2::V0;

my @MASK = (mask => 'exam');

# A program, and the port that it says it listens on. Its output is in {output}.
sub start_example {
    my ($pattern, @command) = @_;
    AnyEvent::detect();
    pipe my $output, my $its_output or die "pipe: $!";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        open STDOUT, '>&', $its_output;
        open STDERR, '>&', $its_output;
        { no warnings 'exec'; exec @command }
        require POSIX;
        POSIX::_exit(127);
    }
    close $its_output;
    my $example = bless {pid => $pid, output => ''}, 'Example';
    $example->{child}  = AE::child $pid, sub { $example->{status} = $_[1] };
    $example->{reader} = AE::io $output, 0, sub {
        sysread $output, $example->{output}, 10_000, length $example->{output} or delete $example->{reader};
    };
    eval { run_until { $example->{output} =~ $pattern || defined $example->{status} } 'the example to start'; 1 }
        && (($example->{port}) = $example->{output} =~ $pattern)
        or die 'it does not start: ', $@ // '', $example->{output};
    return $example;
}

sub stop {
    my ($example, $signal) = @_;
    kill $signal => $example->{pid};
    run_until { defined $example->{status} } 'the example to end';
    delete @$example{qw(child reader)};
    return $example->{status};
}

sub Example::DESTROY {
    my ($example) = @_;
    kill KILL => $example->{pid} if !defined $example->{status};
}

sub connect_to {
    my ($example, $bytes) = @_;
    my $client;
    # Some say that they listen before they do.
    run_until { $client = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $example->{port}) } 'to connect';
    AnyEvent::fh_unblock($client);
    syswrite $client, $bytes;
    return $client;
}

my @PERL = ($^X, map { "-I$_" } grep { !ref } @INC);

subtest 'echo-server' => sub {
    my $example = start_example(qr{ws://127\.0\.0\.1:(\d+)/}, @PERL, 'examples/echo-server', '--port', 0);

    my $client = connect_to($example, request('Sec-WebSocket-Extensions' => 'permessage-deflate')
        . frame(payload => 'early', @MASK));
    my $response = read_response($client);
    like $response, qr/\AHTTP\/1.1 101 /, 'a WebSocket';
    is response_field($response, 'Sec-WebSocket-Extensions'), 'permessage-deflate', 'with compression';
    is [map { $_->{payload} } read_frames($client, 1)], ['early'], 'is echoed';
    syswrite $client, close_frame(4000, "e\e[2J", @MASK);
    is [map { $_->{payload} } parse_frames(my $end = read_until_eof($client))], [pack 'n', 4000], 'and closed';
    close $client;
    run_until { $example->{output} =~ /closed/ } 'its log';
    like $example->{output}, qr/ connected\n.* closed 4000 e\\x1b\[2J\n/, 'which it logs, and nothing for the terminal';

    my $page = read_until_eof(connect_to($example, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
    like $page, qr{\AHTTP/1.1 200 OK\r\nContent-Type: text/html.*</html>\s*\z}s, 'a page for a browser';
    my ($length, $body) = (response_field($page, 'Content-Length'), $page =~ s/\A.*?\r\n\r\n//sr);
    is length $body, $length, 'all of it';

    my $old = read_until_eof(connect_to($example, request('Sec-WebSocket-Version' => 8)));
    like $old, qr/\AHTTP\/1.1 426 /, 'an old version: 426';
    is response_field($old, 'Sec-WebSocket-Version'), 13, 'with the right version';
    like read_until_eof(connect_to($example, request(Host => undef))), qr/\AHTTP\/1.1 400 /, 'a bad request: 400';
    my $large = connect_to($example, "GET / HTTP/1.1\r\n" . 'x' x 20_000);
    like read_until_eof($large), qr/\AHTTP\/1.1 400 /, 'a large one: 400';

    $client = connect_to($example, request());
    read_response($client);
    run_until { $example->{output} =~ /connected\n.*connected\n/s } 'its log';
    kill TERM => $example->{pid};
    is [map { [unpack 'n a*', $_->{payload}] } read_frames($client, 1)], [[1001, 'server stops']],
        'it says that it stops';
    syswrite $client, close_frame(1001, '', @MASK);
    close $client;
    is stop($example, 0), 0, 'and ends well';
};

subtest 'echo-server-tls' => sub {
    for my $module ('Net::SSLeay', 'AnyEvent::TLS') {
        eval "require $module; 1" or skip_all "$module is needed: " . ($@ =~ /(.*)/)[0];
    }
    require Certificate;
    my $directory = tempdir(CLEANUP => 1);
    my $file = Certificate::write_file("$directory/both.pem", Certificate::self_signed('localhost'));
    my $example = start_example(qr{wss://localhost:(\d+)/}, @PERL, 'examples/echo-server-tls',
        '--cert', $file, '--port', 0);
    my $bytes  = '';
    my $client = AnyEvent::Handle->new(
        connect  => ['127.0.0.1', $example->{port}],
        tls      => 'connect',
        on_error => sub { $bytes .= "error: $_[2]" },
        on_read  => sub { $bytes .= delete $_[0]{rbuf} },
    );
    $client->push_write(request() . frame(payload => 'secret', @MASK));
    run_until { $bytes =~ /\r\n\r\n.*secret|error/s } 'the echo';
    like $bytes, qr/\AHTTP\/1.1 101 .*secret\z/s, 'a message is echoed';

    my $refused = connect_to($example, request());
    my $answer  = '';
    run_until { my $n = sysread $refused, $answer, 1000, length $answer; defined $n && !$n || $!{ECONNRESET} }
        'the end';
    unlike $answer, qr/HTTP/, 'without TLS there is no answer';
    run_until { $example->{output} =~ /connection error/ } 'its log';
    pass 'but a line in the log';
    is stop($example, 'TERM'), 0, 'it ends well';

    my $output = qx{@PERL examples/echo-server-tls --cert $directory/none 2>&1};
    is $? >> 8, 1, 'without a certificate it does not start';
    like $output, qr{^echo-server-tls: TLS: cannot read \Q$directory\E/none: }, 'and says why';
    $output = qx{@PERL examples/echo-server-tls 2>&1};
    is $? >> 8, 2, 'wrong usage';
    like $output, qr/^usage: /, 'is told';
};

subtest 'echo.psgi' => sub {
    for my $module ('Plack::Runner', 'Twiggy::Server') {
        eval "require $module; 1" or skip_all "$module is needed: " . ($@ =~ /(.*)/)[0];
    }
    my $example = start_example(qr/Accepting connections at .*:(\d+)/, @PERL, '-MPlack::Runner',
        '-e', 'my $runner = Plack::Runner->new; $runner->parse_options(@ARGV); $runner->run',
        '--', '-s', 'Twiggy', '--listen', '127.0.0.1:0', 'examples/echo.psgi');
    my $client = connect_to($example, request() . frame(payload => 'early', @MASK));
    like read_response($client), qr/\AHTTP\/1.1 101 /, 'a WebSocket';
    is [map { $_->{payload} } read_frames($client, 1)], ['early'], 'is echoed';
    like read_until_eof(connect_to($example, request(line => 'GET / HTTP/1.1', Upgrade => undef))),
        qr{\AHTTP/1.\d 200 .*</html>\s*\z}s, 'a page for a browser';
    like read_until_eof(connect_to($example, request('Sec-WebSocket-Key' => 'bad'))),
        qr{\AHTTP/1.\d 400 .*Not a WebSocket handshake\.\n\z}s, 'a bad request: 400';
    run_until { $example->{output} =~ /handshake error: Sec-WebSocket-Key is not 16 bytes/ } 'its log';
    pass 'and a line in the log';
    stop($example, 'TERM');
};

done_testing;
