# What `close` and Close frames do: their codes and reasons, on the wire and for the program. In which order they may
# come is in closing-orders.t and closing-backlog.t.

use strict;
use warnings;
use utf8;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use Ending qw(rest_of close_body);
use Peer   qw(connection_and_peer connection_pair frame close_frame read_frames run_until settle record);
use Test2::V0;

# Whether EOF has come on the peer's socket, of which nothing else is expected.
sub is_at_eof {
    my ($peer) = @_;
    my $n = sysread $peer, my $byte, 1;
    return defined $n && $n == 0;
}

subtest 'close sends one Close frame and shuts the write side (C17)' => sub {
    for my $case (
        ['no arguments'          => [],                      close_body(1000, '')],
        ['undef'                 => [undef],                 close_body(1000, '')],
        ['0'                     => [0],                     close_body(1000, '')],
        ['undef and a reason'    => [undef, 'bye'],          close_body(1000, 'bye')],
        ['a code'                => [1001],                  close_body(1001, '')],
        ['a code as a string'    => ['3000'],                close_body(3000, '')],
        ['a code of the registry' => [1014],                 close_body(1014, '')],
        ['a code and a reason'   => [4999, 'done'],          close_body(4999, 'done')],
        ['an undefined reason'   => [1000, undef],           close_body(1000, '')],
        ['an empty reason'       => [1000, ''],              close_body(1000, '')],
        ['a false reason'        => [1000, '0'],             close_body(1000, '0')],
        ['a reason beyond ASCII' => [1000, "sch\x{f6}n"],    close_body(1000, "sch\xc3\xb6n")],
        ['a wide reason'         => [1000, "\x{20ac}"],      close_body(1000, "\xe2\x82\xac")],
        ['a reason of 123 bytes' => [1000, 'x' x 123],       close_body(1000, 'x' x 123)],
        ['123 bytes of UTF-8'    => [1000, "\x{20ac}" x 41], close_body(1000, "\xe2\x82\xac" x 41)],
    ) {
        my ($name, $arguments, $body) = @$case;
        my ($connection, $peer) = connection_and_peer();
        ref_is $connection->close(@$arguments), $connection, "$name: returns the connection";
        is rest_of($peer), [[8, $body]], "$name: one Close frame, then EOF";
    }
};

subtest 'a reason is characters, whatever way Perl stores them (C17)' => sub {
    my $reason = "caf\x{e9}";
    for my $stored (qw(upgrade downgrade)) {
        my ($connection, $peer) = connection_and_peer();
        my $copy = $reason;
        utf8->can($stored)->($copy);
        $connection->close(1000, $copy);
        is rest_of($peer), [[8, close_body(1000, "caf\xc3\xa9")]], $stored;
    }
};

subtest 'the Close frame is masked where the others are (C7, C17)' => sub {
    my ($connection, $peer) = connection_and_peer(masked => 1);
    $connection->close(1000, 'bye');
    my ($frame) = read_frames($peer, 1);
    is $frame, hash { field masked => 1; field opcode => 8; field payload => close_body(1000, 'bye'); etc },
        'masked';
};

subtest 'nothing is sent after close (C6, C17)' => sub {
    my ($connection, $peer) = connection_and_peer();
    $connection->send('before');
    $connection->close;
    ref_is $connection->send('after'), $connection, 'send returns the connection';
    ref_is $connection->close(1001, 'again'), $connection, 'so does a second close';
    $connection->send(AnyEvent::WebSocket::Message->new(opcode => 9, body => 'ping'));
    $connection->send(AnyEvent::WebSocket::Message->new(opcode => 8, body => ''));
    is rest_of($peer), [[1, 'before'], [8, close_body(1000, '')]], 'what was sent before, and Close';
    syswrite $peer, frame(opcode => 9, payload => 'are you there?');
    settle();
    ok is_at_eof($peer), 'a Ping gets no Pong any more';
    is $connection->close_code, undef, 'our own code is not recorded as that of the peer';
};

