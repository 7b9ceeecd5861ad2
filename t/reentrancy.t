# Callbacks that do anything: send, close, register, make connections, and run the event loop (compat C22).

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use Peer qw(
    connection_and_peer connection_pair connection_through_handle frame close_frame parse_frames read_frames
    read_until_eof write_all run_until run_for settle nested record start_program
);
use Ending qw(rest_of);
use Scalar::Util qw(weaken);
use Test2::V0;
use Time::HiRes ();

# What has come to the peer by now.
sub arrived {
    my ($peer) = @_;
    sysread $peer, my $buffer, 1 << 20;
    return [map { $_->{payload} } parse_frames($buffer // '')];
}

# Runs a test on the socket directly and through the handle, in the first delivery (compat C13) and in a
# later one.
sub in_each_way(&) {
    my ($test) = @_;
    for my $make ([direct => \&connection_and_peer], ['through the handle' => \&connection_through_handle]) {
        for my $when ('first delivery', 'later') {
            $test->("$make->[0], $when", sub {
                my @made = $make->[1]->(@_);
                settle() if $when eq 'later';
                return @made;
            });
        }
    }
}

subtest 'other connections go on while a callback runs the loop' => sub {
    in_each_way {
        my ($name, $make) = @_;
        my ($connection, $peer)       = $make->();
        my ($other,      $other_peer) = $make->();
        my $record = record($other);
        my $returned;
        $other->on(each_message => sub { $_[0]->send('reply ' . $_[1]->body) });
        $connection->on(each_message => sub {
            syswrite $other_peer, frame(payload => 1);
            nested { run_until { @{ $record->{messages} } == 1 } };
            syswrite $other_peer, frame(payload => 2) . frame(payload => 3) . close_frame(1000);
            nested { run_until { $other->was_clean } };
            $returned = 1;
        });
        syswrite $peer, frame();
        run_until { $returned } $name;
        is $record->{messages}, [1, 2, 3], "$name: messages";
        is rest_of($other_peer), [(map { [1, "reply $_"] } 1 .. 3), [8, pack 'n', 1000]], "$name: replies, Close";
    };
};

subtest 'further messages of the same connection wait, in order, once' => sub {
    in_each_way {
        my ($name, $make) = @_;
        my ($connection, $peer) = $make->();
        my (@log, $inside);
        $connection->on(each_message => sub {
            my $body = $_[1]->body;
            push @log, "begin $body";
            fail "$name: $body inside another" if $inside;
            $inside = 1;
            if ($body == 1) {
                syswrite $peer, frame(payload => 4);
                nested { settle() };
                syswrite $peer, frame(payload => 5);
                nested { settle() };
            }
            elsif ($body == 3) {
                syswrite $peer, frame(payload => 6);
                nested { settle() };
            }
            $inside = 0;
            push @log, "end $body";
        });
        syswrite $peer, join '', map { frame(payload => $_) } 1 .. 3;
        run_until { grep { $_ eq 'end 6' } @log } $name;
        settle();
        is \@log, [map { ("begin $_", "end $_") } 1 .. 6], $name;
    };
};

subtest 'what waits is delivered as soon as the callback has returned' => sub {
    in_each_way {
        my ($name, $make) = @_;
        my ($connection, $peer) = $make->();
        my @got;
        $connection->on(each_message => sub {
            push @got, $_[1]->body;
            return if @got > 1;
            syswrite $peer, frame(payload => 'waiting');
            nested { settle() };
        });
        syswrite $peer, frame(payload => 'first');
        # Nothing more comes from the peer that would wake the connection.
        run_until { @got == 2 } $name;
        is \@got, ['first', 'waiting'], $name;
    };
};

subtest 'the loop does not spin while something waits' => sub {
    my %waiting = (
        'messages' => sub { syswrite $_[0], frame(payload => 'waiting') x 10 },
        'part of a message' => sub { syswrite $_[0], substr frame(payload => 'waiting'), 0, 4 },
        'Close'    => sub { syswrite $_[0], close_frame(1000) },
        'EOF'      => sub { shutdown $_[0], 1 },
    );
    in_each_way {
        my ($name, $make) = @_;
        for my $what (sort keys %waiting) {
            # With EV a handle by itself spins on EOF in a nested loop: its watcher is let go of, but EV holds
            # on to one whose callback is running.
            next if $what eq 'EOF' && $name =~ /handle/ && AnyEvent::detect() =~ /::EV$/;
            my ($connection, $peer) = $make->();
            my $used;
            $connection->on(next_message => sub {
                $waiting{$what}->($peer);
                nested { run_for(0.01) };
                my $cpu = Time::HiRes::clock();
                nested { run_for(0.06) };
                $used = Time::HiRes::clock() - $cpu;
            });
            syswrite $peer, frame(payload => 'first');
            run_until { defined $used } "$name, $what";
            cmp_ok $used, '<', 0.02, "$name: $what";
        }
    };
};

subtest 'a peer that sends without end while a callback runs the loop' => sub {
    in_each_way {
        my ($name, $make) = @_;
        my ($connection, $peer) = $make->();
        my $message = frame(payload => 'x' x 60_000);
        my ($unsent, $sent, $refused, $used, $got) = ('', 0, 0, undef, 0);
        $connection->on(each_message => sub { $got++ });
        $connection->on(next_message => sub {
            nested {
                # Until the socket is full for good, or it is clear that all of it is taken.
                run_until {
                    $unsent = $message, $sent++ if !length $unsent;
                    my $n = syswrite $peer, $unsent;
                    substr $unsent, 0, $n, '' if $n;
                    $refused = $n ? 0 : $refused + 1;
                    $refused > 3 || $sent == 60;
                };
                my $cpu = Time::HiRes::clock();
                run_for(0.06);
                $used = Time::HiRes::clock() - $cpu;
            };
        });
        syswrite $peer, frame();
        run_until { defined $used } $name;
        cmp_ok $used, '<', 0.02, "$name: the loop does not spin";
        write_all($peer, $unsent);
        run_until { $got == 1 + $sent } "$name: all messages";
        is $got, 1 + $sent, "$name: all is delivered";
    };
};

subtest 'what a callback sends leaves before it runs the loop' => sub {
    in_each_way {
        my ($name, $make) = @_;
        my ($connection, $peer) = $make->();
        my @arrived;
        $connection->on(next_message => sub {
            my ($connection) = @_;
            $connection->send('one');
            $connection->send('two');
            nested { run_until { push @arrived, @{ arrived($peer) }; @arrived >= 2 } "$name: what was sent" };
            $connection->send('three');
            nested { run_until { push @arrived, @{ arrived($peer) }; @arrived >= 3 } "$name: what was sent" };
        });
        # More messages of the same read, for which replies would otherwise be collected.
        syswrite $peer, join '', map { frame(payload => $_) } 1 .. 5;
        run_until { @arrived >= 3 } $name;
        is \@arrived, [qw(one two three)], $name;
    };
};

subtest 'what is sent from elsewhere while a callback runs the loop leaves in order' => sub {
    in_each_way {
        my ($name, $make) = @_;
        my ($connection, $peer) = $make->();
        my ($returned, @timers) = 0;
        my $big = 'x' x 100_000;
        $connection->on(next_message => sub {
            my ($connection) = @_;
            $connection->send('small');
            $connection->send($big);
            $connection->send('after');
            push @timers, AE::timer 0, 0, sub { $connection->send('from a timer'); $returned++ };
            push @timers, AE::timer 0.01, 0, sub { $connection->send($big); $returned++ };
            nested { run_until { $returned == 2 } };
            $connection->send('last');
            $connection->close;
        });
        syswrite $peer, frame(payload => 1) . frame(payload => 2);
        is [map { length $_->[1] > 100 ? 'big' : $_->[1] } @{ rest_of($peer) }],
            ['small', 'big', 'after', 'from a timer', 'big', 'last', pack 'n', 1000], $name;
    };
};

subtest 'Close and EOF wait behind the messages' => sub {
    in_each_way {
        my ($name, $make) = @_;
        my ($connection, $peer) = $make->();
        my @log;
        $connection->on(each_message => sub {
            my ($connection, $message) = @_;
            if (!@log) {
                syswrite $peer, frame(payload => 'third') . close_frame(1001, 'bye');
                shutdown $peer, 1;
                nested { settle() };
            }
            push @log, $message->body . ($connection->close_code // '');
        });
        $connection->on(finish => sub { push @log, 'finish ' . $_[0]->close_code });
        syswrite $peer, frame(payload => 'first') . frame(payload => 'second');
        run_until { grep { /finish/ } @log } $name;
        is \@log, ['first', 'second', 'third', 'finish 1001'], $name;
        is rest_of($peer), [[8, pack 'n', 1001]], "$name: the answer";
    };
};

subtest 'an error waits behind the messages' => sub {
    in_each_way {
        my ($name, $make) = @_;
        my ($connection, $peer) = $make->();
        my @log;
        $connection->on(each_message => sub {
            my ($connection, $message) = @_;
            if (!@log) {
                close $peer;
                $connection->send('nobody there') for 1 .. 2;
                nested { run_until { $connection->handle->destroyed } "$name: the error" };
            }
            push @log, $message->body;
        });
        $connection->on(finish => sub { push @log, defined $_[1] ? 'finish' : 'finish without error' });
        syswrite $peer, join '', map { frame(payload => $_) } 1 .. 3;
        run_until { grep { /finish/ } @log } $name;
        settle();
        is \@log, [1, 2, 3, 'finish'], $name;
    };
};

subtest 'a nested loop in parse_error and in finish' => sub {
    in_each_way {
        my ($name, $make) = @_;
        my ($connection, $peer)       = $make->();
        my ($other,      $other_peer) = $make->();
        my $record = record($other);
        my @log;
        for my $event (qw(parse_error finish)) {
            $connection->on($event => sub {
                push @log, "begin $event";
                my $until = @{ $record->{messages} } + 1;
                syswrite $other_peer, frame(payload => $event);
                nested { run_until { @{ $record->{messages} } == $until } };
                push @log, "end $event";
            });
        }
        syswrite $peer, frame(rsv => 7);
        shutdown $peer, 1;
        run_until { @log == 4 } $name;
        settle();
        is \@log, ['begin parse_error', 'end parse_error', 'begin finish', 'end finish'], "$name: one after the other";
        is rest_of($peer), [[8, pack 'n', 1002]], "$name: Close, EOF";
        is $record->{messages}, [qw(parse_error finish)], "$name: the other connection went on";
    };
};

subtest 'a failure is told to the peer before parse_error runs the loop' => sub {
    in_each_way {
        my ($name, $make) = @_;
        my ($connection, $peer) = $make->();
        my $got;
        $connection->on(parse_error => sub { nested { ($got) = read_frames($peer, 1) } });
        syswrite $peer, frame(rsv => 7);
        run_until { $got } $name;
        is [@$got{qw(opcode payload)}], [8, pack 'n', 1002], $name;
    };
};

subtest 'a failure is told to the peer before parse_error runs (D1)' => sub {
    in_each_way {
        my ($name, $make) = @_;
        my ($connection, $peer) = $make->();
        my $got;
        $connection->on(each_message => sub {
            my ($connection, $message) = @_;
            $connection->send('reply to ' . $message->body);
            die "oops\n" if $message->body == 3;
        });
        # It does not run the loop, nor return before it has looked.
        $connection->on(parse_error => sub { $got = arrived($peer) });
        syswrite $peer, join '', map { frame(payload => $_) } 1 .. 5;
        run_until { $got } $name;
        is $got, [(map { "reply to $_" } 1 .. 3), pack 'n', 1011], $name;
    };
};

subtest 'deep nesting' => sub {
    my $levels = 12;
    in_each_way {
        my ($name, $make) = @_;
        my @made = map { [$make->()] } 1 .. $levels;
        my @log;
        for my $level (0 .. $levels - 1) {
            my ($connection) = @{ $made[$level] };
            my $next = $made[$level + 1];
            $connection->on(each_message => sub {
                my ($connection, $message) = @_;
                push @log, "$level " . $message->body;
                return unless $next && $message->body eq 'down';
                syswrite $next->[1], frame(payload => 'down') . frame(payload => 'more');
                # What waits at this level stays there until the deeper ones are done.
                syswrite $made[$level][1], frame(payload => 'up');
                nested { run_until { grep { $_ eq $levels - 1 . ' more' } @log } };
            });
        }
        syswrite $made[0][1], frame(payload => 'down') . frame(payload => 'more');
        run_until { @log == 3 * $levels - 1 } $name;
        is [@log[0 .. $levels]], [(map { "$_ down" } 0 .. $levels - 1), $levels - 1 . ' more'], "$name: down";
        for my $level (0 .. $levels - 2) {
            is [grep { /^$level / } @log], [map { "$level $_" } qw(down more up)], "$name: level $level";
        }
    };
};

subtest 'a request to another connection inside a callback' => sub {
    my ($front, $front_peer) = connection_and_peer();
    my ($client, $server) = connection_pair();
    $server->on(each_message => sub { $_[0]->send('answer to ' . $_[1]->body) });
    $front->on(each_message => sub {
        my ($front, $message) = @_;
        my $answer;
        $client->on(next_message => sub { $answer = $_[1]->body });
        $client->send($message->body);
        nested { run_until { defined $answer } };
        $front->send($answer);
    });
    syswrite $front_peer, join '', map { frame(payload => $_) } 1 .. 10;
    is [map { $_->{payload} } read_frames($front_peer, 10)], [map { "answer to $_" } 1 .. 10], 'answers in order';
};

subtest 'a blocking wait with a condition variable' => sub {
    for my $loop ('Perl', 'EV') {
        if ($loop eq 'EV' && !eval { require EV; 1 }) {
            diag 'EV is not installed: waiting in its callbacks is not tested';
            next;
        }
        my ($peer, $wait) = start_program(<<'        END', PERL_ANYEVENT_MODEL => $loop);
            our $c = AnyEvent::WebSocket::Connection->new(handle => handle_on(program_socket()));
            my ($other, $other_peer) = connection_and_peer();
            my $count = 0;
            $c->on(each_message => sub {
                my ($connection, $message) = @_;
                my $answered = AE::cv;
                $other->on(next_message => sub { $answered->send($_[1]->body) });
                syswrite $other_peer, frame(payload => 'answer ' . ++$count);
                my $answer = $answered->recv;
                $connection->send($message->body . ": $answer");
                exit 7 if $count == 3;
            });
            # Not with a condition variable: AnyEvent refuses one inside another.
            AnyEvent::detect() eq 'AnyEvent::Impl::EV' ? EV::run() : AnyEvent::Loop::run();
        END
        syswrite $peer, frame(payload => 'one') . frame(payload => 'two');
        syswrite $peer, frame(payload => 'three');
        my $bytes = read_until_eof($peer);
        my ($status, $printed) = $wait->();
        is [map { $_->{payload} } parse_frames($bytes)],
            ['one: answer 1', 'two: answer 2', 'three: answer 3', pack 'n', 1001], "$loop: answers in order";
        is [$status, $printed], [7 << 8, ''], "$loop: nothing else";
    }
};

subtest 'send, on and cancel in callbacks (C9, C10)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my (@log, %cancel);
    $cancel{second} = $connection->on(each_message => sub { push @log, 'second ' . $_[1]->body });
    $connection->on(each_message => sub {
        my ($connection, $message, $cancel) = @_;
        my $body = $message->body;
        push @log, "first $body";
        $connection->send("reply $body");
        $cancel{second}->() if $body == 2;
        $connection->on(next_message => sub { push @log, 'next ' . $_[1]->body }) if $body == 1;
        $connection->on(each_message => sub { push @log, 'third ' . $_[1]->body; $_[2]->() }) if $body == 3;
        $cancel->() if $body == 4;
    });
    syswrite $peer, join '', map { frame(payload => $_) } 1 .. 6;
    is [map { $_->{payload} } read_frames($peer, 4)], [map { "reply $_" } 1 .. 4], 'replies';
    settle();
    is \@log, ['second 1', 'first 1', 'next 2', 'second 2', 'first 2', 'first 3', 'first 4', 'third 4'],
        'each counts from the next message on';
};

subtest 'callbacks that change while one of them runs the loop (C10, C22)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @log;
    my $cancel = $connection->on(each_message => sub { push @log, 'cancelled ' . $_[1]->body });
    $connection->on(next_message => sub {
        my ($connection) = @_;
        my $timer = AE::timer 0, 0, sub {
            $cancel->();
            $connection->on(each_message => sub { push @log, 'added ' . $_[1]->body });
            $connection->on(next_message => sub { push @log, 'next ' . $_[1]->body });
        };
        nested { settle() };
    });
    $connection->on(next_message => sub { push @log, 'other next ' . $_[1]->body });
    syswrite $peer, frame(payload => 1) . frame(payload => 2) . frame(payload => 3);
    run_until { grep { $_ eq 'added 3' } @log };
    # The list of each_message is copied when those of next_message have run.
    is \@log, ['other next 1', 'added 1', 'next 2', 'added 2', 'added 3'], 'order';
};

subtest 'connections made in a callback' => sub {
    in_each_way {
        my ($name, $make) = @_;
        my ($connection, $peer) = $make->();
        my (@made, @log);
        $connection->on(each_message => sub {
            my ($new, $new_peer) = connection_and_peer();
            push @made, [$new, $new_peer];
            my $number = @made;
            $new->on(each_message => sub { push @log, "$number: " . $_[1]->body });
            syswrite $new_peer, frame(payload => 'hello');
            nested { run_until { @log == $number } } if $number == 1;
        });
        syswrite $peer, join '', map { frame() } 1 .. 3;
        run_until { @log == 3 } $name;
        is [sort @log], ['1: hello', '2: hello', '3: hello'], "$name: they work, in a nested loop too";
        @made = ();
    };
};

subtest 'a connection made in a callback and dropped there' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @bytes;
    $connection->on(each_message => sub {
        my ($new, $new_peer) = connection_and_peer();
        $new->send('short life');
        undef $new;
        push @bytes, $new_peer;
    });
    syswrite $peer, frame() x 3;
    run_until { @bytes == 3 };
    is rest_of($_), [[1, 'short life'], [8, pack 'n', 1000]], 'what it sent, Close' for @bytes;
};

