package Interop::Wire;

# What passes between client and server on one connection: bytes are counted and, unless it is TLS, heads
# and frames are read. Nothing is taken on trust from either side.

use v5.36;

use List::Util qw(min);

use constant CONTROL => 8;

sub new ($class) {
    my %side = map { $_ => {bytes => 0, buffer => '', frames => [], skip => 0} } qw(client server);
    return bless {side => \%side}, $class;
}

# All that a side has sent until now.
sub bytes ($self, $side) { $self->{side}{$side}{bytes} }

# Hashes: fin, rsv1, rsv: the other two, opcode, masked, length, and of control frames payload.
sub frames ($self, $side) { @{ $self->{side}{$side}{frames} } }

sub is_opaque ($self) { $self->{opaque} }

# Whether what a side has sent ends with a whole frame.
sub is_whole ($self, $side) {
    my $state = $self->{side}{$side};
    return !length $state->{buffer} && !$state->{skip};
}

sub head ($self, $side) { $self->{side}{$side}{head} }

# The value of a header in the request or the response, the empty string where there is none.
sub header ($self, $side, $name) {
    my @values = ($self->head($side) // '') =~ /^\Q$name\E:[ \t]*([^\r\n]*?)[ \t]*\r$/mgi;
    return join ', ', @values;
}

sub path ($self) {
    my ($path) = ($self->head('client') // '') =~ /\AGET (\S+)/;
    return $path;
}

sub passed ($self, $side, $bytes) {
    my $state = $self->{side}{$side};
    # TLS begins with a record of type handshake.
    $self->{opaque} = 1 if !$state->{bytes} && $side eq 'client' && $bytes =~ /\A\x16/;
    $state->{bytes} += length $bytes;
    return if $self->{opaque};
    $state->{buffer} .= $bytes;
    if (!defined $state->{head}) {
        $state->{buffer} =~ s/\A(.*?\r\n)\r\n//s or return;
        $state->{head} = $1;
    }
    # Of a server that answers with a page, the rest is none of our business.
    return if ($self->{side}{server}{head} // '') !~ m{\AHTTP/1\.1 101 };
    _read_frames($state);
    return;
}

sub _read_frames ($state) {
    while (1) {
        my $skipped = min($state->{skip}, length $state->{buffer});
        substr $state->{buffer}, 0, $skipped, '';
        $state->{skip} -= $skipped;
        return if $state->{skip} || length $state->{buffer} < 2;

        my ($first, $second) = unpack 'C2', $state->{buffer};
        my ($size, $length) = (2, $second & 127);
        ($size, $length) = $length == 126 ? (4, undef) : $length == 127 ? (10, undef) : ($size, $length);
        my $masked = $second & 128 ? 1 : 0;
        return if length $state->{buffer} < $size + 4 * $masked;
        $length //= $size == 4 ? unpack 'x2n', $state->{buffer} : unpack 'x2Q>', $state->{buffer};
        my $frame = {
            fin    => $first >> 7,
            rsv1   => $first >> 6 & 1,
            rsv    => $first >> 4 & 3,
            opcode => $first & 15,
            masked => $masked,
            length => $length,
        };
        if ($frame->{opcode} >= CONTROL) {
            my $whole = $size + 4 * $masked + $length;
            return if length $state->{buffer} < $whole;
            my $key = $masked ? substr $state->{buffer}, $size, 4 : '';
            $frame->{payload} = substr $state->{buffer}, $size + 4 * $masked, $length;
            $frame->{payload} ^.= substr $key x ($length / 4 + 1), 0, $length if $masked;
            $state->{skip} = $whole;
        }
        else {
            $state->{skip} = $size + 4 * $masked + $length;
        }
        push @{ $state->{frames} }, $frame;
    }
}

1;
