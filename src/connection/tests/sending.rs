//! What the program sends (compat C4, C6, C7).

use super::drive::*;
use super::wire::*;
use crate::connection::error::{Error, Misuse};
use crate::connection::{Begun, Config, Connection};
use crate::frame::MaskKey;

fn masking(masked: bool) -> Config {
    Config { masked, ..Config::default() }
}

#[test]
fn an_unmasked_frame_is_the_example_of_the_rfc() {
    let mut connection = Connection::new(masking(false));
    assert_eq!(connection.send(TEXT, b"Hello"), Ok(true));
    assert_eq!(connection.output(), b"\x81\x05Hello");
}

/// Compat C4, C6, D2: whatever opcode a ready-made message has goes out as it stands, of any size.
#[test]
fn every_opcode_of_four_bits_goes_out_as_it_stands() {
    for masked in [false, true] {
        for opcode in 0..=15 {
            for payload in [&b""[..], b"0", &[b'x'; 70_000]] {
                let mut connection = Connection::new(masking(masked));
                assert_eq!(connection.send(opcode, payload), Ok(true));
                let output = connection.take_output();
                assert_eq!(decode(&output, masked), [sent(opcode, payload)]);
            }
        }
    }
}

#[test]
fn an_opcode_of_more_than_four_bits_is_refused_and_does_no_harm() {
    for opcode in [16, 24, 255] {
        let mut connection = Connection::new(masking(true));
        assert_eq!(connection.send(opcode, b"x"), Err(Misuse::Opcode(opcode)));
        assert_eq!(connection.begin_frame(opcode, 1).unwrap_err(), Misuse::Opcode(opcode));
        assert!(connection.output().is_empty());
        assert_eq!(connection.send(TEXT, b"still open"), Ok(true));
    }
}

/// Compat C7; "The masking key is a 32-bit value chosen at random by the client ... from the set of
/// allowed 32-bit values" for each frame (RFC 6455 section 5.3). That answers are masked too is
/// asserted wherever output is decoded.
#[test]
fn every_masked_frame_has_a_fresh_key() {
    let mut connection = Connection::new(masking(true));
    connection.receive(&frame(FIN | PING, None, "same"));
    drain(&mut connection);
    for _ in 0..6 {
        connection.send(TEXT, b"same").unwrap();
    }
    connection.close(1000, b"").unwrap();
    let frames = decode_with_keys(&connection.take_output(), true);
    assert_eq!(frames.len(), 8);
    for (i, (_, key)) in frames.iter().enumerate() {
        assert!(frames[..i].iter().all(|(_, earlier)| earlier != key), "{key:?} twice");
    }
}

#[test]
fn output_can_be_consumed_in_parts_while_more_is_queued() {
    let mut connection = Connection::new(masking(false));
    connection.send(TEXT, b"one").unwrap();
    connection.consume_output(2);
    assert_eq!(connection.output(), b"one");
    connection.send(TEXT, b"two").unwrap();
    connection.consume_output(1);
    assert_eq!(connection.output(), b"ne\x81\x03two");
    assert_eq!(connection.take_output(), b"ne\x81\x03two");
    assert_eq!(connection.output(), b"");
    connection.send(TEXT, b"3").unwrap();
    assert_eq!(connection.output(), b"\x81\x013");
    connection.consume_output(3);
    assert_eq!(connection.take_output(), b"");
    connection.consume_output(0);
}

#[test]
#[should_panic(expected = "more output consumed than there is")]
fn more_than_the_output_cannot_be_consumed() {
    let mut connection = Connection::new(masking(false));
    connection.send(TEXT, b"one").unwrap();
    connection.consume_output(4);
    connection.consume_output(2);
}

/// A caller that puts a frame on the wire by itself makes the same frame, with nothing queued.
#[test]
fn a_frame_begun_is_the_frame_that_send_would_queue() {
    for masked in [false, true] {
        for payload in [&b""[..], b"abcde", &[7; 126], &[8; 65_536]] {
            let mut connection = Connection::new(masking(masked));
            let Ok(Begun::Frame(start)) = connection.begin_frame(BINARY, payload.len()) else {
                panic!("no frame begun");
            };
            let key = start.key.map(|MaskKey(key)| key);
            assert_eq!(key.is_some(), masked);
            assert_eq!(start.header.as_ref(), header(FIN | BINARY, key, payload.len() as u64));
            assert!(connection.output().is_empty() && connection.is_writable());
        }
    }
}

