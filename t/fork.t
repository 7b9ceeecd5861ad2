# A forked child leaves its parent's connections alone (compat D3), unless it uses them on purpose, and
# never repeats its parent's mask keys (compat D7).

use strict;
use warnings;
use lib 't/lib';

use AnyEvent;
use Compress::Raw::Zlib ();
use Config;
use Peer qw(frame parse_frames read_frames read_until_eof run_until start_program);
use Test2::V0;

if (!$Config{d_fork}) {
    plan skip_all => 'this perl has no fork';
}

# What a program prints. It has both ends of a connection, and a child that does something.
sub output_of {
    my ($code) = @_;
    my ($peer, $wait) = start_program(<<'    END' . $code);
        use POSIX ();
        $| = 1;
        my $lobby = program_socket();
        # Frames that came to the peer, as a program can print them.
        sub show {
            print join ' ', map {
                my $payload = $_->{payload};
                  $_->{opcode} == 8     ? 'Close ' . (length $payload ? unpack 'n', $payload : '')
                : length $payload > 100 ? 'big ' . ($payload =~ /\A(?:0123456789abcdef)+\z/ ? length $payload : 'broken')
                :                         "<$payload>"
            } @_;
            print "\n";
        }
    END
    my ($status, $printed) = $wait->();
    return $status ? "$printed(status $status)" : $printed;
}

my %ENDING = (
    'exit'                         => 'exit 0;',
    'exit with the connection in a lexical variable' => 'my $mine = $c; exit 0;',
    'POSIX::_exit'                 => 'POSIX::_exit(0);',
    'dropping the connection'      => 'undef $c; POSIX::_exit(0);',
    'dropping it, then exit'       => 'undef $c; exit 0;',
    'dropping it, then the loop'   => 'undef $c; settle(); POSIX::_exit(0);',
    'dropping it before its handle' => 'my $handle = $c->handle; undef $c; settle(); undef $handle; settle(); exit 0;',
    'dropping the handle first'    => 'delete $c->{handle}; undef $c; settle(); exit 0;',
    'die'                          => 'open STDERR, ">", "/dev/null"; $! = 0; eval { die "x\n" }; $? = 0; exit 0;',
    'the end of a nested callback' =>
        'my $timer; my $done; $timer = AE::timer 0, 0, sub { undef $c; $done = 1 }; run_until { $done }; exit 0;',
    'exec'                         => 'exec($^X, "-e", "exit 0") or die "exec: $!";',
);

# A program that goes through all endings, each with a connection of its own; returns what it prints for
# each of them.
sub each_ending {
    my ($scene) = @_;
    my $endings = join ', ', map { "q{$_} => q{$ENDING{$_}}" } sort keys %ENDING;
    my $printed = output_of(<<"    END");
        my \%ending = ($endings);
        # The rest of the child's life.
        sub end_of_child {
            my (\$name) = \@_;
            our (\$c, \$peer);
            no warnings 'once';
            \$AnyEvent::CondVar::Base::WAITING = 0;
            eval \$ending{\$name};
            POSIX::_exit(99);
        }
        for my \$name (sort keys \%ending) {
            print "# \$name\\n";
            our (\$c, \$peer);
            $scene
            undef \$c;
        }
    END
    my (undef, %printed) = split /^# (.*)\n/m, $printed;
    is [sort keys %printed], [sort keys %ENDING], 'all endings';
    return \%printed;
}

sub is_for_each_ending {
    my ($printed, $expected, $what) = @_;
    is $printed->{$_}, $expected, "$_$what" for sort keys %$printed;
}

# One that ends while its parent's connection goes on.
sub scene {
    my ($options, $unsent, $count) = @_;
    return <<"    END";
        (\$c, \$peer) = connection_and_peer($options);
        settle();
        my \$record = record(\$c);
        \$c->send('before');
        $unsent
        my \$pid = fork // die "fork: \$!";
        end_of_child(\$name) unless \$pid;
        waitpid \$pid, 0;
        print "child: \$?\\n";
        \$c->send('after');
        show(receive_frames(\$peer, $count));
        syswrite \$peer, frame(payload => 'to the parent');
        run_until { \@{ \$record->{messages} } };
        print "\@{ \$record->{messages} }\\n";
        \$c->close;
        my \$bytes = read_until_eof(\$peer);
        show(parse_frames(\$bytes));
        print length \$bytes, "\\n";
    END
}

subtest 'a child that ends leaves the connection of its parent alone (D3)' => sub {
    for my $masked (0, 1) {
        is_for_each_ending(each_ending(scene("masked => $masked", '', 2)),
            "child: 0\n<before> <after>\nto the parent\nClose 1000\n0\n", $masked ? ', masked' : '');
    }
};

