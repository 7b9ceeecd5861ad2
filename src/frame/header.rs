//! The frame header codec (RFC 6455 section 5.2), over tungstenite's `FrameHeader`.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::mask::MaskKey;
use crate::connection::error::PeerError;

/// The longest header: two bytes, a 64-bit length and a masking key.
pub const MAX_HEADER_LEN: usize = 14;

/// A frame's opcode, RFC 6455 section 5.2. Reserved opcodes are not represented: they are an error
/// of the peer, and [`Header::encode_raw`] takes a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A further fragment of the message that is under way.
    Continuation,
    /// The first frame of a text message.
    Text,
    /// The first frame of a binary message.
    Binary,
    /// The Close frame.
    Close,
    /// A Ping.
    Ping,
    /// A Pong.
    Pong,
}

impl Opcode {
    /// The number on the wire.
    pub fn number(self) -> u8 {
        OpCode::from(self).into()
    }

    /// Whether this is a control frame: never fragmented, at most 125 bytes (section 5.5).
    pub fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

impl From<Opcode> for OpCode {
    fn from(opcode: Opcode) -> OpCode {
        match opcode {
            Opcode::Continuation => OpCode::Data(Data::Continue),
            Opcode::Text => OpCode::Data(Data::Text),
            Opcode::Binary => OpCode::Data(Data::Binary),
            Opcode::Close => OpCode::Control(Control::Close),
            Opcode::Ping => OpCode::Control(Control::Ping),
            Opcode::Pong => OpCode::Control(Control::Pong),
        }
    }
}

impl TryFrom<OpCode> for Opcode {
    type Error = PeerError;

    fn try_from(opcode: OpCode) -> Result<Opcode, PeerError> {
        Ok(match opcode {
            OpCode::Data(Data::Continue) => Opcode::Continuation,
            OpCode::Data(Data::Text) => Opcode::Text,
            OpCode::Data(Data::Binary) => Opcode::Binary,
            OpCode::Control(Control::Close) => Opcode::Close,
            OpCode::Control(Control::Ping) => Opcode::Ping,
            OpCode::Control(Control::Pong) => Opcode::Pong,
            OpCode::Data(Data::Reserved(n)) | OpCode::Control(Control::Reserved(n)) => {
                return Err(PeerError::ReservedOpcode(n));
            }
        })
    }
}

/// RSV1 as in [`Header::reserved`].
pub const RSV1: u8 = 4;

/// A decoded frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// FIN: the last (or only) frame of its message.
    pub fin: bool,
    /// RSV1 to RSV3, as the three low bits of a number (RSV1 is 4). Meaningful only to extensions.
    pub reserved: u8,
    /// What the frame is.
    pub opcode: Opcode,
    /// The masking key, where the frame is masked.
    pub key: Option<MaskKey>,
    /// Length of the payload in bytes.
    pub payload_len: u64,
}

impl Header {
    /// Decodes the header at the start of `bytes`, and tells how many bytes it took; `None` where
    /// it has not fully arrived.
    ///
    /// # Errors
    /// What no header may say: a reserved opcode, or a length that is not in its shortest form or
    /// has the top bit set. Errors of the length are found as soon as the length is there, before
    /// the masking key.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Header, usize)>, PeerError> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        let opcode = Opcode::try_from(OpCode::from(first & 0x0F))?;
        // "If 127, the following 8 bytes interpreted as a 64-bit unsigned integer (the most
        // significant bit MUST be 0) ... the minimal number of bytes MUST be used to encode the
        // length" (section 5.2).
        let payload_len = match second & 0x7F {
            126 => {
                let Some(&length) = rest.first_chunk::<2>() else {
                    return Ok(None);
                };
                let length = u64::from(u16::from_be_bytes(length));
                if length < 126 {
                    return Err(PeerError::LengthNotMinimal(length));
                }
                length
            }
            127 => {
                let Some(&length) = rest.first_chunk::<8>() else {
                    return Ok(None);
                };
                let length = u64::from_be_bytes(length);
                if length >> 63 != 0 {
                    return Err(PeerError::LengthTopBit(length));
                }
                if length <= 0xFFFF {
                    return Err(PeerError::LengthNotMinimal(length));
                }
                length
            }
            short => u64::from(short),
        };
        let len = Header::encoded_len(payload_len, second & 0x80 != 0);
        if bytes.len() < len {
            return Ok(None);
        }
        let key = (second & 0x80 != 0).then(|| {
            let mut key = [0; 4];
            key.copy_from_slice(&bytes[len - 4..len]);
            MaskKey(key)
        });
        let header = Header {
            fin: first & 0x80 != 0,
            reserved: first >> 4 & 0b111,
            opcode,
            key,
            payload_len,
        };
        Ok(Some((header, len)))
    }

    /// Length in bytes of the header of a frame with a payload of `payload_len` bytes.
    pub fn encoded_len(payload_len: u64, masked: bool) -> usize {
        FrameHeader { mask: masked.then_some([0; 4]), ..FrameHeader::default() }.len(payload_len)
    }

    /// Encodes the header of an unfragmented frame with opcode number `opcode`, which may be a
    /// reserved one: `send` of a ready-made message puts on the wire what the program asked for
    /// (compat D2). `reserved` is as in a decoded header.
    ///
    /// # Panics
    /// Where `opcode` has more than four bits.
    pub fn encode_raw(
        opcode: u8,
        reserved: u8,
        payload_len: u64,
        key: Option<MaskKey>,
    ) -> EncodedHeader {
        let header = FrameHeader {
            is_final: true,
            rsv1: reserved & RSV1 != 0,
            rsv2: reserved & 2 != 0,
            rsv3: reserved & 1 != 0,
            opcode: OpCode::from(opcode),
            mask: key.map(|key| key.0),
        };
        let mut bytes = [0; MAX_HEADER_LEN];
        let mut cursor = Cursor::new(&mut bytes[..]);
        header.format(payload_len, &mut cursor).expect("the longest header fits");
        let len = cursor.position() as u8;
        EncodedHeader { bytes, len }
    }
}

