package Chaos::Stream;

# Messages that both ends know: number, kind and size follow from a key. Each has its number and a checksum in it, but
# for the empty ones, which are known by their place.

use v5.36;

use Digest::MD5 qw(md5 md5_hex);

use constant { TEXT => 1, BINARY => 2 };

# What bodies are cut out of: any bytes; and characters of one to four bytes in turn, so that a piece of whole tens is
# UTF-8.
use constant POOL => 1_000_000;
my ($bytes, $text);

sub _fill () {
    my $word = 88172645463325252;
    my $next = sub { $word ^= $word << 13; $word ^= $word >> 7; $word ^= $word << 17; return $word };
    $bytes = join '', map { pack 'Q', $next->() } 1 .. POOL / 8;
    my @characters = (
        [map { chr } 0x20 .. 0x7E],
        [map { chr } 0xA0 .. 0x7FF],
        [map { chr } 0x800 .. 0xD7FF],
        [map { chr 0x10000 + $_ * 97 } 0 .. 9999],
    );
    my @pieces;
    for (1 .. POOL / 100) {
        my $number = $next->();
        push @pieces, join '', map { my $of = $_; $of->[ ($number = $number * 31 + 7 & 0xFFFF_FFFF) % @$of ] } @characters;
    }
    $text = join '', @pieces;
    utf8::encode($text);
    $text x= 10;
    return;
}

# `largest` is the size of the largest body; `amount`: instead of by these chances, all are that large.
sub new ($class, %arg) {
    _fill() if !defined $text;
    return bless {%arg}, $class;
}

sub count ($self) { $self->{count} }

# The kind and size of a message, from 0 on, and where in the pool its body begins.
sub _of ($self, $number) {
    my ($kind, $class, $size, $offset) = unpack 'N4', md5("$self->{key} $number");
    $kind = $kind % 2 ? TEXT : BINARY;
    $class %= 100;
    $size =
          defined $self->{amount} ? $self->{amount}
        : $class < 5              ? 0
        : $class < 55             ? 1 + $size % 125
        : $class < 80             ? 126 + $size % 1900
        : $class < 95             ? 2026 + $size % 14_000
        : $class < 99             ? 16_026 + $size % 50_000
        :                           66_026 + $size % 200_000;
    $size = $self->{largest} if $size > $self->{largest};
    $size -= $size % 10 if $kind == TEXT;
    return ($kind, $size, $offset % ((POOL - $size) / 10) * 10);
}

# Opcode and bytes of a message.
sub message ($self, $number) {
    my ($kind, $size, $offset) = $self->_of($number);
    return ($kind, '') if !$size;
    my $body = substr $kind == TEXT ? $text : $bytes, $offset, $size;
    return ($kind, "$number " . md5_hex($body) . " $body");
}

# Of what has arrived: its number, or undef where it is not whole.
sub number_of ($self, $opcode, $octets) {
    my ($number, $sum) = $octets =~ /\A(\d{1,9}) ([0-9a-f]{32}) / or return undef;
    return undef if $number >= $self->{count};
    my ($kind, $size) = $self->_of($number);
    my $body = substr $octets, $+[0];
    return $kind == $opcode && $size == length $body && $sum eq md5_hex($body) ? $number : undef;
}

sub is_empty ($self, $number, $opcode) {
    my ($kind, $size) = $self->_of($number);
    return !$size && $kind == $opcode;
}

1;
