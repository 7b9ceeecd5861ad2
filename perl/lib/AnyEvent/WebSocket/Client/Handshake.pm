package AnyEvent::WebSocket::Client::Handshake;

# The client's side of the opening handshake (RFC 6455 section 4.1), without IO: the request, and what comes of
# the answer. It is private to AnyEvent::WebSocket::Client.

use strict;
use warnings;

our $VERSION = '1.000';

use MIME::Base64                           ();
use Protocol::WebSocket::Handshake::Client ();
use Protocol::WebSocket::Request           ();
use Protocol::WebSocket::Response          ();

use AnyEvent::WebSocket::Client::Response     ();
use AnyEvent::WebSocket::Connection::Deflate ();
use AnyEvent::WebSocket::Connection::HTTP    ();

# The versions Protocol::WebSocket knows. Those whose answer proves that the server has understood the request in the
# way of RFC 6455 have what their requests differ in, the name of the header for the origin and the version's number; the
# others are Protocol::WebSocket's.
our %VERSIONS = (
    'draft-ietf-hybi-17' => ['Origin',               13],
    'draft-ietf-hybi-10' => ['Sec-WebSocket-Origin', 8],
    'draft-ietf-hybi-00' => undef,
    'draft-hixie-75'     => undef,
);
my $CURRENT = 'draft-ietf-hybi-17';

my $SWITCHED_LINE = 'HTTP/1.1 101 ';

# Headers that a request has once (RFC 9112 section 3.2, RFC 6455 section 11.3): the program's take the place of
# ours.
my @SINGLE = qw(Host Origin Sec-WebSocket-Key Sec-WebSocket-Version);

# Takes target, version, subprotocols (an array), headers (an array of names and values), deflate (options for
# the XSUBs, or undef), max_header_size, and redirects, which says whether they are of interest. Dies with a text
# where the request cannot be made.
sub new {
    my ($class, %option) = @_;
    my $self = bless \%option, $class;
    $self->{request} = $self->_make_request;
    return $self;
}

sub request { my ($self) = @_; return $self->{request} }

# What those bytes and the ones before come to: nothing as long as more have to come, else a hash with
#   error        the text of the failure
#   location     of a redirect
#   rest         where all went well, the bytes behind the answer; with subprotocol and extensions, or undef, and
#                the options of permessage-deflate in `offer` where they are not those of `deflate`
sub receive {
    my ($self, $bytes) = @_;
    return $self->_receive_old($bytes) if $self->{rest_of_old};
    my $response = !$self->{response} && $self->_in_one_piece($bytes) || $self->_collect($bytes) or return;
    return _failure($response->{error}) if defined $response->{error};
    if ($response->{status} != 101) {
        my $locations = $response->{headers}{location} || [];
        return { location => $locations->[0] } if @$locations == 1 && length $locations->[0];
        return _failure(AnyEvent::WebSocket::Client::Response::wrong_line($response->{line}));
    }
    if ($self->{old}) {
        # Protocol::WebSocket goes by these, and looks for a checksum that may not be there.
        return _failure('Not a valid response: it is not one of draft-ietf-hybi-00')
            if $self->{version} eq 'draft-ietf-hybi-00'
            && ($response->{headers}{'sec-websocket-accept'} || !$response->{headers}{'sec-websocket-origin'});
        $self->{rest_of_old} = 1;
        return $self->_receive_old($response->{head} . $response->{rest});
    }
    my ($error, $agreed) = $self->_judge($response->{headers});
    return _failure("Not a valid response: $error") if defined $error;
    return $self->_agree($agreed, $response->{rest});
}

# Nearly all answers come so, and well: what _collect would make of it, or nothing.
sub _in_one_piece {
    my ($self, $bytes) = @_;
    return unless substr($bytes, 0, length $SWITCHED_LINE) eq $SWITCHED_LINE;
    my $parsed = AnyEvent::WebSocket::Connection::HTTP::parse_response($bytes);
    return if !ref $parsed || $self->{max_header_size} && $parsed->{length} > $self->{max_header_size};
    $parsed->{head} = substr $bytes, 0, $parsed->{length}, '';
    $parsed->{rest} = $bytes;
    return $parsed;
}

