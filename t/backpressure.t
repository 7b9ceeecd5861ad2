# A peer that does not take what is sent, and a program that does not take what arrives.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use Ending qw(is_open close_body);
use Errno  qw(EBADF);
use Far    qw(each_way connection_and_far brief text_of_errno);
use Scalar::Util qw(weaken);
use Socket qw(SOL_SOCKET SO_SNDBUF);
use Peer   qw(connection_and_peer frame history finished run_until run_for settle nested);
use Test2::V0;

my ($TEXT, $BINARY, $CLOSE, $PING, $PONG) = (1, 2, 8, 9, 10);

# More than a socket takes.
my $MIB = 'm' x (1 << 20);

# ---- sending

for my $way (each_way()) {
    my ($name, @options) = @$way;

    subtest "buffered_amount and drain, $name" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my @drained;
        $connection->on(drain => sub { push @drained, [@_] });
        is $connection->buffered_amount, 0, 'nothing waits';
        $connection->send('small');
        settle();
        is $connection->buffered_amount, 0, 'what the socket takes does not wait';
        is \@drained, [], 'and has not drained';
        for my $round (1, 2) {
            $connection->send($MIB)->send("behind $round");
            my $amount = $connection->buffered_amount;
            ok $amount > length($MIB) / 4 && $amount < length($MIB) + 65_536, 'most of it waits' or diag $amount;
            settle();
            is \@drained, [], 'and has not drained';
            is $far->frames($round == 1 ? 3 : 2),
                [($round == 1 ? [$TEXT, 'small'] : ()), [$TEXT, brief($MIB)], [$TEXT, "behind $round"]],
                'the peer takes it';
            run_until { @drained } 'drain';
            is $connection->buffered_amount, 0, 'nothing waits any more';
            settle();
            is scalar(@drained), 1, 'which is told once';
            ref_is $drained[0][0], $connection, 'with the connection';
            is scalar(@{ $drained[0] }), 1, 'as the only argument';
            @drained = ();
        }
        ok !$connection->handle->{on_drain}, 'the handle has its on_drain back';
    };

    subtest "a callback for drain that comes late, and is cancelled, $name" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my ($drained, $cancelled) = (0, 0);
        $connection->send($MIB);
        $connection->on(drain => sub { $drained++ });
        my $cancel = $connection->on(drain => sub { $cancelled++ });
        $cancel->();
        $far->frames(1);
        run_until { $drained } 'drain';
        is $cancelled, 0, 'the other one is not called';
    };

    subtest "on_drain of the program is called, too, $name (C20)" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my @told;
        $connection->send($MIB);
        $connection->handle->on_drain(sub { push @told, 'on_drain' });
        $connection->on(drain => sub { push @told, 'drain' });
        $far->frames(1);
        run_until { @told == 2 } 'both';
        is \@told, ['on_drain', 'drain'], 'first that of the handle';
        $connection->send('again');
        $far->frames(1);
        settle();
        is \@told, ['on_drain', 'drain', 'on_drain'], 'which stays';
    };

    subtest "a program that wraps what is in on_drain, $name (C20)" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my $handle = $connection->handle;
        my @told;
        $connection->on(drain => sub { push @told, 'drain' });
        $connection->send($MIB);
        my $wrapped = $handle->{on_drain};
        $handle->on_drain(sub { push @told, 'on_drain'; $wrapped->(@_) });
        $connection->send('behind');
        $far->frames(2);
        run_until { @told == 2 } 'drain';
        settle();
        is \@told, ['on_drain', 'drain'], 'each is told once';
        ok $handle->{on_drain}, 'and its code stays';
    };

    subtest "much is sent by way of drain, $name" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my ($sent, $most) = (0, 0);
        my $send = sub {
            while ($sent < 200 && $connection->buffered_amount < 100_000) {
                $connection->send_binary(sprintf('%04d', $sent++) x 10_000);
            }
            $most = $connection->buffered_amount if $connection->buffered_amount > $most;
        };
        $connection->on(drain => $send);
        $send->();
        is $far->frames(200), [map { [$BINARY, brief(sprintf('%04d', $_) x 10_000)] } 0 .. 199], 'all of it, in order';
        ok $most < 150_000, 'and not much at a time has waited' or diag $most;
    };

    subtest "a drain callback that dies fails the connection, $name (C15)" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my $history = history($connection);
        $connection->on(drain => sub { die "too dry\n" });
        $connection->send($MIB);
        is $far->rest, [[$TEXT, brief($MIB)], [$CLOSE, close_body(1011, '')]], 'the peer gets Close 1011';
        is $history, [[parse_error => "too dry\n"]], 'which is told';
    };

    subtest "nothing is drained where a drain callback has ended the connection, $name" => sub {
        for my $end (qw(close exceed drop)) {
            my ($connection, $far) = connection_and_far(@options, max_write_buffer => 2_000_000);
            my @told;
            $connection->on(drain => sub {
                push @told, 'drain';
                if   ($end eq 'close') { $_[0]->close }
                else                   { $_[0]->send($MIB) for 1 .. 3 }
                undef $connection if $end eq 'drop';
                push @told, 'end of drain';
            });
            $connection->on(drain => sub { push @told, 'another drain' });
            $connection->on(finish => sub { push @told, $_[1] // 'undef' });
            $connection->send($MIB);
            $far->frames(1);
            run_until { @told } 'drain';
            $far->hang_up if $end eq 'close';
            run_until { $far->sip; @told > 2 } 'finish';
            is \@told, ['drain', 'end of drain', $end eq 'close' ? 'undef' : match qr/\Awrite buffer is full/],
                "$end: finish is the last";
        }
    };

    subtest "max_write_buffer, $name" => sub {
        my ($connection, $far) = connection_and_far(@options, max_write_buffer => 3_000_000);
        my $history = history($connection);
        my $fd      = fileno $connection->handle->fh;
        $connection->send($MIB) for 1, 2;
        settle();
        is $history, [], 'as long as less waits nothing happens';
        ok $connection->buffered_amount > 1_500_000, 'though much does';
        my $returned = $connection->send($MIB)->send($MIB);
        ref_is $returned, $connection, 'send returns the connection';
        my $text = match qr/\Awrite buffer is full: \d+ bytes would wait for the peer, max_write_buffer is 3000000\z/;
        is $history, [[finish => $text]], 'more than that ends it';
        is $connection->close_error, $text, 'close_error, too';
        ok !$connection->was_clean, 'not clean';
        is $connection->buffered_amount, 0, 'what waited is dropped';
        ok !is_open($fd), 'the descriptor is closed';
        settle();
        is scalar(@$history), 1, 'finish came once';
        ref_is $connection->send('late')->close, $connection, 'sending and closing are harmless';
    };

    subtest "max_write_buffer is exceeded in a callback, $name" => sub {
        my ($connection, $far) = connection_and_far(@options, max_write_buffer => 100_000);
        my @told;
        $connection->on(each_message => sub {
            push @told, $_[1]->body;
            $_[0]->send($MIB)->send('late') if @told == 1;
        });
        $connection->on(finish => sub { push @told, $_[1] });
        $far->say([$TEXT, 'one'], [$TEXT, 'two']);
        run_until { @told == 3 } 'finish';
        is \@told, ['one', 'two', match qr/\Awrite buffer is full/], 'what has arrived is delivered before';
    };
}

# A connection for which almost max_write_buffer waits.
sub full_connection {
    my (@options) = @_;
    my ($connection, $far) = connection_and_far(@options, max_write_buffer => 1_000_000);
    $connection->send($MIB);
    # What was encrypted is longer.
    while ((my $room = 1_000_000 - $connection->buffered_amount) > 1000) {
        $connection->send('f' x ($room / 2));
    }
    return ($connection, $far);
}

for my $way (each_way()) {
    my ($name, @options) = @$way;

    # What is done to it, and the last frame that the peer gets.
    my %last = (
        'is closed'              => [sub { $_[0]->close(4000, 'x' x 123) }, [$CLOSE, close_body(4000, 'x' x 123)]],
        'is dropped'             => [sub { undef $_[0] },                   [$CLOSE, close_body(1000, '')]],
        'answers Pings'          => [sub { $_[1]->say(map { [$PING, "$_" x 100] } 1 .. 9) }, [$PONG, '9' x 100]],
        'sends Pings'            => [sub { $_[0]->ping('y' x 125) for 1 .. 9 },              [$PING, 'y' x 125]],
    );
    for my $what (sort keys %last) {
        my ($code, $frame) = @{ $last{$what} };
        subtest "a connection with an almost full queue $what, $name" => sub {
            my ($connection, $far) = full_connection(@options);
            my $history = history($connection);
            $code->($connection, $far);
            settle();
            is $history, [], 'it is not cut off';
            my @frames;
            push @frames, @{ $far->frames(1) } until @frames && $frames[-1][1] eq $frame->[1];
            is $frames[-1], $frame, 'control frames go through';
        };
    }

    subtest "replies that leave together do not count, $name" => sub {
        my ($connection, $far) = connection_and_far(@options, max_write_buffer => 10_000);
        my ($drained, @amounts) = (0);
        $connection->on(drain => sub { $drained++ });
        $connection->on(each_message => sub {
            $_[0]->send('r' x 1000);
            push @amounts, $_[0]->buffered_amount;
        });
        $far->say(map { [$TEXT, $_] } 1 .. 30);
        is scalar(@{ $far->frames(30) }), 30, 'all are sent';
        settle();
        is \@amounts, [(0) x 30], 'nothing has been buffered';
        is $drained, 0, 'nor drained';
    };

    subtest "what a dispatch leaves waiting drains, $name" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my ($count, $drained) = (0, 0);
        setsockopt $connection->handle->fh, SOL_SOCKET, SO_SNDBUF, pack 'i', 4096 or die "SO_SNDBUF: $!";
        $connection->on(drain => sub { $drained++ });
        $connection->on(each_message => sub { $_[0]->send('r' x 14_000) if $count++ < 4 });
        $far->say(map { [$TEXT, $_] } 1 .. 5);
        run_until { $count == 5 } 'all messages';
        ok $connection->buffered_amount > 0, 'something waits';
        $far->frames(4);
        run_until { $drained } 'drain';
    };

    subtest "a drain callback that sends, $name" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my $drained = 0;
        $connection->on(drain => sub { $drained++; $_[0]->send('all sent') });
        $connection->send($MIB);
        my @frames;
        push @frames, @{ $far->frames(1) } until @frames >= 2;
        settle();
        ok $drained <= 2, 'is not called again for what the socket takes' or diag $drained;
    };

    subtest "drain does not come after close, nor keeps anything alive, $name" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my ($drained, $held) = (0, [$connection]);
        weaken($held->[0]);
        $connection->send($MIB);
        my $kept = $connection;
        $connection->handle->on_drain(sub { $_[0]->on_drain(undef); $kept->buffered_amount });
        $connection->on(drain => sub { $drained++ });
        $far->frames(1);
        run_until { $drained } 'drain';
        undef $kept;
        $connection->send($MIB)->close;
        $far->rest;
        is $drained, 1, 'not called again';
        undef $connection;
        is $held->[0], undef, 'the connection is gone';
    };
}

