package Topics;

# For programs that Backends runs under each event loop: they print the loop's name, a line for each topic, and "done".

use strict;
use warnings;

use AnyEvent;
use Exporter qw(import);

our @EXPORT = qw(topic skip_topic same run_topics);

# An event loop that hangs ends here.
alarm 5 * ($ENV{AEWS_TEST_TIMEOUT} || 10);
$| = 1;

my @topics;

# Code that dies where something is wrong.
sub topic { my ($name, $code) = @_; push @topics, [$name, $code]; return }

# Leaves the topic.
sub skip_topic { my ($reason) = @_; die \$reason }

sub same {
    my ($got, $expected, $what) = @_;
    my ($left, $right) = map { join '|', map { $_ // 'undef' } @$_ } $got, $expected;
    die sprintf "%s: got %.200s, expected %.200s\n", $what, $left, $right if $left ne $right;
    return;
}

sub run_topics {
    print "model ", AnyEvent::detect() =~ s/.*:://r, "\n";
    for my $topic (@topics) {
        my ($name, $code) = @$topic;
        print eval { $code->(); 1 } ? "ok $name\n" : ref $@ eq 'SCALAR' ? "ok $name # skip ${$@}\n" : "not ok $name: $@";
    }
    print "done\n";
    return;
}

1;
