package Instructions::Run;

# Runs scripts under callgrind, each in a process group of its own.

use v5.36;

use Config;
use File::Path qw(make_path);
use Instructions::Profile;
use POSIX ();

my $LARGE = 1 << 30;

# Nothing of whoever starts this reaches what is measured, but where to find Perl modules. Hash keys have
# the same order in each run, since the order decides how long a look-up takes.
my %ENVIRONMENT = (
    PATH                => '/usr/bin:/bin',
    LC_ALL              => 'C',
    PERL_HASH_SEED      => 0,
    PERL_PERTURB_KEYS   => 0,
    PERL_ANYEVENT_MODEL => 'EV',
    # epoll
    LIBEV_FLAGS => 4,
    # Callgrind takes `rep movsb` for an instruction for each byte, and libc copies by it from 2 KiB on.
    GLIBC_TUNABLES => "glibc.cpu.x86_rep_movsb_threshold=$LARGE:glibc.cpu.x86_rep_stosb_threshold=$LARGE",
);

my %running;

# Arguments: build: an Instructions::Build; script: one of Instructions::Plan; timeout: in seconds.
sub new ($class, %arg) {
    return bless {%arg, directory => $arg{build}->directory . '/' . $arg{script}->name}, $class;
}

sub script ($self)  { $self->{script} }
sub profile ($self) { $self->{profile} }

# What the program has said about itself: kind, name, value.
sub versions ($self) { %{ $self->{versions} // {} } }

# The command that takes chance out of where things lie in memory, where that is allowed; else nothing.
sub setarch () {
    state $command = do {
        my ($setarch) = grep { -x } map { "$_/setarch" } split /:/, $ENV{PATH};
        my @command = ($setarch, (POSIX::uname())[4], '-R');
        defined $setarch && system("@command true 2>/dev/null") == 0 ? \@command : [];
    };
    return @$command;
}

sub _command ($self) {
    my ($script, $directory) = @$self{qw(script directory)};
    my $built = $self->{build}->directory;
    my %environment = (
        %ENVIRONMENT,
        AEWS_WORLD_PLAN => "$directory/plan",
        length($ENV{PERL5LIB} // '') ? (PERL5LIB => $ENV{PERL5LIB}) : (),
        # core is linked with it.
        $script->is_core ? () : (LD_PRELOAD => "$built/world.so"),
    );
    my @program = $script->is_core ? "$built/core" : ($^X, "-I$built/lib", "-I$built/arch", "$built/connection");
    return (
        setarch(), 'env', '-i', (map { "$_=$environment{$_}" } sort keys %environment),
        qw(valgrind --tool=callgrind --instr-atstart=no --trace-syscalls=yes),
        "--callgrind-out-file=$directory/profile", "--log-file=$directory/log",
        @program, $script->arguments($directory),
    );
}

sub start ($self) {
    my $directory = $self->{directory};
    make_path($directory);
    $self->{script}->write_files($directory);
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        setpgrp 0, 0;
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP);
        my @command = $self->_command;
        chdir $directory
            and open(STDIN,  '<',  '/dev/null')
            and open(STDOUT, '>',  "$directory/output")
            and open(STDERR, '>&', \*STDOUT)
            and exec { $command[0] } @command
            or print "$command[0]: $!\n";
        POSIX::_exit(127);
    }
    setpgrp $pid, $pid;
    $self->{started} = time;
    $running{$pid} = $self;
    return;
}

sub _slurp ($file) {
    open my $in, '<', $file or return '';
    local $/;
    return readline($in) // '';
}

# After its end: what has been counted, or dies.
sub _judge ($self, $how) {
    my ($script, $directory) = @$self{qw(script directory)};
    my $output = _slurp("$directory/output");
    die "$how\n$output" if $how;
    my ($messages) = $output =~ /^messages (\d+)$/m;
    my $expected = $script->messages;
    die 'it has handled ', $messages // 'no', " messages, not $expected\n$output" if ($messages // -1) != $expected;
    for my $path ($output =~ /^module (.*)$/mg) {
        die "it has loaded $path\n" if index($path, $self->{build}->directory . '/') != 0;
    }
    # Whatever else it has printed should not have been said.
    my @other = grep { !/\A(?:messages|version|module) / } split /\n/, $output;
    die join "\n", 'it has printed', @other, '' if @other;
    $self->{versions} = {$output =~ /^version (\S+) (.*)$/mg};

    my ($turns, $clock) = _slurp("$directory/result") =~ /\A(\d+) turns, (\d+) clock reads$/;
    die 'the measurement has not come to its end' if ($turns // 0) != $script->measured;
    $self->{profile} = Instructions::Profile->new(
        messages => $script->measured_messages,
        clock    => $clock,
        file     => "$directory/profile.1",
        log      => "$directory/log",
    );
    return;
}

sub _how ($status) {
    return '' if !$status;
    return $status & 127 ? 'it was ended by signal ' . ($status & 127) : 'exit status ' . ($status >> 8);
}

# Runs them all, so many at a time; calls back for each that ends, with a text if it has failed.
sub run_all ($class, $jobs, $on_end, @runs) {
    while (@runs || %running) {
        (shift @runs)->start while @runs && keys %running < $jobs;
        my $pid = waitpid -1, POSIX::WNOHANG();
        my $status = $?;
        if (my $run = $pid > 0 && delete $running{$pid}) {
            my $late = $run->{is_late} && "it did not end within $run->{timeout} seconds";
            my $error = eval { $run->_judge($late || _how($status)); 1 } ? undef : $@;
            $on_end->($run, $error);
            next;
        }
        for my $pid (keys %running) {
            my $run = $running{$pid};
            next if $run->{is_late} || time - $run->{started} <= $run->{timeout};
            $run->{is_late} = 1;
            kill KILL => -$pid;
        }
        select undef, undef, undef, 0.02;
    }
    return;
}

sub kill_all ($class) {
    for my $pid (keys %running) {
        kill KILL => -$pid;
        waitpid $pid, 0;
    }
    %running = ();
    return;
}

1;
