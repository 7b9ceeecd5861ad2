# Callbacks: registering, cancelling, their order and what they are called with.

use strict;
use warnings;
use lib 't/lib';
use List::Util ();
use POSIX ();
use Scalar::Util qw(refaddr weaken);
use Socket ();
use Test2::V0;
use Peer qw(
    connection_and_peer connection_through_handle frame close_frame parse_frames read_frames read_until_eof
    run_until settle
);

use AnyEvent::WebSocket::Connection;

# Sends messages, all at once, and runs the event loop until something is true.
sub deliver {
    my ($peer, $condition, @payloads) = @_;
    syswrite $peer, join '', map { frame(payload => $_) } @payloads;
    run_until { $condition->() } 'the callbacks';
}

# A connection, its peer, and a function that sends messages, all at once, and runs the event loop until
# they have been delivered: then a ping that comes after them is answered.
sub open_connection {
    my ($connection, $peer) = connection_and_peer();
    my $deliver = sub {
        syswrite $peer, join '', (map { frame(payload => $_) } @_), frame(opcode => 9);
        read_frames($peer, 1);
    };
    return ($connection, $peer, $deliver);
}

subtest 'an unknown event croaks at the caller (C9)' => sub {
    my ($connection) = connection_and_peer();
    for my $event ('nope', '', 'each_messages', 'Finish', ' finish', "finish\0", 'message', 'on', "caf\x{263A}", 0) {
        my $exception = dies { $connection->on($event => sub { }) }; my $line = __LINE__;
        is $exception, "unrecongized event: $event at ${\__FILE__} line $line.\n", "'$event'";
    }
    my $exception = dies { $connection->on('nope') }; my $line = __LINE__;
    is $exception, "unrecongized event: nope at ${\__FILE__} line $line.\n", 'without a callback, too';
    {
        no warnings 'once';
        @Local::Subclass::ISA = ('AnyEvent::WebSocket::Connection');
    }
    my ($subclass) = connection_and_peer(class => 'Local::Subclass');
    $exception = dies { $subclass->on(nope => sub { }) }; $line = __LINE__;
    is $exception, "unrecongized event: nope at ${\__FILE__} line $line.\n", 'on an object of a subclass';
};

subtest 'what can never be called is refused at the caller (C9)' => sub {
    my ($connection) = connection_and_peer();
    for my $callback ('name', '', 0, [], {}, \1, undef) {
        my $exception = dies { $connection->on(finish => $callback) }; my $line = __LINE__;
        like $exception, qr/not a code ref.* at \Q${\__FILE__}\E line $line\./, $callback // 'undef';
    }
};

subtest 'on returns a coderef that cancels (C9)' => sub {
    my ($connection, $peer, $deliver) = open_connection();
    my @log;
    my %cancel;
    for my $name (qw(a b c)) {
        $cancel{$name} = $connection->on(each_message => sub { push @log, "$name:" . $_[1]->body });
        is ref $cancel{$name}, 'CODE', "the one for $name";
    }
    $deliver->(1);
    is [splice @log], [qw(a:1 b:1 c:1)], 'in the order of registration';
    $cancel{b}->();
    $deliver->(2);
    is [splice @log], [qw(a:2 c:2)], 'cancelled';
    $cancel{b}->() for 1 .. 3;
    $deliver->(3);
    is [splice @log], [qw(a:3 c:3)], 'cancelling again does nothing';
    $cancel{a}->('some', 'arguments');
    $cancel{c}->();
    $deliver->(4);
    is \@log, [], 'all are gone';
};

subtest 'each event has callbacks of its own that can be cancelled (C9)' => sub {
    for my $event (qw(each_message next_message parse_error finish)) {
        my ($connection, $peer) = connection_and_peer();
        my @log;
        my @cancel = map { my $n = $_; $connection->on($event => sub { push @log, $n }) } 1 .. 4;
        $_->() for @cancel[0, 2];
        my $done;
        $connection->on(finish => sub { $done = 1 });
        # A message, then a frame with a reserved opcode, then EOF.
        syswrite $peer, frame(payload => 'message') . frame(opcode => 3);
        close $peer;
        run_until { $done } 'finish';
        is \@log, [2, 4], $event;
    }
};

