package Differential::Text;

# Values as text: on one line, in ASCII, long ones by their start, length and digest.

use strict;
use warnings;

use Digest::SHA  qw(sha256_base64);
use Exporter     qw(import);
use Scalar::Util qw(blessed);

our @EXPORT_OK = qw(quoted bytes whole thrown);

my $LONG = 48;

# A value, with Perl's UTF-8 flag (compat C5).
sub quoted {
    my ($value) = @_;
    return 'undef'               if !defined $value;
    return 'a reference'         if ref $value;
    return utf8::is_utf8($value) ? 'characters ' . _text($value) : _text($value);
}

# The bytes of something, which have no flag.
sub bytes {
    my ($value) = @_;
    utf8::downgrade($value);
    return _text($value);
}

# A text in full, whatever Perl holds it as.
sub whole {
    my ($text) = @_;
    return "'" . _escaped($text) . "'";
}

# An exception, which may be an object, or its text.
sub thrown {
    my ($thrown) = @_;
    return 'undef'        if !defined $thrown;
    return whole($thrown) if !ref $thrown;
    my $content
        = ref $thrown eq 'HASH'   ? join(' ', map { "$_=$thrown->{$_}" } sort keys %$thrown)
        : ref $thrown eq 'SCALAR' ? $$thrown
        :                           '';
    return (blessed($thrown) // ref $thrown) . ' ' . whole($content);
}

sub _text {
    my ($value) = @_;
    my $length = length $value;
    return whole($value) if $length <= $LONG;
    utf8::encode(my $octets = "$value");
    return whole(substr $value, 0, $LONG / 2) . "... ($length, " . substr(sha256_base64($octets), 0, 12) . ')';
}

sub _escaped {
    my ($text) = @_;
    return $text =~ s/([^\x20-\x7E]|['\\])/sprintf ord $1 > 255 ? '\\x{%X}' : '\\x%02X', ord $1/ger;
}

1;
