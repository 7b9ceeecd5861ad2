//! Random conversations and random garbage: where the input is cut must never show.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::drive::*;
use super::wire::*;
use crate::connection::{Config, Connection, Role};
use crate::frame::Opcode;

/// One thing the peer says.
#[derive(Clone, Debug)]
enum Say {
    Message { text: bool, payload: Body, cuts: Vec<Index>, between: Vec<(Index, Control)> },
    Control(Control),
}

#[derive(Clone, Debug)]
struct Control {
    ping: bool,
    body: Vec<u8>,
}

fn control() -> impl Strategy<Value = Control> {
    (any::<bool>(), vec(any::<u8>(), 0..=125)).prop_map(|(ping, body)| Control { ping, body })
}

/// Text as a rule, bytes otherwise; sometimes so long that it does not come in one read.
fn payload() -> impl Strategy<Value = (bool, Body)> {
    let seed = prop_oneof![
        any::<String>().prop_map(|text| (true, text.into_bytes())),
        vec(any::<u8>(), 0..40).prop_map(|bytes| (false, bytes)),
    ];
    let times = prop_oneof![6 => Just(1), 2 => 2usize..300, 1 => 300usize..3000];
    (seed, times).prop_map(|((text, seed), times)| (text, Body(seed.repeat(times))))
}

fn say() -> impl Strategy<Value = Say> {
    let message = (payload(), vec(any::<Index>(), 0..5), vec((any::<Index>(), control()), 0..3))
        .prop_map(|((text, payload), cuts, between)| Say::Message { text, payload, cuts, between });
    prop_oneof![4 => message, 1 => control().prop_map(Say::Control)]
}

/// How a conversation ends: perhaps with a Close, and something behind it.
fn ending() -> impl Strategy<Value = Option<(u16, String, Vec<u8>)>> {
    let reason = any::<String>().prop_map(|mut reason| {
        while reason.len() > 123 {
            reason.pop();
        }
        reason
    });
    prop::option::of((
        select(vec![1000u16, 1001, 1014, 3000, 4999]),
        reason,
        vec(any::<u8>(), 0..20),
    ))
}

/// A conversation on the wire, and what must come of it.
#[derive(Default)]
struct Talk {
    bytes: Vec<u8>,
    seen: Vec<Seen>,
    sent: Vec<Sent>,
    keys: Vec<Key>,
    frames: usize,
}

impl Talk {
    fn frame(&mut self, first: u8, payload: &[u8]) {
        let key = self.keys[self.frames % self.keys.len()];
        self.frames += 1;
        self.bytes.extend(frame(first, key, payload));
    }

    fn control(&mut self, Control { ping: is_ping, body }: &Control) {
        if *is_ping {
            self.frame(FIN | PING, body);
            self.seen.push(ping(body));
            self.sent.push(sent(PONG, body));
        } else {
            self.frame(FIN | PONG, body);
            self.seen.push(pong(body));
        }
    }

    fn say(&mut self, say: &Say) {
        let (text, payload, cuts, between) = match say {
            Say::Control(control) => return self.control(control),
            Say::Message { text, payload, cuts, between } => (*text, payload, cuts, between),
        };
        let pieces = pieces(&payload.0, cuts);
        let opcode = if text { Opcode::Text } else { Opcode::Binary };
        for (i, piece) in pieces.iter().enumerate() {
            let fin = if i + 1 == pieces.len() { FIN } else { 0 };
            let number = if i == 0 { opcode.number() } else { CONTINUATION };
            self.frame(fin | number, piece);
            for (at, control) in between {
                if fin == 0 && at.index(pieces.len()) == i {
                    self.control(control);
                }
            }
        }
        self.seen.push(Seen::Message(opcode, payload.clone()));
    }

    fn end(&mut self, (code, reason, behind): &(u16, String, Vec<u8>)) {
        self.frame(FIN | CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat());
        self.seen.push(closed(*code, reason));
        self.sent.push(sent_close(*code));
        self.bytes.extend(behind);
    }
}

/// Cuts `bytes`; a cut may be at an end, or at the same place as another.
fn pieces<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|at| &bytes[at[0]..at[1]]).collect()
}

fn way() -> impl Strategy<Value = Way> {
    select(WAYS.to_vec())
}

/// Something like a frame: nearly right, so that it gets past the first checks.
fn nearly_a_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        12 => select(vec![0x81u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x80, 0x89, 0x8A]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        2 => Just(vec![]),
        6 => "[a-zé€😀]{0,12}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..12),
        1 => vec(any::<u8>(), 120..130),
        1 => (990u16..1020, "[a-zé]{0,6}")
            .prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat()),
    ];
    (first, any::<Option<[u8; 4]>>(), payload, 0..20u8).prop_map(|(first, key, payload, form)| {
        let len = payload.len();
        // Now and then a length that is not the payload's, or not in its shortest form.
        let header = match form {
            0 => header_with(first, key, 126, &(len as u16).to_be_bytes()),
            1 => header_with(first, key, 127, &((len as u64) << 56).to_be_bytes()),
            2 => header(first, key, len as u64 + 3),
            _ => return frame(first, key, payload),
        };
        [header, payload].concat()
    })
}

