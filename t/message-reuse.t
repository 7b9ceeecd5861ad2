# A message object that the program has let go of serves for the next message: nobody may notice.

use strict;
use warnings;
use lib 't/lib';
use Hash::Util   ();
use Scalar::Util qw(refaddr weaken);
use Test2::V0;
use AnyEvent;
use Peer qw(connection_and_peer frame nested run_until write_all);

use AnyEvent::WebSocket::Connection;

# Sends texts in one write, so that one delivery has all of them, calling back with each message. Returns where the
# objects were, one for each.
sub deliver {
    my ($texts, $callback) = @_;
    my ($connection, $peer) = connection_and_peer();
    my @places;
    $connection->on(each_message => sub {
        push @places, refaddr $_[1];
        $callback->($_[1], $#places);
    });
    write_all($peer, join '', map { ref ? frame(opcode => 2, payload => $$_) : frame(opcode => 1, payload => $_) } @$texts);
    run_until { @places >= @$texts } 'the messages';
    return @places;
}

sub distinct {
    my %seen = map { $_ => 1 } @_;
    return scalar keys %seen;
}

subtest 'one object serves for messages that are not kept' => sub {
    my @got;
    my @places = deliver(['one', \'two', '', 'x' x 40_000, 'three'],
        sub { push @got, [$_[0]->opcode, length $_[0]->body, substr $_[0]->body, 0, 5] });
    is \@got, [[1, 3, 'one'], [2, 3, 'two'], [1, 0, ''], [1, 40_000, 'xxxxx'], [1, 5, 'three']], 'what they say';
    is distinct(@places[0 .. 2]), 1, 'the place of the small ones';
};

# What a program can do with a message that has to outlive its callback, and what it then still has to find.
my @kept;
my %keeping = (
    'the message'             => [sub { push @kept, $_[0] }, sub { $_[0]->body }],
    'the hash'                => [sub { push @kept, \%{ $_[0] } }, sub { $_[0]{body} }],
    'a reference to the body' => [sub { push @kept, \$_[0]{body} }, sub { ${ $_[0] } }],
    'a reference to the argument' => [sub { push @kept, \$_[0] }, sub { ${ $_[0] }->body }],
    'a copy of the body'      => [sub { push @kept, $_[0]->body }, sub { $_[0] }],
    'an alias of the body'    => [sub { push @kept, sub { \@_ }->($_[0]{body}) }, sub { $_[0][0] }],
    'a closure'               => [sub { my $m = $_[0]; push @kept, sub { $m } }, sub { $_[0]->()->body }],
);
for my $what (sort keys %keeping) {
    my ($keep, $find) = @{ $keeping{$what} };
    subtest "$what may be kept" => sub {
        @kept = ();
        my @texts = map { $_ x 20 } 'a' .. 'h';
        my ($connection, $peer) = connection_and_peer();
        my $count = 0;
        $connection->on(each_message => sub { $keep->($_[1]) if $count++ % 2 });
        write_all($peer, join '', map { frame(opcode => 1, payload => $_) } @texts);
        run_until { $count >= @texts } 'the messages';
        is [map { $find->($_) } @kept], [@texts[1, 3, 5, 7]];
    };
}

# What a program can do to a message that the next one must not show.
my %meddling = (
    'assigned to its body'         => sub { $_[0]{body} = "\x{263A}" x 10 },
    'upgraded its body'            => sub { utf8::upgrade($_[0]{body}) },
    'made its body a number'       => sub { no warnings 'numeric'; $_[0]{body} += 1 },
    'undefined its body'           => sub { undef $_[0]{body} },
    'made its body a reference'    => sub { $_[0]{body} = [] },
    'deleted its body'             => sub { delete $_[0]{body} },
    'searched its body'            => sub { $_[0]{body} =~ /./g; },
    'cut its body from the front'  => sub { substr($_[0]{body}, 0, 1) = '' },
    'copied its body'              => sub { my $copy = $_[0]{body}; $copy .= 'x' },
    'locked it'                    => sub { Hash::Util::lock_hash(%{ $_[0] }) },
    'locked its keys'              => sub { Hash::Util::lock_keys(%{ $_[0] }) },
    'iterated over it'             => sub { each %{ $_[0] } },
    'added a key'                  => sub { $_[0]{note} = 1 },
    'replaced a key'               => sub { delete $_[0]{opcode}; $_[0]{other} = 9 },
    'emptied it'                   => sub { %{ $_[0] } = () },
    'printed its opcode'           => sub { my $text = "$_[0]{opcode}" },
    'assigned to its opcode'       => sub { $_[0]{opcode} = 'none' },
    'blessed it into another class' => sub { bless $_[0], 'Elsewhere' },
    'tied its body'                => sub { tie $_[0]{body}, 'Tied' },
    'tied it'                      => sub { tie %{ $_[0] }, 'TiedHash' },
);
{ package Tied; sub TIESCALAR { bless [] } sub FETCH { 'tied' } sub STORE { } }
{ package TiedHash; sub TIEHASH { bless [] } sub FETCH { 'tied' } sub STORE { } }

for my $what (sort keys %meddling) {
    subtest "a message after one whose callback $what is as it came" => sub {
        my @seen;
        deliver(['first', 'second', \'third', 'fourth'], sub {
            my ($message, $i) = @_;
            push @seen, [ref $message, { %$message }, utf8::is_utf8($message->{body}) ? 1 : 0, pos $message->{body}];
            $meddling{$what}->($message) if $i % 2 == 0;
        });
        my @expected = map { ['AnyEvent::WebSocket::Message', { body => $_->[1], opcode => $_->[0] }, 0, undef] }
            [1, 'first'], [1, 'second'], [2, 'third'], [1, 'fourth'];
        is \@seen, \@expected;
    };
}

subtest 'a weak reference does not see the next message' => sub {
    my @weak;
    deliver(['one', 'two', 'three'], sub { push @weak, $_[0]; weaken $weak[-1] });
    is \@weak, [undef, undef, undef];
};

subtest 'neither does one to the body' => sub {
    my @weak;
    deliver(['one', 'two', 'three'], sub { push @weak, \$_[0]{body}; weaken $weak[-1] });
    is [grep { defined } @weak[0, 1]], [];
};

subtest 'memory of a large message does not stay with a small one that is kept' => sub {
    require B;
    my @small;
    deliver([map { ('x' x 30_000, 'small') } 1 .. 5], sub { push @small, $_[0] if $_[1] % 2 });
    my @sizes = map { B::svref_2object(\$_->{body})->LEN } @small;
    ok !(grep { $_ > 200 } @sizes), "@sizes bytes";
};

subtest 'a nested event loop has messages of its own' => sub {
    my ($outer_connection, $outer_peer) = connection_and_peer();
    my ($inner_connection, $inner_peer) = connection_and_peer();
    my ($inner_count, @seen) = 0;
    $inner_connection->on(each_message => sub { $inner_count++ });
    $outer_connection->on(each_message => sub {
        my ($connection, $message) = @_;
        my $before = $inner_count;
        write_all($inner_peer, frame(opcode => 1, payload => 'inner') x 3);
        nested { run_until { $inner_count >= $before + 3 } 'the messages of the other' };
        push @seen, $message->body;
    });
    write_all($outer_peer, join '', map { frame(opcode => 1, payload => "outer $_") } 1 .. 3);
    run_until { @seen >= 3 } 'the messages of this one';
    is \@seen, ['outer 1', 'outer 2', 'outer 3'];
};

subtest 'each is destroyed where the class has a destructor' => sub {
    my @destroyed;
    {
        no warnings 'once';
        local *AnyEvent::WebSocket::Message::DESTROY = sub { push @destroyed, $_[0]{body} };
        deliver(['one', 'two', 'three'], sub { });
    }
    is \@destroyed, ['one', 'two', 'three'], 'defined in the class';
    @destroyed = ();
    {
        no warnings 'once';
        local *UNIVERSAL::DESTROY = sub { push @destroyed, $_[0]{body} if ref $_[0] eq 'AnyEvent::WebSocket::Message' };
        deliver(['one', 'two'], sub { });
        undef *UNIVERSAL::DESTROY;
    }
    is \@destroyed, ['one', 'two'], 'defined for everything';
    @destroyed = ();
    {
        no warnings 'once';
        local *AnyEvent::WebSocket::Message::AUTOLOAD = sub { push @destroyed, $_[0]{body} };
        deliver(['one', 'two'], sub { });
    }
    is \@destroyed, ['one', 'two'], 'by AUTOLOAD';
    undef *AnyEvent::WebSocket::Message::AUTOLOAD;
    # perl remembers that there was one.
    undef *AnyEvent::WebSocket::Message::DESTROY;
};

done_testing;