subtest 'cancelling removes every registration of that coderef for that event (C9)' => sub {
    my ($connection, $peer, $deliver) = open_connection();
    my (@log, $event);
    my $code = sub { push @log, @_ > 2 ? 'each' : 'next' };
    $connection->on(each_message => $code);
    my $cancel = $connection->on(each_message => $code);
    my $other  = $connection->on(each_message => sub { push @log, 'other' });
    $connection->on(each_message => $code);
    $connection->on(next_message => $code);
    $deliver->('x');
    is [splice @log], [qw(next each each other each)], 'each registration counts';
    $connection->on(next_message => $code);
    $cancel->();
    $deliver->('x');
    is [splice @log], [qw(next other)], 'all of that event are gone, those of others not';
    $connection->on(each_message => $code);
    $deliver->('x');
    is [splice @log], [qw(other each)], 'it can be registered again';
    $cancel->();
    $deliver->('x');
    is [splice @log], [qw(other)], 'and the same coderef cancels it again';
};

subtest 'next_message is called once, for the next message (C10)' => sub {
    my ($connection, $peer, $deliver) = open_connection();
    my @log;
    my $code = sub { push @log, $_[1]->body };
    $connection->on(next_message => $code) for 1 .. 2;
    $deliver->(qw(a b));
    is [splice @log], [qw(a a)], 'as often as it was registered';
    my $cancel = $connection->on(next_message => $code);
    $cancel->();
    $deliver->('c');
    is \@log, [], 'cancelled before';
    $cancel = $connection->on(next_message => $code);
    $deliver->('d');
    $cancel->();
    $deliver->('e');
    is [splice @log], ['d'], 'cancelled after';
};

subtest 'all next_message callbacks come before the each_message ones (C10)' => sub {
    my ($connection, $peer, $deliver) = open_connection();
    my @log;
    for my $n (1 .. 2) {
        $connection->on(each_message => sub { push @log, "each $n" });
        $connection->on(next_message => sub { push @log, "next $n" });
    }
    $deliver->('x');
    is \@log, ['next 1', 'next 2', 'each 1', 'each 2'];
};

subtest 'a next_message callback added inside one waits for the next message (C10)' => sub {
    my ($connection, $peer, $deliver) = open_connection();
    my @log;
    my $again;
    $again = sub {
        my ($connection, $message) = @_;
        push @log, $message->body;
        $connection->on(next_message => $again) if @log < 4;
    };
    $connection->on(next_message => $again);
    $connection->on(next_message => sub { push @log, 'also ' . $_[1]->body });
    $deliver->(qw(a b c d));
    is \@log, ['a', 'also a', 'b', 'c'], 'all in one read';
    undef $again;
};

subtest 'each_message as next_message callbacks leave it (C10)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my (@log, %cancel);
    $cancel{each} = $connection->on(each_message => sub { push @log, 'cancelled each' });
    $connection->on(next_message => sub {
        my ($connection) = @_;
        push @log, 'first';
        $cancel{each}->();
        $cancel{next}->();
        $connection->on(each_message => sub { push @log, 'added each ' . $_[1]->body });
        $connection->on(next_message => sub { push @log, 'added next ' . $_[1]->body });
    });
    $cancel{next} = $connection->on(next_message => sub { push @log, 'cancelled next' });
    deliver($peer, sub { @log >= 5 }, 'a', 'b');
    is \@log, ['first', 'cancelled next', 'added each a', 'added next b', 'added each b'];
};

subtest 'each_message callbacks added or cancelled inside one count from the next message (C10)' => sub {
    my ($connection, $peer, $deliver) = open_connection();
    my (@log, %cancel, $added);
    $connection->on(each_message => sub {
        push @log, 'a';
        $cancel{c}->();
        $added ||= $connection->on(each_message => sub { push @log, 'new' });
    });
    $cancel{b} = $connection->on(each_message => sub { push @log, 'b'; $cancel{b}->() });
    $cancel{c} = $connection->on(each_message => sub { push @log, 'c' });
    $deliver->('', '', '');
    is \@log, [qw(a b c), qw(a new), qw(a new)], 'a removed callback still runs for this message';
    undef $added;
    %cancel = ();
};

