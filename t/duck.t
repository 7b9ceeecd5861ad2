# Handles that are not plain AnyEvent::Handles: subclasses, through whose methods every byte passes, and
# objects that only have the same methods (C21).

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;
use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use Socket;
use Peer qw(
    socket_pair frame close_frame parse_frames receive_frames read_until_eof write_all run_until settle history
    finished payloads
);

my $CONNECTION = 'AnyEvent::WebSocket::Connection';
my $MIB        = 1 << 20;

# Keeps everything that passes through its methods.
package LoggingHandle {
    our @ISA = ('AnyEvent::Handle');

    sub push_write {
        my ($self, @arguments) = @_;
        $self->{log}{written} .= $arguments[0];
        return $self->SUPER::push_write(@arguments);
    }

    sub on_read {
        my ($self, $callback) = @_;
        return $self->SUPER::on_read($callback) if !$callback;
        return $self->SUPER::on_read(sub {
            $_[0]{log}{read} .= $_[0]{rbuf};
            $callback->(@_);
        });
    }

    sub push_shutdown {
        my ($self) = @_;
        $self->{log}{shutdowns}++;
        return $self->SUPER::push_shutdown;
    }
}

# Has other bytes on the wire than on the inside.
package CipherHandle {
    our @ISA = ('AnyEvent::Handle');

    sub cipher { my ($bytes) = @_; return $bytes ^ ("\x5A" x length $bytes) }

    sub push_write {
        my ($self, $bytes) = @_;
        return $self->SUPER::push_write(cipher($bytes));
    }

    sub on_read {
        my ($self, $callback) = @_;
        return $self->SUPER::on_read($callback && sub {
            $_[0]{rbuf} = cipher($_[0]{rbuf});
            $callback->(@_);
        });
    }
}

# In memory, with no more methods than a connection may ask for.
package Duck {
    sub new { my ($class, %self) = @_; return bless {rbuf => '', written => '', shutdowns => 0, %self}, $class }

    sub on_read  { my ($self, $callback) = @_; $self->{on_read}  = $callback; $self->feed(''); return }
    sub on_error { my ($self, $callback) = @_; $self->{on_error} = $callback; return }
    sub on_eof   { my ($self, $callback) = @_; $self->{on_eof}   = $callback; return }

    sub push_write    { my ($self, $bytes) = @_; $self->{written} .= $bytes; return }
    sub push_shutdown { my ($self) = @_; $self->{shutdowns}++; return }

    sub destroy { my ($self) = @_; $self->{destroyed}++; delete @$self{qw(on_read on_error on_eof)}; return }

    sub feed {
        my ($self, $bytes) = @_;
        $self->{rbuf} .= $bytes;
        $self->{on_read}->($self) if $self->{on_read} && length $self->{rbuf};
        return;
    }
}

package DestroyedDuck {
    our @ISA = ('Duck');
    sub destroyed { my ($self) = @_; return $self->{destroyed} ? 1 : 0 }
}

package main;

# A connection on an object in memory.
sub on_duck {
    my ($class, @options) = @_;
    my $duck = $class->new;
    return ($CONNECTION->new(handle => $duck, @options), $duck);
}

# Returns when the event loop was idle: from then on what comes is delivered at once.
sub make_ready {
    my ($duck) = @_;
    $duck->feed(frame(opcode => 9));
    run_until { length $duck->{written} } 'the answer to a Ping';
    $duck->{written} = '';
    return;
}


# The frames that were written to an object in memory since the last time.
sub written {
    my ($duck) = @_;
    my @frames = parse_frames($duck->{written});
    is $duck->{written}, '', 'only whole frames were written' if length $duck->{written};
    return payloads(@frames);
}

# ---- subclasses

# The ends of a conversation on a handle of this class.
sub subclass_and_peer {
    my ($class, $handle_options, @options) = @_;
    my ($ours, $theirs) = socket_pair();
    AnyEvent::fh_unblock($theirs);
    my $handle = $class->new(fh => $ours, @$handle_options);
    return ($CONNECTION->new(handle => $handle, @options), $theirs, $handle);
}

