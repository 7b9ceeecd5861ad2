//! Feeding one connection, in every way that must make no difference.

use super::wire::*;
use crate::connection::error::Error;
use crate::connection::{Begun, Config, Connection, Event};
use crate::frame::Opcode;

/// An event with its bytes copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Message(Opcode, Body),
    Ping(Body),
    Pong(Body),
    Close(Option<u16>, String),
    Failed(Error),
}

pub fn text(payload: impl Into<Body>) -> Seen {
    Seen::Message(Opcode::Text, payload.into())
}

pub fn binary(payload: impl Into<Body>) -> Seen {
    Seen::Message(Opcode::Binary, payload.into())
}

pub fn ping(payload: impl Into<Body>) -> Seen {
    Seen::Ping(payload.into())
}

pub fn pong(payload: impl Into<Body>) -> Seen {
    Seen::Pong(payload.into())
}

pub fn closed(code: u16, reason: &str) -> Seen {
    Seen::Close(Some(code), reason.into())
}

pub fn failed(error: impl Into<Error>) -> Seen {
    Seen::Failed(error.into())
}

/// The next event.
pub fn next(connection: &mut Connection) -> Option<Seen> {
    Some(match connection.next_event()? {
        Event::Message { opcode, payload } => Seen::Message(opcode, (*payload).into()),
        Event::Ping(body) => ping(body),
        Event::Pong(body) => pong(body),
        Event::Close(close) => Seen::Close(close.code, close.reason.into_owned()),
        Event::Failed(error) => failed(error),
    })
}

/// All events that there are.
pub fn drain(connection: &mut Connection) -> Vec<Seen> {
    std::iter::from_fn(|| next(connection)).collect()
}

/// All that has become of a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub seen: Vec<Seen>,
    pub sent: Vec<Sent>,
    pub was_clean: bool,
    pub is_reading: bool,
    pub is_writable: bool,
}

/// A way to feed a connection.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// As `io` does it: large frames straight into their message. Otherwise through
    /// [`Connection::receive`].
    pub direct: bool,
    /// Events are asked for only when everything is in, not after every piece.
    pub late: bool,
}

pub const WAYS: [Way; 4] = [
    Way { direct: false, late: false },
    Way { direct: false, late: true },
    Way { direct: true, late: false },
    Way { direct: true, late: true },
];

/// Does what `io::receive` does, with `bytes` for the socket. Returns how many it has read.
pub fn read(connection: &mut Connection, bytes: &[u8]) -> usize {
    let target = connection.read_into();
    let Some((block, missing)) = target.direct else {
        target.buffer.extend_from_slice(bytes);
        return bytes.len();
    };
    let room = missing.min(block.capacity() - block.len());
    let (direct, rest) = bytes.split_at(room.min(bytes.len()));
    block.extend(direct, block.capacity());
    if room < missing {
        return direct.len();
    }
    target.buffer.extend_from_slice(rest);
    bytes.len()
}

/// Feeds the pieces to the connection.
pub fn run<'a>(
    mut connection: Connection,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    way: Way,
) -> Outcome {
    let mut seen = vec![];
    for mut piece in pieces {
        while !piece.is_empty() {
            if way.direct {
                piece = &piece[read(&mut connection, piece)..];
            } else {
                connection.receive(piece);
                piece = &[];
            }
            if !way.late {
                seen.extend(drain(&mut connection));
            }
        }
    }
    seen.extend(drain(&mut connection));
    assert!(!connection.has_input(), "input left where no event is");
    assert_eq!(next(&mut connection), None, "an event after there was none");
    Outcome {
        seen,
        sent: decode(&connection.take_output(), connection.config.masked),
        was_clean: connection.was_clean(),
        is_reading: connection.is_reading(),
        is_writable: connection.is_writable(),
    }
}

/// Feeds `input` to fresh connections in every way, asserts that it makes no difference, and
/// returns the outcome.
pub fn every_way(config: Config, input: &[u8]) -> Outcome {
    every_way_from(|| Connection::new(config), input)
}

