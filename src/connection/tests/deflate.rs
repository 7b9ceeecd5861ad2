//! permessage-deflate in a connection (RFC 7692).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::drive::*;
use super::wire::*;
use crate::connection::error::{Error, LimitError, PeerError};
use crate::connection::{Begun, Config, Connection, FrameKind};
use crate::extension::deflate::{self, Direction};

const PLAIN: Direction = Direction { window_bits: 15, context_takeover: true };

const DEFLATE: deflate::Config =
    deflate::Config { outgoing: PLAIN, incoming: PLAIN, level: 6, threshold: 0 };

fn deflating(config: Config) -> Connection {
    let mut connection = Connection::new(config);
    connection.use_deflate(&DEFLATE);
    connection
}

/// The payload of a compressed message, by a compressor that has seen `before`.
fn compressed_after(before: &[&[u8]], payload: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::default(), false);
    let mut out = vec![];
    for payload in before.iter().chain([&payload]) {
        out = Vec::with_capacity(payload.len() + 100);
        compress.compress_vec(payload, &mut out, FlushCompress::Sync).unwrap();
        let len = out.len() - 4;
        assert_eq!(out.split_off(len), [0, 0, 0xff, 0xff]);
    }
    out
}

fn compressed(payload: impl AsRef<[u8]>) -> Vec<u8> {
    compressed_after(&[], payload.as_ref())
}

/// Nothing that a compressor can do anything with.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Compressible, and long enough for several steps of the inflater.
fn long_text() -> String {
    (0..40_000).map(|n| format!("{n} bottles; ")).collect()
}

#[test]
fn messages_come_inflated_and_others_as_they_are() {
    let long = long_text();
    for key in BOTH_KEYS {
        let bytes = [
            frame(FIN | RSV1 | TEXT, key, compressed("Hello")),
            frame(FIN | TEXT, key, "Hello"),
            frame(FIN | RSV1 | BINARY, key, compressed_after(&[b"Hello"], b"Hello, Hello")),
            frame(FIN | RSV1 | TEXT, key, [0]),
            frame(FIN | PING, key, "?"),
        ]
        .concat();
        let outcome = every_way_from(|| deflating(Config::default()), &bytes);
        let seen = [text("Hello"), text("Hello"), binary("Hello, Hello"), text(""), ping("?")];
        assert_eq!((&outcome.seen[..], outcome.is_reading), (&seen[..], true));

        let config = Config { max_payload_size: 0, ..Config::default() };
        let bytes = frame(FIN | RSV1 | TEXT, key, compressed(&long));
        let outcome = every_way_from(|| deflating(config), &bytes);
        assert_eq!(outcome.seen, [text(&long)]);
    }
}

/// "An endpoint ... sets the "Per-Message Compressed" bit of the first fragment"; the payload is cut
/// anywhere (section 6.1).
#[test]
fn fragments_continue_what_the_first_says() {
    let payload = compressed("Hello, hello, h\u{e9}llo");
    for key in BOTH_KEYS {
        for cut in 0..=payload.len() {
            let (head, tail) = payload.split_at(cut);
            let bytes = [
                frame(RSV1 | TEXT, key, head),
                frame(FIN | PING, key, "between"),
                frame(CONTINUATION, key, ""),
                frame(FIN | CONTINUATION, key, tail),
                frame(FIN | TEXT, key, "after"),
            ]
            .concat();
            let outcome = every_way_from(|| deflating(Config::default()), &bytes);
            let whole = text("Hello, hello, h\u{e9}llo");
            assert_eq!(outcome.seen, [ping("between"), whole, text("after")], "cut at {cut}");
        }
    }
}

/// Feeds a correct message and then what is to fail; returns with which error it does.
#[track_caller]
fn failure(config: Config, code: u16, bytes: &[u8]) -> Error {
    let hello = compressed("Hello");
    let before = frame(FIN | RSV1 | TEXT, KEY, &hello);
    let input = [&before, bytes, &frame(FIN | TEXT, KEY, "after")].concat();
    let outcome = every_way_from(|| deflating(config), &input);
    let [first, Seen::Failed(error)] = &outcome.seen[..] else {
        panic!("{:?}", outcome.seen);
    };
    assert_eq!(*first, text("Hello"));
    assert_eq!(outcome.sent, [sent_close(code)]);
    assert!(!outcome.was_clean && !outcome.is_reading && !outcome.is_writable);
    error.clone()
}

