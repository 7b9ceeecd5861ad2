package Chaos::Results;

# What the connections of a cycle have come to, at one of the processes.

use v5.36;

use Chaos::Checker qw(VERDICTS);
use Chaos::Habits  qw(HABITS);

# So many problems are told in words.
use constant TOLD => 10;

sub new ($class) {
    return bless {kinds => {}, problems => [], problem_count => 0, map { ($_ => 0) } VERDICTS, HABITS}, $class;
}

# A connection was as it should be, or was not.
sub over ($self, $plan, $problem = undef) {
    $self->{kinds}{ $plan->{kind} }{ defined $problem ? 'bad' : 'good' }++;
    $self->problem("$plan->{kind}, cycle $plan->{cycle}, connection $plan->{number}: $problem") if defined $problem;
    return;
}

sub problem ($self, $text) {
    push @{ $self->{problems} }, $text =~ s/\s+\z//r if $self->{problem_count}++ < TOLD;
    return;
}

sub verdict ($self, $verdict) {
    # Peers that only read have no habits.
    $self->{$_} += $verdict->{$_} // 0 for VERDICTS, HABITS;
    return;
}

sub data ($self) { return {%$self} }

# What another process has counted.
sub add ($self, $other) {
    for my $kind (keys %{ $other->{kinds} }) {
        $self->{kinds}{$kind}{$_} += $other->{kinds}{$kind}{$_} for keys %{ $other->{kinds}{$kind} };
    }
    $self->{$_} += $other->{$_} for VERDICTS, HABITS, 'problem_count';
    my $room = TOLD - @{ $self->{problems} };
    push @{ $self->{problems} }, grep { defined && $room-- > 0 } @{ $other->{problems} };
    return;
}

1;
