package Torture::Episode;

# Some pairs of connections, random actions on them, at the top and inside of callbacks; then all are ended, and all has
# to be gone.

use v5.36;

use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::WebSocket::Connection;
use Harness::Usage qw(descriptors);
use Scalar::Util   ();
use Socket;

use Differential::Numbers;
use Torture::Actions qw(actions action);
use Tls qw(why_no_tls tls_context);
use Torture::End;
use Torture::Loop qw(turn watching_exceptions);

# A handle that all goes through the methods of.
@Torture::Handle::ISA = ('AnyEvent::Handle');

# Seconds; less than the patience.
use constant LONGEST_LINGER => 4;

# Callbacks that act inside of callbacks that act.
use constant DEEPEST => 4;

# Whose timer closes it by calling a method, from which the time is known.
package Torture::Connection {
    our @ISA = ('AnyEvent::WebSocket::Connection');
    my %end_of;
    sub is_of ($self, $end) { Scalar::Util::weaken($end_of{ Scalar::Util::refaddr($self) } = $end) }
    sub close ($self, @arguments) {
        my $end = $end_of{ Scalar::Util::refaddr($self) };
        $end->closes_idle if $end && ($arguments[1] // '') eq 'idle timeout';
        return $self->SUPER::close(@arguments);
    }
    sub DESTROY ($self) { delete $end_of{ Scalar::Util::refaddr($self) } }
}

# Arguments: seed; actions: how many at the top, at most; tls: percent of the pairs; patience; unit: by what the times are
# multiplied after which something happens; trace: told of each action; exits_after: so many actions, the program does.
sub new ($class, %arg) {
    return bless {
        %arg, numbers => Differential::Numbers->new("torture $arg{seed}"), ends => [], violations => [], depth => 0,
        messages => 0, callbacks => 0, exceptions => 0, drains => 0, settled => 0, acted => {}, endings => {},
        started => AE::time,
    }, $class;
}

sub violation ($self, $text) {
    push @{ $self->{violations} }, $text;
    print "$text\n" if defined $self->{exits_after};
    $self->{trace}->("VIOLATION $text");
    return;
}

# Of a message: mostly short.
sub length ($self) {
    my $numbers = $self->{numbers};
    return $numbers->weighted(
        10 => 0,
        50 => $numbers->between(1,      125),
        25 => $numbers->between(120,    1000),
        10 => $numbers->between(1000,   17_000),
        3  => $numbers->between(65_530, 65_540),
        2  => $numbers->between(17_000, 140_000),
    );
}

# What may end a connection by itself, or makes it talk. Mostly there is time for what is to happen, but not always.
sub _limits ($self) {
    my ($numbers, $unit) = @$self{qw(numbers unit)};
    # Percent of the ends that have it, and what it is then.
    my %choice = (
        max_write_buffer => [25, 1, 5000, 100_000, 1_000_000, 1_000_000],
        ping_interval    => [40, map { $_ * $unit } 0.002, 0.01, 1],
        ping_timeout     => [40, map { $_ * $unit } 0.015, 0.1, 20],
        idle_timeout     => [30, map { $_ * $unit } 0.03, 0.1, 20],
        close_timeout    => [20, map { $_ * $unit } 0.02, 0.2],
    );
    my %limits;
    for my $name (sort keys %choice) {
        my ($chance, @values) = @{ $choice{$name} };
        $limits{$name} = $numbers->pick(@values) if $numbers->percent($chance);
    }
    return \%limits;
}

sub _make_pair ($self, $number) {
    my $numbers = $self->{numbers};
    socketpair my $one, my $other, AF_UNIX, SOCK_STREAM, PF_UNSPEC or die "socketpair: $!\n";
    my @role = $numbers->percent(70) ? ([role => 'client'], [role => 'server'])
        : map { [masked => $numbers->below(2)] } 1, 2;
    my @extensions = $role[0][0] eq 'role' && $numbers->percent(40)
        ? (extensions => $numbers->pick('permessage-deflate',
            'permessage-deflate; client_no_context_takeover; server_no_context_takeover'))
        : ();
    my $limited = $numbers->percent(60);
    my @ends    = map {
        Torture::End->new(
            name    => "$number$_",
            episode => $self,
            limits  => $limited ? $self->_limits : {},
            watches => {map { ($_ => 1) } grep { $numbers->percent(70) } qw(ping pong drain)},
        );
    } qw(a b);
    my @none = (max_payload_size => 0, max_fragments => 0);
    my $narrow = $numbers->percent(30);
    my $tls    = $numbers->percent($self->{tls}) && !why_no_tls();
    for my $i (0, 1) {
        my $socket = ($one, $other)[$i];
        setsockopt $socket, SOL_SOCKET, SO_SNDBUF, pack 'i', 4096 or die "SO_SNDBUF: $!\n" if $narrow;
        my $class  = $tls || $numbers->percent(70) ? 'AnyEvent::Handle' : 'Torture::Handle';
        my $side   = $i ? 'accept' : 'connect';
        # Two that are destroyed with data for each other wait for it in vain.
        my $handle = $class->new(
            fh => $socket, linger => LONGEST_LINGER, $tls ? (tls => $side, tls_ctx => tls_context($side)) : (),
        );
        my $limits     = $ends[$i]{limits};
        my $connection = ($limits->{idle_timeout} ? 'Torture::Connection' : 'AnyEvent::WebSocket::Connection')->new(
            handle => $handle, %$limits, @none, @extensions, $role[$i]->@*,
        );
        $connection->is_of($ends[$i]) if $limits->{idle_timeout};
        $ends[$i]{lingers} = $class eq 'AnyEvent::Handle';
        $ends[$i]->begin($connection, $ends[ 1 - $i ]);
    }
    push @{ $self->{ends} }, @ends;
    $self->{trace}->(join ' ', "pair $number:", ($narrow ? 'narrow' : ()), ($tls ? 'TLS' : ()), @extensions,
        map { _description($_) } @ends);
    $self->{pairs}{ $tls ? 'TLS' : 'plain' }++;
    return;
}

sub _description ($end) {
    my ($limits, $watches) = @$end{qw(limits watches)};
    return sprintf '(%s)', join ', ', $end->{lingers} ? 'plain' : 'derived',
        $end->connection->masked ? 'masked' : 'not masked', (map { "$_ $limits->{$_}" } sort keys %$limits),
        map { "watches $_" } sort keys %$watches;
}

# Some of the ends, in any order.
sub some_ends ($self) {
    my $ends = $self->{ends};
    return map { $ends->[$_] } $self->{numbers}->several_below(5, scalar @$ends);
}

# One random action on one end, which may be inside one of its callbacks.
sub act ($self, $end, @callback) {
    return if $self->{depth} >= DEEPEST || !$end->connection;
    $self->_exit if defined $self->{exits_after} && --$self->{exits_after} < 0;
    my $name = $self->{numbers}->weighted(actions());
    $self->{acted}{$name}++;
    $self->{trace}->('  ' x $self->{depth} . "$end->{name} $name" . ($end->{finished} ? ' (finished)' : ''));
    local $self->{depth} = $self->{depth} + 1;
    # Held, as a program does that calls its methods.
    my $connection = $end->connection;
    return if eval { action($name)->($end, $self, @callback); 1 };
    # What a callback dies of that runs inside of send or the like is the test's own.
    $self->violation("$end->{name}: $name died of $@") if !$self->_is_expected($@);
    return;
}

# With a status that is nobody else's.
use constant STATUS_OF_EXIT => 7;

sub _exit ($self) { exit STATUS_OF_EXIT }

# AnyEvent::Handle's, of a descriptor that was closed behind its back, where it does the reading and writing.
my $OF_THE_HANDLE = qr{(?x)
    (?: on[ ]closed[ ](?:filehandle|socket) | illegal[ ]file[ ]descriptor | Bad[ ]symbol[ ]for[ ]filehandle )
    .* [ ]at[ ]\S*/AnyEvent/Handle\.pm[ ]line[ ]
};

# Whether an exception is none of ours.
sub _is_expected ($self, $exception) {
    return 1 if $exception eq $Torture::End::ON_PURPOSE;
    return $self->{has_closed} && $exception =~ $OF_THE_HANDLE;
}

sub _run_for ($self, $seconds) {
    my $done;
    # It may be due in an event loop of a callback's, which is not to end for it.
    my $timer = AE::timer($seconds, 0, sub { $done = 1 });
    turn() until $done;
    return;
}

# Whether it came to hold in time.
sub _run_until ($self, $condition) {
    my $until = AE::time + $self->{patience};
    until ($condition->()) {
        return 0 if AE::time > $until;
        $self->_run_for(0.001);
    }
    return 1;
}

sub run ($self) {
    local $SIG{__WARN__} = sub ($text) {
        return if $self->_is_expected($text);
        $self->violation("a warning: $text");
    };
    my $on_exception = sub ($exception) {
        return if $self->_is_expected($exception);
        $self->violation("an exception came out into the event loop: $exception");
    };
    watching_exceptions($on_exception, sub {
        my $descriptors = descriptors();
        $self->_act_all;
        $self->_end_all;
        $self->violation('descriptors: ' . (descriptors() - $descriptors) . ' more are open')
            if !$self->_run_until(sub { descriptors() <= $descriptors });
    });
    return;
}

sub _act_all ($self) {
    my $numbers = $self->{numbers};
    $self->_make_pair($_) for 1 .. $numbers->between(1, 5);
    my $ends = $self->{ends};
    for my $end (@$ends) {
        next if !$numbers->percent(50);
        $end->connection->on(each_message => Torture::Actions::_callback($end, $self, 'each_message', 1, 0));
    }
    # Of long ones no pair is left at the end with which nothing has happened.
    for (1 .. $self->{actions} / $numbers->pick(1, 4, 10)) {
        $self->act($numbers->pick(@$ends));
        $self->_run_for($numbers->pick(0, 0, 0.0005)) if $numbers->percent(40);
    }
    $self->_exit if defined $self->{exits_after};
    return;
}

sub _try ($self, $end, $what, $code) {
    return if eval { $code->(); 1 } || $self->_is_expected($@);
    $self->violation("$end->{name}: $what died of $@");
    return;
}

# Once there is time for everything, all has arrived, unless somebody has closed, or does now for want of an answer.
sub _settle ($self, @pair) {
    return if !$pair[0]->is_calm;
    # More than the socket takes, so that something waits, and drains.
    my $much = $self->{numbers}->percent(50);
    for my $end (@pair) {
        $self->_try($end, sending => sub { Torture::Actions::_send_octets($end, 'much ' x 100_000) }) if $much;
        $self->_try($end, pinging => sub { Torture::Actions::_ping($end, 'Plast') }) if $end->connection;
    }
    my $is_settled = sub { !$pair[0]->is_calm || !map { $_->unsettled } @pair };
    if ($self->_run_until($is_settled)) {
        $self->{settled}++ if $pair[0]->is_calm;
        return;
    }
    for my $end (@pair) {
        $end->violation("though nobody has closed, $_") for $end->unsettled;
    }
    return;
}

sub _end_all ($self) {
    $self->{trace}->('the end');
    # No more actions in callbacks.
    $self->{depth} = DEEPEST;
    my @ends = @{ $self->{ends} };
    $_->start_reading for @ends;
    for my $i (grep { $_ % 2 == 0 } 0 .. $#ends) {
        my @pair = @ends[$i, $i + 1];
        # A pause ends by close, too.
        if ($self->{numbers}->percent(70)) {
            for my $end (grep { $_->connection } @pair) {
                $end->resumes;
                $self->_try($end, resume => sub { $end->connection->resume });
            }
            $self->_settle(@pair);
        }
        for my $end (@pair) {
            next if !$end->connection;
            $end->ends;
            $self->_try($end, close => sub { $end->connection->close });
            $end->{has_closed} = 1;
        }
        next if grep { $_->{is_disturbed} } @pair;
        for my $end (@pair) {
            $self->violation("$end->{name}: did not finish, though undisturbed")
                if !$self->_run_until(sub { $end->{finished} || !$end->connection });
        }
    }
    # What has been disturbed may never finish.
    $self->_run_for(0.002);
    $_->decide_doubts for @ends;
    for my $end (@ends) {
        my $handle = $end->{handle};
        $end->drop;
        if ($handle && ($end->{is_disturbed} || $end->{other}{is_disturbed})) {
            # It would go on for an hour with what nobody reads.
            $handle->{linger} = 0;
            $handle->destroy;
        }
    }
    return if $self->_run_until(sub { !grep { !$_->is_gone } @ends });
    for my $end (grep { !$_->is_gone } @ends) {
        $self->violation("$end->{name}: " . ($end->{alive} ? 'the connection' : 'the handle') . ' is not gone');
    }
    return;
}

1;
