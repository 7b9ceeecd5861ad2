package Bench::Report;

# The figures of all rounds as a page of Markdown.

use v5.36;
use utf8;

use Exporter   qw( import );
use List::Util qw( max );

use Bench::Statistics qw( TIE is_tie );
use Bench::Targets    qw( targets );

our @EXPORT_OK = qw( page );

# A server that is off its core more than this part of the time could go faster.
use constant IDLE => 0.1;

# Of one core; below it the kernel's own clock ticks are all there is to see.
use constant DISTURBED => 0.1;

# plots: for each scenario the names of the pictures.
sub page ( $results, $plots ) {
    my $data = $results->data;
    return join "\n", '# Results', '', "Written by `bench/run` on $data->{date}; how it measures is in [README.md](README.md).",
      '', _table( [ '', '' ], @{ $data->{environment} } ), '',
      _reading($data), '', _failures($data), _servers($results), '', _targets($results), '',
      _glance($results), map( { _scenario( $results, $_, $plots->{ $_->{name} } // [] ) } $results->scenarios );
}

sub _reading ($data) {
    my $tie = sprintf '%d %%', 100 * TIE;
    return "Each figure is the median of rounds of $data->{seconds} s, $data->{rounds} of them (fewer where a scenario says so), all servers"
      . " in turns, each round with a process of its own; in brackets are the least and the greatest, and beside it the best round."
      . " CPU is what the server's process used, the kernel's work for it included. Ratios are of the medians, to ours;"
      . " ≈ marks differences below $tie, which are ties.";
}

sub _failures ($data) {
    my @failures = @{ $data->{failures} } or return;
    return '## What failed', '', map( { "- $_->{peer}, $_->{where}: $_->{reason}" } @failures ), '';
}

sub _servers ($results) {
    return '## Servers', '', _table( [qw( name what version )], map { [ @$_{qw( name about version )} ] } $results->peers );
}

sub _targets ($results) {
    my @rows;
    for my $target ( targets($results) ) {
        my @measured = @{ $target->{measured} };
        my @lines    = @measured ? @measured : { is => 'not measured', verdict => '' };
        for my $line (@lines) {
            my $where = @lines > 1 ? "$line->{cell}: " : '';
            push @rows, [ $target->{what}, $target->{target}, "$where$line->{is}", $line->{verdict} ];
            # Said once for all its cells.
            $target->{what} = $target->{target} = '';
        }
    }
    return '## Targets', '', _table( [ 'what', 'target', 'measured', '' ], @rows );
}

# ---- All echoes at once

sub _glance ($results) {
    my @cells = $results->cells('echo') or return;
    my @peers = grep { my $p = $_; grep { $_->{rounds}{$p} } @cells } map { $_->{name} } $results->peers;
    my @parts;
    for ( [ cpu => 'Server CPU time for a message' ], [ speed => 'Messages per second' ] ) {
        my ( $key, $title ) = @$_;
        my @rows = map {
            my $cell = $_;
            my $ours = $results->summary( 'echo', $cell, 'ours', $key );
            [
                $cell->{title},
                $ours ? _number( $ours->{median} ) . ( $key eq 'cpu' ? ' µs' : '' ) : '',
                map { _ratio( $results->ratio( 'echo', $cell, $key, $_, 'ours' ) ) } grep { $_ ne 'ours' } @peers
            ];
        } @cells;
        push @parts, "### $title: ours, and the others as multiples of it", '',
          _table( [ '', 'ours', grep { $_ ne 'ours' } @peers ], @rows ), '';
    }
    return '## Echoes at a glance', '', @parts;
}

# ---- A scenario

sub _scenario ( $results, $scenario, $plots ) {
    my @cells = $results->cells( $scenario->{name} );
    my $text  = ref $scenario->{about} ? $scenario->{about}->() : $scenario->{about};
    return "## $scenario->{title}", '', $text, '',
      map( { ( "![$_->{title}](plots/$_->{file})", '' ) } @$plots ),
      map( { _cell( $results, $scenario, $_ ) } @cells ),
      _absent( $results, $scenario );
}

sub _cell ( $results, $scenario, $cell ) {
    my @figures = @{ $scenario->{figures} };
    my @head    = ( '', map { $_->{main} ? ( $_->{title}, 'best', 'ratio' ) : $_->{title} } @figures );
    my @rows;
    my $marks = '';
    for my $peer ( map { $_->{name} } $results->peers ) {
        my $rounds = $cell->{rounds}{$peer} or next;
        my $mark   = _marks(@$rounds);
        $marks .= $mark;
        push @rows, [
            $peer . ( $mark ? " $mark" : '' ),
            map { _figure( $results, $scenario, $cell, $peer, $_ ) } @figures
        ];
    }
    my $title = $cell->{title} // $cell->{name};
    return "### $title", '', _table( \@head, @rows ), '', _remarks( $cell, $marks );
}

sub _figure ( $results, $scenario, $cell, $peer, $figure ) {
    my $summary = $results->summary( $scenario->{name}, $cell, $peer, $figure->{key} );
    return ( '', ('') x ( $figure->{main} ? 2 : 0 ) ) if !$summary;
    return _number( $summary->{median} ) if !$figure->{main};
    return (
        sprintf( '%s (%s..%s)', map { _number( $summary->{$_} ) } qw( median min max ) ),
        _number( $summary->{best} ),
        $peer eq 'ours' ? '1' : _ratio( $results->ratio( $scenario->{name}, $cell, $figure->{key}, $peer, 'ours' ) ),
    );
}

sub _marks (@rounds) {
    @rounds = grep { defined $_->{wall_ns} } @rounds or return '';
    my $median = sub ($of) { Bench::Statistics::summary( 'less', map { $of->($_) } @rounds )->{median} };
    my $busy   = $median->( sub ($r) { $r->{server_cpu_ns} / $r->{wall_ns} } );
    my $others = $median->( sub ($r) { ( $r->{other_cpu_ns} // 0 ) / $r->{wall_ns} } );
    return join '', $busy < 1 - IDLE ? '°' : (), $others > DISTURBED ? '!' : ();
}

sub _remarks ( $cell, $marks ) {
    my @remarks = (
        $cell->{remark} // (),
        $marks =~ /°/ ? '° was off its core for more than a tenth of the time: the speed is not its limit.' : (),
        $marks =~ /!/ ? '! while other processes used more than a tenth of a core: speeds mean little, CPU only roughly.' : (),
    );
    return @remarks ? ( join( '  ', @remarks ), '' ) : ();
}

# Who is not in it, and why.
sub _absent ( $results, $scenario ) {
    my @absent = map {
        my $why = $_->{lacks}{ $scenario->{name} };
        defined $why && $_->{kind} ne 'floor' ? "$_->{name} ($why)" : ()
    } $results->peers;
    return @absent ? ( 'Not here: ' . join( ', ', @absent ) . '.', '' ) : ();
}

# ---- Text

sub _ratio ($ratio) {
    return '' if !defined $ratio;
    return ( is_tie($ratio) ? '≈ ' : '' ) . ( $ratio >= 100 ? sprintf '%.0f', $ratio : sprintf '%.3g', $ratio );
}

sub _number ($n) {
    return $n == 0 ? '0' : sprintf abs $n >= 100 ? '%.0f' : abs $n >= 10 ? '%.1f' : '%.2f', $n;
}

# Of the same width in each column, so that it can be read without being rendered; columns of numbers to the right.
sub _table ( $head, @rows ) {
    my ( @width, @right );
    for my $column ( 0 .. $#$head ) {
        my @cells = map { $_->[$column] // '' } @rows;
        $width[$column] = max 3, map { length } $head->[$column], @cells;
        $right[$column] = !grep { !/\A(?:(?:≈ )?[\d.]+(?: µs| \(.*\))?)?\z/ } @cells;
    }
    my $line = sub ($row) {
        my @cells = map { sprintf $right[$_] ? '%*s' : '%-*s', $width[$_], $row->[$_] // '' } 0 .. $#width;
        return '| ' . join( ' | ', @cells ) . ' |';
    };
    my $rule = [ map { $right[$_] ? '-' x ( $width[$_] - 1 ) . ':' : '-' x $width[$_] } 0 .. $#width ];
    return map { $line->($_) } $head, $rule, @rows;
}

1;
