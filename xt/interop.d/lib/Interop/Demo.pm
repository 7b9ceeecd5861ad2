package Interop::Demo;

# The page of examples/echo-server in Chromium, used as a person would use it: what counts is what is to be seen
# in the page.

use v5.36;
use utf8;

use AnyEvent;
use Encode qw(decode encode);
use Harness::Child;
use Interop::Checks;
use Interop::Messages qw(prose MIB);
use Interop::Peer;
use Interop::Relay;
use Interop::Variants qw(parse_agreed);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use constant {TEXT => 1, BINARY => 2, CLOSE => 8};

# Between two looks at the page.
use constant LOOK => 0.05;

# Arguments: command: that of Chromium; server_command: that of the demo server; directory, scratch, patience, limit:
# as of Interop::Cell.
sub new ($class, %arg) { return bless {%arg, checks => Interop::Checks->new, said => []}, $class }

sub checks ($self)  { $self->{checks} }
sub seconds ($self) { $self->{seconds} }
sub traffic ($self) { return @$self{qw(payload carried)} }

sub run ($self) {
    my $started = clock_gettime(CLOCK_MONOTONIC);
    $self->{deadline} = AE::time + $self->{limit};
    my $checks = $self->checks;
    if ($checks->group('the page', sub { $self->_start; $self->_check_opening })) {
        $checks->group($_->[0], $_->[1]) for (
            ['messages',         sub { $self->_messages }],
            ['closed by us',     sub { $self->_close }],
            ['the page is left', sub { $self->_leave }],
            ['the server stops', sub { $self->_stop_server }],
        );
    }
    $checks->ok('the server has ended', $self->{server_ended}, 'it is still there') if $self->{server};
    $checks->ok('the server warns of nothing', !$self->_warnings, $self->_warnings) if $self->{server};
    if (my $browser = $self->{browser}) {
        my $wrong = $browser->finish;
        $checks->ok('the browser ends', !$wrong, $wrong);
        $checks->ok('the browser reports no error', 0, $_) for $browser->errors;
    }
    $self->{server}->signal('KILL') if $self->{server};
    $self->{relay}->stop  if $self->{relay};
    $self->{seconds} = clock_gettime(CLOCK_MONOTONIC) - $started;
    return;
}

# ---- The server

