# permessage-deflate (RFC 7692) agreed upon by AnyEvent::WebSocket::Server, with Compress::Raw::Zlib at the other end.

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;

BEGIN {
    eval { require Compress::Raw::Zlib; 1 }
        or plan skip_all => 'Compress::Raw::Zlib is needed: ' . ($@ =~ /(.*)/)[0];
}

use AnyEvent;
use AnyEvent::WebSocket::Message;
use AnyEvent::WebSocket::Server;
use Digest::SHA qw(sha512_base64);
use Opening qw(:all);
use Peer qw(frame read_frames run_until settle socket_pair history);

my @MASK  = (mask => 'defl');
my $FIELD = 'Sec-WebSocket-Extensions';
my $TAIL  = "\x00\x00\xff\xff";

# A compressor and a decompressor as a client has them, over all messages or for each one.
sub client_deflate {
    my (%option) = @_;
    my $make = sub {
        my ($deflate) = Compress::Raw::Zlib::Deflate->new(
            -WindowBits => -($option{window_bits} || 15), -AppendOutput => 1);
        return $deflate;
    };
    my $deflate = $make->();
    return sub {
        my ($text) = @_;
        $deflate = $make->() if $option{no_context_takeover};
        my $out = '';
        $deflate->deflate($text, $out);
        $deflate->flush($out, Compress::Raw::Zlib::Z_SYNC_FLUSH());
        return substr $out, 0, -4;
    };
}

sub client_inflate {
    my (%option) = @_;
    my $make = sub {
        my ($inflate) = Compress::Raw::Zlib::Inflate->new(
            -WindowBits => -($option{window_bits} || 15), -AppendOutput => 1, -ConsumeInput => 1);
        return $inflate;
    };
    my $inflate = $make->();
    return sub {
        my ($bytes) = @_;
        $inflate = $make->() if $option{no_context_takeover};
        my $out   = '';
        my $input = $bytes . $TAIL;
        my $status = $inflate->inflate($input, $out);
        return $status == Compress::Raw::Zlib::Z_OK() || $status == Compress::Raw::Zlib::Z_BUF_ERROR()
            ? $out : "inflate: $status";
    };
}

# The agreement, and the connection.
sub agreed {
    my ($deflate, $offer, @options) = @_;
    my ($connection, $client, $response)
        = established({permessage_deflate => $deflate, @options}, request($FIELD => $offer));
    return (response_field($response, $FIELD), $connection, $client);
}

# What does not compress by itself, but does where the message before is known.
my $NOISE = join '', map { sha512_base64($_) } 1 .. 4;
my @TEXTS = map { "message $_ $NOISE" } 1 .. 5;

# What goes over the wire in both directions can be read by the other side, for as many messages as show whether
# context is kept.
sub talks {
    my ($name, $connection, $client, $deflate, $inflate) = @_;
    my @received;
    my $on = $connection->on(each_message => sub { push @received, $_[1]->body; $_[0]->send($_[1]) });
    my (@sent, @frames);
    for my $text (@TEXTS) {
        my $payload = $deflate->($text);
        push @sent, length $payload;
        syswrite $client, frame(payload => $payload, rsv => 4, @MASK);
        push @frames, read_frames($client, 1);
    }
    is \@received, \@TEXTS, "$name: compressed messages arrive";
    is [map { $_->{rsv} } @frames], [(4) x @TEXTS], "$name: answers are compressed";
    is [map { $inflate->($_->{payload}) } @frames], \@TEXTS, "$name: and can be read";
    $on->();
    return (\@sent, [map { length $_->{payload} } @frames]);
}

subtest 'a client that offers it, a server that has it' => sub {
    my ($field, $connection, $client) = agreed(1, 'permessage-deflate; client_max_window_bits');
    like $field, qr/^permessage-deflate\b/, 'it is in the response';
    is $connection->extensions, $field, 'and what the connection has';
    my ($sent, $got) = talks('talk', $connection, $client, client_deflate(), client_inflate());
    cmp_ok $got->[1], '<', $got->[0] / 2, 'context is kept';
    $connection->send('x');
    my ($small) = read_frames($client, 1);
    is [@$small{qw(rsv payload)}], [0, 'x'], 'a small message goes out as it is';
};

