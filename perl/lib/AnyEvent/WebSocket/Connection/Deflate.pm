package AnyEvent::WebSocket::Connection::Deflate;

# The options of permessage-deflate (RFC 7692), as Client, Server and Connection take them. What is done with
# them is in the XSUBs of this package. It is private to these classes.

use strict;
use warnings;

our $VERSION = '1.000';

use Carp         ();
use Scalar::Util ();

our @CARP_NOT = map { "AnyEvent::WebSocket::$_" } qw(Client Connection Server);

# In the order in which the XSUBs take them, each with its range.
my @OPTIONS = (
    [server_no_context_takeover => 0, 1],
    [client_no_context_takeover => 0, 1],
    [server_max_window_bits     => 8, 15],
    [client_max_window_bits     => 8, 15],
    [level                      => 0, 9],
    [threshold                  => 0, 2**31],
);

# Returns the options as the XSUBs take them, and how long a compressor may be idle; nothing where there is
# to be no compression.
sub options {
    my ($given) = @_;
    return unless $given;
    $given = {} unless ref $given;
    Carp::croak('permessage_deflate must be a hash reference, or true or false')
        unless (Scalar::Util::reftype($given)) eq 'HASH';
    my %given = %$given;
    my @options;
    my $defaults = defaults();
    for my $i (0 .. $#OPTIONS) {
        my ($name, $least, $most) = @{ $OPTIONS[$i] };
        my $value = delete $given{$name};
        $value = $value ? 1 : 0 if $most == 1 && defined $value;
        $value = $defaults->[$i] unless defined $value;
        Carp::croak("permessage_deflate: $name must be an integer from $least to $most")
            unless Scalar::Util::looks_like_number($value)
            && $value >= $least && $value <= $most && $value == int $value;
        push @options, $value;
    }
    my $release_after = delete $given{release_after} // 0;
    Carp::croak('permessage_deflate: release_after must be a number that is not negative')
        unless Scalar::Util::looks_like_number($release_after) && $release_after >= 0;
    Carp::croak('permessage_deflate: unknown options: ', join ', ', sort keys %given) if %given;
    return (\@options, $release_after);
}

# What a header offers that a program has written: for each offer of permessage-deflate that is valid, its options,
# and whether it allows the server to limit the client's window (RFC 7692 section 7.1.2.2).
sub offers {
    my ($header) = @_;
    my ($any)    = options(1);
    my ($narrow) = options({ client_max_window_bits => 8 });
    my @offers;
    # What is quoted has to be a token, too (RFC 6455 section 9.1).
    for my $offer (split /,/, $header) {
        # What is asked for is what a server without wishes of its own agrees to.
        my ($asks) = answer($offer, $any);
        next unless defined $asks;
        my %option = (
            server_no_context_takeover => 0,  client_no_context_takeover => 0,
            server_max_window_bits     => 15, client_max_window_bits     => 15,
        );
        $option{$1} = $2 // 1 while $asks =~ /; (\w+)(?:=(\d+))?/g;
        push @offers, [\%option, (answer($offer, $narrow))[0] =~ /client_max_window_bits/ ? 1 : 0];
    }
    return @offers;
}

# Why an answer does not fit such an offer, or undef.
sub misfit {
    my ($agreed, $offer) = @_;
    my ($option, $limits_client) = @$offer;
    my $refusal = refusal($agreed, (options($option))[0], 1);
    return $refusal if defined $refusal;
    return 'parameter client_max_window_bits of permessage-deflate was not offered'
        if !$limits_client && $agreed =~ /client_max_window_bits/;
    return undef;
}

1;
