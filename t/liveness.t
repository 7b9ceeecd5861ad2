# Whether the peer is there: Pings, and times after which something happens.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use Ending qw(is_open close_body);
use Far    qw(each_way connection_and_far);
use Peer   qw(connection_and_peer frame history finished receive_frames run_until run_for settle);
use Test2::V0;

my ($TEXT, $CLOSE, $PING, $PONG) = (1, 8, 9, 10);

# The times here are multiples of this, in seconds: long enough to set up TLS on a slow machine.
my $UNIT = $ENV{AEWS_TEST_TIMEOUT} ? 1 : 0.02;

for my $way (each_way()) {
    my ($name, @options) = @$way;
    my $unit = $name =~ /TLS/ ? 5 * $UNIT : $UNIT;

    subtest "ping, pong and latency, $name" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my @pongs;
        $connection->on(pong => sub { push @pongs, [@_] });
        is $connection->latency, undef, 'no latency before there is an answer';
        ref_is $connection->ping('one'), $connection, 'ping returns the connection';
        $connection->ping->ping(0);
        is $far->frames(3), [[$PING, 'one'], [$PING, ''], [$PING, '0']], 'the Pings';
        $far->say([$PONG, 'one']);
        run_until { @pongs == 1 } 'a Pong';
        my $latency = $connection->latency;
        ok $latency > 0 && $latency < 5, 'the latency' or diag $latency;
        run_for(0.01);
        $far->say([$PONG, '0']);
        run_until { @pongs == 2 } 'the answer to the last';
        ok $connection->latency >= $latency + 0.01, 'which took longer' or diag $connection->latency;
        $latency = $connection->latency;
        $far->say([$PONG, '0'], [$PONG, '']);
        run_until { @pongs == 4 } 'one more, and one that is late';
        is $connection->latency, $latency, 'answer nothing any more';
        is [map { [ref $_->[1], $_->[1]->is_pong ? 1 : 0, $_->[1]->body] } @pongs],
            [map { ['AnyEvent::WebSocket::Message', 1, $_] } 'one', 0, 0, ''], 'the messages';
        ref_is $pongs[0][0], $connection, 'with the connection';
        like dies { $connection->ping([]) }, qr/\Aping takes a string at \Q${\ __FILE__}\E line/, 'a reference is no payload';
    };

    subtest "the peer's Pings, $name" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my @told;
        $connection->on(ping => sub { push @told, [$_[1]->opcode, $_[1]->body]; $_[0]->send('told') });
        my $cancel = $connection->on(ping => sub { push @told, 'cancelled' });
        $cancel->();
        $far->say([$PING, 'a'], [$PING, '']);
        is $far->frames(4), [[$PONG, 'a'], [$TEXT, 'told'], [$PONG, ''], [$TEXT, 'told']], 'are answered first';
        is \@told, [[$PING, 'a'], [$PING, '']], 'and then told';
    };

    subtest "a ping callback that dies fails the connection, $name (C15)" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my $history = history($connection);
        $connection->on(ping => sub { die "ouch\n" });
        $far->say([$PING, ''], [$TEXT, 'behind']);
        is $far->frames(2), [[$PONG, ''], [$CLOSE, close_body(1011, '')]], 'Close 1011';
        is $history, [[parse_error => "ouch\n"]], 'parse_error, and nothing behind it';
    };

    subtest "ping_interval, $name" => sub {
        my ($connection, $far) = connection_and_far(@options, ping_interval => $unit);
        my @pings;
        for (1 .. 3) {
            push @pings, @{ $far->frames(1) };
            $far->say([$PONG, $pings[-1][1]]);
        }
        is [map { $_->[0] } @pings[0 .. 2]], [($PING) x 3], 'Pings come by themselves';
        my %payloads = map { $_->[1] => 1 } @pings;
        is scalar(keys %payloads), scalar(@pings), 'each with a payload of its own';
        run_until { defined $connection->latency } 'the latency';
        $connection->close;
        my @rest = @{ $far->frames(1) };
        run_for(5 * $unit);
        $far->say([$PING, 'end']);
        run_for(2 * $unit);
        $far->hang_up;
        push @rest, @{ $far->rest };
        is [grep { $_->[0] != $PING } @rest], [[$CLOSE, close_body(1000, '')]], 'Close';
        is $rest[-1][0], $CLOSE, 'and no Ping after it';
    };

    subtest "ping_timeout, $name" => sub {
        my ($connection, $far) = connection_and_far(@options, ping_interval => $unit, ping_timeout => 4 * $unit);
        my $history = history($connection);
        my $fd      = fileno $connection->handle->fh;
        run_until { finished($history) } 'finish';
        is $history, [[finish => 'ping timeout']], 'a silent peer is cut off';
        is $connection->close_error, 'ping timeout', 'close_error, too';
        is $connection->close_code, undef, 'without a code';
        ok !$connection->was_clean, 'not clean';
        ok !is_open($fd), 'the descriptor is closed';
    };

    subtest "ping_timeout after a ping of the program, $name" => sub {
        my ($connection, $far) = connection_and_far(@options, ping_timeout => 4 * $unit);
        my $history = history($connection);
        run_for(6 * $unit);
        is $history, [], 'nobody waits without a Ping';
        $connection->ping;
        run_until { finished($history) } 'finish';
        is $history, [[finish => 'ping timeout']], 'and then somebody does';
    };

    subtest "a Ping behind one that was answered is waited for, $name" => sub {
        my ($connection, $far) = connection_and_far(@options, ping_timeout => 8 * $unit);
        my $history = history($connection);
        my $pongs   = 0;
        $connection->on(pong => sub { $pongs++ });
        $connection->ping('one');
        is $far->frames(1), [[$PING, 'one']], 'a Ping';
        $far->say([$PONG, 'one']);
        run_until { $pongs } 'its answer';
        $connection->ping('two');
        run_until { finished($history) } 'finish';
        is $history, [[finish => 'ping timeout']], 'the silence that follows is seen';
    };

    subtest "an exception of the handle's on_drain does not end what is waited for, $name (C20)" => sub {
        my ($connection, $far) = connection_and_far(@options, ping_interval => $unit, ping_timeout => 4 * $unit);
        my $history = history($connection);
        my $calls   = 0;
        my @died;
        no warnings 'once';
        local $EV::DIED = sub { push @died, $@ };
        # The first call is that of the method itself.
        $connection->handle->on_drain(sub { die "ouch\n" if ++$calls == 2 });
        until (finished($history)) {
            eval { run_until { finished($history) } 'finish'; 1 } or push @died, $@;
            last if @died > 1;
        }
        is \@died, ["ouch\n"], 'it goes to the event loop';
        is $history, [[finish => 'ping timeout']], 'and the peer is cut off as ever';
    };

    subtest "the program reads by itself for a while, $name (C20)" => sub {
        # Of a derived handle it cannot be told.
        return pass 'not here' if $name =~ /through/;
        my ($connection, $far) =
            connection_and_far(@options, ping_interval => $unit, ping_timeout => 4 * $unit, idle_timeout => 20 * $unit);
        my $history = history($connection);
        my $handle  = $connection->handle;
        my $on_read = $handle->{on_read};
        $handle->on_read(sub { delete $_[0]{rbuf} });
        run_for(8 * $unit);
        is $history, [], 'nobody is cut off meanwhile';
        $handle->on_read($on_read);
        run_until { finished($history) } 'finish';
        is $history, [[finish => 'ping timeout']], 'and then it is as before';
    };

    subtest "a peer that says anything is there, $name" => sub {
        my ($connection, $far) = connection_and_far(@options, ping_interval => $unit, ping_timeout => 6 * $unit);
        my $history = history($connection);
        for (1 .. 12) {
            $far->say([$TEXT, 'x']);
            run_for($unit);
        }
        is [grep { ref } @$history], [], 'though it answers no Ping';
        $connection->pause;
        run_for(12 * $unit);
        is [grep { ref } @$history], [], 'nor is it to blame for a pause';
    };

    subtest "a program that pings often, $name" => sub {
        my ($connection, $far) = connection_and_far(@options, ping_timeout => 8 * $unit, idle_timeout => 400 * $unit);
        my $history = history($connection);
        for my $number (1 .. 16) {
            $connection->ping($number);
            run_for($unit);
            $far->say([$PONG, $number]);
        }
        is $history, [], 'and is answered each time';
    };

    subtest "a peer that slowly takes a long message, $name" => sub {
        my ($connection, $far) = connection_and_far(@options, ping_timeout => 8 * $unit);
        my $history = history($connection);
        $connection->send('x' x (2 << 20))->ping('behind it');
        for (1 .. 16) {
            $far->sip(65_536) for 1, 2;
            run_for($unit);
        }
        is $history, [], 'is there, though its Pong does not come';
    };

    subtest "idle_timeout, $name" => sub {
        my ($connection, $far) = connection_and_far(@options, idle_timeout => 6 * $unit, ping_interval => $unit);
        my $history = history($connection);
        for (1 .. 6) {
            $_ % 2 ? $far->say([$TEXT, 'x']) : $connection->send('y');
            run_for(2 * $unit);
        }
        my @before = @{ $far->frames(4) };
        is [grep { $_->[0] == $CLOSE } @before], [], 'nothing happens as long as there are messages either way';
        my @frames;
        push @frames, @{ $far->frames(1) } until @frames && $frames[-1][0] == $CLOSE;
        is $frames[-1], [$CLOSE, close_body(1001, 'idle timeout')], 'then it is closed, whatever the Pings say';
        $far->say([$CLOSE, close_body(1001)]);
        $far->hang_up;
        run_until { finished($history) } 'finish';
        is [grep { ref } @$history], [[finish => undef]], 'as by close';
    };
}

