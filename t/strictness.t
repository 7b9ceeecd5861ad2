# What RFC 6455 forbids on the wire fails the connection (D1).

use strict;
use warnings;
use lib 't/lib';
use Test2::V0;
use Peer qw(
    connection_and_peer connection_through_handle frame close_frame parse_frames read_until_eof run_until settle
    record trickle trickle_all
);

use AnyEvent::WebSocket::Connection;

my %PAIR = (directly => \&connection_and_peer, 'through the handle' => \&connection_through_handle);

# What is there to read without the event loop having run, and whether EOF came.
sub on_the_wire {
    my ($socket) = @_;
    my ($bytes, $n) = ('');
    1 while $n = sysread $socket, $bytes, 1 << 16, length $bytes;
    return ($bytes, defined $n ? 1 : 0);
}

# A masked frame.
sub masked { return frame(mask => "\x37\xFA\x21\x3D", @_) }

# What is forbidden: name, bytes, close code, what the text of parse_error says; then options of the
# connection, and the peer's close code where the bytes have one.
my @forbidden = (
    (map { ["RSV$_ on text", frame(rsv => 8 >> $_, payload => 'x'), 1002, qr/reserved bit.*RSV$_/i] } 1 .. 3),
    ['all reserved bits on binary', masked(opcode => 2, rsv => 7, payload => 'x'), 1002, qr/reserved bit/i],
    ['a reserved bit on a ping', frame(opcode => 9, rsv => 4), 1002, qr/reserved bit/i],
    ['a reserved bit on a Close', close_frame(1000, '', rsv => 1), 1002, qr/reserved bit/i],
    ['a reserved bit on a continuation', frame(fin => 0) . frame(opcode => 0, rsv => 4), 1002, qr/reserved bit/i],

    (map { ["opcode $_", frame(opcode => $_, payload => 'x'), 1002, qr/opcode.*\b$_\b/i] } 3 .. 7, 11 .. 15),
    ['opcode 3, masked and long', masked(opcode => 3, payload => 'x' x 300), 1002, qr/opcode.*3/i],
    ['opcode 11 inside a fragmented message', frame(fin => 0) . frame(opcode => 11), 1002, qr/opcode.*11/i],

    ['a fragmented ping', frame(opcode => 9, fin => 0, payload => 'p'), 1002,
        qr/fragment.*control|control.*fragment/i],
    ['a fragmented pong', frame(opcode => 10, fin => 0), 1002, qr/fragment.*control|control.*fragment/i],
    ['a fragmented Close', close_frame(1000, '', fin => 0), 1002, qr/fragment.*control|control.*fragment/i],
    ['a ping of 126 bytes', frame(opcode => 9, payload => 'p' x 126), 1002, qr/control.*126.*125/i],
    ['a pong of 126 bytes, masked', masked(opcode => 10, payload => 'p' x 126), 1002, qr/control.*126.*125/i],
    ['a Close of 126 bytes', close_frame(1000, 'r' x 124), 1002, qr/control.*126.*125/i],
    ['the header of a ping of 60000 bytes', frame(opcode => 9, length => 60_000), 1002, qr/control.*60000.*125/i],

    ['a continuation at the start', frame(opcode => 0, payload => 'x'), 1002, qr/continuation/i],
    ['an unfinished continuation at the start', frame(opcode => 0, fin => 0, payload => 'x'), 1002,
        qr/continuation/i],
    ['a continuation after a finished message', frame(fin => 0) . frame(opcode => 0) . frame(opcode => 0), 1002,
        qr/continuation/i,
        {before => ['']}],
    ['text inside a fragmented message', frame(fin => 0, payload => 'x') . frame(payload => 'y'), 1002,
        qr/inside a fragmented/i],
    ['binary inside a fragmented message', frame(fin => 0) . masked(opcode => 2), 1002, qr/inside a fragmented/i],
    ['unfinished text inside a fragmented binary message', frame(opcode => 2, fin => 0) . frame(fin => 0), 1002,
        qr/inside a fragmented/i],
    ['text inside, after a continuation', frame(fin => 0) . frame(opcode => 0, fin => 0) . frame(), 1002,
        qr/inside a fragmented/i],

    ['a length with the top bit set', frame(length => 1 << 63, length_bytes => 8), 1002,
        qr/length.*most significant bit/i],
    ['all bits of a length set', masked(opcode => 2, length => ~0, length_bytes => 8), 1002,
        qr/length.*most significant bit/i],
    ['the top bit set, without a limit', frame(length => 1 << 63, length_bytes => 8), 1002,
        qr/length.*most significant bit/i, {max_payload_size => 0}],
    ['the top bit set, and a small limit', frame(length => 1 << 63, length_bytes => 8), 1002,
        qr/length.*most significant bit/i, {max_payload_size => 10}],
    (map { ["$_ bytes with a length of 2", frame(length_bytes => 2, payload => 'x' x $_), 1002,
        qr/length $_ .*shortest/i] } 0, 1, 125),
    (map { ["$_ bytes with a length of 8", masked(length_bytes => 8, length => $_), 1002,
        qr/length $_ .*shortest/i] } 0, 125, 126, 65_535),
    ['a ping with a length of 2', frame(opcode => 9, length_bytes => 2, payload => 'p'), 1002, qr/length|control/i],

    ['a Close with a body of 1 byte', frame(opcode => 8, payload => "\x03"), 1002, qr/close.*\b1 byte/i],
    ['the same, masked', masked(opcode => 8, payload => '8'), 1002, qr/close.*\b1 byte/i],
    (map { ["close code $_", close_frame($_, 'r'), 1002, qr/close code $_\b/i,
        {close_code => $_, close_reason => 'r'}] }
        0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 32_768, 65_535),
    ['close code 1005, masked, no reason', masked(opcode => 8, payload => pack('n', 1005)), 1002,
        qr/close code 1005\b/i,
        {close_code => 1005, close_reason => ''}],
    ['a close reason that is not UTF-8', close_frame(1000, "bad \xFF"), 1007, qr/reason.*UTF-8/i,
        {close_code => 1000}],
    ['a close reason cut inside a character', close_frame(3000, "bad \xE2\x98"), 1007, qr/reason.*UTF-8/i,
        {close_code => 3000}],
    ['a surrogate in a close reason', close_frame(1001, "\xED\xA0\x80"), 1007, qr/reason.*UTF-8/i,
        {close_code => 1001}],

    ['a frame that is not masked, to a server', frame(payload => 'x'), 1002, qr/not masked/i,
        {role => 'server', masked_before => 1}],
    ['a ping that is not masked, to a server', frame(opcode => 9), 1002, qr/not masked/i,
        {role => 'server', masked_before => 1}],
    ['a Close that is not masked, to a server', close_frame(1000), 1002, qr/not masked/i,
        {role => 'server', masked_before => 1}],
    ['a continuation that is not masked, to a server', masked(fin => 0) . frame(opcode => 0), 1002, qr/not masked/i,
        {role => 'server', masked_before => 1}],
    ['a masked frame, to a client', masked(payload => 'x'), 1002, qr/masked/i, {role => 'client'}],
    ['a masked ping, to a client', masked(opcode => 9), 1002, qr/masked/i, {role => 'client'}],
    ['an empty frame with a mask of zeros, to a client', frame(mask => "\0\0\0\0"), 1002, qr/masked/i,
        {role => 'client'}],
    ['a masked Close, to a client', close_frame(1000, '', mask => 'mask'), 1002, qr/masked/i, {role => 'client'}],
);

