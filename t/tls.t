# Connections over TLS handles (C21): with each other, and with a plain AnyEvent::Handle that reads and
# writes frames itself.

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;

use Tls qw(why_no_tls tls_context);

BEGIN {
    if (my $reason = why_no_tls()) {
        diag "TLS is not tested: $reason";
        plan skip_all => $reason;
    }
}

use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::Socket qw(tcp_server);
use AnyEvent::WebSocket::Connection;
use Errno qw(EBADF);
use Scalar::Util qw(weaken);
use Peer qw(
    socket_pair tcp_pair frame close_frame parse_frames run_until nested settle history finished start_program
);

my $CONNECTION = 'AnyEvent::WebSocket::Connection';
my $MIB        = 1 << 20;

sub tls_handle {
    my ($socket, $role, @options) = @_;
    return AnyEvent::Handle->new(fh => $socket, tls => $role, tls_ctx => tls_context($role), @options);
}

my %OTHER = (accept => 'connect', connect => 'accept');

# A peer that reads all there is: {frames} so far, {eof} or {error} at the end.
sub peer {
    my ($socket, $role) = @_;
    my $peer = {};
    $peer->{handle} = tls_handle($socket, $role, peer_callbacks($peer));
    return $peer;
}

# Not owning the peer, which owns the handle: TLS sessions of earlier subtests would stay.
sub peer_callbacks {
    my ($peer) = @_;
    @$peer{qw(frames bytes)} = ([], '');
    weaken($peer);
    return (
        on_read => sub {
            $peer->{bytes} .= delete $_[0]{rbuf};
            push @{ $peer->{frames} }, parse_frames($peer->{bytes});
        },
        on_eof   => sub { $peer->{eof}   = 1 },
        on_error => sub { $peer->{error} = $_[2] },
    );
}

# A connection with this role, and a plain peer with the other. Both sides' handshake is still to come.
sub connection_and_tls_peer {
    my ($role, @options) = @_;
    my ($ours, $theirs) = socket_pair();
    my $handle = tls_handle($ours, $role);
    return ($CONNECTION->new(handle => $handle, max_payload_size => 0, @options), peer($theirs, $OTHER{$role}));
}

# Two connections; the first has the role 'connect'.
sub tls_connections {
    my ($ours, $theirs) = tcp_pair();
    return (
        $CONNECTION->new(handle => tls_handle($ours,   'connect'), max_payload_size => 0, masked => 1),
        $CONNECTION->new(handle => tls_handle($theirs, 'accept'),  max_payload_size => 0),
    );
}

# Bodies and payloads, long ones by their start and length.
sub short { return [map { !ref && length > 40 ? substr($_, 0, 5) . '...' . length : $_ } @_] }

sub payloads { my ($peer) = @_; return short(map { $_->{payload} } @{ $peer->{frames} }) }

sub await_frames {
    my ($peer, $count) = @_;
    run_until { @{ $peer->{frames} } >= $count || $peer->{eof} || $peer->{error} } "$count frames";
    return payloads($peer);
}

# All that comes up to the end; an error is none as long as everything has come.
sub await_end {
    my ($peer) = @_;
    run_until { $peer->{eof} || $peer->{error} } 'the end';
    return payloads($peer);
}

# Has the handshake behind it.
sub established {
    my ($connection, $peer) = @_;
    $connection->send('hello');
    await_frames($peer, 1);
    @{ $peer->{frames} } = ();
    return;
}

my @BODIES = ('', 'short', "\xE2\x82\xAC", 'm' x 20_000, 'l' x (3 * $MIB), 'end');

subtest 'a handle that is not connected yet (C21)' => sub {
    my $peer;
    my $port;
    my $guard = tcp_server '127.0.0.1', undef, sub { $peer = peer($_[0], 'accept') }, sub { $port = $_[2]; 5 };
    my $handle = AnyEvent::Handle->new(
        connect => ['127.0.0.1', $port], tls => 'connect', tls_ctx => tls_context('connect'));
    my $connection = $CONNECTION->new(handle => $handle);
    my $history    = history($connection);
    $connection->send('early');
    run_until { $peer } 'the peer';
    is await_frames($peer, 1), ['early'], 'what is sent before arrives';
    is $history, [], 'and nothing has gone wrong';
};

