package Differential::Report;

# Conversations and histories for people to read.

use strict;
use warnings;

use Exporter qw(import);
use List::Util qw(max min);

use Differential::Peer ();
use Differential::Text qw(bytes quoted);

our @EXPORT_OK = qw(conversation side_by_side around);

# ---- a conversation

sub conversation {
    my ($plan) = @_;
    my $setup = $plan->{setup};
    my @lines = ('the connection: ' . join ', ', map { "$_ " . ($setup->{$_} // 'undef') } sort keys %$setup);
    push @lines, 'as soon as it is there, the program';
    push @lines, map { _indented(_action($_)) } grep { !$_->{omitted} } @{ $plan->{construct} };
    my @early = grep { !$_->{omitted} } @{ $plan->{early} };
    push @lines, 'before the event loop has been idle, the peer sends', map { _indented(_unit($_)) } @early if @early;
    push @lines, 'and ends its side' if $plan->{early_shutdown};
    my $number = 0;
    for my $step (@{ $plan->{steps} }) {
        $number++;
        next if $step->{omitted};
        push @lines, "[$number] $step->{do}";
        push @lines, map { _indented(_unit($_)) } grep { !$_->{omitted} } @{ $step->{units}   || [] };
        push @lines, map { _indented(_action($_)) } grep { !$_->{omitted} } @{ $step->{actions} || [] };
    }
    push @lines, 'meanwhile a neighbour gets ' . @{ $plan->{neighbour}{pieces} } . ' pieces' if $plan->{neighbour};
    return @lines;
}

sub _indented { return map { "    $_" } @_ }

sub _unit {
    my ($unit) = @_;
    my @lines = map { Differential::Peer::description($_) } @{ $unit->{frames} };
    splice @lines, 8, @lines - 12, '... ' . (@lines - 12) . ' more ...' if @lines > 20;
    my @cuts = @{ $unit->{cuts} };
    splice @cuts, 10, @cuts - 10, '...' if @cuts > 10;
    push @lines, 'waiting after ' . join(', ', @cuts) . ' of these bytes' if @cuts;
    push @lines, "only the first $unit->{keep} of these bytes" if defined $unit->{keep};
    return @lines;
}

sub _action {
    my ($action) = @_;
    my $text = $action->{do};
    $text .= " $action->{event}" if defined $action->{event};
    $text .= " #$action->{id}"   if defined $action->{id};
    $text .= ' ' . ($action->{opcode} // 'undef') if exists $action->{opcode};
    $text .= " $action->{class}" if exists $action->{class};
    $text .= ' ' . quoted($action->{$_}) for grep { exists $action->{$_} } qw(name value body payload);
    $text .= ' (' . join(', ', map { quoted($_) } @{ $action->{arguments} }) . ')' if $action->{arguments};
    my @lines = $text;
    my $turns = $action->{turns} || [];
    for my $i (0 .. $#$turns) {
        my @inner = map { _action($_) } grep { !$_->{omitted} } @{ $turns->[$i] } or next;
        push @lines, '    call ' . ($i + 1), map { _indented(_indented($_)) } @inner;
    }
    return @lines;
}

# ---- histories

sub _fitting {
    my ($text, $width) = @_;
    return length $text > $width ? substr($text, 0, $width - 2) . '..' : $text;
}

# Pairs of lines, by a longest common subsequence.
sub _aligned {
    my ($left, $right) = @_;
    my ($n, $m) = (scalar @$left, scalar @$right);
    return map { [$left->[$_], $right->[$_]] } 0 .. max($n, $m) - 1 if $n * $m > 4_000_000;
    my @length = map { [(0) x ($m + 1)] } 0 .. $n;
    for my $i (reverse 0 .. $n - 1) {
        for my $j (reverse 0 .. $m - 1) {
            $length[$i][$j]
                = $left->[$i] eq $right->[$j]
                ? 1 + $length[$i + 1][$j + 1]
                : max($length[$i + 1][$j], $length[$i][$j + 1]);
        }
    }
    my ($i, $j, @pairs) = (0, 0);
    while ($i < $n || $j < $m) {
        my $are_alike = $i < $n && $j < $m && $left->[$i] eq $right->[$j];
        my $is_left = $are_alike || $j >= $m || ($i < $n && $length[$i + 1][$j] >= $length[$i][$j + 1]);
        push @pairs, [$is_left ? $left->[$i++] : undef, $are_alike || !$is_left ? $right->[$j++] : undef];
    }
    return @pairs;
}

sub side_by_side {
    my ($names, $left, $right, $width) = @_;
    my $half  = int(($width - 3) / 2);
    my @lines = sprintf "%-${half}s   %s", @$names;
    for my $pair (_aligned($left, $right)) {
        my ($one, $other) = @$pair;
        my $mark = !defined $one ? '>' : !defined $other ? '<' : ' ';
        push @lines, sprintf "%-${half}s %s %s", _fitting($one // '', $half), $mark, _fitting($other // '', $half);
    }
    return @lines;
}

# A few lines of a history up to one of them, and after it.
sub around {
    my ($history, $index) = @_;
    $index //= $#$history + 1;
    my ($first, $last) = (max(0, $index - 8), min($#$history, $index + 3));
    return map { ($_ == $index ? '  > ' : '    ') . $history->[$_] } $first .. $last;
}

1;
