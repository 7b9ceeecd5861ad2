package Endurance::Ways;

# The ways in which a connection ends. Each acts on a round: {us} and {peer} are connections with each other, and {us}
# is the one that the way is about.

use v5.36;

use Exporter qw(import);
use Peer     qw(frame);
use Socket   qw(SOL_SOCKET SO_LINGER);

our @EXPORT_OK = qw(ways way ON_PURPOSE);

use constant ON_PURPOSE => "endurance on purpose\n";

# More than a socket takes at once.
my $MUCH = 'x' x 400_000;

# From whichever side, so masked as it has to be.
sub _raw ($connection, %frame) {
    return $connection->handle->push_write(frame(%frame, $connection->masked ? (mask => 'Mask') : ()));
}

sub _cut ($connection, $length, %frame) {
    return $connection->handle->push_write(substr frame(%frame, $connection->masked ? (mask => 'Mask') : ()), 0, $length);
}

# `act`, and what is to come of it at our side: `finish`, a pattern, '' for undef, and nothing where it must not come;
# `parse_error`, a pattern. `in_callback`: it is always called in one, else every other time. `tcp`: not on a socket of
# another kind. `options` of our connection.
my @WAYS = (
    {
        name   => 'close',
        act    => sub ($round) { $round->{us}->close(1000, 'bye') },
        finish => '',
        clean  => 1,
    },
    {
        name   => 'close by the peer',
        act    => sub ($round) { $round->{peer}->close(1001, 'bye') },
        finish => '',
        clean  => 1,
    },
    {
        name => 'close by both',
        act  => sub ($round) {
            $round->{us}->close(1000, 'we');
            $round->{peer}->close(1001, 'you');
        },
        finish => '',
        clean  => 1,
    },
    {
        name => 'drop',
        act  => sub ($round) { delete $round->{us} },
    },
    {
        name => 'drop with data unsent',
        act  => sub ($round) {
            $round->{peer_is_to_get} = length $MUCH;
            $round->{us}->send($MUCH);
            delete $round->{us};
        },
    },
    {
        name => 'close, then drop',
        act  => sub ($round) {
            $round->{us}->close;
            delete $round->{us};
        },
    },
    {
        name => 'destroy of the handle',
        act  => sub ($round) {
            $round->{us}->handle->destroy;
            delete $round->{us};
        },
    },
    {
        name => 'destroy with data unsent',
        act  => sub ($round) {
            $round->{peer_is_to_get} = length $MUCH;
            $round->{us}->send($MUCH);
            $round->{us}->handle->destroy;
            delete $round->{us};
        },
    },
    {
        name   => 'EOF',
        act    => sub ($round) { $round->{peer}->handle->push_shutdown },
        finish => '',
    },
    {
        name => 'EOF in a frame',
        act  => sub ($round) {
            _cut($round->{peer}, 2500, opcode => 2, payload => 'x' x 3000);
            $round->{peer}->handle->push_shutdown;
        },
        finish => '',
    },
    {
        name => 'reset',
        tcp  => 1,
        act  => sub ($round) {
            my $handle = delete($round->{peer})->handle;
            setsockopt $handle->fh, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0 or die "SO_LINGER: $!\n";
            # Over TLS it would go on with its goodbye.
            $handle->{linger} = 0;
            $handle->destroy;
        },
        finish => qr/./,
    },
    {
        name => 'protocol error',
        act  => sub ($round) {
            _raw($round->{peer}, payload => 'x' x 500, fin => 0);
            _raw($round->{peer}, rsv => 7);
        },
        parse_error => qr/./,
        finish      => '',
    },
    {
        name        => 'message too large',
        act         => sub ($round) { _cut($round->{peer}, 20, opcode => 2, length => 1 << 30, payload => 'x' x 10) },
        parse_error => qr/\APayload is too big/,
        finish      => '',
    },
    {
        name        => 'die in a callback',
        in_callback => 1,
        act         => sub ($round) { die ON_PURPOSE },
        parse_error => qr/\A\Q${\ ON_PURPOSE}\E\z/,
        finish      => '',
    },
    {
        name    => 'close timeout',
        options => {close_timeout => 0.004},
        act     => sub ($round) {
            $round->{peer}->handle->stop_read;
            $round->{us}->close;
            $round->{on_finish} = sub {
                $round->{peer}->handle->destroy;
                delete $round->{peer};
            };
        },
        finish => qr/\Aclose timeout\z/,
    },
    {
        name => 'held by its callbacks',
        act  => sub ($round) {
            # It goes all the same when it has finished.
            my $connection = delete $round->{us};
            $connection->on($_ => sub { $connection && 1 }) for qw(next_message each_message parse_error finish);
            $round->{peer}->handle->push_shutdown;
        },
        finish => '',
    },
);

sub ways () { map { $_->{name} } @WAYS }

sub way ($name) {
    my ($way) = grep { $_->{name} eq $name } @WAYS;
    return $way;
}

1;
