//! What runs start from: a few inputs for each target, with each kind of frame, command, message, header and call in
//! one of them at least. They are written here rather than kept as files, since it can be read what they are.

use crate::feed::{EVERY, LATE, SELDOM, SOCKET};
use crate::setup::{DEFLATE, MASKED, NO_INCOMING_TAKEOVER, NO_OUTGOING_TAKEOVER, NO_UTF8};
use crate::target::decoder::{COMPRESSED, KEY};
use crate::target::deflate::{HOSTILE, NO_TAKEOVER};
use crate::wire::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TEXT, frame};

/// The seeds of a target, empty for one that does not exist.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "decoder" => decoder(),
        "connection" => connection(),
        "pair" => pair(),
        "deflate" => deflate(),
        "handshake" => handshake(),
        "abi" => abi(),
        _ => vec![],
    }
}

/// The key of the examples in RFC 6455 section 5.7.
const RFC_KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A setup with the default limits; the second with small ones.
const LIMITS: [u8; 3] = [204, 128, 0];
const SMALL: [u8; 3] = [20, 3, 30];

/// Ways to feed: two cuts; through a socket; byte by byte, late; in large pieces, through a socket, late; with three
/// cuts, through a socket, asking seldom.
const FEEDS: [&[u8]; 5] = [
    &[2 << 4, 0, 3, 0, 9],
    &[SOCKET],
    &[EVERY | LATE, 0, 1],
    &[EVERY | SOCKET | LATE, 0x40, 0],
    &[3 << 4 | SOCKET | SELDOM, 0, 30, 0, 55, 0, 101],
];

/// A payload of a piece repeated up to the length with this number; see `Source::payload`.
fn long(piece: &[u8], number: u8) -> Vec<u8> {
    [&[0x80 | piece.len() as u8], piece, &[number]].concat()
}

/// A payload that is spelled out.
fn short(payload: &[u8]) -> Vec<u8> {
    [&[payload.len() as u8], payload].concat()
}

/// A payload of noise.
fn noise(len: u16) -> Vec<u8> {
    [&[0xC1, b'n'], &len.to_be_bytes()[..]].concat()
}

/// A frame that is described; see `target::decoder::frames`.
fn described(first: u8, how: u8, payload: &[u8]) -> Vec<u8> {
    let key: &[u8] = if how & KEY != 0 { &RFC_KEY } else { &[] };
    [&[first, how], key, payload].concat()
}

/// Conversations with each kind of frame, as they are on the wire.
fn conversations(key: Option<[u8; 4]>) -> Vec<Vec<u8>> {
    let frame = |first, payload: &[u8]| frame(first, key, payload);
    vec![
        frame(FIN | TEXT, b"Hello"),
        [
            frame(TEXT, b"Hel"),
            frame(FIN | PING, b"Hello"),
            frame(CONTINUATION, b""),
            frame(FIN | CONTINUATION, b"lo"),
            frame(FIN | PONG, b""),
        ]
        .concat(),
        [frame(FIN | BINARY, &[0xFF; 126]), frame(FIN | CLOSE, b"\x03\xE8bye")].concat(),
        [frame(FIN | TEXT, "h\u{e9}llo \u{1F600}".as_bytes()), frame(FIN | CLOSE, b"")].concat(),
        [frame(TEXT, b"h\xC3"), frame(FIN | CONTINUATION, b"\xA9"), frame(FIN | TEXT, b"\xC3")]
            .concat(),
        frame(FIN | CLOSE, b"\x03\xED"),
        frame(FIN | CLOSE, b"\x03\xE8\xFF"),
        frame(FIN | CLOSE, b"\x03"),
        frame(FIN | RSV1 | TEXT, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]),
        [frame(RSV1 | TEXT, &[0xf2, 0x48, 0xcd]), frame(FIN | CONTINUATION, &[0xc9, 0xc9, 7, 0])]
            .concat(),
        frame(FIN | CONTINUATION, b"x"),
        [frame(TEXT, b"x"), frame(FIN | BINARY, b"x")].concat(),
        frame(FIN | 3, b""),
        frame(PING, b""),
    ]
}

