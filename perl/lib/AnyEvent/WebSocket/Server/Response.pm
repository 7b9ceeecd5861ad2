package AnyEvent::WebSocket::Server::Response;

# The response that AnyEvent::WebSocket::Server offers to programs: Protocol::WebSocket's, with the extensions that
# were agreed upon, and without a way to smuggle header fields in.

use strict;
use warnings;

our $VERSION = '1.000';

use parent 'Protocol::WebSocket::Response';

use AnyEvent::WebSocket::Connection::HTTP ();
use Carp                                  ();

our @CARP_NOT = ('Protocol::WebSocket::Response');

sub extensions { @_ > 1 ? $_[0]->{extensions} = $_[1] : $_[0]->{extensions} }

sub headers {
    my ($self) = @_;
    return $self->{headers_of_this_call} if $self->{headers_of_this_call};
    my $headers    = $self->SUPER::headers();
    my $extensions = $self->extensions;
    push @$headers, 'Sec-WebSocket-Extensions' => $extensions if defined $extensions && length $extensions;
    for my $i (0 .. $#$headers) {
        # What programs put here they may have from the request, decoded (a subprotocol from its path, say).
        Carp::croak("there is a control character in $headers->[$i - 1] of the response")
            if $i % 2 && $headers->[$i] =~ /[\x00-\x08\x0a-\x1f\x7f]/;
    }
    return $headers;
}

# The one that is inherited asks for the headers, and so for SHA-1, twice for each of them.
sub to_string {
    my ($self) = @_;
    local $self->{headers_of_this_call} = $self->headers;
    return $self->SUPER::to_string();
}

# What to_string comes to where the program has added nothing to what was agreed upon (RFC 6455 section 4.2.2), which
# is a matter of few strings then.
sub accepting {
    my ($key, $agreed) = @_;
    my $accept = AnyEvent::WebSocket::Connection::HTTP::accept_for($key);
    return join "\r\n", 'HTTP/1.1 101 WebSocket Protocol Handshake', 'Upgrade: WebSocket', 'Connection: Upgrade',
        "Sec-WebSocket-Accept: $accept",
        defined $agreed->{subprotocol} ? "Sec-WebSocket-Protocol: $agreed->{subprotocol}"  : (),
        defined $agreed->{extensions}  ? "Sec-WebSocket-Extensions: $agreed->{extensions}" : (), '', '';
}

# What a response that goes to the client says, whoever has written it: a hash of status, subprotocol and
# extensions; or undef and what is wrong with it.
sub read_back {
    my ($octets) = @_;
    my $parsed = AnyEvent::WebSocket::Connection::HTTP::parse_response($octets);
    return (undef, $parsed // 'there is no empty line behind its header') unless ref $parsed;
    my ($subprotocol, $extensions) = map { $_ && join ', ', @$_ }
        @{ $parsed->{headers} }{qw(sec-websocket-protocol sec-websocket-extensions)};
    return {
        status      => $parsed->{status},
        subprotocol => $subprotocol,
        extensions  => $extensions,
    };
}

1;
