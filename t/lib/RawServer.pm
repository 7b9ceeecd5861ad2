package RawServer;

# What the tests of Client connect to: servers on loopback that read the request by themselves, and answer with
# whatever bytes a test wants.

use strict;
use warnings;

use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::Socket qw(tcp_server);
use Digest::SHA qw(sha1_base64);
use Exporter qw(import);
use IO::Socket::INET;
use Peer qw(run_until run_for settle parse_frames);
use POSIX ();
use Scalar::Util qw(weaken);

our @EXPORT_OK = qw(
    raw_server accept_for response outcome error_of connection_of peer_of closed_port
    open_descriptors settled_descriptors run_through_exceptions
);

# raw_server(answer => sub { my ($peer) = @_; ... }, ...) listens, and returns a hash with port, uri, peers (in
# the order in which they came; `request` is the text and `field` the headers, by name in lower case, of the
# request).
#   answer   called when a request is there; what it returns is written, where that is defined
#   accept   called with the socket instead of all that
#   tls      an AnyEvent::TLS context
#   path     of a UNIX socket to listen on
#   address  to listen on; 127.0.0.1 by default
sub raw_server {
    my %option = (answer => sub { response($_[0]) }, @_);
    my $server = { peers => [] };
    my ($host, $port) = defined $option{path} ? ('unix/', $option{path}) : ($option{address} // '127.0.0.1', 0);
    weaken(my $weak = $server);
    $server->{guard} = tcp_server $host, $port, sub {
        my ($fh) = @_;
        return unless $weak;
        return $option{accept}->($fh) if $option{accept};
        push @{ $weak->{peers} }, _peer($fh, %option);
    }, sub {
        my ($fh, $host, $port) = @_;
        $server->{port} = $port;
        return 0;
    };
    my $scheme = $option{tls} ? 'wss' : 'ws';
    $server->{uri} = defined $option{path} ? "$scheme://localhost/" : "$scheme://127.0.0.1:$server->{port}/";
    return $server;
}

sub _peer {
    my ($fh, %option) = @_;
    my $peer = { bytes => '', frames => [] };
    weaken(my $weak = $peer);
    $peer->{handle} = AnyEvent::Handle->new(
        fh       => $fh,
        linger   => 0,
        on_error => sub { $weak->{end} = "$_[2]" if $weak },
        on_eof   => sub { $weak->{end} = 'EOF' if $weak },
        on_read  => sub {
            my ($handle) = @_;
            return unless $weak;
            $weak->{bytes} .= $handle->{rbuf};
            $handle->{rbuf} = '';
            if (defined $weak->{request}) {
                push @{ $weak->{frames} }, parse_frames($weak->{bytes});
            }
            elsif ($weak->{bytes} =~ s/\A(.*?\r\n\r\n)//s) {
                $weak->{request} = $1;
                my (undef, @lines) = split /\r\n/, $1;
                for my $line (@lines) {
                    my ($name, $value) = split /: /, $line, 2;
                    push @{ $weak->{fields}{ lc $name } }, $value;
                }
                $weak->{field} = { map { $_ => join '|', @{ $weak->{fields}{$_} } } keys %{ $weak->{fields} } };
                my $answer = $option{answer}->($weak);
                $handle->push_write($answer) if defined $answer && length $answer;
            }
        },
        $option{tls} ? (tls => 'accept', tls_ctx => $option{tls}) : (),
    );
    return $peer;
}

# RFC 6455 section 4.2.2.
sub accept_for { return sha1_base64($_[0] . '258EAFA5-E914-47DA-95CA-C5AB0DC85B11') . '=' }

# The right answer to a peer's request. Names are headers to be added, or, where they are among those that have to
# be there, to be changed (undef: left out); `status` is the first line, `more` headers as they stand.
sub response {
    my ($peer, %change) = @_;
    my $status = delete $change{status} // 'HTTP/1.1 101 Switching Protocols';
    my $more   = delete $change{more}   // '';
    my %header = (
        Upgrade                => 'websocket',
        Connection             => 'Upgrade',
        'Sec-WebSocket-Accept' => accept_for($peer->{field}{'sec-websocket-key'} // ''),
        %change,
    );
    return join '', "$status\r\n", map({ defined $header{$_} ? "$_: $header{$_}\r\n" : () } sort keys %header),
        $more, "\r\n";
}

# What a condition variable comes to: the connection, or undef and the error without the place. The event loop
# does not run on after that, so that callbacks for the first messages can still be set (compat C13).
sub outcome {
    my ($done) = @_;
    AE::now_update;
    weaken(my $weak = $done);
    my $timer = AE::timer $ENV{AEWS_TEST_TIMEOUT} || 10, 0, sub { $weak->croak('no outcome in time') if $weak };
    my $connection = eval { $done->recv };
    return $connection if defined $connection;
    return (undef, $@ =~ s/ at \S+ line \d+\.?\n\z//r);
}

sub error_of {
    my ($connection, $error) = outcome(@_);
    return $connection ? 'a connection' : $error;
}

sub connection_of {
    my ($connection, $error) = outcome(@_);
    die "no connection: $error\n" unless $connection;
    return $connection;
}

# The server's end of its last connection, when there is a request there; not one of those given.
sub peer_of {
    my ($server, @old) = @_;
    my $peers = $server->{peers};
    run_until { @$peers > @old && defined $peers->[-1]{request} } 'a request';
    return $peers->[-1];
}

# Runs the event loop until the condition holds, and adds what callbacks die of to the array: it comes out of the
# loop or goes to a handler of the loop's, as the backend has it.
sub run_through_exceptions {
    my ($exceptions, $condition) = @_;
    for (1 .. 2000) {
        return 1 if $condition->();
        eval { run_for(0.005); 1 } or push @$exceptions, $@;
    }
    die 'timeout';
}

# How many descriptors this process has.
sub open_descriptors {
    my $count = 0;
    for my $fd (0 .. 255) {
        my $copy = POSIX::dup($fd) // next;
        POSIX::close($copy);
        $count++;
    }
    return $count;
}

# The same, when all that is on its way to be closed has been.
sub settled_descriptors {
    my $count;
    run_until {
        my $before = open_descriptors();
        settle();
        $before == ($count = open_descriptors());
    } 'descriptors to close';
    return $count;
}

# A port on which nobody listens.
sub closed_port {
    my $listener = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die "listen: $!";
    return $listener->sockport;
}

1;
