package Interop::Relay;

# Stands between the clients and a server, and passes everything on as it comes: bytes, the end of either
# direction, and resets. What passes is seen by an Interop::Wire for each connection.

use v5.36;

use AnyEvent;
use AnyEvent::Socket qw(tcp_connect tcp_server);
use Errno qw(EAGAIN EINTR EWOULDBLOCK);
use Interop::Wire;
use Socket qw(IPPROTO_TCP SOL_SOCKET SO_LINGER TCP_NODELAY);

use constant {READ => 256 * 1024, MOST_WAITING => 4 * 1024 * 1024};

sub new ($class, $server_port) {
    my $self = bless {wires => [], open => {}}, $class;
    my $port;
    $self->{listener} = tcp_server '127.0.0.1', 0, sub ($client, @) {
        my $wire = Interop::Wire->new;
        push @{ $self->{wires} }, $wire;
        tcp_connect '127.0.0.1', $server_port, sub ($server = undef, @) {
            $self->_join($wire, $client, $server) if $server;
        };
    }, sub ($socket, $host, $number) { $port = $number; 0 };
    $self->{port} = $port;
    return $self;
}

sub port ($self)  { $self->{port} }
sub wires ($self) { @{ $self->{wires} } }

# The connection whose request has that path; with TLS, where that is not to be seen, the latest.
sub wire ($self, $path) {
    my ($found) = grep { $_->is_opaque || ($_->path // '') eq $path } reverse $self->wires;
    return $found // die "no connection to $path has come through the relay\n";
}

sub _join ($self, $wire, $client, $server) {
    my %end = (client => {socket => $client}, server => {socket => $server});
    for my $name (qw(client server)) {
        my ($end, $other) = ($end{$name}, $end{ $name eq 'client' ? 'server' : 'client' });
        setsockopt $end->{socket}, IPPROTO_TCP, TCP_NODELAY, 1;
        @$end{qw(name other waiting wire owner)} = ($name, $other, '', $wire, $self);
    }
    $self->{open}{$wire} = \%end;
    _watch_reading($_) for values %end;
    return;
}

# An end is a hash: socket, name, other, wire, owner; waiting: bytes that it has not taken yet; reader, writer:
# watchers; is_done: it sends nothing more; shutdown, is_shut: it is to be told that the other one is done, and
# has been; is_reset. It is empty once the connection is closed.
sub _watch_reading ($end) {
    $end->{reader} = AE::io($end->{socket}, 0, sub { _read($end) });
    return;
}

sub _read ($end) {
    my $count = sysread $end->{socket}, my $bytes, READ;
    if (!defined $count) {
        _reset($end) if $! != EAGAIN && $! != EINTR && $! != EWOULDBLOCK;
        return;
    }
    my $other = $end->{other};
    if (!$count) {
        delete $end->{reader};
        $end->{is_done} = $other->{shutdown} = 1;
        _write($other);
        return;
    }
    $end->{wire}->passed($end->{name}, $bytes);
    $other->{waiting} .= $bytes;
    _write($other);
    return if !$end->{owner};
    # A side that reads nothing is to be felt by the other one.
    delete $end->{reader} if length $other->{waiting} > MOST_WAITING;
    return;
}

sub _write ($end) {
    if (length $end->{waiting}) {
        my $count = syswrite $end->{socket}, $end->{waiting};
        if (defined $count) {
            substr $end->{waiting}, 0, $count, '';
        }
        elsif ($! != EAGAIN && $! != EINTR && $! != EWOULDBLOCK) {
            return _reset($end);
        }
    }
    if (length $end->{waiting}) {
        $end->{writer} //= AE::io($end->{socket}, 1, sub { _write($end) });
        return;
    }
    delete $end->{writer};
    my $other = $end->{other};
    return _close($end, $other->{is_reset}) if $other->{is_reset};
    _watch_reading($other) if !$other->{reader} && !$other->{is_done};
    if ($end->{shutdown} && !$end->{is_shut}++) {
        shutdown $end->{socket}, 1;
    }
    _close($end) if $end->{is_shut} && $other->{is_shut};
    return;
}

# An end is gone. The other one has what was sent before, and then is reset, too.
sub _reset ($end) {
    return if $end->{is_reset};
    $end->{is_reset} = $end->{is_done} = 1;
    $end->{waiting} = '';
    delete @$end{qw(reader writer)};
    _write($end->{other});
    return;
}

sub _close ($end, $by_reset = 0) {
    my $ends = delete $end->{owner}{open}{ $end->{wire} } or return;
    for my $each (values %$ends) {
        delete @$each{qw(reader writer)};
        setsockopt $each->{socket}, SOL_SOCKET, SO_LINGER, pack 'll', 1, 0 if $by_reset;
        close $each->{socket};
    }
    # They refer to each other.
    %$_ = () for values %$ends;
    return;
}

sub stop ($self) {
    delete $self->{listener};
    _close((values %$_)[0]) for values %{ $self->{open} };
    return;
}

1;
