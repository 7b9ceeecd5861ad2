# `close_timeout` (D6): once a Close frame was sent, a peer that neither closes, nor sends, nor takes what there is for
# it, is cut off.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Message;
use Ending qw(rest_of close_body is_open);
use Far    qw(each_way connection_and_far brief);
use Peer   qw(connection_and_peer frame close_frame history finished record run_until run_for settle);
use Test2::V0;

my ($TEXT, $CLOSE, $CONTINUATION) = (1, 8, 0);

sub raw_close { return AnyEvent::WebSocket::Message->new(opcode => $CLOSE, body => $_[0]) }

# How it comes that only the peer is waited for, what of it the peer gets, and what has become of the connection.
my @waiting = (
    ['we have closed', sub { $_[0]->close(1000, 'bye') }, [[$CLOSE, close_body(1000, 'bye')]]],
    ['the program has sent a Close frame', sub { $_[0]->send(raw_close('')) }, [[$CLOSE, '']]],
    ['the peer has closed', sub { $_[1]->say([$CLOSE, close_body(1001, 'away')]) }, [[$CLOSE, close_body(1001)]],
        code => 1001, reason => 'away', clean => 1],
    ['the peer has answered our Close', sub { $_[0]->close(1001); $_[1]->say([$CLOSE, '']) },
        [[$CLOSE, close_body(1001)]], clean => 1],
    ['the connection has failed (D1)', sub { $_[1]->say([3, 'x']) }, [[$CLOSE, close_body(1002)]],
        told => [[parse_error => match qr/opcode 3/]]],
    ['a callback has died (C15)', sub { $_[1]->say([$TEXT, 'die']) }, [[$CLOSE, close_body(1011)]],
        told => ['die', [parse_error => "died\n"]]],
);

sub waiting_connection {
    my ($state, @options) = @_;
    my ($connection, $far) = connection_and_far(@options);
    my $history = history($connection);
    $connection->on(each_message => sub { die "died\n" if $_[1]->body eq 'die' });
    $state->($connection, $far);
    return ($connection, $far, $history);
}

for my $case (@waiting) {
    my ($name, $state, $frames, %expected) = @$case;
    for my $way (each_way()) {
        my ($way_name, @options) = @$way;
        subtest "a peer that does nothing is cut off when $name, $way_name (D6)" => sub {
            my ($connection, $far, $history) = waiting_connection($state, @options, close_timeout => 0.05);
            my $fd = fileno $connection->handle->fh;
            run_until { finished($history) } 'finish';
            is $history, [@{ $expected{told} || [] }, [finish => 'close timeout']], 'finish gets the text';
            is $connection->close_error, 'close timeout', 'close_error, too';
            is [$connection->close_code, $connection->close_reason], [@expected{qw(code reason)}], 'code and reason';
            is $connection->was_clean ? 1 : 0, $expected{clean} // 0, 'clean or not';
            ok !is_open($fd), 'the descriptor is closed';
            is $far->rest, $frames, 'the peer has its Close';
            my $told = @$history;
            ref_is $connection->send('late')->close, $connection, 'sending and closing are harmless';
            settle();
            is scalar(@$history), $told, 'finish came once';
        };
    }
}

for my $way (each_way()) {
    my ($way_name, @options) = @$way;
    subtest "a peer that takes nothing of what there is for it is cut off, $way_name (D6)" => sub {
        my ($connection, $far) = connection_and_far(@options, close_timeout => 0.05);
        my $history = history($connection);
        my $fd      = fileno $connection->handle->fh;
        $connection->send('x' x (1 << 20))->close;
        run_until { finished($history) } 'finish';
        is $history, [[finish => 'close timeout']], 'finish gets the text';
        ok !$connection->was_clean, 'not clean';
        ok !is_open($fd), 'the descriptor is closed, though not all is sent';
    };

    subtest "also where the program destroys the handle then, $way_name (D6)" => sub {
        my ($connection, $far) = connection_and_far(@options, close_timeout => 0.05);
        my $fd = fileno $connection->handle->fh;
        my $finished;
        $connection->on(finish => sub { $_[0]->handle->destroy; $finished = 1 });
        $connection->send('x' x (1 << 20))->close;
        run_until { $finished } 'finish';
        ok !is_open($fd), 'the descriptor is closed';
    };
}

