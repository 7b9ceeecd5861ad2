package Differential::Numbers;

# Numbers and data that follow from a seed alone. Not perl's rand: a seed that failed has to mean the same
# conversation with any perl.

use strict;
use warnings FATAL => 'all';

use Digest::SHA qw(sha256);
use Encode ();

sub new {
    my ($class, $seed) = @_;
    return bless {seed => $seed, block => 0, words => []}, $class;
}

# From 0 to $n - 1.
sub below {
    my ($self, $n) = @_;
    push @{ $self->{words} }, unpack 'N*', sha256("differential $self->{seed} " . $self->{block}++)
        if !@{ $self->{words} };
    return shift(@{ $self->{words} }) % $n;
}

sub between {
    my ($self, $low, $high) = @_;
    return $low + $self->below($high - $low + 1);
}

sub percent {
    my ($self, $chance) = @_;
    return $self->below(100) < $chance;
}

sub pick {
    my ($self, @choices) = @_;
    return $choices[$self->below(scalar @choices)];
}

# One of several things, given as pairs of weight and thing.
sub weighted {
    my ($self, @pairs) = @_;
    my $total = 0;
    $total += $pairs[2 * $_] for 0 .. $#pairs / 2;
    my $at = $self->below($total);
    while (my ($weight, $thing) = splice @pairs, 0, 2) {
        return $thing if $at < $weight;
        $at -= $weight;
    }
    die 'no weights';
}

# As many different numbers from 0 to $n - 1 as asked for (at most $n), in order.
sub several_below {
    my ($self, $count, $n) = @_;
    my %taken;
    $taken{ $self->below($n) } = 1 for 1 .. $count;
    return sort { $a <=> $b } keys %taken;
}

# ---- data

sub binary {
    my ($self, $length) = @_;
    my $block = pack 'C*', map { $self->below(256) } 1 .. _least($length, 509);
    return _repeated($block, $length);
}

# Where encodings and their readers make mistakes: the first and last of each length in UTF-8, neighbours of
# the surrogates, noncharacters, the byte order mark, NUL.
my @NOTABLE = (
    0, 0x0A, 0x7F, 0x80, 0xE9, 0xFF, 0x100, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFEFF, 0xFFFD, 0xFFFE, 0xFFFF,
    0x10000, 0x1F600, 0x1FFFF, 0xFFFFF, 0x10FFFF,
);

sub character {
    my ($self) = @_;
    my $range = $self->weighted(
        40 => [0x20, 0x7E], 15 => [0xA0, 0x7FF], 15 => [0x800, 0xD7FF], 15 => [0x10000, 0x10FFFF], 15 => undef,
    );
    return chr($range ? $self->between(@$range) : $self->pick(@NOTABLE));
}

sub characters {
    my ($self, $count) = @_;
    my $block = join '', map { $self->character } 1 .. _least($count, 199);
    return _repeated($block, $count);
}

# Valid UTF-8 of just that many bytes.
sub text {
    my ($self, $length) = @_;
    return _repeated(join('', map { chr $self->between(0x20, 0x7E) } 1 .. _least($length, 211)), $length)
        if $self->percent(30);
    my $block = Encode::encode('UTF-8', join '', map { $self->character } 1 .. _least($length, 199));
    my $text  = _repeated($block, $length);
    # The last character may have been cut.
    $text =~ s/[\xC0-\xFF][\x80-\xBF]*\z// if !utf8::decode(my $copy = $text);
    return $text . 'x' x ($length - length $text);
}

sub _least { return $_[0] < $_[1] ? $_[0] : $_[1] }

sub _repeated {
    my ($block, $length) = @_;
    return '' if !$length;
    return substr $block x (1 + int $length / length $block), 0, $length;
}

1;
