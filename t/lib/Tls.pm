package Tls;

# TLS contexts for tests, with a certificate of our own signing. They are made once for a process: that is
# the slow part.

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT_OK = qw(why_no_tls tls_context);

# Why there can be no TLS here; empty where it can.
sub why_no_tls {
    for my $module ('Net::SSLeay', 'AnyEvent::TLS') {
        next if eval "require $module; 1";
        my ($reason) = $@ =~ /(.*)/;
        return "$module is needed: $reason";
    }
    return '';
}

# For AnyEvent::Handle's tls_ctx; the role is 'accept' or 'connect'.
my %context;

sub tls_context {
    my ($role) = @_;
    return $context{$role} ||= AnyEvent::TLS->new($role eq 'accept' ? (cert => _certificate()) : ());
}

# A certificate and its key.
sub _certificate {
    my $key = Net::SSLeay::EVP_PKEY_new();
    Net::SSLeay::EVP_PKEY_assign_RSA($key, Net::SSLeay::RSA_generate_key(2048, 65537));
    my $certificate = Net::SSLeay::X509_new();
    Net::SSLeay::X509_set_version($certificate, 2);
    Net::SSLeay::ASN1_INTEGER_set(Net::SSLeay::X509_get_serialNumber($certificate), 1);
    my $name = Net::SSLeay::X509_get_subject_name($certificate);
    Net::SSLeay::X509_NAME_add_entry_by_txt($name, CN => Net::SSLeay::MBSTRING_UTF8(), 'localhost');
    Net::SSLeay::X509_set_issuer_name($certificate, $name);
    Net::SSLeay::X509_gmtime_adj(Net::SSLeay::X509_get_notBefore($certificate), -3600);
    Net::SSLeay::X509_gmtime_adj(Net::SSLeay::X509_get_notAfter($certificate), 3600);
    Net::SSLeay::X509_set_pubkey($certificate, $key);
    Net::SSLeay::X509_sign($certificate, $key, Net::SSLeay::EVP_get_digestbyname('sha256'));
    my $pem = Net::SSLeay::PEM_get_string_PrivateKey($key) . Net::SSLeay::PEM_get_string_X509($certificate);
    Net::SSLeay::X509_free($certificate);
    Net::SSLeay::EVP_PKEY_free($key);
    return $pem;
}

1;
