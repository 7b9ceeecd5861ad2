# Callbacks that die (compat C15): the connection fails, parse_error gets the exception, and the event
# loop and the program see nothing of it.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use Peer qw(
    connection_and_peer frame close_frame parse_frames read_until_eof run_until settle nested record
    start_program
);
use Ending qw(rest_of);
use Scalar::Util qw(weaken);
use Test2::V0;

{
    package Test::Exception;
    use overload
        '""'     => sub { "exception: $_[0]{text}" },
        fallback => 1;
    sub new { my ($class, $text) = @_; return bless { text => $text }, $class }

    package Test::Exception::False;
    our @ISA = ('Test::Exception');
    use overload bool => sub { '' }, '""' => sub { '' }, fallback => 1;
}

my $CLOSE_1011 = [8, pack 'n', 1011];

# When a message comes, and what with it.
my %ARRIVAL = (
    'the first delivery'  => sub { syswrite $_[0], $_[1] },
    'a later delivery'    => sub { settle(); syswrite $_[0], $_[1] },
    'the first, with EOF' => sub { syswrite $_[0], $_[1]; shutdown $_[0], 1 },
    'a later, with EOF'   => sub { settle(); syswrite $_[0], $_[1]; shutdown $_[0], 1 },
);

subtest 'parse_error gets the exception, the peer Close 1011' => sub {
    my $object = Test::Exception->new('an object');
    my %exception = (
        'a string'                => ["oops\n", sub { ref_ok(\$_[0]) && is $_[0], "oops\n", $_[1] }],
        'a string without a line' => ['oops', sub { like $_[0], qr/\Aoops at \Q$0\E line \d+\.?\n\z/, $_[1] }],
        'nothing'                 => ['', sub { like $_[0], qr/\ADied at /, $_[1] }],
        'an object'               => [$object, sub { ref_is $_[0], $object, $_[1] }],
        'a reference'             => [[1, 2], sub { is $_[0], [1, 2], $_[1] }],
        'an object that is false' =>
            [Test::Exception::False->new('x'), sub { isa_ok $_[0], 'Test::Exception::False' }],
    );
    for my $event (qw(next_message each_message)) {
        for my $arrival (sort keys %ARRIVAL) {
            for my $exception (sort keys %exception) {
                my $name = "$exception in $event, $arrival";
                my ($connection, $peer) = connection_and_peer();
                my $record = record($connection);
                my (@order, @arguments);
                $connection->on($event => sub {
                    return if $_[1]->body ne 'message';
                    push @order, 'die';
                    die $exception{$exception}[0];
                });
                $connection->on(parse_error => sub { push @order, 'parse_error'; push @arguments, [@_] });
                $connection->on(finish => sub { push @order, 'finish' });
                my @warnings;
                local $SIG{__WARN__} = sub { push @warnings, @_ };
                $ARRIVAL{$arrival}->($peer, frame(payload => 'message') . frame(payload => 'next'));
                is rest_of($peer), [$CLOSE_1011], "$name: Close 1011 and EOF";
                close $peer;
                run_until { @{ $record->{finish} } } "$name: finish";
                is \@order, [qw(die parse_error finish)], "$name: in this order, once each";
                is scalar(@{ $arguments[0] }), 2, "$name: two arguments";
                ref_is $arguments[0][0], $connection, "$name: the connection";
                $exception{$exception}[1]->($arguments[0][1], "$name: the exception");
                is $record->{finish}, [undef], "$name: finish has no error";
                is [grep { $_ ne 'message' } @{ $record->{messages} }], [], "$name: no further message";
                is \@warnings, [], "$name: no warning";
                ok !$connection->was_clean, "$name: not clean";
                ref_is $connection->send('late'), $connection, "$name: send is harmless";
                ref_is $connection->close, $connection, "$name: close is harmless";
            }
        }
    }
};

