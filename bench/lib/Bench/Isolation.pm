package Bench::Isolation;

# Keeps what else the machine does away from the figures, as far as it lets us, and says what came of it.

use v5.36;

use Exporter qw( import );
use Interop::Install qw( find_program );

our @EXPORT_OK = qw( processors pin own_network descriptors );

use constant CLONE_NEWNET => 0x4000_0000;

# The processors for server and load generator, one each, if this process may use two and can hand them out.
sub processors () {
    open my $status, '<', '/proc/self/status' or return;
    my ($list) = map { /\ACpus_allowed_list:\s*(\S+)/ } readline $status;
    my @all = map { /\A(\d+)-(\d+)\z/ ? ( $1 .. $2 ) : $_ } split /,/, $list // '';
    return @all >= 2 && defined find_program('taskset') ? @all[ 0, 1 ] : ();
}

sub pin ($processor) { defined $processor ? ( 'taskset', '-c', $processor ) : () }

# This process and its children get a network of their own, with nobody else's packets and settings. Under bbr, which
# may be the machine's, what goes over loopback waits for timers. Returns what is in force.
sub own_network () {
    my $why = _why_no_network();
    return 'no: ' . $why if $why;
    for ( [ tcp_congestion_control => 'reno' ], [ ip_local_port_range => '10000 65535' ] ) {
        my ( $name, $value ) = @$_;
        my $path = "/proc/sys/net/ipv4/$name";
        open my $file, '>', $path or die "$path: $!\n";
        syswrite( $file, $value ) or die "$path: $!\n";
    }
    return 'yes';
}

sub _why_no_network () {
    return 'only root may make one' if $>;
    find_program('ip') or return 'there is no program ip (Debian package iproute2)';
    my $number = eval {
        # They are written for an older Perl.
        local $SIG{__WARN__} = sub { };
        require 'syscall.ph';
        no strict 'refs';
        &{'SYS_unshare'}();
    } // return 'Perl does not know the number of unshare(2)';
    syscall( $number, CLONE_NEWNET ) == 0 or return "unshare: $!";
    system qw( ip link set lo up );
    die "the new network's loopback cannot be used: ip ended with status $?\n" if $?;
    return '';
}

# Allows so many descriptors, if that can be had. Returns how many there are.
sub descriptors ($wanted) {
    my $prlimit = find_program('prlimit');
    my $limit   = sub {
        open my $limits, '<', '/proc/self/limits' or return 1024;
        my ($soft) = map { /\AMax open files\s+(\d+)/ } readline $limits;
        return $soft;
    };
    return $limit->() if $limit->() >= $wanted || !$prlimit;
    open my $silent, '>&', \*STDERR or die "standard error: $!\n";
    open STDERR, '>', '/dev/null' or die "/dev/null: $!\n";
    system $prlimit, '--pid', $$, "--nofile=$wanted:$wanted";
    system $prlimit, '--pid', $$, "--nofile=$wanted:" if $?;
    open STDERR, '>&', $silent or die "standard error: $!\n";
    return $limit->();
}

1;