subtest 'nor does it send what its parent has not sent yet (C8, D3)' => sub {
    is_for_each_ending(each_ending(scene('', q($c->send('0123456789abcdef' x (256 << 10));), 3)),
        "child: 0\n<before> big 4194304 <after>\nto the parent\nClose 1000\n0\n", '');
};

subtest 'nor while it lives on and runs the loop (C8, D3)' => sub {
    for my $make (qw(connection_and_peer connection_through_handle)) {
        for my $let_go ('undef $c;', 'my $handle = $c->handle; undef $c; settle(); undef $handle;') {
            is output_of(<<"            END"), "big 4194304 Close 1000\n0\nchild: 0\n", "$make, $let_go";
                our (\$c, \$peer) = $make();
                settle();
                \$c->send('0123456789abcdef' x (256 << 10));
                pipe my \$reader, my \$writer;
                pipe my \$ready, my \$tell;
                my \$pid = fork // die "fork: \$!";
                if (!\$pid) {
                    close \$writer;
                    $let_go
                    syswrite \$tell, 'x';
                    my \$ended;
                    my \$end = AE::io \$reader, 0, sub { \$ended = 1 };
                    run_until { \$ended };
                    POSIX::_exit(0);
                }
                # It has its chance to write as soon as there is room.
                sysread \$ready, my \$byte, 1;
                close \$reader;
                \$c->close;
                my \$bytes = read_until_eof(\$peer);
                # More than there should be is no sequence of frames.
                show(parse_frames(\$bytes)) if length \$bytes < 4194400;
                print length \$bytes, "\\n";
                close \$writer;
                waitpid \$pid, 0;
                print "child: \$?\\n";
            END
        }
    }
};

subtest 'a child that is forked in a callback (D3)' => sub {
    my $printed = each_ending(<<'    END');
        ($c, $peer) = connection_and_peer();
        my $count = 0;
        $c->on(each_message => sub {
            my ($connection) = @_;
            # More messages are at hand, so that this may be waiting to be sent.
            $connection->send('reply ' . ++$count);
            $connection->close if $count == 3;
            return if $count != 2;
            my $pid = fork // die "fork: $!";
            if (!$pid) {
                $connection = undef;
                end_of_child($name);
            }
            waitpid $pid, 0;
            print "child: $?\n";
        });
        syswrite $peer, frame() x 3;
        my $bytes = read_until_eof($peer);
        show(parse_frames($bytes));
    END
    is_for_each_ending($printed, "child: 0\n<reply 1> <reply 2> <reply 3> Close 1000\n", '');
};

subtest 'a child that ends while its parent closes (D3, D6)' => sub {
    is output_of(<<'    END'), "child: 0\n1\nClose 4000\nclean\n", 'the close handshake is not disturbed';
        our ($c, $peer) = connection_and_peer();
        settle();
        $c->close(4000, 'bye');
        my $pid = fork // die "fork: $!";
        if (!$pid) {
            undef $c;
            settle();
            exit 0;
        }
        waitpid $pid, 0;
        print "child: $?\n";
        my @frames = read_frames($peer, 1);
        print scalar(@frames), "\n";
        show(@frames);
        syswrite $peer, close_frame(4000);
        run_until { $c->was_clean };
        print "clean\n";
    END
};

subtest 'the connections a child makes are its own (D3)' => sub {
    is output_of(<<'    END'), "<own> Close 1000\n<own> Close 1001\nchild: 0\n", 'they close when dropped and at its end';
        our ($c, $peer) = connection_and_peer();
        settle();
        our ($last, $last_peer);
        pipe my $reader, my $writer;
        my $pid = fork // die "fork: $!";
        if (!$pid) {
            my ($own, $own_peer) = connection_and_peer();
            $own->send('own');
            undef $own;
            my $bytes = read_until_eof($own_peer);
            show(parse_frames($bytes));
            ($last, $last_peer) = connection_and_peer();
            $last->send('own');
            settle();
            my $grandchild = fork // die "fork: $!";
            if (!$grandchild) {
                # Has the peer's end only; what the child sends at its end comes here.
                close $last->handle->fh;
                my $bytes = read_until_eof($last_peer);
                show(parse_frames($bytes));
                POSIX::_exit(0);
            }
            exit 0;
        }
        close $writer;
        # EOF comes when child and grandchild are done.
        readline $reader;
        waitpid $pid, 0;
        print "child: $?\n";
    END
};