subtest 'the close timeout and a nested loop (D6)' => sub {
    my ($connection, $peer) = connection_and_peer(close_timeout => 0.05);
    my $record = record($connection);
    $connection->on(next_message => sub {
        my ($connection) = @_;
        $connection->close;
        # It waits in the socket, where we do not see it; but the peer has sent.
        syswrite $peer, frame(payload => 'second') . close_frame(1000);
        nested { run_for(0.15) };
    });
    syswrite $peer, frame(payload => 'first');
    run_until { $connection->was_clean || @{ $record->{finish} } };
    is $record->{messages}, ['first', 'second'], 'what the peer sent in time is delivered';
    ok $connection->was_clean, 'and its Close is seen';
    shutdown $peer, 1;
    run_until { @{ $record->{finish} } };
    is scalar(@{ $record->{finish} }), 1, 'finish, once';
};

subtest 'the program ends its loop while a callback runs another (C22)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    my $stop;
    $connection->on(next_message => sub {
        eval { nested { run_until { die "out of the nested loop\n" } } };
        $stop = $@;
    });
    syswrite $peer, frame(payload => 1) . frame(payload => 2);
    run_until { @{ $record->{messages} } == 2 };
    is $stop, "out of the nested loop\n", 'an exception in it that the callback catches';
    is $record, { messages => [1, 2], parse_errors => [], finish => [] }, 'is not ours';
};

done_testing;
