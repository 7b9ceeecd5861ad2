package Far;

# The far end of a connection, the same whether the bytes go past our handle, through its methods, or over
# TLS. It reads only when it is asked to, so that what there is for it stays unsent; it never answers by
# itself; and how it ends is up to the test.

use strict;
use warnings;

use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::WebSocket::Connection;
use Carp        qw(croak);
use Digest::MD5 qw(md5_hex);
use Exporter    qw(import);
use Peer        qw(socket_pair tcp_pair frame parse_frames run_until write_all);
use Socket      qw(SOL_SOCKET SO_LINGER SO_SNDBUF);
use Test2::API  qw(context);
use Tls         qw(why_no_tls tls_context);

our @EXPORT_OK = qw(each_way connection_and_far brief text_of_errno);

@Far::Handle::ISA = ('AnyEvent::Handle');

# Each way by which the bytes go, with each role that we may have: its name, and options for
# connection_and_far.
my @transports;

sub each_way {
    if (!@transports) {
        my $reason = why_no_tls();
        @transports = ('directly', 'through the handle', $reason ? () : 'over TLS');
        my $context = context();
        $context->diag("not tested over TLS: $reason") if $reason;
        $context->release;
    }
    return map { my $way = $_; map { ["$way, as $_", way => $way, role => $_] } qw(server client) } @transports;
}

# A connection, and its far end. The event loop has been idle by then, and TLS is set up. Our socket takes less
# than 1 MiB at a time.
sub connection_and_far {
    my (%options) = @_;
    my ($ours, $theirs) = delete $options{tcp} ? tcp_pair() : socket_pair();
    setsockopt $ours, SOL_SOCKET, SO_SNDBUF, pack 'i', 65_536 or die "SO_SNDBUF: $!";
    AnyEvent::fh_unblock($theirs);
    my ($way, $role) = (delete $options{way}, $options{role});
    my ($our_tls, $their_tls) = $role eq 'server' ? qw(accept connect) : qw(connect accept);
    my $class  = $way eq 'through the handle' ? 'Far::Handle' : 'AnyEvent::Handle';
    my @tls    = $way eq 'over TLS' ? (tls => $our_tls, tls_ctx => tls_context($our_tls)) : ();
    my $handle = $class->new(fh => $ours, @tls);
    my $connection =
        AnyEvent::WebSocket::Connection->new(handle => $handle, masked => $role eq 'client', %options);
    my $far = bless {socket => $theirs, bytes => '', frames => [], masked => $role eq 'client'}, __PACKAGE__;
    $far->_start_tls($their_tls) if @tls;
    $far->say([9, 'ready?']);
    # A connection may send Pings of its own.
    my @frames;
    until (grep { $_->[0] == 10 && $_->[1] eq 'ready?' } @frames) {
        @frames = @{ $far->frames(1) } or croak 'no answer to a Ping';
    }
    return ($connection, $far);
}

# Frames as [opcode, payload, further options of `frame`].
sub encode {
    my ($far, @frames) = @_;
    my @mask = $far->{masked} ? () : (mask => "\x37\xFA\x21\x3D");
    return join '', map {
        my ($opcode, $payload, @options) = @$_;
        frame(opcode => $opcode, payload => $payload, @mask, @options);
    } @frames;
}

sub say { my ($far, @frames) = @_; return $far->say_bytes($far->encode(@frames)) }

sub say_bytes {
    my ($far, $bytes) = @_;
    return write_all($far->{socket}, $bytes) unless $far->{tls};
    Net::SSLeay::write($far->{tls}, $bytes) == length $bytes or croak 'TLS does not take everything';
    return $far->_flush_tls;
}

# Says it, and with the last byte that TLS ends.
sub say_and_end_tls {
    my ($far, @frames) = @_;
    my $bytes = $far->encode(@frames);
    Net::SSLeay::write($far->{tls}, $bytes) == length $bytes or croak 'TLS does not take everything';
    Net::SSLeay::shutdown($far->{tls});
    return $far->_flush_tls;
}

# What is on the wire up to EOF, as it is.
sub raw {
    my ($far) = @_;
    my $bytes = '';
    run_until { my $got; 1 while $got = sysread $far->{socket}, $bytes, 65_536, length $bytes; defined $got } 'EOF';
    return $bytes;
}

