# The program's part in an opening handshake: `handshake`, `validator`, subprotocols, and what comes of the response.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use AnyEvent::WebSocket::Server;
use Opening qw(:all);
use Peer qw(frame nested read_frames read_until_eof run_for run_until settle history);
use Protocol::WebSocket::Response;
use Test2::V0;
use Time::HiRes ();

my @MASK = (mask => 'prog');

subtest 'what the handshake code returns behind the response comes behind the connection' => sub {
    my %returns = (nothing => [], undef => [undef], 'false values' => [0, '', undef], 'references' => [{a => 1}, [2]]);
    for my $name (sort keys %returns) {
        my ($outcome) = opening({handshake => sub { ($_[1], @{ $returns{$name} }) }});
        is $outcome->{other}, $returns{$name}, $name;
    }
    my $context;
    my ($outcome) = opening({handshake => sub { $context = wantarray; $_[1] }});
    ok $context, 'it is called in list context';
};

subtest 'validator (legacy)' => sub {
    my @seen;
    my ($outcome) = opening({validator => sub { @seen = @_; ('a', undef, 'c') }});
    is $outcome->{other}, ['a', undef, 'c'], 'all it returns comes behind the connection';
    is scalar @seen, 1, 'it gets the request only';
    isa_ok $seen[0], 'Protocol::WebSocket::Request';
    ($outcome) = opening({validator => sub { return }});
    is $outcome->{other}, [], 'also nothing';
    ok $outcome->{connection}, 'which refuses nothing';
    ($outcome) = opening({validator => sub { die "no\n" }});
    like $outcome->{error}, qr/^no\n/, 'an exception does';
    ($outcome) = opening({validator => sub { die 'not called' }, handshake => sub { ($_[1], 'h') }});
    is $outcome->{other}, ['h'], 'it is not called where there is `handshake`';
};

subtest 'exceptions of the program come as they are' => sub {
    my $object = bless {code => 403}, 'Refusal';
    my %dies = (
        'a string' => "not you\n", 'a string without a line end' => 'not you',
        'an object' => $object, 'a hash' => {a => 1},
    );
    for my $name (sort keys %dies) {
        my ($outcome, $client, $socket) = opening({handshake => sub { die $dies{$name} }});
        if (ref $dies{$name}) { ref_is $outcome->{error}, $dies{$name}, $name }
        else                  { like $outcome->{error}, qr/^not you/, $name }
        syswrite $socket, 'an answer';
        is read_some($client, 9), 'an answer', "$name: the program can answer";
    }
    package False {
        use overload bool => sub { 0 }, '""' => sub { '' }, fallback => 1;
    }
    package Dies {
        use overload bool => sub { die "in bool\n" }, '""' => sub { die "in string\n" }, fallback => 0;
    }
    for my $false ((bless [], 'False'), '') {
        my ($outcome) = opening({handshake => sub { die $false }});
        ok !$outcome->{connection} && $outcome->{error}, 'a false one is an exception, too';
    }
    my ($condvar, $client) = start({handshake => sub { die bless [], 'Dies' }});
    syswrite $client, request();
    run_until { $condvar->ready } 'the error';
    like raises(sub { $condvar->recv }), qr/^in /, 'one that cannot be looked at';
    my ($outcome) = opening({handshake => sub { local $@; eval { die 'inner' }; $_[1] }});
    ok $outcome->{connection}, 'one that it has caught is none';
};

subtest 'the program\'s $@ and $_ are untouched' => sub {
    my ($condvar, $client) = start({handshake => sub { eval { die 'in handshake' }; $_[1] }});
    syswrite $client, request();
    local $@;
    local $_ = 'mine, too';
    run_until { $condvar->ready } 'the connection';
    is $_, 'mine, too', '$_';
    my ($env, $server) = (psgi_env(), AnyEvent::WebSocket::Server->new(handshake => sub { die 'in handshake' }));
    my ($socket) = Peer::socket_pair();
    $@ = 'mine';
    $server->establish_psgi($env, $socket);
    is $@, 'mine', '$@, where no event loop has a part in it';
};

