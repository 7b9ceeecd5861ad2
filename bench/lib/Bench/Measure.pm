package Bench::Measure;

# One round of one cell with one server or client.

use v5.36;

use File::Temp ();
use JSON::PP   ();

use Bench::Isolation qw( pin );
use Bench::Process   ();
use Bench::Server    ();
use Interop::Install qw( find_program );

# For what a round needs beside its seconds: opening ten thousand connections to a slow server, at the worst.
use constant PATIENCE => 180;

# Bytes of a frame from a client beside its payload (RFC 6455, 5.2).
sub _head ($payload) { 4 + ( $payload < 126 ? 2 : $payload < 65536 ? 4 : 10 ) }

# arg: load (its path), clients (their directory), processors, spin, spinner_pid, seconds, warm_up, tls (cert, key).
sub new ( $class, %arg ) { bless {%arg}, $class }

# The figures of a round; what `ready` is, is for Bench::Peers to say.
sub round ( $self, $scenario, $cell, $peer, $ready ) {
    return $self->_client( $scenario, $cell, $peer, $ready ) if $scenario->{client};
    my $server = $self->start( $scenario, $cell, $peer, $ready );
    my $record = $self->_load( $scenario, $cell, $peer, $server, [], $self->{seconds}, $self->{warm_up} );
    $server->end;
    return $record;
}

sub start ( $self, $scenario, $cell, $peer, $ready ) {
    my @options =
      $peer->{kind} eq 'floor'
      ? ( '--message', $cell->{payload} + _head( $cell->{payload} ) )
      : (
        '--mode', $scenario->{serving} // 'echo',
        $scenario->{tls} ? ( '--cert', $self->{tls}{cert}, '--key', $self->{tls}{key} ) : (),
        ( $scenario->{wire} // '' ) eq 'deflate' ? '--deflate' : (),
      );
    @options = () if $peer->{only_echo};
    my $server = Bench::Server->start(
        name        => $peer->{name},
        command     => [ pin( $self->{processors}[0] ), @{ $ready->{command} }, @options ],
        environment => $ready->{environment},
    );
    $ready->{check}->( $server->about ) if $ready->{check};
    return $server;
}

sub _load ( $self, $scenario, $cell, $peer, $server, $before, $seconds, $warm_up ) {
    my $wire    = $peer->{kind} eq 'floor' ? 'raw' : $scenario->{wire} // 'ws';
    my $process = Bench::Process->start(
        name    => 'the load',
        command => [
            pin( $self->{processors}[1] ), @$before, $self->{load}, $scenario->{mode},
            '--port'       => $server->port,
            '--server-pid' => $server->pid,
            '--seconds'    => $seconds,
            '--warm-up'    => $warm_up,
            '--wire'       => $wire,
            $scenario->{tls}           ? '--tls'                                       : (),
            $self->{spin}              ? '--spin'                                      : (),
            defined $self->{spinner_pid} ? ( '--spinner-pid' => $self->{spinner_pid} ) : (),
            map { defined $cell->{$_} ? ( '--' . tr/_/-/r => $cell->{$_} ) : () } qw( payload connections in_flight ),
        ],
    );
    return JSON::PP::decode_json( $process->output( $seconds + $warm_up + PATIENCE ) );
}

# The client is on the server's core then, and the load generator is its server.
sub _client ( $self, $scenario, $cell, $peer, $ready ) {
    my $server = Bench::Server->start(
        name    => 'the load',
        command => [
            pin( $self->{processors}[1] ), $self->{load}, $scenario->{against},
            '--seconds' => $self->{seconds},
            '--warm-up' => $self->{warm_up},
            defined $cell->{payload} ? ( '--payload' => $cell->{payload} ) : (),
        ],
    );
    my $client = Bench::Process->start(
        name    => "the client of $peer->{name}",
        command => [
            pin( $self->{processors}[0] ), @{ $ready->{client} }, $scenario->{client},
            '--port'    => $server->port,
            '--seconds' => $self->{seconds},
            '--warm-up' => $self->{warm_up},
            defined $cell->{payload} ? ( '--payload' => $cell->{payload} ) : (),
        ],
    );
    my ( $module, $figures ) = split /\n/, $client->output( $self->{seconds} + $self->{warm_up} + PATIENCE );
    $ready->{check}->($module);
    $server->end;
    return JSON::PP::decode_json($figures);
}

# ---- Write calls

my $EVENTS = join ',', map { "syscalls:sys_enter_$_" } qw( write writev sendto sendmsg sendmmsg );

# Why they cannot be counted; empty if they can. /proc/PID/io does not count the calls that are for sockets only.
sub why_no_writes () {
    my $perf = find_program('perf') or return 'there is no program perf';
    my $out = eval {
        Bench::Process->start( name => 'perf', command => [ $perf, qw( stat -x; -e ), $EVENTS, 'true' ] )->output(10);
        1;
    };
    return $out ? '' : $@ =~ s/\n\z//r;
}

# Write calls for each message, from a run of its own since counting costs time.
sub writes ( $self, $scenario, $cell, $peer, $ready ) {
    my $counts = File::Temp->new( TEMPLATE => 'bench-XXXXXX', TMPDIR => 1 );
    my $server = $self->start( $scenario, $cell, $peer, $ready );
    my @perf   = (
        find_program('perf'), qw( stat -x; -e ), $EVENTS,
        '-o', $counts->filename, '-p', $server->pid, '--',
    );
    my $record = $self->_load( $scenario, $cell, $peer, $server, \@perf, 0.2, 0 );
    $server->end;
    my $calls = 0;
    open my $file, '<', $counts->filename or die "counts: $!\n";
    while ( my $line = readline $file ) {
        $calls += $1 if $line =~ /\A(\d+);.*;syscalls:/;
    }
    # Each connection's answer to the upgrade, and its Close frame.
    $calls -= 2 * $cell->{connections} if $peer->{kind} ne 'floor';
    return $calls / $record->{count};
}

1;
