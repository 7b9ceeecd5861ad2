//! Events: `aews_conn_next_event`, `aews_event_*`.

use std::borrow::Cow;
use std::ffi::c_int;
use std::ptr::{self, NonNull};

use super::abi::*;
use super::guard::{Conn, ffi_fn, with_conn};
use crate::block::Block;
use crate::connection::{Event, Payload};

ffi_fn! {
    fn aews_conn_next_event(conn: *mut aews_conn, event: *mut aews_event) -> aews_status,
    check(conn, event) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's connection.
        let Some(conn) = (unsafe { Conn::from_ptr(conn) }) else {
            return AEWS_ERR_NULL;
        };
        with_conn(conn, |conn| match conn.connection.next_event() {
            Some(next) => {
                // SAFETY: not NULL, so the caller's to be written.
                unsafe { event.write(to_c(next)) };
                AEWS_OK
            }
            None => AEWS_AGAIN,
        })
    }
}

ffi_fn! {
    fn aews_event_take(event: *mut aews_event) -> *mut u8,
    check(event) else ptr::null_mut(),
    {
        // SAFETY: not NULL, so the caller's event.
        let event = unsafe { &mut *event };
        let owned = event.size != 0;
        let data = if owned { event.data } else { ptr::null_mut() };
        *event = aews_event { data: ptr::null_mut(), len: 0, size: 0, ..*event };
        data
    }
}

ffi_fn! {
    fn aews_event_free(event: *mut aews_event),
    check(event),
    {
        // SAFETY: not NULL, so the caller's event.
        let event = unsafe { &mut *event };
        if let (Some(data), true) = (NonNull::new(event.data), event.size != 0) {
            // SAFETY: an event with a size owns the parts of the block that `to_c` took apart.
            drop(unsafe { Block::from_raw(data, event.len, event.size) });
        }
        *event = aews_event { data: ptr::null_mut(), len: 0, size: 0, ..*event };
    }
}

ffi_fn! {
    fn aews_block_recycle(block: *mut u8, size: usize),
    check(block),
    {
        if let (Some(block), true) = (NonNull::new(block), size != 0) {
            // SAFETY: the caller took the block from an event and gives it up.
            unsafe { Block::from_raw(block, 0, size) }.recycle();
        }
    }
}

fn to_c(event: Event<'_>) -> aews_event {
    let (kind, opcode, code, payload) = match event {
        Event::Message { opcode, payload } => (AEWS_EVENT_MESSAGE, opcode.number(), 0, payload),
        Event::Ping(body) => (AEWS_EVENT_PING, 0, 0, Payload::Borrowed(body)),
        Event::Pong(body) => (AEWS_EVENT_PONG, 0, 0, Payload::Borrowed(body)),
        Event::Close(close) => {
            let reason = match close.reason {
                Cow::Borrowed(reason) => Payload::Borrowed(reason.as_bytes()),
                Cow::Owned(reason) => Payload::Block(copy(reason.as_bytes())),
            };
            (AEWS_EVENT_CLOSE, 0, close.code.map_or(-1, i32::from), reason)
        }
        Event::Failed(error) => {
            let text = Payload::Block(copy(error.to_string().as_bytes()));
            (AEWS_EVENT_FAILED, 0, i32::from(error.close_code()), text)
        }
    };
    let (data, len, size) = match payload {
        Payload::Borrowed(bytes) => (bytes.as_ptr().cast_mut(), bytes.len(), 0),
        Payload::Block(block) => {
            let (data, len, size) = block.into_raw();
            (data.as_ptr(), len, size)
        }
    };
    aews_event { kind: kind as c_int, opcode, code, data, len, size }
}

fn copy(bytes: &[u8]) -> Block {
    let mut block = Block::new();
    block.extend(bytes, bytes.len());
    block
}