for my $masked (0, 1) {
    subtest 'a subclass sees every byte' . ($masked ? ', masked' : '') . ' (C21)' => sub {
        my %log = (written => '', read => '');
        my ($connection, $peer, $handle) =
            subclass_and_peer('LoggingHandle', [log => \%log], masked => $masked, max_payload_size => 0);
        my $history = history($connection);
        $connection->on(each_message => sub { $_[0]->send('re: ' . substr $_[1]->body, 0, 10) });
        my $in = join '', map { frame(payload => $_) } 'm' x 100_000, 'short', 'l' x $MIB;
        $in .= frame(opcode => 9, payload => 'ping') . frame(fin => 0, payload => 'frag');
        $in .= frame(opcode => 10, payload => 'pong') . frame(opcode => 0, payload => 'ment');
        $connection->send('first');
        my $wire = '';
        my $done;
        my $reader = AE::io $peer, 0, sub {
            my $n = sysread $peer, $wire, 1 << 18, length $wire;
            $done = 1 if defined $n && $n == 0;
        };
        write_all($peer, $in);
        run_until { @$history == 4 } 'the messages';
        $connection->send('x' x (3 * $MIB))->send(AnyEvent::WebSocket::Message->new(body => "\xFF", opcode => 2));
        $connection->close(4000, 'enough');
        run_until { $done } 'EOF';
        ok $log{written} eq $wire, 'what was written went through push_write';
        is $log{read}, $in, 'what was read went through the callback for on_read';
        is [map { length > 20 ? length : $_ } @{ payloads(parse_frames($wire)) }],
            [
            'first', 're: mmmmmmmmmm', 're: short', 're: llllllllll', 'ping', 're: fragment',
            3 * $MIB, "\xFF", pack('n a*', 4000, 'enough')
            ],
            'frames in order';
        is $log{shutdowns}, 1, 'close called push_shutdown';
    };
}

my %ending = (
    'a Close frame of the peer' => [close_frame(1001, 'away'),            pack('n', 1001)],
    'a frame that is too big'   => [frame(payload => 'b' x 200),          pack('n', 1009)],
    'an invalid frame'          => [frame(opcode => 3),                   pack('n', 1002)],
    'a callback that dies'      => [frame(payload => 'die'),              pack('n', 1011)],
    'invalid UTF-8'             => [frame(payload => "\xFF"),             pack('n', 1007)],
);
for my $cause (sort keys %ending) {
    my ($bytes, $close) = @{ $ending{$cause} };
    subtest "a subclass sees the Close frame after $cause (C21)" => sub {
        my %log = (written => '');
        my ($connection, $peer, $handle) =
            subclass_and_peer('LoggingHandle', [log => \%log], max_payload_size => 100);
        $connection->on(each_message => sub { die "died\n" });
        $connection->on(parse_error  => sub { });
        syswrite $peer, $bytes;
        my $wire = read_until_eof($peer);
        is $log{written}, $wire, 'it went through push_write';
        like [parse_frames($wire)], [{opcode => 8, payload => qr/^\Q$close\E/}], 'with the code';
        is $log{shutdowns}, 1, 'then push_shutdown was called, once';
    };
}

subtest 'a subclass sees the Close frame of a dropped connection (C21, D3)' => sub {
    my %log = (written => '');
    my ($connection, $peer, $handle) = subclass_and_peer('LoggingHandle', [log => \%log]);
    settle();
    $connection->send('u' x (2 * $MIB));
    undef $connection;
    undef $handle;
    my $wire = read_until_eof($peer);
    ok $log{written} eq $wire, 'it went through push_write';
    my @frames = parse_frames($wire);
    is [map { $_->{opcode} } @frames], [1, 8], 'behind what was unsent';
    is $log{shutdowns}, 1, 'then push_shutdown was called';
};

