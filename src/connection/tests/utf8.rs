//! Text is UTF-8, RFC 6455 sections 5.6 and 8.1 (compat D1).

use super::drive::*;
use super::wire::*;
use crate::connection::Config;
use crate::connection::error::PeerError;

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
