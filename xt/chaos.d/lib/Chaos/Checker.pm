package Chaos::Checker;

# Whether the messages of a stream arrive: all of them, in order, intact, once.

use v5.36;

use Exporter qw(import);

our @EXPORT_OK = qw(VERDICTS);

use constant VERDICTS => qw(good lost reordered corrupted doubled);

sub new ($class, $stream) {
    return bless {stream => $stream, next => 0, seen => '', have => 0, count => {map { ($_ => 0) } VERDICTS}}, $class;
}

sub take ($self, $opcode, $octets) {
    my $count  = $self->{count};
    my $number = length $octets ? $self->{stream}->number_of($opcode, $octets) : $self->_empty($opcode);
    return $count->{corrupted}++ if !defined $number;
    return $count->{doubled}++   if vec $self->{seen}, $number, 1;
    vec($self->{seen}, $number, 1) = 1;
    $self->{have}++;
    if ($number < $self->{next}) {
        $count->{reordered}++;
        return;
    }
    # Those in between are lost unless they come yet.
    $self->{next} = $number + 1;
    $count->{good}++;
    return;
}

# An empty message is taken for the next one that there is to be.
sub _empty ($self, $opcode) {
    my $stream = $self->{stream};
    for my $number ($self->{next} .. $stream->count - 1, 0 .. $self->{next} - 1) {
        return $number if !vec($self->{seen}, $number, 1) && $stream->is_empty($number, $opcode);
    }
    return undef;
}

# All have come, however.
sub is_complete ($self) { $self->{have} == $self->{stream}->count }

# Nothing comes any more: how many messages came to what.
sub verdict ($self) {
    return { %{ $self->{count} }, lost => $self->{stream}->count - $self->{have} };
}

1;