subtest 'a code that may not be sent croaks at the caller (D2)' => sub {
    for my $code (1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536, 66536, 4_294_968_296, -1, 'x',
        '1000x', 'inf', 'nan')
    {
        my ($connection, $peer) = connection_and_peer();
        my $record = record($connection);
        my $line = __LINE__ + 1;
        my $error = dies { $connection->close($code) };
        like $error, qr/at \Q$0\E line $line\b/, "$code: croaks at the line of the call";
        like $error, qr/\Q$code\E/, "$code: and names the code" unless $code =~ /inf|nan/;
        $connection->send('still open');
        is [map { $_->{payload} } read_frames($peer, 1)], ['still open'], "$code: the connection is unharmed";
        syswrite $peer, frame(payload => 'so it is');
        run_until { @{ $record->{messages} } };
        $connection->close;
        is rest_of($peer), [[8, close_body(1000, '')]], "$code: and can be closed properly";
    }
};

subtest 'a reason that is too long croaks at the caller (D2)' => sub {
    for my $reason ('x' x 124, "\x{e9}" x 62, "\x{20ac}" x 42, 'x' x 100_000) {
        my ($connection, $peer) = connection_and_peer();
        my $name = length($reason) . ' characters';
        my $line = __LINE__ + 1;
        like dies { $connection->close(1000, $reason) }, qr/at \Q$0\E line $line\b/, "$name: croaks";
        $connection->send('still open');
        $connection->close(1000, 'short');
        is rest_of($peer), [[1, 'still open'], [8, close_body(1000, 'short')]], "$name: nothing else happens";
    }
};

subtest 'the peer closes first (C18, D4)' => sub {
    for my $case (
        ['code and reason',      close_body(1000, 'bye'),              1000, 'bye',          1000],
        ['code alone',           close_body(1001, ''),                 1001, '',             1001],
        ['a code of a program',  close_body(4321, 'x'),                4321, 'x',            4321],
        ['a reason that is "0"', close_body(1000, '0'),                1000, '0',            1000],
        ['a reason in UTF-8',    close_body(3999, "\xe2\x82\xac\xc3\xa9"), 3999, "\x{20ac}\x{e9}", 3999],
        ['no body',              '',                                   undef, undef,         undef],
    ) {
        my ($name, $body, $code, $reason, $answer) = @$case;
        my ($connection, $peer) = connection_and_peer();
        my $record = record($connection);
        is $connection->close_code, undef, "$name: no code yet";
        syswrite $peer, frame(opcode => 8, payload => $body);
        my $frames = rest_of($peer);
        is scalar(@$frames), 1, "$name: one frame in answer, then EOF";
        is $frames->[0][0], 8, "$name: a Close frame";
        is length $frames->[0][1] ? unpack('n', $frames->[0][1]) : undef, $answer, "$name: with that code";
        is $connection->close_code, $code, "$name: code";
        is $connection->close_reason, $reason, "$name: reason";
        is $connection->close_error, undef, "$name: no error";
        ok $connection->was_clean, "$name: clean";
        is $record->{finish}, [], "$name: not finished while the socket is there";
        ref_is $connection->send('late'), $connection, "$name: send does nothing";
        ref_is $connection->close(1000), $connection, "$name: nor does close";
        close $peer;
        run_until { @{ $record->{finish} } };
        is $record, { messages => [], parse_errors => [], finish => [undef] }, "$name: finished without error";
        ok $connection->was_clean, "$name: still clean";
    }
};

subtest 'the answer to a Close is masked where frames are (C7, D4)' => sub {
    my ($connection, $peer) = connection_and_peer(masked => 1);
    syswrite $peer, close_frame(1000);
    my ($frame) = read_frames($peer, 1);
    is $frame, hash { field masked => 1; field opcode => 8; field payload => close_body(1000, ''); etc }, 'masked';
};