# Byte sequences that are not UTF-8, and at which of their bytes that shows.
my @not_utf8 = (
    ['a continuation byte alone',        "\x80",             0],
    ['the last continuation byte alone', "\xBF",             0],
    ['a byte that is never used',        "\xC0",             0],
    ['another such byte',                "\xC1\xBF",         0],
    ['a byte beyond Unicode',            "\xF5\x80\x80\x80", 0],
    ['the byte FE',                      "\xFE",             0],
    ['the byte FF',                      "\xFF",             0],
    ['two bytes, the second is ASCII',   "\xC3x",            1],
    ['two starts',                       "\xC3\xC3\xA9",     1],
    ['three bytes, overlong',            "\xE0\x9F\xBF",     1],
    ['three bytes, cut by ASCII',        "\xE2\x98x",        2],
    ['the first surrogate',              "\xED\xA0\x80",     1],
    ['the last surrogate',               "\xED\xBF\xBF",     1],
    ['four bytes, overlong',             "\xF0\x8F\xBF\xBF", 1],
    ['four bytes, cut by a start',       "\xF0\x9F\x98\xC3", 3],
    ['beyond the last character',        "\xF4\x90\x80\x80", 1],
);
push @forbidden, map {
    my ($name, $bytes) = @$_;
    ["$name in text", frame(payload => "ok \xC3\xA9 $bytes more"), 1007, qr/UTF-8/],
    ["$name in masked text", masked(payload => "$bytes and more"), 1007, qr/UTF-8/],
    ["$name in the last of three fragments", frame(payload => 'a', fin => 0)
        . masked(opcode => 0, fin => 0, payload => 'b')
        . frame(opcode => 0, payload => $bytes), 1007, qr/UTF-8/],
} @not_utf8;

