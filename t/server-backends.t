# The tests of the server under the event loops that they do not run on by themselves (C22).

use strict;
use warnings;

use Test2::V0;

my @ALL = map { "t/$_.t" }
    qw(server server-program server-refusing server-lifetime server-psgi server-deflate server-tls);

# Each with the module it needs, AnyEvent's own checks for misuse or not, and the tests. POE does not survive an
# exception, nor an event loop inside a timer for long.
my @MODELS = (
    [Perl    => 'AnyEvent',        1, @ALL],
    [Event   => 'Event',           0, qw(t/server.t t/server-tls.t)],
    [Glib    => 'Glib',            0, qw(t/server.t t/server-tls.t)],
    [IOAsync => 'IO::Async::Loop', 0, qw(t/server.t t/server-tls.t)],
    [POE     => 'POE',             0, qw(t/server-psgi.t t/server-deflate.t)],
);

# Looked for and not loaded: some of them claim the process.
sub is_installed {
    my ($module) = @_;
    my $file = ($module =~ s{::}{/}gr) . '.pm';
    return scalar grep { !ref && -e "$_/$file" } @INC;
}

sub start {
    my ($model, $strict, $test) = @_;
    local $ENV{PERL_ANYEVENT_MODEL}  = $model;
    local $ENV{PERL_ANYEVENT_STRICT} = $strict;
    my $pid = open(my $output, '-|') // die "fork: $!";
    if (!$pid) {
        open STDERR, '>&', \*STDOUT;
        my $tell = '-MAnyEvent; END { print "# ran on ", AnyEvent::detect(), "\n" }';
        exec $^X, (map { "-I$_" } grep { !ref } @INC), $tell, $test or die "$^X: $!";
    }
    return $output;
}

for my $run (@MODELS) {
    my ($model, $module, $strict, @tests) = @$run;
    if (!is_installed($module)) {
        diag "backend $model is not tested: $module is not installed";
        SKIP: { skip "$module is not installed", scalar @tests }
        next;
    }
    # Two at a time.
    while (my @some = splice @tests, 0, 2) {
        my @started = map { [$_, start($model, $strict, $_)] } @some;
        for (@started) {
            my ($test, $output) = @$_;
            my @lines = readline $output;
            my $ended = close $output;
            ok $ended, "$test under $model" or diag "status $?\n", @lines;
            my @passed = grep { /^ok / } @lines;
            ok @passed > 5 && grep({ /^# ran on AnyEvent::Impl::$model$/ } @lines) || grep({ /^1\.\.0 # SKIP/ } @lines),
                "$test under $model: that is where tests were run" or diag @lines;
        }
    }
}

done_testing;
