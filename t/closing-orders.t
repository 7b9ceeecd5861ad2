# The closing handshake in every order, over every way the bytes can go, and for both roles: what the peer sees
# and when it sees EOF, and what the program learns.

use strict;
use warnings;
use utf8;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Message;
use Far  qw(each_way connection_and_far);
use Peer qw(history finished run_until settle);
use Test2::V0;

my ($TEXT, $CLOSE, $PING, $CONTINUATION) = (1, 8, 9, 0);

# A code, and characters.
sub body {
    my ($code, $reason) = @_;
    utf8::encode($reason //= '');
    return pack 'n a*', $code, $reason;
}

sub raw_close { return AnyEvent::WebSocket::Message->new(opcode => $CLOSE, body => $_[0]) }

# Each test: its name, what it does with the connection, its far end and the connection's history, and what has
# become of the connection when the socket has ended.
my @tests;
sub order { push @tests, [@_] }

order 'the peer first (C18, D4)' => sub {
    my ($connection, $far, $history) = @_;
    $far->say([$TEXT, 'before'], [$CLOSE, body(4001, 'tschüß')], [$TEXT, 'behind'], [$PING, 'behind']);
    is $far->rest, [[$CLOSE, body(4001)]], 'our answer, and EOF before the peer has shut its side';
    ok $connection->was_clean, 'clean as soon as it is answered';
    is $history, ['before'], 'but not finished';
    $far->say([$TEXT, 'behind'], [$CLOSE, body(4003)]);
    $far->leave;
}, history => ['before', [finish => undef]], code => 4001, reason => 'tschüß', clean => 1;

order 'the peer first, without a body (C18, D4)' => sub {
    my ($connection, $far) = @_;
    $far->say([$CLOSE, '']);
    is $far->rest, [[$CLOSE, '']], 'an answer without a body, and EOF';
    $far->leave;
}, clean => 1;

order 'the peer first, in two reads (C18)' => sub {
    my ($connection, $far) = @_;
    my $bytes = $far->encode([$CLOSE, body(1001, 'good bye')]);
    $far->say_bytes(substr $bytes, 0, 5);
    settle();
    is $connection->close_code, undef, 'no code yet';
    $far->say_bytes(substr $bytes, 5);
    is $far->rest, [[$CLOSE, body(1001)]], 'our answer, and EOF';
    $far->leave;
}, code => 1001, reason => 'good bye', clean => 1;

order 'the peer first, and its side is shut at once (C13, C18, C19)' => sub {
    my ($connection, $far) = @_;
    $far->say([$TEXT, 'before'], [$CLOSE, body(1000, 'bye')]);
    $far->hang_up;
    is $far->rest, [[$CLOSE, body(1000)]], 'our answer, and EOF';
}, history => ['before', [finish => undef]], code => 1000, reason => 'bye', clean => 1;

order 'the peer first, inside a fragmented message (C18)' => sub {
    my ($connection, $far) = @_;
    $far->say([$TEXT, 'never whole', fin => 0], [$CLOSE, body(1000, 'enough')], [$CONTINUATION, '!']);
    is $far->rest, [[$CLOSE, body(1000)]], 'our answer, and EOF';
    $far->leave;
}, code => 1000, reason => 'enough', clean => 1;

order 'the peer first, and we close in a callback before it is seen (C17, C18)' => sub {
    my ($connection, $far) = @_;
    $connection->on(next_message => sub { $_[0]->close(4002, 'mine') });
    $far->say([$TEXT, 'message'], [$CLOSE, body(4001, 'theirs')]);
    is $far->rest, [[$CLOSE, body(4002, 'mine')]], 'one Close, and EOF';
    $far->leave;
}, history => ['message', [finish => undef]], code => 4001, reason => 'theirs', clean => 1;

order 'we first (C17)' => sub {
    my ($connection, $far, $history) = @_;
    $connection->send('before')->close(4002, 'für 3 €')->send('behind')->close(4003);
    $connection->send(raw_close(body(4003)));
    is $far->rest, [[$TEXT, 'before'], [$CLOSE, body(4002, 'für 3 €')]],
        'our Close, and EOF before the peer has answered';
    ok !$connection->was_clean, 'not clean before the answer';
    $far->say([$CLOSE, body(4002)]);
    run_until { $connection->was_clean } 'the answer';
    is $history, [], 'not finished before the peer has shut its side';
    $far->leave;
}, code => 4002, reason => '', clean => 1;

order 'we first, and what the peer still says is delivered (C17)' => sub {
    my ($connection, $far) = @_;
    $far->say([$TEXT, 'be', fin => 0]);
    settle();
    $connection->close(1001);
    is $far->rest, [[$CLOSE, body(1001)]], 'our Close, and EOF';
    $far->say([$PING, 'no answer'], [$CONTINUATION, 'fore'], [$TEXT, 'behind']);
    $far->say([$CLOSE, body(1001)], [$TEXT, 'never']);
    $far->leave;
}, history => ['before', 'behind', [finish => undef]], code => 1001, reason => '', clean => 1;

order 'we first, and the peer answers with nothing (C17, C18)' => sub {
    my ($connection, $far) = @_;
    $connection->close(1001);
    is $far->rest, [[$CLOSE, body(1001)]], 'our Close, and EOF';
    $far->say([$CLOSE, '']);
    $far->leave;
}, clean => 1;

order 'we first, with a Close frame of the program (D2)' => sub {
    my ($connection, $far, $history) = @_;
    $connection->send(raw_close(body(4002, 'raw')))->send('behind');
    is $far->frames(1), [[$CLOSE, body(4002, 'raw')]], 'as it stands';
    $far->say([$TEXT, 'meanwhile']);
    run_until { @$history } 'a message';
    ok !$far->is_at_end, 'no EOF yet';
    $far->say([$CLOSE, body(4002)]);
    is $far->rest, [], 'EOF when the Close of the peer has come';
    $far->leave;
}, history => ['meanwhile', [finish => undef]], code => 4002, reason => '', clean => 1;

order 'both at once (C17, C18, D5)' => sub {
    my ($connection, $far) = @_;
    $far->say([$CLOSE, body(4001, 'me')]);
    $connection->close(4002, 'no, me');
    is $far->rest, [[$CLOSE, body(4002, 'no, me')]], 'our own Close, which is no answer, and EOF';
    run_until { $connection->was_clean } 'the Close of the peer';
    $far->leave;
}, code => 4001, reason => 'me', clean => 1;

order 'both at once, and the peer without a body (C17, C18, D5)' => sub {
    my ($connection, $far) = @_;
    $far->say([$CLOSE, '']);
    $connection->close(4002);
    is $far->rest, [[$CLOSE, body(4002)]], 'our own Close, and EOF';
    $far->leave;
}, clean => 1;

order 'both at once, and the peer with a code that may not be (C18, D1, D5)' => sub {
    my ($connection, $far) = @_;
    $far->say([$CLOSE, body(1005, 'odd')]);
    $connection->close(4002);
    is $far->rest, [[$CLOSE, body(4002)]], 'our own Close, no second one, and EOF';
    $far->leave;
}, history => [[parse_error => match qr/close code 1005/i], [finish => undef]], code => 1005, reason => 'odd';

order 'both at once, and all of the peer is there with EOF (C13, C17, C18, C19)' => sub {
    my ($connection, $far) = @_;
    $far->say([$TEXT, 'before'], [$CLOSE, body(4001)]);
    $far->hang_up;
    $connection->close(4002);
    is $far->rest, [[$CLOSE, body(4002)]], 'our own Close, and EOF';
}, history => ['before', [finish => undef]], code => 4001, reason => '', clean => 1;

order 'EOF without Close (C19, D5)' => sub {
    my ($connection, $far) = @_;
    $far->say([$TEXT, 'last words']);
    $far->hang_up;
    is $far->rest, [], 'EOF, and no Close';
}, history => ['last words', [finish => undef]];

order 'EOF inside a message (C19)' => sub {
    my ($connection, $far) = @_;
    $far->say([$TEXT, 'whole'], [$TEXT, 'part', fin => 0], [$CONTINUATION, 'x', length => 5]);
    $far->hang_up;
    is $far->rest, [], 'EOF, and no Close';
}, history => ['whole', [finish => undef]];

order 'EOF inside a Close frame (C18, C19)' => sub {
    my ($connection, $far) = @_;
    $far->say_bytes(substr $far->encode([$CLOSE, body(1000, 'bye')]), 0, -1);
    $far->hang_up;
    is $far->rest, [], 'EOF, and no Close';
};

order 'EOF in answer to our Close (C17, C19, D5)' => sub {
    my ($connection, $far) = @_;
    $connection->close(1000);
    is $far->rest, [[$CLOSE, body(1000)]], 'our Close, and EOF';
    $far->say([$TEXT, 'behind']);
    $far->leave;
}, history => ['behind', [finish => undef]];

order 'EOF in answer to a Close frame of the program (D2, D5)' => sub {
    my ($connection, $far) = @_;
    $connection->send(raw_close(''));
    is $far->frames(1), [[$CLOSE, '']], 'our Close';
    $far->hang_up;
    is $far->rest, [], 'EOF';
};

# What nothing may follow, in any of them.
my @ended;

for my $test (@tests) {
    my ($name, $script, %expected) = @$test;
    for my $way (each_way()) {
        my ($way_name, @options) = @$way;
        subtest "$name, $way_name" => sub {
            my ($connection, $far) = connection_and_far(@options);
            my $history = history($connection);
            $script->($connection, $far, $history);
            run_until { finished($history) } 'finish';
            is $history, $expected{history} || [[finish => undef]], 'what the callbacks were told';
            is [$connection->close_code, $connection->close_reason], [@expected{qw(code reason)}], 'code and reason';
            is $connection->close_error, $expected{error}, 'the error';
            is $connection->was_clean ? 1 : 0, $expected{clean} // 0, 'clean or not';
            ref_is $connection->send('late')->close(1000), $connection, 'sending and closing are harmless';
            push @ended, [$connection, $history, scalar @$history];
        };
    }
}

settle();
is scalar(grep { @{ $_->[1] } != $_->[2] } @ended), 0, 'nothing was told after finish, which came once (C19)';

done_testing;
