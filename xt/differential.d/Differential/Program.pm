package Differential::Program;

# What the program does with its connection, as a conversation's actions say (Differential::Actions), and what it
# sees: what methods return, and what callbacks are called with.

use strict;
use warnings;

use Scalar::Util qw(blessed refaddr weaken);

use Differential::Classes ();
use Differential::Text    qw(quoted thrown);
use Differential::Units   ();

# `keeps` is what the program keeps of each message: see %KEPT. is_ending: the write side may be shut. is_gone:
# nothing more can be given to the connection.
sub new {
    my ($class, $keeps) = @_;
    my %self = (lines => [], depth => 0, code => {}, calls => {}, cancel => {}, is_ending => 0, is_gone => 0);
    return bless {%self, keeps => $keeps, all_kept => []}, $class;
}

sub tell {
    my ($self, $text) = @_;
    push @{ $self->{lines} }, ('    ' x $self->{depth}) . $text;
    return;
}

sub history { return $_[0]{lines} }

sub begin {
    my ($self, $connection, $class, $handle) = @_;
    @$self{qw(connection address handle)} = ($connection, refaddr $connection, refaddr $handle);
    $self->tell("$class->new -> " . (blessed($connection) eq $class ? 'a connection' : 'something else'));
    return;
}

sub has_begun  { return defined $_[0]{address} }
sub connection { return $_[0]{connection} }

sub act {
    my ($self, $connection, @actions) = @_;
    $self->_do($_, $connection) for @actions;
    return;
}

# Does one thing; in a callback for messages with the rest of its arguments.
sub _do {
    my ($self, $action, $connection, @message) = @_;
    # The program's, and in a callback for parse_error it may be the argument.
    local $@;
    return $self->tell("$action->{do}: the connection has been dropped") if !$connection;
    my $name = "act_$action->{do}";
    my @result;
    my $done = eval { @result = $self->$name($connection, $action, @message); 1 };
    $self->tell($done ? join(' ', $action->{do}, @result) : "$action->{do} died: " . thrown($@));
    return;
}

sub _returned {
    my ($self, $value) = @_;
    return '-> the connection' if ref $value && refaddr $value == $self->{address};
    return '-> ' . quoted($value);
}

sub act_send {
    my ($self, $connection, $action) = @_;
    return quoted($action->{value}), $self->_returned($connection->send($action->{value}));
}

