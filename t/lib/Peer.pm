package Peer;

# What the tests have at the other end of a connection: a plain socket, and frames encoded and decoded
# here, independently of the code under test.

use strict;
use warnings;

use AnyEvent;
use AnyEvent::Handle;
use Carp qw(croak);
use Exporter qw(import);
use IO::Socket::INET;
use Socket;

our @EXPORT_OK = qw(
    socket_pair tcp_pair handle_on connection_and_peer connection_pair
    frame close_frame parse_frames read_frames read_until_eof on_the_wire write_all
    run_until run_for settle
    record start_program program_socket nested
    connection_through_handle trickle trickle_all receive_frames
    history finished payloads short narrow_pair
);

our %EXPORT_TAGS = (all => \@EXPORT_OK);

my $TIMEOUT = $ENV{AEWS_TEST_TIMEOUT} || 10;

# Two connected UNIX sockets.
sub socket_pair {
    socketpair my $ours, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC or die "socketpair: $!";
    return ($ours, $theirs);
}

# Two connected TCP sockets on loopback.
sub tcp_pair {
    my $listener = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die "listen: $!";
    my $ours = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $listener->sockport)
        or die "connect: $!";
    my $theirs = $listener->accept or die "accept: $!";
    return ($ours, $theirs);
}

sub handle_on {
    my ($socket, @options) = @_;
    return AnyEvent::Handle->new(fh => $socket, @options);
}

# A connection and the plain (non-blocking) socket of its peer.
sub connection_and_peer {
    my %options = @_;
    my ($ours, $theirs) = (delete $options{tcp}) ? tcp_pair() : socket_pair();
    my $handle_options = delete $options{handle_options} || [];
    AnyEvent::fh_unblock($theirs);
    require AnyEvent::WebSocket::Connection;
    my $class      = delete $options{class} || 'AnyEvent::WebSocket::Connection';
    my $connection = $class->new(handle => handle_on($ours, @$handle_options), %options);
    return ($connection, $theirs);
}

# Two connections with each other.
sub connection_pair {
    my ($first, $second) = @_;
    my ($ours, $theirs) = socket_pair();
    require AnyEvent::WebSocket::Connection;
    return map { AnyEvent::WebSocket::Connection->new(handle => handle_on($_->[0]), %{ $_->[1] || {} }) }
        [$ours, $first], [$theirs, $second];
}

# frame(opcode => 1, payload => '...', fin => 1, rsv => 0, mask => 'abcd', length_bytes => undef|0|2|8)
sub frame {
    my %frame   = (opcode => 1, payload => '', fin => 1, rsv => 0, @_);
    my $length  = $frame{length} // length $frame{payload};
    my $bytes   = $frame{length_bytes} // ($length < 126 ? 0 : $length < 65536 ? 2 : 8);
    my $mask    = defined $frame{mask} ? 0x80 : 0;
    my $header  = pack 'C', ($frame{fin} ? 0x80 : 0) | $frame{rsv} << 4 | $frame{opcode};
    $header .=
          $bytes == 0 ? pack('C',    $mask | $length)
        : $bytes == 2 ? pack('C n',  $mask | 126, $length)
        :               pack('C Q>', $mask | 127, $length);
    return $header . $frame{payload} unless $mask;
    return $header . $frame{mask} . _mask($frame{payload}, $frame{mask});
}

