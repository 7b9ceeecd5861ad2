# max_payload_size, max_fragments (C16, D8) and max_message_size.

use strict;
use warnings;
use lib 't/lib';
use Test2::V0;
use Peer qw(
    connection_and_peer frame close_frame read_until_eof write_all run_until record trickle
);
use Ways qw(on_both_ways);

use AnyEvent::WebSocket::Connection;

my $HAVE_PROTOCOL_WEBSOCKET = eval { require Protocol::WebSocket::Frame; 1 };

sub too_big {
    my ($length, $limit) = @_;
    return "Payload is too big. Deny big message ($length) or increase max_payload_size ($limit)";
}

my $TOO_MANY = 'Too many fragments';

# A message in that many frames, or the start of one.
sub fragments {
    my ($count, %options) = @_;
    my $unfinished = delete $options{unfinished};
    return join '', map {
        frame(opcode => $_ == 1 ? 2 : 0, fin => ($_ == $count && !$unfinished) || 0, payload => 'f', %options)
    } 1 .. $count;
}

# Only the header of a frame of that length.
sub header {
    my ($length, %options) = @_;
    return frame(opcode => 2, length => $length, %options);
}

# The connection takes these bytes, and what they bring is one message of that length.
sub accepts {
    my ($connection, $peer, $bytes, $length, $name) = @_;
    my $context = context();
    my $record  = record($connection);
    write_all($peer, $bytes . frame(payload => 'end'));
    run_until { @{ $record->{messages} } >= 2 || @{ $record->{parse_errors} } } 'the messages';
    my $ok = is [[map { length } @{ $record->{messages} }], $record->{parse_errors}], [[$length, 3], []], $name;
    $context->release;
    return $ok;
}

# The connection fails with such a text and Close 1009, after one message before and without one after.
sub refuses {
    my ($connection, $peer, $bytes, $text, $name) = @_;
    my $context = context();
    my $record  = record($connection);
    write_all($peer, frame(payload => 'b') . $bytes . frame(payload => 'after'));
    my $wire = read_until_eof($peer);
    is $record->{messages}, ['b'], "$name: only what came before is delivered";
    like $record->{parse_errors}, array { item match qr/^\Q$text\E/; end }, 'the text';
    my $ok = is $wire, close_frame(1009), 'Close 1009, once, then the write side is shut';
    is [$connection->close_code, $connection->was_clean ? 1 : 0], [undef, 0], 'the peer sent no Close';
    $connection->send('nothing');
    close $peer;
    run_until { @{ $record->{finish} } } 'finish';
    is $record->{finish}, [undef], 'finish, without an error';
    $context->release;
    return $ok;
}

on_both_ways 'payloads up to max_payload_size pass (C16)' => sub {
    my ($pair) = @_;
    for my $mask (undef, 'mask') {
        my $name = defined $mask ? 'masked' : 'not masked';
        accepts($pair->(max_payload_size => 10), frame(payload => 'x' x 10, mask => $mask), 10, "10 of 10, $name");
        refuses($pair->(max_payload_size => 10), frame(payload => 'x' x 11, mask => $mask), too_big(11, 10),
            "11 of 10, $name");
        refuses($pair->(max_payload_size => 125), frame(payload => 'x' x 126, mask => $mask), too_big(126, 125),
            "126 of 125, $name");
        accepts($pair->(max_payload_size => 70_000), frame(payload => 'x' x 70_000, mask => $mask), 70_000,
            "70000 of 70000, $name");
        refuses($pair->(max_payload_size => 70_000), frame(payload => 'x' x 70_001, mask => $mask),
            too_big(70_001, 70_000), "70001 of 70000, $name");
        refuses($pair->(max_payload_size => 1), frame(payload => 'xx', mask => $mask), too_big(2, 1),
            "2 of 1, $name");
    }
};

