//! Incremental UTF-8 validation that fails at the first bad byte (RFC 6455 section 8.1).

/// The validator's state between two pieces of a message: an incomplete sequence at the end of what
/// it has seen.
#[derive(Clone, Debug, Default)]
pub struct Utf8Validator {
    partial: [u8; 4],
    partial_len: u8,
    seen: u64,
}

impl Utf8Validator {
    /// Takes the next piece.
    ///
    /// # Errors
    /// The position, counted from the start of the message, of the sequence that is not UTF-8: the
    /// position of its first byte. An incomplete sequence at the end is no error yet.
    pub fn update(&mut self, mut piece: &[u8]) -> Result<(), u64> {
        while self.partial_len > 0 {
            let [byte, rest @ ..] = piece else {
                return Ok(());
            };
            piece = rest;
            let len = usize::from(self.partial_len);
            self.partial[len] = *byte;
            match std::str::from_utf8(&self.partial[..=len]) {
                Ok(_) => {
                    self.seen += self.partial_len as u64 + 1;
                    self.partial_len = 0;
                }
                Err(error) if error.error_len().is_none() => self.partial_len += 1,
                Err(_) => return Err(self.seen),
            }
        }
        if simdutf8::basic::from_utf8(piece).is_ok() {
            self.seen += piece.len() as u64;
            return Ok(());
        }
        // The fast path says only that something is wrong; the other one says where, and whether
        // it is just the end that is missing.
        let Err(error) = simdutf8::compat::from_utf8(piece) else {
            unreachable!("both validators agree");
        };
        self.seen += error.valid_up_to() as u64;
        if error.error_len().is_some() {
            return Err(self.seen);
        }
        let rest = &piece[error.valid_up_to()..];
        self.partial[..rest.len()].copy_from_slice(rest);
        self.partial_len = rest.len() as u8;
        Ok(())
    }

    /// Ends the message.
    ///
    /// # Errors
    /// As [`update`](Self::update), where the message ends inside a sequence.
    pub fn finish(&self) -> Result<(), u64> {
        if self.partial_len == 0 { Ok(()) } else { Err(self.seen) }
    }
}

/// Validates a message that is there as a whole.
///
/// # Errors
/// As [`Utf8Validator::update`].
pub fn validate(message: &[u8]) -> Result<(), u64> {
    // What most small messages are; the general validators cost more than this loop for them.
    if message.len() <= 64 && message.is_ascii() {
        return Ok(());
    }
    let mut validator = Utf8Validator::default();
    validator.update(message)?;
    validator.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piecewise(pieces: &[&[u8]]) -> Result<(), u64> {
        let mut validator = Utf8Validator::default();
        for piece in pieces {
            validator.update(piece)?;
        }
        validator.finish()
    }

    #[test]
    fn the_first_bad_byte_fails_before_the_sequence_is_complete() {
        let mut validator = Utf8Validator::default();
        validator.update(b"abc\xF4").unwrap();
        // U+110000 is out of range, and its second byte already says so.
        assert_eq!(validator.update(b"\x90"), Err(3));
    }

    #[test]
    fn surrogates_overlong_forms_and_stray_bytes_are_refused() {
        for bad in [&b"\xED\xA0\x80"[..], b"\xC0\xAF", b"\xE0\x80\xAF", b"\x80", b"\xFF", b"\xF5"] {
            assert_eq!(validate(bad), Err(0), "{bad:02X?}");
        }
    }

    #[test]
    fn an_incomplete_end_is_an_error_of_the_end_only() {
        let mut validator = Utf8Validator::default();
        validator.update("κόσμε".as_bytes()).unwrap();
        validator.update(b"\xE2\x82").unwrap();
        assert_eq!(validator.finish(), Err("κόσμε".len() as u64));
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                any::<String>().prop_map(String::into_bytes),
                (any::<String>(), any::<u8>(), any::<prop::sample::Index>()).prop_map(
                    |(text, byte, at)| {
                        let mut bytes = text.into_bytes();
                        let at = at.index(bytes.len() + 1);
                        bytes.insert(at, byte);
                        bytes
                    }
                ),
            ],
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let expected = match std::str::from_utf8(&bytes) {
                Ok(_) => Ok(()),
                Err(error) => Err(error.valid_up_to() as u64),
            };
            prop_assert_eq!(validate(&bytes), expected);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(piecewise(&pieces), expected);
            let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(piecewise(&bytewise), expected);
        }
    }
}