subtest 'every parse_error callback gets it' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @got;
    for my $number (1, 2) {
        $connection->on(parse_error => sub { push @got, "$number: $_[1]" });
    }
    my $cancel = $connection->on(parse_error => sub { push @got, 'cancelled' });
    $cancel->();
    $connection->on(each_message => sub { die "oops\n" });
    syswrite $peer, frame();
    is rest_of($peer), [$CLOSE_1011], 'Close 1011';
    is \@got, ["1: oops\n", "2: oops\n"], 'in order';
};

subtest 'the rest of the callbacks for the message does not run' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @called;
    $connection->on(parse_error  => sub { push @called, 'parse_error' });
    $connection->on(next_message => sub { push @called, 'next 1'; die "oops\n" });
    $connection->on(next_message => sub { push @called, 'next 2' });
    $connection->on(each_message => sub { push @called, 'each' });
    syswrite $peer, frame();
    rest_of($peer);
    is \@called, ['next 1', 'parse_error'], 'called';
};

subtest 'replies to earlier messages and of the callback itself leave before the Close' => sub {
    my ($connection, $peer) = connection_and_peer();
    $connection->on(parse_error  => sub { $_[0]->send('not this') });
    $connection->on(each_message => sub {
        my ($connection, $message) = @_;
        $connection->send('reply ' . $message->body);
        die "oops\n" if $message->body == 3;
    });
    syswrite $peer, join '', map { frame(payload => $_) } 1 .. 5;
    is rest_of($peer), [(map { [1, "reply $_"] } 1 .. 3), $CLOSE_1011], 'in order';
};

subtest 'a Close frame that has gone out before is not followed by another' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @errors;
    $connection->on(parse_error  => sub { push @errors, $_[1] });
    $connection->on(each_message => sub { $_[0]->close(1001, 'bye'); die "oops\n" });
    syswrite $peer, frame();
    is rest_of($peer), [[8, pack 'n a*', 1001, 'bye']], 'one Close';
    is \@errors, ["oops\n"], 'parse_error';
};

subtest 'without a parse_error callback the exception is warned' => sub {
    my %exception = (
        'a string'  => ["oops\n", qr/\Aoops\n\z/],
        'a line'    => ['oops', qr/\Aoops at \Q$0\E line \d+\.?\n\z/],
        'an object' => [Test::Exception->new('warned'), qr/\Aexception: warned/],
    );
    for my $arrival (sort keys %ARRIVAL) {
        for my $exception (sort keys %exception) {
            my $name = "$exception, $arrival";
            my ($connection, $peer) = connection_and_peer();
            my $finished;
            $connection->on(finish       => sub { $finished++ });
            $connection->on(each_message => sub { die $exception{$exception}[0] });
            # One that has been cancelled does not count.
            $connection->on(parse_error => sub { fail 'cancelled' })->();
            my @warnings;
            local $SIG{__WARN__} = sub { push @warnings, @_ };
            $ARRIVAL{$arrival}->($peer, frame());
            is rest_of($peer), [$CLOSE_1011], "$name: Close 1011";
            close $peer;
            run_until { $finished } $name;
            is scalar(@warnings), 1, "$name: one warning";
            like "$warnings[0]", $exception{$exception}[1], "$name: the exception";
        }
    }
};

subtest 'errors of the peer are not warned' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @warnings;
    local $SIG{__WARN__} = sub { push @warnings, @_ };
    syswrite $peer, frame(rsv => 7);
    is rest_of($peer), [[8, pack 'n', 1002]], 'Close 1002';
    is \@warnings, [], 'no warning';
};

subtest 'a connection whose callback died is cleaned up' => sub {
    my ($connection, $peer) = connection_and_peer();
    weaken(my $weak = $connection);
    weaken(my $handle = $connection->handle);
    $connection->on(parse_error  => sub { });
    $connection->on(each_message => sub { die { connection => 'not held' } });
    syswrite $peer, frame();
    rest_of($peer);
    undef $connection;
    ok !$weak, 'the connection goes when it is dropped';
    close $peer;
    run_until { !$handle } 'end of the handle';
    pass 'and its handle';
};

