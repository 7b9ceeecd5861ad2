# Connections that end by an error of the socket (C19): what the program learns, in whatever state it happens.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use Errno;
use Far  qw(each_way connection_and_far text_of_errno);
use Peer qw(connection_and_peer frame history finished read_until_eof record run_until settle);
use Test2::V0;

my ($TEXT, $BINARY, $CLOSE, $CONTINUATION) = (1, 2, 8, 0);
my $RESET  = text_of_errno(Errno::ECONNRESET);
my $UNSENT = 'x' x (2 << 20);

# The peer resets the connection. Each test: its name, what happens before, what is on the wire in front of
# the reset, and what has become of the connection.
my @tests;
sub reset_when { push @tests, [@_] }

reset_when 'nothing goes on' => sub { }, [];

reset_when 'messages are there that have not been read (C13)' => sub { },
    [[$TEXT, 'one'], [$TEXT, 'two']], told => ['one', 'two'];

reset_when 'callbacks answer messages that have not been read (C13)' => sub {
    my ($connection) = @_;
    $connection->on(each_message => sub { $_[0]->send('re: ' . $_[1]->body) });
}, [map { [$TEXT, $_] } 1 .. 5], told => [1 .. 5];

reset_when 'a message is under way' => sub { },
    [[$TEXT, 'whole'], [$TEXT, 'frag', fin => 0], [$CONTINUATION, 'm', length => 5]], told => ['whole'];

reset_when 'a large message is under way' => sub {
    my ($connection, $far) = @_;
    $far->say([$BINARY, 'l' x 30_000, length => 60_000]);
    settle();
}, [[$BINARY, 'which is not a frame, but a part of that message']];

reset_when 'data is unsent' => sub {
    my ($connection) = @_;
    $connection->send($UNSENT);
    ok length $connection->handle->{wbuf}, 'so it is';
}, [];

# An AnyEvent::Handle of another kind hears of the reset by writing, if the event loop lets it write first, and then
# reads no more.
reset_when 'data is unsent, and a message is there that has not been read (C13)' => sub {
    my ($connection) = @_;
    $connection->send($UNSENT);
    ok length $connection->handle->{wbuf}, 'so it is';
}, [[$TEXT, 'last words']], told => ['last words'], only => qr/directly/;

reset_when 'we have closed' => sub {
    my ($connection, $far) = @_;
    $connection->close(1001);
    $far->rest;
}, [[$TEXT, 'behind']], told => ['behind'];

reset_when 'we have closed, and data is unsent' => sub {
    my ($connection) = @_;
    $connection->send($UNSENT)->close(1001);
    ok length $connection->handle->{wbuf}, 'so it is';
}, [];

reset_when 'the program has sent a Close frame' => sub {
    my ($connection, $far) = @_;
    $connection->send(AnyEvent::WebSocket::Message->new(opcode => $CLOSE, body => ''));
    $far->frames(1);
}, [];

reset_when 'both have closed, the peer first (D5)' => sub {
    my ($connection, $far) = @_;
    $far->say([$CLOSE, pack 'n a*', 1001, 'away']);
    $far->rest;
}, [], code => 1001, reason => 'away', clean => 1;

reset_when 'both have closed, we first (D5)' => sub {
    my ($connection, $far) = @_;
    $connection->close(1000);
    $far->rest;
    $far->say([$CLOSE, pack 'n', 1000]);
    run_until { $connection->was_clean } 'the answer';
}, [], code => 1000, reason => '', clean => 1;

reset_when 'the connection has failed (D1)' => sub {
    my ($connection, $far) = @_;
    $far->say([3, 'reserved']);
    $far->rest;
}, [], told => [[parse_error => match qr/opcode 3/]];

reset_when 'a bad frame is there that has not been read (C13, D1)' => sub { },
    [[$TEXT, 'before'], [3, 'reserved'], [$TEXT, 'behind']], told => ['before', [parse_error => match qr/opcode 3/]];

my @ended;

for my $test (@tests) {
    my ($name, $script, $last, %expected) = @$test;
    for my $way (each_way()) {
        my ($way_name, @options) = @$way;
        next if $expected{only} && $way_name !~ $expected{only};
        subtest "a reset when $name, $way_name (C19)" => sub {
            my ($connection, $far) = connection_and_far(@options, tcp => 1);
            my $history = history($connection);
            $script->($connection, $far);
            $far->say(@$last);
            $far->reset;
            run_until { finished($history) } 'finish';
            is $history, [@{ $expected{told} || [] }, [finish => $RESET]],
                'what had arrived is delivered, then finish gets the text of the error';
            is $connection->close_error, $RESET, 'close_error, too';
            is [$connection->close_code, $connection->close_reason], [@expected{qw(code reason)}], 'code and reason';
            is $connection->was_clean ? 1 : 0, $expected{clean} // 0, 'clean or not';
            ok $connection->handle->destroyed, 'the handle is destroyed';
            ref_is $connection->send('late')->close(1000), $connection, 'sending and closing are harmless';
            push @ended, [$connection, $history, scalar @$history];
        };
    }
}

settle();
is scalar(grep { @{ $_->[1] } != $_->[2] } @ended), 0, 'nothing was told after finish, which came once (C19)';

subtest 'an error found by sending (C19)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    settle();
    close $peer;
    ref_is $connection->send('into the void'), $connection, 'send returns the connection';
    run_until { @{ $record->{finish} } };
    settle();
    is $record->{finish}, [text_of_errno(Errno::EPIPE)], 'finish, once';
    is $connection->close_error, text_of_errno(Errno::EPIPE), 'close_error';
    ok !$connection->was_clean, 'not clean';
};

subtest 'an error found while unsent data waits (C19)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    $connection->send('x' x (4 << 20));
    settle();
    is $record->{finish}, [], 'waiting';
    close $peer;
    run_until { @{ $record->{finish} } };
    settle();
    is $record->{finish}, [T()], 'finish, once, with an error';
    is $connection->close_error, $record->{finish}[0], 'close_error';
};

subtest 'our Close is clean when it has left, not before (D5)' => sub {
    for my $takes_it (0, 1) {
        my ($connection, $peer) = connection_and_peer();
        my $record = record($connection);
        $connection->send('x' x (4 << 20));
        syswrite $peer, frame(opcode => $CLOSE, payload => '');
        shutdown $peer, 1;
        run_until { @{ $record->{finish} } } 'finish';
        is $record->{finish}, [undef], 'EOF';
        ok !$connection->was_clean, 'not while it waits';
        if ($takes_it) {
            read_until_eof($peer);
            ok $connection->was_clean, 'but when the peer has it';
        }
        else {
            close $peer;
            run_until { !length($connection->handle->{wbuf} // '') } 'the handle gives up';
            ok !$connection->was_clean, 'nor when it cannot have it any more';
        }
    }
};

subtest 'messages before an error are delivered first (C13, C19)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    my @order;
    $connection->on(each_message => sub { push @order, 'message' });
    $connection->on(finish       => sub { push @order, 'finish' });
    syswrite $peer, frame(payload => $_) for 1 .. 3;
    close $peer;
    # The error comes before anything has been read.
    $connection->send('nobody there');
    run_until { @{ $record->{finish} } };
    is $record->{messages}, [1, 2, 3], 'messages';
    is \@order, [('message') x 3, 'finish'], 'in this order';
};

done_testing;
