# How long the parts of an opening handshake live: the condition variable, the server, the socket and its watchers.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Server;
use Ending qw(weak is_open descriptor_is_free);
use Opening qw(:all);
use Peer qw(frame close_frame parse_frames nested read_until_eof run_for run_until settle socket_pair history);
use POSIX ();
use Scalar::Util qw(weaken);
use Test2::V0;

my @MASK = (mask => 'life');

# A server whose code holds something that tells whether it is still there.
sub watched_server {
    my (%options) = @_;
    my $token  = {};
    my $server = AnyEvent::WebSocket::Server->new(%options, handshake => sub { $token->{asked}++; $_[1] });
    return ($server, weak($token));
}

# In each way in which a handshake ends, everything of ours goes.
my %ENDS = (
    'a connection that is let go of' => [request() . close_frame(1000, '', @MASK), 0],
    'a request that is refused'      => [request(Host => undef), 0],
    'half a request and EOF'         => ['GET / HTT', 1],
    'nothing and EOF'                => ['', 1],
    'a request that is too large'    => ['x' x 20_000, 0],
    'a timeout'                      => ['GET /', 0],
);
subtest "nothing stays after $_" => do {
    my ($name, $bytes, $eof) = ($_, @{ $ENDS{$_} });
    sub {
        for my $drops ('after the end', 'the condition variable at once', 'the server at once', 'all at once') {
            my ($server, $token) = watched_server(handshake_timeout => 0.2);
            my ($ours, $theirs) = socket_pair();
            AnyEvent::fh_unblock($theirs);
            my $fd = fileno $ours;
            my ($condvar_gone, $done);
            my $condvar = $server->establish($ours);
            $condvar->{guard_of_test} = AnyEvent::Util::guard(sub { $condvar_gone = 1 });
            $condvar->cb(sub { $done++; eval { $_[0]->recv } });
            weaken $ours;
            undef $server  if $drops =~ /server|all/;
            undef $condvar if $drops =~ /variable|all/;
            syswrite $theirs, $bytes if length $bytes;
            shutdown $theirs, 1 if $eof;
            run_until { $done } 'the end';
            undef $_ for $server, $condvar;
            # Of a connection the Close frames are awaited.
            read_until_eof($theirs);
            close $theirs;
            run_until { !is_open($fd) } 'the descriptor to close';
            is $done, 1, "$drops: it is told once";
            ok $condvar_gone, "$drops: the condition variable goes";
            ok !$$token, "$drops: the server goes";
            descriptor_is_free($fd, $drops);
        }
    }
} for sort keys %ENDS;

subtest 'a condition variable that nobody listens to' => sub {
    my ($server) = watched_server();
    my ($ours, $theirs) = socket_pair();
    AnyEvent::fh_unblock($theirs);
    my $fd = fileno $ours;
    $server->establish($ours);
    undef $ours;
    syswrite $theirs, request();
    my $bytes = read_until_eof($theirs);
    ok $bytes =~ s/\AHTTP\/1.1 101 .*?\r\n\r\n//s, 'the handshake is done all the same';
    is [map { $_->{opcode} } parse_frames($bytes)], [8], 'and the connection closes (D3)';
    close $theirs;
    run_until { !is_open($fd) } 'the descriptor to close';
    descriptor_is_free($fd, 'after that');
};

subtest 'an error releases the socket before it is told' => sub {
    my ($condvar, $client, $socket) = start({});
    my $fd = fileno $socket;
    my $open;
    $condvar->cb(sub {
        eval { $_[0]->recv };
        close $socket;
        undef $socket;
        $open = is_open($fd);
    });
    syswrite $client, request(Host => undef);
    run_until { defined $open } 'the error';
    ok !$open, 'closing it there closes it';
    descriptor_is_free($fd, 'and');
};