subtest 'other connections go on' => sub {
    my ($dying, $dying_peer) = connection_and_peer();
    my ($other, $other_peer) = connection_and_peer();
    my $record = record($other);
    $dying->on(parse_error  => sub { });
    $dying->on(each_message => sub { die "oops\n" });
    syswrite $dying_peer, frame();
    syswrite $other_peer, frame(payload => 'one');
    is rest_of($dying_peer), [$CLOSE_1011], 'one dies';
    syswrite $other_peer, frame(payload => 'two');
    run_until { @{ $record->{messages} } == 2 };
    is $record->{messages}, ['one', 'two'], 'the other does not';
};

subtest 'die inside a nested loop that runs in a callback' => sub {
    my ($outer, $outer_peer) = connection_and_peer();
    my ($inner, $inner_peer) = connection_and_peer();
    my (@errors, $returned);
    $_->on(parse_error => sub { push @errors, $_[1] }) for $outer, $inner;
    $inner->on(each_message => sub { die "inner\n" });
    $outer->on(each_message => sub {
        syswrite $inner_peer, frame();
        nested { run_until { @errors } };
        $returned = 1;
    });
    syswrite $outer_peer, frame();
    run_until { $returned };
    is \@errors, ["inner\n"], 'only the inner connection fails';
    is rest_of($inner_peer), [$CLOSE_1011], 'Close 1011 for it';
    $outer->send('still open');
    $outer->close;
    is rest_of($outer_peer), [[1, 'still open'], [8, pack 'n', 1000]], 'not for the other';
};

subtest '$_ of the program is untouched' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @called;
    $connection->on($_ => sub { $_ = 'changed'; push @called, 'next' }) for 'next_message';
    $connection->on(each_message => sub { push @called, 'each'; s/.*/changed/ for my @copy = 1; $_ = 'changed'; die "oops\n" });
    $connection->on(parse_error => sub { $_ = 'changed'; push @called, 'parse_error' });
    $connection->on(finish      => sub { $_ = 'changed'; push @called, 'finish' });
    syswrite $peer, frame();
    my @rounds;
    # Constants, to which nothing can be assigned.
    for (1, 'two') {
        run_until { @called >= 3 };
        push @rounds, $_;
    }
    for my $topic ('mine') {
        local $_ = $topic;
        shutdown $peer, 1;
        run_until { @called >= 4 };
        push @rounds, $_;
    }
    is \@rounds, [1, 'two', 'mine'], 'whatever the callbacks do to it';
    is \@called, [qw(next each parse_error finish)], 'and they could do it';
};

# EV itself clears $@ when it calls back, so this is about the pure Perl loop.
subtest '$@ of the program is untouched' => sub {
    my ($peer, $wait) = start_program(<<'    END', PERL_ANYEVENT_MODEL => 'Perl');
        my $c = AnyEvent::WebSocket::Connection->new(handle => handle_on(program_socket()));
        # AnyEvent loads what it needs with an eval of its own.
        AE::time;
        settle();
        my @called;
        $c->on(next_message => sub { push @called, 'next'; eval { die "callback's own\n" } });
        $c->on(each_message => sub { push @called, 'each'; die "of each_message\n" if $_[1]->body eq 'die' });
        $c->on(parse_error  => sub { push @called, 'parse_error'; eval { die "callback's own\n" } });
        $c->on(finish       => sub { push @called, 'finish'; eval { die "callback's own\n" } });
        for my $mine ("a string\n", [1], '') {
            my $until = @called + 2;
            eval { die $mine } if $mine;
            $@ = '' unless $mine;
            $c->send('go');
            run_until { @called >= $until };
            print ref $mine ? ref $@ : $@ eq $mine ? 'kept' : "lost: $@", "\n";
        }
        eval { die "before die\n" };
        $c->send('die');
        run_until { $called[-1] eq 'finish' };
        print $@;
        for my $mine ("in eval\n") {
            eval { die $mine };
            undef $c;
            print $@;
        }
        print "@called\n";
    END
    my ($buffer, $out) = ('', 0);
    my @answer = (frame(payload => 'x'), frame(payload => 'x'), frame(payload => 'x'), frame(payload => 'die'));
    # The first two callbacks run for the first message, one for each of the others.
    my %reply = (0 => [0], 1 => [1, 1], 2 => [1, 1], 3 => [3]);
    run_until {
        sysread $peer, $buffer, 4096, length $buffer;
        for (grep { $_->{opcode} == 1 } parse_frames($buffer)) {
            syswrite $peer, $answer[$_] for @{ $reply{ $out++ } };
        }
        $out == 4;
    } 'the program';
    read_until_eof($peer);
    close $peer;
    my ($status, $printed) = $wait->();
    is $status, 0, 'exit status';
    is $printed, "kept\nARRAY\nkept\nbefore die\nin eval\n"
        . "next each each each each each each parse_error finish\n", 'what the program sees';
};

