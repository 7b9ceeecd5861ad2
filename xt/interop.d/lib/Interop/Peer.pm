package Interop::Peer;

# A peer's program: it is told what to do, and what it tells is waited for. See ../../PROTOCOL.md.

use v5.36;

use AnyEvent;
use Harness::Child;
use Interop::Lines qw(decode_line encode_line);
use List::Util qw(max min);

use constant LAST_LINES => 12;

# Between the deadline, when its end is waited for, and the end that the kernel makes.
use constant GRACE => 30;

# Arguments: name, for messages; command; log; scratch; limit: seconds that it may live; deadline: the time by which
# all has to be done; patience: seconds that an event is waited for.
sub start ($class, %arg) {
    my $self = bless {
        name     => $arg{name},
        log      => $arg{log},
        patience => $arg{patience},
        deadline => $arg{deadline},
        events   => {},
        errors   => [],
    }, $class;
    $self->{process} = Harness::Child->start(
        command     => $arg{command},
        log         => $arg{log},
        environment => {TMPDIR => $arg{scratch}},
        limit       => $arg{limit} + GRACE,
        on_line     => sub ($line) { $self->_told($line) },
        on_end      => sub ($how) { $self->{ended} = $how; $self->_wake },
    );
    return $self;
}

sub name ($self)      { $self->{name} }
sub has_ended ($self) { defined $self->{ended} }

# What it complained about without being asked.
sub errors ($self) { @{ $self->{errors} } }

sub said ($self) {
    open my $in, '<:raw', $self->{log} or return;
    chomp(my @lines = <$in>);
    return map { s/[^\t -~]/?/gr } @lines;
}

sub _wake ($self) {
    $self->{waiting}->send if $self->{waiting};
    return;
}

sub _told ($self, $line) {
    my ($event, $bytes) = eval { decode_line($line) };
    if (!$event) {
        push @{ $self->{errors} }, 'it printed: ' . substr $line, 0, 200;
    }
    elsif ($event->{event} eq 'error') {
        push @{ $self->{errors} }, $event->{error};
    }
    else {
        $event->{bytes} = $bytes;
        push @{ $self->{events}{ $event->{id} // '' } }, $event;
    }
    $self->_wake;
    return;
}

sub tell ($self, $do, $with = {}, $bytes = undef) {
    $self->{process}->write(encode_line({do => $do, %$with}, $bytes));
    return;
}

sub _ended ($self) {
    my @lines = $self->said;
    splice @lines, 0, @lines - LAST_LINES if @lines > LAST_LINES;
    return join "\n    ", "$self->{name} has ended by itself, " . ($self->{ended} || 'exit status 0') . (@lines ? ':' : ''), @lines;
}

# Waits for an event, and takes it; dies where it cannot come any more, or does not in time.
sub await ($self, $name, $id = '') {
    my $events  = $self->{events}{$id} //= [];
    my $seconds = max(0.1, min($self->{patience}, $self->{deadline} - AE::time));
    my $timer   = AE::timer($seconds, 0, sub { $self->{late} = 1; $self->_wake });
    $self->{late} = 0;
    my $checked = 0;
    while (1) {
        for (; $checked < @$events; $checked++) {
            my $found = $events->[$checked];
            return splice @$events, $checked, 1 if $found->{event} eq $name;
            die "$self->{name} tells '" . _describe($found) . "' where '$name' was waited for\n"
                if $found->{event} =~ /\A(?:closed|failed)\z/;
        }
        die "$self->{name} reports an error: ", join('; ', $self->errors), "\n" if $self->errors;
        die $self->_ended, "\n" if defined $self->{ended};
        die "$self->{name} tells no '$name' within " . sprintf('%.3g', $seconds) . " s\n" if $self->{late};
        $self->{waiting} = AE::cv;
        $self->{waiting}->recv;
    }
}

sub _describe ($event) {
    return join ' ', $event->{event},
        map { "$_=" . ($event->{$_} // 'none') } grep { !/\A(?:event|id|bytes)\z/ } sort keys %$event;
}

# What has been told about a connection and not been waited for.
sub leftovers ($self, $id) {
    return map { _describe($_) } @{ $self->{events}{$id} // [] };
}

# Ends it; returns what is wrong with the way it ended.
sub finish ($self) {
    return $self->_ended if defined $self->{ended};
    $self->{process}->stop;
    until (defined $self->{ended}) {
        $self->{waiting} = AE::cv;
        $self->{waiting}->recv;
    }
    return "$self->{name} did not end with its input" if $self->{process}->killed;
    return $self->_ended if length $self->{ended};
    return;
}

1;
