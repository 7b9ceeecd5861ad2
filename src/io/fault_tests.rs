//! Whatever a socket does, each message that has arrived in full is told, once and in order, before the error
//! that ends the connection; and what is sent leaves as it is, as far as it leaves.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::faulty::*;
use super::receive_by;
use crate::connection::tests::drive::{Seen, binary, closed, drain, ping};
use crate::connection::tests::wire::*;
use crate::connection::{Begun, Config, Connection};

/// How a stream ends: by the peer, or by what is between.
const ENDS: [End; 4] = [
    End::Eof,
    End::Error(libc::ECONNRESET),
    End::Error(libc::ETIMEDOUT),
    End::Error(libc::EHOSTUNREACH),
];

fn config() -> Config {
    Config { max_payload_size: 0, max_fragments: 0, ..Config::default() }
}

/// Bytes that tell where they belong.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251 + len) as u8).collect()
}

/// Around what makes a difference: the forms of the length, reads straight into the message, read-ahead.
fn len() -> impl Strategy<Value = usize> {
    // Miri takes its time.
    let [around, medium, large]: [Range<usize>; 3] = if cfg!(miri) {
        [130..140, 16_300..16_500, 20_000..20_010]
    } else {
        [65_530..65_540, 16_000..40_000, 100_000..400_000]
    };
    prop_oneof![
        4 => 0usize..130,
        2 => around,
        2 => medium,
        1 => large,
    ]
}

/// What the peer sends, and what has to be told of it, each with where its last byte is.
#[derive(Clone, Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    told: Vec<(usize, Seen)>,
}

impl Stream {
    fn tell(&mut self, seen: Seen) {
        self.told.push((self.bytes.len(), seen));
    }

    /// What of it is to be told where only so many bytes arrive.
    fn told_of(&self, len: usize) -> Vec<Seen> {
        self.told.iter().filter(|(end, _)| *end <= len).map(|(_, seen)| seen.clone()).collect()
    }
}

