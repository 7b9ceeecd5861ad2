package Forbidden;

# What RFC 6455 forbids on the wire (D1), as frames: [opcode, payload, further options of Peer's `frame`].
#
# Each of @FORBIDDEN is a hash: the {kind} of error and a {name}; {frames}, the last of which is the forbidden one, and
# often incomplete; the {code} of the Close that tells the peer; and the {text} for parse_error. Where it matters, also
# {options} for the connection, its {role}, the messages of the frames {before}, and the {close} code and reason that
# are recorded.

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT_OK = qw(@FORBIDDEN @NOT_UTF8 one_of_each_kind);

our @FORBIDDEN;

my ($CONTINUATION, $TEXT, $BINARY, $CLOSE, $PING, $PONG) = (0, 1, 2, 8, 9, 10);

my @START = ([$TEXT, 'start', fin => 0]);
my @MORE  = (@START, [$PING, ''], [$CONTINUATION, 'more', fin => 0]);

sub forbid {
    my ($kind, $code, $text, @rows) = @_;
    for my $row (@rows) {
        my ($name, $frames, %more) = @$row;
        push @FORBIDDEN, {kind => $kind, code => $code, text => $text, name => $name, frames => $frames, %more};
    }
    return;
}

sub body { return pack 'n a*', @_ }

# The first of each kind, which needs nothing before it.
sub one_of_each_kind {
    my %seen;
    return grep { !$seen{ $_->{kind} }++ } @FORBIDDEN;
}

# ---- reserved bits and opcodes, section 5.2

my @bits = ('', 'RSV3', 'RSV2', 'RSV2 RSV3', 'RSV1', 'RSV1 RSV3', 'RSV1 RSV2', 'RSV1 RSV2 RSV3');
for my $rsv (1 .. 7) {
    forbid 'reserved bits', 1002, qr/^Reserved bits are set: $bits[$rsv]$/,
        ["$bits[$rsv] on text", [[$TEXT, 'x', rsv => $rsv]]];
}
forbid 'reserved bits', 1002, qr/^Reserved bits are set: RSV1$/,
    ['a reserved bit on binary',                     [[$BINARY, '',  rsv => 4]]],
    ['a reserved bit on an unfinished binary frame', [[$BINARY, 'x', rsv => 4, fin => 0]]],
    ['a reserved bit on a ping',                     [[$PING,   '',  rsv => 4]]],
    ['a reserved bit on a pong',                     [[$PONG,   'p', rsv => 4]]],
    ['a reserved bit on a Close',                    [[$CLOSE, body(1000), rsv => 4]]],
    ['a reserved bit on a continuation',             [@START, [$CONTINUATION, 'x', rsv => 4]]],
    ['a reserved bit on a ping inside a message',    [@MORE,  [$PING, '', rsv => 4]]];

for my $opcode (3 .. 7, 11 .. 15) {
    forbid 'reserved opcode', 1002, qr/^Reserved opcode $opcode$/,
        ["opcode $opcode",                     [[$opcode, 'x']]],
        ["opcode $opcode, long",               [[$opcode, 'x' x 300]]],
        ["opcode $opcode, unfinished",         [[$opcode, '', fin => 0]]],
        ["opcode $opcode inside of a message", [@MORE, [$opcode, '']]];
}

# ---- control frames, section 5.5

my %control = ($CLOSE => 'Close', $PING => 'Ping', $PONG => 'Pong');
for my $opcode (sort { $a <=> $b } keys %control) {
    my $control = $control{$opcode};
    my $payload = $opcode == $CLOSE ? body(1000) : 'x';
    forbid 'fragmented control frame', 1002, qr/^Fragmented control frame \($control\)$/,
        ["a fragmented $control",                     [[$opcode, $payload, fin => 0]]],
        ["an empty fragmented $control",              [[$opcode, '', fin => 0]]],
        ["a fragmented $control inside of a message", [@MORE, [$opcode, $payload, fin => 0]]];
    for my $length (126, 127, 65_535, 65_536, 1 << 62) {
        forbid 'oversized control frame', 1002, qr/^Control frame \($control\) of $length bytes is over the 125/,
            ["the header of a $control of $length bytes", [[$opcode, '', length => $length]]];
    }
    forbid 'oversized control frame', 1002, qr/^Control frame \($control\) of 126 bytes is over the 125/,
        ["a $control of 126 bytes",                     [[$opcode, body(1000, 'x' x 124)]]],
        ["a $control of 126 bytes inside of a message", [@MORE, [$opcode, body(1000, 'x' x 124)]]];
}

