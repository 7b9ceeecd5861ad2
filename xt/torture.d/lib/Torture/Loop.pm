package Torture::Loop;

# The event loop, as far as it is turned by hand: EV, or the one in pure Perl, which comes with AnyEvent.

use v5.36;

use AnyEvent;
use Exporter qw(import);

our @EXPORT_OK = qw(choose loops turn poll survives_closing watching_exceptions);

my %MODEL = (EV => 'AnyEvent::Impl::EV', Perl => 'AnyEvent::Impl::Perl');
my $loop;
our $on_exception;

sub loops () { sort keys %MODEL }

# Before anything else has chosen one.
sub choose ($name) {
    my $model = $MODEL{$name} // die "there is no event loop $name\n";
    local $ENV{PERL_ANYEVENT_MODEL} = $name;
    my $detected = AnyEvent::detect();
    die "AnyEvent runs on $detected, not on $model\n" if $detected ne $model;
    $loop = $name;
    return;
}

# Whether a descriptor may be closed that is being watched: select(2) fails for all of them then.
sub survives_closing () { $loop eq 'EV' }

# Until something has happened.
sub turn () {
    return EV::run(EV::RUN_ONCE()) if $loop eq 'EV';
    # An exception comes out here.
    return if eval { AnyEvent::Loop::one_event(); 1 };
    $on_exception ? $on_exception->($@) : die $@;
    return;
}

# What there is to do, without waiting.
sub poll () {
    return EV::run(EV::RUN_NOWAIT()) if $loop eq 'EV';
    my $timer = AE::timer(0, 0, sub { });
    return turn();
}

# Runs code; what callbacks of the event loop throw goes to other code.
sub watching_exceptions ($code, $run) {
    no warnings 'once';
    local $on_exception = $code;
    local $EV::DIED     = sub { $code->($@) };
    $run->();
    return;
}

1;
