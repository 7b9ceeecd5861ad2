//! What is agreed about permessage-deflate in the opening handshake (RFC 7692 sections 5 and 7.1).

use std::fmt;

use super::header::{self, Extension, Malformed};

/// The extension's name.
pub const NAME: &str = "permessage-deflate";

const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

/// The least and the most bits of an LZ77 window.
pub const WINDOW_BITS: std::ops::RangeInclusive<u8> = 8..=15;

/// The parameters of permessage-deflate: what one side wishes for, or what both have agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The server starts every message with an empty window.
    pub server_no_context_takeover: bool,
    /// The client does.
    pub client_no_context_takeover: bool,
    /// The server's window is 2 to this power of bytes, from 8 to 15.
    pub server_max_window_bits: u8,
    /// The client's window.
    pub client_max_window_bits: u8,
}

impl Default for Parameters {
    /// Context takeover and the largest window on both sides, as in an offer without parameters.
    fn default() -> Parameters {
        Parameters {
            server_no_context_takeover: false,
            client_no_context_takeover: false,
            server_max_window_bits: 15,
            client_max_window_bits: 15,
        }
    }
}

/// Why a response does not fit the offer: the connection is to be failed (RFC 7692 section 7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The header does not follow the grammar, at this byte.
    Malformed(usize),
    /// An extension that was not offered.
    NotOffered(String),
    /// permessage-deflate more than once.
    Repeated,
    /// A parameter that permessage-deflate does not have.
    UnknownParameter(String),
    /// A parameter more than once.
    RepeatedParameter(&'static str),
    /// A parameter without the value it needs, with one it may not have, or one out of range.
    Value(&'static str, Option<String>),
    /// A parameter that the offer demanded.
    Missing(&'static str),
    /// A larger window than was offered.
    WindowTooLarge(&'static str, u8, u8),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Malformed(at) => {
                write!(f, "Sec-WebSocket-Extensions is malformed at byte {at}")
            }
            Refused::NotOffered(name) => write!(f, "extension {name} was not offered"),
            Refused::Repeated => write!(f, "{NAME} is there more than once"),
            Refused::UnknownParameter(name) => write!(f, "{NAME} has no parameter {name}"),
            Refused::RepeatedParameter(name) => {
                write!(f, "parameter {name} of {NAME} is there more than once")
            }
            Refused::Value(name, Some(value)) => {
                write!(f, "parameter {name} of {NAME} cannot be '{value}'")
            }
            Refused::Value(name, None) => write!(f, "parameter {name} of {NAME} needs a value"),
            Refused::Missing(name) => {
                write!(f, "parameter {name} of {NAME} was offered, but is missing in the response")
            }
            Refused::WindowTooLarge(name, bits, offered) => {
                write!(f, "{name} of {NAME} is {bits}, more than the {offered} offered")
            }
        }
    }
}

impl std::error::Error for Refused {}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Refused {
        Refused::Malformed(malformed.0)
    }
}

/// The parameters as they stand in a header. `Some(None)`: there, without a value.
#[derive(Debug, Default)]
struct Written {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    client_max_window_bits: Option<Option<u8>>,
}

fn read(extension: &Extension<'_>) -> Result<Written, Refused> {
    let mut written = Written::default();
    for (name, value) in &extension.parameters {
        let value = value.as_deref();
        let flag = |seen: &mut bool, name| match value {
            Some(value) => Err(Refused::Value(name, Some(value.to_owned()))),
            None if std::mem::replace(seen, true) => Err(Refused::RepeatedParameter(name)),
            None => Ok(()),
        };
        match *name {
            SERVER_NO_CONTEXT_TAKEOVER => {
                flag(&mut written.server_no_context_takeover, SERVER_NO_CONTEXT_TAKEOVER)?;
            }
            CLIENT_NO_CONTEXT_TAKEOVER => {
                flag(&mut written.client_no_context_takeover, CLIENT_NO_CONTEXT_TAKEOVER)?;
            }
            SERVER_MAX_WINDOW_BITS => {
                let bits = window_bits(SERVER_MAX_WINDOW_BITS, value)?;
                let bits = bits.ok_or(Refused::Value(SERVER_MAX_WINDOW_BITS, None))?;
                if written.server_max_window_bits.replace(bits).is_some() {
                    return Err(Refused::RepeatedParameter(SERVER_MAX_WINDOW_BITS));
                }
            }
            CLIENT_MAX_WINDOW_BITS => {
                let bits = window_bits(CLIENT_MAX_WINDOW_BITS, value)?;
                if written.client_max_window_bits.replace(bits).is_some() {
                    return Err(Refused::RepeatedParameter(CLIENT_MAX_WINDOW_BITS));
                }
            }
            name => return Err(Refused::UnknownParameter(name.to_owned())),
        }
    }
    Ok(written)
}