#[test]
fn rsv1_is_for_the_first_frame_of_a_message_where_it_is_agreed_upon() {
    let payload = compressed("x");
    let cases = [
        (vec![FIN | RSV1 | PING], 4),
        (vec![FIN | RSV1 | PONG], 4),
        (vec![FIN | RSV1 | CLOSE], 4),
        (vec![RSV1 | TEXT, FIN | RSV1 | CONTINUATION], 4),
        (vec![BINARY, FIN | RSV1 | CONTINUATION], 4),
        (vec![FIN | RSV2 | TEXT], 2),
        (vec![FIN | RSV1 | RSV2 | RSV3 | TEXT], 3),
    ];
    for (firsts, bits) in cases {
        let bytes: Vec<_> = firsts.iter().flat_map(|first| frame(*first, KEY, &payload)).collect();
        let error = failure(Config::default(), 1002, &bytes);
        assert_eq!(error, PeerError::ReservedBits(bits).into(), "{firsts:X?}");
    }
    let mut plain = Connection::new(Config::default());
    plain.receive(&frame(FIN | RSV1 | TEXT, KEY, &payload));
    assert_eq!(drain(&mut plain), [failed(PeerError::ReservedBits(4))]);
}

#[test]
fn what_cannot_be_inflated_fails() {
    for payload in [&[0xff][..], &[0x06], &[0, 1, 0, 1, 0, 7], &[0xf2, 0x00, 0xff, 0xff]] {
        let error = failure(Config::default(), 1007, &frame(FIN | RSV1 | BINARY, KEY, payload));
        assert_eq!(error, PeerError::NotDeflate.into(), "{payload:X?}");
    }
}

#[test]
fn text_is_validated_inflated() {
    let (good, bad) =
        ("h\u{e9}llo ".repeat(20), [b"h\xc3\xa9llo ".repeat(20), b"\xff more".to_vec()].concat());
    let payload = compressed(&bad);
    let error = failure(Config::default(), 1007, &frame(FIN | RSV1 | TEXT, KEY, &payload));
    assert_eq!(error, PeerError::TextNotUtf8(good.len() as u64).into());
    let unended = compressed(&b"h\xc3"[..]);
    let error = failure(Config::default(), 1007, &frame(FIN | RSV1 | TEXT, KEY, &unended));
    assert_eq!(error, PeerError::TextNotUtf8(1).into());
    // Then something that cannot be inflated: the first error counts.
    let both = [compressed(&b"\xff"[..]), vec![0xff]].concat();
    let error = failure(Config::default(), 1007, &frame(FIN | RSV1 | TEXT, KEY, &both));
    assert_eq!(error, PeerError::TextNotUtf8(0).into());
    let outcome = every_way_from(
        || deflating(Config { validate_utf8: false, ..Config::default() }),
        &frame(FIN | RSV1 | TEXT, KEY, &payload),
    );
    assert_eq!(outcome.seen, [text(&bad)]);
}

/// The limits hold for what comes of it.
#[test]
fn what_is_inflated_is_limited_by_frame_and_by_message() {
    let zeros = compressed(vec![0; 1000]);
    let frame_of = |max| Config { max_payload_size: max, ..Config::default() };
    let message_of = |max| Config { max_message_size: max, ..Config::default() };
    let whole = frame(FIN | RSV1 | BINARY, KEY, &zeros);
    let too_big = |max| LimitError::PayloadTooBig { len: max + 1, max }.into();
    let message_too_big = |max| LimitError::MessageTooBig { len: max + 1, max }.into();

    for config in [frame_of(1000), message_of(1000), frame_of(0)] {
        let outcome = every_way_from(|| deflating(config), &whole);
        assert_eq!(outcome.seen, [binary([0; 1000])]);
    }
    for max in [16, 999] {
        assert_eq!(failure(frame_of(max), 1009, &whole), too_big(max));
        assert_eq!(failure(message_of(max), 1009, &whole), message_too_big(max));
    }
    let both = Config { max_payload_size: 900, max_message_size: 800, ..Config::default() };
    assert_eq!(failure(both, 1009, &whole), message_too_big(800));
    let equal = Config { max_payload_size: 800, max_message_size: 800, ..Config::default() };
    assert_eq!(failure(equal, 1009, &whole), too_big(800));

    // By the header, where no compressor would have made it of so little.
    let header = header(FIN | RSV1 | BINARY, KEY, 82);
    let error = LimitError::PayloadTooBig { len: 82, max: 16 };
    assert_eq!(failure(frame_of(16), 1009, &header), error.into());
    // What is larger on the wire than as a message is no larger a message.
    let stored = [&[0, 5, 0, 0xfa, 0xff][..], b"Hello", &[0]].concat();
    let outcome =
        every_way_from(|| deflating(message_of(5)), &frame(FIN | RSV1 | TEXT, KEY, stored));
    assert_eq!(outcome.seen, [text("Hello")]);

    // Two fragments of 1000 each.
    let second = compressed_after(&[&[0; 1000]], &[0; 1000]);
    let first = [&zeros[..], &[0, 0, 0xff, 0xff]].concat();
    let fragments =
        [frame(RSV1 | BINARY, KEY, first), frame(FIN | CONTINUATION, KEY, second)].concat();
    let both = Config { max_payload_size: 1000, max_message_size: 2000, ..Config::default() };
    let outcome = every_way_from(|| deflating(both), &fragments);
    assert_eq!(outcome.seen, [binary([0; 2000])]);
    assert_eq!(failure(message_of(1999), 1009, &fragments), message_too_big(1999));
}

