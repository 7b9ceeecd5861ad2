package AnyEvent::WebSocket::Server::Opening;

# One opening handshake at a server: from a socket to a connection, or to an error and the socket as it was. It is
# private to AnyEvent::WebSocket::Server.
#
# Until it ends it is held by the callbacks of its handle and by its timer, which it holds. Ending takes that apart,
# and only then is the condition variable told: what its callback does, dying included, finds nothing half done.

use strict;
use warnings;

our $VERSION = '1.000';

use AE               ();
use AnyEvent         ();
use AnyEvent::Handle ();
use Scalar::Util     qw(blessed);

use AnyEvent::WebSocket::Connection          ();
use AnyEvent::WebSocket::Connection::Deflate ();
use AnyEvent::WebSocket::Server::Refusal     ();
use AnyEvent::WebSocket::Server::Request     ();
use AnyEvent::WebSocket::Server::Response    ();

# What a PSGI server may have read beyond the request. A client that knows RFC 6455 sends nothing before it has the
# response.
my $READ_AHEAD = 1 << 20;

# How long a client may take for a response that refuses, in seconds, where there is no `handshake_timeout`.
my $REFUSING = 30;

# A request that is still to come.
sub receive {
    my ($class, $server, $fh, $condvar) = @_;
    my $self = $class->_new($server, $condvar);
    $self->_open($fh, $self->_tls) or return;
    if (my $seconds = $server->{handshake_timeout}) {
        # Where the program has kept the loop waiting, its time is old, and the timer would be due early.
        AE::now_update;
        $self->{timer} = AE::timer($seconds, 0, sub {
            $self->_fail("handshake error: timeout: there was no complete request after $seconds seconds");
        });
    }
    $self->{handle}->on_read(sub { $self->_on_read });
}

# A request that a PSGI server has read.
sub receive_psgi {
    my ($class, $server, $env, $fh, $condvar) = @_;
    my $self = $class->_new($server, $condvar);
    $self->_open($fh) or return;
    my $ahead = _read_ahead($fh);
    return $self->_fail('connection error: more than 1 MiB of data came with the request') unless defined $ahead;
    $self->{handle}{rbuf} .= $ahead;
    $self->{is_answering} = 1;
    $self->_answer(AnyEvent::WebSocket::Server::Request::from_psgi($env));
}

sub _new {
    my ($class, $server, $condvar) = @_;
    return bless {server => $server, condvar => $condvar, head => ''}, $class;
}

sub _tls {
    my ($self) = @_;
    my $tls = $self->{server}{tls} or return;
    $self->{tls} = 1;
    return (tls => 'accept', tls_ctx => $tls->context);
}

sub _open {
    my ($self, $fh, @tls) = @_;
    my ($handle, $error);
    {
        local ($@, $SIG{__DIE__});
        my $fileno = eval { fileno $fh };
        return $self->_fail('connection error: this is not an open file handle')
            unless defined $fileno && $fileno >= 0;
        $handle = eval {
            AnyEvent::Handle->new(
                fh       => $fh,
                no_delay => 1,
                on_error => sub { $self->_on_error($_[2]) },
                @tls,
            );
        };
        $error = $@;
    }
    return $self->_fail('connection error: ' . _reason($error)) unless $handle;
    $self->{handle} = $handle;
    return 1;
}

# What is in Perl's own buffer, where a PSGI server reads by lines. Undef where it does not end.
sub _read_ahead {
    my ($fh) = @_;
    my $ahead = '';
    # Perl does not tell how much there is in its buffer: what the socket has comes, too.
    while (read $fh, $ahead, 65536, length $ahead) {
        return undef if length $ahead > $READ_AHEAD;
    }
    return $ahead;
}

sub _on_error {
    my ($self, $text) = @_;
    # Inside push_write it has to wait until that has returned.
    return $self->{error} //= $text if $self->{is_answering};
    $self->_fail("connection error: $text");
}