/// "A decimal integer value without leading zeroes between 8 to 15, inclusive" (section 7.1.2).
fn window_bits(name: &'static str, value: Option<&str>) -> Result<Option<u8>, Refused> {
    let Some(value) = value else {
        return Ok(None);
    };
    match value.parse() {
        Ok(bits) if WINDOW_BITS.contains(&bits) && !value.starts_with(['0', '+']) => Ok(Some(bits)),
        _ => Err(Refused::Value(name, Some(value.to_owned()))),
    }
}

/// Appends a parameter.
fn add(text: &mut String, parameter: fmt::Arguments<'_>) {
    *text += "; ";
    *text += &parameter.to_string();
}

/// The start of an offer or an answer: the parameters that have no value.
fn text_with(server_no_context_takeover: bool, client_no_context_takeover: bool) -> String {
    let mut text = NAME.to_owned();
    if server_no_context_takeover {
        add(&mut text, format_args!("{SERVER_NO_CONTEXT_TAKEOVER}"));
    }
    if client_no_context_takeover {
        add(&mut text, format_args!("{CLIENT_NO_CONTEXT_TAKEOVER}"));
    }
    text
}

/// What a client offers.
pub fn offer(wish: &Parameters) -> String {
    let mut text = text_with(wish.server_no_context_takeover, wish.client_no_context_takeover);
    if wish.server_max_window_bits < 15 {
        add(&mut text, format_args!("{SERVER_MAX_WINDOW_BITS}={}", wish.server_max_window_bits));
    }
    // Says that the server may limit the client's window (section 7.1.2.2).
    if wish.client_max_window_bits < 15 {
        add(&mut text, format_args!("{CLIENT_MAX_WINDOW_BITS}={}", wish.client_max_window_bits));
    } else {
        add(&mut text, format_args!("{CLIENT_MAX_WINDOW_BITS}"));
    }
    text
}

/// What a server answers to the `Sec-WebSocket-Extensions` of a request, which is what is agreed upon
/// then. `None` where nothing that was offered can be accepted: the connection goes on without
/// compression then.
///
/// An offer is declined for a parameter that is unknown, repeated or has a wrong value (section 7.1);
/// the first that is left is accepted (the client's order is its preference, section 5). Where the
/// server wishes for a small window of the client's but the client does not say that it can have one,
/// the window is what the client makes it.
///
/// # Errors
/// [`Refused::Malformed`]: the handshake "MUST" fail where the value does not follow the grammar (RFC 6455
/// section 9.1).
pub fn answer(header: &str, wish: &Parameters) -> Result<Option<String>, Refused> {
    let extensions = header::parse(header)?;
    let mut offers = extensions.iter().filter(|extension| extension.name == NAME);
    let Some(offered) = offers.find_map(|extension| read(extension).ok()) else {
        return Ok(None);
    };

    let mut text = text_with(
        wish.server_no_context_takeover || offered.server_no_context_takeover,
        wish.client_no_context_takeover || offered.client_no_context_takeover,
    );
    // An offer with a limit is accepted by a limit (section 7.1.2.1).
    let bits = wish.server_max_window_bits.min(offered.server_max_window_bits.unwrap_or(15));
    if offered.server_max_window_bits.is_some() || bits < 15 {
        add(&mut text, format_args!("{SERVER_MAX_WINDOW_BITS}={bits}"));
    }
    if let Some(offered) = offered.client_max_window_bits {
        let bits = wish.client_max_window_bits.min(offered.unwrap_or(15));
        if bits < 15 {
            add(&mut text, format_args!("{CLIENT_MAX_WINDOW_BITS}={bits}"));
        }
    }
    Ok(Some(text))
}

