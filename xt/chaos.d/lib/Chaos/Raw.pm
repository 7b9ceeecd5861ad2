package Chaos::Raw;

# A peer that is a plain socket, with frames made here, and a fault.

use v5.36;

use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::Socket qw(tcp_connect);
use Peer qw(frame close_frame parse_frames);
use Scalar::Util qw(weaken);
use Socket qw(SOL_SOCKET SO_LINGER SO_RCVBUF);

use Chaos::Checker;
use Chaos::Stream;

# For a server, all are masked.
sub masked (%frame) { return frame(mask => 'Mask', %frame) }

# Bytes that break the protocol, and the code of the Close that they are answered with.
my @VIOLATIONS = (
    [1002, masked(rsv => 4, payload => 'x')],
    [1002, masked(opcode => 3, payload => 'x')],
    [1002, masked(opcode => 11, payload => 'x')],
    [1002, masked(opcode => 9, payload => 'x', fin => 0)],
    [1002, masked(opcode => 9, payload => 'x' x 126)],
    [1002, masked(opcode => 0, payload => 'x')],
    [1002, masked(payload => 'x', fin => 0) . masked(payload => 'x')],
    [1002, masked(payload => 'x', length_bytes => 2)],
    [1002, masked(payload => 'x' x 200, length_bytes => 8)],
    [1002, masked(length => 1 << 63, length_bytes => 8, opcode => 2)],
    [1002, frame(payload => 'not masked')],
    [1002, masked(opcode => 8, payload => 'x')],
    [1002, masked(opcode => 8, payload => pack 'n', 1005)],
    [1007, masked(payload => "caf\xE9 ")],
    [1007, masked(payload => "\xED\xA0\x80", fin => 0)],
    [1007, masked(opcode => 8, payload => pack 'n a*', 1000, "\xFF")],
    [1009, masked(opcode => 2, length => 1 << 30)],
    [1009, masked(opcode => 2, length => (1 << 20) + 1)],
    [1009, masked(payload => 'x', fin => 0) . masked(opcode => 0, payload => 'x', fin => 0) x 200],
);

my $GREETING = masked(payload => 'hello');

sub _request ($self) {
    my ($plan, $port) = @$self{qw(plan port)};
    return "GET /$plan->{cycle}/$plan->{number} HTTP/1.1\r\nHost: 127.0.0.1:$port\r\nUpgrade: websocket\r\n"
        . "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n";
}

