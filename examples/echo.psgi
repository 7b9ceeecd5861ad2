# An echo server as a PSGI application, with a page to try it with, for servers that have psgix.io and AnyEvent's
# event loop:
#
#   plackup -s Twiggy --port 8080 examples/echo.psgi

use strict;
use warnings;

use File::Basename qw(dirname);
use lib grep { -d } map { dirname(__FILE__) . "/../blib/$_" } qw(arch lib);

use AnyEvent::WebSocket::Server;

my $page = do {
    open my $file, '<:raw', dirname(__FILE__) . '/echo.html' or die "echo.html: $!\n";
    local $/;
    <$file>;
};

my $server = AnyEvent::WebSocket::Server->new(
    max_payload_size   => 16 * 1024 * 1024,
    permessage_deflate => 1,
);

# A connection lives as long as the program holds it, so here they are.
my %connections;

sub echo {
    my ($connection) = @_;
    $connections{$connection} = $connection;
    $connection->on(each_message => sub {
        my ($connection, $message) = @_;
        $connection->send($message);
    });
    $connection->on(finish => sub { delete $connections{ $_[0] } });
}

sub {
    my ($env) = @_;
    return [200, ['Content-Type' => 'text/html; charset=utf-8'], [$page]] if !$env->{HTTP_UPGRADE};
    return sub {
        my ($respond) = @_;
        $server->establish_psgi($env)->cb(sub {
            my $connection = eval { $_[0]->recv };
            return echo($connection) if $connection;
            warn $@;
            # The socket is as it was, and the answer is the PSGI server's.
            $respond->([400, ['Content-Type' => 'text/plain'], ["Not a WebSocket handshake.\n"]]);
        });
    };
};
