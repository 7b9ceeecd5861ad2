package LoadedModules;

# Loaded ahead of every test file (PERL5OPT) to leave a record of where the AnyEvent::WebSocket
# modules came from. An older original may well be installed on the system, so a green test says
# nothing about our modules without this record.

use strict;
use warnings;

# Read now, because a test may change its environment.
my $report = $ENV{UPSTREAM_SUITE_REPORT};

# Loaded first means that this END runs last, so it also sees what other END blocks load. Tests live
# by their exit status, which is why nothing here may change $?. A child that a test forked writes
# lines of its own, which does no harm.
END {
    local ($?, $!);
    if (defined $report && open my $out, '>>', $report) {
        # The line without a module tells a test that loaded none of them from one that never came
        # this far.
        my @lines = ("$0\t\t\n");
        for my $file (sort grep { m{^AnyEvent/WebSocket/} } keys %INC) {
            push @lines, join("\t", $0, $file, defined $INC{$file} ? $INC{$file} : '') . "\n";
        }
        # A single write, so that the lines of processes that end together do not mix.
        syswrite $out, join '', @lines;
    }
}

1;
