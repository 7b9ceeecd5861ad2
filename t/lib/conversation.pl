# A conversation in which everything happens that depends on the event loop. t/backends.t runs it once for
# each of them. Prints the loop's name, a line for each topic, and "done".

use strict;
use warnings;

use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::WebSocket::Connection;
use Peer qw(
    connection_and_peer connection_pair frame handle_on parse_frames read_until_eof receive_frames
    run_until settle socket_pair tcp_pair
);
use Topics;

my $MIB = 1 << 20;

sub check { my ($true, $what) = @_; die "$what\n" if !$true; return }

sub bodies {
    my ($connection) = @_;
    my @bodies;
    $connection->on(each_message => sub { push @bodies, $_[1]->body });
    return \@bodies;
}

topic 'messages both ways' => sub {
    my ($client, $server) = connection_pair({masked => 1, max_payload_size => 0}, {max_payload_size => 0});
    my ($at_client, $at_server) = (bodies($client), bodies($server));
    $server->on(each_message => sub { $_[0]->send(length $_[1]->body) });
    my @sent = ('', '0', 'short', 'm' x 70_000, 'l' x (2 * $MIB));
    $client->send($_) for @sent;
    run_until { @$at_client == @sent } 'replies';
    check("@$at_server" eq "@sent", 'the server got something else');
    same($at_client, [map { length } @sent], 'replies');
};

topic 'fragments and a ping between them' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $bodies = bodies($connection);
    for my $part (
        frame(fin => 0, payload => 'in '), frame(fin => 0, opcode => 0, payload => 'three '),
        frame(opcode => 9, payload => 'there?'), frame(opcode => 0, payload => 'parts'),
        )
    {
        syswrite $peer, $part;
        settle();
    }
    my ($pong) = receive_frames($peer, 1);
    same([@$pong{qw(opcode payload)}], [10, 'there?'], 'pong');
    run_until { @$bodies } 'a message';
    same($bodies, ['in three parts'], 'message');
};

topic 'close with a code' => sub {
    my ($client, $server) = connection_pair({masked => 1}, {});
    my @finished;
    $_->on(finish => sub { push @finished, [@_] }) for $client, $server;
    $client->close(4321, "fin\x{e9}");
    run_until { @finished == 2 } 'finish';
    same([$server->close_code, $server->close_reason], [4321, "fin\xE9"], 'at the server');
    same([$client->close_code], [4321], 'the answer');
    same([map { $_->[1] } @finished], [undef, undef], 'texts for finish');
};

topic 'dropped with unsent data' => sub {
    my ($connection, $peer) = connection_and_peer(tcp => 1);
    settle();
    $connection->send('x' x (8 * $MIB))->send('behind');
    check(length $connection->handle->{wbuf}, 'the socket took everything');
    undef $connection;
    my $wire = read_until_eof($peer);
    same([map { length $_->{payload} } parse_frames($wire)], [8 * $MIB, 6, 2], 'lengths of frames');
};

# Runs the event loop for a while and until the condition holds, also from a callback; returns how often it
# went round. A condition variable would refuse to be waited for inside another.
sub run_nested(&) {
    my ($condition) = @_;
    my ($pause, $turns) = (0, 0);
    my $timer = AE::timer 0.1, 0, sub { $pause = 1 };
    until ($pause && $condition->()) { AnyEvent->_poll; $turns++ }
    return $turns;
}

