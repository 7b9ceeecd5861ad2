# What Connection and Message are as Perl objects: constructors, accessors, layout and subclasses.

use strict;
use warnings;
use lib 't/lib';
use Scalar::Util ();
use Test2::V0;
use Dying qw(dies_here);
use Peer qw(socket_pair handle_on connection_and_peer frame read_frames run_until settle);

use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;

my $CONNECTION = 'AnyEvent::WebSocket::Connection';
my $MESSAGE    = 'AnyEvent::WebSocket::Message';

my $hash = qr/.*hash ref/i;

# The other ends of the handles' sockets stay open, or the handles would see EOF.
my @peers;

sub handle {
    my ($ours, $theirs) = socket_pair();
    push @peers, $theirs;
    return handle_on($ours);
}

sub sent_by {
    my ($connection, $peer, @what) = @_;
    $connection->send($_) for @what;
    return [map { "$_->{opcode}:$_->{payload}" } read_frames($peer, scalar @what)];
}

subtest 'new takes a list or a hash reference (C1)' => sub {
    my $handle     = handle();
    my $connection = $CONNECTION->new(handle => $handle, subprotocol => 'chat', masked => 1);
    isa_ok $connection, $CONNECTION;
    ref_is $connection->handle, $handle, 'the handle is the one given';
    is $connection->subprotocol, 'chat';
    is $connection->masked, 1;

    my %arguments = (handle => handle(), max_fragments => 5, unknown => 1);
    my %copy      = %arguments;
    $connection = $CONNECTION->new(\%arguments);
    ref_is $connection->handle, $arguments{handle}, 'from a hash reference';
    is $connection->max_fragments, 5;
    is \%arguments, \%copy, 'the hash is left as it was';
    $arguments{max_fragments} = 6;
    is $connection->max_fragments, 5, 'and not referred to';

    my $like = $connection->new(handle => handle());
    is ref $like, $CONNECTION, 'new on an object makes another of its class';
};

subtest 'what is not given is undef, and masked false (C1)' => sub {
    my $connection = $CONNECTION->new(handle => handle());
    is $connection->$_, undef, $_
        for qw(subprotocol max_payload_size max_fragments close_code close_reason close_error);
    is $connection->masked, 0, 'masked';
};

subtest 'explicit undef counts as not given (C1, C16)' => sub {
    my $connection = $CONNECTION->new(
        handle => handle(), map { $_ => undef } qw(masked subprotocol max_payload_size max_fragments)
    );
    is $connection->$_, undef, $_ for qw(subprotocol max_payload_size max_fragments);
    ok !$connection->masked, 'masked';
};

subtest 'a missing handle dies, named, at the line of the caller (C1)' => sub {
    my $missing = 'Missing required arguments: handle';
    dies_here(sub { $CONNECTION->new }, $missing, 'no arguments');
    dies_here(sub { $CONNECTION->new({}) }, $missing, 'an empty hash');
    dies_here(sub { $CONNECTION->new(masked => 1) }, $missing, 'other arguments');
};

subtest 'arguments that cannot be meant die at the line of the caller (C1)' => sub {
    dies_here(sub { $CONNECTION->new('handle') }, $hash, 'a single string');
    dies_here(sub { $CONNECTION->new(undef) }, $hash, 'a single undef');
    dies_here(sub { $CONNECTION->new([]) }, $hash, 'an array reference');
    my $handle = handle();
    dies_here(sub { $CONNECTION->new(handle => $handle, 'masked') }, '.*', 'an odd list');

    my $must = 'handle must be an AnyEvent::Handle';
    dies_here(sub { $CONNECTION->new(handle => undef) }, $must, 'undef for handle');
    dies_here(sub { $CONNECTION->new(handle => 1) }, $must, 'a number for handle');
    dies_here(sub { $CONNECTION->new(handle => {}) }, $must, 'a plain reference for handle');
    dies_here(sub { $CONNECTION->new(handle => \*STDIN) }, $must, 'a file handle for handle');
    my $other = bless {}, 'Local::NotAHandle';
    dies_here(sub { $CONNECTION->new(handle => $other) }, $must, 'an unrelated object for handle');

    my @wrong = (
        [max_payload_size => 'much'], [max_payload_size => -1], [max_payload_size => []],
        [max_fragments => 'many'], [max_fragments => -1],
        [max_message_size => 'much'], [max_message_size => -1], [close_timeout => 'soon'],
        [close_timeout => -1], [role => 'both'], [role => 1],
    );
    for my $wrong (@wrong) {
        my ($name, $value) = @$wrong;
        dies_here(sub { $CONNECTION->new(handle => $handle, $name => $value) }, "$name must be", "$name => $value");
    }

    my $connection = $CONNECTION->new(handle => $handle);
    ref_is $connection->handle, $handle, 'the handle is usable after all that';
};

