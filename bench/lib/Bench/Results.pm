package Bench::Results;

# All that a run has found, in plain data that JSON can hold, and what the rounds come to.

use v5.36;

use JSON::PP ();

use Bench::Scenarios  qw( ECHO_CELLS );
use Bench::Statistics ();

sub new ( $class, %data ) { bless { data => {%data} }, $class }

sub read ( $class, $path ) {
    open my $file, '<:raw', $path or die "$path: $!\n";
    local $/;
    my $data = eval { JSON::PP->new->utf8->decode( readline $file ) } or die "$path is not what --json writes: $@";
    return bless { data => $data }, $class;
}

sub write ( $self, $path ) {
    open my $file, '>:raw', $path or die "$path: $!\n";
    print {$file} JSON::PP->new->utf8->canonical->pretty->encode( $self->{data} );
    close $file or die "$path: $!\n";
    return;
}

sub data ($self) { $self->{data} }

# In the order of the tables: those that were to be measured.
sub peers ($self) { @{ $self->{data}{peers} } }

sub of_kind ( $self, $kind ) { map { $_->{name} } grep { $_->{kind} eq $kind } $self->peers }

# The scenarios that were measured, with their figures, and the cells of one of them.
sub scenarios ($self) {
    return grep { $self->{data}{scenarios}{ $_->{name} } } Bench::Scenarios::scenarios( cells => ECHO_CELLS );
}

sub cells ( $self, $name ) {
    my $scenario = $self->{data}{scenarios}{$name} or return;
    return @{ $scenario->{cells} };
}

sub cell ( $self, $scenario, $name ) {
    my ($cell) = grep { !defined $name || $_->{name} eq $name } $self->cells($scenario);
    return $cell;
}

# Median, spread and best of a figure over the rounds of a server; undefined where it was not measured.
sub summary ( $self, $scenario, $cell, $peer, $key ) {
    return undef if !$cell;
    if ( $key eq 'writes' ) {
        my $writes = $cell->{writes}{$peer};
        return defined $writes ? Bench::Statistics::summary( 'less', $writes ) : undef;
    }
    my ($figure) = map { grep { $_->{key} eq $key } @{ $_->{figures} } } grep { $_->{name} eq $scenario } $self->scenarios;
    return undef if !$figure;
    return Bench::Statistics::summary( $figure->{better}, map { $figure->{of}->($_) } @{ $cell->{rounds}{$peer} // [] } );
}

# One server's figure over another's.
sub ratio ( $self, $scenario, $cell, $key, $peer, $other, $of = 'median' ) {
    return Bench::Statistics::ratio( map( { $self->summary( $scenario, $cell, $_, $key ) } $peer, $other ), $of );
}

1;