subtest 'the third argument cancels its callback (C10)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my (@log, @third);
    $connection->on(each_message => sub { push @log, 'a' . @_; $_[2]->() });
    $connection->on(each_message => sub { push @log, 'b' . @_; push @third, $_[2] });
    $connection->on(next_message => sub { push @log, 'next' . @_ });
    deliver($peer, sub { @log >= 4 }, 'x', 'y');
    is [splice @log], [qw(next2 a3 b3 b3)], 'the callback cancels itself; next_message has no third argument';
    is [map { ref } @third], ['CODE', 'CODE'];
    $third[0]->();

    my $code = sub { push @log, 'twice'; $_[2]->() };
    $connection->on(each_message => $code) for 1 .. 2;
    $connection->on(each_message => sub { push @log, 'last' });
    deliver($peer, sub { @log >= 4 }, 'x', 'y');
    is \@log, [qw(twice twice last last)], 'kept, it works later; every registration goes, after this round';
};

subtest 'callbacks get the connection and what happened (C11)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my %arguments;
    for my $event (qw(each_message next_message parse_error finish)) {
        $connection->on($event => sub { $arguments{$event} = [@_] });
    }
    syswrite $peer, frame(payload => 'message') . frame(opcode => 3);
    shutdown $peer, 1;
    run_until { $arguments{finish} } 'finish';
    ref_is $arguments{$_}[0], $connection, "$_: the connection first" for sort keys %arguments;
    is $arguments{next_message}[1]->body, 'message';
    ref_is $arguments{each_message}[1], $arguments{next_message}[1], 'the same message for all';
    is scalar @{ $arguments{each_message} }, 3, 'and what cancels';
    is scalar @{ $arguments{parse_error} }, 2, 'parse_error: two arguments';
    like $arguments{parse_error}[1], qr/opcode/i, 'a text';
    is [@{ $arguments{finish} }[1 .. $#{ $arguments{finish} }]], [undef], 'finish: undef without an error';
};

subtest 'finish gets the text of an error (C11, C19)' => sub {
    my ($connection, $peer) = connection_and_peer(tcp => 1);
    my @finish;
    $connection->on(finish => sub { push @finish, [@_] }) for 1 .. 2;
    setsockopt $peer, Socket::SOL_SOCKET(), Socket::SO_LINGER(), pack 'II', 1, 0;
    close $peer;
    run_until { @finish >= 2 } 'finish';
    my $text = do { local $! = POSIX::ECONNRESET(); "$!" };
    for my $arguments (@finish) {
        ref_is $arguments->[0], $connection;
        is $arguments->[1], $text;
    }
    is $connection->close_error, $text;
};

subtest 'several parse_error and finish callbacks run in order, once (C11, C19)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @log;
    for my $n (1 .. 3) {
        $connection->on(finish => sub { push @log, "finish $n" });
        $connection->on(parse_error => sub { push @log, "error $n" });
    }
    syswrite $peer, frame(opcode => 3) x 2;
    run_until { @log >= 3 } 'parse_error';
    read_until_eof($peer);
    close $peer;
    run_until { @log >= 6 } 'finish';
    settle();
    is \@log, ['error 1', 'error 2', 'error 3', 'finish 1', 'finish 2', 'finish 3'];
    $connection->on(finish => sub { push @log, 'too late' });
    $connection->on(each_message => sub { push @log, 'too late' });
    settle();
    is scalar @log, 6, 'what is registered after finish is not called';
};

subtest 'parse_error and finish callbacks that cancel and add (C9, C11)' => sub {
    for my $event (qw(parse_error finish)) {
        my ($connection, $peer) = connection_and_peer();
        my (@log, $cancel);
        $connection->on($event => sub { push @log, 'first'; $cancel->() });
        $cancel = $connection->on($event => sub { push @log, 'second' });
        my $itself;
        $itself = $connection->on($event => sub {
            push @log, 'third';
            $itself->();
            $connection->on($event => sub { push @log, 'added' });
        });
        syswrite $peer, frame(opcode => 3);
        read_until_eof($peer);
        close $peer;
        run_until { @log >= 3 } $event;
        settle();
        is \@log, [qw(first third added)], "$event comes once, so what is cancelled or added in it counts";
    }
};

