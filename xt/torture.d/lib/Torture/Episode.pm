package Torture::Episode;

# Some pairs of connections, random actions on them, at the top and inside of callbacks; then all are ended, and all has
# to be gone.

use v5.36;

use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::WebSocket::Connection;
use EV;
use Harness::Usage qw(descriptors);
use Socket;

use Differential::Numbers;
use Torture::Actions qw(actions action);
use Tls qw(why_no_tls tls_context);
use Torture::End;

# A handle that all goes through the methods of.
@Torture::Handle::ISA = ('AnyEvent::Handle');

# Seconds; less than the patience.
use constant LONGEST_LINGER => 4;

# Callbacks that act inside of callbacks that act.
use constant DEEPEST => 4;

# Arguments: seed; actions: how many at the top; tls: percent of the pairs; patience; trace: told of each action.
sub new ($class, %arg) {
    return bless {
        %arg, numbers => Differential::Numbers->new("torture $arg{seed}"), ends => [], violations => [], depth => 0,
        messages => 0, callbacks => 0, exceptions => 0, acted => {},
    }, $class;
}

sub violation ($self, $text) {
    push @{ $self->{violations} }, $text;
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

sub _make_pair ($self, $number) {
    my $numbers = $self->{numbers};
    socketpair my $one, my $other, AF_UNIX, SOCK_STREAM, PF_UNSPEC or die "socketpair: $!\n";
    my @role = $numbers->percent(70) ? ([role => 'client'], [role => 'server'])
        : map { [masked => $numbers->below(2)] } 1, 2;
    my @extensions = $role[0][0] eq 'role' && $numbers->percent(40)
        ? (extensions => $numbers->pick('permessage-deflate',
            'permessage-deflate; client_no_context_takeover; server_no_context_takeover'))
        : ();
    my @ends = map { Torture::End->new(name => "$number$_", episode => $self) } qw(a b);
    my @limits = (max_payload_size => 0, max_fragments => 0);
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
        my $connection = AnyEvent::WebSocket::Connection->new(handle => $handle, @limits, @extensions, $role[$i]->@*);
        $ends[$i]{lingers} = $class eq 'AnyEvent::Handle';
        $ends[$i]->begin($connection, $ends[ 1 - $i ]);
    }
    push @{ $self->{ends} }, @ends;
    $self->{trace}->(join ' ', "pair $number:", ($narrow ? 'narrow' : ()), ($tls ? 'TLS' : ()), @extensions,
        map { ($_->{lingers} ? 'plain' : 'derived') . ' ' . ($_->connection->masked ? 'masked' : 'not masked') } @ends);
    $self->{pairs}{ $tls ? 'TLS' : 'plain' }++;
    return;
}

# Some of the ends, in any order.
sub some_ends ($self) {
    my $ends = $self->{ends};
    return map { $ends->[$_] } $self->{numbers}->several_below(5, scalar @$ends);
}

# One random action on one end, which may be inside one of its callbacks.
sub act ($self, $end, @callback) {
    return if $self->{depth} >= DEEPEST || !$end->connection;
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
    my $timer = EV::timer $seconds, 0, sub { $done = 1 };
    EV::run(EV::RUN_ONCE()) until $done;
    return;
}

# Whether it came to hold in time.
sub _run_until ($self, $condition) {
    my $until = EV::time + $self->{patience};
    until ($condition->()) {
        return 0 if EV::time > $until;
        $self->_run_for(0.001);
    }
    return 1;
}

sub run ($self) {
    local $EV::DIED = sub {
        return if $self->_is_expected($@);
        $self->violation("an exception came out into the event loop: $@");
    };
    local $SIG{__WARN__} = sub ($text) {
        return if $self->_is_expected($text);
        $self->violation("a warning: $text");
    };
    my $numbers     = $self->{numbers};
    my $descriptors = descriptors();
    $self->_make_pair($_) for 1 .. $numbers->between(1, 5);
    my $ends = $self->{ends};
    for my $end (@$ends) {
        $end->connection->on(each_message => Torture::Actions::_callback($end, $self, 1, 0)) if $numbers->percent(50);
    }
    for (1 .. $self->{actions}) {
        $self->act($numbers->pick(@$ends));
        $self->_run_for($numbers->pick(0, 0, 0.0005)) if $numbers->percent(40);
    }
    $self->_end_all;
    undef $ends;
    $self->violation('descriptors: ' . (descriptors() - $descriptors) . ' more are open')
        if !$self->_run_until(sub { descriptors() <= $descriptors });
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
        for my $end (@pair) {
            next if !$end->connection;
            $end->ends;
            eval { $end->connection->close; 1 }
                or $self->_is_expected($@)
                or $self->violation("$end->{name}: close died of $@");
        }
        next if grep { $_->{is_disturbed} } @pair;
        for my $end (@pair) {
            $self->violation("$end->{name}: did not finish, though undisturbed")
                if !$self->_run_until(sub { $end->{finished} || !$end->connection });
        }
    }
    # What has been disturbed may never finish.
    $self->_run_for(0.002);
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