/// A header ready for the wire.
#[derive(Clone, Copy, Debug)]
pub struct EncodedHeader {
    bytes: [u8; MAX_HEADER_LEN],
    len: u8,
}

impl AsRef<[u8]> for EncodedHeader {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_header_is_incomplete_at_every_cut() {
        let encoded = Header::encode_raw(2, RSV1, 70_000, Some(MaskKey([1, 2, 3, 4])));
        let bytes = encoded.as_ref();
        assert_eq!(bytes.len(), MAX_HEADER_LEN);
        for cut in 0..bytes.len() {
            assert_eq!(Header::decode(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
    }

    #[test]
    fn lengths_that_are_not_minimal_are_refused_before_the_key() {
        assert_eq!(Header::decode(&[0x82, 126, 0, 125]), Err(PeerError::LengthNotMinimal(125)));
        assert_eq!(
            Header::decode(&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]),
            Err(PeerError::LengthNotMinimal(65_535))
        );
        assert_eq!(
            Header::decode(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]),
            Err(PeerError::LengthTopBit(1 << 63))
        );
    }

    #[test]
    fn reserved_opcodes_are_refused_by_number() {
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            assert_eq!(Header::decode(&[0x80 | opcode, 0]), Err(PeerError::ReservedOpcode(opcode)));
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(
            opcode in prop::sample::select(vec![0u8, 1, 2, 8, 9, 10]),
            payload_len in prop_oneof![0u64..300, 65_000u64..66_000, any::<u64>().prop_map(|n| n >> 1)],
            key in any::<Option<[u8; 4]>>(),
            reserved in 0_u8..8,
        ) {
            let key = key.map(MaskKey);
            let encoded = Header::encode_raw(opcode, reserved, payload_len, key);
            let (header, len) = Header::decode(encoded.as_ref()).unwrap().unwrap();
            prop_assert_eq!(len, encoded.as_ref().len());
            prop_assert_eq!(len, Header::encoded_len(payload_len, key.is_some()));
            prop_assert_eq!(header.opcode.number(), opcode);
            prop_assert_eq!(header.payload_len, payload_len);
            prop_assert_eq!(header.key, key);
            prop_assert!(header.fin);
            prop_assert_eq!(header.reserved, reserved);
        }

        #[test]
        fn tungstenite_reads_the_same_header(bytes in prop::collection::vec(any::<u8>(), 14)) {
            let theirs = FrameHeader::parse(&mut Cursor::new(&bytes));
            if let Ok(Some((header, len))) = Header::decode(&bytes) {
                let (theirs, payload_len) = theirs.unwrap().unwrap();
                prop_assert_eq!(header.payload_len, payload_len);
                prop_assert_eq!(OpCode::from(header.opcode), theirs.opcode);
                prop_assert_eq!(header.key.map(|key| key.0), theirs.mask);
                prop_assert_eq!(header.fin, theirs.is_final);
                prop_assert_eq!(theirs.len(payload_len), len);
            }
        }
    }
}
