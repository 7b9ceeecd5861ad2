//! What one connection gets back must be what it sent: every frame whole,
//! once, in order. Compares as the bytes arrive, so that a large message
//! need not be put together first.

use std::io::Cursor;

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use crate::{
    args::Wire,
    messages::{GATHERED_START, Messages, STAMP},
};

/// The longest payload a Close frame may have.
const CLOSE_PAYLOAD: u64 = 125;

pub struct EchoCheck {
    connection: u32,
    /// The message that must come back next.
    expected: u64,
    state: State,
    /// The beginning of a frame of which head and stamp are not all there.
    held: Vec<u8>,
    close_sent: bool,
}

enum State {
    Start,
    /// So many bytes of the filler have been compared.
    Filler(usize),
    /// So many bytes of the Close frame are to come.
    Close(usize),
    Closed,
}

impl EchoCheck {
    pub fn new(connection: u32) -> Self {
        EchoCheck {
            connection,
            expected: 0,
            state: State::Start,
            held: Vec::with_capacity(GATHERED_START),
            close_sent: false,
        }
    }

    pub fn expected(&self) -> u64 {
        self.expected
    }

    pub fn close_sent(&mut self) {
        self.close_sent = true;
    }

    /// Looks at the next bytes from the server, to which the messages before
    /// `sent` have gone.
    pub fn feed(&mut self, messages: &Messages, sent: u64, mut data: &[u8]) -> Result<(), String> {
        while !data.is_empty() {
            match self.state {
                State::Start => {
                    let had = self.held.len();
                    let source = if had == 0 {
                        data
                    } else {
                        let more = data.len().min(GATHERED_START - had);
                        self.held.extend_from_slice(&data[..more]);
                        &self.held
                    };
                    match self.start(messages, sent, source)? {
                        Some((used, state)) => {
                            data = &data[used - had..];
                            self.held.clear();
                            self.state = state;
                        }
                        None => {
                            if had == 0 {
                                self.held.extend_from_slice(data);
                            }
                            return Ok(());
                        }
                    }
                }
                State::Filler(compared) => {
                    let rest = &messages.filler(self.connection, self.expected)[compared..];
                    let n = rest.len().min(data.len());
                    if data[..n] != rest[..n] {
                        let at = data.iter().zip(rest).take_while(|(a, b)| a == b).count();
                        return Err(self.wrong(&format!(
                            "the payload differs at byte {}: {:02x} came, {:02x} was sent",
                            STAMP + compared + at,
                            data[at],
                            rest[at]
                        )));
                    }
                    data = &data[n..];
                    self.state = State::Filler(compared + n);
                }
                State::Close(left) => {
                    let n = left.min(data.len());
                    data = &data[n..];
                    self.state = State::Close(left - n);
                }
                State::Closed => return Err(self.wrong("data after the Close frame")),
            }
            match self.state {
                State::Filler(compared) if compared == messages.payload() - STAMP => {
                    self.expected += 1;
                    self.state = State::Start;
                }
                State::Close(0) => self.state = State::Closed,
                _ => {}
            }
        }
        Ok(())
    }

    /// The server has closed its side.
    pub fn end(&self, messages: &Messages) -> Result<(), String> {
        match self.state {
            State::Closed => Ok(()),
            State::Start
                if messages.wire() == Wire::Raw && self.close_sent && self.held.is_empty() =>
            {
                Ok(())
            }
            _ => Err(self.wrong("the server ended the connection without a Close frame")),
        }
    }

    /// Takes the beginning of a frame, if all of it is there: says how long
    /// it is and what follows.
    fn start(
        &self,
        messages: &Messages,
        sent: u64,
        source: &[u8],
    ) -> Result<Option<(usize, State)>, String> {
        if messages.wire() == Wire::Raw {
            return self.stamp(messages, sent, source, 0);
        }
        let Some((head, length, size)) = head(source).map_err(|what| self.wrong(&what))? else {
            return Ok(None);
        };
        if head.rsv1 {
            return Err(self.wrong("a reserved bit is set"));
        }
        match head.opcode {
            OpCode::Data(Data::Binary) => {}
            OpCode::Control(Control::Close) if self.close_sent => {
                if length > CLOSE_PAYLOAD {
                    return Err(self.wrong(&format!("a Close frame of {length} bytes")));
                }
                return Ok(Some((size, State::Close(length as usize))));
            }
            other => return Err(self.wrong(&format!("the opcode is {other}, not BINARY"))),
        }
        if length != messages.payload() as u64 {
            return Err(
                self.wrong(&format!("the payload is {length} bytes, not {}", messages.payload()))
            );
        }
        self.stamp(messages, sent, source, size)
    }

    fn stamp(
        &self,
        messages: &Messages,
        sent: u64,
        source: &[u8],
        size: usize,
    ) -> Result<Option<(usize, State)>, String> {
        let Some(stamp) = source.get(size..size + STAMP) else {
            return Ok(None);
        };
        if stamp != messages.stamp(self.connection, self.expected) {
            return Err(self.wrong(&format!(
                "lost, repeated or out of order: {} came",
                messages.describe_stamp(stamp)
            )));
        }
        if self.expected >= sent {
            return Err(self.wrong("it came before it was sent"));
        }
        Ok(Some((size + STAMP, State::Filler(0))))
    }

