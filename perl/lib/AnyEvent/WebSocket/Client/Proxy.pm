package AnyEvent::WebSocket::Client::Proxy;

# TCP connections through an HTTP proxy, by CONNECT (RFC 9110 section 9.3.6). Which proxy is AnyEvent::Connector's
# to say; its own way of connecting through it has no end where the proxy says nothing, keeps the memory of
# each connection, and cannot tell what was wrong. It is private to AnyEvent::WebSocket::Client.

use strict;
use warnings;

our $VERSION = '1.000';

use AE               ();
use AnyEvent::Handle ();
use AnyEvent::Socket ();
use Scalar::Util     ();
use URI              ();

use AnyEvent::WebSocket::Client::Response ();
use AnyEvent::WebSocket::Connection::HTTP ();

# For the answer's head: nothing of it is of interest but its first line.
my $MAX_SIZE = 16384;

# The URI of the proxy that the environment has for this, or undef.
sub proxy_for {
    my ($scheme, $host, $port) = @_;
    return if $host eq 'unix/';
    require AnyEvent::Connector;
    for my $variable ($scheme, $scheme eq 'wss' ? 'https' : 'http') {
        my $proxy = AnyEvent::Connector->new(env_proxy => $variable)->proxy_for($host, $port);
        next unless defined $proxy;
        my $uri = URI->new($proxy);
        die "the proxy $proxy has no host\n" unless length($uri->host // '');
        return $uri;
    }
    return;
}

# As AnyEvent::Socket's. What was wrong is a second argument of the callback. The time that connecting may take
# is also what the proxy has for its answer.
sub tcp_connect {
    my ($proxy, $host, $port, $connect, $prepare) = @_;
    my $name = $proxy->host_port;
    my $fail = sub { $connect->(undef, "proxy $name: $_[0]") };
    AnyEvent::Socket::tcp_connect($proxy->host, $proxy->port, sub {
        my ($fh, @peer) = @_;
        return $fail->($! ? "$!" : 'no connection') unless $fh;
        my $target = _authority($host, $port);
        return $fail->("'$host' is not the name of a host") unless defined $target;
        my $timeout = $prepare ? $prepare->($fh) : 0;
        _ask($fh, $target, $timeout, sub {
            my ($error) = @_;
            defined $error ? $fail->($error) : $connect->($fh, @peer);
        });
    }, $prepare);
    return;
}

sub _authority {
    my ($host, $port) = @_;
    # A service's name may come with its number.
    $port =~ s/\A\S+=//;
    return if "$host$port" =~ /[^\x21-\x7E]/;
    return $host =~ /:/ ? "[$host]:$port" : "$host:$port";
}

sub _ask {
    my ($fh, $target, $timeout, $then) = @_;
    my ($handle, $timer);
    my $end = sub {
        my ($error) = @_;
        undef $timer;
        return unless $then;
        my $answer = $then;
        undef $then;
        $handle->destroy if $handle;
        undef $handle;
        $answer->($error);
    };
    my $response = AnyEvent::WebSocket::Client::Response->new(max_size => $MAX_SIZE, whole => qr/\A2/);
    $handle = AnyEvent::Handle->new(
        fh       => $fh,
        linger   => 0,
        on_error => sub { $end->($_[2]) },
        on_eof   => sub { $end->('Unexpected end-of-file') },
        on_read  => sub {
            my ($handle) = @_;
            my $bytes = $handle->{rbuf};
            $handle->{rbuf} = '';
            my $answer = $response->add($bytes) or return;
            return $end->($answer->{error}) if defined $answer->{error};
            return $end->('it answered ' . AnyEvent::WebSocket::Connection::HTTP::printable($answer->{line}))
                if $answer->{status} !~ /\A2/;
            return $end->('it says more than that it has connected') if length $answer->{rest};
            $end->();
        },
    );
    return unless $then;
    # Not by `$end`: some event loop never lets go of the callback of a timer that is cancelled.
    Scalar::Util::weaken(my $weak = $handle);
    $timer = AE::timer($timeout, 0, sub {
        $weak->{on_error}->($weak, 1, "no answer within $timeout seconds") if $weak && $weak->{on_error};
    }) if $timeout;
    $handle->push_write("CONNECT $target HTTP/1.1\r\nHost: $target\r\n\r\n");
}

1;
