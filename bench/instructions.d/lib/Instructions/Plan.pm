package Instructions::Plan;

# The scripts: what is measured, and what the peer of world.c does meanwhile.

use v5.36;

use Exporter qw(import);

our @EXPORT_OK = qw(scripts);

# As in world.c.
use constant {EXPECT_NOTHING => 0, EXPECT_BYTES => 1, EXPECT_MASKED => 2, EXPECT_HEAD => 3, EXPECT_LAST_BYTES => 4};
use constant {TEXT => 1, BINARY => 2, CLOSE => 8, KEY => "\x37\xfa\x21\x3d"};

# A unit of 16 bytes, in which UTF-8 has something to look at.
my $UNIT = "Zw\xc3\xb6lf Boxk\xc3\xa4mp.";

# Turns to warm up and turns to measure. What happens every so many messages has to fit into the latter a
# whole number of times: fetching 128 masking keys, a tick of the coarse clock for 4 timers.
my %TURNS = (
    small  => [256, 512],
    bursts => [32,  64],
    large  => [32,  128],
    opened => [8,   32],
);

# core: whether it is done with the core alone, too.
my @SCRIPTS = (
    {name => 'receive-16',      action => 'receive', length => 16,    turns => 'small',  core => 1,
        about => 'a message of 16 B, to a callback that takes its body'},
    {name => 'echo-16',         action => 'echo',    length => 16,    turns => 'small',  core => 1,
        about => 'the same, sent back'},
    {name => 'echo-1k',         action => 'echo',    length => 1024,  turns => 'small',  core => 1,
        about => 'the same of 1 KiB'},
    {name => 'burst-16',        action => 'echo',    length => 16,    turns => 'bursts', core => 1, burst => 16,
        about => '16 messages of 16 B in one read, each sent back'},
    {name => 'send-16',         action => 'send',    length => 16,    turns => 'bursts', core => 1, burst => 16,
        about => 'a string of 16 B, 16 times at each tick of a timer'},
    {name => 'receive-64k',     action => 'receive', length => 65536, turns => 'large',  core => 1, opcode => BINARY,
        about => 'a binary message of 64 KiB'},
    {name => 'receive-64k-text', action => 'receive', length => 65536, turns => 'large', core => 1,
        about => 'the same as text, which has to be UTF-8'},
    {name => 'echo-64k',        action => 'echo',    length => 65536, turns => 'large',  core => 1, opcode => BINARY,
        about => 'a binary message of 64 KiB, sent back'},
    {name => 'send-64k-masked', action => 'send',    length => 65536, turns => 'large',  core => 1, role => 'client',
        about => "a string of 64 KiB in the client's role"},
    {name => 'handshake',       action => 'serve',   length => 0,     turns => 'opened',
        about => 'a connection that Server accepts and the peer closes'},
    {name => 'floor-16',        action => 'floor',   length => 16,    turns => 'small',
        about => 'no WebSocket: sysread and syswrite of 16 B in a watcher'},
    {name => 'floor-burst-16',  action => 'floor',   length => 16,    turns => 'bursts', burst => 16,
        about => 'the same of 16 messages in one read'},
);

my $REQUEST = join "\r\n", 'GET /chat HTTP/1.1', 'Host: localhost', 'Upgrade: websocket', 'Connection: Upgrade',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Version: 13', '', '';

# All of them: with Perl, then the core alone.
sub scripts () {
    my @all = map { Instructions::Plan->_new(%$_) } @SCRIPTS;
    push @all, map { Instructions::Plan->_new(%$_, name => "core-$_->{name}", is_core => 1) } grep { $_->{core} } @SCRIPTS;
    return @all;
}

sub _new ($class, %arg) {
    my ($warming, $measured) = @{ $TURNS{ $arg{turns} } };
    return bless {
        burst  => 1,
        role   => 'server',
        opcode => TEXT,
        %arg,
        warming  => $warming,
        measured => $measured,
    }, $class;
}

sub name ($self)     { $self->{name} }
sub about ($self)    { $self->{about} . ($self->{is_core} ? ', core alone' : '') }
sub is_core ($self)  { $self->{is_core} }
sub is_floor ($self) { $self->{action} eq 'floor' }
sub measured ($self) { $self->{measured} }

sub measured_messages ($self) { $self->{measured} * $self->{burst} }

# How many the program has handled at its end.
sub messages ($self) {
    my $after = $self->{action} eq 'serve' ? 1 : 0;
    return ($self->{warming} + $self->{measured} + $after) * $self->{burst};
}

# The arguments of `connection` or `core`.
sub arguments ($self, $directory) {
    return (@$self{qw(action role)}, "$directory/payload", $self->{burst},
        $self->{is_core} ? () : ($self->messages, "$directory/socket"));
}

# ---- Frames and steps

sub _frame ($opcode, $payload, $key = undef) {
    my $mask_bit = defined $key ? 0x80 : 0;
    my $length   = length $payload;
    my $head     = chr(0x80 | $opcode)
        . ($length < 126 ? chr($mask_bit | $length)
         : $length < 65536 ? pack('Cn', $mask_bit | 126, $length)
         :                   pack('CQ>', $mask_bit | 127, $length));
    return $head . $payload if !defined $key;
    return $head . $key . ($payload ^. substr($key x ($length / 4 + 1), 0, $length));
}

sub _payload ($self) { return $UNIT x ($self->{length} / length $UNIT) }

# What the peer sends in a turn and gets back, by steps.
sub _steps ($self) {
    my $payload = $self->_payload;
    my $from_peer = join '', (_frame($self->{opcode}, $payload, KEY)) x $self->{burst};
    my $to_peer   = join '', (_frame($self->{opcode}, $payload)) x $self->{burst};
    my %steps = (
        receive => [[$from_peer, EXPECT_NOTHING, '']],
        echo    => [[$from_peer, EXPECT_BYTES,   $to_peer]],
        floor   => [[$from_peer, EXPECT_BYTES,   $from_peer]],
        send    => $self->{role} eq 'client'
            # The header is a masked frame's; the key is chosen by the program.
            ? [['', EXPECT_MASKED, substr(_frame(TEXT, $payload, KEY), 0, 10) . $payload]]
            : [['', EXPECT_BYTES,  $to_peer]],
        serve => [
            [$REQUEST, EXPECT_HEAD, "HTTP/1.1 101 "],
            [_frame(CLOSE, pack('n', 1000), KEY), EXPECT_LAST_BYTES, _frame(CLOSE, pack('n', 1000))],
        ],
    );
    return @{ $steps{ $self->{action} } };
}

sub _write ($file, $content) {
    open my $out, '>:raw', $file or die "$file: $!\n";
    print {$out} $content;
    close $out or die "$file: $!\n";
    return;
}

# Writes the files `plan` and `payload`; the world writes `result`.
sub write_files ($self, $directory) {
    my $plan = pack 'L2 (L/a)2', $self->{warming}, $self->{measured},
        $self->{action} eq 'serve' ? "$directory/socket" : '', "$directory/result";
    my @steps = $self->_steps;
    $plan .= pack 'L', scalar @steps;
    $plan .= pack 'L L/a L/a', @$_[1, 0, 2] for @steps;
    _write("$directory/plan", $plan);
    _write("$directory/payload", $self->_payload);
    return;
}

1;
