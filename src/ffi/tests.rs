use std::ffi::CStr;
use std::ptr;

use super::abi::*;
use super::guard::{Conn, with_conn};
use super::*;

/// A connection with the default configuration.
fn conn() -> *mut aews_conn {
    // SAFETY: all pointers are to locals; the configuration is filled in before it is read.
    unsafe {
        let mut config = std::mem::zeroed();
        assert_eq!(aews_config_init(&mut config), AEWS_OK);
        let mut conn = ptr::null_mut();
        assert_eq!(aews_conn_new(&config, &mut conn), AEWS_OK);
        conn
    }
}

#[test]
fn a_panic_fails_its_connection_once_and_the_peer_is_told() {
    let conn = conn();
    // SAFETY: the connection is ours, and the event is written before it is read.
    unsafe {
        let inner = Conn::from_ptr(conn).unwrap();
        assert_eq!(with_conn(inner, |_| panic!("test: {}", 7)), AEWS_ERR_PANIC);
        assert_eq!(CStr::from_ptr(aews_conn_error(conn)), c"internal error: test: 7");

        let mut event = std::mem::zeroed();
        assert_eq!(aews_conn_next_event(conn, &mut event), AEWS_OK);
        assert_eq!((event.kind as u32, event.code), (AEWS_EVENT_FAILED, 1011));
        let text = std::slice::from_raw_parts(event.data, event.len);
        assert_eq!(text, b"internal error: test: 7");
        aews_event_free(&mut event);
        assert_eq!(aews_conn_next_event(conn, &mut event), AEWS_AGAIN);

        let (mut data, mut len) = (ptr::null(), 0);
        assert_eq!(aews_conn_output(conn, &mut data, &mut len), AEWS_OK);
        assert_eq!(std::slice::from_raw_parts(data, len), [0x88, 2, 0x03, 0xF3]);
        assert_eq!(aews_conn_is_writable(conn), 0);
        assert_eq!(aews_conn_is_reading(conn), 0);
        aews_conn_free(conn);
    }
}

#[test]
fn null_is_refused_everywhere() {
    let conn = conn();
    let (null, mut len) = (ptr::null_mut::<u8>(), 0);
    let mut data = ptr::null();
    // SAFETY: NULL is what is tested; the other pointers are to locals or to our connection.
    unsafe {
        let mut event = std::mem::zeroed();
        let mut frame = std::mem::zeroed();
        let config = std::mem::zeroed();
        let nobody = ptr::null_mut();
        let slice = aews_slice { data: null, len: 1 };
        for status in [
            aews_config_init(ptr::null_mut()),
            aews_conn_new(&config, ptr::null_mut()),
            aews_conn_new(ptr::null(), &mut ptr::null_mut()),
            aews_conn_receive(nobody, null, 0),
            aews_conn_receive(conn, null, 1),
            aews_conn_read(nobody, -1, &mut len),
            aews_conn_next_event(nobody, &mut event),
            aews_conn_next_event(conn, ptr::null_mut()),
            aews_conn_send(nobody, 1, null, 0),
            aews_conn_send(conn, 1, null, 1),
            aews_conn_begin_frame(conn, 1, 0, ptr::null_mut()),
            aews_conn_begin_frame(nobody, 1, 0, &mut frame),
            aews_frame_payload(ptr::null(), null, 0, null),
            aews_frame_payload(&frame, null, 1, null),
            aews_frame_payload(&frame, b"x".as_ptr(), 1, null),
            aews_conn_close(nobody, 1000, null, 0),
            aews_conn_close(conn, 1000, null, 1),
            aews_conn_fail(nobody),
            aews_conn_finish(nobody),
            aews_conn_output(nobody, &mut data, &mut len),
            aews_conn_output(conn, ptr::null_mut(), &mut len),
            aews_conn_output(conn, &mut data, ptr::null_mut()),
            aews_conn_consume_output(nobody, 0),
            aews_send(-1, ptr::null(), 0, &mut len),
            aews_send(-1, &slice, 1, &mut len),
            aews_send(-1, &slice, 1, ptr::null_mut()),
        ] {
            assert_eq!(status, AEWS_ERR_NULL);
        }
        for answer in [
            aews_conn_is_reading(nobody),
            aews_conn_is_writable(nobody),
            aews_conn_has_input(nobody),
            aews_conn_was_clean(nobody),
        ] {
            assert_eq!(answer, 0);
        }
        assert_eq!(CStr::from_ptr(aews_conn_error(nobody)), c"");
        assert!(aews_event_take(ptr::null_mut()).is_null());
        aews_block_recycle(ptr::null_mut(), 8);
        aews_event_free(ptr::null_mut());
        aews_conn_free(nobody);
        // Nothing of this has hurt the connection.
        assert_eq!(aews_conn_send(conn, 1, b"x".as_ptr(), 1), AEWS_OK);
        aews_conn_free(conn);
    }
}

