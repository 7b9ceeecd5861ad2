# The socket is lost at each point of the close handshake while our data, and our Close behind it, is still unsent
# (C17, C18, C19, D1, D2, D3, D5). Without a close handshake, or with nothing unsent, it is lost in resets.t.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Message;
use Ending qw(is_open weak);
use Errno;
use Far  qw(each_way connection_and_far text_of_errno);
use Peer qw(history finished run_until settle);
use Test2::V0;

my ($TEXT, $BINARY, $CLOSE, $PING) = (1, 2, 8, 9);
my $UNSENT = 'x' x (4 << 20);

sub body { return pack 'n a*', @_ }

# By the kernel's choice, where both have come to it.
my $LOST = join '|', map { quotemeta text_of_errno($_) } Errno::ECONNRESET, Errno::EPIPE;

# How the peer goes; both reset the connection, as it has not read everything.
my %GOES = (resets => sub { $_[0]->reset }, leaves => sub { $_[0]->leave });

# Each test: its name, what happens while data is unsent, and what has become of the connection.
my @tests;
sub while_unsent { push @tests, [@_] }

while_unsent 'we have closed' => sub {
    my ($connection) = @_;
    $connection->send('behind')->close(1001, 'bye');
};

while_unsent 'we have closed, and the peer has taken some of it' => sub {
    my ($connection, $far) = @_;
    $connection->close(1001);
    my $taken = 0;
    run_until { $taken += $far->sip // 0; $taken > 500_000 } 'some of it';
};

while_unsent 'the program has sent a Close frame (D2)' => sub {
    my ($connection) = @_;
    $connection->send(AnyEvent::WebSocket::Message->new(opcode => $CLOSE, body => body(4000, 'raw')));
};

while_unsent 'the peer has closed (C18)' => sub {
    my ($connection, $far) = @_;
    $far->say([$TEXT, 'message'], [$CLOSE, body(1001, 'away')]);
    run_until { defined $connection->close_code } 'the Close of the peer';
}, told => ['message'], code => 1001, reason => 'away';

while_unsent 'the peer has closed, then we (C18)' => sub {
    my ($connection, $far) = @_;
    $far->say([$CLOSE, body(1001)]);
    run_until { defined $connection->close_code } 'the Close of the peer';
    $connection->close(4001, 'late');
}, code => 1001, reason => '';

while_unsent 'we have closed, then the peer (D5)' => sub {
    my ($connection, $far) = @_;
    $connection->close(4002, 'us');
    $far->say([$TEXT, 'message'], [$CLOSE, body(4001, 'them')]);
    run_until { defined $connection->close_code } 'the Close of the peer';
}, told => ['message'], code => 4001, reason => 'them';

while_unsent 'we have closed in a callback, and pings come (C12, C17)' => sub {
    my ($connection, $far, $history) = @_;
    $connection->on(next_message => sub { $_[0]->close });
    $far->say([$PING, 'first'], [$TEXT, 'message'], [$PING, 'second'], [$TEXT, 'more']);
    run_until { @$history == 2 } 'the messages';
}, told => [qw(message more)];

while_unsent 'the connection has failed (D1)' => sub {
    my ($connection, $far, $history) = @_;
    $far->say([$TEXT, 'before'], [3, 'x']);
    run_until { @$history == 2 } 'parse_error';
}, told => ['before', [parse_error => match qr/opcode 3/]];

while_unsent 'we have closed, then the connection has failed (D1)' => sub {
    my ($connection, $far, $history) = @_;
    $connection->close;
    $far->say([3, 'x']);
    run_until { @$history } 'parse_error';
}, told => [[parse_error => match qr/opcode 3/]];

while_unsent 'a callback has died (C15)' => sub {
    my ($connection, $far, $history) = @_;
    $connection->on(next_message => sub { die "died\n" });
    $far->say([$TEXT, 'message']);
    run_until { @$history } 'parse_error';
}, told => [[parse_error => "died\n"]];

my @ended;

for my $test (@tests) {
    my ($name, $script, %expected) = @$test;
    for my $way (each_way()) {
        my ($way_name, @options) = @$way;
        for my $goes (sort keys %GOES) {
            subtest "data is unsent, $name, and the peer $goes, $way_name" => sub {
                my ($connection, $far) = connection_and_far(@options, tcp => 1);
                my $history = history($connection);
                my $fd      = fileno $connection->handle->fh;
                $connection->send(AnyEvent::WebSocket::Message->new(opcode => $BINARY, body => $UNSENT));
                $script->($connection, $far, $history);
                ok length $connection->handle->{wbuf}, 'data is unsent until here';
                is finished($history), 0, 'and it has not finished';
                $GOES{$goes}->($far);
                run_until { finished($history) } 'finish';
                is $history, [@{ $expected{told} || [] }, [finish => match qr/^(?:$LOST)$/]],
                    'what the callbacks were told, the text of the error in the end';
                is $connection->close_error, $history->[-1][1], 'close_error, too';
                is [$connection->close_code, $connection->close_reason], [@expected{qw(code reason)}],
                    'code and reason';
                ok !$connection->was_clean, 'not clean, since our Close has not left';
                ok $connection->handle->destroyed, 'the handle is destroyed';
                run_until { !is_open($fd) } 'the descriptor to close';
                ref_is $connection->send('late')->close(1000), $connection, 'sending and closing are harmless';
                push @ended, [$connection, $history, scalar @$history];
            };
        }
    }
}

settle();
is scalar(grep { @{ $_->[1] } != $_->[2] } @ended), 0, 'nothing was told after finish, which came once (C19)';

for my $way (each_way()) {
    my ($way_name, @options) = @$way;
    for my $goes (sort keys %GOES) {
        subtest "the peer has shut its side while data is unsent, and then $goes, $way_name (C19)" => sub {
            my ($connection, $far) = connection_and_far(@options, tcp => 1);
            my $history = history($connection);
            my $fd      = fileno $connection->handle->fh;
            $connection->send($UNSENT)->close(1001);
            $far->say([$CLOSE, body(1001)]);
            $far->hang_up;
            run_until { finished($history) } 'finish, which does not wait for what is unsent';
            is $history, [[finish => undef]], 'EOF';
            ok length $connection->handle->{wbuf}, 'data is unsent until here';
            $GOES{$goes}->($far);
            run_until { !is_open($fd) } 'the descriptor to close';
            ok !$connection->was_clean, 'not clean, since our Close has not left';
            is scalar @$history, 1, 'and nothing more is told';
        };

        subtest "the connection is dropped while data is unsent, and the peer $goes, $way_name (D3)" => sub {
            my ($connection, $far) = connection_and_far(@options, tcp => 1);
            my $history = history($connection);
            my $fd      = fileno $connection->handle->fh;
            my $weak    = weak($connection);
            $connection->send($UNSENT);
            undef $connection;
            ok !$$weak, 'it is gone';
            settle();
            ok is_open($fd), 'but not its socket, for what is unsent';
            $GOES{$goes}->($far);
            run_until { !is_open($fd) } 'the descriptor to close';
            is $history, [], 'nobody is told';
        };
    }
}

done_testing;
