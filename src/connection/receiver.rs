//! The receiving half: from bytes to messages and control frames.

use std::ops::Range;

use super::assembly::Assembly;
use super::error::{Error, LimitError, PeerError};
use super::{Config, Role};
use crate::block::{Block, RECYCLED_LEN};
use crate::buffer;
use crate::extension::deflate::{InflateError, Inflater};
use crate::frame::header::{MAX_HEADER_LEN, RSV1};
use crate::frame::{Header, MaskKey, Opcode, utf8};

/// From this much of a frame missing, it is read straight into its message rather than through the
/// thread's buffer.
const DIRECT_LEN: u64 = 16 * 1024;

/// How far a message's memory runs ahead of its data: sixteenfold, between these bounds, whatever its
/// header announces. A message of up to 1 MiB that comes in good reads does not have to be moved as it
/// grows; one of which nothing comes but the header costs next to nothing.
const READ_AHEAD: (usize, usize) = (64 * 1024, 1024 * 1024);

/// How much to have ready for the `missing` bytes of a frame when `have` bytes of its message are there.
fn read_ahead(have: usize, missing: usize) -> usize {
    let (least, most) = READ_AHEAD;
    missing.min(have.saturating_mul(16).clamp(least, most).max(have))
}

/// How long `len` bytes may become by being compressed: what cannot be compressed gets a header for each
/// of its blocks, which with zlib have 127 bytes at least.
fn deflated_bound(len: u64) -> u64 {
    len.saturating_add(len / 16 + 64)
}

/// A frame whose payload is under way.
#[derive(Debug)]
struct Frame {
    opcode: Opcode,
    fin: bool,
    key: Option<MaskKey>,
    len: u64,
    remaining: u64,
    /// RSV1 on the first frame of a message: "Per-Message Compressed" (RFC 7692 section 6).
    compressed: bool,
}

impl Frame {
    /// The key as it applies to the next byte.
    fn key(&self) -> Option<MaskKey> {
        self.key.map(|key| key.after(self.len - self.remaining))
    }
}

/// How much may still be inflated: the limits hold for what a message is, not for how it came.
struct Room {
    /// By `max_payload_size`, and that.
    frame: (u64, u64),
    /// By `max_message_size`, and that.
    message: (u64, u64),
}

impl Room {
    fn new(config: &Config, frame: u64, message: u64) -> Room {
        let left = |max, used| (if max == 0 { u64::MAX } else { max - used }, max);
        Room {
            frame: left(config.max_payload_size, frame),
            message: left(config.max_message_size, message),
        }
    }

    fn len(&self) -> usize {
        usize::try_from(self.frame.0.min(self.message.0)).unwrap_or(usize::MAX)
    }

    fn error(&self, error: InflateError) -> Error {
        let (frame, message) = (self.frame, self.message);
        match error {
            InflateError::Damaged => PeerError::NotDeflate.into(),
            InflateError::TooLong if frame.0 <= message.0 => {
                LimitError::PayloadTooBig { len: frame.1 + 1, max: frame.1 }.into()
            }
            InflateError::TooLong => {
                LimitError::MessageTooBig { len: message.1 + 1, max: message.1 }.into()
            }
        }
    }
}

/// What the receiver found.
#[derive(Debug)]
pub enum Item {
    Message(Opcode, Place),
    /// The payload is at [`Receiver::control`].
    Control(Opcode),
}

/// Where a message's payload is.
#[derive(Debug)]
pub enum Place {
    /// See [`Receiver::input`].
    Input(Range<usize>),
    Block(Block),
}

/// Where to put what is read from a socket: first the message, then the rest.
#[derive(Debug)]
pub(crate) struct ReadInto<'a> {
    /// A message, and how many bytes of its frame are missing; room for them has been made, for as
    /// many as there is to be read at once.
    pub direct: Option<(&'a mut Block, usize)>,
    /// The buffer; append what else there is.
    pub buffer: &'a mut Vec<u8>,
}

