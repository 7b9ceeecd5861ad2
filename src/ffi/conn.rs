//! Connections: `aews_conn_*`.

use std::ffi::{CStr, CString, c_char, c_int};
use std::slice;

use super::abi::*;
use super::guard::{Conn, ffi_fn, with_conn};
use crate::connection::error::Error;
use crate::connection::{Config, Connection, Role};
use crate::process;

ffi_fn! {
    fn aews_abi_version() -> u32,
    check() else 0,
    AEWS_ABI_VERSION
}

ffi_fn! {
    fn aews_process_generation() -> u64,
    check() else 0,
    process::generation()
}

ffi_fn! {
    fn aews_config_init(config: *mut aews_config) -> aews_status,
    check(config) else AEWS_ERR_NULL,
    {
        let defaults = Config::default();
        // SAFETY: not NULL, so the caller's to be written.
        unsafe {
            config.write(aews_config {
                role: AEWS_ROLE_UNKNOWN as c_int,
                masked: c_int::from(defaults.masked),
                validate_utf8: c_int::from(defaults.validate_utf8),
                max_fragments: defaults.max_fragments,
                max_payload_size: defaults.max_payload_size,
                max_message_size: defaults.max_message_size,
            });
        }
        AEWS_OK
    }
}

ffi_fn! {
    fn aews_conn_new(config: *const aews_config, out: *mut *mut aews_conn) -> aews_status,
    check(config, out) else AEWS_ERR_NULL,
    {
        // SAFETY: not NULL, so the caller's, and initialised.
        let config = unsafe { &*config };
        let role = match u32::try_from(config.role) {
            Ok(AEWS_ROLE_UNKNOWN) => None,
            Ok(AEWS_ROLE_CLIENT) => Some(Role::Client),
            Ok(AEWS_ROLE_SERVER) => Some(Role::Server),
            _ => return AEWS_ERR_MISUSE,
        };
        let connection = Connection::new(Config {
            role,
            masked: config.masked != 0,
            max_payload_size: config.max_payload_size,
            max_fragments: config.max_fragments,
            max_message_size: config.max_message_size,
            validate_utf8: config.validate_utf8 != 0,
        });
        let conn = Box::new(Conn { connection, error: CString::default() });
        // SAFETY: not NULL, so the caller's to be written.
        unsafe { out.write(Box::into_raw(conn).cast()) };
        AEWS_OK
    }
}

ffi_fn! {
    fn aews_conn_free(conn: *mut aews_conn),
    check(conn),
    {
        // SAFETY: the pointer came from `Box::into_raw` in `aews_conn_new`, and the caller gives up
        // the connection.
        drop(unsafe { Box::from_raw(conn.cast::<Conn>()) });
    }
}

ffi_fn! {
    fn aews_conn_error(conn: *const aews_conn) -> *const c_char,
    check(conn) else c"".as_ptr(),
    {
        // SAFETY: the caller's connection.
        let text: &CStr = unsafe { Conn::from_const_ptr(conn) }.map_or(c"", |conn| &conn.error);
        text.as_ptr()
    }
}

ffi_fn! {
    fn aews_conn_receive(conn: *mut aews_conn, data: *const u8, len: usize) -> aews_status,
    check(conn) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's connection and bytes.
        let (conn, bytes) = unsafe { (Conn::from_ptr(conn), bytes(data, len)) };
        let (Some(conn), Some(bytes)) = (conn, bytes) else {
            return AEWS_ERR_NULL;
        };
        with_conn(conn, |conn| {
            conn.connection.receive(bytes);
            AEWS_OK
        })
    }
}

/// Answers a question about the state of a connection.
macro_rules! state_fn {
    ($name:ident, $method:ident) => {
        ffi_fn! {
            fn $name(conn: *const aews_conn) -> c_int,
            check(conn) else 0,
            {
                // SAFETY: the caller's connection.
                let conn = unsafe { Conn::from_const_ptr(conn) };
                c_int::from(conn.is_some_and(|conn| conn.connection.$method()))
            }
        }
    };
}