/// The same, large: what is described.
fn large(how: u8) -> Vec<Vec<u8>> {
    let text = "h\u{e9}llo, hello; ".as_bytes();
    vec![
        described(FIN | BINARY, how, &long(b"abc", 10)),
        [described(BINARY, how, &long(b"x", 13)), described(FIN, how, &long(b"y", 6))].concat(),
        described(FIN | TEXT, how, &long(text, 15)),
        described(FIN | RSV1 | TEXT, how | COMPRESSED, &long(text, 9)),
        [
            described(FIN | RSV1 | TEXT, how | COMPRESSED, &short(b"Hello")),
            described(FIN | RSV1 | BINARY, how | COMPRESSED, &noise(3000)),
            described(FIN | RSV1 | TEXT, how | COMPRESSED, &short(b"Hello")),
        ]
        .concat(),
        // Lengths that are just too short, and just not, for the field that they are in.
        described(FIN | BINARY, how | 0xC0, &long(b"x", 1)),
        described(FIN | BINARY, how | 0xC0, &long(b"x", 2)),
        described(FIN | BINARY, how | 0xD0, &long(b"x", 12)),
        described(FIN | BINARY, how | 0xD0, &long(b"x", 13)),
        described(FIN | BINARY, how | 0xC0, &short(b"x")),
        described(FIN | BINARY, how | 0xD0, &short(b"x")),
        described(FIN | BINARY, how | 0xE0, &short(b"x")),
        described(FIN | BINARY, how | 0xF0, &short(b"x")),
    ]
}

fn decoder() -> Vec<Vec<u8>> {
    let mut seeds = vec![];
    for (role, key) in [(1, None), (2, Some(RFC_KEY))] {
        let deflate = [role | DEFLATE | MASKED];
        for (at, wire) in conversations(key).into_iter().enumerate() {
            let feed = FEEDS[at % FEEDS.len()];
            let limits = if at % 3 == 2 { SMALL } else { LIMITS };
            seeds.push([&deflate[..], &limits, &[55, 0], feed, &[0], &wire].concat());
        }
        for wire in large(if key.is_some() { KEY } else { 0 }) {
            for feed in [FEEDS[1], FEEDS[3], FEEDS[4]] {
                seeds.push([&[role | DEFLATE][..], &[0; 3], &[55, 0], feed, &[1], &wire].concat());
            }
        }
    }
    let plain = frame(FIN | TEXT, None, b"Hello");
    seeds.push([&[NO_UTF8][..], &LIMITS, FEEDS[0], &[0], &plain].concat());
    let deflate = DEFLATE | NO_INCOMING_TAKEOVER;
    let twice = described(FIN | RSV1 | TEXT, COMPRESSED, &short(b"Hello")).repeat(2);
    seeds.push([&[deflate][..], &LIMITS, &[55, 0], FEEDS[0], &[1], &twice].concat());
    seeds
}

/// Commands, see `Side::command`.
fn commands() -> Vec<Vec<u8>> {
    let with = |command: &[u8], payload: &[u8]| [command, payload].concat();
    vec![
        with(&[0, TEXT], &short(b"Hello")),
        with(&[0, TEXT], &long(b"Hello, hello", 10)),
        with(&[3, BINARY], &short(b"apart")),
        with(&[3, BINARY], &noise(5000)),
        with(&[0, PING], &short(b"?")),
        with(&[0, 16], &short(b"")),
        with(&[0, 7], &short(b"reserved")),
        vec![6],
        vec![7, 3],
        vec![8],
        vec![9],
        with(&[5, 0x03, 0xE8], &short(b"bye")),
        with(&[5, 0x03, 0xED], &short(b"")),
        with(&[0, CLOSE], &short(b"\x03\xE8")),
        with(&[3, CLOSE], &short(b"x")),
        vec![10],
        vec![11, 0],
        vec![11, 1],
        vec![11, 2],
    ]
}

