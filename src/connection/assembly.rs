//! A message put together from what arrives piece by piece.

use super::error::{Error, PeerError};
use crate::block::Block;
use crate::frame::utf8::Utf8Validator;
use crate::frame::{MaskKey, Opcode};

/// A data message under way.
#[derive(Debug)]
pub struct Assembly {
    /// What the first frame said: text or binary.
    pub opcode: Opcode,
    /// How many frames it has so far, the current one included.
    pub fragments: u32,
    /// Whether it comes compressed. The block holds it inflated.
    pub compressed: bool,
    /// How many bytes the current frame's payload so far was inflated to.
    pub inflated: u64,
    /// The payload so far. Its end, from `done` on, is as it came from the wire.
    pub block: Block,
    /// How many bytes of the block are unmasked and valid.
    done: usize,
    utf8: Option<Utf8Validator>,
}

impl Assembly {
    pub fn new(opcode: Opcode, compressed: bool, validate_utf8: bool) -> Assembly {
        let utf8 = (validate_utf8 && opcode == Opcode::Text).then(Utf8Validator::default);
        let block = Block::new();
        Assembly { opcode, fragments: 1, compressed, inflated: 0, block, done: 0, utf8 }
    }

    /// How many bytes have been appended since the last [`settle`](Self::settle).
    pub fn unsettled(&self) -> usize {
        self.block.len() - self.done
    }

    /// Unmasks and validates what has been put into the block.
    pub fn settle(&mut self, key: Option<MaskKey>) -> Result<(), Error> {
        if let Some(key) = key {
            key.apply(&mut self.block[self.done..]);
        }
        self.validate()
    }

    /// Appends bytes from the wire and settles them in one go; for `limit` see [`Block::reserve`].
    pub fn append(
        &mut self,
        bytes: &[u8],
        key: Option<MaskKey>,
        limit: usize,
    ) -> Result<(), Error> {
        self.block.extend_unmasked(bytes, key, limit);
        self.validate()
    }

    /// Text fails at the first bad byte, though its frame may not have arrived in full: "When an
    /// endpoint is to interpret a byte stream as UTF-8 but finds that the byte stream is not, in fact,
    /// a valid UTF-8 stream, that endpoint MUST _Fail the WebSocket Connection_" (RFC 6455 section
    /// 8.1).
    fn validate(&mut self) -> Result<(), Error> {
        if let Some(utf8) = &mut self.utf8 {
            utf8.update(&self.block[self.done..]).map_err(PeerError::TextNotUtf8)?;
        }
        self.done = self.block.len();
        Ok(())
    }

    /// The whole message.
    pub fn finish(self) -> Result<(Opcode, Block), Error> {
        if let Some(utf8) = &self.utf8 {
            utf8.finish().map_err(PeerError::TextNotUtf8)?;
        }
        Ok((self.opcode, self.block))
    }
}