sub act_message {
    my ($self, $connection, $action) = @_;
    my $class   = Differential::Classes::message_class($action->{class});
    my $message = $class->new(body => $action->{body}, exists $action->{opcode} ? (opcode => $action->{opcode}) : ());
    $self->{is_ending} = 1 if ($action->{opcode} // 1) == 8;
    return $action->{opcode} // 'undef', quoted($action->{body}), $self->_returned($connection->send($message));
}

sub act_echo {
    my ($self, $connection, undef, $message) = @_;
    return $self->_returned($connection->send($message));
}

sub act_decoded {
    my ($self, $connection, undef, $message) = @_;
    return $self->_returned($connection->send($message->decoded_body));
}

sub act_keep {
    my ($self, undef, undef, $message) = @_;
    $self->{kept} = $message;
    return 'the message';
}

sub act_send_kept {
    my ($self, $connection) = @_;
    return $self->{kept} ? $self->_returned($connection->send($self->{kept})) : 'nothing';
}

sub act_alter {
    my ($self, undef, undef, $message) = @_;
    $message->{body} = 'altered ' . length $message->{body};
    return 'the message';
}

sub act_close {
    my ($self, $connection, $action) = @_;
    my @arguments = @{ $action->{arguments} };
    $self->{is_ending} = 1;
    return '(' . join(', ', map { quoted($_) } @arguments) . ')', $self->_returned($connection->close(@arguments));
}

sub act_on {
    my ($self, $connection, $action) = @_;
    my ($id, $event) = @$action{qw(id event)};
    $self->{code}{$id} = $self->_callback($action);
    my $cancel = $connection->on($event, $self->{code}{$id});
    $self->_keep_cancel($id, $cancel);
    return "$event #$id ->", ref $cancel;
}

# The original's hold the connection.
sub _keep_cancel {
    my ($self, $id, $cancel) = @_;
    $self->{cancel}{$id} = $cancel if $self->{connection};
    return;
}

sub act_again {
    my ($self, $connection, $action) = @_;
    my ($id, $event) = @$action{qw(id event)};
    my $code = $self->{code}{$id} or return "#$id: not registered yet";
    my $cancel = $connection->on($event, $code);
    $self->_keep_cancel($id, $cancel);
    return "$event #$id ->", ref $cancel;
}

# What it returns is not promised.
sub act_cancel {
    my ($self, undef, $action) = @_;
    my $cancel = $self->{cancel}{ $action->{id} } or return "#$action->{id}: not registered yet";
    $cancel->();
    return "#$action->{id}";
}

sub act_cancel_itself {
    my ($self, undef, undef, undef, $cancel) = @_;
    return 'but there is no third argument' if !$cancel;
    $cancel->();
    return 'by the third argument';
}

sub act_unknown {
    my ($self, $connection) = @_;
    $connection->on(no_such_event => sub { });
    return 'event';
}

sub act_attributes {
    my ($self, $connection) = @_;
    my @handles = map { refaddr $_ } $connection->handle, $connection->{handle};
    return (
        'handle=' . (grep({ $_ != $self->{handle} } @handles) ? 'another' : 'the one it was given'),
        map { "$_=" . quoted($connection->$_) }
            qw(masked subprotocol max_payload_size max_fragments close_code close_reason close_error),
    );
}

sub act_set {
    my ($self, $connection, $action) = @_;
    my $name = $action->{name};
    $connection->$name($action->{value});
    return "$name=" . quoted($connection->$name);
}

# After the write side is shut that would be an error.
sub act_push_write {
    my ($self, $connection, $action) = @_;
    return 'is not possible any more' if $self->{is_ending};
    $connection->handle->push_write(Differential::Units::frame_bytes($action));
    return 'a frame';
}

sub act_push_shutdown {
    my ($self, $connection) = @_;
    $self->{is_ending} = 1;
    $connection->handle->push_shutdown;
    return 'called';
}

sub act_destroy {
    my ($self, $connection) = @_;
    $self->{is_ending} = $self->{is_gone} = 1;
    $connection->handle->destroy;
    return 'called';
}

sub act_drop {
    my ($self) = @_;
    $self->{is_ending} = $self->{is_gone} = 1;
    $self->let_go;
    return 'the connection';
}

# Where the program is called from may hold it a little longer.
sub let_go {
    my ($self) = @_;
    $self->{cancel} = {};
    delete $self->{connection};
    return;
}

# ---- callbacks

sub _callback {
    my ($self, $action) = @_;
    my ($id, $turns) = @$action{qw(id turns)};
    weaken $self;
    return sub {
        my ($connection, $argument, @more) = @_;
        my $call       = $self->{calls}{$id}++;
        my $is_message = blessed $argument && $argument->isa('AnyEvent::WebSocket::Message');
        my $event      = !$is_message ? $action->{event} : @_ > 2 ? 'each_message' : 'next_message';
        my $whose      = ref $connection && refaddr $connection == $self->{address} ? '' : ' of another connection';
        my $what       = $is_message ? $self->_message($argument) : thrown($argument);
        $self->tell("callback #$id ($event)$whose with " . @_ . " arguments: $what");
        $self->{is_ending} = 1 if !$is_message;
        local $self->{depth} = $self->{depth} + 1;
        for my $inner (grep { !$_->{omitted} } @{ $turns->[$call] || [] }) {
            if ($inner->{do} eq 'die') {
                $self->tell('dies');
                die $inner->{value};
            }
            $self->_do($inner, $connection, $argument, @more);
        }
    };
}

my %KEPT = (
    nothing    => sub { return },
    messages   => sub { return $_[0] },
    bodies     => sub { return $_[0]->body },
    references => sub { return \$_[0]{body} },
);

# What has become of it.
sub tell_kept {
    my ($self) = @_;
    for my $kept (@{ $self->{all_kept} }) {
        $self->tell('kept ' . quoted(blessed $kept ? $kept->body : ref $kept ? $$kept : $kept));
    }
    return;
}

# Messages have numbers, since all callbacks get the same object.
sub _message {
    my ($self, $message) = @_;
    if (!$self->{message} || $self->{message} != $message) {
        $self->{messages}++;
        weaken($self->{message} = $message);
        push @{ $self->{all_kept} }, $KEPT{ $self->{keeps} }->($message);
    }
    my ($body, $decoded) = map { quoted($_) } $message->body, $message->decoded_body;
    my $is = join '', map { $message->$_ ? 1 : 0 } qw(is_text is_binary is_close is_ping is_pong);
    return join ' ', "message $self->{messages}", 'opcode', $message->opcode, $body, 'decoded',
        $decoded eq "characters $body" ? 'alike' : $decoded, $is, ref $message, sort keys %$message;
}

1;
