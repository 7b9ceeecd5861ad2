package Torture::End;

# One end of a pair of connections, both of which are ours, and what it has a right to: messages, Pings and Pongs in the
# order in which they were sent and as they were sent, all of them as long as nobody has done anything worse than to close;
# nothing during a pause; one finish, and nothing behind it.

use v5.36;

use AnyEvent;
use List::Util   qw(any max);
use Scalar::Util qw(weaken);

# What callbacks of the test die of.
our $ON_PURPOSE = "torture on purpose\n";

# In seconds: what clocks and the steps of a timer may be apart.
use constant SLACK => 0.02;

# How a connection may end, each of which is counted.
use constant ENDINGS => 'end of file', 'error', 'write buffer is full', 'ping timeout', 'close timeout', 'idle timeout';

# Arguments: name; episode, which is told of violations; limits: those of the connection's options that may end it;
# watches: which events are watched besides.
sub new ($class, %arg) {
    my $self = bless {
        %arg, sent => [], owed => 0, received => 0, finished => 0, failed => 0, cancels => [],
        pings => [], answered => 0, busy => 0, doubts => [], paused_doubts => [],
    }, $class;
    weaken($self->{episode});
    return $self;
}

sub begin ($self, $connection, $other) {
    $self->{connection} = $connection;
    $self->{heard} = $self->{talked} = AE::time;
    # It begins to listen when the event loop has been idle, or 50 ms later.
    $self->{quiet_until} = AE::time + 0.1;
    weaken($self->{alive}  = $connection);
    weaken($self->{handle} = $connection->handle);
    weaken($self->{other}  = $other);
    weaken($self);
    $connection->on(each_message => sub ($connection, $message, $cancel) { $self->_received($message) if $self });
    $connection->on(parse_error  => sub ($connection, $text) { $self->_failed($text) if $self });
    $connection->on(finish       => sub ($connection, $text) { $self->_finished($connection, $text) if $self });
    my %code = (
        ping  => sub ($connection, $message, @) { $self->_pinged($message)  if $self },
        pong  => sub ($connection, $message, @) { $self->_ponged($message)  if $self },
        drain => sub ($connection, @)           { $self->_drained           if $self },
    );
    $connection->on($_ => $code{$_}) for grep { $self->{watches}{$_} } sort keys %code;
    return;
}

sub violation ($self, $text) {
    $self->{episode}->violation("$self->{name}: $text");
    return;
}

# Whether both still owe each other everything.
sub is_calm ($self) {
    return !any { $_->{is_ending} } $self, $self->{other};
}

sub _is_undisturbed ($self) {
    return !any { $_->{is_disturbed} } $self, $self->{other};
}

# Before a message, Ping or Pong is given away: it may arrive while that is under way, in an event loop of some callback's.
sub sends ($self, $opcode, $octets) {
    push @{ $self->{sent} },  [$opcode, $octets];
    push @{ $self->{pings} }, $octets if $opcode == 9;
    $self->{bytes} += 200 + length $octets;
    $self->{owed} = @{ $self->{sent} } if $self->is_calm;
    return;
}

# After that.
sub has_sent ($self, $connection, $opcode) {
    $self->{talked} = AE::time if $opcode < 8;
    $self->{awaits_drain} = 1 if $self->{watches}{drain} && $self->is_calm && $connection->buffered_amount;
    return;
}

