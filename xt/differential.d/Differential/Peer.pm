package Differential::Peer;

# The other end of the connection: a plain socket, and frames by t/lib/Peer.pm. And how to tell, from the kernel
# rather than by waiting, that what one end has written has arrived at the other.

use strict;
use warnings;

use AnyEvent::Util ();
use Errno  qw(EAGAIN EINTR);
use POSIX  ();
use Socket qw(IPPROTO_TCP SOL_SOCKET SO_SNDBUF TCP_NODELAY TCP_QUICKACK);

use Differential::Text qw(bytes);
use Differential::Units ();
use Peer ();

# Of Linux: <asm-generic/ioctls.h>, <linux/sockios.h>. is_usable() tries them.
my $FIONREAD = 0x541B;
my $SIOCOUTQ = 0x5411;

my %NAME = (0 => 'continuation', 1 => 'text', 2 => 'binary', 8 => 'Close', 9 => 'Ping', 10 => 'Pong');

sub new {
    my ($class, $transport, $narrow) = @_;
    my ($other, $socket) = $transport eq 'tcp' ? Peer::tcp_pair() : Peer::socket_pair();
    AnyEvent::fh_unblock($socket);
    if ($narrow) {
        setsockopt $_, SOL_SOCKET, SO_SNDBUF, pack 'i', 4096 or die "SO_SNDBUF: $!" for $other, $socket;
    }
    if ($transport eq 'tcp') {
        setsockopt $_, IPPROTO_TCP, TCP_NODELAY, 1 or die "TCP_NODELAY: $!" for $other, $socket;
    }
    my %self = (socket => $socket, other => $other, fd => fileno $other, tcp => $transport eq 'tcp');
    return bless {%self, out => '', in => '', told => []}, $class;
}

# The descriptor has to be closed by who takes it.
sub take_other_end { return delete $_[0]{other} }

sub other_end_is_open {
    my ($self) = @_;
    my $copy = POSIX::dup($self->{fd});
    POSIX::close($copy) if defined $copy;
    return defined $copy;
}

sub write {
    my ($self, $bytes) = @_;
    $self->{out} .= $bytes;
    return $self->_write;
}

sub _write {
    my ($self) = @_;
    while (length $self->{out}) {
        my $written = syswrite $self->{socket}, $self->{out};
        if ($written) {
            substr $self->{out}, 0, $written, '';
        }
        elsif ($! != EINTR) {
            return if $! == EAGAIN;
            push @{ $self->{told} }, "error in writing: $!";
            $self->{out} = '';
        }
    }
    if ($self->{ending} && !$self->{ended}) {
        $self->{ended} = 1;
        shutdown $self->{socket}, 1;
    }
    return;
}

# Ends the peer's side when everything is written.
sub end { $_[0]{ending} = 1; return $_[0]->_write }

sub pause     { $_[0]{paused} = 1; return }
sub resume    { $_[0]{paused} = 0; return $_[0]->work }
sub is_paused { return $_[0]{paused} }
sub is_gone   { return !$_[0]{socket} }
sub has_ended { return $_[0]{ending} || !$_[0]{socket} }

# EOF, or an error in its place.
sub has_seen_the_end { return $_[0]{eof} || !$_[0]{socket} }

sub vanish {
    my ($self) = @_;
    my $socket = delete $self->{socket};
    close $socket if $socket;
    return;
}

sub work {
    my ($self) = @_;
    return if !$self->{socket};
    $self->_write;
    while (!$self->{paused} && !$self->{eof}) {
        my $read = sysread $self->{socket}, $self->{in}, 1 << 17, length $self->{in};
        next if $read;
        if (defined $read) {
            $self->_take_frames;
            push @{ $self->{told} }, 'bytes that are no frame: ' . bytes($self->{in}) if length $self->{in};
            push @{ $self->{told} }, 'EOF';
            $self->{eof} = 1;
        }
        elsif ($! != EINTR) {
            last if $! == EAGAIN;
            push @{ $self->{told} }, "error in reading: $!";
            $self->{eof} = 1;
        }
    }
    $self->_take_frames;
    return;
}

sub _take_frames {
    my ($self) = @_;
    return if !length $self->{in};
    my $length = length $self->{in};
    my @frames = Peer::parse_frames($self->{in});
    my $least  = 0;
    for my $frame (@frames) {
        $least += Differential::Units::frame_length({payload => $frame->{payload}, mask => $frame->{key}});
        push @{ $self->{told} }, description($frame);
    }
    push @{ $self->{told} }, 'a length that is not in its shortest form' if $least != $length - length $self->{in};
    return;
}

# A frame as text: what it is, and its payload.
sub description {
    my ($frame) = @_;
    my $name    = $NAME{ $frame->{opcode} } // "opcode $frame->{opcode}";
    my $payload = $frame->{payload};
    my $content = $frame->{opcode} == 8 ? close_text($payload) : bytes($payload);
    return join ' ', $name, $content, defined($frame->{mask} // $frame->{key}) ? 'masked' : 'unmasked',
        $frame->{fin} ? () : 'not final', $frame->{rsv} ? "reserved bits $frame->{rsv}" : (),
        defined $frame->{length} ? "announced as $frame->{length} bytes" : ();
}

# What has happened since it was asked for.
sub told {
    my ($self) = @_;
    return splice @{ $self->{told} };
}

# ---- frames

sub close_text {
    my ($body) = @_;
    return length $body < 2 ? bytes($body) : unpack('n', $body) . ' ' . bytes(substr $body, 2);
}

# The Close frames in a unit, as text.
sub closes {
    my ($unit) = @_;
    return map { close_text($_->{payload}) } grep { $_->{opcode} == 8 } @{ $unit->{frames} };
}

# ---- what is under way

sub _count {
    my ($socket, $request) = @_;
    my $count = pack 'i', -1;
    return ioctl($socket, $request, $count) ? unpack 'i', $count : -1;
}

# Whether all that was written to one end is at the other, or read there: of a UNIX socket nothing is under way that
# has not been read; of a TCP one nothing that has not been acknowledged, which its receiver may have put off.
sub _has_arrived {
    my ($self, $from, $to) = @_;
    if ($self->{tcp}) {
        setsockopt $to, IPPROTO_TCP, TCP_QUICKACK, 1;
    }
    return _count($from, $SIOCOUTQ) == 0;
}

# Whether the connection has read everything. It handles what it reads at once.
sub has_been_read {
    my ($self, $other) = @_;
    return !length $self->{out} && $self->_has_arrived($self->{socket}, $other) && _count($other, $FIONREAD) == 0;
}

sub has_read_all {
    my ($self, $other) = @_;
    return 1 if $self->{eof};
    return $self->_has_arrived($other, $self->{socket}) && _count($self->{socket}, $FIONREAD) == 0;
}

# Whether the kernel answers these questions here.
sub is_usable {
    my ($from, $to) = Peer::socket_pair();
    syswrite $from, 'five!';
    return if _count($from, $SIOCOUTQ) <= 0 || _count($to, $FIONREAD) != 5;
    sysread $to, my $five, 10;
    return _count($from, $SIOCOUTQ) == 0 && _count($to, $FIONREAD) == 0;
}

1;
