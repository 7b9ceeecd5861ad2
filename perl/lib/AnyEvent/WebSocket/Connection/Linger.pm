package AnyEvent::WebSocket::Connection::Linger;

# What happens to the socket of a connection that the program has dropped, where the handle goes with it.
#
# Closing a socket with input unread makes the kernel reset the connection, and what the peer has not
# received by then is lost. So what is unsent is sent, the write side is shut down, and the peer's end is
# awaited, before the descriptor closes (compat C8). It is private to AnyEvent::WebSocket::Connection.

use strict;
use warnings;

our $VERSION = '1.000';

use AE           ();
use Errno        qw(EAGAIN EINTR);
use Scalar::Util qw(weaken);

# How long sending may take is the handle's `linger`, which has this default in AnyEvent::Handle; then, how
# long the peer may take to close its side. In seconds.
my $SENDING = 3600;
my $WAITING = 30;

sub _patience {
    my ($handle) = @_;
    return exists $handle->{linger} ? $handle->{linger} || 0 : $SENDING;
}

# For an AnyEvent::Handle that nobody else has.
sub linger {
    my ($handle) = @_;
    # With its end read, nothing makes the kernel reset: the handle itself sends what is unsent.
    return if $handle->{_eof} || !$handle->{fh};
    ref $handle ne 'AnyEvent::Handle' || $handle->{tls} ? _hold($handle) : _plain($handle);
}

# Takes the descriptor and the queue out of a plain handle.
sub _plain {
    my ($handle) = @_;
    my $fh = delete $handle->{fh};
    my $wbuf = delete $handle->{wbuf} // '';
    delete $handle->{_ww};
    my $patience = _patience($handle);
    return if length $wbuf && !$patience;

    my %watcher;
    my $process = $$;
    my $end     = sub { %watcher = () };
    my $write   = sub {
        # The parent's to send (compat D3).
        return $end->() if $process != $$;
        my $written = length $wbuf ? syswrite $fh, $wbuf : 0;
        if (defined $written) {
            substr $wbuf, 0, $written, '';
            return if length $wbuf;
            delete $watcher{write};
            # On a pipe there is nothing to wait for.
            shutdown $fh, 1 or return $end->();
            $watcher{timer} = AE::timer($WAITING, 0, $end);
        }
        elsif ($! != EAGAIN && $! != EINTR) {
            $end->();
        }
    };
    my $read = sub {
        my $got = sysread $fh, my $discarded, 65536;
        if (!defined $got) {
            $end->() if $! != EAGAIN && $! != EINTR;
        }
        elsif (!$got) {
            delete $watcher{read};
            $end->() unless $watcher{write};
        }
    };
    $watcher{write} = AE::io($fh, 1, $write);
    $watcher{read}  = AE::io($fh, 0, $read);
    $watcher{timer} = AE::timer($patience, 0, $end);
    $write->();
}

# Keeps a handle alive that has TLS, since what is unsent may be in several places inside it, or methods of its own. It holds
# itself, so that nothing does any more once somebody destroys it.
sub _hold {
    my ($handle) = @_;
    my $held = $handle->{aews_held} = {handle => $handle};
    my ($is_sent, $is_read);
    weaken($handle);
    my $end = sub { delete $handle->{aews_held} if $handle };
    $handle->on_error($end);
    $handle->on_eof(sub {
        $is_read = 1;
        $end->() if $is_sent;
    });
    $held->{timer} = AE::timer(_patience($handle), 0, $end);
    # Its destructor may run when there is no event loop any more.
    $handle->{linger} = 0;
    weaken($held);
    shut_down_tls($handle, sub {
        return if !$held;
        $is_sent = 1;
        if   ($is_read) { $end->() }
        else            { $held->{timer} = AE::timer($WAITING, 0, $end) }
    });
}

# As push_shutdown, which does not know that TLS data may be on its way from one buffer to the next: what is
# sent before the TLS handshake is done, and then closed, would be lost (compat C21).
sub shut_down_tls {
    my ($handle, $then) = @_;
    delete $handle->{low_water_mark};
    $handle->on_drain(sub {
        my ($handle) = @_;
        return if $handle->{_wbio} && Net::SSLeay::BIO_pending($handle->{_wbio}) > 0;
        shutdown $handle->{fh}, 1 if $handle->{fh};
        $then->() if $then;
    });
}

1;
