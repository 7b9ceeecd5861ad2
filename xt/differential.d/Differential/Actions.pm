package Differential::Actions;

# What the program does, as data: actions, and callbacks, which are lists of actions, one list for each time that
# they are called. What an action means is in Differential::Program.

use strict;
use warnings FATAL => 'all';

use Encode ();
use Differential::Units ();

# For what is sent: what programs have to do with, and what perl has ways of its own for.
sub new {
    my ($class, $numbers, %options) = @_;
    my %self = (numbers => $numbers, next_id => 1, message_ids => [], end_ids => [], event => {}, again => []);
    return bless {%self, %options}, $class;
}

sub _flagged {
    my ($string) = @_;
    utf8::upgrade($string);
    return $string;
}

# A value for `send` or a body (compat C4, C5).
sub value {
    my ($self) = @_;
    my $numbers = $self->{numbers};
    my $count   = $numbers->below(40);
    my $kind    = $numbers->weighted(
        20 => 'text', 15 => 'characters', 10 => 'binary', 10 => 'latin', 10 => 'odd', 3 => 'wrong', 20 => 'long',
    );
    if ($kind eq 'long') {
        $count = $numbers->pick(125, 126, 127, 128, 1000, 16_383, 16_384, 65_535, 65_536, 70_000);
        $count = 130 if $count > $self->{largest};
        $kind  = $numbers->pick(qw(text characters binary));
    }
    return
          $kind eq 'text'       ? $numbers->text($count)
        : $kind eq 'characters' ? $numbers->characters($count)
        : $kind eq 'binary'     ? $numbers->binary($count)
        : $kind eq 'latin'      ? _flagged($numbers->binary($count))
        # What UTF-8 does not know.
        : $kind eq 'wrong'      ? join('', map { chr $numbers->pick(0xD800, 0xDFFF, 0x110000, 0x61) } 1 .. 5)
        : $numbers->pick('', '0', 0, 42, -1, 1.5, undef, "\0", '00', _flagged('ascii with the flag'));
}

sub message {
    my ($self) = @_;
    my $numbers = $self->{numbers};
    # 8 is not among them: after such a message the original goes on sending (compat D2).
    my $odd    = $numbers->pick(0, 3 .. 7, 11 .. 15);
    my $opcode = $numbers->weighted(20 => 1, 40 => 2, 20 => 9, 10 => 10, 4 => undef, 6 => $odd);
    my $class  = $numbers->weighted(70 => 'original', 15 => 'derived', 15 => 'alike');
    return {do => 'message', opcode => $opcode, body => $self->value, class => $class};
}

# Arguments for `close` that are allowed (compat C17, D2).
sub close {
    my ($self) = @_;
    my $numbers = $self->{numbers};
    my $code    = $numbers->pick(@Differential::Units::CLOSE_CODES, undef, 0, '', '3333');
    my $kind    = $numbers->weighted(25 => 'undef', 15 => 'odd', 20 => 'octets', 40 => 'characters');
    my $reason
        = $kind eq 'undef'  ? undef
        : $kind eq 'odd'    ? $numbers->pick('', '0')
        : $kind eq 'octets' ? $numbers->binary($numbers->below(40))
        :                     $numbers->characters($numbers->below(30));
    my @arguments = ($code, $reason);
    $#arguments = $numbers->weighted(25 => -1, 25 => 0, 50 => 1);
    return {do => 'close', arguments => \@arguments};
}

# ---- callbacks

# A callback for messages, or for `parse_error` and `finish`. One that is `lasting` is not cancelled.
sub callback {
    my ($self, $event, %options) = @_;
    my $numbers = $self->{numbers};
    my $is_end  = $event =~ /^(?:parse_error|finish)$/;
    my $id      = $self->{next_id}++;
    my $depth   = $options{depth} || 0;
    my $turns   = $numbers->weighted(40 => 0, 40 => 1, 20 => 3);
    my @turns   = map { [map { $self->_inside($is_end, $depth) } 1 .. $numbers->below(3)] } 1 .. $turns;
    push @{ $self->{ $is_end ? 'end_ids' : 'message_ids' } }, $id if !$options{lasting};
    $self->{event}{$id} = $event;
    return {do => 'on', event => $event, id => $id, turns => $options{turns} || \@turns};
}

