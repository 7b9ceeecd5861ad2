//! Frames on the wire, RFC 6455 section 5.2, without the code under test.

use std::fmt;

pub const FIN: u8 = 0x80;
pub const RSV1: u8 = 0x40;
pub const RSV2: u8 = 0x20;
pub const RSV3: u8 = 0x10;

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

pub type Key = Option<[u8; 4]>;

/// The key of the examples in section 5.7: four different bytes, so that no shift goes unnoticed.
pub const KEY: Key = Some([0x37, 0xFA, 0x21, 0x3D]);

/// What most inputs are tried with: frames as servers send them and as clients do.
pub const BOTH_KEYS: [Key; 2] = [None, KEY];

/// A payload that prints short, however long it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Body(pub Vec<u8>);

impl<T: AsRef<[u8]>> From<T> for Body {
    fn from(bytes: T) -> Body {
        Body(bytes.as_ref().to_vec())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(40)];
        write!(f, "{} bytes \"{}\"", self.0.len(), shown.escape_ascii())
    }
}

/// A frame that a connection has put on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub opcode: u8,
    pub payload: Body,
}

pub fn sent(opcode: u8, payload: impl Into<Body>) -> Sent {
    Sent { opcode, payload: payload.into() }
}

/// A Close frame with a code and no reason.
pub fn sent_close(code: u16) -> Sent {
    sent(CLOSE, code.to_be_bytes())
}

/// A whole frame; `first` is FIN, the reserved bits and the opcode.
pub fn frame(first: u8, key: Key, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    [header(first, key, payload.len() as u64), masked(key, payload)].concat()
}

/// A Close frame.
pub fn close_frame(key: Key, code: u16, reason: impl AsRef<[u8]>) -> Vec<u8> {
    frame(FIN | CLOSE, key, [&code.to_be_bytes(), reason.as_ref()].concat())
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

fn masked(key: Key, payload: &[u8]) -> Vec<u8> {
    let key = key.unwrap_or_default();
    payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect()
}

/// Decodes what a connection sent, and asserts what holds for all of it: whole frames, each with
/// FIN and no reserved bit, its length in the shortest form, masked if and only if `masking`.
/// Returns the frames and their keys.
pub fn decode_with_keys(mut bytes: &[u8], masking: bool) -> Vec<(Sent, Key)> {
    let mut frames = vec![];
    while !bytes.is_empty() {
        let (first, second) = (bytes[0], bytes[1]);
        assert_eq!(first & 0xF0, FIN, "FIN and nothing else");
        assert_eq!(second & 0x80 != 0, masking, "mask bit");
        let (len, at) = match second & 0x7F {
            126 => (u64::from(u16::from_be_bytes(bytes[2..4].try_into().unwrap())), 4),
            127 => (u64::from_be_bytes(bytes[2..10].try_into().unwrap()), 10),
            len => (u64::from(len), 2),
        };
        let key = masking.then(|| <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
        let start = header(first, key, len);
        assert_eq!(bytes[..start.len()], start, "the shortest header");
        let payload;
        (payload, bytes) = bytes[start.len()..].split_at(len as usize);
        frames.push((sent(first & 0x0F, masked(key, payload)), key));
    }
    frames
}

pub fn decode(bytes: &[u8], masking: bool) -> Vec<Sent> {
    decode_with_keys(bytes, masking).into_iter().map(|(frame, _)| frame).collect()
}
