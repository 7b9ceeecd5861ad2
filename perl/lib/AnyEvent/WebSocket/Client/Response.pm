package AnyEvent::WebSocket::Client::Response;

# Collects the head of an HTTP response as its bytes arrive: a server's answer to the handshake, or a
# proxy's to CONNECT. Each byte is looked at a bounded number of times, however slowly they come; the
# parser sees each head once, as a whole. It is private to AnyEvent::WebSocket::Client.

use strict;
use warnings;

our $VERSION = '1.000';

use AnyEvent::WebSocket::Connection::HTTP ();

my $START = 'HTTP/1.';

# `max_size` limits the head, in bytes, with all interim responses before it; 0 is for none. `whole` is a
# regular expression for the statuses whose headers matter; with others the status line is all.
sub new {
    my ($class, %option) = @_;
    return bless { %option, buffer => '', searched => 0, skipped => 0 }, $class;
}

# Nothing as long as more has to come, else a hash with
#   error    where this is no response, or a too large one; otherwise
#   line     the status line
#   status   and, if it is one of `whole`:
#   headers  arrays of values by name in lower case
#   head     the bytes of the head
#   rest     those behind it
sub add {
    my ($self, $bytes) = @_;
    $self->{buffer} .= $bytes;
    while (1) {
        my $end = defined $self->{line} || $self->_find_line ? $self->_find_end : undef;
        my $size = $self->{skipped} + ($end // length $self->{buffer});
        $self->{error} //= "Message is too long, more than max_header_size ($self->{max_size} bytes)"
            if $self->{max_size} && $size > $self->{max_size};
        return { error => $self->{error} } if defined $self->{error};
        return unless defined $end;

        my %response = (line => $self->{line}, status => $self->{status});
        return \%response unless $end;
        $response{head} = substr $self->{buffer}, 0, $end, '';
        my $parsed = AnyEvent::WebSocket::Connection::HTTP::parse_response($response{head});
        return { error => 'Not a valid response: ' . ($parsed // 'incomplete') } unless ref $parsed;
        if (_is_interim($self->{status})) {
            $self->{skipped} += $end;
            @$self{qw(line status searched)} = (undef, undef, 0);
            next;
        }
        $response{headers} = $parsed->{headers};
        $response{rest} = delete $self->{buffer};
        return \%response;
    }
}

# A client has to be able to skip these (RFC 9110 section 15.2).
sub _is_interim { my ($status) = @_; return $status < 200 && $status != 101 }

# Whether the status line is there. Something else than HTTP is told from its first bytes, without waiting for
# a line end that may never come.
sub _find_line {
    my ($self) = @_;
    my $end = index $self->{buffer}, "\n", $self->{searched};
    if ($end < 0) {
        $self->{searched} = length $self->{buffer};
        my $length = $self->{searched} < length $START ? $self->{searched} : length $START;
        $self->_not_http($self->{buffer}) if substr($self->{buffer}, 0, $length) ne substr($START, 0, $length);
        return;
    }
    # The empty line may begin with this very line end.
    $self->{searched} = $end;
    my $line = substr $self->{buffer}, 0, $end;
    $line =~ s/\r\z//;
    # HTTP/1.0 has neither interim responses nor upgrades.
    ($self->{status}) = $line =~ m{\AHTTP/1\.(?|1 ([1-9][0-9]{2})|0 ([2-9][0-9]{2}))(?: |\z)}
        or return $self->_not_http($line);
    $self->{line} = $line;
    return 1;
}

sub _not_http {
    my ($self, $line) = @_;
    $self->{error} = wrong_line($line);
    return;
}

# Where the head ends; 0 where that does not matter; undef where it has not all come.
sub _find_end {
    my ($self) = @_;
    return 0 unless $self->{status} =~ $self->{whole} || _is_interim($self->{status});
    pos($self->{buffer}) = $self->{searched};
    return pos $self->{buffer} if $self->{buffer} =~ /\n\r?\n/g;
    my $tail = length($self->{buffer}) - 2;
    $self->{searched} = $tail if $tail > $self->{searched};
    return;
}

# As Protocol::WebSocket words it; programs look for that.
sub wrong_line {
    my ($line) = @_;
    return 'Wrong response line. Got [[' . AnyEvent::WebSocket::Connection::HTTP::printable($line)
        . ']], expected [[HTTP/1.1 101 ]]';
}

1;
