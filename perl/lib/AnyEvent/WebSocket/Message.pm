package AnyEvent::WebSocket::Message;

use strict;
use warnings;

our $VERSION = '1.000';

use Carp   ();
use Encode ();
use AnyEvent::WebSocket::Connection ();

our @CARP_NOT = ('AnyEvent::WebSocket::Connection');

sub new {
    return AnyEvent::WebSocket::Connection::_new(\&BUILD, @_);
}

*BUILDARGS = \&AnyEvent::WebSocket::Connection::BUILDARGS;

sub BUILD {
    my ($self, $args) = @_;
    Carp::croak('Missing required arguments: body') unless exists $args->{body};
    $self->{body}   = $args->{body};
    $self->{opcode} = exists $args->{opcode} ? $args->{opcode} : 1;
}

sub decoded_body {
    my ($self) = @_;
    return Encode::decode('UTF-8', $self->body);
}

sub text {
    my ($self) = @_;
    Carp::croak('text: this is not a text message, its opcode is ' . $self->opcode) unless $self->is_text;
    my $body = $self->body;
    # Of a message that the program has made it may be characters already.
    return $body if !defined $body || utf8::is_utf8($body);
    my $text = AnyEvent::WebSocket::Connection::Shim::characters($body);
    Carp::croak('text: the body is not UTF-8') unless defined $text;
    return $text;
}

1;

__END__

=encoding UTF-8

=head1 NAME

AnyEvent::WebSocket::Message - a WebSocket message for AnyEvent

=head1 SYNOPSIS

 use strict;
 use warnings;
 use AnyEvent::WebSocket::Message;

 my $message = AnyEvent::WebSocket::Message->new(body => "\xE2\x98\xBA", opcode => 1);

 printf "%d bytes, %d character\n", length $message->body, length $message->decoded_body
   if $message->is_text;

 # $connection->send($message);

=head1 DESCRIPTION

What an L<AnyEvent::WebSocket::Connection> delivers, and what it can be given to send: also a message that it
delivered, as it is.

A message is a hash with the attributes under their names.

=head1 CONSTRUCTOR

=head2 new

 my $message = AnyEvent::WebSocket::Message->new(body => $bytes);
 my $message = AnyEvent::WebSocket::Message->new(body => $bytes, opcode => 2);

Takes the attributes, as a list or as a hash reference. Dies where there is no body.

=head1 ATTRIBUTES

Both are read-only.

=head2 body

String, required. The bytes of the message. In a message to be sent it may be characters (with Perl's UTF-8
flag), which are encoded as UTF-8.

=head2 opcode

Integer, default 1: 1 for text, 2 for binary, 8 for Close, 9 for Ping, 10 for Pong (RFC 6455 section 5.2).

=head1 METHODS

=head2 decoded_body

The body as characters: decoded from UTF-8, with U+FFFD in place of what is not UTF-8.

=head2 text

 my $characters = $message->text;

The characters of a text message. Dies where this is none, or where its body is not UTF-8, which a received one is unless
C<validate_utf8> is turned off.

=head2 is_text

True for a text message (opcode 1).

=head2 is_binary

True for a binary message (opcode 2).

=head2 is_close

True for a Close frame (opcode 8).

=head2 is_ping

True for a Ping (opcode 9).

=head2 is_pong

True for a Pong (opcode 10).

=head1 SEE ALSO

L<AnyEvent::WebSocket::Connection>

=head1 COPYRIGHT AND LICENSE

This is free software; you can redistribute it and/or modify it under the same terms as the Perl 5
programming language system itself.

=cut
