package Chaos::Process;

# The server or a client as xt/chaos sees it: told by lines what to do, and awaited.

use v5.36;

use AnyEvent;
use Harness::Child;
use JSON::PP;
use Scalar::Util qw(weaken);

# Arguments: name, command, log, limit.
sub start ($class, %arg) {
    my $self = bless {%arg, answers => []}, $class;
    weaken(my $weak = $self);
    my $wake = sub { $weak->{wake}->send if $weak && $weak->{wake} };
    $self->{child} = Harness::Child->start(
        (map { ($_ => $arg{$_}) } qw(command log limit)),
        on_line => sub ($line) {
            push @{ $weak->{answers} }, eval { JSON::PP::decode_json($line) } // {event => "what is no JSON: $line"};
            $wake->();
        },
        on_end => sub ($how) {
            $weak->{how} = $how if $weak;
            $wake->();
        },
    );
    return $self;
}

sub tell ($self, @words) {
    $self->{child}->write("@words\n");
    return;
}

# Its next answer, which has to be this one, but for one that may have come late.
sub await ($self, $event, $patience, $late = '') {
    my $timed_out;
    my $timer = AE::timer($patience, 0, sub { $timed_out = 1; $self->{wake}->send });
    until (@{ $self->{answers} }) {
        die "$self->{name} did not come to '$event' within $patience s\n" if $timed_out;
        die "$self->{name} has ended", length $self->{how} ? " with $self->{how}" : '', $self->complaint, "\n"
            if defined $self->{how};
        ($self->{wake} = AE::cv)->recv;
    }
    my $answer = shift @{ $self->{answers} };
    return $self->await($event, $patience) if $answer->{event} eq $late;
    die "$self->{name} said '$answer->{event}', not '$event'\n" if $answer->{event} ne $event;
    return $answer;
}

sub ask ($self, $patience, $event, @words) {
    $self->tell(@words);
    return $self->await($event, $patience);
}

# Ends it, and returns what was wrong with that.
sub stop ($self) {
    $self->{child}->stop;
    until (defined $self->{how}) { ($self->{wake} = AE::cv)->recv }
    return length $self->{how} ? "$self->{name} ended with $self->{how}" . $self->complaint
        : length $self->complaint ? "$self->{name} complained" . $self->complaint : '';
}

# The last that it has said on standard error.
sub complaint ($self) {
    open my $log, '<', $self->{log} or return '';
    my @lines = grep { /\S/ } readline $log;
    return '' if !@lines;
    chomp(my $last = $lines[-1]);
    return ": $last";
}

1;
