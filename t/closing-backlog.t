# Connections that end while data of ours is unsent, over every way the bytes can go, and for both roles: the
# peer gets all of it, then Close, then EOF (C8, C17, C18).

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Message;
use Far  qw(each_way connection_and_far brief);
use Peer qw(history finished run_until settle);
use Test2::V0;

my ($TEXT, $BINARY, $CLOSE, $PING, $PONG) = (1, 2, 8, 9, 10);

# More than the sockets take. No two parts of it are the same.
my $DATA    = join '', map { pack 'N', $_ } 1 .. 1 << 18;
my $BACKLOG = [$BINARY, brief($DATA)];

sub body { return pack 'n a*', @_ }

# Each test: its name, what happens while the data waits, what the peer then gets behind the data up to EOF, what it
# says in the end, and what has become of the connection.
my @tests;
sub while_unsent { push @tests, [@_] }

while_unsent 'we close (C17)' => sub {
    my ($connection) = @_;
    $connection->send('then this')->close(1001, 'and good bye')->send('not this')->close(1000);
}, [[$TEXT, 'then this'], [$CLOSE, body(1001, 'and good bye')]], [[$TEXT, 'still here'], [$CLOSE, body(1001)]],
    told => ['still here'], code => 1001, reason => '', clean => 1;

while_unsent 'the program sends a Close frame of its own, and the peer closes (D2)' => sub {
    my ($connection, $far) = @_;
    $connection->send(AnyEvent::WebSocket::Message->new(opcode => $CLOSE, body => body(4000, 'raw')));
    $connection->send('not this');
    $far->say([$CLOSE, body(4000)]);
    run_until { defined $connection->close_code } 'the Close of the peer';
}, [[$CLOSE, body(4000, 'raw')]], [], code => 4000, reason => '', clean => 1;

while_unsent 'the peer closes (C18, D4)' => sub {
    my ($connection, $far) = @_;
    $far->say([$TEXT, 'message'], [$CLOSE, body(4001, 'enough')], [$TEXT, 'behind']);
    run_until { defined $connection->close_code } 'the Close of the peer';
    $connection->send('not this')->close(1000, 'nor this');
}, [[$CLOSE, body(4001)]], [[$TEXT, 'behind']], told => ['message'], code => 4001, reason => 'enough', clean => 1;

while_unsent 'the peer closes without a body (C18, D4)' => sub {
    my ($connection, $far) = @_;
    $connection->on(next_message => sub { $_[0]->send('then this') });
    $far->say([$TEXT, 'message'], [$CLOSE, '']);
    settle();
}, [[$TEXT, 'then this'], [$CLOSE, '']], [], told => ['message'], clean => 1;

while_unsent 'both close, we first (C17, C18, D5)' => sub {
    my ($connection, $far) = @_;
    $connection->close(4002, 'us');
    $far->say([$CLOSE, body(4001, 'them')]);
    run_until { defined $connection->close_code } 'the Close of the peer';
}, [[$CLOSE, body(4002, 'us')]], [], code => 4001, reason => 'them', clean => 1;

while_unsent 'the peer closes, and its side is shut (C18, C19)' => sub {
    my ($connection, $far, $history) = @_;
    $far->say([$TEXT, 'message'], [$CLOSE, body(4001)]);
    $far->hang_up;
    run_until { finished($history) } 'finish, which does not wait for what is unsent';
}, [[$CLOSE, body(4001)]], undef, told => ['message'], code => 4001, reason => '', clean => 1;

while_unsent 'the side of the peer is shut without a Close (C19)' => sub {
    my ($connection, $far, $history) = @_;
    $far->say([$TEXT, 'last words']);
    $far->hang_up;
    run_until { finished($history) } 'finish, which does not wait for what is unsent';
    $connection->send('not this')->close;
}, [], undef, told => ['last words'];

while_unsent 'pings come (C8, C12, C17)' => sub {
    my ($connection, $far) = @_;
    $far->say([$PING, 'first'], [$PING, 'second']);
    settle();
    $connection->close;
    $far->say([$PING, 'no answer']);
    settle();
}, [[$PONG, 'first'], [$PONG, 'second'], [$CLOSE, body(1000)]], [[$CLOSE, body(1000)]],
    code => 1000, reason => '', clean => 1;

for my $bad (['a reserved opcode', [3, 'x'], 1002], ['bad UTF-8', [$TEXT, "\xFF", length => 9], 1007],
    ['a frame over the limit', [$TEXT, '', length => 70_000], 1009])
{
    my ($name, $frame, $code) = @$bad;
    while_unsent "the connection fails by $name (D1)" => sub {
        my ($connection, $far, $history) = @_;
        $far->say([$TEXT, 'before'], $frame);
        run_until { @$history == 2 } 'parse_error, which does not wait for what is unsent';
        $connection->send('not this')->close;
    }, [[$CLOSE, body($code)]], [[$TEXT, 'behind'], [$CLOSE, body(1000)]],
        told => ['before', [parse_error => D()]];
}

while_unsent 'we close, and then the connection fails (C17, D1)' => sub {
    my ($connection, $far, $history) = @_;
    $connection->close(1001);
    $far->say([$TEXT, 'before'], [3, 'x']);
    run_until { @$history == 2 } 'parse_error';
}, [[$CLOSE, body(1001)]], [[$CLOSE, body(1001)]], told => ['before', [parse_error => match qr/opcode 3/]];

while_unsent 'the connection fails, and the side of the peer is shut (C19, D1)' => sub {
    my ($connection, $far, $history) = @_;
    $far->say([$TEXT, 'before'], [3, 'x']);
    $far->hang_up;
    run_until { finished($history) } 'finish, which does not wait for what is unsent';
}, [[$CLOSE, body(1002)]], undef, told => ['before', [parse_error => match qr/opcode 3/]];

while_unsent 'a callback dies (C15)' => sub {
    my ($connection, $far, $history) = @_;
    $connection->on(next_message => sub { $_[0]->send('then this'); die "died\n" });
    $far->say([$TEXT, 'never told to the others'], [$TEXT, 'behind']);
    run_until { @$history } 'parse_error';
}, [[$TEXT, 'then this'], [$CLOSE, body(1011)]], [[$CLOSE, body(1011)]], told => [[parse_error => "died\n"]];

for my $test (@tests) {
    my ($name, $script, $behind, $last, %expected) = @$test;
    for my $way (each_way()) {
        my ($way_name, @options) = @$way;
        subtest "data is unsent, and $name, $way_name" => sub {
            my ($connection, $far) = connection_and_far(@options);
            my $history = history($connection);
            $connection->send(AnyEvent::WebSocket::Message->new(opcode => $BINARY, body => $DATA));
            $script->($connection, $far, $history);
            ok length $connection->handle->{wbuf}, 'data is unsent until here';
            is $far->rest, [$BACKLOG, @$behind], 'all data, in order, then EOF, for which the peer need not answer';
            if ($last) {
                is finished($history), 0, 'not finished before the peer has shut its side';
                $far->say(@$last);
                $far->leave;
                run_until { finished($history) } 'finish';
            }
            is $history, [@{ $expected{told} || [] }, [finish => undef]], 'what the callbacks were told';
            is [$connection->close_code, $connection->close_reason], [@expected{qw(code reason)}], 'code and reason';
            is $connection->close_error, undef, 'no error';
            is $connection->was_clean ? 1 : 0, $expected{clean} // 0, 'clean or not';
        };
    }
}

done_testing;
