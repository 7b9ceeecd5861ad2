# How a Client connects to what needs no resolver: as AnyEvent::Socket does.

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;
use AnyEvent;
use AnyEvent::Socket ();
use AnyEvent::WebSocket::Client;
use IO::Socket::INET;
use IO::Socket::IP;
use Peer qw(run_until);
use RawServer qw(raw_server connection_of error_of closed_port settled_descriptors);

my $CLIENT = 'AnyEvent::WebSocket::Client';

# What comes of it: the callback's arguments but for the retry, or the error; and what was asked of the program before.
sub outcome {
    my ($connect, $host, $port, $timeout) = @_;
    my ($outcome, @prepared);
    my $synchronous = 1;
    $connect->($host, $port, sub {
        my ($fh, @peer) = @_;
        $outcome = {
            error       => $fh ? undef : "$!",
            peer        => [@peer[0, 1]],
            retry       => ref $peer[2],
            blocking    => $fh && $fh->blocking ? 1 : 0,
            synchronous => $synchronous,
        };
    }, sub {
        my ($fh) = @_;
        push @prepared, { open => defined fileno $fh, connected => defined getpeername $fh };
        return $timeout;
    });
    $synchronous = 0;
    run_until { $outcome } "an outcome for $host";
    return { %$outcome, prepared => \@prepared };
}

# Connections to it do not come about: its queue is full, so that Linux drops what else arrives.
sub full_server {
    my $server = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die "listen: $!";
    listen $server, 0 or die "listen: $!";
    my @waiting = map {
        IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $server->sockport, Blocking => 0)
    } 1 .. 4;
    return ($server, @waiting);
}

my @warnings;
$SIG{__WARN__} = sub { push @warnings, @_ };

my $server = raw_server();
my $closed = closed_port();
my ($ipv6) = IO::Socket::IP->new(Listen => 5, LocalHost => '::1', V6Only => 1);

subtest 'the outcome is that of AnyEvent::Socket' => sub {
    my @cases = (
        ['an address',                       '127.0.0.1', $server->{port}],
        ['an address, in short',             '127.1',     $server->{port}],
        ['an address, in hexadecimal',       '0x7f000001', $server->{port}],
        ['localhost',                        'localhost', $server->{port}],
        ['a service with its number',        '127.0.0.1', "chat=$server->{port}"],
        ['nobody listens at an address',     '127.0.0.1', $closed],
        ['nobody listens at localhost',      'localhost', $closed],
        ['an address that is none',          '255.255.255.255', 9],
    );
    push @cases, ['IPv6', '::1', $ipv6->sockport], ['localhost, IPv6 only', 'localhost', $ipv6->sockport] if $ipv6;
    for my $case (@cases) {
        my ($name, @where) = @$case;
        is outcome(\&AnyEvent::WebSocket::Client::Dial::tcp_connect, @where),
            outcome(\&AnyEvent::Socket::tcp_connect, @where), $name;
    }
    diag 'there is no IPv6 here: not tried' unless $ipv6;
};

subtest 'the protocols are those that AnyEvent is to use' => sub {
    for my $protocols ({ ipv4 => 1 }, { ipv6 => 1 }, { ipv4 => 1, ipv6 => 2 }, { ipv4 => 2, ipv6 => 1 }) {
        for my $host ('127.0.0.1', 'localhost') {
            local %AnyEvent::PROTOCOL = %$protocols;
            my $name = join ' ', $host, map { "$_=$protocols->{$_}" } sort keys %$protocols;
            is outcome(\&AnyEvent::WebSocket::Client::Dial::tcp_connect, $host, $server->{port}),
                outcome(\&AnyEvent::Socket::tcp_connect, $host, $server->{port}), $name;
        }
    }
};

subtest 'a connection that does not come about' => sub {
    my ($full, @waiting) = full_server();
    my $before  = settled_descriptors();
    my $outcome = outcome(\&AnyEvent::WebSocket::Client::Dial::tcp_connect, '127.0.0.1', $full->sockport, 0.1);
    skip_all 'the system takes connections though the queue is full' unless defined $outcome->{error};
    is $outcome, outcome(\&AnyEvent::Socket::tcp_connect, '127.0.0.1', $full->sockport, 0.1),
        'takes as long as it was given, and is told of like AnyEvent::Socket\'s';
    is settled_descriptors(), $before, 'its descriptor is closed';
};

subtest 'a tcp_connect of the program in AnyEvent::Socket\'s place is called' => sub {
    my @asked;
    my $mock = mock 'AnyEvent::Socket' => (override => [
        tcp_connect => sub ($$$;$) { push @asked, "$_[0]:$_[1]"; $_[2]->() },
    ]);
    like error_of($CLIENT->new->connect("ws://127.0.0.1:$closed/")), qr/^unable to connect/, 'what it answers counts';
    is \@asked, ["127.0.0.1:$closed"], 'also for an address';
    undef $mock;
    is connection_of($CLIENT->new->connect($server->{uri}))->role, 'client', 'once it is gone, we connect';

    my $program = <<'END';
        use strict;
        use warnings;
        use AnyEvent::Socket ();
        BEGIN { no warnings 'redefine'; *AnyEvent::Socket::tcp_connect = sub ($$$;$) { print "asked\n"; $_[2]->() } }
        use AnyEvent::WebSocket::Client;
        eval { AnyEvent::WebSocket::Client->new->connect('ws://127.0.0.1:9/')->recv };
        print $@ =~ /^unable to connect/ ? "told\n" : "error: $@\n";
END
    open my $output, '-|', $^X, (map { "-I$_" } @INC), '-e', $program or die "perl: $!";
    is [<$output>], ["asked\n", "told\n"], 'where it was there before us, too';
};

my ($guard, @prepared);

{
    package Derived;
    our @ISA = ($CLIENT);

    sub _make_tcp_connection {
        my ($self, $scheme, $host, $port, $connected, $prepare) = @_;
        my @where = ($scheme, $host, $port, $connected, sub { push @prepared, $_[0]; $prepare->(@_) });
        return $guard = $self->SUPER::_make_tcp_connection(@where) if $self->timeout == 1;
        $self->SUPER::_make_tcp_connection(@where);
    }
}

subtest 'what a derived class gets from it' => sub {
    is connection_of(Derived->new->connect($server->{uri}))->role, 'client', 'a connection';
    is scalar @prepared, 1, 'of a socket that it could prepare';
    @prepared = ();
    my $done = Derived->new(timeout => 1)->connect($server->{uri});
    ok $guard, 'or a guard, if it wants one';
    undef $guard;
    my $later;
    my $timer = AE::timer(0.1, 0, sub { $later = 1 });
    run_until { $later || $done->ready } 'nothing';
    ok !$done->ready, 'which ends the attempt';
};

is \@warnings, [], 'nothing is warned of';

done_testing;
