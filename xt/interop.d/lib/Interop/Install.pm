package Interop::Install;

# Gets what the peers need: from Debian, from npm, from PyPI. All but Debian's packages goes below target/.

use v5.36;

use Digest::SHA qw(sha256_base64 sha256_hex);
use Exporter qw(import);
use File::Copy qw(copy);
use File::Path qw(make_path remove_tree);
use File::Spec;
use Module::Load::Conditional qw(check_install);

our @EXPORT_OK = qw(find_program make_certificate need_module need_program node_packages python_packages);

use constant LAST_LINES => 8;

sub find_program (@names) {
    for my $name (@names) {
        my ($found) = grep { -f -x } map { "$_/$name" } grep { length } File::Spec->path;
        return $found if $found;
    }
    return;
}

# Runs a command, whose output is only of interest when it fails.
sub _run ($what, $seconds, @command) {
    my $limit = find_program('timeout') or die "there is no program timeout (Debian package coreutils)\n";
    open my $output, '-|', 'sh', '-c', 'exec "$@" 2>&1 </dev/null', 'sh', $limit, $seconds, @command
        or die "$command[0]: $!\n";
    my @lines = <$output>;
    return if close $output;
    my $why = $? >> 8 == 124 ? "no end after $seconds s" : 'exit status ' . ($? >> 8);
    splice @lines, 0, @lines - LAST_LINES if @lines > LAST_LINES;
    die join '', "$what: $why\n", map { "    $_" } @lines;
}

sub _debian ($is_there, $what, @packages) {
    return if $is_there->();
    my $packages = "Debian package @packages";
    die "there is no $what ($packages)\n" if !find_program('apt-get');
    die "there is no $what, and only root can install it ($packages)\n" if $> != 0;
    say "installing $packages";
    local $ENV{DEBIAN_FRONTEND} = 'noninteractive';
    my @install = (qw(apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 install), @packages);
    if (!eval { _run("apt-get could not install @packages", 1200, @install); 1 }) {
        # The package lists may be old, or absent. That an update fails over an unrelated repository is no obstacle.
        eval { _run('apt-get could not update', 600, qw(apt-get -qq update)) };
        _run("apt-get could not install @packages", 1200, @install);
    }
    $is_there->() or die "there is no $what, although $packages was installed\n";
    return;
}

sub need_program ($packages, @names) {
    _debian(sub { find_program(@names) }, "program $names[0]", split / /, $packages);
    return find_program(@names);
}

sub need_module ($package, $module) {
    _debian(sub { check_install(module => $module) }, "Perl module $module", $package);
    return;
}

# Fills a directory anew if it is not the result of these inputs. It is there under its name only when whole.
sub _directory ($directory, $inputs, $fill) {
    my $digest = sha256_hex(join "\0", @$inputs);
    my $stamp  = "$directory/.inputs";
    return $directory if -e $stamp && _slurp($stamp) eq $digest;
    my $new = "$directory.new-$$";
    remove_tree($new);
    make_path($new);
    my $ok = eval { $fill->($new); 1 };
    my $error = $@;
    if ($ok) {
        open my $out, '>', "$new/.inputs" or die "$new/.inputs: $!\n";
        print {$out} $digest;
        close $out or die "$new/.inputs: $!\n";
        remove_tree($directory);
        rename $new, $directory or die "$directory: $!\n";
        return $directory;
    }
    remove_tree($new);
    die $error;
}

sub _slurp ($file) {
    open my $in, '<:raw', $file or die "$file: $!\n";
    local $/;
    return readline($in) // '';
}

# The packages of package-lock.json in a directory.
sub node_packages ($from, $into) {
    my $npm   = need_program('npm', 'npm');
    my @files = map { "$from/$_" } qw(package.json package-lock.json .npmrc);
    return _directory($into, [map { _slurp($_) } @files], sub ($new) {
        say "installing packages of npm into $into";
        copy($_, $new) or die "$_: $!\n" for @files;
        my @install = ($npm, qw(ci --loglevel=error --no-audit --no-fund --ignore-scripts --prefix), $new);
        _run('npm could not install', 600, @install);
    });
}

sub python_packages ($python, $requirements, $into) {
    my ($version) = `$python --version` =~ /(\S+)\s*\z/ or die "$python does not tell its version\n";
    _debian(sub { eval { _run('', 60, $python, qw(-m pip --version)); 1 } }, "pip for $python", 'python3-pip');
    return _directory($into, [$version, _slurp($requirements)], sub ($new) {
        say "installing packages of PyPI into $into";
        _run(
            'pip could not install', 600, $python,
            qw(-m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes),
            '--requirement', $requirements, '--target', $new,
        );
    });
}

# A certificate for 127.0.0.1 that is its own authority. Returns the files' names, and the digest of its public key.
sub make_certificate ($directory) {
    my $openssl = need_program('openssl', 'openssl');
    my %tls = (cert => "$directory/cert.pem", key => "$directory/key.pem", ca => "$directory/cert.pem");
    _run(
        'openssl could not make a certificate', 60, $openssl,
        qw(req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext), 'subjectAltName=IP:127.0.0.1',
        '-keyout', $tls{key}, '-out', $tls{cert},
    );
    my $public = "$directory/key.der";
    _run('openssl could not read a key', 60, $openssl, qw(pkey -pubout -outform DER -in), $tls{key}, '-out', $public);
    my $digest = sha256_base64(_slurp($public));
    return (\%tls, $digest . '=' x (-length($digest) % 4));
}

1;