subtest 'a kept cancel coderef does not keep the connection alive (C9, C14)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @kept = map { $connection->on($_ => sub { die 'called' }) } qw(each_message next_message parse_error finish);
    $connection->on(next_message => sub { });
    weaken(my $weak = $connection);
    my $handle = $connection->handle;
    undef $connection;
    is $weak, undef, 'the connection is gone';
    undef $handle;
    is [parse_frames(my $bytes = read_until_eof($peer))], [hash { field opcode => 8; etc }], 'and closed';
    ok lives { $_->() for @kept }, 'cancelling afterwards does nothing';
};

subtest 'a kept third argument does not keep the connection alive either (C9)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $kept;
    $connection->on(each_message => sub { $kept = $_[2] });
    deliver($peer, sub { $kept }, 'x');
    weaken(my $weak = $connection);
    undef $connection;
    is $weak, undef, 'the connection is gone';
    ok lives { $kept->() };
};

subtest 'callbacks are freed with the connection, or when cancelled (C9)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my %weak;
    my %cancel;
    for my $event (qw(each_message next_message parse_error finish)) {
        for my $what (qw(kept cancelled)) {
            my $data = {};
            my $code = sub { $data };
            $cancel{"$event $what"} = $connection->on($event => $code);
            weaken($weak{"$event $what"} = $data);
        }
    }
    $cancel{"$_ cancelled"}->() for qw(each_message next_message parse_error finish);
    is [grep { defined $weak{$_} } sort keys %weak],
        [map { "$_ kept" } qw(each_message finish next_message parse_error)],
        'the cancelled ones are gone';
    my @fired;
    $connection->on(each_message => sub { push @fired, 1 });
    deliver($peer, sub { @fired }, 'x');
    is $weak{'next_message kept'}, undef, 'and the next_message one, which has run';
    undef $connection;
    is [grep { defined $weak{$_} } sort keys %weak], [], 'with the connection, all are';
};

subtest 'callbacks are freed after finish (C14)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my ($weak, $finished);
    {
        my $data = {};
        weaken($weak = $data);
        # The callbacks hold the connection, and it holds them, until it ends.
        my $held = $connection;
        $connection->on(each_message => sub { ($data, $held) });
        $connection->on(finish => sub { $finished = 1; ($data, $held) });
    }
    undef $connection;
    ok $weak, 'they live as long as it is open';
    close $peer;
    run_until { $finished } 'finish';
    is $weak, undef, 'but not longer';
};

subtest 'a cancelled coderef whose memory another got is another (C9)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $cancel = do {
        my $data = 1;
        my $code = sub { $data };
        my $cancel = $connection->on(each_message => $code);
        $cancel->();
        $cancel;
    };
    my $count = 0;
    $connection->on(each_message => sub { $count++ }) for 1 .. 100;
    $cancel->();
    my $done;
    $connection->on(each_message => sub { $done = 1 });
    deliver($peer, sub { $done }, 'x');
    is $count, 100;
};

subtest 'a destructor that runs when a callback is cancelled may use the connection (C9)' => sub {
    {
        package Local::Guard;
        sub new { my ($class, $code) = @_; return bless {code => $code}, $class }
        sub DESTROY { $_[0]{code}->() }
    }
    my ($connection, $peer) = connection_and_peer();
    my @log;
    my $cancel_other = $connection->on(each_message => sub { push @log, 'other' });
    my $cancel;
    {
        my $guard = Local::Guard->new(sub {
            push @log, 'destroyed';
            $cancel_other->();
            $cancel->();
            $connection->on(each_message => sub { push @log, 'added ' . $_[1]->body });
        });
        $cancel = $connection->on(each_message => sub { $guard });
    }
    $cancel->();
    is \@log, ['destroyed'];
    deliver($peer, sub { @log >= 2 }, 'x');
    is \@log, ['destroyed', 'added x'];
};

subtest 'a destructor that runs when a next_message callback has run (C10)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @log;
    {
        my $guard = Local::Guard->new(sub {
            push @log, 'destroyed';
            $connection->on(next_message => sub { push @log, $_[1]->body });
        });
        $connection->on(next_message => sub { push @log, 'first'; $guard });
    }
    deliver($peer, sub { @log >= 3 }, 'a', 'b');
    is \@log, ['first', 'destroyed', 'b'];
};

