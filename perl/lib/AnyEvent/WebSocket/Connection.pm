package AnyEvent::WebSocket::Connection;

use strict;
use warnings;

our $VERSION = '1.000';

use AE           ();
use Carp         ();
use Encode       ();
use Scalar::Util ();
use XSLoader     ();

XSLoader::load(__PACKAGE__, $VERSION);

use AnyEvent::WebSocket::Connection::Shim ();
require AnyEvent::WebSocket::Message;

# Programs find Protocol::WebSocket::Frame loaded, and its package variables are our defaults where it
# is (compat C16).
{
    local ($@, $SIG{__DIE__});
    eval { require Protocol::WebSocket::Frame };
}

my %ROLE = (client => 1, server => 2);

# The two classes check their arguments for each other; errors are the caller's of both.
our @CARP_NOT = ('AnyEvent::WebSocket::Message');

sub BUILDARGS {
    my $class = shift;
    if (@_ == 1) {
        return { %{ $_[0] } } if (Scalar::Util::reftype($_[0]) // '') eq 'HASH';
        Carp::croak("$class->new takes a hash reference or a list of keys and values");
    }
    Carp::croak("$class->new takes a list of keys and values, but the last key has no value")
        if @_ % 2;
    return {@_};
}

# A subclass made with Moo comes here from Moo's constructor, which has called BUILDARGS and goes on to
# call BUILD, ours first (compat C2).
sub _is_built_by_moo {
    my ($class) = @_;
    return unless $INC{'Moo.pm'} && Moo->can('is_class');
    require mro;
    return grep { Moo->is_class($_) } @{ mro::get_linear_isa($class) };
}

sub _new {
    my ($build, $class, @arguments) = @_;
    $class = ref $class || $class;
    my $self = bless {}, $class;
    $build->($self, BUILDARGS($class, @arguments)) unless _is_built_by_moo($class);
    return $self;
}

sub _number {
    my ($name, $value, $default) = @_;
    return $default unless defined $value;
    Carp::croak("$name must be a number that is not negative")
        unless Scalar::Util::looks_like_number($value) && $value >= 0;
    return $value > 2**53 ? 2**53 : $value;
}

sub new {
    return _new(\&BUILD, @_);
}

sub BUILD {
    my ($self, $args) = @_;
    Carp::croak("Missing required arguments: handle") unless exists $args->{handle};
    my $handle = $args->{handle};
    Carp::croak("handle must be an AnyEvent::Handle, or an object with its methods")
        unless Scalar::Util::blessed($handle)
        && ($handle->can('push_write') || $handle->can('AUTOLOAD'));
    my $role = $args->{role};
    Carp::croak("role must be 'client' or 'server'") if defined $role && !$ROLE{$role};

    no warnings 'once';
    my $max_payload_size = _number(max_payload_size => $args->{max_payload_size},
        $Protocol::WebSocket::Frame::MAX_PAYLOAD_SIZE // 65536);
    my $max_fragments = _number(max_fragments => $args->{max_fragments},
        $Protocol::WebSocket::Frame::MAX_FRAGMENTS_AMOUNT // 128);

    @$self{qw(handle masked validate_utf8 close_timeout)} = ($handle, 0, 1, 30);
    exists $args->{$_} and $self->{$_} = $args->{$_}
        for qw(masked subprotocol max_payload_size max_fragments close_code close_reason close_error
        role);
    defined $args->{validate_utf8} and $self->{validate_utf8} = $args->{validate_utf8};
    defined $args->{close_timeout}
        and $self->{close_timeout} = _number(close_timeout => $args->{close_timeout});

    AnyEvent::WebSocket::Connection::Shim::attach($self, $handle, $role ? $ROLE{$role} : 0,
        !!$self->{masked}, !!$self->{validate_utf8}, $max_fragments, $max_payload_size);
    AnyEvent::WebSocket::Connection::Shim::install($self, $handle);
}

sub close {
    my ($self, $code, $reason) = @_;
    $code = 1000 unless $code;
    Carp::croak("close code '$code' is not a number from 1000 to 4999")
        unless Scalar::Util::looks_like_number($code) && $code >= 1000 && $code < 5000;
    $reason = defined $reason ? Encode::encode('UTF-8', "$reason") : '';
    my $error = AnyEvent::WebSocket::Connection::Shim::close($self, $code, $reason);
    Carp::croak($error) if defined $error;
    return $self;
}

END { AnyEvent::WebSocket::Connection::Shim::at_exit() }

1;
