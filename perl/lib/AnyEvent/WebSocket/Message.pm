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

1;
