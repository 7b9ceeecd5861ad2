package Differential::Neighbour;

# A second connection in the same process, which sends back what it receives. What becomes of it is told when it
# has settled, since it has no order with the first one.

use strict;
use warnings;

use AnyEvent::Handle;
use AnyEvent::WebSocket::Connection;

use Differential::Peer ();
use Differential::Text qw(quoted);

sub new {
    my ($class, $plan) = @_;
    my $peer       = Differential::Peer->new('unix');
    my $handle     = AnyEvent::Handle->new(fh => $peer->take_other_end);
    my $connection = AnyEvent::WebSocket::Connection->new(handle => $handle, masked => 1);
    my @pieces     = @{ $plan->{pieces} };
    my @lines;
    $connection->on(each_message => sub {
        my ($connection, $message) = @_;
        push @lines, 'each_message ' . $message->opcode . ' ' . quoted($message->body);
        $connection->send($message);
    });
    $connection->on($_ => sub { push @lines, 'the end: ' . quoted($_[1]) }) for qw(parse_error finish);
    my %self = (peer => $peer, handle => $handle, connection => $connection, pieces => \@pieces, lines => \@lines);
    return bless \%self, $class;
}

sub work { return $_[0]{peer}->work }

sub next_piece {
    my ($self) = @_;
    my $piece = shift @{ $self->{pieces} };
    $self->{peer}->write($piece) if defined $piece;
    return;
}

sub has_settled {
    my ($self) = @_;
    my $fh = $self->{handle}{fh} or return 1;
    return $self->{peer}->has_been_read($fh) && !length $self->{handle}{wbuf} && $self->{peer}->has_read_all($fh);
}

sub told {
    my ($self) = @_;
    return splice(@{ $self->{lines} }), map { "peer got $_" } $self->{peer}->told;
}

1;
