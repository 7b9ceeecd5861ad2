//! The close handshake, RFC 6455 section 7 (compat C17, C18, D1, D2, D4, D5).

use super::drive::*;
use super::wire::*;
use crate::connection::error::{Error, Misuse, PeerError};
use crate::connection::{Config, Connection};

/// Codes that may stand in a Close frame (section 7.4).
const ALLOWED: [u16; 14] =
    [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999];

/// Codes that may not.
const FORBIDDEN: [u16; 13] =
    [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];

/// "When sending a Close frame in response, the endpoint typically echos the status code it
/// received" (section 5.5.1, compat D4).
#[test]
fn a_close_is_answered_with_its_code_and_nothing_else() {
    for masked in [false, true] {
        for key in BOTH_KEYS {
            for code in ALLOWED {
                for reason in ["", "because", "für 3 €"] {
                    let config = Config { masked, ..Config::default() };
                    let outcome = every_way(config, &close_frame(key, code, reason));
                    let expected = Outcome {
                        seen: vec![closed(code, reason)],
                        sent: vec![sent_close(code)],
                        was_clean: true,
                        is_reading: false,
                        is_writable: false,
                    };
                    assert_eq!(outcome, expected);
                }
            }
        }
    }
}

/// Compat C18: no code and no reason where there is no body; D4: answered with an empty one.
#[test]
fn an_empty_close_is_answered_with_an_empty_one() {
    for key in BOTH_KEYS {
        let outcome = every_way(Config::default(), &frame(FIN | CLOSE, key, ""));
        assert_eq!(outcome.seen, [Seen::Close(None, String::new())]);
        assert_eq!(outcome.sent, [sent(CLOSE, "")]);
        assert!(outcome.was_clean);
    }
}

#[test]
fn the_answer_to_our_close_is_told_and_not_answered() {
    for body in [&b""[..], b"\x03\xE8", b"\x0F\xA0reason"] {
        let outcome = every_way_from(|| closing(Config::default()), &frame(FIN | CLOSE, KEY, body));
        assert!(matches!(outcome.seen[..], [Seen::Close(..)]));
        assert_eq!(outcome.sent, []);
        assert!(outcome.was_clean && !outcome.is_reading);
    }
}

/// Section 7.1.5 speaks of the first Close frame that comes, in whatever order the two are sent;
/// compat D5.
#[test]
fn two_closes_that_cross_are_each_told_and_neither_is_answered() {
    let bodies =
        [(&b""[..], None, ""), (b"\x0F\xA1", Some(4001), ""), (b"\x03\xE9me", Some(1001), "me")];
    for masked in [false, true] {
        let config = Config { masked, ..Config::default() };
        for (body, code, reason) in bodies {
            let mut connection = Connection::new(config);
            let two = [frame(FIN | CLOSE, KEY, body), close_frame(KEY, 4003, "late")].concat();
            connection.receive(&two);
            assert_eq!(connection.close(4002, b"us"), Ok(true));
            assert!(!connection.was_clean(), "nobody has looked at it yet");
            assert_eq!(drain(&mut connection), [Seen::Close(code, reason.into())]);
            assert!(connection.was_clean() && !connection.is_reading());
            let output = connection.take_output();
            assert_eq!(decode(&output, masked), [sent(CLOSE, b"\x0F\xA2us")]);
        }
    }
}

/// Compat C18, in each of which the next bytes may come: with the Close frame, after its event, and
/// after there was no event any more.
#[test]
fn nothing_is_looked_at_after_the_peers_close() {
    let bytes = [frame(FIN | TEXT, KEY, "late"), frame(FIN | PING, KEY, "late")].concat();
    let mut connection = Connection::new(Config::default());
    connection.receive(&[&close_frame(KEY, 1000, ""), &bytes[..]].concat());
    assert_eq!(next(&mut connection), Some(closed(1000, "")));
    assert!(!connection.has_input());
    connection.receive(&bytes);
    assert_eq!(next(&mut connection), None);
    connection.receive(&bytes);
    assert!(!connection.has_input() && !connection.receiver.has_input(), "it is not kept either");
    read(&mut connection, &bytes);
    assert!(!connection.has_input());
    assert_eq!(next(&mut connection), None);
    assert_eq!(decode(&connection.take_output(), false), [sent_close(1000)]);
    assert!(connection.was_clean());
}

