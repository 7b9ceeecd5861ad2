package Bench::Spinner;

# Keeps the server's core awake: a process of the scheduler's lowest class, which anything else takes the place of at
# once. A virtual machine whose core halts has to be woken by the host, which takes longer than a message.

use v5.36;

use parent 'Bench::Process';

use Bench::Isolation qw( pin );
use Interop::Install qw( find_program );

# A system call in every turn would hold up the server when it comes to be woken; now and then it is time enough to
# see that nobody needs it any more.
my $SPIN = 'while (getppid == $ARGV[0]) { 0 for 1 .. 1_000_000 }';

# Undefined where there is none; then the second value says why.
sub start ( $class, $processor ) {
    return undef, 'the server has no core of its own' if !defined $processor;
    my $chrt = find_program('chrt') or return undef, 'there is no program chrt (Debian package util-linux)';
    my $self = $class->SUPER::start(
        name    => 'the spinner',
        command => [ pin($processor), $chrt, '--idle', 0, $^X, '-e', $SPIN, $$ ],
    );
    # Until the programs before it have given way to it.
    select undef, undef, undef, 0.2;
    return $self if _class( $self->pid ) eq '5';
    return undef, 'the class SCHED_IDLE could not be had';
}

# It does not look at its standard input.
sub end ($self) {
    Bench::Process::end_one( $self->pid );
    return;
}

# The policy, as sched(7) numbers it.
sub _class ($pid) {
    open my $file, '<', "/proc/$pid/stat" or return '';
    my ($fields) = readline($file) =~ /.*\) (.*)/s;
    return ( split ' ', $fields )[38] // '';
}

1;
