package Interop::Cell;

# One cell of the matrix: our program and a peer's, one of them the server, and how their connections are
# made. What they say to each other is in Interop::Conversation.

use v5.36;

use AnyEvent;
use Interop::Checks;
use Interop::Conversation;
use Interop::Peer;
use Interop::Relay;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use constant {MAX_SIZE => 2 * 1024 * 1024, SUBPROTOCOL => 'talk.interop.example'};

# Arguments: peer: see Interop::Peers; role: the peer's; variant: see Interop::Variants; ours: the command of our
# program; check: says what is wrong with the modules it has loaded, if anything; directory: for logs; scratch:
# for temporary files; tls: cert, key, ca; patience, limit: seconds for one event, and for all of it.
sub new ($class, %arg) { return bless {%arg, checks => Interop::Checks->new}, $class }

sub max_size ($self)    { MAX_SIZE }
sub subprotocol ($self) { SUBPROTOCOL }

sub checks ($self)  { $self->{checks} }
sub variant ($self) { $self->{variant} }
sub seconds ($self) { $self->{seconds} }
sub peer ($self)    { $self->{peer} }
sub role ($self)    { $self->{role} }

# Why something is not asked of the peer, if so.
sub cannot ($self, $what) {
    my $reason = $self->{peer}{cannot}{$what} // $self->{variant}{cannot}{$what};
    return ref $reason ? $reason->{ $self->{role} } : $reason;
}

# Bytes of messages that were sent, either way, and of what that was on the wire.
sub traffic ($self) { return @$self{qw(payload carried)} }

sub add_traffic ($self, $payload, $carried) {
    $self->{payload} += $payload;
    $self->{carried} += $carried;
    return;
}

sub ours ($self)   { $self->{program}{ours} }
sub theirs ($self) { $self->{program}{theirs} }

# Which side a program is on: client or server.
sub side_of ($self, $who) {
    return $self->{role} if $who eq 'theirs';
    return $self->{role} eq 'client' ? 'server' : 'client';
}

sub at_side ($self, $side) {
    return $self->{program}{ $self->{role} eq $side ? 'theirs' : 'ours' };
}

sub run ($self) {
    my $started = clock_gettime(CLOCK_MONOTONIC);
    $self->{deadline} = AE::time + $self->{limit};
    my $checks = $self->checks;
    $checks->group('both programs', sub { $self->_start })
        && Interop::Conversation->new($self)->run;
    for my $program (grep { defined } map { $self->{program}{$_} } qw(ours theirs)) {
        my $wrong = $program->finish;
        $checks->ok($program->name . ' ends', !$wrong, $wrong);
        $checks->ok($program->name . ' reports no error', 0, $_) for $program->errors;
    }
    if (my $ours = $self->ours) {
        $checks->ok('our program warns of nothing', !$ours->said, join "\n    ", '', $ours->said);
    }
    $self->{relay}->stop if $self->{relay};
    $self->{seconds} = clock_gettime(CLOCK_MONOTONIC) - $started;
    return;
}

sub _start ($self) {
    for my $who (qw(ours theirs)) {
        $self->{program}{$who} = Interop::Peer->start(
            name     => $who eq 'ours' ? 'our ' . $self->side_of('ours') : "their $self->{role}",
            command  => $who eq 'ours' ? $self->{ours} : $self->{peer}{command},
            log      => "$self->{directory}/$who.log",
            scratch  => $self->{scratch},
            limit    => $self->{limit},
            deadline => $self->{deadline},
            patience => $self->{patience},
        );
    }
    $self->theirs->await('ready');
    my $wrong = $self->{check}->($self->ours->await('ready'));
    die "$wrong\n" if $wrong;

    my $variant = $self->{variant};
    my $server  = $self->at_side('server');
    $server->tell(
        listen => {
            deflate      => $variant->{server},
            subprotocols => [SUBPROTOCOL],
            max_size     => MAX_SIZE,
            $variant->{tls} ? (tls => {map { $_ => $self->{tls}{$_} } qw(cert key)}) : (),
        },
    );
    $self->{relay} = Interop::Relay->new($server->await('listening')->{port});
    return;
}

# Opens a connection, on which the side that echoes, if any, sends every message back. Returns what the relay
# sees of it, and what client and server tell about it.
sub open ($self, $id, $echoing_side = '') {
    my $variant = $self->{variant};
    my $path    = $echoing_side eq 'server' ? "/echo/$id" : "/$id";
    my $scheme  = $variant->{tls} ? 'wss' : 'ws';
    my ($client, $server) = map { $self->at_side($_) } qw(client server);
    $client->tell(
        connect => {
            id           => $id,
            url          => "$scheme://127.0.0.1:" . $self->{relay}->port . $path,
            echo         => $echoing_side eq 'client' ? JSON::PP::true : JSON::PP::false,
            deflate      => $variant->{client},
            subprotocols => ['chat.interop.example', SUBPROTOCOL],
            max_size     => MAX_SIZE,
            $variant->{tls} ? (tls => {ca => $self->{tls}{ca}}) : (),
        },
    );
    my %open = (client => $client->await(open => $id), server => $server->await(open => $id));
    return ($self->{relay}->wire($path), \%open);
}

1;
