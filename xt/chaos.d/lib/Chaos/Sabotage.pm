package Chaos::Sabotage;

# How the server's messages go out, and how it pauses: as it should be, or, for --self-test, spoilt in a way that has to be
# found.

use v5.36;

use AnyEvent::WebSocket::Message;

use Chaos::Stream;

# What each is to be found by: how the sentences of Chaos::Run begin.
my %FOUND = (
    lose       => 'lost',
    swap       => 'reordered',
    flip       => 'corrupted',
    double     => 'doubled',
    leak       => 'memory',
    descriptor => 'descriptors',
    keep       => 'connections',
    finish     => 'problems',
    exception  => 'problems',
    warning    => 'problems',
    pause      => 'problems',
    drain      => 'problems',
);

sub ways ()      { sort keys %FOUND }
sub found ($way)  { $FOUND{$way} }

our $way = '';
my $sent = 0;

# One in so many messages is spoilt.
use constant RATE => 100;

sub send ($side, $connection, $number, $opcode, $octets) {
    return _out($connection, $opcode, $octets) if !$way || $side ne 'server';
    my $spoilt = $sent++ % RATE == RATE / 2;
    return if $way eq 'lose' && $spoilt;
    if ($way eq 'swap') {
        my $before = delete $connection->{chaos_held};
        # One that is the last has nothing to be swapped with.
        return $connection->{chaos_held} = [$opcode, $octets] if $spoilt && $number == 0;
        _out($connection, $opcode, $octets);
        _out($connection, @$before) if $before;
        return;
    }
    substr($octets, -1) ^= "\x01" if $way eq 'flip' && $spoilt && length $octets && $opcode == Chaos::Stream::BINARY;
    _out($connection, $opcode, $octets);
    _out($connection, $opcode, $octets) if $way eq 'double' && $spoilt && length $octets;
    return;
}

sub pause ($side, $connection) {
    $connection->pause if $way ne 'pause' || $side ne 'server';
    return;
}

sub on_drain ($side, $connection, $code) {
    $connection->on(drain => $code) if $way ne 'drain' || $side ne 'server';
    return;
}

sub _out ($connection, $opcode, $octets) {
    $connection->send(AnyEvent::WebSocket::Message->new(opcode => $opcode, body => $octets));
    return;
}

1;
