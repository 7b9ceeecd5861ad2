//! A panic, or memory that cannot be had, fails one connection, and no other notices (`perl/aews.h`).

use std::ffi::CStr;
use std::os::fd::AsRawFd;
use std::panic::panic_any;
use std::ptr;

use super::abi::*;
use super::guard::{Conn, with_conn, without_conn};
use super::*;
use crate::connection::tests::wire::*;

/// A connection that is freed in the end.
struct Owned(*mut aews_conn);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: it came from `aews_conn_new`, and nobody else has it.
        unsafe { aews_conn_free(self.0) };
    }
}

impl Owned {
    fn new(role: u32, masked: bool) -> Owned {
        // SAFETY: all pointers are to locals; the configuration is filled in before it is read.
        unsafe {
            let mut config = std::mem::zeroed();
            assert_eq!(aews_config_init(&mut config), AEWS_OK);
            (config.role, config.masked) = (role as i32, masked.into());
            (config.max_payload_size, config.max_fragments) = (0, 0);
            let mut conn = ptr::null_mut();
            assert_eq!(aews_conn_new(&config, &mut conn), AEWS_OK);
            Owned(conn)
        }
    }

    /// One for which permessage-deflate is agreed upon.
    fn deflating(role: u32) -> Owned {
        let conn = Owned::new(role, false);
        let agreed = b"permessage-deflate";
        // SAFETY: the connection is ours, and the wish is filled in before it is read.
        unsafe {
            let mut wish = std::mem::zeroed();
            assert_eq!(aews_deflate_init(&mut wish), AEWS_OK);
            let (text, len) = (agreed.as_ptr().cast(), agreed.len());
            assert_eq!(aews_conn_use_extensions(conn.0, text, len, &wish), AEWS_OK);
        }
        conn
    }

    fn receive(&self, bytes: &[u8]) -> aews_status {
        // SAFETY: the connection and the bytes are ours.
        unsafe { aews_conn_receive(self.0, bytes.as_ptr(), bytes.len()) }
    }

    fn send(&self, opcode: u8, payload: &[u8]) -> aews_status {
        // SAFETY: the connection and the bytes are ours.
        unsafe { aews_conn_send(self.0, opcode, payload.as_ptr(), payload.len()) }
    }

    fn close(&self) -> aews_status {
        // SAFETY: the connection is ours.
        unsafe { aews_conn_close(self.0, 1000, ptr::null(), 0) }
    }

    /// The next event: its kind, its opcode or code, and its bytes; or the status where there is none.
    fn next(&self) -> Result<(u32, i32, Vec<u8>), aews_status> {
        // SAFETY: the connection is ours, and the event is written before it is read.
        unsafe {
            let mut event = std::mem::zeroed();
            let status = aews_conn_next_event(self.0, &mut event);
            if status != AEWS_OK {
                return Err(status);
            }
            let (kind, opcode) = (event.kind as u32, i32::from(event.opcode));
            let bytes = match event.len {
                0 => vec![],
                len => std::slice::from_raw_parts(event.data, len).to_vec(),
            };
            let detail = if kind == AEWS_EVENT_MESSAGE { opcode } else { event.code };
            aews_event_free(&mut event);
            Ok((kind, detail, bytes))
        }
    }

    fn output(&self) -> Vec<u8> {
        // SAFETY: the connection is ours; what it tells is copied before the next call.
        unsafe {
            let (mut data, mut len) = (ptr::null(), 0);
            assert_eq!(aews_conn_output(self.0, &mut data, &mut len), AEWS_OK);
            if len == 0 { vec![] } else { std::slice::from_raw_parts(data, len).to_vec() }
        }
    }

    fn is_writable(&self) -> bool {
        // SAFETY: the connection is ours.
        unsafe { aews_conn_is_writable(self.0) == 1 }
    }

    fn error(&self) -> String {
        // SAFETY: the connection is ours, and the text is copied before the next call.
        unsafe { CStr::from_ptr(aews_conn_error(self.0)) }.to_str().unwrap().to_owned()
    }

