package Differential::Classes;

# Classes such as programs make of ours and of AnyEvent's.

use strict;
use warnings;

use AnyEvent::Handle ();
use AnyEvent::WebSocket::Connection ();
use AnyEvent::WebSocket::Message ();

my %CONNECTION = (
    'original' => 'AnyEvent::WebSocket::Connection',
    'derived'  => 'Differential::Classes::Connection',
    'by Moo'   => 'Differential::Classes::MooConnection',
);
my %MESSAGE = (
    'original' => 'AnyEvent::WebSocket::Message',
    'derived'  => 'Differential::Classes::Message',
    'alike'    => 'Differential::Classes::LikeMessage',
);

sub connection_class { return $CONNECTION{ $_[0] } }
sub message_class    { return $MESSAGE{ $_[0] } }

@Differential::Classes::Connection::ISA = ('AnyEvent::WebSocket::Connection');

{
    package Differential::Classes::MooConnection;
    use Moo;
    extends 'AnyEvent::WebSocket::Connection';
    has note => (is => 'rw', default => sub { 'of the program' });
    sub BUILD { $_[0]->note or die 'no default' }
}

{
    package Differential::Classes::Message;
    our @ISA = ('AnyEvent::WebSocket::Message');
    sub body { return '<' . ($_[0]->SUPER::body // '') . '>' }
}

{
    package Differential::Classes::LikeMessage;
    sub new { my ($class, %self) = @_; return bless \%self, $class }
    sub body   { return $_[0]{body} }
    sub opcode { return $_[0]{opcode} }
}

# Its methods have to be called: every byte passes through them (compat C21).
{
    package Differential::Classes::Handle;
    our @ISA = ('AnyEvent::Handle');
    sub push_write { my $self = shift; $self->{seen} += length $_[-1]; return $self->SUPER::push_write(@_) }
}

# Not an AnyEvent::Handle, but one inside.
{
    package Differential::Classes::Wrapper;
    sub new { my ($class, $handle) = @_; return bless {inside => $handle}, $class }
    for my $method (qw(on_read on_error on_eof on_drain push_write push_shutdown destroy destroyed fh)) {
        no strict 'refs';
        *$method = sub { my $self = shift; return $self->{inside}->$method(@_) };
    }
}

1;