subtest 'a subclass at EOF, and with a read error (C19, C21)' => sub {
    my %log = (written => '');
    my ($connection, $peer, $handle) = subclass_and_peer('LoggingHandle', [log => \%log]);
    my $history = history($connection);
    syswrite $peer, frame(payload => 'm');
    close $peer;
    run_until { finished($history) } 'finish';
    is $history, ['m', [finish => undef]], 'EOF: messages, then finish';
    is $log{shutdowns}, 1, 'push_shutdown was called';

    ($connection, $peer, $handle) = subclass_and_peer('LoggingHandle', [log => \%log]);
    $history = history($connection);
    settle();
    my $text = do { local $! = Errno::EBADMSG(); "$!" };
    $handle->_error(Errno::EBADMSG(), 1);
    run_until { finished($history) } 'finish';
    is $history, [[finish => $text]], 'error: finish with the text';
    ok $handle->destroyed, 'and the handle is destroyed';
};

for my $masked (0, 1) {
    subtest 'a subclass that encrypts' . ($masked ? ', masked' : '') . ' (C21)' => sub {
        my ($connection, $peer) =
            subclass_and_peer('CipherHandle', [], masked => $masked, max_payload_size => 0);
        my $history = history($connection);
        my @bodies  = ('', 'clear', 'b' x (2 * $MIB), 'end');
        write_all($peer, CipherHandle::cipher(join '', map { frame(payload => $_, mask => 'MASK') } @bodies));
        run_until { @$history == @bodies } 'the messages';
        is [map { length } @$history], [map { length } @bodies], 'messages are received';
        is $history->[1], 'clear', 'deciphered';
        $connection->send($_) for @bodies;
        $connection->close;
        my $wire = CipherHandle::cipher(read_until_eof($peer));
        is [map { length } @{ payloads(parse_frames($wire)) }], [(map { length } @bodies), 2],
            'and sent, and Close behind them';
    };
}

subtest 'a subclass destroyed in a callback gets no further message (C20, C21)' => sub {
    my ($connection, $peer) = subclass_and_peer('LoggingHandle', [log => {}]);
    my @bodies;
    $connection->on(each_message => sub {
        push @bodies, $_[1]->body;
        $_[0]->handle->destroy if $_[1]->body eq '2';
    });
    $connection->on(finish => sub { push @bodies, 'finish' });
    syswrite $peer, join '', map { frame(payload => $_) } 1 .. 5;
    read_until_eof($peer);
    settle();
    is \@bodies, [1, 2], 'not even one that came with the same read';
};

# ---- objects with the same methods

