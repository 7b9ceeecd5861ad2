package Interop::Conversation;

# What the two programs of a cell have to say to each other, and what has to come of it.

use v5.36;

use Interop::Messages qw(closings messages noise prose MIB);
use Interop::Variants qw(largest_window parse_agreed takes_over);

use constant {TEXT => 1, CLOSE => 8, PING => 9, PONG => 10};
use constant {NORMAL => 1000, GOING_AWAY => 1001, NO_CODE => 1005, TOO_BIG => 1009};

use constant BURST => 1000;

# How many of the messages are so long that whoever compresses compresses them.
use constant LONG_ONES => 8;

# The most that compressed prose may come to.
use constant SMALL => 0.1;

# Sizes of messages that are sent twice, to see how far back the second one refers. What is that near to the size of
# a window may be within it or not: zlib leaves a margin.
use constant {REPEATED => [700, 3000, 20_000], MARGIN => 300};

sub new ($class, $cell) { return bless {cell => $cell, connections => 0}, $class }

sub run ($self) {
    my $cell  = $self->{cell};
    my $group = sub ($name, $code) {
        # That is a failure by itself.
        return if grep { $_->has_ended } $cell->ours, $cell->theirs;
        $cell->checks->group($name, $code);
    };
    my %other = (ours => 'theirs', theirs => 'ours');
    for my $who (qw(ours theirs)) {
        my $side = "$who, the " . $cell->side_of($who);
        $group->("$side, talks", sub { $self->_talk($who, $other{$who}) });
        for my $closing (closings()) {
            my ($code, $reason) = @$closing;
            next if $who eq 'theirs' && $cell->cannot('going_away') && ($code // 0) == GOING_AWAY;
            my $title = !defined $code ? 'nothing' : join ' ', $code, length $reason ? "'$reason'" : ();
            $group->("$side, closes with $title", sub { $self->_close($who, $other{$who}, $code, $reason) });
        }
        next if $who eq 'ours' && $cell->cannot('limit');
        $group->("$side, sends too much", sub { $self->_send_too_much($who, $other{$who}) });
    }
    $group->('theirs vanishes', sub { $self->_vanish }) if !$cell->cannot('vanish');
    $group->('ours is dropped', sub { $self->_drop });
    return;
}

# ---- Connections

# A connection on which one leads, and the other one may echo.
sub _open ($self, $leader, $follower, $echo) {
    my $cell = $self->{cell};
    my $id   = 'c' . ++$self->{connections};
    my ($wire, $told) = $cell->open($id, $echo ? $cell->side_of($follower) : '');
    my $agreed = $wire->is_opaque
        ? $told->{ $cell->side_of('ours') }{extensions}
        : $wire->header(server => 'Sec-WebSocket-Extensions');
    return {
        id            => $id,
        wire          => $wire,
        told          => $told,
        agreed_text   => $agreed,
        agreed        => scalar parse_agreed($agreed),
        leader        => $cell->$leader,
        follower      => $cell->$follower,
        leader_side   => $cell->side_of($leader),
        follower_side => $cell->side_of($follower),
    };
}

sub _is_message ($self, $name, $event, $type, $bytes) {
    my $checks = $self->{cell}->checks;
    return $checks->is("$name has its type", $event->{type}, $type) if $event->{type} ne $type;
    return $checks->is("$name is what was sent", $event->{bytes}, $bytes);
}

# Sends a message there and back; returns how many bytes that was on the wire, either way.
sub _exchange ($self, $connection, $name, $type, $bytes, %with) {
    my ($id, $wire, $leader, $follower) = @$connection{qw(id wire leader follower)};
    my @sides  = @$connection{qw(leader_side follower_side)};
    my @before = map { $wire->bytes($_) } @sides;
    $leader->tell(send => {id => $id, type => $type, %with}, $bytes);
    for my $way ([there => $follower], [back => $leader]) {
        my $event = eval { $way->[1]->await(message => $id) } // die "$name $way->[0]: $@";
        $self->_is_message("$name $way->[0],", $event, $type, $bytes);
    }
    return map { $wire->bytes($sides[$_]) - $before[$_] } 0, 1;
}

# ---- Talking

sub _talk ($self, $leader, $follower) {
    my $cell       = $self->{cell};
    my $checks     = $cell->checks;
    my $connection = $self->_open($leader, $follower, 1);
    my ($id, $wire) = @$connection{qw(id wire)};

    $self->_check_opening($connection);
    my $payload = 0;
    my @before  = map { $wire->bytes($_) } qw(client server);
    for my $message (messages()) {
        my ($name, $type, $bytes) = @$message;
        my @carried = $self->_exchange($connection, "$type, $name,", $type, $bytes);
        $payload += 2 * length $bytes;
        $self->_check_size($connection, "$type, $name,", $type, length $bytes, @carried);
    }
    my $carried = 0;
    $carried += $wire->bytes($_) - shift @before for qw(client server);
    $cell->add_traffic($payload, $carried);

    $self->_repeat($connection) if $connection->{agreed};
    $self->_burst($connection);
    # Ours sends every message as a whole.
    $self->_fragments($connection) if $leader eq 'theirs' && !$cell->cannot('fragments');
    $self->_ping($connection)      if $leader eq 'ours'   || !$cell->cannot('ping');

    $self->_end($connection, NORMAL, '');
    $self->_check_frames($connection) if !$wire->is_opaque;
    return;
}

sub _check_opening ($self, $connection) {
    my $cell    = $self->{cell};
    my $checks  = $cell->checks;
    my $told    = $connection->{told};
    my $agreed  = $connection->{agreed};
    my $expected = $cell->peer->{agreed}{ $cell->role }{ $cell->variant->{name} } // $cell->variant->{agreed};
    for my $who (qw(ours theirs)) {
        $checks->is("$who: subprotocol", $told->{ $cell->side_of($who) }{subprotocol}, $cell->subprotocol);
    }
    $checks->is('ours: extensions', $told->{ $cell->side_of('ours') }{extensions}, $connection->{agreed_text});
    my $name = $agreed ? 'permessage-deflate' : '';
    $checks->is('theirs: extensions', $told->{ $cell->side_of('theirs') }{extensions}, $name);
    if (!$connection->{wire}->is_opaque) {
        my $offer = $connection->{wire}->header(client => 'Sec-WebSocket-Extensions');
        $checks->ok('the client offers compression', $offer =~ /\bpermessage-deflate\b/, "it offers '$offer'")
            if $cell->variant->{client};
        $checks->is('the client offers no extension', $offer, '') if !$cell->variant->{client};
    }
    if (!$expected) {
        $checks->is('no extension is agreed upon', $connection->{agreed_text}, '');
        return;
    }
    $checks->ok('compression is agreed upon', $agreed) or return;
    for my $name (sort keys %$expected) {
        $checks->is("agreed: $name", $agreed->{$name}, $expected->{$name} ? $expected->{$name} + 0 : 0);
    }
    return;
}

sub _frame_size ($length, $side) {
    return $length + 2 + ($length > 65535 ? 8 : $length > 125 ? 2 : 0) + ($side eq 'client' ? 4 : 0);
}

# There and back: how many bytes a message of that length was on the wire.
sub _check_size ($self, $connection, $name, $type, $length, @carried) {
    my $checks = $self->{cell}->checks;
    my @sides  = @$connection{qw(leader_side follower_side)};
    for my $i (0, 1) {
        my $way = $name . ($i ? ' back,' : ' there,');
        if (!$connection->{agreed}) {
            my $least = _frame_size($length, $sides[$i]);
            my $is_whole = !$self->{cell}->cannot('whole') || $sides[$i] eq $self->{cell}->side_of('ours');
            if ($connection->{wire}->is_opaque || !$is_whole) {
                $checks->ok("$way size on the wire", $carried[$i] >= $least, "$carried[$i] bytes");
            }
            else {
                $checks->is("$way size on the wire", $carried[$i], $least);
            }
        }
        elsif ($length >= MIB) {
            my $most = $type eq 'text' ? SMALL * $length : 1.01 * $length;
            $checks->ok("$way size on the wire", $carried[$i] < $most, "$carried[$i] bytes for $length");
        }
    }
    return;
}

# The same noise twice: the second one is small if it may refer to the first one, and only then.
sub _repeat ($self, $connection) {
    my $cell   = $self->{cell};
    my $checks = $cell->checks;
    for my $size (@{ +REPEATED }) {
        my $noise = noise($size, "repeated, $connection->{id}");
        $self->_exchange($connection, "noise, $size bytes,", binary => $noise);
        my @carried = $self->_exchange($connection, "the same again, $size bytes,", binary => $noise);
        for my $side (@$connection{qw(leader_side follower_side)}) {
            my $carried   = shift @carried;
            my $wishes    = $cell->variant->{$side};
            my $window    = largest_window($side, $connection->{agreed}, $wishes);
            my $is_within = takes_over($side, $connection->{agreed}, $wishes) && $size <= $window - MARGIN;
            next if !$is_within && takes_over($side, $connection->{agreed}, $wishes) && $size <= $window;
            my $name = "the same again, $size bytes, from the $side";
            if ($is_within) {
                $checks->ok("$name, refers back", $carried < 0.25 * $size, "$carried bytes on the wire");
            }
            else {
                $checks->ok("$name, does not refer back", $carried > 0.95 * $size, "$carried bytes on the wire");
            }
        }
    }
    return;
}

sub _burst ($self, $connection) {
    my $checks = $self->{cell}->checks;
    my $id     = $connection->{id};
    $connection->{leader}->tell(burst => {id => $id, count => BURST});
    for my $who (qw(follower leader)) {
        my $wrong;
        for my $i (1 .. BURST) {
            my $event = $connection->{$who}->await(message => $id);
            next if $event->{type} eq 'text' && $event->{bytes} eq "message $i";
            $wrong //= "number $i is '$event->{bytes}', $event->{type}";
        }
        $checks->ok(BURST . ' messages at once, at the ' . $connection->{"${who}_side"}, !$wrong, $wrong);
    }
    return;
}

sub _fragments ($self, $connection) {
    my $checks = $self->{cell}->checks;
    my ($wire, $side) = @$connection{qw(wire leader_side)};
    for my $case ([text => 3, 100, 0], [binary => 3, 100, 0], [text => 2, 70_000, 1], [binary => 40, 200_000, 1]) {
        my ($type, $count, $size, $between) = @$case;
        $between = 0 if $self->{cell}->cannot('between');
        my $name  = "$type in $count parts" . ($between ? ' with a ping between' : '');
        my $first = $wire->frames($side);
        my @between = $between ? (between => JSON::PP::true) : ();
        my $bytes = $type eq 'text' ? prose($size) : noise($size, 'parts');
        $self->_exchange($connection, "$name,", $type, $bytes, fragments => $count, @between);
        if ($between) {
            my $pong = $connection->{leader}->await(pong => $connection->{id});
            $checks->is("$name: pong", $pong->{bytes}, 'between');
        }
        next if $wire->is_opaque;
        my @frames = ($wire->frames($side))[$first .. $wire->frames($side) - 1];
        my @data = grep { $_->{opcode} < CLOSE } @frames;
        $checks->ok("$name are so many frames", @data >= $count, scalar @data);
        $checks->is("$name: the ping is between", $frames[1]{opcode}, PING) if $between;
    }
    return;
}

sub _ping ($self, $connection) {
    my $checks = $self->{cell}->checks;
    # Ours keeps pongs to itself.
    my $tells_pong = $connection->{leader} != $self->{cell}->ours;
    my ($id, $wire) = @$connection{qw(id wire)};
    for my $payload ('', 'still there?', noise(125, 'ping')) {
        my $name   = length($payload) . ' bytes';
        my @before = map { scalar $wire->frames($_) } @$connection{qw(leader_side follower_side)};
        $connection->{leader}->tell(ping => {id => $id}, $payload);
        $checks->is("ping, $name: pong", $connection->{leader}->await(pong => $id)->{bytes}, $payload)
            if $tells_pong;
        # What is sent later comes later, so that the pong has come by then.
        $self->_exchange($connection, "text behind a ping, $name,", text => 'after the ping');
        next if $wire->is_opaque;
        for my $expected ([leader_side => PING], [follower_side => PONG]) {
            my ($who, $opcode) = @$expected;
            my @frames = $wire->frames($connection->{$who});
            my @found  = grep { $_->{opcode} == $opcode } @frames[shift(@before) .. $#frames];
            $checks->is("ping, $name: opcode $opcode on the wire", scalar @found, 1);
            $checks->is("ping, $name: payload of opcode $opcode", $found[0]{payload}, $payload) if @found;
        }
    }
    return;
}

# What has to hold for all that has passed, unless it is TLS.
sub _check_frames ($self, $connection) {
    my $checks = $self->{cell}->checks;
    my $wire   = $connection->{wire};
    for my $side (qw(client server)) {
        my @frames = $wire->frames($side);
        my $masked = $side eq 'client' ? 1 : 0;
        $checks->ok("frames of the $side: whole", $wire->is_whole($side));
        $checks->ok("frames of the $side: masked or not", !grep { $_->{masked} != $masked } @frames);
        $checks->ok("frames of the $side: bits that mean nothing", !grep { $_->{rsv} } @frames);
        my @compressed = grep { $_->{rsv1} } @frames;
        if (!$connection->{agreed}) {
            $checks->is("frames of the $side: compressed", scalar @compressed, 0);
            next;
        }
        my @elsewhere = grep { !$_->{opcode} || $_->{opcode} >= CLOSE } @compressed;
        $checks->is("frames of the $side: said to be compressed where no message begins", scalar @elsewhere, 0);
        # Short ones need not be.
        $checks->ok("messages of the $side: compressed", @compressed >= LONG_ONES, scalar @compressed);
    }
    return;
}

# ---- Ending

# What a program has to tell about the end of a connection on which these came from the other side.
sub _check_closed ($self, $who, $event, $code, $reason, $may_be_reset = 0) {
    my $checks = $self->{cell}->checks;
    if ($who eq 'ours') {
        $checks->is('ours: code', $event->{code}, $code);
        $checks->is('ours: reason', $event->{reason}, $reason);
        $checks->ok('ours: clean', $event->{clean}, $event->{error});
        $checks->is('ours: error', $event->{error}, undef) if !$may_be_reset;
        return;
    }
    $checks->is('theirs: code', $event->{code}, $code // NO_CODE);
    $checks->is('theirs: reason', $event->{reason} // '', $reason // '');
    $checks->ok('theirs: clean', $event->{clean}, $event->{error}) if defined $event->{clean};
    return;
}

# The leader closes; returns how the leader and the follower saw it.
sub _end ($self, $connection, $code, $reason) {
    my ($id, $leader, $follower) = @$connection{qw(id leader follower)};
    my %with = defined $code ? (code => $code, reason => $reason) : ();
    $leader->tell(close => {id => $id, %with});
    my @ends = ($follower->await(closed => $id), $leader->await(closed => $id));
    my @rest = map { $_->leftovers($id) } $leader, $follower;
    $self->{cell}->checks->ok('nothing is told that was not asked for', !@rest, join '; ', @rest);
    return @ends;
}

sub _close_frames ($wire, $side) { return grep { $_->{opcode} == CLOSE } $wire->frames($side) }

sub _close ($self, $leader, $follower, $code, $reason) {
    my $cell       = $self->{cell};
    my $checks     = $cell->checks;
    my $connection = $self->_open($leader, $follower, 0);
    my ($at_follower, $at_leader) = $self->_end($connection, $code, $reason);
    my ($wire, @sides) = @$connection{qw(wire leader_side follower_side)};
    $self->_check_closed($follower, $at_follower, $code, $reason, $cell->cannot('wait'));

    if ($follower eq 'theirs' && $cell->cannot('answer') && !$at_leader->{clean}) {
        $checks->is('ours, without an answer: code', $at_leader->{code}, undef);
        return;
    }
    # The reason in the answer is the follower's to choose, and some tell that of the answer.
    my $answered = $at_leader->{reason} // '';
    $checks->ok("$leader: reason of the answer", $answered eq '' || $answered eq ($reason // ''), $answered);
    $self->_check_closed($leader, $at_leader, $code, $at_leader->{reason}, $cell->cannot('answer'));

    return if $wire->is_opaque;
    my ($asked, $answer) = map { [_close_frames($wire, $_)] } @sides;
    my $body = defined $code ? pack('n', $code) . do { utf8::encode(my $bytes = $reason); $bytes } : '';
    $checks->is('the Close frame of the leader', $asked->[0]{payload}, $body);
    my $most = $leader eq 'theirs' && $cell->cannot('wait') ? 2 : 1;
    $checks->ok('Close frames of the leader', @$asked <= $most, scalar @$asked);
    $checks->is('the code in the answer', substr($answer->[0]{payload} // 'none', 0, 2), substr $body, 0, 2);
    $checks->is('Close frames of the follower', scalar @$answer, 1);
    return;
}

sub _send_too_much ($self, $leader, $follower) {
    my $checks     = $self->{cell}->checks;
    my $connection = $self->_open($leader, $follower, 0);
    my ($id, $wire) = @$connection{qw(id wire)};
    $connection->{leader}->tell(send => {id => $id, type => 'text'}, prose(1.5 * $self->{cell}->max_size));
    my ($at_follower, $at_leader) = map { $_->await(closed => $id) } @$connection{qw(follower leader)};
    my @rest = map { $connection->{$_}->leftovers($id) } qw(leader follower);
    $checks->ok('it is not delivered', !@rest, join '; ', @rest);
    $checks->is("$leader: code", $at_leader->{code}, TOO_BIG);
    if ($follower eq 'ours') {
        my $error = $at_follower->{error} // 'none';
        $checks->ok('ours: error', $error =~ /big|exceeds|larger/, $error);
        $checks->ok('ours: not clean', !$at_follower->{clean});
    }
    return if $wire->is_opaque;
    my ($close) = _close_frames($wire, $connection->{follower_side});
    $checks->is('the code on the wire', substr($close->{payload} // 'none', 0, 2), pack 'n', TOO_BIG);
    return;
}

sub _vanish ($self) {
    my $checks     = $self->{cell}->checks;
    my $connection = $self->_open('theirs', 'ours', 0);
    $connection->{leader}->tell(vanish => {id => $connection->{id}});
    my $end = $connection->{follower}->await(closed => $connection->{id});
    $checks->is('ours: code', $end->{code}, undef);
    $checks->is('ours: reason', $end->{reason}, undef);
    $checks->ok('ours: not clean', !$end->{clean});
    return;
}

# Which does what close() does (compat D3).
sub _drop ($self) {
    my $connection = $self->_open('ours', 'theirs', 0);
    $connection->{leader}->tell(drop => {id => $connection->{id}});
    $self->_check_closed('theirs', $connection->{follower}->await(closed => $connection->{id}), NORMAL, '');
    return;
}

1;
