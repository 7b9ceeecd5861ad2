package Backends;

# Programs of their own under each event loop that AnyEvent knows (C22).

use strict;
use warnings;

use Exporter qw(import);
use Test2::V0;

our @EXPORT_OK = qw(has_backend start_under conversations);

# What each event loop needs.
my %NEEDS = (
    EV      => 'EV',
    Perl    => 'AnyEvent',
    Event   => 'Event',
    Glib    => 'Glib',
    IOAsync => 'IO::Async::Loop',
    POE     => 'POE',
);

# Whether its module is installed; otherwise that many tests are skipped. Looked for and not loaded: some of them claim
# the process.
sub has_backend {
    my ($model, $tests) = @_;
    my $module = $NEEDS{$model};
    my $file   = ($module =~ s{::}{/}gr) . '.pm';
    return 1 if grep { !ref && -e "$_/$file" } @INC;
    my $context = context();
    diag "backend $model is not tested: $module is not installed";
    SKIP: { skip "$module is not installed", $tests }
    $context->release;
    return;
}

# Starts perl with those arguments, with AnyEvent's own checks for misuse or not; returns what it prints.
sub start_under {
    my ($model, $strict, @arguments) = @_;
    local $ENV{PERL_ANYEVENT_MODEL}  = $model;
    local $ENV{PERL_ANYEVENT_STRICT} = $strict;
    my $pid = open(my $output, '-|') // die "fork: $!";
    if (!$pid) {
        open STDERR, '>&', \*STDOUT;
        exec $^X, (map { "-I$_" } grep { !ref } @INC), @arguments or die "$^X: $!";
    }
    return $output;
}

# Runs a program made of Topics under each of them, all at the same time.
sub conversations {
    my ($program) = @_;
    my @runs;
    for my $model (sort keys %NEEDS) {
        has_backend($model, 2) or next;
        push @runs, [$model, $_, start_under($model, $_, $program)] for 0, 1;
    }
    for my $run (@runs) {
        my ($model, $strict, $output) = @$run;
        subtest $model . ($strict ? ', strict' : '') . ' (C22)' => sub {
            my @lines = readline $output;
            chomp @lines;
            is shift @lines, "model $model", 'the event loop is the one that was asked for';
            is pop @lines,   'done',         'the conversation came to its end';
            cmp_ok scalar @lines, '>', 5, 'and had topics';
            is join("\n", grep { !/^ok / } @lines), '', 'which all went well';
            diag "$model: $_" for grep { /# skip/ } @lines;
            ok close $output, 'the exit status is 0' or diag "status $?";
        };
    }
    return;
}

1;