subtest 'a ping that cannot be' => sub {
    my ($connection, $peer) = connection_and_peer();
    $connection->ping('x' x 125);
    like dies { $connection->ping('x' x 126) },
        qr/\Aping: the payload has 126 bytes, and 125 is the limit at \Q${\ __FILE__}\E line \d+\.$/, 'too long';
    $connection->ping("\x{263A}");
    is [map { $_->{payload} } receive_frames($peer, 2)], ['x' x 125, "\xE2\x98\xBA"], 'characters are encoded (C5)';
    $connection->close;
    receive_frames($peer, 1);
    ref_is $connection->ping('late'), $connection, 'nothing is sent after close';
    shutdown $peer, 1;
    is [receive_frames($peer, 1)], [], 'not a frame';
    like dies { AnyEvent::WebSocket::Connection::ping({}) }, qr/\Aping: not a connection/, 'not on a connection';
};

subtest 'the times do not disturb each other' => sub {
    my ($connection, $far) = connection_and_far(
        way => 'directly', role => 'server',
        ping_interval => 10 * $UNIT, ping_timeout => 40 * $UNIT, idle_timeout => 30 * $UNIT,
    );
    my $start = AE::time;
    my @at;
    until (@at && $at[-1][0] == $CLOSE) {
        for my $frame (@{ $far->frames(1) }) {
            push @at, [$frame->[0], (AE::time - $start) / $UNIT];
            $far->say([$PONG, $frame->[1]]) if $frame->[0] == $PING;
        }
    }
    # Later on a slow machine, but never earlier.
    my @pings = map { $_->[1] } grep { $_->[0] == $PING } @at;
    ok $pings[0] > 9 && $pings[1] - $pings[0] > 8, 'Pings come no earlier than they should' or diag "@pings";
    ok @pings >= 2, 'and all of them' or diag "@pings";
    ok $at[-1][1] > 29, 'nor does the end' or diag $at[-1][1];
};

