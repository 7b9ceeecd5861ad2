//! Two connections of ours: what one says the other understands.

use super::drive::*;
use super::pair::Pair;
use super::wire::*;
use crate::connection::{Config, Connection};
use crate::frame::Opcode;

/// The shortest and longest payload of each form of the length (RFC 6455 section 5.2), and one
/// that takes many reads.
const LENGTHS: [usize; 6] = [0, 125, 126, 65_535, 65_536, 1 << 20];

/// A payload without a period of 4, which is what a wrong mask would have; ASCII.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| b'!' + ((i * 7 + i / 64) % 90) as u8).collect()
}

#[test]
fn messages_of_every_length_arrive_in_both_directions() {
    for len in LENGTHS {
        for opcode in [Opcode::Text, Opcode::Binary] {
            let mut pair = Pair::with(Config { max_payload_size: 0, ..Config::default() });
            let payload = payload(len);
            assert_eq!(pair.client.send(opcode.number(), &payload), Ok(true));
            assert_eq!(pair.server.send(opcode.number(), &payload), Ok(true));
            pair.settle();
            let expected = [Seen::Message(opcode, Body(payload))];
            assert_eq!(pair.server.seen(), expected, "masked, {len}");
            assert_eq!(pair.client.seen(), expected, "unmasked, {len}");
        }
    }
}

/// What leaves masked and what leaves plain is taken in alike, however it is cut.
#[test]
fn messages_of_every_length_survive_every_split() {
    for masked in [false, true] {
        for len in LENGTHS {
            let config = Config { masked, max_payload_size: 0, ..Config::default() };
            let mut sender = Connection::new(config);
            let payload = payload(len);
            sender.send(BINARY, &payload).unwrap();
            sender.send(TEXT, b"next").unwrap();
            let outcome = every_way(config, &sender.take_output());
            assert_eq!(outcome.seen, [binary(payload), text("next")], "{masked}, {len}");
            assert_eq!(outcome.sent, []);
        }
    }
}

#[test]
fn many_messages_arrive_in_order_and_each_once() {
    let mut pair = Pair::new();
    for i in 0..500 {
        pair.client.send(TEXT, format!("message {i}").as_bytes()).unwrap();
    }
    pair.settle();
    let expected: Vec<Seen> = (0..500).map(|i| text(format!("message {i}"))).collect();
    assert_eq!(pair.server.seen(), expected);
    assert_eq!(pair.client.seen(), []);
}

/// Compat C12. A pong must have "identical Application data" (RFC 6455 section 5.5.3), and is
/// itself not answered, or the two would never be silent again.
#[test]
fn a_ping_comes_back_as_a_pong_of_the_same_body() {
    for body in [&b""[..], b"hello", &[0xFF; 125]] {
        let mut pair = Pair::new();
        pair.client.send(PING, body).unwrap();
        pair.server.send(PING, body).unwrap();
        assert!(pair.step());
        assert_eq!(pair.client.seen(), [ping(body)]);
        assert_eq!(pair.server.seen(), [ping(body)]);
        assert!(pair.step());
        assert_eq!(pair.client.seen(), [pong(body)]);
        assert_eq!(pair.server.seen(), [pong(body)]);
        assert!(!pair.step());
    }
}

/// Compat D4, D5, C18: the peer's Close is answered with its code; the answer carries no reason.
#[test]
fn a_close_is_told_with_its_reason_and_answered_with_its_code() {
    let mut pair = Pair::new();
    pair.server.close(4321, "tschüß".as_bytes()).unwrap();
    assert!(pair.step());
    assert_eq!(pair.client.seen(), [closed(4321, "tschüß")]);
    assert!(pair.client.was_clean(), "its answer is in the output");
    assert!(!pair.server.was_clean(), "no answer yet");
    assert!(pair.step());
    assert_eq!(pair.server.seen(), [closed(4321, "")]);
    assert!(pair.server.was_clean());
    assert!(!pair.step(), "an answer is not answered");
}

/// Both Close frames cross: each is the answer to the other (RFC 6455 section 7.1.5 speaks of the
/// first one received).
#[test]
fn two_closes_at_once_are_clean_and_not_answered() {
    let mut pair = Pair::new();
    pair.client.close(1000, b"client").unwrap();
    pair.server.close(1001, b"server").unwrap();
    assert!(pair.step());
    assert_eq!(pair.client.seen(), [closed(1001, "server")]);
    assert_eq!(pair.server.seen(), [closed(1000, "client")]);
    assert!(pair.client.was_clean() && pair.server.was_clean());
    assert!(!pair.step());
}

/// "After sending a control frame indicating the connection should be closed, a peer does not send
/// any further data", but it still reads what the other side had under way (RFC 6455 section 1.4).
#[test]
fn what_was_under_way_when_we_closed_is_delivered() {
    let mut pair = Pair::new();
    pair.server.send(TEXT, b"one").unwrap();
    pair.server.send(PING, b"two").unwrap();
    pair.server.send(BINARY, b"three").unwrap();
    pair.client.close(1000, b"").unwrap();
    assert!(pair.step());
    assert_eq!(pair.client.seen(), [text("one"), ping("two"), binary("three")]);
    assert!(pair.client.is_reading());
    assert!(pair.step());
    assert_eq!(pair.client.seen(), [closed(1000, "")]);
    assert_eq!(pair.server.seen(), [closed(1000, "")], "the ping was not answered any more");
    assert!(pair.client.was_clean() && pair.server.was_clean());
}

/// Compat C18: messages after the peer's Close are discarded. Only raw sends can produce them here.
#[test]
fn what_follows_a_close_is_discarded() {
    let mut pair = Pair::new();
    pair.server.send(TEXT, b"before").unwrap();
    pair.server.close(1000, b"").unwrap();
    let after = [frame(FIN | TEXT, None, "after"), frame(FIN | PING, None, "?"), vec![0xFF; 9]];
    let bytes = [pair.server.take_output(), after.concat()].concat();
    let outcome = every_way(pair.client.config, &bytes);
    assert_eq!(outcome.seen, [text("before"), closed(1000, "")]);
    assert_eq!(outcome.sent, [sent_close(1000)]);
    assert!(outcome.was_clean);
}

/// A failed connection tells its peer, and that is a Close like any other to it.
#[test]
fn a_failure_reaches_the_peer_as_a_close() {
    let mut pair = Pair::new();
    pair.client.send(7, b"reserved").unwrap();
    pair.settle();
    assert!(matches!(pair.server.seen()[..], [Seen::Failed(_)]));
    assert_eq!(pair.client.seen(), [closed(1002, "")]);
    assert!(!pair.server.was_clean());
    assert!(pair.client.was_clean(), "its answer went out, for all it knows");
}
