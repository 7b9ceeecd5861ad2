//! Compressed messages (RFC 7692 section 7.2): one half for what is sent, one for what is received.

use std::cell::RefCell;
use std::fmt;

use flate2::{Compress, Compression, FlushCompress};
use zlib_rs::{Inflate, InflateFlush, Status};

use super::negotiation::Parameters;
use crate::block::Block;
use crate::connection::Role;
use crate::process;

/// The end of a flush, which is not sent (section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// How hard to try.
pub const LEVELS: std::ops::RangeInclusive<u8> = 0..=9;

/// The smallest window that zlib compresses with.
const LEAST_WINDOW_BITS: u8 = 9;

/// How many coders of each kind a thread keeps for connections without context takeover.
const KEPT: usize = 4;

/// What a connection compresses with, and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How what is sent is compressed.
    pub outgoing: Direction,
    /// How what is received is.
    pub incoming: Direction,
    /// From 0, which is fast, to 9, which is small. Default: 6.
    pub level: u8,
    /// Messages of fewer bytes are sent as they are. Default: 64.
    pub threshold: usize,
}

/// What is agreed upon for one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    /// The window is 2 to this power of bytes, from 8 to 15.
    pub window_bits: u8,
    /// Whether a message may refer to those before it.
    pub context_takeover: bool,
}

impl Config {
    /// What `role` does where `agreed` is agreed upon.
    pub fn new(role: Role, agreed: &Parameters) -> Config {
        let server = Direction {
            window_bits: agreed.server_max_window_bits,
            context_takeover: !agreed.server_no_context_takeover,
        };
        let client = Direction {
            window_bits: agreed.client_max_window_bits,
            context_takeover: !agreed.client_no_context_takeover,
        };
        let (outgoing, incoming) = match role {
            Role::Server => (server, client),
            Role::Client => (client, server),
        };
        Config { outgoing, incoming, level: 6, threshold: 64 }
    }
}

/// Coders between two messages, where none belongs to a connection.
struct Pool<K, T>(Vec<(K, T)>);

impl<K: PartialEq, T> Pool<K, T> {
    fn take(&mut self, key: K) -> Option<T> {
        let at = self.0.iter().rposition(|(has, _)| *has == key)?;
        Some(self.0.swap_remove(at).1)
    }

    fn give_back(&mut self, key: K, coder: T) {
        if self.0.len() == KEPT {
            self.0.remove(0);
        }
        self.0.push((key, coder));
    }
}

thread_local! {
    static COMPRESSORS: RefCell<Pool<u8, Compress>> = const { RefCell::new(Pool(Vec::new())) };
    static DECOMPRESSORS: RefCell<Pool<(), Inflate>> = const { RefCell::new(Pool(Vec::new())) };
}

/// Compresses messages. Holds no memory before the first, and none between two without context
/// takeover.
pub struct Deflater {
    direction: Direction,
    level: u8,
    threshold: usize,
    coder: Option<Compress>,
    /// The process that made it.
    generation: u64,
}

impl Deflater {
    /// For what is sent. `None` where the window may have 256 bytes only, which zlib does not have: all
    /// is sent as it is then, which is up to the sender for each message (section 6).
    pub fn new(config: &Config) -> Option<Deflater> {
        let Config { outgoing: direction, level, threshold, .. } = *config;
        let is_able = direction.window_bits >= LEAST_WINDOW_BITS;
        let generation = process::generation();
        is_able.then_some(Deflater { direction, level, threshold, coder: None, generation })
    }

    /// Whether a message of `len` bytes is to be compressed. An empty one could not become shorter. Of two
    /// processes after a fork each would refer to messages that only the other has sent: with context
    /// takeover it is up to the first of them.
    pub fn compresses(&self, len: usize) -> bool {
        len > 0
            && len >= self.threshold
            && (!self.direction.context_takeover || self.generation == process::generation())
    }

    fn key(&self) -> u8 {
        self.direction.window_bits << 4 | self.level
    }

    /// What a message's compressed form depends on, beside the message; `None` where on earlier ones, too.
    pub fn shared_key(&self) -> Option<u8> {
        (!self.direction.context_takeover).then(|| self.key())
    }

    fn take_coder(&mut self) -> Compress {
        let key = self.key();
        let pooled = || COMPRESSORS.with_borrow_mut(|pool| pool.take(key));
        self.coder.take().or_else(pooled).unwrap_or_else(|| {
            let level = Compression::new(self.level.into());
            Compress::new_with_window_bits(level, false, self.direction.window_bits)
        })
    }

