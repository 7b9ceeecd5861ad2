package AnyEvent::WebSocket::Server;

use strict;
use warnings;

our $VERSION = '1.000';

use AE           ();
use Carp         ();
use overload     ();
use Scalar::Util ();

use AnyEvent::WebSocket::Connection          ();
use AnyEvent::WebSocket::Connection::Deflate ();
use AnyEvent::WebSocket::Connection::HTTP    ();
use AnyEvent::WebSocket::Server::Opening     ();

# They check their arguments for us.
our @CARP_NOT = map { "AnyEvent::WebSocket::$_" } qw(Connection Connection::Deflate Server::TLS);

my $MAX_HEADER_SIZE = 16 * 1024;

# What is not for the connection: our own, and what the opening handshake has to decide.
my @NOT_FOR_CONNECTION = (
    qw(handshake validator ssl_key_file ssl_cert_file subprotocols handshake_timeout max_header_size),
    qw(handle role masked subprotocol extensions close_code close_reason close_error),
);

sub new {
    my $class = shift;
    my %given = %{ AnyEvent::WebSocket::Connection::BUILDARGS($class, @_) };
    my $self  = bless {}, ref $class || $class;

    $self->{handshake} = _handshake_code(@given{qw(handshake validator)});
    Carp::croak('ssl_key_file is given without ssl_cert_file')
        if defined $given{ssl_key_file} && !defined $given{ssl_cert_file};
    if (defined $given{ssl_cert_file}) {
        require AnyEvent::WebSocket::Server::TLS;
        $self->{tls} = AnyEvent::WebSocket::Server::TLS->new(@given{qw(ssl_cert_file ssl_key_file)});
    }
    $self->{subprotocols}      = _subprotocols($given{subprotocols});
    $self->{handshake_timeout} = _number(handshake_timeout => $given{handshake_timeout}, 0);
    $self->{max_header_size}   = _number(max_header_size => $given{max_header_size}, $MAX_HEADER_SIZE);
    ($self->{deflate}) = AnyEvent::WebSocket::Connection::Deflate::options($given{permessage_deflate});

    _number($_ => $given{$_}) for @AnyEvent::WebSocket::Connection::NUMBERS;
    my %for_connection = %given;
    delete @for_connection{@NOT_FOR_CONNECTION};
    $self->{connection} = \%for_connection;
    return $self;
}

*_number = \&AnyEvent::WebSocket::Connection::_number;