subtest 'read-only accessors refuse a value at the line of the caller (C1)' => sub {
    my $connection = $CONNECTION->new(handle => handle(), masked => 1);
    for my $name (qw(handle masked subprotocol max_payload_size max_fragments max_message_size)) {
        my $before = $connection->$name;
        dies_here(sub { $connection->$name(7) }, ".*$name", $name);
        is $connection->$name, $before, "$name is unchanged";
    }
};

subtest 'read-write accessors (C1)' => sub {
    my $connection = $CONNECTION->new(handle => handle(), close_code => 1001);
    is $connection->close_code, 1001, 'from the constructor';
    for my $name (qw(close_code close_reason close_error)) {
        my $value = "$name \x{263A}";
        is $connection->$name($value), $value, "$name: setting returns the value";
        my $copy = $value;
        $value = 'other';
        is $connection->$name, $copy, 'which is copied';
        is $connection->{$name}, $copy, 'and stands in the hash';
        is $connection->$name(undef), undef, 'undef is a value';
        is $connection->$name, undef;
        $connection->{$name} = 'by hand';
        is $connection->$name, 'by hand', 'the accessor sees what the hash says';
    }
    $connection->close_reason(join '', 'first', ' time');
    is [$connection->close_reason, map { $connection->close_reason($_) } 'second', 'third'],
        ['first time', 'second', 'third'],
        'a value that is replaced in the same list';
};

subtest 'a connection is a hash with its attributes (C2)' => sub {
    my $handle     = handle();
    my $connection = $CONNECTION->new(handle => $handle, subprotocol => 'chat', max_payload_size => 9,
        max_fragments => 3);
    is Scalar::Util::reftype($connection), 'HASH';
    ref_is $connection->{handle}, $handle, 'handle';
    is $connection->{masked}, 0, 'masked has its default';
    is $connection->{subprotocol}, 'chat', 'subprotocol';
    is $connection->{max_payload_size}, 9, 'max_payload_size';
    is $connection->{max_fragments}, 3, 'max_fragments';
    $connection->{of_the_program} = 1;
    is $connection->{of_the_program}, 1, 'a program may keep something there';
};

