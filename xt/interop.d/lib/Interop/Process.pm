package Interop::Process;

# A child process in a process group of its own: lines go in and come out.

use v5.36;

use AnyEvent;
use AnyEvent::Handle;
use POSIX ();

# Between the end of its input and its own.
use constant PATIENCE => 5;

my %running;

# Arguments: command; log: the file for its standard error; scratch: the directory for its temporary files;
# limit: seconds that it may live, whatever becomes of us; on_line; on_end: told how it ended, once all it has said
# is read.
sub start ($class, %arg) {
    my $self = bless {%arg}, $class;
    # AnyEvent wants to know its event loop before a child is there to be watched.
    AnyEvent::detect();

    pipe my $output, my $child_output or die "pipe: $!\n";
    pipe my $child_input, my $input or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        setpgrp 0, 0;
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE);
        $ENV{TMPDIR} = $arg{scratch};
        # It is not reset by exec.
        alarm $arg{limit};
        if (open(STDIN, '<&', $child_input) && open(STDOUT, '>&', $child_output) && open(STDERR, '>', $arg{log})) {
            exec { $arg{command}[0] } @{ $arg{command} } or print STDERR "$arg{command}[0]: $!\n";
        }
        STDERR->flush;
        POSIX::_exit(127);
    }
    # The child does the same; whoever comes first, the group exists before it is needed.
    setpgrp $pid, $pid;
    $running{$pid} = $self;
    $self->{pid} = $pid;
    $self->{waiting} = AE::child($pid, sub ($pid, $status) { $self->_reaped($status) });
    # An error is that it has ended, which is told otherwise.
    $self->{input} = AnyEvent::Handle->new(fh => $input, on_error => sub ($handle, @) { $handle->destroy });
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

sub _read ($self, $handle) {
    while (1) {
        my $end = index $handle->{rbuf}, "\n", $self->{searched} // 0;
        if ($end < 0) {
            $self->{searched} = length $handle->{rbuf};
            return;
        }
        $self->{searched} = 0;
        my $line = substr $handle->{rbuf}, 0, $end + 1, '';
        chop $line;
        $self->{on_line}->($line);
    }
}

sub _reaped ($self, $status) {
    # Whatever it has left behind would keep its output open.
    $self->_signal('KILL');
    delete $running{ $self->{pid} };
    delete @$self{qw(waiting killer)};
    $self->{how} = $status & 127 ? 'signal ' . ($status & 127) : 'exit status ' . ($status >> 8);
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

sub write ($self, $bytes) {
    $self->{input}->push_write($bytes) if $self->{input};
    return;
}

sub _signal ($self, $signal) {
    kill $signal => -$self->{pid} if $running{ $self->{pid} };
    return;
}

# Our programs end with their input.
sub stop ($self) {
    (delete $self->{input})->destroy if $self->{input};
    $self->{killer} //= AE::timer(PATIENCE, 0, sub { $self->{killed} = 1; $self->_signal('KILL') });
    return;
}

sub signal ($self, $signal) { $self->_signal($signal) }
sub killed ($self)          { $self->{killed} }
sub ended ($self)           { $self->{ended} }

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
    Interop::Process->kill_all;
}

1;
