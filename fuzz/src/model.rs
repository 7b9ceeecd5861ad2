//! What has to come of bytes: RFC 6455, read once more, as plainly as possible.
//!
//! Where several things are wrong with a frame, any of them may be told: the order in which they are looked for is
//! nobody's business, as long as it does not depend on where the network cuts.

use aews::connection::error::{Error, LimitError, PeerError};
use aews::connection::{Config, Role};
use aews::frame::Opcode;

use crate::seen::{Seen, is_sendable};
use crate::wire::*;

/// What is told, and what then.
#[derive(Debug)]
pub struct Expected {
    /// These come in any case.
    pub seen: Vec<Seen>,
    /// What comes after them.
    pub then: Then,
}

/// What comes of a connection.
#[derive(Debug)]
pub enum Then {
    /// More bytes have to come.
    Waits,
    /// One of these may have been noticed already, but need not be.
    MayFail(Vec<Error>),
    /// It fails with one of these.
    Fails(Vec<Error>),
    /// It has been closed.
    Closed,
    /// Compressed messages are beyond this model.
    Unknown,
}

impl Expected {
    /// Asserts that this is what was told, all of it or, where the connection `ended_early`, some of it.
    pub fn check(&self, told: &[Seen], ended_early: bool) {
        for (told, expected) in told.iter().zip(&self.seen) {
            assert_eq!(told, expected);
        }
        let Some(more) = told.get(self.seen.len()..) else {
            assert!(ended_early, "not told: {:?}", &self.seen[told.len()..]);
            return;
        };
        let fits = match (&self.then, more) {
            (Then::Unknown, _) => true,
            (Then::Waits | Then::Closed | Then::MayFail(_), []) => true,
            (Then::Fails(_), []) => ended_early,
            (Then::Fails(errors) | Then::MayFail(errors), [Seen::Failed(error)]) => {
                errors.contains(error)
            }
            _ => false,
        };
        assert!(fits, "told {more:?} where it {:?}", self.then);
    }
}

/// A message under way.
struct Message {
    opcode: u8,
    bytes: Vec<u8>,
    /// Up to where it is known to be UTF-8.
    valid: usize,
    frames: u64,
}

/// What has to come of `wire` where a connection with this configuration gets it; `deflate` is whether
/// permessage-deflate is agreed upon.
pub fn expect(config: &Config, deflate: bool, wire: &[u8]) -> Expected {
    let mut seen = vec![];
    let then = read(config, deflate, wire, &mut seen);
    Expected { seen, then }
}

fn read(config: &Config, deflate: bool, mut wire: &[u8], seen: &mut Vec<Seen>) -> Then {
    let mut message: Option<Message> = None;
    loop {
        let Some(head) = Head::read(wire) else {
            return Then::Waits;
        };
        let errors = errors(config, deflate, message.as_ref(), &head);
        let (Some(size), Some(len)) = (head.size, head.len) else {
            return if errors.is_empty() { Then::Waits } else { Then::MayFail(errors) };
        };
        if !errors.is_empty() {
            return Then::Fails(errors);
        }
        if head.first & RSV1 != 0 {
            return Then::Unknown;
        }
        let body = &wire[size..];
        let there = usize::try_from(len).map_or(body.len(), |len| len.min(body.len()));
        let whole = there as u64 == len;
        let payload = mask(head.key, &body[..there]);
        wire = &body[there..];
        if head.opcode() >= CLOSE {
            if !whole {
                return Then::Waits;
            }
            match head.opcode() {
                PING => seen.push(Seen::Ping(Bytes(payload))),
                PONG => seen.push(Seen::Pong(Bytes(payload))),
                _ => {
                    let (close, errors) = close(&payload);
                    seen.push(close);
                    return if errors.is_empty() { Then::Closed } else { Then::Fails(errors) };
                }
            }
            continue;
        }
        let fin = head.first & FIN != 0;
        let so_far = message.get_or_insert_with(|| Message {
            opcode: head.opcode(),
            bytes: vec![],
            valid: 0,
            frames: 0,
        });
        so_far.frames += 1;
        so_far.bytes.extend(payload);
        if so_far.opcode == TEXT && config.validate_utf8 {
            match std::str::from_utf8(&so_far.bytes[so_far.valid..]) {
                Ok(_) => so_far.valid = so_far.bytes.len(),
                Err(error) => {
                    so_far.valid += error.valid_up_to();
                    if error.error_len().is_some() || whole && fin {
                        let at = so_far.valid as u64;
                        return Then::Fails(vec![PeerError::TextNotUtf8(at).into()]);
                    }
                }
            }
        }
        if !whole {
            return Then::Waits;
        }
        if fin && let Some(message) = message.take() {
            seen.push(Seen::Message(message.opcode, Bytes(message.bytes)));
        }
    }
}

