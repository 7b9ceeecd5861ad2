package Instructions::Report;

# What was measured, in tables, and what has changed, in words.

use v5.36;

use Exporter qw(import);
use List::Util qw(max sum0);

our @EXPORT_OK = qw(main_table object_table call_lines function_tables compare);

# A change of more than this part is one.
use constant THRESHOLD => 0.03;

# Those that one looks for first.
my @OBJECTS = qw(perl libperl Connection.so libaews.so libc EV.so);

# ---- Tables

# The first column to the left, the others to the right.
sub _table ($heads, @rows) {
    my @widths = map { my $i = $_; max(map { length $_->[$i] } $heads, @rows) } 0 .. $#$heads;
    return map {
        my ($first, @rest) = @$_;
        join '  ', sprintf('%-*s', $widths[0], $first), map { sprintf '%*s', $widths[ $_ + 1 ], $rest[$_] } 0 .. $#rest;
    } $heads, @rows;
}

sub _percent ($before, $now) {
    return '' if !defined $before;
    return $now ? 'new' : '0.0 %' if !$before;
    my $text = sprintf '%+.1f %%', 100 * ($now / $before - 1);
    return $text =~ s/\A[+-](?=0\.0 )//r;
}

sub _calls ($script) { return sum0(values %{ $script->{calls} }) }

# Runs that went well, by lines.
sub main_table ($baseline, @runs) {
    my @rows;
    for my $run (@runs) {
        my $profile = $run->profile;
        my $known   = $baseline->script($run->script->name);
        push @rows, [
            $run->script->name,
            $known ? sprintf('%.0f', $known->{instructions}) : '-',
            sprintf('%.0f', $profile->instructions),
            _percent($known && $known->{instructions}, $profile->instructions),
            $known ? sprintf('%.2f', _calls($known)) : '-',
            sprintf('%.2f', sum0(values %{ $profile->calls })),
            $known ? sprintf('%.2f', $known->{clock}) : '-',
            sprintf('%.2f', $profile->clock),
        ];
    }
    return _table(['script', qw(baseline now change calls now clock now)], @rows);
}

# Instructions by object file; what nobody would look for is put together.
sub object_table (@runs) {
    my %most;
    for my $run (@runs) {
        my $objects = $run->profile->objects;
        $most{$_} = max($most{$_} // 0, $objects->{$_} / $run->profile->instructions) for keys %$objects;
    }
    my %rank  = map { $OBJECTS[$_] => $_ } 0 .. $#OBJECTS;
    my @names = sort { ($rank{$a} // @OBJECTS) <=> ($rank{$b} // @OBJECTS) || $a cmp $b }
        grep { $most{$_} >= 0.01 && $_ ne 'other' } keys %most;
    my %is_shown = map { $_ => 1 } @names;
    my @rows;
    for my $run (@runs) {
        my $objects = $run->profile->objects;
        my $other = sum0(map { $objects->{$_} } grep { !$is_shown{$_} } keys %$objects);
        push @rows, [$run->script->name, map { $_ ? sprintf '%.0f', $_ : '' } (map { $objects->{$_} } @names), $other];
    }
    return _table(['script', @names, 'other'], @rows);
}

sub call_lines (@runs) {
    my $width = max(map { length $_->script->name } @runs);
    return map {
        my $calls = $_->profile->calls;
        sprintf '%-*s  %s', $width, $_->script->name,
            join(', ', map { sprintf '%s %s', $_, _number($calls->{$_}) }
                sort { $calls->{$b} <=> $calls->{$a} || $a cmp $b } keys %$calls) || 'none';
    } @runs;
}

sub _number ($number) { return sprintf('%.4f', $number) =~ s/\.?0+\z//r }

sub function_tables ($run, $most) {
    my @lines;
    for my $by (qw(exclusive inclusive)) {
        my @functions = grep { defined } ($run->profile->functions($by))[0 .. $most - 1];
        push @lines, $run->script->name . ", instructions per message by function, $by first:", '';
        push @lines, sprintf '%10s %10s  %s', qw(exclusive inclusive function);
        push @lines, map { sprintf '%10.1f %10.1f  %s', @$_{qw(exclusive inclusive name)} } @functions;
        push @lines, '';
    }
    return @lines;
}

# ---- What has changed

sub _grown ($before, $now) { return $now > $before * (1 + THRESHOLD) }

# The object files that account for a difference, by words.
sub _where ($known, $profile) {
    my $objects = $profile->objects;
    my %name = map { $_ => 1 } keys %$objects, keys %{ $known->{objects} };
    my %difference = map { $_ => ($objects->{$_} // 0) - ($known->{objects}{$_} // 0) } keys %name;
    my $enough = 0.1 * abs($profile->instructions - $known->{instructions});
    return join ', ', map { sprintf '%s %+.0f', $_, $difference{$_} }
        sort { abs $difference{$b} <=> abs $difference{$a} || $a cmp $b }
        grep { abs $difference{$_} >= $enough } keys %difference;
}

sub _calls_change ($known, $profile) {
    my $calls = $profile->calls;
    my %name = map { $_ => 1 } keys %$calls, keys %{ $known->{calls} };
    return join ', ', map { sprintf '%s %s -> %s', $_, map { _number($_ // 0) } $known->{calls}{$_}, $calls->{$_} }
        grep { abs(($calls->{$_} // 0) - ($known->{calls}{$_} // 0)) > 0.001 } sort keys %name;
}

# What has grown, and what has shrunk, of one run.
sub compare ($baseline, $run) {
    my ($name, $profile) = ($run->script->name, $run->profile);
    my $known = $baseline->script($name) or return (["$name is not in the baseline"], []);
    my (@grown, @shrunk);
    my $judge = sub ($what, $before, $now, $format, $more) {
        my $list = _grown($before, $now) ? \@grown : $now < $before * (1 - THRESHOLD) ? \@shrunk : return;
        push @$list, sprintf "%s: %s %s, $format -> $format (%s)%s", $name, $what,
            $list == \@grown ? 'grew' : 'shrank', $before, $now, _percent($before, $now), length $more ? ": $more" : '';
    };
    $judge->('instructions', $known->{instructions}, $profile->instructions, '%.0f', _where($known, $profile));
    $judge->('system calls', _calls($known), sum0(values %{ $profile->calls }), '%.3f', _calls_change($known, $profile));
    $judge->('clock reads', $known->{clock}, $profile->clock, '%.3f', '');
    return (\@grown, \@shrunk);
}

1;
