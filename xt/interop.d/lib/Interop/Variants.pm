package Interop::Variants;

# How connections are made: whether by TLS, which compression (RFC 7692) either side wishes for, and what has
# to come of it.

use v5.36;

use Exporter qw(import);
use JSON::PP ();

our @EXPORT_OK = qw(largest_window parse_agreed takes_over variants);

my %NO_TAKEOVER = map { $_ => JSON::PP::true } qw(server_no_context_takeover client_no_context_takeover);
my %WINDOWS     = (server_max_window_bits => 10, client_max_window_bits => 12);
my %FRUGAL      = (server_no_context_takeover => JSON::PP::true, server_max_window_bits => 10);

# about; client, server: what they wish for, undef for no compression; agreed: parameters that have to be agreed
# upon, undef for no compression: parameters beyond these may be agreed upon, too; cannot: as of a peer, see
# Interop::Peers.
my @VARIANTS = (
    {
        name  => 'plain',
        about => 'neither side would compress',
    },
    {
        name   => 'client would',
        about  => 'the client offers compression, the server does not know it',
        client => {},
    },
    {
        name   => 'server would',
        about  => 'the server would compress, the client does not offer it',
        server => {},
    },
    {
        name   => 'deflate',
        about  => 'both compress, with what either has for a default',
        client => {},
        server => {},
        agreed => {},
    },
    {
        name   => 'no takeover',
        about  => 'both sides wish that neither side refers to earlier messages',
        client => \%NO_TAKEOVER,
        server => \%NO_TAKEOVER,
        agreed => \%NO_TAKEOVER,
    },
    {
        name   => 'window 10/12',
        about  => 'both sides wish for windows of 1 KiB (the server\'s) and 4 KiB (the client\'s)',
        client => \%WINDOWS,
        server => \%WINDOWS,
        agreed => \%WINDOWS,
    },
    {
        name   => 'server decides',
        about  => 'the server limits itself without being asked: no takeover, window of 1 KiB',
        client => {},
        server => \%FRUGAL,
        agreed => \%FRUGAL,
    },
    {
        name   => 'TLS',
        about  => 'as plain, over TLS',
        tls    => 1,
        # TLS hears of the reset before it has read what came earlier.
        cannot => {limit => 'that a message is too large may be lost where the peer closes with some of it unread'},
    },
    {
        name   => 'TLS, deflate',
        about  => 'as deflate, over TLS',
        tls    => 1,
        client => {},
        server => {},
        agreed => {},
    },
);

sub variants () { return @VARIANTS }

# The parameters in the value of Sec-WebSocket-Extensions of a response; undef where nothing is agreed upon.
sub parse_agreed ($value) {
    return if $value eq '';
    $value =~ /,/ and die "more than one extension is agreed upon: $value\n";
    my ($name, @parameters) = split /\s*;\s*/, $value;
    $name eq 'permessage-deflate' or die "another extension is agreed upon: $value\n";
    return {
        map {
            my ($key, $bits) = /\A((?:server|client)_(?:no_context_takeover|max_window_bits))(?:="?(\d+)"?)?\z/
                or die "a parameter that does not exist is agreed upon: $value\n";
            ($key => $bits // 1);
        } @parameters
    };
}

# Whether that side may refer to earlier messages, and how far back. Wishes of its own it can fulfil without
# anybody's consent.
sub takes_over ($side, $agreed, $wishes) {
    return !grep { $_->{"${side}_no_context_takeover"} } $agreed, $wishes // {};
}

sub largest_window ($side, $agreed, $wishes) {
    my ($least) = sort { $a <=> $b } 15, map { $_->{"${side}_max_window_bits"} // () } $agreed, $wishes // {};
    return 2**$least;
}

1;
