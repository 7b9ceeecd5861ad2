package AnyEvent::WebSocket::Server::TLS;

# The TLS context of an AnyEvent::WebSocket::Server. It is made once, and again when its files have changed, as
# happens when certificates are renewed.

use strict;
use warnings;

our $VERSION = '1.000';

use Carp ();

our @CARP_NOT = ('AnyEvent::WebSocket::Server');

sub new {
    my ($class, $cert_file, $key_file) = @_;
    my $self = bless {cert_file => $cert_file, key_file => $key_file // $cert_file}, $class;
    $self->{stamp} = $self->_stamp;
    my $error = $self->_load;
    Carp::croak("TLS: $error") if defined $error;
    return $self;
}

sub context {
    my ($self) = @_;
    my $stamp = $self->_stamp;
    if ($stamp ne $self->{stamp}) {
        # Not tried again before the next change.
        $self->{stamp} = $stamp;
        my $error = $self->_load;
        # In the middle of a renewal the two may not go together.
        warn "AnyEvent::WebSocket::Server goes on with the certificate that it has. TLS: $error\n" if defined $error;
    }
    return $self->{context};
}

sub _stamp {
    my ($self) = @_;
    return join ' ', map { (stat $_)[0, 1, 7, 9] } @$self{qw(cert_file key_file)};
}

# Returns what is wrong.
sub _load {
    my ($self) = @_;
    for my $file (@$self{qw(cert_file key_file)}) {
        open my $try, '<', $file or return "cannot read $file: $!";
    }
    local ($@, $SIG{__DIE__});
    my $context = eval {
        require AnyEvent::TLS;
        AnyEvent::TLS->new(map { $_ => $self->{$_} } qw(cert_file key_file));
    };
    my $error = $@;
    $error = "the key in $self->{key_file} is not that of the certificate in $self->{cert_file}"
        if $context && !Net::SSLeay::CTX_check_private_key($context->ctx);
    if (length $error) {
        # Left there, they would be taken for those of a connection.
        Net::SSLeay::ERR_clear_error() if $INC{'Net/SSLeay.pm'};
        return $error =~ s/ at \S+ line \d+\.\n\z//r;
    }
    $self->{context} = $context;
    return undef;
}

1;