subtest 'no response' => sub {
    for ([nothing => sub { }], [undef => sub { undef }], ['undef and more' => sub { (undef, 'other') }]) {
        my ($name, $code) = @$_;
        my ($outcome, $client) = opening({handshake => $code});
        like $outcome->{error}, qr/^handshake response was undef/, $name;
        is sysread($client, my $bytes, 100) || 0, 0, "$name: nothing was sent";
    }
};

subtest 'a response string goes out as it is' => sub {
    my $string = join "\r\n", 'HTTP/1.1 101 Mine', 'Upgrade: websocket', 'Connection: Upgrade',
        'Sec-WebSocket-Accept: ' . accept_for($KEY), 'X-Mine: yes', 'Sec-WebSocket-Protocol: mine', '', '';
    my ($connection, $client, $response) = established({handshake => sub { ($string, 'other') }});
    is $response, $string, 'to the byte';
    is $connection->subprotocol, 'mine', 'its subprotocol is the connection\'s';
    $connection->on(each_message => sub { $_[0]->send($_[1]->body) });
    syswrite $client, frame(payload => 'works', @MASK);
    is [map { $_->{payload} } read_frames($client, 1)], ['works'], 'and the connection works';

    ($connection, $client, $response) = established({handshake => sub {
        my ($req, $res) = @_;
        return $res->to_string =~ s/\r\n\r\n\z/\r\nX-Added: 1\r\n\r\n/r;
    }});
    is response_field($response, 'X-Added'), 1, 'what the response object says, with an addition';

    my $wide = $string;
    utf8::upgrade($wide);
    ($connection, $client, $response) = established({handshake => sub { $wide }});
    is $response, $string, 'whatever perl holds it as';
};

subtest 'a response of another class' => sub {
    package OwnResponse {
        sub to_string { return "HTTP/1.1 101 Own\r\nSec-WebSocket-Protocol: own\r\n\r\n" }
    }
    my ($connection, undef, $response) = established({handshake => sub { bless {}, 'OwnResponse' }});
    like $response, qr/^HTTP\/1.1 101 Own\r\n/, 'is asked for its string';
    is $connection->subprotocol, 'own', 'and that is read';

    ($connection, undef, $response) = established({handshake => sub {
        my ($req) = @_;
        return Protocol::WebSocket::Response->new(
            version => $req->version, key => $req->key, subprotocol => 'fresh');
    }});
    is response_field($response, 'Sec-WebSocket-Accept'), accept_for($KEY), 'as is a new Protocol::WebSocket::Response';
    is $connection->subprotocol, 'fresh', 'with its subprotocol';

    package Stringy { use overload '""' => sub { "HTTP/1.1 101 Stringy\r\n\r\n" } }
    (undef, undef, $response) = established({handshake => sub { bless [], 'Stringy' }});
    like $response, qr/ 101 Stringy/, 'or an object that is a string by overloading';
};

sub NoString::to_string  { return }
sub DiesBadly::to_string { die bless [], 'Dies' }

