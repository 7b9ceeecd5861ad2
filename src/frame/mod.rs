//! WebSocket frames, RFC 6455 section 5: header codec, masking and incremental UTF-8.

pub mod header;
pub mod key;
pub mod mask;
pub mod utf8;

pub use header::{Header, Opcode};
pub use mask::MaskKey;