# ---- fragments, section 5.4

forbid 'continuation of nothing', 1002, qr/^Continuation frame without a message/,
    ['a continuation at the start',             [[$CONTINUATION, 'x']]],
    ['an unfinished continuation at the start', [[$CONTINUATION, 'x', fin => 0]]],
    ['an empty continuation at the start',      [[$CONTINUATION, '']]],
    ['a continuation of a control frame',       [[$PING, 'p'], [$CONTINUATION, 'x']]],
    ['a continuation of a whole message',       [[$TEXT, 'whole'], [$CONTINUATION, 'x']], before => ['whole']],
    ['a continuation after the last one', [@MORE, [$CONTINUATION, '!'], [$CONTINUATION, 'x']],
        before => ['startmore!']];

my %new = ($TEXT => 'Text', $BINARY => 'Binary');
for my $opcode ($TEXT, $BINARY) {
    forbid 'message inside of a message', 1002, qr/^New data frame \($new{$opcode}\) inside a fragmented message$/,
        ["$new{$opcode} inside of text",              [@START, [$opcode, 'x']]],
        ["$new{$opcode} inside of binary",            [[$BINARY, '', fin => 0], [$opcode, '']]],
        ["unfinished $new{$opcode} inside of text",   [@START, [$opcode, 'x', fin => 0]]],
        ["$new{$opcode} inside, after a continuation", [@MORE, [$opcode, 'x']]];
}

# ---- lengths, section 5.2

for my $limit (undef, 0, 10, 1 << 40) {
    my $name = defined $limit ? ", and a limit of $limit" : '';
    forbid 'top bit of a length', 1002, qr/^Payload length 0x8000000000000000 has the most significant bit set$/,
        ["a length with the top bit$name", [[$TEXT, '', length => 1 << 63, length_bytes => 8]],
            options => {max_payload_size => $limit}];
}
forbid 'top bit of a length', 1002, qr/^Payload length 0xffffffffffffffff has the most significant bit set$/,
    ['a length with all bits',                [[$BINARY, '', length => ~0, length_bytes => 8]]],
    ['a ping with such a length',             [[$PING,   '', length => ~0, length_bytes => 8]]],
    ['a continuation with such a length',     [@START, [$CONTINUATION, '', length => ~0, length_bytes => 8]]],
    ['such a length without a limit',         [[$TEXT, '', length => ~0, length_bytes => 8]],
        options => {max_payload_size => 0}];

for my $form ([2, 0, 1, 125], [8, 0, 1, 125, 126, 65_535]) {
    my ($bytes, @lengths) = @$form;
    for my $length (@lengths) {
        forbid 'length that is not the shortest', 1002, qr/^Payload length $length is not in its shortest form$/,
            ["$length in $bytes bytes", [[$TEXT, $length > 125 ? '' : 'x' x $length, length => $length, length_bytes => $bytes]]];
    }
}
forbid 'length that is not the shortest', 1002, qr/^Payload length 5 is not in its shortest form$/,
    map {
        my $bytes = $_;
        ["a ping with a length of $bytes bytes",         [[$PING, 'xxxxx', length_bytes => $bytes]]],
        ["a Close with a length of $bytes bytes",        [[$CLOSE, body(1000, 'bye'), length_bytes => $bytes]]],
        ["a continuation with a length of $bytes bytes",
            [@START, [$CONTINUATION, 'xxxxx', length_bytes => $bytes]]],
    } 2, 8;

# ---- Close, sections 5.5.1 and 7.4

forbid 'close body of one byte', 1002, qr/^Close frame body of 1 byte$/,
    ['a Close with a body of 1 byte',                     [[$CLOSE, "\x03"]]],
    ['a Close with a body of 1 byte inside of a message', [@MORE, [$CLOSE, '0']]];

for my $code (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 32_768, 65_535) {
    my $text = qr/^Close code $code is not allowed in a Close frame$/;
    forbid 'close code', 1002, $text, ["close code $code", [[$CLOSE, body($code, 'r')]], close => [$code, 'r']];
}
forbid 'close code', 1002, qr/^Close code 1005 is not allowed in a Close frame$/,
    ['close code 1005 without a reason',         [[$CLOSE, body(1005)]], close => [1005, '']],
    ['close code 1005 with a bad reason',        [[$CLOSE, body(1005, "\xFF")]], close => [1005, "\x{FFFD}"]],
    ['close code 1005 inside of a message',      [@MORE, [$CLOSE, body(1005)]], close => [1005, '']];