/// All that is wrong with a frame whose header says this, as far as the header is there.
fn errors(config: &Config, deflate: bool, message: Option<&Message>, head: &Head) -> Vec<Error> {
    let mut errors: Vec<Error> = vec![];
    let mut wrong = |error: PeerError| errors.push(error.into());
    let (opcode, fin) = (head.opcode(), head.first & FIN != 0);
    let named = match opcode {
        CONTINUATION => Some(Opcode::Continuation),
        TEXT => Some(Opcode::Text),
        BINARY => Some(Opcode::Binary),
        CLOSE => Some(Opcode::Close),
        PING => Some(Opcode::Ping),
        PONG => Some(Opcode::Pong),
        _ => None,
    };
    let starts = matches!(opcode, TEXT | BINARY);

    let allowed = if deflate && starts { RSV1 } else { 0 };
    let reserved = (head.first & 0x70 & !allowed) >> 4;
    if reserved != 0 {
        wrong(PeerError::ReservedBits(reserved));
    }
    match (config.role, head.masked) {
        (Some(Role::Server), false) => wrong(PeerError::NotMasked),
        (Some(Role::Client), true) => wrong(PeerError::Masked),
        _ => {}
    }
    match named {
        None => wrong(PeerError::ReservedOpcode(opcode)),
        Some(Opcode::Continuation) if message.is_none() => wrong(PeerError::UnexpectedContinuation),
        Some(named) if starts && message.is_some() => wrong(PeerError::InterleavedMessage(named)),
        Some(named) if opcode >= CLOSE && !fin => wrong(PeerError::FragmentedControl(named)),
        _ => {}
    }
    if let Some(len) = head.len {
        if len >> 63 != 0 {
            wrong(PeerError::LengthTopBit(len));
        }
        if !head.shortest {
            wrong(PeerError::LengthNotMinimal(len));
        }
        if let Some(named) = named.filter(|_| opcode >= CLOSE && len > 125) {
            wrong(PeerError::OversizedControl(named, len));
        }
        let max = config.max_payload_size;
        // The limit is one for what a message is. Compressing may make it a sixteenth longer, and a little.
        let on_the_wire =
            if head.first & allowed == 0 { max } else { max.saturating_add(max / 16 + 64) };
        if max != 0 && len > on_the_wire {
            errors.push(LimitError::PayloadTooBig { len, max }.into());
        }
        let before = message.map_or(0, |message| message.bytes.len() as u64);
        let (len, max) = (before.saturating_add(len), config.max_message_size);
        if max != 0 && opcode < CLOSE && len > max && head.first & allowed == 0 {
            errors.push(LimitError::MessageTooBig { len, max }.into());
        }
    }
    let max = config.max_fragments;
    if let Some(message) = message.filter(|_| opcode == CONTINUATION)
        && max != 0
        && message.frames >= max.into()
    {
        errors.push(LimitError::TooManyFragments { max }.into());
    }
    errors
}

/// What a Close frame's body tells, and what is wrong with it (RFC 6455 sections 5.5.1 and 7.4).
pub fn close(body: &[u8]) -> (Seen, Vec<Error>) {
    let [high, low, reason @ ..] = body else {
        let errors = if body.is_empty() { vec![] } else { vec![PeerError::CloseBodyTooShort] };
        return (Seen::Close(None, String::new()), errors.into_iter().map(Error::from).collect());
    };
    let code = u16::from_be_bytes([*high, *low]);
    let mut errors: Vec<Error> = vec![];
    if !is_sendable(code) {
        errors.push(PeerError::CloseCodeNotAllowed(code).into());
    }
    if let Err(error) = std::str::from_utf8(reason) {
        errors.push(PeerError::CloseReasonNotUtf8(error.valid_up_to() as u64).into());
    }
    (Seen::Close(Some(code), String::from_utf8_lossy(reason).into_owned()), errors)
}
