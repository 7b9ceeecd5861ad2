# A peer that ends TLS and goes on with the socket: its close_notify comes with what is to be answered.

use strict;
use warnings;
use lib 't/lib';

use Test2::V0;

use Tls qw(why_no_tls);

BEGIN {
    if (my $reason = why_no_tls()) {
        diag "TLS is not tested: $reason";
        plan skip_all => $reason;
    }
}

use AnyEvent;
use AnyEvent::WebSocket::Connection;
use Far  qw(connection_and_far);
use Peer qw(history finished nested run_until run_for);

my $TEXT = 1;

for my $role (qw(server client)) {
    for my $when ('at once', 'after a pause', 'after a nested event loop') {
        subtest "what is answered $when does not go out in the clear, $role (C21)" => sub {
            my ($connection, $far) = connection_and_far(way => 'over TLS', role => $role);
            my $history = history($connection);
            my $calls   = 0;
            $connection->on(each_message => sub {
                my ($connection) = @_;
                $connection->pause if $when eq 'after a pause';
                nested { run_for(0.05) } if $when eq 'after a nested event loop' && !$calls++;
                $connection->send('a secret');
                $connection->ping;
            });
            $far->say_and_end_tls([$TEXT, 'one'], [$TEXT, 'two']);
            run_until { @$history } 'a message';
            if ($when eq 'after a pause') {
                run_for(0.05);
                is $history, ['one'], 'the pause holds, the end of TLS notwithstanding';
                $connection->resume;
                run_until { @$history > 1 } 'another message';
                run_for(0.05);
                is $history, ['one', 'two'], 'and holds again';
                $connection->resume;
            }
            run_until { finished($history) } 'finish';
            is $history, ['one', 'two', [finish => undef]], 'both messages, and finish';
            ok !$connection->was_clean, 'not clean';
            undef $connection;
            my $wire = $far->raw;
            unlike $wire, qr/secret/, 'nothing that was sent';
            # A record of TLS has a type from 20 to 23, and a version.
            substr $wire, 0, unpack('n', $1), '' while $wire =~ s/\A[\x14-\x17]\x03[\x00-\x04](..)//s;
            is $wire, '', 'and nothing but TLS';
        };
    }
}

done_testing;