/// What cannot be compressed is longer on the wire than it is, and the limits hold for what it is.
#[test]
fn what_is_just_within_the_limits_passes_compressed_too() {
    let limits = Config { max_payload_size: 65_536, max_message_size: 65_536, ..Config::default() };
    for level in 0..=9 {
        let mut sender = Connection::new(Config::default());
        sender.use_deflate(&deflate::Config { level, ..DEFLATE });
        for (len, passes) in [(65_536, true), (65_537, false)] {
            let message = noise(len);
            sender.send(2, &message).unwrap();
            let bytes = sender.take_output();
            assert!(bytes.len() > len, "{level}: {}", bytes.len());
            let outcome = every_way_from(|| deflating(limits), &bytes);
            assert_eq!(outcome.seen[0] == binary(message), passes, "level {level}, {len} bytes");
        }
    }
}

/// The frames that a connection has sent, each with its first byte, the compressed ones inflated.
fn inflated(connection: &mut Connection) -> Vec<(u8, Vec<u8>)> {
    let mut decompress = Decompress::new(false);
    let output = connection.take_output();
    let mut bytes = &output[..];
    let mut frames = vec![];
    while let [first, ..] = *bytes {
        // Without RSV1, which `decode` does not let pass.
        let plain = [&[first & !RSV1], &bytes[1..]].concat();
        let masking_key = if plain[1] & 0x80 != 0 { 4 } else { 0 };
        let len = masking_key
            + match plain[1] & 0x7f {
                126 => 4 + usize::from(u16::from_be_bytes([plain[2], plain[3]])),
                short => 2 + usize::from(short),
            };
        let sent = decode(&plain[..len], connection.config.masked).remove(0);
        bytes = &bytes[len..];
        let mut payload = sent.payload.0;
        if first & RSV1 != 0 {
            payload.extend([0, 0, 0xff, 0xff]);
            let mut out = Vec::with_capacity(1 << 20);
            decompress.decompress_vec(&payload, &mut out, FlushDecompress::Sync).unwrap();
            payload = out;
        }
        frames.push((first, payload));
    }
    frames
}

#[test]
fn messages_are_sent_compressed_and_the_rest_as_it_is() {
    for masked in [false, true] {
        let mut connection = Connection::new(Config { masked, ..Config::default() });
        connection.use_deflate(&deflate::Config { threshold: 5, ..DEFLATE });
        let long = "all work and no play ".repeat(40);
        for (opcode, payload) in [
            (TEXT, "Hello"),
            (TEXT, "four"),
            (BINARY, &long),
            (PING, "Hello"),
            (7, "Hello"),
            (TEXT, &long),
        ] {
            assert_eq!(connection.send(opcode, payload.as_bytes()), Ok(true));
        }
        assert!(connection.output().len() < 150, "{} bytes", connection.output().len());
        assert_eq!(connection.close(1000, b"not compressed"), Ok(true));
        let expected = [
            (FIN | RSV1 | TEXT, "Hello".into()),
            (FIN | TEXT, "four".into()),
            (FIN | RSV1 | BINARY, long.clone().into()),
            (FIN | PING, "Hello".into()),
            (FIN | 7, "Hello".into()),
            (FIN | RSV1 | TEXT, long.into()),
            (FIN | CLOSE, b"\x03\xe8not compressed".to_vec()),
        ];
        assert_eq!(inflated(&mut connection), expected);
        assert_eq!(connection.send(TEXT, b"Hello"), Ok(false), "after Close");
    }
}

#[test]
fn nothing_is_compressed_below_the_threshold_nor_when_empty() {
    let mut connection = deflating(Config::default());
    assert!(matches!(connection.begin_frame(TEXT, 0), Ok(Begun::Frame(_))));
    assert!(matches!(connection.begin_frame(TEXT, 1), Ok(Begun::Compressed)));
    assert!(matches!(connection.begin_frame(CONTINUATION, 1), Ok(Begun::Frame(_))));
    connection.use_deflate(&deflate::Config { threshold: 100, ..DEFLATE });
    assert!(matches!(connection.begin_frame(TEXT, 99), Ok(Begun::Frame(_))));
    assert!(matches!(connection.begin_frame(BINARY, 100), Ok(Begun::Compressed)));
}

