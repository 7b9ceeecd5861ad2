# Messages of a kind that is said, rather than guessed from the UTF-8 flag: send_text, send_binary, and text.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use Peer qw(connection_and_peer connection_pair receive_frames run_until);
use Test2::V0;

my ($TEXT, $BINARY) = (1, 2);

{
    package Overloaded;
    use overload '""' => sub { $_[0]{string} };
    sub new { return bless { string => $_[1] }, $_[0] }
}

sub flagged   { my ($string) = @_; utf8::upgrade($string);   return $string }
sub unflagged { my ($string) = @_; utf8::downgrade($string); return $string }

# What is given, and the payload.
my @text = (
    ['nothing',                     undef,                         ''],
    ['an empty string',             '',                            ''],
    ['zero',                        0,                             '0'],
    ['a number',                    1.5,                           '1.5'],
    ['ASCII',                       'plain',                       'plain'],
    ['ASCII with the flag',         flagged('plain'),              'plain'],
    ['Latin-1 without the flag',    unflagged("caf\xE9"),          "caf\xC3\xA9"],
    ['Latin-1 with the flag',       flagged("caf\xE9"),            "caf\xC3\xA9"],
    ['wide characters',             "\x{263A}\x{1F600}",           "\xE2\x98\xBA\xF0\x9F\x98\x80"],
    ['NUL',                         "a\0b",                        "a\0b"],
    ['a noncharacter',              "\x{FFFE}",                    "\xEF\xBF\xBE"],
    ['the last character',          "\x{10FFFF}",                  "\xF4\x8F\xBF\xBF"],
    ['an object that is a string',  Overloaded->new("\x{263A}"),   "\xE2\x98\xBA"],
    ['an object with Latin-1',      Overloaded->new("\xE9"),       "\xC3\xA9"],
);
my @binary = (
    ['nothing',                     undef,                         ''],
    ['an empty string',             '',                            ''],
    ['zero',                        0,                             '0'],
    ['octets without the flag',     unflagged("\x00\x80\xFF"),     "\x00\x80\xFF"],
    ['octets with the flag',        flagged("\x00\x80\xFF"),       "\x00\x80\xFF"],
    ['an object that is a string',  Overloaded->new("\xE9"),       "\xE9"],
    ['one that has the flag',       Overloaded->new(flagged("\xE9")), "\xE9"],
);

for my $kind ([send_text => $TEXT, @text], [send_binary => $BINARY, @binary]) {
    my ($method, $opcode, @cases) = @$kind;
    subtest $method => sub {
        my ($connection, $peer) = connection_and_peer();
        for my $case (@cases) {
            my ($name, $string, $payload) = @$case;
            my $before = $string;
            ref_is $connection->$method($string), $connection, "$name: returns the connection";
            my ($frame) = receive_frames($peer, 1);
            is [@$frame{qw(opcode payload)}], [$opcode, $payload], "$name: the frame";
            is utf8::is_utf8($string), utf8::is_utf8($before), "$name: the string is as it was" if !ref $string;
        }
        $connection->$method;
        my ($frame) = receive_frames($peer, 1);
        is [@$frame{qw(opcode payload)}], [$opcode, ''], 'no argument';
        $connection->close;
        receive_frames($peer, 1);
        ref_is $connection->$method('late'), $connection, 'nothing is sent after close';
        shutdown $peer, 1;
        is [receive_frames($peer, 1)], [], 'not a frame';
    };
}

subtest 'a string that drops the connection as it is looked at' => sub {
    package Dropping;
    use overload '""' => sub { undef ${ $_[0] }; 'dropped' };
    for my $method (qw(send_text send_binary)) {
        my ($connection, $peer) = Peer::connection_and_peer();
        $connection->$method(bless \$connection, 'Dropping');
        my @frames = Peer::receive_frames($peer, 2);
        main::is([map { $_->{opcode} } @frames], [$method eq 'send_text' ? 1 : 2, 8], "$method: is sent, then Close");
    }
};

subtest 'what cannot be sent dies at the caller, and sends nothing' => sub {
    my ($connection, $peer) = connection_and_peer();
    my $nonsense = do { no warnings; [map { chr } 0xD800, 0xDFFF, 0x110000, 0x7FFFFFFF] };
    for my $character (@$nonsense) {
        my $code = sprintf '%04X', ord $character;
        like dies { $connection->send_text("ab$character") },
            qr/\Asend_text: the string has a character that UTF-8 has not, U\+$code at \Q${\ __FILE__}\E line \d+\.$/,
            "U+$code in text";
    }
    like dies { $connection->send_binary("ab\x{100}") },
        qr/\Asend_binary: the string has a wide character, which is no octet at \Q${\ __FILE__}\E line \d+\.$/,
        'a wide character in octets';
    like dies { $connection->$_([]) }, qr/\A$_ takes a string at \Q${\ __FILE__}\E line/, "a reference: $_"
        for qw(send_text send_binary);
    $connection->close;
    like dies { $connection->send_binary("\x{100}") }, qr/\Asend_binary: /, 'on a closed connection, too';
    is [map { $_->{opcode} } receive_frames($peer, 1)], [8], 'the peer has only got Close';
};

subtest 'text of a message' => sub {
    my ($one, $other) = connection_pair({}, {});
    my @messages;
    $other->on(each_message => sub { push @messages, $_[1] });
    $one->send_text("caf\xE9 \x{263A}")->send_binary('octets')->send_text('');
    run_until { @messages == 3 } 'three messages';
    is $messages[0]->text, "caf\xE9 \x{263A}", 'the characters';
    like dies { $messages[1]->text }, qr/\Atext: this is not a text message, its opcode is 2 at \Q${\ __FILE__}\E line/,
        'a binary one has none';
    is $messages[2]->text, '', 'an empty one';
    # None of these is a character by itself, but there they are (RFC 3629, and Unicode's Corrigendum 9).
    my $strange = join '', map { chr } 0xFFFE, 0xFFFF, 0xFDD0, 0x1FFFE, 0x10FFFF, 0;
    $one->send_text($strange);
    run_until { @messages == 4 } 'another';
    { local $@ = 'mine'; is $messages[3]->text, $strange, 'non-characters'; is $@, 'mine', '$@ is left alone' }
    my $message = AnyEvent::WebSocket::Message->new(body => "caf\xE9\x{263A}");
    is $message->text, "caf\xE9\x{263A}", 'characters that the program has put there';
    $message = AnyEvent::WebSocket::Message->new(body => "caf\xE9");
    $@ = 'mine';
    like dies { $message->text }, qr/\Atext: the body is not UTF-8 at \Q${\ __FILE__}\E line/, 'octets that are not UTF-8';
};

done_testing;
