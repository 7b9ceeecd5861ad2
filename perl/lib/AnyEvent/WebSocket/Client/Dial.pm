package AnyEvent::WebSocket::Client::Dial;

# TCP connections to where no name has to be resolved: AnyEvent::Socket takes addresses through all that it does for
# names, which costs more than the connection itself. It is private to AnyEvent::WebSocket::Client.

use strict;
use warnings;

our $VERSION = '1.000';

use AE               ();
use AnyEvent         ();
use AnyEvent::Socket ();
use Errno            qw(EAGAIN EINPROGRESS ENOTCONN ETIMEDOUT EWOULDBLOCK);
use Socket           qw(AF_INET IPPROTO_TCP SOCK_STREAM inet_pton pack_sockaddr_in);

# A program that has put a tcp_connect of its own in place of AnyEvent::Socket's means us, too.
my $original = \&AnyEvent::Socket::tcp_connect;
{
    local ($@, $SIG{__DIE__});
    undef $original
        unless eval { require Sub::Util; Sub::Util::subname($original) eq 'AnyEvent::Socket::tcp_connect' };
}

# As AnyEvent::Socket's, whose work it is where there is more to it. Called in other than void context that returns
# what ends the attempt when it is dropped.
sub tcp_connect {
    my ($host, $port, $connected, $prepare) = @_;
    my $ip = $host eq 'localhost' ? '127.0.0.1' : $host;
    my ($ipv4, $ipv6) = map { $_ || 0 } @AnyEvent::PROTOCOL{qw(ipv4 ipv6)};
    # The system's function ignores what is behind a NUL.
    my $address = $ipv4 && $port =~ /\A[0-9]+\z/ && $ip =~ /\A[0-9.]+\z/ && inet_pton(AF_INET, $ip);
    return &AnyEvent::Socket::tcp_connect
        if !$address || $ip ne $host && $ipv6 > $ipv4 || defined wantarray || AnyEvent::WIN32
        || !$original || $original != \&AnyEvent::Socket::tcp_connect;

    _connect($ip, $port, pack_sockaddr_in($port, $address), $connected, $prepare, sub {
        return AnyEvent::Socket::tcp_connect('::1', $port, $connected, $prepare) if $ip ne $host && $ipv6;
        my $errno = $!;
        AnyEvent::postpone { $! = $errno; $connected->() };
    });
    return;
}

sub _connect {
    my ($ip, $port, $address, $connected, $prepare, $fail) = @_;
    socket my $fh, AF_INET, SOCK_STREAM, IPPROTO_TCP or return $fail->();
    AnyEvent::fh_unblock($fh);
    my $timeout = $prepare && $prepare->($fh);
    return $fail->() unless connect($fh, $address) || $! == EINPROGRESS || $! == EWOULDBLOCK;
    # Not every event loop lets go of the code of a watcher that has ended: nothing is to hang on it then.
    my %dialling = (fh => $fh, connected => $connected, fail => $fail);
    $dialling{timer} = AE::timer($timeout, 0, sub {
        my $fail = delete $dialling{fail};
        %dialling = ();
        $! = ETIMEDOUT;
        $fail->();
    }) if $timeout;
    $dialling{watcher} = AE::io($fh, 1, sub {
        my ($fh, $connected, $fail) = @dialling{qw(fh connected fail)};
        if (getpeername $fh) {
            %dialling = ();
            return $connected->($fh, $ip, $port, $fail);
        }
        # For what was wrong; or nothing was, nor has been done.
        sysread $fh, my $nothing, 1 if $! == ENOTCONN;
        return if $! == EAGAIN;
        my $errno = $!;
        undef $fh;
        %dialling = ();
        $! = $errno;
        $fail->();
    });
    undef $_ for $fh, $connected, $fail, $prepare;
}

1;
