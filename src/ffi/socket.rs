//! System calls: `aews_conn_read`, `aews_send`.

use std::ffi::c_int;
use std::io::{Error, ErrorKind};
use std::slice;

use super::abi::*;
use super::conn::bytes;
use super::guard::{Conn, ffi_fn, with_conn};
use crate::io::{self, Received};

ffi_fn! {
    fn aews_conn_read(conn: *mut aews_conn, fd: c_int, received: *mut usize) -> aews_status,
    check(conn) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's connection.
        let Some(conn) = (unsafe { Conn::from_ptr(conn) }) else {
            return AEWS_ERR_NULL;
        };
        with_conn(conn, |conn| {
            let (n, status) = match io::receive(&mut conn.connection, fd) {
                Ok(Received::Bytes(n)) => (n, AEWS_OK),
                Ok(Received::Full(n)) => (n, AEWS_MORE),
                Ok(Received::Eof) => (0, AEWS_EOF),
                Err(error) => return failed(&error),
            };
            if !received.is_null() {
                // SAFETY: not NULL, so the caller's to be written.
                unsafe { received.write(n) };
            }
            status
        })
    }
}

ffi_fn! {
    fn aews_send(
        fd: c_int,
        slices: *const aews_slice,
        count: usize,
        sent: *mut usize,
    ) -> aews_status,
    check(slices, sent) else AEWS_ERR_NULL,
    {
        if count > io::MAX_SLICES {
            return AEWS_ERR_MISUSE;
        }
        let mut list = [&[][..]; io::MAX_SLICES];
        // SAFETY: not NULL, so there are `count` slices, of the caller's bytes.
        for (entry, slice) in list.iter_mut().zip(unsafe { slice::from_raw_parts(slices, count) }) {
            // SAFETY: as above.
            let Some(bytes) = (unsafe { bytes(slice.data, slice.len) }) else {
                return AEWS_ERR_NULL;
            };
            *entry = bytes;
        }
        match io::send(fd, &list[..count]) {
            Ok(n) => {
                // SAFETY: not NULL, so the caller's to be written.
                unsafe { sent.write(n) };
                AEWS_OK
            }
            Err(error) => failed(&error),
        }
    }
}

/// `errno` is still that of the failed call: nothing has been called since.
fn failed(error: &Error) -> aews_status {
    match error.kind() {
        ErrorKind::WouldBlock => AEWS_AGAIN,
        _ => AEWS_ERR_IO,
    }
}