for my $class ('Duck', 'DestroyedDuck') {
    my $kind = $class eq 'Duck' ? 'an object' : 'an object that has a method destroyed';

    subtest "$kind: what it holds already is delivered when the event loop was idle (C13, C21)" => sub {
        my $duck = $class->new(rbuf => frame(payload => 'held') . substr frame(payload => 'two parts'), 0, 3);
        my $connection = $CONNECTION->new(handle => $duck);
        $duck->feed(substr frame(payload => 'two parts'), 3);
        my $history = history($connection);
        $duck->feed(frame(payload => 'fed'));
        is $history, [], 'not before';
        run_until { @$history } 'a message';
        is $history, ['held', 'two parts', 'fed'], 'all in order';
        $duck->feed(frame(payload => 'later'));
        is $history->[-1], 'later', 'from then on at once';
    };

    subtest "$kind: byte by byte (C21)" => sub {
        my ($connection, $duck) = on_duck($class);
        my $history = history($connection);
        make_ready($duck);
        my $bytes = frame(payload => 'one') . frame(fin => 0, payload => 't') . frame(opcode => 9, payload => 'p');
        $bytes .= frame(opcode => 0, payload => 'wo') . close_frame(4321, "r\xC3\xA9ason");
        $duck->feed($_) for split //, $bytes;
        is $history, ['one', 'two'], 'messages are delivered';
        is written($duck), ['p', pack 'n', 4321], 'Ping and Close are answered';
        is [$connection->close_code, $connection->close_reason], [4321, "r\xE9ason"], 'Close is understood';
        is $duck->{shutdowns}, 1, 'push_shutdown was called';
        ok $connection->was_clean, 'the close was clean';
    };

    subtest "$kind: sending (C21)" => sub {
        my ($connection, $duck) = on_duck($class);
        ref_is $connection->send('before the event loop'), $connection, 'send returns the connection';
        is written($duck), ['before the event loop'], 'is written at once';
        make_ready($duck);
        $connection->send('')->send('0')->send("\x{20AC}")->send('b' x (2 * $MIB));
        is [map { length > 20 ? length : $_ } @{ written($duck) }], ['', '0', "\xE2\x82\xAC", 2 * $MIB],
            'whole, in order';
        $connection->close(1000, 'bye');
        is $duck->{shutdowns}, 1, 'close called push_shutdown';
        $connection->send('late')->close;
        is written($duck), [pack 'n a*', 1000, 'bye'], 'Close, and nothing behind it';
    };

    subtest "$kind: masked (C7, C21)" => sub {
        my ($connection, $duck) = on_duck($class, masked => 1);
        $connection->send('m' x 1000)->send('m' x 1000);
        my @frames = parse_frames($duck->{written});
        is [map { $_->{masked} } @frames], [1, 1], 'frames are masked';
        isnt $frames[0]{key}, $frames[1]{key}, 'with a key each';
        is payloads(@frames), [('m' x 1000) x 2], 'and come out right';
    };

    subtest "$kind: replies from callbacks (C21)" => sub {
        my ($connection, $duck) = on_duck($class);
        $connection->on(each_message => sub { $_[0]->send('re: ' . $_[1]->body) });
        make_ready($duck);
        $duck->feed(join '', map { frame(payload => $_) } 1 .. 50);
        is written($duck), [map { "re: $_" } 1 .. 50], 'are all written when feeding is done';
    };

    subtest "$kind: EOF (C13, C19, C21)" => sub {
        my ($connection, $duck) = on_duck($class);
        my $history = history($connection);
        $duck->feed(frame(payload => 'last'));
        $duck->{on_eof}->($duck);
        is $history, [], 'nothing before the event loop was idle';
        run_until { finished($history) } 'finish';
        is $history, ['last', [finish => undef]], 'then messages first';
        is $duck->{shutdowns}, 1, 'push_shutdown was called';
        ok lives { $connection->send('x')->close }, 'sending is harmless then';
        is $duck->{written}, '', 'and writes nothing';
    };

    subtest "$kind: an error (C19, C21)" => sub {
        my ($connection, $duck) = on_duck($class);
        my $history = history($connection);
        make_ready($duck);
        $duck->{on_error}->($duck, 1, 'it broke');
        is $history, [[finish => 'it broke']], 'finish gets the text';
        is $connection->close_error, 'it broke', 'so does close_error';
        $duck->{on_eof}->($duck);
        is scalar @$history, 1, 'finish comes once';
    };

    subtest "$kind: a frame over the limit, and a callback that dies (C15, C16, C21)" => sub {
        my ($connection, $duck) = on_duck($class, max_payload_size => 10);
        my $history = history($connection);
        make_ready($duck);
        $duck->feed(frame(payload => 'fits') . substr frame(payload => 'x' x 11), 0, 2);
        like $history, ['fits', [parse_error => qr/^Payload is too big/]], 'parse_error at its header';
        like written($duck), [qr/^\x03\xF1/], 'Close 1009 is written';
        is $duck->{shutdowns}, 1, 'push_shutdown was called';

        ($connection, $duck) = on_duck($class);
        $connection->on(each_message => sub { die "out\n" });
        $history = history($connection);
        make_ready($duck);
        ok lives { $duck->feed(frame(payload => 'm')) }, 'the exception does not come out of on_read';
        is $history, [[parse_error => "out\n"]], 'parse_error gets it';
        like written($duck), [qr/^\x03\xF3/], 'Close 1011 is written';
    };

    subtest "$kind: the connection is dropped (D3, C21)" => sub {
        my ($connection, $duck) = on_duck($class);
        my $history = history($connection);
        make_ready($duck);
        undef $connection;
        is written($duck), [pack 'n', 1000], 'Close is written';
        is $duck->{shutdowns}, 1, 'push_shutdown was called';
        ok lives { $duck->feed(frame(payload => 'late')) }, 'bytes that still come do no harm';
        ok lives { $_ and $_->($duck) for @$duck{qw(on_eof on_error)} }, 'nor does EOF';
        is $history, [], 'no callback runs';
    };

    subtest "$kind: close_timeout destroys it (C21, D6)" => sub {
        my ($connection, $duck) = on_duck($class, close_timeout => 0.02);
        my $history = history($connection);
        $connection->close;
        run_until { finished($history) } 'finish';
        is $history, [[finish => 'close timeout']], 'finish gets the text';
        is $duck->{destroyed}, 1, 'destroy was called';
    };

    subtest "$kind: destroyed inside a callback (C20, C21)" => sub {
        my ($connection, $duck) = on_duck($class);
        my @bodies;
        $connection->on(each_message => sub {
            push @bodies, $_[1]->body;
            $duck->destroy if $_[1]->body eq '1';
        });
        make_ready($duck);
        ok lives { $duck->feed(join '', map { frame(payload => $_) } 1 .. 3) }, 'does no harm';
        # There is no way to know it of an object without the method.
        is \@bodies, $class eq 'Duck' ? [1 .. 3] : [1], 'messages end where destroyed says so';
        ok lives { $connection->send('x'); undef $connection }, 'nor does what follows';
    };
}

