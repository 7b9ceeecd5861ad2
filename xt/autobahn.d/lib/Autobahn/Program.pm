package Autobahn::Program;

# What the test programs have in common: they say on standard output what they run on, and end when
# whoever started them is gone.

use v5.36;

use AnyEvent;
use DynaLoader;
use Exporter qw(import);

our @EXPORT_OK = qw(announce fail is_original no_limits until_told);

# Every other line of a program is something that should not have been said.
sub announce ($key, @values) {
    local $| = 1;
    print join("\t", 'autobahn', $key, @values), "\n";
    return;
}

sub fail ($message) {
    print STDERR "$message\n";
    exit 1;
}

# For these and the following the connection's class has to be loaded.
sub objects ()     { return grep { m{/Connection\.so\z} } @DynaLoader::dl_shared_objects }
sub is_original () { return !objects() }

sub announce_modules () {
    for my $name (qw(Client Server Connection Message)) {
        my $path = $INC{"AnyEvent/WebSocket/$name.pm"} // next;
        announce(module => $name, "AnyEvent::WebSocket::$name"->VERSION // '', $path);
    }
    announce(object => $_) for objects();
    announce(loop   => AnyEvent::detect());
    return;
}

# Group 9 sends messages of 16 MiB, and some of 65536 fragments. With the original 0 fragments means
# none at all, not any number (compat D8).
sub no_limits () {
    return (max_payload_size => 0, max_fragments => is_original() ? 1e9 : 0);
}

# Standard input is the other end's life: it is closed where the program shall end, and the kernel
# closes it where the other end was killed.
sub until_told () {
    announce_modules();
    my $told = AE::cv;
    my $watcher = AE::io(\*STDIN, 0, sub { $told->send if !sysread STDIN, my $ignored, 4096 });
    $told->recv;
    return;
}

1;
