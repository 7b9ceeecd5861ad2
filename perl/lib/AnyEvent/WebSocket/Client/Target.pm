package AnyEvent::WebSocket::Client::Target;

# Where a WebSocket URI leads (RFC 6455 section 3): what to connect to, and what to ask for there. It is
# private to AnyEvent::WebSocket::Client.

use strict;
use warnings;

our $VERSION = '1.000';

use Protocol::WebSocket::URL ();
use Scalar::Util             ();
use URI                      ();
use URI::Escape              ();
use URI::ws                  ();

my %DEFAULT_PORT = (ws => 80, wss => 443);

# URIs in which there is nothing to decode or to encode, nor anything wrong: scheme, host, port and resource. URI takes
# longer for those than everything else between the URI and the socket.
my $PLAIN = qr{\A(wss?)://([A-Za-z0-9.-]+)(?::([1-9][0-9]{0,4}))?(/[A-Za-z0-9._~!\$&'()*+,;=:\@%/?-]*)\z};

# Returns the target, or undef and why there is none. `$host` and `$port`, where they are defined, are what is
# connected to instead of the URI's.
sub new {
    my ($class, $uri, $host, $port) = @_;
    my $self = bless {}, $class;
    if (!ref $uri && defined $uri && $uri =~ $PLAIN && ($3 // 0) <= 65535) {
        @$self{qw(uri scheme host name port resource)} = ($uri, $1, $2, $2, $3 // $DEFAULT_PORT{$1}, $4);
        # They are octets, even where the string they come from was not held as such.
        utf8::is_utf8($_) and utf8::downgrade($_) for @$self{qw(scheme host name resource)};
    }
    else {
        my $error = $self->_parse($uri, $host);
        return (undef, $error) if defined $error;
    }
    $self->override($host, $port);
    return (undef, "unable to connect: port $port is too large")
        if defined $port && $port =~ /\A[0-9]+\z/ && $port > 65535 && $self->{connect_host} ne 'unix/';
    return $self;
}

sub _parse {
    my ($self, $given, $host) = @_;
    # A copy, since the program's may change before all is said.
    my $uri = URI->new(Scalar::Util::blessed($given) && $given->can('as_string') ? $given->as_string : $given);
    $self->{uri} = $uri;
    my $scheme = $self->{scheme} = lc($uri->scheme // '');
    return 'URI is not a websocket' unless $DEFAULT_PORT{$scheme};
    my $error = $self->_parse_authority($uri->authority);
    $error = 'it has no host' if !defined $error && !length $self->{name} && !defined $host;
    return "URI is not a websocket: $error" if defined $error;
    # The fragment is not sent.
    $self->{resource} = $uri->path_query;
    $self->{resource} =~ s{\A(?!/)}{/};
    return;
}

# `host` is as it is written in the URI, `name` what it stands for. Protocol::WebSocket and URI do not get all of
# them right: IPv6 addresses, user names, empty ports.
sub _parse_authority {
    my ($self, $authority) = @_;
    return 'it has no host' unless defined $authority;
    my ($host, $port) = $authority =~ /\A(?:.*@)?(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]*))?\z/s
        or return 'its host or port is malformed';
    $self->{port} = length($port // '') ? $port + 0 : $DEFAULT_PORT{ $self->{scheme} };
    return "port $port is too large" if $self->{port} > 65535;
    $self->{host} = $host;
    my $name = URI::Escape::uri_unescape($host =~ /\A\[(.*)\]\z/s ? $1 : $host);
    # These are nobody's name, and would be misunderstood where a name is part of a line.
    return 'its host is malformed' if $name =~ m{[\x00-\x20\x7F"#/<>?@\[\\\]^`\{|\}]};
    return 'its host is malformed' if $host =~ /\A\[/ && $name !~ /\A[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%.*)?\z/;
    $self->{name} = $name;
    return;
}

sub override {
    my ($self, $host, $port) = @_;
    $self->{override}     = [$host, $port];
    $self->{connect_host} = $host // $self->{name};
    $self->{connect_port} = $port // $self->{port};
    return;
}

sub is_secure { my ($self) = @_; return $self->{scheme} eq 'wss' }

# As a Host header has them.
sub host_and_port {
    my ($self) = @_;
    return $self->{port} == $DEFAULT_PORT{ $self->{scheme} } ? $self->{host} : "$self->{host}:$self->{port}";
}

# For Protocol::WebSocket::Handshake::Client.
sub url {
    my ($self) = @_;
    return Protocol::WebSocket::URL->new(
        secure        => $self->is_secure,
        host          => $self->{host},
        port          => $self->{port},
        resource_name => $self->{resource},
    );
}

# The target of a redirect from this one, or undef and why it is not gone to.
sub redirect {
    my ($self, $location) = @_;
    my $uri = URI->new_abs($location, "$self->{uri}");
    my $scheme = lc($uri->scheme // '');
    $uri->scheme($scheme eq 'http' ? 'ws' : 'wss') if $scheme eq 'http' || $scheme eq 'https';
    my ($target, $error) = ref($self)->new($uri);
    return (undef, $error) unless $target;
    return (undef, 'it leads from wss to ws') if $self->is_secure && !$target->is_secure;
    $target->override(@{ $self->{override} }) if $target->has_authority_of($self);
    return $target;
}

sub has_authority_of {
    my ($self, $other) = @_;
    return $self->{scheme} eq $other->{scheme} && $self->{port} == $other->{port} && $self->_has_name_of($other);
}

sub _has_name_of { my ($self, $other) = @_; return lc $self->{name} eq lc $other->{name} }

# Whether what is for the other's ears may be told to this one: it is the same, or the same with TLS added.
sub may_know_secrets_of {
    my ($self, $other) = @_;
    return $self->_has_name_of($other)
        && ($self->{port} == $other->{port} || $self->{port} == 443 && $other->{port} == 80)
        && ($self->is_secure || !$other->is_secure);
}

1;
