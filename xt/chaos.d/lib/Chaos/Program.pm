package Chaos::Program;

# What the server and the clients have in common: they are told by lines what to do, answer by lines of JSON, and end
# with their input.

use v5.36;

use AnyEvent;
use AnyEvent::Handle;
use Exporter qw(import);
use JSON::PP;

our @EXPORT_OK = qw(answer obey check_loop options_of_run);

my $json = JSON::PP->new->canonical->utf8;

sub answer ($event, %data) {
    local $| = 1;
    print $json->encode({event => $event, %data}), "\n";
    return;
}

# The options that all processes of a run have, from the command line.
sub options_of_run () {
    my $run = $json->decode($ARGV[0] // die "usage: $0 OPTIONS-AS-JSON (xt/chaos starts it)\n");
    no warnings 'once';
    $Chaos::Sabotage::way = $run->{sabotage} // '';
    return $run;
}

sub check_loop () {
    my $model = AnyEvent::detect();
    die "AnyEvent runs on $model, not on EV\n" if $model ne 'AnyEvent::Impl::EV';
    return;
}

# Runs the event loop until the input ends.
sub obey (%commands) {
    my $done = AE::cv;
    my $handle = AnyEvent::Handle->new(
        fh       => \*STDIN,
        on_eof   => sub { $done->send },
        on_error => sub { $done->send },
        on_read  => sub ($handle) {
            $handle->push_read(line => sub ($handle, $line, @) {
                my ($command, @arguments) = split ' ', $line;
                ($commands{$command} // die "there is no command $command\n")->(@arguments);
            });
        },
    );
    $done->recv;
    return;
}

1;
