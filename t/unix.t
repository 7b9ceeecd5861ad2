# Connections over UNIX sockets as AnyEvent::Socket makes them (C21).

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;
use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::Socket qw(tcp_connect tcp_server);
use AnyEvent::WebSocket::Connection;
use File::Temp qw(tempdir);
use Peer qw(run_until settle history finished);

my $CONNECTION = 'AnyEvent::WebSocket::Connection';
my $MIB        = 1 << 20;
my $DIRECTORY  = tempdir(CLEANUP => 1);

# A connected pair, client first, through a socket of this name.
sub unix_connections {
    my ($path, $client_options, $server_options) = @_;
    my ($client, $server);
    my $listener = tcp_server 'unix/', $path, sub {
        my ($fh) = @_;
        $server = $CONNECTION->new(handle => AnyEvent::Handle->new(fh => $fh), %{ $server_options || {} });
    };
    my $connecting = tcp_connect 'unix/', $path, sub {
        my ($fh) = @_ or die "connect: $!";
        $client = $CONNECTION->new(
            handle => AnyEvent::Handle->new(fh => $fh),
            masked => 1,
            %{ $client_options || {} },
        );
    };
    run_until { $client && $server } 'both ends';
    # Moved: some event loop may keep these callbacks for a while.
    my @connections = ($client, $server);
    undef $_ for $client, $server;
    return @connections;
}

my @BODIES = ('', '0', "\xE2\x82\xAC", 'm' x 70_000, 'l' x (3 * $MIB), 'end');

subtest 'a conversation (C21)' => sub {
    my ($client, $server) = unix_connections("$DIRECTORY/socket", ({ max_payload_size => 0 }) x 2);
    my ($at_client, $at_server) = map { history($_) } $client, $server;
    $client->send($_) for @BODIES;
    $server->send($_) for @BODIES;
    run_until { @$at_client == @BODIES && @$at_server == @BODIES } 'the messages';
    is [map { length } @$at_server], [map { length } @BODIES], 'the server receives everything in order';
    is [map { length } @$at_client], [map { length } @BODIES], 'so does the client';
    is [@$at_server[0 .. 2, 5]], [@BODIES[0 .. 2, 5]], 'unchanged';
    $server->close(4001, "fin\x{e9}");
    run_until { finished($at_client) && finished($at_server) } 'finish';
    is [$client->close_code, $client->close_reason], [4001, "fin\xE9"], 'code and reason arrive';
    is $server->close_code, 4001, 'and the answer';
    is [$at_client->[-1], $at_server->[-1]], [([finish => undef]) x 2], 'both finish without an error';
    ok $client->was_clean && $server->was_clean, 'cleanly';
};

subtest 'dropped with unsent data (C8, C21, D3)' => sub {
    my ($client, $server) = unix_connections("$DIRECTORY/dropped", {}, {max_payload_size => 0});
    my $history = history($server);
    settle();
    $client->send('l' x (4 * $MIB))->send('behind');
    undef $client;
    run_until { finished($history) } 'finish';
    is [map { ref ? $_ : length } @$history], [4 * $MIB, 6, [finish => undef]], 'all of it arrives, then EOF';
    is $server->close_code, 1000, 'with a Close frame';
};

subtest 'the peer is gone (C19, C21)' => sub {
    my ($client, $server) = unix_connections("$DIRECTORY/gone");
    my $history = history($client);
    settle();
    $server->send('last');
    # Nothing more is said: the socket just ends.
    $server->handle->destroy;
    run_until { finished($history) } 'finish';
    is $history, ['last', [finish => undef]], 'what it had sent is delivered, then finish';
    ok lives { $client->send('x' x $MIB)->close }, 'sending is harmless then';
};

subtest 'nobody reads, then the peer goes (C19, C21)' => sub {
    my ($client, $server) = unix_connections("$DIRECTORY/broken");
    my $history = history($client);
    settle();
    $server->handle->stop_read;
    $client->send('x' x (4 * $MIB));
    settle();
    is $history, [], 'the connection waits';
    $server->handle->destroy;
    run_until { finished($history) } 'finish';
    is scalar @$history, 1, 'finish comes once';
    ok defined $history->[0][1], 'with the text of an error, as not all could be sent';
    is $client->close_error, $history->[0][1], 'which close_error has, too';
};

done_testing;
