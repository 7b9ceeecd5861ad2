//! The functions of `perl/aews.h`, called in any order with anything that the header does not forbid: NULL everywhere,
//! no lengths and odd ones, several connections at once, events kept, taken, freed and recycled in any order, sockets
//! that have ended or never were. Each returns what the header says, what an event holds stays as long as it is
//! promised, and what is to be sent are whole frames. AddressSanitizer looks on.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::{mem, ptr, slice};

use aews::ffi::abi::*;
use aews::ffi::*;

use crate::source::Source;
use crate::wire::{Bytes, CLOSE, mask};

mod conn;
mod null;
mod texts;

use conn::{Conn, HAS_INPUT, WRITABLE, check_wire, error_text, state, take_output};
use texts::{texts, wish};

/// How many connections and events there are at a time.
const SLOTS: usize = 4;

/// An event that is kept, with a copy of what it held.
struct Kept {
    event: aews_event,
    held: Bytes,
}

struct World {
    conns: [Option<Conn>; SLOTS],
    events: [Option<Kept>; SLOTS],
    /// Blocks taken out of events, with their sizes.
    blocks: Vec<(*mut u8, usize, Bytes)>,
    ours: UnixStream,
    theirs: UnixStream,
}

/// The input: calls.
pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    for socket in [&ours, &theirs] {
        socket.set_nonblocking(true).expect("a socket that does not block");
    }
    let mut world = World {
        conns: Default::default(),
        events: Default::default(),
        blocks: vec![],
        ours,
        theirs,
    };
    while !source.is_done() {
        world.call(&mut source);
    }
    world.end();
}

impl World {
    fn call(&mut self, source: &mut Source<'_>) {
        let (what, at) = (source.byte(), usize::from(source.byte()));
        let slot = at % (SLOTS + 1);
        match what % 16 {
            0 => self.new_conn(source, slot % SLOTS),
            1 => self.free(slot % SLOTS),
            2 => self.receive(source, slot),
            3 => self.read(source, slot),
            4 | 5 => self.next_event(slot, (at / 8) % SLOTS),
            6 => self.end_event(source, slot % SLOTS),
            7 => self.send(source, slot),
            8 => self.begin_frame(source, slot),
            9 => self.close(source, slot),
            10 => self.change(source, slot),
            11 => self.output(source, slot),
            12 => self.use_extensions(source, slot),
            13 => self.send_slices(source),
            14 => self.null(source, slot),
            _ => texts(source),
        }
    }

    /// The connection in a slot, or NULL.
    fn conn(&self, slot: usize) -> *mut aews_conn {
        match self.conns.get(slot) {
            Some(Some(conn)) => conn.conn,
            _ => ptr::null_mut(),
        }
    }

    /// Runs a call that gives a status, which has to be `expected`. NULL for a connection is refused.
    fn expect(
        &self,
        slot: usize,
        expected: impl FnOnce([usize; 5]) -> aews_status,
        call: impl FnOnce(*mut aews_conn) -> aews_status,
    ) -> aews_status {
        let conn = self.conn(slot);
        let expected = if conn.is_null() { AEWS_ERR_NULL } else { expected(state(conn)) };
        let status = call(conn);
        assert_eq!(status, expected, "status of a call (conn: {conn:?})");
        if status == AEWS_ERR_MISUSE {
            assert!(!error_text(conn).is_empty(), "misuse without a text");
        }
        status
    }

    fn new_conn(&mut self, source: &mut Source<'_>, slot: usize) {
        self.free(slot);
        let bits = source.byte();
        let mut limit = || u64::from(source.number()) * if bits & 32 == 0 { 1 } else { 256 };
        let role = c_int::from(bits & 3);
        let mut conn = ptr::null_mut();
        // SAFETY: all pointers are to locals; the configuration is filled in before it is read.
        let status = unsafe {
            let mut config = mem::zeroed();
            assert_eq!(aews_config_init(&mut config), AEWS_OK);
            config.role = role;
            config.masked = c_int::from(bits & 4);
            config.validate_utf8 = c_int::from(bits & 8);
            if bits & 16 != 0 {
                config.max_payload_size = limit();
                config.max_fragments = limit() as u32;
                config.max_message_size = limit();
            }
            aews_conn_new(&config, &mut conn)
        };
        if role == 3 {
            assert_eq!(status, AEWS_ERR_MISUSE, "a role that is none");
            return;
        }
        assert!(status == AEWS_OK && !conn.is_null());
        assert_eq!(state(conn), [1, 1, 0, 0, 0], "a fresh connection");
        assert_eq!(error_text(conn), "");
        self.conns[slot] = Some(Conn {
            conn,
            masked: bits & 4 != 0,
            role,
            fresh: true,
            deflate: false,
            wire: vec![],
            spoiled: false,
            failed: false,
        });
    }

