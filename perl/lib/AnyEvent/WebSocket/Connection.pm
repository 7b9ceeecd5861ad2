package AnyEvent::WebSocket::Connection;

use strict;
use warnings;

our $VERSION = '1.000';

use AE           ();
use Carp         ();
use Encode       ();
use overload     ();
use Scalar::Util ();
use XSLoader     ();

XSLoader::load(__PACKAGE__, $VERSION);

use AnyEvent::WebSocket::Connection::Deflate ();
use AnyEvent::WebSocket::Connection::Shim    ();
use AnyEvent::WebSocket::Connection::Timer   ();
require AnyEvent::WebSocket::Message;

# Programs find Protocol::WebSocket::Frame loaded, and its package variables are our defaults where it
# is (compat C16).
{
    local ($@, $SIG{__DIE__});
    eval { require Protocol::WebSocket::Frame };
}

my %ROLE = (client => 1, server => 2);

# Those that Client and Server take for the connections they make.
our @NUMBERS = qw(
    max_payload_size max_fragments max_message_size max_write_buffer close_timeout ping_interval ping_timeout idle_timeout
);

my %ATTRIBUTE = map { $_ => 1 } @NUMBERS, qw(
    handle masked subprotocol role validate_utf8 extensions permessage_deflate close_code close_reason close_error
);

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

# A limit where 0 means none, as a number of whole bytes or frames: one below 1 is not none.
sub _limit {
    my ($name, $value, $default) = @_;
    my $limit = defined $value ? _number($name, $value) : $default;
    return $limit > 0 && $limit < 1 ? 1 : $limit;
}

sub new {
    return _new(\&BUILD, @_);
}

