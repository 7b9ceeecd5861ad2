# How what arrives becomes messages.

use strict;
use warnings;
use lib 't/lib';
use Scalar::Util ();
use Test2::V0;
use AnyEvent;
use IO::Select;
use Peer qw(
    socket_pair connection_and_peer frame close_frame
    read_frames read_until_eof write_all run_until settle record trickle
);
use Ways qw(on_both_ways);

use AnyEvent::WebSocket::Connection;

# Every message as "opcode:body", in an array that fills as they come.
sub messages_of {
    my ($connection) = @_;
    my @messages;
    $connection->on(each_message => sub { push @messages, $_[1]->opcode . ':' . $_[1]->body });
    return \@messages;
}

my $all_bytes = join '', map { chr } 0 .. 255;

on_both_ways 'text and binary reach the callbacks as they were sent (C12)' => sub {
    my ($connection, $peer) = shift->();
    my @messages;
    $connection->on(each_message => sub { push @messages, $_[1] });
    my @sent = (
        [1, 'text'], [1, ''], [1, '0'], [1, "caf\xC3\xA9 \xE2\x98\xBA \xF0\x9F\x98\x80"],
            [1, "\xEF\xBB\xBFwith a mark"],
        [1, "a\0b"], [2, ''], [2, '0'], [2, $all_bytes], [2, "\xFF"], [2, "caf\xC3\xA9"], [1, 'x' x 125],
            [1, 'x' x 126],
        [2, 'x' x 65535], [2, 'x' x 65536],
    );
    write_all($peer, join '', map { frame(opcode => $_->[0], payload => $_->[1]) } @sent);
    run_until { @messages >= @sent } 'all messages';
    is [map { [$_->opcode, $_->body] } @messages], \@sent, 'opcodes and bodies, in order';
    is [map { ref } @messages], [('AnyEvent::WebSocket::Message') x @sent], 'their class';
    is [grep { utf8::is_utf8($_->body) } @messages], [], 'bodies are bytes';
    is [map { $_->is_text } @messages],   [map { $_->[0] == 1 } @sent], 'is_text';
    is [map { $_->is_binary } @messages], [map { $_->[0] == 2 } @sent], 'is_binary';
    is $messages[3]->decoded_body, "caf\x{E9} \x{263A} \x{1F600}", 'decoded_body of a text';
    is $messages[10]->decoded_body, "caf\x{E9}", 'decoded_body of a binary message';
    is $messages[9]->decoded_body, "\x{FFFD}", 'which need not be UTF-8';
};

on_both_ways 'a ping is answered with a pong of the same body (C12)' => sub {
    my ($connection, $peer) = shift->();
    my $messages = messages_of($connection);
    my @bodies   = ('', 'ping', "\x00\xFF\x80", '0', 'p' x 125);
    syswrite $peer, join '', map { frame(opcode => 9, payload => $_),
        frame(opcode => 9, payload => $_, mask => "\x12\x34\x56\x78") } @bodies;
    my @pongs = read_frames($peer, 2 * @bodies);
    is [map { [@$_{qw(opcode fin rsv payload)}] } @pongs], [map { [10, 1, 0, $_], [10, 1, 0, $_] } @bodies];
    is $messages, [], 'no callback hears of it';
};

on_both_ways 'a pong is ignored (C12)' => sub {
    my ($connection, $peer) = shift->();
    my $record = record($connection);
    syswrite $peer, frame(opcode => 10) . frame(opcode => 10, payload => 'unasked')
        . frame(opcode => 10, payload => "\xFF" x 125)
        . frame(payload => 'text');
    run_until { @{ $record->{messages} } } 'the text';
    is $record, {messages => ['text'], parse_errors => [], finish => []};
    syswrite $peer, frame(opcode => 9, payload => 'p');
    is [map { $_->{payload} } read_frames($peer, 1)], ['p'], 'nothing was sent before this pong';
};

subtest 'pings are answered without callbacks, and before the program has any (C12)' => sub {
    my ($connection, $peer) = connection_and_peer();
    syswrite $peer, frame(payload => 'to nobody') . frame(opcode => 9, payload => 'p');
    is [map { $_->{payload} } read_frames($peer, 1)], ['p'];
    my $messages = messages_of($connection);
    syswrite $peer, frame(payload => 'to us');
    run_until { @$messages } 'a message';
    is $messages, ['1:to us'], 'what came while nobody listened is gone';
};