# Characters that are not complete where their message ends.
for my $cut ("\xC3", "\xE2", "\xE2\x98", "\xF0", "\xF0\x9F", "\xF0\x9F\x98", "x" x 200 . "\xE2\x98") {
    my $name = 'text that ends with ' . unpack 'H*', substr $cut, -3;
    push @forbidden,
        [$name, frame(payload => $cut), 1007, qr/UTF-8/],
        ["$name, in fragments", frame(payload => $cut, fin => 0) . masked(opcode => 0), 1007, qr/UTF-8/];
}

# Whole and in one read, or byte by byte; past the handle, or through it.
for my $way (sort keys %PAIR) {
    for my $feeding ('in one read', 'byte by byte') {
        my @cases = map { start_case($_, $PAIR{$way}) } @forbidden;
        if ($feeding eq 'byte by byte') { trickle_all(1, map { [@$_{qw(connection peer bytes)}] } @cases) }
        else                            { syswrite $_->{peer}, $_->{bytes} for @cases }
        run_until { !grep { !$_->{eof} && !read_more($_) } @cases } 'the ends';
        close $_->{peer} for @cases;
        run_until { !grep { !@{ $_->{record}{finish} } } @cases } 'finish';
        settle();
        check_case($_, "$_->{name}, $feeding, $way") for @cases;
    }
}

sub start_case {
    my ($row, $pair) = @_;
    my ($name, $bytes, $code, $text, $options) = @$row;
    my %options = %{ $options || {} };
    my %case    = (name => $name, code => $code, text => $text, eof => 0, wire => '');
    $case{before}   = ['before', @{ delete $options{before} || [] }];
    $case{expected} = {map { $_ => delete $options{$_} } grep { exists $options{$_} } qw(close_code close_reason)};
    my $before = delete $options{masked_before} ? masked(payload => 'before') : frame(payload => 'before');
    @case{qw(connection peer)} = $pair->(%options);
    my ($connection, $peer) = @case{qw(connection peer)};
    $case{record} = record($connection);
    $connection->on(parse_error => sub {
        my ($connection) = @_;
        @case{qw(wire_at_error eof_at_error)} = on_the_wire($peer);
        $case{close_code_at_error} = $connection->close_code;
        $connection->send('not sent any more');
    });
    $case{bytes} = $before . $bytes . masked(payload => 'after') . frame(payload => 'after') . frame(opcode => 9)
        . close_frame(3001);
    return \%case;
}

sub read_more {
    my ($case) = @_;
    my ($bytes, $eof) = on_the_wire($case->{peer});
    $case->{wire} .= $bytes;
    return $case->{eof} = $eof;
}

sub check_case {
    my ($case, $name) = @_;
    my ($connection, $record) = @$case{qw(connection record)};
    my $context = context();
    subtest "$name (D1)" => sub {
        is $record->{messages}, $case->{before}, 'messages before it are delivered, none after it';
        is $record->{parse_errors}, array { item match $case->{text}; end },
            'parse_error runs once, and says what was wrong';
        is $case->{wire_at_error}, close_frame($case->{code}), "Close $case->{code} is sent before that";
        is $case->{eof_at_error}, 0, 'with the write side open until then';
        is $case->{wire}, '', 'nothing is sent after it';
        is $case->{eof}, 1, 'and the write side is shut';
        is $record->{finish}, [undef], 'then finish, without an error';
        is $connection->close_code, $case->{expected}{close_code},
            'the code of the peer is recorded if it has sent one';
        is $case->{close_code_at_error}, $case->{expected}{close_code}, 'before parse_error';
        is $connection->close_reason, $case->{expected}{close_reason},
            'and so is the reason' if exists $case->{expected}{close_reason};
        is $connection->close_error, undef, 'no socket error';
        ok !$connection->was_clean, 'not clean';
    };
    $context->release;
}

