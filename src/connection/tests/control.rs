//! Pings and pongs (RFC 6455 sections 5.5.2, 5.5.3; compat C12).

use super::drive::*;
use super::wire::*;
use crate::connection::{Config, Connection};

#[test]
fn every_ping_is_answered_with_its_own_body() {
    let bodies: [&[u8]; 4] = [b"", b"\x00", b"\xFF\xFE not text", &[b'x'; 125]];
    for masked in [false, true] {
        for key in BOTH_KEYS {
            let config = Config { masked, ..Config::default() };
            let bytes = bodies.map(|body| frame(FIN | PING, key, body)).concat();
            let outcome = every_way(config, &bytes);
            assert_eq!(outcome.seen, bodies.map(ping));
            assert_eq!(outcome.sent, bodies.map(|body| sent(PONG, body)));
        }
    }
}

#[test]
fn a_pong_is_told_and_not_answered() {
    for key in BOTH_KEYS {
        let bytes = [frame(FIN | PONG, key, "unasked"), frame(FIN | PONG, key, "")].concat();
        let outcome = every_way(Config::default(), &bytes);
        assert_eq!(outcome.seen, [pong("unasked"), pong("")]);
        assert_eq!(outcome.sent, []);
    }
}

/// "The application MUST NOT send any more data frames after sending a Close frame" (RFC 6455
/// section 5.5.1); compat C17: nothing is sent after.
#[test]
fn a_ping_after_our_close_is_told_and_not_answered() {
    let outcome = every_way_from(|| closing(Config::default()), &frame(FIN | PING, KEY, "?"));
    assert_eq!(outcome.seen, [ping("?")]);
    assert_eq!(outcome.sent, []);
    assert!(outcome.is_reading && !outcome.is_writable);
}

/// The payload of a control frame that arrives in two reads, with other frames around it in each.
#[test]
fn a_control_frame_that_ends_in_another_read_keeps_its_own_body() {
    let mut connection = Connection::new(Config::default());
    let first = [frame(FIN | PING, KEY, "a long one"), frame(FIN | PING, KEY, "split")].concat();
    let (head, tail) = first.split_at(first.len() - 3);
    connection.receive(head);
    assert_eq!(drain(&mut connection), [ping("a long one")]);
    connection.receive(&[tail, &frame(FIN | PONG, KEY, "")].concat());
    assert_eq!(drain(&mut connection), [ping("split"), pong("")]);
    let expected = [sent(PONG, "a long one"), sent(PONG, "split")];
    assert_eq!(decode(&connection.take_output(), false), expected);
}
