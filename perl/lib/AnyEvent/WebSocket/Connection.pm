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

require AnyEvent::WebSocket::Message;

# Programs find Protocol::WebSocket::Frame loaded, and its package variables are our defaults where it
# is (compat C16).
{
    local ($@, $SIG{__DIE__});
    eval { require Protocol::WebSocket::Frame };
}

my $SHIM = __PACKAGE__ . '::_Shim';

my %ROLE = (client => 1, server => 2);

# Frames go past the handle only where its inside is as it is known to us; otherwise all goes through
# its methods.
my $HANDLE_IS_KNOWN;

sub _handle_is_known {
    return $HANDLE_IS_KNOWN if defined $HANDLE_IS_KNOWN;
    no warnings 'numeric';
    my $version = AnyEvent::Handle->VERSION || 0;
    return $HANDLE_IS_KNOWN =
        $version >= 7 && $version < 8
        && !(grep { !AnyEvent::Handle->can($_) } qw(_drain_rbuf _drain_wbuf _error start_read)) || 0;
}

# new and its arguments

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

sub _arguments {
    my $class = shift;
    return $class->BUILDARGS(@_);
}

# Subclasses may have a BUILD each, as with the original (compat C2). Moo calls those of its classes by
# itself.
sub _build {
    my ($self, $args) = @_;
    my $class = ref $self;
    return unless $class->can('BUILD');
    return if $INC{'Moo.pm'} && Moo->can('is_class') && Moo->is_class($class);
    require mro;
    for my $ancestor (reverse @{ mro::get_linear_isa($class) }) {
        no strict 'refs';
        my $build = defined &{"${ancestor}::BUILD"} ? \&{"${ancestor}::BUILD"} : next;
        $self->$build($args);
    }
}

sub _number {
    my ($name, $value, $default) = @_;
    return $default unless defined $value;
    Carp::croak("$name must be a number that is not negative")
        unless Scalar::Util::looks_like_number($value) && $value >= 0;
    return $value > 2**53 ? 2**53 : int $value;
}

