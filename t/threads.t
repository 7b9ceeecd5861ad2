# Perl threads: what a thread gets copies of is inert, and threads can use connections of their own.

use strict;
use warnings;
use lib 't/lib';

use Config;

BEGIN {
    if (!$Config{useithreads}) {
        print "1..0 # SKIP this perl has no threads\n";
        exit 0;
    }
    # EV does not survive threads: they would free the same watchers a second time.
    $ENV{PERL_ANYEVENT_MODEL} = 'Perl';
}

use threads;

use AnyEvent;
use Peer qw(
    connection_and_peer connection_pair frame close_frame parse_frames read_frames receive_frames
    read_until_eof run_until settle record
);
use Scalar::Util qw(weaken);
use Test2::V0;

AnyEvent::detect();

sub rest_of {
    my ($peer) = @_;
    my $bytes  = read_until_eof($peer);
    return [map { [$_->{opcode}, $_->{payload}] } parse_frames($bytes)];
}

# Runs code in a thread; returns what it returns, or dies where it died.
sub in_thread(&) {
    my ($code) = @_;
    my @result = threads->create({ context => 'list' }, sub {
        my @result = eval { $code->() };
        return ($@ || 'done', @result);
    })->join;
    my $outcome = shift @result;
    die "the thread died: $outcome" if $outcome ne 'done';
    return @result;
}

# Two connections with each other, and some messages between them.
sub talk {
    my ($count) = @_;
    my ($client, $server) = connection_pair({ masked => 1 });
    my @got;
    $server->on(each_message => sub { $_[0]->send('echo ' . $_[1]->body) });
    $client->on(each_message => sub { push @got, $_[1]->body });
    $client->on(finish => sub { push @got, 'finish' });
    $client->send($_) for 1 .. $count;
    $client->send('x' x 60_000);
    run_until { @got > $count };
    $client->close(1000, 'done');
    run_until { $got[-1] eq 'finish' };
    my $expected = join ' ', (map { "echo $_" } 1 .. $count), 'echo ' . 'x' x 60_000, 'finish';
    return "@got" eq $expected && $client->was_clean && $server->close_reason eq 'done' ? 'as expected' : substr "@got", 0, 200;
}

# Before this thread has loaded the module.
subtest 'threads that load the module by themselves' => sub {
    ok !$INC{'AnyEvent/WebSocket/Connection.pm'}, 'not loaded here';
    for my $thread (1, 2) {
        my ($outcome) = in_thread { talk(50) };
        is $outcome, 'as expected', "thread $thread";
    }
    ok !$INC{'AnyEvent/WebSocket/Connection.pm'}, 'still not loaded here';
};

subtest 'threads at the same time, with the module loaded by the first' => sub {
    require AnyEvent::WebSocket::Connection;
    is talk(50), 'as expected', 'here';
    my @threads = map { threads->create(sub { eval { talk(60) } || $@ }) } 1 .. 3;
    is talk(60), 'as expected', 'here meanwhile';
    is [map { $_->join } @threads], [('as expected') x 3], 'in the threads';
    is talk(50), 'as expected', 'here afterwards';
};

subtest 'a copy of a connection is inert' => sub {
    my ($connection, $peer) = connection_and_peer(masked => 1, subprotocol => 'chat', role => 'client');
    my $record = record($connection);
    my $called = 0;
    my $cancel = $connection->on(each_message => sub { $called++ });
    settle();
    my @warnings;
    local $SIG{__WARN__} = sub { push @warnings, @_ };
    my ($results) = in_thread {
        my @thread_warnings;
        local $SIG{__WARN__} = sub { push @thread_warnings, @_ };
        my %result = (
            send     => $connection->send('from a thread') == $connection,
            message  => $connection->send(AnyEvent::WebSocket::Message->new(opcode => 2, body => 'x')) == $connection,
            on       => ref $connection->on(each_message => sub { }),
            cancel   => !!eval { $connection->on(finish => sub { })->(); $cancel->(); 1 },
            clean    => !!$connection->was_clean,
            close    => $connection->close(1001, 'from a thread') == $connection,
            code     => $connection->close_code,
            masked   => $connection->masked,
            protocol => $connection->subprotocol,
            handle   => ref $connection->handle,
        );
        $connection->send('after close');
        settle();
        return { %result, warnings => "@thread_warnings" };
    };
    is $results, {
        send => T(), message => T(), on => 'CODE', cancel => T(), clean => F(), close => T(), code => undef,
        masked => 1, protocol => 'chat', handle => 'AnyEvent::Handle', warnings => '',
    }, 'methods return, and nothing breaks';
    $connection->send('from here');
    my @frames = read_frames($peer, 1);
    is [map { $_->{payload} } @frames], ['from here'], 'the peer hears nothing of the copy';
    syswrite $peer, frame(payload => 'to here');
    run_until { @{ $record->{messages} } };
    is $called, 1, 'callbacks are still registered here';
    $connection->close;
    is rest_of($peer), [[8, pack 'n', 1000]], 'and the connection can be closed';
    is \@warnings, [], 'no warning';
};

