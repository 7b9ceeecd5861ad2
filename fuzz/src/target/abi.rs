//! The functions of `perl/aews.h`, called in any order with anything that the header does not forbid: NULL everywhere,
//! no lengths and odd ones, several connections at once, events kept, taken, freed and recycled in any order, sockets
//! that have ended or never were. Each returns what the header says, what an event holds stays as long as it is
//! promised, and what is to be sent are whole frames. AddressSanitizer looks on.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::{mem, ptr, slice};

use aews::ffi::abi::*;
use aews::ffi::*;

use crate::source::Source;
use crate::wire::{Bytes, CLOSE, FIN, RSV1, decode, mask};

/// How many connections and events there are at a time.
const SLOTS: usize = 4;

/// A connection.
struct Conn {
    conn: *mut aews_conn,
    masked: bool,
    role: c_int,
    /// Nothing has been received or sent.
    fresh: bool,
    deflate: bool,
    /// What has left.
    wire: Vec<u8>,
    /// The header of a frame that nobody could send has been made.
    spoiled: bool,
    failed: bool,
}

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

/// The state of a connection, by all functions that only look at it.
fn state(conn: *const aews_conn) -> [usize; 5] {
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

const WRITABLE: usize = 1;
const HAS_INPUT: usize = 2;

/// What `aews_conn_error` says.
fn error_text(conn: *const aews_conn) -> String {
    // SAFETY: the connection is NULL or alive, and the text is read at once.
    let text = unsafe { CStr::from_ptr(aews_conn_error(conn)) };
    text.to_str().expect("errors are UTF-8").to_owned()
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
            // SAFETY: NULL is refused.
            _ => {
                assert_eq!(unsafe { aews_conn_consume_output(ptr::null_mut(), len) }, AEWS_ERR_NULL)
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

    /// NULL where there must be something.
    fn null(&mut self, source: &mut Source<'_>, slot: usize) {
        let conn = self.conn(slot);
        let before = state(conn);
        let nobody = ptr::null_mut::<aews_conn>();
        let (bytes, none) = (b"x".as_ptr(), ptr::null_mut::<u8>());
        // SAFETY: NULL is what is tried; the other pointers are to locals, or to a connection that is alive.
        unsafe {
            let mut frame = mem::zeroed();
            let mut event = mem::zeroed();
            let mut response = mem::zeroed();
            let deflate = mem::zeroed();
            let (mut data, mut len, mut text) = (ptr::null(), 0, [0; AEWS_EXTENSIONS_LEN as usize]);
            let slice = aews_slice { data: ptr::null(), len: 1 };
            let status = match source.byte() % 28 {
                0 => aews_config_init(ptr::null_mut()),
                1 => aews_conn_new(ptr::null(), &mut ptr::null_mut()),
                2 => aews_conn_receive(conn, none, 1),
                3 => aews_conn_receive(nobody, bytes, 1),
                4 => aews_conn_read(nobody, -1, &mut len),
                5 => aews_conn_next_event(conn, ptr::null_mut()),
                6 => aews_conn_next_event(nobody, &mut event),
                7 => aews_conn_send(conn, 1, none, 1),
                8 => aews_conn_begin_frame(conn, 1, 1, ptr::null_mut()),
                9 => aews_conn_begin_frame(nobody, 1, 1, &mut frame),
                10 => aews_frame_payload(ptr::null(), bytes, 1, none),
                11 => aews_frame_payload(&frame, none, 1, none),
                12 => aews_frame_payload(&frame, bytes, 1, none),
                13 => aews_conn_close(conn, 1000, none, 1),
                14 => aews_conn_close(nobody, 1000, none, 0),
                15 => aews_conn_output(conn, ptr::null_mut(), &mut len),
                16 => aews_conn_output(conn, &mut data, ptr::null_mut()),
                17 => aews_conn_output(nobody, &mut data, &mut len),
                18 => aews_send(-1, ptr::null(), 0, &mut len),
                19 => aews_send(-1, &slice, 1, &mut len),
                20 => aews_send(-1, &slice, 1, ptr::null_mut()),
                21 => aews_random(none, 1),
                22 => aews_response_parse(none, 1, &mut response),
                23 => aews_request_read(bytes, 1, ptr::null_mut()),
                24 => aews_deflate_init(ptr::null_mut()),
                25 => aews_deflate_offer(ptr::null(), text.as_mut_ptr()),
                26 => aews_deflate_answer(ptr::null(), 1, &deflate, text.as_mut_ptr()),
                _ => aews_conn_use_extensions(conn, ptr::null(), 1, &deflate),
            };
            assert_eq!(status, AEWS_ERR_NULL, "NULL");
            assert_eq!(state(nobody), [0; 5], "no connection has a state");
            assert_eq!(aews_conn_frame_kind(nobody, 1, 1), 0);
            assert!(aews_event_take(ptr::null_mut()).is_null());
            aews_event_free(ptr::null_mut());
            aews_block_recycle(none, 8);
        }
        assert_eq!(state(conn), before, "NULL has changed the connection");
        assert_eq!(error_text(nobody), "");
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

/// Takes up to `len` bytes of the output; more than there are is refused.
fn take_output(conn: &mut Conn, len: usize) {
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
fn check_wire(conn: &Conn) {
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

/// A wish, and whether it can be.
pub fn wish(source: &mut Source<'_>) -> (aews_deflate, bool) {
    // SAFETY: all-zero is a valid wish as far as memory goes, and it is filled in at once.
    let mut wish: aews_deflate = unsafe { mem::zeroed() };
    // SAFETY: the wish is a local.
    assert_eq!(unsafe { aews_deflate_init(&mut wish) }, AEWS_OK);
    let bits = source.byte();
    if bits & 1 != 0 {
        let mut number = || c_int::from(source.byte() as i8 % 20);
        wish.server_max_window_bits = number();
        wish.client_max_window_bits = number();
        wish.level = number();
    }
    wish.threshold = usize::from(bits >> 4);
    wish.server_no_context_takeover = c_int::from(bits & 2);
    wish.client_no_context_takeover = c_int::from(bits & 4);
    let windows = [wish.server_max_window_bits, wish.client_max_window_bits];
    let valid = windows.iter().all(|bits| (8..=15).contains(bits)) && (0..=9).contains(&wish.level);
    (wish, valid)
}

/// What has no connection.
fn texts(source: &mut Source<'_>) {
    let (wish, valid) = wish(source);
    let offer = source.payload();
    // SAFETY: all pointers are to locals.
    unsafe {
        let mut text = [0x55; AEWS_EXTENSIONS_LEN as usize];
        let status = aews_deflate_offer(&wish, text.as_mut_ptr());
        assert_eq!(status, if valid { AEWS_OK } else { AEWS_ERR_MISUSE }, "offer");
        if valid {
            let offer = CStr::from_ptr(text.as_ptr()).to_str().expect("an offer in UTF-8");
            assert!(offer.starts_with("permessage-deflate; "), "{offer}");
        }
        let mut text = [0x55; AEWS_EXTENSIONS_LEN as usize];
        let status =
            aews_deflate_answer(offer.as_ptr().cast(), offer.len(), &wish, text.as_mut_ptr());
        let documented =
            if valid { [AEWS_OK, AEWS_AGAIN, AEWS_ERR_MALFORMED] } else { [AEWS_ERR_MISUSE; 3] };
        assert!(documented.contains(&status), "answer: {status}");
        if status == AEWS_OK || status == AEWS_ERR_MALFORMED {
            let text = CStr::from_ptr(text.as_ptr()).to_str().expect("an answer in UTF-8");
            assert!(!text.is_empty());
        }
        let mut random = [0; 8];
        assert_eq!(aews_random(random.as_mut_ptr(), random.len()), AEWS_OK);
        assert_eq!(aews_abi_version(), AEWS_ABI_VERSION);
        assert_eq!(aews_process_generation(), aews_process_generation());
    }
}
