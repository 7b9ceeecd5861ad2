# What `broadcast` puts on the wires, and what may happen meanwhile.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use Compress::Raw::Zlib;
use Peer qw(
    connection_and_peer connection_through_handle socket_pair narrow_pair handle_on frame close_frame parse_frames
    read_frames receive_frames read_until_eof on_the_wire run_until settle record
);
use Scalar::Util qw(weaken);
use Test2::V0;
use Tls qw(why_no_tls tls_context);
use Ways qw(on_both_ways);

my $CLASS   = 'AnyEvent::WebSocket::Connection';
my $DEFLATE = 'permessage-deflate';
my $TEXT    = join ' ', map { "$_ bottles of beer on the wall" } 1 .. 50;

sub broadcast { return $CLASS->broadcast(@_) }
sub message { return AnyEvent::WebSocket::Message->new(@_) }

sub some { my ($pair, $count, @options) = @_; return map { [$pair->(@options)] } 1 .. $count }

sub inflater { return scalar Compress::Raw::Zlib::Inflate->new(-WindowBits => -15) }

sub inflate {
    my ($payload, $inflate) = @_;
    $inflate ||= inflater();
    my $in = "$payload\0\0\xff\xff";
    my $status = $inflate->inflate($in, my $out);
    die "inflate: $status" if $status != Z_OK && $status != Z_BUF_ERROR;
    return $out;
}

on_both_ways 'each connection gets the message, at once and in order with others' => sub {
    my @all = some(shift, 3);
    my @connections = map { $_->[0] } @all;
    $connections[1]->send('before');
    is broadcast('hello', @connections), 3, 'to how many';
    $_->send('after') for @connections;
    is on_the_wire($all[$_][1]), join('', map { frame(payload => $_) } $_ == 1 ? 'before' : (), 'hello', 'after'), "to $_"
        for 0 .. 2;
};

on_both_ways 'what can be sent, and its frame, is as with send (C5)' => sub {
    my @all = some(shift, 3);
    my $euro = "\x{20ac}uro";
    utf8::encode(my $octets = $euro);
    my @cases = (
        ['hello' => 1, 'hello'], ['' => 1, ''], [undef, 1, ''], [42, 1, 42], [$euro, 1, $octets], ["\xE9", 1, "\xE9"],
        [message(opcode => 2, body => "\0\xFF"), 2, "\0\xFF"], [message(opcode => 9, body => 'ping'), 9, 'ping'],
        [message(body => $euro), 1, $octets], [message(body => undef), 1, ''],
        map { my $payload = 'x' x $_; [$payload, 1, $payload] } 125, 126, 127, 65535, 65536, 100_000,
    );
    for my $case (@cases) {
        my ($message, $opcode, $payload) = @$case;
        is broadcast($message, map { $_->[0] } @all), 3;
        for my $each (@all) {
            my ($frame) = receive_frames($each->[1], 1);
            is [@$frame{qw(fin rsv opcode masked)}, $frame->{payload} eq $payload], [1, 0, $opcode, 0, 1],
                "opcode $opcode, " . length $payload;
        }
    }
    is broadcast(message(opcode => 8, body => pack 'n', 4000), map { $_->[0] } @all), 3, 'Close';
    is broadcast('more', map { $_->[0] } @all), 0, 'and nothing behind it';
    is on_the_wire($_->[1]), close_frame(4000), 'on the wire' for @all;
};

subtest 'it takes a list, and an empty one, and does not change its arguments' => sub {
    my @all = some(\&connection_and_peer, 2);
    is broadcast('x'), 0, 'to nobody';
    is $CLASS->broadcast, 0, 'nothing to nobody';
    my ($number, $chars) = (5, "\x{263A}");
    is warnings { broadcast($_, map { $_->[0] } @all) for $number, $chars, undef }, [], 'no warnings';
    ok utf8::is_utf8($chars), 'characters are still characters';
    is $number, 5, 'numbers are numbers';
    on_the_wire($_->[1]) for @all;
    is broadcast('twice', ($all[0][0]) x 2), 2, 'one that is there twice';
    is on_the_wire($all[0][1]), frame(payload => 'twice') x 2, 'gets it twice';
};

on_both_ways 'closed ones are left out' => sub {
    my @all = some(shift, 4);
    $all[0][0]->close(1000);
    my $record = record($all[2][0]);
    close $all[2][1];
    run_until { @{ $record->{finish} } } 'the end of a connection';
    is broadcast('hello', map { $_->[0] } @all), 2, 'to the open ones';
    is on_the_wire($all[0][1]), close_frame(1000), 'nothing behind a Close';
    is on_the_wire($all[$_][1]), frame(payload => 'hello'), "to $_" for 1, 3;
};