subtest 'a code that may not be on the wire is recorded as it stands (C18, D1)' => sub {
    for my $code (1005, 1006, 1015, 999, 5000) {
        my ($connection, $peer) = connection_and_peer();
        my $record = record($connection);
        syswrite $peer, close_frame($code, 'odd');
        is rest_of($peer), [[8, close_body(1002, '')]], "$code: answered with 1002";
        is $connection->close_code, $code, "$code: recorded";
        is $connection->close_reason, 'odd', "$code: its reason too";
        is scalar(@{ $record->{parse_errors} }), 1, "$code: parse_error";
    }
};

subtest 'what comes after the Close of the peer is discarded (C18)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    my @code;
    $connection->on(each_message => sub { push @code, $_[0]->close_code });
    syswrite $peer, join '', frame(payload => 'before'), close_frame(1000, 'bye'), frame(payload => 'same read'),
        frame(opcode => 9, payload => 'ping'), close_frame(1001, 'second'), "\xff\xff\xff\xff";
    is rest_of($peer), [[8, close_body(1000, '')]], 'answered once';
    syswrite $peer, frame(payload => 'later read') . frame(opcode => 9) . "\xff" x 100;
    settle();
    is $record, { messages => ['before'], parse_errors => [], finish => [] }, 'only what came before is delivered';
    is \@code, [undef], 'and delivered before the code is known';
    is [$connection->close_code, $connection->close_reason], [1000, 'bye'], 'the first Close counts';
    close $peer;
    run_until { @{ $record->{finish} } };
    is $record->{finish}, [undef], 'finish';
};

subtest 'two connections close each other at once (C17, C18, D5)' => sub {
    my ($first, $second) = connection_pair();
    my @records = map { record($_) } $first, $second;
    $first->close(4001, 'one');
    $second->close(4002, 'two');
    run_until { $first->was_clean && $second->was_clean };
    is [$first->close_code, $second->close_code], [4002, 4001], 'each has the code of the other';
    run_until { @{ $records[0]{finish} } && @{ $records[1]{finish} } };
    is [map { $_->{finish} } @records], [[undef], [undef]], 'both finish';
};

subtest 'Close and EOF in the same moment (C13, C18, C19)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    syswrite $peer, frame(payload => 'message') . close_frame(1001, 'gone');
    shutdown $peer, 1;
    run_until { @{ $record->{finish} } };
    is $record, { messages => ['message'], parse_errors => [], finish => [undef] }, 'message, then finish';
    is [$connection->close_code, $connection->close_reason], [1001, 'gone'], 'code and reason';
    ok $connection->was_clean, 'clean';
    is rest_of($peer), [[8, close_body(1001, '')]], 'the answer gets through';
};

subtest 'close in a message callback (C17)' => sub {
    for my $event (qw(next_message each_message)) {
        my ($connection, $peer) = connection_and_peer();
        my @messages;
        $connection->on($event => sub {
            my ($connection, $message) = @_;
            $connection->send('reply to ' . $message->body);
            ref_is $connection->close(1001, 'enough'), $connection, "$event: returns the connection";
            $connection->send('nothing more');
        });
        $connection->on(each_message => sub { push @messages, $_[1]->body });
        syswrite $peer, join '', map { frame(payload => $_) } 1 .. 3;
        is rest_of($peer), [[1, 'reply to 1'], [8, close_body(1001, 'enough')]],
            "$event: the reply, the Close, EOF";
        run_until { @messages >= 3 };
        is \@messages, [1, 2, 3], "$event: what came with it is delivered";
    }
};

subtest 'close in parse_error and in finish' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $finished = 0;
    $connection->on(parse_error => sub { $_[0]->close(1000, 'mine'); $_[0]->send('or this') });
    $connection->on(finish      => sub { $finished++; $_[0]->close(1000, 'mine'); $_[0]->send('or this') });
    syswrite $peer, frame(rsv => 7);
    is rest_of($peer), [[8, close_body(1002, '')]], 'the failure alone is told to the peer';
    close $peer;
    run_until { $finished };
    settle();
    is $finished, 1, 'finish came once';
};