subtest 'a connection that is dropped in the callback, with unsent data' => sub {
    my ($ours, $theirs) = Peer::tcp_pair();
    AnyEvent::fh_unblock($theirs);
    AnyEvent::WebSocket::Server->new->establish($ours)->cb(sub { $_[0]->recv->send('x' x (8 << 20)); return });
    undef $ours;
    # Input that is not read resets a socket that just closes, and what is under way is lost.
    my $bytes = request() . frame(payload => 'y' x 60_000, @MASK);
    run_until { substr $bytes, 0, syswrite($theirs, $bytes) // 0, ''; !length $bytes } 'writing';
    settle();
    my $got = read_until_eof($theirs) =~ s/\A.*?\r\n\r\n//sr;
    is [map { [$_->{opcode}, length $_->{payload}] } parse_frames($got)], [[1, 8 << 20], [8, 2]],
        'is sent to its end, Close included (C8, D3)';
};

subtest 'the condition variable\'s callback dies' => sub {
    for my $change ([], [Host => undef]) {
        my ($condvar, $client, $socket) = start({});
        my $called = 0;
        $condvar->cb(sub { $called++; eval { $_[0]->recv }; die "a mistake of the program\n" });
        my $caught = '';
        local $SIG{__WARN__} = sub { $caught .= $_[0] };
        syswrite $client, request(@$change);
        run_until { eval { settle(); 1 } or $caught .= $@; $called } 'the call';
        like $caught, qr/a mistake of the program/, 'where it goes is the event loop\'s choice';
        # Some tell it late.
        eval { settle() } for 1 .. 3;
        is $called, 1, 'it is called once';
        weaken $condvar;
        ok !$condvar, 'the condition variable goes';
    }
};

subtest 'the callback runs the event loop' => sub {
    for my $change ([], [Host => undef]) {
        my ($condvar, $client, $socket) = start({});
        my ($called, $ended) = (0, 0);
        $condvar->cb(sub {
            $called++;
            my $connection = eval { $_[0]->recv };
            my $history    = $connection && history($connection);
            nested { $history ? run_until { @$history } 'a message' : run_for(0.05) };
            is $history, ['inside'], 'a connection works there' if $history;
            $ended++;
        });
        syswrite $client, request(@$change) . frame(payload => 'inside', @MASK);
        run_until { $ended } 'the end';
        settle();
        is [$called, $ended], [1, 1], 'and it is called once';
    }
};

subtest 'recv blocks until the end' => sub {
    my ($condvar, $client) = start({validator => sub { 'v' }});
    my $timer = AE::timer 0.02, 0, sub { syswrite $client, request() };
    my ($connection, $other) = $condvar->recv;
    isa_ok $connection, 'AnyEvent::WebSocket::Connection';
    is $other, 'v', 'and what comes with it';
    ($condvar, $client) = start({});
    $timer = AE::timer 0.02, 0, sub { close $client };
    like raises(sub { $condvar->recv }), qr/^connection error: Unexpected end-of-file at \Q$0\E/, 'or croaks';
};

subtest 'in a forked process the parent\'s handshake is left alone' => sub {
    my ($condvar, $client) = start({});
    syswrite $client, substr request(), 0, 20;
    settle();
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        undef $condvar;
        POSIX::_exit(0);
    }
    waitpid $pid, 0;
    is $?, 0, 'a child has come and gone';
    syswrite $client, substr request(), 20;
    ok outcome($condvar)->{connection}, 'and it goes on';
};

subtest 'at the end of a program' => sub {
    for my $at ('in the request', 'in the handshake code', 'in the callback') {
        my ($client, $wait) = Peer::start_program(<<'END', AT => $at);
use AnyEvent::WebSocket::Server;
my $at     = $ENV{AT};
my $server = AnyEvent::WebSocket::Server->new(handshake => sub { exit 3 if $at =~ /code/; $_[1] });
my $socket = program_socket();
my $timer  = AE::timer 0.05, 0, sub { exit 3 } if $at =~ /request/;
$server->establish($socket)->cb(sub { my $connection = $_[0]->recv; exit 3 });
AE::cv->recv;
END
        my $request = request();
        syswrite $client, $at =~ /request/ ? substr $request, 0, 20 : $request;
        my ($status, $output) = $wait->();
        is $status >> 8, 3, "$at: its exit status";
        is $output, '', "$at: and not a word";
    }
};

sub resident {
    open my $statm, '<', '/proc/self/statm' or return undef;
    return (split ' ', readline $statm)[1] * POSIX::sysconf(POSIX::_SC_PAGESIZE());
}

subtest 'memory and descriptors after many' => sub {
    my $slow   = AnyEvent::detect()->can('idle') == AnyEvent::Base->can('idle');
    my $rounds = $slow ? 10 : 400;
    my $server = AnyEvent::WebSocket::Server->new(
        permessage_deflate => 1, subprotocols => ['a'], handshake_timeout => 10);
    my $round  = sub {
        for my $bytes (request('Sec-WebSocket-Protocol' => 'a', 'Sec-WebSocket-Extensions' => 'permessage-deflate')
            . close_frame(1000, '', @MASK), request(Host => undef), 'GET / H')
        {
            my ($condvar, $client) = start($server);
            syswrite $client, $bytes;
            shutdown $client, 1;
            # The loop has to be idle for a new connection to begin.
            my $connection = eval { $condvar->recv } or next;
            my $finished;
            $connection->on(finish => sub { $finished = 1 });
            run_until { $finished } 'finish';
        }
    };
    $round->() for 1 .. ($slow ? 2 : 50);
    settle() for 1 .. 5;
    my $open = grep { is_open($_) } 0 .. 255;
    my @grown;
    for my $window (1 .. 5) {
        my $before = resident() // last;
        $round->() for 1 .. $rounds / 5;
        push @grown, (resident() - $before) / ($rounds / 5);
    }
    settle() for 1 .. 5;
    is scalar(grep { is_open($_) } 0 .. 255), $open, 'no descriptor stays';
    if    (!@grown) { diag 'there is no /proc/self/statm: memory is not measured' }
    elsif ($slow)   { diag 'this event loop is slow to be idle: memory is not measured' }
    else            { cmp_ok((sort { $a <=> $b } @grown)[2], '<=', 200, 'bytes per round') }
};

done_testing;
