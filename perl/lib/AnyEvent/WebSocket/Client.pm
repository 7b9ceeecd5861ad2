package AnyEvent::WebSocket::Client;

use strict;
use warnings;

our $VERSION = '1.000';

use AE               ();
use Carp             ();
use Scalar::Util     ();

use AnyEvent::WebSocket::Client::Attempt     ();
use AnyEvent::WebSocket::Client::Dial        ();
use AnyEvent::WebSocket::Client::Handshake   ();
use AnyEvent::WebSocket::Client::Proxy       ();
use AnyEvent::WebSocket::Connection          ();
use AnyEvent::WebSocket::Connection::Deflate ();

our @CARP_NOT = ('AnyEvent::WebSocket::Connection');

my %DEFAULT = (
    timeout         => 30,
    env_proxy       => 0,
    max_header_size => 16384,
    max_redirects   => 0,
);
my @NUMBERS = (qw(timeout max_header_size max_redirects), @AnyEvent::WebSocket::Connection::NUMBERS);
my @ATTRIBUTES = (@NUMBERS, qw(
    ssl_no_verify ssl_ca_file protocol_version subprotocol http_headers env_proxy validate_utf8 permessage_deflate
));
{
    no strict 'refs';
    *$_ = \&{"AnyEvent::WebSocket::Client::Attributes::$_"} for @ATTRIBUTES;
}

sub new {
    return AnyEvent::WebSocket::Connection::_new(\&BUILD, @_);
}

*BUILDARGS = \&AnyEvent::WebSocket::Connection::BUILDARGS;