fn connection() -> Vec<Vec<u8>> {
    let piece = |bits: u8, bytes: &[u8]| [&[(bytes.len() as u8) << 2 | bits], bytes].concat();
    let setups: [&[u8]; 3] = [
        &[&[MASKED | 1][..], &LIMITS].concat(),
        &[&[DEFLATE | 2][..], &LIMITS, &[55, 0]].concat(),
        &[&[DEFLATE | NO_OUTGOING_TAKEOVER][..], &SMALL, &[12, 10]].concat(),
    ];
    let mut seeds = vec![];
    for setup in setups {
        let key = (setup[0] & 3 == 2).then_some(RFC_KEY);
        let how = if key.is_some() { KEY } else { 0 };
        let talk = [
            piece(0, &frame(FIN | TEXT, key, b"Hello")),
            piece(2, &frame(FIN | PING, key, b"?")),
            piece(3, &described(FIN | BINARY, how, &long(b"abc", 9))),
        ];
        for command in commands() {
            let command = [&[128], &command[..]].concat();
            let mut seed = setup.to_vec();
            for part in &talk {
                seed.extend(part);
                seed.extend(&command);
            }
            seed.extend([128, 10]);
            seed.extend(piece(0, &frame(FIN | CLOSE, key, b"\x03\xE8")));
            seed.extend([128, 10]);
            seeds.push(seed);
        }
    }
    seeds
}

fn pair() -> Vec<Vec<u8>> {
    let plain = [&[1][..], &LIMITS, &[0], &LIMITS].concat();
    let both = DEFLATE | 1;
    let deflate = [&[both][..], &LIMITS, &[55, 0, DEFLATE], &LIMITS, &[47, 5]].concat();
    let alone = both | NO_INCOMING_TAKEOVER | NO_OUTGOING_TAKEOVER;
    let small = [&[alone][..], &SMALL, &[9, 0, DEFLATE], &SMALL, &[9, 0]].concat();
    let mut seeds = vec![];
    for setup in [plain, deflate, small] {
        for command in commands() {
            let mut seed = setup.clone();
            for side in [0, 1] {
                // The command, half of what comes of it, the command again, the rest.
                seed.extend([6 | side]);
                seed.extend(&command);
                seed.extend([6 | side, 7, 4, 1 - side, 4]);
                seed.extend([6 | side]);
                seed.extend(&command);
                seed.extend([0x84 | (1 - side)]);
            }
            seeds.push(seed);
        }
        // A large message, in pieces through a socket: read straight into it, and behind that.
        let mut seed = setup.clone();
        for side in [0, 1] {
            let drain = [6 | (1 - side), 10];
            seed.extend([6 | side, 0, BINARY]);
            seed.extend(long(b"abcdefg", 12));
            seed.extend([6 | side, 8, 0x80 | (1 - side), 201]);
            seed.extend(drain);
            seed.extend([0x80 | (1 - side), 33, 0x82 | (1 - side)]);
            seed.extend(drain);
        }
        seeds.push(seed);
    }
    seeds
}

fn deflate() -> Vec<Vec<u8>> {
    let mut seeds = vec![];
    let feed = FEEDS[0];
    for window in [0, 1, 4, 7_u8] {
        for takeover in [0, NO_TAKEOVER] {
            for level in [0, 1, 6, 9] {
                let mut seed = vec![window << 2 | takeover, level];
                for payload in [short(b"Hello, hello"), long(b"far away ", 9), noise(2000)] {
                    for release in [0, 1] {
                        seed.extend([&payload[..], &[release], feed].concat());
                    }
                }
                seeds.push(seed);
            }
        }
    }
    // RFC 7692, section 7.2.3, and what is like it.
    let messages: [&[u8]; 10] = [
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        &[0xf2, 0x00, 0x11, 0x00, 0x00],
        &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        &[0x00],
        &[],
        &[0x01],
        // A dynamic block.
        &[0x2c, 0xc8, 0xb1, 0x0d, 0x00, 0x30, 0x08, 0x03, 0xc1, 0x55, 0x7e, 0x05, 0x00],
        &[0x06],
    ];
    for room in [4, 1000_u16] {
        for takeover in [0, NO_TAKEOVER] {
            let mut all = vec![HOSTILE | takeover];
            for message in messages {
                let len = (message.len() as u16).to_be_bytes();
                let one = [&room.to_be_bytes()[..], &[0], feed, &len, message].concat();
                seeds.push([&[HOSTILE | takeover], &one[..], &one].concat());
                all.extend(one);
            }
            seeds.push(all);
        }
    }
    seeds
}