#[test]
fn misuse_says_what_it_was() {
    let conn = conn();
    // SAFETY: the connection is ours, and all other pointers are to locals.
    unsafe {
        assert_eq!(aews_conn_close(conn, 1005, ptr::null(), 0), AEWS_ERR_MISUSE);
        assert_eq!(CStr::from_ptr(aews_conn_error(conn)), c"close code 1005 may not be sent");
        assert_eq!(aews_conn_send(conn, 16, ptr::null(), 0), AEWS_ERR_MISUSE);
        assert_eq!(CStr::from_ptr(aews_conn_error(conn)), c"opcode 16 is not between 0 and 15");
        assert_eq!(aews_conn_consume_output(conn, 1), AEWS_ERR_MISUSE);
        let mut sent = 0;
        let slices = [const { aews_slice { data: ptr::null(), len: 0 } }; 4];
        assert_eq!(aews_send(-1, slices.as_ptr(), 4, &mut sent), AEWS_ERR_MISUSE);
        let mut config = std::mem::zeroed();
        aews_config_init(&mut config);
        config.role = 3;
        assert_eq!(aews_conn_new(&config, &mut ptr::null_mut()), AEWS_ERR_MISUSE);
        assert_eq!(aews_conn_is_writable(conn), 1);
        aews_conn_free(conn);
    }
}

#[test]
fn a_block_can_be_taken_out_of_its_event() {
    let conn = conn();
    // SAFETY: the connection is ours, all other pointers are to locals, and the block taken is freed.
    unsafe {
        for byte in [0x82, 3, b'a', b'b', b'c'] {
            aews_conn_receive(conn, &byte, 1);
            let mut event = std::mem::zeroed();
            if aews_conn_next_event(conn, &mut event) == AEWS_OK {
                assert_eq!((event.kind as u32, event.opcode), (AEWS_EVENT_MESSAGE, 2));
                let size = event.size;
                let block = aews_event_take(&mut event);
                assert!(size >= 4);
                assert_eq!(std::slice::from_raw_parts(block, 4), b"abc\0");
                libc::free(block.cast());
                assert!(aews_event_take(&mut event).is_null());
                aews_event_free(&mut event);
                aews_conn_free(conn);
                return;
            }
        }
    }
    panic!("no message came");
}

#[test]
fn a_masked_payload_is_the_xor_of_the_rfc_whatever_its_length() {
    let payload: Vec<u8> = (0..200).map(|i| (i * 7) as u8).collect();
    let key = [0x11, 0x00, 0xA5, 0xFF];
    for len in 0..payload.len() {
        for masked in [0, 1] {
            let frame = aews_frame { header: [0; 14], header_len: 2, masked, key };
            let mut out = vec![0xEE; len + 1];
            // SAFETY: there are `len` bytes of payload, and more room than that.
            let status =
                unsafe { aews_frame_payload(&frame, payload.as_ptr(), len, out.as_mut_ptr()) };
            assert_eq!(status, AEWS_OK);
            for (i, byte) in payload[..len].iter().enumerate() {
                assert_eq!(out[i], if masked == 1 { byte ^ key[i % 4] } else { *byte });
            }
            assert_eq!(out[len], 0xEE, "nothing is written behind the end");
        }
    }
}
