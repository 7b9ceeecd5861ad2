package Ways;

# The two ways by which a connection's bytes go, for tests that hold for both.

use strict;
use warnings;

use Exporter qw(import);
use Peer qw(connection_and_peer connection_through_handle);
use Test2::API qw(context);
use Test2::V0 qw(subtest);

our @EXPORT_OK = qw(on_both_ways);

# Runs a test with bytes that go past the handle, and with bytes that go through its methods.
sub on_both_ways {
    my ($name, $test) = @_;
    my $context = context();
    subtest "$name, directly"           => $test, \&connection_and_peer;
    subtest "$name, through the handle" => $test, \&connection_through_handle;
    $context->release;
}

1;
