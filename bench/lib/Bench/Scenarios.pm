package Bench::Scenarios;

# What is measured: each scenario with its cells, what they ask of the server and of the load generator, and the
# figures that come of it.

use v5.36;
use utf8;

use Exporter qw( import );

our @EXPORT_OK = qw( scenarios parse_cells ECHO_CELLS QUICK_CELLS );

use constant ECHO_CELLS => join ',', map {
    my $payload = $_;
    map { ( "${payload}x${_}x1", "${payload}x${_}x16" ) } 1, 50
} qw( 16 1K 64K 1M );
use constant QUICK_CELLS => '16x50x1,16x50x16,64Kx50x1,1Mx1x1';

# ---- Figures: a function of one round's record each

my %SPEED = ( key => 'speed', better => 'more', of => sub ($r) { 1e9 * $r->{count} / $r->{wall_ns} } );
my %CPU   = ( key => 'cpu',   better => 'less', of => sub ($r) { $r->{server_cpu_ns} / 1e3 / $r->{count} } );

my @LATENCY = (
    { key => 'p50', title => 'p50 µs', better => 'less', of => sub ($r) { $r->{p50_ns} / 1e3 } },
    { key => 'p99', title => 'p99 µs', better => 'less', of => sub ($r) { $r->{p99_ns} / 1e3 } },
);
my $FAULTS =
  { key => 'faults', title => 'faults', minor => 1, better => 'less', of => sub ($r) { $r->{minor_faults} / $r->{count} } };
my $WRITES = { key => 'writes', title => 'writes', minor => 1, better => 'less' };

sub _speed ($title) { return { %SPEED, title => $title, main => 1 } }
sub _cpu   ($title) { return { %CPU,   title => $title, main => 1 } }

# ---- Scenarios

sub scenarios (%option) {
    my $quick = $option{quick};
    my $idle  = $quick ? 2000 : 10_000;
    return (
        {
            name    => 'echo',
            title   => 'Echo',
            about   => 'Every message comes back, and every byte of it is compared. Binary messages, masked as a client has to.'
              . ' The floors send the same bytes back without WebSocket.',
            cells   => [ parse_cells( $option{cells} ) ],
            mode    => 'echo',
            figures => [ _speed('messages/s'), _cpu('CPU µs/message'), @LATENCY, $FAULTS, $WRITES ],
        },
        {
            name   => 'tls',
            title  => 'Echo over TLS',
            about  => 'TLS 1.3 with AES-128-GCM, and a certificate made for this run.',
            cells  => [ parse_cells( $quick ? '16x50x16' : '16x1x16,16x50x16' ) ],
            mode   => 'echo',
            tls    => 1,
            figures => [ _speed('messages/s'), _cpu('CPU µs/message'), @LATENCY ],
        },
        {
            name  => 'deflate',
            title => 'Echo of compressed texts',
            about => 'permessage-deflate on texts of JSON, a little over 1 KiB each. The client offers it, and each server agrees'
              . ' to what it does by default. "On the wire" is what the server sends, heads included, as a part of the texts.',
            cells => [ parse_cells( $quick ? '1100x50x16' : '1100x1x1,1100x50x16' ) ],
            mode  => 'echo',
            wire  => 'deflate',
            figures => [
                _speed('messages/s'), _cpu('CPU µs/message'), @LATENCY,
                {
                    key    => 'wire',
                    title  => 'on the wire',
                    better => 'less',
                    of     => sub ($r) { $r->{bytes_from_server} / $r->{bytes_of_text} },
                },
                {
                    key    => 'compressed',
                    title  => 'compressed',
                    minor  => 1,
                    better => 'more',
                    of     => sub ($r) { $r->{compressed} / $r->{count} },
                },
            ],
        },
        {
            name  => 'connect',
            title => 'Connect, handshake, close',
            about => 'Connections opened, upgraded and closed, 16 at a time. The times are from connecting to the answer. The original'
              . ' comes without a server class; Protocol::WebSocket stands in, which checks less of a request than ours.',
            cells => [ { name => '16 at a time', connections => 16 } ],
            mode  => 'connect',
            figures => [ _speed('connections/s'), _cpu('CPU µs/connection'), @LATENCY ],
        },
        {
            name   => 'idle',
            title  => 'Memory of idle connections',
            about  => 'Growth of the server\'s resident memory for each open connection, everything included: fresh, and after one'
              . ' echo of 16 B each.',
            cells  => [ { name => "$idle connections", connections => $idle, payload => 16 } ],
            mode   => 'idle',
            rounds => $quick ? 1 : 3,
            figures => [
                {
                    key    => 'fresh',
                    title  => 'KiB fresh',
                    better => 'less',
                    main   => 1,
                    of     => sub ($r) { ( $r->{resident_fresh} - $r->{resident} ) / 1024 / $r->{count} },
                },
                {
                    key    => 'used',
                    title  => 'KiB after one echo',
                    better => 'less',
                    main   => 1,
                    of     => sub ($r) { ( $r->{resident_used} - $r->{resident} ) / 1024 / $r->{count} },
                },
            ],
        },
        {
            name  => 'broadcast',
            title => 'Broadcast',
            about => 'The server sends each message of 100 B that it gets to all of 1000 connections; the next one comes when all have'
              . ' it. The times are from sending to the last arrival.',
            cells   => [ { name => '100 B to 1000', payload => 100, connections => 1000 } ],
            mode    => 'broadcast',
            serving => 'broadcast',
            figures => [
                {
                    key    => 'per_cpu',
                    title  => 'messages per CPU second',
                    better => 'more',
                    main   => 1,
                    of     => sub ($r) { 1e9 * $r->{count} / $r->{server_cpu_ns} },
                },
                { %SPEED, title => 'messages/s' },
                @LATENCY,
            ],
        },
        {
            name    => 'receive',
            title   => 'Clients that receive',
            about   => 'A server sends without pause; AnyEvent::WebSocket::Client counts what comes. The CPU is the client\'s.',
            client  => 'receive',
            against => 'flood',
            cells   => [
                { name => '16 B',  payload => 16 },
                { name => '1 KiB', payload => 1024 },
            ],
            figures => [ _speed('messages/s'), _cpu('CPU µs/message') ],
        },
        {
            name    => 'client-connect',
            title   => 'Clients that connect',
            about   => 'AnyEvent::WebSocket::Client connects, is upgraded, closes, and does so again. The CPU is the client\'s.',
            client  => 'connect',
            against => 'accept',
            cells   => [ { name => 'one at a time' } ],
            figures => [ _speed('connections/s'), _cpu('CPU µs/connection') ],
        },
    );
}

# payload x connections x in flight.
sub parse_cells ($list) {
    return map {
        my ( $size, $unit, $connections, $in_flight ) = /\A(\d+)([KM]?)x(\d+)x(\d+)\z/
          or die "--cells: '$_' is not payload x connections x in flight\n";
        my $payload = $size * { '' => 1, K => 1 << 10, M => 1 << 20 }->{$unit};
        {
            name        => "${payload}x${connections}x${in_flight}",
            title       => _size($payload)
              . ", $connections connection" . ( $connections == 1 ? '' : 's' )
              . ", $in_flight in flight",
            payload     => $payload,
            connections => 0 + $connections,
            in_flight   => 0 + $in_flight,
        };
    } split /,/, $list;
}

sub _size ($bytes) {
    return
        $bytes % ( 1 << 20 ) == 0 ? ( $bytes >> 20 ) . ' MiB'
      : $bytes % ( 1 << 10 ) == 0 ? ( $bytes >> 10 ) . ' KiB'
      :                             "$bytes B";
}

1;