subtest 'responses that cannot be used' => sub {
    my %cannot = (
        'wide characters' => [sub { "HTTP/1.1 101 \x{263A}\r\n\r\n" },
            qr/^handshake error: there are characters in the response that are not bytes/],
        'an object without a string' => [sub { bless [], 'NoString' },
            qr/^handshake error: the response object has no string/],
        'an object that dies' => [sub { $_[1]->key(undef); $_[1] }, qr/^handshake error: [Kk]ey is required/],
        'an object that dies of one that cannot be looked at' => [sub { bless [], 'DiesBadly' },
            qr/^handshake error: an exception that cannot be shown/],
        'a version that is gone' => [sub { $_[1]->version('other'); $_[1] }, qr/^handshake error: Version other/],
        'a break in the subprotocol' => [sub { $_[1]->subprotocol("a\r\nSet-Cookie: b=c"); $_[1] },
            qr/^handshake error: there is a control character in Sec-WebSocket-Protocol of the response/],
        'a break in a cookie' => [sub { $_[1]->cookie(name => 'a', value => "b\r\nX: y"); $_[1] },
            qr/^handshake error: there is a control character in Set-Cookie of the response/],
        # None of these is taken for a 101.
        'no empty line' => [sub { "HTTP/1.1 403 Forbidden\r\n" },
            qr/^handshake error: the response is malformed: there is no empty line behind its header at /],
        'nothing' => [sub { '' }, qr/^handshake error: the response is malformed: there is no empty line/],
        'no HTTP' => [sub { "no entry\r\n\r\n" }, qr/^handshake error: the response is malformed: an invalid /],
        'another HTTP' => [sub { "HTTP/2 403 Forbidden\r\n\r\n" },
            qr/^handshake error: the response is malformed: an invalid HTTP version/],
        'a line that is no header field' => [sub { "HTTP/1.1 403 Forbidden\r\nX\r\n\r\n" },
            qr/^handshake error: the response is malformed: an invalid header name/],
        'too many header fields' => [sub { "HTTP/1.1 403 Forbidden\r\n" . "X: y\r\n" x 200 . "\r\n" },
            qr/^handshake error: the response is malformed: too many headers/],
        'a break in the extensions' => [sub { $_[1]->extensions("a\nb"); $_[1] },
            qr/^handshake error: there is a control character in Sec-WebSocket-Extensions of the response/],
    );
    for my $name (sort keys %cannot) {
        my ($code, $text) = @{ $cannot{$name} };
        my ($outcome, $client, $socket) = opening({handshake => $code});
        like $outcome->{error}, $text, $name;
        unlike $outcome->{error}, qr/ at .* at /, "$name: with the line of the program, and no other";
        syswrite $socket, 'an answer';
        is read_some($client, 9), 'an answer', "$name: nothing was sent";
    }
};

subtest 'cookies in the response' => sub {
    my (undef, undef, $response) = established({handshake => sub { $_[1]->cookie(name => 'id', value => '7'); $_[1] }});
    like response_field($response, 'Set-Cookie'), qr/^id=7/, 'are sent';
};

subtest 'subprotocols' => sub {
    my @known = ('chat.v2', 'chat.v1');
    for (
        ['chat.v1, chat.v2' => 'chat.v1', "the client's first"],
        ['other,chat.v2'    => 'chat.v2', 'the first that the server has'],
        [['x', 'y , chat.v1', 'chat.v2'] => 'chat.v1', 'over several fields'],
        ['other' => undef, 'none in common'],
        ['CHAT.V1' => undef, 'another case is another name'],
        ['chat' => undef, 'the beginning of a name is none'],
        [undef, undef, 'the client has none'],
        ['' => undef, 'an empty list'],
        [', ,,' => undef, 'a list of nothing'],
        )
    {
        my ($offered, $chosen, $name) = @$_;
        my $seen;
        my ($connection, undef, $response) = established(
            {subprotocols => \@known, handshake => sub { $seen = $_[1]->subprotocol; $_[1] }},
            request('Sec-WebSocket-Protocol' => $offered));
        is response_field($response, 'Sec-WebSocket-Protocol'), $chosen, "$name: the response";
        is $connection->subprotocol, $chosen, "$name: the connection";
        is $seen, $chosen, "$name: the handshake code knows it";
    }

    my $changed = sub {
        my ($to) = @_;
        my ($connection, undef, $response) = established(
            {subprotocols => \@known, handshake => sub { $_[1]->subprotocol($to); $_[1] }},
            request('Sec-WebSocket-Protocol' => 'chat.v1, mine'));
        return [response_field($response, 'Sec-WebSocket-Protocol'), $connection->subprotocol];
    };
    is $changed->('mine'), ['mine', 'mine'], 'the handshake code may change it';
    is $changed->(undef), [undef, undef], 'or take it away';

    my @list   = ('a');
    my $server = AnyEvent::WebSocket::Server->new(subprotocols => \@list);
    push @list, 'b';
    my ($connection) = established($server, request('Sec-WebSocket-Protocol' => 'b'));
    is $connection->subprotocol, undef, 'the list is copied';

    my (undef, undef, $response) = established({subprotocols => []}, request('Sec-WebSocket-Protocol' => 'b'));
    is response_field($response, 'Sec-WebSocket-Protocol'), undef, 'an empty list has none';

    ($connection, undef, $response) = established(
        {handshake => sub { my ($req, $res) = @_; $res->subprotocol($req->subprotocol); $res }},
        request('Sec-WebSocket-Protocol' => 'echoed'));
    is [response_field($response, 'Sec-WebSocket-Protocol'), $connection->subprotocol], ['echoed', 'echoed'],
        'without the option the handshake code may set it';
};