/// What a client makes of the `Sec-WebSocket-Extensions` of a response to its [`offer`]: what is agreed
/// upon, `None` where the server wants no extension.
///
/// # Errors
/// [`Refused`]: "a client MUST _Fail the WebSocket Connection_ if the peer server accepted" what was
/// not offered (section 7.1).
pub fn accept(header: &str, wish: &Parameters) -> Result<Option<Parameters>, Refused> {
    let extensions = header::parse(header)?;
    if let Some(other) = extensions.iter().find(|extension| extension.name != NAME) {
        return Err(Refused::NotOffered(other.name.to_owned()));
    }
    let accepted = match extensions.as_slice() {
        [] => return Ok(None),
        [extension] => read(extension)?,
        _ => return Err(Refused::Repeated),
    };
    if wish.server_no_context_takeover && !accepted.server_no_context_takeover {
        return Err(Refused::Missing(SERVER_NO_CONTEXT_TAKEOVER));
    }
    // "Equal to or smaller than" what was offered, both (sections 7.1.2.1 and 7.1.2.2).
    let at_most = |name, bits, offered| match bits {
        bits if bits > offered => Err(Refused::WindowTooLarge(name, bits, offered)),
        bits => Ok(bits),
    };
    let server_max_window_bits = match accepted.server_max_window_bits {
        None if wish.server_max_window_bits < 15 => {
            return Err(Refused::Missing(SERVER_MAX_WINDOW_BITS));
        }
        bits => at_most(SERVER_MAX_WINDOW_BITS, bits.unwrap_or(15), wish.server_max_window_bits)?,
    };
    let client_max_window_bits = match accepted.client_max_window_bits {
        // In a response the value is what the parameter is for (section 7.1.2.2).
        Some(None) => return Err(Refused::Value(CLIENT_MAX_WINDOW_BITS, None)),
        Some(Some(bits)) => at_most(CLIENT_MAX_WINDOW_BITS, bits, wish.client_max_window_bits)?,
        None => wish.client_max_window_bits,
    };
    Ok(Some(Parameters {
        server_no_context_takeover: accepted.server_no_context_takeover,
        client_no_context_takeover: accepted.client_no_context_takeover
            || wish.client_no_context_takeover,
        server_max_window_bits,
        client_max_window_bits,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISH: Parameters = Parameters {
        server_no_context_takeover: false,
        client_no_context_takeover: false,
        server_max_window_bits: 15,
        client_max_window_bits: 15,
    };
    const SMALL: Parameters = Parameters {
        server_no_context_takeover: true,
        client_no_context_takeover: true,
        server_max_window_bits: 10,
        client_max_window_bits: 9,
    };

    #[test]
    fn what_a_client_offers() {
        assert_eq!(offer(&Parameters::default()), "permessage-deflate; client_max_window_bits");
        assert_eq!(
            offer(&SMALL),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=10; client_max_window_bits=9"
        );
    }

    #[test]
    fn what_a_server_answers() {
        let cases = [
            ("permessage-deflate", &WISH, "permessage-deflate"),
            ("permessage-deflate; client_max_window_bits", &WISH, "permessage-deflate"),
            ("permessage-deflate; client_max_window_bits=15", &WISH, "permessage-deflate"),
            (
                "permessage-deflate; client_max_window_bits=\"12\"",
                &WISH,
                "permessage-deflate; client_max_window_bits=12",
            ),
            (
                "permessage-deflate; server_max_window_bits=15",
                &WISH,
                "permessage-deflate; server_max_window_bits=15",
            ),
            (
                "permessage-deflate; server_max_window_bits=8",
                &WISH,
                "permessage-deflate; server_max_window_bits=8",
            ),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                &WISH,
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            ),
            // The server's own wishes: of the client's window only where the client can.
            (
                "permessage-deflate",
                &SMALL,
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                 server_max_window_bits=10",
            ),
            (
                "permessage-deflate; client_max_window_bits; server_max_window_bits=9",
                &SMALL,
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                 server_max_window_bits=9; client_max_window_bits=9",
            ),
            // The first that is in order, whatever else is offered.
            (
                "x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=16, \
                 permessage-deflate; server_max_window_bits=11, permessage-deflate",
                &WISH,
                "permessage-deflate; server_max_window_bits=11",
            ),
        ];
        for (offered, wish, expected) in cases {
            assert_eq!(answer(offered, wish), Ok(Some(expected.to_owned())), "{offered}");
        }
    }

    /// RFC 7692 section 7.1: parameters, values and repetitions that decline an offer.
    #[test]
    fn what_a_server_declines() {
        let parameters = [
            "unknown",
            "unknown=1",
            "server_no_context_takeover=1",
            "client_no_context_takeover=1",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover; client_no_context_takeover",
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=08",
            "server_max_window_bits=+9",
            "server_max_window_bits=ten",
            "server_max_window_bits=266",
            "server_max_window_bits=10; server_max_window_bits=10",
            "client_max_window_bits=7",
            "client_max_window_bits=16",
            "client_max_window_bits; client_max_window_bits=10",
        ];
        for parameter in parameters {
            let offered = format!("permessage-deflate; {parameter}");
            assert_eq!(answer(&offered, &WISH), Ok(None), "{parameter}");
        }
        for offered in ["", "foo", "Permessage-Deflate"] {
            assert_eq!(answer(offered, &WISH), Ok(None), "{offered}");
        }
    }

    /// RFC 6455 section 9.1, whatever else is offered.
    #[test]
    fn what_a_server_cannot_read() {
        let cases = [
            ("permessage-deflate; =", 20),
            ("permessage-deflate ;;", 20),
            ("foo, permessage-deflate, /", 25),
        ];
        for (offered, at) in cases {
            assert_eq!(answer(offered, &WISH), Err(Refused::Malformed(at)), "{offered}");
        }
    }

    #[test]
    fn what_a_client_accepts() {
        let agreed =
            |response, wish| accept(response, wish).unwrap_or_else(|e| panic!("{response}: {e}"));
        assert_eq!(agreed("", &WISH), None);
        assert_eq!(agreed("permessage-deflate", &WISH), Some(Parameters::default()));
        let all = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                   server_max_window_bits=10; client_max_window_bits=9";
        assert_eq!(agreed(all, &WISH), Some(SMALL));
        assert_eq!(agreed(all, &SMALL), Some(SMALL));
        // What a client does is up to itself, where it does less than it may.
        let bare = "permessage-deflate; server_no_context_takeover; server_max_window_bits=8";
        let expected = Parameters { server_max_window_bits: 8, ..SMALL };
        assert_eq!(agreed(bare, &SMALL), Some(expected));
    }

    #[test]
    fn what_a_client_refuses() {
        use Refused::*;
        let own = |text: &str| Some(text.to_owned());
        let cases = [
            ("permessage-deflate,, a b", &WISH, Malformed(23)),
            ("foo", &WISH, NotOffered("foo".to_owned())),
            ("permessage-deflate, foo", &WISH, NotOffered("foo".to_owned())),
            ("permessage-deflate, permessage-deflate", &WISH, Repeated),
            ("permessage-deflate; foo", &WISH, UnknownParameter("foo".to_owned())),
            (
                "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
                &WISH,
                RepeatedParameter(SERVER_MAX_WINDOW_BITS),
            ),
            (
                "permessage-deflate; client_no_context_takeover=1",
                &WISH,
                Value(CLIENT_NO_CONTEXT_TAKEOVER, own("1")),
            ),
            (
                "permessage-deflate; server_max_window_bits=7",
                &WISH,
                Value(SERVER_MAX_WINDOW_BITS, own("7")),
            ),
            (
                "permessage-deflate; client_max_window_bits",
                &WISH,
                Value(CLIENT_MAX_WINDOW_BITS, None),
            ),
            (
                "permessage-deflate; server_max_window_bits=10",
                &SMALL,
                Missing(SERVER_NO_CONTEXT_TAKEOVER),
            ),
            (
                "permessage-deflate; server_no_context_takeover",
                &SMALL,
                Missing(SERVER_MAX_WINDOW_BITS),
            ),
            (
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=11",
                &SMALL,
                WindowTooLarge(SERVER_MAX_WINDOW_BITS, 11, 10),
            ),
            (
                "permessage-deflate; client_max_window_bits=10; server_max_window_bits=10; \
                 server_no_context_takeover",
                &SMALL,
                WindowTooLarge(CLIENT_MAX_WINDOW_BITS, 10, 9),
            ),
        ];
        for (response, wish, expected) in cases {
            assert_eq!(accept(response, wish), Err(expected), "{response}");
        }
    }

    #[test]
    fn client_and_server_understand_each_other() {
        for bits in WINDOW_BITS {
            for no_context_takeover in [false, true] {
                let small = Parameters {
                    server_no_context_takeover: no_context_takeover,
                    server_max_window_bits: bits,
                    ..WISH
                };
                for (client, server) in [(&WISH, &small), (&small, &WISH), (&small, &small)] {
                    let answer = answer(&offer(client), server);
                    let answer = answer.expect("it is well formed").expect("an answer");
                    let agreed = accept(&answer, client).expect("it fits").expect("an extension");
                    assert_eq!(agreed, small, "{answer}");
                }
            }
        }
    }
}
