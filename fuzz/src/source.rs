//! Reads an input: numbers, bytes, and payloads that are described.

/// How much may come of one input, so that none takes long.
pub const EXPANDED: usize = 150_000;

/// Lengths at which something changes: of the length fields, of reading directly, of recycled blocks, of buffers.
const LENGTHS: [usize; 16] = [
    124, 125, 126, 127, 128, 1023, 4096, 16_383, 16_384, 16_400, 32_768, 32_770, 65_535, 65_536,
    65_537, 132_097,
];

/// What is left of an input. Where nothing is, numbers are 0.
pub struct Source<'a> {
    rest: &'a [u8],
    /// How much payload may still be made.
    budget: usize,
}

impl<'a> Source<'a> {
    /// For all of an input.
    pub fn new(input: &'a [u8]) -> Source<'a> {
        Source { rest: input, budget: EXPANDED }
    }

    /// Whether nothing is left.
    pub fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// Whether the next byte is odd.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// The next two bytes as a number.
    pub fn number(&mut self) -> u16 {
        u16::from(self.byte()) << 8 | u16::from(self.byte())
    }

    /// The next bytes, as many as there are of them.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        bytes
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }

    /// The next four bytes, as a masking key.
    pub fn key(&mut self) -> [u8; 4] {
        std::array::from_fn(|_| self.byte())
    }

    /// A payload: in the first byte the length of a piece that follows, and what is made of it.
    pub fn payload(&mut self) -> Vec<u8> {
        let kind = self.byte();
        let piece = self.bytes(usize::from(kind & 0x3f));
        let mut payload = match kind >> 6 {
            0 => piece.to_vec(),
            1 => piece.repeat(usize::from(self.byte())),
            2 => {
                let len = LENGTHS[usize::from(self.byte()) % LENGTHS.len()];
                let len = len.min(self.budget);
                let mut payload = piece.repeat(len / piece.len().max(1) + 1);
                payload.truncate(len);
                payload
            }
            _ => {
                let len = usize::from(self.number()).min(self.budget);
                noise(piece, len)
            }
        };
        payload.truncate(self.budget);
        self.budget -= payload.len();
        payload
    }
}

/// Bytes that hardly compress, always the same for the same piece.
fn noise(piece: &[u8], len: usize) -> Vec<u8> {
    let mix = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    let mut state = piece.iter().fold(0xCBF2_9CE4_8422_2325, mix) | 1;
    let mut noise = Vec::with_capacity(len + 8);
    while noise.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend(state.to_le_bytes());
    }
    noise.truncate(len);
    noise
}