subtest 'who is a client masks, unless it is told otherwise (C7)' => sub {
    my $masked = sub { $CONNECTION->new(handle => handle(), @_)->masked };
    is $masked->(role => 'client'), 1, 'a client';
    is $masked->(role => 'server'), 0, 'a server';
    is $masked->(role => undef), 0, 'whoever';
    is $masked->(role => 'client', masked => 0), 0, 'a client that is told not to';
    is $masked->(role => 'server', masked => 1), 1, 'a server that is told to';
    my ($connection, $peer) = Peer::connection_and_peer(role => 'client');
    $connection->send('hello');
    my ($frame) = Peer::read_frames($peer, 1);
    is length($frame->{key} // ''), 4, 'the frame has a key';
    is $frame->{payload}, 'hello', 'and the payload';
};

subtest 'methods on what is no connection die instead of worse' => sub {
    my %methods = (send => ['x'], on => ['finish', sub { }], close => [], handle => [], close_code => []);
    for my $method (sort keys %methods) {
        my $code = $CONNECTION->can($method);
        for my $self (undef, 1, 'text', $CONNECTION, [], \1, sub { }, \*STDIN) {
            ok dies { $code->($self, @{ $methods{$method} }) }, "$method on " . ($self // 'undef');
        }
    }
    my $hash = bless {}, $CONNECTION;
    ok dies { $hash->send('x') }, 'send on a hash that new has not made';
    ok dies { $hash->on(finish => sub { }) }, 'on, too';
    is $hash->close_code, undef, 'accessors only look into the hash';
};

subtest 'Message->new takes a list or a hash reference (C3)' => sub {
    my $message = $MESSAGE->new(body => 'hello');
    isa_ok $message, $MESSAGE;
    is $message->body, 'hello';
    is $message->opcode, 1, 'text is the default';
    my %arguments = (body => "\x00\xFF", opcode => 2);
    $message = $MESSAGE->new(\%arguments);
    is [$message->body, $message->opcode], ["\x00\xFF", 2], 'from a hash reference';
    $arguments{body} = 'other';
    is $message->body, "\x00\xFF", 'which is not referred to';
    is ref $message->new(body => 'x'), $MESSAGE, 'new on an object';
    is $MESSAGE->new(body => undef)->body, undef, 'undef is a body';
    is $MESSAGE->new(body => $_)->body, $_, "a false body: '$_' (C4)" for '0', '', 0;
};

subtest 'a missing body dies, named, at the line of the caller (C3)' => sub {
    my $missing = 'Missing required arguments: body';
    dies_here(sub { $MESSAGE->new }, $missing, 'no arguments');
    dies_here(sub { $MESSAGE->new({}) }, $missing, 'an empty hash');
    dies_here(sub { $MESSAGE->new(opcode => 2) }, $missing, 'only an opcode');
    dies_here(sub { $MESSAGE->new('body') }, $hash, 'a single string');
    dies_here(sub { $MESSAGE->new(undef) }, $hash, 'a single undef');
    dies_here(sub { $MESSAGE->new(body => 'x', 'opcode') }, '.*', 'an odd list');
};

subtest 'Message accessors are read-only, the hash is the program\'s (C2, C3)' => sub {
    my $message = $MESSAGE->new(body => 'hello', opcode => 2);
    dies_here(sub { $message->body('x') }, '.*body', 'body');
    dies_here(sub { $message->opcode(1) }, '.*opcode', 'opcode');
    is {%$message}, {body => 'hello', opcode => 2}, 'the hash';
    is $MESSAGE->new(body => 'x')->{opcode}, 1, 'the default is there too';
    $message->{body}   = '{}';
    $message->{opcode} = 1;
    is $message->body, '{}', 'a body set by hand';
    ok $message->is_text, 'an opcode set by hand';
    my ($connection, $peer) = connection_and_peer();
    is sent_by($connection, $peer, $message), ['1:{}'], 'and both are what is sent';
};

subtest 'is_* go by the opcode (C3)' => sub {
    my %opcode = (is_text => 1, is_binary => 2, is_close => 8, is_ping => 9, is_pong => 10);
    for my $opcode (0 .. 15) {
        my $message = $MESSAGE->new(body => '', opcode => $opcode);
        my @true    = grep { $message->$_ } sort keys %opcode;
        is \@true, [grep { $opcode{$_} == $opcode } sort keys %opcode], "opcode $opcode";
    }
    ok $MESSAGE->new(body => '', opcode => '2')->is_binary, 'a number in a string';
};

subtest 'decoded_body decodes UTF-8 and leaves the body (C3)' => sub {
    my $message = $MESSAGE->new(body => "caf\xC3\xA9 \xE2\x98\xBA");
    is $message->decoded_body, "caf\x{E9} \x{263A}";
    is $message->decoded_body, "caf\x{E9} \x{263A}", 'again the same';
    is $message->body, "caf\xC3\xA9 \xE2\x98\xBA", 'the body has not changed';
    is $MESSAGE->new(body => "a\xFFb")->decoded_body, "a\x{FFFD}b", 'what is not UTF-8 is replaced';
    is $MESSAGE->new(body => '')->decoded_body, '', 'empty';
    is $MESSAGE->new(body => '0')->decoded_body, '0', '"0"';
};

subtest 'methods on what is no message die instead of worse' => sub {
    for my $method (qw(body opcode is_text decoded_body)) {
        my $code = $MESSAGE->can($method);
        ok dies { $code->($_) }, "$method on " . ($_ // 'undef') for undef, 1, $MESSAGE, [], \1, sub { };
    }
};

# Subclasses without a class builder.
{
    package Local::Parent;
    use parent -norequire, 'AnyEvent::WebSocket::Connection';

    sub new {
        my ($class, %arguments) = @_;
        my $self = $class->SUPER::new(%arguments);
        $self->{name} = $arguments{name};
        return $self;
    }

    sub name { $_[0]{name} }
    sub send { my ($self, $what) = @_; return $self->SUPER::send(uc $what) }
}
{
    package Local::Base;
    use base 'AnyEvent::WebSocket::Connection';
    sub shout { my ($self, $what) = @_; return $self->send("$what!") }
}

subtest 'subclasses by use parent and use base (C2)' => sub {
    my ($ours, $theirs) = socket_pair();
    my $connection = Local::Parent->new(handle => handle_on($ours), name => 'n', masked => 0);
    isa_ok $connection, 'Local::Parent', $CONNECTION;
    is $connection->name, 'n', 'an attribute of its own';
    is sent_by($connection, $theirs, 'hi'), ['1:HI'], 'a method over ours';

    my @arguments;
    $connection->on(next_message => sub { @arguments = @_ });
    syswrite $theirs, frame(payload => 'in');
    run_until { @arguments } 'the message';
    ref_is $arguments[0], $connection, 'callbacks get the object of the subclass';

    (my $base, $theirs) = connection_and_peer(class => 'Local::Base');
    isa_ok $base, 'Local::Base', $CONNECTION;
    ref_is $base->shout('hey'), $base, 'a method that uses ours';
    is $_->{payload}, 'hey!' for read_frames($theirs, 1);

    # The line of the program counts, not one of the subclass.
    dies_here(sub { Local::Base->new(masked => 1) }, 'Missing required arguments: handle', 'without a handle');
    dies_here(sub { Local::Base->new(handle => 1) }, 'handle must be', 'with a wrong handle');
};

my %built;
{
    package Local::Builds;
    our @ISA = ('AnyEvent::WebSocket::Connection');
    sub new   { my ($class, @arguments) = @_; my $self = $class->SUPER::new(@arguments); $self->BUILD; return $self }
    sub BUILD { $built{ +shift }++ }
}

subtest 'a BUILD of a plain subclass is its own affair (C2)' => sub {
    my $connection = Local::Builds->new(handle => handle());
    is \%built, {$connection => 1}, 'it runs when the class calls it';
};

{
    package Local::TextMessage;
    our @ISA = ('AnyEvent::WebSocket::Message');
    sub body  { '<' . $_[0]->SUPER::body() . '>' }
    sub words { [split ' ', $_[0]{body}] }
}

subtest 'a subclass of Message (C2, C3)' => sub {
    my $message = Local::TextMessage->new(body => 'some words');
    isa_ok $message, 'Local::TextMessage', $MESSAGE;
    is $message->words, ['some', 'words'], 'a method of its own';
    is $message->decoded_body, '<some words>', 'decoded_body goes through its body';
    my ($connection, $peer) = connection_and_peer();
    is sent_by($connection, $peer, $message), ['1:<some words>'], 'and so does send';
    dies_here(sub { Local::TextMessage->new(opcode => 1) }, 'Missing required arguments: body', 'without a body');
};

subtest 'method modifiers by Class::Method::Modifiers (C2)' => sub {
    eval { require Class::Method::Modifiers; 1 } or skip_all 'Class::Method::Modifiers is missing';
    my @calls;
    @Local::Modified::ISA = ($CONNECTION);
    Class::Method::Modifiers::install_modifier('Local::Modified', 'around', 'send', sub {
        my ($original, $self, $what) = @_;
        return $self->$original("[$what]");
    });
    Class::Method::Modifiers::install_modifier('Local::Modified', 'before', 'on', sub { push @calls, "on $_[1]" });
    Class::Method::Modifiers::install_modifier('Local::Modified', 'after', 'close', sub { push @calls, 'close' });
    my ($connection, $peer) = connection_and_peer(class => 'Local::Modified');
    ref_is $connection->send('a'), $connection, 'what send returns comes through';
    is $_->{payload}, '[a]', 'around send' for read_frames($peer, 1);
    is ref $connection->on(finish => sub { }), 'CODE', 'what on returns comes through';
    $connection->close;
    is \@calls, ['on finish', 'close'], 'before and after';
};

subtest 'Moo extends Connection (C2)' => sub {
    eval { require Moo; 1 } or skip_all 'Moo is missing';
    our @built = ();
    our $buildargs = 0;
    eval q{
        package Local::Moo;
        use Moo;
        extends 'AnyEvent::WebSocket::Connection';
        has name  => (is => 'rw', required => 1);
        has count => (is => 'rw', default => sub { 0 });
        has lazy  => (is => 'lazy', builder => sub { 'lazy ' . $_[0]->name });
        around BUILDARGS => sub {
            my ($original, $class, @arguments) = @_;
            $main::buildargs++;
            unshift @arguments, 'handle' if @arguments % 2;
            return $class->$original(@arguments);
        };
        sub BUILD { my ($self, $arguments) = @_; push @main::built, ['Local::Moo', ref $self, $arguments] }
        around send => sub {
            my ($original, $self, $what) = @_;
            $self->count($self->count + 1);
            return $self->$original("<$what>");
        };

        package Local::Moo::Child;
        use Moo;
        extends 'Local::Moo';
        has more => (is => 'ro');
        sub BUILD { push @main::built, ['Local::Moo::Child', ref $_[0], $_[1]] }
        1;
    } or die $@;

    my ($ours, $theirs) = socket_pair();
    my $handle     = handle_on($ours);
    my $connection = Local::Moo::Child->new(handle => $handle, name => 'n', more => 'm', subprotocol => 'chat');
    isa_ok $connection, 'Local::Moo::Child', 'Local::Moo', $CONNECTION;
    ref_is $connection->handle, $handle, 'our attributes are set';
    is $connection->subprotocol, 'chat';
    is [map { $connection->$_ } qw(name count lazy more)], ['n', 0, 'lazy n', 'm'], 'and its own';
    my $arguments = {handle => $handle, name => 'n', more => 'm', subprotocol => 'chat'};
    is \@built, [map { [$_, 'Local::Moo::Child', $arguments] } 'Local::Moo', 'Local::Moo::Child'],
        'each BUILD ran once, the parent\'s first, with the arguments';
    is sent_by($connection, $theirs, 'a', 'b'), ['1:<a>', '1:<b>'], 'around send';
    is $connection->count, 2;

    ($buildargs, @built) = (0);
    ($ours, $theirs) = socket_pair();
    $handle = handle_on($ours);
    $connection = Local::Moo->new($handle, name => 'positional');
    ref_is $connection->handle, $handle, 'BUILDARGS may rearrange the arguments';
    is $connection->name, 'positional';
    is $buildargs, 1, 'it ran once';

    dies_here(sub { Local::Moo->new(name => 'x') }, 'Missing required arguments: handle', 'without a handle');
    dies_here(sub { Local::Moo->new(handle => $handle) }, 'Missing required arguments: name', 'without its own');

    my $finished;
    $connection->on(finish => sub { $finished = $_[0]->name });
    close $theirs;
    run_until { $finished } 'finish';
    is $finished, 'positional', 'callbacks get the object of the subclass';
};

subtest 'Moo extends Message (C2, C3)' => sub {
    eval { require Moo; 1 } or skip_all 'Moo is missing';
    our @built = ();
    eval q{
        package Local::Moo::Message;
        use Moo;
        extends 'AnyEvent::WebSocket::Message';
        has tag => (is => 'ro', required => 1);
        around body => sub { my ($original, $self) = @_; $self->tag . ':' . $self->$original };
        sub BUILD { push @main::built, $_[1] }
        1;
    } or die $@;
    my $message = Local::Moo::Message->new(body => 'x', tag => 't');
    isa_ok $message, 'Local::Moo::Message', $MESSAGE;
    is [$message->body, $message->opcode, $message->tag], ['t:x', 1, 't'], 'attributes';
    is \@built, [{body => 'x', tag => 't'}], 'BUILD ran once';
    my ($connection, $peer) = connection_and_peer();
    is sent_by($connection, $peer, $message), ['1:t:x'], 'sent as its body says';
    dies_here(sub { Local::Moo::Message->new(tag => 't') }, 'Missing required arguments: body', 'without a body');
};

subtest 'a message can be built, sent, and echoed back as received (C3, C4)' => sub {
    my ($connection, $peer) = connection_and_peer();
    $connection->on(each_message => sub { my ($connection, $message) = @_; $connection->send($message) });
    my @sent = ([1, 'text'], [2, "\x00\x80\xFF"], [1, '0'], [2, '0'], [1, ''], [1, "caf\xC3\xA9"]);
    syswrite $peer, join '', map { frame(opcode => $_->[0], payload => $_->[1]) } @sent;
    is [map { [$_->{opcode}, $_->{payload}] } read_frames($peer, scalar @sent)], \@sent;
};


subtest 'Moo extends with attributes redeclared (C2)' => sub {
    eval { require Moo; 1 } or skip_all 'Moo is missing';
    eval q{
        package Local::Moo::Client;
        use Moo;
        extends 'AnyEvent::WebSocket::Connection';
        has masked           => (is => 'ro', default => sub { 1 });
        has max_payload_size => (is => 'ro', default => sub { 5 });
        1;
    } or die $@;
    my ($connection, $peer) = connection_and_peer(class => 'Local::Moo::Client');
    is [$connection->masked, $connection->max_payload_size], [1, 5], 'its defaults hold';
    $connection->send('x');
    is [map { $_->{masked} } read_frames($peer, 1)], [1], 'and are what counts: masked';
    my @errors;
    $connection->on(parse_error => sub { push @errors, $_[1] });
    syswrite $peer, frame(payload => '123456');
    run_until { @errors } 'the limit';
    like $errors[0], qr/\APayload is too big.*\(5\)/, 'and limited';
};

subtest 'a plain subclass with accessors of its own (C2)' => sub {
    { package Local::Masked; our @ISA = ('AnyEvent::WebSocket::Connection'); sub masked { 1 } }
    my ($connection, $peer) = connection_and_peer(class => 'Local::Masked');
    $connection->send('x');
    is [map { $_->{masked} } read_frames($peer, 1)], [1], 'they are what counts';
};

subtest 'another connection takes over the handle (C20)' => sub {
    my ($old, $peer) = connection_and_peer();
    settle();
    my $new = AnyEvent::WebSocket::Connection->new(handle => $old->handle);
    undef $old;
    my @got;
    $new->on(each_message => sub { push @got, $_[1]->body; $_[0]->send('reply') });
    $new->on(finish => sub { push @got, 'finish' });
    syswrite $peer, frame(payload => 'message');
    run_until { @got } 'the message';
    is \@got, ['message'], 'the new one receives';
    is [map { [@$_{qw(opcode payload)}] } read_frames($peer, 1)], [[1, 'reply']], 'and sends; the old one said nothing';
};

done_testing;