subtest 'both sides ours (C21)' => sub {
    my ($client, $server) = tls_connections();
    my ($at_client, $at_server) = (history($client), history($server));
    $client->send($_) for @BODIES;
    $server->send($_) for @BODIES;
    run_until { @$at_client == @BODIES && @$at_server == @BODIES } 'the messages';
    is short(@$at_server), short(@BODIES), 'the server receives everything in order';
    is short(@$at_client), short(@BODIES), 'so does the client';
    $client->close(4001, "fin\x{e9}");
    run_until { finished($at_server) && finished($at_client) } 'finish';
    is [$server->close_code, $server->close_reason], [4001, "fin\xE9"], 'code and reason arrive';
    is $client->close_code, 4001, 'and the answer';
    is [$at_client->[-1], $at_server->[-1]], [([finish => undef]) x 2], 'both finish without an error';
    ok $client->was_clean && $server->was_clean, 'cleanly';
    my @handles = map { $_->handle } $client, $server;
    weaken($_) for @handles;
    undef $_ for $client, $server;
    run_until { !grep { defined } @handles } 'the handles to go';
    pass 'the handles go when both connections have gone';
};

for my $role ('accept', 'connect') {
    my $masked = $role eq 'connect';
    my @masked = (masked => $masked);
    my @mask   = $masked ? () : (mask => 'tlsm');

    subtest "$role: a conversation (C21)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        my $history = history($connection);
        $connection->on(each_message => sub { $_[0]->send($_[1]->body) });
        $peer->{handle}->push_write(frame(payload => $_, @mask)) for @BODIES;
        $peer->{handle}->push_write(frame(opcode => 9, payload => 'ping', @mask));
        is await_frames($peer, @BODIES + 1), short(@BODIES, 'ping'), 'messages come back, Ping is answered';
        is short(@$history), short(@BODIES), 'all were delivered once';
        is [grep { $_->{masked} != $masked } @{ $peer->{frames} }], [], 'frames are masked by the client only';
    };

    subtest "$role: bytes in many small records (C21)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role);
        my $history = history($connection);
        my $bytes   = join '', map { frame(payload => $_, @mask) } 'first', 'second' x 30;
        $peer->{handle}->push_write($_) for split //, $bytes;
        run_until { @$history == 2 } 'the messages';
        is $history, ['first', 'second' x 30], 'are put together';
    };

    subtest "$role: made inside the handle's push_read, as servers and clients do (C13, C21)" => sub {
        my ($ours, $theirs) = socket_pair();
        my $handle = tls_handle($ours, $role);
        my $peer   = peer($theirs, $OTHER{$role});
        my ($connection, $history);
        $handle->push_read(regex => qr/\r\n\r\n/, sub {
            $connection = $CONNECTION->new(handle => $_[0], @masked);
            $history    = history($connection);
            $connection->send('welcome');
        });
        my $frames = join '', map { frame(payload => "$_", @mask) } 1 .. 3;
        $peer->{handle}->push_write("Upgrade: websocket\r\n\r\n" . substr $frames, 0, -1);
        is await_frames($peer, 1), ['welcome'], 'what it sends at once arrives';
        run_until { @$history == 2 } 'the messages';
        $peer->{handle}->push_write(substr $frames, -1);
        run_until { @$history == 3 } 'the last message';
        is $history, [1 .. 3], 'what was read already is delivered, and what follows';
    };

    subtest "$role: a handle at EOF (C13, C21)" => sub {
        my ($ours, $theirs) = socket_pair();
        my $eof;
        my $handle = tls_handle($ours, $role, on_eof => sub { $eof = 1 }, on_error => sub { die $_[2] });
        my $peer   = peer($theirs, $OTHER{$role});
        $peer->{handle}->push_write(join '', map { frame(payload => "$_", @mask) } 1 .. 3);
        $peer->{handle}->on_drain(sub {
            shutdown $_[0]{fh}, 1 if !length $_[0]{_tls_wbuf} && !length $_[0]{wbuf};
        });
        run_until { $handle->start_read if !$eof; $eof } 'EOF at the handle';
        my $connection = $CONNECTION->new(handle => $handle, @masked);
        my $history    = history($connection);
        run_until { finished($history) } 'finish';
        is $history, [1 .. 3, [finish => undef]], 'what it holds is delivered, then finish';
    };

    subtest "$role: close during the TLS handshake loses nothing (C17, C21)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        ok length $connection->handle->{_tls_wbuf} || !$connection->handle->{_on_starttls}, 'nothing is sent yet';
        $connection->send('early')->send('e' x $MIB)->close(1000, 'bye');
        is await_end($peer), short('early', 'e' x $MIB, pack 'n a*', 1000, 'bye'), 'all of it arrives, then EOF';
        is length $peer->{bytes}, 0, 'no half frame';
    };

    subtest "$role: close during the TLS handshake, and the peer's Close (C17, C18, C21)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        my $history = history($connection);
        $peer->{handle}->push_write(frame(payload => 'crossing', @mask) . close_frame(1001, 'too', @mask));
        $connection->send('early')->close(1000, 'bye');
        is await_end($peer), ['early', pack 'n a*', 1000, 'bye'], 'both arrive';
        $peer->{handle}->push_shutdown;
        run_until { finished($history) } 'finish';
        is $history, ['crossing', [finish => undef]], 'what the peer sent meanwhile is delivered';
        is [$connection->close_code, $connection->close_reason], [1001, 'too'], 'its code and reason are known';
        ok $connection->was_clean, 'the close was clean';
    };

    subtest "$role: dropped during the TLS handshake (C8, C21, D3)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        $connection->send('early')->send('e' x $MIB);
        undef $connection;
        is await_end($peer), short('early', 'e' x $MIB, pack 'n', 1000), 'all of it arrives, then EOF';
    };

    subtest "$role: close behind a large message (C17, C21)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        established($connection, $peer);
        $connection->send('l' x (5 * $MIB))->send('behind')->close(4000, 'large');
        is await_end($peer), short('l' x (5 * $MIB), 'behind', pack 'n a*', 4000, 'large'),
            'all of it arrives, then EOF';
    };

    subtest "$role: dropped with unsent data (C8, C21, D3)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        established($connection, $peer);
        $connection->send('l' x (5 * $MIB))->send('behind');
        undef $connection;
        is await_end($peer), short('l' x (5 * $MIB), 'behind', pack 'n', 1000), 'all of it arrives, then EOF';
    };

    subtest "$role: dropped in its own callback, with more to read (C8, C14, C21)" => sub {
        my ($ours, $theirs) = socket_pair();
        my ($connection, $peer) = map { $CONNECTION->new(handle => tls_handle(@$_), max_payload_size => 0) }
            [$ours, $role], [$theirs, $OTHER{$role}];
        $_ = undef for $ours, $theirs;
        my $history = history($peer);
        $connection->send('ready');
        run_until { @$history } 'TLS';
        my $handle  = $connection->handle;
        weaken($handle);
        $connection->on(next_message => sub {
            $connection->send('y' x 30_000) for 1 .. 4;
            undef $connection;
        });
        $peer->send('x' x 30_000) for 1 .. 60;
        run_until { finished($history) } 'finish';
        is short(@$history[1 .. $#$history - 1]), short(('y' x 30_000) x 4), 'what it has sent arrives';
        is [$history->[-1], $peer->close_code], [[finish => undef], 1000], 'and its Close, and no reset';
        undef $peer;
        run_until { !$handle } 'the handle to go';
    };

    subtest "$role: dropped in its own callback, while the program keeps the handle (C20, D3)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        established($connection, $peer);
        my $handle = $connection->handle;
        $connection->on(next_message => sub { undef $connection });
        $peer->{handle}->push_write(frame(payload => 'x', @mask));
        is await_frames($peer, 1), [pack 'n', 1000], 'Close';
        settle();
        is [exists $handle->{linger}, !!$handle->{tls}], [F(), T()], 'the handle is as it was';
        $handle->on_read(sub { });
    };

    subtest "$role: dropped with unsent data, and the peer closes its side (C8, C21)" => sub {
        my ($ours, $theirs) = socket_pair();
        my $connection = $CONNECTION->new(handle => tls_handle($ours, $role), max_payload_size => 0);
        my $peer       = peer($theirs, $OTHER{$role});
        established($connection, $peer);
        $connection->send('l' x (5 * $MIB))->send('behind');
        undef $connection;
        shutdown $theirs, 1;
        is await_end($peer), short('l' x (5 * $MIB), 'behind', pack 'n', 1000), 'all of it arrives, then EOF';
    };

    subtest "$role: dropped, and then the handle is destroyed (C20)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        established($connection, $peer);
        my $handle = $connection->handle;
        undef $connection;
        $handle->destroy;
        settle();
        weaken($handle);
        ok !$handle, 'nothing holds it';
    };

    subtest "$role: dropped with a closed descriptor (C20)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        established($connection, $peer);
        my $handle = $connection->handle;
        close $handle->fh;
        weaken($handle);
        ok no_warnings { undef $connection; settle() }, 'without a warning';
        ok !$handle, 'the handle is gone';
    };

    subtest "$role: exit in a callback, with more messages of the same read (D3)" => sub {
        my ($other, $wait) = start_program("my \$role = '$role';" . <<'        END');
            use AnyEvent::TLS;
            use Tls qw(tls_context);
            $| = 1;
            our $c = AnyEvent::WebSocket::Connection->new(handle => AnyEvent::Handle->new(
                fh => program_socket(), tls => $role, tls_ctx => tls_context($role)));
            $c->send('hello')->on(each_message => sub { print "$_[1]{body}\n"; exit 3 });
            $c->on(finish => sub { print "finish\n" });
            run_until { 0 } 'a message';
        END
        my $peer = peer($other, $OTHER{$role});
        await_frames($peer, 1);
        # Records of their own, which leave together.
        $peer->{handle}->autocork(1);
        $peer->{handle}->push_write(frame(payload => $_, @mask)) for 1 .. 4;
        is [$wait->()], [3 << 8, "1\n"], 'no callback runs any more';
        is await_frames($peer, 2), ['hello', pack 'n', 1001], 'Close 1001';
    };

    subtest "$role: the program ends while a dropped connection has unsent data (C8, D3)" => sub {
        for my $where ('in its callback', 'later') {
            my ($other, $wait) = start_program("my \$role = '$role'; my \$later = ${\($where eq 'later' ? 1 : 0)};"
                . <<'            END');
                use AnyEvent::TLS;
                use Tls qw(tls_context);
                my $destroy = AnyEvent::Handle->can('DESTROY');
                no warnings 'redefine';
                *AnyEvent::Handle::DESTROY = sub {
                    # A watcher that is made when the event loop is gone may be a crash.
                    my $watches = length $_[0]{wbuf} && (!exists $_[0]{linger} || $_[0]{linger});
                    print "it would linger in the end\n" if ${^GLOBAL_PHASE} eq 'DESTRUCT' && $watches;
                    $destroy->(@_) unless $watches;
                };
                our $c = AnyEvent::WebSocket::Connection->new(max_payload_size => 0, handle => AnyEvent::Handle->new(
                    fh => program_socket(), tls => $role, tls_ctx => tls_context($role)));
                my $came;
                my $drop = sub { $c->send('x' x (8 << 20)); undef $c; exit 3 };
                $c->send('hello')->on(next_message => $later ? sub { $came = 1 } : $drop);
                run_until { $came } 'a message';
                $drop->();
            END
            my $peer = peer($other, $OTHER{$role});
            await_frames($peer, 1);
            $peer->{handle}->push_write(frame(payload => 'x', @mask));
            # Nothing more is read.
            delete $peer->{handle}{_rw};
            is [$wait->()], [3 << 8, ''], "it ends quietly, $where";
        }
    };

    subtest "$role: the handle is destroyed with unsent data (C20, C21)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        established($connection, $peer);
        $connection->send('l' x (5 * $MIB));
        $connection->handle->destroy;
        is await_end($peer), short('l' x (5 * $MIB)), 'all of it arrives, then EOF';
    };

    subtest "$role: EOF (C13, C19, C21)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        established($connection, $peer);
        my $history = history($connection);
        $peer->{handle}->push_write(frame(payload => "$_", @mask)) for 1 .. 3;
        $peer->{handle}->push_shutdown;
        run_until { finished($history) } 'finish';
        is $history, [1 .. 3, [finish => undef]], 'messages first, then finish without an error';
        is await_end($peer), [], 'the peer sees EOF';
        ok lives { $connection->send('x')->close }, 'sending is harmless then';
    };

    subtest "$role: EOF in the moment of the handshake (C13, C21)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        $peer->{handle}->push_write(frame(payload => "$_", @mask)) for 1 .. 3;
        $peer->{handle}->on_drain(sub { shutdown $_[0]{fh}, 1 });
        my $history = history($connection);
        run_until { finished($history) } 'finish';
        is $history, [1 .. 3, [finish => undef]], 'messages first, then finish';
    };

    subtest "$role: TLS ends, but the socket does not (C19, C21)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        established($connection, $peer);
        my $history = history($connection);
        $peer->{handle}->push_write(frame(payload => 'm', @mask));
        $peer->{handle}->stoptls;
        run_until { finished($history) } 'finish';
        is $history, ['m', [finish => undef]], 'is EOF';
        weaken(my $handle = $connection->handle);
        undef $connection;
        run_until { !$handle } 'the handle to go';
        pass 'the handle goes with its connection then';
    };

    subtest "$role: what is no TLS at all (C19, C21)" => sub {
        my ($ours, $theirs) = socket_pair();
        my $connection = $CONNECTION->new(handle => tls_handle($ours, $role));
        my $history    = history($connection);
        syswrite $theirs, "HTTP/1.1 400 Bad Request\r\n\r\n" x 10;
        run_until { finished($history) } 'finish';
        is scalar @$history, 1, 'finish comes once';
        ok length $history->[0][1], 'with a text';
        is $connection->close_error, $history->[0][1], 'which close_error has, too';
    };

    subtest "$role: replies from callbacks, push_write in between (C20, C21)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        $connection->on(each_message => sub {
            $_[0]->send('re: ' . $_[1]->body);
            $_[0]->handle->push_write(frame(payload => "program's " . $_[1]->body));
        });
        $peer->{handle}->push_write(join '', map { frame(payload => "$_", @mask) } 1 .. 50);
        is await_frames($peer, 100), [map { ("re: $_", "program's $_") } 1 .. 50], 'all in order';
    };

    subtest "$role: destroyed in a callback (C20, C21)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role, @masked);
        my @bodies;
        $connection->on(each_message => sub {
            push @bodies, $_[1]->body;
            $_[0]->handle->destroy if $_[1]->body eq '2';
        });
        $connection->on(finish => sub { push @bodies, 'finish' });
        $peer->{handle}->push_write(join '', map { frame(payload => "$_", @mask) } 1 .. 4);
        await_end($peer);
        settle();
        is \@bodies, [1, 2], 'no further message, and no finish';
    };
}

