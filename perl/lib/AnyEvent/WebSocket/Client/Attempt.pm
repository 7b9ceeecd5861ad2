package AnyEvent::WebSocket::Client::Attempt;

# One call of AnyEvent::WebSocket::Client's `connect`, from the URI to the connection or the error, over all
# redirects. It is kept alive by what it waits for, and tells its condition variable exactly once. It is
# private to AnyEvent::WebSocket::Client.

use strict;
use warnings;

our $VERSION = '1.000';

use AE               ();
use AnyEvent         ();
use AnyEvent::Handle ();
use AnyEvent::Socket ();
use Errno            qw(EAGAIN EINTR EWOULDBLOCK);
use Scalar::Util     ();

use AnyEvent::WebSocket::Client::Handshake   ();
use AnyEvent::WebSocket::Client::Response    ();
use AnyEvent::WebSocket::Client::Target      ();
use AnyEvent::WebSocket::Connection          ();
use AnyEvent::WebSocket::Connection::Deflate ();
use AnyEvent::WebSocket::Connection::HTTP    ();

# Of an answer, at once.
my $READ_SIZE = 4096;

# Not told to another server than the one they were meant for.
my %SECRET = map { $_ => 1 } qw(authorization cookie proxy-authorization);

sub start {
    my ($class, $client, $done, @where) = @_;
    my $self = bless {
        client    => $client,
        done      => $done,
        headers   => $client->http_headers || [],
        redirects => 0,
    }, $class;
    # Where the program has been busy for long, the timeouts would be over by the time that the event loop knows of.
    AE::now_update;
    $self->_try('URI is not a websocket', _set_out => @where) or return;
    $self->_fail($self->{misled}) unless $self->{target};
}

sub _set_out {
    my ($self, @where) = @_;
    @$self{qw(target misled)} = AnyEvent::WebSocket::Client::Target->new(@where);
    $self->_connect if $self->{target};
}

# Ends all that is still under way.
sub _end {
    my ($self) = @_;
    delete @$self{qw(timer watcher fh alive)};
    my $handle = delete $self->{handle};
    if ($handle) {
        # Nobody has a use for what is unsent.
        $handle->{linger} = 0;
        $handle->destroy;
    }
    return delete $self->{done};
}

# What runs then is the program's, and may die: it comes last.
sub _fail {
    my ($self, $text) = @_;
    my $done = $self->_end or return;
    $done->croak($text);
}

# Calls a method that dies where something is wrong with the program's settings; the text for that begins with what is
# being done, which the method may change. Returns whether to go on after it. Where callbacks of the program have run and
# died meanwhile, that goes on its way.
sub _try {
    my ($self, $doing, $method, @arguments) = @_;
    my ($ok, $exception);
    {
        local ($@, $SIG{__DIE__});
        local $self->{doing} = $doing;
        $ok = eval { $self->$method(@arguments); 1 };
        ($exception, $doing) = ($@, $self->{doing});
    }
    return $self->{done} if $ok;
    die $exception unless $self->{done};
    $exception =~ s/ at \S+ line [0-9]+\.?\n.*//s;
    chomp $exception;
    $self->_fail("$doing: $exception");
    return;
}

# To be tried.
sub _connect {
    my ($self) = @_;
    $self->{doing} = 'handshake error';
    $self->_prepare_handshake;
    $self->{doing} = 'connect error';
    $self->_prepare_tls if $self->{target}->is_secure;
    $self->{doing} = 'unable to connect';
    $self->_make_tcp_connection;
}

sub _make_tcp_connection {
    my ($self) = @_;
    my ($client, $target) = @$self{qw(client target)};
    my $timeout = $client->timeout;
    my $attempt = $self;
    $client->_make_tcp_connection($target->{scheme}, @$target{qw(connect_host connect_port)}, sub {
        my ($fh, $error) = @_;
        $error //= $! ? "$!" : undef;
        # Some event loop keeps this for as long as what comes of it.
        my $self = $attempt or return;
        undef $attempt;
        return $self->_talk($fh) if $fh;
        # Where the program's callback dies, AnyEvent would forget what else it has postponed.
        $self->_later(_fail => 'unable to connect' . (defined $error ? ": $error" : ''));
    }, sub { $timeout });
}

sub _prepare_handshake {
    my ($self) = @_;
    my $client = $self->{client};
    my $deflate = $client->permessage_deflate;
    ($deflate) = AnyEvent::WebSocket::Connection::Deflate::options($deflate) if $deflate;
    $self->{handshake} = AnyEvent::WebSocket::Client::Handshake->new(
        target          => $self->{target},
        version         => $client->protocol_version,
        subprotocols    => $client->subprotocol,
        headers         => $self->{headers},
        deflate         => $deflate,
        max_header_size => $client->max_header_size,
        redirects       => $client->max_redirects,
    );
}

# The arguments for AnyEvent::Handle.
sub _prepare_tls {
    my ($self) = @_;
    my $client = $self->{client};
    my $name   = $self->{target}{name};
    my @options = (tls => 'connect');
    if ($client->ssl_no_verify) {
        # A server with several certificates wants to know the name all the same; an address is none.
        push @options, peername => $name unless AnyEvent::Socket::parse_address($name);
    }
    else {
        my %context = (verify => 1, verify_peername => 'https');
        my $ca_file = $client->ssl_ca_file;
        if (defined $ca_file) {
            # To AnyEvent::TLS a file that it cannot read is one without certificates.
            open my $readable, '<', $ca_file or die "ssl_ca_file $ca_file: $!\n";
            $context{ca_file} = $ca_file;
        }
        push @options, peername => $name, tls_ctx => \%context;
    }
    $self->{tls} = \@options;
}