sub new {
    my $class = shift;
    my $args  = _arguments($class, @_);
    $class = ref $class || $class;

    Carp::croak("Missing required arguments: handle") unless exists $args->{handle};
    my $handle = $args->{handle};
    Carp::croak("handle must be an AnyEvent::Handle, or an object with its methods")
        unless Scalar::Util::blessed($handle) && $handle->can('push_write');
    my $role = $args->{role};
    Carp::croak("role must be 'client' or 'server'") if defined $role && !$ROLE{$role};

    no warnings 'once';
    my $max_payload_size = _number(max_payload_size => $args->{max_payload_size},
        $Protocol::WebSocket::Frame::MAX_PAYLOAD_SIZE // 65536);
    my $max_fragments = _number(max_fragments => $args->{max_fragments},
        $Protocol::WebSocket::Frame::MAX_FRAGMENTS_AMOUNT // 128);

    my $self = bless {
        masked        => 0,
        validate_utf8 => 1,
        close_timeout => 30,
        handle        => $handle,
    }, $class;
    exists $args->{$_} and $self->{$_} = $args->{$_}
        for qw(masked subprotocol max_payload_size max_fragments close_code close_reason close_error
        role);
    defined $args->{validate_utf8} and $self->{validate_utf8} = $args->{validate_utf8};
    defined $args->{close_timeout}
        and $self->{close_timeout} = _number(close_timeout => $args->{close_timeout});

    $SHIM->can('attach')->($self, $handle, $role ? $ROLE{$role} : 0, !!$self->{masked},
        !!$self->{validate_utf8}, $max_fragments, $max_payload_size);
    _install($self, $handle);
    _build($self, $args);
    return $self;
}

# The handle

# Puts our code into the handle's places. Reading starts when the event loop has been idle once
# (compat C13); what the handle has read already comes through on_read at once, unless this runs inside
# its own on_read: then when that is done.
sub _install {
    my ($self, $handle) = @_;
    my ($input, $finish, $ready) = AnyEvent::WebSocket::Connection::_Shim::closures($self);
    $handle->on_error($finish);
    $handle->on_eof($finish);
    $handle->{_rw} = AnyEvent::WebSocket::Connection::_Shim::parked()
        if _handle_is_known() && AnyEvent::WebSocket::Connection::_Shim::choose_direct($self);
    $handle->on_read($input);
    AnyEvent::WebSocket::Connection::_Shim::keep_idle($self, AE::idle($ready));
}

# These are called with the handle, by the shim.

sub _start_reading {
    my ($handle) = @_;
    $handle->{_rw} = AE::io($handle->{fh}, 0, $handle->{on_read});
}

sub _hand_over {
    my ($handle) = @_;
    delete $handle->{_rw};
    $handle->start_read;
}

sub _at_eof {
    my ($handle) = @_;
    delete $handle->{_rw};
    $handle->{_eof} = 1;
    $handle->_drain_rbuf;
}

sub _cork {
    my ($handle, $watcher) = @_;
    $handle->{_ww} = AE::io($handle->{fh}, 1, $watcher);
}

sub _detach {
    my ($handle, $direct, $own) = @_;
    delete $handle->{_rw} if $direct;
    # A child process must not send what is its parent's to send (compat D3).
    $handle->{linger} = 0 unless $own;
    $handle->on_read(\&_discard) if !$direct;
}

sub _discard {
    my ($handle) = @_;
    $handle->{rbuf} = '';
}

# Closing

sub close {
    my ($self, $code, $reason) = @_;
    $code = 1000 unless $code;
    Carp::croak("close code '$code' is not a number from 1000 to 4999")
        unless Scalar::Util::looks_like_number($code) && $code >= 1000 && $code < 5000;
    $reason = defined $reason ? Encode::encode('UTF-8', "$reason") : '';
    my $error = AnyEvent::WebSocket::Connection::_Shim::close($self, $code, $reason);
    Carp::croak($error) if defined $error;
    if (AnyEvent::WebSocket::Connection::_Shim::is_open($self)) {
        $self->{handle}->push_shutdown;
        _start_close_timer($self);
    }
    return $self;
}

# These are called with the connection, by the shim.

sub _on_close {
    my ($self, $code, $reason) = @_;
    if (defined $code) {
        $self->{close_code}   = $code;
        $self->{close_reason} = $reason;
    }
    $self->{handle}->push_shutdown;
    _start_close_timer($self);
}

sub _on_failure {
    my ($self, $text) = @_;
    my @callbacks = AnyEvent::WebSocket::Connection::_Shim::callbacks($self, 'parse_error');
    my ($failed, $exception);
    {
        local $@;
        $failed = !eval { $_[0] = $self; $_->($self, $text) for @callbacks; 1 };
        $exception = $@;
    }
    $self->{handle}->push_shutdown;
    _start_close_timer($self);
    die $exception if $failed;
}

sub _finish {
    my ($self, $text) = @_;
    AnyEvent::WebSocket::Connection::_Shim::finish($self) or return;
    $self->{handle}->push_shutdown;
    $self->{close_error} = $text if defined $text;
    my @callbacks = AnyEvent::WebSocket::Connection::_Shim::callbacks($self, 'finish');
    AnyEvent::WebSocket::Connection::_Shim::forget_callbacks($self);
    $_->($self, $text) for @callbacks;
}

sub _start_close_timer {
    my ($self) = @_;
    my $after = $self->{close_timeout} or return;
    return if AnyEvent::WebSocket::Connection::_Shim::has_timer($self);
    _restart_close_timer($self, $after);
}

sub _restart_close_timer {
    my ($self, $after) = @_;
    Scalar::Util::weaken(my $weak = $self);
    my $timer = AE::timer($after, 0, sub {
        my $self = $weak or return;
        return _restart_close_timer($self, $after)
            if AnyEvent::WebSocket::Connection::_Shim::has_received($self);
        my $handle = $self->{handle};
        _finish($self, 'close timeout');
        $handle->destroy;
    });
    AnyEvent::WebSocket::Connection::_Shim::keep_timer($self, $timer);
}

END { AnyEvent::WebSocket::Connection::_Shim::at_exit() }

1;