/// Messages in one to four frames, with Pings between.
fn stream() -> impl Strategy<Value = Stream> {
    let message = (len(), vec(any::<Index>(), 0..4), any::<bool>(), any::<Option<[u8; 4]>>());
    vec(message, 1..6).prop_map(|messages| {
        let mut stream = Stream::default();
        for (len, cuts, pinged, key) in messages {
            let whole = payload(len);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
            cuts.extend([0, len]);
            cuts.sort_unstable();
            let last = cuts.len() - 2;
            for (i, cut) in cuts.windows(2).enumerate() {
                let opcode = if i == 0 { BINARY } else { CONTINUATION };
                let fin = if i == last { FIN } else { 0 };
                stream.bytes.extend(frame(fin | opcode, key, &whole[cut[0]..cut[1]]));
                if pinged && i < last {
                    stream.bytes.extend(frame(FIN | PING, key, "between"));
                    stream.tell(ping("between"));
                }
            }
            stream.tell(binary(whole));
        }
        stream
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 200 }))]

    #[test]
    fn nothing_that_has_arrived_is_lost_before_the_end(
        stream in stream(),
        cut in any::<Index>(),
        end in select(ENDS.to_vec()),
        reads in faults(),
        late in any::<bool>(),
    ) {
        for len in [stream.bytes.len(), cut.index(stream.bytes.len() + 1)] {
            let mut socket = Faulty::reading(&stream.bytes[..len], end, reads.clone());
            let mut connection = Connection::new(config());
            let (seen, ended) = read_all(&mut connection, &mut socket, late);
            prop_assert_eq!(ended, end);
            prop_assert_eq!(seen, stream.told_of(len));
            socket.reads.clear();
            prop_assert_eq!(receive_by(&mut connection, &mut socket).is_ok(), end == End::Eof);
            connection.finish();
            prop_assert_eq!(drain(&mut connection), vec![]);
        }
    }

    #[test]
    fn frames_leave_whole_and_in_order_as_far_as_they_leave(
        lens in vec(len(), 1..6),
        masked in any::<bool>(),
        writes in faults(),
        room in any::<Index>(),
        refusal in select(vec![libc::EPIPE, libc::ECONNRESET, libc::ENOBUFS, libc::ETIMEDOUT]),
        fails in any::<bool>(),
    ) {
        // Keys come by way of what Miri does not know.
        let masked = masked && !cfg!(miri);
        let mut connection = Connection::new(Config { masked, ..config() });
        let frames: Vec<(Vec<u8>, Vec<u8>)> = lens
            .iter()
            .map(|&len| match connection.begin_frame(BINARY, len) {
                Ok(Begun::Frame(start)) => {
                    let mut sent = payload(len);
                    if let Some(key) = start.key {
                        key.apply(&mut sent);
                    }
                    (start.header.as_ref().to_vec(), sent)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let stream: Vec<u8> = frames.iter().flat_map(|(a, b)| [a, b]).flatten().copied().collect();
        let room = if fails { room.index(stream.len()) } else { usize::MAX };
        let mut socket = Faulty { room, refusal, writes: writes.into(), ..Faulty::new() };
        let mut queue = Queue::default();
        let mut failed = frames.iter().find_map(|(head, payload)| queue.send(&mut socket, head, payload));
        while failed.is_none() && !queue.0.is_empty() {
            failed = queue.send(&mut socket, &[], &[]);
        }
        prop_assert_eq!(failed, fails.then_some(refusal));
        prop_assert_eq!(&socket.outgoing, &stream[..room.min(stream.len())]);
        if !fails {
            let expected: Vec<Sent> = lens.iter().map(|&len| sent(BINARY, payload(len))).collect();
            prop_assert_eq!(decode(&socket.outgoing, masked), expected);
        }
    }
}

/// A read straight into a message ends in it, at its end, or behind it: at each byte around the two edges,
/// and at each byte of what follows.
#[test]
fn short_reads_end_at_every_byte_around_the_message_they_go_to() {
    // Longer than what is read straight into its message, shorter than the memory that is had for it.
    let len = 20_000;
    let behind = [frame(FIN | PING, KEY, "p"), close_frame(KEY, 1001, "q")].concat();
    for key in BOTH_KEYS {
        let bytes = [frame(FIN | BINARY, key, payload(len)), behind.clone()].concat();
        let header = bytes.len() - behind.len() - len;
        let expected = vec![binary(payload(len)), ping("p"), closed(1001, "q")];
        let step = if cfg!(miri) { 19 } else { 1 };
        let edges = (1..40).chain(len - 20..len + behind.len() + 1).step_by(step);
        for short in edges {
            // The header alone first, so that the rest may go straight to where it belongs.
            let reads = vec![Fault::Short(header), Fault::Short(short), Fault::Interrupted];
            let mut socket = Faulty::reading(&bytes, End::Eof, reads);
            let mut connection = Connection::new(config());
            let (seen, ended) = read_all(&mut connection, &mut socket, false);
            assert_eq!(ended, End::Eof);
            assert!(seen == expected, "{short}: {seen:?}");
        }
    }
}

/// A read goes to two places at once, and is cut between them: the case above is what it is said to be.
#[test]
fn such_a_read_covers_the_message_and_the_buffer() {
    let bytes = frame(FIN | BINARY, None, payload(20_000));
    let mut socket = Faulty::reading(&bytes, End::Open, vec![Fault::Short(4)]);
    let mut connection = Connection::new(config());
    read(&mut connection, &mut socket);
    assert_eq!(drain(&mut connection), []);
    read(&mut connection, &mut socket);
    assert!(socket.asked > 20_000 + 100_000, "{}", socket.asked);
    assert_eq!(drain(&mut connection), [binary(payload(20_000))]);
}

#[test]
fn a_call_is_repeated_for_as_long_as_signals_come() {
    let interrupted = vec![Fault::Interrupted; 1000];
    let mut socket = Faulty::reading(&frame(FIN | TEXT, None, "x"), End::Open, interrupted.clone());
    socket.writes = interrupted.into();
    let mut connection = Connection::new(config());
    assert_eq!(read(&mut connection, &mut socket), End::Open);
    assert_eq!(drain(&mut connection).len(), 1);
    assert_eq!(Queue::default().send(&mut socket, b"ab", b"c"), None);
    assert_eq!(socket.outgoing, b"abc");
}