fn handshake() -> Vec<Vec<u8>> {
    const FIELDS: &str = "Host: server.example:80\r\nUpgrade: websocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\n";
    let texts = [
        (0, "permessage-deflate"),
        (0, "permessage-deflate; client_max_window_bits"),
        (0, "permessage-deflate; server_max_window_bits=10; client_max_window_bits=\"12\""),
        (0, "permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        (0, "foo, permessage-deflate; server_max_window_bits=16, permessage-deflate; x=1, ,"),
        (0, "a ; b ; c = d;e=\"f\\g\" ,, g;h,"),
        (0, "a;b=\"\""),
        (1, "permessage-deflate; server_no_context_takeover; server_max_window_bits=10"),
        (1, "permessage-deflate; client_max_window_bits=9; client_no_context_takeover"),
        (1, "permessage-deflate, permessage-deflate"),
        (1, ""),
        (2, ""),
        (
            4,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        ),
        (4, "HTTP/1.0 404\n\nbody"),
        (4, "HTTP/1.1 301 Moved\r\nLocation: ws://other/\r\nX:\r\n\r\nx"),
    ];
    let mut seeds: Vec<Vec<u8>> = vec![];
    for (kind, text) in texts {
        for wishes in [[0xFC, 0xFC], [0x4B, 0xFD]] {
            seeds.push([&[kind][..], &wishes, &[0, 20], text.as_bytes()].concat());
        }
    }
    for fields in ["", "Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Extensions: x; y=1\r\n"] {
        let head = format!("GET /path?query HTTP/1.1\r\n{FIELDS}{fields}\r\n");
        seeds.push([&[3, 0, 0, 0, 50][..], head.as_bytes()].concat());
        seeds.push([&[3, 0, 0, 0, 99][..], head.replace("\r\n", "\n").as_bytes()].concat());
    }
    seeds
}

fn abi() -> Vec<Vec<u8>> {
    let bytes = |bytes: &[u8]| [&[(bytes.len() as u8) << 1], bytes].concat();
    let make = |slot, bits| vec![0, slot, bits];
    let receive = |slot, wire: &[u8]| [&[2, slot], &bytes(wire)[..]].concat();
    let read = |slot, bits, wire: &[u8]| [&[3, slot, bits], &bytes(wire)[..]].concat();
    let events = |slot: u8| [4, slot, 4, 10 * 4 + slot].repeat(2);
    let mut seeds: Vec<Vec<u8>> = vec![];
    for wire in conversations(None) {
        let talk = [make(0, 8), receive(0, &wire), events(0), read(0, 4, &wire), events(0)];
        seeds.push(talk.concat());
    }
    let fragments =
        [frame(TEXT, None, b"Hel"), frame(FIN | CONTINUATION, None, b"lo")].concat().repeat(2);
    for end in [0, 1, 3, 7] {
        let talk = [
            make(0, 8),
            make(1, 8),
            receive(0, &fragments),
            events(0),
            [6, 0, 1, 6, 2, 1, 6, 0, end, 6, 0, end].to_vec(),
            vec![1, 0],
            receive(1, &fragments),
            events(1),
            vec![6, 0, end],
        ];
        seeds.push(talk.concat());
    }
    let calls: [&[u8]; 12] = [
        &[7, 0, 1, 5, b'H', b'e', b'l', b'l', b'o'],
        &[8, 0, 2, 0, 3, b'a', b'b', b'c'],
        &[8, 0, 2, 255, 0],
        &[9, 0, 0x03, 0xE8, 3, b'b', b'y', b'e'],
        &[9, 0, 0x03, 0xED, 0],
        &[10, 0, 0],
        &[10, 0, 1],
        &[10, 0, 2],
        &[11, 0, 3, 11, 0, 255],
        &[3, 0, 0, 0, 3, 0, 2, 0],
        &[13, 0, 3, 0, 1, b'a', 0x81, b'b', 9, 0, 1, b'c'],
        &[15, 0, 1, 10, 10, 6, 5, b'f', b'o', b'o', b';', b'x'],
    ];
    for call in calls {
        for bits in [0, 4, 12, 1] {
            let made = [0, 0, bits, 12, 0, 0, 0];
            seeds.push([&made, call, call, &[4, 0, 4, 0], call, &[1, 0]].concat());
        }
    }
    seeds.push((0..28).flat_map(|n| [14, n % 5, n]).collect());
    seeds
}
