# What RFC 6455 forbids on the wire fails the connection, and what it just allows does not (D1).

use strict;
use warnings;
use lib 't/lib';
use Test2::V0;
use Forbidden qw(@FORBIDDEN @NOT_UTF8);
use Peer qw(
    connection_and_peer connection_through_handle frame close_frame read_until_eof run_until settle record
    history finished trickle trickle_all
);

use AnyEvent::WebSocket::Connection;

my %PAIR = (directly => \&connection_and_peer, 'through the handle' => \&connection_through_handle);
my $MASK = "\x37\xFA\x21\x3D";

# What is there to read without the event loop having run, and whether EOF came.
sub on_the_wire {
    my ($socket) = @_;
    my ($bytes, $n) = ('');
    1 while $n = sysread $socket, $bytes, 1 << 16, length $bytes;
    return ($bytes, defined $n ? 1 : 0);
}

sub masked { return frame(mask => $MASK, @_) }

# The ways to feed a connection: bytes that its handle holds when it is made; then what is done with the rest, for all
# connections at once.
my %FEEDING = (
    'in the read buffer'      => [sub { $_[0] },  sub { }],
    'before the loop has run' => [sub { '' }, sub { syswrite $_->{peer}, $_->{bytes} for @_ }],
    'later, in one read'      => [sub { '' }, sub { settle(); syswrite $_->{peer}, $_->{bytes} for @_ }],
    'byte by byte'            => [sub { '' }, sub { trickle_all(1, map { [@$_{qw(connection peer bytes)}] } @_) }],
);

for my $way (sort keys %PAIR) {
    for my $feeding (sort keys %FEEDING) {
        my ($held, $feed) = @{ $FEEDING{$feeding} };
        for my $mask (undef, $MASK) {
            my @cases = map { start_case($_, $PAIR{$way}, $mask, $held) }
                grep { !$_->{role} || ($_->{role} eq 'server') == defined $mask } @FORBIDDEN;
            $feed->(@cases);
            run_until { !grep { !$_->{eof} && !read_more($_) } @cases } 'the ends';
            close $_->{peer} for @cases;
            run_until { !grep { !finished($_->{history}) } @cases } 'finish';
            settle();
            my $how = "$feeding, $way, " . (defined $mask ? 'masked' : 'not masked');
            subtest "what is forbidden fails the connection, $how (D1)" => sub { check_case($_) for @cases };
        }
    }
}

sub start_case {
    my ($row, $pair, $mask, $held) = @_;
    my @frames = ([1, 'before'], @{ $row->{frames} }, [1, 'behind'], [9, ''], [8, pack 'n', 3001]);
    my $bytes  = join '', map {
        my ($opcode, $payload, @options) = @$_;
        frame(opcode => $opcode, payload => $payload, mask => $mask, @options);
    } @frames;
    my %case = (row => $row, bytes => $bytes, eof => 0, wire => '');
    @case{qw(connection peer)} = $pair->(
        handle_options => [rbuf => $held->($bytes)],
        # Not masked in any role, so that it can be compared.
        ($row->{role} ? (role => $row->{role}, masked => 0) : ()),
        %{ $row->{options} || {} },
    );
    my ($connection, $peer) = @case{qw(connection peer)};
    $case{history} = history($connection);
    $connection->on(parse_error => sub {
        my ($connection) = @_;
        @case{qw(wire_at_error eof_at_error)} = on_the_wire($peer);
        $case{close_at_error} = [$connection->close_code, $connection->close_reason];
        $connection->send('not sent any more')->close;
    });
    return \%case;
}

sub read_more {
    my ($case) = @_;
    my ($bytes, $eof) = on_the_wire($case->{peer});
    $case->{wire} .= $bytes;
    return $case->{eof} = $eof;
}

sub check_case {
    my ($case) = @_;
    my ($connection, $row) = @$case{qw(connection row)};
    my $close = $row->{close} || [undef, undef];
    my @pings = grep { $_->[0] == 9 } @{ $row->{frames} }[0 .. $#{ $row->{frames} } - 1];
    my $pongs = join '', map { frame(opcode => 10, payload => $_->[1]) } @pings;
    my %is = (
        'what callbacks are told'            => $case->{history},
        'on the wire before parse_error'     => $case->{wire_at_error},
        'EOF before parse_error'             => $case->{eof_at_error},
        'on the wire after it'               => $case->{wire},
        'EOF after it'                       => $case->{eof},
        'the Close of the peer, before that' => $case->{close_at_error},
        'the Close of the peer'              => [$connection->close_code, $connection->close_reason],
        'the error of the socket'            => $connection->close_error,
        'was_clean'                          => $connection->was_clean ? 1 : 0,
    );
    my %expected = (
        'what callbacks are told' =>
            ['before', @{ $row->{before} || [] }, [parse_error => match $row->{text}], [finish => undef]],
        'on the wire before parse_error'     => $pongs . close_frame($row->{code}),
        'EOF before parse_error'             => 0,
        'on the wire after it'               => '',
        'EOF after it'                       => 1,
        'the Close of the peer, before that' => $close,
        'the Close of the peer'              => $close,
        'the error of the socket'            => undef,
        'was_clean'                          => 0,
    );
    is \%is, \%expected, $row->{name};
    return;
}

subtest 'a bad byte of text fails the connection before the next one is there (D1)' => sub {
    for my $way (sort keys %PAIR) {
        for my $case (@NOT_UTF8) {
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
push @allowed, ['binary need not be UTF-8', join('', map { frame(opcode => 2, payload => $_->[1]) } @NOT_UTF8),
    [map { $_->[1] } @NOT_UTF8]];

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
        my @bad = map { $_->[1] } @NOT_UTF8;
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

done_testing;