subtest 'what is no connection dies at the place of the call, and nothing is sent' => sub {
    my ($connection, $peer) = connection_and_peer();
    my %wrong = (undef => undef, 'a string' => 'x', 'an array' => [$connection], 'an object' => bless({}, 'Wrong'),
        'a handle' => $connection->handle, 'an empty object of the class' => bless({}, $CLASS));
    for my $name (sort keys %wrong) {
        like dies { broadcast_here('x', $connection, $wrong{$name}) },
            qr/\Abroadcast: not a connection made by \Q$CLASS->new\E at \Q$0\E line/, $name;
    }
    like dies { $CLASS->broadcast([], $connection) }, qr/\Abroadcast takes a string or a message object at \Q$0\E line ${\__LINE__}\.?\n/,
        'nor is a reference a message';
    like dies { $CLASS->broadcast({}) }, qr/\Abroadcast takes a string/, 'even to nobody';
    my $fake = bless {opcode => 16, body => ''}, 'Fake::Message';
    like dies { $CLASS->broadcast($fake, $connection) }, qr/\Aopcode 16 is not between 0 and 15 at \Q$0\E line ${\__LINE__}\.?\n/,
        'an opcode that is none';
    is on_the_wire($peer), '', 'nothing was sent';
};

sub broadcast_here { return $CLASS->broadcast(@_) }

{
    package Fake::Message;
    sub opcode { $_[0]{opcode} }
    sub body   { $_[0]{before}->() if $_[0]{before}; $_[0]{body} }
}

on_both_ways 'a client masks for each connection with a key of its own (C7)' => sub {
    my ($pair) = @_;
    my @all = (some($pair, 3, masked => 1), some($pair, 1), some($pair, 2, role => 'client'));
    for my $payload ('hello', 'y' x 30_000) {
        is broadcast($payload, map { $_->[0] } @all), 6;
        my @frames = map { receive_frames($_->[1], 1) } @all;
        is [map { $_->{payload} eq $payload } @frames], [(T()) x 6], 'the payload';
        is [map { $_->{masked} } @frames], [1, 1, 1, 0, 1, 1], 'masked or not';
        my %keys = map { $_->{key} => 1 } grep { $_->{masked} } @frames;
        is scalar keys %keys, 5, 'keys';
    }
};

