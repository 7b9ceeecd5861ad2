//! What a peer says in the opening handshake: `Sec-WebSocket-Extensions`, offered and accepted, requests and
//! responses. What is read is there; what comes out is in order, fits what came in, and is read again as the same; and
//! nothing else is refused than what the RFCs refuse.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::{mem, slice};

use aews::connection::Role;
use aews::extension::deflate::Config;
use aews::extension::header::{Extension, parse};
use aews::extension::negotiation::{NAME, Parameters, Refused, accept, answer, offer};
use aews::ffi::abi::*;
use aews::ffi::*;
use aews::handshake;

use crate::source::Source;

/// What the first byte chooses, by its remainder: an offer that a server gets, an answer that a client gets, an
/// offer of ours and what comes of it, a request, a response.
pub const KINDS: u8 = 5;

/// The input: what it is, two wishes, a place, and the text.
pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let kind = source.byte() % KINDS;
    let (wish, other) = (parameters(source.byte()), parameters(source.byte()));
    let at = usize::from(source.number());
    let text = source.rest();
    match (kind, std::str::from_utf8(text)) {
        (0, Ok(text)) => offered(text, &wish),
        (1, Ok(text)) => accepted(text, &wish),
        (2, _) => agreed(&wish, &other),
        (3, _) => request(text, at),
        (4, _) => response(text, at),
        _ => {}
    }
}

fn parameters(bits: u8) -> Parameters {
    Parameters {
        server_no_context_takeover: bits & 1 != 0,
        client_no_context_takeover: bits & 2 != 0,
        server_max_window_bits: 8 + (bits >> 2 & 7),
        client_max_window_bits: 8 + (bits >> 5 & 7),
    }
}

/// "token", RFC 2616 section 2.2.
fn is_token(text: &str) -> bool {
    let separators = "()<>@,;:\\\"/[]?={} \t";
    !text.is_empty() && text.chars().all(|c| (' '..='~').contains(&c) && !separators.contains(c))
}

/// The list as it is without quotes.
fn simple_list(text: &str) -> Option<Vec<Extension<'_>>> {
    let elements = text.split(',').map(|element| element.trim_matches([' ', '\t']));
    elements
        .filter(|element| !element.is_empty())
        .map(|element| {
            let mut parts = element.split(';').map(|part| part.trim_matches([' ', '\t']));
            let name = parts.next().filter(|name| is_token(name))?;
            let parameters = parts.map(|part| {
                let (name, value) = match part.split_once('=') {
                    Some((name, value)) => (name, Some(value.trim_matches([' ', '\t']))),
                    None => (part, None),
                };
                let name = name.trim_matches([' ', '\t']);
                let valid = is_token(name) && value.is_none_or(is_token);
                valid.then_some((name, value.map(Cow::Borrowed)))
            });
            Some(Extension { name, parameters: parameters.collect::<Option<_>>()? })
        })
        .collect()
}

/// Reads a list, and checks the reading. `None` where it is malformed.
fn list(text: &str) -> Option<Vec<Extension<'_>>> {
    let result = parse(text);
    if !text.contains('"') {
        assert_eq!(result.as_ref().ok(), simple_list(text).as_ref(), "{text:?}");
    }
    let extensions = match result {
        Ok(extensions) => extensions,
        Err(error) => {
            assert!(error.0 <= text.len(), "malformed at {}", error.0);
            return None;
        }
    };
    let mut written = String::new();
    for extension in &extensions {
        assert!(is_token(extension.name), "{extension:?}");
        written += if written.is_empty() { "" } else { ", " };
        written += extension.name;
        for (name, value) in &extension.parameters {
            assert!(is_token(name) && value.as_deref().is_none_or(is_token), "{extension:?}");
            written += "; ";
            written += name;
            if let Some(value) = value {
                written += "=";
                written += value;
            }
        }
    }
    assert_eq!(parse(&written).as_ref(), Ok(&extensions), "{written:?} for {text:?}");
    Some(extensions)
}

