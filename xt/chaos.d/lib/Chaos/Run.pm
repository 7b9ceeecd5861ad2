package Chaos::Run;

# One run: a server process, client processes, cycles of connections and faults, and what is wrong with what came of it.

use v5.36;

use Chaos::Checker qw(VERDICTS);
use Chaos::Habits  qw(HABITS);
use Chaos::Plan qw(kinds share_of);
use Chaos::Process;
use Chaos::Results;
use Harness::Usage qw(peak);

# From so many connections on each habit has to have been met.
use constant MANY => 1000;

# Arguments: run: the options that all processes get; programs: a subroutine that makes the command of one; logs;
# clients, warm_up, cycles, tolerance (percent); on_cycle: told of each cycle when it has ended.
sub new ($class, %arg) { return bless {%arg, cycles_done => []}, $class }

sub _start ($self, $name, $program) {
    my $run = $self->{run};
    my $cycles = $self->{warm_up} + $self->{cycles};
    return Chaos::Process->start(
        name    => $name,
        command => $self->{program}->($program),
        log     => "$self->{logs}/" . ($name =~ s/\W+/-/gr) . '.log',
        limit   => $cycles * (4 * $run->{patience} + 2 * $run->{seconds}) + 60,
    );
}

# Returns what was wrong.
sub run ($self) {
    my ($run, $patience) = ($self->{run}, $self->{run}{patience});
    my $server  = $self->{server} = $self->_start('the server', 'server');
    my $clients = $self->{clients_running} = [map { $self->_start("client $_", 'client') } 1 .. $self->{clients}];
    my $listening = $server->ask($patience, 'listening', 'listen');
    $self->{port}  = $listening->{port};
    $self->{start} = $listening->{resident};
    for my $number (1 .. $self->{warm_up} + $self->{cycles}) {
        my $cycle = $self->_cycle($number);
        push @{ $self->{cycles_done} }, $cycle;
        $self->{on_cycle}->($cycle);
    }
    my @wrong = grep { length } map { $_->stop } @$clients, $server;
    return (@wrong, $self->_judge);
}

sub _cycle ($self, $number) {
    my ($server, $clients, $run) = @$self{qw(server clients_running run)};
    my $patience = $run->{patience};
    my $started  = AE::time;
    $server->ask($patience, 'ready', 'cycle', $number);
    $clients->[$_]->tell('cycle', $number, $self->{port}, $_, scalar @$clients) for 0 .. $#$clients;
    $_->await('connected', $patience) for @$clients;
    my $count = $server->ask(2 * $patience, 'count', 'count');
    $_->tell('go') for @$clients, $server;
    my $connected = AE::time;
    # Those that are not over in time are told of by the release.
    for my $client (@$clients) { eval { $client->await('over', $run->{seconds} + $patience) } }
    # What ends by a timeout of the server's ends while the peers' sockets are still there.
    $server->ask(2 * $patience, 'quiet', 'quiet');
    my $results  = Chaos::Results->new;
    $_->tell('release') for @$clients;
    my @released = map { $_->await('released', $patience, 'over') } @$clients;
    my $settled  = $server->ask(2 * $patience, 'settled', 'settle');
    $results->add($_->{results}) for @released;
    my %of_server = %{ $settled->{results} };
    # Both ends tell of each connection; they are counted where all of them are known.
    my $kinds = delete $of_server{kinds};
    $results->add({%of_server, kinds => {}});
    $results->{kinds}{$_}{bad} += $kinds->{$_}{bad} // 0 for keys %$kinds;
    return {
        number      => $number,
        is_warm_up  => $number <= $self->{warm_up},
        results     => $results,
        refused     => $of_server{refused} // {},
        at_once     => $count->{sockets},
        connections => $count->{connections},
        connecting  => $connected - $started,
        seconds     => AE::time - $started,
        clients     => [map { $_->{resident} } @released],
        map { ($_ => $settled->{$_}) } qw(resident in_use peak descriptors living),
    };
}

# How many messages there are to be in a cycle.
sub messages_of_cycle ($self, $cycle) {
    my $run = $self->{run};
    my $messages = 0;
    for my $number (0 .. $run->{connections} - 1) {
        my $plan = Chaos::Plan->new($run, $cycle, $number);
        $messages += 2 * $run->{messages} if $plan->{kind} eq 'healthy';
        $messages += Chaos::Plan::stalled_stream($plan, $run)->count
            if $plan->{kind} eq 'stalled' && $plan->choose(qw(read reset abandon)) eq 'read';
    }
    return $messages;
}

# How often the ends of healthy connections have had which habit, in all cycles.
sub habits ($self) {
    my %sum = map { ($_ => 0) } HABITS;
    for my $results (map { $_->{results} } @{ $self->{cycles_done} }) {
        $sum{$_} += $results->{$_} for HABITS;
    }
    return %sum;
}

# By how many percent the server's memory, resident or in use, has grown from the last cycle of the warm-up to the last
# one of all.
sub growth ($self, $which) {
    my @cycles = @{ $self->{cycles_done} };
    return 100 * ($cycles[-1]{$which} / $self->before->{$which} - 1);
}

sub before ($self) {
    my ($before) = grep { $_->{is_warm_up} } reverse @{ $self->{cycles_done} };
    return $before;
}

# Sentences, each of which begins with what it is about.
sub _judge ($self) {
    my @wrong;
    for my $cycle (@{ $self->{cycles_done} }) {
        my ($results, $in) = ($cycle->{results}, "in cycle $cycle->{number}");
        push @wrong, map { "$_: $results->{$_} messages $in" } grep { $_ ne 'good' && $results->{$_} } VERDICTS;
        my $expected = $self->messages_of_cycle($cycle->{number});
        push @wrong, "messages: $results->{good} arrived $in, of $expected" if $results->{good} != $expected;
        push @wrong, "problems: $_" for @{ $results->{problems} };
        my $untold = $results->{problem_count} - @{ $results->{problems} };
        push @wrong, "problems: $untold more $in" if $untold > 0;
        push @wrong, "at once: $cycle->{at_once} sockets $in, of $self->{run}{connections}"
            if $cycle->{at_once} < $self->{run}{connections};
        push @wrong, "connections: $cycle->{living} objects are left $in" if $cycle->{living};
        push @wrong, "descriptors: $cycle->{descriptors} more than before are open $in" if $cycle->{descriptors};
        my $done = 0;
        for my $count (values %{ $results->{kinds} }) { $done += ($count->{good} // 0) }
        push @wrong, "connections: $done were as they should be $in, of $self->{run}{connections}"
            if $done != $self->{run}{connections};
    }
    my %habits = $self->habits;
    push @wrong, map { "habits: there were no $_" } grep { !$habits{$_} } HABITS
        if $self->{run}{connections} * @{ $self->{cycles_done} } >= MANY;
    for my $which (qw(resident in_use)) {
        my $growth = $self->growth($which);
        push @wrong, sprintf 'memory: %+.2f %% %s is more than %s %%', $growth, $which =~ tr/_/ /r, $self->{tolerance}
            if $growth > $self->{tolerance};
    }
    return @wrong;
}

1;
