package Autobahn::Report;

# What wstest has found out about one role: a result for each case that was to be run.

use v5.36;

use Autobahn::Role;
use JSON::PP ();
use List::Util qw(sum0);

use constant {MISSING => 'MISSING', WIDTH => 2000};

my %GOOD = map { $_ => 1 } qw(OK INFORMATIONAL);
# Others have a column where they occur.
my @VERDICTS = qw(OK INFORMATIONAL NON-STRICT FAILED);
my @ASPECTS  = qw(behavior behaviorClose);

sub _read_json ($file) {
    open my $in, '<:raw', $file or return (undef, "$file: $!");
    my $text = do { local $/; readline $in } // '';
    my $data = eval { JSON::PP->new->utf8->decode($text) };
    return ($data, $data ? () : "$file: $@");
}

# Cases without a result are missing, and that is a result.
sub new ($class, $directory, @cases) {
    my $self = bless {directory => $directory, cases => \@cases, results => {}, problems => []}, $class;
    my ($index, $error) = -e "$directory/index.json" ? _read_json("$directory/index.json") : ({});
    push @{ $self->{problems} }, "the report cannot be read: $error" if $error;
    $index ||= {};
    my $found = delete $index->{ +Autobahn::Role::AGENT } // {};
    push @{ $self->{problems} }, 'the report is about others, too: ' . join ', ', sort keys %$index if %$index;
    for my $case (@cases) {
        my $result = delete $found->{$case} // {};
        $self->{results}{$case} = {%$result, map { $_ => $result->{$_} // MISSING } @ASPECTS};
    }
    push @{ $self->{problems} }, 'the report has cases that were not asked for: ' . join ', ', sort keys %$found
        if %$found;
    return $self;
}

sub cases ($self)    { @{ $self->{cases} } }
sub problems ($self) { @{ $self->{problems} } }

# Behaviour and close.
sub verdicts ($self, $case) { @{ $self->{results}{$case} }{@ASPECTS} }

sub are_good (@verdicts) { !grep { !$GOOD{$_} } @verdicts }

sub is_missing ($self, $case) { !!grep { $_ eq MISSING } $self->verdicts($case) }

# ---- The table

sub table ($self, @groups) {
    my @columns = map { [$self->_columns($_)] } 0, 1;
    my @rows;
    for my $group (@groups) {
        my @cases = grep { /\A$group->{number}\./ } $self->cases or next;
        push @rows, [sprintf('%2d  %s', @$group{qw(number title)}), $self->_counts(\@columns, @cases)];
    }
    my $total = ['    total', $self->_counts(\@columns, $self->cases)];
    my @heads = ('group', 'cases', map { @$_ } @columns);
    my @widths = map { my $i = $_; _max(map { length $_->[$i] } \@heads, @rows, $total) } 0 .. $#heads;
    my $line = sub (@cells) {
        my $text = sprintf "%-*s", $widths[0], $cells[0];
        for my $i (1 .. $#cells) {
            # The first of each aspect stands apart.
            my $gap = $i == 2 || $i == 2 + @{ $columns[0] } ? '   ' : '  ';
            $text .= sprintf "%s%*s", $gap, $widths[$i], $cells[$i];
        }
        return "$text\n";
    };
    my $over = ' ' x ($widths[0] + 2 + $widths[1] + 3);
    my $behaviour = sum0(map { 2 + $widths[ 2 + $_ ] } 0 .. $#{ $columns[0] }) - 2;
    $over .= sprintf "%-*s   close", $behaviour, 'behaviour';
    return "$over\n", map { $line->(@$_) } \@heads, @rows, $total;
}

sub _max (@numbers) { return (sort { $b <=> $a } @numbers)[0] }

sub _columns ($self, $aspect) {
    my %seen = map { ($self->verdicts($_))[$aspect] => 1 } $self->cases;
    delete @seen{@VERDICTS};
    return @VERDICTS, sort keys %seen;
}

sub _counts ($self, $columns, @cases) {
    my @counts = (scalar @cases);
    for my $aspect (0, 1) {
        my %count;
        $count{ ($self->verdicts($_))[$aspect] }++ for @cases;
        push @counts, map { $count{$_} // 0 } @{ $columns->[$aspect] };
    }
    return @counts;
}

# ---- One case

# Descriptions are HTML.
sub _plain ($text) {
    return '' if !defined $text;
    $text =~ s/<[^>]*>/ /g;
    $text =~ s/&lt;/</g, $text =~ s/&gt;/>/g, $text =~ s/&amp;/&/g;
    $text =~ s/\s+/ /g;
    $text =~ s/([^\x20-\x7e])/sprintf '\\x{%x}', ord $1/ge;
    $text =~ s/\A | \z//g;
    return length $text > WIDTH ? substr($text, 0, WIDTH) . ' ...' : $text;
}

# What wstest says about a case, by lines.
sub details ($self, $case) {
    return 'not in the report' if $self->is_missing($case);
    my ($detail, $error) = _read_json("$self->{directory}/$self->{results}{$case}{reportfile}");
    return "its report cannot be read: $error" if $error;
    my $json  = JSON::PP->new->canonical->allow_nonref->ascii;
    my $clean = $detail->{wasClean} ? 'clean' : 'not clean';
    $clean .= ': ' . _plain($detail->{wasNotCleanReason}) if $detail->{wasNotCleanReason};
    my $by = $detail->{failedByMe} ? 'failed by wstest' : $detail->{closedByMe} ? 'closed by wstest' : 'closed by us';
    return (
        'case:        ' . _plain($detail->{description}),
        'expectation: ' . _plain($detail->{expectation}),
        'behaviour:   ' . _plain($detail->{result}),
        'expected:    ' . _plain($json->encode($detail->{expected})),
        'received:    ' . _plain($json->encode($detail->{received})),
        'close:       ' . _plain($detail->{resultClose}),
        "connection:  $by, our close code " . ($detail->{remoteCloseCode} // 'none') . ", $clean",
        "duration:    $detail->{duration} ms",
    );
}

1;
