package Autobahn::Expectations;

# The verdicts of the cases in each role as they are known to be, kept in a file.

use v5.36;

# Of a role in which a case has not been run yet.
use constant UNKNOWN => '-';

my @ROLES = qw(client server);
my $HEAD  = <<'END';
# What wstest says about each case: behaviour and close in the client's role, behaviour and close in the
# server's. Compared with and written by xt/autobahn; see its --help.
END

sub new ($class, $file) {
    my $self = bless {file => $file, verdicts => {}}, $class;
    return $self if !-e $file;
    open my $in, '<', $file or die "$file: $!\n";
    while (my $line = readline $in) {
        next if $line =~ /\A(?:#|\s*\z)/;
        chomp $line;
        my ($case, @verdicts) = split /\s{2,}/, $line;
        $case =~ /\A[0-9.]+\z/ && @verdicts == 4 or die "$file, line $.: not a case with four verdicts\n";
        die "$file, line $.: case $case again\n" if $self->{verdicts}{$case};
        $self->{verdicts}{$case} = {map { $_ => [splice @verdicts, 0, 2] } @ROLES};
    }
    return $self;
}

# Behaviour and close, or nothing.
sub verdicts ($self, $role, $case) {
    my $known = $self->{verdicts}{$case}{$role} or return;
    return grep { $_ ne UNKNOWN } @$known;
}

sub cases ($self) { return _sorted(keys %{ $self->{verdicts} }) }

sub set ($self, $role, $case, @verdicts) {
    $self->{verdicts}{$case}{$role} = \@verdicts;
    return;
}

sub remove ($self, $case) {
    delete $self->{verdicts}{$case};
    return;
}

sub _sorted (@cases) {
    my %key = map { $_ => join '.', map { sprintf '%05d', $_ } split /\./ } @cases;
    return sort { $key{$a} cmp $key{$b} } @cases;
}

sub save ($self) {
    my @rows = (['# case', 'client', 'close', 'server', 'close']);
    for my $case ($self->cases) {
        push @rows, [$case, map { @{ $self->{verdicts}{$case}{$_} // [UNKNOWN, UNKNOWN] } } @ROLES];
    }
    my @width = (0) x 5;
    for my $row (@rows) {
        for my $i (0 .. $#$row) {
            $width[$i] = length $row->[$i] if length $row->[$i] > $width[$i];
        }
    }
    open my $out, '>', "$self->{file}.new" or die "$self->{file}.new: $!\n";
    print {$out} $HEAD;
    for my $row (@rows) {
        my $line = join '  ', map { sprintf '%-*s', $width[$_], $row->[$_] } 0 .. $#$row;
        print {$out} $line =~ s/ +\z//r, "\n";
    }
    close $out or die "$self->{file}.new: $!\n";
    rename "$self->{file}.new", $self->{file} or die "$self->{file}: $!\n";
    return;
}

1;
