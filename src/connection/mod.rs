//! A WebSocket connection without IO: bytes from the peer go in and events come out; commands of the
//! program go in and bytes for the peer come out.
//!
//! What arrives is parsed only as far as [`Connection::next_event`] is asked for events, so that
//! events before an error are delivered before it, and the program can act between two of them.

mod assembly;
pub mod close;
pub mod error;
pub mod event;
mod receiver;

#[cfg(test)]
pub(crate) mod tests;

use crate::extension::deflate::{self, Deflater, Inflater};
use crate::frame::header::{EncodedHeader, MAX_HEADER_LEN, RSV1};
use crate::frame::{Header, MaskKey, Opcode, key};
use close::Close;
use error::{Error, Misuse};
pub use event::{Event, Payload};
pub(crate) use receiver::ReadInto;
use receiver::{Item, Place, Receiver};

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The side that connected: what it receives must not be masked.
    Client,
    /// The side that accepted: what it receives must be masked.
    Server,
}

/// What a connection is set up with. The defaults are those of the Perl class (compat C16).
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which side this is. Where it is not known, masks are taken as they come (compat D1).
    pub role: Option<Role>,
    /// Whether outgoing frames are masked (compat C7). Default: no.
    pub masked: bool,
    /// Limit for the payload of one incoming frame in bytes, 0 for none. Default: 65536.
    pub max_payload_size: u64,
    /// Limit for the number of frames of one incoming message, 0 for none (compat D8). Default: 128.
    pub max_fragments: u32,
    /// Limit for the payloads of all frames of one incoming message together in bytes, 0 for none but
    /// what `max_payload_size` and `max_fragments` allow. Default: 0.
    pub max_message_size: u64,
    /// Whether incoming text must be UTF-8. Close reasons always must. Default: yes.
    pub validate_utf8: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            role: None,
            masked: false,
            max_payload_size: 65_536,
            max_fragments: 128,
            max_message_size: 0,
            validate_utf8: true,
        }
    }
}

/// How far a connection is.
#[derive(Debug)]
struct Progress {
    /// What arrives is looked at: until a Close frame has come, or the connection has failed or finished.
    reading: bool,
    /// Frames can be sent: until a Close frame has been, or the connection has finished.
    writable: bool,
    /// Close frames have gone both ways, and the connection has not failed.
    clean: bool,
}

/// One side of a WebSocket connection after its opening handshake.
#[derive(Debug)]
pub struct Connection {
    config: Config,
    receiver: Receiver,
    deflater: Option<Box<Deflater>>,
    progress: Progress,
    /// Found with the last event, to be told by the next one.
    failure: Option<Box<Error>>,
    output: Vec<u8>,
    output_at: usize,
}

/// What comes of [`Connection::begin_frame`].
#[derive(Clone, Copy, Debug)]
pub enum Begun {
    /// The caller sends this, and then the payload.
    Frame(FrameStart),
    /// This message will be compressed, for which [`Connection::send`] has to have it as a whole.
    Compressed,
    /// Nothing is to be sent, since a Close frame has been (compat C6).
    Closed,
}

/// A frame that is the same, header included, for all connections which make one of this kind of the same
/// message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// The message as it is.
    Plain,
    /// Compressed by itself, in a way that has this number.
    Compressed(u8),
}

/// The start of a frame that the caller sends by itself.
#[derive(Clone, Copy, Debug)]
pub struct FrameStart {
    /// The header to send before the payload.
    pub header: EncodedHeader,
    /// The key to mask the payload with, where it has to be masked.
    pub key: Option<MaskKey>,
}

impl Connection {
    /// An open connection.
    pub fn new(config: Config) -> Connection {
        Connection {
            config,
            receiver: Receiver::default(),
            deflater: None,
            progress: Progress { reading: true, writable: true, clean: false },
            failure: None,
            output: Vec::new(),
            output_at: 0,
        }
    }

    /// Makes use of permessage-deflate, which has been agreed upon. To be called before anything is
    /// received or sent.
    pub fn use_deflate(&mut self, config: &deflate::Config) {
        self.receiver.use_inflater(Inflater::new(config.incoming));
        self.deflater = Deflater::new(config).map(Box::new);
    }

    /// Which side this is, where it is known.
    pub fn role(&self) -> Option<Role> {
        self.config.role
    }