# Each side starts TLS on its own when the other has agreed in plain text.
for my $role ('accept', 'connect') {
    subtest "starttls ($role) on the handle of a connection (C20, C21)" => sub {
        my ($ours, $theirs) = socket_pair();
        my $connection = $CONNECTION->new(handle => AnyEvent::Handle->new(fh => $ours));
        my $history    = history($connection);
        my $plain      = AnyEvent::Handle->new(fh => $theirs);
        my @lines;
        $plain->push_write(frame(payload => 'plain'));
        run_until { @$history } 'a message in plain text';
        $connection->send('agreed');
        my $agreed = frame(payload => 'agreed');
        $plain->push_read(chunk => length $agreed, sub { push @lines, $_[1] });
        run_until { @lines } 'the answer';
        is \@lines, [$agreed], 'plain text in the beginning';

        my $peer      = {};
        my %callbacks = peer_callbacks($peer);
        $plain->$_($callbacks{$_}) for sort keys %callbacks;
        # The side that accepts waits for the other's first bytes.
        my @start = (sub { $connection->handle->starttls($role, tls_context($role)) },
            sub { $plain->starttls($OTHER{$role}, tls_context($OTHER{$role})) });
        $_->() for $role eq 'accept' ? @start : reverse @start;
        $connection->send('secret')->send('s' x $MIB);
        $plain->push_write(frame(payload => 'secret, too'));
        is await_frames($peer, 2), short('secret', 's' x $MIB), 'then what is sent arrives over TLS';
        run_until { @$history == 2 } 'a message over TLS';
        is $history, ['plain', 'secret, too'], 'and what comes is understood';
        $connection->close(1000, 'bye');
        is await_end($peer)->[-1], pack('n a*', 1000, 'bye'), 'so is Close';
    };
}