# How much may wait to be sent: what was given, with what frames and TLS add, Pings, and as many Pongs as wait at most.
sub most_buffered ($self) { 200_000 + 1.05 * ($self->{bytes} // 0) }

# From now on messages to and from here need not all arrive: the program has done something to this end.
sub disturb ($self) {
    $self->{is_ending} = $self->{is_disturbed} = 1;
    return;
}

# From now on nothing is owed that is sent later. An end of its own ends a pause, too.
sub ends ($self) {
    $self->{is_ending} = 1;
    $self->resumes;
    return;
}

# The timer of the connection's own closes it.
sub closes_idle ($self) {
    my $limit = $self->{limits}{idle_timeout};
    return $self->violation('closed for idleness without idle_timeout') if !$limit;
    my $for = AE::time - $self->{talked};
    $self->violation("closed for idleness of $for s, and idle_timeout is $limit s")
        if $for < $limit - SLACK && $self->_is_undisturbed;
    $self->violation('closed for idleness during a pause') if $self->{is_paused};
    $self->{is_idle} = 1;
    $self->{episode}{endings}{'idle timeout'}++;
    $self->ends;
    return;
}

# ---- pauses, and other times in which this end does not answer

sub pauses ($self) {
    $self->{is_paused} = 1 if !$self->{is_ending};
    return;
}

sub resumes ($self) {
    $self->_was_quiet_until_now if $self->{is_paused};
    $self->{is_paused} = 0;
    return;
}

# Where the program stops it.
sub stops_reading ($self) {
    $self->{is_stopped} = 1;
    # From then on everything goes through the handle.
    $self->{lingers} = 0;
    return;
}

sub start_reading ($self) {
    return if !delete $self->{is_stopped};
    $self->_was_quiet_until_now;
    my $handle = $self->{handle};
    return if !$handle || $handle->destroyed || $self->{is_taken} || !$handle->fh || !defined fileno $handle->fh;
    $handle->start_read;
    return;
}

# Runs code as a callback for an event.
sub in_callback ($self, $event, $code) {
    # It comes before the message is known to have been received.
    $self->{is_announced} = 1 if $event eq 'next_message';
    local $self->{busy} = $self->{busy} + 1;
    my $good = eval { $code->(); 1 };
    my $exception = $@;
    $self->_was_quiet_until_now;
    die $exception if !$good;
    return;
}

sub _was_quiet_until_now ($self) {
    $self->{quiet_until} = max($self->{quiet_until}, AE::time);
    return;
}

# Whether it has not been listening at some time in the last so many seconds.
sub _was_quiet ($self, $seconds) {
    return $self->{is_paused} || $self->{is_stopped} || $self->{busy} || $self->{quiet_until} > AE::time - $seconds;
}

# ---- what arrives

sub _received ($self, $message) {
    $self->{talked} = AE::time;
    $self->_arrived($message->opcode, $message->body, delete $self->{is_announced});
    return;
}

sub _pinged ($self, $message) {
    my $payload = $message->body;
    return $self->_arrived(9, $payload) if $payload !~ /\A[0-9]+\z/;
    # One of ping_interval.
    $self->violation("Ping $payload, without ping_interval") if !$self->{other}{limits}{ping_interval};
    $self->_is_allowed('a Ping');
    return $self->_in_sequence(Ping => $payload);
}

sub _ponged ($self, $message) {
    my $payload = $message->body;
    # What answers nothing has its own place among what was sent.
    return $self->_arrived(10, $payload) if $payload =~ /\AD/;
    $self->_is_allowed('a Pong');
    # What has lost some bytes takes anything for a Ping.
    return if any { $_->{is_taken} } $self, $self->{other};
    return $self->_in_sequence(Pong => $payload) if $payload =~ /\A[0-9]+\z/;
    # Some may be left out, of many.
    my ($pings, $at) = ($self->{pings}, $self->{answered});
    $at++ while $at < @$pings && $pings->[$at] ne $payload;
    return $self->violation(sprintf "a Pong '%.20s' of %d bytes, for which there was no Ping", $payload, length $payload)
        if $at == @$pings;
    $self->{answered} = $at + 1;
    return;
}

# The automatic ones are numbered.
sub _in_sequence ($self, $name, $number) {
    return if $self->{is_taken};
    $self->violation("$name $number after $self->{last}{$name}") if $number <= ($self->{last}{$name} // 0);
    $self->{last}{$name} = $number;
    return;
}

# Whether anything may arrive now.
sub _is_allowed ($self, $what, $is_announced = 0) {
    $self->{heard} = AE::time;
    $self->{episode}{messages}++;
    $self->_is_running($what);
    $self->violation("$what after finish")      if $self->{finished};
    $self->violation("$what after parse_error") if $self->{failed};
    return if !$self->{is_paused} || $is_announced || !$self->is_calm;
    # Before the finish of one that has been cut off all that had arrived is delivered.
    return push @{ $self->{paused_doubts} }, "$what during a pause" if $self->{limits}{max_write_buffer};
    $self->violation("$what during a pause");
    return;
}

# After `exit` nobody is told anything any more.
sub _is_running ($self, $what) {
    $self->violation("$what, in the phase ${^GLOBAL_PHASE} of the program") if ${^GLOBAL_PHASE} ne 'RUN';
    return;
}

# Of what the other end has sent the next thing that is watched here.
sub _next ($self) {
    my $sent = $self->{other}{sent};
    my %name = (9 => 'ping', 10 => 'pong');
    while (my $next = $sent->[ $self->{received} ]) {
        my $name = $name{ $next->[0] };
        return $next if !$name || $self->{watches}{$name};
        $self->{received}++;
    }
    return;
}

sub _arrived ($self, $opcode, $octets, $is_announced = 0) {
    $self->_is_allowed("opcode $opcode", $is_announced);
    # The program has taken bytes from the middle.
    return if $self->{is_taken};
    my $sent   = $self->_next;
    my $number = ++$self->{received};
    return $self->violation("number $number arrived, which was not sent") if !$sent;
    $self->violation("number $number has opcode $opcode, not $sent->[0]") if $opcode != $sent->[0];
    $self->violation(sprintf "number %d is %d bytes '%.40s', not %d bytes '%.40s'",
        $number, length $octets, $octets, length $sent->[1], $sent->[1])
        if $octets ne $sent->[1];
    # What has been compared is not needed any more.
    $sent->[1] = '';
    $sent->[1] = $octets if length $octets < 100;
    return;
}

sub _drained ($self) {
    $self->{awaits_drain} = 0;
    $self->{episode}{drains}++;
    $self->_is_running('drain');
    $self->violation('drain after finish')      if $self->{finished};
    $self->violation('drain after parse_error') if $self->{failed};
    $self->violation('drain after close')       if $self->{has_closed};
    return;
}

# ---- the end

sub _failed ($self, $text) {
    $self->_is_running('parse_error');
    $self->violation('parse_error a second time')   if $self->{failed}++;
    $self->violation('parse_error after finish')    if $self->{finished};
    $self->violation("parse_error, undisturbed: $text") if $self->_is_undisturbed;
    $self->disturb;
    return;
}

sub _finished ($self, $connection, $text) {
    $self->_is_running('finish');
    $self->violation('finish a second time') if $self->{finished}++;
    my $was_paused = $self->{is_paused};
    if ($self->_was_cut_off($text)) {
        $self->{is_cut_off} = 1;
        @{ $self->{paused_doubts} } = ();
        $self->disturb;
        $self->resumes;
        return;
    }
    $self->{episode}{endings}{ defined $text ? 'error' : 'end of file' }++;
    my $other = $self->{other};
    my $calm  = $self->is_calm;
    $self->ends;
    return if !$self->_is_undisturbed;
    $self->_doubt("finish, undisturbed, with the error '$text'") if defined $text;
    $self->_doubt('finish during a pause')                       if $was_paused && $calm;
    $self->_next;
    $self->_doubt("finish after $self->{received} of at least $other->{owed}") if $self->{received} < $other->{owed};
    $self->_doubt('the other end was idle, and Close says ' . join ' ', map { $_ // 'nothing' } _close_of($connection))
        if $other->{is_idle} && join(' ', map { $_ // '' } _close_of($connection)) ne '1001 idle timeout';
    return;
}

sub _close_of ($connection) { return map { $connection->$_ } qw(close_code close_reason) }

# Whether the connection has given up the peer, by the text of its finish; whether it had any reason to is checked.
sub _was_cut_off ($self, $text) {
    return 0 if !defined $text;
    my $limits = $self->{limits};
    if ($text =~ /\Awrite buffer is full: ([0-9]+) bytes would wait for the peer, max_write_buffer is ([0-9]+)\z/) {
        $self->{episode}{endings}{'write buffer is full'}++;
        $self->violation("finish, $text, which was not asked for") if $2 != ($limits->{max_write_buffer} // 0) || $1 <= $2;
        return 1;
    }
    return 0 if $text !~ /\A(ping|close) timeout\z/;
    $self->{episode}{endings}{$text}++;
    my $limit = $limits->{"$1_timeout"} // ($1 eq 'close' ? 30 : undef);
    my $other = $self->{other};
    if (!defined $limit) {
        $self->violation("finish, $text, which was not asked for");
        return 1;
    }
    my $for = AE::time - $self->{heard};
    $self->violation("finish, $text, after $for s, and not $limit s") if $for < $limit - SLACK;
    $self->violation("finish, $text, before anybody has closed")      if $1 eq 'close' && $self->is_calm;
    # One that has answered the other end's Close does not pause any more.
    $self->violation("finish, $text, during a pause")                 if $self->{is_paused} && !$other->{is_ending};
    # With the quarter by which it may be longer.
    my $reach = 1.5 * $limit + SLACK;
    $self->violation("finish, $text, though both have been listening")
        if $self->_is_undisturbed && $other->{connection} && !$other->{is_ending}
        && !any { $_->_was_quiet($reach) } $self, $other;
    return 1;
}

# What is wrong, unless it comes out that the other end has cut the connection off: inside of a callback its finish is told
# later than that happens.
sub _doubt ($self, $text) {
    my $other = $self->{other};
    return $self->violation($text) if !$other->{limits}{max_write_buffer} || $other->{finished};
    push @{ $self->{doubts} }, $text;
    return;
}

sub decide_doubts ($self) {
    $self->violation($_) for splice @{ $self->{paused_doubts} };
    my @doubts = splice @{ $self->{doubts} };
    # It may have been dropped before it could tell.
    return if !@doubts || $self->{other}{is_cut_off} || !$self->{other}{finished};
    $self->violation($_) for @doubts;
    return;
}

# What is not as it has to be when there has been time for everything; empty where all is.
sub unsettled ($self) {
    my ($other, $connection) = @$self{qw(other connection)};
    $self->_next;
    my $sent = @{ $other->{sent} };
    my @all  = (
        $self->{received} < $sent ? "only $self->{received} of $sent have arrived" : (),
        $self->{watches}{pong} && $self->{answered} < @{ $self->{pings} } ? 'the last Ping was not answered'  : (),
        defined $connection->latency                                      ? () : 'there is no latency',
        $self->{awaits_drain}                                             ? 'drain has not come'              : (),
    );
    my $waiting = $connection->buffered_amount;
    push @all, "$waiting bytes still wait" if $waiting;
    return @all;
}

# Lets go of it.
sub drop ($self) {
    $self->ends;
    # What it has not read by then is nobody's loss.
    $self->{other}{owed} = 0;
    # A handle that is not plain goes with its connection, and its socket with it.
    $self->{is_disturbed} = 1 if !$self->{lingers};
    delete $self->{connection};
    @{ $self->{cancels} } = ();
    return;
}

# As far as the program still has it.
sub connection ($self) { $self->{connection} }

sub is_gone ($self) { !$self->{alive} && !$self->{handle} }

1;
