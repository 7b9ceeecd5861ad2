package Harness::Child;

# A child process in a process group of its own: lines go in and come out, and its end is when it has exited and all
# that it has said is read. What is left at the end of the program is killed, by its id.

use v5.36;

use AnyEvent;
use AnyEvent::Handle;
use POSIX ();

# Between the end of its input and its own, in seconds.
use constant PATIENCE => 10;

my %running;

# Arguments: command; log: the file for its standard error, or else that is ours; environment; limit: seconds that it may
# live, whatever becomes of us; on_line: told each line of its output; on_end: told how it ended, '' for exit status 0.
sub start ($class, %arg) {
    my $self = bless {%arg}, $class;
    # AnyEvent wants to know its event loop before a child is there to be watched.
    AnyEvent::detect();

    pipe my $output, my $child_output or die "pipe: $!\n";
    pipe my $child_input, my $input or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    $self->_become($child_input, $child_output) if !$pid;
    # The child does the same; whoever comes first, the group exists before it is needed.
    setpgrp $pid, $pid;
    $running{$pid} = $self;
    $self->{pid} = $pid;
    $self->{waiting} = AE::child($pid, sub ($pid, $status) { $self->_reaped($status) });
    # An error is that it has ended, which is told otherwise.
    $self->{input} = AnyEvent::Handle->new(fh => $input, linger => 0, on_error => sub ($handle, @) { $handle->destroy });
    my $end_of_output = sub (@) { delete $self->{output}; $self->_end_if_done };
    $self->{output} = AnyEvent::Handle->new(
        fh       => $output,
        rbuf_max => undef,
        on_read  => sub ($handle) { $self->_read($handle) },
        on_eof   => $end_of_output,
        on_error => $end_of_output,
    );
    return $self;
}

sub _become ($self, $input, $output) {
    setpgrp 0, 0;
    $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE);
    # It is not reset by exec.
    alarm $self->{limit};
    local %ENV = (%ENV, %{ $self->{environment} // {} });
    my $command = $self->{command};
    if (open(STDIN, '<&', $input) && open(STDOUT, '>&', $output)
        && (!defined $self->{log} || open STDERR, '>', $self->{log}))
    {
        no warnings 'exec';
        exec { $command->[0] } @$command or print STDERR "$command->[0]: $!\n";
    }
    STDERR->flush;
    POSIX::_exit(127);
}

sub _read ($self, $handle) {
    while ($handle->{rbuf} =~ s/\A(.*?)\n//) {
        $self->{on_line}->($1);
    }
}

sub _reaped ($self, $status) {
    # Whatever it has left behind would keep its output open.
    $self->signal('KILL');
    delete $running{ $self->{pid} };
    delete @$self{qw(waiting killer)};
    $self->{how} = $status & 127 ? 'signal ' . ($status & 127) : $status ? 'exit status ' . ($status >> 8) : '';
    $self->_end_if_done;
    return;
}

sub _end_if_done ($self) {
    return if $self->{output} || $self->{waiting} || $self->{ended};
    $self->{ended} = 1;
    (delete $self->{input})->destroy if $self->{input};
    $self->{on_end}->($self->{how});
    return;
}

sub pid   ($self) { $self->{pid} }
sub ended ($self) { $self->{ended} }

sub write ($self, $bytes) {
    $self->{input}->push_write($bytes) if $self->{input} && !$self->{input}->destroyed;
    return;
}

# To it and all that it has started.
sub signal ($self, $signal) {
    kill $signal => -$self->{pid} if $running{ $self->{pid} };
    return;
}

# Our programs end with their input.
sub stop ($self) {
    (delete $self->{input})->destroy if $self->{input};
    $self->{killer} //= AE::timer(PATIENCE, 0, sub { $self->signal('KILL') }) if !$self->{ended};
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
    Harness::Child->kill_all;
}

1;
