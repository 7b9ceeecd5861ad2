package Bench::Peers;

# The servers: what each is, how it is made, and how it is started. Each has the options that its manual advises for
# speed: no compression where that is not what is measured, limits raised, TCP_NODELAY, one thread.

use v5.36;

use Cwd      qw( abs_path );
use Exporter qw( import );

use Interop::Install qw( find_program need_module need_program node_packages python_packages );
use Module::Load::Conditional qw( check_install );

our @EXPORT_OK = qw( peers prepare below_root cargo );

my $BENCH  = abs_path( __FILE__ =~ s{[^/]+\z}{../..}r );
my $ROOT   = abs_path("$BENCH/..");
my $TARGET = "$ROOT/target/bench";

my @ALL         = qw( echo tls deflate connect idle broadcast );
my $RUST_IS_TCP = 'its server here is for plain TCP';
my $RUST_ECHO   = 'its server here sends back only';
my $NO_DEFLATE  = 'it has no compression';

# In the order of the tables. `lacks` says of a scenario why the server is not in it.
my @PEERS = (
    {
        name    => 'ours',
        kind    => 'ours',
        prepare => \&_ours,
        client  => 1,
        about   => 'AnyEvent::WebSocket::Server and Connection of this project, on EV',
    },
    {
        name    => 'original',
        kind    => 'peer',
        prepare => sub ($install) { _anyevent( 'original', $install, \&_original_is_original ) },
        about   => 'the original AnyEvent::WebSocket::Connection behind the handshake of Protocol::WebSocket, on EV',
        client  => 1,
        lacks   => { deflate => $NO_DEFLATE },
    },
    {
        name    => 'Mojolicious',
        kind    => 'peer',
        prepare => \&_mojolicious,
        about   => 'Mojo::Server::Daemon on EV, in production mode',
    },
    {
        name    => 'ws',
        kind    => 'peer',
        prepare => \&_node,
        about   => 'ws of node, with bufferutil',
    },
    {
        name    => 'websockets',
        kind    => 'peer',
        prepare => sub ($install) { _python( 'websockets', $install ) },
        about   => 'websockets of Python, on uvloop',
    },
    {
        name    => 'picows',
        kind    => 'peer',
        prepare => sub ($install) { _python( 'picows', $install ) },
        about   => 'picows of Python, its core interface, on uvloop',
        lacks   => { deflate => $NO_DEFLATE },
    },
    {
        name    => 'tokio-tungstenite',
        kind    => 'peer',
        prepare   => sub ($install) { _rust( 'tokio-tungstenite', $install ) },
        only_echo => 1,
        about   => 'tokio-tungstenite of Rust, on one thread',
        lacks   => { deflate => $NO_DEFLATE, tls => $RUST_IS_TCP, broadcast => $RUST_ECHO },
    },
    {
        name    => 'fastwebsockets',
        kind    => 'peer',
        prepare   => sub ($install) { _rust( 'fastwebsockets', $install ) },
        only_echo => 1,
        about   => 'fastwebsockets of Rust behind hyper, on one thread',
        lacks   => { deflate => $NO_DEFLATE, tls => $RUST_IS_TCP, broadcast => $RUST_ECHO },
    },
    _floor( 'floor: Perl', 'bytes sent back in Perl on EV, without WebSocket',    \&_floor_ev ),
    _floor( 'floor: Rust', 'bytes sent back in Rust on epoll, without WebSocket', \&_floor_epoll ),
);

sub peers () { return @PEERS }

sub _floor ( $name, $about, $prepare ) {
    my %lacks = map { ( $_ => 'it knows no WebSocket' ) } grep { $_ ne 'echo' } @ALL;
    return { name => $name, kind => 'floor', prepare => $prepare, about => $about, lacks => \%lacks };
}

# Installs and builds a server, if that is allowed, and returns how it is started: the command, and which version it
# is where it does not say so itself.
sub prepare ( $peer, $install ) { $peer->{prepare}->($install) }

sub below_root ($path) {
    my $real = abs_path($path) // $path;
    return $real eq $ROOT || index( $real, "$ROOT/" ) == 0;
}

# ---- What Debian has

sub _module ( $package, $module, $install ) {
    return need_module( $package, $module ) if $install;
    check_install( module => $module ) or die "there is no Perl module $module (Debian package $package)\n";
    return;
}

sub _program ( $packages, $program, $install ) {
    return need_program( $packages, $program ) if $install;
    return find_program($program) // die "there is no program $program (Debian packages: $packages)\n";
}

# ---- Perl

