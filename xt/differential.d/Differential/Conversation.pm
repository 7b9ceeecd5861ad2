package Differential::Conversation;

# A seed's conversation, as data: how the connection is set up, and steps. Nothing here depends on what carries it
# out (Differential::Run), so that both implementations get the same bytes at the same points.
#
# Where the order of things is not given by the behaviour that both have to have, a conversation waits (the step
# `settle`, or a cut) until everything under way has arrived. What is different on purpose (compat D1 to D8) or
# undefined is not made:
#
# - Exceptions and violations of limits come after the first delivery: before it the original loses the exception,
#   and the messages that came before a violation (compat C13, C15). Nothing but valid messages follows them.
# - What ends a connection from inside a callback (drop, destroy) comes in one read, which the original makes of
#   2 KiB at first: what the same read brought is still delivered (compat C14), and after `destroy` only by the
#   original (compat C20).
# - An object that is dropped is not held by a coderef that cancels (compat C9).
# - Writing fails only outside of callbacks: the original then runs those for `finish` inside of them.
#
# TLS, event loops inside of callbacks, and what takes time are left to t/.

use strict;
use warnings FATAL => 'all';

use Differential::Actions ();
use Differential::Numbers ();
use Differential::Units   ();

sub generate {
    my ($class, $seed) = @_;
    my $numbers = Differential::Numbers->new($seed);
    my $setup   = _setup($numbers);
    my $self    = bless {
        numbers => $numbers,
        setup   => $setup,
        steps   => [],
        units   => Differential::Units->new(
            $numbers,
            limit => $setup->{unlimited} ? 1 << 30 : $setup->{max_payload_size} // 65_536,
            most  => $setup->{max_fragments} || 128,
            bytes => $setup->{small_reads} ? 3000 : $setup->{unlimited} ? 2_500_000 : 300_000,
        ),
        actions => Differential::Actions->new($numbers, largest => $setup->{narrow} ? 20_000 : 100_000),
    }, $class;
    my $construct = $self->_construct;
    my $ended     = $self->_early;
    if (!$ended) {
        $self->_middle for 1 .. $numbers->between(0, 6);
        $self->_end;
    }
    $self->_step('settle');
    my %plan = (seed => $seed, setup => $setup, construct => $construct);
    $plan{$_} = $self->{$_} for qw(early early_shutdown end steps);
    $plan{neighbour} = _neighbour($numbers) if $numbers->percent(25);
    return \%plan;
}

sub _setup {
    my ($n) = @_;
    my %setup = (
        transport => $n->weighted(80 => 'unix', 20 => 'tcp'),
        handle    => $n->weighted(65 => 'plain', 23 => 'derived', 12 => 'wrapping'),
        start     => $n->weighted(50 => 'at once', 20 => 'after a line', 15 => 'with rbuf', 15 => 'in on_read'),
        class     => $n->weighted(70 => 'original', 15 => 'derived', 15 => 'by Moo'),
        arguments => $n->pick('list', 'hash'),
        keeps     => $n->weighted(55 => 'nothing', 15 => 'messages', 15 => 'bodies', 15 => 'references'),
        masked    => $n->weighted(45 => 0, 45 => 1, 10 => undef),
    );
    $setup{narrow}        = 1 if $setup{transport} eq 'unix' && $n->percent(15);
    $setup{small_reads}   = $n->pick(16, 17, 100, 1000) if $n->percent(15);
    $setup{autocork}      = 1 if $n->percent(8);
    $setup{subprotocol}   = 'chat' if $n->percent(15);
    $setup{max_fragments} = $n->pick(1, 2, 3, 5, 16, 127, 128, 129, 200) if $n->percent(30);
    if ($n->percent(50)) {
        # Around the borders between the forms of a length, and what control frames need.
        my $limit = $n->pick(2, 16, 124 .. 127, 500, 1000, 65_535 .. 65_537, 100_000);
        $setup{max_payload_size} = $n->weighted(60 => $limit, 20 => 0, 20 => 200_000);
    }
    $setup{unlimited} = 1 if defined $setup{max_payload_size} && $setup{max_payload_size} == 0;
    return \%setup;
}