subtest 'no pong after our Close (C12, C17)' => sub {
    my ($connection, $peer) = connection_and_peer();
    $connection->close;
    my $messages = messages_of($connection);
    syswrite $peer, frame(opcode => 9, payload => 'p') . frame(payload => 'still heard');
    run_until { @$messages } 'a message';
    is read_until_eof($peer), close_frame(1000);
};

on_both_ways 'frames may be masked or not (C12)' => sub {
    my ($connection, $peer) = shift->();
    my $messages = messages_of($connection);
    my (@expected, $bytes);
    my $n = 0;
    for my $length (0 .. 9, 15 .. 18, 31 .. 34, 63 .. 66, 124 .. 130, 1000) {
        my $payload = substr $all_bytes x 4, $n % 256, $length;
        $bytes .= frame(opcode => 2, payload => $payload, mask => $_) for undef,
            pack('N', 0x01020304 * (1 + $n++ % 50)), "\0\0\0\0", "\xFF\0\0\xFE";
        push @expected, ("2:$payload") x 4;
    }
    write_all($peer, $bytes);
    run_until { @$messages >= @expected } 'all messages';
    ok join('|', @$messages) eq join('|', @expected), scalar(@expected) . ' messages';
};

# A conversation with everything in it: bytes, and the messages and pongs they mean.
sub conversation {
    my $bytes = join '',
        frame(payload => 'first'),
        frame(payload => 'masked', mask => 'mask'),
        frame(opcode => 9, payload => 'ping 1', mask => "\x00\xFF\x0F\xF0"),
        frame(payload => '', mask => 'mask'),
        frame(opcode => 2, payload => 'm' x 126, mask => 'abcd'),
        frame(opcode => 10, payload => 'pong'),
        # A character in four pieces, with control frames between them.
        frame(payload => "smile \xF0", fin => 0),
        frame(opcode => 9, payload => 'ping 2'),
        frame(opcode => 0, payload => "\x9F", fin => 0, mask => 'kkey'),
        frame(opcode => 0, payload => '', fin => 0),
        frame(opcode => 10, payload => ''),
        frame(opcode => 0, payload => "\x98", fin => 0),
        frame(opcode => 9),
        frame(opcode => 0, payload => "\x80!", mask => 'eeee'),
        frame(opcode => 2, payload => '', fin => 0),
        frame(opcode => 0, payload => "\xFF\x80", fin => 0, mask => '1234'),
        frame(opcode => 0, payload => ''),
        frame(opcode => 2, payload => 'l' x 300),
        frame(payload => 'last', mask => 'last');
    return (
        $bytes,
        ['1:first', '1:masked', '1:', '2:' . 'm' x 126, "1:smile \xF0\x9F\x98\x80!", "2:\xFF\x80",
            '2:' . 'l' x 300, '1:last'],
        ['ping 1', 'ping 2', ''],
    );
}

on_both_ways 'it does not matter how the bytes are cut (C12, C13)' => sub {
    my ($pair) = @_;
    my ($bytes, $expected, $pongs) = conversation();
    for my $size (1, 3, 7, 64, 127, length $bytes) {
        my ($connection, $peer) = $pair->();
        my $messages = messages_of($connection);
        trickle($connection, $peer, $bytes, $size);
        run_until { @$messages >= @$expected } 'all messages';
        is $messages, $expected, "messages from pieces of $size";
        is [map { "$_->{opcode}:$_->{payload}" } read_frames($peer, scalar @$pongs)], [map { "10:$_" } @$pongs],
            'pongs';
    }
};

subtest 'a message is there as soon as its last byte is (C12)' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $messages = messages_of($connection);
    my $bytes = frame(payload => 'a', fin => 0) . frame(opcode => 0, payload => 'b', mask => 'mask');
    trickle($connection, $peer, substr $bytes, 0, -1);
    is $messages, [], 'not before';
    trickle($connection, $peer, substr $bytes, -1);
    run_until { @$messages } 'the message';
    is $messages, ['1:ab'];
};

on_both_ways 'a ping inside a fragmented message is answered at once (C12)' => sub {
    my ($connection, $peer) = shift->();
    my $messages = messages_of($connection);
    syswrite $peer, frame(payload => 'a', fin => 0) . frame(opcode => 9, payload => 'now');
    is [map { $_->{payload} } read_frames($peer, 1)], ['now'];
    is $messages, [], 'the message is not complete';
    syswrite $peer, frame(opcode => 0, payload => 'b');
    run_until { @$messages } 'the message';
    is $messages, ['1:ab'];
};

