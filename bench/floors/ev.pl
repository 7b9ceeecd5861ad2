#!/usr/bin/env perl

# Sends messages of a fixed size back as they are: what a server in Perl on EV cannot do without.

use v5.36;

use EV;
use Errno  qw( EAGAIN EINTR EWOULDBLOCK );
use Getopt::Long qw( GetOptions );
use Socket qw( inet_aton pack_sockaddr_in unpack_sockaddr_in );
use Socket qw( AF_INET IPPROTO_TCP SOCK_STREAM SOMAXCONN TCP_NODELAY );

my $USAGE = <<'END';
usage: ev.pl --message BYTES

Sends messages of that size back, on 127.0.0.1. Prints its port and its process
id, and ends with its standard input.
END
GetOptions( 'message=i' => \my $message, 'help' => \my $help ) && !@ARGV or die $USAGE;
if ($help) { print $USAGE; exit }
die "--message must be at least 1\n" if ( $message // 0 ) < 1;

# Bytes asked for in one read, or what is left of a message if that is more.
use constant READ => 128 << 10;

socket my $listener, AF_INET, SOCK_STREAM, 0 or die "socket: $!\n";
bind $listener, pack_sockaddr_in( 0, inet_aton('127.0.0.1') ) or die "bind: $!\n";
listen $listener, SOMAXCONN or die "listen: $!\n";
$listener->blocking(0);

my %watchers;
my $accepting = EV::io $listener, EV::READ, sub {
    while ( accept my $socket, $listener ) {
        $socket->blocking(0);
        setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;
        echo($socket);
    }
};

sub echo ($socket) {
    # What has been read and not yet sent back; of it $whole bytes belong to messages that are whole.
    my $buffer = '';
    my $whole  = 0;
    my $id     = fileno $socket;
    my $writing;

    my $send = sub {
        my $sent = syswrite $socket, $buffer, $whole;
        return delete $watchers{$id} if !defined $sent && !( $!{EAGAIN} || $!{EWOULDBLOCK} || $!{EINTR} );
        $sent //= 0;
        $whole -= $sent;
        if   ( $sent == length $buffer ) { $buffer = '' }
        else                             { substr $buffer, 0, $sent, '' }
        if ( !$whole ) {
            undef $writing;
            return;
        }
        $writing //= EV::io $socket, EV::WRITE, __SUB__;
    };
    $watchers{$id} = EV::io $socket, EV::READ, sub {
        my $filled = length $buffer;
        my $part   = $filled - $whole;
        my $ask    = $message - $part > READ ? $message - $part : READ;
        my $n      = sysread $socket, $buffer, $ask, $filled;
        if ( !$n ) {
            return if !defined $n && ( $!{EAGAIN} || $!{EWOULDBLOCK} || $!{EINTR} );
            delete $watchers{$id};
            return;
        }
        $part += $n;
        return if $part < $message;
        $whole += $part - $part % $message;
        $send->() if !$writing;
    };
}

{
    local $| = 1;
    my ($port) = unpack_sockaddr_in getsockname $listener;
    print "$port $$ EV $EV::VERSION\n";
}
my $stdin = EV::io *STDIN, EV::READ, sub { EV::break if !sysread STDIN, my $ignored, 4096 };
EV::run;