subtest 'two objects that feed each other inside push_write (C14, C21)' => sub {
    package WiredDuck {
        our @ISA = ('Duck');
        sub push_write { my ($self, $bytes) = @_; $self->{other}->feed($bytes); return }
    }
    my @ducks = map { WiredDuck->new } 0, 1;
    Scalar::Util::weaken($ducks[$_]{other} = $ducks[!$_]) for 0, 1;
    my @connections = map { $CONNECTION->new(handle => $ducks[$_], masked => $_) } 0, 1;
    my @history = ([], []);
    for my $i (0, 1) {
        my $mine = $history[$i];
        $connections[$i]->on(each_message => sub {
            my ($connection, $message) = @_;
            push @$mine, $message->body;
            $connection->send($message->body + 1) if $message->body < 300;
        });
    }
    my @warnings;
    local $SIG{__WARN__} = sub { push @warnings, @_ };
    $connections[0]->send(1);
    run_until { @{ $history[0] } + @{ $history[1] } >= 300 } 'the messages';
    is $history[1], [grep { $_ % 2 } 1 .. 300],  'one gets the odd numbers in order';
    is $history[0], [grep { !($_ % 2) } 1 .. 300], 'the other the even';
    is \@warnings, [], 'without deep recursion';
};

open my $in_memory, '+<', \(my $memory = '') or die "open: $!";
package TiedHandle { sub TIEHANDLE { bless [], shift } sub FILENO { 0 } }
tie *TIED, 'TiedHandle';
my %unusable = (
    'undef'                    => undef,
    'a string'                 => 'not a handle',
    'a handle in memory'       => $in_memory,
    'a tied handle'            => \*TIED,
    'a glob without IO'        => do { no warnings 'once'; \*NOTHING_HERE },
    'a handle that was closed' => do { my ($ours) = socket_pair(); close $ours; $ours },
    'a code reference'         => sub { },
    'an object'                => Duck->new,
);
for my $fh (sort keys %unusable) {
    subtest "an object whose fh is $fh (C21)" => sub {
        package DuckWithFh { our @ISA = ('Duck'); sub fh { $_[0]{fh} } }
        my $duck       = DuckWithFh->new(fh => $unusable{$fh});
        my $connection = $CONNECTION->new(handle => $duck);
        my $history    = history($connection);
        make_ready($duck);
        $duck->feed(frame(payload => 'in'));
        $connection->send('out');
        is $history, ['in'], 'receiving works';
        is written($duck), ['out'], 'sending works';
    };
}

# Has a handle rather than being one; callbacks get the inner one, whose {rbuf} holds the bytes.
package Wrapper {
    sub new { my ($class, $inner) = @_; return bless {inner => $inner}, $class }
    for my $method (qw(on_read on_error on_eof push_write push_shutdown destroy destroyed fh)) {
        no strict 'refs';
        *$method = sub { my $self = shift; return $self->{inner}->$method(@_) };
    }
}

