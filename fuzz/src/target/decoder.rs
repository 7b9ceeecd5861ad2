//! Any bytes, to a connection that is set up in any way: wherever they are cut and however they come in, the same is
//! told, answered and remembered, and it is what [`model`] says; a message has no more bytes and frames than the
//! limits allow; and no more memory is held than what has come explains.

use aews::extension::deflate::{self, Deflater, Direction};

use crate::feed::Feed;
use crate::meter::Meter;
use crate::model;
use crate::seen::{Seen, answers};
use crate::setup::Setup;
use crate::source::{EXPANDED, Source};
use crate::wire::*;

/// All that has become of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    seen: Vec<Seen>,
    sent: Vec<(u8, Bytes)>,
    was_clean: bool,
    is_reading: bool,
    is_writable: bool,
}

/// Up to this many bytes are also fed one by one.
const SHORT: usize = 400;

/// The input: a [`Setup`], a [`Feed`], whether frames are described (1) or spelled out (0), and those.
pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let setup = Setup::read(&mut source);
    let feed = Feed::read(&mut source);
    let wire = if source.flag() { frames(&mut source) } else { source.rest().to_vec() };

    let whole = outcome(&setup, &Feed::WHOLE, &wire);
    assert_eq!(outcome(&setup, &feed, &wire), whole, "{feed:?} compared with whole");
    if wire.len() <= SHORT {
        assert_eq!(outcome(&setup, &Feed::BYTES, &wire), whole, "byte by byte compared with whole");
    }

    model::expect(&setup.config, setup.deflate.is_some(), &wire).check(&whole.seen, false);
    assert_eq!(whole.sent, answers(&whole.seen));
    for seen in &whole.seen {
        if let Seen::Message(opcode, message) = seen {
            let utf8 = std::str::from_utf8(&message.0).is_ok();
            assert!(utf8 || *opcode != TEXT || !setup.config.validate_utf8, "{message:?}");
            let max = longest(&setup);
            assert!(message.0.len() as u64 <= max, "{message:?} where {max} are allowed");
        }
    }
    let ends = |seen: &Seen| matches!(seen, Seen::Close(..) | Seen::Failed(_));
    let end = whole.seen.iter().position(ends).map(|end| &whole.seen[end..]);
    assert_eq!((whole.is_reading, whole.is_writable), (end.is_none(), end.is_none()));
    let clean = match end {
        None | Some([Seen::Failed(_)] | [Seen::Close(..), Seen::Failed(_)]) => false,
        Some([Seen::Close(..)]) => true,
        Some(more) => panic!("events after the end: {more:?}"),
    };
    assert_eq!(whole.was_clean, clean);
}

/// How long a message may be.
fn longest(setup: &Setup) -> u64 {
    let config = &setup.config;
    let or_any = |max| if max == 0 { u64::MAX } else { max };
    let fragments = or_any(config.max_fragments.into());
    or_any(config.max_message_size).min(or_any(config.max_payload_size).saturating_mul(fragments))
}

fn outcome(setup: &Setup, feed: &Feed, wire: &[u8]) -> Outcome {
    // What frames hold of deflate may become a thousand times as much, up to the limits.
    let inflated = match setup.deflate {
        None => 0,
        Some(_) => {
            usize::try_from(longest(setup)).unwrap_or(usize::MAX).min(wire.len() * 1100) + 100_000
        }
    };
    let meter = Meter::start();
    let mut connection = setup.connection();
    let mut told = 0;
    let seen = feed.run(&mut connection, wire, |seen| {
        // Two read buffers of 129 KiB, an inflater, and a message that doubles as it grows, with what it has
        // ahead of its data.
        let ahead = (wire.len() * 16).clamp(64 << 10, 1 << 20);
        // Lists of events double as they grow.
        told += seen.iter().map(|seen| 4 * size_of::<Seen>() + 2 * len(seen)).sum::<usize>();
        let allowed = (512 << 10) + 2 * ahead + 4 * wire.len() + told + 2 * inflated;
        meter.assert_held(allowed, "a connection");
        meter.assert_peak(allowed + 2 * ahead + told + inflated, "a connection");
    });
    let sent = decode(&connection.take_output(), setup.config.masked);
    let sent = sent.into_iter().map(|frame| {
        assert_eq!(frame.first & 0xF0, FIN, "an answer with {:#X}", frame.first);
        (frame.first & 0x0F, frame.payload)
    });
    Outcome {
        seen,
        sent: sent.collect(),
        was_clean: connection.was_clean(),
        is_reading: connection.is_reading(),
        is_writable: connection.is_writable(),
    }
}

fn len(seen: &Seen) -> usize {
    match seen {
        Seen::Message(_, bytes) | Seen::Ping(bytes) | Seen::Pong(bytes) => bytes.0.len(),
        Seen::Close(_, reason) => 3 * reason.len(),
        Seen::Failed(_) => 100,
    }
}

/// The bits of how a frame is described: whether it is masked, and whether its payload is compressed. Above them is
/// how its length is told; up to [`WRONG`] as it should be.
pub const KEY: u8 = 1;
/// See [`KEY`].
pub const COMPRESSED: u8 = 2;
/// See [`KEY`].
pub const WRONG: u8 = 0xC0;

/// Frames that are described: the first byte, how it is (see [`KEY`]), the key if there is one, and the payload.
pub fn frames(source: &mut Source<'_>) -> Vec<u8> {
    let alike = Direction { window_bits: 15, context_takeover: true };
    // The fastest level that compresses: it is what is received that counts.
    let config = deflate::Config { outgoing: alike, incoming: alike, level: 1, threshold: 0 };
    let mut deflater = Deflater::new(&config).expect("a window of 15 bits");
    let mut wire = vec![];
    while !source.is_done() && wire.len() < EXPANDED {
        let (first, how) = (source.byte(), source.byte());
        let key = (how & KEY != 0).then(|| source.key());
        let mut payload = source.payload();
        if how & COMPRESSED != 0 && !payload.is_empty() {
            let mut compressed = vec![];
            deflater.compress(&payload, &mut compressed);
            payload = compressed;
        }
        let len = payload.len() as u64;
        wire.extend(match how & 0xF0 {
            0xC0 => header_with(first, key, 126, &(len as u16).to_be_bytes()),
            0xD0 => header_with(first, key, 127, &len.to_be_bytes()),
            0xE0 => header(first, key, len + 1 + (len << 4)),
            0xF0 => header(first, key, len << 40 | 1 << 30),
            _ => header(first, key, len),
        });
        wire.extend(mask(key, &payload));
    }
    wire
}
