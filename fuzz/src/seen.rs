//! What a connection tells, with its bytes copied, and what follows from it.

use aews::connection::error::{Error, PeerError};
use aews::connection::{Connection, Event};

use crate::wire::{Bytes, CLOSE, PONG};

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A message with its opcode.
    Message(u8, Bytes),
    /// A Ping.
    Ping(Bytes),
    /// A Pong.
    Pong(Bytes),
    /// The peer's Close frame.
    Close(Option<u16>, String),
    /// The connection's failure.
    Failed(Error),
}

/// The next event. Asserts that it was announced, and that texts are there for all that can go wrong.
pub fn next(connection: &mut Connection) -> Option<Seen> {
    let has_input = connection.has_input();
    let seen = match connection.next_event()? {
        Event::Message { opcode, payload } => {
            Seen::Message(opcode.number(), Bytes::from(&*payload))
        }
        Event::Ping(body) => Seen::Ping(body.into()),
        Event::Pong(body) => Seen::Pong(body.into()),
        Event::Close(close) => Seen::Close(close.code, close.reason.into_owned()),
        Event::Failed(error) => Seen::Failed(error),
    };
    assert!(has_input, "an event where has_input was false: {seen:?}");
    if let Seen::Failed(error) = &seen {
        assert_eq!(error.close_code(), code_of(error), "close code of {error:?}");
        assert!(
            !error.to_string().is_empty() || *error == Error::Internal(String::new()),
            "no text for {error:?}"
        );
    }
    Some(seen)
}

/// All events that there are.
pub fn drain(connection: &mut Connection) -> Vec<Seen> {
    let seen = std::iter::from_fn(|| next(connection)).collect();
    assert!(!connection.has_input(), "input left where no event is");
    seen
}

/// The close code for an error, RFC 6455 section 7.4.1.
pub fn code_of(error: &Error) -> u16 {
    match error {
        Error::Peer(
            PeerError::TextNotUtf8(_) | PeerError::CloseReasonNotUtf8(_) | PeerError::NotDeflate,
        ) => 1007,
        Error::Peer(_) => 1002,
        Error::Limit(_) => 1009,
        Error::Internal(_) => 1011,
    }
}

/// Whether a code may stand in a Close frame, RFC 6455 section 7.4 and the registry.
pub fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// What a connection that nobody commands has to send, after what it has told: a pong for each ping, and one Close,
/// with which it ends.
pub fn answers(seen: &[Seen]) -> Vec<(u8, Bytes)> {
    let mut frames = vec![];
    let mut last = None;
    for event in seen {
        match event {
            Seen::Ping(body) => frames.push((PONG, body.clone())),
            Seen::Close(Some(code), _) => last = Some((CLOSE, Bytes::from(code.to_be_bytes()))),
            Seen::Close(None, _) => last = Some((CLOSE, Bytes::default())),
            Seen::Failed(error) => {
                last = Some((CLOSE, Bytes::from(code_of(error).to_be_bytes())));
            }
            Seen::Message(..) | Seen::Pong(_) => {}
        }
    }
    frames.extend(last);
    frames
}