/// Like [`every_way`], with connections that are not fresh.
pub fn every_way_from(make: impl Fn() -> Connection, input: &[u8]) -> Outcome {
    let whole = run(make(), [input], WAYS[0]);
    let check = |pieces: &[&[u8]], what: &str, n: usize| {
        for way in WAYS {
            let outcome = run(make(), pieces.iter().copied(), way);
            assert_eq!(outcome, whole, "{way:?}, {what} {n}, compared with whole");
        }
    };
    let short = input.len() < 300;
    // In long inputs only what is near the ends is worth the time.
    let near = match input.len() {
        0..300 => input.len(),
        300..100_000 => 16,
        _ => 3,
    };
    check(&[input], "whole", input.len());
    // Around the read buffer, the length from which frames are read directly, and the read-ahead.
    let chunk_lens: &[usize] = if short { &[1] } else { &[997, 16_384, 65_537, 140_000] };
    for &len in chunk_lens {
        check(&input.chunks(len).collect::<Vec<_>>(), "chunks of", len);
    }
    for at in 1..input.len() {
        if at < near || at > input.len() - near {
            let (head, tail) = input.split_at(at);
            check(&[head, tail], "split at", at);
        }
    }
    whole
}

/// Input that must fail a connection.
pub struct Bad<'a> {
    pub what: &'a str,
    pub config: Config,
    /// The key for correct frames before and after.
    pub key: Key,
    /// The connection must have failed with the last of these bytes, no later.
    pub bytes: &'a [u8],
    /// What is told of them, before the failure.
    pub told: &'a [Seen],
    pub error: Error,
    /// The error's code, stated independently.
    pub code: u16,
}

impl Bad<'_> {
    /// Asserts all that holds for every failure (compat D1, RFC 6455 section 7.1.7): what came
    /// before is delivered first, exactly one Close frame with the right code goes out, as the last
    /// one, and from then on nothing comes in and nothing goes out.
    #[track_caller]
    pub fn assert_fails(&self) {
        let Bad { what, config, key, bytes, .. } = *self;
        assert_eq!(self.error.close_code(), self.code, "{what}");

        let before = [frame(FIN | TEXT, key, "before"), frame(FIN | PING, key, "?")].concat();
        let after = frame(FIN | TEXT, key, "after");
        let told = [self.told, &[failed(self.error.clone())]].concat();
        let expected = Outcome {
            seen: [&[text("before"), ping("?")], &told[..]].concat(),
            sent: vec![sent(PONG, "?"), sent_close(self.code)],
            was_clean: false,
            is_reading: false,
            is_writable: false,
        };
        for tail in [&[], &after[..]] {
            let outcome = every_way(config, &[&before, bytes, tail].concat());
            assert_eq!(outcome, expected, "{what}, {key:?}, tail of {}", tail.len());
        }

        let mut connection = Connection::new(config);
        connection.receive(bytes);
        assert_eq!(drain(&mut connection), told, "{what}");
        connection.take_output();
        connection.receive(&after);
        assert!(!connection.has_input() && !connection.receiver.has_input(), "{what}: kept");
        assert_eq!(drain(&mut connection), [], "{what}");
        assert_eq!(connection.send(TEXT, b"more"), Ok(false), "{what}");
        assert_eq!(connection.close(1000, b""), Ok(false), "{what}");
        assert!(matches!(connection.begin_frame(TEXT, 4), Ok(Begun::Closed)), "{what}");
        assert!(connection.output().is_empty(), "{what}");

        // After a Close frame of ours it is told all the same, but there is no second one.
        let outcome = every_way_from(|| closing(config), bytes);
        assert_eq!((outcome.seen, outcome.sent), (told, vec![]), "{what}, after our Close");
        assert!(!outcome.was_clean, "{what}, after our Close");
    }
}

/// A connection that has sent its Close frame.
pub fn closing(config: Config) -> Connection {
    let mut connection = Connection::new(config);
    assert_eq!(connection.close(1000, b""), Ok(true));
    connection.take_output();
    connection
}
