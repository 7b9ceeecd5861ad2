//! The request of an opening handshake, as a server reads most of them.

/// Of a request that opens a connection, what its response goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The value of `Sec-WebSocket-Key`.
    pub key: &'a str,
    /// That of `Sec-WebSocket-Protocol`, where there is one.
    pub protocols: Option<&'a [u8]>,
    /// That of `Sec-WebSocket-Extensions`, where there is one.
    pub extensions: Option<&'a [u8]>,
}

/// Room for the header fields of a browser; who sends more is looked at more slowly.
const MAX_FIELDS: usize = 32;

/// Reads the head of a request, up to and including the empty line, if all that RFC 6455 section 4.2.1
/// demands is there, each field once, and in a form that needs no thought. `None` does not mean that the
/// request is wrong: it is for others to look at, who can also say what is wrong.
pub fn read(head: &[u8]) -> Option<Request<'_>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let complete =
        matches!(request.parse(head), Ok(httparse::Status::Complete(len)) if len == head.len());
    // httparse skips empty lines in the beginning.
    if !complete || !head.starts_with(b"GET ") || request.version != Some(1) {
        return None;
    }
    let mut known = Fields::default();
    for field in request.headers.iter() {
        known.note(field)?;
    }
    let fits = has_token(known.upgrade?, b"websocket")
        && has_token(known.connection?, b"upgrade")
        && known.version? == b"13"
        && is_host(known.host?);
    let key = known.key.filter(|key| is_key(key))?;
    fits.then_some(Request {
        key: std::str::from_utf8(key).ok()?,
        protocols: known.protocols,
        extensions: known.extensions,
    })
}

#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    upgrade: Option<&'a [u8]>,
    connection: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
    protocols: Option<&'a [u8]>,
    extensions: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// `None` where that takes a closer look: a field that came before, or one that announces a body.
    fn note(&mut self, field: &httparse::Header<'a>) -> Option<()> {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let place = match field.name.len() {
            4 if is("Host") => &mut self.host,
            7 if is("Upgrade") => &mut self.upgrade,
            10 if is("Connection") => &mut self.connection,
            14 if is("Content-Length") => return None,
            17 if is("Sec-WebSocket-Key") => &mut self.key,
            17 if is("Transfer-Encoding") => return None,
            21 if is("Sec-WebSocket-Version") => &mut self.version,
            22 if is("Sec-WebSocket-Protocol") => &mut self.protocols,
            24 if is("Sec-WebSocket-Extensions") => &mut self.extensions,
            _ => return Some(()),
        };
        place.replace(field.value).is_none().then_some(())
    }
}

/// Whether a list has this element, in whatever case.
fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|&byte| byte == b',').any(|element| element.trim_ascii().eq_ignore_ascii_case(token))
}

fn is_host(host: &[u8]) -> bool {
    let is_of_host = |byte: &u8| byte.is_ascii_graphic() && !b"/?#@".contains(byte);
    !host.is_empty() && host != b"0" && host.iter().all(is_of_host)
}

/// 16 bytes in Base64.
fn is_key(key: &[u8]) -> bool {
    let is_of_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(is_of_base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [(&str, &str); 5] = [
        ("Host", "server.example:80"),
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];

    /// A request with these fields instead, or besides.
    fn request(line: &str, changed: &[(&str, &str)]) -> String {
        let kept = FIELDS.iter().filter(|field| !changed.iter().any(|(name, _)| *name == field.0));
        let fields: String =
            kept.chain(changed).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{line}\r\n{fields}\r\n")
    }

    fn with(changed: &[(&str, &str)]) -> bool {
        read(request("GET / HTTP/1.1", changed).as_bytes()).is_some()
    }

    #[test]
    fn what_the_response_goes_by() {
        let head = request(
            "GET /path?query HTTP/1.1",
            &[
                ("sec-websocket-PROTOCOL", "a, b"),
                ("Sec-WebSocket-Extensions", "x; y=1"),
                ("Cookie", "c"),
            ],
        );
        let expected = Request {
            key: "dGhlIHNhbXBsZSBub25jZQ==",
            protocols: Some(b"a, b"),
            extensions: Some(b"x; y=1"),
        };
        assert_eq!(read(head.as_bytes()), Some(expected));
        let plain = Request { protocols: None, extensions: None, ..expected };
        assert_eq!(read(request("GET / HTTP/1.1", &[]).as_bytes()), Some(plain));
        assert_eq!(
            read(request("GET / HTTP/1.1", &[]).replace("\r\n", "\n").as_bytes()),
            Some(plain)
        );
    }

    #[test]
    fn forms_that_mean_the_same() {
        assert!(with(&[("Upgrade", "h2c ,\tWebSocket ")]));
        assert!(with(&[("Connection", "UPGRADE")]));
        assert!(with(&[("Host", "[::1]:8080")]));
        assert!(with(&[("X-Note", "caf\u{e9}\t\u{263A}")]));
    }

    #[test]
    fn everything_else_takes_a_closer_look() {
        for (name, value) in [
            ("Upgrade", "websockets"),
            ("Upgrade", ""),
            ("Connection", "close"),
            ("Host", ""),
            ("Host", "0"),
            ("Host", "a b"),
            ("Host", "user@host"),
            ("Host", "caf\u{e9}"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ="),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZ==="),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j-Q=="),
            ("Sec-WebSocket-Version", "8"),
            ("Sec-WebSocket-Version", "13, 8"),
            ("Content-Length", "0"),
            ("Transfer-Encoding", "chunked"),
            ("X-Note", "a\u{0}b"),
            ("X-Note", "a\u{7f}"),
            ("X-Note ", "a"),
            ("", "a"),
        ] {
            assert!(!with(&[(name, value)]), "{name}: {value}");
        }
        for (name, value) in FIELDS {
            assert!(!with(&[(name, value), (name, value)]), "{name} twice");
            let without =
                request("GET / HTTP/1.1", &[]).replace(&format!("{name}: {value}\r\n"), "");
            assert_eq!(read(without.as_bytes()), None, "no {name}");
        }
        for line in [
            "POST / HTTP/1.1",
            "GET / HTTP/1.0",
            "GET  / HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET /",
            "",
            "\r\nGET / HTTP/1.1",
        ] {
            assert_eq!(read(request(line, &[]).as_bytes()), None, "{line:?}");
        }
        let many: String = (0..MAX_FIELDS).map(|i| format!("X-{i}: 1\r\n")).collect();
        assert_eq!(
            read(
                request("GET / HTTP/1.1", &[])
                    .replace("\r\n\r\n", &format!("\r\n{many}\r\n"))
                    .as_bytes()
            ),
            None
        );
    }

    #[test]
    fn only_a_whole_head_is_read() {
        let head = request("GET / HTTP/1.1", &[]);
        for end in 0..head.len() {
            assert_eq!(read(&head.as_bytes()[..end]), None, "{end} bytes");
        }
        assert_eq!(read((head + "x").as_bytes()), None);
    }
}