# What a program prints where finish or parse_error dies, with each of the two usual loops.
sub in_each_loop {
    my ($code, $feed) = @_;
    my %printed;
    for my $loop ('Perl', 'EV') {
        if ($loop eq 'EV' && !eval { require EV; 1 }) {
            diag 'EV is not installed: the way its loop takes exceptions is not tested';
            next;
        }
        my ($peer, $wait) = start_program(<<'        END' . $code, PERL_ANYEVENT_MODEL => $loop);
            $| = 1;
            AnyEvent::detect();
            no warnings 'once';
            my @thrown;
            $EV::DIED = sub { push @thrown, $@ };
            # Runs the loop until the condition holds; what comes out of the loop goes to @thrown.
            sub turn {
                my ($condition) = @_;
                until (eval { run_until { $condition->() }; 1 }) {
                    push @thrown, $@;
                    return if $@ =~ /^timeout/;
                }
            }
            my $c = AnyEvent::WebSocket::Connection->new(handle => handle_on(program_socket()));
        END
        $feed->($peer);
        my $bytes = read_until_eof($peer);
        my @frames = map { [$_->{opcode}, $_->{payload}] } parse_frames($bytes);
        close $peer;
        my ($status, $printed) = $wait->();
        $printed{$loop} = [\@frames, $status, $printed];
    }
    return \%printed;
}

sub outcomes_are {
    my ($outcomes, $frames, $printed, $name) = @_;
    for my $loop (sort keys %$outcomes) {
        is $outcomes->{$loop}, [$frames, 0, $printed], "$name ($loop)";
    }
}

subtest 'die in finish goes to the event loop' => sub {
    my $outcomes = in_each_loop(<<'    END', sub { shutdown $_[0], 1 });
        $c->on(finish => sub { die "from finish\n" });
        turn(sub { @thrown });
        settle();
        print "thrown: @thrown";
        Scalar::Util::weaken(my $weak = $c);
        undef $c;
        settle();
        print $weak ? "leaked\n" : "gone\n";
        print "thrown in all: @thrown";
    END
    outcomes_are($outcomes, [], "thrown: from finish\ngone\nthrown in all: from finish\n",
        'once, the socket is shut, the connection goes');
};

subtest 'die in finish after messages of the same read' => sub {
    my $outcomes = in_each_loop(<<'    END', sub { syswrite $_[0], frame(payload => 'hi'); shutdown $_[0], 1 });
        $c->on(each_message => sub { $_[0]->send('reply'); print "message\n" });
        $c->on(finish => sub { die "from finish\n" });
        turn(sub { @thrown });
        settle();
        print "thrown: @thrown";
    END
    outcomes_are($outcomes, [[1, 'reply']], "message\nthrown: from finish\n", 'once');
};