subtest 'where it is not agreed upon, the bytes are as without it' => sub {
    my $conversation = sub {
        my ($options, $offer) = @_;
        my ($connection, $client, $response) = established($options, request($FIELD => $offer));
        $connection->send("compressible " x 100);
        $connection->send(AnyEvent::WebSocket::Message->new(body => "\x00" x 1000, opcode => 2));
        $connection->close(1000, 'bye');
        return [$response . Peer::read_until_eof($client), $connection->extensions];
    };
    my ($plain) = my $expected = $conversation->({}, undef);
    is $conversation->({}, 'permessage-deflate'), $expected, 'the server does not have it';
    is $conversation->({permessage_deflate => 0}, 'permessage-deflate'), $expected, 'nor with 0';
    is $conversation->({permessage_deflate => 1}, undef), $expected, 'the client does not offer it';
    is $conversation->({permessage_deflate => 1}, ''), $expected, 'or nothing';
    is $conversation->({permessage_deflate => 1}, 'x-webkit-deflate-frame, foo; bar=baz'), $expected,
        'but something else';
    is $conversation->({permessage_deflate => 1}, 'permessage-deflate; unknown'), $expected,
        'with an unknown parameter';
    is $conversation->({}, 'permessage-deflate; ;'), $expected, 'nor does a server without it read what is malformed';
};

subtest 'a malformed field fails the handshake (RFC 6455 section 9.1)' => sub {
    for my $case (['permessage-deflate; ;', 20], ['foo, /, permessage-deflate', 5], ["foo\xe4", 3], ['foo; bar="\\""', 11]) {
        my ($field, $at) = @$case;
        my ($outcome) = opening({permessage_deflate => 1}, request($FIELD => $field));
        like $outcome->{error}, qr/^handshake error: \Q$FIELD\E is malformed at byte $at\b/, $field;
    }
};

subtest 'a compressed frame without agreement fails the connection' => sub {
    my ($field, $connection, $client) = agreed(0, 'permessage-deflate');
    my $history = history($connection);
    syswrite $client, frame(payload => client_deflate()->('text'), rsv => 4, @MASK);
    run_until { @$history } 'an error';
    is $history->[0][0], 'parse_error', 'RSV1 is reserved then';
};

subtest 'parameters' => sub {
    my @cases = (
        [{server_no_context_takeover => 1}, 'permessage-deflate', qr/server_no_context_takeover/,
            {}, {no_context_takeover => 1}],
        [1, 'permessage-deflate; server_no_context_takeover', qr/server_no_context_takeover/,
            {}, {no_context_takeover => 1}],
        [{client_no_context_takeover => 1}, 'permessage-deflate', qr/client_no_context_takeover/,
            {no_context_takeover => 1}, {}],
        [1, 'permessage-deflate; server_max_window_bits=9', qr/server_max_window_bits=9/, {}, {window_bits => 9}],
        [{client_max_window_bits => 10}, 'permessage-deflate; client_max_window_bits', qr/client_max_window_bits=10/,
            {window_bits => 10}, {}],
        [{server_max_window_bits => 11}, 'permessage-deflate; server_max_window_bits=12', qr/server_max_window_bits=11/,
            {}, {window_bits => 11}],
    );
    for my $case (@cases) {
        my ($options, $offer, $pattern, $to_server, $to_client) = @$case;
        my ($field, $connection, $client) = agreed($options, $offer);
        like $field, $pattern, "$offer: the response";
        my ($sent, $got)
            = talks($offer, $connection, $client, client_deflate(%$to_server), client_inflate(%$to_client));
        cmp_ok abs($got->[1] - $got->[0]), '<', 20, "$offer: no context is kept" if $to_client->{no_context_takeover};
    }
};

subtest 'offers in several fields (RFC 7230 section 3.2.2)' => sub {
    for my $offer (['foo', 'permessage-deflate'], ['permessage-deflate', 'foo'],
        ['permessage-deflate; unknown=1', 'x', 'permessage-deflate; server_max_window_bits=10, permessage-deflate'])
    {
        my ($field, $connection) = agreed(1, $offer);
        like $field, qr/^permessage-deflate\b/, "@$offer";
        is $connection->extensions, $field, 'is what the connection has';
    }
    my ($field) = agreed(1, ['permessage-deflate; unknown', 'permessage-deflate; server_max_window_bits=10']);
    like $field, qr/server_max_window_bits=10/, 'the first that the server can do';
};