subtest 'a close_timeout of 0 is none, however it is written (D6)' => sub {
    for my $zero (0, '0.0', '-0', '0 but true') {
        my ($connection, $peer) = connection_and_peer(close_timeout => $zero);
        my $record = record($connection);
        $connection->close;
        run_for(0.05);
        is $record->{finish}, [], $zero;
    }
};

subtest 'there is no timeout before a Close frame was sent (D6)' => sub {
    my ($connection, $peer) = connection_and_peer(close_timeout => 0.02);
    my $record = record($connection);
    run_for(0.1);
    is $record->{finish}, [], 'not cut off';
    syswrite $peer, frame(payload => 'still here');
    run_until { @{ $record->{messages} } } 'a message';
    $connection->close;
    run_until { @{ $record->{finish} } } 'finish';
    is $record->{finish}, ['close timeout'], 'cut off afterwards';
};

# What a peer may do instead of closing: what happens before, what it does again and again, and what has come of it.
# All of them at the same time, since each takes long.
my $DATA = 'd' x (2 << 20);
my @busy = (
    ['sends messages', sub { $_[0]->close }, sub { $_[0]->say([$TEXT, $_[1]]) },
        sub { my ($case) = @_; is $case->{history}, [1 .. $case->{steps}], 'they are delivered' }],
    ['sends a message in single bytes',
        sub {
            my ($connection, $far, $case) = @_;
            $connection->close;
            $case->{bytes} = $far->encode([$TEXT, 'x' x 60_000]);
        },
        sub { my ($far, $n, $case) = @_; $far->say_bytes(substr $case->{bytes}, $n - 1, 1) },
        sub { my ($case) = @_; is $case->{history}, [], 'which is not complete' }],
    ['sends though the connection has failed (D1)', sub { $_[1]->say([3, '']) }, sub { $_[0]->say([$TEXT, $_[1]]) },
        sub {
            my ($case) = @_;
            is $case->{history}, [[parse_error => match qr/opcode 3/]], 'nothing of it is delivered';
        }],
    ['sends though it has closed (C18)', sub { $_[1]->say([$CLOSE, '']) }, sub { $_[0]->say([$TEXT, $_[1]]) },
        sub { my ($case) = @_; is $case->{history}, [], 'nothing of it is delivered' }],
    ['takes slowly what there is for it', sub { $_[0]->send($DATA)->close },
        sub {
            my ($far, $n, $case) = @_;
            # Half of it, however long that takes.
            my $due = length($DATA) / 6 * (AE::time - $case->{started}) / $case->{connection}->close_timeout;
            while ($case->{taken} < $due) {
                my $got = $far->sip(8_192) or last;
                $case->{taken} += $got;
            }
        },
        sub {
            my ($case) = @_;
            ok length $case->{connection}->handle->{wbuf}, 'still not all';
            is $case->{far}->rest, [[$TEXT, brief($DATA)], [$CLOSE, close_body(1000)]], 'then all of it';
        }],
);

sub busy_cases {
    my ($timeout) = @_;
    return map {
        my ($way_name, @options) = @$_;
        map {
            my ($name, $before, $step, $after) = @$_;
            my %case = (name => "$name, $way_name", before => $before, step => $step, after => $after);
            @case{qw(connection far)} = connection_and_far(@options, close_timeout => $timeout);
            $case{history} = history($case{connection});
            \%case;
        } @busy;
    } grep { $_->[0] =~ /server/ } each_way();
}

