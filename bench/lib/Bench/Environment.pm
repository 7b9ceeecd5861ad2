package Bench::Environment;

# What was in force during a run: without it the figures mean nothing.

use v5.36;

use Config   ();
use Exporter qw( import );
use Module::Load::Conditional qw( check_install );

our @EXPORT_OK = qw( describe available_memory );

my $IDLE = '/sys/devices/system/cpu/cpuidle';

# In pairs. arg: processors, spin, spinner, network, writes, rust.
sub describe (%arg) {
    my ( $server, $client ) = @{ $arg{processors} };
    return [
        [ 'cpu',   _field( '/proc/cpuinfo', 'model name' ) // 'unknown' ],
        [ 'cores', scalar grep { /\Aprocessor\b/ } _lines('/proc/cpuinfo') ],
        [ 'memory', sprintf '%.1f GiB', ( _field( '/proc/meminfo', 'MemTotal' ) // '0' ) =~ s/ kB//r / ( 1 << 20 ) ],
        [ 'kernel', _first('/proc/sys/kernel/osrelease') ],
        [ 'idle cores', 'driver ' . _first("$IDLE/current_driver") . ', governor ' . _first("$IDLE/current_governor") ],
        [ 'network of its own', $arg{network} ],
        [ 'tcp congestion control', _first('/proc/sys/net/ipv4/tcp_congestion_control') ],
        [ 'pinned', defined $server ? "server to core $server, load generator to core $client" : 'no' ],
        [ 'SCHED_IDLE spinner on the server\'s core', $arg{spinner} ],
        [ 'load generator', $arg{spin} ? 'polls without sleeping' : 'sleeps between events' ],
        [ 'counting of write calls', $arg{writes} ],
        [ 'load average at the start', join ' ', ( split ' ', _first('/proc/loadavg') )[ 0 .. 2 ] ],
        [ 'Perl', "$Config::Config{version}" . join '', map { ", $_ " . _version($_) } qw( AnyEvent EV ) ],
        [ 'Rust', $arg{rust} ],
    ];
}

# Without loading it: EV would take over the signals of child processes.
sub _version ($module) { ( check_install( module => $module ) // { version => 'unknown' } )->{version} }

sub available_memory () {
    my ($kib) = ( _field( '/proc/meminfo', 'MemAvailable' ) // '' ) =~ /(\d+) kB/;
    return defined $kib ? $kib << 10 : undef;
}

sub _lines ($path) {
    open my $file, '<', $path or return;
    chomp( my @lines = readline $file );
    return @lines;
}

sub _first ($path) { ( _lines($path) )[0] // 'unknown' }

sub _field ( $path, $name ) {
    my ($value) = map { /\A\Q$name\E\s*:\s*(.*)/ } _lines($path);
    return $value;
}

1;
