package Instructions::Versions;

# With what something was measured: the same source comes to other counts with others.

use v5.36;

use Config;
use Exporter qw(import);
use POSIX ();

our @EXPORT_OK = qw(versions differences);

sub _first_line (@command) {
    my $pid = open(my $from, '-|') // die "fork: $!\n";
    if (!$pid) {
        open STDERR, '>', '/dev/null' or die "stderr: $!\n";
        exec { $command[0] } @command or POSIX::_exit(127);
    }
    my ($line) = readline $from;
    # To the end, or it dies of what it has yet to say.
    my @rest = readline $from;
    close $from;
    return defined $line && $line =~ s/\s+\z//r || 'unknown';
}

# Callgrind shows programs a processor of its own making, but only with what the real one can do; libc and
# simdutf8 choose their code by it.
sub _processor () {
    my $machine = (POSIX::uname())[4];
    open my $in, '<', '/proc/cpuinfo' or return $machine;
    while (my $line = readline $in) {
        next if $line !~ /\Aflags\s*:/;
        my @flags = grep { $line =~ /\b$_\b/ } qw(avx2 bmi2 f16c rdrand);
        return join ' ', $machine, @flags;
    }
    return $machine;
}

# Name and version by turns; what the measured programs have said comes last.
sub versions (%of_modules) {
    my ($cc) = split ' ', $ENV{CC} || $Config{cc};
    my $libc = _first_line(qw(ldd --version));
    return {
        perl      => "$Config{version}, built $Config{cf_time}",
        valgrind  => _first_line(qw(valgrind --version)) =~ s/\Avalgrind-//r,
        rustc     => _first_line(qw(rustc --version)) =~ s/\Arustc //r,
        cc        => _first_line($cc, '--version'),
        libc      => $libc =~ /\((.*)\)/ ? $1 : $libc,
        processor => _processor(),
        %of_modules,
    };
}

# A line for each that is another than before. The core alone says nothing of modules.
sub differences ($before, $now) {
    return map { "$_: now $now->{$_}, then " . ($before->{$_} // 'not known') }
        grep { ($before->{$_} // '') ne $now->{$_} } sort keys %$now;
}

1;
