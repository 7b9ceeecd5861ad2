# The tests of the server under the event loops that they do not run on by themselves (C22).

use strict;
use warnings;
use lib 't/lib';

use Backends qw(has_backend start_under);
use Test2::V0;

my @ALL = map { "t/$_.t" }
    qw(server server-program server-refusing server-refusal server-lifetime server-psgi server-deflate server-tls);

# Each with AnyEvent's own checks for misuse or not, and the tests. POE does not survive an
# exception, nor an event loop inside a timer for long.
my @MODELS = (
    [Perl    => 1, @ALL],
    [Event   => 0, qw(t/server.t t/server-tls.t t/server-refusal.t)],
    [Glib    => 0, qw(t/server.t t/server-tls.t t/server-refusal.t)],
    [IOAsync => 0, qw(t/server.t t/server-tls.t t/server-refusal.t)],
    [POE     => 0, qw(t/server-psgi.t t/server-deflate.t)],
);

my $TELL = '-MAnyEvent; END { print "# ran on ", AnyEvent::detect(), "\n" }';

for my $run (@MODELS) {
    my ($model, $strict, @tests) = @$run;
    has_backend($model, scalar @tests) or next;
    # Two at a time.
    while (my @some = splice @tests, 0, 2) {
        my @started = map { [$_, start_under($model, $strict, $TELL, $_)] } @some;
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