    fn free(&mut self, slot: usize) {
        let conn = self.conns[slot].take();
        if let Some(mut conn) = conn {
            take_output(&mut conn, usize::MAX);
            check_wire(&conn);
            // SAFETY: the connection is alive, and nobody has it any more.
            unsafe { aews_conn_free(conn.conn) };
        } else {
            // SAFETY: NULL is fine.
            unsafe { aews_conn_free(ptr::null_mut()) };
        }
    }

    /// Notes that something was received or sent, and whether what an event borrowed is gone.
    fn touch(&mut self, slot: usize) {
        if let Some(Some(conn)) = self.conns.get_mut(slot) {
            conn.fresh = false;
        }
    }

    fn receive(&mut self, source: &mut Source<'_>, slot: usize) {
        let bytes = arriving(source);
        self.touch(slot);
        // SAFETY: the connection is NULL or alive, and the bytes are there.
        let call = |conn| unsafe { aews_conn_receive(conn, bytes.as_ptr(), bytes.len()) };
        self.expect(slot, |_| AEWS_OK, call);
    }

    fn read(&mut self, source: &mut Source<'_>, slot: usize) {
        let (bits, bytes) = (source.byte(), arriving(source));
        self.touch(slot);
        let mut received = usize::MAX;
        let to = if bits & 1 == 0 { &raw mut received } else { ptr::null_mut() };
        // SAFETY: the connection is NULL or alive, and the count is NULL or to a local.
        let read = |conn, fd| unsafe { aews_conn_read(conn, fd, to) };
        match bits >> 1 & 7 {
            0 => {
                self.expect(slot, |_| AEWS_ERR_IO, |conn| read(conn, -1));
            }
            1 => {
                let (ours, _) = UnixStream::pair().expect("a pair of sockets");
                self.expect(slot, |_| AEWS_EOF, |conn| read(conn, ours.as_raw_fd()));
                assert!(bits & 1 == 1 || self.conn(slot).is_null() || received == 0);
            }
            _ => {
                let mut left = if self.conn(slot).is_null() {
                    0
                } else {
                    self.theirs.write(&bytes).unwrap_or(0)
                };
                let fd = self.ours.as_raw_fd();
                while left > 0 {
                    let status = read(self.conn(slot), fd);
                    assert!(status == AEWS_OK || status == AEWS_MORE, "read: {status}");
                    if bits & 1 != 0 {
                        // Nobody has told how much that was.
                        while read(self.conn(slot), fd) != AEWS_AGAIN {}
                        break;
                    }
                    assert!(received > 0 && received <= left, "{received} of {left} received");
                    left -= received;
                }
                self.expect(slot, |_| AEWS_AGAIN, |conn| read(conn, fd));
            }
        }
    }