sub nested_event_loop {
    my ($delivery) = @_;
    my ($connection, $peer)  = connection_and_peer();
    my ($other, $other_peer) = connection_and_peer();
    settle() if $delivery eq 'later';
    my @events;
    $other->on(each_message => sub { push @events, 'other ' . $_[1]->body; $_[0]->send('reply') });
    $connection->on(each_message => sub {
        my ($connection, $message) = @_;
        push @events, 'begin ' . $message->body;
        if ($message->body eq 'nest') {
            $connection->send('from within');
            # More for this connection, which has to wait, and must not keep the loop busy.
            syswrite $peer,       frame(payload => 'waiting');
            syswrite $other_peer, frame(payload => 'message');
            my $turns = run_nested { grep { /^other/ } @events };
            # Event and POE go round by themselves while they wait for a timer.
            my $few = AnyEvent::detect() =~ /::(?:Event|POE)$/ ? 5000 : 200;
            check($turns < $few, "the event loop was busy: $turns turns");
        }
        push @events, 'end ' . $message->body;
    });
    my @errors;
    $connection->on(parse_error => sub { push @errors, $_[1] });
    syswrite $peer, frame(payload => 'nest') . frame(payload => 'same read');
    run_until { @errors || @events == 7 } 'the messages';
    check(!@errors, "@errors");
    same(
        \@events,
        ['begin nest', 'other message', 'end nest', map { ("begin $_", "end $_") } 'same read', 'waiting'],
        'order'
    );
    my ($frame) = receive_frames($peer, 1);
    same([$frame->{payload}], ['from within'], 'sent before the nested loop');
    return;
}
topic "a nested event loop in the $_ delivery" => do { my $delivery = $_; sub { nested_event_loop($delivery) } }
    for 'first', 'later';

topic 'delivery when the event loop was idle' => sub {
    my ($ours, $theirs) = socket_pair();
    syswrite $theirs, frame(payload => 'early') . frame(payload => 'bird');
    shutdown $theirs, 1;
    my $handle     = handle_on($ours);
    my $connection = AnyEvent::WebSocket::Connection->new(handle => $handle);
    my @events;
    $connection->on(each_message => sub { push @events, $_[1]->body });
    $connection->on(finish       => sub { push @events, 'finish' });
    check(!@events, 'delivered at once');
    run_until { @events == 3 } 'messages';
    settle();
    same(\@events, ['early', 'bird', 'finish'], 'events');
};

# A peer that sends without a pause is the same to it.
topic 'delivery when the event loop is never idle' => sub {
    my ($busy, $busy_peer) = socket_pair();
    syswrite $busy_peer, 'is always readable';
    my $turns   = 0;
    my $watcher = AE::io $busy, 0, sub { $turns++ };
    my ($ours, $theirs) = socket_pair();
    syswrite $theirs, frame(payload => 'early');
    my $connection = AnyEvent::WebSocket::Connection->new(handle => handle_on($ours));
    my $bodies = bodies($connection);
    # Not with run_until, whose own timers may be what a loop is idle between.
    my ($done, $too_long) = (AE::cv);
    my $timer = AE::timer 5, 0, sub { $too_long = 1; $done->send };
    $connection->on(each_message => $done);
    check(!@$bodies, 'delivered at once');
    $done->recv;
    check(!$too_long, "not delivered in $turns turns of the loop");
    undef $watcher;
    syswrite $theirs, frame(payload => 'late');
    run_until { @$bodies == 2 } 'another message';
    settle();
    same($bodies, ['early', 'late'], 'messages');
};

topic 'replies from callbacks leave in order' => sub {
    my ($connection, $peer) = connection_and_peer();
    $connection->on(each_message => sub { $_[0]->send($_[1]->body x 3000) });
    syswrite $peer, join '', map { frame(payload => $_) } 1 .. 100;
    same([map { $_->{payload} } receive_frames($peer, 100)], [map { $_ x 3000 } 1 .. 100], 'replies');
};

topic 'close timeout' => sub {
    my ($connection, $peer) = connection_and_peer(close_timeout => 0.05);
    my @finish;
    $connection->on(finish => sub { push @finish, $_[1] });
    $connection->close;
    run_until { @finish } 'finish';
    same(\@finish, ['close timeout'], 'text');
};

topic 'a connection reset' => sub {
    my ($connection, $peer) = connection_and_peer(tcp => 1);
    my @finish;
    $connection->on(finish => sub { push @finish, $_[1] });
    settle();
    setsockopt $peer, Socket::SOL_SOCKET(), Socket::SO_LINGER(), pack 'ii', 1, 0;
    close $peer;
    run_until { @finish } 'finish';
    local $! = Errno::ECONNRESET();
    same(\@finish, ["$!"], 'text');
};

run_topics();