subtest 'close before anything was read (C13, C17)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    syswrite $peer, frame(payload => 'early') . close_frame(1000);
    $connection->close(1001);
    run_until { $connection->was_clean };
    is $record->{messages}, ['early'], 'what came before is delivered';
    is rest_of($peer), [[8, close_body(1001, '')]], 'one Close';
};

subtest 'a Close frame made by the program is sent as it is (D2)' => sub {
    for my $body ('', "\x00", close_body(1005, 'raw'), close_body(1000, "\xff")) {
        my $name = 'body ' . unpack 'H*', $body;
        my ($connection, $peer) = connection_and_peer();
        my $record = record($connection);
        ref_is $connection->send(AnyEvent::WebSocket::Message->new(opcode => 8, body => $body)), $connection,
            "$name: returns the connection";
        $connection->send('after');
        is [map { [$_->{opcode}, $_->{payload}] } read_frames($peer, 1)], [[8, $body]], "$name: the frame";
        settle();
        ok !is_at_eof($peer) && $!{EAGAIN}, "$name: nothing more, and no EOF yet";
        syswrite $peer, frame(payload => 'meanwhile');
        run_until { @{ $record->{messages} } };
        syswrite $peer, close_frame(1000, 'bye');
        is rest_of($peer), [], "$name: EOF when the Close of the peer comes, and no second Close";
        ok $connection->was_clean, "$name: clean";
        is [$connection->close_code, $connection->close_reason], [1000, 'bye'], "$name: code and reason";
    }
};

subtest "an exception of the handle's on_drain does not stop close half way (C17, C20, D6)" => sub {
    my ($connection, $peer) = connection_and_peer(close_timeout => 0.1);
    my $record = record($connection);
    settle();
    my $calls = 0;
    # The first call is that of the method itself.
    $connection->handle->on_drain(sub { die "ouch\n" if ++$calls == 2 });
    is dies { $connection->close(4000) }, "ouch\n", 'it comes through';
    is rest_of($peer), [[8, close_body(4000, '')]], 'Close, and the end of what we send';
    run_until { @{ $record->{finish} } } 'finish';
    is $record->{finish}, ['close timeout'], 'and the peer is waited for no longer than ever';
};

subtest 'close after a Close frame made by the program sends nothing (C17, D2)' => sub {
    my ($connection, $peer) = connection_and_peer();
    $connection->send(AnyEvent::WebSocket::Message->new(opcode => 8, body => close_body(4000, 'raw')));
    ref_is $connection->close(1000, 'proper'), $connection, 'returns the connection';
    syswrite $peer, close_frame(4000);
    is rest_of($peer), [[8, close_body(4000, 'raw')]], 'one Close frame';
};

subtest 'close leaves $@ alone (C15)' => sub {
    my ($connection, $peer) = connection_and_peer();
    local $@ = 'mine';
    $connection->close;
    is $@, 'mine', 'as it was';
};

subtest 'was_clean is read-only and false at first (D5)' => sub {
    my ($connection, $peer) = connection_and_peer();
    ok !$connection->was_clean, 'false';
    ok dies { $connection->was_clean(1) }, 'an argument is refused';
    ok !$connection->was_clean, 'still false';
};

subtest 'code, reason and error can be set by the program (C1)' => sub {
    my ($connection, $peer) = connection_and_peer();
    for my $attribute (qw(close_code close_reason close_error)) {
        $connection->$attribute('mine');
        is $connection->$attribute, 'mine', $attribute;
    }
    syswrite $peer, close_frame(1001, 'real');
    run_until { $connection->was_clean };
    is [$connection->close_code, $connection->close_reason], [1001, 'real'], 'the Close of the peer overwrites';
};

done_testing;
