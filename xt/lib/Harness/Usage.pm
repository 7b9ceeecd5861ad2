package Harness::Usage;

# What a process holds: memory and descriptors, as the kernel counts them; and whether it grows.

use v5.36;

use Exporter qw(import);
use POSIX    ();

our @EXPORT_OK = qw(why_not_measured resident peak reset_peak descriptors slope);

my $PAGE = POSIX::sysconf(POSIX::_SC_PAGESIZE());

sub why_not_measured () {
    return -r '/proc/self/statm' && -d '/proc/self/fd' ? '' : 'this system has no /proc/self/statm and /proc/self/fd';
}

# Resident memory of this process, in bytes.
sub resident () {
    open my $statm, '<', '/proc/self/statm' or die "/proc/self/statm: $!\n";
    return (split ' ', readline $statm)[1] * $PAGE;
}

# The most that it has been since reset_peak, or the start where that could not be; undef where the system does not tell.
sub peak () {
    open my $status, '<', '/proc/self/status' or return undef;
    my ($kib) = map { /\AVmHWM:\s*(\d+) kB/ } readline $status;
    return defined $kib ? $kib << 10 : undef;
}

sub reset_peak () {
    open my $refs, '>', '/proc/self/clear_refs' or return 0;
    return defined syswrite $refs, '5';
}

sub descriptors () {
    opendir my $directory, '/proc/self/fd' or die "/proc/self/fd: $!\n";
    # The directory's own is not counted.
    return (grep { /\A\d/ } readdir $directory) - 1;
}

# Of the line that fits points best (least squares): by how much y grows with x.
sub slope (@points) {
    return 0 if @points < 2;
    my ($x, $y) = (0, 0);
    ($x += $_->[0], $y += $_->[1]) for @points;
    $_ /= @points for $x, $y;
    my ($covariance, $variance) = (0, 0);
    for my $point (@points) {
        $covariance += ($point->[0] - $x) * ($point->[1] - $y);
        $variance   += ($point->[0] - $x)**2;
    }
    return $covariance / $variance;
}

1;