# What programs can do to @_, which holds our own variables.
my %abuse = (
    'undef $_[0]'                    => sub { undef $_[0] },
    '$_[0] = another object'         => sub { $_[0] = bless {}, 'Local::Other' },
    '$_[0] = a string'               => sub { $_[0] = 'text' },
    'undef $_[1]'                    => sub { undef $_[1] },
    'undef of all'                   => sub { undef $_ for @_ },
    '@_ = ()'                        => sub { @_ = () },
    'undef @_'                       => sub { undef @_ },
    'shift'                          => sub { shift; shift; shift },
    'unshift'                        => sub { unshift @_, 1 .. 100 },
    'goto another sub'               => sub { goto &{ sub { undef $_[0] } } },
    'weakening $_[0]'                => sub { no warnings 'misc'; weaken($_[0]) },
    'a reference kept to $_[0]'      => sub { our $kept = \$_[0]; our $kept_one = \$_[1] },
    'local $_ and @_'                => sub { local $_ = 1; local @_ = (1, 2) },
);

for my $name (sort keys %abuse) {
    my $abuse = $abuse{$name};
    for my $pair (\&connection_and_peer, \&connection_through_handle) {
        my $way = $pair == \&connection_and_peer ? 'directly' : 'through the handle';

        subtest "abuse by $name does not reach the others, $way (C11)" => sub {
            my ($connection, $peer) = $pair->();
            my %seen;
            for my $event (qw(next_message each_message parse_error finish)) {
                $connection->on($event => sub { push @{ $seen{$event} }, $_[0] });
                $connection->on($event => $abuse);
                $connection->on($event => sub { push @{ $seen{$event} }, $_[0] });
            }
            my $done;
            $connection->on(finish => sub { $done = 1 });
            syswrite $peer, frame(payload => 'a') . frame(payload => 'b') . frame(opcode => 3);
            my @frames = parse_frames(my $bytes = read_until_eof($peer));
            is [map { unpack 'n', $_->{payload} } @frames], [1002],
                'the protocol error is answered, and the write side shut';
            close $peer;
            run_until { $done } 'finish';
            my %expected = (next_message => 2, each_message => 4, parse_error => 2, finish => 2);
            is {map { $_ => scalar @{ $seen{$_} || [] } } keys %expected}, \%expected, 'all callbacks ran';
            is [grep { !ref || refaddr $_ != refaddr $connection } map { @$_ } values %seen], [],
                'and each of them got the connection';
        };

        subtest "abuse by $name, then a Close, $way (C11, C18)" => sub {
            my ($connection, $peer) = $pair->();
            my $done;
            $connection->on($_ => $abuse) for qw(next_message each_message finish);
            $connection->on(finish => sub { $done = 1 });
            syswrite $peer, frame(payload => 'a') . close_frame(3000, 'bye');
            is read_until_eof($peer), close_frame(3000), 'the Close is answered, and the write side shut';
            is [$connection->close_code, $connection->close_reason], [3000, 'bye'], 'and recorded';
            close $peer;
            run_until { $done } 'finish';
        };

        subtest "abuse by $name, then die, $way (C11, C15)" => sub {
            my ($connection, $peer) = $pair->();
            my @errors;
            $connection->on(each_message => sub { &$abuse; die "died\n" });
            $connection->on(parse_error  => sub { push @errors, [@_] });
            syswrite $peer, frame(payload => 'a') . frame(payload => 'b');
            is read_until_eof($peer), close_frame(1011), 'the connection is closed';
            is \@errors, [[exact_ref($connection), "died\n"]], 'parse_error has the exception';
        };
    }
}

