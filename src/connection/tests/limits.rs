//! `max_payload_size`, `max_fragments` (compat C16, D8) and `max_message_size`.

use super::drive::*;
use super::wire::*;
use crate::connection::Config;
use crate::connection::error::LimitError;

fn max_payload_size(max: u64) -> Config {
    Config { max_payload_size: max, ..Config::default() }
}

fn max_fragments(max: u32) -> Config {
    Config { max_fragments: max, ..Config::default() }
}

fn max_message_size(max: u64) -> Config {
    Config { max_message_size: max, ..Config::default() }
}

#[test]
fn the_defaults_are_those_of_the_perl_class() {
    let config = Config::default();
    assert_eq!((config.max_payload_size, config.max_fragments), (65_536, 128));
    assert_eq!(config.max_message_size, 0);
    assert!(config.validate_utf8 && !config.masked && config.role.is_none());
}

#[test]
fn the_texts_are_those_that_programs_match() {
    let error = LimitError::PayloadTooBig { len: 65_537, max: 65_536 };
    let text = "Payload is too big. Deny big message (65537) or increase max_payload_size (65536)";
    assert_eq!(error.to_string(), text);
    let error = LimitError::TooManyFragments { max: 128 };
    assert!(error.to_string().starts_with("Too many fragments"), "{error}");
    let error = LimitError::MessageTooBig { len: 11, max: 10 };
    assert_eq!(error.to_string(), "Message is too big: 11 bytes are over max_message_size (10)");
}

/// No payload is awaited: the bytes end with the header.
#[test]
fn a_header_that_announces_too_much_is_enough() {
    let longest = u64::MAX >> 1;
    for key in BOTH_KEYS {
        let sizes = [(10, 11), (125, 126), (65_535, 65_536), (65_536, 65_537), (65_536, longest)];
        for (max, len) in sizes {
            for first in [FIN | TEXT, FIN | BINARY, TEXT, BINARY] {
                let bad = Bad {
                    what: &format!("{len} of {max}, {first:#x}"),
                    config: max_payload_size(max),
                    key,
                    bytes: &header(first, key, len),
                    told: &[],
                    error: LimitError::PayloadTooBig { len, max }.into(),
                    code: 1009,
                };
                bad.assert_fails();
            }
        }
    }
}

#[test]
fn the_limit_is_for_each_fragment_and_for_control_frames_too() {
    for key in BOTH_KEYS {
        let inputs = [
            [frame(TEXT, key, "ten bytes."), header(FIN | CONTINUATION, key, 11)].concat(),
            header(FIN | PING, key, 11),
            header(FIN | CLOSE, key, 11),
        ];
        for bytes in inputs {
            let bad = Bad {
                what: &format!("{bytes:X?}"),
                config: max_payload_size(10),
                key,
                bytes: &bytes,
                told: &[],
                error: LimitError::PayloadTooBig { len: 11, max: 10 }.into(),
                code: 1009,
            };
            bad.assert_fails();
        }
    }
}

#[test]
fn frames_of_just_the_limit_pass_and_their_sum_is_not_limited() {
    for key in BOTH_KEYS {
        let bytes = [
            frame(FIN | TEXT, key, "ten bytes."),
            frame(BINARY, key, "ten bytes."),
            frame(FIN | PING, key, "ten bytes."),
            frame(CONTINUATION, key, "ten bytes,"),
            frame(FIN | CONTINUATION, key, "ten bytes;"),
        ]
        .concat();
        let outcome = every_way(max_payload_size(10), &bytes);
        let joined = "ten bytes.ten bytes,ten bytes;";
        assert_eq!(outcome.seen, [text("ten bytes."), ping("ten bytes."), binary(joined)]);
    }
    let largest = vec![b'x'; 65_536];
    let outcome = every_way(Config::default(), &frame(FIN | TEXT, KEY, &largest));
    assert_eq!(outcome.seen, [text(largest)]);
}

/// 0 means none. What is announced is awaited then, however much it is.
#[test]
fn without_a_limit_every_announcement_is_awaited() {
    for len in [65_537, 1 << 40, u64::MAX >> 1] {
        let bytes = [header(FIN | BINARY, KEY, len), vec![7; 100]].concat();
        let outcome = every_way(max_payload_size(0), &bytes);
        assert_eq!(outcome.seen, []);
        assert!(outcome.is_reading && outcome.is_writable);
    }
}

/// A fragmented message of `n` frames, a ping after each but the last; and what comes of it.
fn fragmented(n: usize, key: Key) -> (Vec<u8>, Vec<Seen>) {
    let mut bytes = vec![];
    let mut seen = vec![];
    for i in 1..n {
        bytes.extend(frame(if i == 1 { TEXT } else { CONTINUATION }, key, "x"));
        bytes.extend(frame(FIN | PING, key, ""));
        seen.push(ping(""));
    }
    bytes.extend(frame(FIN | CONTINUATION, key, "x"));
    seen.push(text("x".repeat(n)));
    (bytes, seen)
}

