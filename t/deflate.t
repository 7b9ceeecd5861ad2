# permessage-deflate in a connection (RFC 7692), against zlib as Perl has it.

use strict;
use warnings;
use lib 't/lib';
use Test2::V0;
use Peer qw(connection_and_peer frame close_frame parse_frames read_frames read_until_eof write_all run_until run_for record);
use Ways qw(on_both_ways);
use Compress::Raw::Zlib;

my $DEFLATE = 'permessage-deflate';
my $TEXT    = join ' ', map { "$_ bottles of beer on the wall" } 1 .. 500;

# The other end's two halves.
sub compressor {
    my %options = (-WindowBits => -15, -AppendOutput => 1, @_);
    my ($deflate) = Compress::Raw::Zlib::Deflate->new(%options);
    return sub {
        my ($payload) = @_;
        my $out = '';
        $deflate->deflate($payload, $out);
        $deflate->flush($out, Z_SYNC_FLUSH);
        substr($out, -4) eq "\0\0\xff\xff" or die 'no flush at the end';
        return substr $out, 0, -4;
    };
}

sub inflater {
    my ($bits) = @_;
    my ($inflate) = Compress::Raw::Zlib::Inflate->new(-WindowBits => -($bits || 15), -LimitOutput => 0);
    return sub {
        my $in = $_[0] . "\0\0\xff\xff";
        my $status = $inflate->inflate($in, my $out);
        die "inflate: $status" if $status != Z_OK && $status != Z_BUF_ERROR;
        return $out;
    };
}

sub compressed { return frame(rsv => 4, @_) }

# What came over the wire: for each frame RSV, opcode and payload, inflated where it was compressed.
sub inflated {
    my ($bytes, $inflate) = @_;
    $inflate ||= inflater();
    return [map {
        [$_->{rsv}, $_->{opcode}, $_->{rsv} ? $inflate->($_->{payload}) : $_->{payload}]
    } parse_frames($bytes)];
}

on_both_ways 'compressed messages are delivered inflated, with context takeover' => sub {
    my ($pair) = @_;
    my ($connection, $peer) = $pair->(role => 'server', extensions => $DEFLATE, max_payload_size => 0);
    my $record   = record($connection);
    my $compress = compressor();
    my @messages = ($TEXT, 'short', $TEXT, "\x{20ac}" x 100, '');
    utf8::encode($messages[3]);
    my @payloads = map { $compress->($_) } @messages[0 .. 3];
    cmp_ok length $payloads[2], '<', length($payloads[0]) / 5, 'the third refers to the first';
    my @key = (mask => 'mask');
    write_all($peer, join '', (map { compressed(payload => $_, @key) } @payloads), compressed(payload => "\0", @key),
        frame(payload => 'not compressed', @key));
    run_until { @{ $record->{messages} } >= 6 || @{ $record->{parse_errors} } } 'the messages';
    is $record->{parse_errors}, [], 'no error';
    is $record->{messages}, [@messages, 'not compressed'];
};

on_both_ways 'messages are sent compressed, control frames and short messages are not' => sub {
    my ($pair) = @_;
    for my $role (qw(server client)) {
        my ($connection, $peer) = $pair->(role => $role, masked => $role eq 'client', extensions => $DEFLATE,
            permessage_deflate => {threshold => 6});
        my $record = record($connection);
        my $wide   = "\x{20ac}" x 50;
        $connection->send($_) for $TEXT, $wide, 'short', $TEXT;
        $connection->send(AnyEvent::WebSocket::Message->new(opcode => 2, body => $TEXT));
        $connection->send(AnyEvent::WebSocket::Message->new(opcode => 9, body => 'a longer ping'));
        $connection->close(1000, 'a reason as it is');
        my $wire = read_until_eof($peer);
        utf8::encode($wide);
        cmp_ok length $wire, '<', length($TEXT) / 4, "$role: short on the wire";
        is inflated($wire), [
            [4, 1, $TEXT], [4, 1, $wide], [0, 1, 'short'], [4, 1, $TEXT], [4, 2, $TEXT], [0, 9, 'a longer ping'],
            [0, 8, pack('n', 1000) . 'a reason as it is'],
        ], $role;
    }
};

