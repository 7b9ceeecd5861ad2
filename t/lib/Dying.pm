package Dying;

# Where exceptions say that they come from.

use strict;
use warnings;

use Exporter   qw(import);
use Test2::API qw(context);
use Test2::V0  qw(dies like);

our @EXPORT_OK = qw(dies_here);

# Whether the code, which stands on the line of the call, dies with such a text and the place of that line.
sub dies_here {
    my ($code, $text, $name) = @_;
    my ($file, $line) = (caller)[1, 2];
    my $context   = context();
    my $exception = dies { $code->() };
    my $ok = like($exception, qr/^$text.* at \Q$file\E line $line\.?$/m, $name);
    $context->release;
    return $ok;
}

1;
