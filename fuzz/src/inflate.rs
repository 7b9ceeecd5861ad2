//! Inflates what was compressed, by another implementation than the core's, and with the window that was agreed
//! upon and no larger one: what refers to something further back is an error.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// "Append 4 octets of 0x00 0x00 0xff 0xff to the tail end of the payload" (RFC 7692 section 7.2.2).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// One direction of a connection.
pub struct Inflate {
    core: Box<DecompressorOxide>,
    window: Vec<u8>,
    at: usize,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is not deflate, or refers to what is not in the window.
    Damaged,
    /// It has a final block.
    Final,
    /// It is longer than was allowed.
    TooLong,
}

impl Inflate {
    /// With a window of this many bits.
    pub fn new(window_bits: u8) -> Inflate {
        Inflate { core: Box::default(), window: vec![0; 1 << window_bits], at: 0 }
    }

    /// Forgets what came before.
    pub fn reset(&mut self) {
        self.core.init();
        self.at = 0;
    }

    /// What a message comes to, `max` bytes at most.
    pub fn message(&mut self, payload: &[u8], max: usize) -> Result<Vec<u8>, Wrong> {
        let input = [payload, &TAIL].concat();
        let mut input = &input[..];
        let mut out = vec![];
        loop {
            let Inflate { core, window, at } = self;
            let (status, read, written) =
                decompress(core, input, window, *at, TINFL_FLAG_HAS_MORE_INPUT);
            input = &input[read..];
            out.extend_from_slice(&window[*at..*at + written]);
            *at = (*at + written) % window.len();
            if out.len() > max {
                return Err(Wrong::TooLong);
            }
            match status {
                TINFLStatus::NeedsMoreInput if input.is_empty() => return Ok(out),
                TINFLStatus::HasMoreOutput | TINFLStatus::NeedsMoreInput => {}
                TINFLStatus::Done => return Err(Wrong::Final),
                _ => return Err(Wrong::Damaged),
            }
        }
    }
}