sub BUILD {
    my ($self, $args) = @_;
    # What Moo has set up in a derived class, defaults of its own for instance, is there already.
    exists $ATTRIBUTE{$_} && !exists $self->{$_} and $self->{$_} = $args->{$_} for keys %$args;
    $self->{validate_utf8} = 1  unless defined $self->{validate_utf8};
    $self->{close_timeout} = 30 unless defined $self->{close_timeout};

    Carp::croak('Missing required arguments: handle') unless exists $self->{handle};
    my $handle = $self->handle;
    Carp::croak('handle must be an AnyEvent::Handle, or an object with its methods')
        unless Scalar::Util::blessed($handle)
        && ($handle->can('push_write') || $handle->can('AUTOLOAD'));
    my $role = $self->role;
    Carp::croak("role must be 'client' or 'server'") if defined $role && !$ROLE{$role};
    $self->{masked} = ($role // '') eq 'client' ? 1 : 0 unless exists $self->{masked};

    # By methods, since a derived class may have its own.
    _number($_ => $self->$_) for qw(close_timeout ping_interval ping_timeout idle_timeout);
    no warnings 'once';
    my $max_payload_size = _limit(max_payload_size => $self->max_payload_size,
        $Protocol::WebSocket::Frame::MAX_PAYLOAD_SIZE // 65536);
    my $max_fragments = _limit(max_fragments => $self->max_fragments,
        $Protocol::WebSocket::Frame::MAX_FRAGMENTS_AMOUNT // 128);
    my $max_message_size = _limit(max_message_size => $self->max_message_size, 0);
    my $max_write_buffer = $self->max_write_buffer;
    $max_write_buffer = defined $max_write_buffer ? _limit(max_write_buffer => $max_write_buffer) : 0;
    my $extensions = $self->extensions // '';
    my ($deflate, $release_after) = (undef, 0);
    # What has been agreed upon is made use of, whatever the program thinks of it.
    ($deflate, $release_after)
        = AnyEvent::WebSocket::Connection::Deflate::options($self->{permessage_deflate} || 1)
        if length $extensions;

    my $refusal = AnyEvent::WebSocket::Connection::Shim::attach($self, $handle, $role ? $ROLE{$role} : 0,
        !!$self->masked, !!$self->validate_utf8, $max_fragments, $max_payload_size, $max_message_size,
        $max_write_buffer, $extensions, $deflate, $release_after);
    Carp::croak($refusal) if defined $refusal;
    AnyEvent::WebSocket::Connection::Shim::install($self, $handle);
    AnyEvent::WebSocket::Connection::Timer::start_keepalive($self) if $self->ping_interval || $self->idle_timeout;
}

sub close {
    my ($self, $code, $reason) = @_;
    Carp::croak('close: not a connection made by ' . __PACKAGE__ . '->new')
        unless AnyEvent::WebSocket::Connection::Shim::is_connection($self);
    $code = 1000 unless $code;
    Carp::croak("close code '$code' is not a number from 1000 to 4999")
        unless Scalar::Util::looks_like_number($code) && $code >= 1000 && $code < 5000;
    $reason = defined $reason ? Encode::encode('UTF-8', "$reason") : '';
    my $error = AnyEvent::WebSocket::Connection::Shim::close($self, $code, $reason);
    Carp::croak($error) if defined $error;
    return $self;
}

sub ping {
    my ($self, $payload) = @_;
    Carp::croak('ping: not a connection made by ' . __PACKAGE__ . '->new')
        unless AnyEvent::WebSocket::Connection::Shim::is_connection($self);
    Carp::croak('ping takes a string') if ref $payload && !overload::Method($payload, '""');
    $payload = defined $payload ? "$payload" : '';
    utf8::encode($payload) if utf8::is_utf8($payload);
    # "All control frames MUST have a payload length of 125 bytes or less" (RFC 6455 section 5.5).
    Carp::croak('ping: the payload has ' . length($payload) . ' bytes, and 125 is the limit') if length $payload > 125;
    AnyEvent::WebSocket::Connection::Shim::ping($self, $payload);
    return $self;
}

END {
    # What goes through a handle is written by syswrite, and the peer may be gone.
    local $SIG{PIPE} = 'IGNORE';
    AnyEvent::WebSocket::Connection::Shim::at_exit();
    AnyEvent::WebSocket::Connection::Shim::decide();
}

1;

__END__

=encoding UTF-8

=head1 NAME

AnyEvent::WebSocket::Connection - a WebSocket connection for AnyEvent, with its core in Rust

=head1 SYNOPSIS

 use strict;
 use warnings;
 use AnyEvent;
 use AnyEvent::Handle;
 use AnyEvent::WebSocket::Connection;
 use Socket;

 # Two ends of a socket; real programs have done the opening handshake by now.
 socketpair my $here, my $there, AF_UNIX, SOCK_STREAM, PF_UNSPEC or die $!;
 my ($client, $server) = map {
   AnyEvent::WebSocket::Connection->new(
     handle => AnyEvent::Handle->new(fh => $_->[0]),
     masked => $_->[1],
   );
 } [$here, 1], [$there, 0];

 $server->on(each_message => sub {
   my ($connection, $message) = @_;
   $connection->send('you said: ' . $message->body);
 });

 my $done = AnyEvent->condvar;
 $client->on(next_message => sub {
   my ($connection, $message) = @_;
   print $message->decoded_body, "\n";
   $connection->close(1000, 'goodbye');
 });
 $client->on(finish => sub { $done->send });

 $client->send('hello');
 $done->recv;

=head1 DESCRIPTION

One side of a WebSocket connection (RFC 6455) after its opening handshake. It takes the place of the class
of the same name in the distribution AnyEvent-WebSocket-Client 0.55, and behaves like it down to what
programs have come to lean on; what differs on purpose is under L</COMPATIBILITY>. Programs usually get
their connections from L<AnyEvent::WebSocket::Client> or L<AnyEvent::WebSocket::Server>.

Register your callbacks as soon as you have the connection. Whatever arrives before the event loop has been
idle once, or for a twentieth of a second where it has no time to be, is kept until then, so that nothing is missed.

Keep a reference to the connection for as long as you want it. The callbacks do not keep it alive, and one
that is let go of is closed (see L</Dropping a connection>).

=head1 CONSTRUCTOR

=head2 new

 my $connection = AnyEvent::WebSocket::Connection->new(handle => $handle, ...);
 my $connection = AnyEvent::WebSocket::Connection->new({ handle => $handle, ... });

Takes the attributes below; C<handle> is required. Dies at the caller's line where an argument is missing
or wrong.

Classes can be derived with C<use parent>, C<use base> and Moo's C<extends>, the latter with attributes,
C<BUILDARGS> and C<BUILD> of their own.

=head1 ATTRIBUTES

All but the last three (C<close_code>, C<close_reason> and C<close_error>) are read-only.

=head2 handle

The L<AnyEvent::Handle> to talk over, or an object with its methods. The connection puts its own code in the
handle's C<on_read>, C<on_error> and C<on_eof>. Whatever else the handle offers goes on working: what is
given to its C<push_write> leaves in order with our frames, C<on_drain>, C<low_water_mark>, C<wbuf_max>,
C<autocork>, C<linger> and the timeouts apply, and C<destroy> ends the connection at once and without
further callbacks.

A plain AnyEvent::Handle on a socket is read and written directly, without a Perl operation in between; a
handle with TLS, one of a derived class, or another object is used by its methods. What arrives through such a one while a
callback runs the event loop is kept in the handle, with no bound but its C<rbuf_max>.

=head2 masked

Boolean. Whether the frames sent are masked, as those of a client have to be. Each has a fresh key from the operating
system's generator. Default: true where C<role> is C<'client'>, else false.

=head2 role

C<'client'> or C<'server'>, default undef. Where it is known, frames from the peer that are masked though
they must not be, or not though they must, fail the connection (RFC 6455 section 5.1).

=head2 subprotocol

String, default undef. The subprotocol that was agreed in the opening handshake. It is only kept here.

=head2 max_payload_size

Integer, bytes. Limit for the payload of one received frame; 0 for none. Default (undef):
C<$Protocol::WebSocket::Frame::MAX_PAYLOAD_SIZE> if that module is loaded, else 65536. There is no limit for
what is sent.

=head2 max_fragments

Integer. Limit for the number of frames of one received message; 0 for none. Default (undef):
C<$Protocol::WebSocket::Frame::MAX_FRAGMENTS_AMOUNT> if that module is loaded, else 128.
Empty frames count, too.

=head2 max_message_size

Integer, bytes. Limit for one received message, over the payloads of all its frames. A message that exceeds
it fails at the header of the frame that does, with Close 1009. Default (undef), and 0: no limit but what
C<max_payload_size> and C<max_fragments> allow together, which by default is 8 MiB.

Where messages come compressed, this is what bounds memory: by default 11 KiB on the wire, zeros in 127 fragments, are
8 MiB for as long as the last one does not come, and where the limits are turned off there is no bound at all. A server
that anybody can reach should set it to what its clients need.

=head2 extensions

String, default undef. What was agreed upon in the opening handshake: the value of
C<Sec-WebSocket-Extensions> in the response, for instance C<permessage-deflate; client_max_window_bits=12>. It
needs a C<role>, and C<new> dies with C<extensions: ...> where it names anything but permessage-deflate
(RFC 7692), or does not fit what a client has offered by C<permessage_deflate>.

Where it is agreed upon, messages are compressed, and what arrives compressed is inflated. The limits above hold
for what comes out, too: a frame or a message that would become larger fails with Close 1009 and is inflated no
further. One that cannot be inflated fails with Close 1007.

=head2 permessage_deflate

True, or a reference to a hash with options; default undef. How to compress, where C<extensions> says so:

=over 4

=item C<level>

Integer from 0, which is fast, to 9, which is small; default 6.

=item C<threshold>

Integer, bytes, default 64. Shorter messages are sent as they are.

=item C<release_after>

Number, seconds, default 0 for never. With context takeover a connection keeps the compressor of its first message,
about 310 KiB (190 KiB with a window of 9 bits). It is freed when nothing has been compressed for that long, at the cost
of a somewhat larger next message.

What inflates the peer's messages has 20 to 50 KiB, and cannot be freed before the peer is done. Without context
takeover neither is kept between two messages.

=item C<server_no_context_takeover>, C<client_no_context_takeover>

Boolean, default false. Whether messages of that side are compressed each by itself, so that neither side has to
keep anything for them between two. In the opening handshake these two and the next are what a side wishes for.

=item C<server_max_window_bits>, C<client_max_window_bits>

Integer from 8 to 15, default 15: what that side refers back to is within 2 to this power of bytes. With 8 we send
messages as they are.

=back

=head2 validate_utf8

Boolean, default true. Whether received text messages that are not UTF-8 fail the connection. Close reasons
are always checked.

=head2 close_timeout

Number, seconds, default 30; 0 for none. How long, once a Close frame was sent, to wait for a peer that
neither closes its side, nor sends anything, nor takes what is still to be sent. It is cut off then, and
C<finish> gets the text C<close timeout>.

=head2 max_write_buffer

Integer, bytes, default undef, or 0, for none. How much may wait to be sent to a peer that does not take it. A C<send> that
would make it more fails the connection: what waits is dropped, the socket closes, and C<finish> gets a text that begins
C<write buffer is full>. What the socket takes at once is not counted, whatever its size; nor are control frames. (With the
handle's C<autocork> the socket takes nothing at once.)

Without this limit what is sent to a peer that has stopped reading waits in memory for as long as the connection lasts.

=head2 ping_interval

Number, seconds, default undef, or 0, for never. How often to send a Ping, so that a peer that has gone without a word is
found out (see C<ping_timeout>), and nothing between the two takes the connection for a dead one.

=head2 ping_timeout

Number, seconds, default undef, or 0, for none. How long after a Ping, of C<ping_interval> or by C<ping>, something has to
arrive from the peer, its Pong or anything else. Where nothing does, the peer is cut off, and C<finish> gets the text
C<ping timeout>.

=head2 idle_timeout

Number, seconds, default undef, or 0, for none. Where no text or binary message has gone either way for that long, the
connection is closed with code 1001 and the reason C<idle timeout>. Pings and Pongs do not count; a part of something does.

A time of these four may last up to a quarter longer. But for C<ping_interval> it does not pass while a callback of the
connection runs, or while it is paused.

=head2 close_code

Integer. The code of the Close frame that the peer sent, as it stands there. Undef where none came, or one
without a code.

=head2 close_reason

String of characters. The reason in the Close frame that the peer sent; C<''> where it has a code but no
reason.

=head2 close_error

String. The text of the error that ended the socket; undef where it ended by EOF.

=head1 METHODS

=head2 send

 $connection->send($string);
 $connection->send($message);

Sends a string as a text message, or an L<AnyEvent::WebSocket::Message> (or any object with methods
C<opcode> and C<body>) with its opcode. A string that Perl holds as characters (with its UTF-8 flag) is
encoded as UTF-8; one that it holds as bytes is sent as it is, so that the output of C<encode_json> can be
sent. Undef is an empty message.

Returns the connection. After the connection was closed by either side nothing is sent, and that is no
error.

Dies where the argument is a reference to something else, or an opcode is not between 0 and 15. A message
with opcode 8 is a Close frame with just that body; nothing is sent after it.

=head2 send_text

 $connection->send_text($characters);

Sends a string of characters as a text message, encoded as UTF-8, however Perl holds it: the string C<"\xE9"> is the
character E<eacute>, which C<send> would take for a byte. Returns the connection; after it was closed nothing is sent.

Dies where the string is a reference without string overloading, or has a character that UTF-8 has not: a surrogate, or one
above U+10FFFF.

=head2 send_binary

 $connection->send_binary($octets);

Sends a string of octets as a binary message, however Perl holds it. Returns the connection; after it was closed nothing
is sent.

Dies where the string is a reference without string overloading, or has a character above U+00FF.

=head2 broadcast

 my $count = AnyEvent::WebSocket::Connection->broadcast($string, @connections);
 my $count = AnyEvent::WebSocket::Connection->broadcast($message, @connections);

Sends the same to many connections, at less cost than by calling C<send> for each: the argument is looked at, and the
frame made, once. So is compressing, for connections that do it by themselves alike: without context
takeover for what we send, with the same window and level. A chat room:

 my %room;

 sub enter {
   my ($connection) = @_;
   $room{$connection} = $connection;
   $connection->on(each_message => sub {
     my ($connection, $message) = @_;
     AnyEvent::WebSocket::Connection->broadcast($message, values %room);
   });
   $connection->on(finish => sub {
     my ($connection) = @_;
     delete $room{$connection};
   });
 }

Connections that have been closed are left out. Returns to how many it was sent, which is, as with C<send>, that it was
given to the socket, or waits for it.

All connections are held until it returns, so that callbacks that run meanwhile may do anything. Where sending
fails, that connection finishes, and the others get the message. Should a callback die of it, they still do; the first
exception is thrown then, and any further one is warned.

A connection of a derived class that has a C<send> of its own, or one around ours, is sent to by that.

Dies, before anything is sent, where one of the connections is none that C<new> has made, or as C<send> does.

=head2 on

 my $cancel = $connection->on(each_message => $callback);
 $cancel->();

Registers a callback for one of the L</EVENTS>. Returns a code reference that removes it again: each
registration of the same code for the same event.

Dies with C<unrecongized event: ...> (so spelt since the first release) for any other name.

=head2 close

 $connection->close;
 $connection->close($code);
 $connection->close($code, $reason);

Sends a Close frame, and shuts down the write side of the socket once everything is written. Messages of
the peer are still delivered until its own Close frame or EOF. The code is 1000 by default; the reason is a
string of characters.

Returns the connection. A second call sends nothing.

Dies where the code may not be sent in a Close frame (RFC 6455 section 7.4; 1012 to 1014 are in IANA's registry,
and may be), or the reason is longer than
123 bytes of UTF-8.

=head2 ping

 $connection->ping;
 $connection->ping($payload);

Sends a Ping with this payload, bytes as for C<send>, or none. Where there is a C<ping_timeout>, something has to arrive
within it. Returns the connection; after it was closed nothing is sent.

Dies where the payload is longer than 125 bytes (RFC 6455 section 5.5).

=head2 latency

 my $seconds = $connection->latency;

Number, seconds: how long the peer took to answer the last of our Pings that it has answered. Undef as long as it has
answered none.

=head2 pause

 $connection->pause;

Delivers no more messages, and reads no more from the socket, until C<resume>: the peer can send only as much as the sockets
on the way hold. What else arrives is not seen either: Pings are not answered, and the end of the socket is not noticed. Where
the socket turns out to have failed when something is sent, what had been read is delivered all the same, then C<finish>.

Returns the connection. C<close> ends a pause, since the peer's Close frame has to be seen, and then this does nothing.

=head2 resume

 $connection->resume;

Goes on reading after C<pause>. What had been read already is delivered from the event loop. Returns the connection.

=head2 buffered_amount

 my $bytes = $connection->buffered_amount;

Integer, bytes: how much waits to be sent because the socket has not taken it, frames with their headers, and what the program
has given to the handle itself. With TLS, as it is encrypted. 0 for handles that are objects of another kind, of which this is not
known.

A program that has much to send stops when this grows, and goes on with C<drain>:

 sub send_more {
   my ($connection, $next) = @_;
   while ($connection->buffered_amount < 1_000_000) {
     my $message = $next->();
     return unless defined $message;
     $connection->send_binary($message);
   }
 }
 $connection->on(drain => sub { send_more($_[0], $next) });
 send_more($connection, $next);

=head2 was_clean

 if ($connection->was_clean) { ... }

True once Close frames have gone both ways and the connection has not failed. Not as long as ours waits behind
what the socket does not take, and not where the socket ended before it had left.

=head1 EVENTS

A connection is kept alive while callbacks of its own run. A callback may do anything: send, close, let go
of the connection, destroy the handle, die, or run the event loop (C<< $condvar->recv >>); in the last case
the further messages of this connection wait until it has returned.

=head2 next_message

 $connection->on(next_message => sub { my ($connection, $message) = @_; ... });

The next text or binary message, once.

=head2 each_message

 $connection->on(each_message => sub { my ($connection, $message, $cancel) = @_; ... });

Each text or binary message. C<$cancel> is what C<on> returned for this callback. For each message the
callbacks for C<next_message> come first.

=head2 parse_error

 $connection->on(parse_error => sub { my ($connection, $text) = @_; ... });

The connection has failed: the peer broke the protocol or exceeded a limit, and C<$text> says how; or a
callback for C<next_message>, C<each_message>, C<ping>, C<pong> or C<drain> died, and C<$text> is its exception. The peer has been sent a Close frame with code
1002, 1007, 1009 or 1011. An exception is warned where there is no callback for this.

=head2 finish

 $connection->on(finish => sub { my ($connection, $text) = @_; ... });

The socket has ended, after everything that had arrived was delivered: by EOF (C<$text> is undef) or by an
error (C<$text> says which). This is told once, and nothing follows it.

=head2 ping

 $connection->on(ping => sub { my ($connection, $message) = @_; ... });

Each Ping of the peer, when its answer has been sent; the payload is the body of C<$message>. Pings are answered whether or
not there are callbacks for them. Where 64 KiB wait to be sent, and as much of answers behind that, only the last one is (RFC
6455 section 5.5.3).

=head2 pong

 $connection->on(pong => sub { my ($connection, $message) = @_; ... });

Each Pong of the peer, also those that answer no Ping.

=head2 drain

 $connection->on(drain => sub { my ($connection) = @_; ... });

All that waited to be sent has left. This comes each time after the socket has not taken something at once, and not after
C<close>. It uses the handle's C<on_drain>, with what the program has there called first. A program that
sets that anew meanwhile does without this event, and without the answer to a Ping that waits for it, until something is
sent again. Objects that are no AnyEvent::Handle do not tell.

=head1 ERRORS

=over 4

=item *

Mistakes of the program die at the caller's line.

=item *

What the peer does wrong comes to C<parse_error>, then C<finish>.

=item *

What happens to the socket comes to C<finish>.

=item *

An exception in a callback for C<parse_error> or C<finish> goes where the event loop sends it.

=back

=head2 Dropping a connection

An open connection whose last reference goes away does what C<close> does: what is unsent is sent, then
Close 1000, and the socket closes when the peer has closed its side (or does not within 30 seconds). At the
end of the program Close 1001 is tried, once and without a word. A process forked from the one that made
the connection does neither; a process that leaves its connection to one it has forked calls C<destroy> on
the handle first, which says nothing to the peer. (The reference may go before the end of the program, as
that in a lexical variable does when C<exit> is called: then it is Close 1000.)

What a forked process sends is compressed only without context takeover: otherwise the peer could not make sense of
what the other process compresses next.

A connection that was cloned into another thread has nothing behind it: its methods do nothing.

=head1 COMPATIBILITY

With C<AnyEvent::WebSocket::Connection> 0.55 these are different, on purpose:

=over 4

=item *

RFC 6455 is enforced on what arrives: reserved bits and opcodes, control frames that are fragmented or too
large, continuations without a start, messages inside of messages, lengths that are not in their shortest
form, text and close reasons that are not UTF-8, Close frames with codes that must not be sent. The
connection fails with Close 1002, 1007 or 1009.

=item *

C<close> dies for a code or reason that would make a broken frame.

=item *

Dropping an open connection closes it with a Close frame, rather than just its socket.

=item *

A received Close frame is answered with the same code, and an empty one with an empty one, rather than with
1000.

=item *

A peer that does not react to our Close frame is cut off after C<close_timeout>.

=item *

What has arrived is delivered after 50 milliseconds where the event loop is too busy to be idle before, rather than
only once it is: otherwise one peer that sends without a pause would keep all new connections waiting.

=item *

Masking keys come from the operating system's generator, and a forked process never repeats those of its
parent.

=item *

C<< max_fragments => 0 >> means no limit.

=item *

An exception in a callback sends Close 1011, and is warned where nothing listens for C<parse_error>.

=item *

What callbacks send while further messages of the same read are at hand is collected, and leaves in one call
with what they send: after the last of them, or as soon as the callbacks take more than a few milliseconds.
A callback that then blocks, or ends the process by C<exec> or C<POSIX::_exit>, holds it back.

=item *

C<next> or C<last>, which left a callback with a warning, is an exception there.

=item *

After C<finish> the callbacks are forgotten, so that a connection they refer to can go.

=item *

The class is not made with Moo. A derived class can be, and may redeclare attributes, but not extend them with
C<has '+name'>.

=item *

After C<destroy> of the handle nothing more is delivered, not even of what had been read.

=item *

What is sent after the peer has ended TLS, but not yet the connection, is not sent: it would go out in the clear.

=back

C<broadcast>, C<send_text>, C<send_binary>, C<ping>, C<latency>, C<pause>, C<resume>, C<buffered_amount>, C<was_clean>,
C<role>, C<max_message_size>, C<max_write_buffer>, C<validate_utf8>, C<close_timeout>, C<ping_interval>, C<ping_timeout>,
C<idle_timeout>, C<extensions>, C<permessage_deflate>, and the events C<ping>, C<pong> and C<drain> are new. A derived class
that has had methods or attributes with these names for something of its own has to rename them: they are asked for by name.

=head1 SEE ALSO

L<AnyEvent::WebSocket::Message>, L<AnyEvent::Handle>, L<AnyEvent>, RFC 6455

=head1 COPYRIGHT AND LICENSE

This is free software; you can redistribute it and/or modify it under the same terms as the Perl 5
programming language system itself.

=cut