subtest 'one message of any size is no matter where the socket takes it' => sub {
    my ($connection, $peer) = connection_and_peer(max_write_buffer => 10);
    my $history = history($connection);
    $connection->send('x' x 10_000) for 1 .. 3;
    settle();
    is $history, [], 'max_write_buffer is about what waits';
};

# Pings to be answered, from a peer that reads nothing.
subtest 'a peer that sends Pings and takes no Pongs does not fill the memory' => sub {
    my ($connection, $far) = connection_and_far(way => 'directly', role => 'client');
    my $pings = $far->encode(map { [$PING, "$_"] } 1 .. 100_000);
    $far->say_bytes($pings);
    settle();
    my $amount = $connection->buffered_amount;
    ok $amount < 140_000, "not much waits" or diag $amount;
    my ($last, $count) = ('', 0);
    run_until {
        for my $frame (@{ $far->frames(1) }) {
            $last = $frame->[1];
            $count++;
        }
        $last == 100_000;
    } 'the last Pong';
    ok $count < 50_000, 'Pings before the last are left out' or diag $count;
    $connection->send('next');
    is $far->frames(1), [[$TEXT, 'next']], 'the connection is in order';
};

subtest 'a peer that takes what it is sent gets its Pong, though the queue is never empty' => sub {
    my ($connection, $far) = connection_and_far(way => 'directly', role => 'client');
    my $fill = sub { $connection->send('q' x 10_000) while $connection->buffered_amount < 500_000 };
    $fill->();
    # More than are answered behind that.
    $far->say(map { [$PING, sprintf '%0125d', $_] } 1 .. 700);
    my ($last, $taken) = (0, 0);
    run_until {
        $fill->();
        # Not all that there is.
        $far->sip(20_000);
        $fill->();
        for (splice @{ $far->{frames} }) {
            $taken++;
            $last = $_->[1] + 0 if $_->[0] == $PONG;
        }
        $last == 700 || $taken > 2_000;
    } 'the last Pong';
    is $last, 700, 'the last one';
};

