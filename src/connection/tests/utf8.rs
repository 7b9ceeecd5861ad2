//! Text is UTF-8, RFC 6455 sections 5.6 and 8.1 (compat D1).

use super::drive::*;
use super::wire::*;
use crate::connection::Config;
use crate::connection::error::PeerError;
use crate::frame::utf8::{Utf8Validator, validate};

/// Sequences of every length, at the edges of their ranges; noncharacters are characters here.
const VALID: &str = "a\u{7F}\u{80}é\u{7FF}\u{800}€\u{D7FF}\u{E000}\u{FFFE}\u{10000}😀\u{10FFFF}\0";

/// Payloads that end with the byte that gives them away, and where the bad sequence starts.
const BAD: [(&[u8], u64); 16] = [
    (b"\x80", 0),
    (b"\xFF", 0),
    (b"ab\xC0", 2),
    (b"ab\xC1", 2),
    (b"\xC3(", 0),
    (b"x\xE0\x9F", 1),
    (b"\xE2\x82(", 0),
    (b"\xED\xA0", 0),
    (b"\xF0\x8F", 0),
    (b"\xF0\x9F\x98(", 0),
    (b"\xF4\x90", 0),
    (b"\xF5", 0),
    // Valid Greek, then a surrogate: what the Autobahn test suite sends.
    (b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xED\xA0", 11),
    (b"\xEF\xBF\xBD\xC3\xC3", 3),
    // Past the sizes that validators treat apart.
    (b"0123456789012345678901234567890123456789012345678901234567890123456789\x80", 70),
    (
        b"\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xE2\x28",
        20,
    ),
];

fn bad<'a>(what: &'a str, key: Key, bytes: &'a [u8], at: u64) -> Bad<'a> {
    let error = PeerError::TextNotUtf8(at).into();
    Bad { what, config: Config::default(), key, bytes, told: &[], error, code: 1007 }
}

#[test]
fn text_may_be_cut_anywhere() {
    for key in BOTH_KEYS {
        let whole = every_way(Config::default(), &frame(FIN | TEXT, key, VALID));
        assert_eq!(whole.seen, [text(VALID)]);
        for at in 0..=VALID.len() {
            let (head, tail) = VALID.as_bytes().split_at(at);
            let bytes = [
                frame(TEXT, key, head),
                frame(FIN | PING, key, b"\xFF"),
                frame(FIN | CONTINUATION, key, tail),
            ];
            let outcome = every_way(Config::default(), &bytes.concat());
            assert_eq!(outcome.seen, [ping(b"\xFF"), text(VALID)], "cut at {at}");
        }
    }
}

#[test]
fn binary_may_be_anything() {
    for (payload, _) in BAD {
        let fragmented = [frame(BINARY, KEY, payload), frame(FIN | CONTINUATION, KEY, payload)];
        let bytes = [frame(FIN | BINARY, KEY, payload), fragmented.concat()].concat();
        let outcome = every_way(Config::default(), &bytes);
        assert_eq!(outcome.seen, [binary(payload), binary(payload.repeat(2))]);
    }
}

/// "When an endpoint is to interpret a byte stream as UTF-8 but finds that the byte stream is not,
/// in fact, a valid UTF-8 stream, that endpoint MUST _Fail the WebSocket Connection_" (section 8.1).
#[test]
fn text_fails_with_its_first_bad_byte() {
    for key in BOTH_KEYS {
        for (payload, at) in BAD {
            let what = format!("{payload:X?}");
            let whole = frame(FIN | TEXT, key, payload);
            bad(&what, key, &whole, at).assert_fails();

            // The frame announces more, which never comes. In `masked` the key starts over.
            let masked = frame(FIN | TEXT, key, payload);
            let masked = &masked[masked.len() - payload.len()..];
            let unfinished = [&header(FIN | TEXT, key, 65_000), masked].concat();
            bad(&what, key, &unfinished, at).assert_fails();
            let unfinished = [&header(TEXT, key, 65_000), masked].concat();
            bad(&what, key, &unfinished, at).assert_fails();

            let early = every_way(Config::default(), &unfinished[..unfinished.len() - 1]);
            assert_eq!(early.seen, [], "{what} without its last byte");
        }
    }
}

#[test]
fn text_fails_at_a_byte_that_is_bad_across_fragments() {
    for key in BOTH_KEYS {
        for (payload, at) in BAD {
            for cut in 0..payload.len() {
                let (head, tail) = payload.split_at(cut);
                let bytes = [
                    frame(TEXT, key, "é1"),
                    frame(CONTINUATION, key, head),
                    frame(CONTINUATION, key, tail),
                ];
                let what = format!("{payload:X?} cut at {cut}");
                bad(&what, key, &bytes.concat(), at + 3).assert_fails();
            }
        }
    }
}

/// Also where it is read straight into its message, piece by piece.
#[test]
fn large_text_fails_at_a_bad_byte_far_inside() {
    let config = Config { max_payload_size: 0, ..Config::default() };
    for key in BOTH_KEYS {
        let mut payload = "é€😀x".repeat(4000).into_bytes();
        assert_eq!(every_way(config, &frame(FIN | TEXT, key, &payload)).seen, [text(&payload)]);
        let at = 35_000;
        assert_eq!(payload[at..at + 2], *"é".as_bytes());
        payload[at + 1] = b'!';
        let outcome = every_way(config, &frame(FIN | TEXT, key, &payload));
        assert_eq!(outcome.seen, [failed(PeerError::TextNotUtf8(at as u64))]);
        assert_eq!(outcome.sent, [sent_close(1007)]);
    }
}

#[test]
fn text_that_ends_inside_a_sequence_fails_at_its_end() {
    for key in BOTH_KEYS {
        for partial in [&b"\xC3"[..], b"\xE2\x82", b"\xF0\x9F\x98"] {
            let payload = [b"abc", partial].concat();
            bad("whole", key, &frame(FIN | TEXT, key, &payload), 3).assert_fails();
            let last = [frame(TEXT, key, "abc"), frame(FIN | CONTINUATION, key, partial)].concat();
            bad("in the last fragment", key, &last, 3).assert_fails();
            let last = [frame(TEXT, key, &payload), frame(FIN | CONTINUATION, key, "")].concat();
            bad("before an empty last fragment", key, &last, 3).assert_fails();
        }
    }
}

#[test]
fn each_message_is_validated_from_its_own_start() {
    let halves = [frame(BINARY, KEY, b"\xE2"), frame(FIN | CONTINUATION, KEY, b"\x82")].concat();
    let outcome = every_way(Config::default(), &[halves, frame(FIN | TEXT, KEY, "€")].concat());
    assert_eq!(outcome.seen, [binary(b"\xE2\x82"), text("€")]);
}

/// Compat D1: `validate_utf8 => 0`. That close reasons are still checked is tested with them.
#[test]
fn text_may_be_anything_without_validation() {
    let config = Config { validate_utf8: false, ..Config::default() };
    for key in BOTH_KEYS {
        for (payload, _) in BAD {
            let fragmented = [frame(TEXT, key, payload), frame(FIN | CONTINUATION, key, payload)];
            let bytes = [frame(FIN | TEXT, key, payload), fragmented.concat()].concat();
            assert_eq!(every_way(config, &bytes).seen, [text(payload), text(payload.repeat(2))]);
        }
    }
}

/// Where bytes change their meaning, and their neighbours.
const EDGES: [u8; 26] = [
    0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED,
    0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF7, 0xF8, 0xFF,
];

/// Whether this can be the start of a text, by the table of RFC 3629 section 4 ("Syntax of UTF-8
/// Byte Sequences"), and if not, where the bad sequence starts.
fn by_the_table(bytes: &[u8]) -> Result<(), u64> {
    let mut at = 0;
    while at < bytes.len() {
        let (second, tails) = match bytes[at] {
            0x00..=0x7F => (0..=0, 0),
            0xC2..=0xDF => (0x80..=0xBF, 1),
            0xE0 => (0xA0..=0xBF, 2),
            0xED => (0x80..=0x9F, 2),
            0xE1..=0xEF => (0x80..=0xBF, 2),
            0xF0 => (0x90..=0xBF, 3),
            0xF4 => (0x80..=0x8F, 3),
            0xF1..=0xF3 => (0x80..=0xBF, 3),
            _ => return Err(at as u64),
        };
        let there = &bytes[at + 1..bytes.len().min(at + 1 + tails)];
        for (i, byte) in there.iter().enumerate() {
            if !(if i == 0 { &second } else { &(0x80..=0xBF) }).contains(byte) {
                return Err(at as u64);
            }
        }
        at += 1 + tails;
    }
    Ok(())
}

/// Every sequence of four such bytes, one by one: the first bad byte fails, and no other.
#[test]
fn every_byte_is_judged_when_it_comes() {
    for first in EDGES {
        for second in EDGES {
            for third in EDGES {
                for fourth in EDGES {
                    let bytes = [first, second, third, fourth];
                    let mut validator = Utf8Validator::default();
                    for n in 1..=4 {
                        let verdict = validator.update(&bytes[n - 1..n]);
                        assert_eq!(verdict, by_the_table(&bytes[..n]), "{:02X?}", &bytes[..n]);
                        if verdict.is_err() {
                            break;
                        }
                    }
                }
            }
        }
    }
}

/// Around the blocks that vector instructions take at a time, whole and in two pieces.
#[test]
fn a_bad_byte_is_found_wherever_it_stands() {
    for bad in [&b"\x80"[..], b"\xC3\xC3", b"\xE2\x82", b"\xED\xA0\x80", b"\xF0\x9F\x98!"] {
        for at in 0..150 {
            let text = [&b"x".repeat(at), bad, &b"y".repeat(150 - at)].concat();
            assert_eq!(validate(&text), Err(at as u64), "{bad:02X?} at {at}");
            for cut in 0..text.len() {
                let mut validator = Utf8Validator::default();
                let (head, tail) = text.split_at(cut);
                let verdict = validator.update(head).and_then(|()| validator.update(tail));
                assert_eq!(verdict, Err(at as u64), "{bad:02X?} at {at}, cut at {cut}");
            }
        }
    }
}
