package Differential::Units;

# What the peer sends, in units: a message with all its fragments and the control frames between them, or a
# control frame. A unit is {frames => [what Peer::frame takes], cuts => [offsets]}; at a cut the bytes before it
# are given to the connection and handled before the rest is written.
#
# Everything here is valid: by RFC 6455 (compat D1), and within the limits of the connection (compat C16).
# What is not is made on purpose, and is the last thing that a peer sends.

use strict;
use warnings FATAL => 'all';

use Encode    ();
use List::Util qw(min sum0);

use Peer ();

# Codes that may stand in a Close frame, RFC 6455 section 7.4 and its registry.
our @CLOSE_CODES = (1000 .. 1003, 1007 .. 1014, 3000, 3999, 4000, 4999);

# `limit` and `most` are what the connection allows a frame's payload and a message's frames, `bytes` how much
# data there is to be in the conversation altogether.
sub new {
    my ($class, $numbers, %options) = @_;
    my $masking = $numbers->weighted(40 => 'always', 30 => 'never', 30 => 'at times');
    my $cutting = $numbers->weighted(35 => 'never', 40 => 'at times', 25 => 'often');
    return bless {numbers => $numbers, masking => $masking, cutting => $cutting, %options}, $class;
}

sub _mask {
    my ($self) = @_;
    my $numbers = $self->{numbers};
    my $chance  = {always => 100, never => 0, 'at times' => 50}->{ $self->{masking} };
    return $numbers->percent($chance) ? $numbers->percent(5) ? "\0\0\0\0" : $numbers->binary(4) : undef;
}

sub _frame {
    my ($self, $opcode, $payload, %more) = @_;
    $self->{bytes} -= length $payload;
    return {fin => 1, opcode => $opcode, payload => $payload, mask => $self->_mask, %more};
}

# Around the borders between the three forms of a length, and the usual limit.
my @NOTABLE = (0, 1, 125, 126, 127, 65_534, 65_535, 65_536, 65_537);

sub _length {
    my ($self) = @_;
    my $numbers = $self->{numbers};
    my $length = $numbers->weighted(
        55 => $numbers->below(30),
        20 => $numbers->below(2000),
        20 => $numbers->pick(@NOTABLE, min($self->{limit}, 1 << 17)),
        4  => $numbers->below(200_000),
        1  => $numbers->below(1_500_000),
    );
    return min($length, $self->{limit}, $self->{bytes} > 0 ? $self->{bytes} : 20);
}

sub _control {
    my ($self) = @_;
    my $numbers = $self->{numbers};
    my $opcode  = $numbers->weighted(70 => 9, 30 => 10);
    my $length  = $numbers->weighted(20 => 0, 60 => $numbers->below(40), 20 => $numbers->pick(124, 125));
    return $self->_frame($opcode, $numbers->binary(min($length, $self->{limit})));
}

sub _fragment_count {
    my ($self) = @_;
    my ($numbers, $most) = @$self{qw(numbers most)};
    return min($most, $numbers->weighted(
        60 => 1,
        25 => $numbers->between(2, 4),
        9  => $numbers->between(5, 20),
        6  => $numbers->pick($most - 1, $most, $numbers->between(1, $most)),
    ) || 1);
}

# How a message is divided, empty fragments included.
sub _sizes {
    my ($self, $count) = @_;
    my $numbers = $self->{numbers};
    # The limit is one for frames, not for messages.
    return map { $numbers->below(1 + min($self->{limit}, 40)) } 1 .. $count if $numbers->percent(30);
    my $length = $count > 20 ? min(400, $self->{limit}) : $self->_length;
    my @ends   = sort { $a <=> $b } map { $numbers->below($length + 1) } 2 .. $count;
    my $start  = 0;
    return map { my $size = $_ - $start; $start = $_; $size } @ends, $length;
}

sub message_of {
    my ($self, @sizes) = @_;
    my $numbers = $self->{numbers};
    my $opcode  = $numbers->pick(1, 2);
    my $payload = $opcode == 1 ? $numbers->text(sum0 @sizes) : $numbers->binary(sum0 @sizes);
    my $at      = 0;
    my @frames;
    for my $size (@sizes) {
        push @frames, $self->_frame(@frames ? 0 : $opcode, substr($payload, $at, $size), fin => 0);
        $at += $size;
    }
    $frames[-1]{fin} = 1;
    return @frames;
}

# Control frames may come between fragments (section 5.4).
sub _interleaved {
    my ($self, @frames) = @_;
    my $chance = @frames > 6 ? 4 : 25;
    my $last   = pop @frames;
    return ((map { ($_, $self->{numbers}->percent($chance) ? $self->_control : ()) } @frames), $last);
}