subtest 'max_write_buffer is about what a message is once it is compressed' => sub {
    my ($connection, $far) = connection_and_far(
        way               => 'directly', role => 'server', max_write_buffer => 2_000_000,
        extensions        => 'permessage-deflate', permessage_deflate => {threshold => 0},
    );
    my $history = history($connection);
    my $noise   = join '', map { pack 'N', rand 2**32 } 1 .. 400_000;
    $connection->send($noise)->send('s' x 1_900_000);
    ok $connection->buffered_amount > 1_000_000, 'much waits';
    is $history, [], 'and what is behind it is small';
    $connection->send($noise);
    is $history, [[finish => match qr/\Awrite buffer is full: \d+ bytes would wait/]], 'while this is not';
};

subtest 'what the program sends by itself behind a cut (C20)' => sub {
    my ($connection, $far) = connection_and_far(way => 'directly', role => 'server', max_write_buffer => 1000);
    $connection->on(each_message => sub {
        my ($connection) = @_;
        $connection->send($MIB)->send('over');
        $connection->handle->push_write('raw');
        nested { $far->sip for 1 .. 100; run_for(0.05) };
        $connection->handle->push_write('raw');
    });
    my $history = history($connection);
    $far->say([$TEXT, 'go']);
    run_until { finished($history) } 'finish';
    $far->_read_until(sub { 0 }, 'EOF');
    unlike $far->{bytes}, qr/raw/, 'does not leave';
};