on_both_ways 'the limit is 65536 where nothing is said (C16)' => sub {
    my ($pair) = @_;
    accepts($pair->(), frame(payload => 'x' x 65_536), 65_536, '65536');
    refuses($pair->(), frame(payload => 'x' x 65_537), too_big(65_537, 65_536), '65537');
    accepts($pair->(max_payload_size => undef), frame(payload => 'x' x 65_536), 65_536, '65536, with undef given');
    refuses($pair->(max_payload_size => undef), frame(payload => 'x' x 65_537), too_big(65_537, 65_536),
        '65537, with undef given');
};

on_both_ways 'max_payload_size => 0 is no limit (C16)' => sub {
    my ($pair) = @_;
    accepts($pair->(max_payload_size => 0), frame(payload => 'x' x 1_000_000), 1_000_000, '1000000');
};

subtest 'max_payload_size is per frame, not per message (C16)' => sub {
    my $message = frame(opcode => 2, payload => 'x' x 10, fin => 0)
        . frame(opcode => 0, payload => 'x' x 10, fin => 0)
        . frame(opcode => 0, payload => 'x' x 10);
    accepts(connection_and_peer(max_payload_size => 10), $message, 30, 'each fragment within the limit');
    $message = frame(opcode => 2, payload => 'x', fin => 0) . frame(opcode => 0, payload => 'x' x 11, fin => 0);
    refuses(connection_and_peer(max_payload_size => 10), $message, too_big(11, 10), 'a later fragment over it');
};

subtest 'sizes as Perl values (C16)' => sub {
    refuses(connection_and_peer(max_payload_size => '10'), frame(payload => 'x' x 11), too_big(11, 10), 'a string');
    accepts(connection_and_peer(max_payload_size => 2**40), frame(payload => 'x' x 70_000), 70_000, '2 ** 40');
    accepts(connection_and_peer(max_payload_size => 1e30), frame(payload => 'x' x 70_000), 70_000,
        'more than there are integers');
    refuses(connection_and_peer(max_payload_size => 0.5), frame(payload => 'xx'), too_big(2, 1), 'a half is not none');
    refuses(connection_and_peer(max_message_size => 0.5), frame(payload => 'xx'),
        'Message is too big: 2 bytes are over max_message_size (1)', 'nor is it for messages');
    refuses(connection_and_peer(max_fragments => 0.5), fragments(2), $TOO_MANY, 'nor for fragments');
    my ($connection) = connection_and_peer(max_payload_size => 17, max_fragments => 3);
    is [$connection->max_payload_size, $connection->max_fragments], [17, 3], 'the accessors';
};

on_both_ways 'the header is enough, whatever it announces (C16)' => sub {
    my ($pair) = @_;
    for my $length (101, 125, 126, 65_535, 65_536, 1 << 31, (1 << 32) + 1, (1 << 53) + 2, 1 << 62, ~0 >> 1) {
        for my $mask (undef, "\0abc") {
            my ($connection, $peer) = $pair->(max_payload_size => 100);
            my $record = record($connection);
            my $name = "$length bytes" . (defined $mask ? ', masked' : '');
            trickle($connection, $peer, header($length, defined $mask ? (mask => $mask) : ()));
            is read_until_eof($peer), close_frame(1009), $name;
            is $record->{parse_errors}, array { item match qr/^\Q${\too_big($length, 100)}\E/; end }, 'the text';
        }
    }
};

subtest 'a header that announces much without a limit allocates nothing (C16)' => sub {
    my $size = sub {
        open my $status, '<', '/proc/self/status' or return;
        my ($kib) = join('', readline $status) =~ /^VmSize:\s+(\d+)/m;
        return $kib;
    };
    skip_all 'no /proc/self/status to look at' unless $size->();
    for my $length (1 << 33, 1 << 40, 1 << 62) {
        my ($connection, $peer) = connection_and_peer(max_payload_size => 0);
        my $record = record($connection);
        my $before = $size->();
        trickle($connection, $peer, header($length) . 'x' x 50);
        cmp_ok $size->() - $before, '<', 64 * 1024,
            "$length announced, 50 bytes sent: no more than 64 MiB of address space";
        is $record->{parse_errors}, [], 'which is no error';
        close $peer;
        run_until { @{ $record->{finish} } } 'finish';
        is $record->{messages}, [], 'nor a message';
    }
};