/// 256 bytes are a window that zlib has not: such a peer gets messages as they are.
#[test]
fn with_a_window_of_8_bits_messages_are_sent_as_they_are() {
    let small = Direction { window_bits: 8, ..PLAIN };
    let mut connection = Connection::new(Config::default());
    connection.use_deflate(&deflate::Config { outgoing: small, incoming: small, ..DEFLATE });
    assert_eq!(connection.send(TEXT, b"Hello, Hello, Hello"), Ok(true));
    assert_eq!(connection.take_output(), frame(FIN | TEXT, None, "Hello, Hello, Hello"));
    connection.receive(&frame(FIN | RSV1 | TEXT, KEY, compressed("Hello")));
    assert_eq!(drain(&mut connection), [text("Hello")]);
}

#[test]
fn the_compressor_can_be_released_between_messages() {
    let mut connection = deflating(Config::default());
    for _ in 0..3 {
        assert_eq!(connection.send(TEXT, b"Hello, Hello"), Ok(true));
        connection.release_compressor();
    }
    let hello = (FIN | RSV1 | TEXT, b"Hello, Hello".to_vec());
    assert_eq!(inflated(&mut connection), [hello.clone(), hello.clone(), hello]);
}

/// How many coders a connection holds.
fn active(connection: &Connection) -> usize {
    format!("{connection:?}").matches("active: true").count()
}

/// A connection that has compressed and inflated.
fn used() -> Connection {
    let mut connection = deflating(Config::default());
    assert_eq!(connection.send(TEXT, b"Hello"), Ok(true));
    connection.receive(&frame(FIN | RSV1 | TEXT, KEY, compressed("Hello")));
    assert_eq!(drain(&mut connection), [text("Hello")]);
    assert_eq!(active(&connection), 2);
    connection
}

/// A program may keep a connection for what it can still be asked.
#[test]
fn coders_go_when_nothing_is_left_for_them_to_do() {
    let ended_by = |end: &dyn Fn(&mut Connection)| {
        let mut connection = used();
        end(&mut connection);
        drain(&mut connection);
        active(&connection)
    };
    // What the peer sends is still told until its Close frame.
    assert_eq!(ended_by(&|connection| assert_eq!(connection.close(1000, b""), Ok(true))), 1);
    assert_eq!(ended_by(&|connection| assert_eq!(connection.send(CLOSE, b""), Ok(true))), 1);
    assert_eq!(ended_by(&|connection| assert!(connection.begin_frame(CLOSE, 0).is_ok())), 1);
    assert_eq!(ended_by(&|connection| connection.receive(&close_frame(KEY, 1000, ""))), 0);
    assert_eq!(ended_by(&|connection| connection.receive(&close_frame(KEY, 1006, ""))), 0);
    assert_eq!(ended_by(&|connection| connection.receive(&frame(FIN | 3, KEY, ""))), 0);
    assert_eq!(ended_by(&|connection| connection.fail(Error::Internal("died".into()))), 0);
    assert_eq!(ended_by(&Connection::finish), 0);
    assert_eq!(ended_by(&|connection| connection.poison("panic".into())), 0);
}

/// Whoever sends one frame for many goes by it.
#[test]
fn frames_of_one_kind_are_the_same() {
    let alone = Direction { context_takeover: false, ..PLAIN };
    let set_up = |outgoing, level, masked| {
        let mut connection = Connection::new(Config { masked, ..Config::default() });
        connection.use_deflate(&deflate::Config { outgoing, level, ..DEFLATE });
        connection
    };
    let kind = |connection: &Connection| connection.frame_kind(TEXT, 100);
    let mut connections: Vec<_> = (9..=15)
        .flat_map(|window_bits| (0..=9).map(move |level| (window_bits, level)))
        .map(|(window_bits, level)| set_up(Direction { window_bits, ..alone }, level, false))
        .collect();
    let kinds: Vec<_> = connections.iter().map(|connection| kind(connection).unwrap()).collect();
    for (i, one) in kinds.iter().enumerate() {
        assert!(!kinds[..i].contains(one), "{one:?} twice");
    }
    let mut twin = set_up(alone, 6, false);
    let like = connections.iter_mut().find(|connection| kind(connection) == kind(&twin)).unwrap();
    for connection in [like, &mut twin] {
        assert_eq!(connection.send(TEXT, long_text().as_bytes()), Ok(true));
    }
    let frame = twin.take_output();
    assert!(connections.iter_mut().any(|connection| connection.take_output() == frame));
    // Each is its own, and they share nothing but what is sent as it is.
    assert_eq!(kind(&set_up(PLAIN, 6, false)), None);
    assert_eq!(kind(&set_up(alone, 6, true)), None);
    let own = set_up(PLAIN, 6, false);
    assert_eq!(own.frame_kind(TEXT, 0), Some(FrameKind::Plain));
    assert_eq!(own.frame_kind(PING, 100), Some(FrameKind::Plain));
    assert_eq!(own.frame_kind(CLOSE, 0), None);
}