sub BUILD {
    my ($self, $args) = @_;
    # What Moo has set up in a derived class is there already.
    exists $self->{$_} or !exists $args->{$_} or $self->{$_} = $args->{$_} for @ATTRIBUTES;
    exists $self->{$_} or $self->{$_} = $DEFAULT{$_} for keys %DEFAULT;
    $self->{subprotocol}  = [$self->{subprotocol}] if defined $self->{subprotocol} && !ref $self->{subprotocol};
    $self->{http_headers} = _header_list($self->{http_headers}) if exists $self->{http_headers};

    # By methods, since a derived class may have its own.
    AnyEvent::WebSocket::Connection::_number($_ => $self->$_) for @NUMBERS;
    my $version = $self->protocol_version;
    Carp::croak("protocol_version '$version' is not known; these are: "
            . join ', ', sort keys %AnyEvent::WebSocket::Client::Handshake::VERSIONS)
        if defined $version && !exists $AnyEvent::WebSocket::Client::Handshake::VERSIONS{$version};
    my ($headers, $subprotocols) = ($self->http_headers, $self->subprotocol);
    Carp::croak('subprotocol must be a string or an array reference')
        if defined $subprotocols && (Scalar::Util::reftype($subprotocols) // '') ne 'ARRAY';
    local ($@, $SIG{__DIE__});
    eval {
        AnyEvent::WebSocket::Client::Handshake::header_lines(@{ $headers || [] });
        AnyEvent::WebSocket::Client::Handshake::subprotocols(@{ $subprotocols || [] });
        1;
    } or do {
        chomp(my $error = $@);
        Carp::croak($error);
    };
    AnyEvent::WebSocket::Connection::Deflate::options($self->permessage_deflate);
}

# A hash becomes a list, ordered by name.
sub _header_list {
    my ($headers) = @_;
    return $headers if ref $headers eq 'ARRAY';
    return [] unless defined $headers;
    Carp::croak('http_headers must be a hash or array reference')
        unless (Scalar::Util::reftype($headers) // '') eq 'HASH';
    return [
        map {
            my $name = $_;
            map { ($name => $_) } ref $headers->{$name} eq 'ARRAY' ? @{ $headers->{$name} } : $headers->{$name};
        } sort keys %$headers
    ];
}

sub connect {
    my ($self, @where) = @_;
    my $done = AE::cv;
    AnyEvent::WebSocket::Client::Attempt->start($self, $done, @where);
    return $done;
}

# As AnyEvent::Socket's tcp_connect; a second argument of the callback may say what was wrong.
sub _make_tcp_connection {
    my ($self, $scheme, $host, $port, @callbacks) = @_;
    if ($self->env_proxy) {
        my $proxy = AnyEvent::WebSocket::Client::Proxy::proxy_for($scheme, $host, $port);
        return AnyEvent::WebSocket::Client::Proxy::tcp_connect($proxy, $host, $port, @callbacks) if $proxy;
    }
    return AnyEvent::WebSocket::Client::Dial::tcp_connect($host, $port, $callbacks[0], $callbacks[1]);
}

1;

__END__

=encoding UTF-8

=head1 NAME

AnyEvent::WebSocket::Client - WebSocket client for AnyEvent

=head1 SYNOPSIS

 use strict;
 use warnings;
 use AnyEvent;
 use AnyEvent::Socket qw(tcp_server);
 use AnyEvent::WebSocket::Client;
 use AnyEvent::WebSocket::Connection;
 use AnyEvent::Handle;
 use Protocol::WebSocket::Handshake::Server;

 # Somebody to talk to: a server that answers each message.
 my (@connections, $uri);
 my $server = tcp_server '127.0.0.1', undef, sub {
   my $handle = AnyEvent::Handle->new(fh => $_[0]);
   $handle->push_read(regex => qr/\r\n\r\n/, sub {
     my $handshake = Protocol::WebSocket::Handshake::Server->new;
     $handshake->parse($_[1]);
     $handle->push_write($handshake->to_string);
     my $connection = AnyEvent::WebSocket::Connection->new(handle => $handle, role => 'server');
     $connection->on(each_message => sub { $_[0]->send('you said: ' . $_[1]->body) });
     push @connections, $connection;
   });
 }, sub { $uri = "ws://127.0.0.1:$_[2]/chat"; 0 };

 my $client = AnyEvent::WebSocket::Client->new(timeout => 5);
 my $done   = AnyEvent->condvar;
 my $connection;

 $client->connect($uri)->cb(sub {
   # Kept outside of this callback: a connection that goes out of scope is closed.
   $connection = eval { $_[0]->recv } or return $done->croak($@);

   $connection->on(each_message => sub {
     my ($connection, $message) = @_;
     print $message->decoded_body, "\n";
     $connection->close;
   });
   $connection->on(finish => sub { $done->send });
   $connection->send('hello');
 });

 $done->recv;

=head1 DESCRIPTION

Connects to WebSocket servers (RFC 6455), and yields L<AnyEvent::WebSocket::Connection> objects. It takes the
place of the class of the same name in the distribution AnyEvent-WebSocket-Client 0.55; what differs on
purpose is under L</COMPATIBILITY>.

=head1 CONSTRUCTOR

=head2 new

 my $client = AnyEvent::WebSocket::Client->new(timeout => 10, ...);
 my $client = AnyEvent::WebSocket::Client->new({ timeout => 10, ... });

Takes the attributes below; none is required. Dies at the caller's line where one is wrong. A client holds
nothing but its attributes: it can connect any number of times, also at once, and can be let go of while it
does.

Classes can be derived with C<use parent>, C<use base> and Moo's C<extends>, the latter with attributes,
C<BUILDARGS> and C<BUILD> of their own.

=head1 ATTRIBUTES

All are read-only.

=head2 timeout

Number, seconds, default 30; 0 or undef for none. How long a TCP connection may take to come about (to each
address that the host has), and from then on how long the TLS handshake and the server's answer together
may take. After a redirect both begin anew. A proxy has as long, too, to connect to the server.

=head2 ssl_no_verify

Boolean, default false. Whether any server is trusted with C<wss>, whoever it claims to be. Otherwise its
certificate has to be for the host in the URI, by an authority that is trusted.

=head2 ssl_ca_file

Path of a file. The certificates of the authorities that are trusted, in PEM format, in place of those that
L<AnyEvent::TLS> trusts by itself: those in C<PERL_ANYEVENT_CA_FILE> and C<PERL_ANYEVENT_CA_PATH>, or the
system's.

=head2 protocol_version

String. The version of the protocol as L<Protocol::WebSocket> names it: C<draft-ietf-hybi-17>, which is that
of RFC 6455 and the default, or C<draft-ietf-hybi-10>, C<draft-ietf-hybi-00> or C<draft-hixie-75>. It concerns
the handshake only: frames are those of RFC 6455.

=head2 subprotocol

String, or reference to an array of them. The subprotocols to ask the server for, the preferred ones first.
It has to agree upon one, which is then the C<subprotocol> of the connection; otherwise there is none.
The accessor returns the array.

=head2 http_headers

Reference to a hash, or to an array of names and values. Headers for the request. In a hash, a value can be an
array for a header that is repeated, and the order is that of the names. The accessor returns the array.

 http_headers => { 'X-Foo' => 'bar', 'X-Baz' => ['abc', 'def'] }
 http_headers => ['X-Foo' => 'bar', 'X-Baz' => 'abc', 'X-Baz' => 'def']

C<Host>, C<Origin>, C<Sec-WebSocket-Key> and C<Sec-WebSocket-Version> take the place of those that the client
makes; others are added.

Line ends in values are taken out; values with other control characters, and names that are none, are refused.
Characters above 0xFF are sent as UTF-8.

=head2 max_payload_size

Integer, bytes. The limit for the payload of a received frame: see L<AnyEvent::WebSocket::Connection>, as for
the next four.

=head2 max_fragments

Integer. The limit for the number of frames of a received message.

=head2 max_message_size

Integer, bytes. The limit for a received message over all its frames.

=head2 validate_utf8

Boolean, default true. Whether received text that is not UTF-8 fails the connection.

=head2 close_timeout

Number, seconds, default 30; 0 for none. How long a peer is waited for once the connection is closed.

=head2 max_write_buffer, ping_interval, ping_timeout, idle_timeout

Numbers, default undef for none. See L<AnyEvent::WebSocket::Connection/ATTRIBUTES>.

=head2 permessage_deflate

Boolean, or reference to a hash of options; default false. Whether to offer the server to compress messages
(RFC 7692). If it agrees, the connection has that in C<extensions>, and compresses; otherwise it is one as any
other. The options:

=over 4

=item server_no_context_takeover, client_no_context_takeover

Booleans. Whether that side has to compress each message on its own, which takes less memory, and more bytes.

=item server_max_window_bits, client_max_window_bits

Integers from 8 to 15, default 15. The window of that side is 2 to this power of bytes.

=item level

Integer from 0 (fast) to 9 (small), default 6.

=item threshold

Integer, bytes, default 64. Smaller messages are sent as they are.

=item release_after

Number, seconds, default 0 (never). After how long without use the compressor's memory is given back.

=back

A C<Sec-WebSocket-Extensions> header among C<http_headers> is sent as it is. Where it offers
C<permessage-deflate> and the server agrees to what it says, that is made use of. Other extensions cannot be.

=head2 env_proxy

Boolean, default false. Whether to go through the HTTP proxy that the environment names: for C<ws> in
C<ws_proxy> or else C<http_proxy>, for C<wss> in C<wss_proxy> or else C<https_proxy>; or the same in capital
letters. Hosts whose names end with one of those in C<no_proxy> are connected to directly, and so are UNIX
sockets. A user name and a password in the proxy's URL are not used. Needs L<AnyEvent::Connector>.

=head2 max_header_size

Integer, bytes, default 16384; 0 for none. The limit for the head of the server's answer.

=head2 max_redirects

Integer, default 0. How many redirects in a row are followed. Where it is 0, a redirect is an error as any
answer but 101 is.

C<http> and C<https> in a redirect mean C<ws> and C<wss>; from C<wss> to C<ws> none is followed. The headers
C<Authorization>, C<Cookie> and C<Proxy-Authorization> are not told to another host or port, unless all that
changes is that TLS is added at the usual ports; C<Host> is not told to another host or port at all. A host or
port that was given to C<connect> counts as long as the URI's own do not change.

=head1 METHODS

=head2 connect

 my $condvar = $client->connect($uri);
 my $condvar = $client->connect($uri, $host, $port);

Connects to a URI, which is a string or a L<URI> object, with the scheme C<ws> or C<wss>. A user name and a
fragment in it are not sent. A host and a port, where they are defined, are connected to in place of those in
the URI, by which the server is asked and verified all the same. They are as in L<AnyEvent::Socket>'s
C<tcp_connect>: host C<unix/> with a path for the port is a UNIX socket.

Returns a L<condition variable|AnyEvent/CONDITION VARIABLES> at once. Its C<recv> returns the connection, or
dies with what went wrong: see L</ERRORS>. It need not be kept where it has a callback. If nobody takes the
connection, it is closed.

=head1 ERRORS

The condition variable dies with one of these, at the line of the caller:

=over 4

=item C<URI is not a websocket>, and why so

The URI has another scheme, no host, or a malformed one.

=item C<unable to connect>, and why so

There is no such host, or nobody listens there, or it took longer than C<timeout>; or it was the proxy that
failed.

=item C<connect error: ...>

The socket failed or ended before the server had answered, or the TLS handshake failed: the server's certificate
was not trusted, for instance.

=item C<handshake error: ...>

The server did not answer as it must, with what was wrong about it. An answer with another status than 101
reads C<Wrong response line. Got [[HTTP/1.1 404 Not Found]], expected [[HTTP/1.1 101 ]]>. Also: the answer took
longer than C<timeout>, its head was larger than C<max_header_size>, an extension was agreed upon that had not
been offered, or a redirect was not followed.

=item C<subprotocol mismatch, requested: ..., got: ...>

The server has chosen a subprotocol that was not asked for.

=item C<no subprotocol in response>

The server has chosen none of those that were asked for.

=back

In each of these cases the socket is closed, and there is no connection.

=head1 COMPATIBILITY

With C<AnyEvent::WebSocket::Client> 0.55 these are different, on purpose:

=over 4

=item *

The server's answer has to be as RFC 6455 demands, C<Sec-WebSocket-Accept> included, and must not have a
subprotocol that was not asked for.

=item *

After a failed check of the subprotocol there is no connection, and the socket is closed.

=item *

C<timeout> holds for the answer, too, not only until the socket is connected.

=item *

The key in the request comes from the operating system's generator.

=item *

A URI with an IPv6 address, a user name, a fragment, or a query but no path is asked for in the way of RFC 6455.

=item *

C<Host>, C<Origin>, C<Sec-WebSocket-Key> and C<Sec-WebSocket-Version> among C<http_headers> take the place of
the client's own, rather than being added to them.

=item *

With C<ssl_no_verify>, too, the server is told which host is wanted (Server Name Indication).

=item *

The class is not made with Moo. A derived class can be, and may redeclare attributes, but not extend them with
C<has '+name'>.

=item *

Attributes that are wrong are refused by C<new>. An exception out of C<connect>, or into the event loop, is
one of the program's own.

=item *

An error tells why it was not possible to connect.

=item *

Through a proxy, the C<timeout> holds; a UNIX socket is not looked for there.

=back

C<max_message_size>, C<validate_utf8>, C<close_timeout>, C<max_write_buffer>, C<ping_interval>, C<ping_timeout>,
C<idle_timeout>, C<permessage_deflate>, C<max_header_size> and C<max_redirects> are new.

=head1 SEE ALSO

L<AnyEvent::WebSocket::Connection>, L<AnyEvent::WebSocket::Message>, L<AnyEvent::WebSocket::Server>,
L<AnyEvent>, L<URI>, RFC 6455, RFC 7692

=head1 COPYRIGHT AND LICENSE

This is free software; you can redistribute it and/or modify it under the same terms as the Perl 5
programming language system itself.

=cut
