//! The way out of one connection. Takes what the socket takes and keeps the
//! rest, so that sending never holds up reading.

use std::io::{self, IoSlice, Write};

use crate::{
    args::Wire,
    messages::{GATHERED, Messages},
};

/// Most frames in one gathered write.
const FRAMES: u64 = 16;

pub struct Sender {
    connection: u32,
    /// The message to be queued next.
    next: u64,
    way: Way,
}

enum Way {
    /// Small frames, with a key of its own each, copied one after the other.
    Copied { bytes: Vec<u8>, sent: usize },
    /// Large frames, from where the filler lies: the first one that is not
    /// out yet, and how much of it is.
    Gathered { first: u64, sent: usize },
}

impl Sender {
    pub fn new(connection: u32, messages: &Messages) -> Self {
        let way = if messages.payload() < GATHERED || messages.wire() == Wire::Deflate {
            Way::Copied { bytes: Vec::new(), sent: 0 }
        } else {
            Way::Gathered { first: 0, sent: 0 }
        };
        Sender { connection, next: 0, way }
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn queue(&mut self, messages: &Messages) {
        if let Way::Copied { bytes, .. } = &mut self.way {
            let key = messages.fresh_key();
            messages.append_frame(bytes, self.connection, self.next, key);
        }
        self.next += 1;
    }

    /// Writes until all is out or the socket is full.
    pub fn flush(&mut self, socket: &mut impl Write, messages: &Messages) -> io::Result<()> {
        loop {
            let written = match &mut self.way {
                Way::Copied { bytes, sent } => {
                    if *sent == bytes.len() {
                        bytes.clear();
                        *sent = 0;
                        return Ok(());
                    }
                    let written = socket.write(&bytes[*sent..]);
                    *sent += *written.as_ref().unwrap_or(&0);
                    written
                }
                Way::Gathered { first, sent } => {
                    if *first == self.next {
                        return Ok(());
                    }
                    let end = self.next.min(*first + FRAMES);
                    write_gathered(socket, messages, self.connection, first, end, sent)
                }
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

fn write_gathered(
    socket: &mut impl Write,
    messages: &Messages,
    connection: u32,
    first: &mut u64,
    end: u64,
    sent: &mut usize,
) -> io::Result<usize> {
    let starts: Vec<_> =
        (*first..end).map(|seq| messages.gathered_start(connection, seq)).collect();
    let frame = starts[0].len() + messages.masked_filler(connection, *first).len();
    let mut slices: Vec<_> = (*first..end)
        .zip(&starts)
        .flat_map(|(seq, start)| [&start[..], messages.masked_filler(connection, seq)])
        .map(IoSlice::new)
        .collect();
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, *sent);
    let written = socket.write_vectored(rest)?;
    *sent += written;
    *first += (*sent / frame) as u64;
    *sent %= frame;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::STAMP;

    /// Takes at most so many bytes, then is full once.
    struct Narrow {
        taken: Vec<u8>,
        width: usize,
        full: bool,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.full = !self.full;
            if !self.full {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = bytes.len().min(self.width);
            self.taken.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn write_vectored(&mut self, slices: &[IoSlice]) -> io::Result<usize> {
            let all: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
            self.write(&all)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn unmask(frame: &[u8], head: usize) -> Vec<u8> {
        let key = &frame[head - 4..head];
        frame[head..].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect()
    }

    #[test]
    fn frames_survive_a_narrow_socket() {
        for (payload, head, width) in
            [(16, 6, 5), (1027, 8, 999), (GATHERED, 14, 50_000), (GATHERED + 3, 14, 70_001)]
        {
            let messages = Messages::new(payload, Wire::WebSocket);
            let mut sender = Sender::new(3, &messages);
            let mut socket = Narrow { taken: Vec::new(), width, full: false };
            for _ in 0..20 {
                sender.queue(&messages);
            }
            let whole = 20 * (head + payload);
            for _ in 0..whole {
                sender.flush(&mut socket, &messages).unwrap();
            }
            assert_eq!(socket.taken.len(), whole);
            for (seq, frame) in (0..).zip(socket.taken.chunks(head + payload)) {
                let clear = unmask(frame, head);
                assert_eq!(clear[..STAMP], messages.stamp(3, seq));
                assert_eq!(&clear[STAMP..], messages.filler(3, seq));
            }
        }
    }
}