on_both_ways 'messages of up to max_fragments frames pass (C16)' => sub {
    my ($pair) = @_;
    for my $limit (1, 2, 3, 10) {
        accepts($pair->(max_fragments => $limit), fragments($limit), $limit, "$limit of $limit");
        refuses($pair->(max_fragments => $limit), fragments($limit + 1), $TOO_MANY, $limit + 1 . " of $limit");
    }
};

on_both_ways 'the limit is 128 fragments where nothing is said (C16)' => sub {
    my ($pair) = @_;
    accepts($pair->(), fragments(128), 128, '128');
    refuses($pair->(), fragments(129), $TOO_MANY, '129');
    accepts($pair->(max_fragments => undef), fragments(128, mask => 'mask'), 128, '128, with undef given');
    refuses($pair->(max_fragments => undef), fragments(129, mask => 'mask'), $TOO_MANY, '129, with undef given');
};

on_both_ways 'max_fragments => 0 is no limit (D8)' => sub {
    my ($pair) = @_;
    accepts($pair->(max_fragments => 0), fragments(2), 2, '2');
    accepts($pair->(max_fragments => 0), fragments(1000), 1000, '1000');
};

on_both_ways 'too many fragments are found at the frame that exceeds (C16)' => sub {
    my ($pair) = @_;
    my ($connection, $peer) = $pair->(max_fragments => 5);
    my $record = record($connection);
    trickle($connection, $peer, fragments(5, unfinished => 1));
    is $record->{parse_errors}, [], 'five unfinished ones are within the limit';
    trickle($connection, $peer, header(50, opcode => 0));
    is read_until_eof($peer), close_frame(1009), 'the header of the sixth is not';
    is $record->{parse_errors}, array { item match qr/^$TOO_MANY/; end };
};

subtest 'what counts as a fragment (C16)' => sub {
    my $control = frame(opcode => 10) x 2;
    my $message = join $control, frame(opcode => 2, payload => 'x', fin => 0),
        frame(opcode => 0, payload => '', fin => 0),
        frame(opcode => 0, payload => 'x');
    my ($connection, $peer) = connection_and_peer(max_fragments => 3);
    accepts($connection, $peer, $message, 2, 'control frames do not, empty fragments do');
    refuses(connection_and_peer(max_fragments => 2), $message, $TOO_MANY, 'one less');

    my $record = record($connection);
    syswrite $peer, fragments(3) x 3;
    run_until { @{ $record->{messages} } >= 3 } 'the messages';
    is $record->{messages}, [('fff') x 3], 'each message has its own count';
};

subtest 'the fragments before the one that exceeds are not delivered, pings among them answered (C12, C16)' => sub {
    my ($connection, $peer) = connection_and_peer(max_fragments => 2);
    my $record = record($connection);
    syswrite $peer, fragments(2, unfinished => 1) . frame(opcode => 9, payload => 'p') . frame(opcode => 0)
        . frame(opcode => 9, payload => 'q');
    is read_until_eof($peer), frame(opcode => 10, payload => 'p') . close_frame(1009);
    is $record->{messages}, [];
};

sub message_too_big {
    my ($length, $limit) = @_;
    return "Message is too big: $length bytes are over max_message_size ($limit)";
}