sub _ours ($install) {
    my $module = "$ROOT/blib/lib/AnyEvent/WebSocket/Connection.pm";
    die "this project is not built: perl Makefile.PL && make\n" if !-e $module;
    _module( 'libprotocol-websocket-perl', 'Protocol::WebSocket', $install );
    return {
        %{ _anyevent( 'ours', $install, \&_ours_is_ours, "$ROOT/blib/lib", "$ROOT/blib/arch" ) },
        version => _revision(),
    };
}

sub _anyevent ( $impl, $install, $check, @lib ) {
    _module( 'libev-perl', 'EV', $install );
    my @options = ( '--impl', $impl, map { ( '--lib', $_ ) } @lib );
    return {
        command => [ $^X, "$BENCH/peers/perl/anyevent", @options ],
        client  => [ $^X, "$BENCH/clients/client",      @options ],
        check   => $check,
    };
}

sub _ours_is_ours ($module) {
    return if index( abs_path($module) // '', "$ROOT/blib/" ) == 0;
    die "it runs on $module, which is not below $ROOT/blib\n";
}

sub _original_is_original ($module) {
    return if !below_root($module);
    die "it runs on $module, which is ours\n";
}

sub _revision () {
    my $git = find_program('git') or return;
    open my $out, '-|', 'sh', '-c', 'exec "$@" 2>/dev/null', 'sh', $git, '-C', $ROOT,
      qw( describe --always --dirty --exclude=* ) or return;
    chomp( my $revision = readline($out) // '' );
    close $out;
    return length $revision ? "revision $revision" : undef;
}

sub _mojolicious ($install) {
    _module( 'libev-perl', 'EV', $install );
    _module( 'libmojolicious-perl', 'Mojolicious', $install );
    _module( 'libio-socket-ssl-perl', 'IO::Socket::SSL', $install );
    my $info = check_install( module => 'Mojolicious' );
    return { command => [ $^X, "$BENCH/peers/perl/mojolicious" ], version => "$info->{version}" };
}

sub _floor_ev ($install) {
    _module( 'libev-perl', 'EV', $install );
    return { command => [ $^X, "$BENCH/floors/ev.pl" ] };
}

# ---- npm and PyPI

sub _node ($install) {
    my $node    = _program( 'nodejs npm', 'node', $install );
    my $modules = "$TARGET/node";
    node_packages( "$BENCH/peers/node", $modules ) if $install;
    die "its packages are not installed\n" if !-d "$modules/node_modules";
    return { command => [ $node, "$BENCH/peers/node/server.mjs", '--modules', $modules ] };
}

sub _python ( $package, $install ) {
    # The packages are for its version, and it is found again by the same name.
    my $python   = _program( 'python3', 'python3', $install );
    my $packages = "$TARGET/python";
    python_packages( $python, "$BENCH/peers/python/requirements.txt", $packages ) if $install;
    die "its packages are not installed\n" if !-d $packages;
    return {
        command     => [ $python, "$BENCH/peers/python/${package}_server.py" ],
        environment => { PYTHONPATH => $packages, PYTHONDONTWRITEBYTECODE => 1, PYTHONNOUSERSITE => 1 },
    };
}

# ---- Rust

sub _rust ( $crate, $install ) {
    my $directory = "$BENCH/peers/$crate";
    return { command => [ cargo( $directory, "peer-$crate", $install ) ], version => _locked( $directory, $crate ) };
}

sub _floor_epoll ($install) { return { command => [ cargo( "$BENCH/floors/epoll", 'floor', $install ) ] } }

# Builds a program, if that is allowed, and returns its path.
sub cargo ( $directory, $program, $install ) {
    my $path = "$TARGET/cargo/release/$program";
    if ($install) {
        my $cargo = find_program('cargo') or die "there is no program cargo\n";
        local $ENV{CARGO_TARGET_DIR} = "$TARGET/cargo";
        open my $out, '-|', 'sh', '-c', 'cd "$1" && shift && exec "$@" 2>&1 </dev/null', 'sh', $directory, $cargo,
          qw( build --release --locked --quiet ) or die "$cargo: $!\n";
        my @lines = readline $out;
        close $out or die "cargo could not build it\n", @lines;
    }
    die "$program is not built\n" if !-x $path;
    return $path;
}

sub rust_version () {
    my $rustc = find_program('rustc') or return 'not there now';
    my ($version) = `$rustc --version` =~ /\Arustc (\S+)/;
    return $version // 'unknown';
}

# Which version of a crate a project is built with.
sub _locked ( $directory, $crate ) {
    open my $lock, '<', "$directory/Cargo.lock" or return;
    local $/ = '';
    my ($version) = map { /^name = "\Q$crate\E"\nversion = "(.+)"/m } readline $lock;
    return $version;
}

1;
