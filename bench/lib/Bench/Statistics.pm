package Bench::Statistics;

# What the rounds of a figure come to.

use v5.36;

use Exporter qw( import );

our @EXPORT_OK = qw( summary ratio is_tie TIE );

# Differences below it are noise, as far as this machine can tell.
use constant TIE => 0.15;

# Median, least, greatest and the best of the values.
sub summary ( $better, @values ) {
    return undef if !@values;
    my @sorted = sort { $a <=> $b } @values;
    return {
        median => ( $sorted[ $#sorted / 2 ] + $sorted[ @sorted / 2 ] ) / 2,
        min    => $sorted[0],
        max    => $sorted[-1],
        best   => $better eq 'more' ? $sorted[-1] : $sorted[0],
    };
}

sub ratio ( $summary, $other, $of = 'median' ) {
    return undef if !$summary || !$other || !$other->{$of};
    return $summary->{$of} / $other->{$of};
}

sub is_tie ($ratio) { $ratio < 1 + TIE && $ratio > 1 / ( 1 + TIE ) }

1;
