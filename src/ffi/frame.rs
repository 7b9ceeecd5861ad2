//! Frames that the caller sends: `aews_conn_begin_frame`, `aews_frame_payload`.

use super::abi::*;
use super::conn::bytes;
use super::guard::{Conn, ffi_fn, with_conn};
use crate::connection::{Begun, FrameKind};
use crate::frame::MaskKey;

ffi_fn! {
    fn aews_conn_begin_frame(
        conn: *mut aews_conn,
        opcode: u8,
        len: usize,
        frame: *mut aews_frame,
    ) -> aews_status,
    check(conn, frame) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's connection.
        let Some(conn) = (unsafe { Conn::from_ptr(conn) }) else {
            return AEWS_ERR_NULL;
        };
        with_conn(conn, |conn| match conn.connection.begin_frame(opcode, len) {
            Ok(Begun::Frame(start)) => {
                let bytes = start.header.as_ref();
                let mut header = [0; 14];
                header[..bytes.len()].copy_from_slice(bytes);
                let started = aews_frame {
                    header,
                    header_len: bytes.len() as u8,
                    masked: u8::from(start.key.is_some()),
                    key: start.key.map_or([0; 4], |key| key.0),
                };
                // SAFETY: not NULL, so the caller's to be written.
                unsafe { frame.write(started) };
                AEWS_OK
            }
            Ok(Begun::Compressed) => AEWS_WHOLE,
            Ok(Begun::Closed) => AEWS_CLOSED,
            Err(misuse) => conn.misuse(misuse),
        })
    }
}

ffi_fn! {
    fn aews_conn_frame_kind(conn: *const aews_conn, opcode: u8, len: usize) -> u32,
    check(conn) else 0,
    {
        // SAFETY: the caller's connection.
        let conn = unsafe { Conn::from_const_ptr(conn) };
        match conn.and_then(|conn| conn.connection.frame_kind(opcode, len)) {
            None => 0,
            Some(FrameKind::Plain) => 1,
            Some(FrameKind::Compressed(way)) => 0x100 | u32::from(way),
        }
    }
}

ffi_fn! {
    fn aews_frame_payload(
        frame: *const aews_frame,
        data: *const u8,
        len: usize,
        out: *mut u8,
    ) -> aews_status,
    check(frame) else AEWS_ERR_NULL,
    {
        // SAFETY: not NULL, so the caller's frame and bytes.
        let (frame, payload) = unsafe { (&*frame, bytes(data, len)) };
        let Some(payload) = payload else {
            return AEWS_ERR_NULL;
        };
        if len == 0 {
            return AEWS_OK;
        }
        if out.is_null() {
            return AEWS_ERR_NULL;
        }
        if frame.masked == 0 {
            // SAFETY: the caller has room for `len` bytes at `out`, apart from the payload.
            unsafe { out.copy_from_nonoverlapping(payload.as_ptr(), len) };
        } else {
            // SAFETY: as above.
            let out = unsafe { std::slice::from_raw_parts_mut(out.cast(), len) };
            MaskKey(frame.key).copy(payload, out);
        }
        AEWS_OK
    }
}