on_both_ways 'many messages in one read come in order (C12)' => sub {
    my ($connection, $peer) = shift->();
    my $messages = messages_of($connection);
    my @payloads = map { "message $_ " . 'x' x ($_ % 50) } 1 .. 5000;
    write_all($peer, join '', map { frame(payload => $_, mask => pack 'N', length) } @payloads);
    run_until { @$messages >= @payloads } 'all messages';
    ok join('|', @$messages) eq join('|', map { "1:$_" } @payloads);
};

my $big = join '', map { pack 'N', $_ * 2654435761 % 2**32 } 1 .. 5 * 2**18;

on_both_ways 'big messages in one frame (C16)' => sub {
    my ($pair) = @_;
    for my $mask (undef, "\x5A\xC3\x0F\x81") {
        my ($connection, $peer) = $pair->(max_payload_size => 0);
        my @messages;
        $connection->on(each_message => sub { push @messages, $_[1] });
        my $text = "\xE2\x98\xBA\xC3\xA9x\xF0\x9F\x98\x80" x 50_001;
        write_all($peer, join '',
            frame(payload => 'before', mask => $mask),
            frame(opcode => 2, payload => $big, mask => $mask),
            frame(payload => $text, mask => $mask),
            frame(opcode => 2, payload => substr($big, 1, 70_001), mask => $mask),
            frame(payload => 'after', mask => $mask));
        run_until { @messages >= 5 } 'the messages';
        my $name = defined $mask ? 'masked' : 'not masked';
        is [map { $_->opcode } @messages], [1, 2, 1, 2, 1], $name;
        ok $messages[1]->body eq $big, '5 MiB, binary';
        ok $messages[2]->body eq $text, 'half a MiB of text';
        ok $messages[3]->body eq substr($big, 1, 70_001), 'just over 64 KiB';
        is [map { $_->body } @messages[0, 4]], ['before', 'after'], 'those around them';
        $messages[1]{body} .= 'more';
        is substr($messages[1]->body, -8), substr($big, -4) . 'more', 'the program may append to a body';
    }
};