# A request that the socket takes at once needs no handle; until the answer is there, nor does that.
sub _talk {
    my ($self, $fh) = @_;
    return unless $self->{done};
    $self->_start_timer($self->{client}->timeout);
    my $request = $self->{handshake}->request;
    my $sent = 0;
    if (!$self->{target}->is_secure) {
        AnyEvent::fh_unblock($fh);
        $sent = syswrite($fh, $request) // 0;
    }
    return $self->_listen($fh) if $sent == length $request;

    # What there is against that, it finds out again.
    $self->_try('connect error', _make_handle => $fh, on_error => sub { $self->_fail("connect error: $_[2]") })
        or return;
    my $handle = $self->{handle} or return;
    $handle->push_write(substr $request, $sent);
    return unless $self->{handle};
    $handle->on_read(sub {
        my ($handle) = @_;
        my $bytes = $handle->{rbuf};
        $handle->{rbuf} = '';
        $self->_receive($bytes);
    });
}

sub _listen {
    my ($self, $fh) = @_;
    @$self{qw(fh alive)} = ($fh, $self);
    # Some event loop never lets go of the callback.
    Scalar::Util::weaken($self);
    $self->{watcher} = AE::io($fh, 0, sub {
        return unless $self && $self->{watcher};
        my $got = sysread($self->{fh}, my $bytes, $READ_SIZE);
        return $self->_receive($bytes) if $got;
        return if !defined $got && ($! == EAGAIN || $! == EINTR || $! == EWOULDBLOCK);
        $self->_fail('connect error: ' . (defined $got ? 'Unexpected end-of-file' : $!));
    });
}

sub _receive {
    my ($self, $bytes) = @_;
    my $result = $self->{handshake}->receive($bytes) or return;
    return $self->_fail($result->{error})        if defined $result->{error};
    return $self->_redirect($result->{location}) if defined $result->{location};
    $self->_succeed($result);
}

# Where the handle has failed already there is none.
sub _make_handle {
    my ($self, $fh, @options) = @_;
    my $handle = AnyEvent::Handle->new(fh => $fh, @options, @{ $self->{tls} || [] });
    $self->{handle} = $handle if $self->{done};
}

sub _start_timer {
    my ($self, $timeout) = @_;
    return unless $timeout;
    # Some event loop never lets go of the callback of a timer that is cancelled.
    Scalar::Util::weaken($self);
    $self->{timer} = AE::timer($timeout, 0, sub {
        $self->_fail("handshake error: timeout, the server has not answered within $timeout seconds") if $self;
    });
}

# Calls a method in the next turn of the event loop.
sub _later {
    my ($self, $method, $argument) = @_;
    my $attempt = $self;
    $self->{timer} = AE::timer(0, 0, sub {
        # See `_make_tcp_connection`.
        my $self = $attempt or return;
        undef $attempt;
        $self->$method($argument);
    });
}

# Not right here, in the middle of reading: the program's callback may run the event loop, and with TLS nothing would
# arrive meanwhile; or it may let go of the connection, whose handle then is to be the last. Until then nothing is
# read, except with TLS.
sub _succeed {
    my ($self, $result) = @_;
    delete @$self{qw(watcher alive)};
    if (my $handle = $self->{handle}) {
        $handle->on_read(undef);
        $handle->on_eof(sub { });
        $handle->{rbuf} = $result->{rest};
    }
    $self->_later(_hand_over => $result);
}

sub _hand_over {
    my ($self, $result) = @_;
    return unless $self->{done};
    my $client  = $self->{client};
    my $deflate = $client->permessage_deflate;
    $deflate = { ref $deflate ? %$deflate : (), %{ $result->{offer} } } if $result->{offer};
    my %option = (masked => 1, role => 'client');
    for my $name (@AnyEvent::WebSocket::Connection::NUMBERS, 'validate_utf8') {
        my $value = $client->$name;
        $option{$name} = $value if defined $value;
    }
    $option{subprotocol} = $result->{subprotocol} if defined $result->{subprotocol};
    @option{qw(extensions permessage_deflate)} = ($result->{extensions}, $deflate) if defined $result->{extensions};
    $self->_try('connect error', _make_connection => \%option, $result->{rest}) or return;
    my $connection = delete $self->{connection};
    $self->_end->send($connection);
}

sub _make_connection {
    my ($self, $option, $rest) = @_;
    $self->_make_handle(delete $self->{fh}, rbuf => $rest) unless $self->{handle};
    $self->{doing} = 'handshake error';
    $option->{handle} = delete $self->{handle};
    $self->{connection} = AnyEvent::WebSocket::Connection->new($option);
}

sub _redirect {
    my ($self, $location) = @_;
    my $done = $self->_end;
    $self->{done} = $done;
    my $most = $self->{client}->max_redirects;
    return $self->_fail("handshake error: too many redirects, max_redirects is $most")
        if $self->{redirects}++ >= $most;
    $self->_try('handshake error: redirect', _follow => $location) or return;
    $self->_fail('handshake error: the redirect to '
            . AnyEvent::WebSocket::Connection::HTTP::printable($location) . " is not followed: $self->{misled}")
        unless $self->{target};
}

sub _follow {
    my ($self, $location) = @_;
    my $from = $self->{target};
    @$self{qw(target misled)} = $from->redirect($location);
    my $target = $self->{target} or return;
    my @headers = @{ $self->{headers} };
    my @kept;
    while (my ($name, $value) = splice @headers, 0, 2) {
        next if $SECRET{ lc $name } && !$target->may_know_secrets_of($from);
        next if lc $name eq 'host'  && !$target->has_authority_of($from);
        push @kept, $name, $value;
    }
    $self->{headers} = \@kept;
    $self->_connect;
}

1;