    /// Appends the compressed payload of a message that is not empty.
    pub fn compress(&mut self, mut payload: &[u8], out: &mut Vec<u8>) {
        let mut coder = self.take_coder();
        loop {
            out.reserve(payload.len() / 4 + 64);
            let before = coder.total_in();
            coder
                .compress_vec(payload, out, FlushCompress::Sync)
                .expect("deflate fails only where its state is damaged");
            payload = &payload[(coder.total_in() - before) as usize..];
            // Room is left only where all is written, the end of the flush included.
            if out.len() < out.capacity() {
                break;
            }
        }
        debug_assert!(payload.is_empty() && out.ends_with(&TAIL));
        out.truncate(out.len() - TAIL.len());
        if self.direction.context_takeover {
            self.coder = Some(coder);
        } else {
            coder.reset();
            COMPRESSORS.with_borrow_mut(|pool| pool.give_back(self.key(), coder));
        }
    }

    /// Gives the memory back, a few hundred KiB. The next message starts with an empty window, which
    /// a receiver cannot tell from one that is not made use of.
    pub fn release(&mut self) {
        self.coder = None;
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deflater({:?}, active: {})", self.direction, self.coder.is_some())
    }
}

/// Why a compressed message cannot be inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateError {
    /// It is not what deflate makes.
    Damaged,
    /// There is more in it than there is room for.
    TooLong,
}

/// The window of every decoder: zlib-rs makes none smaller, and the peer's is a part of it.
const INFLATE_WINDOW_BITS: u8 = 15;

/// Inflates messages piece by piece. Holds no memory before the first, and none between two without
/// context takeover.
pub struct Inflater {
    context_takeover: bool,
    coder: Option<Inflate>,
    /// No block is open: nothing of the message has come, or it ended with a final block.
    at_end: bool,
}

impl Inflater {
    /// For one direction of a connection.
    pub fn new(direction: Direction) -> Inflater {
        Inflater { context_takeover: direction.context_takeover, coder: None, at_end: true }
    }

    /// Appends what is in the next piece of a message, `room` bytes at most: nothing beyond is
    /// inflated, however much there is.
    ///
    /// # Errors
    /// See [`InflateError`]; what comes before the error has been appended. The inflater is of no use
    /// then.
    pub fn inflate(
        &mut self,
        piece: &[u8],
        out: &mut Block,
        room: usize,
    ) -> Result<(), InflateError> {
        if piece.is_empty() {
            return Ok(());
        }
        let coder = self.coder.get_or_insert_with(|| {
            DECOMPRESSORS
                .with_borrow_mut(|pool| pool.take(()))
                .unwrap_or_else(|| Inflate::new(false, INFLATE_WINDOW_BITS))
        });
        inflate(coder, &mut self.at_end, piece, out, room)
    }

    /// Ends the message, all of which has been inflated.
    ///
    /// # Errors
    /// [`InflateError::Damaged`] where something is missing. The inflater is of no use then.
    pub fn finish(&mut self) -> Result<(), InflateError> {
        // Behind a final block there is nothing that a flush could end, nor in a message without any
        // payload, which some senders make of an empty one (it should be one byte, section 7.2.3.6).
        if let Some(coder) = &mut self.coder
            && !self.at_end
            && !ends_with_tail(coder)
        {
            return Err(InflateError::Damaged);
        }
        self.at_end = true;
        if !self.context_takeover
            && let Some(mut coder) = self.coder.take()
        {
            coder.reset(false);
            DECOMPRESSORS.with_borrow_mut(|pool| pool.give_back((), coder));
        }
        Ok(())
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (takeover, active) = (self.context_takeover, self.coder.is_some());
        write!(f, "Inflater(context takeover: {takeover}, active: {active})")
    }
}

