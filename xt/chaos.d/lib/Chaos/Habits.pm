package Chaos::Habits;

# What one end of a healthy connection may do besides sending and receiving: it pauses, in callbacks for messages and
# outside of them, and goes on some time later; and it pings, and measures how long the answers take.

use v5.36;

use AnyEvent;
use Digest::MD5  qw(md5);
use Exporter     qw(import);
use Scalar::Util qw(weaken);

use Chaos::Sabotage;

our @EXPORT_OK = qw(HABITS);

# What is counted, here and in Chaos::Talk.
use constant HABITS => qw(pauses pings pongs drains);

# While the messages go back and forth; and of so many messages one pauses in its callback, for at most so many seconds.
use constant {TIMES => 3, ONE_IN => 8, SHORTLY => 0.05};

# Arguments: connection; side; habits: names that are true; key, from which follows when; error: told what is wrong.
sub new ($class, %arg) {
    my $self = bless {%arg, draws => 0, pings => 0, pongs => 0, pauses => 0}, $class;
    weaken($self->{connection});
    return $self if !$self->{habits}{pings};
    weaken(my $weak = $self);
    $self->{connection}->on(pong => sub ($connection, $message, @) { $weak->_ponged($message) if $weak });
    return $self;
}

# A number below 1, always the same ones for a connection.
sub _draw ($self) { unpack('N', md5("habits $self->{key} " . $self->{draws}++)) / 2**32 }

sub start ($self, $seconds) {
    $self->{period} = $seconds / (2 * TIMES);
    $self->_wait(pause => $self->_draw * $self->{period}, \&_pause) if $self->{habits}{pauses};
    $self->_wait(ping  => $self->_draw * $self->{period}, \&_ping)  if $self->{habits}{pings};
    return;
}

sub _wait ($self, $name, $seconds, $code) {
    weaken(my $weak = $self);
    $self->{timers}{$name} = AE::timer($seconds, 0, sub { $weak && $weak->{connection} && $code->($weak) });
    return;
}

# ---- pauses

sub _pause ($self) {
    $self->_pause_for($self->_draw * $self->{period} / 2);
    $self->_wait(pause => $self->_draw * 2 * $self->{period}, \&_pause) if ++$self->{paused_in_turn} < TIMES;
    return;
}

sub _pause_for ($self, $seconds) {
    return if $self->{is_paused}++;
    $self->{pauses}++;
    Chaos::Sabotage::pause($self->{side}, $self->{connection});
    $self->_wait(resume => $seconds, \&_resume);
    return;
}

sub _resume ($self) {
    return if !delete $self->{is_paused};
    delete $self->{timers}{resume};
    $self->{connection}->resume if $self->{connection};
    return;
}

# In the callback for a message.
sub take ($self) {
    return $self->{error}->('a message during a pause') if $self->{is_paused};
    return if !$self->{habits}{pauses} || !$self->{period};
    $self->_pause_for($self->_draw * SHORTLY) if $self->_draw < 1 / ONE_IN;
    return;
}

# ---- Pings

sub _ping ($self) {
    # Numbered, of all lengths.
    my $payload = sprintf '%d ', ++$self->{pings};
    $payload .= 'p' x (1 + $self->_draw * (125 - length $payload));
    substr($payload, 125) = '' if length $payload > 125;
    $self->{pinged_at} = AE::time;
    $self->{connection}->ping($payload);
    $self->_wait(ping => $self->_draw * $self->{period}, \&_ping) if $self->{pings} < 2 * TIMES;
    return;
}

sub _ponged ($self, $message) {
    my ($number) = $message->body =~ /\A(\d+) p+\z/ or return $self->{error}->('a Pong with ' . $message->body);
    return $self->{error}->("a Pong for Ping $number, of $self->{pings}") if $number > $self->{pings};
    # Of many that wait some may be left out, but none comes late.
    return $self->{error}->("a Pong for Ping $number after that for $self->{answered}")
        if $number <= ($self->{answered} // 0);
    $self->{answered} = $number;
    $self->{pongs}++;
    return if $number != $self->{pings};
    my ($latency, $passed) = ($self->{connection}->latency, AE::time - $self->{pinged_at});
    $self->{error}->('the latency is ' . ($latency // 'unknown') . " s, and $passed s have passed")
        if !defined $latency || $latency <= 0 || $latency > $passed + 0.01;
    return;
}

# After a closing handshake that was begun here, before which the peer had time to answer.
sub check_answered ($self) {
    my $answered = $self->{answered} // 0;
    $self->{error}->("Ping $self->{pings} was not answered, $answered was") if $answered != $self->{pings};
    return;
}

# Nothing more of this; the end of the connection is to be seen.
sub stop ($self) {
    delete $self->{timers};
    $self->_resume;
    return;
}

sub counts ($self) { return map { ($_ => $self->{$_}) } qw(pauses pings pongs) }

1;
