package Endurance::Sources;

# Where pairs of connections come from. A source is called with the options for both and those for ours, and calls
# back with the client and the server.

use v5.36;

use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::Socket qw(tcp_server);
use AnyEvent::WebSocket::Client;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Server;
use Exporter qw(import);
use Socket;

our @EXPORT_OK = qw(source transports why_not);

my %ABOUT = (
    pair      => 'Connections on socket pairs',
    handshake => 'Client and Server over TCP, with the opening handshake',
    TLS       => 'Connections on socket pairs with TLS',
);

sub transports () { qw(pair handshake TLS) }

sub why_not ($transport) {
    return '' if $transport ne 'TLS';
    require Tls;
    return Tls::why_no_tls();
}

# Arguments: transport; role: that of ours; tcp: whether it has to be.
sub source (%arg) {
    my $transport = $arg{transport};
    return _handshakes($arg{role}) if $transport eq 'handshake';
    my $sockets = $arg{tcp} ? _tcp_pairs() : \&_socket_pair;
    my %handle  = (client => [], server => []);
    if ($transport eq 'TLS') {
        die why_not($transport), "\n" if why_not($transport);
        %handle = (
            client => [tls => 'connect', tls_ctx => Tls::tls_context('connect')],
            server => [tls => 'accept',  tls_ctx => Tls::tls_context('accept')],
        );
    }
    return sub ($options, $ours, $made) {
        my %socket;
        @socket{qw(client server)} = $sockets->();
        $made->(map {
            AnyEvent::WebSocket::Connection->new(
                handle => AnyEvent::Handle->new(fh => $socket{$_}, @{ $handle{$_} }),
                role   => $_,
                $options->{permessage_deflate} ? (extensions => 'permessage-deflate') : (),
                %$options,
                $_ eq $arg{role} ? %$ours : (),
            );
        } qw(client server));
    };
}

sub _socket_pair () {
    socketpair my $one, my $other, AF_UNIX, SOCK_STREAM, PF_UNSPEC or die "socketpair: $!\n";
    return ($one, $other);
}

sub _tcp_pairs () {
    socket my $listener, PF_INET, SOCK_STREAM, 0 or die "socket: $!\n";
    bind $listener, pack_sockaddr_in(0, INADDR_LOOPBACK) or die "bind: $!\n";
    listen $listener, SOMAXCONN or die "listen: $!\n";
    my $address = getsockname $listener;
    return sub {
        socket my $one, PF_INET, SOCK_STREAM, 0 or die "socket: $!\n";
        connect $one, $address or die "connect: $!\n";
        accept my $other, $listener or die "accept: $!\n";
        return ($one, $other);
    };
}

# The connections of a round find each other by the number in the path.
sub _handshakes ($role) {
    my (%clients, %servers, $listener, $port);
    my $number = 0;
    my %waiting;
    my $enter = sub ($number, $role, $connection) {
        my $round = $waiting{$number};
        $round->{$role} = $connection;
        return if !$round->{client} || !$round->{server};
        delete $waiting{$number};
        # A turn of the loop of its own: this is the callback of one of the two.
        AE::postpone { $round->{made}->(delete @$round{qw(client server)}) };
    };
    my $server = sub ($options) {
        # What is agreed upon, and limits, are the server's for all.
        return $servers{ _key($options) } //= AnyEvent::WebSocket::Server->new(
            handshake => sub ($request, $response) { return ($response, $request->resource_name =~ /(\d+)/) }, %$options,
        );
    };
    my @server_options;
    return sub ($options, $ours, $made) {
        $listener //= tcp_server '127.0.0.1', 0, sub ($socket, @) {
            $server->($server_options[0])->establish($socket)->cb(sub ($done) {
                my ($connection, $number) = $done->recv;
                $enter->($number, 'server', $connection);
            });
        }, sub ($socket, $host, $bound) { $port = $bound; SOMAXCONN };
        $server_options[0] = {permessage_deflate => 1, %$options, $role eq 'server' ? %$ours : ()};
        my %of_client = (%$options, $role eq 'client' ? %$ours : ());
        my $client = $clients{ _key(\%of_client) } //= AnyEvent::WebSocket::Client->new(%of_client);
        $waiting{ ++$number } = {made => $made};
        my $here = $number;
        $client->connect("ws://127.0.0.1:$port/$here")->cb(sub ($done) { $enter->($here, 'client', $done->recv) });
    };
}

sub _key ($options) { join ' ', map { "$_=$options->{$_}" } sort keys %$options }

sub about ($transport) { $ABOUT{$transport} }

1;
