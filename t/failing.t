# What is around a failure: over every way the bytes can go, when we have closed before, what comes behind it, and what
# callbacks do (D1). What is a failure is in strictness.t.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use Far       qw(each_way connection_and_far);
use Forbidden qw(one_of_each_kind);
use Peer      qw(
    connection_and_peer frame close_frame parse_frames read_until_eof run_until settle record history finished
);
use Test2::V0;

my ($TEXT, $BINARY, $CLOSE, $PING) = (1, 2, 8, 9);

# Runs a test with each kind of failure, over every way that its kind can come. A connection whose role is not known
# otherwise takes all masks.
sub each_failure {
    my ($name, $test) = @_;
    for my $way (each_way()) {
        my ($way_name, %options) = @$way;
        for my $row (grep { !$_->{role} || $_->{role} eq $options{role} } one_of_each_kind()) {
            my ($connection, $far) = connection_and_far(%options, %{ $row->{options} || {} });
            my $history = history($connection);
            my $told    = [parse_error => match $row->{text}];
            subtest "$name: $row->{name}, $way_name (D1)" => sub { $test->($row, $told, $connection, $far, $history) };
        }
    }
    return;
}

each_failure 'a failure' => sub {
    my ($row, $told, $connection, $far, $history) = @_;
    $far->say([$TEXT, 'before'], @{ $row->{frames} }, [$TEXT, 'behind'], [$PING, ''], [3, '']);
    is $far->rest, [[$CLOSE, pack 'n', $row->{code}]], 'Close, and EOF before the peer has shut its side';
    is $history, ['before', $told], 'parse_error, but not finish yet';
    $far->say([$TEXT, 'behind'], [3, ''], [$CLOSE, '']);
    $far->leave;
    run_until { finished($history) } 'finish';
    is $history, ['before', $told, [finish => undef]], 'then finish, and no later message';
    is [$connection->close_code, $connection->close_reason], $row->{close} || [undef, undef], 'code and reason';
    ok !$connection->was_clean, 'not clean';
};

each_failure 'a failure after our Close (C17)' => sub {
    my ($row, $told, $connection, $far, $history) = @_;
    $connection->close(1001, 'bye');
    is $far->rest, [[$CLOSE, pack 'n a*', 1001, 'bye']], 'our Close, and EOF';
    $far->say([$TEXT, 'before'], @{ $row->{frames} }, [$TEXT, 'behind'], [$CLOSE, pack 'n', 1001]);
    $far->leave;
    run_until { finished($history) } 'finish';
    is $history, ['before', $told, [finish => undef]], 'is told, and what came before it';
    is [$connection->close_code, $connection->close_reason], $row->{close} || [undef, undef],
        'a Close behind it is not looked at';
    ok !$connection->was_clean, 'not clean';
};

each_failure 'a failure, and EOF at once (C13, C19)' => sub {
    my ($row, $told, $connection, $far, $history) = @_;
    $far->say([$TEXT, 'before'], @{ $row->{frames} }, [$TEXT, 'behind']);
    $far->hang_up;
    is $far->rest, [[$CLOSE, pack 'n', $row->{code}]], 'Close, and EOF';
    run_until { finished($history) } 'finish';
    is $history, ['before', $told, [finish => undef]], 'in this order';
};

for my $way (each_way()) {
    my ($way_name, @options) = @$way;
    subtest "the rest of a frame that has failed is discarded, $way_name (D1)" => sub {
        for my $bad ([$TEXT, "\xFF", length => 1 << 20], [3, 'x', length => 1 << 20]) {
            my ($connection, $far) = connection_and_far(@options, max_payload_size => 0);
            my $history = history($connection);
            $far->say($bad);
            run_until { @$history } 'parse_error';
            # Some of it is a message, if it were not inside a frame.
            $far->say(map { [$TEXT, 'm' x 60_000] } 1 .. 16);
            settle();
            is length($connection->handle->{rbuf} // ''), 0, 'it does not stay with the handle';
            is scalar @{ $far->rest }, 1, 'one Close';
            $far->leave;
            run_until { finished($history) } 'finish';
            is $history, [[parse_error => D()], [finish => undef]], 'nothing of it is delivered';
        }
    };
}

subtest 'a failure without parse_error callbacks is quiet, and the same on the wire (D1)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $finished;
    $connection->on(finish => sub { $finished = 1 });
    my $warnings = warnings {
        syswrite $peer, frame(opcode => 3);
        is read_until_eof($peer), close_frame(1002);
        close $peer;
        run_until { $finished } 'finish';
    };
    is $warnings, [], 'no warning';
};

subtest 'a failure before callbacks are there is told when they are (C13, D1)' => sub {
    my ($connection, $peer) = connection_and_peer();
    syswrite $peer, frame(payload => 'before') . frame(opcode => 3);
    my $record;
    AE::postpone { $record = record($connection) };
    is read_until_eof($peer), close_frame(1002);
    is $record->{messages}, ['before'];
    is scalar @{ $record->{parse_errors} }, 1;
};

subtest 'a failure and EOF in the same moment (C13, D1)' => sub {
    for my $when ('before the loop has run', 'later') {
        my ($connection, $peer) = connection_and_peer();
        my @log;
        $connection->on(each_message => sub { push @log, $_[1]->body });
        $connection->on(parse_error  => sub { push @log, 'parse_error' });
        $connection->on(finish       => sub { push @log, 'finish' });
        settle() if $when eq 'later';
        syswrite $peer, frame(payload => 'before') . frame(opcode => 3) . frame(payload => 'after');
        shutdown $peer, 1;
        run_until { grep { $_ eq 'finish' } @log } 'finish';
        is \@log, ['before', 'parse_error', 'finish'], $when;
        is read_until_eof($peer), close_frame(1002), 'the peer is told';
    }
};

subtest 'the Close of a failure is masked where frames are (C7, D1)' => sub {
    my ($connection, $peer) = connection_and_peer(masked => 1);
    syswrite $peer, frame(opcode => 3);
    my @frames = parse_frames(my $bytes = read_until_eof($peer));
    is \@frames, [hash { field opcode => 8; field masked => 1; field payload => pack 'n', 1002; etc }];
};

subtest 'what callbacks sent before the bad frame leaves before the Close (C8, D1)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $wire = '';
    $connection->on(each_message => sub { $_[0]->send('reply to ' . $_[1]->body) });
    $connection->on(parse_error  => sub { sysread $peer, $wire, 1 << 16 });
    syswrite $peer, frame(payload => 'a') . frame(opcode => 9, payload => 'p') . frame(payload => 'b')
        . frame(opcode => 3);
    is read_until_eof($peer), '', 'nothing afterwards';
    is $wire, frame(payload => 'reply to a') . frame(opcode => 10, payload => 'p')
        . frame(payload => 'reply to b') . close_frame(1002), 'all of it, in order';
};

subtest 'a callback that closes before the bad frame is seen (C17, D1)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    $connection->on(each_message => sub { $_[0]->close(1001) });
    syswrite $peer, frame(payload => 'a') . frame(opcode => 3);
    is read_until_eof($peer), close_frame(1001), 'its Close is the only one';
    run_until { @{ $record->{parse_errors} } } 'parse_error';
};

subtest 'a program that drops the connection in parse_error (C14, D1)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my @errors;
    $connection->on(parse_error => sub { undef $connection; push @errors, 1 });
    $connection->on(parse_error => sub { push @errors, 2 });
    syswrite $peer, frame(opcode => 3);
    is read_until_eof($peer), close_frame(1002);
    is \@errors, [1, 2], 'all callbacks run';
};

done_testing;