# Replies to messages that came together leave together, in what is one write to the socket; what becomes of those
# that are waiting is what would have become of them, had they left at once.
my %HAPPENING = (
    'nothing'                    => [sub { },                                       [map { "reply $_" } 1 .. 5]],
    'the handle writes, too'     => [sub { $_[0]->handle->push_write(frame(payload => 'by hand')) },
        [(map { "reply $_" } 1 .. 3), 'by hand', map { "reply $_" } 4, 5]],
    'the handle is destroyed'    => [sub { $_[0]->handle->destroy },                [map { "reply $_" } 1 .. 3]],
    'the callback dies'          => [sub { die "on purpose\n" },                    [(map { "reply $_" } 1 .. 3), pack 'n', 1011]],
    'the connection is closed'   => [sub { $_[0]->close },                          [(map { "reply $_" } 1 .. 3), pack 'n', 1000]],
    # Whether the others are before that is a matter of time: they do not wait for callbacks that take long.
    'the write side is shut'     => [sub { $_[0]->handle->push_shutdown },          [map { "reply $_" } 1 .. 3]],
    'on_drain is set'            => [sub { $_[0]->handle->on_drain(sub { }) },      [map { "reply $_" } 1 .. 5]],
);
for my $role ('accept', 'connect') {
    my @mask = $role eq 'connect' ? () : (mask => 'tlsm');
    for my $what (sort keys %HAPPENING) {
        subtest "$role: replies to messages of one read, $what (C8, C20, C21)" => sub {
            my ($happens, $expected) = @{ $HAPPENING{$what} };
            my ($connection, $peer) = connection_and_tls_peer($role);
            established($connection, $peer);
            my $count = 0;
            $connection->on(parse_error => sub { });
            $connection->on(each_message => sub {
                my ($connection) = @_;
                $connection->send('reply ' . ++$count);
                $happens->($connection) if $count == 3;
            });
            $peer->{handle}->push_write(join '', map { frame(payload => $_, @mask) } 1 .. 5);
            my $got = await_frames($peer, scalar @$expected);
            if ($what eq 'the write side is shut') {
                my @more = splice @$got, @$expected;
                is \@more, [(map { "reply $_" } 4, 5)[0 .. $#more]], 'what follows is in order';
            }
            is $got, $expected, 'in order';
        };
    }

    subtest "$role: a descriptor that a callback closes before it replies (C20)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role);
        established($connection, $peer);
        my $history = history($connection);
        $connection->on(each_message => sub {
            my ($connection) = @_;
            close $connection->handle->fh if $connection->handle->{fh};
            $connection->send('reply');
        });
        $peer->{handle}->push_write(join '', map { frame(payload => $_, @mask) } 1 .. 3);
        run_until { finished($history) } 'finish';
        is $history->[-1], [finish => string(do { local $! = EBADF; "$!" })], 'is an error';
    };

    subtest "$role: replies do not wait for a callback that runs an event loop (C22)" => sub {
        my ($connection, $peer) = connection_and_tls_peer($role);
        established($connection, $peer);
        my ($count, $before) = 0;
        $connection->on(each_message => sub {
            my ($connection) = @_;
            $connection->send('reply ' . ++$count);
            nested { $before = await_frames($peer, 3) } if $count == 3;
        });
        $peer->{handle}->push_write(join '', map { frame(payload => $_, @mask) } 1 .. 5);
        run_until { $count == 5 } 'all messages';
        is $before, [map { "reply $_" } 1 .. 3], 'those before it have left';
        is await_frames($peer, 5), [map { "reply $_" } 1 .. 5], 'the others follow';
    };
}

done_testing;