fn garbage() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(nearly_a_frame(), 0..10).prop_map(|frames| frames.concat()),
        1 => vec(any::<u8>(), 0..300),
    ]
}

fn any_config() -> impl Strategy<Value = Config> {
    let role = select(vec![None, None, None, None, Some(Role::Client), Some(Role::Server)]);
    let sizes = select(vec![0, 0, 11, 125, 65_536]);
    let fragments = select(vec![0, 1, 3, 128, 128]);
    let message_sizes = select(vec![0, 0, 13, 65_536]);
    (role, any::<bool>(), sizes, fragments, message_sizes, any::<bool>()).prop_map(
        |(role, masked, max_payload_size, max_fragments, max_message_size, validate_utf8)| Config {
            role,
            masked,
            max_payload_size,
            max_fragments,
            max_message_size,
            validate_utf8,
        },
    )
}

/// What a connection has to send, after what it has told: a pong for each ping, and one Close, with
/// which it ends.
fn answers(seen: &[Seen]) -> Vec<Sent> {
    let mut sent_frames = vec![];
    let mut last = None;
    for event in seen {
        match event {
            Seen::Ping(body) => sent_frames.push(sent(PONG, &body.0)),
            Seen::Close(Some(code), _) => last = Some(sent_close(*code)),
            Seen::Close(None, _) => last = Some(sent(CLOSE, "")),
            Seen::Failed(error) => last = Some(sent_close(error.close_code())),
            Seen::Message(..) | Seen::Pong(_) => {}
        }
    }
    sent_frames.extend(last);
    sent_frames
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn conversations_are_understood_however_they_are_cut(
        says in vec(say(), 0..6),
        ending in ending(),
        keys in vec(any::<Option<[u8; 4]>>(), 1..5),
        cuts in vec(any::<Index>(), 0..12),
        chunk_len in 1usize..20_000,
        way in way(),
        masked in any::<bool>(),
    ) {
        let mut talk = Talk { keys, ..Talk::default() };
        says.iter().for_each(|say| talk.say(say));
        ending.iter().for_each(|ending| talk.end(ending));
        let expected = Outcome {
            seen: talk.seen,
            sent: talk.sent,
            was_clean: ending.is_some(),
            is_reading: ending.is_none(),
            is_writable: ending.is_none(),
        };
        let config = Config { masked, max_payload_size: 0, ..Config::default() };
        let run = |pieces: Vec<&[u8]>| run(Connection::new(config), pieces, way);
        prop_assert_eq!(&run(vec![&talk.bytes]), &expected);
        prop_assert_eq!(&run(pieces(&talk.bytes, &cuts)), &expected);
        prop_assert_eq!(&run(talk.bytes.chunks(chunk_len).collect()), &expected);
        if talk.bytes.len() < 3000 {
            prop_assert_eq!(&run(talk.bytes.chunks(1).collect()), &expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn garbage_is_refused_the_same_way_however_it_is_cut(
        input in garbage(),
        config in any_config(),
        cuts in vec(any::<Index>(), 0..6),
        way in way(),
    ) {
        let whole = run(Connection::new(config), [&input[..]], WAYS[0]);
        for pieces in [pieces(&input, &cuts), input.chunks(1).collect()] {
            prop_assert_eq!(&run(Connection::new(config), pieces, way), &whole);
        }

        prop_assert_eq!(&whole.sent, &answers(&whole.seen));
        for event in &whole.seen {
            if let (true, Seen::Message(Opcode::Text, Body(text))) = (config.validate_utf8, event) {
                prop_assert!(std::str::from_utf8(text).is_ok());
            }
        }
        let ends = |event: &Seen| matches!(event, Seen::Close(..) | Seen::Failed(_));
        let end = whole.seen.iter().position(ends);
        prop_assert_eq!(whole.is_reading, end.is_none());
        prop_assert_eq!(whole.is_writable, end.is_none());
        match end.map(|end| &whole.seen[end..]) {
            None | Some([Seen::Failed(_)] | [Seen::Close(..), Seen::Failed(_)]) => {
                prop_assert!(!whole.was_clean);
            }
            Some([Seen::Close(..)]) => prop_assert!(whole.was_clean),
            Some(more) => prop_assert!(false, "events after the end: {more:?}"),
        }
    }
}
