//! A socket in memory, which does at any moment what a real one may do at the worst.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Result};

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Calls, Received, receive_by, send_by};
use crate::connection::Connection;
use crate::connection::tests::drive::{Seen, drain};

/// What a system call comes to, rather than all that was asked for.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A signal came first.
    Interrupted,
    /// There is nothing to read, or no room, though there will be.
    WouldBlock,
    /// So many bytes at most.
    Short(usize),
}

/// What is behind the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing yet.
    Open,
    Eof,
    /// An `errno`.
    Error(i32),
}

/// One end of a connection.
#[derive(Debug)]
pub struct Faulty {
    /// What has arrived and not been read.
    pub incoming: VecDeque<u8>,
    /// What a read then comes to.
    pub end: End,
    /// Faults of the reads to come.
    pub reads: VecDeque<Fault>,
    /// How much the last read has asked for.
    pub asked: usize,
    /// What has been sent.
    pub outgoing: Vec<u8>,
    /// How much more the socket takes.
    pub room: usize,
    /// The `errno` of a write for which there is no room.
    pub refusal: i32,
    /// Faults of the writes to come.
    pub writes: VecDeque<Fault>,
}

impl Faulty {
    /// One that does all it is asked for, until it is changed.
    pub fn new() -> Faulty {
        Faulty {
            incoming: VecDeque::new(),
            end: End::Open,
            reads: VecDeque::new(),
            asked: 0,
            outgoing: Vec::new(),
            room: usize::MAX,
            refusal: libc::EAGAIN,
            writes: VecDeque::new(),
        }
    }

    /// One from which these bytes are read.
    pub fn reading(bytes: &[u8], end: End, reads: Vec<Fault>) -> Faulty {
        let incoming = bytes.to_vec().into();
        Faulty { incoming, end, reads: reads.into(), ..Faulty::new() }
    }
}

fn error(errno: i32) -> Error {
    Error::from_raw_os_error(errno)
}

/// How many bytes the next call moves at most.
fn limit(faults: &mut VecDeque<Fault>) -> Result<usize> {
    match faults.pop_front() {
        Some(Fault::Interrupted) => Err(error(libc::EINTR)),
        Some(Fault::WouldBlock) => Err(error(libc::EAGAIN)),
        Some(Fault::Short(n)) => Ok(n.max(1)),
        None => Ok(usize::MAX),
    }
}

impl Calls for Faulty {
    unsafe fn receive(&mut self, iovecs: &mut [libc::iovec]) -> Result<usize> {
        self.asked = iovecs.iter().map(|iovec| iovec.iov_len).sum();
        assert!(self.asked > 0, "what comes of a read of nothing looks like the end of the stream");
        let limit = limit(&mut self.reads)?;
        if self.incoming.is_empty() {
            return match self.end {
                End::Open => Err(error(libc::EAGAIN)),
                End::Eof => Ok(0),
                End::Error(errno) => Err(error(errno)),
            };
        }
        let n = limit.min(self.asked).min(self.incoming.len());
        let bytes = self.incoming.make_contiguous()[..n].to_vec();
        self.incoming.drain(..n);
        let mut left = &bytes[..];
        for iovec in iovecs {
            let (now, later) = left.split_at(iovec.iov_len.min(left.len()));
            if !now.is_empty() {
                // SAFETY: the caller vouches for the iovec, which has room for these.
                unsafe { iovec.iov_base.cast::<u8>().copy_from(now.as_ptr(), now.len()) };
            }
            left = later;
        }
        Ok(n)
    }

    unsafe fn send(&mut self, iovecs: &mut [libc::iovec]) -> Result<usize> {
        let limit = limit(&mut self.writes)?;
        let total: usize = iovecs.iter().map(|iovec| iovec.iov_len).sum();
        let n = limit.min(total).min(self.room);
        if total > 0 && n == 0 {
            return Err(error(self.refusal));
        }
        let start = self.outgoing.len();
        for iovec in iovecs.iter().filter(|iovec| iovec.iov_len > 0) {
            // SAFETY: the caller vouches for the iovec.
            let bytes =
                unsafe { std::slice::from_raw_parts(iovec.iov_base.cast::<u8>(), iovec.iov_len) };
            self.outgoing.extend_from_slice(bytes);
        }
        self.outgoing.truncate(start + n);
        if self.room != usize::MAX {
            self.room -= n;
        }
        Ok(n)
    }
}

/// One read, and what comes of it. [`End::Open`] where there may be more.
pub fn read(connection: &mut Connection, socket: &mut Faulty) -> End {
    let before = socket.incoming.len();
    match receive_by(connection, socket) {
        Ok(Received::Eof) => End::Eof,
        Ok(received) => {
            let n = before - socket.incoming.len();
            // Whoever stops at less than everything waits for the socket, which must have been emptied.
            let is_full = n == socket.asked;
            let expected = if is_full { Received::Full(n) } else { Received::Bytes(n) };
            assert_eq!(received, expected, "of {} asked for", socket.asked);
            End::Open
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => End::Open,
        Err(error) => End::Error(error.raw_os_error().expect("an error of the system's")),
    }
}

/// Reads until the socket has no more; what has been told, and how it ended. Events are asked for after
/// each read, or, where that is `late`, only at the end.
pub fn read_all(connection: &mut Connection, socket: &mut Faulty, late: bool) -> (Vec<Seen>, End) {
    let mut seen = vec![];
    loop {
        let end = read(connection, socket);
        let is_over = end != End::Open || socket.incoming.is_empty() && socket.end == End::Open;
        if is_over || !late {
            seen.extend(drain(connection));
        }
        if is_over {
            return (seen, end);
        }
    }
}

/// What is to be sent and has not been taken by the socket: sent as the Perl part does it, what waits first.
#[derive(Debug, Default)]
pub struct Queue(pub Vec<u8>);

impl Queue {
    /// Sends what waits, and then these; what the socket does not take waits. The `errno` where it failed:
    /// then it takes nothing any more.
    pub fn send(&mut self, socket: &mut Faulty, head: &[u8], payload: &[u8]) -> Option<i32> {
        let sent = match send_by(socket, &[&self.0, head, payload]) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Some(error.raw_os_error().expect("an error of the system's")),
        };
        let mut rest = [&self.0, head, payload].concat();
        rest.drain(..sent);
        self.0 = rest;
        None
    }
}

pub fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        2 => Just(Fault::Interrupted),
        2 => Just(Fault::WouldBlock),
        4 => (1usize..6).prop_map(Fault::Short),
        3 => (1usize..70_000).prop_map(Fault::Short),
        2 => Just(Fault::Short(usize::MAX)),
    ];
    vec(fault, 0..60)
}
