# A peer that announces much and sends little: memory follows what has come, not what was announced (C16).
#
# Measured in a process of its own, many connections at once, so that what one of them costs is seen.

use strict;
use warnings;
use lib 't/lib';

use Peer qw(start_program run_until);
use Test2::V0;

my $COUNT = 40;
my $KIB   = 1024;

skip_all 'no /proc/self/status to look at' unless -r '/proc/self/status';
skip_all 'under valgrind it is the memory of valgrind that would be measured'
    if ($ENV{LD_PRELOAD} // '') =~ /vgpreload/;

# Prints by how much the process has grown for each connection, in KiB: what is resident, and its address space.
my $PROGRAM = <<'END';
    my ($count, $name) = @ENV{qw(AEWS_TEST_COUNT AEWS_TEST_CASE)};
    my %option = (max_payload_size => 0);
    my $class  = 'AnyEvent::Handle';
    my @bytes  = frame(opcode => 2, length => 1 << 30, payload => 'x');
    my %case   = (
        'no limit'             => sub { },
        'a limit of 2 GiB'     => sub { %option = (max_payload_size => 2**31) },
        'masked'               => sub { @bytes = frame(opcode => 2, length => 1 << 30, payload => 'x', mask => 'mask') },
        'text'                 => sub { @bytes = frame(opcode => 1, length => 1 << 30, payload => 'x') },
        'through the handle'   => sub { @Derived::Handle::ISA = $class; $class = 'Derived::Handle' },
        'in fragments'         => sub { unshift @bytes, frame(opcode => 2, payload => 'x', fin => 0);
                                        $bytes[1] = frame(opcode => 0, length => 1 << 30, payload => 'x') },
        'no payload yet'       => sub { @bytes = frame(opcode => 2, length => 1 << 30) },
        'a tebibyte'           => sub { @bytes = frame(opcode => 2, length => 1 << 40, payload => 'x') },
        'compressed'           => sub { %option = (%option, role => 'server', extensions => 'permessage-deflate');
                                        @bytes = frame(opcode => 2, rsv => 4, length => 1 << 30, payload => "\x62", mask => 'mask') },
        'what is let through'  => sub { @bytes = frame(opcode => 2, payload => 'x') },
    );
    $case{$name}->();
    my $size = sub {
        open my $status, '<', '/proc/self/status' or die "/proc/self/status: $!";
        my %kib = join('', readline $status) =~ /^(Vm\w+):\s+(\d+) kB/mg;
        return @kib{qw(VmRSS VmSize)};
    };
    my $open = sub {
        my ($ours, $theirs) = socket_pair();
        my $connection = AnyEvent::WebSocket::Connection->new(handle => $class->new(fh => $ours), %option);
        AnyEvent::fh_unblock($theirs);
        return [$connection, $theirs, record($connection)];
    };
    my $read = sub {
        my (@all) = @_;
        for my $bytes (@bytes) {
            syswrite $_->[1], $bytes for @all;
            settle();
        }
        require IO::Select;
        run_until { !IO::Select->new(map { $_->[0]->handle->fh } @all)->can_read(0) } 'reading';
        settle();
    };
    # The first ones pay for what all have in common.
    my @first = map { $open->() } 1 .. 3;
    $read->(@first);
    my @all = map { $open->() } 1 .. $count;
    settle();
    my @before = $size->();
    $read->(@all);
    my @after = $size->();
    my @told = map { @{ $_->[2]{parse_errors} }, @{ $_->[2]{finish} } } @all;
    my $messages = map { @{ $_->[2]{messages} } } @all;
    printf "%.1f %.1f %d %d\n", (map { ($after[$_] - $before[$_]) / $count } 0, 1), scalar @told, $messages;
    program_socket();
END

my @cases = (
    'no limit', 'a limit of 2 GiB', 'masked', 'text', 'through the handle', 'in fragments', 'no payload yet',
    'a tebibyte', 'compressed', 'what is let through',
);

for my $case (@cases) {
    subtest "1 GiB announced and one byte sent: $case" => sub {
        my (undef, $wait) = start_program($PROGRAM, AEWS_TEST_COUNT => $COUNT, AEWS_TEST_CASE => $case);
        my ($status, $printed) = $wait->();
        is $status, 0, 'the program has ended by itself' or diag $printed;
        my ($resident, $space, $told, $messages) = split ' ', $printed;
        cmp_ok $resident, '<', 64,   'KiB of memory';
        cmp_ok $space,    '<', $KIB, 'KiB of address space: under 1 MiB';
        is $told, 0, 'nobody is told of anything';
        is $messages, $case eq 'what is let through' ? $COUNT : 0, 'nor of a message, where none is whole';
        note sprintf '%s: %s KiB resident, %s KiB of address space for each of %d connections', $case, $resident,
            $space, $COUNT;
    };
}

done_testing;
