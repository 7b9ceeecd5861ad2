package Interop::DevTools;

# A headless Chromium with one page, driven by the DevTools protocol over a pair of pipes.

use v5.36;

use AnyEvent;
use AnyEvent::Handle;
use JSON::PP ();
use Fcntl qw(F_DUPFD);
use POSIX ();

# Where Chromium reads commands and writes answers with --remote-debugging-pipe.
use constant {COMMANDS => 3, ANSWERS => 4};

my @OPTIONS = (
    qw(--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking),
    qw(--disable-component-update --disable-sync --disable-breakpad --disable-dev-shm-usage --remote-debugging-pipe),
    '--window-size=900,1000',
);

my $json = JSON::PP->new->utf8;

# Arguments: program; profile: an empty directory; options: more of them; on_event: called with the name and
# the parameters of what happens in the page; on_end: with a text, once the browser is gone.
sub start ($class, %arg) {
    my $self = bless {%arg, last_id => 0, waiting => {}}, $class;
    AnyEvent::detect();
    pipe my $child_input, my $commands or die "pipe: $!\n";
    pipe my $answers, my $child_output or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        # High first, since one of them may stand where another is to go; a duplicate survives exec.
        my @high = map { fcntl($_, F_DUPFD, 10) // POSIX::_exit(126) } $child_input, $child_output;
        POSIX::dup2($high[0], COMMANDS);
        POSIX::dup2($high[1], ANSWERS);
        POSIX::close($_) for @high;
        # What it writes about itself is for the log, not for who reads our lines.
        POSIX::dup2(2, 1);
        my @command = ($arg{program}, @OPTIONS, "--user-data-dir=$arg{profile}", @{ $arg{options} }, 'about:blank');
        exec { $arg{program} } @command or print STDERR "$arg{program}: $!\n";
        POSIX::_exit(127);
    }
    $self->{child} = AE::child($pid, sub { $self->_gone });
    # That they end is that the browser does.
    $self->{commands} = AnyEvent::Handle->new(fh => $commands, on_error => sub ($handle, @) { $handle->destroy });
    $self->{answers} = AnyEvent::Handle->new(
        fh       => $answers,
        rbuf_max => undef,
        on_read  => sub ($handle) { $self->_read($handle) },
        on_eof   => sub ($handle) { $handle->destroy },
        on_error => sub ($handle, @) { $handle->destroy },
    );
    return $self;
}

sub _gone ($self) {
    (delete $self->{on_end})->('the browser is gone') if $self->{on_end};
    return;
}

sub _read ($self, $handle) {
    while (1) {
        my $end = index $handle->{rbuf}, "\0", $self->{searched} // 0;
        if ($end < 0) {
            $self->{searched} = length $handle->{rbuf};
            return;
        }
        $self->{searched} = 0;
        my $text = substr $handle->{rbuf}, 0, $end + 1, '';
        chop $text;
        my $answer = $json->decode($text);
        if (defined $answer->{id}) {
            my $callback = delete $self->{waiting}{ $answer->{id} };
            $callback->($answer->{result}, $answer->{error} && $answer->{error}{message});
        }
        else {
            $self->{on_event}->($answer->{method}, $answer->{params});
        }
    }
}

# The callback gets the result, or undef and what was wrong.
sub call ($self, $method, $parameters = {}, $callback = sub { }) {
    my $id = ++$self->{last_id};
    $self->{waiting}{$id} = $callback;
    my %command = (id => $id, method => $method, params => $parameters);
    $command{sessionId} = $self->{session} if defined $self->{session};
    $self->{commands}->push_write($json->encode(\%command) . "\0");
    return;
}

# One after the other: calls, each with its method and parameters; the callback gets the result of the last one.
sub calls ($self, $calls, $callback) {
    my ($call, @rest) = @$calls;
    $self->call(@$call, sub ($result, $error) {
        return $callback->(undef, "$call->[0]: $error") if defined $error;
        @rest ? $self->calls(\@rest, $callback) : $callback->($result);
    });
    return;
}

# Opens the page that everything else is about, and makes `tell` a function in it whose argument becomes an event.
sub open_page ($self, $callback) {
    $self->call('Target.createTarget', {url => 'about:blank'}, sub ($result, $error) {
        return $callback->(undef, $error) if defined $error;
        my %target = (targetId => $result->{targetId}, flatten => JSON::PP::true);
        $self->call('Target.attachToTarget', \%target, sub ($result, $error) {
            return $callback->(undef, $error) if defined $error;
            $self->{session} = $result->{sessionId};
            my @enable = map { ["$_.enable", {}] } qw(Runtime Page Log);
            $self->calls([@enable, ['Runtime.addBinding', {name => 'tell'}]], $callback);
        });
    });
    return;
}

# The value of an expression in the page.
sub evaluate ($self, $expression, $callback) {
    my $parameters = {expression => $expression, returnByValue => JSON::PP::true, awaitPromise => JSON::PP::true};
    $self->call('Runtime.evaluate', $parameters, sub ($result, $error) {
        return $callback->(undef, $error) if defined $error;
        my $exception = $result->{exceptionDetails};
        return $callback->($result->{result}{value}) if !$exception;
        $callback->(undef, $exception->{exception}{description} // $exception->{text});
    });
    return;
}

# Until the browser is gone by itself.
sub quit ($self) {
    delete $self->{session};
    $self->call('Browser.close');
    return;
}

1;