subtest 'without context takeover each message is by itself' => sub {
    my ($connection, $peer) = connection_and_peer(role => 'server',
        extensions => "$DEFLATE; server_no_context_takeover; client_no_context_takeover");
    my $record = record($connection);
    $connection->send($TEXT) for 1 .. 2;
    write_all($peer, compressed(payload => compressor()->($TEXT), mask => 'mask') x 2) ;
    run_until { @{ $record->{messages} } >= 2 || @{ $record->{parse_errors} } } 'the messages';
    is $record->{messages}, [$TEXT, $TEXT];
    $connection->close;
    my @frames = parse_frames(read_until_eof($peer));
    is $frames[0]{payload}, $frames[1]{payload}, 'sent twice the same';
    is inflater()->($frames[0]{payload}), $TEXT;
};

subtest 'each side keeps to its window' => sub {
    for my $bits (9 .. 15) {
        my ($connection, $peer) = connection_and_peer(role => 'client', max_payload_size => 0,
            extensions => "$DEFLATE; client_max_window_bits=$bits; server_max_window_bits=$bits");
        my $record = record($connection);
        my $random = join '', map { chr 33 + ($_ * $_ * 7919 >> 3) % 90 } 1 .. 40_000;
        $connection->send($random . $random);
        write_all($peer, compressed(payload => compressor(-WindowBits => -$bits)->($TEXT)));
        run_until { @{ $record->{messages} } || @{ $record->{parse_errors} } } 'the message';
        is $record->{messages}, [$TEXT], "$bits bits, received";
        $connection->close;
        is inflated(read_until_eof($peer), inflater($bits))->[0], [4, 1, $random . $random], "$bits bits, sent";
    }
};

on_both_ways 'what is inflated is limited, and inflated no further' => sub {
    my ($pair) = @_;
    my %limit = (
        max_payload_size => 'Payload is too big. Deny big message (100001) or increase max_payload_size (100000)',
        max_message_size => 'Message is too big: 100001 bytes are over max_message_size (100000)',
    );
    for my $name (sort keys %limit) {
        my ($connection, $peer)
            = $pair->(role => 'server', extensions => $DEFLATE, max_payload_size => 0, $name => 100_000);
        my $record = record($connection);
        my $compress = compressor();
        write_all($peer, join '', map { compressed(payload => $compress->($_), mask => 'mask') } 'x' x 100_000,
            'x' x 10_000_000, 'after');
        is read_until_eof($peer), close_frame(1009), "$name: Close 1009";
        is $record->{messages}, ['x' x 100_000], 'just as much passes';
        is $record->{parse_errors}, [$limit{$name}], 'the text';
    }
};

sub resident {
    open my $status, '<', '/proc/self/status' or return;
    my ($kib) = join('', readline $status) =~ /^VmHWM:\s+(\d+)/m;
    return $kib;
}

sub reset_peak {
    open my $file, '>', '/proc/self/clear_refs' or return;
    syswrite $file, 5;
}

subtest 'a gibibyte of zeros on a mebibyte of wire costs no more than the limit' => sub {
    skip_all 'no /proc/self/status with a peak to look at' unless resident();
    my $compress = compressor();
    my $mebibyte = "\0" x (1 << 20);
    my ($first, $next) = map { $compress->($mebibyte) . "\0\0\xff\xff" } 1 .. 2;
    # Whatever follows zeros compresses to the same.
    my $wire = compressed(payload => $first . $next x 1023, opcode => 2, mask => 'mask');
    note length($wire), ' bytes on the wire';
    for my $limit ([max_message_size => 1 << 20, max_payload_size => 0], [max_payload_size => 2 << 20]) {
        my ($connection, $peer) = connection_and_peer(role => 'server', extensions => $DEFLATE, @$limit);
        my $record = record($connection);
        reset_peak();
        my $before = resident();
        write_all($peer, substr($wire, 0, 1 << 20));
        run_until { @{ $record->{parse_errors} } } 'parse_error';
        is $record->{messages}, [], $limit->[0];
        like $record->{parse_errors}, [qr/ big.* $limit->[0] \($limit->[1]\)/], 'the limit is told';
        cmp_ok resident() - $before, '<', 4 * 1024, 'less than 4 MiB more at the peak';
    }
};