# ---- receiving

for my $way (each_way()) {
    my ($name, @options) = @$way;

    subtest "pause and resume, $name" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my $history = history($connection);
        ref_is $connection->pause, $connection, 'pause returns the connection';
        $far->say([$TEXT, 'one'], [$TEXT, 'two'], [$PING, 'there?']);
        settle();
        is $history, [], 'nothing is delivered meanwhile';
        ref_is $connection->resume, $connection, 'resume returns the connection';
        is $history, [], 'nothing is delivered out of resume';
        is $far->frames(1), [[$PONG, 'there?']], 'the Ping is answered then';
        is $history, ['one', 'two'], 'then all is delivered';
        $connection->resume;
        $far->say([$TEXT, 'three']);
        run_until { @$history == 3 } 'another';
    };

    subtest "pause in a callback, $name" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my $history = history($connection);
        $connection->on(each_message => sub { $_[0]->pause });
        $far->say(map { [$TEXT, $_] } 1 .. 3);
        for my $count (1 .. 3) {
            run_until { @$history } 'a message';
            settle();
            is $history, [1 .. $count], "no more than $count at a time";
            $connection->resume;
            run_until { @$history > $count } 'another' if $count < 3;
        }
        $connection->on(next_message => sub { $_[0]->pause->resume });
        $far->say([$TEXT, 4], [$TEXT, 5]);
        run_until { @$history == 4 } 'a message';
    };

    # AnyEvent calls on_drain out of what flushes at the end of a dispatch.
    subtest "resume out of on_drain, $name" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my $history = history($connection);
        $connection->on(each_message => sub {
            my ($connection) = @_;
            $connection->send('reply')->pause;
            $connection->handle->on_drain(sub { $_[0]->on_drain(undef); $connection->resume });
        });
        $far->say(map { [$TEXT, $_] } 1 .. 3);
        is $far->frames(3), [([$TEXT, 'reply']) x 3], 'all are answered';
        is $history, [1 .. 3], 'each once';
    };

    subtest "a paused connection that was dropped sees the end, $name (C8)" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my $fd = fileno $connection->handle->fh;
        $connection->pause;
        $far->say([$TEXT, 'unread']);
        settle();
        undef $connection;
        $far->frames(1);
        $far->hang_up;
        run_until { !is_open($fd) } 'the descriptor to close';
        pass 'it closes';
    };

    subtest "a peer feels it, $name" => sub {
        my ($connection, $far) = connection_and_far(@options, max_payload_size => 0);
        my $history = history($connection);
        my $bytes   = $far->encode(map { [$BINARY, $_ x 100_000] } 'a' .. 'z');
        $connection->pause;
        my $left = $far->stream_bytes($bytes);
        run_for(0.1);
        ok $left->() > length($bytes) / 2, 'it cannot send everything' or diag $left->();
        is $history, [], 'nothing is delivered';
        $connection->resume;
        run_until { @$history == 26 } 'all messages';
        is $history, [map { $_ x 100_000 } 'a' .. 'z'], 'nothing is lost';
    };

    subtest "the end of the socket during a pause, $name" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my $history = history($connection);
        $connection->pause;
        $far->say([$TEXT, 'last'], [$CLOSE, close_body(1001, 'away')]);
        $far->hang_up;
        settle();
        is $history, [], 'is not noticed';
        $connection->resume;
        run_until { finished($history) } 'finish';
        is $history, ['last', [finish => undef]], 'until it is over';
        is $connection->close_code, 1001, 'with the code';
    };

    subtest "resume where the program has closed the descriptor, $name (C20)" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my $history = history($connection);
        $connection->pause;
        close $connection->handle->fh;
        ok lives { $connection->resume }, 'does no harm' or diag $@;
        run_until { finished($history) } 'finish';
        is $history, [[finish => text_of_errno(EBADF)]], 'and ends the connection';
    };

    subtest "close ends a pause, $name" => sub {
        my ($connection, $far) = connection_and_far(@options);
        my $history = history($connection);
        $connection->pause;
        $far->say([$TEXT, 'waits']);
        settle();
        $connection->close;
        run_until { @$history } 'what has been waiting';
        $connection->pause;
        $far->say([$TEXT, 'more'], [$CLOSE, close_body(1000, '')]);
        $far->hang_up;
        run_until { finished($history) } 'finish';
        is $history, ['waits', 'more', [finish => undef]], 'and none begins after it';
        ok $connection->was_clean, 'the peer has been heard';
    };

    subtest "a paused connection is dropped, $name (D3)" => sub {
        my ($connection, $far) = connection_and_far(@options);
        $connection->pause;
        $far->say([$TEXT, 'unread']);
        settle();
        undef $connection;
        is $far->frames(1), [[$CLOSE, close_body(1000, '')]], 'it is closed';
    };
}