# What each kind does: `connected` instead of the whole request; `go` when all are connected; `frame` for each that
# arrives, and `end` at EOF or an error, both of which return true, a text that says what was wrong, or nothing, where
# it goes on. `stays`: over at once as far as the others are concerned, but its socket is kept until the release.
my %KIND = (
    slow => {
        go => sub ($self) {
            my $text = 'slow ' . "\xE2\x82\xAC" x 5;
            $self->_trickle(masked(payload => $text), $self->{run}{seconds});
            $self->{echo} = $text;
        },
        frame => sub ($self, $frame) {
            return "the answer was '$frame->{payload}'" if $frame->{payload} ne $self->{echo};
            return $self->_close;
        },
    },
    'slow handshake' => {
        connected => '',
        # At the end a byte is still missing.
        go  => sub ($self) { $self->_trickle(substr($self->_request, 0, -1), 3 * $self->{run}{seconds}) },
        end => sub ($self) { 1 },
    },
    reset => {
        go => sub ($self) {
            $self->_at($self->{plan}{at}, sub {
                $self->{handle}->push_write($GREETING x 3 . substr $GREETING, 0, $self->{plan}->choose(0 .. 10));
                $self->_reset;
            });
        },
        end => sub ($self) { 'ended before it was reset' },
    },
    'reset handshake' => {
        connected => sub ($self) { substr $self->_request, 0, $self->{plan}->choose(1 .. 100) },
        go        => sub ($self) { $self->_at($self->{plan}{at} / 2, sub { $self->_reset }) },
        end       => sub ($self) { 'ended before it was reset' },
    },
    'half-open' => {
        go  => sub ($self) { $self->{handle}->stop_read; $self->_stays },
        # The server may have had enough of it before it has come to stop.
        end => sub ($self) { 1 },
    },
    'EOF in a frame' => {
        go => sub ($self) {
            my $cut = $self->{plan}->choose(
                substr($GREETING, 0, 1), substr($GREETING, 0, 4), substr($GREETING, 0, 6), substr($GREETING, 0, -1),
                substr(masked(opcode => 2, payload => 'x' x 70_000), 0, 66_000), masked(payload => 'x', fin => 0),
                substr(masked(opcode => 8, payload => pack 'n', 1000), 0, 7),
            );
            $self->_at($self->{plan}{at}, sub {
                $self->{handle}->push_write($GREETING . $cut);
                $self->{handle}->push_shutdown;
            });
        },
        frame => sub ($self, $frame) { $self->_greeting_only($frame) },
        end   => sub ($self) { $self->_expect_end('EOF') },
    },
    violation => {
        go => sub ($self) {
            ($self->{code}, my $bytes) = @{ $self->{plan}->choose(@VIOLATIONS) };
            $self->_at($self->{plan}{at}, sub { $self->{handle}->push_write($GREETING . $bytes) });
        },
        frame => sub ($self, $frame) { $self->_expect_close($frame, $self->{code}, $GREETING) },
    },
    stalled => {
        connecting => sub ($socket) { setsockopt $socket, SOL_SOCKET, SO_RCVBUF, pack 'i', 4096 or die "SO_RCVBUF: $!\n" },
        go => sub ($self) {
            my $plan = $self->{plan};
            $self->{handle}->stop_read;
            my $then = $plan->choose(qw(read reset abandon));
            return $self->_stays if $then eq 'abandon';
            $self->_at($plan->{at}, sub {
                return $then eq 'reset' ? $self->_reset : $self->{handle}->start_read;
            });
        },
        frame => sub ($self, $frame) {
            my ($run, $plan) = @$self{qw(run plan)};
            return if $plan->choose(qw(read reset abandon)) ne 'read';
            # The server may have begun before this peer was told to stall.
            my $checker = $self->{checker} //= Chaos::Checker->new(Chaos::Plan::stalled_stream($plan, $run));
            $checker->take($frame->{opcode}, $frame->{payload});
            return $checker->is_complete ? $self->_close : undef;
        },
    },
    drop => {
        go    => sub ($self) { $self->_greet },
        frame => sub ($self, $frame) { $self->_expect_close($frame, 1000, $GREETING) },
    },
    die => {
        go    => sub ($self) { $self->_greet },
        frame => sub ($self, $frame) {
            # In the callback for the end there is nobody left to tell.
            return $self->_greeting_only($frame) if $self->{plan}->choose(0 .. 2) == 2;
            return $self->_expect_close($frame, 1011, $GREETING);
        },
        end => sub ($self) { $self->{plan}->choose(0 .. 2) == 2 || $self->_expect_end('EOF') },
    },
    destroy => {
        go    => sub ($self) { $self->_greet },
        frame => sub ($self, $frame) { $self->_greeting_only($frame) },
        # What it has not read makes the kernel reset.
        end => sub ($self) { 1 },
    },
);

