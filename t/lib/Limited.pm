package Limited;

# Programs that may have only so much of something.

use strict;
use warnings;

use Exporter   qw(import);
use File::Temp qw(tempdir);
use Peer       qw(start_program);

our @EXPORT_OK = qw(start_limited why_no_limit);

# Why a shell cannot set such a limit here, as `-n 20` or `-v 100000`; undef where it can.
sub why_no_limit {
    my ($limit) = @_;
    return 'valgrind, which needs more by itself, shares these limits' if ($ENV{LD_PRELOAD} // '') =~ /vgpreload/;
    return if system("ulimit $limit 2>/dev/null") == 0;
    return "the shell cannot set ulimit $limit";
}

# As start_program of Peer, with limits as `ulimit` of the shell takes them.
sub start_limited {
    my ($limit, $code, %environment) = @_;
    my $directory = tempdir(CLEANUP => 1);
    my $shell     = "$directory/perl";
    open my $script, '>', $shell or die "$shell: $!";
    print $script "#!/bin/sh\nulimit $limit || exit 126\nexec '$^X' \"\$@\"\n";
    close $script or die "$shell: $!";
    chmod 0755, $shell or die "$shell: $!";
    local $^X = $shell;
    return start_program($code, %environment);
}

1;
