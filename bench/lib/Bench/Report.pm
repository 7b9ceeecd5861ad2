package Bench::Report;

# The figures of all rounds as tables, and whether they meet the targets.

use 5.020;
use warnings;

use Exporter qw( import );
use List::Util qw( max min );

our @EXPORT_OK = qw( summary table latency_table remarks targets );

# Most of the original's server CPU time per message that ours may use.
my @TARGETS = (
    [ '16 B, 50 connections, 1 in flight',  1 / 3, sub { $_[0]{name} eq '16x50x1' } ],
    [ '16 B, 50 connections, 16 in flight', 1 / 8, sub { $_[0]{name} eq '16x50x16' } ],
    [ '64 KiB',                             1 / 3, sub { $_[0]{payload} == 64 << 10 } ],
    [ '1 MiB',                              1 / 3, sub { $_[0]{payload} == 1 << 20 } ],
);

# A server that is off its core more than this part of the time could go faster.
use constant IDLE => 0.1;

# Of one core; below it the kernel's own clock ticks are all there is to see.
use constant DISTURBED => 0.1;

# Median and spread over the rounds of one cell: of each implementation, and
# of ours relative to the original in the same round.
sub summary {
    my ($cell) = @_;

    my %of = (
        speed  => sub { 1e9 * $_[0]{messages} / $_[0]{wall_ns} },
        cpu    => sub { $_[0]{server_cpu_ns} / 1e3 / $_[0]{messages} },
        p50    => sub { $_[0]{p50_ns} / 1e3 },
        p99    => sub { $_[0]{p99_ns} / 1e3 },
        busy   => sub { $_[0]{server_cpu_ns} / $_[0]{wall_ns} },
        others => sub { $_[0]{other_cpu_ns} / $_[0]{wall_ns} },
    );
    my %summary;
    for my $figure ( keys %of ) {
        my %values;
        for my $impl (qw( ours original )) {
            $values{$impl} = [ map { $of{$figure}->($_) } @{ $cell->{rounds}{$impl} } ];
            $summary{$figure}{$impl} = _spread( @{ $values{$impl} } );
        }
        next if $figure !~ /\A(?:speed|cpu)\z/;
        my @pairs  = map { $values{ours}[$_] / $values{original}[$_] } 0 .. $#{ $values{ours} };
        my $spread = _spread(@pairs);
        $spread->{median} =
          $summary{$figure}{ours}{median} / $summary{$figure}{original}{median};
        $summary{$figure}{ratio} = $spread;
    }
    return \%summary;
}

sub table {
    my (@cells) = @_;
    return _columns(
        [
            'payload',          'conn',          'in flight',     'ours msg/s',
            'original msg/s',   'ours us CPU',   'original us CPU',
            'CPU ours/original', 'speed', '',
        ],
        map {
            my $s = $_->{summary};
            [
                _cell_columns($_),
                ( map { _show( $s->{speed}{$_} ) } qw( ours original ) ),
                ( map { _show( $s->{cpu}{$_} ) } qw( ours original ) ),
                _show( $s->{cpu}{ratio}, '%.3f' ),
                sprintf( '%.2f', $s->{speed}{ratio}{median} ),
                _marks($s),
            ]
        } @cells
    );
}

sub latency_table {
    my (@cells) = @_;
    my @kinds = map {
        my $impl = $_;
        map { [ $impl, $_ ] } qw( p50 p99 )
    } qw( ours original );
    return _columns(
        [ 'payload', 'conn', 'in flight', map { "$_->[0] $_->[1] us" } @kinds ],
        map {
            my $cell = $_;
            [
                _cell_columns($cell),
                map { _number( $cell->{summary}{ $_->[1] }{ $_->[0] }{median} ) } @kinds
            ]
        } @cells
    );
}

sub remarks {
    my (@cells) = @_;
    my $marks = join '', map { _marks( $_->{summary} ) } @cells;
    return (
        'Medians of the rounds, in brackets the least and the greatest.'
          . ' CPU is the server\'s, in microseconds per message.',
        $marks =~ /o/
        ? 'o: our server was off its core for more than a tenth of the time, its speed is not its limit.'
        : (),
        $marks =~ /s/
        ? 's: the original was off its core for more than a tenth of the time, its speed is not its limit.'
        : (),
        $marks =~ /!/
        ? '!: other processes used more than a tenth of a core meanwhile; the speeds mean little, the CPU only roughly.'
        : (),
    );
}

# The worst cell decides.
sub targets {
    my (@cells) = @_;
    return map {
        my ( $what, $limit, $belongs ) = @$_;
        my @ratios = map { $_->{summary}{cpu}{ratio}{median} } grep { $belongs->($_) } @cells;
        my $ratio  = max @ratios;
        sprintf 'Target %s: at most %.3f of the CPU: %s', $what, $limit,
          !@ratios ? 'not measured'
          : sprintf '%.3f%s, %s', $ratio, @ratios > 1 ? ' (worst of ' . @ratios . ' cells)' : '',
          $ratio <= $limit ? 'met' : 'NOT met';
    } @TARGETS;
}

sub _marks {
    my ($s) = @_;
    return join '',
      ( $s->{busy}{ours}{median} < 1 - IDLE     ? 'o' : () ),
      ( $s->{busy}{original}{median} < 1 - IDLE ? 's' : () ),
      ( max( map { $s->{others}{$_}{median} } qw( ours original ) ) > DISTURBED ? '!' : () );
}

sub _spread {
    my @sorted = sort { $a <=> $b } @_;
    return {
        median => ( $sorted[ $#sorted / 2 ] + $sorted[ @sorted / 2 ] ) / 2,
        min    => $sorted[0],
        max    => $sorted[-1],
    };
}

sub _show {
    my ( $spread, $format ) = @_;
    my ( $median, $min, $max ) =
      map { defined $format ? sprintf $format, $_ : _number($_) } @$spread{qw( median min max )};
    return "$median ($min..$max)";
}

sub _number {
    my ($n) = @_;
    return sprintf $n >= 100 ? '%.0f' : $n >= 10 ? '%.1f' : '%.2f', $n;
}

sub _cell_columns {
    my ($cell) = @_;
    return ( _size( $cell->{payload} ), $cell->{connections}, $cell->{in_flight} );
}

sub _size {
    my ($bytes) = @_;
    return
        $bytes % ( 1 << 20 ) == 0 ? ( $bytes >> 20 ) . ' MiB'
      : $bytes % ( 1 << 10 ) == 0 ? ( $bytes >> 10 ) . ' KiB'
      :                             "$bytes B";
}

sub _columns {
    my (@rows) = @_;
    my @widths = map {
        my $column = $_;
        max map { length $_->[$column] } @rows
    } 0 .. $#{ $rows[0] };
    return map {
        my $row  = $_;
        my $line = join '  ', map { sprintf '%*s', $widths[$_], $row->[$_] } 0 .. $#widths;
        $line =~ s/\s+\z//;
        $line;
    } @rows;
}

1;
