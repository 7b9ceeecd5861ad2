package Torture::End;

# One end of a pair of connections, both of which are ours, and what it has a right to: messages in the order in which
# they were sent and as they were sent, all of them as long as nobody has done anything worse than to close; one finish,
# and nothing behind it.

use v5.36;

use Scalar::Util qw(weaken);

# What callbacks of the test die of.
our $ON_PURPOSE = "torture on purpose\n";

# Arguments: name; episode, which is told of violations.
sub new ($class, %arg) {
    my $self = bless {%arg, sent => [], owed => 0, received => 0, finished => 0, failed => 0, cancels => []}, $class;
    weaken($self->{episode});
    return $self;
}

sub begin ($self, $connection, $other) {
    $self->{connection} = $connection;
    weaken($self->{alive}  = $connection);
    weaken($self->{handle} = $connection->handle);
    weaken($self->{other}  = $other);
    weaken($self);
    $connection->on(each_message => sub ($connection, $message, $cancel) { $self->_received($message) if $self });
    $connection->on(parse_error  => sub ($connection, $text) { $self->_failed($text) if $self });
    $connection->on(finish       => sub ($connection, $text) { $self->_finished($text) if $self });
    return;
}

sub violation ($self, $text) {
    $self->{episode}->violation("$self->{name}: $text");
    return;
}

# Before a message is given away: it may arrive while that is under way, in an event loop of some callback's.
sub sends ($self, $opcode, $octets) {
    push @{ $self->{sent} }, [$opcode, $octets];
    $self->{owed} = @{ $self->{sent} } if !$self->{is_ending} && !$self->{other}{is_ending};
    return;
}

# From now on messages to and from here need not all arrive: the program has done something to this end.
sub disturb ($self) {
    $self->{is_ending} = $self->{is_disturbed} = 1;
    return;
}

# From now on nothing is owed that is sent later.
sub ends ($self) {
    $self->{is_ending} = 1;
    return;
}

sub _received ($self, $message) {
    $self->violation('a message after finish')      if $self->{finished};
    $self->violation('a message after parse_error') if $self->{failed};
    # The program has taken bytes from the middle.
    return if $self->{is_taken};
    my $sent = $self->{other}{sent}[ $self->{received}++ ];
    return $self->violation("message $self->{received} arrived, which was not sent") if !$sent;
    my $octets = $message->body;
    $self->violation("message $self->{received} has opcode " . $message->opcode . ", not $sent->[0]")
        if $message->opcode != $sent->[0];
    $self->violation(sprintf "message %d is %d bytes '%.40s', not %d bytes '%.40s'",
        $self->{received}, length $octets, $octets, length $sent->[1], $sent->[1])
        if $octets ne $sent->[1];
    $self->{episode}{messages}++;
    # What has been compared is not needed any more.
    $sent->[1] = '';
    $sent->[1] = $octets if length $octets < 100;
    return;
}

sub _failed ($self, $text) {
    $self->violation('parse_error a second time')   if $self->{failed}++;
    $self->violation('parse_error after finish')    if $self->{finished};
    $self->violation("parse_error, undisturbed: $text") if !$self->{is_disturbed} && !$self->{other}{is_disturbed};
    $self->disturb;
    return;
}

sub _finished ($self, $text) {
    $self->violation('finish a second time') if $self->{finished}++;
    $self->ends;
    return if $self->{is_disturbed} || $self->{other}{is_disturbed};
    $self->violation("finish, undisturbed, with the error '$text'") if defined $text;
    my $owed = $self->{other}{owed};
    $self->violation("finish after $self->{received} messages of at least $owed") if $self->{received} < $owed;
    return;
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
