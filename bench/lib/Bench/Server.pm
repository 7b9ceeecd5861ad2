package Bench::Server;

# A server under measurement: a child process that has told its port.

use v5.36;

use parent 'Bench::Process';

sub start ( $class, %arg ) {
    my $self = $class->SUPER::start(%arg);
    my $line = $self->line;
    my ( $port, $reported, $about ) = $line =~ /\A(\d+) (\d+) (.+)\n\z/
      or die "$arg{name} said: $line";
    die "$arg{name} is process $reported, not ", $self->pid, "\n" if $reported != $self->pid;
    @$self{qw( port about )} = ( $port, $about );
    return $self;
}

sub port  ($self) { $self->{port} }
sub about ($self) { $self->{about} }

1;
