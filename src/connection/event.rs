//! What a connection tells.

use std::ops::Deref;

use super::close::Close;
use super::error::Error;
use crate::block::Block;
use crate::frame::Opcode;

/// Something that happened on a connection.
#[derive(Debug)]
pub enum Event<'a> {
    /// A whole message: text or binary.
    Message {
        /// [`Opcode::Text`] or [`Opcode::Binary`].
        opcode: Opcode,
        /// Its bytes, unmasked.
        payload: Payload<'a>,
    },
    /// A Ping, which has been answered.
    Ping(&'a [u8]),
    /// A Pong.
    Pong(&'a [u8]),
    /// The peer's Close frame, which has been answered.
    Close(Close<'a>),
    /// The connection has failed; the peer is told by a Close frame.
    Failed(Error),
}

/// The bytes of a message.
#[derive(Debug)]
pub enum Payload<'a> {
    /// In the receive buffer: the message arrived in one piece.
    Borrowed(&'a [u8]),
    /// In memory of its own, for the receiver to keep.
    Block(Block),
}

impl Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Payload::Borrowed(bytes) => bytes,
            Payload::Block(block) => block,
        }
    }
}
