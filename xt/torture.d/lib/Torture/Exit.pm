package Torture::Exit;

# An episode that is cut short: the program ends in the midst of it, perhaps in some callback, with connections in any
# state. It has to end as it was told to, without a word. Each has a process of its own.

use v5.36;

use Exporter qw(import);
use IO::Select;

use Torture::Episode;

our @EXPORT_OK = qw(why_it_did_not_just_end);

# What is still there when perl frees what is left, whatever has become of the stack.
our @kept;

# Arguments: those of Torture::Episode, and with `log` code that gets each action. Returns what was wrong, as a list.
sub why_it_did_not_just_end (%arg) {
    my $log = delete $arg{log};
    pipe my $actions, my $their_actions or die "pipe: $!\n";
    pipe my $words,   my $their_words   or die "pipe: $!\n";
    my $child = fork // die "fork: $!\n";
    if (!$child) {
        close $_ for $actions, $words;
        open STDERR, '>&', $their_words or die "STDERR: $!\n";
        open STDOUT, '>&', $their_words or die "STDOUT: $!\n";
        $their_actions->autoflush;
        _end_in_an_episode(%arg, trace => sub ($line) { say {$their_actions} $line });
    }
    close $_ for $their_actions, $their_words;
    my ($said, $output) = ('', '');
    _read_both($arg{patience}, [$actions, \$said], [$words, \$output])
        or kill KILL => $child and $output .= "it did not end in $arg{patience} s\n";
    waitpid $child, 0;
    my $status = $?;
    $log->($_) for split /\n/, $said;
    my @wrong = map { "the program said: $_" } split /\n/, $output;
    push @wrong, 'the program ended with ' . ($status & 127 ? 'signal ' . ($status & 127) : 'status ' . ($status >> 8))
        if $status != Torture::Episode::STATUS_OF_EXIT << 8;
    return @wrong;
}

# Whether both ended in time.
sub _read_both ($patience, @both) {
    my $until  = time + $patience;
    my %into   = map { (fileno $_->[0] => $_->[1]) } @both;
    my $select = IO::Select->new(map { $_->[0] } @both);
    while ($select->count) {
        return 0 if time > $until;
        for my $from ($select->can_read(1)) {
            my $into = $into{ fileno $from };
            $select->remove($from) if !sysread $from, $$into, 65_536, length $$into;
        }
    }
    return 1;
}

sub _end_in_an_episode (%arg) {
    my $episode = Torture::Episode->new(%arg);
    my $numbers = $episode->{numbers};
    my $keeps   = $numbers->percent(50);
    # Later there is not much left of its connections.
    $episode->{exits_after} = $numbers->below($numbers->pick(20, 60, $arg{actions}));
    # Some objects go as the stack unwinds, others only when perl frees all that is left.
    push @kept, $episode if $keeps;
    $episode->run;
    die "the episode did not exit\n";
}

1;
