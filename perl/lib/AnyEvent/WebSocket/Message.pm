package AnyEvent::WebSocket::Message;

use strict;
use warnings;

our $VERSION = '1.000';

use Carp   ();
use Encode ();
use AnyEvent::WebSocket::Connection ();

sub new {
    my $class = shift;
    my $args  = AnyEvent::WebSocket::Connection::_arguments($class, @_);
    Carp::croak("Missing required arguments: body") unless exists $args->{body};
    my $self = bless {
        body   => $args->{body},
        opcode => exists $args->{opcode} ? $args->{opcode} : 1,
    }, ref $class || $class;
    AnyEvent::WebSocket::Connection::_build($self, $args);
    return $self;
}

*BUILDARGS = \&AnyEvent::WebSocket::Connection::BUILDARGS;

sub decoded_body {
    my ($self) = @_;
    return Encode::decode('UTF-8', $self->body);
}

1;
