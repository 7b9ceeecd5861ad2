use strict;
use warnings;
use Test2::V0;

# Every public module is documented in full, and its SYNOPSIS runs.

my @public = map { "AnyEvent::WebSocket::$_" } qw(Client Connection Message Server);

sub file_of {
    my ($module) = @_;
    (my $path = "blib/lib/$module.pm") =~ s{::}{/}g;
    return $path;
}

subtest 'the POD is well-formed' => sub {
    eval { require Pod::Checker; 1 } or skip_all 'Pod::Checker is not installed';
    for my $module (@public) {
        my $checker = Pod::Checker->new(-quiet => 1, -warnings => 1);
        open my $nowhere, '>', \my $messages;
        $checker->parse_from_file(file_of($module), $nowhere);
        is $checker->num_errors,   0, "$module: errors"   or diag $messages;
        is $checker->num_warnings, 0, "$module: warnings" or diag $messages;
    }
};

subtest 'every public sub is documented' => sub {
    eval { require Pod::Coverage; 1 } or skip_all 'Pod::Coverage is not installed';
    for my $module (@public) {
        eval "require $module" or die $@;
        # Private to Moo's protocol and to perl.
        my $coverage = Pod::Coverage->new(
            package   => $module,
            pod_from  => file_of($module),
            also_private => [qr/^(BUILD|BUILDARGS|CLONE)$/],
        );
        is $coverage->coverage, 1, $module or diag join ' ', $coverage->why_unrated // (), $coverage->uncovered;
    }
};

subtest 'each SYNOPSIS runs' => sub {
    my %prints = (
        'AnyEvent::WebSocket::Client'     => "you said: hello\n",
        'AnyEvent::WebSocket::Connection' => "you said: hello\n",
        'AnyEvent::WebSocket::Message'    => "3 bytes, 1 character\n",
        'AnyEvent::WebSocket::Server'     => "Joan, you said: good morning\n",
    );
    for my $module (@public) {
        open my $pod, '<', file_of($module) or die $!;
        my ($synopsis) = join('', <$pod>) =~ /^=head1 SYNOPSIS\n(.*?)^=head1/ms or die "no SYNOPSIS in $module";
        my @include = map { "-I$_" } grep { !ref } @INC;
        open my $run, '-|', $^X, @include, '-e', $synopsis or die $!;
        is join('', <$run>), $prints{$module}, "$module: what it prints";
        ok close $run, "$module: how it ends";
    }
};

done_testing;