# Writes as much as is taken, and the rest from the event loop, whoever runs that. Returns code that tells how much is left.
sub stream_bytes {
    my ($far, $bytes) = @_;
    if ($far->{tls}) {
        Net::SSLeay::write($far->{tls}, $bytes) == length $bytes or croak 'TLS does not take everything';
        $bytes = $far->_encrypted;
    }
    my $watcher;
    $watcher = AE::io $far->{socket}, 1, sub {
        my $written = syswrite $far->{socket}, $bytes;
        substr $bytes, 0, $written, '' if $written;
        undef $watcher if !length $bytes || (!defined $written && !$!{EAGAIN});
    };
    return sub { length $bytes };
}

# Reads once: up to that many bytes. Returns whether it might read more.
sub sip {
    my ($far, $size) = @_;
    return if $far->{eof};
    my $got = sysread $far->{socket}, my $bytes, $size || 1 << 16;
    if ($got) {
        $far->{bytes} .= $far->{tls} ? $far->_decrypt($bytes) : $bytes;
    }
    elsif (defined $got || !$!{EAGAIN}) {
        $far->{eof}   = 1;
        $far->{error} = "$!" unless defined $got;
    }
    push @{ $far->{frames} }, map {
        croak "a frame of opcode $_->{opcode} is " . ($_->{masked} ? 'masked' : 'not masked')
            if !$_->{masked} != !$far->{masked};
        [$_->{opcode}, brief($_->{payload})];
    } parse_frames($far->{bytes});
    return $got;
}

sub _read_until {
    my ($far, $condition, $what) = @_;
    return run_until { 1 while $far->sip; $far->{eof} || $condition->() } $what;
}

# The frames that came since this was asked last, as [opcode, payload]; waits for so many.
sub frames {
    my ($far, $count) = @_;
    $far->_read_until(sub { @{ $far->{frames} } >= $count }, "$count frames");
    return [splice @{ $far->{frames} }];
}

# The same up to EOF, which must not come in the middle of a frame, nor as an error.
sub rest {
    my ($far) = @_;
    $far->_read_until(sub { 0 }, 'EOF');
    my @frames = splice @{ $far->{frames} };
    push @frames, 'a part of a frame'   if length $far->{bytes};
    push @frames, "error $far->{error}" if defined $far->{error};
    return \@frames;
}

# Whether EOF has come, or an error, of which nothing was to be read before.
sub is_at_end { my ($far) = @_; $far->sip; return $far->{eof} }

# Nothing more will come from here, but reading goes on.
sub hang_up { my ($far) = @_; shutdown $far->{socket}, 1; return }

sub leave { my ($far) = @_; close $far->{socket}; return }

# What the death of a machine or of a router on the way looks like.
sub reset {
    my ($far) = @_;
    setsockopt $far->{socket}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0) or die "SO_LINGER: $!";
    return $far->leave;
}

# Long payloads by their length and digest, so that a difference is readable.
sub brief {
    my ($payload) = @_;
    return length $payload > 200 ? length($payload) . ' bytes, ' . md5_hex($payload) : $payload;
}

sub text_of_errno {
    local $! = $_[0];
    return "$!";
}

# ---- TLS, in memory, since a handle reads whenever it can

sub _start_tls {
    my ($far, $role) = @_;
    my $tls = $far->{tls} = Net::SSLeay::new(tls_context($role)->ctx);
    $role eq 'accept' ? Net::SSLeay::set_accept_state($tls) : Net::SSLeay::set_connect_state($tls);
    $far->{$_} = Net::SSLeay::BIO_new(Net::SSLeay::BIO_s_mem()) for qw(read_bio write_bio);
    Net::SSLeay::set_bio($tls, $far->{read_bio}, $far->{write_bio});
    run_until {
        Net::SSLeay::do_handshake($tls);
        $far->_flush_tls;
        $far->sip;
        Net::SSLeay::state($tls) == Net::SSLeay::ST_OK();
    } 'TLS';
    return;
}

sub _decrypt {
    my ($far, $bytes) = @_;
    Net::SSLeay::BIO_write($far->{read_bio}, $bytes);
    my $plain = '';
    while (defined(my $more = Net::SSLeay::read($far->{tls}))) {
        last unless length $more;
        $plain .= $more;
    }
    $far->_flush_tls;
    return $plain;
}

sub _encrypted {
    my ($far) = @_;
    my $bytes = '';
    while (defined(my $more = Net::SSLeay::BIO_read($far->{write_bio}))) {
        last unless length $more;
        $bytes .= $more;
    }
    return $bytes;
}

sub _flush_tls {
    my ($far) = @_;
    my $bytes = $far->_encrypted;
    return length $bytes ? write_all($far->{socket}, $bytes) : 1;
}

sub DESTROY { my ($far) = @_; Net::SSLeay::free($far->{tls}) if $far->{tls}; return }

1;