sub on {
    my ($self, $depth) = @_;
    my $event = $self->{numbers}->weighted(
        45 => 'each_message', 35 => 'next_message', 10 => 'parse_error', 10 => 'finish',
    );
    return $self->callback($event, depth => $depth + 1);
}

sub _cancel {
    my ($self, @ids) = @_;
    my %wanted = map { $_ => 1 } @ids;
    my @again  = grep { $wanted{$_} } @{ $self->{again} };
    @ids = @again if @again && $self->{numbers}->percent(40);
    return @ids ? {do => 'cancel', id => $self->{numbers}->pick(@ids)} : {do => 'attributes'};
}

# The same code once more. The two events for messages may share it: its arguments tell which of them it is.
sub _again {
    my ($self, @ids) = @_;
    my $numbers = $self->{numbers};
    return {do => 'attributes'} if !@ids;
    my $id    = $numbers->pick(@ids);
    my $event = $self->{event}{$id};
    $event = $numbers->pick('each_message', 'next_message') if $event =~ /message/ && $numbers->percent(40);
    push @{ $self->{again} }, $id;
    return {do => 'again', id => $id, event => $event};
}

sub _set {
    my ($self) = @_;
    my $numbers = $self->{numbers};
    my $name    = $numbers->pick(qw(close_code close_reason close_error));
    return {do => 'set', name => $name, value => $numbers->pick(undef, 'set', 4321)};
}

sub frame_of_its_own {
    my ($self) = @_;
    my $numbers = $self->{numbers};
    my $payload = $numbers->binary($numbers->below(20));
    my %frame   = (opcode => $numbers->pick(1, 2, 10), payload => $payload, mask => $numbers->pick(undef, 'mask'));
    return {do => 'push_write', %frame};
}

# What is done outside of callbacks.
sub outside {
    my ($self) = @_;
    my $numbers = $self->{numbers};
    my @message = @{ $self->{message_ids} };
    my $what = $numbers->weighted(
        28 => 'send', 20 => 'message', 16 => 'on', 10 => 'cancel', 9 => 'again', 3 => 'attributes', 2 => 'unknown',
        1 => 'again_end', 4 => 'push_write', 2 => 'set', 3 => 'send_kept', 2 => 'close',
    );
    return
          $what eq 'send'       ? {do => 'send', value => $self->value}
        : $what eq 'message'    ? $self->message
        : $what eq 'on'         ? $self->on(0)
        : $what eq 'cancel'     ? $self->_cancel(@message, @{ $self->{end_ids} })
        : $what eq 'again'      ? $self->_again(@message)
        : $what eq 'again_end'  ? $self->_again(@{ $self->{end_ids} })
        : $what eq 'push_write' ? $self->frame_of_its_own
        : $what eq 'set'        ? $self->_set
        : $what eq 'close'      ? $self->close
        :                         {do => $what};
}

# What callbacks do. Those for `parse_error` and `finish` cancel only callbacks for messages: the original goes
# through these two lists while they change, and misses some.
sub _inside {
    my ($self, $is_end, $depth) = @_;
    my $numbers = $self->{numbers};
    my @message = @{ $self->{message_ids} };
    my $what = $is_end
        ? $numbers->weighted(
            25 => 'send', 10 => 'message', 15 => 'close', 20 => 'on', 15 => 'attributes', 10 => 'cancel', 5 => 'set',
        )
        : $numbers->weighted(
            22 => 'echo', 18 => 'send', 14 => 'message', 12 => 'on', 10 => 'cancel', 12 => 'cancel_itself',
            5 => 'again', 3 => 'alter', 3 => 'attributes', 4 => 'push_write', 2 => 'close', 3 => 'keep',
            2 => 'send_kept', 2 => 'decoded',
        );
    return {do => 'attributes'} if $what eq 'on' && $depth >= 2;
    return
          $what eq 'send'       ? {do => 'send', value => $self->value}
        : $what eq 'message'    ? $self->message
        : $what eq 'on'         ? $self->on($depth)
        : $what eq 'cancel'     ? $self->_cancel($is_end ? @message : (@message, @{ $self->{end_ids} }))
        : $what eq 'again'      ? $self->_again(@message)
        : $what eq 'push_write' ? $self->frame_of_its_own
        : $what eq 'set'        ? $self->_set
        : $what eq 'close'      ? $self->close
        :                         {do => $what};
}

1;