on_both_ways 'what cannot be inflated fails with 1007' => sub {
    my ($pair) = @_;
    my ($connection, $peer) = $pair->(role => 'client', extensions => $DEFLATE);
    my $record = record($connection);
    my $compress = compressor();
    write_all($peer, compressed(payload => $compress->('before')) . compressed(payload => "\xff\xff")
        . compressed(payload => $compress->('after')));
    is read_until_eof($peer), match(qr/^\x88/), 'Close';
    is $record->{messages}, ['before'];
    is $record->{parse_errors}, ['Compressed message cannot be inflated'];
};

subtest 'a message that was cut fails with 1007, and nothing of it is delivered' => sub {
    for my $parameters ('', '; client_no_context_takeover') {
        for my $text ('Hello, this is a short text', $TEXT) {
            my $payload = compressor()->($text);
            for my $length (1, 5, int(length($payload) / 2), length($payload) - 1) {
                my ($connection, $peer)
                    = connection_and_peer(role => 'server', extensions => "$DEFLATE$parameters");
                my $record = record($connection);
                write_all($peer, compressed(payload => substr($payload, 0, $length), mask => 'mask'));
                is read_until_eof($peer), close_frame(1007), "$length of " . length($payload) . $parameters;
                is $record->{messages}, [];
            }
        }
    }
};

subtest 'RSV1 without an extension, or where it does not belong, is an error' => sub {
    for my $case ([undef, 1, 1], [$DEFLATE, 9, 1], [$DEFLATE, 10, 1], [$DEFLATE, 8, 1]) {
        my ($extensions, $opcode) = @$case;
        my ($connection, $peer) = connection_and_peer(role => 'client', extensions => $extensions);
        my $record = record($connection);
        write_all($peer, compressed(opcode => $opcode, payload => ''));
        run_until { @{ $record->{parse_errors} } } 'parse_error';
        is $record->{parse_errors}, ['Reserved bits are set: RSV1'], "opcode $opcode";
        is $record->{messages}, [], 'nothing is delivered';
    }
};

subtest 'a compressor that is idle is freed, and the next message starts anew' => sub {
    my ($connection, $peer) = connection_and_peer(role => 'server', extensions => $DEFLATE,
        permessage_deflate => {release_after => 0.05});
    $connection->send($TEXT);
    run_for(0.2);
    $connection->send($TEXT);
    $connection->close;
    my @frames = parse_frames(read_until_eof($peer));
    is $frames[0]{payload}, $frames[1]{payload}, 'sent twice the same, though there is context takeover';
    is inflated(join '', map { frame(rsv => $_->{rsv}, payload => $_->{payload}) } @frames[0, 1]),
        [([4, 1, $TEXT]) x 2], 'which the other end understands';
};

subtest 'a timer that cannot be had does not hold back what was compressed' => sub {
    my ($connection, $peer) = connection_and_peer(role => 'server', extensions => $DEFLATE,
        permessage_deflate => {release_after => 10});
    {
        no warnings 'redefine';
        local *AE::timer = sub { die "no timers today\n" };
        is dies { $connection->send($TEXT) }, "no timers today\n", 'the exception is told';
    }
    my ($frame) = read_frames($peer, 1);
    is inflater()->($frame->{payload}), $TEXT, 'the message has gone out';
};

