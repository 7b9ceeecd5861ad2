//! Messages, whole and fragmented.

use super::drive::*;
use super::wire::*;
use crate::block::RECYCLED_LEN;
use crate::connection::{Config, Connection, Event, Payload, Role};

fn unlimited() -> Config {
    Config { max_payload_size: 0, ..Config::default() }
}

/// RFC 6455 section 5.7, byte for byte.
#[test]
fn the_examples_of_the_rfc_are_understood() {
    let kib = [7; 256];
    let large = [9; 65_536];
    let examples: [(&[&[u8]], Seen); 6] = [
        (&[b"\x81\x05Hello"], text("Hello")),
        (&[b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"], text("Hello")),
        (&[b"\x01\x03Hel", b"\x80\x02lo"], text("Hello")),
        (&[b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"], pong("Hello")),
        (&[b"\x82\x7E\x01\x00", &kib], binary(kib)),
        (&[b"\x82\x7F\x00\x00\x00\x00\x00\x01\x00\x00", &large], binary(large)),
    ];
    for (bytes, expected) in examples {
        let outcome = every_way(Config::default(), &bytes.concat());
        assert_eq!(outcome.seen, [expected]);
        assert_eq!(outcome.sent, []);
        assert!(outcome.is_reading && outcome.is_writable && !outcome.was_clean);
    }
    let outcome = every_way(Config::default(), b"\x89\x05Hello");
    assert_eq!((outcome.seen, outcome.sent), (vec![ping("Hello")], vec![sent(PONG, "Hello")]));
}

#[test]
fn messages_of_every_short_length_come_whole() {
    for key in BOTH_KEYS {
        for len in (0..=40).chain([124, 125, 126, 127, 128, 250]) {
            let payload: Vec<u8> = (1..=len).collect();
            let bytes = [frame(FIN | BINARY, key, &payload), frame(FIN | TEXT, key, "")].concat();
            assert_eq!(every_way(unlimited(), &bytes).seen, [binary(payload), text("")]);
        }
    }
}

/// RFC 6455 section 5.4: a fragmented message is the concatenation of its fragments' payloads, of
/// the type of its first frame; a fragment may be empty.
#[test]
fn fragments_make_one_message() {
    for key in BOTH_KEYS {
        for fragments in [&["", ""][..], &["a", ""], &["", "b"], &["ab", "", "cde", "f"]] {
            let (first, rest) = fragments.split_first().unwrap();
            let (last, middle) = rest.split_last().unwrap();
            let mut bytes = frame(BINARY, key, first);
            middle.iter().for_each(|piece| bytes.extend(frame(CONTINUATION, key, piece)));
            bytes.extend(frame(FIN | CONTINUATION, key, last));
            bytes.extend(frame(FIN | TEXT, key, "next"));
            let outcome = every_way(Config::default(), &bytes);
            assert_eq!(outcome.seen, [binary(fragments.concat()), text("next")]);
        }
    }
}

/// Each frame has its own key, and each may have another one (RFC 6455 section 5.3).
#[test]
fn each_fragment_is_unmasked_with_its_own_key() {
    let keys: [Key; 4] = [Some([1, 2, 3, 4]), None, Some([250, 0, 9, 77]), KEY];
    let bytes = [
        frame(TEXT, keys[0], "one, "),
        frame(FIN | PING, keys[1], "ping"),
        frame(CONTINUATION, keys[2], "two and "),
        frame(FIN | CONTINUATION, keys[3], "three"),
    ]
    .concat();
    assert_eq!(
        every_way(Config::default(), &bytes).seen,
        [ping("ping"), text("one, two and three")]
    );
}

/// "Control frames themselves MUST NOT be fragmented", but "MAY be injected in the middle of a
/// fragmented message", and are handled at once (RFC 6455 sections 5.4, 5.5).
#[test]
fn control_frames_between_fragments_are_told_before_the_message() {
    for key in BOTH_KEYS {
        let bytes = [
            frame(TEXT, key, "Hel"),
            frame(FIN | PING, key, "one"),
            frame(FIN | PONG, key, "two"),
            frame(CONTINUATION, key, ""),
            frame(FIN | PING, key, ""),
            frame(FIN | CONTINUATION, key, "lo"),
            frame(FIN | PING, key, "after"),
        ]
        .concat();
        let outcome = every_way(Config::default(), &bytes);
        let expected = [ping("one"), pong("two"), ping(""), text("Hello"), ping("after")];
        assert_eq!(outcome.seen, expected);
        assert_eq!(outcome.sent, [sent(PONG, "one"), sent(PONG, ""), sent(PONG, "after")]);
    }
}

#[test]
fn a_close_inside_a_fragmented_message_ends_it() {
    let bytes = [
        frame(TEXT, KEY, "never to be "),
        close_frame(KEY, 1001, "gone"),
        frame(FIN | CONTINUATION, KEY, "finished"),
    ]
    .concat();
    let outcome = every_way(Config::default(), &bytes);
    assert_eq!(outcome.seen, [closed(1001, "gone")]);
    assert_eq!(outcome.sent, [sent_close(1001)]);
    assert!(outcome.was_clean);
}

#[test]
fn large_fragments_with_control_frames_between_them_come_whole() {
    let pieces: [Vec<u8>; 3] =
        [100_000, 17, 300_001].map(|len| (0..len).map(|i: usize| (i % 251) as u8).collect());
    for key in BOTH_KEYS {
        let bytes = [
            frame(BINARY, key, &pieces[0]),
            frame(FIN | PING, key, "a"),
            frame(CONTINUATION, key, &pieces[1]),
            frame(FIN | PONG, key, "b"),
            frame(FIN | CONTINUATION, key, &pieces[2]),
            frame(FIN | TEXT, key, "next"),
        ]
        .concat();
        let outcome = every_way(unlimited(), &bytes);
        assert_eq!(outcome.seen, [ping("a"), pong("b"), binary(pieces.concat()), text("next")]);
    }
}

/// Where the role is not known, masks are taken as they come (compat D1), one by one.
#[test]
fn masks_are_taken_as_they_come_where_the_role_is_unknown() {
    let bytes = [frame(FIN | TEXT, None, "plain"), frame(FIN | TEXT, KEY, "masked")].concat();
    assert_eq!(every_way(Config::default(), &bytes).seen, [text("plain"), text("masked")]);
}

#[test]
fn each_role_takes_what_the_other_one_sends() {
    for (role, key) in [(Role::Client, None), (Role::Server, KEY)] {
        let config = Config { role: Some(role), ..Config::default() };
        let bytes = [frame(FIN | TEXT, key, "data"), frame(FIN | PONG, key, "control")].concat();
        assert_eq!(every_way(config, &bytes).seen, [text("data"), pong("control")]);
    }
}

#[test]
fn an_unfinished_frame_is_no_event_at_any_length() {
    for key in BOTH_KEYS {
        for whole in [frame(FIN | TEXT, key, "text"), frame(FIN | PING, key, [7; 125])] {
            for len in 0..whole.len() {
                let outcome = every_way(Config::default(), &whole[..len]);
                assert_eq!((outcome.seen, outcome.sent), (vec![], vec![]), "{len}");
                assert!(outcome.is_reading);
            }
        }
    }
}

/// Nothing is parsed before it is asked for, so that the program can act between two events.
#[test]
fn events_are_told_one_by_one_and_only_when_asked_for() {
    let mut connection = Connection::new(Config::default());
    assert!(!connection.has_input());
    let bad = frame(FIN | RSV1 | TEXT, None, "bad");
    let ok = [frame(FIN | PING, None, "1"), frame(FIN | TEXT, None, "2")].concat();
    connection.receive(&[ok, frame(FIN | PING, None, "3"), bad].concat());
    assert!(connection.has_input() && connection.output().is_empty());
    assert_eq!(next(&mut connection), Some(ping("1")));
    connection.send(TEXT, b"between").unwrap();
    assert_eq!(next(&mut connection), Some(text("2")));
    connection.close(1000, b"").unwrap();
    assert_eq!(next(&mut connection), Some(ping("3")), "told, though not answered");
    assert!(connection.has_input());
    assert!(matches!(next(&mut connection), Some(Seen::Failed(_))));
    assert!(!connection.has_input());
    assert_eq!(next(&mut connection), None);
    let expected = [sent(PONG, "1"), sent(TEXT, "between"), sent_close(1000)];
    assert_eq!(decode(&connection.take_output(), false), expected);
}

/// What is there as a whole and not large stays in the receive buffer; what is not gets memory of its
/// own, into which the rest is read: all of the frame and nothing that follows it.
#[test]
fn only_large_messages_and_those_that_come_in_pieces_get_memory_of_their_own() {
    let mut connection = Connection::new(unlimited());
    for (len, borrowed) in [(0, true), (RECYCLED_LEN - 1, true), (RECYCLED_LEN, false)] {
        let bytes = frame(FIN | BINARY, KEY, vec![1; len]);
        // Whether or not something follows it.
        for bytes in [bytes.clone(), [bytes.clone(), frame(FIN | TEXT, KEY, "next")].concat()] {
            connection.receive(&bytes);
            let Some(Event::Message { payload, .. }) = connection.next_event() else {
                panic!("no message")
            };
            assert_eq!(*payload, vec![1; len]);
            assert_eq!(matches!(payload, Payload::Borrowed(_)), borrowed, "{len} bytes");
            drop(payload);
            drain(&mut connection);
        }
    }

    let bytes = [frame(FIN | BINARY, KEY, [1; 40_000]), frame(FIN | TEXT, KEY, "next")].concat();
    connection.receive(&bytes[..20_000]);
    assert_eq!(next(&mut connection), None);
    let (block, missing) = connection.read_into().direct.expect("most of it is missing");
    assert_eq!(missing, 40_000 - (20_000 - 8));
    block.extend(&bytes[20_000..40_008], usize::MAX);
    assert!(connection.has_input());
    assert!(connection.read_into().direct.is_none(), "what is there has to be looked at first");
    let Some(Event::Message { payload, .. }) = connection.next_event() else {
        panic!("no message")
    };
    assert!(matches!(payload, Payload::Block(_)));
    assert_eq!(*payload, [1; 40_000]);
    drop(payload);
    assert!(connection.read_into().direct.is_none(), "no frame is under way");

    connection.receive(&bytes[..30_000]);
    assert_eq!(next(&mut connection), None);
    assert!(connection.read_into().direct.is_none(), "too little is missing to be worth it");
    connection.receive(&bytes[30_000..]);
    assert_eq!(drain(&mut connection), [binary([1; 40_000]), text("next")]);
}