on_both_ways 'messages of up to max_message_size bytes pass, over all their frames' => sub {
    my ($pair) = @_;
    my $with_pongs = join frame(opcode => 10, payload => 'not counted'), map { frame(%$_, payload => 'xxxxx') }
        {opcode => 2, fin => 0}, {opcode => 0, fin => 0}, {opcode => 0, fin => 1};
    for my $mask (undef, 'mask') {
        my $name = defined $mask ? 'masked' : 'not masked';
        for my $limit (3, 4, 10) {
            my @more = (max_message_size => $limit, max_fragments => 11);
            accepts($pair->(@more), frame(opcode => 2, payload => 'x' x $limit, mask => $mask), $limit,
                "$limit of $limit in one frame, $name");
            refuses($pair->(@more), frame(opcode => 2, payload => 'x' x ($limit + 1), mask => $mask),
                message_too_big($limit + 1, $limit), $limit + 1 . " of $limit in one frame, $name");
            accepts($pair->(@more), fragments($limit, mask => $mask), $limit, "$limit of $limit in fragments, $name");
            refuses($pair->(@more), fragments($limit + 1, mask => $mask), message_too_big($limit + 1, $limit),
                $limit + 1 . " of $limit in fragments, $name");
        }
    }
    accepts($pair->(max_message_size => 15), $with_pongs, 15, 'control frames do not count');
    refuses($pair->(max_message_size => 14), $with_pongs, message_too_big(15, 14), 'one less');
};

on_both_ways 'a message that is too big is found at the header of the frame that exceeds' => sub {
    my ($pair) = @_;
    my ($connection, $peer) = $pair->(max_message_size => 100, max_payload_size => 0);
    my $record = record($connection);
    trickle($connection, $peer, frame(opcode => 1, fin => 0, payload => 'x' x 100) . frame(opcode => 0, fin => 0));
    is $record->{parse_errors}, [], 'a hundred bytes are within the limit';
    trickle($connection, $peer, header(1 << 40, opcode => 0));
    is read_until_eof($peer), close_frame(1009), 'the header of the next is not';
    is $record->{parse_errors}, array { item match qr/^\Q${\message_too_big((1 << 40) + 100, 100)}\E/; end };
};