/// permessage-deflate as it stands in a header, RFC 7692 section 7.1. `Some(None)`: without a value.
#[derive(Default)]
struct Written {
    flags: [bool; 2],
    bits: [Option<Option<u8>>; 2],
}

fn written(extension: &Extension<'_>) -> Option<Written> {
    let mut written = Written::default();
    for (name, value) in &extension.parameters {
        let side = match name.split_once('_')? {
            ("server", _) => 0,
            ("client", _) => 1,
            _ => return None,
        };
        match &name[7..] {
            "no_context_takeover" => {
                if value.is_some() || mem::replace(&mut written.flags[side], true) {
                    return None;
                }
            }
            "max_window_bits" => {
                let bits = match value.as_deref() {
                    None if side == 1 => None,
                    None => return None,
                    Some(value) => Some((8..=15).find(|bits: &u8| bits.to_string() == value)?),
                };
                if written.bits[side].replace(bits).is_some() {
                    return None;
                }
            }
            _ => return None,
        }
    }
    Some(written)
}

/// What a server makes of an offer.
fn offered(text: &str, wish: &Parameters) {
    let extensions = list(text);
    let result = answer(text, wish);
    let Some(extensions) = extensions else {
        assert!(matches!(result, Err(Refused::Malformed(_))), "{result:?} to {text:?}");
        return;
    };
    let mut offers = extensions.iter().filter(|e| e.name == NAME).filter_map(written);
    let answer = match (result.expect("it is not malformed"), offers.next()) {
        (None, None) => return,
        (Some(answer), Some(offer)) => (answer, offer),
        (answer, _) => panic!("{answer:?} to {text:?}"),
    };
    let (text, offer) = answer;
    let answers = list(&text).expect("an answer is in order");
    let [answer] = answers.as_slice() else { panic!("an answer of several: {text}") };
    assert_eq!(answer.name, NAME);
    let answer = written(answer).expect("an answer is in order");
    let wished = [wish.server_no_context_takeover, wish.client_no_context_takeover];
    for side in [0, 1] {
        assert_eq!(answer.flags[side], wished[side] || offer.flags[side], "{text}");
    }
    // No larger a window than is offered and wished for (sections 7.1.2.1 and 7.1.2.2).
    let server = answer.bits[0].map_or(15, |bits| bits.expect("a value"));
    let offered = offer.bits[0].map_or(15, |bits| bits.expect("a value"));
    assert!(server == offered.min(wish.server_max_window_bits), "{text}");
    assert!(answer.bits[0].is_some() || offer.bits[0].is_none(), "{text}: a limit not accepted");
    let client = answer.bits[1].map(|bits| bits.expect("a value in an answer"));
    match offer.bits[1] {
        None => assert_eq!(client, None, "{text}: a limit for who does not know it"),
        Some(bits) => {
            let least = bits.unwrap_or(15).min(wish.client_max_window_bits);
            assert_eq!(client.unwrap_or(15), least, "{text}");
        }
    }
}

/// What a client makes of an answer.
fn accepted(text: &str, wish: &Parameters) {
    let extensions = list(text);
    let result = accept(text, wish);
    if let Err(refused) = &result {
        assert!(!refused.to_string().is_empty());
    }
    let Some(extensions) = extensions else {
        assert!(matches!(result, Err(Refused::Malformed(_))), "{result:?} to {text:?}");
        return;
    };
    let expected = match extensions.as_slice() {
        [] => Some(None),
        [one] if one.name == NAME => written(one).and_then(|answer| fits(&answer, wish)).map(Some),
        _ => None,
    };
    assert_eq!(result.as_ref().ok(), expected.as_ref(), "{text:?} to {wish:?}: {result:?}");
}

