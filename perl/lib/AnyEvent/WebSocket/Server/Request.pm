package AnyEvent::WebSocket::Server::Request;

# The request that opens a connection: read from its bytes or from a PSGI environment, checked as RFC 6455
# section 4.2.1 asks, and made into the Protocol::WebSocket objects that programs know. It is private to
# AnyEvent::WebSocket::Server.

use strict;
use warnings;

our $VERSION = '1.000';

use Protocol::WebSocket::Handshake::Server ();
use Protocol::WebSocket::Request           ();

use AnyEvent::WebSocket::Connection::HTTP ();

my $TOKEN = $AnyEvent::WebSocket::Connection::HTTP::TOKEN;

# What Protocol::WebSocket calls the only version there is since RFC 6455.
my $VERSION_13 = 'draft-ietf-hybi-17';

sub _shown { my ($bytes) = @_; return "'" . AnyEvent::WebSocket::Connection::HTTP::printable($bytes) . "'" }

# Without the white space at its end that is none of a value's: just these two (RFC 7230 section 3.2.3). Not by a
# pattern for it, which would take quadratic time for a value full of spaces.
sub _trimmed {
    my ($value) = @_;
    return $value unless $value =~ /[ \t]\z/;
    my $reversed = reverse $value;
    $reversed =~ s/\A[ \t]+//;
    return scalar reverse $reversed;
}

# Each of these returns a request, or undef and what is wrong.

