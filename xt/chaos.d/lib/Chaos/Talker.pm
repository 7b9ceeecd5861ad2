package Chaos::Talker;

# A peer that is our Client: those that are healthy, and those that close while the server does.

use v5.36;

use AnyEvent::WebSocket::Client;
use Scalar::Util qw(weaken);

use Chaos::Talk;

my %DEFLATE = (
    ''           => undef,
    'context'    => 1,
    'no context' => {server_no_context_takeover => 1, client_no_context_takeover => 1},
);
my %client;

sub _client ($deflate) {
    return $client{$deflate} //= AnyEvent::WebSocket::Client->new(
        max_payload_size   => 0,
        timeout            => 60,
        permessage_deflate => $DEFLATE{$deflate},
    );
}

# Arguments: plan, run, port; over: told when it is over, with a text where something was wrong.
sub new ($class, %arg) { return bless {%arg}, $class }

sub open ($self, $opened) {
    my ($plan, $port) = @$self{qw(plan port)};
    weaken(my $weak = $self);
    _client($plan->{deflate} // '')->connect("ws://127.0.0.1:$port/$plan->{cycle}/$plan->{number}")->cb(sub ($done) {
        $weak or return;
        my $connection = eval { $done->recv };
        $connection ? $weak->_opened($connection) : $weak->_over("not connected: $@");
        $opened->();
    });
    return;
}

sub _opened ($self, $connection) {
    weaken(my $weak = $self);
    if ($self->{plan}{kind} eq 'healthy') {
        $self->{talk} = Chaos::Talk->new(
            side => 'client', connection => $connection, over => sub ($problem) { $weak->_over($problem) if $weak },
            map { ($_ => $self->{$_}) } qw(plan run),
        );
        return;
    }
    $self->{connection} = $connection;
    $connection->on(finish => sub ($connection, $error) {
        $weak or return;
        $weak->_over(
            defined $error            ? "finish: $error"
            : !$connection->was_clean ? 'not clean, though both sides have closed'
            :                           undef
        );
    });
    return;
}

sub go ($self, $seconds) {
    return $self->{talk}->go($seconds) if $self->{talk};
    my $connection = $self->{connection} or return;
    # It closes in the message's callback, before it comes to our Close.
    $self->{timer} = AE::timer($self->{plan}{at}, 0, sub { $connection->send('now')->close(1000, 'client') });
    return;
}

sub _over ($self, $problem) {
    return if $self->{is_over}++;
    delete @$self{qw(connection timer)};
    $self->{over}->($self, $problem);
    return;
}

sub release ($self) {
    $self->_over('was not over in time');
    return;
}

sub verdict ($self) { $self->{talk} ? $self->{talk}->verdict : undef }

1;