#[test]
fn nothing_can_be_sent_after_the_answer_to_a_close() {
    let mut connection = Connection::new(Config::default());
    connection.receive(&close_frame(KEY, 1000, ""));
    assert!(connection.is_writable(), "nobody has looked at it yet");
    assert_eq!(connection.send(TEXT, b"in time"), Ok(true));
    drain(&mut connection);
    assert_eq!(connection.send(TEXT, b"late"), Ok(false));
    assert_eq!(connection.send(CLOSE, b""), Ok(false));
    assert_eq!(connection.close(1000, b"late"), Ok(false));
    let output = connection.take_output();
    assert_eq!(decode(&output, false), [sent(TEXT, "in time"), sent_close(1000)]);
}

/// Compat C17: what was queued before leaves before, and nothing after.
#[test]
fn our_close_is_the_last_frame_and_there_is_one() {
    for masked in [false, true] {
        let mut connection = Connection::new(Config { masked, ..Config::default() });
        connection.send(TEXT, b"first").unwrap();
        assert_eq!(connection.close(1001, "für 3 €".as_bytes()), Ok(true));
        assert!(!connection.is_writable() && connection.is_reading() && !connection.was_clean());
        assert_eq!(connection.close(1001, b"again"), Ok(false));
        assert_eq!(connection.send(TEXT, b"more"), Ok(false));
        let body = [&[0x03, 0xE9], "für 3 €".as_bytes()].concat();
        let output = connection.take_output();
        assert_eq!(decode(&output, masked), [sent(TEXT, "first"), sent(CLOSE, body)]);
    }
}

#[test]
fn closing_with_every_allowed_code_and_the_longest_reason_works() {
    for code in ALLOWED {
        let mut connection = Connection::new(Config::default());
        assert_eq!(connection.close(code, &[b'x'; 123]), Ok(true));
        assert_eq!(connection.output(), close_frame(None, code, [b'x'; 123]));
    }
}

/// Compat D2: nothing broken goes on the wire, and the connection stays as it is.
#[test]
fn closing_in_a_way_that_would_break_the_protocol_is_refused() {
    let misuses = [
        (1000, vec![b'x'; 124], Misuse::CloseReasonTooLong(124)),
        (1000, "€".repeat(42).into_bytes(), Misuse::CloseReasonTooLong(126)),
        (1000, b"ok\xC3".to_vec(), Misuse::CloseReasonNotUtf8(2)),
        (1000, b"\xFF".to_vec(), Misuse::CloseReasonNotUtf8(0)),
    ];
    let codes = FORBIDDEN.map(|code| (code, vec![], Misuse::CloseCode(code)));
    for (code, reason, misuse) in misuses.into_iter().chain(codes) {
        let mut connection = Connection::new(Config::default());
        assert_eq!(connection.close(code, &reason), Err(misuse));
        assert!(connection.output().is_empty() && connection.is_writable());
        assert_eq!(connection.close(1000, b"properly"), Ok(true));
        assert_eq!(connection.close(code, &reason), Err(misuse), "a mistake also when closed");
        assert_eq!(connection.take_output(), close_frame(None, 1000, "properly"));
    }
}

/// What the caller of `close` and `send` is told.
#[test]
fn every_misuse_is_told_in_words() {
    let texts = [
        (Misuse::Opcode(16), "opcode 16 is not between 0 and 15"),
        (Misuse::CloseCode(1005), "close code 1005 may not be sent"),
        (
            Misuse::CloseReasonTooLong(124),
            "close reason of 124 bytes of UTF-8 is over the 123 allowed",
        ),
        (Misuse::CloseReasonNotUtf8(2), "close reason is not valid UTF-8 at byte 2"),
    ];
    for (misuse, text) in texts {
        assert_eq!(misuse.to_string(), text);
    }
}

/// Compat D2: a ready-made Close message goes out as it stands, and nothing after it.
#[test]
fn a_raw_close_stays_raw_and_is_the_last_frame() {
    let bodies = [&b""[..], b"\x03", b"\x03\xED", b"\x03\xE8\xFF", &[b'x'; 200]];
    for masked in [false, true] {
        for body in bodies {
            let mut connection = Connection::new(Config { masked, ..Config::default() });
            assert_eq!(connection.send(CLOSE, body), Ok(true));
            assert!(!connection.is_writable() && connection.is_reading());
            assert_eq!(connection.send(TEXT, b"more"), Ok(false));
            assert_eq!(connection.send(CLOSE, b""), Ok(false));
            assert_eq!(connection.close(1000, b""), Ok(false));
            connection.receive(&frame(FIN | PING, KEY, "?"));
            assert_eq!(drain(&mut connection), [ping("?")]);
            assert!(!connection.was_clean());
            connection.receive(&close_frame(KEY, 1000, ""));
            assert_eq!(drain(&mut connection), [closed(1000, "")]);
            assert!(connection.was_clean());
            assert_eq!(decode(&connection.take_output(), masked), [sent(CLOSE, body)]);
        }
    }
}

