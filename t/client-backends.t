# A Client under each event loop that AnyEvent knows and that is installed (C22), also under AnyEvent's own checks
# for misuse.

use strict;
use warnings;
use lib 't/lib';

use Backends qw(conversations);
use Test2::V0;

conversations('t/lib/client-conversation.pl');

done_testing;
