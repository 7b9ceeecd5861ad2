package Interop::Checks;

# Counts what passed, and keeps what failed.

use v5.36;


use constant SHOWN => 40;

sub new ($class) { return bless {passed => 0, failures => [], group => undef}, $class }

sub passed ($self)   { $self->{passed} }
sub failures ($self) { @{ $self->{failures} } }

sub ok ($self, $name, $is_good, $detail = undef) {
    if ($is_good) {
        $self->{passed}++;
        return 1;
    }
    $detail =~ s/\s+\z// if defined $detail;
    my $title = join ': ', grep { defined } $self->{group}, $name;
    push @{ $self->{failures} }, join ': ', $title, grep { defined } $detail;
    return 0;
}

sub _show ($value) {
    return 'undef' if !defined $value;
    my $shown = length $value > SHOWN ? substr($value, 0, SHOWN) . '...' : $value;
    $shown =~ s/([^ -~])/sprintf '\\x{%x}', ord $1/ge;
    return length $value > SHOWN ? "'$shown' (" . length($value) . ')' : "'$shown'";
}

sub is ($self, $name, $got, $expected) {
    my $is_good = defined $got ? defined $expected && $got eq $expected : !defined $expected;
    return $self->ok($name, 1) if $is_good;
    my $detail = _show($got) . ' is not ' . _show($expected);
    if (defined $got && defined $expected && (length $got > SHOWN || length $expected > SHOWN)) {
        my $at = 0;
        $at++ while $at < length $got && $at < length $expected && substr($got, $at, 1) eq substr($expected, $at, 1);
        $detail .= ", from byte $at on";
    }
    return $self->ok($name, 0, $detail);
}

# Runs a part whose checks bear that name. What cannot go on is a failure, too.
sub group ($self, $name, $code) {
    local $self->{group} = $name;
    return 1 if eval { $code->(); 1 };
    $self->ok('went to its end', 0, $@);
    return 0;
}

1;