subtest 'arguments' => sub {
    for my $name (qw(ping_interval ping_timeout idle_timeout max_write_buffer)) {
        for my $bad ('soon', -1) {
            like dies { connection_and_peer($name => $bad) },
                qr/\A$name must be a number that is not negative at /, "$name $bad";
        }
        my ($connection) = connection_and_peer($name => 7);
        is $connection->$name, 7, $name;
        like dies { $connection->$name(8) }, qr/\A$name is a read-only accessor at /, 'which cannot be changed';
        ($connection) = connection_and_peer();
        is $connection->$name, undef, 'not set by default';
    }
};

subtest 'one timer at most, and none where nothing is to be waited for' => sub {
    my $timer_of = \&AnyEvent::WebSocket::Connection::Shim::timer;
    my ($connection) = connection_and_peer();
    settle();
    is $timer_of->($connection), undef, 'by default there is none';
    ($connection) = connection_and_peer(ping_interval => 100, idle_timeout => 400, ping_timeout => 400);
    is [sort keys %{ $timer_of->($connection)->{waits} }], ['idle', 'ping'], 'two things to wait for';
    $connection->ping;
    is [sort keys %{ $timer_of->($connection)->{waits} }], ['idle', 'ping', 'pong'], 'three';
    is [sort keys %{ $timer_of->($connection) }], ['at', 'waits', 'watcher'], 'and one watcher';
    $connection->close;
    is [keys %{ $timer_of->($connection)->{waits} }], ['close'], 'after close only that';
};

done_testing;
