package AnyEvent::WebSocket::Connection::Timer;

# What a connection does when nothing happens for a while: one timer for all of it, and none where there is nothing to
# wait for. A time is over when each of its parts has passed without what was waited for: however long the process itself
# was held up, that is one of them. It is private to AnyEvent::WebSocket::Connection.

use strict;
use warnings;

our $VERSION = '1.000';

use AE           ();
use List::Util   qw(min);
use Scalar::Util qw(weaken);

# In how many parts a time is looked at; what puts it off; what is due when it is over.
my %WAIT = (
    # Our Close frame is out (compat D6).
    close => [4, \&_closing_goes_on, sub { _cut_off($_[0], 'close timeout') }],
    # A compressor that is not in use is freed.
    release => [1, sub { !AnyEvent::WebSocket::Connection::Shim::release_if_idle($_[0]) }, sub { }],
    ping    => [1, sub { 0 }, \&_ping],
    # Anything that arrives is a sign of life.
    pong => [4, sub { $_[2]{received} && _stop($_[0], 'pong') }, sub { _cut_off($_[0], 'ping timeout') }],
    idle => [4, sub { $_[2]{talked} }, sub { $_[0]->close(1001, 'idle timeout') }],
);

# The payloads of automatic Pings: each its own, to be told from late answers to the one before.
my $count = 0;

# Some event loops count milliseconds in 32 bits.
my $LONGEST = 1_000_000;

sub start_keepalive {
    my ($connection) = @_;
    _start($connection, ping => $connection->ping_interval);
    _start($connection, idle => $connection->idle_timeout);
}

sub await_pong {
    my ($connection) = @_;
    _start($connection, pong => $connection->ping_timeout) unless _waits_for($connection, 'pong');
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
        and _start($connection, close => $connection->{close_timeout});
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
    if (!$timer) {
        $timer = {};
        AnyEvent::WebSocket::Connection::Shim::keep_timer($connection, $timer);
    }
    $timer->{waits}{$name} = { seconds => $seconds, left => $seconds };
    my $part = $seconds / $WAIT{$name}[0];
    _tick_every($part, $connection, $timer) if !$timer->{part} || $part < $timer->{part};
}

sub _stop {
    my ($connection, $name) = @_;
    my $timer = AnyEvent::WebSocket::Connection::Shim::timer($connection) or return 1;
    delete $timer->{waits}{$name};
    return 1;
}

sub _tick_every {
    my ($part, $connection, $timer) = @_;
    $timer->{part} = $part = $part > $LONGEST ? $LONGEST : $part;
    weaken $connection;
    $timer->{watcher} = AE::timer($part, $part, sub { _tick($connection) if $connection });
}

# Lets the timer tick no more often than it has to.
sub _slow_down {
    my ($connection, $timer) = @_;
    my $waits = $timer->{waits};
    return AnyEvent::WebSocket::Connection::Shim::keep_timer($connection, undef) unless %$waits;
    my $part = min map { $waits->{$_}{seconds} / $WAIT{$_}[0] } keys %$waits;
    _tick_every($part, $connection, $timer) if $part > $timer->{part};
}

sub _seen {
    my ($connection) = @_;
    return {
        received => AnyEvent::WebSocket::Connection::Shim::has_received($connection),
        talked   => AnyEvent::WebSocket::Connection::Shim::has_talked($connection),
    };
}

sub _tick {
    my ($connection) = @_;
    return if AnyEvent::WebSocket::Connection::Shim::is_destroyed($connection);
    my $timer = AnyEvent::WebSocket::Connection::Shim::timer($connection) or return;
    my $seen  = _seen($connection);
    my $waits = $timer->{waits};
    for my $name (sort keys %$waits) {
        my $wait = $waits->{$name} or next;
        my (undef, $put_off, $due) = @{ $WAIT{$name} };
        if ($put_off->($connection, $wait, $seen)) {
            $wait->{left} = $wait->{seconds};
            next;
        }
        # Parts do not always add up to the last digit.
        next if ($wait->{left} -= $timer->{part}) > $wait->{seconds} / 1000;
        delete $waits->{$name};
        $due->($connection);
        # That may have ended the connection, or begun its end.
        my $now = AnyEvent::WebSocket::Connection::Shim::timer($connection);
        return unless $now && $now == $timer;
    }
    _slow_down($connection, $timer);
}

sub _closing_goes_on {
    my ($connection, $wait, $seen) = @_;
    my ($before, $unsent) = ($wait->{unsent}, AnyEvent::WebSocket::Connection::Shim::unsent($connection));
    $wait->{unsent} = $unsent;
    return $seen->{received} || (defined $before && $unsent < $before);
}

sub _ping {
    my ($connection) = @_;
    # One at a time.
    $connection->ping(++$count) unless _waits_for($connection, 'pong');
    _start($connection, ping => $connection->ping_interval)
        if AnyEvent::WebSocket::Connection::Shim::timer($connection);
}

sub _cut_off {
    my ($connection, $text) = @_;
    local $@;
    AnyEvent::WebSocket::Connection::Shim::cut_off($connection, $text);
}

1;
