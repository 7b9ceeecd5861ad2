package AnyEvent::WebSocket::Connection::Shim;

# The set-up and the rare paths between a Connection and its handle, in Perl. The rest of this package is
# XSUBs. It is private to AnyEvent::WebSocket::Connection.

use strict;
use warnings;

our $VERSION = '1.000';

use AE           ();
use Errno        qw(EBADF);
use Scalar::Util qw(blessed refaddr reftype weaken);

use AnyEvent::WebSocket::Connection::Linger ();
use AnyEvent::WebSocket::Connection::Timer  ();

# Frames go past the handle only where its inside is as it is known to us; otherwise all goes through
# its methods.
my $handle_is_known;

sub handle_is_known {
    return $handle_is_known if defined $handle_is_known;
    my ($version) = (AnyEvent::Handle->VERSION || 0) =~ /^(\d+\.?\d*)/;
    my @missing = grep { !AnyEvent::Handle->can($_) } qw(_drain_rbuf _drain_wbuf _error start_read);
    return $handle_is_known = $version >= 7 && $version < 8 && !@missing;
}

# Puts our code into the handle's places. Reading starts when the event loop has been idle once, or soon
# (compat C13); what the handle has read already comes through on_read at once, or, where this runs
# inside its on_read, when that has returned.
sub install {
    my ($connection, $handle) = @_;
    my ($input, $finish, $idle) = closures($connection);
    $handle->on_error($finish);
    $handle->on_eof($finish);
    my $direct = ref $handle eq 'AnyEvent::Handle' && handle_is_known() && choose_direct($connection);
    $handle->{_rw} = parked() if $direct;
    if ($direct && !length($handle->{rbuf} // '') && !$handle->{_eof} && !@{ $handle->{_queue} || [] }) {
        # Nothing of what the method does besides is to be done.
        $handle->{on_read} = $input;
    }
    else {
        $handle->on_read($input);
    }
    keep_idle($connection, when_idle($idle));
}

# How long a loop that is never idle keeps a new connection waiting, in seconds: one peer that keeps the program busy
# is not to make all who come after it mute.
my $IDLE_ENOUGH = 0.05;

my $idle_is_emulated;

# The watchers for that. AnyEvent emulates idle watchers where the event loop has none, but its emulation does not end
# when it is let go of in its own callback. What it would do first is to wait for as long as this.
sub when_idle {
    my ($code) = @_;
    # A loop that has been held up has an old time, by which the timer would be due at once.
    AE::now_update;
    my $timer = AE::timer($IDLE_ENOUGH, 0, $code);
    # The event loop does not change any more.
    $idle_is_emulated //= AnyEvent::detect()->can('idle') == AnyEvent::Base->can('idle');
    return $idle_is_emulated ? [$timer] : [$timer, AE::idle($code)];
}

# The following are called by the XSUBs: with the handle

sub start_reading {
    my ($handle) = @_;
    # Some event loops take a watcher on a closed descriptor for one on another.
    if (!defined fileno $handle->{fh}) {
        $handle->{wbuf} = '';
        return $handle->_error(EBADF, 1);
    }
    $handle->{_rw} = AE::io($handle->{fh}, 0, $handle->{on_read});
}

sub hand_over {
    my ($handle) = @_;
    delete $handle->{_rw};
    return $handle->_error(EBADF, 1) if _is_closed($handle);
    $handle->start_read;
}

# Handles of derived classes, and objects with the same methods, or some of them. What is derived would start reading again
# after its on_read, if it were told by its method to stop.
sub stop_reading {
    my ($handle) = @_;
    if (_is_a_handle($handle) && handle_is_known()) { park($handle) if ref $handle->{_rw} }
    else                                            { $handle->stop_read if _can($handle, 'stop_read') }
}

sub go_on_reading {
    my ($handle) = @_;
    if (_is_a_handle($handle) && handle_is_known()) { hand_over($handle) if is_parked($handle) }
    else                                            { $handle->start_read if _can($handle, 'start_read') }
}

sub is_parked {
    my ($handle) = @_;
    return defined $handle->{_rw} && !ref $handle->{_rw};
}

# Some objects pass on what they are asked.
sub _can {
    my ($handle, $method) = @_;
    return $handle->can($method) || $handle->can('AUTOLOAD');
}

# When the handle has written last, as far as that is known.
sub last_write {
    my ($connection) = @_;
    my $handle = handle($connection);
    return _is_a_handle($handle) ? $handle->{_wactivity} // 0 : 0;
}

sub _is_a_handle {
    my ($handle) = @_;
    return (reftype($handle) // '') eq 'HASH' && UNIVERSAL::isa($handle, 'AnyEvent::Handle');
}

# Whether the program has closed its descriptor.
sub _is_closed {
    my ($handle) = @_;
    return unless ref $handle eq 'AnyEvent::Handle' || _is_a_handle($handle);
    return $handle->{fh} && !defined fileno $handle->{fh};
}

# Has code called, in a turn of its own, when all is written; what the program has in that place is called as ever.
sub watch_drain {
    my ($handle, $drained) = @_;
    return unless _is_a_handle($handle);
    my $theirs = $handle->{on_drain};
    my ($address, $is_over);
    my $ours = $handle->{on_drain} = sub {
        my ($handle) = @_;
        # A low_water_mark is above that. Once is enough, should the program keep this.
        if (!$is_over && !length($handle->{wbuf} // '') && !length($handle->{_tls_wbuf} // '')) {
            $is_over = 1;
            later($drained);
            if ((refaddr($handle->{on_drain}) // 0) == $address) {
                if   ($theirs) { $handle->{on_drain} = $theirs }
                else           { delete $handle->{on_drain} }
            }
        }
        $theirs->($handle) if $theirs;
    };
    $address = refaddr $ours;
}

# Nothing is to be sent any more, neither by the handle's destructor nor by the program.
sub give_up {
    my ($handle) = @_;
    dont_linger($handle);
    return unless _is_a_handle($handle);
    delete $handle->{_ww};
    $handle->{$_} = '' for qw(wbuf _tls_wbuf);
    shutdown $handle->{fh}, 1 if $handle->{fh} && !_is_closed($handle);
}

sub at_eof {
    my ($handle) = @_;
    stop(delete $handle->{_rw});
    $handle->{_eof} = 1;
    $handle->_drain_rbuf;
}

# Pauses reading. With EV a watcher whose callback is running does not stop by being let go of, and a nested
# event loop would spin on it (compat C22).
sub park {
    my ($handle) = @_;
    stop($handle->{_rw});
    $handle->{_rw} = parked();
}

sub stop {
    my ($watcher) = @_;
    # AnyEvent::Strict wraps watchers.
    ($watcher) = grep { blessed $_ } reverse @$watcher if ref $watcher eq 'AnyEvent::Strict::io';
    $watcher->stop if blessed $watcher && $watcher->isa('EV::Watcher');
}

sub cork {
    my ($handle, $watcher) = @_;
    $handle->{_ww} = AE::io($handle->{fh}, 1, $watcher);
}

# Handles without a connection that may be held only by what runs: one of their methods.
my %undecided;

# The connection is gone. So is the handle, unless the program keeps it; if there is something to linger for, because the
# connection has not ended before, it does.
sub detach {
    my ($handle, $direct, $ended) = @_;
    if ($direct) {
        delete $handle->{_rw};
        return if $ended;
    }
    # Some event loops take a watcher on a closed descriptor for one on another.
    return dont_linger($handle) if _is_closed($handle);
    if (!$direct) {
        $handle->on_read(sub { $_[0]{rbuf} = '' });
        # With a pause the peer's end would not be seen.
        hand_over($handle) if ref $handle eq 'AnyEvent::Handle' && is_parked($handle);
    }
    return if $ended || !_is_a_handle($handle) || !handle_is_known();
    # The connection still holds it twice, and this function does.
    return AnyEvent::WebSocket::Connection::Linger::linger($handle) if references($handle) <= 3;
    my ($address, $process) = (refaddr($handle), $$);
    $undecided{$address} = $handle;
    later(sub {
        # Two connections that the program has made of one handle ask once.
        my $handle = delete $undecided{$address} or return;
        return if references($handle) > 1 || !_is_a_handle($handle) || _is_closed($handle);
        # What waits is not a child's to send (compat D3).
        if   ($process == $$) { AnyEvent::WebSocket::Connection::Linger::linger($handle) }
        else                  { dont_linger($handle) }
    });
}

# At the end of the program, when there is no event loop that a destructor could go on with.
sub decide {
    dont_linger($_) for values %undecided;
}

# Not in the process that made the connection: what waits to be sent is the parent's to send (compat
# D3).
sub abandon {
    my ($handle, $direct) = @_;
    delete $handle->{_rw} if $direct;
    dont_linger($handle);
}

# The handle's destructor is not to go on sending: in another process, or to a peer that takes nothing, or at
# the end of the program, when the event loop may be gone before the handle is.
sub dont_linger {
    my ($handle) = @_;
    $handle->{linger} = 0 if _is_a_handle($handle);
}

my $shut_down = sub { shutdown $_[0]{fh}, 1 if $_[0]{fh} };

# Shuts down the write side when all is sent.
sub shut_down_handle {
    my ($handle) = @_;
    # A descriptor that was closed behind the handle's back is an error to it, but there is nothing to
    # shut down.
    return if _is_closed($handle);
    return $handle->push_shutdown if ref $handle ne 'AnyEvent::Handle' || !handle_is_known();
    return AnyEvent::WebSocket::Connection::Linger::shut_down_tls($handle) if $handle->{tls};
    # With nothing left to send it has run.
    return if (refaddr($handle->{on_drain}) // 0) == refaddr($shut_down) && !length($handle->{wbuf} // '');
    # As push_shutdown does it.
    delete $handle->{low_water_mark};
    $handle->on_drain($shut_down);
}

# and with code,

sub later {
    my ($code) = @_;
    AnyEvent::postpone { $code->() };
}

# and with the connection.

# The event loop has been idle once, or is not going to be. The first delivery has a turn of its own: nested event
# loops do not work inside an idle watcher with every backend.
sub on_idle {
    my ($connection, $ready) = @_;
    keep_idle($connection, AE::timer(0, 0, $ready));
}

sub on_close {
    my ($connection, $code, $reason) = @_;
    @$connection{qw(close_code close_reason)} = ($code, $reason);
}

# Runs the callbacks for an event that comes once, with arguments of their own, whatever they do to their @_.
# One that is added or cancelled by another counts.
sub run_callbacks {
    my ($connection, $event, $text) = @_;
    my $ran;
    while (my $callback = next_callback($connection, $event)) {
        $ran = 1;
        $callback->(my $argument = $connection, my $argument_text = $text);
    }
    return $ran;
}

# Runs code, then other code in any case; what the first one throws is thrown then.
sub finally {
    my ($code, $finally) = @_;
    my $done = eval { $code->(); 1 };
    my $exception = $@;
    $finally->();
    die $exception unless $done;
}

sub on_failure {
    my ($connection, $text) = @_;
    finally(sub { run_callbacks($connection, 'parse_error', $text) }, sub { shut_down($connection) });
}

# A callback of the program died, and that has failed the connection (compat C15).
sub on_exception {
    my ($connection, $exception) = @_;
    finally(
        sub { run_callbacks($connection, 'parse_error', $exception) or warn $exception },
        sub { shut_down($connection) },
    );
}

sub on_finish {
    my ($connection, $text) = @_;
    my $how = finish($connection) or return;
    my $handle = handle($connection);
    shut_down_handle($handle) unless $how eq 'cut off';
    $connection->{close_error} = $text if defined $text;
    my $done = eval { run_callbacks($connection, 'finish', $text); 1 };
    my $exception = $@;
    # No callback will run any more after these; forgetting them ends their hold on the connection.
    forget_callbacks($connection);
    $handle->destroy if $how eq 'cut off' && _can($handle, 'destroy');
    die $exception unless $done;
}

# A Close frame is out: nothing follows it, and the peer is waited for.
sub shut_down {
    my ($connection) = @_;
    shut_down_handle(handle($connection));
    start_close_timer($connection);
}

# What Connection/Timer.pm is for.
*start_close_timer   = \&AnyEvent::WebSocket::Connection::Timer::start_closing;
*start_release_timer = \&AnyEvent::WebSocket::Connection::Timer::start_releasing;
*await_pong          = \&AnyEvent::WebSocket::Connection::Timer::await_pong;

1;