sub _is_code {
    my ($value) = @_;
    return 1 if (Scalar::Util::reftype($value) // '') eq 'CODE';
    return Scalar::Util::blessed($value) && overload::Method($value, '&{}');
}

sub _handshake_code {
    my ($handshake, $validator) = @_;
    Carp::croak('validator parameter must be a code-ref') if defined $validator && !_is_code($validator);
    Carp::croak('handshake parameter must be a code-ref') if defined $handshake && !_is_code($handshake);
    return $handshake if defined $handshake;
    return sub { my ($req, $res) = @_; return ($res, $validator->($req)) } if defined $validator;
    return undef;
}

sub _subprotocols {
    my ($names) = @_;
    return undef unless defined $names;
    Carp::croak('subprotocols must be an array reference') unless (Scalar::Util::reftype($names) // '') eq 'ARRAY';
    for my $name (@$names) {
        Carp::croak('subprotocols: ' . (defined $name ? "'$name'" : 'undef') . ' is not a token of HTTP')
            unless defined $name && $name =~ /\A$AnyEvent::WebSocket::Connection::HTTP::TOKEN\z/;
    }
    return [@$names];
}

sub establish {
    my ($self, $fh) = @_;
    my $condvar = AE::cv;
    if (defined $fh) {
        AnyEvent::WebSocket::Server::Opening->receive($self, $fh, $condvar);
    }
    else {
        $condvar->croak('fh parameter is mandatory for establish() method');
    }
    return $condvar;
}

sub establish_psgi {
    my ($self, $env, $fh) = @_;
    my $condvar = AE::cv;
    if (!defined $env) {
        $condvar->croak('psgi_env parameter is mandatory');
    }
    elsif ((Scalar::Util::reftype($env) // '') ne 'HASH') {
        $condvar->croak('psgi_env must be a hash reference');
    }
    elsif (!defined($fh //= $env->{'psgix.io'})) {
        $condvar->croak('No connection file handle provided: the PSGI server has no psgix.io in the environment');
    }
    else {
        AnyEvent::WebSocket::Server::Opening->receive_psgi($self, $env, $fh, $condvar);
    }
    return $condvar;
}

1;

__END__

=encoding UTF-8

=head1 NAME

AnyEvent::WebSocket::Server - a WebSocket server for AnyEvent

=head1 SYNOPSIS

 use strict;
 use warnings;
 use AnyEvent;
 use AnyEvent::Socket qw(tcp_server);
 use AnyEvent::WebSocket::Client;
 use AnyEvent::WebSocket::Server;

 my $server = AnyEvent::WebSocket::Server->new(
   handshake => sub {
     my ($request, $response) = @_;
     my ($name) = $request->resource_name =~ m{^/hello/(\w+)$}
       or die "there is nothing at this path\n";
     return ($response, $name);
   },
 );

 my $listening = AnyEvent->condvar;
 my $listener = tcp_server '127.0.0.1', undef, sub {
   my ($fh) = @_;
   $server->establish($fh)->cb(sub {
     my ($connection, $name) = eval { shift->recv };
     if (!$connection) {
       warn "refused: $@";
       syswrite $fh, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
       return;
     }
     $connection->on(each_message => sub {
       my ($connection, $message) = @_;
       $connection->send("$name, you said: " . $message->body);
     });
     $connection->on(finish => sub { undef $connection });
   });
 }, sub { $listening->send($_[2]); 0 };

 # And somebody to talk to it.
 my $port = $listening->recv;
 my $connection = AnyEvent::WebSocket::Client->new
   ->connect("ws://127.0.0.1:$port/hello/Joan")->recv;
 my $answer = AnyEvent->condvar;
 $connection->on(next_message => sub { $answer->send($_[1]->body) });
 $connection->send('good morning');
 print $answer->recv, "\n";

=head1 DESCRIPTION

Does the opening handshake of a WebSocket server (RFC 6455), on sockets that the program has accepted or that a
PSGI server hands over, and makes an L<AnyEvent::WebSocket::Connection> of each. It takes the place of the class of
the same name in the distribution AnyEvent-WebSocket-Server 0.10; what differs on purpose is under
L</COMPATIBILITY>.

Keep a reference to each connection for as long as you want it: one that is let go of is closed.

=head1 CONSTRUCTOR

=head2 new

 my $server = AnyEvent::WebSocket::Server->new(%options);
 my $server = AnyEvent::WebSocket::Server->new(\%options);

Everything is optional. Dies at the caller's line where an option is wrong, or a file of L</ssl_cert_file> cannot
be used.

=head1 OPTIONS

=head2 handshake

 handshake => sub {
   my ($request, $response) = @_;
   ...
   return ($response, @other);
 }

Code that is called for each valid request before it is answered, with

=over 4

=item *

a L<Protocol::WebSocket::Request>, for its C<resource_name>, C<host>, C<origin>, C<subprotocol>, C<cookies> and
C<< field($name) >>; where a client has sent a field more than once, its values are joined by commas. In C<cookies>,
but not in C<field('Cookie')>, each run of white space is one space;

=item *

a L<Protocol::WebSocket::Response>, whose C<subprotocol> and C<cookie> can be set, and whose C<extensions> is what
of L</permessage_deflate> was agreed upon (undef it to go without).

=back

It returns the response: that object, or one of its own with a method C<to_string>, or a string, which goes out as
it is, where its header is one of HTTP and complete. What it returns in addition comes out of the condition variable
behind the connection.

To refuse the request it dies: the condition variable croaks with the same exception, and the program can answer on
the socket. Or it returns a response string with a status other than 101: this is sent, and then the condition
variable croaks. Over TLS, that is the only way to say why.

The code may run the event loop. Default: every valid request is accepted.

B<Check the origin> where browsers are to use the server only from your own pages: they send it, and let any page
open a WebSocket to anywhere.

 die "foreign origin\n" if ($request->origin // '') ne 'https://example.com';

=head2 validator

 validator => sub { my ($request) = @_; ...; return @other }

As C<handshake>, for programs from before there was that: it does not see the response, and all it returns goes
behind the connection. Not used where there is a C<handshake>.

=head2 ssl_cert_file

String, path of a PEM file with the certificate and those of the authorities between it and the root. Where it is
given, L</establish> talks TLS (this needs L<Net::SSLeay>). Default: plain sockets.

The file is read again when it has changed. Where that fails there is a warning, and the former certificate stays
in use.

=head2 ssl_key_file

String, path of a PEM file with the key. Default: it is in C<ssl_cert_file>. It is an error to give this one alone.

=head2 subprotocols

Array reference of strings: the subprotocols that the server knows. The first one of the client's list that is among
them becomes the response's C<subprotocol> before C<handshake> is called, which may change it. Where there is none
in common the response has none, and the client decides. Default: the response has none, but C<handshake> may set
it.

In either case C<subprotocol> of the connection is what the response had.

=head2 permessage_deflate

True, or a hash reference of options as L<AnyEvent::WebSocket::Connection/permessage_deflate> has them. Compresses
messages (RFC 7692) with clients that offer it. What is offered but unknown or cannot be is declined; a request with a
malformed C<Sec-WebSocket-Extensions> is an error. Default: no compression, and the field is not looked at.

Where C<handshake> returns a response string of its own making, messages are compressed only if the string has the
header field C<Sec-WebSocket-Extensions>.

=head2 handshake_timeout

Number, seconds, 0 for none. How long a client may take for TLS and its request, altogether. Default: 0. Servers that
anybody can reach should have one.

It has as long again to take a response with a status other than 101, or 30 seconds where this is 0.

=head2 max_header_size

Integer, bytes, 0 for no limit. How large the header of a request may be. Default: 16384.

=head2 max_payload_size, max_fragments, max_message_size

Integers. These, C<validate_utf8>, C<close_timeout>, C<max_write_buffer>, C<ping_interval>, C<ping_timeout>,
C<idle_timeout>, and any further option, are handed to each connection; see
L<AnyEvent::WebSocket::Connection/ATTRIBUTES>.

=head1 METHODS

=head2 establish

 my $condvar = $server->establish($fh);
 my ($connection, @other) = $condvar->recv;

Takes a connected socket, reads a request from it, and answers. Returns a condition variable that has the connection
and what C<handshake> or C<validator> returned; or that croaks, see L</ERRORS>.

The role of the connection is C<'server'>: frames from the client have to be masked. Messages that the client has
sent already are delivered after callbacks could be registered. The socket's C<TCP_NODELAY> is set.

The server object and the condition variable need not be kept.

=head2 establish_psgi

 my $condvar = $server->establish_psgi($env);
 my $condvar = $server->establish_psgi($env, $fh);

The same with a request that a PSGI server has read. The socket is C<$fh>, or C<psgix.io> of the environment; the
server has to run AnyEvent's event loop, as L<Twiggy> does. TLS is the PSGI server's affair.

 my $app = sub {
   my ($env) = @_;
   return sub {
     my ($respond) = @_;
     $server->establish_psgi($env)->cb(sub {
       my ($connection) = eval { shift->recv }
         or return $respond->([400, ['Content-Type' => 'text/plain'], ['no WebSocket']]);
       ...
     });
   };
 };

C<$respond> is not called where there is a connection.

=head1 ERRORS

What the condition variable croaks with:

=over 4

=item C<handshake error: ...>

The request is none, or not one that RFC 6455 allows, and the text says what is wrong with it. Some to look for:
C<not a WebSocket request>, for instance that of a browser for a page; C<unsupported WebSocket protocol version ...>,
to be answered with status 426 and C<Sec-WebSocket-Version: 13>; C<timeout>; C<header is larger than ...>.
Also where the response that C<handshake> returned cannot be used, or has a status other than 101; then the text also
says if the client has not taken all of it.

=item C<handshake response was undef>

C<handshake> returned nothing.

=item C<connection error: ...>

The socket, or TLS, has failed; C<Unexpected end-of-file> where the client has gone before it had sent a request, or
where, over TLS, it ends TLS right behind its request: it could not be answered.

=item C<fh parameter is mandatory for establish() method>, C<psgi_env parameter is mandatory>,
C<psgi_env must be a hash reference>, C<No connection file handle provided...>

There is an argument missing, or it cannot be one; or C<psgix.io> is missing.

=item the exception of C<handshake> or C<validator>

An exception object comes as it is.

=back

After an error the socket is as the program gave it, but for what was read from it, and for being non-blocking and
without Nagle's algorithm: open, as long as the program has a reference to it, and with nothing of ours watching it.
So the program can answer with an HTTP response. With TLS it cannot, since the keys are gone: TLS has been ended, and
the socket is to be closed.

To give up on a slow client, use L</handshake_timeout>. A socket that the program closes while a request is awaited on
it is not noticed by every event loop.

Nothing is thrown into the event loop, except by what the program does in the condition variable's callback.

=head1 COMPATIBILITY

With C<AnyEvent::WebSocket::Server> 0.10 these are different, on purpose:

=over 4

=item *

RFC 6455 section 4.2.1 is enforced: among others, C<Sec-WebSocket-Key> has to be 16 bytes in Base64, and there is
no second C<Host>. On the other hand, C<Upgrade> may be a list.

=item *

The header of a request may have 16 KiB rather than 20.

=item *

A response string with a status other than 101 makes no connection, and one that is not HTTP is an error.

=item *

A response with line breaks inside of its header fields is an error.

=item *

Certificates are read by C<new>, and when they have changed, rather than for every connection. C<new> dies where they
cannot be.

=item *

C<origin> of the request is what the field C<Origin> says, whether or not there is a C<Sec-WebSocket-Origin>.

=item *

With TLS, C<establish_psgi> does not expect it on the PSGI server's socket.

=back

C<subprotocols>, C<permessage_deflate>, C<handshake_timeout>, C<max_header_size>, and the options of connections but
for C<max_payload_size>, are new.

=head1 SEE ALSO

L<AnyEvent::WebSocket::Connection>, L<AnyEvent::WebSocket::Client>, L<Protocol::WebSocket>, RFC 6455

=head1 COPYRIGHT AND LICENSE

This is free software; you can redistribute it and/or modify it under the same terms as the Perl 5
programming language system itself.

=cut
