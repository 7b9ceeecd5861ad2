package Interop::Lines;

# The lines between the harness and the peers' programs: see ../../PROTOCOL.md.

use v5.36;

use Exporter qw(import);
use JSON::PP ();
use MIME::Base64 qw(decode_base64 encode_base64);

our @EXPORT_OK = qw(decode_line encode_line);

# All ASCII, so that nothing depends on the encoding of a pipe.
my $json = JSON::PP->new->ascii->utf8->canonical;

sub encode_line ($object, $bytes = undef) {
    my $line = $json->encode($object);
    $line .= "\t" . encode_base64($bytes, '') if defined $bytes;
    return "$line\n";
}

sub decode_line ($line) {
    my ($object, $bytes) = split /\t/, $line, 2;
    return ($json->decode($object), defined $bytes ? decode_base64($bytes) : undef);
}

1;
