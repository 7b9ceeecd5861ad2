package Autobahn::Wstest;

# The test suite's program: where it is, and which cases it has.

use v5.36;

use Cwd qw(abs_path);
use File::Spec;
use Harness::Child;
use Exporter qw(import);
use IO::Socket::INET ();
use JSON::PP ();

our @EXPORT_OK = qw(cases_of find reserve_port version_of write_json);

sub find ($installer, $prefix) {
    if (length($ENV{WSTEST} // '')) {
        -f -x $ENV{WSTEST} or die "WSTEST=$ENV{WSTEST} is not a program\n";
        return abs_path($ENV{WSTEST});
    }
    for my $candidate ((map { "$_/wstest" } grep { length } File::Spec->path), "$prefix/bin/wstest") {
        return $candidate if -f -x $candidate;
    }
    say "wstest is neither in PATH nor in WSTEST: installing it into $prefix";
    system($installer, $prefix) == 0 or die "wstest was not installed\n";
    return "$prefix/bin/wstest";
}

sub write_json ($file, $data) {
    open my $out, '>', $file or die "$file: $!\n";
    print {$out} JSON::PP->new->canonical->pretty->encode($data);
    close $out or die "$file: $!\n";
    return;
}

# A port for another process to listen on: as long as the socket is there, which does not listen,
# the kernel gives the port to nobody who does not ask for it by number.
sub reserve_port () {
    my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp', ReuseAddr => 1)
        or die "no port: $@\n";
    return ($socket, $socket->sockport);
}

sub _output (%arg) {
    my @lines;
    my $ended = AE::cv;
    my $process = Harness::Child->start(
        %arg,
        on_line => sub ($line) { push @lines, $line },
        on_end  => $ended,
    );
    $process->end_input;
    my $how = $ended->recv;
    return @lines if !$how;
    die join("\n", "$arg{command}[0]: $how", map { "    $_" } @lines[-(@lines < 10 ? @lines : 10) .. -1]), "\n";
}

sub version_of ($wstest, $directory) {
    my @lines = _output(command => [$wstest, '-a'], transcript => "$directory/version.log", limit => 60);
    my ($version) = map { /\AAutobahnTestSuite (\S+)/ } @lines;
    defined $version or die "$wstest does not tell its version, but:\n", map { "    $_\n" } @lines;
    return $version;
}

# It tells which cases it is about to run, here on a server that is not there.
sub cases_of ($wstest, $directory, @patterns) {
    my ($socket, $port) = reserve_port();
    my $spec = {
        outdir  => $directory,
        servers => [{agent => 'nobody', url => "ws://127.0.0.1:$port"}],
        cases   => \@patterns,
    };
    write_json("$directory/spec.json", $spec);
    my @command = ($wstest, qw(-m fuzzingclient -s), "$directory/spec.json");
    my @lines = _output(command => \@command, transcript => "$directory/cases.log", limit => 60);
    my ($list) = map { /\ACases = \[(.*)\]/ } @lines;
    defined $list or die "$wstest does not tell its cases, but:\n", map { "    $_\n" } @lines;
    return $list =~ /([0-9.]+)/g;
}

1;
