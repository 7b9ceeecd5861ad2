package SelfSigned;

# Certificates of the tests' own signing. Needs Net::SSLeay and AnyEvent::TLS to be loaded.

use strict;
use warnings;

use Exporter qw(import);
use File::Temp ();

our @EXPORT_OK = qw(certificate write_file);

# The PEM texts of a key and of its certificate.
sub certificate {
    my ($name) = @_;
    my $key = Net::SSLeay::EVP_PKEY_new();
    Net::SSLeay::EVP_PKEY_assign_RSA($key, Net::SSLeay::RSA_generate_key(2048, 65537));
    my $certificate = Net::SSLeay::X509_new();
    Net::SSLeay::X509_set_version($certificate, 2);
    Net::SSLeay::ASN1_INTEGER_set(Net::SSLeay::X509_get_serialNumber($certificate), 1);
    my $subject = Net::SSLeay::X509_get_subject_name($certificate);
    Net::SSLeay::X509_NAME_add_entry_by_txt($subject, CN => Net::SSLeay::MBSTRING_UTF8(), $name);
    Net::SSLeay::X509_set_issuer_name($certificate, $subject);
    Net::SSLeay::X509_gmtime_adj(Net::SSLeay::X509_get_notBefore($certificate), -3600);
    Net::SSLeay::X509_gmtime_adj(Net::SSLeay::X509_get_notAfter($certificate), 3600);
    Net::SSLeay::X509_set_pubkey($certificate, $key);
    Net::SSLeay::X509_sign($certificate, $key, Net::SSLeay::EVP_get_digestbyname('sha256'));
    my @pem = (Net::SSLeay::PEM_get_string_PrivateKey($key), Net::SSLeay::PEM_get_string_X509($certificate));
    Net::SSLeay::X509_free($certificate);
    Net::SSLeay::EVP_PKEY_free($key);
    return @pem;
}

# Replaces a file as programs that renew certificates do.
sub write_file {
    my ($path, @content) = @_;
    open my $file, '>:raw', "$path.new" or die "$path.new: $!";
    print $file @content;
    close $file or die "$path.new: $!";
    rename "$path.new", $path or die "$path: $!";
    return $path;
}

1;