    fn next_event(&mut self, slot: usize, to: usize) {
        self.free_event(to);
        let conn = self.conn(slot);
        let before = state(conn);
        // SAFETY: all-zero is a valid event.
        let mut event: aews_event = unsafe { mem::zeroed() };
        // SAFETY: the connection is NULL or alive, and the event is a local.
        let status = unsafe { aews_conn_next_event(conn, &mut event) };
        if conn.is_null() {
            assert_eq!(status, AEWS_ERR_NULL);
            return;
        }
        if status == AEWS_AGAIN {
            assert_eq!(state(conn)[HAS_INPUT], 0, "input left where no event is");
            return;
        }
        assert_eq!((status, before[HAS_INPUT]), (AEWS_OK, 1), "status, and input before");
        let held = held(&event);
        // It stays through all calls that only look.
        let after = state(conn);
        assert_eq!(self::held(&event), held);
        let Some(Some(known)) = self.conns.get_mut(slot) else { unreachable!("it is not NULL") };
        assert!(!known.failed, "an event after the failure");
        let text = std::str::from_utf8(&held.0);
        let (code, opcode) = (event.code, event.opcode);
        match event.kind as aews_event_kind {
            AEWS_EVENT_MESSAGE => assert!(code == 0 && (opcode == 1 || opcode == 2)),
            AEWS_EVENT_PING | AEWS_EVENT_PONG => {
                assert!(code == 0 && opcode == 0 && held.0.len() <= 125);
            }
            AEWS_EVENT_CLOSE => {
                assert!((-1..=65_535).contains(&code) && opcode == 0 && text.is_ok());
                assert_eq!((after[0], after[WRITABLE]), (0, 0), "after Close");
            }
            AEWS_EVENT_FAILED => {
                assert!(matches!(code, 1002 | 1007 | 1009 | 1011) && text.is_ok());
                assert!(after[..4] == [0; 4], "{after:?} after the failure");
                known.failed = true;
            }
            kind => panic!("an event of kind {kind}"),
        }
        if event.size == 0 {
            // What is borrowed is not kept: ending it is all that may be done with it later.
            event.data = ptr::null_mut();
            event.len = 0;
        } else {
            assert!(event.size >= event.len + 2, "{} bytes for {}", event.size, event.len);
            // SAFETY: the block has more than `len` bytes.
            assert_eq!(unsafe { *event.data.add(event.len) }, 0, "behind the last byte");
        }
        self.events[to] = Some(Kept { event, held });
    }

    /// Ends an event: frees it, takes its block, or gives one back that was taken before.
    fn end_event(&mut self, source: &mut Source<'_>, at: usize) {
        let what = source.byte();
        if what & 3 == 3 {
            let Some((block, size, held)) = self.blocks.pop() else {
                return;
            };
            // SAFETY: the block was taken from an event, and holds what the event did; it is given up.
            unsafe {
                assert!(slice::from_raw_parts(block, held.0.len()) == held.0, "a block changed");
                block.write_bytes(0xEE, size);
                if what & 4 == 0 {
                    libc::free(block.cast());
                } else {
                    aews_block_recycle(block, size);
                }
            }
            return;
        }
        let Some(kept) = &mut self.events[at] else {
            return;
        };
        if what & 1 == 0 {
            self.free_event(at);
            return;
        }
        let size = kept.event.size;
        // SAFETY: the event is the caller's.
        let block = unsafe { aews_event_take(&mut kept.event) };
        assert_eq!(block.is_null(), size == 0, "a block where there is a size");
        assert!(kept.event.data.is_null() && kept.event.len == 0 && kept.event.size == 0);
        if !block.is_null() {
            self.blocks.push((block, size, mem::take(&mut kept.held)));
        }
    }

    /// Frees an event, twice, which is fine.
    fn free_event(&mut self, at: usize) {
        let Some(mut kept) = self.events[at].take() else {
            return;
        };
        if kept.event.size != 0 {
            assert_eq!(held(&kept.event), kept.held, "an event changed");
        }
        for _ in 0..2 {
            // SAFETY: the event is the caller's.
            unsafe { aews_event_free(&mut kept.event) };
            assert!(kept.event.data.is_null() && kept.event.len == 0 && kept.event.size == 0);
        }
    }

    fn send(&mut self, source: &mut Source<'_>, slot: usize) {
        let (opcode, payload) = (source.byte() % 18, source.payload());
        self.touch(slot);
        let expected = |state: [usize; 5]| match opcode {
            16.. => AEWS_ERR_MISUSE,
            _ if state[WRITABLE] == 0 => AEWS_CLOSED,
            _ => AEWS_OK,
        };
        let data = if payload.is_empty() { ptr::null() } else { payload.as_ptr() };
        // SAFETY: the connection is NULL or alive, and the bytes are there.
        let call = |conn| unsafe { aews_conn_send(conn, opcode, data, payload.len()) };
        let status = self.expect(slot, expected, call);
        if status == AEWS_OK && opcode == CLOSE {
            assert_eq!(state(self.conn(slot))[WRITABLE], 0, "after a Close frame");
        }
    }