subtest 'what the program returns' => sub {
    my $with = sub {
        my ($handshake) = @_;
        my ($field, $connection, $client) = agreed(1, 'permessage-deflate', handshake => $handshake);
        $connection->send('compressible ' x 100);
        my ($frame) = read_frames($client, 1);
        return [$field, $connection->extensions, $frame->{rsv}];
    };
    my @on  = ('permessage-deflate', 'permessage-deflate', 4);
    my @off = (undef, undef, 0);
    my $seen;
    is $with->(sub { $seen = $_[1]->extensions; $_[1] }), \@on, 'the response object';
    is $seen, 'permessage-deflate', 'which tells what was agreed upon';
    is $with->(sub { $_[1]->to_string }), \@on, 'its string';
    is $with->(sub { $_[1]->extensions(undef); $_[1] }), \@off, 'the object, with extensions taken away';
    my $own = join "\r\n", 'HTTP/1.1 101 Mine', 'Upgrade: websocket', 'Connection: Upgrade',
        'Sec-WebSocket-Accept: ' . accept_for($KEY), '';
    is $with->(sub { "$own\r\n" }), \@off, 'a string of its own without the field';
    is $with->(sub { "${own}sec-websocket-extensions:permessage-deflate\r\n\r\n" }), \@on,
        'a string of its own with it';
    is $with->(sub { Protocol::WebSocket::Response->new(key => $KEY, version => $_[0]->version) }), \@off,
        'a response of its own';
    is $with->(sub { "$own$FIELD: permessage-deflate; server_no_context_takeover\r\n\r\n" }),
        [('permessage-deflate; server_no_context_takeover') x 2, 4], 'a string with another agreement';

    my ($connection) = established({handshake => sub { "$own$FIELD: permessage-deflate\r\n\r\n" }},
        request($FIELD => 'permessage-deflate'));
    is $connection->extensions, undef, 'a string with it means nothing to a server without the option';

    my ($outcome, $client, $socket) = opening(
        {permessage_deflate => 1, handshake => sub { "$own$FIELD: permessage-deflate; nonsense\r\n\r\n" }},
        request($FIELD => 'permessage-deflate'));
    like $outcome->{error}, qr/^handshake error: Sec-WebSocket-Extensions of the response: ./, 'a string with nonsense';
    syswrite $socket, 'an answer';
    is read_some($client, 9), 'an answer', 'which is not sent';
};

subtest 'limits hold for what is inflated' => sub {
    for my $limit (qw(max_message_size max_payload_size)) {
        my ($field, $connection, $client) = agreed(1, 'permessage-deflate', $limit => 10_000);
        my $history = history($connection);
        syswrite $client, frame(payload => client_deflate()->('x' x 10_001), rsv => 4, @MASK);
        run_until { @$history } 'an error';
        is $history->[0][0], 'parse_error', $limit;
        my ($close) = read_frames($client, 1);
        is unpack('n', $close->{payload}), 1009, "$limit: 1009";
    }
};

subtest 'compressed frames that come with the request (C13)' => sub {
    my ($condvar, $client) = start({permessage_deflate => 1});
    my $deflate = client_deflate();
    syswrite $client, request($FIELD => 'permessage-deflate')
        . join '', map { frame(payload => $deflate->($_), rsv => 4, @MASK) } @TEXTS;
    my ($connection) = $condvar->recv;
    my $history = history($connection);
    run_until { @$history == @TEXTS } 'messages';
    is $history, \@TEXTS, 'are inflated';
};

subtest 'with PSGI' => sub {
    my ($ours, $client) = socket_pair();
    AnyEvent::fh_unblock($client);
    my $server = AnyEvent::WebSocket::Server->new(permessage_deflate => 1);
    my ($connection) = $server->establish_psgi(
        psgi_env(HTTP_SEC_WEBSOCKET_EXTENSIONS => 'foo, permessage-deflate', 'psgix.io' => $ours))->recv;
    is response_field(read_response($client), $FIELD), 'permessage-deflate', 'it is in the response';
    talks('talk', $connection, $client, client_deflate(), client_inflate());
};

done_testing;
