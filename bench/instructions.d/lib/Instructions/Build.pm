package Instructions::Build;

# What the scripts need, in a directory whose path is as long on each machine: a copy, so that neither where
# the project lies nor a build meanwhile has a part in what is counted.

use v5.36;

use Config;
use File::Spec;
use File::Temp qw(tempdir);
use POSIX ();

sub new ($class, $project) {
    my $parent    = -d '/tmp' && -w _ ? '/tmp' : File::Spec->tmpdir;
    my $directory = tempdir('aews-instructions-XXXXXX', DIR => $parent, CLEANUP => 1);
    return bless {project => $project, directory => $directory}, $class;
}

sub directory ($self) { $self->{directory} }

# Runs a command quietly, unless it fails.
sub _run ($self, $what, @command) {
    my $pid = open(my $output, '-|') // die "fork: $!\n";
    if (!$pid) {
        chdir $self->{project} or die "$self->{project}: $!\n";
        open STDERR, '>&', \*STDOUT or die "stderr: $!\n";
        no warnings 'exec';
        exec { $command[0] } @command or print "$command[0]: $!\n";
        POSIX::_exit(127);
    }
    my $text = do { local $/; readline $output } // '';
    close $output;
    die "$what failed (@command):\n$text" if $?;
    return;
}

sub _cc ($self) { return split ' ', $ENV{CC} || $Config{cc} }

sub _has_header ($self) {
    my $pid = open(my $to, '|-') // die "fork: $!\n";
    if (!$pid) {
        open STDERR, '>', '/dev/null' or die "stderr: $!\n";
        exec $self->_cc, qw(-E -x c -o /dev/null -) or POSIX::_exit(127);
    }
    local $SIG{PIPE} = 'IGNORE';
    print {$to} "#include <valgrind/callgrind.h>\n";
    close $to;
    return $? == 0;
}

sub build_world ($self, $source) {
    $self->_has_header or die "there is no valgrind/callgrind.h (Debian package valgrind)\n";
    my @flags = qw(-O2 -fPIC -shared -std=gnu11 -Wall -Wextra -Werror);
    $self->_run('compiling world.c', $self->_cc, @flags, "$source/world.c", '-o', "$self->{directory}/world.so");
    return;
}

# The module as it would be installed, and the program that uses it.
sub build_connection ($self, $source) {
    my ($project, $directory) = @$self{qw(project directory)};
    $self->_run('configuring', $^X, 'Makefile.PL') if !-e "$project/Makefile";
    $self->_run('building', $Config{make} || 'make');
    $self->_run('copying', 'cp', '-R', "$project/blib/lib", "$project/blib/arch", "$source/connection", $directory);
    -e $self->_object or die 'there is no ', $self->_object, " after building\n";
    return;
}

sub _object ($self) { "$self->{directory}/arch/auto/AnyEvent/WebSocket/Connection/Connection.so" }

# As t/c-abi.t builds it, in the same place, so that it is built once.
sub build_core ($self, $source) {
    my ($project, $directory) = @$self{qw(project directory)};
    my $target = "$project/target/c-abi";
    $self->_run(
        'building the core', $ENV{CARGO} || 'cargo',
        qw(build --release --locked --no-default-features --features ffi --target-dir), $target,
    );
    $self->_run('copying', 'cp', "$target/release/libaews.so", $directory);
    my @flags = qw(-O2 -std=gnu11 -Wall -Wextra -Werror);
    $self->_run(
        'compiling core.c', $self->_cc, @flags, "-I$project/perl", "$source/core.c", '-o', "$directory/core",
        "-L$directory", '-laews', '-l:world.so', '-Wl,-rpath,$ORIGIN',
    );
    return;
}

1;