# Messages for a second connection, which come piece by piece, whenever the first one's conversation waits: what
# connections of a process share may not mix them up.
sub _neighbour {
    my ($n)   = @_;
    my $units = Differential::Units->new($n, limit => 65_536, most => 128, bytes => 100_000);
    my $bytes = join '', map { Differential::Units::frame_bytes($_) } map { @{ $units->any->{frames} } } 1 .. 12;
    my @pieces;
    while (length $bytes) {
        my $length = $n->weighted(40 => $n->below(10), 40 => $n->below(300), 20 => $n->below(70_000));
        push @pieces, substr $bytes, 0, 1 + $length, '';
    }
    return {pieces => \@pieces};
}

sub _peer {
    my ($self, @units) = @_;
    push @{ $self->{steps} }, {do => 'peer', units => \@units};
}

sub _program {
    my ($self, @actions) = @_;
    push @{ $self->{steps} }, {do => 'program', actions => \@actions};
}

sub _step {
    my ($self, @names) = @_;
    push @{ $self->{steps} }, map { {do => $_} } @names;
}

# ---- before the event loop has run (compat C13)

# What the program does as soon as it has the connection: the callbacks that record everything, others, and
# perhaps more.
sub _construct {
    my ($self) = @_;
    my ($n, $actions) = @$self{qw(numbers actions)};
    my @on = map { $actions->callback($_, lasting => 1, turns => []) } qw(parse_error finish);
    push @on, $actions->callback('each_message', turns => []) if $n->percent(92);
    push @on, map { $actions->on(0) } 1 .. $n->below(4);
    my @order = map { splice @on, $n->below(scalar @on), 1 } 1 .. @on;
    return [@order, map { $actions->outside } 1 .. $n->weighted(50 => 0, 30 => 1, 20 => 3)];
}

# Returns whether that was the whole conversation.
sub _early {
    my ($self) = @_;
    my ($n, $units, $setup) = @$self{qw(numbers units setup)};
    my @early = $n->percent(60) ? map { $units->any } 1 .. $n->between(1, 3) : ();
    # The handle reads them into its buffer as one, or the loop has not run yet.
    $_->{cuts} = [] for @early;
    my $end = $n->weighted(82 => 'none', 4 => 'close', 4 => 'eof', 4 => 'close, eof', 3 => 'program', 3 => 'drop');
    if ($end eq 'drop') {
        # Of what has not been read the kernel would make an error for the peer.
        @early = ();
        $setup->{start} = 'at once';
        $self->_program({do => 'drop'});
    }
    # Such a handle has ended before there is a connection (compat C21).
    $end = 'close' if $setup->{start} eq 'with rbuf' && $end =~ /eof/;
    if ($end =~ /close/) {
        push @early, $units->close;
        $early[-1]{cuts} = [];
    }
    $self->{early}          = \@early;
    $self->{early_shutdown} = 1 if $end =~ /eof/;
    $self->_program($self->{actions}->close) if $end eq 'program';
    return $end ne 'none';
}

# ---- in the middle

sub _middle {
    my ($self) = @_;
    my ($n, $units, $actions) = @$self{qw(numbers units actions)};
    my $what = $n->weighted(55 => 'peer', 33 => 'program', 6 => 'pause', 6 => 'resume');
    if ($what eq 'peer') {
        $self->_peer(map { $units->any } 1 .. $n->between(1, 5));
        $self->_step('settle') if $n->percent(70);
    }
    elsif ($what eq 'program') {
        $self->_program(map { $actions->outside } 1 .. $n->between(1, 3));
        $self->_step('settle') if $n->percent(40);
    }
    else {
        $self->_step($what);
    }
}

# ---- the end