sub from_head {
    my ($head) = @_;
    my ($line, @lines) = split /\r?\n/, $head;
    my ($method, $target, $protocol) = ($line // '') =~ m{^($TOKEN) ([^\x00-\x20\x7f]+) (HTTP/[0-9]\.[0-9])\z}
        or return (undef, 'the request line is malformed: ' . _shown($line // ''));
    my %fields;
    for my $line (@lines) {
        # No space before the colon, and no folded lines: RFC 7230 section 3.2.4.
        my ($name, $value) = $line =~ /^($TOKEN):[ \t]*(.*)\z/s
            or return (undef, 'a header field is malformed: ' . _shown($line));
        push @{ $fields{ lc $name } }, _trimmed($value);
    }
    my $several = _several(\%fields);
    return (undef, $several) if defined $several;
    # Of other fields that come more than once, Protocol::WebSocket would keep the last.
    my %joined = map { $_ => join $_ eq 'cookie' ? '; ' : ', ', @{ $fields{$_} } } keys %fields;
    return {method => $method, target => $target, protocol => $protocol, fields => \%joined};
}

sub from_psgi {
    my ($env) = @_;
    my %fields;
    for my $key (keys %$env) {
        my ($name) = $key =~ /^HTTP_(.+)\z/ or next;
        $name =~ tr/_/-/;
        $fields{ lc $name } = _trimmed($env->{$key}) if defined $env->{$key};
    }
    $fields{'content-length'} = $env->{CONTENT_LENGTH} if $env->{CONTENT_LENGTH};
    return {
        # Left out by programs that make an environment by hand.
        method   => $env->{REQUEST_METHOD}  // 'GET',
        protocol => $env->{SERVER_PROTOCOL} // 'HTTP/1.1',
        fields   => \%fields,
        env      => $env,
    };
}

# RFC 7230 section 5.4, RFC 6455 section 11.3.
sub _several {
    my ($fields) = @_;
    for my $name ('Host', 'Sec-WebSocket-Key', 'Sec-WebSocket-Version') {
        my $values = $fields->{ lc $name } or next;
        return "there is more than one $name field" if @$values > 1;
    }
    return undef;
}

# The elements of a field that is a list.
sub list {
    my ($value) = @_;
    return grep { length } map { /^[ \t]*(.*)\z/s; _trimmed($1) } split /,/, $value // '';
}

sub _has_token {
    my ($value, $token) = @_;
    return scalar grep { lc eq $token } list($value);
}

# Why this request does not open a connection, or undef.
sub refusal {
    my ($request) = @_;
    my $fields = $request->{fields};
    return 'the method is ' . _shown($request->{method}) . ', not GET' if $request->{method} ne 'GET';
    return 'the protocol is ' . _shown($request->{protocol}) . ', not HTTP/1.1'
        if $request->{protocol} !~ m{^HTTP/1\.[1-9]\z};
    for my $name (sort keys %$fields) {
        return 'there is a control character in the header field ' . _shown($name)
            if $fields->{$name} =~ /[\x00-\x08\x0a-\x1f\x7f]/;
    }
    return 'this is not a WebSocket request, since there is no Upgrade field' unless length($fields->{upgrade} // '');
    return 'the Upgrade field is ' . _shown($fields->{upgrade}) . ', without websocket'
        unless _has_token($fields->{upgrade}, 'websocket');
    return 'there is no Connection field' unless length($fields->{connection} // '');
    return 'the Connection field is ' . _shown($fields->{connection}) . ', without Upgrade'
        unless _has_token($fields->{connection}, 'upgrade');
    return _version_refusal($fields) // _host_refusal($fields) // _key_refusal($fields) // _body_refusal($fields);
}

sub _version_refusal {
    my ($fields) = @_;
    my $version = $fields->{'sec-websocket-version'};
    return undef if defined $version && $version eq '13';
    my $name =
          defined $fields->{'sec-websocket-key1'} && defined $fields->{'sec-websocket-key2'} ? 'draft-ietf-hybi-00'
        : defined $fields->{'sec-websocket-key'} || defined $version ? 'draft-ietf-hybi-10'
        :                                                              'draft-hixie-75';
    my $why =
        defined $version
        ? 'Sec-WebSocket-Version is ' . _shown($version) . ', not 13'
        : 'there is no Sec-WebSocket-Version field';
    return "unsupported WebSocket protocol version $name ($why)";
}

sub _host_refusal {
    my ($fields) = @_;
    my $host = $fields->{host};
    return 'there is no Host field' unless defined $host && length $host;
    # '0' is none to Protocol::WebSocket.
    return 'the Host field is malformed: ' . _shown($host) if $host =~ m{[\s/?#@]} || $host eq '0';
    return undef;
}

sub _key_refusal {
    my ($fields) = @_;
    my $key = $fields->{'sec-websocket-key'};
    return 'there is no Sec-WebSocket-Key field' unless defined $key && length $key;
    return 'Sec-WebSocket-Key is not 16 bytes in Base64: ' . _shown($key)
        unless $key =~ m{^[A-Za-z0-9+/]{22}==\z};
    return undef;
}

# Its bytes would be taken for frames.
sub _body_refusal {
    my ($fields) = @_;
    return 'the request has a body'
        if defined $fields->{'transfer-encoding'} || ($fields->{'content-length'} // '0') !~ /^0+\z/;
    return undef;
}

# Protocol::WebSocket wants the Upgrade field to be just this. It takes the origin from a field of an earlier version
# of the protocol first. Its pattern for cookies takes quadratic time for runs of white space.
my @TIDIED = qw(upgrade sec-websocket-origin cookie);

sub _for_protocol_websocket {
    my ($fields) = @_;
    my %fields = (%$fields, upgrade => 'websocket');
    delete $fields{'sec-websocket-origin'};
    $fields{cookie} =~ tr/\t /  /s if defined $fields{cookie};
    return \%fields;
}

# The handshake object for a request that is not refused, with this response; or undef and what is wrong.
sub handshake {
    my ($request, $response) = @_;
    my ($handshake, $error);
    {
        local ($@, $SIG{__DIE__});
        eval {
            $handshake = Protocol::WebSocket::Handshake::Server->new(
                req => $request->{env} ? _from_env($request) : Protocol::WebSocket::Request->new,
                res => $response,
            );
            my $text = $request->{env} ? '' : _text($request);
            $handshake->req->{max_message_size} = length($text) || 1;
            # Its patterns may warn of what only the peer can help.
            local $SIG{__WARN__} = sub { };
            $handshake->parse($text);
            1;
        } or $error = $@;
    }
    return (undef, $error) if defined $error;
    return (undef, $handshake->error || 'Not a valid request') if $handshake->error || !$handshake->is_done;
    return (undef, 'unsupported WebSocket protocol version ' . $handshake->version)
        if $handshake->version ne $VERSION_13;
    for my $name (@TIDIED) {
        $handshake->req->fields->{$name} = $request->{fields}{$name} if exists $request->{fields}{$name};
    }
    return $handshake;
}

sub _text {
    my ($request) = @_;
    my $fields = _for_protocol_websocket($request->{fields});
    # A URI of a whole stands for its path: RFC 6455 section 4.2.1, item 1.
    my ($resource) = $request->{target} =~ m{^(?i:https?)://[^/?#]*(.*)\z}s;
    $resource = $request->{target} unless defined $resource;
    $resource = "/$resource" unless $resource =~ m{^/};
    return join "\r\n", "GET $resource HTTP/1.1", (map { "$_: $fields->{$_}" } sort keys %$fields), '', '';
}

sub _from_env {
    my ($request) = @_;
    my $fields = _for_protocol_websocket($request->{fields});
    my %env = (SCRIPT_NAME => '', PATH_INFO => '', %{ $request->{env} });
    delete $env{HTTP_COOKIE};
    # It takes over only those that it needs itself. Cookies it would parse twice.
    for my $name (grep { $_ ne 'cookie' } keys %$fields) {
        my $key = 'HTTP_' . uc $name;
        $key =~ tr/-/_/;
        $env{$key} = $fields->{$name};
    }
    my $req = Protocol::WebSocket::Request->new_from_psgi(\%env);
    exists $req->fields->{$_} or $req->fields->{$_} = $fields->{$_} for keys %$fields;
    return $req;
}

1;