sub _collect {
    my ($self, $bytes) = @_;
    $self->{response} ||= AnyEvent::WebSocket::Client::Response->new(
        max_size => $self->{max_header_size},
        whole    => $self->{redirects} ? qr/\A(?:101|30[12378])\z/ : qr/\A101\z/,
    );
    return $self->{response}->add($bytes);
}

sub _failure { my ($text) = @_; return { error => "handshake error: $text" } }

sub _make_request {
    my ($self) = @_;
    my @headers      = $self->{headers}      ? header_lines(@{ $self->{headers} })      : ();
    my @subprotocols = $self->{subprotocols} ? subprotocols(@{ $self->{subprotocols} }) : ();
    push @headers, ['Sec-WebSocket-Extensions', AnyEvent::WebSocket::Connection::Deflate::offer($self->{deflate})]
        if $self->{deflate};
    my %given;
    push @{ $given{ lc $_->[0] } }, $_->[1] for @headers;

    my ($head, $body) = $VERSIONS{ $self->{version} // $CURRENT }
        ? ($self->_head($given{'sec-websocket-key'}, @subprotocols), '')
        : $self->_old_head(@subprotocols);

    $self->{wants_subprotocol} = \@subprotocols if @subprotocols;
    return "$head\r\n$body" unless @headers;

    # A program can ask by headers of its own, too.
    $self->{asks_for_subprotocols} = $given{'sec-websocket-protocol'};
    # The last one is that of `deflate`.
    $self->{offers} = $given{'sec-websocket-extensions'};
    for my $name (grep { $given{ lc $_ } } @SINGLE) {
        $head =~ s/^\Q$name\E: [^\r\n]*\r\n//m;
    }
    return join '', $head, map({ "$_->[0]: $_->[1]\r\n" } @headers), "\r\n", $body;
}

# In the order of Protocol::WebSocket.
sub _head {
    my ($self, $given_keys, @subprotocols) = @_;
    my $key = $self->{key} = $given_keys ? $given_keys->[0] : MIME::Base64::encode_base64(random_bytes(16), '');
    my $target = $self->{target};
    my $host   = $target->host_and_port;
    my $origin = ($target->is_secure ? 'https://' : 'http://') . $host;
    my ($origin_name, $number) = @{ $VERSIONS{ $self->{version} // $CURRENT } };
    return "GET $target->{resource} HTTP/1.1\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nHost: $host\r\n"
        . "$origin_name: $origin\r\n"
        . (@subprotocols ? 'Sec-WebSocket-Protocol: ' . join(',', @subprotocols) . "\r\n" : '')
        . "Sec-WebSocket-Key: $key\r\nSec-WebSocket-Version: $number\r\n";
}

# The head, and what follows the empty line behind it.
sub _old_head {
    my ($self, @subprotocols) = @_;
    my $handshake = $self->{old} = Protocol::WebSocket::Handshake::Client->new(
        url => $self->{target}->url,
        req => Protocol::WebSocket::Request->new,
        # The limit is ours, and frames may come with the answer.
        res     => Protocol::WebSocket::Response->new(max_message_size => 1 << 31),
        version => $self->{version},
    );
    $handshake->req->subprotocol(join ',', @subprotocols) if @subprotocols;
    return split /(?<=\r\n)\r\n/, $handshake->to_string, 2;
}

# The headers as pairs of octets, fit to be put into the request. Line ends in values are taken out, as the
# original does: what encode_base64 makes has them.
sub header_lines {
    my @list = @_;
    die "http_headers: the last one has no value\n" if @list % 2;
    my @headers;
    while (my ($name, $value) = splice @list, 0, 2) {
        $name = '' unless defined $name;
        $value = defined $value ? "$value" : '';
        die "http_headers: '" . AnyEvent::WebSocket::Connection::HTTP::printable($name) . "' is not a header name\n"
            unless $name =~ /\A$AnyEvent::WebSocket::Connection::HTTP::TOKEN\z/;
        $value =~ s/[\r\n]//g;
        die "http_headers: the value of $name has a control character\n" if $value =~ /[\x00-\x08\x0B-\x1F\x7F]/;
        utf8::encode($value) unless utf8::downgrade($value, 1);
        utf8::downgrade($name = "$name");
        push @headers, [$name, $value];
    }
    return @headers;
}

# Each once (RFC 6455 section 4.1).
sub subprotocols {
    my %seen;
    for my $name (@_) {
        die "subprotocol: '" . AnyEvent::WebSocket::Connection::HTTP::printable($name // '') . "' is not a name\n"
            unless defined $name && $name =~ /\A[\x21-\x2B\x2D-\x7E]+\z/;
    }
    return grep { !$seen{$_}++ } @_;
}

# What RFC 6455 section 4.1 demands of a response; what was agreed upon otherwise.
sub _judge {
    my ($self, $headers) = @_;
    my ($upgrade, $connection, $accept, $extensions) = map { $_ && (@$_ == 1 ? $_->[0] : join ', ', @$_) }
        @$headers{qw(upgrade connection sec-websocket-accept sec-websocket-extensions)};
    return 'it has no Upgrade header'              unless defined $upgrade;
    return 'it has no Connection header'           unless defined $connection;
    return 'it has no Sec-WebSocket-Accept header' unless defined $accept;
    return 'Upgrade is not websocket: ' . _shown($upgrade) if lc $upgrade ne 'websocket';
    return 'Connection has no Upgrade: ' . _shown($connection)
        unless grep { lc eq 'upgrade' } split /[ \t]*,[ \t]*/, $connection;
    return 'Sec-WebSocket-Accept does not fit the key: ' . _shown($accept)
        if $accept ne AnyEvent::WebSocket::Connection::HTTP::accept_for($self->{key});
    my @subprotocols = @{ $headers->{'sec-websocket-protocol'} || [] };
    return 'it has more than one Sec-WebSocket-Protocol header' if @subprotocols > 1;
    return (undef, { subprotocol => $subprotocols[0], extensions => $extensions });
}

sub _shown { my ($value) = @_; return AnyEvent::WebSocket::Connection::HTTP::printable($value) }

# Protocol::WebSocket's own way with its old versions.
sub _receive_old {
    my ($self, $bytes) = @_;
    my $handshake = $self->{old};
    local ($@, $SIG{__DIE__});
    eval { $handshake->parse($bytes); 1 } or $handshake->error($@ =~ s/ at \S+ line [0-9]+\.\n.*//sr);
    return _failure($handshake->error) if $handshake->error;
    return unless $handshake->is_done;
    return $self->_agree({ subprotocol => $handshake->res->subprotocol }, $bytes);
}

sub _agree {
    my ($self, $agreed, $rest) = @_;
    my ($subprotocol, $extensions) = @$agreed{qw(subprotocol extensions)};
    my $wanted = $self->{wants_subprotocol};
    if (defined $subprotocol && (length $subprotocol || $wanted)) {
        my %requested = map { $_ => 1 } @{ $wanted || [] },
            map { split /[\s,]+/ } @{ $self->{asks_for_subprotocols} || [] };
        return { error => 'subprotocol mismatch, requested: '
                . join(', ', $wanted ? @$wanted : sort keys %requested) . ', got: ' . _shown($subprotocol) }
            unless $requested{$subprotocol};
    }
    else {
        return { error => 'no subprotocol in response' } if $wanted;
        undef $subprotocol;
    }

    my $offer;
    $extensions = undef unless length($extensions // '');
    if (defined $extensions) {
        my $refusal;
        ($refusal, $offer) = $self->_fit($extensions);
        return _failure($refusal) if defined $refusal;
    }
    return { rest => $rest, subprotocol => $subprotocol, extensions => $extensions, offer => $offer };
}

# Why these extensions do not fit anything that was offered; or undef and, where it is not that of `deflate`, the
# options of the offer that they fit.
sub _fit {
    my ($self, $extensions) = @_;
    my @offers = map { AnyEvent::WebSocket::Connection::Deflate::offers($_) } @{ $self->{offers} || [] };
    my ($name) = $extensions =~ /\A[\s,]*([^\s,;]*)/;
    return 'extension ' . _shown($name) . ' was not offered' if !@offers && length $name;
    # For what is malformed, or an empty list.
    @offers = [{}, 1] unless @offers;
    my $refusal;
    for my $offer (reverse @offers) {
        my $misfit = AnyEvent::WebSocket::Connection::Deflate::misfit($extensions, $offer);
        return (undef, $self->{deflate} && $offer == $offers[-1] ? undef : $offer->[0]) unless defined $misfit;
        $refusal //= $misfit;
    }
    return $refusal;
}

1;
