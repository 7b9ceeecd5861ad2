package Bench::Options;

# The command line of bench/run.

use v5.36;

use Exporter     qw( import );
use Getopt::Long qw( GetOptions );

use Bench::Peers     qw( peers );
use Bench::Scenarios qw( scenarios parse_cells ECHO_CELLS QUICK_CELLS );

our @EXPORT_OK = qw( options usage );

sub usage () {
    my $peers     = join ', ', map { $_->{name} } peers();
    my $scenarios = join ', ', map { $_->{name} } scenarios( cells => ECHO_CELLS );
    return <<"END";
usage: bench/run [options]

Puts the same load on this project's WebSocket server and on others in turns, and writes RESULTS.md and plots. What is
missing is installed: crates, packages of npm and PyPI by version and digest below target/bench, and packages of
Debian if root runs this. Build this project first: perl Makefile.PL && make

  --quick            few cells and short rounds: less than three minutes once all is installed (also: --subset)
  --scenarios LIST   only these: $scenarios
  --peers LIST       only these: $peers
  --cells LIST       of the echo: payload x connections x in flight, such as 16x50x1,64Kx1x16;
                     K and M for KiB and MiB (16, 1K, 64K and 1M, each by 1 and 50 by 1 and 16)
  --rounds N         rounds of each cell, all servers in turns (5)
  --seconds S        how long to send in each round (1)
  --warm-up S        load before anything is counted (0.3)
  --output DIR       where RESULTS.md and plots/ go (bench; target/bench/part where only a part is run)
  --json FILE        where all figures of all rounds go, written after each scenario
                     (target/bench/results.json; target/bench/part/results.json where only a part is run)
  --render FILE      measure nothing, but write the page and the plots of what --json has written
  --no-install       install and build nothing
  --no-network       stay in the machine's network instead of one of our own
  --no-spinner       let the server's core halt
  --no-spin          let the load generator sleep between events
  --no-writes        do not count write calls, which takes a short run of each cell more
  --help

Exit status: 0 all was measured, 1 something failed (RESULTS.md says what), 2 it could not be run. Whether targets are
met is for RESULTS.md to say.
END
}

sub options () {
    my %option = map { ( $_ => 1 ) } qw( install network spinner spin writes );
    my ( $peers, $scenarios );
    GetOptions(
        'quick|subset' => \$option{quick},
        'scenarios=s'  => \$scenarios,
        'peers=s'      => \$peers,
        'cells=s'      => \$option{cells},
        'rounds=i'     => \$option{rounds},
        'seconds=f'    => \$option{seconds},
        'warm-up=f'    => \$option{warm_up},
        'output=s'     => \$option{output},
        'json=s'       => \$option{json},
        'render=s'     => \$option{render},
        'help'         => \$option{help},
        map { ( "$_!" => \$option{$_} ) } qw( install network spinner spin writes ),
    ) && !@ARGV
      or die usage();

    my $quick = $option{quick};
    $option{whole} = !grep { defined } $quick, $scenarios, $peers, @option{qw( cells rounds seconds warm_up )};
    $option{cells}   //= $quick ? QUICK_CELLS : ECHO_CELLS;
    $option{rounds}  //= $quick ? 2           : 5;
    $option{seconds} //= $quick ? 0.25        : 1;
    $option{warm_up} //= $quick ? 0.1         : 0.3;
    die "--rounds must be 1 to 100\n"           if $option{rounds} < 1   || $option{rounds} > 100;
    die "--seconds must be over 0, up to 60\n"  if $option{seconds} <= 0 || $option{seconds} > 60;
    die "--warm-up must be 0 to 60\n"           if $option{warm_up} < 0  || $option{warm_up} > 60;
    die "--cells is empty\n"                    if !parse_cells( $option{cells} );
    $option{peers}     = [ _chosen( '--peers',     $peers,     peers() ) ];
    $option{scenarios} = [ _chosen( '--scenarios', $scenarios, scenarios(%option) ) ];
    die "--peers: without ours there is nothing to compare with\n" if $option{peers}[0]{kind} ne 'ours';
    return %option;
}

# Those that a list names, in their own order; all where there is no list.
sub _chosen ( $option, $list, @all ) {
    return @all if !defined $list;
    my %wanted = map { ( lc $_ => $_ ) } split /,/, $list;
    my @chosen = grep { delete $wanted{ lc $_->{name} } } @all;
    my ($unknown) = sort values %wanted;
    die "$option: there is no '$unknown'; there are ", join( ', ', map { $_->{name} } @all ), "\n" if defined $unknown;
    die "$option is empty\n" if !@chosen;
    return @chosen;
}

1;
