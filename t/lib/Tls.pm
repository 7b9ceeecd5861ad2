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
    require Certificate;
    return $context{$role} ||=
        AnyEvent::TLS->new($role eq 'accept' ? (cert => join '', Certificate::self_signed('localhost')) : ());
}

1;
