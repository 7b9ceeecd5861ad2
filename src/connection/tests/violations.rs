//! What a peer may not send, RFC 6455 section 5 (compat D1). Text is in `utf8`, Close bodies are in
//! `closing`.

use super::drive::*;
use super::wire::*;
use crate::connection::error::PeerError::{self, *};
use crate::connection::{Config, Role};
use crate::frame::Opcode;

/// Frames that fail with 1002; each one ends with the byte at which it must have failed.
fn assert_all_fail(rows: impl Fn(Key) -> Vec<(String, Vec<u8>, PeerError)>) {
    for key in BOTH_KEYS {
        // Where the role is known, frames come masked or not as it says, and nothing else changes.
        let role = if key.is_some() { Role::Server } else { Role::Client };
        for (role, masked) in [(None, true), (Some(role), false)] {
            for (what, bytes, error) in rows(key) {
                let config = Config { role, masked, ..Config::default() };
                let bad = Bad {
                    what: &what,
                    config,
                    key,
                    bytes: &bytes,
                    told: &[],
                    error: error.into(),
                    code: 1002,
                };
                bad.assert_fails();
            }
        }
    }
}

/// The bytes behind the start of a fragmented message.
fn inside_a_message(key: Key, bytes: Vec<u8>) -> Vec<u8> {
    [frame(TEXT, key, "start"), bytes].concat()
}

/// "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values" (section
/// 5.2), in frames of every kind.
#[test]
fn reserved_bits_fail() {
    assert_all_fail(|key| {
        let mut rows = vec![];
        for bits in 1..=7 {
            for first in
                [FIN | TEXT, TEXT, FIN | BINARY, BINARY, FIN | CLOSE, FIN | PING, FIN | PONG]
            {
                let bytes = header(first | bits << 4, key, 2);
                rows.push((format!("bits {bits}, {first:#x}"), bytes, ReservedBits(bits)));
            }
            for first in [CONTINUATION, FIN | CONTINUATION, FIN | CLOSE, FIN | PING, FIN | PONG] {
                let bytes = inside_a_message(key, header(first | bits << 4, key, 2));
                rows.push((format!("bits {bits}, {first:#x} inside"), bytes, ReservedBits(bits)));
            }
        }
        rows
    });
    // The numbers are as the wire has them.
    assert_eq!([RSV1, RSV2, RSV3], [4 << 4, 2 << 4, 1 << 4]);
}

/// "If an unknown opcode is received, the receiving endpoint MUST _Fail the WebSocket Connection_"
/// (section 5.2).
#[test]
fn reserved_opcodes_fail() {
    assert_all_fail(|key| {
        let opcodes = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15];
        let alone = opcodes.map(|n| (n, header(FIN | n, key, 0)));
        let unfinished = opcodes.map(|n| (n, header(n, key, 0)));
        let inside = opcodes.map(|n| (n, inside_a_message(key, header(FIN | n, key, 0))));
        let all = [alone, unfinished, inside].concat().into_iter();
        all.map(|(n, bytes)| (format!("opcode {n}"), bytes, ReservedOpcode(n))).collect()
    });
}

/// "All control frames MUST have a payload length of 125 bytes or less and MUST NOT be fragmented"
/// (section 5.5). The payload is not awaited.
#[test]
fn fragmented_and_oversized_control_frames_fail() {
    assert_all_fail(|key| {
        let mut rows = vec![];
        for (number, opcode) in [(CLOSE, Opcode::Close), (PING, Opcode::Ping), (PONG, Opcode::Pong)]
        {
            for len in [0, 5, 125] {
                let what = format!("fragmented {opcode:?} of {len}");
                let bytes = header(number, key, len);
                let inside = inside_a_message(key, bytes.clone());
                rows.push((format!("{what} inside"), inside, FragmentedControl(opcode)));
                rows.push((what, bytes, FragmentedControl(opcode)));
            }
            for len in [126, 127, 65_535, 65_536, u64::MAX >> 1] {
                let what = format!("{opcode:?} of {len}");
                let bytes = header(FIN | number, key, len);
                let inside = inside_a_message(key, bytes.clone());
                rows.push((format!("{what} inside"), inside, OversizedControl(opcode, len)));
                rows.push((what, bytes, OversizedControl(opcode, len)));
            }
        }
        rows
    });
}

