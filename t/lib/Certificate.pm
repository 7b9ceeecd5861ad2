package Certificate;

# Certificates for tests: an authority that is made here and known nowhere else, what it issues, and those that vouch
# for themselves.

use strict;
use warnings;

use Exporter qw(import);
use Net::SSLeay ();

our @EXPORT_OK = qw(authority issue pem_of self_signed write_file);

my $serial = 0;

sub _new_key {
    my $key = Net::SSLeay::EVP_PKEY_new();
    Net::SSLeay::EVP_PKEY_assign_RSA($key, Net::SSLeay::RSA_generate_key(2048, 65537));
    return $key;
}

# One for all that is issued, since making it is what takes time.
my $key;

sub _key { return $key ||= _new_key() }

# What can issue certificates.
sub authority {
    my ($name) = @_;
    my $self = { name => $name, key => _key() };
    $self->{issuer} = $self;
    return _make($self, [Net::SSLeay::NID_basic_constraints(), 'critical,CA:TRUE']);
}

# A certificate for names as OpenSSL writes them ("DNS:localhost", "IP:127.0.0.1"), valid up to that many seconds
# from now, as PEM with its key.
sub issue {
    my ($authority, $names, $valid) = @_;
    my $self = { name => 'test', key => _key(), issuer => $authority, valid => $valid };
    return pem_of(_make($self, [Net::SSLeay::NID_subject_alt_name(), join ',', @$names]), 1);
}

# The PEM texts of a key, which nothing else has, and of its certificate.
sub self_signed {
    my ($name) = @_;
    my $self = { name => $name, key => _new_key() };
    $self->{issuer} = $self;
    _make($self);
    return (Net::SSLeay::PEM_get_string_PrivateKey($self->{key}), pem_of($self));
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

sub pem_of {
    my ($self, $with_key) = @_;
    return ($with_key ? Net::SSLeay::PEM_get_string_PrivateKey($self->{key}) : '')
        . Net::SSLeay::PEM_get_string_X509($self->{certificate});
}

sub _make {
    my ($self, @extensions) = @_;
    my $certificate = $self->{certificate} = Net::SSLeay::X509_new();
    Net::SSLeay::X509_set_version($certificate, 2);
    Net::SSLeay::ASN1_INTEGER_set(Net::SSLeay::X509_get_serialNumber($certificate), ++$serial);
    my $subject = Net::SSLeay::X509_get_subject_name($certificate);
    Net::SSLeay::X509_NAME_add_entry_by_txt($subject, CN => Net::SSLeay::MBSTRING_UTF8(), $self->{name});
    my $issuer = $self->{issuer};
    Net::SSLeay::X509_set_issuer_name($certificate, Net::SSLeay::X509_get_subject_name($issuer->{certificate}));
    Net::SSLeay::X509_gmtime_adj(Net::SSLeay::X509_get_notBefore($certificate), -7200);
    Net::SSLeay::X509_gmtime_adj(Net::SSLeay::X509_get_notAfter($certificate), $self->{valid} // 3600);
    Net::SSLeay::X509_set_pubkey($certificate, $self->{key});
    for my $extension (@extensions) {
        Net::SSLeay::P_X509_add_extensions($certificate, $issuer->{certificate}, @$extension)
            or die "extension @$extension";
    }
    Net::SSLeay::X509_sign($certificate, $issuer->{key}, Net::SSLeay::EVP_get_digestbyname('sha256'));
    return $self;
}

1;