my %END = (
    program_close => sub {
        my ($self, $n, $units, $actions) = @_;
        $self->_program($actions->close);
        $self->_step('settle') if $n->percent(60);
        $self->_program(map { $actions->outside } 1 .. 2) if $n->percent(40);
        $self->_peer(map { $units->any } 1 .. 2) if $n->percent(50);
        $self->_peer($units->close) if $n->percent(80);
        $self->_step($n->pick('settle', 'shutdown'));
    },
    peer_close => sub {
        my ($self, $n, $units, $actions) = @_;
        $self->_peer((map { $units->any } 1 .. $n->below(3)), $units->close, map { $units->any } 1 .. $n->below(3));
        $self->_step('settle') if $n->percent(70);
        $self->_program(map { $actions->outside } 1 .. 2) if $n->percent(40);
        $self->_peer($units->any) if $n->percent(20);
        $self->_step('shutdown') if $n->percent(60);
    },
    # Both at once.
    crossing => sub {
        my ($self, $n, $units, $actions) = @_;
        $self->_peer($units->close);
        $self->_peer($units->any) if $n->percent(20);
        $self->_program($actions->close);
        $self->_step('shutdown') if $n->percent(30);
    },
    close_in_callback => sub {
        my ($self, $n, $units, $actions) = @_;
        $self->_on_message($actions->close, $actions->outside);
        $self->_peer(map { $units->any } 1 .. $n->between(1, 4));
        $self->_peer($units->close) if $n->percent(50);
        $self->_step('settle') if $n->percent(50);
    },
    eof => sub {
        my ($self, $n, $units, $actions) = @_;
        $self->_peer(map { $units->any } 1 .. $n->below(3));
        $self->_step('shutdown');
        $self->_program(map { $actions->outside } 1 .. 2) if $n->percent(30);
    },
    # In the middle of a frame or message.
    cut_off => sub {
        my ($self, $n, $units, $actions) = @_;
        my $unit = $n->percent(70) ? $units->message : $n->percent(50) ? $units->close : $units->control;
        my $length = 0;
        $length += Differential::Units::frame_length($_) for @{ $unit->{frames} };
        $self->_peer({%$unit, keep => $n->below($length)});
        $self->_step('shutdown');
    },
    drop => sub {
        my ($self, $n, $units, $actions) = @_;
        $self->_step('resume') if $n->percent(60);
        $self->_step('settle');
        $self->_program($actions->outside) if $n->percent(40);
        $self->_leave_unsent if $n->percent(25);
        $self->_program({do => 'drop'});
    },
    drop_in_callback => sub { _in_callback(@_, {do => 'drop'}) },
    destroy => sub {
        my ($self, $n, $units, $actions) = @_;
        $self->_step('resume') if $n->percent(60);
        $self->_step('settle');
        $self->_leave_unsent if $n->percent(25);
        $self->_program({do => 'destroy'});
        $self->_program(map { $actions->outside } 1 .. 2) if $n->percent(60);
    },
    destroy_in_callback => sub { _in_callback(@_, {do => 'destroy'}) },
    # Closed with something unread.
    reset => sub {
        my ($self, $n, $units, $actions) = @_;
        $self->_step('resume', 'settle', 'pause');
        $self->_program({do => 'send', value => 'not to be read'});
        $self->_step('settle', 'vanish');
    },
    broken_pipe => sub {
        my ($self, $n, $units, $actions) = @_;
        # Over TCP the error comes later.
        return $self->_step('shutdown') if $self->{setup}{transport} eq 'tcp' || $self->{setup}{autocork};
        $self->_step('resume', 'settle', 'vanish');
        $self->_program($actions->message);
    },
    too_big => sub {
        my ($self, $n, $units, $actions) = @_;
        return $self->_step('shutdown') if $self->{setup}{unlimited};
        $self->_step('settle');
        my $room = $self->{setup}{small_reads} ? 0 : 1000;
        $self->_peer((map { $units->small } 1 .. $n->below(5)), $units->too_big($room));
        $self->_step('settle') if $n->percent(70);
        $self->_program($actions->outside) if $n->percent(40);
    },
    too_many => sub {
        my ($self, $n, $units, $actions) = @_;
        $self->_step('settle');
        $self->_peer((map { $units->any } 1 .. $n->below(3)), $units->too_many);
        $self->_peer(map { $units->any } 1 .. 2) if $n->percent(50);
        $self->_step('settle');
        $self->_program($actions->outside) if $n->percent(40);
    },
    die => sub {
        my ($self, $n, $units, $actions) = @_;
        $self->_step('settle');
        my @first = map { $actions->outside } 1 .. $n->below(2);
        my $value = $n->pick("text\n", 'text without an end', "0\n", {code => 5}, \'object', '', "\x{263A}\n");
        $self->_on_message(@first, {do => 'die', value => $value});
        $self->_program($actions->on(0)) if $n->percent(50);
        $self->_peer(map { $units->small } 1 .. $n->between(1, 4));
        $self->_peer(map { $units->any } 1 .. $n->below(3)) if !$self->{no_more};
        $self->_step('settle');
        $self->_program($actions->outside) if $n->percent(40);
        $self->_peer($units->any, $units->close) if $n->percent(40) && !$self->{no_more};
    },
    push_shutdown => sub {
        my ($self, $n, $units, $actions) = @_;
        $self->_step('settle');
        $self->_program({do => 'push_shutdown'});
        $self->_step('settle') if $n->percent(50);
        $self->_step('shutdown');
    },
    # A Close frame of the program's own making (compat D2).
    raw_close => sub {
        my ($self, $n, $units, $actions) = @_;
        $self->_step('settle');
        my $body = pack('n', $n->pick(@Differential::Units::CLOSE_CODES)) . $units->reason(123);
        $self->_program({do => 'message', opcode => 8, body => $body, class => 'original'});
        $self->_step('settle', 'shutdown');
    },
);
my @WEIGHTS = (
    12 => 'program_close', 14 => 'peer_close', 7 => 'crossing', 6 => 'close_in_callback', 8 => 'eof',
    6 => 'cut_off', 8 => 'drop', 5 => 'drop_in_callback', 4 => 'destroy', 4 => 'destroy_in_callback',
    5 => 'reset', 4 => 'broken_pipe', 8 => 'too_big', 6 => 'too_many', 10 => 'die', 3 => 'push_shutdown',
    3 => 'raw_close',
);

