package AnyEvent::WebSocket::Connection::Timer;

# What a connection does when nothing happens for a while: one timer for all of it, and none where there is nothing to
# wait for. What is silence is looked at in parts, and a time is over when each of them has passed without what was waited
# for: however long the process itself was held up, that is one of them. It is private to
# AnyEvent::WebSocket::Connection.

use strict;
use warnings;

our $VERSION = '1.000';

use AE           ();
use List::Util   qw(min);
use Scalar::Util qw(weaken);

# In how many parts; what puts it off, or ends it; what is due when it is over.
my %WAIT = (
    # Our Close frame is out (compat D6).
    close => [4, \&_is_there, sub { AnyEvent::WebSocket::Connection::Shim::cut_off($_[0], 'close timeout') }],
    # Anything that arrives is a sign of life.
    pong => [4, \&_has_answered, sub { AnyEvent::WebSocket::Connection::Shim::cut_off($_[0], 'ping timeout') }],
    ping => [1, sub { 0 }, \&_ping],
    idle => [4, \&_has_talked, sub { $_[0]->close(1001, 'idle timeout') }],
    # A compressor that is not in use is freed.
    release => [1, sub { !AnyEvent::WebSocket::Connection::Shim::release_if_idle($_[0]) }, sub { }],
);

# Some event loops count milliseconds, in 32 bits.
my $LONGEST  = 1_000_000;
my $SHORTEST = 0.001;

sub start_keepalive {
    my ($connection) = @_;
    _start($connection, ping => $connection->ping_interval);
    _start($connection, idle => $connection->idle_timeout);
}

sub await_pong {
    my ($connection) = @_;
    # An older Ping's time is over earlier, unless it has been answered.
    return if _waits_for($connection, 'pong') && !AnyEvent::WebSocket::Connection::Shim::something_came($connection);
    # What came before the Ping tells nothing.
    AnyEvent::WebSocket::Connection::Shim::has_received($connection);
    _start($connection, pong => $connection->ping_timeout);
}

sub start_releasing {
    my ($connection, $seconds) = @_;
    _start($connection, release => $seconds);
}

# A Close frame is out: the only thing to wait for is the peer's.
sub start_closing {
    my ($connection) = @_;
    # With that the timer is forgotten, but once only.
    AnyEvent::WebSocket::Connection::Shim::on_closing($connection)
        and _start($connection, close => $connection->close_timeout);
}

sub _waits_for {
    my ($connection, $name) = @_;
    my $timer = AnyEvent::WebSocket::Connection::Shim::timer($connection);
    return $timer && $timer->{waits}{$name};
}

sub _start {
    my ($connection, $name, $seconds) = @_;
    return unless ($seconds // 0) > 0;
    my $timer = AnyEvent::WebSocket::Connection::Shim::timer($connection);
    AnyEvent::WebSocket::Connection::Shim::keep_timer($connection, $timer = {}) if !$timer;
    my $parts = $WAIT{$name}[0];
    my $part  = $seconds / $parts;
    my $now   = AnyEvent::WebSocket::Connection::Shim::monotonic();
    my $at    = $now + $part;
    my $wait  = $timer->{waits}{$name} = { part => $part, left => $parts, at => $at };
    # To compare with.
    _takes($connection, $wait) if $parts > 1;
    _arm($connection, $timer, $at, $now) if !defined $timer->{at} || $at < $timer->{at};
}

sub _arm {
    my ($connection, $timer, $at, $now) = @_;
    my $after = $at - $now;
    $after = $after < 0 ? 0 : $after > $LONGEST ? $LONGEST : $after;
    weaken $connection;
    $timer->{at}      = $at;
    $timer->{watcher} = AE::timer($after, 0, sub { _tick($connection) if $connection });
}

sub _tick {
    my ($connection) = @_;
    my $exception = _take_turns($connection);
    die $exception->[0] if $exception;
}

# All that is due. Returns what code of the program's has thrown there, in an array, which is for the event loop.
sub _take_turns {
    my ($connection) = @_;
    # The program's own (compat C15).
    local $@;
    my $timer = AnyEvent::WebSocket::Connection::Shim::timer($connection) or return undef;
    if (AnyEvent::WebSocket::Connection::Shim::is_gone($connection)) {
        %$timer = ();
        return undef;
    }
    my $waits = $timer->{waits};
    # Not what is started meanwhile.
    my $now = AnyEvent::WebSocket::Connection::Shim::monotonic() + $SHORTEST;
    my $exception;
    delete $timer->{at};
    for my $name (grep { $waits->{$_}{at} <= $now } sort keys %$waits) {
        my $wait = $waits->{$name} or next;
        my ($parts, $put_off, $due) = @{ $WAIT{$name} };
        $wait->{left} = $put_off->($connection, $wait) ? $parts : $wait->{left} - 1;
        if ($wait->{left} > 0) {
            $wait->{at} = AnyEvent::WebSocket::Connection::Shim::monotonic() + $wait->{part};
            next;
        }
        delete $waits->{$name};
        eval { $due->($connection); 1 } or $exception //= [$@];
        # That may have ended the connection, or begun its end.
        my $timer_now = AnyEvent::WebSocket::Connection::Shim::timer($connection);
        return $exception unless $timer_now && $timer_now == $timer;
    }
    if (%$waits) {
        my $at = min map { $_->{at} } values %$waits;
        _arm($connection, $timer, $at, AnyEvent::WebSocket::Connection::Shim::monotonic());
    }
    else {
        AnyEvent::WebSocket::Connection::Shim::keep_timer($connection, undef);
    }
    return $exception;
}

# Whether the peer has taken something of what waited for it since this was asked.
sub _takes {
    my ($connection, $wait) = @_;
    my ($unsent, $written) = @$wait{qw(unsent written)};
    $wait->{unsent} = AnyEvent::WebSocket::Connection::Shim::unsent($connection);
    return 0 unless $wait->{unsent} || $unsent;
    $wait->{written} = AnyEvent::WebSocket::Connection::Shim::last_write($connection);
    return $unsent && $wait->{written} != $written;
}

sub _is_there {
    my ($connection, $wait) = @_;
    my $takes = _takes($connection, $wait);
    return AnyEvent::WebSocket::Connection::Shim::has_received($connection) || $takes;
}

sub _has_answered {
    my ($connection, $wait) = @_;
    delete AnyEvent::WebSocket::Connection::Shim::timer($connection)->{waits}{pong}
        if AnyEvent::WebSocket::Connection::Shim::something_came($connection);
    return _is_there($connection, $wait);
}

# A long message on its way is talk, too.
sub _has_talked {
    my ($connection, $wait) = @_;
    my $takes = _takes($connection, $wait);
    return AnyEvent::WebSocket::Connection::Shim::has_talked($connection) || $takes;
}

sub _ping {
    my ($connection) = @_;
    _start($connection, ping => $connection->ping_interval);
    return if AnyEvent::WebSocket::Connection::Shim::is_lost($connection);
    # Each has its own payload, so that it is not taken for answered by a late answer to the one before.
    $connection->ping(++AnyEvent::WebSocket::Connection::Shim::timer($connection)->{pings});
}

1;