    pub fn wrong(&self, what: &str) -> String {
        format!("connection {}, at the echo of message {}: {what}", self.connection, self.expected)
    }
}

/// The head of a whole frame as only a server may send it, the length of the
/// payload, and its own, if all of it is there. Whether the first reserved bit
/// may be set is for the caller to say.
pub fn head(source: &[u8]) -> Result<Option<(FrameHeader, u64, usize)>, String> {
    let mut cursor = Cursor::new(source);
    let Some((head, length)) = FrameHeader::parse(&mut cursor).map_err(|e| e.to_string())? else {
        return Ok(None);
    };
    let size = cursor.position() as usize;
    if head.rsv2 || head.rsv3 {
        return Err("a reserved bit is set".into());
    }
    if head.mask.is_some() {
        return Err("the frame is masked, which a server must not do".into());
    }
    if size != head.len(length) {
        return Err(format!("the length {length} is not in its shortest form"));
    }
    if !head.is_final {
        return Err("the frame is only a fragment".into());
    }
    Ok(Some((head, length, size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: usize = 300;

    fn frame(messages: &Messages, seq: u64) -> Vec<u8> {
        let mut bytes = vec![0x82, 126, 1, 44];
        bytes.extend(messages.stamp(7, seq));
        bytes.extend(messages.filler(7, seq));
        bytes
    }

    fn complaint(bytes: impl FnOnce(&Messages) -> Vec<u8>) -> String {
        let messages = Messages::new(PAYLOAD, Wire::WebSocket);
        let mut check = EchoCheck::new(7);
        check.feed(&messages, 5, &frame(&messages, 0)).unwrap();
        check.feed(&messages, 5, &bytes(&messages)).unwrap_err()
    }

    #[test]
    fn any_split_is_accepted() {
        let messages = Messages::new(PAYLOAD, Wire::WebSocket);
        let mut bytes = Vec::new();
        (0..5).for_each(|seq| bytes.extend(frame(&messages, seq)));
        for step in 1..bytes.len() {
            let mut check = EchoCheck::new(7);
            for piece in bytes.chunks(step) {
                check.feed(&messages, 5, piece).unwrap();
            }
            assert_eq!(check.expected(), 5);
            check.close_sent();
            check.feed(&messages, 5, &[0x88, 2, 3]).unwrap();
            assert!(check.end(&messages).is_err());
            check.feed(&messages, 5, &[232]).unwrap();
            check.end(&messages).unwrap();
            assert!(check.feed(&messages, 5, &[0]).is_err());
        }
    }

    #[test]
    fn a_message_may_be_its_stamp_alone() {
        let messages = Messages::new(STAMP, Wire::WebSocket);
        let mut check = EchoCheck::new(1);
        for seq in 0..3 {
            let mut bytes = vec![0x82, 16];
            bytes.extend(messages.stamp(1, seq));
            check.feed(&messages, 3, &bytes).unwrap();
            assert_eq!(check.expected(), seq + 1);
        }
    }

    #[test]
    fn without_websocket_the_message_alone_comes_back() {
        let messages = Messages::new(PAYLOAD, Wire::Raw);
        assert_eq!(messages.payload(), PAYLOAD + 8);
        let mut frame = Vec::new();
        messages.append_frame(&mut frame, 7, 0, messages.fresh_key());
        assert_eq!(frame.len(), messages.payload());
        let mut check = EchoCheck::new(7);
        check.feed(&messages, 1, &frame).unwrap();
        assert_eq!(check.expected(), 1);
        assert!(check.end(&messages).is_err());
        check.close_sent();
        check.end(&messages).unwrap();
        check.feed(&messages, 1, &[0]).unwrap();
        assert!(check.end(&messages).is_err());
    }

    #[test]
    fn wrong_order_is_named() {
        assert!(complaint(|m| frame(m, 2)).contains("message 1: lost, repeated or out of order"));
        assert!(complaint(|m| frame(m, 0)).contains("message 0 of connection 7 came"));
    }

    #[test]
    fn an_echo_of_nothing_is_named() {
        let messages = Messages::new(PAYLOAD, Wire::WebSocket);
        let mut check = EchoCheck::new(7);
        let what = check.feed(&messages, 0, &frame(&messages, 0)).unwrap_err();
        assert!(what.contains("before it was sent"), "{what}");
    }

    #[test]
    fn every_byte_of_a_frame_counts() {
        for at in 0..PAYLOAD + 4 {
            let what = complaint(|m| {
                let mut bytes = frame(m, 1);
                bytes[at] ^= 1;
                bytes
            });
            if at >= STAMP + 4 {
                assert!(what.contains(&format!("at byte {}", at - 4)), "{what}");
            }
        }
    }

    #[test]
    fn wrong_heads_are_named() {
        for (head, word) in [
            (&[0x02, 126, 1, 44][..], "fragment"),
            (&[0xC2, 126, 1, 44], "reserved bit"),
            (&[0x81, 126, 1, 44], "TEXT"),
            (&[0x88, 2], "CLOSE"),
            (&[0x89, 0], "PING"),
            (&[0x83, 0], "opcode"),
            (&[0x82, 254, 1, 44, 1, 2, 3, 4], "masked"),
            (&[0x82, 126, 1, 45], "301 bytes"),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 1, 44], "shortest"),
        ] {
            let what = complaint(|_| head.to_vec());
            assert!(what.contains(word), "{what}");
        }
    }
}
