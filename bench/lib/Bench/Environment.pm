package Bench::Environment;

# What was in force during a run: without it the figures mean nothing.

use 5.020;
use warnings;

use Config ();

# The processors for server and load generator, one each, if this process
# may use two and can hand them out.
sub processors {
    my $list = _field( '/proc/self/status', 'Cpus_allowed_list' ) // '';
    my @all  = map { /\A(\d+)-(\d+)\z/ ? ( $1 .. $2 ) : $_ } split /,/, $list;
    my ($taskset) = grep { -x } map { "$_/taskset" } split /:/, $ENV{PATH};
    return @all >= 2 && defined $taskset ? @all[ 0, 1 ] : ();
}

sub pin { defined $_[0] ? ( 'taskset', '-c', $_[0] ) : () }

sub describe {
    my (%arg) = @_;
    my ( $server, $client ) = @{ $arg{processors} };

    require AnyEvent;
    require EV;
    return [
        [ 'cpu',   _field( '/proc/cpuinfo', 'model name' ) // 'unknown' ],
        [ 'cores', scalar grep { /\Aprocessor\b/ } _lines('/proc/cpuinfo') ],
        [ 'kernel',         _first('/proc/sys/kernel/osrelease') ],
        [ 'tcp congestion', _first('/proc/sys/net/ipv4/tcp_congestion_control') ],
        [
            'pinned',
            defined $server
            ? "server to core $server, load generator to core $client"
            : 'no'
        ],
        [
            'load generator',
            $arg{spin} ? 'polls without sleeping' : 'sleeps between events'
        ],
        [ 'load average', join ' ', ( split ' ', _first('/proc/loadavg') )[ 0 .. 2 ] ],
        [ 'perl',         "$Config::Config{version}, AnyEvent $AnyEvent::VERSION, EV $EV::VERSION" ],
        [ 'ours',         $arg{ours} ],
        [ 'original',     $arg{original} ],
    ];
}

sub _lines {
    my ($path) = @_;
    open my $file, '<', $path or return;
    chomp( my @lines = readline $file );
    return @lines;
}

sub _first { ( _lines(@_) )[0] // 'unknown' }

sub _field {
    my ( $path, $name ) = @_;
    my ($value) = map { /\A\Q$name\E\s*:\s*(.*)/ } _lines($path);
    return $value;
}

1;