/// Compat C18, D1: recorded as received, also 1005, then failed.
#[test]
fn a_code_that_may_not_be_on_the_wire_is_told_and_then_fails() {
    for key in BOTH_KEYS {
        for code in FORBIDDEN {
            for (reason, shown) in [(&b""[..], ""), (b"why", "why"), (b"\xFF", "\u{FFFD}")] {
                let bad = Bad {
                    what: &format!("close code {code}"),
                    config: Config::default(),
                    key,
                    bytes: &close_frame(key, code, reason),
                    told: &[closed(code, shown)],
                    error: PeerError::CloseCodeNotAllowed(code).into(),
                    code: 1002,
                };
                bad.assert_fails();
            }
        }
    }
}

/// "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer" (section
/// 5.5.1).
#[test]
fn a_close_body_of_one_byte_fails() {
    for key in BOTH_KEYS {
        let bad = Bad {
            what: "close body of one byte",
            config: Config::default(),
            key,
            bytes: &frame(FIN | CLOSE, key, b"\x03"),
            told: &[Seen::Close(None, String::new())],
            error: PeerError::CloseBodyTooShort.into(),
            code: 1002,
        };
        bad.assert_fails();
    }
}

/// Section 5.5.1: the reason is UTF-8. Compat D1: `validate_utf8 = false` turns this not off.
#[test]
fn a_close_reason_that_is_not_utf8_is_told_as_far_as_it_goes_and_fails() {
    let reasons: [(&[u8], &str, u64); 3] = [
        (b"\xFF", "\u{FFFD}", 0),
        (b"ok\xC3", "ok\u{FFFD}", 2),
        (b"\xED\xA0\x80!", "\u{FFFD}\u{FFFD}\u{FFFD}!", 0),
    ];
    for key in BOTH_KEYS {
        for validate_utf8 in [true, false] {
            for (reason, shown, at) in reasons {
                let bad = Bad {
                    what: &format!("{reason:X?}, {validate_utf8}"),
                    config: Config { validate_utf8, ..Config::default() },
                    key,
                    bytes: &close_frame(key, 1000, reason),
                    told: &[closed(1000, shown)],
                    error: PeerError::CloseReasonNotUtf8(at).into(),
                    code: 1007,
                };
                bad.assert_fails();
            }
        }
    }
}

/// Between the two events of a Close frame that may not be, the program may already act.
#[test]
fn nothing_can_be_sent_between_a_forbidden_close_and_its_failure() {
    let mut connection = Connection::new(Config::default());
    connection.receive(&close_frame(KEY, 1006, "odd"));
    assert_eq!(next(&mut connection), Some(closed(1006, "odd")));
    assert!(!connection.is_writable() && !connection.is_reading() && !connection.was_clean());
    assert_eq!(connection.send(TEXT, b"more"), Ok(false));
    assert_eq!(connection.close(1000, b""), Ok(false));
    let error = PeerError::CloseCodeNotAllowed(1006);
    assert_eq!(next(&mut connection), Some(failed(error)));
    assert_eq!(next(&mut connection), None);
    assert_eq!(decode(&connection.take_output(), false), [sent_close(1002)]);
}

/// The program failed in the meantime (compat C15): it is told of that elsewhere, and only once.
#[test]
fn a_failure_of_the_program_takes_the_place_of_one_still_to_be_told() {
    let mut connection = Connection::new(Config::default());
    connection.receive(&close_frame(KEY, 1006, ""));
    assert_eq!(next(&mut connection), Some(closed(1006, "")));
    connection.fail(Error::Internal("died".into()));
    assert_eq!(next(&mut connection), None);
    assert_eq!(decode(&connection.take_output(), false), [sent_close(1002)]);
}

#[test]
fn after_the_end_of_the_socket_nothing_comes_or_goes_but_it_stays_as_clean_as_it_was() {
    for clean in [true, false] {
        let mut connection = Connection::new(Config::default());
        connection.receive(&frame(FIN | TEXT, KEY, "too late"));
        if clean {
            assert_eq!(next(&mut connection), Some(text("too late")));
            connection.receive(&close_frame(KEY, 1000, ""));
            assert_eq!(next(&mut connection), Some(closed(1000, "")));
        }
        connection.finish();
        assert!(!connection.is_reading() && !connection.is_writable() && !connection.has_input());
        connection.receive(&frame(FIN | TEXT, KEY, "later"));
        assert_eq!(next(&mut connection), None);
        assert_eq!(connection.send(TEXT, b"x"), Ok(false));
        assert_eq!(connection.close(1000, b""), Ok(false));
        assert_eq!(connection.was_clean(), clean);
    }
}
