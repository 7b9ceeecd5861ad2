//! Close frames, RFC 6455 sections 5.5.1 and 7.4.

use std::borrow::Cow;

use tungstenite::protocol::frame::coding::CloseCode;

use super::error::{Misuse, PeerError};
use crate::frame::utf8;

/// How long a reason may be: a control frame's payload without the code.
pub const MAX_REASON_LEN: usize = 123;

/// Whether `code` may stand in a Close frame (section 7.4). 1014 (Bad Gateway) has been registered
/// since the RFC.
pub fn may_be_sent(code: u16) -> bool {
    code == 1014 || CloseCode::from(code).is_allowed()
}

/// The body of a Close frame that a program asks for.
///
/// # Errors
/// A code or reason that would make a broken frame (compat D2).
pub fn body(code: u16, reason: &[u8]) -> Result<Vec<u8>, Misuse> {
    if !may_be_sent(code) {
        return Err(Misuse::CloseCode(code));
    }
    if reason.len() > MAX_REASON_LEN {
        return Err(Misuse::CloseReasonTooLong(reason.len()));
    }
    utf8::validate(reason).map_err(Misuse::CloseReasonNotUtf8)?;
    Ok([&code.to_be_bytes(), reason].concat())
}

/// A Close frame as it came from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    /// The code as it stands in the frame, allowed there or not (compat C18); `None` where the
    /// frame has no body.
    pub code: Option<u16>,
    /// The reason; what is not UTF-8 in it is replaced by U+FFFD.
    pub reason: Cow<'a, str>,
}

/// Reads the body of a Close frame: what can be recorded of it, and what is wrong with it.
pub fn parse(body: &[u8]) -> (Close<'_>, Result<(), PeerError>) {
    let (code, reason) = match body {
        [] => return (Close { code: None, reason: "".into() }, Ok(())),
        // "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer"
        [_] => {
            return (Close { code: None, reason: "".into() }, Err(PeerError::CloseBodyTooShort));
        }
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    let verdict = if may_be_sent(code) {
        utf8::validate(reason).map_err(PeerError::CloseReasonNotUtf8)
    } else {
        Err(PeerError::CloseCodeNotAllowed(code))
    };
    (Close { code: Some(code), reason: String::from_utf8_lossy(reason) }, verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_be_sent_are_those_of_the_registry_and_of_programs() {
        let allowed = [1000..=1003, 1007..=1014, 3000..=4999];
        for code in 0..=u16::MAX {
            let expected = allowed.iter().any(|range| range.contains(&code));
            assert_eq!(may_be_sent(code), expected, "{code}");
        }
    }

    #[test]
    fn a_reason_may_fill_the_frame_but_no_more() {
        assert_eq!(body(1000, &[b'x'; 123]).unwrap().len(), 125);
        assert_eq!(body(1000, &[b'x'; 124]), Err(Misuse::CloseReasonTooLong(124)));
        assert_eq!(body(1000, b"ab\xFF"), Err(Misuse::CloseReasonNotUtf8(2)));
        assert_eq!(body(1005, b""), Err(Misuse::CloseCode(1005)));
    }
}
