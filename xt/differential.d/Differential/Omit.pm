package Differential::Omit;

# Parts of a conversation that can be left out, by path, to make a failing one smaller.

use strict;
use warnings;

# The parts, the larger ones first. Each is [path, reference to the part].
sub parts {
    my ($plan) = @_;
    my (@steps, @inner, @turns, @cuts);
    my $unit = sub {
        my ($path, $unit) = @_;
        push @inner, [$path, $unit];
        push @cuts, ["$path.cuts", $unit] if @{ $unit->{cuts} };
    };
    my $action = sub {
        my ($path, $action) = @_;
        push @inner, [$path, $action];
        my $turns = $action->{turns} or return;
        for my $t (0 .. $#$turns) {
            push @turns, map { ["$path.$t.$_", $turns->[$t][$_]] } 0 .. $#{ $turns->[$t] };
        }
    };
    my $steps = $plan->{steps};
    for my $s (0 .. $#$steps) {
        my $step = $steps->[$s];
        # Waiting is what makes the order of things certain.
        push @steps, ["s$s", $step] if $step->{do} ne 'settle';
        $unit->("s$s.u$_", $step->{units}[$_])      for 0 .. $#{ $step->{units}   || [] };
        $action->("s$s.a$_", $step->{actions}[$_]) for 0 .. $#{ $step->{actions} || [] };
    }
    $unit->("e$_", $plan->{early}[$_])       for 0 .. $#{ $plan->{early} };
    $action->("c$_", $plan->{construct}[$_]) for 0 .. $#{ $plan->{construct} };
    return @steps, @inner, @turns, @cuts;
}

sub omit {
    my ($plan, @paths) = @_;
    my %part = map { $_->[0] => $_->[1] } parts($plan);
    for my $path (@paths) {
        my $part = $part{$path} or die "no such part: $path\n";
        if ($path =~ /cuts$/) { $part->{cuts} = [] }
        else                  { $part->{omitted} = 1 }
    }
    return $plan;
}

1;