    /// Panics inside of a call with this connection.
    fn panic(&self, panic: fn()) -> aews_status {
        // SAFETY: the connection is ours.
        let conn = unsafe { Conn::from_ptr(self.0) }.unwrap();
        with_conn(conn, |_| {
            panic();
            AEWS_OK
        })
    }

    /// It has failed: this is told once, and nothing comes or goes any more.
    fn assert_failed(&self, text: &str, what: &str) {
        assert_eq!(self.error(), text, "{what}");
        assert_eq!(self.next(), Ok((AEWS_EVENT_FAILED, 1011, text.into())), "{what}");
        assert_eq!(self.next(), Err(AEWS_AGAIN), "{what}: nothing follows");
        assert_eq!(self.receive(&frame(FIN | TEXT, KEY, "late")), AEWS_OK);
        assert_eq!(self.next(), Err(AEWS_AGAIN), "{what}: nor what comes later");
        let output = self.output();
        assert_eq!((self.send(TEXT, b"x"), self.close()), (AEWS_CLOSED, AEWS_CLOSED), "{what}");
        assert_eq!(self.output(), output, "{what}: nothing is sent");
        // SAFETY: the connection is ours.
        let state = unsafe {
            let conn = self.0;
            [
                aews_conn_is_reading(conn),
                aews_conn_is_writable(conn),
                aews_conn_has_input(conn),
                aews_conn_was_clean(conn),
                aews_conn_buffered(conn) as i32,
            ]
        };
        assert_eq!(state, [0; 5], "{what}");
    }
}

