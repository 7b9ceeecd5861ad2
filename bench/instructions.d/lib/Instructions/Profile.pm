package Instructions::Profile;

# What callgrind and the trace of system calls say about one script, for each message.

use v5.36;

use File::Basename qw(basename);
use List::Util qw(max min sum0);

# As in world.c.
use constant {SIGN_MEASURE => -1001, SIGN_MEASURED => -1002, SIGN_WORLD => -1003, SIGN_PROGRAM => -1004};

# Arguments: messages: how many were measured; clock: how often the clock was read meanwhile; file:
# callgrind's; log: valgrind's, with --trace-syscalls.
sub new ($class, %arg) {
    my $self = bless {%arg}, $class;
    my $objects = $self->_read_objects;
    my $calls   = _read_calls($arg{log});
    $self->{objects} = {map { $_ => $objects->{$_} / $arg{messages} } keys %$objects};
    $self->{calls}   = {map { $_ => $calls->{$_} / $arg{messages} } keys %$calls};
    return $self;
}

sub file ($self)         { $self->{file} }
sub messages ($self)     { $self->{messages} }
sub objects ($self)      { $self->{objects} }
sub calls ($self)        { $self->{calls} }
sub clock ($self)        { $self->{clock} / $self->{messages} }
sub instructions ($self) { sum0(values %{ $self->{objects} }) }

# Instructions by object file, those of the functions themselves. The sum has to be callgrind's.
sub _read_objects ($self) {
    open my $in, '<', $self->{file} or die "$self->{file}: $!\n";
    my (%path, %cost, $object, $totals);
    while (my $line = readline $in) {
        if ($line =~ /\A(c?)ob=\((\d+)\)(?: (.*))?$/) {
            $path{$2} = $3 if defined $3;
            $object = $2 if !$1;
        }
        # Behind it stands what the call has cost in all, which the called function is accounted for.
        elsif ($line =~ /\Acalls=/) { readline $in }
        elsif ($line =~ /\A(?:[+-]?\d+|\*) (\d+)$/) { $cost{ $object // '' } += $1 }
        elsif ($line =~ /\Atotals: (\d+)$/)         { $totals = $1 }
        elsif ($line =~ /\Aevents: (.*)$/ && $1 ne 'Ir') { die "$self->{file} counts $1, not Ir\n" }
    }
    my $sum = sum0(values %cost);
    die "$self->{file}: nothing has been counted\n" if !$sum;
    die "$self->{file}: the instructions are $sum in sum, $totals in all\n" if $sum != ($totals // 0);
    my %objects;
    $objects{ _short($path{$_} // '') } += $cost{$_} for keys %cost;
    return \%objects;
}

# A file's name; without the version where Perl is a library.
sub _short ($path) {
    return 'other' if $path !~ /[^?]/;
    return basename($path) =~ s/\A(libperl|libc|libm|ld-linux[-\w]*)\b.*/$1/r;
}

# System calls by name, those that the program has made while it was measured.
sub _read_calls ($log) {
    open my $in, '<', $log or die "$log: $!\n";
    my ($is_measured, $is_world, $signs, %calls) = (0, 0, 0);
    while (my $line = readline $in) {
        my ($name, $first) = $line =~ /\ASYSCALL\[\d+,\d+\]\(\s*\d+\) sys_(\w+)[^(]*\(\s*(\d*)/ or next;
        my $sign = $name eq 'close' && $first ? unpack 'l', pack 'L', $first & 0xffffffff : 0;
        $is_world    = 1 if $sign == SIGN_WORLD;
        $is_world    = 0 if $sign == SIGN_PROGRAM;
        $is_measured = 1 if $sign == SIGN_MEASURE;
        $is_measured = 0 if $sign == SIGN_MEASURED;
        if ($sign <= SIGN_MEASURE && $sign >= SIGN_PROGRAM) { $signs++ }
        elsif ($is_measured && !$is_world)                  { $calls{$name}++ }
    }
    die "$log: there are no system calls in it that could be understood\n" if !$signs;
    return \%calls;
}

# ---- By function

# From callgrind_annotate: instructions for a message by function, "name [object]".
sub _annotate ($self, $inclusive) {
    my @command = ('callgrind_annotate', "--inclusive=$inclusive", qw(--threshold=100 --auto=no), $self->{file});
    my $pid = open(my $from, '-|', @command) // die "callgrind_annotate: $!\n";
    my (%cost, $in_table);
    while (my $line = readline $from) {
        $in_table ||= $line =~ /\AIr\s+file:function/;
        next if !$in_table;
        my ($cost, $function) = $line =~ /\A\s*([\d,]+)(?: \(\s*[\d.]+%\))?\s+(\S.*)$/ or next;
        $cost =~ tr/,//d;
        my ($name, $object) = $function =~ /\A(?:[^:]|:(?=:))*?:(?!:)(.*?)(?: \[(.*)\])?\z/ or next;
        # Callgrind keeps recursive calls apart; in what they include they are part of the first.
        $name =~ s/'\d+\z//;
        $name .= ' [' . _short($object // '') . ']';
        $cost{$name} = $inclusive eq 'yes' ? max($cost{$name} // 0, $cost) : ($cost{$name} // 0) + $cost;
    }
    close $from or die "callgrind_annotate failed\n";
    die "callgrind_annotate has said nothing about $self->{file}\n" if !%cost;
    # Deeper recursion is in the sums more than once all the same.
    return {map { $_ => min($cost{$_} / $self->{messages}, $self->instructions) } keys %cost};
}

# Each with name, inclusive, exclusive; the greatest of one of them first.
sub functions ($self, $by) {
    $self->{functions} //= do {
        my %cost = map { $_ => $self->_annotate($_ eq 'inclusive' ? 'yes' : 'no') } qw(inclusive exclusive);
        [map { {name => $_, inclusive => $cost{inclusive}{$_}, exclusive => $cost{exclusive}{$_} // 0} }
            keys %{ $cost{inclusive} }];
    };
    return sort { $b->{$by} <=> $a->{$by} || $a->{name} cmp $b->{name} } @{ $self->{functions} };
}

1;