/// What is agreed upon by an answer, unless it does not fit the offer.
fn fits(answer: &Written, wish: &Parameters) -> Option<Parameters> {
    let server = answer.bits[0].map_or(Some(15), |bits| bits)?;
    // Without the parameter the client's window is its own business, with it there is a value.
    let client = answer.bits[1].map_or(Some(wish.client_max_window_bits), |bits| bits)?;
    let fits = (answer.flags[0] || !wish.server_no_context_takeover)
        && server <= wish.server_max_window_bits
        && client <= wish.client_max_window_bits;
    fits.then_some(Parameters {
        server_no_context_takeover: answer.flags[0],
        client_no_context_takeover: answer.flags[1] || wish.client_no_context_takeover,
        server_max_window_bits: server,
        client_max_window_bits: client,
    })
}

/// What becomes of an offer of ours to a server of ours: neither compresses what the other cannot inflate.
fn agreed(client: &Parameters, server: &Parameters) {
    let offer = offer(client);
    offered(&offer, server);
    let answer = answer(&offer, server).expect("it is in order").expect("it can be accepted");
    accepted(&answer, client);
    let here = accept(&answer, client).expect("it fits").expect("an extension");
    // A server goes by its own answer, as it would go by that to any offer.
    let there = accept(&answer, &Parameters::default()).expect("it fits").expect("an extension");
    let (client, server) = (Config::new(Role::Client, &here), Config::new(Role::Server, &there));
    for (from, to) in [(client.outgoing, server.incoming), (server.outgoing, client.incoming)] {
        assert!(from.window_bits <= to.window_bits, "{here:?}, {there:?}");
        assert!(!from.context_takeover || to.context_takeover, "{here:?}, {there:?}");
    }
}

/// The lines of a head, without what ends them; the last is empty.
fn lines(head: &[u8]) -> Vec<&[u8]> {
    let head = head.strip_suffix(b"\n").unwrap_or(head);
    head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect()
}

/// The values of the fields with this name.
fn values<'a>(lines: &[&'a [u8]], name: &str) -> Vec<&'a [u8]> {
    let value = |line: &&'a [u8]| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let named = line[..colon].eq_ignore_ascii_case(name.as_bytes());
        let value = &line[colon + 1..];
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
        let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |end| end + 1);
        named.then_some(&value[start..end])
    };
    lines.iter().skip(1).filter_map(value).collect()
}

/// What is read of a request, and that all is there which RFC 6455 section 4.2.1 demands.
fn request(head: &[u8], at: usize) {
    let result = handshake::read(head);
    // SAFETY: the bytes are there, all-zero is a valid value, and the pointers are to locals.
    let (status, by_abi) = unsafe {
        let mut request = mem::zeroed();
        (aews_request_read(head.as_ptr(), head.len(), &mut request), request)
    };
    let Some(request) = result else {
        assert_eq!(status, AEWS_ERR_MALFORMED);
        return;
    };
    assert_eq!(status, AEWS_OK);
    assert_eq!(bytes(&by_abi.key, head), Some(request.key.as_bytes()));
    assert_eq!(bytes(&by_abi.protocols, head), request.protocols);
    assert_eq!(bytes(&by_abi.extensions, head), request.extensions);

    let lines = lines(head);
    assert!(head.ends_with(b"\n") && lines.last().is_some_and(|line| line.is_empty()));
    assert!(lines[0].starts_with(b"GET ") && lines[0].ends_with(b" HTTP/1.1"));
    assert!(lines.len() - 2 <= 32, "{} fields", lines.len());
    let one = |name| match values(&lines, name).as_slice() {
        [] => None,
        [value] => Some(*value),
        more => panic!("{} fields {name}", more.len()),
    };
    let has = |name, token: &str| {
        let value = String::from_utf8_lossy(one(name).expect("a field")).into_owned();
        value.split(',').any(|element| element.trim().eq_ignore_ascii_case(token))
    };
    assert!(one("Host").is_some_and(|host| !host.is_empty()));
    assert!(has("Upgrade", "websocket") && has("Connection", "upgrade"));
    assert_eq!(one("Sec-WebSocket-Version"), Some(&b"13"[..]));
    assert_eq!(one("Sec-WebSocket-Key"), Some(request.key.as_bytes()));
    assert!(request.key.len() == 24 && request.key.ends_with("=="));
    assert_eq!(one("Sec-WebSocket-Protocol"), request.protocols);
    assert_eq!(one("Sec-WebSocket-Extensions"), request.extensions);
    assert_eq!((one("Content-Length"), one("Transfer-Encoding")), (None, None));
    // Not while something is missing, nor with something behind it.
    assert_eq!(handshake::read(&head[..at % head.len()]), None);
    assert_eq!(handshake::read(&[head, b"\n"].concat()), None);
}

