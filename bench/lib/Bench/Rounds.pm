package Bench::Rounds;

# All rounds of a scenario's cells, the servers in turns. One that fails is left out of the rest of its cell.

use v5.36;

use List::Util qw( max min );

use Bench::Environment qw( available_memory );

# Room for the messages in flight, in socket buffers and in those of the server, twice over.
use constant MEMORY_PER_BYTE => 3;

# arg: measure (a Bench::Measure), peers, ready, rounds, writes, descriptors, fail (called with peer, where, reason).
sub run ( $scenario, %arg ) {
    my @cells = @{ $scenario->{cells} };
    my $said  = 0;
    for my $cell (@cells) {
        _fit( $cell, $arg{descriptors} );
        my @peers = grep { _takes_part( $scenario, $_ ) } @{ $arg{peers} };
        my $rounds = min $arg{rounds}, $scenario->{rounds} // $arg{rounds};
        my %failed;
        my $attempt = sub ( $peer, $what, $code ) {
            return if $failed{ $peer->{name} };
            my $where = "$scenario->{name} $cell->{name}";
            _say("$where: $what, $peer->{name}");
            return if eval { $code->(); 1 };
            $failed{ $peer->{name} } = 1;
            chomp( my $why = $@ );
            $arg{fail}->( $peer->{name}, "$where, $what", $why );
        };
        for my $round ( 1 .. $rounds ) {
            # Nobody always comes after the same one.
            push @peers, shift @peers;
            for my $peer ( $round % 2 ? @peers : reverse @peers ) {
                my $name = $peer->{name};
                $attempt->(
                    $peer, "round $round of $rounds",
                    sub {
                        my $record = $arg{measure}->round( $scenario, $cell, $peer, $arg{ready}{$name} );
                        push @{ $cell->{rounds}{$name} }, $record;
                    }
                );
            }
        }
        next if !$arg{writes} || !grep { $_->{key} eq 'writes' } @{ $scenario->{figures} };
        for my $peer (@peers) {
            my $name = $peer->{name};
            $attempt->(
                $peer, 'write calls',
                sub { $cell->{writes}{$name} = $arg{measure}->writes( $scenario, $cell, $peer, $arg{ready}{$name} ) }
            );
        }
    }
    _say('');
    return;
}

sub _takes_part ( $scenario, $peer ) {
    return $scenario->{client} ? $peer->{client} : !defined $peer->{lacks}{ $scenario->{name} };
}

# Less of what the machine has not got: on a small one the largest cells would measure the swapping.
sub _fit ( $cell, $descriptors ) {
    my $connections = $cell->{connections} // return;
    my $most        = max 1, $descriptors - 100;
    if ( $connections > $most ) {
        $cell->{connections} = $most;
        $cell->{remark} = "Only $most connections, for want of descriptors.";
    }
    my ( $payload, $in_flight ) = @$cell{qw( payload in_flight )};
    my $available = available_memory();
    return if !defined $available || !$payload || !$in_flight;
    my $room = $available / MEMORY_PER_BYTE / $payload / $cell->{connections};
    return if $in_flight <= $room;
    $cell->{in_flight} = max 1, int $room;
    $cell->{remark} = "Only $cell->{in_flight} in flight, for want of memory.";
    return;
}

sub _say ($what) {
    printf STDERR "\r%-78s%s", substr( $what, 0, 78 ), length $what ? '' : "\r" if -t STDERR;
    return;
}

1;
