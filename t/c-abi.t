# The C ABI without Perl: builds the library from the same crate, and with it t/c/pair.c, which tests
# perl/aews.h from C. Plain, with sanitizers, and under valgrind, as far as these are there.

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;
use Config;
use Cwd qw(getcwd);
use File::Spec::Functions qw(catfile path);
use File::Temp qw(tempdir);

my $ROOT   = getcwd();
my $TARGET = "$ROOT/target/c-abi";
my $BUILT  = tempdir(CLEANUP => 1);
my $cargo  = $ENV{CARGO} || 'cargo';
my ($cc)   = split ' ', $ENV{CC} || $Config{cc};

sub is_there {
    my ($program) = @_;
    return -x $program if $program =~ m{/};
    return scalar grep { -x catfile($_, $program) } path();
}

# Runs a program; returns its wait status and all that it printed.
sub run {
    my (@command) = @_;
    my $pid = open(my $output, '-|') // die "fork: $!";
    if (!$pid) {
        open STDERR, '>&', \*STDOUT;
        exec { $command[0] } @command or print "$command[0]: $!\n";
        require POSIX;
        POSIX::_exit(127);
    }
    my $text = join '', readline $output;
    close $output;
    return ($?, $text);
}

sub skip_variant {
    my ($variant, $reason) = @_;
    diag "the C ABI is not tested $variant: $reason";
    SKIP: { skip $reason, 1 }
    return;
}

for my $program ($cargo, $cc) {
    next if is_there($program);
    diag "the C ABI is not tested: there is no $program";
    plan skip_all => "there is no $program";
}

sub compile {
    my ($name, @flags) = @_;
    my ($status, $text) = run(
        $cc, qw(-std=c99 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Werror -pedantic -g), @flags,
        "-I$ROOT/perl", "$ROOT/t/c/pair.c", '-o', "$BUILT/$name",
        "-L$TARGET/release", '-laews', "-Wl,-rpath,$TARGET/release",
    );
    return ($status, $text);
}

# What the program printed is TAP: as many lines as planned, and each one ok.
sub check_tap {
    my ($status, $text) = @_;
    my ($plan)  = $text =~ /^1\.\.(\d+)$/m;
    my @passed  = $text =~ /^(ok \d+)/mg;
    my @trouble = grep { !/^(?:ok \d+|1\.\.\d+$)/ } split /\n/, $text;
    is join("\n", @trouble), '', 'everything is ok, and nothing else was printed';
    is scalar @passed, $plan, 'all that was planned';
    cmp_ok scalar @passed, '>', 200, 'which is something';
    is $status, 0, 'the exit status is 0';
    return;
}

sub slurp {
    my ($file) = @_;
    open my $in, '<', $file or die "$file: $!";
    return join '', readline $in;
}

subtest 'pair.c calls every function' => sub {
    my ($header, $pair) = map { slurp("$ROOT/$_") } 'perl/aews.h', 't/c/pair.c';
    $header =~ s{/\*.*?\*/}{}gs;
    my @functions = $header =~ /\b(aews_\w+)\(/g;
    cmp_ok scalar @functions, '>', 20, 'there are functions in the header';
    is [grep { $pair !~ /\b$_\(/ } @functions], [], 'and none that pair.c does not call';
};

subtest 'the library is built without Perl' => sub {
    my ($status, $text) = run(
        $cargo, qw(build --release --locked --no-default-features --features ffi),
        '--manifest-path', "$ROOT/Cargo.toml", '--target-dir', $TARGET,
    );
    is $status, 0, 'cargo build' or diag $text;
} or do { done_testing; exit };

subtest 'plain' => sub {
    my ($status, $text) = compile('plain', '-O2');
    is $status, 0, 'it compiles without warnings' or return diag $text;
    check_tap(run("$BUILT/plain"));
};

subtest 'the header is fine for C++' => sub {
    my ($cxx) = grep { is_there($_) } grep { defined } $ENV{CXX}, qw(c++ g++ clang++);
    return skip_variant('from C++', 'there is no C++ compiler') if !$cxx;
    my ($status, $text) = run($cxx, qw(-Wall -Wextra -Werror -fsyntax-only -x c++), "$ROOT/perl/aews.h");
    is $status, 0, 'it compiles' or diag $text;
};

subtest 'with sanitizers' => sub {
    my ($status, $text) =
        compile('sanitized', '-O1', '-fsanitize=address,undefined', '-fno-sanitize-recover=all');
    if ($status != 0) {
        # A compiler may know them and lack their libraries.
        my ($reason) = $text =~ /^(.*(?:error|cannot|unsupported).*)$/m;
        return skip_variant('with sanitizers', $reason // "$cc cannot");
    }
    local $ENV{ASAN_OPTIONS} = 'detect_leaks=1';
    ($status, $text) = run("$BUILT/sanitized");
    if ($text =~ /^.*LeakSanitizer has encountered a fatal error/m) {
        diag 'the sanitizers do not look for leaks: LeakSanitizer may not trace processes here';
        $ENV{ASAN_OPTIONS} = 'detect_leaks=0';
        ($status, $text) = run("$BUILT/sanitized");
    }
    check_tap($status, $text);
};

subtest 'under valgrind' => sub {
    return skip_variant('under valgrind', 'it is not installed') if !is_there('valgrind');
    return skip_variant('under valgrind', 'pair.c did not compile') if !-x "$BUILT/plain";
    check_tap(run(qw(valgrind -q --leak-check=full --error-exitcode=99), "$BUILT/plain"));
};

done_testing;
