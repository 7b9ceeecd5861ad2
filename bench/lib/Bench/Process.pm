package Bench::Process;

# A child process. Its standard input is held open here, so that servers end when this process does, however
# that comes about; those that are left are ended by their ids.

use v5.36;

use Errno       ();
use File::Temp  ();
use IO::Select  ();
use POSIX       qw( WNOHANG );
use Time::HiRes qw( sleep time );

use constant PATIENCE => 10;

my %running;

sub start ( $class, %arg ) {
    my ( $name, @command ) = ( $arg{name}, @{ $arg{command} } );
    my $errors = File::Temp->new( TEMPLATE => 'bench-XXXXXX', TMPDIR => 1 );
    pipe my $in_child, my $in   or die "pipe: $!\n";
    pipe my $out, my $out_child or die "pipe: $!\n";
    my $parent = $$;
    my $pid    = fork // die "fork: $!\n";
    if ( !$pid ) {
        # Nothing may run here that is the parent's: neither handlers nor END.
        $SIG{$_} = 'DEFAULT' for qw( INT TERM HUP PIPE );
        my $ok = open( STDIN, '<&', $in_child ) && open( STDOUT, '>&', $out_child ) && open( STDERR, '>&', $errors );
        local %ENV = ( %ENV, %{ $arg{environment} // {} } );
        no warnings 'exec';
        exec { $command[0] } @command if $ok;
        print STDERR "$command[0]: $!\n";
        POSIX::_exit(127);
    }
    my $self = bless { name => $name, pid => $pid, in => $in, out => $out, errors => $errors, owner => $$ }, $class;
    $running{$pid} = 1;
    return $self;
}

sub name ($self) { $self->{name} }
sub pid  ($self) { $self->{pid} }

# The next line of its output.
sub line ( $self, $patience = PATIENCE ) {
    my $line = $self->_readable( time + $patience ) ? readline $self->{out} : undef;
    die "$self->{name} says nothing", $self->_complaint, "\n" if !defined $line;
    return $line;
}

# Gives it all that it gets to read.
sub write ( $self, $bytes ) {
    my $in = delete $self->{in};
    print {$in} $bytes or die "$self->{name} does not read: $!\n";
    close $in or die "$self->{name} does not read: $!\n";
    return;
}

# All of its output, once it has come to its end by itself.
sub output ( $self, $patience ) {
    my $until  = time + $patience;
    my $output = '';
    while (1) {
        if ( !$self->_readable($until) ) {
            $self->_kill;
            die "$self->{name} did not end within $patience s", $self->_complaint, "\n";
        }
        last if !sysread $self->{out}, $output, 65536, length $output;
    }
    $self->end;
    return $output;
}

# Whether there is something to read before that time; signals only interrupt the wait.
sub _readable ( $self, $until ) {
    my $select = IO::Select->new( $self->{out} );
    while ( ( my $left = $until - time ) > 0 ) {
        local $! = 0;
        return 1 if $select->can_read($left);
        return 0 if $! && !$!{EINTR};
    }
    return 0;
}

# Closes its standard input, and sees to it that it ends.
sub end ($self) {
    return if !$running{ $self->{pid} };
    close $self->{in} if $self->{in};
    my $until = time + PATIENCE;
    while ( time < $until ) {
        if ( waitpid( $self->{pid}, WNOHANG ) == $self->{pid} ) {
            my $status = $?;
            delete $running{ $self->{pid} };
            return if !$status;
            my $how = $status & 127 ? 'signal ' . ( $status & 127 ) : 'status ' . ( $status >> 8 );
            die "$self->{name} ended with $how", $self->_complaint, "\n";
        }
        sleep 0.005;
    }
    $self->_kill;
    die "$self->{name} did not end by itself", $self->_complaint, "\n";
}

# The last thing that it said about itself.
sub _complaint ($self) {
    open my $errors, '<', $self->{errors}->filename or return '';
    my @lines = grep { /\S/ } readline $errors;
    return '' if !@lines;
    chomp( my $last = $lines[-1] );
    return ": $last";
}

sub _kill ($self) {
    end_one( $self->{pid} );
    return;
}

sub end_one ($pid) {
    delete $running{$pid} or return;
    kill KILL => $pid;
    waitpid $pid, 0;
    return;
}

sub end_all () { end_one($_) for keys %running }

sub DESTROY ($self) {
    local ( $@, $?, $! );
    return if $self->{owner} != $$;
    eval { $self->end };
    return;
}

1;