sub endings { return sort keys %END }

# More than the socket takes, for a peer that does not read yet.
sub _leave_unsent {
    my ($self) = @_;
    my $value = $self->{numbers}->binary($self->{setup}{narrow} ? 5_000 : 70_000);
    $self->_step('pause');
    $self->_program(map { {do => 'send', value => $value} } 1 .. 5);
    return;
}

# Does something at the next message.
sub _on_message {
    my ($self, @actions) = @_;
    my $event = $self->{numbers}->pick('each_message', 'next_message');
    $self->_program($self->{actions}->callback($event, turns => [\@actions]));
    return;
}

# One message more, and then the connection ends in a callback for it, or after the last of a few that come with one
# read.
sub _in_callback {
    my ($self, $n, $units, $actions, $action) = @_;
    $self->_step('settle');
    my $several = $action->{do} eq 'drop' && !$self->{setup}{small_reads};
    $self->_on_message($action);
    $self->_peer(map { $units->small } 1 .. ($several ? $n->between(1, 4) : 1));
}

sub _end {
    my ($self) = @_;
    my ($n, $units, $actions) = @$self{qw(numbers units actions)};
    my $end = $n->weighted(@WEIGHTS);
    # Callbacks for the end that do something.
    for my $event (qw(parse_error finish)) {
        next if $n->percent(60);
        my $on   = $actions->callback($event);
        my $last = $n->weighted(60 => undef, 25 => {do => 'drop'}, 15 => {do => 'die', value => "at the end\n"});
        # What dies there keeps the handle from being destroyed after an error.
        $last = undef if $last && $last->{do} eq 'die' && $end =~ /^(?:reset|broken_pipe)$/;
        if ($last && $last->{do} eq 'drop' && $event eq 'parse_error') {
            # Nothing may be left unread then.
            $last = undef if $end eq 'too_many' || $self->{setup}{small_reads};
            $self->{no_more} = 1;
        }
        push @{ $on->{turns}[0] }, $last if $last;
        $self->_program($on);
    }
    $self->{end} = $end;
    $END{$end}->($self, $n, $units, $actions);
    return if $n->percent(80);
    # Afterwards all this does nothing, and no harm.
    $self->_step('settle');
    $self->_program(map { $actions->outside } 1 .. 2);
}

1;
