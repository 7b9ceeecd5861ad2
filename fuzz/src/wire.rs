//! Frames on the wire, RFC 6455 section 5.2, without the code under test.

use std::fmt;

/// The bit of a frame that ends its message.
pub const FIN: u8 = 0x80;
/// The bit of a compressed message's first frame (RFC 7692 section 6).
pub const RSV1: u8 = 0x40;

/// Opcodes, RFC 6455 section 5.2.
pub const CONTINUATION: u8 = 0;
/// See [`CONTINUATION`].
pub const TEXT: u8 = 1;
/// See [`CONTINUATION`].
pub const BINARY: u8 = 2;
/// See [`CONTINUATION`].
pub const CLOSE: u8 = 8;
/// See [`CONTINUATION`].
pub const PING: u8 = 9;
/// See [`CONTINUATION`].
pub const PONG: u8 = 10;

/// A masking key, where there is one.
pub type Key = Option<[u8; 4]>;

/// Bytes that print short, however many they are.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl<T: AsRef<[u8]>> From<T> for Bytes {
    fn from(bytes: T) -> Bytes {
        Bytes(bytes.as_ref().to_vec())
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(60)];
        write!(f, "{} bytes \"{}\"", self.0.len(), shown.escape_ascii())
    }
}

/// What is there of a header.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// FIN, the reserved bits and the opcode.
    pub first: u8,
    /// Whether the mask bit is set.
    pub masked: bool,
    /// The payload's length, where the field is there in full.
    pub len: Option<u64>,
    /// Whether the length is in its shortest form.
    pub shortest: bool,
    /// The masking key, where there is one, in full.
    pub key: Key,
    /// How many bytes the header has, where all of them are there.
    pub size: Option<usize>,
}

impl Head {
    /// What is there of the header at the start of `bytes`; `None` where that is less than two bytes.
    pub fn read(bytes: &[u8]) -> Option<Head> {
        let [first, second, rest @ ..] = bytes else {
            return None;
        };
        let masked = second & 0x80 != 0;
        let field: usize = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let len = (rest.len() >= field).then(|| match field {
            0 => u64::from(second & 0x7F),
            _ => rest[..field].iter().fold(0, |len, &byte| len << 8 | u64::from(byte)),
        });
        let shortest = match (field, len) {
            (2, Some(len)) => len > 125,
            (8, Some(len)) => len > 0xFFFF,
            _ => true,
        };
        let size = 2 + field + if masked { 4 } else { 0 };
        let size = (bytes.len() >= size).then_some(size);
        let key = size.filter(|_| masked).map(|size| {
            let mut key = [0; 4];
            key.copy_from_slice(&bytes[size - 4..size]);
            key
        });
        Some(Head { first: *first, masked, len, shortest, key, size })
    }

    /// The opcode.
    pub fn opcode(&self) -> u8 {
        self.first & 0x0F
    }
}

/// A frame that was on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// FIN, the reserved bits and the opcode.
    pub first: u8,
    /// The payload, unmasked.
    pub payload: Bytes,
}

/// Decodes what a connection has sent, and asserts what holds for all of it: whole frames, whose lengths are in the
/// shortest form, masked if and only if `masked`.
pub fn decode(mut bytes: &[u8], masked: bool) -> Vec<Frame> {
    let mut frames = vec![];
    while !bytes.is_empty() {
        let (frame, rest) = split_frame(bytes, masked);
        bytes = rest.unwrap_or_else(|| panic!("half a frame was sent: {:?}", Bytes::from(bytes)));
        frames.extend(frame);
    }
    frames
}

/// The first frame, and what is behind it; `None` where it is not there in full.
pub fn split_frame(bytes: &[u8], masked: bool) -> (Option<Frame>, Option<&[u8]>) {
    let Some(head) = Head::read(bytes) else {
        return (None, None);
    };
    assert_eq!(head.masked, masked, "mask bit of {head:?}");
    let (Some(len), Some(size)) = (head.len, head.size) else {
        return (None, None);
    };
    assert!(head.shortest && len >> 63 == 0, "length of {head:?}");
    let rest = &bytes[size..];
    if len > rest.len() as u64 {
        return (None, None);
    }
    let (payload, rest) = rest.split_at(len as usize);
    let frame = Frame { first: head.first, payload: Bytes(mask(head.key, payload)) };
    (Some(frame), Some(rest))
}

/// Masks or unmasks.
pub fn mask(key: Key, payload: &[u8]) -> Vec<u8> {
    let mut masked = payload.to_vec();
    if let Some(key) = key {
        // Many at once, for large ones.
        let lane = key.repeat(64);
        for chunk in masked.chunks_mut(lane.len()) {
            chunk.iter_mut().zip(&lane).for_each(|(byte, key)| *byte ^= key);
        }
    }
    masked
}

/// A whole frame.
pub fn frame(first: u8, key: Key, payload: &[u8]) -> Vec<u8> {
    [header(first, key, payload.len() as u64), mask(key, payload)].concat()
}

/// A header whose length is in its shortest form.
pub fn header(first: u8, key: Key, len: u64) -> Vec<u8> {
    match len {
        0..=125 => header_with(first, key, len as u8, &[]),
        126..=0xFFFF => header_with(first, key, 126, &(len as u16).to_be_bytes()),
        _ => header_with(first, key, 127, &len.to_be_bytes()),
    }
}

/// A header with any length field.
pub fn header_with(first: u8, key: Key, short_len: u8, long_len: &[u8]) -> Vec<u8> {
    let mask_bit = if key.is_some() { 0x80 } else { 0 };
    let key = key.map_or(vec![], |key| key.to_vec());
    [&[first, mask_bit | short_len], long_len, &key].concat()
}