on_both_ways 'big messages in many frames (C16)' => sub {
    my ($pair) = @_;
    for my $size (40_960, 65_536) {
        my ($connection, $peer) = $pair->();
        my $messages = messages_of($connection);
        my @pieces = unpack "(a$size)*", $big;
        my $bytes = join '', map {
            frame(opcode => $_ ? 0 : 2, fin => $_ == $#pieces, payload => $pieces[$_],
                mask => $_ % 3 ? pack('N', $_ * 77_777_777) : undef),
                frame(opcode => 9, payload => $_)
        } 0 .. $#pieces;
        write_all($peer, $bytes);
        run_until { @$messages } 'the message';
        ok $messages->[0] eq "2:$big", scalar(@pieces) . ' frames';
        is [map { $_->{payload} } read_frames($peer, scalar @pieces)], [0 .. $#pieces], 'and the pings between them';
    }
};

subtest 'messages belong to the program (C2, C12)' => sub {
    my ($connection, $peer) = connection_and_peer(max_payload_size => 0);
    my (@kept, @copies);
    $connection->on(each_message => sub {
        my ($connection, $message) = @_;
        push @kept, $message;
        push @copies, $message->body;
    });
    my @payloads = map { "<$_>" x (1 + $_ * 7919 % 30_000) } 1 .. 60;
    for my $payload (@payloads) {
        write_all($peer, frame(opcode => 2, payload => $payload, mask => @kept % 2 ? undef : 'mask'));
    }
    run_until { @kept >= @payloads } 'the messages';
    ok join('|', map { $_->body } @kept) eq join('|', @payloads), 'kept messages are not overwritten by later ones';
    $kept[1]{body} =~ s/./X/;
    $kept[2]{body} .= 'appended';
    undef $kept[3];
    ok join('|', @copies) eq join('|', @payloads), 'changing one leaves the others';

    my @seen;
    $connection->on(next_message => sub { utf8::decode($_[1]{body}); push @seen, $_[1] });
    $connection->on(next_message => sub { push @seen, $_[1] });
    write_all($peer, frame(payload => "\xE2\x98\xBA"));
    run_until { @seen >= 2 } 'one more';
    ref_is $seen[1], $seen[0], 'all callbacks get the same object';
    is $seen[1]->body, "\x{263A}", 'as changed by an earlier one';
};

# A handle that holds bytes it has read already.
sub handle_with {
    my ($socket, $bytes, $class) = @_;
    @Local::Handle::ISA = ('AnyEvent::Handle');
    my $handle = ($class || 'AnyEvent::Handle')->new(fh => $socket);
    $handle->{rbuf} = $bytes;
    return $handle;
}

for my $class ('AnyEvent::Handle', 'Local::Handle') {
    subtest "bytes in the read buffer are kept for callbacks registered later, $class (C13)" => sub {
        my ($ours, $theirs) = socket_pair();
        my $called = 0;
        my $connection = AnyEvent::WebSocket::Connection->new(
            handle => handle_with($ours, frame(payload => 'one') . frame(opcode => 9, payload => 'p')
                . frame(payload => 'two'), $class));
        my @messages;
        $connection->on(next_message => sub { push @messages, 'next ' . $_[1]->body });
        $connection->on(each_message => sub { push @messages, 'each ' . $_[1]->body });
        is \@messages, [], 'nothing is delivered before the event loop runs';
        run_until { @messages >= 3 } 'the messages';
        is \@messages, ['next one', 'each one', 'each two'];
        AnyEvent::fh_unblock($theirs);
        is [map { $_->{payload} } read_frames($theirs, 1)], ['p'], 'the ping is answered';
        syswrite $theirs, frame(payload => 'three');
        run_until { @messages >= 4 } 'a further message';
        is $messages[-1], 'each three';
    };

    subtest "a part of a frame in the read buffer, $class (C13)" => sub {
        my $bytes = frame(payload => 'one', mask => 'mask') . frame(payload => 'two' x 50);
        for my $cut (1 .. 12, 40, length($bytes) - 1) {
            my ($ours, $theirs) = socket_pair();
            my $connection = AnyEvent::WebSocket::Connection->new(
                handle => handle_with($ours, substr($bytes, 0, $cut), $class));
            my $messages = messages_of($connection);
            syswrite $theirs, substr $bytes, $cut;
            run_until { @$messages >= 2 } 'the messages';
            is $messages, ['1:one', '1:' . 'two' x 50], "cut at $cut";
        }
    };

    subtest "read buffer, socket and EOF together, $class (C13)" => sub {
        my ($ours, $theirs) = socket_pair();
        syswrite $theirs, frame(payload => 'two') . frame(payload => 'three');
        close $theirs;
        my $connection = AnyEvent::WebSocket::Connection->new(
            handle => handle_with($ours, frame(payload => 'one'), $class));
        my @log;
        $connection->on(each_message => sub { push @log, $_[1]->body });
        $connection->on(finish => sub { push @log, 'finish' });
        run_until { grep { $_ eq 'finish' } @log } 'finish';
        is \@log, [qw(one two three finish)];
    };
}

on_both_ways 'what arrives before the loop was idle is kept for callbacks (C13)' => sub {
    my ($pair) = @_;
    my ($connection, $peer) = $pair->();
    syswrite $peer, frame(payload => 'early');
    my $messages;
    AE::postpone { $messages = messages_of($connection) };
    run_until { $messages && @$messages } 'the message';
    is $messages, ['1:early'], 'registered when the loop has begun to run';

    ($connection, $peer) = $pair->();
    syswrite $peer, frame(payload => 'early') . frame(payload => 'as well');
    $messages = messages_of($connection);
    run_until { @$messages >= 2 } 'the messages';
    is $messages, ['1:early', '1:as well'], 'registered at once';
};

subtest 'a connection made inside a callback of the loop (C13)' => sub {
    my ($ours, $theirs) = socket_pair();
    syswrite $theirs, frame(payload => 'early');
    my ($connection, $messages);
    my $timer = AE::timer 0, 0, sub {
        $connection = AnyEvent::WebSocket::Connection->new(
            handle => handle_with($ours, frame(payload => 'earlier')));
        AE::postpone { $messages = messages_of($connection) };
    };
    run_until { $messages && @$messages >= 2 } 'the messages';
    is $messages, ['1:earlier', '1:early'];
};

on_both_ways 'messages, then EOF in the same moment (C13)' => sub {
    my ($pair) = @_;
    for my $when ('before the loop has run', 'later') {
        for my $rest ('', substr(frame(payload => 'cut off'), 0, 4)) {
            my ($connection, $peer) = $pair->();
            my @log;
            $connection->on(each_message => sub { push @log, $_[1]->body });
            $connection->on(parse_error => sub { push @log, "error $_[1]" });
            $connection->on(finish => sub { push @log, 'finish'; push @log, $_[1] if defined $_[1] });
            settle() if $when eq 'later';
            syswrite $peer, frame(payload => 'one') . frame(payload => 'two') . $rest;
            close $peer;
            run_until { grep { $_ eq 'finish' } @log } 'finish';
            is \@log, [qw(one two finish)], $when . (length $rest ? ', with a part of a frame' : '');
        }
    }
};

on_both_ways 'a big message, then EOF (C13)' => sub {
    my ($connection, $peer) = shift->(max_payload_size => 0);
    my @log;
    $connection->on(each_message => sub { push @log, length $_[1]->body });
    $connection->on(finish => sub { push @log, 'finish' });
    write_all($peer, frame(payload => 'x' x 3_000_000) . frame(payload => 'y' x 200));
    close $peer;
    run_until { grep { $_ eq 'finish' } @log } 'finish';
    is \@log, [3_000_000, 200, 'finish'];
};

subtest 'callbacks registered in the moment before EOF is seen (C13)' => sub {
    my ($connection, $peer) = connection_and_peer();
    syswrite $peer, frame(payload => 'one') . close_frame(1000, 'bye');
    close $peer;
    my @log;
    AE::postpone {
        $connection->on(each_message => sub { push @log, $_[1]->body });
        $connection->on(finish => sub { push @log, 'finish', $_[0]->close_code, $_[0]->close_reason });
    };
    run_until { @log >= 4 } 'finish';
    is \@log, ['one', 'finish', 1000, 'bye'];
};

subtest 'over TCP (C12, C13)' => sub {
    my ($connection, $peer) = connection_and_peer(tcp => 1, max_payload_size => 0);
    my ($bytes, $expected, $pongs) = conversation();
    my $messages = messages_of($connection);
    write_all($peer, $bytes . frame(opcode => 2, payload => $big, mask => 'mask') . $bytes);
    run_until { @$messages > 2 * @$expected } 'the messages';
    ok join('|', @$messages) eq join('|', @$expected, "2:$big", @$expected);
    is [map { $_->{payload} } read_frames($peer, 2 * @$pongs)], [@$pongs, @$pongs];
};

subtest 'two connections do not mix (C12)' => sub {
    my @ends  = map { [connection_and_peer()] } 1 .. 10;
    my @lists = map { messages_of($_->[0]) } @ends;
    my ($bytes, $expected) = conversation();
    # Each of them has a part of a frame most of the time.
    for my $piece (unpack '(a37)*', $bytes) {
        syswrite $_->[1], $piece for @ends;
        settle() if length $piece < 37;
        run_until { !grep { IO::Select->new($_->[0]->handle->fh)->can_read(0) } @ends } 'reading';
    }
    run_until { !grep { @$_ < @$expected } @lists } 'all messages';
    is $_, $expected for @lists;
};


subtest 'large bodies that the program keeps in any way (C2)' => sub {
    my $size = 40_000;
    my @kept;
    my %keep = (
        'the message'            => sub { push @kept, [sub { $_[0]->body }, $_[1]] },
        'its body'               => sub { push @kept, [sub { $_[0] }, $_[1]->body] },
        'a reference to the body' => sub { push @kept, [sub { ${ $_[0] } }, \$_[1]{body}] },
        'the arguments'          => sub { push @kept, [sub { $_[0][1]->body }, \@_] },
        'an argument'            => sub { push @kept, [sub { ${ $_[0] }->body }, \$_[1]] },
        'an alias'               => sub { push @kept, [sub { $_[0]->() }, map { my $r = \$_; sub { $$r } } $_[1]->body] },
        'the hash under another class' => sub { push @kept, [sub { $_[0]{body} }, bless $_[1], 'Local::Other'] },
        'a message whose argument was overwritten' =>
            sub { my $message = $_[1]; $_[1] = 0; push @kept, [sub { $_[0]->body }, $message] },
        'a message whose argument was weakened' => sub {
            my $message = $_[1];
            Scalar::Util::weaken($_[1]);
            push @kept, [sub { $_[0]->body }, $message];
        },
    );
    for my $what (sort keys %keep) {
        my ($connection, $peer) = connection_and_peer(max_payload_size => 0);
        @kept = ();
        my $count = 0;
        $connection->on(each_message => sub { $count++; &{ $keep{$what} } });
        my @bodies = map { chr(ord('a') + $_) x $size } 0 .. 4;
        write_all($peer, join '', map { frame(payload => $_) } @bodies);
        run_until { $count == @bodies } $what;
        my @now = map { my ($get, @what) = @$_; $get->(@what) } @kept;
        ok @now == @bodies && !(grep { ($now[$_] // '') ne $bodies[$_] } 0 .. $#bodies), $what;
    }
};

done_testing;