subtest 'the third argument assigned to does not matter to later messages (C10)' => sub {
    for my $value (undef, 1, 'text', [], sub { die 'called' }) {
        for my $callbacks (1, 2) {
            my ($connection, $peer, $deliver) = open_connection();
            my (@log, @errors);
            $connection->on(parse_error => sub { push @errors, $_[1] });
            $connection->on(each_message => sub {
                push @log, $_[1]->body;
                $log[-1] eq 'a' ? $_[2] = $value : $_[2]->();
            });
            $connection->on(each_message => sub { }) for 2 .. $callbacks;
            $deliver->(qw(a b c));
            is \@log, ['a', 'b'], "it still cancels, $callbacks callbacks, after it was set to "
                . ($value // 'undef');
            is \@errors, [];
        }
    }
};

subtest 'objects that can be called (C9)' => sub {
    {
        package Local::Callable;
        use overload '&{}' => sub { my ($self) = @_; $self->[0]++; return $self->[1] }, fallback => 1;
        sub new { my ($class, $code) = @_; return bless [0, $code], $class }
    }
    {
        package Local::Blessed;
        sub new { my ($class, $code) = @_; return bless $code, $class }
    }
    my ($connection, $peer) = connection_and_peer();
    my (@log, %callable, %cancel);
    for my $event (qw(next_message each_message parse_error finish)) {
        for my $class (qw(Local::Callable Local::Blessed)) {
            my $code = sub { push @log, "$event $class" };
            $connection->on($event => $callable{"$event $class"} = $class->new($code));
        }
    }
    my $cancelled = Local::Callable->new(sub { push @log, 'cancelled' });
    $connection->on(each_message => $cancelled);
    my $cancel = $connection->on(each_message => $cancelled);
    $cancel->();
    my $done;
    $connection->on(finish => sub { $done = 1 });
    syswrite $peer, frame(payload => 'a') . frame(payload => 'b') . frame(opcode => 3);
    shutdown $peer, 1;
    run_until { $done } 'finish';
    is \@log,
        [map { ("$_ Local::Callable", "$_ Local::Blessed") } qw(next_message each_message each_message),
            qw(parse_error finish)],
        'each ran; the cancelled one did not';
    is $cancelled->[0], 0, 'whose overloading was not even asked';
};

subtest 'a constant subroutine and an XSUB as callbacks (C9)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $count = 0;
    $connection->on(each_message => sub () { 1 });
    $connection->on(next_message => \&List::Util::shuffle);
    $connection->on(each_message => sub { $count++ });
    deliver($peer, sub { $count }, 'x');
    is $count, 1;
};

subtest 'a callback by name is found when it is called (C9)' => sub {
    no warnings 'redefine';
    my ($connection, $peer) = connection_and_peer();
    my @log;
    no strict 'refs';
    *{'Local::Named::callback'} = sub { push @log, 'old' };
    $connection->on(each_message => \&{'Local::Named::callback'});
    deliver($peer, sub { @log >= 1 }, 'x');
    is \@log, ['old'];
};

subtest 'callbacks that send, close or register for another event (C9, C10)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @log;
    $connection->on(each_message => sub {
        my ($connection, $message, $cancel) = @_;
        push @log, 'each ' . $message->body;
        $connection->send('reply to ' . $message->body);
        $connection->on(finish => sub { push @log, 'finish' });
        $connection->close(1001, 'enough') if $message->body eq 'b';
    });
    syswrite $peer, frame(payload => 'a') . frame(payload => 'b') . frame(payload => 'c');
    my $expected = join '', (map { frame(payload => "reply to $_") } qw(a b)), close_frame(1001, 'enough');
    is read_until_eof($peer), $expected;
    close $peer;
    run_until { grep { $_ eq 'finish' } @log } 'finish';
    is \@log, ['each a', 'each b', 'each c', ('finish') x 3];
};

subtest 'the event name may be anything that is that string (C9)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $count = 0;
    "each_message" =~ /(\w+)/ or die;
    $connection->on($1 => sub { $count++ });
    my $upgraded = 'each_message';
    utf8::upgrade($upgraded);
    $connection->on($upgraded => sub { $count++ });
    my $name = 'each_message';
    $connection->on(bless(\$name, 'Local::Name') => sub { $count++ });
    my $done;
    $connection->on(each_message => sub { $done = 1 });
    deliver($peer, sub { $done }, 'x');
    is $count, 3;
    { package Local::Name; use overload '""' => sub { ${ $_[0] } }, fallback => 1 }
};

subtest 'many callbacks (C10)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @log;
    my @cancel = map { my $n = $_; $connection->on(each_message => sub { push @log, $n }) } 1 .. 1000;
    my $done;
    $connection->on(each_message => sub { $done++ });
    deliver($peer, sub { $done }, 'x');
    is [splice @log], [1 .. 1000], 'in order';
    $_->() for @cancel[grep { $_ % 2 } 0 .. 999];
    deliver($peer, sub { $done == 2 }, 'y');
    is \@log, [grep { $_ % 2 } 1 .. 1000], 'half of them cancelled';
};

done_testing;
