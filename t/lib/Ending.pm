package Ending;

# What the tests of the ends of connections share.

use strict;
use warnings;

use AnyEvent;
use Exporter qw(import);
use Peer qw(frame parse_frames read_until_eof connection_and_peer socket_pair run_for settle);
use POSIX ();
use Scalar::Util qw(weaken);
use Test2::V0;
use Time::HiRes ();

our @EXPORT_OK = qw(
    frames_of rest_of close_body weak is_open wake in_each_callback descriptor_is_free
    $BIG $DATA $CLOSE %WAKE @EVENTS
);

# More than the socket takes.
our $BIG  = 4 << 20;
our $DATA = join '', map { pack 'N', $_ } 1 .. $BIG / 4;

sub frames_of {
    my ($bytes) = @_;
    my @frames = map { [$_->{opcode}, $_->{payload}] } parse_frames($bytes);
    is length $bytes, 0, 'no part of a frame at the end';
    return \@frames;
}

sub rest_of { return frames_of(read_until_eof($_[0])) }

sub close_body { return pack 'n a*', @_ }

our $CLOSE = [8, close_body(1000, '')];

sub weak {
    my ($object) = @_;
    my $weak = $object;
    weaken $weak;
    return \$weak;
}

sub is_open {
    my ($fd) = @_;
    my $copy = POSIX::dup($fd);
    POSIX::close($copy) if defined $copy;
    return defined $copy;
}

# What wakes each kind of callback.
our %WAKE = (
    next_message => frame(payload => 'message'),
    each_message => frame(payload => 'message'),
    parse_error  => frame(rsv => 7),
    finish       => undef,
);
our @EVENTS = qw(next_message each_message parse_error finish);

sub wake {
    my ($peer, $event) = @_;
    return shutdown $peer, 1 unless defined $WAKE{$event};
    syswrite $peer, $WAKE{$event};
}

# Runs a test for each kind of callback, called from the first delivery (compat C13) and from a later one.
sub in_each_callback(&) {
    my ($test) = @_;
    for my $event (@EVENTS) {
        for my $when ('first delivery', 'later') {
            # Made by the test, since whoever calls it would hold the connection too.
            $test->($event, "$event, $when", sub {
                my @made = connection_and_peer();
                settle() if $when eq 'later';
                return @made;
            });
        }
    }
}

# Nothing of ours may be left on a descriptor that is closed, or that is another connection's by now.
sub descriptor_is_free {
    my ($fd, $name) = @_;
    ok !is_open($fd), "$name: the descriptor is closed" or return;
    my ($end, $other, @unused);
    until ($end) {
        my @pair = socket_pair();
        die 'the descriptor does not come back' if @unused > 100;
        ($end, $other) = fileno $pair[0] == $fd ? @pair : fileno $pair[1] == $fd ? reverse @pair : ();
        push @unused, @pair unless $end;
    }
    my $bytes = frame(payload => 'for somebody else');
    syswrite $other, $bytes;
    my $cpu = Time::HiRes::clock();
    run_for(0.03);
    cmp_ok Time::HiRes::clock() - $cpu, '<', 0.01, "$name: no watcher spins on the one that has its number now";
    AnyEvent::fh_unblock($end);
    sysread $end, my $got, 1000;
    is $got, $bytes, "$name: nor reads from it";
    AnyEvent::fh_unblock($other);
    is sysread($other, $got, 1000), undef, "$name: nor writes to it";
}

1;