for my $reason (
    ["\xFF",                   "\x{FFFD}",    0],
    ["bad \xFF!",              "bad \x{FFFD}!", 4],
    ["cut \xE2\x98",           "cut \x{FFFD}",  4],
    ["overlong \xC0\xAF",      "overlong \x{FFFD}\x{FFFD}",           9],
    ["surrogate \xED\xA0\x80", "surrogate \x{FFFD}\x{FFFD}\x{FFFD}", 10],
    ['r' x 122 . "\xC3",       'r' x 122 . "\x{FFFD}", 122],
) {
    my ($bytes, $shown, $at) = @$reason;
    forbid 'close reason', 1007, qr/^Close reason is not valid UTF-8 at byte $at$/,
        ['the close reason ' . unpack('H*', substr $bytes, -8), [[$CLOSE, body(3000, $bytes)]],
            close => [3000, $shown]];
}

# ---- masks, section 5.1, where the role is known

for my $role (['server', qr/^Frame from a client is not masked$/, mask => undef],
    ['client', qr/^Frame from a server is masked$/, mask => "\x00\x01\x02\x03"])
{
    my ($name, $text, @wrong) = @$role;
    forbid "mask, to a $name", 1002, $text,
        map { [$_->[0], $_->[1], role => $name] }
        ["text with the wrong mask to a $name",                [[$TEXT,  'x',        @wrong]]],
        ["empty text with the wrong mask to a $name",          [[$TEXT,  '',         @wrong]]],
        ["a ping with the wrong mask to a $name",              [[$PING,  '',         @wrong]]],
        ["a pong with the wrong mask to a $name",              [[$PONG,  '',         @wrong]]],
        ["a Close with the wrong mask to a $name",             [[$CLOSE, body(1000), @wrong]]],
        ["a continuation with the wrong mask to a $name",      [@START, [$CONTINUATION, 'x', @wrong]]],
        ["a ping inside of a message with the wrong mask to a $name", [@START, [$PING, '', @wrong]]];
}
forbid 'mask, to a client', 1002, qr/^Frame from a server is masked$/,
    ['text with a mask of zeros to a client', [[$TEXT, 'x', mask => "\0\0\0\0"]], role => 'client'];

# ---- UTF-8, section 8.1

# Byte sequences that are not UTF-8, and at which of their bytes that shows.
our @NOT_UTF8 = (
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
    ['four bytes, cut by ASCII',         "\xF0\x9Fx",        2],
    ['four bytes, cut by a start',       "\xF0\x9F\x98\xC3", 3],
    ['beyond the last character',        "\xF4\x90\x80\x80", 1],
);
for my $bad (@NOT_UTF8) {
    my ($name, $bytes) = @$bad;
    my $at = sub { return qr/^Text message is not valid UTF-8 at byte $_[0]$/ };
    forbid 'text', 1007, $at->(6), ["$name in text", [[$TEXT, "ok \xC3\xA9 $bytes more"]]];
    forbid 'text', 1007, $at->(0), ["$name in text that is not all there", [[$TEXT, $bytes, length => 60_000]]];
    forbid 'text', 1007, $at->(200), ["$name in long text", [[$TEXT, 'x' x 200 . $bytes . 'x' x 200]]];
    forbid 'text', 1007, $at->(2), ["$name in the last of three fragments",
        [[$TEXT, 'a', fin => 0], [$CONTINUATION, 'b', fin => 0], [$PING, "\xFF"], [$CONTINUATION, $bytes]]];
}

# Characters that are not complete where their message ends.
for my $cut ("\xC3", "\xE2", "\xE2\x98", "\xF0", "\xF0\x9F", "\xF0\x9F\x98") {
    my $name = 'text that ends with ' . unpack 'H*', $cut;
    my $text = sub { return qr/^Text message is not valid UTF-8 at byte $_[0]$/ };
    forbid 'text', 1007, $text->(0), [$name, [[$TEXT, $cut]]],
        ["$name, in fragments", [[$TEXT, $cut, fin => 0], [$CONTINUATION, '']]];
    forbid 'text', 1007, $text->(200), ["$name, long", [[$TEXT, 'x' x 200 . $cut]]],
        ["$name, in the last fragment", [[$TEXT, 'x' x 200, fin => 0], [$CONTINUATION, $cut]]];
}

1;