subtest 'the handshake code runs the event loop (C22)' => sub {
    my ($other_condvar, $other) = start({});
    my @order;
    my ($condvar, $client);
    ($condvar, $client) = start({handshake => sub {
        my ($req, $res) = @_;
        push @order, 'begins';
        syswrite $other, request();
        # More from this client, which has to wait, and must not keep the loop busy.
        syswrite $client, frame(payload => 'second', @MASK);
        my $turns = 0;
        nested { run_until { $turns++; $other_condvar->ready } 'the other connection'; run_for(0.02) };
        push @order, 'ends';
        return $res;
    }});
    my ($connection, $history);
    $condvar->cb(sub { push @order, 'connection'; $connection = $_[0]->recv; $history = history($connection) });
    syswrite $client, request() . frame(payload => 'first', @MASK);
    my $cpu = Time::HiRes::clock();
    run_until { $history && @$history == 2 } 'messages';
    is \@order, ['begins', 'ends', 'connection'], 'one after the other';
    is $history, ['first', 'second'], 'nothing is lost, in order';
    cmp_ok Time::HiRes::clock() - $cpu, '<', 0.2, 'and the loop was not busy';
    ok outcome($other_condvar)->{connection}, 'another handshake was done meanwhile';
};

subtest 'the client goes away while the handshake code runs the event loop' => sub {
    for my $how ('closes', 'ends its side') {
        my ($condvar, $client);
        ($condvar, $client) = start({handshake => sub {
            $how eq 'closes' ? close $client : shutdown $client, 1;
            nested { settle() };
            return $_[1];
        }});
        my @told;
        $condvar->cb(sub { push @told, eval { $_[0]->recv } || $@ });
        syswrite $client, request();
        run_until { @told } 'an outcome';
        settle();
        is scalar @told, 1, "$how: it is told once";
        if ($how eq 'closes') { like $told[0], qr/^connection error: /, "$how: an error" }
        else                  { isa_ok $told[0], 'AnyEvent::WebSocket::Connection' }
    }
};

subtest 'a handshake within a handshake' => sub {
    my ($inner_condvar, $inner_client);
    my $answers = AnyEvent::WebSocket::Server->new(handshake => sub { ($_[1], $_[0]->resource_name) });
    my ($outer) = opening(
        {handshake => sub {
            my ($req, $res) = @_;
            ($inner_condvar, $inner_client) = start($answers);
            syswrite $inner_client, request(line => 'GET /inner HTTP/1.1');
            nested { run_until { $inner_condvar->ready } 'the inner one' };
            return ($res, 'outer');
        }});
    is $outer->{other}, ['outer'], 'the outer one';
    is outcome($inner_condvar)->{other}, ['/inner'], 'and the inner one';
};

subtest 'the program lets go of everything in the handshake code' => sub {
    my ($ours, $theirs) = Peer::socket_pair();
    AnyEvent::fh_unblock($theirs);
    my $condvar = do {
        my $inner;
        $inner = AnyEvent::WebSocket::Server->new(handshake => sub { undef $inner; undef $ours; ($_[1], 'fine') });
        $inner->establish($ours);
    };
    syswrite $theirs, request();
    is outcome($condvar)->{other}, ['fine'], 'it is none of its concern';
};

done_testing;