/// What a slice that points into `from` stands for.
fn bytes<'a>(slice: &aews_slice, from: &'a [u8]) -> Option<&'a [u8]> {
    if slice.data.is_null() {
        assert_eq!(slice.len, 0);
        return None;
    }
    if slice.len == 0 {
        return Some(&[]);
    }
    let start = (slice.data as usize).checked_sub(from.as_ptr() as usize).expect("a part of it");
    Some(&from[start..start + slice.len])
}

fn parse_response(head: &[u8]) -> (aews_status, Box<aews_response>) {
    // SAFETY: all-zero is a valid value.
    let mut response = Box::new(unsafe { mem::zeroed() });
    // SAFETY: the bytes are there, and the response is ours.
    let status = unsafe { aews_response_parse(head.as_ptr(), head.len(), &mut *response) };
    (status, response)
}

/// What is read of a response, and that it is the same however much has come of what is behind it.
fn response(head: &[u8], at: usize) {
    let (status, response) = parse_response(head);
    match status {
        AEWS_OK => {}
        AEWS_AGAIN => {
            assert_ne!(parse_response(&head[..at % (head.len() + 1)]).0, AEWS_OK);
            return;
        }
        AEWS_ERR_MALFORMED => {
            // SAFETY: the reason is a text of the library's.
            let why = unsafe { slice::from_raw_parts(response.reason.data, response.reason.len) };
            assert!(!why.is_empty() && std::str::from_utf8(why).is_ok(), "no reason");
            let more = [head, b"\r\n\r\n"].concat();
            assert_eq!(parse_response(&more).0, AEWS_ERR_MALFORMED, "more does not mend it");
            return;
        }
        status => panic!("status {status}"),
    }
    let len = response.len;
    assert!(len <= head.len() && head[..len].ends_with(b"\n"), "{len} of {}", head.len());
    assert!(response.minor_version == 0 || response.minor_version == 1);
    assert!((0..=999).contains(&response.status), "status {}", response.status);
    assert!(response.header_count <= AEWS_HEADERS_MAX as usize);
    let fields = |response: &aews_response, from: &[u8]| -> Vec<(Vec<u8>, Vec<u8>)> {
        let own = |slice: &aews_slice| bytes(slice, from).unwrap_or_default().to_vec();
        let headers = &response.headers[..response.header_count];
        headers.iter().map(|header| (own(&header.name), own(&header.value))).collect()
    };
    let known = fields(&response, head);
    for (name, value) in &known {
        let is_value = |byte: &u8| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f;
        assert!(!name.is_empty() && name.iter().all(u8::is_ascii_graphic), "{name:?}");
        assert!(value.iter().all(is_value), "{value:?}");
    }
    let alone = head[..len].to_vec();
    let (status, again) = parse_response(&alone);
    assert_eq!((status, again.status, again.len), (AEWS_OK, response.status, len));
    assert_eq!(fields(&again, &alone), known);
    assert_eq!(parse_response(&head[..at % len]).0, AEWS_AGAIN, "with less of it");
}
