package Chaos::Talk;

# One end of a healthy connection: sends a stream of its own at random times, checks the other's, and ends the
# connection where that is its part.

use v5.36;

use AnyEvent;
use AnyEvent::WebSocket::Message;
use Digest::MD5  qw(md5);
use Scalar::Util qw(weaken);
use Socket       qw(SOL_SOCKET SO_SNDBUF);

use Chaos::Checker;
use Chaos::Habits;
use Chaos::Sabotage;
use Chaos::Stream;

# Where an end sends by `drain`, no more than this and one message is to wait, in bytes.
use constant BOUND => 16_384;

# Arguments: connection; side; plan; run: the options of the run; over: told when it has ended, with a text where that
# was not as it should have been.
sub new ($class, %arg) {
    my ($plan, $side) = @arg{qw(plan side)};
    my $other = $side eq 'client' ? 'server' : 'client';
    my %of    = (count => $arg{run}{messages}, largest => $arg{run}{largest});
    my $self  = bless {
        %arg,
        stream  => Chaos::Stream->new(%of, key => $plan->{"key_$side"}),
        checker => Chaos::Checker->new(Chaos::Stream->new(%of, key => $plan->{"key_$other"})),
        next    => 0,
        drains  => 0,
    }, $class;
    weaken(my $weak = $self);
    my $connection = $self->{connection};
    $connection->on(each_message => sub { $weak->_take($_[1]) if $weak });
    $connection->on(parse_error  => sub { $weak->{error} = "parse_error: $_[1]" if $weak });
    $connection->on(finish       => sub { $weak->_finished($_[0], $_[1]) if $weak });
    $self->{habits} = Chaos::Habits->new(
        connection => $connection, side => $side, habits => $plan->{"habits_$side"}, key => $plan->{"key_$side"},
        error => sub ($text) { $weak->{error} //= $text if $weak },
    );
    if ($plan->{"habits_$side"}{drains}) {
        # Otherwise the socket takes more than there is.
        setsockopt $connection->handle->fh, SOL_SOCKET, SO_SNDBUF, pack 'i', 4096 or die "SO_SNDBUF: $!\n";
        Chaos::Sabotage::on_drain($side, $connection, sub { $weak->_drained if $weak });
    }
    return $self;
}

# The messages are spread over so many seconds, or begin somewhere in the first half of them.
sub go ($self, $seconds) {
    my $plan = $self->{plan};
    $self->{habits}->start($seconds);
    if ($plan->{"habits_$self->{side}"}{drains}) {
        my ($begin) = unpack 'N', md5("begin $plan->{\"key_$self->{side}\"}");
        weaken(my $weak = $self);
        $self->{timer} = AE::timer($seconds / 2 * ($begin % 1024) / 1024, 0, sub { $weak->_send_what_may_wait });
        return;
    }
    $self->{spread} = $seconds / $self->{stream}->count;
    # Some at the very start, which they arrive at while nothing is known to be idle.
    $self->_wait(0);
    return;
}

sub _wait ($self, $delay) {
    weaken(my $weak = $self);
    $self->{timer} = AE::timer($delay, 0, sub { $weak->_send });
    return;
}

sub _send ($self) {
    my $stream = $self->{stream};
    delete $self->{timer};
    while ($self->{next} < $stream->count) {
        my $number = $self->{next}++;
        Chaos::Sabotage::send($self->{side}, $self->{connection}, $number, $stream->message($number));
        # A quarter goes right behind the one before.
        my ($burst, $delay) = unpack 'N2', md5("delay $self->{plan}{\"key_$self->{side}\"} $number");
        next if $burst % 4 == 0;
        $self->_wait(2 * $self->{spread} * ($delay % 1024) / 1024);
        last;
    }
    $self->_end_if_done;
    return;
}

sub _send_what_may_wait ($self) {
    my ($stream, $connection) = @$self{qw(stream connection)};
    delete $self->{timer};
    while ($self->{next} < $stream->count) {
        my $before = $connection->buffered_amount;
        # The rest comes with `drain`.
        return if $before >= BOUND;
        my $number = $self->{next}++;
        my ($opcode, $octets) = $stream->message($number);
        Chaos::Sabotage::send($self->{side}, $connection, $number, $opcode, $octets);
        my $amount = $connection->buffered_amount;
        # With the headers, and what deflate adds at worst.
        my $most = $before + 1.01 * length($octets) + 100;
        $self->{error} //= "buffered_amount is $amount after $before and a message of " . length $octets if $amount > $most;
    }
    $self->_end_if_done;
    return;
}

sub _drained ($self) {
    $self->{drains}++;
    my $amount = $self->{connection} ? $self->{connection}->buffered_amount : 0;
    $self->{error} //= "drain, and $amount bytes wait" if $amount;
    # Its turn may not have come yet.
    $self->_send_what_may_wait if !$self->{timer} && $self->{connection};
    return;
}

sub _take ($self, $message) {
    return $self->{error} //= 'a message after finish' if $self->{finished};
    $self->{checker}->take($message->opcode, $message->body);
    $self->{habits}->take;
    $self->_end_if_done;
    return;
}

sub _end_if_done ($self) {
    return if $self->{ending} || $self->{timer} || $self->{next} < $self->{stream}->count;
    return if !$self->{checker}->is_complete;
    my ($how, $side) = @{ $self->{plan}{ending} }{qw(how side)};
    return if $side ne $self->{side};
    $self->{ending} = 1;
    $self->{habits}->stop;
    if ($how eq 'close') {
        $self->{connection}->close(1000, "all of $self->{plan}{number}");
    }
    elsif ($how eq 'drop') {
        delete $self->{connection};
        $self->_over;
    }
    else {
        $self->{connection}->handle->push_shutdown;
    }
    return;
}

sub _finished ($self, $connection, $error) {
    return $self->{error} = 'finish a second time' if $self->{finished}++;
    $self->{error} //= "finish: $error" if defined $error;
    $self->{error} //= 'not clean, though both sides have closed'
        if $self->{plan}{ending}{how} ne 'eof' && !$connection->was_clean;
    $self->{habits}->check_answered if $self->{ending} && $self->{plan}{ending}{how} eq 'close' && !defined $error;
    delete $self->{connection};
    $self->_over;
    return;
}

sub _over ($self) {
    return if $self->{over_told}++;
    delete $self->{timer};
    $self->{habits}->stop;
    $self->{over}->($self->{error});
    return;
}

sub verdict ($self) {
    return { %{ $self->{checker}->verdict }, drains => $self->{drains}, $self->{habits}->counts };
}

1;