/// What a connection may be in the middle of.
type State = (&'static str, fn(&Owned));

const STATES: [State; 12] = [
    ("nothing has happened", |_| {}),
    ("a header has come in part", |conn| {
        conn.receive(&[0x82]);
        conn.next().unwrap_err();
    }),
    ("a header has come", |conn| {
        conn.receive(&header(FIN | BINARY, KEY, 1 << 30));
        conn.next().unwrap_err();
    }),
    ("a large frame has come in part", |conn| {
        conn.receive(&frame(FIN | BINARY, KEY, [7; 100_000])[..90_000]);
        conn.next().unwrap_err();
    }),
    ("a message has come in part", |conn| {
        conn.receive(&frame(TEXT, KEY, "in part"));
        conn.next().unwrap_err();
    }),
    ("events have not been asked for", |conn| {
        conn.receive(&frame(FIN | TEXT, KEY, "one").repeat(3));
        conn.next().unwrap();
    }),
    ("something is to be sent", |conn| {
        conn.send(TEXT, b"queued");
        conn.receive(&frame(FIN | PING, KEY, "?"));
        conn.next().unwrap();
    }),
    ("a part of that has been", |conn| {
        conn.send(TEXT, b"queued");
        // SAFETY: the connection is ours.
        unsafe { aews_conn_consume_output(conn.0, 3) };
    }),
    ("we have closed", |conn| {
        conn.close();
    }),
    ("the peer has closed", |conn| {
        conn.receive(&close_frame(KEY, 1000, ""));
        conn.next().unwrap();
    }),
    ("it has failed", |conn| {
        conn.receive(&[0xFF, 0xFF]);
        conn.next().unwrap();
    }),
    ("the socket has ended", |conn| {
        // SAFETY: the connection is ours.
        unsafe { aews_conn_finish(conn.0) };
    }),
];

#[test]
fn whatever_a_connection_is_in_the_middle_of_a_panic_fails_it_and_no_other() {
    for (what, prepare) in STATES {
        for (other_what, prepare_other) in STATES {
            for masked in [false, true] {
                let (conn, other) =
                    (Owned::new(AEWS_ROLE_SERVER, masked), Owned::new(AEWS_ROLE_SERVER, masked));
                prepare(&conn);
                prepare_other(&other);
                let (before, others) = (conn.output(), other.output());
                let writable = (conn.is_writable(), other.is_writable());

                assert_eq!(conn.panic(|| panic!("injected")), AEWS_ERR_PANIC);
                conn.assert_failed("internal error: injected", what);
                // What was to be sent stays in front, since half a frame of it may have left.
                let output = conn.output();
                let close = output.strip_prefix(&before[..]).expect("nothing is lost");
                let expected = if writable.0 { vec![sent_close(1011)] } else { vec![] };
                assert_eq!(decode(close, masked), expected, "{what}");

                assert_eq!((other.error(), other.output()), (String::new(), others));
                assert_eq!(other.is_writable(), writable.1, "{other_what}");
            }
        }
    }
}

#[test]
fn a_message_under_way_elsewhere_arrives() {
    let whole = frame(FIN | BINARY, KEY, [9; 200_000]);
    let (conn, other) = (Owned::new(AEWS_ROLE_SERVER, false), Owned::new(AEWS_ROLE_SERVER, false));
    for bytes in whole.chunks(10_000) {
        other.receive(bytes);
        conn.receive(bytes);
        let expected = Ok((AEWS_EVENT_MESSAGE, 2, vec![9; 200_000]));
        match other.next() {
            Err(status) => assert_eq!(status, AEWS_AGAIN),
            message => return assert_eq!(message, expected),
        }
        assert_eq!(conn.panic(|| panic!("again")), AEWS_ERR_PANIC);
    }
    panic!("no message came");
}

#[test]
fn a_panic_is_told_in_words_whatever_it_carries() {
    let panics: [(fn(), &str); 5] = [
        (|| panic!("a text"), "internal error: a text"),
        (|| panic!("a text {}", 7), "internal error: a text 7"),
        (|| panic_any(7), "internal error: panic"),
        (|| panic!("with a NUL\0 inside"), "internal error: with a NUL\u{FFFD} inside"),
        (|| panic!(), "internal error: explicit panic"),
    ];
    for (panic, text) in panics {
        let conn = Owned::new(AEWS_ROLE_UNKNOWN, false);
        assert_eq!(conn.panic(panic), AEWS_ERR_PANIC);
        assert_eq!(conn.error(), text);
        let (kind, code, told) = conn.next().unwrap();
        assert_eq!((kind, code), (AEWS_EVENT_FAILED, 1011));
        // The event has a length, and so the text as it is.
        assert_eq!(String::from_utf8(told).unwrap().replace('\0', "\u{FFFD}"), text);
    }
}

#[test]
fn without_a_connection_to_blame_a_panic_is_the_value_for_that() {
    assert_eq!(without_conn(AEWS_ERR_NULL, || panic!("injected")), AEWS_ERR_NULL);
    assert_eq!(without_conn(7, || 8), 8);
}

/// Where memory is short: in a process of its own, which has been given only a little more than it has.
#[cfg(target_os = "linux")]
mod out_of_memory {
    use std::env;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use super::*;

    const MARK: &str = "AEWS_TEST_SHORT_OF_MEMORY";
    const SPARE: u64 = 48 << 20;
    const AT_ONCE: &str = "quarantine_size_mb=0:thread_local_quarantine_size_kb=0";
    const TEXT_OF_IT: &str = "internal error: out of memory for a message";

    /// Runs the test of this name in such a process. Whether this is that process.
    fn is_child(name: &str) -> bool {
        if env::var_os(MARK).is_some() {
            let pages: u64 = std::fs::read_to_string("/proc/self/statm")
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            // SAFETY: plain calls, on a local.
            unsafe {
                let limit = pages * libc::sysconf(libc::_SC_PAGESIZE) as u64 + SPARE;
                let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
                assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &limit), 0);
            }
            return true;
        }
        let test = format!("{}::{name}", module_path!().split_once("::").unwrap().1);
        let asan = env::var("ASAN_OPTIONS").unwrap_or_default();
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", &test, "--test-threads=1", "--nocapture"])
            .env(MARK, "1")
            // AddressSanitizer would keep what is freed.
            .env("RUST_BACKTRACE", "1")
            .env("ASAN_OPTIONS", format!("{asan}:{AT_ONCE}"))
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}\n{printed}\n{errors}", output.status);
        assert!(printed.contains("1 passed"), "{printed}");
        assert!(!errors.contains("panicked"), "no hook may want memory for it: {errors}");
        false
    }

    /// This connection has failed for want of memory; another, and a new one, go on, with what it had.
    fn assert_failed_alone(conn: &Owned, other: &Owned) {
        conn.assert_failed(TEXT_OF_IT, "out of memory");
        assert_eq!(decode(&conn.output(), false), [sent_close(1011)]);
        for conn in [other, &Owned::new(AEWS_ROLE_SERVER, false)] {
            let payload = vec![5; 4 << 20];
            conn.receive(&frame(FIN | BINARY, KEY, &payload));
            let (kind, opcode, bytes) = conn.next().unwrap();
            assert_eq!((kind, opcode), (AEWS_EVENT_MESSAGE, 2));
            assert!(bytes == payload);
        }
    }

    fn pair() -> (Owned, Owned) {
        let other = Owned::new(AEWS_ROLE_SERVER, false);
        other.receive(&frame(FIN | TEXT, KEY, "before"));
        assert_eq!(other.next(), Ok((AEWS_EVENT_MESSAGE, 1, b"before".to_vec())));
        (Owned::new(AEWS_ROLE_SERVER, false), other)
    }

    #[test]
    fn a_message_for_which_there_is_none_fails_its_connection_alone() {
        if !is_child("a_message_for_which_there_is_none_fails_its_connection_alone") {
            return;
        }
        let (conn, other) = pair();
        conn.receive(&header(FIN | BINARY, KEY, 1 << 30));
        for _ in 0..1 << 14 {
            assert_eq!(conn.receive(&[1; 1 << 16]), AEWS_OK);
            match conn.next() {
                Err(AEWS_AGAIN) => {}
                Err(AEWS_ERR_PANIC) => return assert_failed_alone(&conn, &other),
                event => panic!("{event:?}"),
            }
        }
        panic!("there was memory for 1 GiB");
    }

    #[test]
    fn so_does_one_that_is_read_straight_into_its_place() {
        if !is_child("so_does_one_that_is_read_straight_into_its_place") {
            return;
        }
        let (conn, other) = pair();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&header(FIN | BINARY, KEY, 1 << 30)).unwrap();
        for _ in 0..1 << 14 {
            let mut received = 0;
            // SAFETY: the connection and the descriptor are ours.
            let status = unsafe { aews_conn_read(conn.0, ours.as_raw_fd(), &mut received) };
            if status == AEWS_ERR_PANIC {
                return assert_failed_alone(&conn, &other);
            }
            assert!([AEWS_OK, AEWS_MORE].contains(&status), "{status}");
            assert_eq!(conn.next(), Err(AEWS_AGAIN));
            theirs.write_all(&[1; 1 << 16]).unwrap();
        }
        panic!("there was memory for 1 GiB");
    }

    #[test]
    fn so_does_one_that_becomes_too_large_as_it_is_inflated() {
        let name = "so_does_one_that_becomes_too_large_as_it_is_inflated";
        // What is to be inflated is made while there is memory for it.
        let conn = Owned::deflating(AEWS_ROLE_SERVER);
        let bomb = env::var_os(MARK).map(|_| {
            let client = Owned::deflating(AEWS_ROLE_CLIENT);
            assert_eq!(client.send(BINARY, &vec![0; 256 << 20]), AEWS_OK);
            let plain = client.output();
            let len = plain.len() - 10;
            assert!((1 << 16..1 << 20).contains(&len), "{len}");
            frame(FIN | RSV1 | BINARY, KEY, &plain[10..])
        });
        if !is_child(name) {
            return;
        }
        let (_, other) = pair();
        conn.receive(&bomb.expect("made above"));
        assert_eq!(conn.next(), Err(AEWS_ERR_PANIC));
        assert_failed_alone(&conn, &other);
    }
}
