//! What can go wrong with a connection, sorted by whose fault it is.

use std::fmt;

use tungstenite::protocol::frame::coding::CloseCode;

use crate::frame::Opcode;

/// Why a connection failed. The close code and the text (for `parse_error`) follow from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The peer broke the protocol.
    Peer(PeerError),
    /// The peer kept to the protocol but exceeded a limit of ours.
    Limit(LimitError),
    /// The program or this library failed while it dealt with a message.
    Internal(String),
}

/// What a peer did that RFC 6455 forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerError {
    /// Reserved bits (RSV1 is 4, RSV3 is 1) set with no extension that defines them, section 5.2.
    ReservedBits(u8),
    /// An opcode that the RFC reserves, section 5.2.
    ReservedOpcode(u8),
    /// A control frame without FIN, section 5.5.
    FragmentedControl(Opcode),
    /// A control frame with more than 125 bytes, section 5.5.
    OversizedControl(Opcode, u64),
    /// A continuation frame with nothing to continue, section 5.4.
    UnexpectedContinuation,
    /// A new data frame inside a fragmented message, section 5.4.
    InterleavedMessage(Opcode),
    /// A 64-bit length with the most significant bit set, section 5.2.
    LengthTopBit(u64),
    /// A length not in its shortest form, section 5.2.
    LengthNotMinimal(u64),
    /// A frame that came without a mask from a client, section 5.1.
    NotMasked,
    /// A frame that came masked from a server, section 5.1.
    Masked,
    /// A text message that is not UTF-8, at this byte of the message, section 8.1.
    TextNotUtf8(u64),
    /// A compressed message that cannot be inflated, RFC 7692 section 7.2.2.
    NotDeflate,
    /// A Close frame whose body is a single byte, section 5.5.1.
    CloseBodyTooShort,
    /// A close code that may not be sent, section 7.4.
    CloseCodeNotAllowed(u16),
    /// A close reason that is not UTF-8, at this byte of the reason, section 5.5.1.
    CloseReasonNotUtf8(u64),
}

/// A limit of ours that a peer exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitError {
    /// A frame announces more payload than `max_payload_size` (compat C16).
    PayloadTooBig {
        /// The length that the frame announces.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// A message has more frames than `max_fragments` (compat C16).
    TooManyFragments {
        /// The limit.
        max: u32,
    },
    /// A message has more bytes in all its frames than `max_message_size`.
    MessageTooBig {
        /// The length with the frame that exceeds the limit, as its header announces it.
        len: u64,
        /// The limit.
        max: u64,
    },
}

/// What a program may not ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// Opcodes have four bits.
    Opcode(u8),
    /// A close code that may not be sent (compat D2), RFC 6455 section 7.4.
    CloseCode(u16),
    /// A close reason that does not fit into a control frame (compat D2), in bytes of UTF-8.
    CloseReasonTooLong(usize),
    /// A close reason that is not UTF-8, at this byte.
    CloseReasonNotUtf8(u64),
}

impl Error {
    /// The code of the Close frame that tells the peer.
    pub fn close_code(&self) -> u16 {
        let code = match self {
            // "Data within a message that was not consistent with the type of the message" (section
            // 7.4.1); for compressed data no code is defined.
            Error::Peer(
                PeerError::TextNotUtf8(_)
                | PeerError::CloseReasonNotUtf8(_)
                | PeerError::NotDeflate,
            ) => CloseCode::Invalid,
            Error::Peer(_) => CloseCode::Protocol,
            Error::Limit(_) => CloseCode::Size,
            Error::Internal(_) => CloseCode::Error,
        };
        code.into()
    }
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Error {
        Error::Peer(error)
    }
}

impl From<LimitError> for Error {
    fn from(error: LimitError) -> Error {
        Error::Limit(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Peer(error) => error.fmt(f),
            Error::Limit(error) => error.fmt(f),
            Error::Internal(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use PeerError::*;
        match *self {
            ReservedBits(bits) => {
                f.write_str("Reserved bits are set:")?;
                let named = [(4, " RSV1"), (2, " RSV2"), (1, " RSV3")];
                named
                    .iter()
                    .filter(|(bit, _)| bits & bit != 0)
                    .try_for_each(|(_, n)| f.write_str(n))
            }
            ReservedOpcode(opcode) => write!(f, "Reserved opcode {opcode}"),
            FragmentedControl(opcode) => write!(f, "Fragmented control frame ({opcode:?})"),
            OversizedControl(opcode, len) => {
                write!(f, "Control frame ({opcode:?}) of {len} bytes is over the 125 allowed")
            }
            UnexpectedContinuation => {
                f.write_str("Continuation frame without a message to continue")
            }
            InterleavedMessage(opcode) => {
                write!(f, "New data frame ({opcode:?}) inside a fragmented message")
            }
            LengthTopBit(len) => {
                write!(f, "Payload length {len:#x} has the most significant bit set")
            }
            LengthNotMinimal(len) => write!(f, "Payload length {len} is not in its shortest form"),
            NotMasked => f.write_str("Frame from a client is not masked"),
            Masked => f.write_str("Frame from a server is masked"),
            TextNotUtf8(at) => write!(f, "Text message is not valid UTF-8 at byte {at}"),
            NotDeflate => f.write_str("Compressed message cannot be inflated"),
            CloseBodyTooShort => f.write_str("Close frame body of 1 byte"),
            CloseCodeNotAllowed(code) => {
                write!(f, "Close code {code} is not allowed in a Close frame")
            }
            CloseReasonNotUtf8(at) => write!(f, "Close reason is not valid UTF-8 at byte {at}"),
        }
    }
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitError::PayloadTooBig { len, max } => write!(
                f,
                "Payload is too big. Deny big message ({len}) or increase max_payload_size ({max})"
            ),
            LimitError::TooManyFragments { max } => {
                write!(f, "Too many fragments: a message has more than max_fragments ({max})")
            }
            LimitError::MessageTooBig { len, max } => {
                write!(f, "Message is too big: {len} bytes are over max_message_size ({max})")
            }
        }
    }
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misuse::Opcode(opcode) => write!(f, "opcode {opcode} is not between 0 and 15"),
            Misuse::CloseCode(code) => write!(f, "close code {code} may not be sent"),
            Misuse::CloseReasonTooLong(len) => {
                write!(f, "close reason of {len} bytes of UTF-8 is over the 123 allowed")
            }
            Misuse::CloseReasonNotUtf8(at) => {
                write!(f, "close reason is not valid UTF-8 at byte {at}")
            }
        }
    }
}

impl std::error::Error for Error {}
impl std::error::Error for PeerError {}
impl std::error::Error for LimitError {}
impl std::error::Error for Misuse {}