#[derive(Debug, Default)]
pub struct Receiver {
    /// Taken from the thread's buffers while there is something in it.
    input: Vec<u8>,
    input_at: usize,
    /// A header that has not fully arrived.
    header: [u8; MAX_HEADER_LEN],
    header_len: u8,
    frame: Option<Frame>,
    message: Option<Box<Assembly>>,
    /// The payload of the last or current control frame.
    control: Vec<u8>,
    /// Where permessage-deflate is agreed upon.
    inflater: Option<Box<Inflater>>,
}

impl Receiver {
    pub fn use_inflater(&mut self, inflater: Inflater) {
        self.inflater = Some(Box::new(inflater));
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        self.buffer().extend_from_slice(bytes);
    }

    pub fn buffered(&self) -> usize {
        self.input.len() - self.input_at
    }

    pub fn has_input(&self) -> bool {
        self.buffered() > 0 || self.message.as_ref().is_some_and(|m| m.unsettled() > 0)
    }

    pub fn read_into(&mut self) -> ReadInto<'_> {
        let settled = !self.has_input();
        self.buffer();
        let direct = match (&self.frame, &mut self.message) {
            // What is in the buffer comes first, so nothing may go past it.
            (Some(frame), Some(message))
                if settled
                    && !frame.opcode.is_control()
                    && !message.compressed
                    && frame.remaining >= DIRECT_LEN =>
            {
                let missing = usize::try_from(frame.remaining).unwrap_or(usize::MAX);
                let block = &mut message.block;
                block
                    .reserve(read_ahead(block.len(), missing), block.len().saturating_add(missing));
                Some((block, missing))
            }
            _ => None,
        };
        ReadInto { direct, buffer: &mut self.input }
    }

    /// Forgets all input and gives its memory back.
    pub fn discard(&mut self) {
        if self.input.capacity() > 0 {
            buffer::give_back(std::mem::take(&mut self.input));
        }
        self.input_at = 0;
        self.header_len = 0;
        self.frame = None;
        self.message = None;
        self.inflater = None;
    }

    pub fn input(&self, range: Range<usize>) -> &[u8] {
        &self.input[range]
    }

    pub fn control(&self) -> &[u8] {
        &self.control
    }

    /// The buffer to append input to.
    fn buffer(&mut self) -> &mut Vec<u8> {
        if self.input.capacity() == 0 {
            self.input = buffer::take();
        }
        if self.input_at == self.input.len() {
            self.input.clear();
            self.input_at = 0;
        }
        &mut self.input
    }

    fn unread(&mut self) -> &mut [u8] {
        &mut self.input[self.input_at..]
    }

    /// Takes up to `len` bytes of input; returns where they are.
    fn take(&mut self, len: u64) -> Range<usize> {
        let start = self.input_at;
        let left = self.input.len() - start;
        self.input_at += usize::try_from(len).map_or(left, |len| len.min(left));
        start..self.input_at
    }

    /// The next message or control frame in the input, if it is there in full.
    pub fn next(&mut self, config: &Config) -> Result<Option<Item>, Error> {
        loop {
            if self.frame.is_none() && !self.begin_frame(config)? {
                break;
            }
            match self.take_payload(config)? {
                Some(item) => return Ok(Some(item)),
                None if self.frame.is_some() => break,
                None => {}
            }
        }
        if self.input.capacity() > 0 && !self.has_input() {
            buffer::give_back(std::mem::take(&mut self.input));
            self.input_at = 0;
        }
        Ok(None)
    }

    /// Takes the next header, if it is there in full and nothing is wrong with it.
    fn begin_frame(&mut self, config: &Config) -> Result<bool, Error> {
        let Some(header) = self.take_header()? else {
            return Ok(false);
        };
        self.check(&header, config)?;
        let mut len = header.payload_len;
        if header.opcode == Opcode::Continuation {
            let message = self.message.as_mut().ok_or(PeerError::UnexpectedContinuation)?;
            message.fragments += 1;
            message.inflated = 0;
            let max = config.max_fragments;
            if max != 0 && message.fragments > max {
                return Err(LimitError::TooManyFragments { max }.into());
            }
            len = len.saturating_add(message.block.len() as u64);
        }
        let max = config.max_message_size;
        if header.opcode.is_control() {
            self.control.clear();
        } else if max != 0 && len > max && !self.is_compressed(&header) {
            return Err(LimitError::MessageTooBig { len, max }.into());
        }
        self.frame = Some(Frame {
            opcode: header.opcode,
            fin: header.fin,
            key: header.key,
            len: header.payload_len,
            remaining: header.payload_len,
            compressed: header.reserved & RSV1 != 0,
        });
        Ok(true)
    }

    /// Whether this is a frame of a compressed message.
    fn is_compressed(&self, header: &Header) -> bool {
        header.reserved & RSV1 != 0 || self.message.as_ref().is_some_and(|m| m.compressed)
    }

    /// What the header alone says about a frame: no payload is awaited or allocated (compat C16).
    fn check(&self, header: &Header, config: &Config) -> Result<(), Error> {
        // "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values"
        // (section 5.2). "An endpoint MUST NOT set the "Per-Message Compressed" bit of control frames
        // and non-first fragments of a data message" (RFC 7692 section 6).
        let starts = matches!(header.opcode, Opcode::Text | Opcode::Binary);
        let allowed = if starts && self.inflater.is_some() { RSV1 } else { 0 };
        if header.reserved & !allowed != 0 {
            return Err(PeerError::ReservedBits(header.reserved & !allowed).into());
        }
        match (config.role, header.key) {
            // "The server MUST close the connection upon receiving a frame that is not masked", "A
            // client MUST close a connection if it detects a masked frame" (section 5.1).
            (Some(Role::Server), None) => return Err(PeerError::NotMasked.into()),
            (Some(Role::Client), Some(_)) => return Err(PeerError::Masked.into()),
            _ => {}
        }
        if header.opcode.is_control() {
            // "All control frames MUST have a payload length of 125 bytes or less and MUST NOT be
            // fragmented" (section 5.5).
            if !header.fin {
                return Err(PeerError::FragmentedControl(header.opcode).into());
            }
            if header.payload_len > 125 {
                return Err(PeerError::OversizedControl(header.opcode, header.payload_len).into());
            }
        } else if header.opcode != Opcode::Continuation && self.message.is_some() {
            // "The fragments of one message MUST NOT be interleaved between the fragments of
            // another message" (section 5.4).
            return Err(PeerError::InterleavedMessage(header.opcode).into());
        }
        let (len, max) = (header.payload_len, config.max_payload_size);
        let allowed = if self.is_compressed(header) { deflated_bound(max) } else { max };
        if max != 0 && len > allowed {
            return Err(LimitError::PayloadTooBig { len, max }.into());
        }
        Ok(())
    }

    fn take_header(&mut self) -> Result<Option<Header>, PeerError> {
        if self.header_len == 0 {
            let unread = self.unread();
            let Some((header, len)) = Header::decode(unread)? else {
                let (len, rest) = (unread.len(), self.take(u64::MAX));
                self.header[..len].copy_from_slice(&self.input[rest]);
                self.header_len = len as u8;
                return Ok(None);
            };
            self.take(len as u64);
            return Ok(Some(header));
        }
        // Byte by byte, since how long the header is shows only as it comes.
        while let [byte, ..] = *self.unread() {
            self.input_at += 1;
            self.header[usize::from(self.header_len)] = byte;
            self.header_len += 1;
            if let Some((header, _)) = Header::decode(&self.header[..self.header_len.into()])? {
                self.header_len = 0;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// Takes what there is of the current frame's payload; ends the frame where that is all of it.
    fn take_payload(&mut self, config: &Config) -> Result<Option<Item>, Error> {
        let frame = self.frame.as_mut().expect("a frame is under way");
        let opcode = frame.opcode;
        if opcode.is_control() {
            let (key, remaining) = (frame.key(), frame.remaining);
            let range = self.take(remaining);
            let taken = range.len() as u64;
            let start = self.control.len();
            self.control.extend_from_slice(&self.input[range]);
            if let Some(key) = key {
                key.apply(&mut self.control[start..]);
            }
            return Ok(self.end_frame_if_done(taken).then_some(Item::Control(opcode)));
        }
        if frame.fin && self.message.is_none() && !frame.compressed {
            let (key, len) = (frame.key, frame.len);
            if self.unread().len() as u64 >= len {
                let range = self.take(len);
                self.frame = None;
                let place = self.place(range, key);
                if opcode == Opcode::Text && config.validate_utf8 {
                    let payload = match &place {
                        Place::Input(range) => &self.input[range.clone()],
                        Place::Block(block) => block,
                    };
                    utf8::validate(payload).map_err(PeerError::TextNotUtf8)?;
                }
                return Ok(Some(Item::Message(opcode, place)));
            }
        }
        self.take_fragment(config)
    }

    /// Unmasks a message that has arrived in full. A large one goes to a block of its own on the way,
    /// where the program will have it.
    fn place(&mut self, range: Range<usize>, key: Option<MaskKey>) -> Place {
        let payload = &mut self.input[range.clone()];
        if payload.len() >= RECYCLED_LEN {
            let mut block = Block::with_capacity(payload.len() + 1);
            block.extend_unmasked(payload, key, 0);
            return Place::Block(block);
        }
        if let Some(key) = key {
            key.apply(payload);
        }
        Place::Input(range)
    }

    /// Appends what there is of the current data frame to its message.
    fn take_fragment(&mut self, config: &Config) -> Result<Option<Item>, Error> {
        let frame = self.frame.as_ref().expect("a frame is under way");
        let (opcode, fin, remaining, key) = (frame.opcode, frame.fin, frame.remaining, frame.key());
        let compressed = frame.compressed;
        let message = self.message.get_or_insert_with(|| {
            Box::new(Assembly::new(opcode, compressed, config.validate_utf8))
        });
        if message.compressed {
            return self.take_compressed(config);
        }
        // What was read straight into the message comes before what is in the buffer.
        let direct = message.unsettled() as u64;
        let left = &self.input[self.input_at..];
        let missing = usize::try_from(remaining - direct).unwrap_or(usize::MAX);
        let taken = left.len().min(missing);
        // Only with the last frame is it known how long the message will be.
        let limit = if fin { message.block.len().saturating_add(missing) } else { usize::MAX };
        if message.block.capacity() == 0 && missing > 0 {
            message.block = Block::with_capacity(taken + read_ahead(taken, missing - taken));
        }
        message.settle(key)?;
        message.append(&left[..taken], key.map(|key| key.after(direct)), limit)?;
        self.input_at += taken;
        if !self.end_frame_if_done(direct + taken as u64) || !fin {
            return Ok(None);
        }
        self.end_message().map(Some)
    }

    /// Appends what there is of the current frame to its message, inflated.
    fn take_compressed(&mut self, config: &Config) -> Result<Option<Item>, Error> {
        let frame = self.frame.as_ref().expect("a frame is under way");
        let (fin, key, remaining) = (frame.fin, frame.key(), frame.remaining);
        let range = self.take(remaining);
        let taken = range.len() as u64;
        let piece = &mut self.input[range];
        if let Some(key) = key {
            key.apply(piece);
        }
        let message = self.message.as_mut().expect("a message is under way");
        let inflater = self.inflater.as_mut().expect("agreed upon, or RSV1 is refused");
        let before = message.block.len();
        let room = Room::new(config, message.inflated, before as u64);
        let ends = fin && taken == remaining;
        let mut inflated = inflater.inflate(piece, &mut message.block, room.len());
        if ends && inflated.is_ok() {
            inflated = inflater.finish();
        }
        message.inflated += (message.block.len() - before) as u64;
        // Of two errors the first on the wire is told, wherever the network cuts.
        message.settle(None)?;
        inflated.map_err(|error| room.error(error))?;
        self.end_frame_if_done(taken);
        if !ends {
            return Ok(None);
        }
        self.end_message().map(Some)
    }

    fn end_message(&mut self) -> Result<Item, Error> {
        let message = self.message.take().expect("a message is under way");
        let (opcode, block) = message.finish()?;
        Ok(Item::Message(opcode, Place::Block(block)))
    }

    fn end_frame_if_done(&mut self, taken: u64) -> bool {
        let frame = self.frame.as_mut().expect("a frame is under way");
        frame.remaining -= taken;
        let done = frame.remaining == 0;
        if done {
            self.frame = None;
        }
        done
    }
}
