//! A connection behind its pointer.

use std::ffi::{CStr, c_int};
use std::{ptr, slice};

use aews::ffi::abi::*;
use aews::ffi::*;

use crate::wire::{CLOSE, FIN, RSV1, decode};

/// A connection.
pub struct Conn {
    /// What C has of it.
    pub conn: *mut aews_conn,
    /// Whether what it sends is masked.
    pub masked: bool,
    /// Its role, an `aews_role`.
    pub role: c_int,
    /// Nothing has been received or sent.
    pub fresh: bool,
    /// Whether messages may be compressed.
    pub deflate: bool,
    /// What has left.
    pub wire: Vec<u8>,
    /// The header of a frame that nobody could send has been made.
    pub spoiled: bool,
    /// Its failure has been told.
    pub failed: bool,
}

/// The state of a connection, by all functions that only look at it.
pub fn state(conn: *const aews_conn) -> [usize; 5] {
    // SAFETY: the connection is NULL or alive.
    unsafe {
        let flag = |flag: c_int| {
            assert!(flag == 0 || flag == 1, "a flag of {flag}");
            flag as usize
        };
        [
            flag(aews_conn_is_reading(conn)),
            flag(aews_conn_is_writable(conn)),
            flag(aews_conn_has_input(conn)),
            flag(aews_conn_was_clean(conn)),
            aews_conn_buffered(conn),
        ]
    }
}

/// A place in what [`state`] returns.
pub const WRITABLE: usize = 1;
/// A place in what [`state`] returns.
pub const HAS_INPUT: usize = 2;

/// What `aews_conn_error` says.
pub fn error_text(conn: *const aews_conn) -> String {
    // SAFETY: the connection is NULL or alive, and the text is read at once.
    let text = unsafe { CStr::from_ptr(aews_conn_error(conn)) };
    text.to_str().expect("errors are UTF-8").to_owned()
}

/// Takes up to `len` bytes of the output; more than there are is refused.
pub fn take_output(conn: &mut Conn, len: usize) {
    let (mut data, mut there) = (ptr::null(), 0);
    // SAFETY: the connection is alive, the other pointers are to locals, and what comes out is read at once.
    unsafe {
        assert_eq!(aews_conn_output(conn.conn, &mut data, &mut there), AEWS_OK);
        if let Some(more) = there.checked_add(1) {
            assert_eq!(aews_conn_consume_output(conn.conn, more), AEWS_ERR_MISUSE);
            assert!(!error_text(conn.conn).is_empty(), "misuse without a text");
        }
        // That was a call, so what was told before it is not valid any more.
        assert_eq!(aews_conn_output(conn.conn, &mut data, &mut there), AEWS_OK);
        let len = len.min(there);
        if len > 0 {
            conn.wire.extend(slice::from_raw_parts(data, len));
        }
        assert_eq!(aews_conn_consume_output(conn.conn, len), AEWS_OK);
        let mut rest = 0;
        assert_eq!(aews_conn_output(conn.conn, &mut data, &mut rest), AEWS_OK);
        assert_eq!(rest, there - len, "what is left of the output");
    }
}

/// Asserts that what has left are whole frames.
pub fn check_wire(conn: &Conn) {
    if conn.spoiled {
        return;
    }
    let frames = decode(&conn.wire, conn.masked);
    let allowed = if conn.deflate { RSV1 } else { 0 };
    for (at, frame) in frames.iter().enumerate() {
        assert_eq!(frame.first & 0xF0 & !allowed, FIN, "{frame:?}");
        assert!(frame.first & 0x0F != CLOSE || at + 1 == frames.len(), "a frame after Close");
    }
}