subtest 'a bad byte of text fails the connection before the next one is there (D1)' => sub {
    for my $way (sort keys %PAIR) {
        for my $case (@not_utf8) {
            my ($name, $bytes, $bad) = @$case;
            for my $fragment (0, 1) {
                my ($connection, $peer) = $PAIR{$way}->();
                my $record = record($connection);
                my $start = $fragment ? frame(payload => "\xC3", fin => 0)
                    . frame(opcode => 0, fin => 0, length => 1000) . "\xA9"
                    : frame(length => 1000) . "\xC3\xA9";
                trickle($connection, $peer, $start . substr $bytes, 0, $bad);
                is $record->{parse_errors}, [], "$name, $way: nothing wrong yet";
                trickle($connection, $peer, substr $bytes, $bad, 1);
                is read_until_eof($peer), close_frame(1007), 'the bad byte';
                is scalar @{ $record->{parse_errors} }, 1, 'parse_error';
            }
        }
    }
};

subtest 'a bad byte in the middle of a long text that comes in pieces (D1)' => sub {
    my ($connection, $peer) = connection_and_peer(max_payload_size => 0);
    my $record = record($connection);
    my $text = "\xE2\x98\xBA" x 100_000;
    substr $text, 60_001, 1, 'x';
    trickle($connection, $peer, substr(masked(payload => $text), 0, 60_100), 10_000);
    is read_until_eof($peer), close_frame(1007);
    is $record->{parse_errors}, array { item match qr/UTF-8.*\b60000\b/; end },
        'the text says where the bad character begins';
};