subtest 'the end of a copy leaves the connection alone' => sub {
    my %end = (
        'with the thread'        => sub { },
        'dropped'                => sub { undef $_[0] },
        'dropped, then the loop' => sub { undef $_[0]; settle() },
        'handle first'           => sub { my $handle = delete $_[0]{handle}; undef $handle; undef $_[0] },
        'handle kept longer'     => sub { my $handle = $_[0]->handle; undef $_[0]; settle(); undef $handle },
    );
    for my $name (sort keys %end) {
        my ($connection, $peer) = connection_and_peer();
        my $record = record($connection);
        settle();
        $connection->send('before');
        in_thread { $end{$name}->($connection); () };
        in_thread { in_thread { $end{$name}->($connection); () }; () } if $name eq 'dropped';
        $connection->send('after');
        syswrite $peer, frame(payload => 'to here');
        run_until { @{ $record->{messages} } };
        weaken(my $weak = $connection);
        undef $connection;
        ok !$weak, "$name: it is dropped here when it is dropped here";
        is rest_of($peer), [[1, 'before'], [1, 'after'], [8, pack 'n', 1000]], "$name: frames of the connection";
        is $record->{messages}, ['to here'], "$name: message";
    }
};

subtest 'the end of a copy does not send what waits (C8)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $data = join '', map { pack 'N', $_ } 1 .. 1 << 20;
    $connection->send(AnyEvent::WebSocket::Message->new(opcode => 2, body => $data));
    in_thread { undef $connection; settle(); () };
    $connection->send('after');
    $connection->close;
    my $frames = rest_of($peer);
    is scalar(@$frames), 3, 'three frames';
    ok $frames->[0][1] eq $data, 'the data, complete and once';
    is [@$frames[1, 2]], [[1, 'after'], [8, pack 'n', 1000]], 'the rest';
};

subtest 'a loop that runs in a thread does not take what comes for a connection outside' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    settle();
    syswrite $peer, frame(payload => 'to here') . frame(payload => 'this too');
    in_thread { settle(); () };
    run_until { @{ $record->{messages} } == 2 };
    is $record->{messages}, ['to here', 'this too'], 'messages';
};

subtest 'a thread that is made in a callback' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @outcomes;
    $connection->on(each_message => sub {
        my ($connection, $message) = @_;
        $connection->send('reply to ' . $message->body);
        push @outcomes, in_thread {
            $connection->send('from a thread');
            $connection->close;
            return 'thread ' . $message->body;
        };
        $connection->send('again');
    });
    syswrite $peer, frame(payload => 1) . frame(payload => 2);
    is [map { $_->{payload} } read_frames($peer, 4)], ['reply to 1', 'again', 'reply to 2', 'again'], 'replies';
    is \@outcomes, ['thread 1', 'thread 2'], 'the threads';
};

subtest 'a connection made in a thread ends with it (D3)' => sub {
    my ($ours, $theirs) = Peer::socket_pair();
    AnyEvent::fh_unblock($theirs);
    in_thread {
        my $connection = AnyEvent::WebSocket::Connection->new(handle => Peer::handle_on($ours));
        $connection->send('from a thread');
        ();
    };
    is [map { [$_->{opcode}, $_->{payload}] } read_frames($theirs, 2)], [[1, 'from a thread'], [8, pack 'n', 1000]],
        'as when it is dropped';
};

subtest 'a copy of the timer that frees a compressor does nothing' => sub {
    my ($connection, $peer) = connection_and_peer(role => 'server', extensions => 'permessage-deflate',
        permessage_deflate => { release_after => 0.05, threshold => 0 });
    $connection->send('hello, hello');
    in_thread { Peer::run_for(0.2); () };
    Peer::run_for(0.2);
    $connection->send('hello, hello');
    my @frames = read_frames($peer, 2);
    is [map { $_->{rsv} } @frames], [4, 4], 'compressed';
    is $frames[0]{payload}, $frames[1]{payload}, 'the compressor has been freed here';
};

subtest 'many threads' => sub {
    my ($connection, $peer) = connection_and_peer();
    settle();
    for (1 .. 4) {
        in_thread { $connection->send('x'); undef $connection; () };
    }
    $connection->send('still here');
    is [map { $_->{payload} } read_frames($peer, 1)], ['still here'], 'and the connection is as before';
};

done_testing;
