package AnyEvent::WebSocket::Connection::HTTP;

# What both sides of the opening handshake have to know of HTTP. `parse_response` is an XSUB. It is private to
# AnyEvent::WebSocket::Client and ::Server.

use strict;
use warnings;

our $VERSION = '1.000';

use Digest::SHA ();

use AnyEvent::WebSocket::Connection ();

# RFC 9110 section 5.6.2: names of methods, header fields and subprotocols.
our $TOKEN = qr/[!#\$%&'*+.^_`|~0-9A-Za-z-]+/;

# The Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2, item 5.4).
sub accept_for {
    my ($key) = @_;
    return Digest::SHA::sha1_base64($key . '258EAFA5-E914-47DA-95CA-C5AB0DC85B11') . '=';
}

# A peer's bytes in a text that may go to a terminal or a log.
sub printable {
    my ($bytes) = @_;
    my $shown = length $bytes > 80 ? substr($bytes, 0, 77) . '...' : $bytes;
    $shown =~ s/([^\x20-\x7E])/sprintf '\\x%02X', ord $1/ge;
    return $shown;
}

1;