subtest 'a peer that does something is not cut off until it stops (D6)' => sub {
    my (@cases, $last);
    # A machine that stalls for as long as the timeout would make the peer look idle: then with a longer one.
    my $timeout = 0.4;
    for my $attempt (1 .. 5) {
        @cases = busy_cases($timeout);
        my ($stalled, $steps) = (0, 0);
        my $started = $last = AE::time;
        for my $case (@cases) {
            @$case{qw(started taken)} = ($started, 0);
            $case->{before}->($case->{connection}, $case->{far}, $case);
        }
        while (AE::time - $started < 3 * $timeout) {
            $steps++;
            $_->{step}->($_->{far}, $steps, $_) for @cases;
            run_for(0.01);
            my $now = AE::time;
            $stalled ||= $now - $last > $timeout / 2;
            $last = $now;
        }
        $_->{steps} = $steps for @cases;
        last if !$stalled;
        diag "the machine stalled for half of a close_timeout of $timeout seconds, attempt $attempt";
        $timeout *= 2;
    }
    for my $case (@cases) {
        subtest "it $case->{name}" => sub {
            is finished($case->{history}), 0, 'not cut off meanwhile';
            $case->{after}->($case);
        };
    }
    run_until { !grep { !finished($_->{history}) } @cases } 'finish';
    is [map { $_->{history}[-1] } @cases], [([finish => 'close timeout']) x @cases], 'cut off when it has stopped';
    cmp_ok AE::time - $last, '>=', $cases[0]{connection}->close_timeout * 0.8, 'but not at once';
};

for my $way (each_way()) {
    my ($way_name, @options) = @$way;
    subtest "a peer that has answered while the process was held up is not cut off, $way_name (D6)" => sub {
        for my $is_idle (1, 0) {
            my ($connection, $far) = connection_and_far(@options, close_timeout => 0.1);
            my $history = history($connection);
            settle() if $is_idle;
            $connection->close;
            run_until { $far->frames(1) };
            $far->say([$TEXT, 'in time'], [$CLOSE, close_body(1001)]);
            select undef, undef, undef, 0.3;
            run_until { @$history || defined $connection->close_code } 'something';
            is $history, ['in time'], 'what it sent is delivered';
            is $connection->close_code, 1001, 'its Close, too';
        }
    };
}

subtest 'a peer that answers in time gets no timeout (D6)' => sub {
    my ($connection, $peer) = connection_and_peer(close_timeout => 1);
    my $record = record($connection);
    $connection->close;
    syswrite $peer, close_frame(1000);
    close $peer;
    run_until { @{ $record->{finish} } };
    run_for(1.1);
    # The peer is gone before our Close gets there, or after: either is no timeout.
    is scalar(@{ $record->{finish} }), 1, 'finish came once';
    isnt $record->{finish}[0], 'close timeout', 'and not from the timer';
};

subtest 'close_timeout => 0 means never (D6)' => sub {
    my ($connection, $peer) = connection_and_peer(close_timeout => 0);
    is $connection->close_timeout, 0, 'the accessor';
    my $record = record($connection);
    $connection->close;
    is rest_of($peer), [[8, close_body(1000, '')]], 'our Close';
    run_for(0.3);
    is $record->{finish}, [], 'not cut off';
    syswrite $peer, frame(payload => 'sorry, I am slow') . close_frame(1000);
    run_until { $connection->was_clean };
    is $record->{messages}, ['sorry, I am slow'], 'still listening';
};

subtest 'close_timeout is 30 seconds where nothing is said (D6)' => sub {
    my ($connection, $peer) = connection_and_peer();
    is $connection->close_timeout, 30, 'the accessor';
};

subtest 'a connection with a running close_timeout can be dropped (D6)' => sub {
    my ($connection, $peer) = connection_and_peer(close_timeout => 0.05);
    my $record = record($connection);
    $connection->close;
    undef $connection;
    is rest_of($peer), [[8, close_body(1000, '')]], 'the Close of before, once';
    run_for(0.1);
    is $record->{finish}, [], 'no callback any more';
};

done_testing;