{
    package DyingHandle;
    our @ISA = ('AnyEvent::Handle');
    our $dies;
    sub push_write {
        my $self = shift;
        die "full\n" if $dies;
        $self->SUPER::push_write(@_);
    }
}

subtest 'a message that the handle did not take is lost alone' => sub {
    my ($ours, $peer) = Peer::socket_pair();
    AnyEvent::fh_unblock($peer);
    my $connection = AnyEvent::WebSocket::Connection->new(handle => DyingHandle->new(fh => $ours),
        role => 'server', extensions => $DEFLATE, permessage_deflate => {threshold => 1});
    $connection->send('one and one');
    {
        local $DyingHandle::dies = 1;
        is dies { $connection->send('two and two, lost') }, "full\n", 'the exception is told';
    }
    $connection->send('two and two, sent');
    $connection->send('two and two, sent');
    $connection->close;
    my $wire = read_until_eof($peer);
    is inflated($wire),
        [[4, 1, 'one and one'], ([4, 1, 'two and two, sent']) x 2, [0, 8, pack 'n', 1000]], 'what follows makes sense';
    my (undef, $fresh, $referring) = map { length $_->{payload} } parse_frames($wire);
    cmp_ok $referring, '<', $fresh, 'and refers to what did get through';
};

subtest 'the private functions take the options as an array only' => sub {
    my $error = qr/^the options of permessage-deflate are not an array reference at /;
    for my $options (undef, 1, 'text', {}, \1) {
        for my $call (
            sub { AnyEvent::WebSocket::Connection::Deflate::offer($options) },
            sub { AnyEvent::WebSocket::Connection::Deflate::answer($DEFLATE, $options) },
            sub { AnyEvent::WebSocket::Connection::Deflate::refusal($DEFLATE, $options, 1) },
        ) {
            like dies { $call->() }, $error;
        }
    }
};

subtest 'extensions and its options are checked' => sub {
    my ($connection) = connection_and_peer(role => 'client', extensions => "$DEFLATE; client_max_window_bits=10");
    is $connection->extensions, "$DEFLATE; client_max_window_bits=10", 'the accessor';
    ($connection) = connection_and_peer();
    is $connection->extensions, undef, 'nothing agreed upon';
    ($connection) = connection_and_peer(permessage_deflate => 1);
    is $connection->extensions, undef, 'wishing alone is nothing';

    my @cases = (
        [[extensions => $DEFLATE], qr/^extensions: an extension needs a role at /],
        [[role => 'client', extensions => 'foo'], qr/^extensions: extension foo was not offered at /],
        [[role => 'client', extensions => "$DEFLATE; foo"], qr/^extensions: $DEFLATE has no parameter foo at /],
        [[role => 'client', extensions => "$DEFLATE;;"], qr/^extensions: Sec-WebSocket-Extensions is malformed/],
        [
            [role => 'client', extensions => $DEFLATE, permessage_deflate => {server_no_context_takeover => 1}],
            qr/^extensions: parameter server_no_context_takeover of $DEFLATE was offered, but is missing/,
        ],
        [
            [role => 'server', extensions => $DEFLATE, permessage_deflate => {windowbits => 3}],
            qr/^permessage_deflate: unknown options: windowbits at /,
        ],
        [
            [role => 'server', extensions => $DEFLATE, permessage_deflate => {level => 10}],
            qr/^permessage_deflate: level must be an integer from 0 to 9 at /,
        ],
        [
            [role => 'server', extensions => $DEFLATE, permessage_deflate => [1]],
            qr/^permessage_deflate must be a hash reference, or true or false at /,
        ],
        [
            [role => 'server', extensions => $DEFLATE, permessage_deflate => {release_after => -1}],
            qr/^permessage_deflate: release_after must be a number that is not negative at /,
        ],
    );
    for my $case (@cases) {
        my ($arguments, $text) = @$case;
        like dies { connection_and_peer(@$arguments) }, $text;
    }
};

done_testing;