subtest 'a child that takes over when its parent has let go (D3)' => sub {
    for my $loop ('Perl', 'EV') {
        if ($loop eq 'EV' && !eval { require EV; 1 }) {
            diag 'EV is not installed: taking over with it is not tested';
            next;
        }
        for my $masked (0, 1) {
            my $name = $loop . ($masked ? ', masked' : '');
            my ($peer, $wait) = start_program(<<"            END", PERL_ANYEVENT_MODEL => $loop);
                use POSIX ();
                our \$c = AnyEvent::WebSocket::Connection->new(handle => handle_on(program_socket()), masked => $masked);
                settle();
                \$c->send('from the parent');
                my \$pid = fork // die "fork: \$!";
                POSIX::_exit(0) if \$pid;
                my \$record = record(\$c);
                \$c->send('from the child');
                \$c->on(each_message => sub {
                    my (\$connection, \$message) = \@_;
                    \$connection->send('reply to ' . \$message->body);
                    \$connection->close(4000, 'done') if \$message->body eq 'two';
                });
                run_until { \@{ \$record->{finish} } };
                POSIX::_exit(0);
            END
            is [map { $_->{payload} } read_frames($peer, 2)], ['from the parent', 'from the child'], "$name: it sends";
            syswrite $peer, frame(payload => 'one');
            is [map { $_->{payload} } read_frames($peer, 1)], ['reply to one'], "$name: it receives";
            syswrite $peer, frame(payload => 'two');
            my $bytes = read_until_eof($peer);
            is [map { $_->{payload} } parse_frames($bytes)], ['reply to two', pack 'n a*', 4000, 'done'],
                "$name: it closes";
            close $peer;
            $wait->();
        }
    }
};

subtest 'what a child sends does not upset what its parent compresses' => sub {
    for my $parameter ('', '; server_no_context_takeover') {
        my ($peer, $wait) = start_program(<<"        END");
            use POSIX ();
            my \$c = AnyEvent::WebSocket::Connection->new(
                handle => handle_on(program_socket()), role => 'server',
                extensions => 'permessage-deflate$parameter', permessage_deflate => {threshold => 0},
            );
            sub child(&) {
                my (\$code) = \@_;
                my \$pid = fork // die "fork: \$!";
                \$pid or do { \$code->(); POSIX::_exit(0) };
                waitpid \$pid, 0;
            }
            child { \$c->send('from a child') };
            \$c->send('from the parent');
            child { \$c->send('from another child, twice'); \$c->send('from another child, twice') };
            \$c->send('from the parent once more');
            POSIX::_exit(0);
        END
        my ($inflate) = Compress::Raw::Zlib::Inflate->new(-WindowBits => -15, -LimitOutput => 0);
        my (@compressed, @payloads);
        for my $frame (read_frames($peer, 5)) {
            my $payload = $frame->{payload};
            push @compressed, $frame->{rsv} ? 1 : 0;
            if ($frame->{rsv}) {
                my $rest = "$payload\0\0\xff\xff";
                $inflate->inflate($rest, $payload);
            }
            push @payloads, $payload;
        }
        is \@payloads, [
            'from a child', 'from the parent', ('from another child, twice') x 2, 'from the parent once more',
        ], "the peer understands them$parameter";
        is \@compressed, $parameter ? [1, 1, 1, 1, 1] : [0, 1, 0, 0, 1],
            'a child compresses only what refers to nothing before it';
        is [($wait->())[1]], [''], 'no complaint';
    }
};

subtest 'mask keys of parent and children differ (C7, D7)' => sub {
    my $count = 100;
    my $printed = output_of(<<"    END");
        my (\$c, \$peer) = connection_and_peer(masked => 1);
        sub keys_of {
            my (\$connection, \$peer) = \@_;
            \$connection->send('x') for 1 .. $count;
            return map { unpack 'H*', \$_->{key} } receive_frames(\$peer, $count);
        }
        # Keys that the generator has made in advance must not be used twice either.
        my \@before = keys_of(\$c, \$peer);
        print "before \@before\\n";
        for my \$child (1, 2) {
            my \$pid = fork // die "fork: \$!";
            if (!\$pid) {
                my (\$own, \$own_peer) = connection_and_peer(masked => 1);
                my \@own = keys_of(\$own, \$own_peer);
                print "child\$child \@own\\n";
                # And of the connection it has from its parent.
                my \@inherited = keys_of(\$c, \$peer);
                print "inherited\$child \@inherited\\n";
                POSIX::_exit(0);
            }
            waitpid \$pid, 0;
        }
        my \@after = keys_of(\$c, \$peer);
        print "after \@after\\n";
    END
    my (%keys, %seen);
    for (split /\n/, $printed) {
        my ($who, @keys) = split;
        $keys{$who} = \@keys;
    }
    is [sort keys %keys], [qw(after before child1 child2 inherited1 inherited2)], 'all have sent';
    is { map { $_ => scalar @{ $keys{$_} } } keys %keys }, { map { $_ => $count } keys %keys }, 'enough';
    $seen{$_}++ for map { @$_ } values %keys;
    # By chance two of 600 are the same in one of 20,000 runs, and four in practically none.
    cmp_ok scalar(grep { $_ > 1 } values %seen), '<', 2, 'no key comes twice' or diag $printed;
};

done_testing;
