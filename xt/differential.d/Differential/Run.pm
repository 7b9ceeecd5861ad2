package Differential::Run;

# Carries a conversation out in this process, with whichever implementation is loaded, and writes down what is
# observable, as lines of text: what the program sees (Differential::Program), and what the peer receives.
#
# It is one sequence, but what the peer receives is told only at points where everything that is under way has
# arrived (`settle`): between a callback and what leaves for the peer there is no order to rely on.

use strict;
use warnings;

use AnyEvent;
use AnyEvent::Handle;
use Scalar::Util qw(weaken);
use Time::HiRes  ();

use Differential::Classes   ();
use Differential::Coverage  ();
use Differential::Neighbour ();
use Differential::Peer      ();
use Differential::Program   ();
use Differential::Text      qw(thrown whole);
use Differential::Units     ();

# Seconds for a conversation, which takes milliseconds; the machine may be busy.
my $PATIENCE = 30;

# Returns the history and what the conversation consisted of.
sub run {
    my ($class, $plan) = @_;
    my $program = Differential::Program->new($plan->{setup}{keeps});
    my $self    = bless {
        plan => $plan, setup => $plan->{setup}, program => $program, counts => {},
        deadline => Time::HiRes::time() + $PATIENCE,
    }, $class;
    local $SIG{__WARN__} = sub { $program->tell('warning: ' . whole($_[0])) };
    {
        no warnings 'once';
        local $EV::DIED = sub { $program->tell('exception in the event loop: ' . thrown($@)) };
        eval { $self->_converse; 1 } or $program->tell('STOPPED: ' . thrown($@));
        # Of what went wrong nothing is to be left for the next one.
        eval { $self->_turn for 1 .. 3 };
    }
    Differential::Coverage::history($self->{counts}, $program->history);
    return ($program->history, $self->{counts});
}

sub _converse {
    my ($self) = @_;
    my $plan = $self->{plan};
    Differential::Coverage::setup($self->{counts}, $plan);
    $self->{neighbour} = Differential::Neighbour->new($plan->{neighbour}) if $plan->{neighbour};
    $self->_start;
    my $number = 0;
    for my $step (@{ $plan->{steps} }) {
        $number++;
        next if $step->{omitted};
        my $name = "step_$step->{do}";
        $self->{program}->tell("[$number] $step->{do}");
        $self->$name($step);
    }
    $self->_finish;
    return;
}

# ---- the connection