sub _start ($self) {
    $self->{server} = Harness::Child->start(
        command     => $self->{server_command},
        log         => "$self->{directory}/server.log",
        environment => {TMPDIR => $self->{scratch}},
        limit       => $self->{limit},
        on_line     => sub ($line) { push @{ $self->{said} }, decode('UTF-8', $line) },
        on_end      => sub ($how) { $self->{server_ended} = $how || 'exit status 0' },
    );
    my ($port) = $self->_server_says(qr{ws://127\.0\.0\.1:(\d+)/});
    $self->{relay} = Interop::Relay->new($port);
    $self->{browser} = Interop::Peer->start(
        name => 'the browser',
        log  => "$self->{directory}/browser.log",
        map { $_ => $self->{$_} } qw(command scratch limit deadline patience),
    );
    $self->{browser}->await('ready');
    $self->_do(visited => visit => {url => $self->_url});
    return;
}

sub _url ($self) { return 'http://127.0.0.1:' . $self->{relay}->port . '/' }

sub _warnings ($self) {
    open my $in, '<', "$self->{directory}/server.log" or return "$!";
    local $/;
    return readline($in) // '';
}

# Until something is the case. What it was waiting for is in the second argument.
sub _until ($self, $what, $code) {
    my $late = AE::time + $self->{patience};
    while (1) {
        my @found = $code->();
        return wantarray ? @found : $found[0] if @found;
        die "$what within $self->{patience} s\n" if AE::time > $late;
        my $pause = AE::cv;
        my $timer = AE::timer(LOOK, 0, $pause);
        $pause->recv;
    }
}

# What a line of the server has in the parentheses of the pattern; the line is taken.
sub _server_says ($self, $pattern) {
    return $self->_until("the server says nothing like $pattern", sub {
        die "the server has ended, $self->{server_ended}: ", $self->_warnings, "\n" if defined $self->{server_ended};
        while (defined(my $line = shift @{ $self->{said} })) {
            my @found = $line =~ $pattern;
            return @found if @found;
        }
        return;
    });
}

# ---- The page

sub _do ($self, $done, $do, $with) {
    $self->{browser}->tell($do => $with);
    return $self->{browser}->await($done);
}

sub _evaluate ($self, $expression) {
    return $self->_do(evaluated => evaluate => {expression => $expression})->{value};
}

sub _type ($self, $selector, $text) { $self->_do(typed => type => {selector => $selector, text => "$text"}) }
sub _click ($self, $selector)       { $self->_do(clicked => click => {selector => $selector}) }

# Lines that the page has shown since it was last looked at.
sub _new_lines ($self) {
    my $lines = $self->_evaluate(q{Array.from(document.querySelectorAll("#log li .what"), line => line.innerText)});
    my $shown = $self->{shown} // 0;
    $self->{shown} = @$lines;
    return @$lines[$shown .. $#$lines];
}

sub _see ($self, $name, @expected) {
    my @lines;
    eval {
        $self->_until('not all is shown', sub { push @lines, $self->_new_lines; @lines >= @expected ? 1 : () });
        1;
    } or do {
        my $error = $@;
        my $page  = eval { $self->_evaluate('document.readyState + ": " + document.body.innerText') } // '';
        my @page = grep { /\S/ } split /\n/, $page;
        die "$name: $error", map { "    $_\n" } (map { "shown: $_" } @lines), 'the page:', @page;
    };
    for my $i (0 .. $#expected) {
        my $is_shown = ref $expected[$i] ? $lines[$i] =~ $expected[$i] : $lines[$i] eq $expected[$i];
        $self->checks->ok("$name, line $i is shown", $is_shown, "'$lines[$i]' is not $expected[$i]");
    }
    $self->checks->is("$name, lines shown", scalar @lines, scalar @expected);
    return;
}

sub _see_state ($self, $expected) {
    $self->checks->is('the state shown', $self->_evaluate('document.querySelector("#state").innerText'), $expected);
    return;
}

sub _picture ($self, $name) {
    $self->_do(pictured => picture => {file => "$self->{directory}/$name.png"});
    return;
}

# ---- What is to be seen

# The latest WebSocket; the relay sees the page itself being fetched, too.
sub _wire ($self) {
    my ($wire) = grep { $_->header(client => 'Upgrade') =~ /websocket/i } reverse $self->{relay}->wires;
    return $wire // die "the page has opened no WebSocket\n";
}

sub _check_opening ($self) {
    $self->_see('connected', qr/\Aconnected, with permessage-deflate/);
    $self->_see_state('connected');
    my $agreed = $self->_wire->header(server => 'Sec-WebSocket-Extensions');
    $self->checks->ok('compression is agreed upon', scalar parse_agreed($agreed), "'$agreed'");
    $self->checks->is('what is shown of it', $self->_evaluate('socket.extensions'), $agreed);
    return;
}

sub _messages ($self) {
    my $checks = $self->checks;
    my $wire   = $self->_wire;
    my $same   = $self->_evaluate('document.querySelector("#text").value');
    $self->_click('#message button');
    $self->_see('the text that stands there', $same);

    for my $text ('Hello, world', 'Grüße, 世界, привет 👋🏽', '<b>not bold</b>') {
        $self->_type('#text', $text);
        $self->_click('#message button');
        $self->_see("'$text'", $text);
    }
    $self->_type('#text', '');
    $self->_evaluate('document.querySelector("#text").value = ""');
    $self->_click('#message button');
    $self->_see('nothing', '(an empty message)');

    # No line of text, or the field would make it one.
    my $large = decode('UTF-8', prose(MIB)) =~ s/\n/ /gr;
    my $before = $wire->bytes('client');
    my $back   = $wire->bytes('server');
    $self->_type('#text', $large);
    $self->_click('#message button');
    my $characters = $self->_evaluate('number(document.querySelector("#text").value.length)');
    $self->_see('1 MiB', qr/\A\Q@{[substr $large, 0, 200]}\E.*\(\Q$characters\E characters\)\z/s);
    my $there = $wire->bytes('client') - $before;
    $back = $wire->bytes('server') - $back;
    $checks->ok('1 MiB, there: size on the wire', $there < MIB / 10, "$there bytes");
    $checks->ok('1 MiB, back: size on the wire', $back < MIB / 10,  "$back bytes");
    @$self{qw(payload carried)} = (2 * MIB, $there + $back);

    $self->_picture('messages');
    $self->_click('#binary button');
    $self->_see('256 bytes', '256 bytes: 00 01 02 03 04 05 06 07 … f8 f9 fa fb fc fd fe ff');
    $self->_type('#size', 0);
    $self->_click('#binary button');
    $self->_see('0 bytes', '(no bytes)');
    $self->_type('#size', MIB);
    $self->_click('#binary button');
    $self->_see('1 MiB of bytes', '1,048,576 bytes: 00 01 02 03 04 05 06 07 … f8 f9 fa fb fc fd fe ff');

    $self->_click('#burst button');
    $self->_see('a burst', qr{\A10,000 echoes, [\d,]+ messages/s\z});

    for my $side (qw(client server)) {
        my @first = grep { $_->{opcode} == TEXT || $_->{opcode} == BINARY } $wire->frames($side);
        my $compressed = grep { $_->{rsv1} } @first;
        $checks->is("messages of the $side", scalar @first, 10_009);
        $checks->ok("messages of the $side that are compressed", $compressed >= 2, $compressed);
    }
    return;
}

sub _close_frame ($self, $side) {
    my @frames = grep { $_->{opcode} == CLOSE } $self->_wire->frames($side);
    $self->checks->is("Close frames of the $side", scalar @frames, 1);
    return $frames[0]{payload};
}

# The reason is for the server; what the page is told is the code in the answer.
sub _close ($self) {
    my ($code, $reason) = (4001, 'genug, 再见 👋');
    $self->_type('#code', $code);
    $self->_type('#reason', $reason);
    $self->_click('#closing button');
    $self->_see('closed by the page', "closing with $code “$reason”", qr/\Aclosed: $code(?: “\Q$reason\E”)?, clean\z/);
    $self->_see_state('closed');
    my ($logged) = $self->_server_says(qr/(closed .*)/);
    $self->checks->is('what the server logs', $logged, "closed $code $reason");
    $self->checks->is('what the page sent', $self->_close_frame('client'), pack('n', $code) . encode('UTF-8', $reason));
    $self->checks->is('the code of the answer', substr($self->_close_frame('server') // '', 0, 2), pack 'n', $code);
    return;
}

sub _connect ($self) {
    $self->_click('#connect');
    $self->_see('connected again', qr/\Aconnected, with permessage-deflate/);
    return;
}

sub _leave ($self) {
    $self->_connect;
    $self->_do(visited => visit => {url => $self->_url});
    my ($logged) = $self->_server_says(qr/(closed .*)/);
    $self->checks->is('what the server logs', $logged =~ s/ +\z//r, 'closed 1001');
    $self->{shown} = 0;
    $self->_see('connected', qr/\Aconnected, with permessage-deflate/);
    return;
}

# Its reason is seen in the page, and so is that nobody is there any more.
sub _stop_server ($self) {
    $self->{server}->signal('TERM');
    $self->_see('closed by the server', 'closed: 1001 “server stops”, clean');
    $self->_see_state('closed');
    $self->checks->is('what the server sent', $self->_close_frame('server'), pack('n', 1001) . 'server stops');
    $self->_until('the server does not end', sub { $self->{server_ended} // () });
    $self->checks->is('how the server ended', $self->{server_ended}, 'exit status 0');
    $self->_picture('closed');
    $self->{relay}->stop;
    $self->_click('#connect');
    $self->_see('nobody is there', 'could not connect: 1006 (no Close frame), not clean');
    $self->_see_state('could not connect');
    return;
}

1;
