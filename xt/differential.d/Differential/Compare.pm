package Differential::Compare;

# Compares what the original did with what ours did, line by line. All has to be the same but for this:
#
#   number  where ours differs                                 what is accepted
#   C15     a callback has died: the peer gets Close 1011      just that frame, by ours alone
#   C16     a limit is exceeded: the peer gets Close 1009      just that frame, by ours alone;
#           and the text says more                             of the text only what is promised
#   D3      an open connection is dropped                      Close 1000, by ours alone
#   D4      a Close is answered with its code, or an empty     that by ours, 1000 by the original
#           one with an empty one
#
# Each is required as well as accepted. What else is different on purpose is not made: see
# Differential::Conversation. And one thing is of the original's own:
#
#   Frame   Protocol::WebSocket::Frame warns about headers     these warnings, by the original alone
#           that have come in part

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT_OK = qw(compare @RULES);

our @RULES = qw(C15 C16 D3 D4 Frame);

my $LIMIT = qr/Payload is too big\. Deny big message \(\d+\) or increase max_payload_size \(\d+\)|Too many fragments/;

# Returns what differs first, as {original => index, ours => index, lines => [two lines]}, and how often each rule was
# applied, as a hash. Of histories that agree the first is undef.
# With `same` nothing may be different: both are by one implementation.
sub compare {
    my ($original, $ours, %option) = @_;
    my %used;
    return (_first_difference(\%used, [_numbered($original)], [_numbered($ours)]), \%used) if $option{same};
    my @original = _promised_texts(\%used, _without_warnings(\%used, _numbered($original)));
    my @ours     = _without_extra_close(\%used, _promised_texts(undef, _numbered($ours)));
    return (_first_difference(\%used, \@original, \@ours), \%used);
}

sub _first_difference {
    my ($used, $original, $ours) = @_;
    my $answer;
    for my $i (0 .. ($#$original > $#$ours ? $#$original : $#$ours)) {
        my @lines = ($original->[$i], $ours->[$i]);
        my ($theirs, $mine) = map { $_ ? $_->{text} : '(nothing more)' } @lines;
        $answer = _echo($1) if $theirs =~ /^peer sends Close (.*)/;
        next if $theirs eq $mine;
        if (defined $answer && _is_answer($theirs, "1000 ''") && _is_answer($mine, $answer)) {
            $used->{D4}++;
            next;
        }
        my ($left, $right) = map { $_ ? $_->{index} : undef } @lines;
        return {original => $left, ours => $right, lines => [$theirs, $mine]};
    }
    return undef;
}

# Lines keep the place they have in the history.
sub _numbered {
    my ($history) = @_;
    return map { {index => $_, text => $history->[$_]} } 0 .. $#$history;
}

sub _without_warnings {
    my ($used, @lines) = @_;
    my @kept = grep { $_->{text} !~ m{^\s*warning: .*Protocol/WebSocket/Frame\.pm} } @lines;
    $used->{Frame}++ if @kept < @lines;
    return @kept;
}

sub _promised_texts {
    my ($used, @lines) = @_;
    for my $line (@lines) {
        next if $line->{text} !~ /^\s*callback #\d+ \(parse_error\)/;
        $line->{text} =~ s/'($LIMIT).*/'$1'/ and $used and $used->{C16}++;
    }
    return @lines;
}

# Takes the Close frames out that the original does not send. One that does not come is a difference.
sub _without_extra_close {
    my ($used, @lines) = @_;
    my ($has_closed, $expected, $rule, @kept);
    for my $line (@lines) {
        my $text = $line->{text};
        if ($text =~ /^peer got Close (.*?) (?:un)?masked/ && defined $expected && $1 eq $expected) {
            $used->{$rule}++;
            $has_closed = 1;
            undef $expected;
            next;
        }
        push @kept, $line;
        if ($text =~ /^peer sends Close|^peer got Close|^\s*close .*-> the connection$|^\s*message 8 /) {
            $has_closed = 1;
            # In a callback the program can close what it has dropped.
            undef $expected if $text =~ /^\s+close/ && ($rule // '') eq 'D3';
        }
        elsif (!$has_closed && !defined $expected && $text =~ /^\s*drop the connection/) {
            ($expected, $rule) = ("1000 ''", 'D3');
        }
        elsif (!$has_closed && !defined $expected && $text =~ /^\s*callback #\d+ \(parse_error\) .*: (.*)/) {
            ($expected, $rule) = $1 =~ /^'$LIMIT'$/ ? ("1009 ''", 'C16') : ("1011 ''", 'C15');
        }
        elsif ($text =~ /^\s*callback #\d+ \(finish\)/) {
            $has_closed = 1;
        }
    }
    push @kept, {index => $#lines, text => "missing: Close $expected ($rule)"} if defined $expected;
    return @kept;
}

# What a Close frame is answered with (compat D4), as the peer's text of it.
sub _echo {
    my ($close) = @_;
    return $close =~ /^(\d+) / ? "$1 ''" : "''";
}

sub _is_answer {
    my ($line, $close) = @_;
    return $line =~ /^peer got Close \Q$close\E (?:un)?masked(?:, chunk \d+)?$/;
}

1;