on_both_ways 'compressed messages: shared without context takeover, each its own with it' => sub {
    my ($pair) = @_;
    my $alone = "$DEFLATE; server_no_context_takeover";
    my @ways = (
        [role => 'server', extensions => $alone],
        [role => 'server', extensions => $alone],
        [role => 'server', extensions => "$alone; server_max_window_bits=9"],
        [role => 'server', extensions => $alone, permessage_deflate => {level => 1}],
        [role => 'server', extensions => $DEFLATE],
        [role => 'server', extensions => $DEFLATE],
        [role => 'client', extensions => "$DEFLATE; client_no_context_takeover", permessage_deflate => 1],
        [role => 'server'],
        [role => 'server', extensions => "$alone; server_max_window_bits=8"],
        [role => 'server', extensions => $alone, permessage_deflate => {threshold => 1 << 20}],
    );
    my @all = map { [$pair->(@$_)] } @ways;
    my @inflaters = map { inflater() } @all;
    $all[5][0]->send("$TEXT before");
    my ($before) = receive_frames($all[5][1], 1);
    is inflate($before->{payload}, $inflaters[5]), "$TEXT before", 'a message before';
    my @first;
    for my $round (1 .. 3) {
        my $text = "$TEXT $round";
        is broadcast($text, map { $_->[0] } @all), scalar @all, "round $round";
        my @frames = map { receive_frames($_->[1], 1) } @all;
        is [map { $_->{rsv} } @frames], [(4) x 7, (0) x 3], 'which are compressed';
        is [map { $frames[$_]{rsv} ? inflate($frames[$_]{payload}, $inflaters[$_]) : $frames[$_]{payload} } 0 .. $#all],
            [($text) x @all], 'what they say';
        is $frames[0]{payload}, $frames[1]{payload}, 'the same';
        isnt $frames[0]{payload}, $frames[3]{payload}, 'another level';
        cmp_ok length $frames[5]{payload}, '<', length($frames[0]{payload}) / 2, 'a reference to what was before';
    }
    # What is shared is as it would be otherwise, and is followed by what can be inflated.
    broadcast('short', map { $_->[0] } @all);
    $_->[0]->send($TEXT) for @all;
    for my $i (0 .. $#all) {
        my @frames = receive_frames($all[$i][1], 2);
        is [$frames[0]{rsv}, $frames[0]{payload}], [0, 'short'], 'short ones are not compressed';
        is $frames[1]{rsv} ? inflate($frames[1]{payload}, $inflaters[$i]) : $frames[1]{payload}, $TEXT, 'and send goes on';
    }
};

subtest 'more ways of compressing than are shared' => sub {
    my @all = map {
        my $level = $_;
        map { [connection_and_peer(role => 'server', extensions => "$DEFLATE; server_no_context_takeover; server_max_window_bits=$_",
            permessage_deflate => {level => $level})] } 9 .. 15;
    } 1, 6, 9;
    is broadcast($TEXT, map { $_->[0] } @all, @all), 42;
    for my $each (@all) {
        my @frames = receive_frames($each->[1], 2);
        is [map { [$_->{rsv}, inflate($_->{payload})] } @frames], [([4, $TEXT]) x 2];
    }
};

subtest 'what the socket does not take waits in the queue' => sub {
    my $payload = join '', map { pack 'N', $_ } 1 .. 100_000;
    my @pairs   = map { [narrow_pair()] } 1 .. 3;
    my @connections = map { $CLASS->new(handle => handle_on($_->[0])) } @pairs;
    is broadcast(message(opcode => 2, body => $payload), @connections), 3;
    is broadcast('behind', @connections), 3;
    for my $pair (@pairs) {
        my ($first, $second) = receive_frames($pair->[1], 2);
        ok $first->{payload} eq $payload, 'the large one';
        is $second->{payload}, 'behind', 'the small one behind it';
    }
};

# Connections whose peer is gone, which they do not know yet, so that sending fails.
sub broken {
    my ($pair, $count) = @_;
    my @all = some($pair, $count);
    settle();
    close $_->[1] for @all;
    return map { $_->[0] } @all;
}

on_both_ways 'where sending fails the connection finishes, and the others get theirs' => sub {
    my ($pair) = @_;
    my @good   = some($pair, 2);
    my ($broken) = broken($pair, 1);
    my @finished;
    $broken->on(finish => sub { push @finished, $_[1] });
    my $count = broadcast('hello', $good[0][0], $broken, $good[1][0]);
    is on_the_wire($_->[1]), frame(payload => 'hello'), 'the others' for @good;
    run_until { @finished } 'finish';
    is scalar @finished, 1, 'finished once';
    ok defined $finished[0], "with an error: $finished[0]";
    is $count, 2, 'which does not count';
};

on_both_ways 'a callback may drop, close, and send, and empty the array' => sub {
    my ($pair) = @_;
    my @all = ((map { [$pair->()] } 1 .. 2), [broken($pair, 1)], map { [$pair->()] } 1 .. 4);
    my @connections = map { $_->[0] } @all;
    my @peers       = map { $_->[1] } @all;
    @all = ();
    my @weak = @connections;
    weaken($_) for @weak;
    my $message = 'y' x 5000;
    $connections[2]->on(finish => sub {
        $weak[3]->close(1000);
        $weak[0]->send('sent meanwhile');
        $weak[4]->send('sent meanwhile');
        @connections = ();
        $message = 'changed';
        $_[0]->handle->destroy;
    });
    my $count = broadcast($message, @connections);
    if (@connections) {
        # Through the handle an error may be told later.
        run_until { !@connections } 'finish';
    }
    is scalar(grep { defined } @weak), 0, 'all are gone';
    my $frames = sub { my ($i) = @_; return [map { $_->{opcode} == 8 ? 'Close' : substr $_->{payload}, 0, 14 } parse_frames(my $bytes = on_the_wire($peers[$i]))] };
    my $y = 'y' x 14;
    my ($first, $closed, $fifth, $last) = map { $frames->($_) } 0, 3, 4, 6;
    is $first, [$y, 'sent meanwhile', 'Close'], 'one before it';
    is $closed, ['Close'], 'one that was closed';
    is $fifth, ['sent meanwhile', $y, 'Close'], 'one behind it';
    is $last, [$y, 'Close'], 'the last';
    is $count, 5, 'how many';
};

on_both_ways 'a callback that dies does not keep it from the others' => sub {
    my ($pair) = @_;
    my @good   = some($pair, 3);
    my @broken = broken($pair, 2);
    my $n;
    $_->on(finish => sub { $n++; die "oops $n\n" }) for @broken;
    my $exception;
    my $warnings = warnings {
        local $@ = 'mine';
        $exception = dies { broadcast('hello', $good[0][0], $broken[0], $good[1][0], $broken[1], $good[2][0]) };
    };
    is on_the_wire($_->[1]), frame(payload => 'hello'), 'the others' for @good;
    is $exception, "oops 1\n", 'the first is thrown';
    is $warnings, ["oops 2\n"], 'the other warned';
    my $caught = do { local $@ = 'mine'; broadcast('x', map { $_->[0] } @good); $@ };
    is $caught, 'mine', '$@ is left alone';
};

subtest 'a message object that acts when it is asked' => sub {
    my @all = some(\&connection_and_peer, 3);
    my @connections = map { $_->[0] } @all;
    my @peers = map { $_->[1] } @all;
    @all = ();
    my $asked = 0;
    my $count = broadcast(bless({opcode => 1, body => 'body', before => sub { $asked++; @connections = () }}, 'Fake::Message'), @connections);
    is [$count, $asked], [3, 1], 'asked once, sent to all';
    is on_the_wire($_), frame(payload => 'body') . close_frame(1000), 'which are dropped then' for @peers;
};

{
    package Shouting;
    our @ISA = ('AnyEvent::WebSocket::Connection');
    sub send { my ($self, $message) = @_; push @{ $self->{shouted} }, $message; $_[1] = 'changed'; return $self->SUPER::send(uc $message) }

    package Plain::Derived;
    our @ISA = ('AnyEvent::WebSocket::Connection');
}

subtest 'classes with a send of their own have it called' => sub {
    my @all = map { [connection_and_peer(class => $_)] } $CLASS, 'Shouting', 'Plain::Derived', 'Shouting';
    is broadcast('hello', map { $_->[0] } @all), 4;
    is [map { (parse_frames(my $bytes = on_the_wire($_->[1])))[0]{payload} } @all], [qw(hello HELLO hello HELLO)];
    is $all[3][0]{shouted}, ['hello'], 'with the message';
    $all[1][0]->close;
    is broadcast('again', map { $_->[0] } @all), 3, 'not where it is closed';
    is $all[1][0]{shouted}, ['hello'], 'as it was';
    my $wrapped = 0;
    {
        no warnings 'redefine';
        my $original = \&AnyEvent::WebSocket::Connection::send;
        local *AnyEvent::WebSocket::Connection::send = sub { $wrapped++; goto &$original };
        is broadcast('more', $all[0][0], $all[2][0]), 2;
    }
    is $wrapped, 2, 'nor is one that the program has put around ours passed by';
};

on_both_ways 'in a callback for messages it is in order with replies' => sub {
    my ($pair) = @_;
    my @all = some($pair, 3);
    settle();
    my @connections = map { $_->[0] } @all;
    $all[0][0]->on(each_message => sub {
        my ($connection, $message) = @_;
        $connection->send('reply ' . $message->body);
        broadcast('all ' . $message->body, @connections);
    });
    syswrite $all[0][1], join '', map { frame(payload => $_) } 1 .. 3;
    is [map { $_->{payload} } read_frames($all[0][1], 6)], [map { ("reply $_", "all $_") } 1 .. 3], 'to the one it is from';
    is [map { $_->{payload} } read_frames($all[$_][1], 3)], [map { "all $_" } 1 .. 3], 'to another' for 1, 2;
};

subtest 'over TLS' => sub {
    if (my $reason = why_no_tls()) {
        diag "TLS is not tested: $reason";
        SKIP: { skip $reason, 1 }
        return;
    }
    my @pairs = map { [socket_pair()] } 1 .. 2;
    my @secure = map { $CLASS->new(handle => handle_on($_->[0], tls => 'accept', tls_ctx => tls_context('accept'))) } @pairs;
    my @clients = map { $CLASS->new(role => 'client', handle => handle_on($_->[1], tls => 'connect', tls_ctx => tls_context('connect'))) } @pairs;
    my @records = map { record($_) } @clients;
    my ($plain, $peer) = connection_and_peer();
    is broadcast($_, $secure[0], $plain, $secure[1]), 3 for 'hello', 'z' x 20_000;
    run_until { @{ $records[0]{messages} } == 2 && @{ $records[1]{messages} } == 2 } 'the messages';
    is [map { length } @{ $records[$_]{messages} }], [5, 20_000] for 0, 1;
    is [map { length $_->{payload} } read_frames($peer, 2)], [5, 20_000];
};

done_testing;