state_fn!(aews_conn_is_reading, is_reading);
state_fn!(aews_conn_is_writable, is_writable);
state_fn!(aews_conn_has_input, has_input);
state_fn!(aews_conn_was_clean, was_clean);

ffi_fn! {
    fn aews_conn_buffered(conn: *const aews_conn) -> usize,
    check(conn) else 0,
    {
        // SAFETY: the caller's connection.
        unsafe { Conn::from_const_ptr(conn) }.map_or(0, |conn| conn.connection.buffered())
    }
}

ffi_fn! {
    fn aews_conn_send(
        conn: *mut aews_conn,
        opcode: u8,
        data: *const u8,
        len: usize,
    ) -> aews_status,
    check(conn) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's connection and bytes.
        let (conn, bytes) = unsafe { (Conn::from_ptr(conn), bytes(data, len)) };
        let (Some(conn), Some(bytes)) = (conn, bytes) else {
            return AEWS_ERR_NULL;
        };
        with_conn(conn, |conn| match conn.connection.send(opcode, bytes) {
            Ok(true) => AEWS_OK,
            Ok(false) => AEWS_CLOSED,
            Err(misuse) => conn.misuse(misuse),
        })
    }
}

ffi_fn! {
    fn aews_conn_close(
        conn: *mut aews_conn,
        code: u16,
        reason: *const u8,
        len: usize,
    ) -> aews_status,
    check(conn) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's connection and bytes.
        let (conn, reason) = unsafe { (Conn::from_ptr(conn), bytes(reason, len)) };
        let (Some(conn), Some(reason)) = (conn, reason) else {
            return AEWS_ERR_NULL;
        };
        with_conn(conn, |conn| match conn.connection.close(code, reason) {
            Ok(true) => AEWS_OK,
            Ok(false) => AEWS_CLOSED,
            Err(misuse) => conn.misuse(misuse),
        })
    }
}

ffi_fn! {
    fn aews_conn_fail(conn: *mut aews_conn) -> aews_status,
    check(conn) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's connection.
        let Some(conn) = (unsafe { Conn::from_ptr(conn) }) else {
            return AEWS_ERR_NULL;
        };
        with_conn(conn, |conn| {
            conn.connection.fail(Error::Internal(String::new()));
            AEWS_OK
        })
    }
}

ffi_fn! {
    fn aews_conn_finish(conn: *mut aews_conn) -> aews_status,
    check(conn) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's connection.
        let Some(conn) = (unsafe { Conn::from_ptr(conn) }) else {
            return AEWS_ERR_NULL;
        };
        with_conn(conn, |conn| {
            conn.connection.finish();
            AEWS_OK
        })
    }
}

ffi_fn! {
    fn aews_conn_output(
        conn: *const aews_conn,
        data: *mut *const u8,
        len: *mut usize,
    ) -> aews_status,
    check(conn, data, len) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's connection.
        let output = unsafe { Conn::from_const_ptr(conn) }.map_or(&[][..], |c| c.connection.output());
        // SAFETY: not NULL, so the caller's to be written.
        unsafe {
            data.write(output.as_ptr());
            len.write(output.len());
        }
        AEWS_OK
    }
}

ffi_fn! {
    fn aews_conn_consume_output(conn: *mut aews_conn, len: usize) -> aews_status,
    check(conn) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's connection.
        let Some(conn) = (unsafe { Conn::from_ptr(conn) }) else {
            return AEWS_ERR_NULL;
        };
        with_conn(conn, |conn| {
            let there = conn.connection.output().len();
            if len > there {
                return conn.misuse(format_args!("{len} bytes of output consumed of {there}"));
            }
            conn.connection.consume_output(len);
            AEWS_OK
        })
    }
}

/// The bytes that a pointer and a length stand for; `None` where that is NULL and some.
///
/// # Safety
/// Where the pointer is not NULL there are `len` bytes, and nobody writes them for as long as the
/// slice lives.
pub unsafe fn bytes<'a>(data: *const u8, len: usize) -> Option<&'a [u8]> {
    if len == 0 {
        return Some(&[]);
    }
    // SAFETY: the caller vouches for the bytes.
    (!data.is_null()).then(|| unsafe { slice::from_raw_parts(data, len) })
}
