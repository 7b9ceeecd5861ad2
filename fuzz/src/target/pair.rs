//! Two connections that talk to each other, with any commands, and any delays and cuts between them: what one has sent
//! is told by the other, all of it, in order, and as it was, unless that breaks a rule or one of the other's limits.

use aews::connection::error::{Error, LimitError, PeerError};
use aews::connection::{Config, Role};
use aews::extension::deflate;

use crate::meter::Meter;
use crate::model::{self, Then};
use crate::seen::Seen;
use crate::setup::Setup;
use crate::side::{Due, Side};
use crate::source::Source;
use crate::wire::*;

/// The input: the setups of both sides, of which the first says what is agreed upon, then steps.
pub fn run(input: &[u8]) {
    let meter = Meter::start();
    let mut source = Source::new(input);
    let one = Setup::read(&mut source);
    let two = Setup::read(&mut source);
    // Both sides go by the same agreement and by opposite roles; the limits are each one's own.
    let deflate = one.deflate.map(|one| deflate::Config {
        outgoing: one.incoming,
        incoming: one.outgoing,
        ..two.deflate.unwrap_or(one)
    });
    let one_is_client = one.config.role != Some(Role::Server);
    let known = one.config.role.is_some();
    let role = |is_client| known.then_some(if is_client { Role::Client } else { Role::Server });
    let with = |config, is_client| Config { role: role(is_client), masked: is_client, ..config };
    let mut sides = [
        Side::new(Setup { config: with(one.config, one_is_client), deflate: one.deflate }),
        Side::new(Setup { config: with(two.config, !one_is_client), deflate }),
    ];
    let mut delivered = [0; 2];
    while !source.is_done() {
        step(&mut sides, &mut delivered, &mut source);
    }
    // All that is still under way arrives, and so does what that leads to.
    loop {
        let before = sides.each_ref().map(|side| (side.wire.len(), side.told.len()));
        for from in [0, 1] {
            sides[from].drain();
            sides[from].take();
            deliver(&mut sides, &mut delivered, from, usize::MAX, false);
            sides[1 - from].drain();
        }
        if before == sides.each_ref().map(|side| (side.wire.len(), side.told.len())) {
            break;
        }
    }
    for to in [0, 1] {
        check(&sides[1 - to], &sides[to]);
    }
    for side in &mut sides {
        side.finally(&meter);
    }
}

/// In the first byte whose step it is, and which: bytes arrive from the other side, or a command.
fn step(sides: &mut [Side; 2], delivered: &mut [usize; 2], source: &mut Source<'_>) {
    let kind = source.byte();
    let to = usize::from(kind & 1);
    match kind >> 1 & 7 {
        0 => deliver(sides, delivered, 1 - to, source.byte().into(), kind & 0x80 != 0),
        1 => deliver(sides, delivered, 1 - to, usize::MAX, kind & 0x80 != 0),
        2 => {
            sides[1 - to].take();
            deliver(sides, delivered, 1 - to, usize::MAX, kind & 0x80 != 0);
            sides[to].drain();
        }
        _ => sides[to].command(source),
    }
}

/// Lets up to `len` bytes of what has left one side arrive at the other.
fn deliver(sides: &mut [Side; 2], done: &mut [usize; 2], from: usize, len: usize, socket: bool) {
    let under_way = &sides[from].wire[done[from]..];
    let arriving = under_way[..len.min(under_way.len())].to_vec();
    done[from] += arriving.len();
    sides[1 - from].feed(&arriving, socket);
}

/// Asserts that what `to` has told is what `from` has sent.
fn check(from: &Side, to: &Side) {
    let config = &to.setup.config;
    let key = from.setup.config.masked.then_some([0; 4]);
    // As it would be without compression: each frame comes to one event, until the first that is wrong.
    let plain: Vec<u8> =
        from.due.iter().flat_map(|due| frame(FIN | due.opcode, key, &due.payload.0)).collect();
    let expected = model::expect(config, false, &plain);
    // Its own panics come last.
    let own = |seen: &&Seen| matches!(seen, Seen::Failed(Error::Internal(_)));
    let told = &to.told[..to.told.len() - to.told.iter().rev().take_while(own).count()];
    let frames = decode(&from.wire, from.setup.config.masked);
    if let Some((Seen::Failed(error), before)) = told.split_last()
        && let Some(due) = from.due.get(before.len()).filter(|due| due.compressed)
    {
        let wire_len = frames[before.len()].payload.0.len() as u64;
        assert!(before == &expected.seen[..before.len()], "told: {before:?}");
        assert!(may_fail(config, due, wire_len, error), "{error:?} by {due:?}");
        return;
    }
    // In what is compressed a limit is noticed where it is exceeded, not by the header.
    if let Then::Fails(_) = &expected.then
        && from.due.get(expected.seen.len()).is_some_and(|due| due.compressed)
    {
        assert!(to.ended_early, "{:?} was not told", expected.then);
        assert!(told == &expected.seen[..told.len()], "told: {told:?}");
        return;
    }
    expected.check(told, to.ended_early);
}

/// Whether a compressed message may fail a connection like this.
fn may_fail(config: &Config, due: &Due, wire_len: u64, error: &Error) -> bool {
    let len = due.payload.0.len() as u64;
    match *error {
        Error::Limit(LimitError::PayloadTooBig { max, .. }) => {
            max == config.max_payload_size && max != 0 && (len > max || wire_len > max)
        }
        Error::Limit(LimitError::MessageTooBig { max, .. }) => {
            max == config.max_message_size && max != 0 && len > max
        }
        Error::Peer(PeerError::TextNotUtf8(at)) => {
            let valid = std::str::from_utf8(&due.payload.0).map_err(|error| error.valid_up_to());
            due.opcode == TEXT && config.validate_utf8 && valid == Err(at as usize)
        }
        // The frame itself is in order, and so is what was compressed.
        _ => false,
    }
}