sub close_frame {
    my ($code, $reason, @options) = @_;
    my $payload = defined $code ? pack('n a*', $code, $reason // '') : '';
    return frame(opcode => 8, payload => $payload, @options);
}

sub _mask {
    my ($payload, $mask) = @_;
    # As strings, whatever perl holds the payload as.
    return "$payload" ^ substr($mask x (length($payload) / 4 + 1), 0, length $payload);
}

# The frames at the start of a buffer, which are removed from it, as hashes of fin, rsv, opcode, masked,
# key and (unmasked) payload.
sub parse_frames {
    my $buffer = \$_[0];
    my @frames;
    while (length $$buffer >= 2) {
        my ($first, $second) = unpack 'C C', $$buffer;
        my ($length, $offset) = ($second & 0x7F, 2);
        my $more = $length == 126 ? 2 : $length == 127 ? 8 : 0;
        last if length $$buffer < $offset + $more;
        $length = unpack $more == 2 ? 'n' : 'Q>', substr $$buffer, $offset, $more if $more;
        $offset += $more;
        my $masked = $second & 0x80;
        last if length $$buffer < $offset + ($masked ? 4 : 0) + $length;
        my $key = $masked ? substr $$buffer, $offset, 4 : undef;
        $offset += 4 if $masked;
        my $payload = substr $$buffer, $offset, $length;
        substr $$buffer, 0, $offset + $length, '';
        push @frames, {
            fin     => $first >> 7,
            rsv     => $first >> 4 & 7,
            opcode  => $first & 15,
            masked  => $masked ? 1 : 0,
            key     => $key,
            payload => $masked ? _mask($payload, $key) : $payload,
        };
    }
    return @frames;
}

# Runs the event loop until the condition holds; dies where it takes too long.
sub run_until(&;$) {
    my ($condition, $what) = @_;
    my $deadline = AE::time + $TIMEOUT;
    until ($condition->()) {
        croak 'timeout' . (defined $what ? " waiting for $what" : '') if AE::time > $deadline;
        run_for(0.005);
    }
    return 1;
}

sub run_for {
    my ($seconds) = @_;
    # Where the test itself takes long (under valgrind), a timer made by the loop's stale time would be due
    # at once, and the loop never idle, which new connections wait for.
    AE::now_update;
    my $done  = AE::cv;
    my $timer = AE::timer $seconds, 0, $done;
    $done->recv;
}

# For a callback that runs the event loop: AnyEvent refuses a blocking wait inside another of its own
# (not inside EV::run or the like, where programs do this).
sub nested(&) {
    no warnings 'once';
    local $AnyEvent::CondVar::Base::WAITING = 0;
    return $_[0]->();
}

# What a connection's callbacks are called with, in order: messages, parse errors and the arguments of
# `finish`, each in an array of that name. Does not keep the connection alive.
sub record {
    my ($connection) = @_;
    my %record = (messages => [], parse_errors => [], finish => []);
    $connection->on(each_message => sub { push @{ $record{messages} }, $_[1]->body });
    $connection->on(parse_error  => sub { push @{ $record{parse_errors} }, $_[1] });
    $connection->on(finish       => sub { push @{ $record{finish} }, $_[1] });
    return \%record;
}

# Runs Perl code in a process of its own, which gets our end of a TCP connection from
# program_socket(). Returns the peer's end, and code that waits until the process has ended and returns
# its wait status and what it printed. That code also keeps the process from becoming a zombie.
sub start_program {
    my ($code, %environment) = @_;
    AnyEvent::detect();
    my $listener = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die "listen: $!";
    open my $output, '+>', undef or die "temporary file: $!";
    my $prelude = "use strict; use warnings; use Peer qw(:all); use AnyEvent::WebSocket::Connection;\n";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        @ENV{ keys %environment } = values %environment;
        open STDOUT, '>&', $output;
        open STDERR, '>&', $output;
        $ENV{AEWS_TEST_PORT} = $listener->sockport;
        { no warnings 'exec'; exec $^X, (map { "-I$_" } grep { !ref } @INC), '-e', "$prelude#line 1 program\n$code" }
        require POSIX;
        POSIX::_exit(127);
    }
    my $status;
    my $child = AE::child $pid, sub { $status = $_[1] };
    my $wait  = sub {
        run_until { defined $status } 'the program';
        $child = undef;
        seek $output, 0, 0;
        return ($status, join '', readline $output);
    };
    require IO::Select;
    # A program that ends meanwhile interrupts this.
    my $deadline = AE::time + $TIMEOUT;
    my $theirs;
    until ($theirs || AE::time > $deadline) {
        $theirs = $listener->accept if IO::Select->new($listener)->can_read($TIMEOUT);
    }
    die 'no connection from the program: ' . ($wait->())[1] unless $theirs;
    AnyEvent::fh_unblock($theirs);
    return ($theirs, $wait);
}

sub program_socket {
    return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $ENV{AEWS_TEST_PORT})
        || die "connect: $!";
}

# Like connection_and_peer, but with a subclass of AnyEvent::Handle, where all goes through its methods.
sub connection_through_handle {
    my %options = @_;
    my ($ours, $theirs) = socket_pair();
    my $handle_options = delete $options{handle_options} || [];
    AnyEvent::fh_unblock($theirs);
    require AnyEvent::WebSocket::Connection;
    @Peer::Handle::ISA = ('AnyEvent::Handle');
    my $handle = Peer::Handle->new(fh => $ours, @$handle_options);
    return (AnyEvent::WebSocket::Connection->new(handle => $handle, %options), $theirs);
}