# What is just allowed: name, bytes, messages, options of the connection.
my @allowed = (
    ['the shortest and longest of each length',
        join('', map { frame(opcode => 2, payload => 'x' x $_) } 0, 125, 126, 65_535, 65_536),
        [map { 'x' x $_ } 0, 125, 126, 65_535, 65_536]],
    ['the same, masked', join('', map { masked(opcode => 2, payload => 'x' x $_) } 0, 125, 126, 65_535, 65_536),
        [map { 'x' x $_ } 0, 125, 126, 65_535, 65_536]],
    ['control frames of 125 bytes', frame(opcode => 9, payload => 'p' x 125)
        . masked(opcode => 10, payload => "\xFF" x 125), []],
    ['control frames inside a message', frame(fin => 0, payload => 'a') . frame(opcode => 9) . frame(opcode => 10)
        . frame(opcode => 0, payload => 'b'), ['ab']],
    ['empty fragments', frame(fin => 0) . frame(opcode => 0, fin => 0) . frame(opcode => 0), ['']],
    ['masked frames to a server', masked(payload => 'a') . masked(fin => 0) . masked(opcode => 0, payload => 'b')
        . masked(opcode => 9),
        ['a', 'b'], {role => 'server'}],
    ['frames without a mask to a client', frame(payload => 'a') . frame(fin => 0)
        . frame(opcode => 0, payload => 'b') . frame(opcode => 9),
        ['a', 'b'], {role => 'client'}],
    ['both where the role is not known', frame(payload => 'a') . masked(payload => 'b'), ['a', 'b']],
    ['both where the role is undef', frame(payload => 'a') . masked(payload => 'b'), ['a', 'b'], {role => undef}],
    ['both where we mask', frame(payload => 'a') . masked(payload => 'b'), ['a', 'b'], {masked => 1}],
);
my @utf8 = (
    "\x00", "\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xEF\xBF\xBD",
        "\xEF\xBF\xBE", "\xEF\xBF\xBF",
    "\xEF\xB7\x90", "\xF0\x90\x80\x80", "\xF3\xBF\xBF\xBF", "\xF4\x8F\xBF\xBF", "\xEF\xBB\xBF",
);
push @allowed, map {
    my $bytes = $_;
    my $name  = 'the UTF-8 sequence ' . unpack 'H*', $bytes;
    [$name, frame(payload => "a${bytes}b") . masked(payload => $bytes), ["a${bytes}b", $bytes]],
    ["$name in fragments", join('', frame(fin => 0),
        map({ masked(opcode => 0, fin => 0, payload => $_) } split //, $bytes), frame(opcode => 0)), [$bytes]],
} @utf8;
push @allowed, ['binary need not be UTF-8', join('', map { frame(opcode => 2, payload => $_->[1]) } @not_utf8),
    [map { $_->[1] } @not_utf8]];

for my $way (sort keys %PAIR) {
    subtest "what is just allowed, $way (D1)" => sub {
        my @cases = map {
            my ($name, $bytes, $messages, $options) = @$_;
            my ($connection, $peer) = $PAIR{$way}->(%{ $options || {} });
            {name => $name, trickle => [$connection, $peer, $bytes], messages => $messages,
                record => record($connection)};
        } @allowed;
        trickle_all(1,     map { $_->{trickle} } grep { length $_->{trickle}[2] <= 500 } @cases);
        trickle_all(5_000, map { $_->{trickle} } grep { length $_->{trickle}[2] > 500 } @cases);
        shutdown $_->{trickle}[1], 1 for @cases;
        run_until { !grep { !@{ $_->{record}{finish} } } @cases } 'finish';
        for my $case (@cases) {
            ok join('|', @{ $case->{record}{messages} }) eq join('|', @{ $case->{messages} }), $case->{name};
            is $case->{record}{parse_errors}, [], 'no error';
        }
    };
}

subtest 'close codes and reasons that are allowed (D1, D4)' => sub {
    my @allowed = (
        (map { [$_, ''] } 1000 .. 1003, 1007 .. 1014, 3000, 3001, 3999, 4000, 4999),
        [1000, 'r' x 123], [1001, "caf\xC3\xA9"], [4000, "\xF4\x8F\xBF\xBF"],
    );
    for my $close (@allowed) {
        my ($code, $reason) = @$close;
        my ($connection, $peer) = connection_and_peer();
        my $record = record($connection);
        syswrite $peer, close_frame($code, $reason);
        is read_until_eof($peer), close_frame($code), "$code is answered"
            . (length $reason ? ", with a reason of @{[length $reason]} bytes" : '');
        utf8::decode(my $text = $reason);
        is [$connection->close_code, $connection->close_reason, $connection->was_clean ? 1 : 0],
            [$code, $text, 1], 'recorded, and clean';
        is $record->{parse_errors}, [], 'no error';
    }
    my ($connection, $peer) = connection_and_peer();
    syswrite $peer, close_frame();
    is read_until_eof($peer), close_frame(), 'one without a body, too';
    ok $connection->was_clean;
};

subtest 'validate_utf8 => 0 turns off only UTF-8 (D1)' => sub {
    for my $way (sort keys %PAIR) {
        my ($connection, $peer) = $PAIR{$way}->(validate_utf8 => 0);
        ok !$connection->validate_utf8, 'the attribute';
        my $record = record($connection);
        my @bad = map { $_->[1] } @not_utf8;
        syswrite $peer, join '', map { (frame(payload => $_), masked(payload => $_),
            frame(payload => $_, fin => 0), masked(opcode => 0, payload => "$_ more")) } @bad;
        my @expected = map { ($_, $_, "$_$_ more") } @bad;
        run_until { @{ $record->{messages} } >= @expected } 'the messages';
        is $record->{messages}, \@expected, "what is not UTF-8 is delivered as it came, $way";
        is $record->{parse_errors}, [];
        syswrite $peer, frame(rsv => 4);
        is read_until_eof($peer), close_frame(1002), 'a reserved bit is still an error';
        is $record->{parse_errors}, array { item match qr/reserved bit/i; end };
    }
    my ($connection) = connection_and_peer();
    ok $connection->validate_utf8, 'it is on where nothing is said';
    my ($also_on) = connection_and_peer(validate_utf8 => undef);
    ok $also_on->validate_utf8, 'or undef';
};

subtest 'role is an attribute (D1)' => sub {
    for my $role ('client', 'server', undef) {
        my ($connection) = connection_and_peer(role => $role);
        is $connection->role, $role;
    }
};

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

subtest 'a failure after our Close is told, but sends nothing (C17, D1)' => sub {
    for my $bytes (frame(opcode => 3), frame(payload => "\xFF"), close_frame(1005)) {
        my ($connection, $peer) = connection_and_peer();
        my $record = record($connection);
        $connection->close(1001, 'bye');
        syswrite $peer, frame(payload => 'before') . $bytes . frame(payload => 'after');
        run_until { @{ $record->{parse_errors} } } 'parse_error';
        is read_until_eof($peer), close_frame(1001, 'bye'), 'one Close';
        is $record->{messages}, ['before'];
        ok !$connection->was_clean, 'not clean';
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
    $connection->on(each_message => sub { $_[0]->send('reply to ' . $_[1]->body) });
    syswrite $peer, frame(payload => 'a') . frame(opcode => 9, payload => 'p') . frame(payload => 'b')
        . frame(opcode => 3);
    is read_until_eof($peer), frame(payload => 'reply to a') . frame(opcode => 10, payload => 'p')
        . frame(payload => 'reply to b') . close_frame(1002);
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
