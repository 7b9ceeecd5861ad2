//! A connection that gets anything from its peer, piece by piece, and any commands in between: each is answered as it
//! should be, what it says about itself is true after each, what is told is what [`crate::model`] says, and what leaves
//! it is exactly the frames that it owes, in order.

use crate::meter::Meter;
use crate::setup::Setup;
use crate::side::Side;
use crate::source::Source;
use crate::target::decoder::frames;

/// The input: a [`Setup`], then steps; see [`step`].
pub fn run(input: &[u8]) {
    let meter = Meter::start();
    let mut source = Source::new(input);
    let mut side = Side::new(Setup::read(&mut source));
    while !source.is_done() {
        step(&mut side, &mut source);
    }
    side.finally(&meter);
}

/// In the first byte a number: below 128 of bytes that the peer sends, which follow, spelled out where it is even and
/// described where it is odd; above, a command.
fn step(side: &mut Side, source: &mut Source<'_>) {
    let kind = source.byte();
    if kind >= 128 {
        return side.command(source);
    }
    let socket = kind & 2 != 0;
    let bytes = source.bytes(usize::from(kind >> 2));
    if kind & 1 == 0 {
        side.feed(bytes, socket);
    } else {
        side.feed(&frames(&mut Source::new(bytes)), socket);
    }
}