/// A continuation frame continues something (section 5.4).
#[test]
fn a_continuation_of_nothing_fails() {
    assert_all_fail(|key| {
        let mut rows = vec![];
        for first in [CONTINUATION, FIN | CONTINUATION] {
            for len in [0, 9] {
                let what = format!("{first:#x} of {len}");
                rows.push((what, header(first, key, len), UnexpectedContinuation));
            }
        }
        rows
    });
}

#[test]
fn a_continuation_after_the_last_fragment_fails() {
    for key in BOTH_KEYS {
        let bytes = [
            frame(TEXT, key, "whole "),
            frame(FIN | CONTINUATION, key, "message"),
            frame(FIN | PONG, key, "between"),
            header(FIN | CONTINUATION, key, 3),
        ];
        let outcome = every_way(Config::default(), &bytes.concat());
        let expected = [text("whole message"), pong("between"), failed(UnexpectedContinuation)];
        assert_eq!(outcome.seen, expected);
        assert_eq!(outcome.sent, [sent_close(1002)]);
    }
}

/// "The fragments of one message MUST NOT be interleaved between the fragments of another message"
/// (section 5.4).
#[test]
fn a_new_message_inside_a_fragmented_one_fails() {
    assert_all_fail(|key| {
        let mut rows = vec![];
        for start in [TEXT, BINARY] {
            for (new, opcode) in [(TEXT, Opcode::Text), (BINARY, Opcode::Binary)] {
                for first in [new, FIN | new] {
                    let error = InterleavedMessage(opcode);
                    let begin = frame(start, key, "abc");
                    let more = [&begin[..], &frame(CONTINUATION, key, "def")].concat();
                    for message in [frame(start, key, ""), begin, more] {
                        let what = format!("{first:#x} inside {message:X?}");
                        let bytes = [message, header(first, key, 4)].concat();
                        rows.push((what, bytes, error));
                    }
                }
            }
        }
        rows
    });
}

/// "The minimal number of bytes MUST be used to encode the length" (section 5.2). Errors of the
/// length need no masking key to be seen.
#[test]
fn lengths_not_in_their_shortest_form_fail() {
    assert_all_fail(|key| {
        let key_len = if key.is_some() { 4 } else { 0 };
        let mut rows = vec![];
        for first in [FIN | TEXT, BINARY, FIN | PING, FIN | PONG, FIN | CLOSE, CONTINUATION] {
            let mut row = |short: u8, long: &[u8], len| {
                let mut bytes = header_with(first, key, short, long);
                bytes.truncate(bytes.len() - key_len);
                if first == CONTINUATION {
                    bytes = inside_a_message(key, bytes);
                }
                let what = format!("{first:#x}, {len} in {long:?}");
                rows.push((what, bytes, LengthNotMinimal(len)));
            };
            for len in [0, 1, 125] {
                row(126, &(len as u16).to_be_bytes(), len);
            }
            for len in [0u64, 125, 126, 65_535] {
                row(127, &len.to_be_bytes(), len);
            }
        }
        rows
    });
}

