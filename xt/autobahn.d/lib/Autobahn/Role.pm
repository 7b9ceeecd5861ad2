package Autobahn::Role;

# One role's run: our program and wstest against each other, until wstest has written its report.

use v5.36;

use AnyEvent;
use Autobahn::Wstest qw(reserve_port write_json);
use Cwd qw(abs_path);
use File::Path qw(make_path);
use Harness::Child;

# Below this name stands everything in wstest's reports.
use constant AGENT => 'aews';

use constant {LAST_LINES => 15, SHOWN_LINES => 20, LINE => 200, GRACE => 1};

# Arguments: role; cases: their numbers; directory; wstest; program: the command of our program;
# check: says what is wrong with the modules that the program has loaded, if anything; timeout,
# patience: seconds for all of it, and without a sign of life; progress: called at each case.
sub new ($class, %arg) {
    return bless {
        %arg,
        begun    => 0,
        current  => undef,
        problems => [],
        modules  => {},
        objects  => [],
        running  => {},
        said     => [],
    }, $class;
}

sub role ($self)     { $self->{role} }
sub cases ($self)    { @{ $self->{cases} } }
sub begun ($self)    { $self->{begun} }
sub problems ($self) { @{ $self->{problems} } }
sub report ($self)   { "$self->{directory}/report" }
sub seconds ($self)  { $self->{ended} - $self->{started} }
sub modules ($self)  { $self->{modules} }
sub objects ($self)  { @{ $self->{objects} } }
sub loop ($self)     { $self->{loop} }

sub run ($self, $on_end) {
    make_path($self->report);
    @$self{qw(started alive on_end)} = (AE::now, AE::now, $on_end);
    $self->{clock} = AE::timer(1, 1, sub { $self->_look_at_clock });
    my $port;
    if ($self->{role} eq 'client') {
        # Held until the end: it is only listened on when wstest has come up.
        ($self->{reserved}, $port) = reserve_port();
        $self->_start_wstest('fuzzingserver', {url => "ws://127.0.0.1:$port"});
    }
    $self->_start(
        program => [@{ $self->{program} }, defined $port ? ("ws://127.0.0.1:$port", AGENT) : ()],
        on_line => sub ($line) { $self->_program_says($line) },
        on_end  => sub ($how) { $self->_program_ended($how) },
    );
    return;
}

# ---- The two processes

sub _start ($self, $name, $command, %on) {
    $self->{running}{$name} = Harness::Child->start(
        command    => $command,
        transcript => "$self->{directory}/$name.log",
        limit      => $self->{timeout} + 60,
        on_line    => $on{on_line},
        on_end     => sub ($how) {
            delete $self->{running}{$name};
            $on{on_end}->($how);
            $self->_end if !%{ $self->{running} };
        },
    );
    return;
}

sub _start_wstest ($self, $mode, $spec) {
    my $file = "$self->{directory}/spec.json";
    write_json($file, {%$spec, outdir => $self->report, cases => $self->{cases}});
    # With --webport it would serve its reports, too, at a port of its own.
    my @command = ($self->{wstest}, '--mode', $mode, '--spec', $file, '--webport', 0);
    $self->_start(
        wstest  => \@command,
        on_line => sub ($line) { $self->_wstest_says($line) },
        on_end  => sub ($how) { $self->_wstest_ended($how) },
    );
    return;
}

sub _wstest_says ($self, $line) {
    $self->{alive} = AE::now;
    if ($line =~ /\ARunning test case ID ([0-9.]+) for agent/) {
        $self->{current} = $1;
        # What it said when it started is of no use any more.
        $self->{said} = [] if !$self->{begun}++;
        $self->{progress}->($self);
        return;
    }
    my $said = $self->{said};
    push @$said, length $line > LINE ? substr($line, 0, LINE) . ' ...' : $line;
    shift @$said if @$said > LAST_LINES;
    return;
}

sub _wstest_ended ($self, $how) {
    return if $self->{killed} || $self->{done};
    if ($self->{role} eq 'client' || $how) {
        $self->_fail('wstest has ended by itself' . $self->_how($how), 'wstest', @{ $self->{said} });
        return;
    }
    # It also ends so where the server is gone, but then not all cases are in the report.
    $self->{done} = 1;
    my $program = $self->{running}{program} or return;
    $program->stop;
    return;
}

sub _program_says ($self, $line) {
    my ($sign, $key, @values) = split /\t/, $line;
    $self->{alive} = AE::now;
    if (($sign // '') ne 'autobahn') {
        push @{ $self->{noise} }, $line;
    }
    elsif ($key eq 'module') {
        $self->{modules}{ $values[0] } = {version => $values[1], path => abs_path($values[2]) // $values[2]};
    }
    elsif ($key eq 'object') {
        push @{ $self->{objects} }, abs_path($values[0]) // $values[0];
    }
    elsif ($key eq 'loop') {
        $self->{loop} = $values[0];
        my $wrong = $self->{check}->($self) or return;
        $self->_fail($wrong);
        $self->_kill;
    }
    elsif ($key eq 'port') {
        my $server = {agent => AGENT, url => "ws://127.0.0.1:$values[0]"};
        $self->_start_wstest('fuzzingclient', {servers => [$server]});
    }
    elsif ($key eq 'reported') {
        $self->{done} = 1;
    }
    return;
}

sub _program_ended ($self, $how) {
    return if $self->{killed};
    my $name  = "the test $self->{role}";
    my @noise = @{ $self->{noise} // [] };
    if ($how || !$self->{done}) {
        $self->_fail("$name has ended by itself" . $self->_how($how), $name, @noise);
        return;
    }
    $self->_fail("$name was not silent", $name, @noise) if @noise;
    my $wstest = $self->{running}{wstest} or return;
    $wstest->stop('TERM');
    return;
}

# ---- When it goes wrong

sub _where ($self) {
    return ', before the first case' if !$self->{begun};
    return " in case $self->{current}, $self->{begun} of " . $self->cases;
}

sub _how ($self, $how) {
    return ' (' . ($how || 'exit status 0') . ')' . $self->_where;
}

# The other process may know more, or be about to end for the same reason.
sub _fail ($self, $problem, $who = undef, @lines) {
    if (@lines) {
        splice @lines, SHOWN_LINES, -1, '...' if @lines > SHOWN_LINES;
        $problem .= join "\n", "; $who said:", map { "    $_" } @lines;
    }
    push @{ $self->{problems} }, $problem;
    $self->{grace} //= AE::timer(GRACE, 0, sub { $self->_kill });
    return;
}

sub _kill ($self) {
    $self->{killed} = 1;
    $_->stop('KILL') for values %{ $self->{running} };
    return;
}

sub _look_at_clock ($self) {
    return if $self->problems;
    my @wstest = ('wstest', @{ $self->{said} });
    if (AE::now - $self->{started} > $self->{timeout}) {
        $self->_fail("not done after $self->{timeout} s" . $self->_where, @wstest);
    }
    elsif (AE::now - $self->{alive} > $self->{patience}) {
        $self->_fail("no progress for $self->{patience} s" . $self->_where, @wstest);
    }
    return;
}

sub _end ($self) {
    return if $self->{ended};
    delete @$self{qw(clock grace reserved)};
    $self->{ended} = AE::now;
    $self->{on_end}->();
    return;
}

1;