    /// Takes bytes from the peer. Nothing is parsed yet: see [`next_event`](Self::next_event). Bytes
    /// after the peer's Close frame or after a failure are discarded (compat C18).
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.is_reading() {
            self.receiver.receive(bytes);
        }
    }

    /// Where `io` reads to.
    pub(crate) fn read_into(&mut self) -> ReadInto<'_> {
        self.receiver.read_into()
    }

    /// Whether what arrives is still looked at: no Close frame came, and the connection has neither
    /// failed nor [finished](Self::finish).
    pub fn is_reading(&self) -> bool {
        self.progress.reading
    }

    /// Whether frames can still be sent: no Close frame has been (compat C6), and the connection has not
    /// [finished](Self::finish).
    pub fn is_writable(&self) -> bool {
        self.progress.writable
    }

    /// Whether Close frames have gone both ways, and the connection did not fail (compat D5).
    pub fn was_clean(&self) -> bool {
        self.progress.clean
    }

    /// Whether more events may follow at once: something is still to be told, or bytes have arrived
    /// that `next_event` has not looked at yet.
    pub fn has_input(&self) -> bool {
        self.failure.is_some() || self.is_reading() && self.receiver.has_input()
    }

    /// How many bytes have arrived that `next_event` has not looked at yet.
    pub fn buffered(&self) -> usize {
        self.receiver.buffered()
    }

    /// The next thing that happened, in the order of the wire; `None` where more bytes are needed.
    ///
    /// A Ping has been answered and a Close frame too when they are told (the answers are in the
    /// [output](Self::output)). After [`Event::Failed`] nothing follows.
    pub fn next_event(&mut self) -> Option<Event<'_>> {
        if let Some(error) = self.failure.take() {
            return Some(Event::Failed(*error));
        }
        if !self.is_reading() {
            self.receiver.discard();
            return None;
        }
        let item = match self.receiver.next(&self.config) {
            Ok(item) => item?,
            Err(error) => {
                self.fail(error.clone());
                return Some(Event::Failed(error));
            }
        };
        match item {
            Item::Message(opcode, place) => {
                let payload = match place {
                    Place::Input(range) => Payload::Borrowed(self.receiver.input(range)),
                    Place::Block(block) => Payload::Block(block),
                };
                Some(Event::Message { opcode, payload })
            }
            Item::Control(Opcode::Ping) => {
                // "Upon receipt of a Ping frame, an endpoint MUST send a Pong frame in response,
                // unless it already received a Close frame" (section 5.5.2), and none after its own.
                if self.is_writable() {
                    let body = self.receiver.control();
                    append_frame(&self.config, Opcode::Pong, body, &mut self.output);
                }
                Some(Event::Ping(self.receiver.control()))
            }
            Item::Control(Opcode::Pong) => Some(Event::Pong(self.receiver.control())),
            Item::Control(_) => Some(Event::Close(self.on_close())),
        }
    }

    /// "Upon receiving such a frame, the other peer sends a Close frame in response, if it hasn't
    /// already sent one" (section 1.4), with the status code it received (section 5.5.1, compat D4).
    #[cold]
    fn on_close(&mut self) -> Close<'_> {
        self.progress.reading = false;
        let body = self.receiver.control();
        match close::parse(body).1 {
            Ok(()) => {
                let echo = body[..body.len().min(2)].to_vec();
                self.send_close(&echo);
                self.progress.clean = true;
            }
            Err(error) => {
                // The code is told first, since it is recorded as received (compat C18, D1).
                let error = Error::from(error);
                self.send_close(&error.close_code().to_be_bytes());
                self.failure = Some(Box::new(error));
            }
        }
        close::parse(self.receiver.control()).0
    }

    /// Fails the connection: what arrives from now on is discarded, and a Close frame with the
    /// error's code is the last thing sent, where none has been sent yet (section 7.1.7). Does not
    /// make an event.
    pub fn fail(&mut self, error: Error) {
        (self.progress.reading, self.progress.clean) = (false, false);
        self.failure = None;
        self.receiver.discard();
        self.send_close(&error.close_code().to_be_bytes());
    }

    /// Queues a Close frame, where none has been sent. Returns whether it was queued.
    fn send_close(&mut self, body: &[u8]) -> bool {
        let due = self.is_writable();
        if due {
            append_frame(&self.config, Opcode::Close, body, &mut self.output);
            self.on_close_sent();
        }
        due
    }

    /// Nothing is sent any more, so nothing is compressed.
    #[cold]
    fn on_close_sent(&mut self) {
        self.progress.writable = false;
        self.deflater = None;
    }

    /// Notes that the socket has ended: what arrived and has not been asked for is discarded, nothing will be
    /// sent, and the memory for both is given back. Whether the connection [was
    /// clean](Self::was_clean) stays as it is.
    pub fn finish(&mut self) {
        (self.progress.reading, self.progress.writable) = (false, false);
        self.receiver.discard();
        self.deflater = None;
    }

    /// Starts over after a panic has left this connection in an unknown state: it has failed with
    /// `text`, which the next event tells.
    pub fn poison(&mut self, text: String) {
        // What is queued goes out first: the peer may have half a frame of it already.
        let (writable, at) = (self.progress.writable, self.output_at);
        let output = std::mem::take(&mut self.output);
        *self = Connection { output, output_at: at, ..Connection::new(self.config) };
        self.progress.writable = writable;
        self.progress.reading = false;
        let error = Error::Internal(text);
        let code = error.close_code();
        self.failure = Some(Box::new(error));
        // Last, since this may be what panics: a mask needs random bytes.
        self.send_close(&code.to_be_bytes());
    }

    /// Queues a frame with opcode number `opcode`. The payload of a Close frame is taken as it is
    /// (compat D2), and nothing can be sent after it. Returns whether it was queued: not after a
    /// Close frame (compat C6).
    ///
    /// # Errors
    /// [`Misuse::Opcode`].
    pub fn send(&mut self, opcode: u8, payload: &[u8]) -> Result<bool, Misuse> {
        match self.begin_frame(opcode, payload.len())? {
            Begun::Frame(start) => append(&start, payload, &mut self.output),
            Begun::Compressed => self.append_compressed(opcode, payload),
            Begun::Closed => return Ok(false),
        }
        Ok(true)
    }

    fn append_compressed(&mut self, opcode: u8, payload: &[u8]) {
        let deflater = self.deflater.as_mut().expect("begin_frame has seen it");
        // How long the header is depends on the payload, which is not to be moved for it.
        let mut frame = vec![0; MAX_HEADER_LEN];
        deflater.compress(payload, &mut frame);
        let (room, payload) = frame.split_at_mut(MAX_HEADER_LEN);
        let start = frame_start(&self.config, opcode, RSV1, payload.len());
        if let Some(key) = start.key {
            key.apply(payload);
        }
        let header = start.header.as_ref();
        let unused = room.len() - header.len();
        room[unused..].copy_from_slice(header);
        if self.output().is_empty() {
            (self.output, self.output_at) = (frame, unused);
        } else {
            self.output.extend_from_slice(&frame[unused..]);
        }
    }

    /// Whether a message of `len` bytes is to be compressed.
    fn compresses(&self, opcode: u8, len: usize) -> bool {
        self.deflater.as_ref().is_some_and(|deflater| {
            let is_message = opcode == Opcode::Text.number() || opcode == Opcode::Binary.number();
            is_message && deflater.compresses(len)
        })
    }

    /// Which frame [`send`](Self::send) would make of such a message. `None` where it would be this
    /// connection's own (masked, or compressed with what went before in view), is a Close frame, after
    /// which nothing may follow, or could not be sent.
    pub fn frame_kind(&self, opcode: u8, len: usize) -> Option<FrameKind> {
        if self.config.masked || !self.is_writable() || opcode == Opcode::Close.number() {
            return None;
        }
        match &self.deflater {
            Some(deflater) if self.compresses(opcode, len) => {
                deflater.shared_key().map(FrameKind::Compressed)
            }
            _ => (opcode <= 15).then_some(FrameKind::Plain),
        }
    }

    /// Gives back the memory that compressing holds, at the cost of a somewhat larger next message.
    pub fn release_compressor(&mut self) {
        if let Some(deflater) = &mut self.deflater {
            deflater.release();
        }
    }

    /// Like [`send`](Self::send), for a caller that puts the frame on the wire by itself, after all
    /// [output](Self::output): header, then payload, masked with the key if there is one.
    ///
    /// # Errors
    /// [`Misuse::Opcode`].
    // Once for each frame: the call would be a tenth of it.
    #[inline(always)]
    pub fn begin_frame(&mut self, opcode: u8, len: usize) -> Result<Begun, Misuse> {
        if opcode > 15 {
            return Err(Misuse::Opcode(opcode));
        }
        if !self.is_writable() {
            return Ok(Begun::Closed);
        }
        if self.compresses(opcode, len) {
            return Ok(Begun::Compressed);
        }
        if opcode == Opcode::Close.number() {
            self.on_close_sent();
        }
        Ok(Begun::Frame(frame_start(&self.config, opcode, 0, len)))
    }

    /// Queues a Close frame, where none has been sent yet. Returns whether it was queued.
    ///
    /// # Errors
    /// A code that may not be sent, or a reason that does not fit or is not UTF-8 (compat D2).
    pub fn close(&mut self, code: u16, reason: &[u8]) -> Result<bool, Misuse> {
        let body = close::body(code, reason)?;
        Ok(self.send_close(&body))
    }

    /// The bytes to send next. What has been sent is to be [consumed](Self::consume_output).
    pub fn output(&self) -> &[u8] {
        &self.output[self.output_at..]
    }

    /// Counts the first `n` bytes of the output as sent.
    ///
    /// # Panics
    /// Where there are not as many.
    pub fn consume_output(&mut self, n: usize) {
        assert!(n <= self.output.len() - self.output_at, "more output consumed than there is");
        self.output_at += n;
        if self.output_at == self.output.len() {
            self.output = Vec::new();
            self.output_at = 0;
        }
    }

    /// Takes all output at once.
    pub fn take_output(&mut self) -> Vec<u8> {
        let mut output = std::mem::take(&mut self.output);
        output.drain(..std::mem::take(&mut self.output_at));
        output
    }
}

fn frame_start(config: &Config, opcode: u8, reserved: u8, len: usize) -> FrameStart {
    let key = config.masked.then(key::fresh);
    FrameStart { header: Header::encode_raw(opcode, reserved, len as u64, key), key }
}

fn append(start: &FrameStart, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(start.header.as_ref());
    match start.key {
        Some(key) => key.append(payload, out),
        None => out.extend_from_slice(payload),
    }
}

fn append_frame(config: &Config, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    append(&frame_start(config, opcode.number(), 0, payload.len()), payload, out);
}
