//! permessage-deflate without a connection: what is compressed comes back as it was, by the core's inflater and by
//! another one with no larger a window than was agreed upon; and any bytes for a compressed message come to the same
//! wherever they are cut, and never to more than there is room for.

use aews::block::Block;
use aews::extension::deflate::{Config, Deflater, Direction, InflateError, Inflater};

use crate::feed::Feed;
use crate::inflate::{Inflate, Wrong};
use crate::meter::Meter;
use crate::source::Source;

/// The bits of the first byte: whether the messages are what a compressor makes, or what follows as it is; and whether
/// one may refer to those before. Above is the window.
pub const HOSTILE: u8 = 1;
/// See [`HOSTILE`].
pub const NO_TAKEOVER: u8 = 2;

/// The input: the first byte, then messages.
pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let bits = source.byte();
    let window_bits = 8 + (bits >> 2 & 7);
    let direction = Direction { window_bits, context_takeover: bits & NO_TAKEOVER == 0 };
    if bits & HOSTILE != 0 {
        hostile(direction, &mut source);
    } else {
        there_and_back(direction, &mut source);
    }
}

/// What is in the output already. (Stored blocks are as long as there is room for in it.)
const BEFORE: &[u8] = b"before";

/// The level, then messages: a payload, whether the compressor is released behind it, and where the result is cut.
fn there_and_back(direction: Direction, source: &mut Source<'_>) {
    let level = source.byte() % 10;
    let config = Config { outgoing: direction, incoming: direction, level, threshold: 0 };
    let Some(mut deflater) = Deflater::new(&config) else {
        assert_eq!(direction.window_bits, 8, "no compressor");
        return;
    };
    assert!(direction.window_bits > 8, "a window that zlib does not have");
    assert_eq!(deflater.shared_key().is_some(), !direction.context_takeover);
    let mut inflater = Inflater::new(direction);
    let mut other = Inflate::new(direction.window_bits);
    while !source.is_done() {
        let payload = source.payload();
        let what = source.byte();
        let feed = Feed::read(source);
        assert_eq!(deflater.compresses(payload.len()), !payload.is_empty());
        if payload.is_empty() {
            continue;
        }
        let mut message = BEFORE.to_vec();
        let meter = Meter::start();
        deflater.compress(&payload, &mut message);
        // A compressor, and the message, whose room doubles.
        meter.assert_held((512 << 10) + 4 * payload.len(), "a compressor");
        let message = message.strip_prefix(BEFORE).expect("it is appended to");
        // No literal of the fixed codes has more than nine bits.
        let most = payload.len() * 9 / 8 + 16;
        assert!(message.len() <= most, "{} bytes for {}", message.len(), payload.len());

        let back = inflated(&mut inflater, &feed.pieces(message), payload.len());
        assert_eq!(back.as_ref(), Ok(&payload), "inflated again");
        assert_eq!(other.message(message, payload.len()).as_ref(), Ok(&payload), "by another");
        if !direction.context_takeover {
            other.reset();
            // Nothing is left of what went before, so another one makes the same of it, and a
            // byte less of room is too little.
            let mut twin = Deflater::new(&config).expect("as above");
            let mut again = BEFORE.to_vec();
            twin.compress(&payload, &mut again);
            assert!(
                again.strip_prefix(BEFORE) == Some(message),
                "another compressor makes another message"
            );
            let mut small = Inflater::new(direction);
            let cut = inflated(&mut small, &feed.pieces(message), payload.len() - 1);
            assert_eq!(cut, Err(InflateError::TooLong), "with a byte less of room");
        }
        if what & 1 != 0 {
            deflater.release();
        }
    }
}

/// Messages: room for them, where they are cut, and how long they are.
fn hostile(direction: Direction, source: &mut Source<'_>) {
    let mut whole = Inflater::new(direction);
    let mut cut = Inflater::new(direction);
    let mut bytes = Inflater::new(direction);
    let mut other = Some(Inflate::new(15));
    while !source.is_done() {
        let room = usize::from(source.number()) * if source.flag() { 40 } else { 1 };
        let feed = Feed::read(source);
        let len = usize::from(source.number()) % 4096;
        let message = source.bytes(len);

        let meter = Meter::start();
        let result = inflated(&mut whole, &[message], room);
        // An inflater, and the message twice: while it grows, and here.
        meter.assert_peak((128 << 10) + 4 * (room + 1024), "an inflater");
        let what = "compared with whole";
        assert_eq!(inflated(&mut cut, &feed.pieces(message), room), result, "{feed:?}, {what}");
        let single: Vec<_> = message.chunks(1).collect();
        assert_eq!(inflated(&mut bytes, &single, room), result, "byte by byte, {what}");
        let Ok(result) = result else {
            return;
        };
        // A final block ends what the other can compare, and without any payload there is nothing to.
        if !message.is_empty()
            && let Some(mut inflate) = other.take()
        {
            match inflate.message(message, usize::MAX) {
                Ok(theirs) => {
                    assert!(theirs == result, "the other one makes another message of it");
                    if !direction.context_takeover {
                        inflate.reset();
                    }
                    other = Some(inflate);
                }
                Err(Wrong::Final) => {}
                Err(wrong) => panic!("{wrong:?} to the other one: {message:02X?}"),
            }
        }
    }
}

/// What a message comes to; asserts that it has no more than there is room for.
fn inflated(
    inflater: &mut Inflater,
    pieces: &[&[u8]],
    room: usize,
) -> Result<Vec<u8>, InflateError> {
    let mut out = Block::new();
    for piece in pieces {
        let left = room - out.len();
        let result = inflater.inflate(piece, &mut out, left);
        let over = usize::from(result == Err(InflateError::TooLong));
        assert!(out.len() <= room + over, "{} bytes with room for {room}", out.len());
        assert!(out.capacity() <= room.max(1024) + 1, "{} bytes for {room}", out.capacity());
        result?;
    }
    inflater.finish()?;
    Ok(out.to_vec())
}
