package Bench::Plots;

# What is drawn: for each scenario pictures of its main figures, with a panel for each cell.

use v5.36;
use utf8;

use Cwd        qw( abs_path );
use Exporter   qw( import );
use File::Path qw( make_path );
use JSON::PP   ();

use Bench::Peers   qw( cargo );
use Bench::Process ();

our @EXPORT_OK = qw( plots );

my $BENCH = abs_path( __FILE__ =~ s{[^/]+\z}{../..}r );

# Where a scenario has more cells than a picture can show: those that belong together.
my @ECHO = map {
    my ( $connections, $in_flight ) = @$_;
    {
        suffix => "-${connections}x${in_flight}",
        title  => ", $connections connection" . ( $connections == 1 ? '' : 's' ) . ", $in_flight in flight",
        takes  => sub ($cell) { $cell->{connections} == $connections && $cell->{in_flight} == $in_flight },
        # With more in flight the time is mostly that of waiting for the others.
        draws => sub ($figure) { $figure->{main} || $in_flight == 1 && $figure->{key} =~ /\Ap\d+\z/ },
    }
} [ 1, 1 ], [ 1, 16 ], [ 50, 1 ], [ 50, 16 ];
my @ALL = {
    suffix => '',
    title  => '',
    takes  => sub ($cell) { 1 },
    draws  => sub ($figure) { $figure->{main} },
};

# Draws them into a directory and returns, for each scenario's name, their files and titles.
sub plots ( $results, $directory, $install ) {
    my ( @pictures, %plots );
    for my $scenario ( $results->scenarios ) {
        my $name = $scenario->{name};
        for my $figure ( @{ $scenario->{figures} } ) {
            for my $group ( grep { $_->{draws}->($figure) } $name eq 'echo' ? @ECHO : @ALL ) {
                my @panels = grep { $_ } map { _panel( $results, $scenario, $figure, $_ ) }
                  grep { $group->{takes}->($_) } $results->cells($name);
                next if !@panels;
                my $file  = "$name-$figure->{key}$group->{suffix}.svg";
                my $title = "$scenario->{title}$group->{title}: $figure->{title}";
                push @pictures, { file => "$directory/$file", title => $title, panels => \@panels };
                push @{ $plots{$name} }, { file => $file, title => $title };
            }
        }
    }
    return {} if !@pictures;
    my $plot = cargo( "$BENCH/plot", 'plot', $install );
    make_path($directory);
    # Of an earlier run, which may have had other cells.
    unlink glob "\Q$directory\E/*.svg";
    my $process = Bench::Process->start( name => 'the plotter', command => [$plot] );
    $process->write( JSON::PP->new->utf8->canonical->encode( \@pictures ) );
    $process->output(60);
    return \%plots;
}

sub _panel ( $results, $scenario, $figure, $cell ) {
    my @bars;
    for my $peer ( $results->peers ) {
        my $summary = $results->summary( $scenario->{name}, $cell, $peer->{name}, $figure->{key} ) // next;
        push @bars, {
            name  => $peer->{name},
            kind  => $peer->{kind},
            label => _label( $summary->{median} ),
            map { ( $_ => 0 + $summary->{$_} ) } qw( median min max ),
        };
    }
    return @bars ? { title => $cell->{title} // $cell->{name}, bars => \@bars } : undef;
}

sub _label ($n) { $n >= 1e6 ? sprintf '%.2f M', $n / 1e6 : $n >= 1e4 ? sprintf '%.0f k', $n / 1e3 : sprintf $n >= 1000 ? '%.0f' : '%.3g', $n }

1;