/// Twice, since the count starts over with each message; control frames do not count.
#[test]
fn messages_of_just_as_many_fragments_pass() {
    for (max, n) in [(128, 128), (2, 2), (3, 2), (0, 1000)] {
        for key in BOTH_KEYS {
            let (bytes, seen) = fragmented(n, key);
            let outcome = every_way(max_fragments(max), &[&bytes[..], &bytes].concat());
            assert_eq!(outcome.seen, [&seen[..], &seen].concat(), "{n} of {max}");
        }
    }
}

/// At the frame that exceeds the limit, its header alone, whether or not it is the last.
#[test]
fn one_fragment_more_than_allowed_fails() {
    for max in [1, 2, 128] {
        for key in BOTH_KEYS {
            for first in [FIN | CONTINUATION, CONTINUATION] {
                let mut bytes = frame(TEXT, key, "");
                (1..max).for_each(|_| bytes.extend(frame(CONTINUATION, key, "")));
                bytes.extend(header(first, key, 5));
                let bad = Bad {
                    what: &format!("fragment {} of {max}, {first:#x}", max + 1),
                    config: max_fragments(max),
                    key,
                    bytes: &bytes,
                    told: &[],
                    error: LimitError::TooManyFragments { max }.into(),
                    code: 1009,
                };
                bad.assert_fails();
            }
        }
    }
}

/// At the frame that exceeds the limit, its header alone, whether or not it is the last: the first
/// frame (`before` is none of it), or a later one with `before` bytes in two frames and an empty one.
#[test]
fn a_message_of_more_bytes_than_allowed_fails() {
    for (max, before, len) in
        [(10, 0, 11), (10, 10, 1), (10, 6, 5), (6, 6, 65_536), (70_000, 65_536, 4465)]
    {
        for key in BOTH_KEYS {
            for fin in [FIN, 0] {
                let mut bytes = vec![];
                if before > 0 {
                    bytes.extend(frame(BINARY, key, vec![b'x'; before - 1]));
                    bytes.extend(frame(CONTINUATION, key, ""));
                    bytes.extend(frame(CONTINUATION, key, "x"));
                }
                let opcode = if before > 0 { CONTINUATION } else { BINARY };
                bytes.extend(header(fin | opcode, key, len));
                let bad = Bad {
                    what: &format!("{before} and {len} of {max}, {fin:#x}"),
                    config: max_message_size(max),
                    key,
                    bytes: &bytes,
                    told: &[],
                    error: LimitError::MessageTooBig { len: before as u64 + len, max }.into(),
                    code: 1009,
                };
                bad.assert_fails();
            }
        }
    }
}

/// However large the sum would be: no length wraps around.
#[test]
fn the_sum_of_all_announcements_does_not_overflow() {
    let config = Config { max_payload_size: 0, ..max_message_size(u64::MAX >> 1) };
    let bytes = [frame(BINARY, KEY, "x"), header(CONTINUATION, KEY, u64::MAX >> 1)].concat();
    let bad = Bad {
        what: "one byte and the longest frame",
        config,
        key: KEY,
        bytes: &bytes,
        told: &[],
        error: LimitError::MessageTooBig { len: 1 << 63, max: u64::MAX >> 1 }.into(),
        code: 1009,
    };
    bad.assert_fails();
}

/// Twice, since the sum starts over with each message; control frames do not count.
#[test]
fn messages_of_just_as_many_bytes_pass() {
    for (max, n) in [(3, 3), (5, 3), (0, 100)] {
        for key in BOTH_KEYS {
            let (mut bytes, mut seen) = fragmented(n, key);
            bytes.extend(frame(FIN | PING, key, "longer than the message"));
            bytes.extend(frame(FIN | TEXT, key, "y".repeat(n)));
            seen.extend([ping("longer than the message"), text("y".repeat(n))]);
            let outcome = every_way(max_message_size(max), &[&bytes[..], &bytes].concat());
            assert_eq!(outcome.seen, [&seen[..], &seen].concat(), "{n} of {max}");
        }
    }
}

/// The text of `max_payload_size` is the one that programs match (compat C16).
#[test]
fn of_two_limits_exceeded_the_one_for_frames_is_told() {
    let config = Config { max_payload_size: 10, ..max_message_size(6) };
    let bad = Bad {
        what: "11 bytes, of 10 a frame and 6 a message",
        config,
        key: KEY,
        bytes: &header(FIN | TEXT, KEY, 11),
        told: &[],
        error: LimitError::PayloadTooBig { len: 11, max: 10 }.into(),
        code: 1009,
    };
    bad.assert_fails();
}

/// Frames count, not the pieces in which they arrive.
#[test]
fn an_unfragmented_message_is_one_fragment_however_it_arrives() {
    let outcome = every_way(max_fragments(1), &frame(FIN | TEXT, KEY, "in many pieces"));
    assert_eq!(outcome.seen, [text("in many pieces")]);
}