subtest 'a callback that holds everything up does not fill the memory (C22)' => sub {
    my ($connection, $far) = connection_and_far(way => 'directly', role => 'server', max_payload_size => 0);
    my @bodies;
    my $bytes = $far->encode([$TEXT, 'first'], map { [$BINARY, chr(65 + $_ % 26) x 50_000] } 1 .. 100);
    $connection->on(each_message => sub {
        push @bodies, $_[1]->body;
        return if @bodies > 1;
        my $left = $far->stream_bytes($bytes);
        nested { run_for(0.1) };
        ok $left->() > length($bytes) / 2, 'the peer cannot send everything' or diag $left->();
    });
    $far->say([$TEXT, 'go']);
    run_until { @bodies } 'the first';
    run_until { @bodies == 102 } 'all';
    is [map { substr $_, 0, 1 } @bodies[2 .. 101]], [map { chr(65 + $_ % 26) } 1 .. 100], 'in order';
};

subtest 'stop_read of the program outlives a pause (C20)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $history = history($connection);
    settle();
    $connection->handle->stop_read;
    $connection->pause->resume;
    syswrite $peer, frame(payload => 'waits');
    settle();
    is $history, [], 'nothing is read';
    $connection->handle->start_read;
    run_until { @$history } 'the message';
};

subtest 'an error of the socket during a pause' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $history = history($connection);
    settle();
    $connection->on(next_message => sub { $_[0]->pause });
    syswrite $peer, frame(payload => 'one') . frame(payload => 'two');
    run_until { @$history } 'the first message';
    syswrite $peer, frame(payload => 'three');
    close $peer;
    $connection->send('is there anybody?');
    run_until { finished($history) } 'finish';
    is $history, ['one', 'two', 'three', [finish => match qr/./]], 'what had arrived is delivered';
};

subtest 'pause before the event loop has been idle (C13)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $history = history($connection);
    $connection->pause;
    syswrite $peer, frame(payload => 'early');
    settle();
    is $history, [], 'nothing is delivered';
    $connection->resume;
    run_until { @$history } 'the message';
};

done_testing;
