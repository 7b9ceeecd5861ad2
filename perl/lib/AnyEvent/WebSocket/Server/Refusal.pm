package AnyEvent::WebSocket::Server::Refusal;

# What the socket has not taken at once of a response that refuses the request. It is sent on a descriptor of our own:
# that of the program is the program's to close, and what we had watching it would be left on a number that may be
# another's by then. It is private to AnyEvent::WebSocket::Server.

use strict;
use warnings;

our $VERSION = '1.000';

use AE    ();
use Errno qw(EAGAIN EINTR);

# Calls `$then` once it is sent, in a turn of the event loop of its own; or with what is wrong.
sub send_rest {
    my ($fh, $octets, $seconds, $then) = @_;
    open my $own, '>&', $fh or return $then->("not all of it could be sent: $!");
    binmode $own;
    # All that is here ends with `then`: some event loop never lets go of the callback of a timer that is cancelled.
    my %sending = (fh => $own, octets => $octets, then => $then);
    my $end     = sub {
        my ($error) = @_;
        my $then = delete $sending{then} or return;
        %sending = ();
        $then->($error);
    };
    AE::now_update;
    $sending{timer} = AE::timer($seconds, 0, sub {
        $end->("the client has not taken all of it within $seconds seconds");
    });
    $sending{watcher} = AE::io($own, 1, sub {
        return unless $sending{watcher};
        my $written = syswrite $sending{fh}, $sending{octets};
        my $error;
        if (defined $written) {
            substr $sending{octets}, 0, $written, '';
            return if length $sending{octets};
        }
        else {
            return if $! == EAGAIN || $! == EINTR;
            $error = "not all of it could be sent: $!";
        }
        # With EV this watcher is not gone before it returns.
        delete $sending{watcher};
        $sending{timer} = AE::timer(0, 0, sub { $end->($error) });
    });
    return;
}

1;
