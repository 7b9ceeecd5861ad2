package Opening;

# What the tests of AnyEvent::WebSocket::Server share: requests made and responses read here, independently of the code
# under test.

use strict;
use warnings;

use AnyEvent;
use Digest::SHA qw(sha1_base64);
use Exporter qw(import);
use Peer qw(run_until socket_pair);

our @EXPORT_OK = qw(
    request psgi_env accept_for $KEY start outcome opening established
    read_response read_some response_field raises drip
);
our %EXPORT_TAGS = (all => \@EXPORT_OK);

# That of RFC 6455 section 1.3.
our $KEY = 'dGhlIHNhbXBsZSBub25jZQ==';

my @FIELDS = (
    ['Host'                  => 'server.example'],
    ['Upgrade'               => 'websocket'],
    ['Connection'            => 'Upgrade'],
    ['Sec-WebSocket-Key'     => $KEY],
    ['Sec-WebSocket-Version' => '13'],
);

# request(line => 'GET / HTTP/1.1', newline => "\r\n", Host => 'other', Upgrade => undef, 'X-Two' => ['a', 'b'])
sub request {
    my %change  = @_;
    my $line    = delete $change{line} // 'GET /path?query=1 HTTP/1.1';
    my $newline = delete $change{newline} // "\r\n";
    my @lines   = $line;
    for my $field (@FIELDS, map { [$_, undef] } sort keys %change) {
        my ($name, $value) = @$field;
        $value = delete $change{$name} if exists $change{$name};
        push @lines, map { "$name: $_" } ref $value ? @$value : grep { defined } $value;
    }
    return join $newline, @lines, '', '';
}

# The same as a PSGI server would give it to an application.
sub psgi_env {
    my %change = @_;
    my %env = (
        REQUEST_METHOD  => 'GET',
        SERVER_PROTOCOL => 'HTTP/1.1',
        SCRIPT_NAME     => '/script',
        PATH_INFO       => '/path',
        QUERY_STRING    => 'query=1',
        REQUEST_URI     => '/script/path?query=1',
        'psgi.version'  => [1, 1],
        map { 'HTTP_' . (uc $_->[0] =~ tr/-/_/r) => $_->[1] } @FIELDS,
    );
    for my $name (keys %change) {
        if (defined $change{$name}) { $env{$name} = $change{$name} }
        else                        { delete $env{$name} }
    }
    return \%env;
}

sub accept_for { my ($key) = @_; return sha1_base64($key . '258EAFA5-E914-47DA-95CA-C5AB0DC85B11') . '=' }

# A server with these options, or a ready-made one, has a socket. Returns the condition variable, the client's end
# and the server's.
sub start {
    my ($options) = @_;
    require AnyEvent::WebSocket::Server;
    my $server = ref $options eq 'HASH' ? AnyEvent::WebSocket::Server->new(%$options) : $options;
    my ($ours, $theirs) = socket_pair();
    AnyEvent::fh_unblock($theirs);
    return ($server->establish($ours), $theirs, $ours);
}

# What comes out of a condition variable: {connection, other} or {error}.
sub outcome {
    my ($condvar) = @_;
    run_until { $condvar->ready } 'the handshake';
    my ($connection, @other);
    return {error => $@} unless eval { ($connection, @other) = $condvar->recv; 1 };
    return {connection => $connection, other => \@other};
}

# A whole handshake: the outcome, the client's end and the server's.
sub opening {
    my ($options, $request) = @_;
    my ($condvar, $client, $socket) = start($options);
    syswrite $client, $request // request();
    return (outcome($condvar), $client, $socket);
}

# One that has to succeed: the connection, the client's end, the response.
sub established {
    my ($options, $request) = @_;
    my ($outcome, $client) = opening($options, $request);
    die "no connection: $outcome->{error}" if !$outcome->{connection};
    return ($outcome->{connection}, $client, read_response($client));
}

# What has come up to the end of the response's header; what is behind that stays in the socket.
sub read_response {
    my ($client) = @_;
    my $response = '';
    run_until {
        while (sysread $client, my $byte, 1) {
            $response .= $byte;
            last if $response =~ /\r\n\r\n\z/;
        }
        $response =~ /\r\n\r\n\z/;
    } 'a response';
    return $response;
}

sub read_some {
    my ($socket, $count) = @_;
    my $bytes = '';
    run_until { sysread $socket, $bytes, $count - length $bytes, length $bytes; length $bytes >= $count } 'bytes';
    return $bytes;
}

sub response_field {
    my ($response, $name) = @_;
    return $response =~ /^\Q$name\E: *(.*?)\r$/mi ? $1 : undef;
}

# Writes byte by byte, each when the server's end has read the one before; ends when the condition holds. Returns how
# many it wrote.
sub drip {
    my ($client, $socket, $bytes, $condition) = @_;
    require IO::Select;
    my $unread = IO::Select->new($socket);
    my $sent   = 0;
    for my $byte (split //, $bytes) {
        $sent += syswrite $client, $byte;
        Peer::run_for(0) for 1 .. 3;
        run_until { $condition->() || !$unread->can_read(0) } 'the server to read';
        last if $condition->();
    }
    return $sent;
}

sub raises {
    my ($code) = @_;
    return eval { $code->(); 1 } ? undef : $@;
}

1;
