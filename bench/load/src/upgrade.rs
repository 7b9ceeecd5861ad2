//! The HTTP upgrade that opens a WebSocket, seen from the client.

use tungstenite::handshake::{client::generate_key, derive_accept_key};

/// Fields of an answer beyond which it is refused.
const FIELDS: usize = 32;

/// A longer answer is not one.
const MOST: usize = 16 << 10;

pub struct Upgrade {
    pub request: Vec<u8>,
    accept: String,
    deflate: bool,
    answer: Vec<u8>,
}

impl Upgrade {
    pub fn new(port: u16, deflate: bool) -> Self {
        let key = generate_key();
        let extensions = if deflate {
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        } else {
            ""
        };
        let request = format!(
            "GET / HTTP/1.1\r\n\
             Host: 127.0.0.1:{port}\r\n\
             Connection: Upgrade\r\n\
             Upgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\n\
             {extensions}\
             Sec-WebSocket-Key: {key}\r\n\r\n"
        );
        Upgrade {
            request: request.into_bytes(),
            accept: derive_accept_key(key.as_bytes()),
            deflate,
            answer: Vec::new(),
        }
    }

    /// Takes the server's next bytes. Says whether the answer is there and what
    /// it should be.
    pub fn feed(&mut self, data: &[u8]) -> Result<bool, String> {
        self.answer.extend_from_slice(data);
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(&self.answer).map_err(|e| e.to_string())? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial if self.answer.len() < MOST => return Ok(false),
            httparse::Status::Partial => return Err("the answer does not end".into()),
        };
        if response.code != Some(101) {
            let status = response.code.unwrap_or_default();
            return Err(format!("the answer is {status}, not 101"));
        }
        let field = |name: &str| {
            let mut all = response.headers.iter().filter(|f| f.name.eq_ignore_ascii_case(name));
            all.next().map(|f| String::from_utf8_lossy(f.value).into_owned())
        };
        if field("Sec-WebSocket-Accept").as_ref() != Some(&self.accept) {
            return Err("Sec-WebSocket-Accept is wrong".into());
        }
        match (field("Sec-WebSocket-Extensions"), self.deflate) {
            (None, false) => {}
            (Some(agreed), true) if agreed.trim_start().starts_with("permessage-deflate") => {}
            (None, true) => return Err("the server does not agree to compression".into()),
            (Some(other), _) => return Err(format!("nobody offered the extension {other}")),
        }
        if length != self.answer.len() {
            return Err("the server sends before it is sent anything".into());
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(upgrade: &Upgrade, more: &str) -> Vec<u8> {
        let accept = &upgrade.accept;
        format!("HTTP/1.1 101 X\r\nsec-websocket-accept: {accept}\r\n{more}\r\n").into_bytes()
    }

    #[test]
    fn an_answer_comes_in_pieces() {
        let mut upgrade = Upgrade::new(1, false);
        let bytes = answer(&upgrade, "");
        let (last, most) = bytes.split_last().unwrap();
        for byte in most {
            assert!(!upgrade.feed(&[*byte]).unwrap());
        }
        assert!(upgrade.feed(&[*last]).unwrap());
    }

    #[test]
    fn wrong_answers_are_named() {
        for (deflate, more, word) in [
            (true, "", "does not agree"),
            (false, "Sec-WebSocket-Extensions: permessage-deflate\r\n", "nobody offered"),
            (false, "\r\n", "before it is sent"),
        ] {
            let mut upgrade = Upgrade::new(1, deflate);
            let what = upgrade.feed(&answer(&upgrade, more)).unwrap_err();
            assert!(what.contains(word), "{what}");
        }
        let what = Upgrade::new(1, false).feed(b"HTTP/1.1 404 No\r\n\r\n").unwrap_err();
        assert!(what.contains("404"), "{what}");
        let what = Upgrade::new(1, false).feed(b"HTTP/1.1 101 Yes\r\n\r\n").unwrap_err();
        assert!(what.contains("Accept"), "{what}");
    }
}
