package Interop::Messages;

# What is sent: the same in every run.

use v5.36;
use utf8;

use Digest::SHA qw(sha256);
use Encode qw(encode);
use Exporter qw(import);

our @EXPORT_OK = qw(closings noise prose messages MIB);

use constant MIB => 1024 * 1024;

# Bytes that cannot be compressed.
sub noise ($size, $seed) {
    return substr join('', map { sha256("$seed $_") } 0 .. $size / 32), 0, $size;
}

# Text of exactly that many bytes, which can, in scripts whose characters take one to four.
sub prose ($size) {
    state $verse = encode(
        'UTF-8', 'Der Ochs küsst Öfen. Съешь же ещё этих мягких булок. いろはにほへと 🦀🐪. All work and no play. ',
    );
    my $text = substr $verse x ($size / length($verse) + 1), 0, $size;
    # Not in the midst of a character.
    $text =~ s/([\xc0-\xff][\x80-\xbf]{0,2})\z/'.' x length $1/e if !utf8::decode(my $copy = $text);
    return $text;
}

# Each: name, type, bytes. The sizes are those at which the length in a frame's header changes its form.
sub messages () {
    state @messages = (
        ['ASCII', text => 'Hello, world'],
        ['characters of two, three and four bytes', text => encode('UTF-8', 'Grüße, 世界, привет 👋🏽')],
        ['NUL and other controls', text => join '', map { chr } 0 .. 31, 127],
        ['the last character of each size', text => encode('UTF-8', "\x{7f}\x{7ff}\x{d7ff}\x{e000}\x{ffff}\x{10ffff}")],
        ['0', text => '0'],
        ['every byte', binary => join '', map { chr } 0 .. 255],
        ['what is not UTF-8', binary => "\xff\xfe\xc0\x80\xed\xa0\x80"],
        (map { ["$_ bytes", text => prose($_)] } 0, 1, 125, 126, 127, 65535, 65536, 65537),
        (map { ["$_ bytes", binary => noise($_, 'sizes')] } 0, 1, 125, 126, 127, 65535, 65536, 65537),
        ['1 MiB', text   => prose(MIB)],
        ['1 MiB', binary => noise(MIB, 'large')],
    );
    return @messages;
}

# Codes and reasons to close with. A reason may have 123 bytes; nothing at all is an empty Close frame.
sub closings () {
    return (
        [1000, ''],
        [1000, 'that is all'],
        [1001, 'going away'],
        [3000, 'До свидания 👋'],
        [4999, 'é' x 61 . '!'],
        [],
    );
}

1;
