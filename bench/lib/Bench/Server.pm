package Bench::Server;

# One echo server as a child process. Its standard input is held open here:
# the server ends when this process does, however that comes about.

use 5.020;
use warnings;

use IO::Select ();
use IPC::Open2 qw( open2 );
use POSIX qw( WNOHANG );
use Time::HiRes qw( sleep time );

use constant PATIENCE => 10;

sub start {
    my ( $class, %arg ) = @_;
    my ( $impl, $check ) = @arg{qw( impl check )};

    my $pid = open2(
        my $out, my $in,
        @{ $arg{pin} }, $^X, $arg{script},
        '--impl', $impl, map { ( '--lib', $_ ) } @{ $arg{lib} },
    );
    my $self = bless { impl => $impl, pid => $pid, in => $in }, $class;

    my $line = IO::Select->new($out)->can_read(PATIENCE) ? readline $out : undef;
    die "the server '$impl' did not start\n" if !defined $line;
    my ( $port, $reported, $module ) = $line =~ /\A(\d+) (\d+) (.+)\n\z/
      or die "the server '$impl' said: $line";
    die "the server '$impl' is process $reported, not $pid\n" if $reported != $pid;
    $check->($module);
    @$self{qw( port module )} = ( $port, $module );
    return $self;
}

sub impl   { $_[0]{impl} }
sub pid    { $_[0]{pid} }
sub port   { $_[0]{port} }
sub module { $_[0]{module} }

sub stop {
    my ($self) = @_;
    return if !defined( my $pid = delete $self->{pid} );

    close $self->{in};
    my $end = time + PATIENCE;
    while ( time < $end ) {
        if ( waitpid( $pid, WNOHANG ) == $pid ) {
            die "the server '$self->{impl}' ended with status $?\n" if $?;
            return;
        }
        sleep 0.01;
    }
    kill KILL => $pid;
    waitpid $pid, 0;
    die "the server '$self->{impl}' did not end by itself\n";
}

sub DESTROY {
    my ($self) = @_;
    local ( $@, $?, $! );
    eval { $self->stop };
    return;
}

1;
