package Harness::Heap;

# How much memory a process has in use, and no more than that. Its resident memory alone also shows which free parts the
# C library has not given back, which differs by a third from one cycle of the same work to the next.

use v5.36;

use Config     qw(%Config);
use DynaLoader ();
use Text::ParseWords qw(shellwords);

my $SOURCE = __FILE__ =~ s/Heap\.pm\z/heap.c/r;

# Compiles what this needs in a directory, and returns its path.
sub build ($directory) {
    my $object = "$directory/heap.$Config{dlext}";
    my @command = (
        map({ shellwords($_) } @Config{qw(cc ccflags cccdlflags)}), "-I$Config{archlibexp}/CORE", '-o', $object, $SOURCE,
        shellwords($Config{lddlflags}),
    );
    open my $output, '-|', 'sh', '-c', 'exec "$@" 2>&1', 'sh', @command or die "$command[0]: $!\n";
    my @lines = readline $output;
    close $output or die "heap.c could not be compiled (it needs glibc 2.33):\n", @lines;
    return $object;
}

# What build has made. in_use, in bytes, and trim are there then.
sub load ($object) {
    my $library = DynaLoader::dl_load_file($object, 0) or die DynaLoader::dl_error(), "\n";
    for my $name (qw(in_use trim)) {
        my $symbol = DynaLoader::dl_find_symbol($library, "harness_heap_$name") or die DynaLoader::dl_error(), "\n";
        DynaLoader::dl_install_xsub("Harness::Heap::$name", $symbol);
    }
    return;
}

1;