sub _on_read {
    my ($self) = @_;
    my $handle = $self->{handle};
    my $head   = \$self->{head};
    # What has been looked at is not looked at again, however slowly the rest comes.
    my $from = length $$head > 2 ? length($$head) - 2 : 0;
    $$head .= $handle->{rbuf};
    $handle->{rbuf} = '';
    pos($$head) = $from;
    my $end = $$head =~ /\n\r?\n/g ? $+[0] : undef;
    my $max = $self->{server}{max_header_size};
    return $self->_fail("handshake error: the request's header is larger than $max bytes (max_header_size)")
        if $max && ($end // length $$head) > $max;
    return unless defined $end;

    # What is behind it is for the connection. Reading is over meanwhile; with TLS it would go on by itself.
    $handle->{rbuf} = substr $$head, $end, length $$head, '';
    $handle->on_read(undef);
    $handle->stop_read;
    # Not from within the handle's callback, where an exception, or an event loop that the program runs, would leave it
    # in the middle of things. This ends a timeout, too.
    $self->{timer} = AE::timer(0, 0, sub { $self->_on_head(delete $self->{head}) });
}

sub _on_head {
    my ($self, $head) = @_;
    $self->{is_answering} = 1;
    if (!defined $self->{server}{handshake}) {
        # The program has nothing to say to it, and is spared the objects.
        my ($key, $protocols, $extensions) = AnyEvent::WebSocket::Server::Request::usual($head);
        return $self->_accept($key, $protocols, $extensions) if defined $key;
    }
    $self->_answer(AnyEvent::WebSocket::Server::Request::from_head($head));
}

sub _answer {
    my ($self, $request, $error) = @_;
    $error //= AnyEvent::WebSocket::Server::Request::refusal($request);
    return $self->_fail("handshake error: $error") if defined $error;
    my @values = @{ $request->{fields} }{qw(sec-websocket-key sec-websocket-protocol sec-websocket-extensions)};
    $self->_accept(@values, $request);
}

# A valid request with these fields; the request itself where the program is to see it.
sub _accept {
    my ($self, $key, $protocols, $extensions, $request) = @_;
    my $server = $self->{server};
    my %agreed;
    $agreed{subprotocol} = _subprotocol($protocols, $server->{subprotocols}) if $server->{subprotocols};
    if ($server->{deflate} && defined $extensions) {
        ($agreed{extensions}, my $error)
            = AnyEvent::WebSocket::Connection::Deflate::answer($extensions, $server->{deflate});
        return $self->_fail("handshake error: $error") if defined $error;
    }
    return $self->_let_program_answer($request, \%agreed) if defined $server->{handshake};
    $self->_establish(AnyEvent::WebSocket::Server::Response::accepting($key, \%agreed), \%agreed);
}

sub _let_program_answer {
    my ($self, $request, $agreed) = @_;
    my $response = AnyEvent::WebSocket::Server::Response->new;
    my ($handshake, $error) = AnyEvent::WebSocket::Server::Request::handshake($request, $response);
    return $self->_fail('handshake error: ' . _reason($error)) if defined $error;
    $response->subprotocol($agreed->{subprotocol});
    $response->extensions($agreed->{extensions});

    ($error, my ($octets, @other)) = $self->_ask_program($handshake);
    return $self->_fail($error) if defined $error;
    return $self->_fail("connection error: $self->{error}") if defined $self->{error};
    my ($says, $malformed) = AnyEvent::WebSocket::Server::Response::read_back($octets);
    # It may be meant to refuse.
    return $self->_fail("handshake error: the response is malformed: $malformed") unless $says;
    $self->_establish($octets, $says, @other);
}

# The first of the client's that the server has.
sub _subprotocol {
    my ($offered, $known) = @_;
    my %known = map { $_ => 1 } @$known;
    my ($common) = grep { $known{$_} } AnyEvent::WebSocket::Server::Request::list($offered);
    return $common;
}

# Returns an error; or undef, the response's bytes, and what else the program's code has returned.
sub _ask_program {
    my ($self, $handshake) = @_;
    # Whoever calls has an exception of its own, perhaps.
    local $@;
    my @results;
    if (!eval { @results = $self->{server}{handshake}->($handshake->req, $handshake->res); 1 }) {
        my $exception = $@;
        # A condition variable takes a false one for none.
        return 'handshake error: the handshake code died without saying why' if eval { !$exception };
        return $exception;
    }
    my $response = shift @results;
    return 'handshake response was undef' unless defined $response;
    my $octets = eval {
        blessed($response) && $response->can('to_string') ? $response->to_string : "$response";
    };
    return 'handshake error: ' . (_reason($@) || 'the response object has no string') unless defined $octets;
    return 'handshake error: there are characters in the response that are not bytes'
        unless utf8::downgrade($octets, 1);
    return (undef, $octets, @results);
}

# With the response, and what it says.
sub _establish {
    my ($self, $octets, $says, @other) = @_;
    my $handle = $self->{handle};
    my $server = $self->{server};

    my $extensions = $server->{deflate} ? $says->{extensions} : undef;
    if (defined $extensions) {
        my $refusal = AnyEvent::WebSocket::Connection::Deflate::refusal($extensions, $server->{deflate}, 2);
        return $self->_fail("handshake error: Sec-WebSocket-Extensions of the response: $refusal")
            if defined $refusal;
    }

    return $self->_fail('connection error: the program has closed the socket') unless defined fileno $handle->{fh};
    $handle->push_write($octets);
    return $self->_fail("connection error: $self->{error}") if defined $self->{error};
    return $self->_refuse("handshake error: the response has status $says->{status}, not 101")
        if ($says->{status} // 101) != 101;

    my ($connection, $error);
    {
        local $@;
        $connection = eval {
            AnyEvent::WebSocket::Connection->new(
                %{ $server->{connection} },
                handle => $handle,
                role   => 'server',
                defined $says->{subprotocol} ? (subprotocol => $says->{subprotocol}) : (),
                defined $extensions          ? (extensions  => $extensions)          : (),
            );
        };
        $error = $@;
    }
    return $self->_fail('handshake error: ' . _reason($error)) unless $connection;
    my $condvar = delete $self->{condvar};
    # Nothing but the connection is to hold the handle: it looks whether it is the last when it is dropped.
    %$self = ();
    undef $handle;
    $condvar->send($connection, @other);
}

# What an exception says, without the line of ours: the program's is told when it looks.
sub _reason {
    my ($exception) = @_;
    my $reason = eval { "$exception" } // 'an exception that cannot be shown';
    $reason =~ s{ at \S+/WebSocket/\S+\.pm line \d+(?:, <[^>]*> \w+ \d+)?\.\n\z}{};
    return $reason;
}

sub _fail {
    my ($self, $error) = @_;
    my ($condvar) = $self->_end or return;
    $condvar->croak($error);
    return;
}

# The same, once the response is out.
sub _refuse {
    my ($self, $error) = @_;
    my $seconds = $self->{server}{handshake_timeout} || $REFUSING;
    my ($condvar, $fh, $unsent) = $self->_end or return;
    return $condvar->croak($error) unless length $unsent;
    AnyEvent::WebSocket::Server::Refusal::send_rest($fh, $unsent, $seconds, sub {
        my ($why) = @_;
        $condvar->croak($error . (defined $why ? ", and $why" : ''));
    });
    return;
}

# What the callbacks hold is taken apart. Returns the condition variable, if it has not been told yet; the socket, and
# what is unsent, if there was a handle.
sub _end {
    my ($self) = @_;
    my $condvar = delete $self->{condvar} or return;
    my $handle  = delete $self->{handle};
    my $has_tls = $self->{tls} && ($self->{is_answering} || length $self->{head});
    %$self = ();
    return ($condvar, $handle ? _let_go($handle, $has_tls) : ());
}

# The descriptor stays open for as long as the program holds it, with nothing of ours on it.
sub _let_go {
    my ($handle, $has_tls) = @_;
    $handle->on_read(undef);
    # Only the end of TLS can be told. Before it has begun, OpenSSL would leave an error behind for others to find.
    $handle->stoptls if $has_tls;
    # With these, the handle would go on by itself.
    my ($fh, $unsent) = delete @$handle{qw(fh wbuf)};
    $handle->destroy;
    return ($fh, $unsent // '');
}

1;
