package Differential::Coverage;

# What conversations consisted of, counted while they are carried out: a run that has not met something has not
# compared it.

use strict;
use warnings;

use Differential::Conversation ();
use Differential::Units        ();

my @UNITS = (
    'messages of one frame', 'fragmented messages', 'messages of as many fragments as allowed', 'frames',
    'empty frames', 'masked frames', 'unmasked frames', '7-bit lengths', '16-bit lengths', '64-bit lengths',
    'Pings', 'Pongs', 'control frames between fragments', 'Close frames', 'payloads over the limit',
    'fragments over the limit', 'cuts',
);

# In a line of a history.
my @LINES = (
    ['next_message called'  => qr/^\s*callback #\d+ \(next_message\)/],
    ['each_message called'  => qr/^\s*callback #\d+ \(each_message\)/],
    ['parse_error called'   => qr/^\s*callback #\d+ \(parse_error\)/],
    ['finish called'        => qr/^\s*callback #\d+ \(finish\) with 2 arguments: undef/],
    ['finish called with an error' => qr/^\s*callback #\d+ \(finish\) with 2 arguments: '/],
    ['callbacks registered' => qr/^\s*(?:on|again) .* -> CODE/],
    ['callbacks cancelled'  => qr/^\s*cancel(?:_itself by|.* #\d+$)/],
    ['exceptions in callbacks'           => qr/^\s+dies/],
    ['exceptions in the event loop'      => qr/^exception in the event loop/],
    ['strings sent'         => qr/^\s*send /],
    ['message objects sent' => qr/^\s*message /],
    ['messages sent back'   => qr/^\s*(?:echo|decoded|send_kept) ->/],
    ['close called'         => qr/^\s*close /],
    ['push_write called'    => qr/^\s*push_write a frame/],
    ['push_shutdown called' => qr/^\s*push_shutdown /],
    ['connections dropped'  => qr/^drop /],
    ['connections dropped in callbacks'  => qr/^\s+drop /],
    ['handles destroyed'    => qr/^destroy /],
    ['handles destroyed in callbacks'    => qr/^\s+destroy /],
    ['frames to the peer'   => qr/^peer got (?!EOF)/],
    ['EOF to the peer'      => qr/^peer got EOF/],
    ['messages to a neighbour' => qr/^neighbour: each_message/],
);

my @SETUP = qw(transport handle start class arguments keeps);
my %VALUES = (
    transport => [qw(unix tcp)],
    handle    => [qw(plain derived wrapping)],
    start     => ['at once', 'after a line', 'with rbuf', 'in on_read'],
    class     => ['original', 'derived', 'by Moo'],
    arguments => [qw(list hash)],
    keeps     => [qw(nothing messages bodies references)],
);
my @FLAGS = qw(narrow small_reads autocork max_payload_size max_fragments);

# All that is counted, in the order of a report.
sub items {
    return (
        map({ my $key = $_; map { "$key: $_" } @{ $VALUES{$key} } } @SETUP), @FLAGS,
        map({ "end: $_" } 'early', Differential::Conversation::endings()),
        @UNITS, map({ $_->[0] } @LINES),
    );
}

sub setup {
    my ($counts, $plan) = @_;
    $counts->{"$_: $plan->{setup}{$_}"}++ for @SETUP;
    defined $plan->{setup}{$_} and $counts->{$_}++ for @FLAGS;
    $counts->{ 'end: ' . ($plan->{end} // 'early') }++;
    return;
}

sub unit {
    my ($counts, $unit, $setup) = @_;
    my @frames = @{ $unit->{frames} };
    my @data   = grep { $_->{opcode} < 8 } @frames;
    my $most   = $setup->{max_fragments} // 128;
    for my $frame (@frames) {
        my $length = $frame->{length} // length $frame->{payload};
        $counts->{frames}++;
        $counts->{ defined $frame->{mask} ? 'masked frames' : 'unmasked frames' }++;
        $counts->{ $length < 126 ? '7-bit lengths' : $length < 65_536 ? '16-bit lengths' : '64-bit lengths' }++;
        $counts->{'empty frames'}++ if !$length;
        $counts->{'payloads over the limit'}++ if defined $frame->{length};
        $counts->{Pings}++          if $frame->{opcode} == 9;
        $counts->{Pongs}++          if $frame->{opcode} == 10;
        $counts->{'Close frames'}++ if $frame->{opcode} == 8;
    }
    $counts->{'messages of one frame'}++ if @data == 1;
    $counts->{'fragmented messages'}++   if @data > 1;
    $counts->{'messages of as many fragments as allowed'}++ if @data == $most;
    $counts->{'fragments over the limit'}++                 if @data > $most;
    $counts->{'control frames between fragments'} += @frames - @data if @data;
    $counts->{cuts} += @{ $unit->{cuts} };
    return;
}

sub history {
    my ($counts, $history) = @_;
    for my $line (@$history) {
        for my $item (@LINES) {
            my ($name, $pattern) = @$item;
            $counts->{$name}++ if $line =~ $pattern;
        }
    }
    return;
}

1;