subtest 'die in parse_error goes to the event loop' => sub {
    my %feed = (
        'after a bad frame'      => [1002, frame(rsv => 7)],
        'after a die in message' => [1011, frame(payload => 'die')],
    );
    for my $name (sort keys %feed) {
        my ($code, $bytes) = @{ $feed{$name} };
        my $outcomes = in_each_loop(<<'        END', sub { syswrite $_[0], $bytes });
            my $finished = 0;
            $c->on(each_message => sub { die "from each_message\n" });
            $c->on(parse_error  => sub { die "from parse_error\n" });
            $c->on(finish       => sub { $finished++ });
            turn(sub { @thrown });
            print "thrown: @thrown";
            turn(sub { $finished });
            settle();
            print "finished: $finished\n";
            Scalar::Util::weaken(my $weak = $c);
            undef $c;
            print $weak ? "leaked\n" : "gone\n";
            print "thrown in all: @thrown";
        END
        outcomes_are($outcomes, [[8, pack 'n', $code]],
            "thrown: from parse_error\nfinished: 1\ngone\nthrown in all: from parse_error\n",
            "$name: once, the socket is shut, finish comes, the connection goes");
    }
};

subtest 'die in parse_error with EOF in the same read' => sub {
    my $outcomes = in_each_loop(<<'    END', sub { syswrite $_[0], frame(rsv => 7); shutdown $_[0], 1 });
        my $finished = 0;
        $c->on(parse_error => sub { die "from parse_error\n" });
        $c->on(finish      => sub { $finished++ });
        turn(sub { $finished });
        settle();
        print "thrown: @thrown";
        print "finished: $finished\n";
    END
    outcomes_are($outcomes, [[8, pack 'n', 1002]], "thrown: from parse_error\nfinished: 1\n", 'finish still comes');
};

subtest 'a warning handler that dies' => sub {
    my $outcomes = in_each_loop(<<'    END', sub { syswrite $_[0], frame() });
        my $finished = 0;
        $c->on(each_message => sub { die "oops\n" });
        $c->on(finish       => sub { $finished++ });
        {
            local $SIG{__WARN__} = sub { die "fatal: @_" };
            turn(sub { $finished });
        }
        print "finished: $finished\n";
        print "thrown: @thrown";
    END
    outcomes_are($outcomes, [$CLOSE_1011], "finished: 1\nthrown: fatal: oops\n", 'does not keep the connection open');
};

subtest 'callbacks that leave by other ways than return' => sub {
    my $tail = in_each_loop(<<'    END', sub { syswrite $_[0], frame(payload => 'x') . frame(payload => 'y') });
        my @got;
        sub tail { push @got, $_[1]->body; $_[0]->close if $_[1]->body eq 'y' }
        $c->on(each_message => sub { goto &tail });
        turn(sub { @got == 2 });
        print "@got\n";
    END
    outcomes_are($tail, [[8, pack 'n', 1000]], "x y\n", 'goto &sub is a call');

    for my $way ('next', 'last', 'redo', 'next ROUND', 'last ROUND', 'goto OUT') {
        my $outcomes = in_each_loop(<<"        END", sub { syswrite $_[0], frame(payload => 'x') . frame(payload => 'y') });
            no warnings 'exiting';
            my (\@got, \@errors);
            \$c->on(parse_error  => sub { push \@errors, \$_[1] });
            \$c->on(each_message => sub {
                push \@got, \$_[1]->body;
                # Where it acts like a return, as in the original, or in a loop that goes round and round.
                \$_[0]->close(1000) if \@got >= 2;
                return if \@got >= 2;
                $way;
            });
            my \$rounds = 0;
            ROUND: for my \$round (1 .. 3) {
                turn(sub { \@errors || \@got >= 2 });
                \$rounds++;
                OUT:
            }
            settle();
            print "rounds \$rounds, messages \@got, errors \@errors\\n";
        END
        for my $loop (sort keys %$outcomes) {
            my ($frames, $status, $printed) = @{ $outcomes->{$loop} };
            is $status, 0, "$way ($loop): no crash";
            # The exception that perl makes of it fails the connection.
            my $failed = @$frames && $frames->[0][1] eq pack 'n', 1011;
            like $printed, $failed ? qr/\Arounds 3, messages x, errors \S.*(?:next|last|redo|OUT|ROUND)/
                : qr/\Arounds 3, messages x [xy], errors \n\z/, "$way ($loop): the program's loop is its own";
            is scalar(@$frames), 1, "$way ($loop): one Close";
        }
    }
};

done_testing;