sub _start {
    my ($self) = @_;
    my ($plan, $setup, $program) = @$self{qw(plan setup program)};
    my $peer = $self->{peer} = Differential::Peer->new($setup->{transport}, $setup->{narrow});
    my %options = (fh => $peer->take_other_end, on_error => sub { });
    @options{qw(read_size max_read_size)} = ($setup->{small_reads}) x 2 if $setup->{small_reads};
    $options{autocork} = 1 if $setup->{autocork};
    my $handle_class = $setup->{handle} eq 'derived' ? 'Differential::Classes::Handle' : 'AnyEvent::Handle';
    my @early        = grep { !$_->{omitted} } @{ $plan->{early} };
    my $handle;
    my $construct = sub { $self->_construct($handle); undef $handle };
    if ($setup->{start} eq 'at once') {
        $handle = $handle_class->new(%options);
        $construct->();
    }
    elsif ($setup->{start} eq 'after a line') {
        $peer->write("the opening handshake\n");
        $handle = $handle_class->new(%options);
        $handle->push_read(line => $construct);
    }
    elsif ($setup->{start} eq 'in on_read') {
        $peer->write("the opening handshake\n");
        $handle = $handle_class->new(%options, on_read => sub { $construct->() if $_[0]{rbuf} =~ s/\A[^\n]*\n// });
    }
    else {
        $handle = $handle_class->new(%options, on_read => sub { });
    }
    $self->step_peer({units => \@early}) if @early;
    $self->step_shutdown if $plan->{early_shutdown};
    if ($setup->{start} eq 'with rbuf') {
        $self->_wait_while(sub { $peer->has_been_read($handle->{fh}) ? undef : 'the handle to read' });
        $construct->();
    }
    $self->_settle(1) if !$program->has_begun;
    return;
}

sub _construct {
    my ($self, $handle) = @_;
    my $setup = $self->{setup};
    weaken($self->{handle} = $handle);
    my $is_wrapped = $setup->{handle} eq 'wrapping';
    my %arguments  = (handle => $is_wrapped ? Differential::Classes::Wrapper->new($handle) : $handle);
    for my $name (qw(masked subprotocol max_payload_size max_fragments)) {
        $arguments{$name} = $setup->{$name} if exists $setup->{$name};
    }
    delete $arguments{masked} if !defined $arguments{masked};
    my $class      = Differential::Classes::connection_class($setup->{class});
    my $connection = $class->new($setup->{arguments} eq 'hash' ? \%arguments : %arguments);
    weaken($self->{weak} = $connection);
    $self->{program}->begin($connection, $class, $arguments{handle});
    $self->{program}->act($connection, grep { !$_->{omitted} } @{ $self->{plan}{construct} });
    return;
}

# The peer's bytes up to each cut.
sub _chunks {
    my ($self, @units) = @_;
    my @chunks = ({bytes => ''});
    for my $unit (@units) {
        my $bytes = Differential::Units::bytes($unit);
        my $at    = 0;
        for my $cut (grep { $_ < length $bytes } @{ $unit->{cuts} }) {
            $chunks[-1]{bytes} .= substr $bytes, $at, $cut - $at;
            push @chunks, {bytes => ''};
            $at = $cut;
        }
        $chunks[-1]{bytes} .= substr $bytes, $at;
    }
    return grep { length $_->{bytes} } @chunks;
}

# ---- steps

sub step_peer {
    my ($self, $step) = @_;
    my @units = grep { !$_->{omitted} } @{ $step->{units} };
    $self->{program}->tell("peer sends Close $_") for map { Differential::Peer::closes($_) } @units;
    $self->{program}{is_ending} = 1 if grep { Differential::Peer::closes($_) } @units;
    return $self->{program}->tell('the connection is gone') if $self->{program}{is_gone};
    Differential::Coverage::unit($self->{counts}, $_, $self->{setup}) for @units;
    my @chunks = $self->_chunks(@units);
    for my $i (0 .. $#chunks) {
        $self->{peer}->write($chunks[$i]{bytes});
        $self->_settle(1, "chunk $i") if $i < $#chunks;
    }
    return;
}

sub step_program {
    my ($self, $step) = @_;
    my $program = $self->{program};
    $program->act($program->connection, grep { !$_->{omitted} } @{ $step->{actions} });
    return;
}

sub step_settle { $_[0]->_settle(1) }
sub step_pause  { $_[0]{peer}->pause }
sub step_resume { $_[0]{peer}->resume }

sub step_shutdown {
    my ($self) = @_;
    $self->{program}{is_ending} = 1;
    $self->{peer}->end;
    return;
}

sub step_vanish {
    my ($self) = @_;
    $self->{program}{is_ending} = 1;
    $self->{program}{is_gone}   = 1;
    $self->{peer}->vanish;
    return;
}

# What every conversation ends with: the peer reads all, and ends its side; the program lets go.
sub _finish {
    my ($self) = @_;
    my ($peer, $program) = @$self{qw(peer program)};
    $program->tell('[end]');
    $peer->resume;
    $self->_settle(1);
    if (!$peer->has_ended) {
        $self->step_shutdown;
        $self->_settle(1);
    }
    if ($program->connection) {
        $program->act($program->connection, {do => 'attributes'});
        $program->let_go;
        $self->_settle(1);
    }
    $peer->vanish;
    delete $self->{neighbour};
    $program->tell_kept;
    my $patience = Time::HiRes::time() + 2;
    my @left;
    do {
        $self->_turn;
        @left = (
            $self->{weak}            ? 'the connection' : (),
            $self->{handle}          ? 'the handle'     : (),
            $peer->other_end_is_open ? 'the descriptor' : (),
        );
    } while (@left && Time::HiRes::time() < $patience);
    $program->tell('left over: ' . (@left ? "@left" : 'nothing'));
    return;
}

# ---- waiting

# Runs the event loop until it has nothing to do any more. AnyEvent's idle watchers run only when nothing else does.
sub _turn {
    my ($self) = @_;
    my $peer = $self->{peer};
    $_->work for grep { defined } $peer, $self->{neighbour};
    my $done  = AE::cv;
    my $idle  = AE::idle sub { $done->send };
    my $alarm = AE::timer $PATIENCE, 0, sub { $done->croak('the event loop does not come to rest') };
    eval { $done->recv; 1 } or do {
        die $@ if $@ =~ /come to rest/;
        # Event loops other than EV let exceptions through.
        $self->{program}->tell('exception in the event loop: ' . thrown($@));
    };
    $_->work for grep { defined } $peer, $self->{neighbour};
    return;
}

# Goes on until nothing is missing any more.
sub _wait_while {
    my ($self, $missing) = @_;
    while (defined(my $what = $missing->())) {
        die "WATCHDOG: waited for $what\n" if Time::HiRes::time() > $self->{deadline};
        $self->_turn;
    }
    return;
}

# Runs the event loop until everything that is under way has arrived.
sub _settle {
    my ($self, $turns, $where) = @_;
    # The first delivery comes when the loop has been idle once, and then has had a turn.
    $turns += 2 if !$self->{has_settled}++;
    my $neighbour = $self->{neighbour};
    $neighbour->next_piece if $neighbour;
    $self->_turn for 1 .. $turns;
    $self->_wait_while(sub { $self->_under_way });
    $self->{program}->tell("peer got $_" . (defined $where ? ", $where" : '')) for $self->{peer}->told;
    if ($neighbour) {
        $self->_wait_while(sub { $neighbour->has_settled ? undef : 'the neighbour' });
        $self->{program}->tell("neighbour: $_") for $neighbour->told;
    }
    return;
}

# What has not arrived yet.
sub _under_way {
    my ($self) = @_;
    my ($peer, $handle) = @$self{qw(peer handle)};
    return if $peer->is_gone && (!$handle || !$handle->{fh} || $handle->{_eof});
    if ($handle && $handle->{fh}) {
        if (!$handle->{_eof}) {
            return 'the connection to read'     if !$peer->has_been_read($handle->{fh});
            return 'the connection to read EOF' if $peer->has_ended;
        }
        return                       if $peer->is_paused;
        return 'the handle to write' if length $handle->{wbuf};
        return 'the peer to read'    if !$peer->has_read_all($handle->{fh});
        return;
    }
    return if $peer->is_paused || $peer->has_seen_the_end;
    return 'the peer to read EOF';
}

1;