package AutoWrapper {
    our $AUTOLOAD;
    sub new { my ($class, $inner) = @_; return bless [$inner], $class }
    sub AUTOLOAD { my $self = shift; my $method = $AUTOLOAD =~ s/.*:://r; return $self->[0]->$method(@_) }
    sub DESTROY { }
}

package main;

for my $class ('Wrapper', 'AutoWrapper') {
    my $how = $class eq 'Wrapper' ? 'methods' : 'AUTOLOAD';
    subtest "an object that passes on to a handle by $how (C21)" => sub {
        my ($ours, $theirs) = socket_pair();
        AnyEvent::fh_unblock($theirs);
        my $connection;
        ok lives { $connection = $CONNECTION->new(handle => $class->new(AnyEvent::Handle->new(fh => $ours))) },
            'new' or return note $@;
        my $history = history($connection);
        syswrite $theirs, frame(payload => 'in');
        run_until { @$history } 'a message';
        is $history, ['in'], 'receiving works';
        $connection->send('out')->close;
        my $wire = read_until_eof($theirs);
        is payloads(parse_frames($wire)), ['out', pack 'n', 1000], 'sending works';
    };
}

subtest 'a push_write that dies (C21)' => sub {
    package BrokenDuck {
        our @ISA = ('Duck');
        sub push_write { my ($self) = @_; die "no write\n" if $self->{broken}; return Duck::push_write(@_) }
    }
    my ($connection, $duck) = on_duck('BrokenDuck');
    make_ready($duck);
    $duck->{broken} = 1;
    like dies { $connection->send('x') }, qr/^no write$/m, 'the program gets the exception';
    $duck->{broken} = 0;
    ok lives { $connection->send('y') }, 'and can go on';
    is written($duck), ['y'], 'with what follows';
    $duck->{broken} = 1;
    my @warnings;
    local $SIG{__WARN__} = sub { push @warnings, @_ };
    local $@ = 'the one of the program';
    ok lives { undef $connection }, 'dropping the connection does not die';
    is \@warnings, [], 'nor warn';
};

subtest "the bytes in {rbuf} are the program's, too (C21)" => sub {
    my ($connection, $duck) = on_duck('Duck');
    my $history = history($connection);
    make_ready($duck);
    my $bytes = frame(payload => 'masked and long enough to be shared' x 60, mask => 'wxyz');
    my $kept  = $bytes;
    my $same  = join '', split //, $bytes;
    $duck->{rbuf} = $bytes;
    $duck->feed('');
    is length $history->[0], 60 * 35, 'a message';
    ok $bytes eq $same && $kept eq $same, 'a copy of the program is not changed';

    $duck->{rbuf} = frame(payload => "\xFF\x80", opcode => 2, mask => "\xFE\x90\x20\x81");
    utf8::upgrade($duck->{rbuf});
    $duck->feed('');
    is $history->[1], "\xFF\x80", 'how perl stores them does not matter';

    $duck->{rbuf} = "\x81\x08constant";
    $duck->feed('');
    is $history->[2], 'constant', 'a constant is read';
    is $duck->{rbuf}, '', 'and the buffer is empty then';
    $duck->{rbuf} = undef;
    ok lives { $duck->{on_read}->($duck) }, 'no buffer at all is fine';
};

subtest 'a handle whose `destroyed` dies (C21)' => sub {
    {
        package Local::Grumpy;
        our @ISA = ('AnyEvent::Handle');
        sub destroyed { die "none of your business\n" }
    }
    my ($ours, $peer) = socket_pair();
    AnyEvent::fh_unblock($peer);
    my $connection = AnyEvent::WebSocket::Connection->new(handle => Local::Grumpy->new(fh => $ours));
    my @got;
    $connection->on(each_message => sub { push @got, $_[1]->body });
    syswrite $peer, frame(payload => 'message');
    run_until { @got } 'the message';
    is \@got, ['message'], 'counts as not destroyed';
};

done_testing;