# Writes to the peer's socket byte by byte (or in pieces of some size), each when the connection has
# read the one before; stops where its socket is closed.
sub trickle {
    my ($connection, $socket, $bytes, $size) = @_;
    return trickle_all($size || 1, [$connection, $socket, $bytes]);
}

# The same for several connections at once, given as arrays of connection, socket and bytes.
sub trickle_all {
    my ($size, @all) = @_;
    require IO::Select;
    my @left = map { [@$_[0, 1], [unpack "(a$size)*", $_->[2]]] } @all;
    while (@left = grep { @{ $_->[2] } && $_->[0]->handle->fh && syswrite $_->[1], shift @{ $_->[2] } } @left) {
        my $turns = 0;
        while (IO::Select->new(grep { $_ && fileno $_ } map { $_->[0]->handle->fh } @left)->can_read(0)) {
            croak 'the connection does not read' if $turns++ > 5_000;
            # Not always 0: with a timer that is due the loop is not idle, which a new connection waits for.
            run_for($turns % 2 ? 0 : $turns < 9 ? 0.0003 : 0.003);
        }
    }
}

# Long enough for everything that is already under way on loopback.
sub settle { run_for(0.03) }

# Runs the event loop until that many frames have come from a plain socket (or EOF); returns them.
sub read_frames {
    my ($socket, $count) = @_;
    my ($buffer, $eof, @frames) = ('', 0);
    run_until {
        my $n = sysread $socket, $buffer, 1 << 16, length $buffer;
        $eof ||= defined $n && $n == 0;
        push @frames, parse_frames($buffer);
        $eof || @frames >= $count;
    } "$count frames";
    return @frames;
}

# As read_frames, for many bytes: reads whenever there is something to read.
sub receive_frames {
    my ($socket, $count) = @_;
    my ($buffer, $eof, @frames) = ('', 0);
    my $reader = AE::io $socket, 0, sub {
        my $n = sysread $socket, $buffer, 1 << 18, length $buffer;
        $eof ||= defined $n ? $n == 0 : !$!{EAGAIN};
        push @frames, parse_frames($buffer);
    };
    run_until { $eof || @frames >= $count } "$count frames";
    return @frames;
}

# Runs the event loop until EOF on a plain socket; returns all bytes that came. An error ends it too.
sub read_until_eof {
    my ($socket) = @_;
    my $bytes = '';
    run_until {
        while (1) {
            my $n = sysread $socket, $bytes, 1 << 16, length $bytes;
            return 0 if !defined $n && $!{EAGAIN};
            return 1 if !$n;
        }
    } 'EOF';
    return $bytes;
}

# What there is to read without the event loop having run.
sub on_the_wire {
    my ($socket) = @_;
    my $bytes = '';
    1 while sysread $socket, $bytes, 1 << 16, length $bytes;
    return $bytes;
}

# Writes everything to a plain socket, running the event loop while it is full.
sub write_all {
    my ($socket, $bytes) = @_;
    run_until {
        my $n = syswrite $socket, $bytes;
        substr $bytes, 0, $n, '' if $n;
        !length $bytes || (!defined $n && !$!{EAGAIN});
    } 'writing';
    return !length $bytes;
}

# What a connection tells the program, as a list: bodies of messages, [parse_error => text], [finish => text].
sub history {
    my ($connection) = @_;
    my @history;
    $connection->on(each_message => sub { push @history, $_[1]->body });
    $connection->on(parse_error  => sub { push @history, [parse_error => $_[1]] });
    $connection->on(finish       => sub { push @history, [finish => $_[1]] });
    return \@history;
}

sub finished { my ($history) = @_; return scalar grep { ref && $_->[0] eq 'finish' } @$history }

sub payloads { return [map { $_->{payload} } @_] }

# Long payloads by their start and length, so that a difference is readable.
sub short { return [map { length > 40 ? substr($_, 0, 20) . '...' . length : $_ } @{ $_[0] }] }

# A socket that takes little at a time.
sub narrow_pair {
    my ($ours, $theirs) = socket_pair();
    setsockopt $_, SOL_SOCKET, SO_SNDBUF, pack 'i', 4096 or die "SO_SNDBUF: $!" for $ours, $theirs;
    AnyEvent::fh_unblock($theirs);
    return ($ours, $theirs);
}

1;
