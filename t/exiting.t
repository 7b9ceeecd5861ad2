# The program ends, and has connections (D3).

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use Peer qw(
    handle_on frame close_frame read_until_eof run_until settle start_program
);
use Test2::V0;
use Ending qw(
    frames_of close_body $CLOSE
);

# What programs print and how they end, and what their peers get, by name. They run at the same time.
sub outcomes_of {
    my ($code_of) = @_;
    my %program = map { $_ => [start_program($code_of->{$_})] } keys %$code_of;
    syswrite $program{$_}[0], frame(payload => 'go') for keys %program;
    my %outcome;
    for my $name (keys %program) {
        my ($peer, $wait) = @{ $program{$name} };
        my $bytes = read_until_eof($peer);
        $outcome{$name} = [$bytes, $wait->()];
    }
    return \%outcome;
}

subtest 'the end of the program (D3)' => sub {
    my $connect = 'AnyEvent::WebSocket::Connection->new(handle => handle_on(program_socket()))';
    my $watch   = '$c->on($_ => sub { print "called: @_\n" }) for qw(parse_error finish);';
    my %program = (
        'a global variable' =>
            [0, '', "our \$c = $connect; \$c->send('up'); $watch settle()"],
        'a lexical variable of the file, used in a sub' =>
            [0, '', "my \$c = $connect; \$c->send('up'); $watch settle(); sub use_it { \$c }"],
        'before the loop has run' =>
            [0, '', "our \$c = $connect; \$c->send('up'); $watch"],
        'exit' =>
            [3, '', "our \$c = $connect; \$c->send('up'); $watch settle(); exit 3"],
        'exit in a callback' =>
            [4, '', "our \$c = $connect; $watch \$c->on(each_message => sub { \$c->send('up'); exit 4 });"
                . ' run_until { 0 }'],
        'exit in a callback, with a lexical variable' =>
            [4, '', "my \$c = $connect; $watch \$c->on(each_message => sub { \$c->send('up'); exit 4 });"
                . ' run_until { 0 }'],
        'die' =>
            [255, "oops\n", "our \$c = $connect; \$c->send('up'); $watch settle(); \$! = 0; die qq(oops\n)"],
        'a cycle that nobody breaks' =>
            [0, '', "{ my \$c = $connect; \$c->send('up'); \$c->{cycle} = \$c; $watch settle() }"],
        'an exit code set in END' =>
            [5, '', "our \$c = $connect; \$c->send('up'); settle(); END { \$? = 5 }"],
        'a destructor that sends' =>
            [0, '', "our \$c = $connect; \$c->send('up'); sub Late::DESTROY { \$c->send('late'); \$c->close }"
                . q( our $late = bless [], 'Late'; our $cycle = [bless [], 'Late']; push @$cycle, $cycle;)],
    );
    my $outcomes = outcomes_of({ map { $_ => $program{$_}[2] } keys %program });
    for my $name (sort keys %program) {
        my ($code, $output) = @{ $program{$name} };
        my ($bytes, $status, $printed) = @{ $outcomes->{$name} };
        is frames_of($bytes), [[1, 'up'], [8, close_body(1001, '')]], "$name: Close 1001";
        is $status, $code << 8, "$name: the exit code is that of the program";
        is $printed, $output, "$name: no callback, no warning";
    }
};

subtest 'the end of the program, where no Close is due (D3)' => sub {
    my $new     = 'AnyEvent::WebSocket::Connection->new(handle => handle_on(program_socket()));';
    my $connect = "our \$c = $new";
    my %program = (
        'closed before' => [[[8, close_body(4000, 'own')]], "$connect \$c->close(4000, 'own'); settle()"],
        'handle destroyed' => [[[1, 'up']], "$connect \$c->send('up'); \$c->handle->destroy; settle()"],
        # Perl frees it before the end has begun.
        'a lexical variable of the file' => [[$CLOSE], "my \$c = $new settle()"],
        'dropped before'   => [[$CLOSE], "$connect undef \$c; settle()"],
        'dropped in END'   => [[$CLOSE], "$connect END { undef \$c }"],
    );
    my $outcomes = outcomes_of({ map { $_ => $program{$_}[1] } keys %program });
    for my $name (sort keys %program) {
        my ($expected) = @{ $program{$name} };
        my ($bytes, $status, $printed) = @{ $outcomes->{$name} };
        is frames_of($bytes), $expected, "$name: nothing more is sent";
        is [$status, $printed], [0, ''], "$name: a quiet end";
    }
};

subtest 'the end of the program with unsent data (D3)' => sub {
    my ($peer, $wait) = start_program(<<'    END');
        our $c = AnyEvent::WebSocket::Connection->new(handle => handle_on(program_socket()));
        $c->send('x' x (32 << 20));
    END
    my ($status, $printed) = $wait->();
    is [$status, $printed], [0, ''], 'it does not wait for the peer';
    my $bytes = read_until_eof($peer);
    my $whole = frame(payload => 'x' x (32 << 20)) . close_frame(1001);
    ok substr($whole, 0, length $bytes) eq $bytes, 'the peer gets no Close in the middle of a message';
};

for my $class ('AnyEvent::Handle', 'Derived::Handle') {
    subtest "the end of the program while the peer is gone, $class (D3)" => sub {
        my (undef, $wait) = start_program("my \$class = '$class';" . <<'        END');
            @Derived::Handle::ISA = 'AnyEvent::Handle';
            program_socket();
            my ($ours, $theirs) = socket_pair();
            our $c = AnyEvent::WebSocket::Connection->new(handle => $class->new(fh => $ours));
            $c->on($_ => sub { print "called: @_\n" }) for qw(parse_error finish);
            settle();
            $SIG{PIPE} = 'DEFAULT';
            close $theirs;
            exit 6;
        END
        my ($status, $printed) = $wait->();
        is [$status, $printed], [6 << 8, ''], 'neither a signal nor a warning, and no callback';
    };
}

done_testing;