subtest 'without max_message_size the other two limits decide' => sub {
    my @largest = (opcode => 2, payload => 'x' x 65_536);
    my $message = join '', frame(@largest, fin => 0), (frame(@largest, opcode => 0, fin => 0)) x 126;
    for my $more ([], [max_message_size => undef], [max_message_size => 0]) {
        my $name = join ' ', map { $_ // 'undef' } @$more;
        accepts(connection_and_peer(@$more), $message . frame(@largest, opcode => 0), 8 << 20, "8 MiB: $name");
        refuses(connection_and_peer(@$more), $message . (frame(@largest, opcode => 0, fin => 0)) x 2, $TOO_MANY,
            "one more frame: $name");
    }
    my ($connection) = connection_and_peer(max_message_size => 17);
    is $connection->max_message_size, 17, 'the accessor';
    ($connection) = connection_and_peer();
    is $connection->max_message_size, undef, 'undef where nothing was given';
};

on_both_ways 'the package variables of Protocol::WebSocket::Frame are the defaults at new (C16)' => sub {
    my ($pair) = @_;
    skip_all 'Protocol::WebSocket is missing' unless $HAVE_PROTOCOL_WEBSOCKET;
    no warnings 'once';
    my (@small, @many);
    {
        local $Protocol::WebSocket::Frame::MAX_PAYLOAD_SIZE     = 10;
        local $Protocol::WebSocket::Frame::MAX_FRAGMENTS_AMOUNT = 3;
        push @small, [$pair->()] for 1 .. 4;
        push @small, [$pair->(max_payload_size => undef, max_fragments => undef)];
        accepts($pair->(max_payload_size => 20), frame(payload => 'x' x 20), 20, 'what is given to new counts more');
        accepts($pair->(max_fragments => 5), fragments(5), 5, 'for fragments, too');
        accepts($pair->(max_payload_size => 0), frame(payload => 'x' x 20), 20, 'no limit');
        accepts($pair->(max_fragments => 0), fragments(10), 10, 'for fragments, too');
    }
    {
        local $Protocol::WebSocket::Frame::MAX_PAYLOAD_SIZE     = 100_000;
        local $Protocol::WebSocket::Frame::MAX_FRAGMENTS_AMOUNT = 200;
        push @many, [$pair->()] for 1 .. 4;
    }
    accepts(@{ $small[0] }, frame(payload => 'x' x 10), 10, 'payload of 10');
    refuses(@{ $small[1] }, frame(payload => 'x' x 11), too_big(11, 10), 'payload of 11');
    accepts(@{ $small[2] }, fragments(3), 3, '3 fragments');
    refuses(@{ $small[3] }, fragments(4), $TOO_MANY, '4 fragments');
    refuses(@{ $small[4] }, frame(payload => 'x' x 11), too_big(11, 10), 'undef given to new');
    accepts(@{ $many[0] }, frame(payload => 'x' x 100_000), 100_000, 'payload of 100000');
    refuses(@{ $many[1] }, frame(payload => 'x' x 100_001), too_big(100_001, 100_000), 'payload of 100001');
    accepts(@{ $many[2] }, fragments(200), 200, '200 fragments');
    refuses(@{ $many[3] }, fragments(201), $TOO_MANY, '201 fragments');
    {
        local $Protocol::WebSocket::Frame::MAX_PAYLOAD_SIZE = 0;
        accepts($pair->(), frame(payload => 'x' x 100_000), 100_000, '0 is no limit there, too');
    }
};

subtest 'a limit reached after our Close sends nothing more (C16, C17)' => sub {
    my ($connection, $peer) = connection_and_peer(max_payload_size => 10);
    my $record = record($connection);
    $connection->close(1001);
    syswrite $peer, frame(payload => 'x' x 11);
    run_until { @{ $record->{parse_errors} } } 'parse_error';
    is read_until_eof($peer), close_frame(1001);
};

# Runs a program in a process of its own and returns what it printed.
sub output_of {
    my ($program) = @_;
    open my $pipe, '-|', $^X, (map { "-I$_" } grep { !ref } @INC), '-e', $program or die "fork: $!";
    my @lines = readline $pipe;
    close $pipe;
    chomp @lines;
    return \@lines;
}

my $PROGRAM = <<'PROGRAM';
use strict; use warnings;
use Peer qw(connection_and_peer frame record run_until write_all);
use AnyEvent::WebSocket::Connection;
$| = 1;
print "loaded: ", exists $INC{'Protocol/WebSocket/Frame.pm'} ? 1 : 0, "\n";
sub fragments {
    my ($count) = @_;
    return join '', map { frame(opcode => $_ == 1 ? 1 : 0, fin => $_ == $count || 0, payload => 'f') } 1 .. $count;
}
for my $bytes (frame(payload => 'x' x 65536), frame(payload => 'x' x 65537), fragments(128), fragments(129)) {
    my ($connection, $peer) = connection_and_peer();
    my $record = record($connection);
    write_all($peer, $bytes);
    run_until { @{ $record->{messages} } || @{ $record->{parse_errors} } };
    print join(' ', map({ length } @{ $record->{messages} }),
        map { /^(Payload is too big.*\)|Too many fragments)/g } @{ $record->{parse_errors} }), "\n";
}
PROGRAM

subtest 'without Protocol::WebSocket::Frame the limits are 65536 and 128 (C16)' => sub {
    my $hidden = q{BEGIN { unshift @INC, sub { die "hidden\n" if $_[1] eq 'Protocol/WebSocket/Frame.pm'; () } } };
    is output_of($hidden . $PROGRAM), ['loaded: 0', 65_536, too_big(65_537, 65_536), 128, $TOO_MANY];
};

subtest 'a program that has changed the variables before (C16)' => sub {
    skip_all 'Protocol::WebSocket is missing' unless $HAVE_PROTOCOL_WEBSOCKET;
    my $changed = q{BEGIN { require Protocol::WebSocket::Frame; $Protocol::WebSocket::Frame::MAX_PAYLOAD_SIZE = 70000;
        $Protocol::WebSocket::Frame::MAX_FRAGMENTS_AMOUNT = 129 } };
    is output_of($changed . $PROGRAM), ['loaded: 1', 65_536, 65_537, 128, 129];
};

done_testing;
