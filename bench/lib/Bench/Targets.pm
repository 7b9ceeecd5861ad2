package Bench::Targets;

# What ours is to reach, and what was measured of it.

use v5.36;
use utf8;

use Exporter qw( import );

use Bench::Statistics qw( TIE );

our @EXPORT_OK = qw( targets );

my $FLOOR    = 'floor: Perl';
my $ORIGINAL = 'original';

# Each: what it is about, what is to be, and what was measured: for every cell that it holds for, the figure and the
# verdict. Where ours is only to be level with others, noise is allowed for.
sub targets ($results) {
    my @targets;
    my $add = sub ( $what, $target, @measured ) {
        push @targets, { what => $what, target => $target, measured => [ grep { defined } @measured ] };
    };
    my $echo = sub ($name) { $results->cell( 'echo', $name ) };

    for ( [ '16 B', '16x50x1' ], [ '1 KiB', '1024x50x1' ] ) {
        my ( $size, $name ) = @$_;
        my $what = "$size, 50 connections, 1 in flight: CPU per message";
        $add->( $what, 'at most 1.25 × the Perl floor', _floor( $results, $echo->($name), 1.25 ) );
        $add->( $what, "no more than any peer's",       _least( $results, $echo->($name), 'cpu' ) );
    }
    my $many = '16 B, 50 connections, 16 in flight';
    my $cell = $echo->('16x50x16');
    $add->( "$many: messages/s", 'at least 4 × the fastest peer', _fastest( $results, $cell, 4 ) );
    $add->( "$many: messages/s", 'at least 15 × the original',    _original( $results, 'echo', $cell, 'speed', 15 ) );
    $add->( "$many: CPU per message", 'at most 3 × the Perl floor', _floor( $results, $cell, 3 ) );
    $add->(
        '1 KiB, 50 connections, 16 in flight: messages/s', 'at least 3 × the fastest peer',
        _fastest( $results, $echo->('1024x50x16'), 3 )
    );

    for ( [ '64 KiB', 64 << 10 ], [ '1 MiB', 1 << 20 ] ) {
        my ( $size, $payload ) = @$_;
        my @cells = grep { $_->{payload} == $payload } $results->cells('echo');
        $add->(
            "$size: CPU per message", 'at most 1.3 × the Perl floor',
            map { _floor( $results, $_, 1.3 ) } @cells
        );
        $add->( "$size: CPU per message", "no more than any peer's", map { _least( $results, $_, 'cpu' ) } @cells );
    }

    my @single = grep { $_->{in_flight} == 1 } $results->cells('echo');
    for my $key (qw( p50 p99 )) {
        $add->(
            "1 in flight: $key latency", "no worse than the best peer's",
            map { _least( $results, $_, $key ) } @single
        );
    }

    my $idle = $results->cell( 'idle', undef );
    for ( [ fresh => 'fresh' ], [ used => 'after one echo' ] ) {
        my ( $key, $title ) = @$_;
        my $is = $results->summary( 'idle', $idle, 'ours', $key );
        $add->(
            "An idle connection, $title, at $idle->{connections}", 'at most 5 KiB',
            $is && { is => sprintf( '%.2f KiB', $is->{median} ), verdict => _verdict( $is->{median} <= 5 ) }
        ) if $idle;
    }
    $add->(
        'Broadcast of 100 B to 1000: messages per CPU second', 'at least 5 × the original',
        _original( $results, 'broadcast', $results->cell( 'broadcast', undef ), 'per_cpu', 5 )
    );
    $add->(
        'TLS echo of 16 B, 16 in flight: messages/s', 'at least 3 × the original',
        map { _original( $results, 'tls', $_, 'speed', 3 ) } $results->cells('tls')
    );
    $add->(
        'Handshakes: connections/s', 'at least 1.5 × the original',
        _original( $results, 'connect', $results->cell( 'connect', undef ), 'speed', 1.5 )
    );
    return @targets;
}

sub _verdict ( $met, $tie = 0 ) { $met ? 'met' : $tie ? 'met within noise' : 'NOT met' }

sub _measured ( $results, $scenario, $cell, $key, $other, $met, $tie = undef ) {
    my ( $ratio, $best ) = map { $results->ratio( $scenario, $cell, $key, 'ours', $other, $_ ) } qw( median best );
    return undef if !defined $ratio;
    my $of = $other eq $FLOOR ? 'the floor' : $other;
    return {
        cell    => $cell->{title} // $cell->{name},
        is      => sprintf( '%.2f × %s (best rounds: %.2f)', $ratio, $of, $best // 'nan' ),
        verdict => _verdict( $met->($ratio), $tie && $tie->($ratio) ),
    };
}

sub _floor ( $results, $cell, $most ) {
    return _measured( $results, 'echo', $cell, 'cpu', $FLOOR, sub ($ratio) { $ratio <= $most } );
}

sub _original ( $results, $scenario, $cell, $key, $least ) {
    return _measured( $results, $scenario, $cell, $key, $ORIGINAL, sub ($ratio) { $ratio >= $least } );
}

# Against the peer that has the least of a figure.
sub _least ( $results, $cell, $key ) {
    my $peer = _leader( $results, $cell, $key, sub ( $a, $b ) { $a < $b } ) // return undef;
    return _measured(
        $results, 'echo', $cell, $key, $peer,
        sub ($ratio) { $ratio <= 1 },
        sub ($ratio) { $ratio < 1 + TIE }
    );
}

sub _fastest ( $results, $cell, $least ) {
    my $peer = _leader( $results, $cell, 'speed', sub ( $a, $b ) { $a > $b } ) // return undef;
    return _measured( $results, 'echo', $cell, 'speed', $peer, sub ($ratio) { $ratio >= $least } );
}

sub _leader ( $results, $cell, $key, $before ) {
    my ( $leader, $value );
    for my $peer ( $results->of_kind('peer') ) {
        my $summary = $results->summary( 'echo', $cell, $peer, $key ) // next;
        next if defined $value && !$before->( $summary->{median}, $value );
        ( $leader, $value ) = ( $peer, $summary->{median} );
    }
    return $leader;
}

1;