sub control { return $_[0]->_unit($_[0]->_control) }

sub message {
    my ($self) = @_;
    return $self->_unit($self->_interleaved($self->message_of($self->_sizes($self->_fragment_count))));
}

sub any {
    my ($self) = @_;
    return $self->{numbers}->percent(75) ? $self->message : $self->control;
}

# A message of few bytes in one frame, for where all has to come with one read of the original's.
sub small {
    my ($self) = @_;
    return {frames => [$self->message_of($self->{numbers}->below(1 + min($self->{limit}, 30)))], cuts => []};
}

sub reason {
    my ($self, $room) = @_;
    my $numbers = $self->{numbers};
    my $length  = $numbers->weighted(40 => 0, 40 => $numbers->below(60), 20 => $numbers->pick(122, 123));
    return $numbers->text(min($length, $room));
}

sub close {
    my ($self) = @_;
    my $numbers = $self->{numbers};
    my $code    = $numbers->pick(@CLOSE_CODES);
    my $body    = $numbers->percent(20) ? '' : pack('n', $code) . $self->reason($self->{limit} - 2);
    return $self->_unit($self->_frame(8, $body));
}

# A frame that announces more than the limit allows, with a little of its payload: not more than comes with the
# same read, since the original goes on to take what follows for frames. Perhaps it is not the first of its message.
sub too_big {
    my ($self, $room) = @_;
    my $numbers = $self->{numbers};
    my $limit   = $self->{limit};
    my $above   = $limit + 1 + $numbers->below(1000);
    my $length  = $numbers->pick($limit + 1, $limit + 1, $above, 1 << 31, 1 << 40, ~0 >> 1);
    my @before  = $self->{most} > 1 && $numbers->percent(30) ? ($self->message_of(min(3, $limit), 0))[0] : ();
    my $opcode = @before ? 0 : $numbers->pick(1, 2, $length <= 125 ? 9 : 2);
    my $part   = min($length, $numbers->below($room + 1));
    # That part of it is valid, too, whichever is looked at first.
    my $fin   = $opcode == 9 ? 1 : $numbers->below(2);
    my $frame = $self->_frame($opcode, $numbers->text($part), length => $length, fin => $fin);
    # For the original the header ends with the length.
    $frame->{mask} = undef if !$room;
    return {frames => [@before, $frame], cuts => []};
}

# A message with one frame too many. The original knows by the last one allowed, which is not final, that another
# has to follow; so nothing may come between these two.
sub too_many {
    my ($self) = @_;
    my @frames  = $self->message_of(map { $self->{numbers}->below(1 + min(4, $self->{limit})) } 0 .. $self->{most});
    my @last    = splice @frames, -2;
    my $unit    = $self->_unit($self->_interleaved(@frames, $last[0]), $last[1]);
    my $allowed = 0;
    $allowed += frame_length($_) for @{ $unit->{frames} }[0 .. $#{ $unit->{frames} } - 2];
    $unit->{cuts} = [grep { $_ <= $allowed } @{ $unit->{cuts} }];
    return $unit;
}

# ---- cuts

sub header_length {
    my ($frame) = @_;
    my $length = $frame->{length} // length $frame->{payload};
    return 2 + ($length < 126 ? 0 : $length < 65536 ? 2 : 8) + (defined $frame->{mask} ? 4 : 0);
}

sub frame_bytes { return Peer::frame(%{ $_[0] }) }

# Of the whole unit.
sub bytes {
    my ($unit) = @_;
    my $bytes = join '', map { frame_bytes($_) } @{ $unit->{frames} };
    return defined $unit->{keep} ? substr $bytes, 0, $unit->{keep} : $bytes;
}

sub frame_length { return header_length($_[0]) + length $_[0]{payload} }

sub _unit {
    my ($self, @frames) = @_;
    return {frames => \@frames, cuts => $self->_cuts(@frames)};
}

sub _cuts {
    my ($self, @frames) = @_;
    my $numbers = $self->{numbers};
    my %chance = (never => 0, 'at times' => 25, often => 80);
    return [] if !$numbers->percent($chance{ $self->{cutting} });
    my $length = sum0 map { frame_length($_) } @frames;
    return [0 .. $length - 1] if $length < 120 && $numbers->percent(25);
    my @cuts = $numbers->several_below($numbers->between(1, 4), $length);
    if ($numbers->percent(60)) {
        my $at = 0;
        for my $frame (@frames[0 .. min(9, $#frames)]) {
            push @cuts, $at + $numbers->below(header_length($frame) + 1) if $numbers->percent(50);
            $at += frame_length($frame);
        }
    }
    my %seen;
    return [sort { $a <=> $b } grep { $_ < $length && !$seen{$_}++ } @cuts];
}

1;
