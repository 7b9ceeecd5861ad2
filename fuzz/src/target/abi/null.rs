//! NULL for every pointer of every function.

use std::{mem, ptr};

use aews::ffi::abi::*;
use aews::ffi::*;

use super::World;
use super::conn::{error_text, state};
use crate::source::Source;

impl World {
    /// NULL where there must be something.
    pub fn null(&mut self, source: &mut Source<'_>, slot: usize) {
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
}