# Arguments: plan, run, port; over: told when it is over, with a text where something was wrong.
sub new ($class, %arg) {
    return bless {%arg, does => $KIND{ $arg{plan}{kind} } // die("no peer for $arg{plan}{kind}\n"), bytes => ''}, $class;
}

# With these it makes no difference when they are connected, but for the time that a handshake may take.
sub is_last ($self) { defined $self->{does}{connected} }

sub open ($self, $opened) {
    weaken(my $weak = $self);
    $self->{opened}     = $opened;
    $self->{connecting} = tcp_connect '127.0.0.1', $self->{port}, sub ($socket = undef, @) {
        $weak or return;
        delete $weak->{connecting};
        if (!$socket) {
            $weak->_over("not connected: $!");
            return $weak->_tell_opened;
        }
        $weak->_connected($socket);
    }, sub ($socket) {
        $weak->{does}{connecting}->($socket) if $weak && $weak->{does}{connecting};
        return 30;
    };
    return;
}

# All are connected. It may have failed before.
sub go ($self, $) {
    $self->{does}{go}->($self) if $self->{handle};
    return;
}

sub _tell_opened ($self) {
    my $opened = delete $self->{opened} or return;
    $opened->();
    return;
}

sub _connected ($self, $socket) {
    weaken(my $weak = $self);
    my $end = sub ($text) { $weak->_end($text) if $weak };
    $self->{handle} = AnyEvent::Handle->new(
        fh       => $socket,
        linger   => 0,
        no_delay => 1,
        on_eof   => sub (@) { $end->('EOF') },
        on_error => sub ($handle, $fatal, $text) { $end->($text) },
        on_read  => sub ($handle) { $weak->_read($handle) if $weak },
    );
    my $connected = $self->{does}{connected} // $self->_request;
    $connected = $connected->($self) if ref $connected;
    $self->{handle}->push_write($connected) if length $connected;
    return $self->_tell_opened if $self->is_last;
    $self->{awaits_response} = 1;
    return;
}

sub _read ($self, $handle) {
    $self->{bytes} .= $handle->{rbuf};
    $handle->{rbuf} = '';
    if ($self->{awaits_response}) {
        $self->{bytes} =~ s/\A(.*?)\r\n.*?\r\n\r\n//s or return;
        my $status = $1;
        delete $self->{awaits_response};
        $self->_over("the response was $status") if $status !~ /\AHTTP\/1\.1 101 /;
        $self->_tell_opened;
    }
    for my $frame (parse_frames($self->{bytes})) {
        return if $self->{is_over};
        $self->_frame($frame);
    }
    return;
}

sub _frame ($self, $frame) {
    return $self->_over('a masked frame') if $frame->{masked};
    return $self->_over('a frame after Close') if $self->{received_close};
    $self->{received_close} = 1 if $frame->{opcode} == 8;
    my $act    = $self->{does}{frame} // sub { };
    my $result = $self->{awaits_close} ? $self->_expect_close($frame, 1000) : $act->($self, $frame);
    $self->_over($result) if defined $result && $result ne '1';
    return;
}

# The socket has ended.
sub _end ($self, $text) {
    $self->{ended} = $text;
    my $result
        = $self->{opened}           ? "ended in the handshake: $text"
        : $self->{received_close}   ? $self->_expect_end('EOF')
        : $self->{does}{end}        ? $self->{does}{end}->($self)
        :                             "ended by $text";
    $self->_over($result eq '1' ? undef : $result);
    $self->_tell_opened;
    return;
}

# ---- what the kinds are made of

sub _at ($self, $seconds, $code) {
    weaken(my $weak = $self);
    $self->{timer} = AE::timer($seconds, 0, sub { delete $weak->{timer}; $code->() if $weak->{handle} });
    return;
}

sub _greet ($self) {
    # Whether the server acts in its callback or by the time, this comes around then.
    return $self->_at($self->{plan}{at}, sub { $self->{handle}->push_write($GREETING x 2) });
}

sub _trickle ($self, $bytes, $seconds) {
    weaken(my $weak = $self);
    my $each = $seconds / length $bytes;
    $self->{timer} = AE::timer($each, $each, sub {
        return delete $weak->{timer} if !length $bytes || !$weak->{handle};
        $weak->{handle}->push_write(substr $bytes, 0, 1, '');
    });
    return;
}

sub _reset ($self) {
    setsockopt $self->{handle}->fh, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0 or die "SO_LINGER: $!\n";
    return $self->_over(undef);
}

sub _close ($self) {
    $self->{awaits_close} = 1;
    $self->{handle}->push_write(close_frame(1000, '', mask => 'Mask'));
    return;
}

# Frames that repeat what was sent are let pass.
sub _expect_close ($self, $frame, $code, $let_pass = undef) {
    if ($frame->{opcode} == 8) {
        my $got = unpack 'n', $frame->{payload};
        return defined $got && $got == $code ? 1 : "Close $code was to come, but it was " . ($got // 'without a code');
    }
    return defined $let_pass ? $self->_greeting_only($frame) : "a frame with opcode $frame->{opcode} instead of Close";
}

sub _greeting_only ($self, $frame) {
    return $frame->{opcode} == 8 || $frame->{payload} eq 'hello' ? 1 : "a frame with '$frame->{payload}'";
}

sub _expect_end ($self, $end) {
    return $self->{ended} eq $end ? 1 : "ended by $self->{ended}, not $end";
}

sub _stays ($self) {
    $self->{stays} = 1;
    return $self->{over}->($self, undef) if !$self->{is_over}++;
}

sub _over ($self, $problem) {
    return if $self->{is_over}++;
    delete $self->{timer};
    (delete $self->{handle})->destroy if $self->{handle};
    $self->{over}->($self, $problem);
    return;
}

# The end of the cycle.
sub release ($self) {
    (delete $self->{handle})->destroy if $self->{handle};
    $self->_over('was not over in time');
    return;
}

sub verdict ($self) { $self->{checker} && $self->{checker}->verdict }

1;
