package Chaos::Plan;

# What is to happen on one connection. It follows from the seed, the cycle and the connection's number alone, so that
# both ends know it, and a run can be had again.

use v5.36;

use Differential::Numbers;
use Exporter qw(import);

use Chaos::Stream;

our @EXPORT_OK = qw(kinds about share_of);

# Of a hundred connections; who is at fault, and what is seen of it.
my @KINDS = (
    [healthy           => 52, 'both sides send numbered messages, then one side ends it: close, drop or EOF'],
    [slow              => 4,  'the peer sends a message bytes one by one, and gets it back'],
    ['slow handshake'  => 2,  'the peer sends its request bytes one by one, and is never done'],
    [reset             => 6,  'the peer resets (SO_LINGER 0), with data on its way in both directions'],
    ['reset handshake' => 2,  'the peer resets in the middle of its request'],
    ['half-open'       => 4,  'the peer stops: no byte, no EOF; the server has a timeout, or closes and is not answered'],
    ['EOF in a frame'  => 5,  'the peer ends in the middle of a frame, of its header or of a fragmented message'],
    [violation         => 6,  'the peer breaks the protocol, and is told by the right Close'],
    [stalled           => 3,  'the peer does not read while much is sent to it; then it reads on, resets, or is cut off'],
    [drop              => 5,  'the server lets go of the connection, in a callback or outside'],
    [die               => 4,  'a callback of the server dies'],
    [destroy           => 4,  'the server destroys the handle, in a callback or outside'],
    ['both close'      => 3,  'both sides close at once'],
);
my %ABOUT = map { $_->[0] => $_->[2] } @KINDS;
my @LAID_OUT = map { ($_->[0]) x $_->[1] } @KINDS;

sub kinds ()         { map { $_->[0] } @KINDS }
sub about ($kind)    { $ABOUT{$kind} }
sub share_of ($kind) { scalar grep { $_ eq $kind } @LAID_OUT }

# Spread, so that a few connections have most kinds, and each process has its part of all.
sub _kind ($number) { $LAID_OUT[ $number * 37 % @LAID_OUT ] }

# What a healthy connection may be like besides.
my @ENDINGS = map { my $how = $_; map { {how => $how, side => $_} } qw(client server) } qw(close drop eof);

sub new ($class, $run, $cycle, $number) {
    my $chance = Differential::Numbers->new("$run->{seed} $cycle $number");
    my $kind   = _kind($number);
    my $self   = bless {
        kind   => $kind,
        cycle  => $cycle,
        number => $number,
        # Seconds from the start, but not as late as what ends by itself then.
        at      => $run->{seconds} * $chance->between(5, 90) / 100,
        variant => $chance->below(1 << 20),
    }, $class;
    $self->{"key_$_"} = "$run->{seed} $cycle $number $_" for qw(client server);
    if ($kind eq 'healthy') {
        $self->{ending} = $chance->pick(@ENDINGS);
        # A compressor has some 300 KiB.
        $self->{deflate} = $chance->weighted(90 => '', 5 => 'context', 5 => 'no context');
        $self->{narrow}  = $chance->percent(20);
        # See Chaos::Habits; with `drains` an end sends as much as may wait, and goes on when that has left.
        $self->{"habits_$_"} = {map { ($_ => $chance->percent(25)) } qw(pauses pings drains)} for qw(client server);
        # One that has shut its write side has no answer.
        if ($self->{ending}{how} eq 'eof') { $self->{"habits_$_"}{pings} = '' for qw(client server) }
    }
    return $self;
}

# What is sent to a peer that does not read.
sub stalled_stream ($plan, $run) {
    return Chaos::Stream->new(
        key => "stalled $plan->{key_server}", count => 16, amount => $run->{stalled} / 16, largest => $run->{stalled},
    );
}

# One of several things, always the same for a connection.
sub choose ($self, @choices) { $choices[ $self->{variant} % @choices ] }

1;
