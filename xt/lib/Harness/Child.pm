package Harness::Child;

# A child process in a process group of its own: lines go in and come out, and its end is when it has exited and all
# that it has said is read. What is left at the end of the program is killed, by its id.

use v5.36;

use AnyEvent;
use AnyEvent::Handle;
use POSIX ();

# Between asking it to end and ending it, in seconds; and between its end and that of its output.
use constant PATIENCE => 10;

my %running;

# Arguments: command; limit: seconds that it may live, whatever becomes of us; patience: seconds, for another value than
# that; environment; log: the file for its standard error, or else that is ours; transcript: the file for all that it says,
# where standard error is to be told with the output; on_line: told each line of its output; on_end: told how it ended, ''
# for exit status 0.
sub start ($class, %arg) {
    my $self = bless {patience => PATIENCE, %arg}, $class;
    if (defined $arg{transcript}) {
        open $self->{transcript_file}, '>', $arg{transcript} or die "$arg{transcript}: $!\n";
        $self->{transcript_file}->autoflush;
    }
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
    my $end_of_output = sub ($handle, @) { $self->_end_of_output($handle) };
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
    if (open(STDIN, '<&', $input) && open(STDOUT, '>&', $output) && $self->_redirect_errors) {
        no warnings 'exec';
        exec { $command->[0] } @$command or print STDERR "$command->[0]: $!\n";
    }
    STDERR->flush;
    POSIX::_exit(127);
}

sub _redirect_errors ($self) {
    return open STDERR, '>&', \*STDOUT if $self->{transcript_file};
    return !defined $self->{log} || open STDERR, '>', $self->{log};
}

sub _read ($self, $handle) {
    # Some lines are long, and come in many pieces.
    while ((my $end = index $handle->{rbuf}, "\n", $self->{searched} // 0) >= 0) {
        $self->{searched} = 0;
        my $line = substr $handle->{rbuf}, 0, $end + 1, '';
        chop $line;
        $self->_line($line);
    }
    $self->{searched} = length $handle->{rbuf};
    return;
}

sub _line ($self, $line) {
    print { $self->{transcript_file} } "$line\n" if $self->{transcript_file};
    $self->{on_line}->($line);
    return;
}

sub _end_of_output ($self, $handle) {
    delete $self->{output} or return;
    $self->_line($handle->{rbuf}) if length($handle->{rbuf} // '');
    $self->_end_if_done;
    return;
}

sub _reaped ($self, $status) {
    # Whatever it has left behind would keep its output open. What has fled from the group does.
    $self->signal('KILL');
    $self->{closer} = AE::timer($self->{patience}, 0, sub { delete $self->{output}; $self->_end_if_done });
    delete $running{ $self->{pid} };
    delete @$self{qw(waiting killer)};
    $self->{how} = $status & 127 ? 'signal ' . ($status & 127) : $status ? 'exit status ' . ($status >> 8) : '';
    $self->_end_if_done;
    return;
}

sub _end_if_done ($self) {
    return if $self->{output} || $self->{waiting} || $self->{ended};
    $self->{ended} = 1;
    delete @$self{qw(closer transcript_file)};
    $self->end_input;
    $self->{on_end}->($self->{how});
    return;
}

sub pid   ($self) { $self->{pid} }
sub ended ($self) { $self->{ended} }

# Whether it has not ended when it was asked to.
sub killed ($self) { $self->{killed} }

sub write ($self, $bytes) {
    $self->{input}->push_write($bytes) if $self->{input} && !$self->{input}->destroyed;
    return;
}

sub end_input ($self) {
    (delete $self->{input})->destroy if $self->{input};
    return;
}

# To it and all that it has started.
sub signal ($self, $signal) {
    kill $signal => -$self->{pid} if $running{ $self->{pid} };
    return;
}

# Our programs end with their input, others are asked to by a signal.
sub stop ($self, $signal = undef) {
    $self->end_input;
    $self->signal($signal) if defined $signal;
    $self->{killer} //= AE::timer($self->{patience}, 0, sub { $self->{killed} = 1; $self->signal('KILL') })
        if $running{ $self->{pid} };
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