    fn begin_frame(&mut self, source: &mut Source<'_>, slot: usize) {
        let (opcode, huge, payload) = (source.byte() % 18, source.byte(), source.payload());
        self.touch(slot);
        let len = match huge {
            255 => usize::MAX,
            254 => 1 << 40,
            _ => payload.len(),
        };
        let conn = self.conn(slot);
        // SAFETY: the connection is NULL or alive.
        let kind = unsafe { aews_conn_frame_kind(conn, opcode, len) };
        let before = state(conn);
        // SAFETY: all-zero is a valid frame.
        let mut frame: aews_frame = unsafe { mem::zeroed() };
        // SAFETY: the connection is NULL or alive, and the frame is a local.
        let status = unsafe { aews_conn_begin_frame(conn, opcode, len, &mut frame) };
        let expected = match opcode {
            _ if conn.is_null() => AEWS_ERR_NULL,
            16.. => AEWS_ERR_MISUSE,
            _ if before[WRITABLE] == 0 => AEWS_CLOSED,
            _ if status == AEWS_WHOLE => AEWS_WHOLE,
            _ => AEWS_OK,
        };
        assert_eq!(status, expected, "begin_frame");
        let Some(Some(known)) = self.conns.get_mut(slot) else {
            assert_eq!(kind, 0, "a kind of frame without a connection");
            return;
        };
        let own = known.masked || opcode == CLOSE || expected < 0 || expected == AEWS_CLOSED;
        assert!(kind == 0 || !own, "kind {kind} of a frame that is the connection's own");
        if status == AEWS_WHOLE {
            assert!(known.deflate && (opcode == 1 || opcode == 2) && len > 0);
            return;
        }
        assert!(kind < 0x100 || status != AEWS_OK, "kind {kind} of a plain frame");
        if status != AEWS_OK {
            return;
        }
        if len != payload.len() {
            known.spoiled = true;
            return;
        }
        take_output(known, usize::MAX);
        assert_eq!(frame.masked != 0, known.masked);
        known.wire.extend(&frame.header[..frame.header_len.into()]);
        let mut out = vec![0xEE; len + 1];
        // SAFETY: there are `len` bytes, and there is room for one more.
        let status = unsafe { aews_frame_payload(&frame, payload.as_ptr(), len, out.as_mut_ptr()) };
        assert_eq!((status, out.pop()), (AEWS_OK, Some(0xEE)));
        assert!(out == mask(known.masked.then_some(frame.key), &payload), "a payload masked");
        known.wire.extend(out);
    }

    fn close(&mut self, source: &mut Source<'_>, slot: usize) {
        let (code, reason) = (source.number(), source.payload());
        self.touch(slot);
        let valid = crate::seen::is_sendable(code)
            && reason.len() <= 123
            && std::str::from_utf8(&reason).is_ok();
        let expected = |state: [usize; 5]| match (valid, state[WRITABLE]) {
            (false, _) => AEWS_ERR_MISUSE,
            (true, 0) => AEWS_CLOSED,
            (true, _) => AEWS_OK,
        };
        // SAFETY: the connection is NULL or alive, and the bytes are there.
        let call = |conn| unsafe { aews_conn_close(conn, code, reason.as_ptr(), reason.len()) };
        self.expect(slot, expected, call);
        if valid && !self.conn(slot).is_null() {
            assert_eq!(state(self.conn(slot))[WRITABLE], 0, "after a Close frame");
        }
    }

    /// What changes a connection and cannot fail.
    fn change(&mut self, source: &mut Source<'_>, slot: usize) {
        let what = source.byte() % 3;
        self.touch(slot);
        let call = |conn| {
            // SAFETY: the connection is NULL or alive.
            unsafe {
                match what {
                    0 => aews_conn_fail(conn),
                    1 => aews_conn_finish(conn),
                    _ => aews_conn_release_compressor(conn),
                }
            }
        };
        let status = self.expect(slot, |_| AEWS_OK, call);
        if status == AEWS_OK && what < 2 {
            let state = state(self.conn(slot));
            assert_eq!((state[0], state[WRITABLE], state[4]), (0, 0, 0), "after the end");
        }
    }

