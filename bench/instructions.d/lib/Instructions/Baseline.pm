package Instructions::Baseline;

# What the scripts are known to cost, kept in a file that is made to be looked at in diffs.

use v5.36;

my $HEAD = <<'END_OF_HEAD';
# What a message costs in user space, for each script: instructions in all and by object file, system calls
# by name, and how often the clock is read. Compared with and written by bench/instructions; see its --help.
END_OF_HEAD

sub new ($class, $file) {
    my $self = bless {file => $file, versions => {}, scripts => {}}, $class;
    return $self if !-e $file;
    open my $in, '<', $file or die "$file: $!\n";
    my $script;
    while (my $line = readline $in) {
        next if $line =~ /\A(?:#|\s*\z)/;
        if ($line =~ /\Aversion (\S+) (.*?)\s*\z/) {
            $self->{versions}{$1} = $2;
        }
        elsif ($line =~ /\Ascript (\S+)\s*\z/ && !$self->{scripts}{$1}) {
            $script = $self->{scripts}{$1} = {objects => {}, calls => {}};
        }
        elsif ($script && $line =~ /\A\s+(object|call) (\S+)\s+([\d.]+)\s*\z/) {
            $script->{ $1 . 's' }{$2} = $3;
        }
        elsif ($script && $line =~ /\A\s+(instructions|clock)\s+([\d.]+)\s*\z/) {
            $script->{$1} = $2;
        }
        else {
            die "$file, line $.: this is no line of a baseline\n";
        }
    }
    for my $name (sort keys %{ $self->{scripts} }) {
        ($self->{scripts}{$name}{instructions} // 0) > 0 && defined $self->{scripts}{$name}{clock}
            or die "$file: script $name has no counts\n";
    }
    return $self;
}

sub versions ($self)      { $self->{versions} }
sub names ($self)         { my @names = sort keys %{ $self->{scripts} }; return @names }
sub script ($self, $name) { $self->{scripts}{$name} }

sub set_versions ($self, $versions) { $self->{versions} = {%{ $self->{versions} }, %$versions}; return }

sub keep_only ($self, @names) {
    my %is_kept = map { $_ => 1 } @names;
    delete @{ $self->{scripts} }{ grep { !$is_kept{$_} } $self->names };
    return;
}

# From an Instructions::Profile.
sub set ($self, $name, $profile) {
    $self->{scripts}{$name} = {map { $_ => $profile->$_ } qw(instructions clock objects calls)};
    return;
}

sub save ($self, @order) {
    my $text = $HEAD . "\n";
    $text .= "version $_ $self->{versions}{$_}\n" for sort keys %{ $self->{versions} };
    for my $name (@order) {
        my $script = $self->{scripts}{$name} or next;
        $text .= "\nscript $name\n";
        $text .= sprintf "  %-24s %10.1f\n", 'instructions', $script->{instructions};
        for my $object (sort keys %{ $script->{objects} }) {
            my $count = sprintf '%.1f', $script->{objects}{$object};
            $text .= sprintf "  %-24s %10s\n", "object $object", $count if $count > 0;
        }
        for my $call (sort keys %{ $script->{calls} }) {
            my $count = sprintf '%.4f', $script->{calls}{$call};
            $text .= sprintf "  %-24s %10s\n", "call $call", $count if $count > 0;
        }
        $text .= sprintf "  %-24s %10.3f\n", 'clock', $script->{clock};
    }
    open my $out, '>', "$self->{file}.new" or die "$self->{file}.new: $!\n";
    print {$out} $text;
    close $out or die "$self->{file}.new: $!\n";
    rename "$self->{file}.new", $self->{file} or die "$self->{file}: $!\n";
    return;
}

1;
