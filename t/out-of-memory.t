# A message for which there is no memory fails its connection alone: no other connection notices, and the program is
# told of it by parse_error.

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use Limited qw(start_limited why_no_limit);
use Peer    qw(frame parse_frames run_until);
use Test2::V0;

my $MIB     = 1 << 20;
my $MEMORY  = 160 * $MIB;
my $LIMIT   = '-v ' . $MEMORY / 1024;
my $TEXT    = 'internal error: out of memory for a message';
my $REASON  = why_no_limit($LIMIT);
my $PROGRAM = <<'END';
    $| = 1;
    @Derived::Handle::ISA = 'AnyEvent::Handle';
    my ($other, $peer) = connection_and_peer(max_payload_size => 0);
    my $echo = sub {
        my ($length) = @_;
        write_all($peer, frame(opcode => 2, payload => 'e' x $length));
        my ($frame) = receive_frames($peer, 1);
        print "another: $frame->{opcode}, ", length $frame->{payload}, "\n";
    };
    $other->on(each_message => sub { $_[0]->send($_[1]) });
    $echo->(70_000);

    my $connection = AnyEvent::WebSocket::Connection->new(
        handle => ($ENV{AEWS_TEST_CLASS})->new(fh => program_socket()), max_payload_size => $ENV{AEWS_TEST_MAX});
    my $finished;
    $connection->on(each_message => sub { print 'message: ', $_[1]->body, "\n"; $_[0]->send('got it') });
    $connection->on(parse_error => sub {
        print "parse_error: $_[1]\n";
        $_[0]->send('late')->close;
        nested { $echo->(70_000) };
    });
    $connection->on(finish => sub { print 'finish: ', $_[1] // 'undef', "\n"; $finished = 1 });
    run_until { $finished } 'finish';
    print 'clean: ', $connection->was_clean ? 1 : 0, "\n";
    # There is memory again for what is smaller.
    $echo->(8 << 20);
    undef $connection;
    $echo->(3);
    ($other, $peer) = connection_and_peer();
    $other->on(each_message => sub { $_[0]->send($_[1]) });
    $echo->(60_000);
END

# What the connection has said before it failed, with what it failed, and how much was sent to it.
sub exhaust {
    my ($peer) = @_;
    my ($bytes, $sent, @frames) = ('', 0);
    syswrite $peer, frame(payload => 'before');
    my $out    = frame(opcode => 2, length => 1 << 30);
    my $piece  = 'm' x (1 << 18);
    my $failed = sub { grep { $_->{opcode} == 8 } @frames };
    my $reader = AE::io $peer, 0, sub { sysread $peer, $bytes, 65_536, length $bytes; push @frames, parse_frames($bytes) };
    my $writer = AE::io $peer, 1, sub {
        my $n = syswrite $peer, $out;
        $sent += $n // 0;
        substr $out, 0, $n // 0, '';
        $out .= $piece if length $out < length $piece;
    };
    run_until { $failed->() || $sent > 4 * $MEMORY } 'the failure';
    undef $writer;
    return ([map { [@$_{qw(opcode payload)}] } @frames], $sent);
}

for my $class (qw(AnyEvent::Handle Derived::Handle)) {
    for my $max (0, 2**31) {
        subtest "a message of 1 GiB with less memory than that, max_payload_size => $max, $class" => sub {
            skip_all $REASON if $REASON;
            my ($peer, $wait) = start_limited($LIMIT, $PROGRAM, AEWS_TEST_CLASS => $class, AEWS_TEST_MAX => $max,
                RUST_BACKTRACE => 1);
            my ($frames, $sent) = exhaust($peer);
            is $frames, [[1, 'got it'], [8, pack 'n', 1011]], 'a message before is answered, then there is Close 1011';
            cmp_ok $sent, '>', 16 * $MIB, 'for want of memory, since much was taken';
            # Some is on its way by then, and more is sent before the Close is seen.
            cmp_ok $sent, '<', 2 * $MEMORY, 'but not for ever';
            note sprintf '%s: %.1f MiB of the message were taken, of %d MiB of address space', $class, $sent / $MIB,
                $MEMORY / $MIB;
            close $peer;
            my ($status, $printed) = $wait->();
            is $status, 0, 'the program has ended by itself';
            is [split /\n/, $printed], [
                'another: 2, 70000', 'message: before',
                "parse_error: $TEXT", 'another: 2, 70000',
                match qr/^finish: (?:undef|Connection reset by peer)$/, 'clean: 0',
                'another: 2, ' . (8 << 20), 'another: 2, 3', 'another: 2, 60000',
            ], 'told once, and other connections go on';
        };
    }
}

done_testing;
