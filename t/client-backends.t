# A Client under each event loop that AnyEvent knows and that is installed (C22), also under AnyEvent's own checks
# for misuse.

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;

my %NEEDS = (
    EV      => 'EV',
    Perl    => 'AnyEvent',
    Event   => 'Event',
    Glib    => 'Glib',
    IOAsync => 'IO::Async::Loop',
    POE     => 'POE',
);

# Looked for and not loaded: some of them claim the process.
sub is_installed {
    my ($module) = @_;
    my $file = ($module =~ s{::}{/}gr) . '.pm';
    return scalar grep { !ref && -e "$_/$file" } @INC;
}

sub start {
    my ($model, $strict) = @_;
    local $ENV{PERL_ANYEVENT_MODEL}  = $model;
    local $ENV{PERL_ANYEVENT_STRICT} = $strict;
    my $pid = open(my $output, '-|') // die "fork: $!";
    if (!$pid) {
        open STDERR, '>&', \*STDOUT;
        exec $^X, (map { "-I$_" } grep { !ref } @INC), 't/lib/client-conversation.pl' or die "$^X: $!";
    }
    return $output;
}

my @runs;
for my $model (sort keys %NEEDS) {
    if (!is_installed($NEEDS{$model})) {
        diag "backend $model is not tested: $NEEDS{$model} is not installed";
        SKIP: { skip "$NEEDS{$model} is not installed", 2 }
        next;
    }
    push @runs, [$model, $_, start($model, $_)] for 0, 1;
}

for my $run (@runs) {
    my ($model, $strict, $output) = @$run;
    subtest $model . ($strict ? ', strict' : '') . ' (C22)' => sub {
        my @lines = readline $output;
        chomp @lines;
        is shift @lines, "model $model", 'the event loop is the one that was asked for';
        is pop @lines,   'done',         'the program came to its end';
        cmp_ok scalar @lines, '>', 5, 'and had topics';
        is join("\n", grep { !/^ok / } @lines), '', 'which all went well';
        diag "$model: $_" for grep { /# skip/ } @lines;
        ok close $output, 'the exit status is 0' or diag "status $?";
    };
}

done_testing;
