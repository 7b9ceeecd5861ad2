//! What one connection gets back where texts are compressed: each the text that
//! was sent, once, in order.

use flate2::{Decompress, FlushDecompress};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::{echo_check::head, messages::Messages, texts::TAIL};

/// Room for a text, and for one that is wrongly much longer.
const ROOM: usize = 1 << 20;

pub struct TextCheck {
    connection: u32,
    expected: u64,
    /// The beginning of a frame that is not all there.
    held: Vec<u8>,
    inflate: Decompress,
    text: Vec<u8>,
    close_sent: bool,
    closed: bool,
    compressed: u64,
    received: u64,
}

impl TextCheck {
    pub fn new(connection: u32) -> Self {
        TextCheck {
            connection,
            expected: 0,
            held: Vec::new(),
            inflate: Decompress::new(false),
            text: Vec::with_capacity(ROOM),
            close_sent: false,
            closed: false,
            compressed: 0,
            received: 0,
        }
    }

    pub fn expected(&self) -> u64 {
        self.expected
    }

    pub fn close_sent(&mut self) {
        self.close_sent = true;
    }

    /// How many messages came compressed, and how many bytes all were, heads
    /// included.
    pub fn received(&self) -> (u64, u64) {
        (self.compressed, self.received)
    }

    pub fn feed(&mut self, messages: &Messages, sent: u64, data: &[u8]) -> Result<(), String> {
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(data);
        let mut used = 0;
        while let Some(size) = self.frame(messages, sent, &held[used..])? {
            used += size;
        }
        held.drain(..used);
        self.held = held;
        Ok(())
    }

    /// Takes one frame, if all of it is there, and says how long it is.
    fn frame(
        &mut self,
        messages: &Messages,
        sent: u64,
        source: &[u8],
    ) -> Result<Option<usize>, String> {
        if source.is_empty() {
            return Ok(None);
        }
        if self.closed {
            return Err(self.wrong("data after the Close frame"));
        }
        let Some((head, length, size)) = head(source).map_err(|what| self.wrong(&what))? else {
            return Ok(None);
        };
        let whole = size + length as usize;
        let Some(payload) = source.get(size..whole) else {
            return Ok(None);
        };
        match head.opcode {
            OpCode::Data(Data::Text) => {}
            OpCode::Control(Control::Close) if self.close_sent => {
                self.closed = true;
                return Ok(Some(whole));
            }
            other => return Err(self.wrong(&format!("the opcode is {other}, not TEXT"))),
        }
        if self.expected >= sent {
            return Err(self.wrong("it came before it was sent"));
        }
        let text = if head.rsv1 {
            self.compressed += 1;
            inflate(&mut self.inflate, payload, &mut self.text)
                .map_err(|what| self.wrong(&what))?;
            &self.text
        } else {
            payload
        };
        if text != messages.texts().plain(self.connection, self.expected) {
            return Err(self.wrong(&format!("another text came, of {} bytes", text.len())));
        }
        self.expected += 1;
        self.received += whole as u64;
        Ok(Some(whole))
    }

    pub fn end(&self) -> Result<(), String> {
        if self.closed {
            Ok(())
        } else {
            Err(self.wrong("the server ended the connection without a Close frame"))
        }
    }

    pub fn wrong(&self, what: &str) -> String {
        format!("connection {}, at the echo of text {}: {what}", self.connection, self.expected)
    }
}

fn inflate(inflate: &mut Decompress, payload: &[u8], text: &mut Vec<u8>) -> Result<(), String> {
    text.clear();
    for piece in [payload, &TAIL] {
        let before = inflate.total_in();
        inflate.decompress_vec(piece, text, FlushDecompress::Sync).map_err(|e| e.to_string())?;
        if inflate.total_in() - before != piece.len() as u64 {
            return Err("it inflates to more than a mebibyte, or ends early".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Wire;

    fn frame(messages: &Messages, seq: u64) -> Vec<u8> {
        let compressed = messages.texts().compressed(3, seq);
        let mut bytes = vec![0xC1, 126];
        bytes.extend((compressed.len() as u16).to_be_bytes());
        bytes.extend(compressed);
        bytes
    }

    #[test]
    fn texts_survive_any_split() {
        let messages = Messages::new(1100, Wire::Deflate);
        let bytes: Vec<u8> = (0..300).flat_map(|seq| frame(&messages, seq)).collect();
        for step in [1, 7, 500, 100_000] {
            let mut check = TextCheck::new(3);
            for piece in bytes.chunks(step) {
                check.feed(&messages, 300, piece).unwrap();
            }
            assert_eq!(check.expected(), 300);
            assert_eq!(check.received(), (300, bytes.len() as u64));
        }
    }

    #[test]
    fn another_text_is_an_error() {
        let messages = Messages::new(1100, Wire::Deflate);
        let mut check = TextCheck::new(3);
        let what = check.feed(&messages, 5, &frame(&messages, 1)).unwrap_err();
        assert!(what.contains("another text"), "{what}");
    }

    #[test]
    fn texts_compress_as_json_does() {
        let (plain, compressed) = Messages::new(1100, Wire::Deflate).texts().sizes();
        assert!((2..6).contains(&(plain / compressed)), "{plain} {compressed}");
    }
}
