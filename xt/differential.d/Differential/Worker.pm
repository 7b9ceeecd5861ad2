package Differential::Worker;

# A process that carries conversations out with one implementation.

use strict;
use warnings;

use POSIX ();

my $START = 60;

# name, perl's include directories, and what the program `worker` gets as its arguments.
sub new {
    my ($class, %self) = @_;
    my $self = bless {%self}, $class;
    $self->_start;
    return $self;
}

sub name { return $_[0]{name} }

# What it has loaded: version and file of each module, the event loop, and what can be done there.
sub loaded { return $_[0]{loaded} }

sub _start {
    my ($self) = @_;
    pipe my $in,  my $to_child   or die "pipe: $!\n";
    pipe my $out, my $from_child or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE);
        delete $ENV{PERL5OPT};
        open STDIN,  '<&', $in         or POSIX::_exit(127);
        open STDOUT, '>&', $from_child or POSIX::_exit(127);
        { no warnings 'exec'; exec $^X, (map { "-I$_" } @{ $self->{include} }), @{ $self->{command} } }
        POSIX::_exit(127);
    }
    $to_child->autoflush(1);
    @$self{qw(pid in out buffer)} = ($pid, $to_child, $out, '');
    my $hello = $self->_read_until(qr/^ready\n/m, $START);
    die "the worker with $self->{name} modules did not start\n" if !defined $hello;
    my %loaded;
    for my $line (split /\n/, $hello) {
        my ($what, @values) = split /\t/, $line;
        if ($what eq 'loaded') { $loaded{module}{ $values[0] } = {version => $values[1], file => $values[2]} }
        else                   { $loaded{$what} = $values[0] }
    }
    $self->{loaded} = \%loaded;
    return;
}

sub _read_until {
    my ($self, $pattern, $seconds) = @_;
    my $deadline = time + $seconds;
    while ($self->{buffer} !~ $pattern) {
        my $bits = '';
        vec($bits, fileno $self->{out}, 1) = 1;
        return if time > $deadline;
        next if !select $bits, undef, undef, 1;
        sysread $self->{out}, $self->{buffer}, 1 << 16, length $self->{buffer} or return;
    }
    my $text = $self->{buffer};
    $self->{buffer} = '';
    return $text;
}

sub descriptor { return fileno $_[0]{out} }

sub ask {
    my ($self, $seed, @omitted) = @_;
    @$self{qw(asked_at answer)} = (time, undef);
    my $in = $self->{in};
    # It may have died; then reading shows it.
    local $SIG{PIPE} = 'IGNORE';
    print {$in} join(' ', $seed, @omitted), "\n";
    return;
}

# How long it has been busy.
sub waiting { return time - $_[0]{asked_at} }

# Reads what there is. Returns the answer when it is complete: {history, counts}, and `fault` where there was one.
sub receive {
    my ($self) = @_;
    my $read = sysread $self->{out}, $self->{buffer}, 1 << 18, length $self->{buffer};
    if (!$read) {
        waitpid $self->{pid}, 0;
        my $end = $? & 127 ? 'signal ' . ($? & 127) : 'exit status ' . ($? >> 8);
        return $self->_failed("the process ended with $end");
    }
    return if $self->{buffer} !~ /^end (\d+)([^\n]*)\n\z/m;
    my %counts = map { split /=/, $_, 2 } grep { length } split /\t/, $2;
    my @history = map { s/\A\|//r } grep { /\A\|/ } split /\n/, $self->{buffer};
    $self->{buffer} = '';
    return {history => \@history, counts => \%counts};
}

# Ends one that does not answer.
sub give_up {
    my ($self) = @_;
    kill KILL => $self->{pid};
    waitpid $self->{pid}, 0;
    return $self->_failed('no answer after ' . $self->waiting . ' seconds');
}

sub _failed {
    my ($self, $fault) = @_;
    # The histories of what it has done are lost with it.
    $self->_start;
    return {history => ["FAULT: $fault"], counts => {}, fault => $fault};
}

sub stop {
    my ($self) = @_;
    return if !$self->{pid};
    kill KILL => $self->{pid};
    waitpid delete $self->{pid}, 0;
    return;
}

1;