/// Compat D2: a Close frame that the caller puts on the wire by itself counts as sent.
#[test]
fn a_close_begun_is_the_last_frame() {
    let mut connection = Connection::new(masking(false));
    assert!(matches!(connection.begin_frame(CLOSE, 2), Ok(Begun::Frame(_))));
    assert!(!connection.is_writable());
    assert!(matches!(connection.begin_frame(TEXT, 2), Ok(Begun::Closed)));
    assert_eq!(connection.send(TEXT, b"more"), Ok(false));
    assert_eq!(connection.close(1000, b""), Ok(false));
    connection.receive(&close_frame(KEY, 1000, ""));
    assert_eq!(drain(&mut connection), [closed(1000, "")]);
    assert!(connection.output().is_empty());
    assert!(connection.was_clean());
}

/// Compat C15: the program's own failure. It knows of it, so there is no event.
#[test]
fn failing_for_the_program_sends_1011_and_discards_what_follows() {
    let mut connection = Connection::new(masking(true));
    let ok = [frame(FIN | TEXT, None, "one"), frame(FIN | TEXT, None, "two")].concat();
    connection.receive(&[ok, frame(BINARY, None, "three")].concat());
    assert_eq!(next(&mut connection), Some(text("one")));
    connection.fail(Error::Internal("died".into()));
    assert!(!connection.is_reading() && !connection.has_input() && !connection.is_writable());
    assert_eq!(drain(&mut connection), []);
    connection.fail(Error::Internal("again".into()));
    assert_eq!(drain(&mut connection), []);
    assert_eq!(decode(&connection.take_output(), true), [sent_close(1011)]);
}

#[test]
fn poisoning_fails_with_1011_once_and_for_all() {
    let mut connection = Connection::new(masking(true));
    connection.receive(&[frame(TEXT, KEY, "under way"), frame(FIN | PING, KEY, "?")].concat());
    connection.poison("panicked".into());
    assert!(!connection.is_reading() && !connection.is_writable());
    let error = Error::Internal("panicked".into());
    assert_eq!((error.close_code(), error.to_string().as_str()), (1011, "panicked"));
    assert_eq!(drain(&mut connection), [failed(error)]);
    assert_eq!(decode(&connection.take_output(), true), [sent_close(1011)]);
    connection.receive(&frame(FIN | CONTINUATION, KEY, "more"));
    assert_eq!(drain(&mut connection), []);
    assert_eq!(connection.send(TEXT, b"more"), Ok(false));
    assert!(connection.output().is_empty() && !connection.was_clean());
}

/// The peer may have half of a frame already.
#[test]
fn what_was_queued_before_poisoning_leaves_before_the_close() {
    let mut connection = Connection::new(masking(false));
    connection.send(TEXT, b"first").unwrap();
    connection.send(TEXT, b"second").unwrap();
    let sent_by_then = connection.output()[..3].to_vec();
    connection.consume_output(3);
    connection.poison("panicked".into());
    let output = [sent_by_then, connection.take_output()].concat();
    let expected = [sent(TEXT, "first"), sent(TEXT, "second"), sent_close(1011)];
    assert_eq!(decode(&output, false), expected);
}

#[test]
fn poisoning_sends_no_second_close() {
    let mut closing = closing(masking(false));
    let mut closed = Connection::new(masking(false));
    closed.receive(&close_frame(KEY, 1000, ""));
    drain(&mut closed);
    let mut failed_before = Connection::new(masking(false));
    failed_before.receive(&[0xFF, 0xFF]);
    drain(&mut failed_before);
    // A Close that is told with a failure still to be told: that one makes way.
    let mut failing = Connection::new(masking(false));
    failing.receive(&close_frame(KEY, 1005, ""));
    next(&mut failing);
    for connection in [&mut closing, &mut closed, &mut failed_before, &mut failing] {
        connection.take_output();
        connection.poison("panicked".into());
        assert_eq!(drain(connection), [failed(Error::Internal("panicked".into()))]);
        assert!(connection.output().is_empty() && !connection.was_clean());
        assert_eq!(connection.close(1000, b""), Ok(false));
    }
}
