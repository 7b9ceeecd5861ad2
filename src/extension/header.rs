//! The grammar of `Sec-WebSocket-Extensions` (RFC 6455 section 9.1).

use std::borrow::Cow;

/// One extension of the list, offered or accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Its name, a token as it was written.
    pub name: &'a str,
    /// Its parameters in the order they came; not all have a value.
    pub parameters: Vec<(&'a str, Option<Cow<'a, str>>)>,
}

/// The header does not follow the grammar, at this byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub usize);

/// Reads the value of a header, or the values of several joined with commas, which means the same
/// (RFC 6455 section 9.1).
///
/// # Errors
/// [`Malformed`]: the whole header is invalid then, not just one extension.
pub fn parse(header: &str) -> Result<Vec<Extension<'_>>, Malformed> {
    let mut reader = Reader { text: header, at: 0 };
    let mut extensions = vec![];
    loop {
        // "A recipient MUST accept null elements" is RFC 2616's "#rule", which the RFC refers to.
        reader.skip_space();
        if reader.take(',') {
            continue;
        }
        if reader.is_done() {
            return Ok(extensions);
        }
        extensions.push(reader.extension()?);
        if !reader.is_done() && !reader.take(',') {
            return Err(Malformed(reader.at));
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn is_done(&self) -> bool {
        self.at == self.text.len()
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches([' ', '\t']).len();
    }

    fn take(&mut self, wanted: char) -> bool {
        let taken = self.rest().starts_with(wanted);
        self.at += usize::from(taken);
        taken
    }

    /// `extension = token *( ";" extension-param )`, and the space behind it.
    fn extension(&mut self) -> Result<Extension<'a>, Malformed> {
        let name = self.token()?;
        let mut parameters = vec![];
        self.skip_space();
        while self.take(';') {
            self.skip_space();
            let name = self.token()?;
            self.skip_space();
            let value = if self.take('=') {
                self.skip_space();
                Some(self.value()?)
            } else {
                None
            };
            self.skip_space();
            parameters.push((name, value));
        }
        Ok(Extension { name, parameters })
    }

    fn token(&mut self) -> Result<&'a str, Malformed> {
        let rest = self.rest();
        let len = rest.bytes().position(|byte| !is_token(byte)).unwrap_or(rest.len());
        if len == 0 {
            return Err(Malformed(self.at));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    /// A token, or one in quotes: "the value after quoted-string unescaping MUST conform to the
    /// 'token' ABNF".
    fn value(&mut self) -> Result<Cow<'a, str>, Malformed> {
        if !self.take('"') {
            return self.token().map(Cow::Borrowed);
        }
        let start = self.at;
        let mut value = String::new();
        let mut bytes = self.rest().bytes().enumerate();
        while let Some((at, byte)) = bytes.next() {
            if byte == b'"' && !value.is_empty() {
                self.at = start + at + 1;
                return Ok(Cow::Owned(value));
            }
            // Whatever is escaped is to be part of a token, too.
            let character = if byte == b'\\' { bytes.next() } else { Some((at, byte)) };
            let (at, byte) = character.ok_or(Malformed(self.text.len()))?;
            if !is_token(byte) {
                return Err(Malformed(start + at));
            }
            value.push(char::from(byte));
        }
        Err(Malformed(self.text.len()))
    }
}

/// RFC 2616 section 2.2: any character but controls and separators.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_graphic() && !br#"()<>@,;:\"/[]?={}"#.contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(header: &str) -> Vec<Extension<'_>> {
        parse(header).unwrap_or_else(|error| panic!("{header}: {error:?}"))
    }

    fn extension<'a>(name: &'a str, parameters: &[(&'a str, Option<&'a str>)]) -> Extension<'a> {
        let parameters = parameters.iter().map(|(name, value)| (*name, value.map(Cow::Borrowed)));
        Extension { name, parameters: parameters.collect() }
    }

    #[test]
    fn lists_of_extensions_with_parameters() {
        assert_eq!(parsed(""), []);
        assert_eq!(parsed(" , ,\t"), []);
        assert_eq!(parsed("foo"), [extension("foo", &[])]);
        // The examples of RFC 6455 section 9.1.
        let bar = extension("bar", &[("baz", Some("2"))]);
        assert_eq!(parsed("bar; baz=2"), std::slice::from_ref(&bar));
        assert_eq!(parsed("foo, bar; baz=2"), [extension("foo", &[]), bar]);
        assert_eq!(
            parsed(",a ; b ; c = d;e=\"f\" ,, g;h,"),
            [
                extension("a", &[("b", None), ("c", Some("d")), ("e", Some("f"))]),
                extension("g", &[("h", None)]),
            ]
        );
        assert_eq!(parsed(r#"a;b="1\2""#), [extension("a", &[("b", Some("12"))])]);
        assert_eq!(parsed("a;b;b"), [extension("a", &[("b", None), ("b", None)])]);
    }

    #[test]
    fn what_is_malformed_is_told_with_its_place() {
        let cases = [
            (";", 0),
            ("a b", 2),
            ("a;", 2),
            ("a;;b", 2),
            ("a;b=", 4),
            ("a;b=,", 4),
            ("a;=1", 2),
            ("a=1", 1),
            ("a;b=\"", 5),
            ("a;b=\"\"", 5),
            ("a;b=\"1", 6),
            ("a;b=\"1 2\"", 6),
            ("a;b=\"1\"2", 7),
            ("a;b='1'(", 7),
            (r#"a;b="1\""#, 7),
            (r#"a;b="1\"""#, 7),
            (r#"a;b="1\\0""#, 7),
            (r#"a;b="1\"#, 7),
            (r#"a;b="\ 1""#, 6),
            ("\u{e4}", 0),
            ("a\0", 1),
            ("a/b", 1),
        ];
        for (header, at) in cases {
            assert_eq!(parse(header), Err(Malformed(at)), "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_at_a_place_within(header in ".{0,40}") {
            if let Err(Malformed(at)) = parse(&header) {
                prop_assert!(at <= header.len());
            }
        }

        #[test]
        fn separators_alone_never_panic(header in "[a=;,\" \\\\]{0,30}") {
            if let Err(Malformed(at)) = parse(&header) {
                prop_assert!(at <= header.len());
            }
        }
    }
}
