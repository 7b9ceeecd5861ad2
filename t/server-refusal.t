# Responses that refuse: sent to their end before the program is told, and nothing of ours left on its socket then.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Server;
use Ending qw(is_open);
use Opening qw(:all);
use Peer qw(nested read_until_eof run_for run_until settle socket_pair);
use Test2::V0;
use Time::HiRes ();

my $STATUS = qr/handshake error: the response has status 403, not 101/;
my $HEAD   = "HTTP/1.1 403 Forbidden\r\n\r\n";
# Many times what a socket takes.
my $LARGE  = $HEAD . 'n' x 4_000_000;

# A server that refuses with these bytes has been sent a request. Returns the condition variable, the client's end and
# the server's.
sub refusing {
    my ($octets, %options) = @_;
    my ($condvar, $client, $socket) = start({handshake => sub { ($octets, 'other') }, %options});
    syswrite $client, request();
    return ($condvar, $client, $socket);
}

# Reads until that much has come, or to the end where it ends before.
sub read_to {
    my ($client, $length) = @_;
    my $bytes = '';
    run_until {
        my $n = 1;
        $n = sysread $client, $bytes, $length - length $bytes, length $bytes while $n && length $bytes < $length;
        length $bytes == $length || defined $n && !$n;
    } "$length bytes";
    return $bytes;
}

sub descriptors { return scalar grep { is_open($_) } 0 .. 255 }

# Nothing runs, and nothing is warned of, for a while.
sub is_quiet {
    my ($name) = @_;
    my $cpu = Time::HiRes::clock();
    is warnings { run_for(0.1) }, [], "$name: no warnings";
    cmp_ok Time::HiRes::clock() - $cpu, '<', 0.05, "$name: and nothing spins";
    return;
}

subtest 'a small one' => sub {
    my $refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    my ($condvar, $client, $socket) = refusing($refusal);
    like outcome($condvar)->{error}, qr/^$STATUS at /, 'is an error';
    is read_some($client, length $refusal), $refusal, 'after it was sent';
    close $socket;
    is read_until_eof($client), '', 'and nothing else';
};

subtest 'a large one' => sub {
    my ($condvar, $client, $socket) = refusing($LARGE);
    settle();
    ok !$condvar->ready, 'is not over before it is sent';
    my $bytes = read_to($client, length $LARGE);
    ok $bytes eq $LARGE, 'all of it comes';
    like outcome($condvar)->{error}, qr/^$STATUS at /, 'then there is the error';
    syswrite $socket, 'more';
    is read_some($client, 4), 'more', 'and the socket is left to the program';
};

subtest 'with establish_psgi' => sub {
    my ($socket, $client) = socket_pair();
    AnyEvent::fh_unblock($client);
    my $condvar = AnyEvent::WebSocket::Server->new(handshake => sub { $LARGE })->establish_psgi(psgi_env(), $socket);
    ok read_to($client, length $LARGE) eq $LARGE, 'all of it comes';
    like outcome($condvar)->{error}, qr/^$STATUS at /, 'then there is the error';
};

subtest 'the program closes the socket when it is told, and its number is used again' => sub {
    my ($condvar, $client, $socket) = refusing($LARGE);
    my $number = fileno $socket;
    my (@others, $watcher, $told);
    $condvar->cb(sub {
        $told = $@ if !eval { $_[0]->recv; 1 };
        close $socket;
        @others = map { socket_pair() } 1 .. 4;
        my ($again) = grep { fileno $_ == $number } @others;
        $watcher = AE::io($again, 0, sub { }) if $again;
    });
    ok read_until_eof($client) eq $LARGE, 'all of it comes, and then the end';
    like $told, qr/^$STATUS/, 'it is told';
    ok $watcher, 'the number is used again';
    is_quiet('then');
};

subtest 'the program closes the socket before' => sub {
    my ($condvar, $client, $socket) = refusing($LARGE);
    my $number = fileno $socket;
    settle();
    close $socket;
    my @others = map { socket_pair() } 1 .. 4;
    my ($again) = grep { fileno $_ == $number } @others;
    ok $again, 'the number is used again';
    my $watcher = AE::io($again, 0, sub { });
    is_quiet('then');
    ok read_until_eof($client) eq $LARGE, 'all of it comes, and then the end';
    like outcome($condvar)->{error}, qr/^$STATUS at /, 'and there is the error';
};

subtest 'the program keeps nothing' => sub {
    my ($condvar, $client, $socket) = refusing($LARGE);
    undef $socket;
    undef $condvar;
    ok read_until_eof($client) eq $LARGE, 'all of it comes, and then the end';
};

subtest 'a client that does not read' => sub {
    my ($condvar, $client, $socket) = refusing($LARGE, handshake_timeout => 0.1);
    my $then = AE::time;
    like outcome($condvar)->{error},
        qr/^$STATUS, and the client has not taken all of it within 0\.1 seconds at /, 'has handshake_timeout for it';
    cmp_ok AE::time - $then, '>=', 0.09, 'and not less';
    close $socket;
    is_quiet('then');
    my $part = read_until_eof($client);
    ok length $part < length $LARGE && $part eq substr($LARGE, 0, length $part), 'it can read what was sent';
};

subtest 'a client that goes away' => sub {
    my ($condvar, $client, $socket) = refusing($LARGE);
    settle();
    close $client;
    like outcome($condvar)->{error}, qr/^$STATUS, and not all of it could be sent: ./, 'is told of';
    ok defined fileno $socket, 'the socket is still open';
    is_quiet('then');
};

subtest 'no descriptor stays' => sub {
    my $before = descriptors();
    for my $reads (1, 0) {
        my ($condvar, $client, $socket) = refusing($LARGE, handshake_timeout => $reads ? 5 : 0.05);
        read_to($client, length $LARGE) if $reads;
        like outcome($condvar)->{error}, $STATUS, 'refused';
    }
    settle();
    is descriptors(), $before, 'when it is over';
};

subtest 'there is no descriptor to be had' => sub {
    my ($socket) = socket_pair();
    close $socket;
    my $told;
    AnyEvent::WebSocket::Server::Refusal::send_rest($socket, 'n', 1, sub { ($told) = @_ });
    like $told, qr/^not all of it could be sent: ./, 'is told of';
};

subtest 'what the program does when it is told' => sub {
    my ($condvar, $client, $socket) = refusing($LARGE);
    my $done;
    $condvar->cb(sub {
        my $cpu = Time::HiRes::clock();
        nested { run_for(0.1) };
        cmp_ok Time::HiRes::clock() - $cpu, '<', 0.05, 'it may run the event loop, which does not spin';
        $done = 1;
    });
    read_to($client, length $LARGE);
    run_until { $done } 'its end';
};

done_testing;
