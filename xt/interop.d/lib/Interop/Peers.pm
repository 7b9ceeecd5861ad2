package Interop::Peers;

# The peers: where they come from, and what they are known to be unable to do.

use v5.36;

use Exporter qw(import);
use Interop::Install qw(need_module need_program node_packages python_packages);

our @EXPORT_OK = qw(peers);

my $NO_PARAMETERS  = 'it knows no parameters of compression';
my $ALWAYS_OFFERS  = 'a page always offers compression';

# name; origin; roles: what it can be; prepare: given where things are, returns the command, or dies with the
# reason why the peer cannot be had; excluded: by role and variant, with the reason; agreed: by role and variant,
# what is agreed upon instead; cannot: parts of the conversation that it has no part in, with the reason:
#
#   fragments     send a message in parts
#   between       send a ping between them
#   ping          send a ping
#   going_away    close with 1001
#   limit         say that a message is too large
#   vanish        close its socket without a Close frame
#   answer        answer a Close frame for certain
#   wait          wait for the answer to its own
#   whole         send a large message as one frame
#
# Where that is so only of its client or its server, the reason is in a hash of these.
my @PEERS = (
    {
        name    => 'Mojolicious',
        origin  => 'Debian',
        roles   => [qw(server client)],
        prepare => sub ($where) {
            need_module('libmojolicious-perl', 'Mojolicious');
            return ($^X, "$where->{helpers}/mojolicious/peer");
        },
        excluded => {
            server => {map { $_ => $NO_PARAMETERS } 'no takeover', 'window 10/12', 'server decides'},
            client => {map { $_ => $NO_PARAMETERS } 'no takeover', 'window 10/12'},
        },
        cannot => {
            answer => 'where the end of the stream comes with a Close frame, it closes the socket without an answer',
            wait   => 'behind its own Close frame it closes the socket, where our answer meets a reset, or closes twice',
            limit  => {client => 'where a message is too large, it closes the socket before its Close frame has left'},
        },
    },
    {
        name    => 'ws',
        origin  => 'npm',
        roles   => [qw(server client)],
        prepare => sub ($where) {
            my $node     = need_program('nodejs', 'node', 'nodejs');
            my $packages = node_packages("$where->{helpers}/node", "$where->{target}/node");
            return ($node, "$where->{helpers}/node/peer.mjs", $packages);
        },
    },
    {
        name    => 'websockets',
        origin  => 'PyPI',
        roles   => [qw(server client)],
        prepare => sub ($where) { return python_command($where, 'websockets_peer.py') },
    },
    {
        name    => 'Chromium',
        origin  => 'Debian',
        roles   => ['client'],
        prepare => sub ($where) {
            my $chromium = need_program('chromium', 'chromium');
            return ($^X, "$where->{helpers}/chromium/peer", $chromium, $where->{fingerprint});
        },
        excluded => {client => {map { $_ => $ALWAYS_OFFERS } 'plain', 'server would', 'TLS'}},
        cannot   => {
            fragments  => 'a page sends messages as a whole',
            ping       => 'a page sends no pings',
            going_away => 'a page may close with 1000, or 3000 to 4999',
            limit      => 'a page has no limit to be set',
            vanish     => 'a page cannot close a socket without a Close frame',
            whole      => 'it sends large messages in parts',
        },
        demo => 1,
    },
);

sub peers () { return @PEERS }

sub python_command ($where, $program) {
    my $python   = need_program('python3', 'python3');
    my $helpers  = "$where->{helpers}/python";
    my $packages = python_packages($python, "$helpers/requirements.txt", "$where->{target}/python");
    return ('env', "PYTHONPATH=$packages", 'PYTHONDONTWRITEBYTECODE=1', $python, "$helpers/$program");
}

1;