/// "The most significant bit MUST be 0" (section 5.2): 1002 and not 1009, whatever the limit.
#[test]
fn lengths_with_the_top_bit_fail_whatever_the_limit() {
    for key in BOTH_KEYS {
        for max_payload_size in [0, 10, 65_536, u64::MAX >> 1, u64::MAX] {
            for len in [1 << 63, 1 << 63 | 5, u64::MAX] {
                for first in [FIN | TEXT, BINARY, FIN | PING, FIN | PONG, FIN | CLOSE, CONTINUATION]
                {
                    let mut bytes = header(first, key, len);
                    bytes.truncate(10);
                    if first == CONTINUATION {
                        bytes = [frame(TEXT, key, ""), bytes].concat();
                    }
                    let bad = Bad {
                        what: &format!("{len:#x} with {max_payload_size}, {first:#x}"),
                        config: Config { max_payload_size, ..Config::default() },
                        key,
                        bytes: &bytes,
                        told: &[],
                        error: LengthTopBit(len).into(),
                        code: 1002,
                    };
                    bad.assert_fails();
                }
            }
        }
    }
}

/// "The server MUST close the connection upon receiving a frame that is not masked", "A client MUST
/// close a connection if it detects a masked frame" (section 5.1), data and control alike.
#[test]
fn a_mask_on_the_wrong_side_fails_where_the_role_is_known() {
    let wrong = [(Role::Server, KEY, None, NotMasked), (Role::Client, None, KEY, Masked)];
    for (role, right_key, wrong_key, error) in wrong {
        for first in [FIN | TEXT, FIN | BINARY, TEXT, FIN | PING, FIN | PONG, FIN | CLOSE] {
            for len in [0, 2] {
                let bad = Bad {
                    what: &format!("{role:?}, {first:#x}"),
                    config: Config { role: Some(role), ..Config::default() },
                    key: right_key,
                    bytes: &header(first, wrong_key, len),
                    told: &[],
                    error: error.into(),
                    code: 1002,
                };
                bad.assert_fails();
            }
        }
        // Every fragment is a frame.
        let bytes =
            [frame(TEXT, right_key, "a"), header(FIN | CONTINUATION, wrong_key, 1)].concat();
        let bad = Bad {
            what: &format!("{role:?}, continuation"),
            config: Config { role: Some(role), ..Config::default() },
            key: right_key,
            bytes: &bytes,
            told: &[],
            error: error.into(),
            code: 1002,
        };
        bad.assert_fails();
    }
}

/// What `parse_error` gets names what was wrong: opcode, length, position, code.
#[test]
fn every_violation_is_told_in_words() {
    let texts = [
        (ReservedBits(4), "Reserved bits are set: RSV1"),
        (ReservedBits(2), "Reserved bits are set: RSV2"),
        (ReservedBits(1), "Reserved bits are set: RSV3"),
        (ReservedBits(5), "Reserved bits are set: RSV1 RSV3"),
        (ReservedBits(7), "Reserved bits are set: RSV1 RSV2 RSV3"),
        (ReservedOpcode(3), "Reserved opcode 3"),
        (ReservedOpcode(15), "Reserved opcode 15"),
        (FragmentedControl(Opcode::Ping), "Fragmented control frame (Ping)"),
        (FragmentedControl(Opcode::Close), "Fragmented control frame (Close)"),
        (
            OversizedControl(Opcode::Pong, 126),
            "Control frame (Pong) of 126 bytes is over the 125 allowed",
        ),
        (UnexpectedContinuation, "Continuation frame without a message to continue"),
        (InterleavedMessage(Opcode::Binary), "New data frame (Binary) inside a fragmented message"),
        (
            LengthTopBit(1 << 63 | 5),
            "Payload length 0x8000000000000005 has the most significant bit set",
        ),
        (LengthNotMinimal(125), "Payload length 125 is not in its shortest form"),
        (NotMasked, "Frame from a client is not masked"),
        (Masked, "Frame from a server is masked"),
        (TextNotUtf8(7), "Text message is not valid UTF-8 at byte 7"),
        (CloseBodyTooShort, "Close frame body of 1 byte"),
        (CloseCodeNotAllowed(1005), "Close code 1005 is not allowed in a Close frame"),
        (CloseReasonNotUtf8(3), "Close reason is not valid UTF-8 at byte 3"),
    ];
    for (error, text) in texts {
        assert_eq!(error.to_string(), text);
    }
}
