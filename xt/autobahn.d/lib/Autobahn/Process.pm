package Autobahn::Process;

# A child process in a process group of its own: its output by lines, and its end, which is when it
# has exited and all of its output has been read.

use v5.36;

use AnyEvent;
use POSIX ();

# Between asking a process to end and ending it.
use constant PATIENCE => 10;

my %running;

# Arguments: name, command; log: the file for its output; limit: seconds that it may live, whatever
# becomes of us; on_line, on_end: callbacks, the latter with a text that says how it ended, which is
# empty for exit status 0.
sub start ($class, %arg) {
    my $self = bless {%arg}, $class;
    open $self->{log_file}, '>', $arg{log} or die "$arg{log}: $!\n";
    $self->{log_file}->autoflush;
    # AnyEvent wants to know its event loop before a child is there to be watched.
    AnyEvent::detect();

    pipe my $output, my $child_output or die "pipe: $!\n";
    pipe my $child_input, $self->{input} or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        setpgrp 0, 0;
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE);
        # It is not reset by exec.
        alarm $arg{limit};
        if (open(STDIN, '<&', $child_input) && open(STDOUT, '>&', $child_output) && open(STDERR, '>&', \*STDOUT)) {
            exec { $arg{command}[0] } @{ $arg{command} } or print "$arg{command}[0]: $!\n";
        }
        STDOUT->flush;
        POSIX::_exit(127);
    }
    # The child does the same; whoever comes first, the group exists before it is needed.
    setpgrp $pid, $pid;
    $running{$pid} = $self;
    $self->{pid} = $pid;
    $self->{output} = '';
    $self->{reading} = AE::io($output, 0, sub { $self->_read($output) });
    $self->{waiting} = AE::child($pid, sub ($pid, $status) { $self->_reaped($status) });
    return $self;
}

sub _read ($self, $output) {
    my $count = sysread $output, $self->{output}, 65536, length $self->{output};
    return if !defined $count && $!{EINTR};
    $self->_line($1) while $self->{output} =~ s/\A(.*?)\r?\n//;
    return if $count;
    $self->_line($self->{output}) if length $self->{output};
    delete $self->{reading};
    $self->_end_if_done;
    return;
}

sub _line ($self, $line) {
    print { $self->{log_file} } "$line\n";
    $self->{on_line}->($line);
    return;
}

sub _reaped ($self, $status) {
    # Whatever it has left behind would keep its output open. What has fled from the group does.
    $self->signal('KILL');
    $self->{closer} = AE::timer(PATIENCE, 0, sub { delete $self->{reading}; $self->_end_if_done });
    delete $running{ $self->{pid} };
    delete @$self{qw(waiting killer)};
    $self->{how} = $status & 127 ? 'signal ' . ($status & 127) : $status ? 'exit status ' . ($status >> 8) : '';
    $self->_end_if_done;
    return;
}

sub _end_if_done ($self) {
    return if $self->{reading} || $self->{waiting};
    delete $self->{closer};
    close $self->{log_file};
    $self->{on_end}->($self->{how});
    return;
}

sub signal ($self, $signal) {
    kill $signal => -$self->{pid} if $running{ $self->{pid} };
    return;
}

# Our programs end with their input, others are asked to by signal.
sub stop ($self, $signal = undef) {
    close delete $self->{input} if $self->{input};
    $self->signal($signal) if $signal;
    $self->{killer} //= AE::timer(PATIENCE, 0, sub { $self->signal('KILL') });
    return;
}

# For the end of the program, whatever it is.
sub kill_all ($class) {
    for my $pid (keys %running) {
        kill KILL => -$pid;
        waitpid $pid, 0;
    }
    %running = ();
    return;
}

END {
    local $?;
    Autobahn::Process->kill_all;
}

1;