    fn output(&mut self, source: &mut Source<'_>, slot: usize) {
        let len = usize::from(source.byte());
        let len = if len == 255 { usize::MAX } else { len };
        match self.conns.get_mut(slot) {
            Some(Some(conn)) => take_output(conn, len),
            _ => {
                // SAFETY: NULL is refused.
                let status = unsafe { aews_conn_consume_output(ptr::null_mut(), len) };
                assert_eq!(status, AEWS_ERR_NULL);
            }
        }
    }

    fn use_extensions(&mut self, source: &mut Source<'_>, slot: usize) {
        let (wish, valid) = wish(source);
        let text = if source.flag() {
            String::from_utf8_lossy(&source.payload()).into_owned()
        } else {
            "permessage-deflate".to_owned()
        };
        let Some(Some(conn)) = self.conns.get_mut(slot) else {
            return;
        };
        if !conn.fresh {
            return;
        }
        // SAFETY: the connection is alive, and so are the text and the wish.
        let status =
            unsafe { aews_conn_use_extensions(conn.conn, text.as_ptr().cast(), text.len(), &wish) };
        let ok = valid && conn.role != 0;
        assert!(ok || status == AEWS_ERR_MISUSE, "use_extensions: {status}");
        assert!(matches!(status, AEWS_OK | AEWS_AGAIN | AEWS_ERR_MISUSE), "{status}");
        if status == AEWS_ERR_MISUSE {
            assert!(!error_text(conn.conn).is_empty(), "misuse without a text");
        }
        conn.deflate |= status == AEWS_OK;
        conn.fresh &= status != AEWS_OK;
    }

    fn send_slices(&mut self, source: &mut Source<'_>) {
        let (count, bits) = (usize::from(source.byte() % 5), source.byte());
        let payloads: [Vec<u8>; 4] = std::array::from_fn(|_| source.payload());
        let slices = payloads.each_ref().map(|p| aews_slice { data: p.as_ptr(), len: p.len() });
        let fd = if bits & 7 == 7 { -1 } else { self.ours.as_raw_fd() };
        let mut sent = usize::MAX;
        // SAFETY: there are four slices, of bytes that are there.
        let status = unsafe { aews_send(fd, slices.as_ptr(), count, &mut sent) };
        if count > 3 {
            assert_eq!(status, AEWS_ERR_MISUSE, "four slices");
            return;
        }
        if fd == -1 {
            assert_eq!(status, AEWS_ERR_IO, "no descriptor");
            return;
        }
        assert_eq!(status, AEWS_OK, "an empty socket takes something");
        let all = payloads[..count].concat();
        assert!(sent <= all.len() && (sent > 0 || all.is_empty()), "{sent} sent");
        let mut arrived = vec![];
        let end = self.theirs.read_to_end(&mut arrived).expect_err("it has not ended");
        assert_eq!(end.kind(), ErrorKind::WouldBlock);
        assert!(arrived == all[..sent], "what was sent arrives");
    }

    /// Ends all that is left: connections first where events outlive them.
    fn end(mut self) {
        for slot in 0..SLOTS {
            self.free(slot);
        }
        for at in 0..SLOTS {
            self.free_event(at);
        }
        for (block, _, held) in self.blocks.drain(..) {
            // SAFETY: the block was taken from an event, holds what the event did, and is given up.
            unsafe {
                assert!(slice::from_raw_parts(block, held.0.len()) == held.0, "a block changed");
                libc::free(block.cast());
            }
        }
    }
}

/// Bytes of the peer's: as they are, or what is described.
fn arriving(source: &mut Source<'_>) -> Vec<u8> {
    let kind = source.byte();
    let bytes = source.bytes(usize::from(kind >> 1));
    match kind & 1 {
        0 => bytes.to_vec(),
        _ => super::decoder::frames(&mut Source::new(bytes)),
    }
}

/// What an event holds.
fn held(event: &aews_event) -> Bytes {
    if event.len == 0 {
        return Bytes::default();
    }
    // SAFETY: an event that has not ended has `len` bytes.
    unsafe { slice::from_raw_parts(event.data, event.len) }.into()
}