/// "Append 4 octets of 0x00 0x00 0xff 0xff to the tail end of the payload" (section 7.2.2). Returns whether
/// that ends a block: if not, the message was cut, and the tail was taken for more of its data.
///
/// A whole message has come to the lengths of an empty stored block, so that the tail is read to its end,
/// where the block ends, and nothing comes out. A cut one gives at least one byte out, finds its
/// block's end earlier, or is not satisfied with four bytes. Two things pass, both without a byte too many: a
/// cut right behind the first byte of a stored block, where the same stands as at the end of a message,
/// and one in a dynamic block's table, if the tail ends both that and a block without any data.
fn ends_with_tail(coder: &mut Inflate) -> bool {
    const TAIL_AND_MORE: [u8; TAIL.len() + 1] = [0, 0, 0xff, 0xff, 0xff];
    let (read, written) = (coder.total_in(), coder.total_out());
    let result = coder.decompress(&TAIL_AND_MORE, &mut [0], InflateFlush::Block);
    result.is_ok() && coder.total_in() - read == TAIL.len() as u64 && coder.total_out() == written
}

/// How much room is made at once.
const STEP: (usize, usize) = (512, 64 * 1024);

fn inflate(
    coder: &mut Inflate,
    at_end: &mut bool,
    mut piece: &[u8],
    out: &mut Block,
    room: usize,
) -> Result<(), InflateError> {
    let limit = out.len().saturating_add(room);
    // How much is inflated; what is in `out` behind it are zeros.
    let mut end = out.len();
    let result = loop {
        if end == out.len() {
            // One byte more than there is room for tells that something is left.
            let left = limit.saturating_add(1) - end;
            let step = piece.len().saturating_mul(4).clamp(STEP.0, STEP.1).min(left);
            // The block does not grow before it is full.
            let step = match out.capacity() - end {
                0 => step,
                free => step.min(free),
            };
            out.extend_zeroed(step, limit.saturating_add(1));
        }
        let (read, written) = (coder.total_in(), coder.total_out());
        let status = coder.decompress(piece, &mut out[end..], InflateFlush::SyncFlush);
        piece = &piece[(coder.total_in() - read) as usize..];
        end += (coder.total_out() - written) as usize;
        if end > limit {
            break Err(InflateError::TooLong);
        }
        let Ok(status) = status else {
            break Err(InflateError::Damaged);
        };
        *at_end = matches!(status, Status::StreamEnd);
        if *at_end {
            // "DEFLATE blocks with the BFINAL header bit set to 1" may be in a message too, and
            // others behind them (section 7.2.3.4).
            coder.reset(false);
            if piece.is_empty() {
                break Ok(());
            }
        } else if end < out.len() {
            debug_assert!(piece.is_empty());
            break Ok(());
        }
    };
    out.truncate(end);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Direction = Direction { window_bits: 15, context_takeover: true };

    fn deflater(outgoing: Direction, level: u8) -> Deflater {
        let config = Config { outgoing, incoming: PLAIN, level, threshold: 0 };
        Deflater::new(&config).expect("a window that zlib has")
    }

    fn compressed(deflater: &mut Deflater, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        deflater.compress(payload, &mut out);
        out
    }

    fn inflated(
        inflater: &mut Inflater,
        pieces: &[&[u8]],
        room: usize,
    ) -> Result<Vec<u8>, InflateError> {
        let mut out = Block::new();
        for piece in pieces {
            let left = room.saturating_sub(out.len());
            inflater.inflate(piece, &mut out, left)?;
        }
        inflater.finish()?;
        Ok(out.to_vec())
    }

    fn inflate_one(message: &[u8]) -> Result<Vec<u8>, InflateError> {
        inflated(&mut Inflater::new(PLAIN), &[message], usize::MAX)
    }

    /// RFC 7692 section 7.2.3, from 7.2.3.1 to 7.2.3.5.
    #[test]
    fn the_examples_of_the_rfc() {
        let hello = Ok(b"Hello".to_vec());
        assert_eq!(inflate_one(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]), hello);
        assert_eq!(
            compressed(&mut deflater(PLAIN, 6), b"Hello"),
            [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]
        );

        let mut inflater = Inflater::new(PLAIN);
        let first: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflated(&mut inflater, &[first], 5), hello);
        assert_eq!(inflated(&mut inflater, &[&[0xf2, 0x00, 0x11, 0x00, 0x00]], 5), hello);

        let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
        assert_eq!(inflate_one(&stored), hello);
        assert_eq!(inflate_one(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]), hello);
        let two_blocks =
            [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflate_one(&two_blocks), hello);
        // Section 7.2.3.6.
        assert_eq!(inflate_one(&[0x00]), Ok(vec![]));
    }

    #[test]
    fn a_message_without_payload_is_empty_and_the_next_is_not_affected() {
        let mut deflater = deflater(PLAIN, 6);
        let mut inflater = Inflater::new(PLAIN);
        for payload in [&b"Hello"[..], b"", b"Hello", b""] {
            let message =
                if payload.is_empty() { vec![] } else { compressed(&mut deflater, payload) };
            assert_eq!(inflated(&mut inflater, &[&message], 5), Ok(payload.to_vec()));
        }
    }

    #[test]
    fn without_context_takeover_every_message_is_by_itself() {
        let direction = Direction { context_takeover: false, ..PLAIN };
        let mut deflater = deflater(direction, 6);
        let first = compressed(&mut deflater, b"Hello, hello");
        assert_eq!(compressed(&mut deflater, b"Hello, hello"), first);
        let mut inflater = Inflater::new(direction);
        assert!(inflated(&mut inflater, &[&first], 100).is_ok());
        // A reference to the message before.
        let referring = inflated(&mut inflater, &[&[0xf2, 0x00, 0x11, 0x00, 0x00]], 100);
        assert_eq!(referring, Err(InflateError::Damaged));
    }

    #[test]
    fn after_a_final_block_the_next_message_starts_anew() {
        let mut inflater = Inflater::new(PLAIN);
        let last: &[u8] = &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        for rest in [&[][..], &[0][..]] {
            let message = [last, rest].concat();
            assert_eq!(inflated(&mut inflater, &[&message], 5), Ok(b"Hello".to_vec()));
            let pieces: Vec<_> = message.chunks(1).collect();
            assert_eq!(inflated(&mut inflater, &pieces, 5), Ok(b"Hello".to_vec()));
        }
        let both = [last, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]].concat();
        assert_eq!(inflated(&mut inflater, &[&both], 10), Ok(b"HelloHello".to_vec()));
    }

    #[test]
    fn a_released_compressor_goes_on_with_an_empty_window() {
        let mut deflater = deflater(PLAIN, 6);
        let mut inflater = Inflater::new(PLAIN);
        for release in [false, true, false] {
            let message = compressed(&mut deflater, b"again and again");
            assert_eq!(inflated(&mut inflater, &[&message], 15), Ok(b"again and again".to_vec()));
            if release {
                deflater.release();
            }
        }
    }

    #[test]
    fn what_is_too_long_is_inflated_no_further_than_the_limit() {
        let bomb = compressed(&mut deflater(PLAIN, 9), &vec![0; 10 << 20]);
        for room in [0, 1, 511, 512, 513, 65_535, 65_536, 1 << 20, (10 << 20) - 1] {
            let mut out = Block::new();
            let mut inflater = Inflater::new(PLAIN);
            assert_eq!(
                inflater.inflate(&bomb, &mut out, room),
                Err(InflateError::TooLong),
                "{room}"
            );
            assert_eq!(out.len(), room + 1);
            assert!(out.capacity() <= room.max(1024) + 1, "{} for {room}", out.capacity());
        }
        let whole = inflated(&mut Inflater::new(PLAIN), &[&bomb], 10 << 20);
        assert_eq!(whole.map(|message| message.len()), Ok(10 << 20));
    }

    #[test]
    fn what_deflate_does_not_make_is_refused() {
        for damaged in [&[0xff][..], &[0x06], &[0xf2, 0x00, 0x11, 0x00, 0x00], &[0, 1, 0, 1, 0, 7]]
        {
            assert_eq!(inflate_one(damaged), Err(InflateError::Damaged), "{damaged:X?}");
        }
    }

    /// Messages in stored, fixed and dynamic blocks, each with its payload.
    fn messages_of_each_kind() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
        let short = b"Hello, hello, Hello".to_vec();
        let long: Vec<u8> = (0..600).flat_map(|n: u32| (n * n).to_string().into_bytes()).collect();
        [("stored", 0, short.clone()), ("fixed", 6, short), ("dynamic", 6, long)]
            .map(|(kind, level, payload)| {
                let message = compressed(&mut deflater(PLAIN, level), &payload);
                (kind, payload, message)
            })
            .into()
    }

    #[test]
    fn a_message_that_was_cut_is_damaged_wherever_it_was() {
        for context_takeover in [true, false] {
            let direction = Direction { context_takeover, ..PLAIN };
            for (kind, payload, message) in messages_of_each_kind() {
                for len in 1..message.len() {
                    let mut inflater = Inflater::new(direction);
                    let cut = inflated(&mut inflater, &[&message[..len]], usize::MAX);
                    match (kind, len) {
                        // The first byte of a stored block is how an empty message looks (section
                        // 7.2.3.6).
                        ("stored", 1) => assert_eq!(cut, Ok(vec![])),
                        _ => assert_eq!(cut, Err(InflateError::Damaged), "{kind} at {len}"),
                    }
                }
                let mut inflater = Inflater::new(direction);
                for _ in 0..2 {
                    let whole = inflated(&mut inflater, &[&message], payload.len());
                    assert_eq!(whole.as_ref(), Ok(&payload), "{kind}");
                }
            }
        }
    }

    #[test]
    fn a_second_message_that_was_cut_is_damaged_too() {
        let mut deflater = deflater(PLAIN, 6);
        let messages = [&b"Hello, hello"[..], &b"Hello, hello and so on, hello"[..]]
            .map(|payload| compressed(&mut deflater, payload));
        for len in 1..messages[1].len() {
            let mut inflater = Inflater::new(PLAIN);
            assert!(inflated(&mut inflater, &[&messages[0]], 100).is_ok());
            let cut = inflated(&mut inflater, &[&messages[1][..len]], 100);
            assert_eq!(cut, Err(InflateError::Damaged), "at {len}");
        }
    }

    /// A stored block that announces more than there is would take the tail, and the next message, for
    /// its data.
    #[test]
    fn a_stored_block_ends_within_its_message() {
        for announced in [1_u16, 4, 5, 9, 2048, 0xffff] {
            let [low, high] = announced.to_le_bytes();
            for there in 0..announced.min(20) {
                let mut message = vec![0, low, high, !low, !high];
                message.extend((0..there).map(|_| b'x'));
                assert_eq!(inflate_one(&message), Err(InflateError::Damaged), "{message:?}");
            }
        }
    }

    /// The empty block whose lengths are not sent may be a final one.
    #[test]
    fn the_flush_may_be_a_final_block() {
        let mut inflater = Inflater::new(PLAIN);
        for _ in 0..2 {
            assert_eq!(inflated(&mut inflater, &[&[0x01]], 5), Ok(vec![]));
            let hello: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
            assert_eq!(inflated(&mut inflater, &[hello], 5), Ok(b"Hello".to_vec()));
        }
    }

    #[test]
    fn no_window_of_256_bytes_is_compressed_into() {
        let able = |window_bits| {
            let outgoing = Direction { window_bits, ..PLAIN };
            Deflater::new(&Config { outgoing, incoming: PLAIN, level: 6, threshold: 0 }).is_some()
        };
        assert!(!able(8) && able(9) && able(15));
    }

    /// Text that compresses, with repetitions farther apart than the smaller windows.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let words = proptest::collection::vec(0_u32..2000, 1..2000);
        let text =
            words.prop_map(|words| words.iter().flat_map(|w| w.to_string().into_bytes()).collect());
        prop_oneof![text, proptest::collection::vec(any::<u8>(), 1..3000)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn messages_come_back_as_they_were(
            messages in proptest::collection::vec((message(), 1_usize..300), 1..5),
            window_bits in 9_u8..=15,
            context_takeover in any::<bool>(),
            level in 0_u8..=9,
        ) {
            let direction = Direction { window_bits, context_takeover };
            let mut deflater = deflater(direction, level);
            let mut inflater = Inflater::new(direction);
            for (message, size) in messages {
                let bytes = compressed(&mut deflater, &message);
                let pieces: Vec<_> = bytes.chunks(size).collect();
                let back = inflated(&mut inflater, &pieces, message.len());
                prop_assert_eq!(back, Ok(message));
            }
        }

        /// Not a byte that was not there, whatever is cut.
        #[test]
        fn what_was_cut_is_damaged_or_ends_early(
            message in message(),
            cut in any::<proptest::sample::Index>(),
            level in 0_u8..=9,
        ) {
            let bytes = compressed(&mut deflater(PLAIN, level), &message);
            match inflate_one(&bytes[..cut.index(bytes.len())]) {
                Ok(part) => prop_assert!(message.starts_with(&part)),
                Err(error) => prop_assert_eq!(error, InflateError::Damaged),
            }
        }

        #[test]
        fn any_bytes_end_within_the_limit(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            room in 0_usize..5000,
        ) {
            let mut out = Block::new();
            let mut inflater = Inflater::new(PLAIN);
            let _ = inflater.inflate(&bytes, &mut out, room);
            prop_assert!(out.len() <= room + 1);
        }
    }
}
