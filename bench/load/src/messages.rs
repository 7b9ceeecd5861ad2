//! What the messages contain: a stamp that names connection and sequence
//! number, then filler that differs from one message to the next. Where
//! compression is measured they are texts.

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Data, OpCode},
};

use crate::{args::Wire, texts::Texts};

/// Bytes of the stamp, the least a message can hold.
pub const STAMP: usize = 16;

/// Frames from this size on go out straight from the filler, without a copy.
pub const GATHERED: usize = 64 << 10;

/// Head and stamp of such a frame: the long form of the length and a mask.
pub const GATHERED_START: usize = 14 + STAMP;

/// How far apart in the filler two messages can begin.
const SPREAD: usize = 4096;

pub struct Messages {
    wire: Wire,
    texts: Texts,
    payload: usize,
    run: u32,
    plain: Vec<u8>,
    /// The filler masked beforehand with `key`. One fixed key for all large
    /// frames spares the client the masking, so that it is not the client
    /// that is measured; the server has to unmask all the same, which it
    /// could skip for a key of zero.
    masked: Vec<u8>,
    key: [u8; 4],
}

impl Messages {
    pub fn new(payload: usize, wire: Wire) -> Self {
        // Without WebSocket, what its frames have beside the payload is part
        // of the message: as many bytes go to the server.
        let key = match wire {
            Wire::Raw => [0; 4],
            _ => fastrand::u32(1..).to_ne_bytes(),
        };
        let payload = match wire {
            Wire::Raw => payload + head(key).len(payload as u64),
            _ => payload,
        };
        let texts = if wire == Wire::Deflate { Texts::new(payload) } else { Texts::none() };
        let mut plain = vec![0; payload - STAMP + SPREAD];
        fastrand::fill(&mut plain);
        let mut masked = Vec::new();
        if payload >= GATHERED {
            extend_masked(&mut masked, &plain, key);
        }
        Messages { wire, texts, payload, run: fastrand::u32(..), plain, masked, key }
    }

    pub fn wire(&self) -> Wire {
        self.wire
    }

    pub fn texts(&self) -> &Texts {
        &self.texts
    }

    pub fn payload(&self) -> usize {
        self.payload
    }

    pub fn stamp(&self, connection: u32, seq: u64) -> [u8; STAMP] {
        let mut stamp = [0; STAMP];
        stamp[..8].copy_from_slice(&seq.to_le_bytes());
        stamp[8..12].copy_from_slice(&connection.to_le_bytes());
        stamp[12..].copy_from_slice(&self.run.to_le_bytes());
        stamp
    }

    pub fn describe_stamp(&self, stamp: &[u8]) -> String {
        let number =
            |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
        if number(&stamp[12..STAMP]) == u64::from(self.run) {
            format!("message {} of connection {}", number(&stamp[..8]), number(&stamp[8..12]))
        } else {
            format!("a payload that begins with {stamp:02x?}")
        }
    }

    pub fn filler(&self, connection: u32, seq: u64) -> &[u8] {
        &self.plain[self.filler_range(connection, seq)]
    }

    pub fn masked_filler(&self, connection: u32, seq: u64) -> &[u8] {
        &self.masked[self.filler_range(connection, seq)]
    }

    /// Begins at a multiple of four, so that the phase of the mask is the
    /// same for every message.
    fn filler_range(&self, connection: u32, seq: u64) -> std::ops::Range<usize> {
        let step = seq.wrapping_mul(7).wrapping_add(u64::from(connection) * 13);
        let begin = (step % (SPREAD as u64 / 4)) as usize * 4;
        begin..begin + self.payload - STAMP
    }

    /// A key for a frame that is masked as it is sent.
    pub fn fresh_key(&self) -> [u8; 4] {
        match self.wire {
            Wire::Raw => [0; 4],
            _ => fastrand::u32(..).to_ne_bytes(),
        }
    }

    pub fn append_frame(&self, out: &mut Vec<u8>, connection: u32, seq: u64, key: [u8; 4]) {
        if self.wire == Wire::Deflate {
            let compressed = self.texts.compressed(connection, seq);
            let text = FrameHeader { opcode: OpCode::Data(Data::Text), rsv1: true, ..head(key) };
            write_head(out, &text, compressed.len());
            extend_masked(out, compressed, key);
        } else {
            self.append_head(out, key);
            extend_masked(out, &self.stamp(connection, seq), key);
            extend_masked(out, self.filler(connection, seq), key);
        }
    }

    /// Head and stamp of a frame whose rest is `masked_filler`.
    pub fn gathered_start(&self, connection: u32, seq: u64) -> Vec<u8> {
        let mut start = Vec::with_capacity(GATHERED_START);
        self.append_head(&mut start, self.key);
        extend_masked(&mut start, &self.stamp(connection, seq), self.key);
        start
    }

    fn append_head(&self, out: &mut Vec<u8>, key: [u8; 4]) {
        if self.wire != Wire::Raw {
            write_head(out, &head(key), self.payload);
        }
    }
}

fn head(key: [u8; 4]) -> FrameHeader {
    FrameHeader { opcode: OpCode::Data(Data::Binary), mask: Some(key), ..FrameHeader::default() }
}

fn write_head(out: &mut Vec<u8>, head: &FrameHeader, length: usize) {
    head.format(length as u64, out).expect("writing to memory does not fail");
}

/// The bytes already in `out` must leave the mask at its first byte.
fn extend_masked(out: &mut Vec<u8>, bytes: &[u8], key: [u8; 4]) {
    let begin = out.len();
    out.extend_from_slice(bytes);
    let word = u32::from_ne_bytes(key);
    let mut chunks = out[begin..].chunks_exact_mut(4);
    for chunk in &mut chunks {
        let masked = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]) ^ word;
        chunk.copy_from_slice(&masked.to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(key) {
        *byte ^= key;
    }
}
