//! Reading and writing a socket that is already connected and non-blocking.
#![allow(unsafe_code)]

use std::io::{Error, ErrorKind, Result};
use std::os::fd::RawFd;

use crate::buffer::BUFFER_LEN;
use crate::connection::Connection;

#[cfg(test)]
mod close_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod faulty;

/// The system calls on one descriptor, each made once: tests put a socket with faults in their place.
trait Calls {
    /// Fills the iovecs, one after the other, without blocking. 0 is the end of the stream.
    ///
    /// # Safety
    /// The iovecs cover memory that may be written.
    unsafe fn receive(&mut self, iovecs: &mut [libc::iovec]) -> Result<usize>;

    /// Sends what the iovecs cover, one after the other, without blocking and without raising SIGPIPE.
    ///
    /// # Safety
    /// The iovecs cover memory that may be read.
    unsafe fn send(&mut self, iovecs: &mut [libc::iovec]) -> Result<usize>;
}

/// How a read from the socket went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// This many bytes are with the connection.
    Bytes(usize),
    /// The same, and there was no room for more, so there may be more.
    Full(usize),
    /// The peer has shut down its side.
    Eof,
}

/// Reads once from the socket into the connection: at most a buffer, and the rest of the frame under
/// way where that is large. [`Connection::next_event`] then parses it.
///
/// # Errors
/// Those of `recvmsg`; [`ErrorKind::WouldBlock`] where there is nothing to read. An interrupted call
/// is repeated.
pub fn receive(connection: &mut Connection, fd: RawFd) -> Result<Received> {
    receive_by(connection, &mut Descriptor(fd))
}

#[inline(always)]
fn receive_by(connection: &mut Connection, calls: &mut impl Calls) -> Result<Received> {
    let target = connection.read_into();
    let buffered = target.buffer.len();
    if target.buffer.capacity() - buffered < BUFFER_LEN / 8 {
        target.buffer.reserve(BUFFER_LEN);
    }
    let spare = target.buffer.spare_capacity_mut();
    let rest = libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: spare.len() };
    let (block, missing) = target.direct.unzip();
    let room = block.as_ref().map_or(0, |block| block.capacity() - block.len());
    let direct_len = room.min(missing.unwrap_or(0));
    let direct = block.as_ref().map_or(std::ptr::null_mut(), |block| block.spare_start());
    let direct = libc::iovec { iov_base: direct.cast(), iov_len: direct_len };
    let mut iovecs = [direct, rest];
    let used = match missing {
        // With the frame not fully covered, what follows in the stream still belongs to it.
        Some(missing) if direct_len < missing => &mut iovecs[..1],
        Some(_) => &mut iovecs[..],
        None => &mut iovecs[1..],
    };
    let asked: usize = used.iter().map(|iovec| iovec.iov_len).sum();
    // SAFETY: the iovecs cover spare memory of the block and of the buffer, each once.
    let n = repeat(|| unsafe { calls.receive(used) })?;
    // SAFETY: the call has filled the first iovec before the second, `n` bytes in all.
    unsafe {
        if let Some(block) = block {
            block.advance(n.min(direct_len));
        }
        target.buffer.set_len(buffered + n.saturating_sub(direct_len));
    }
    Ok(match n {
        0 => Received::Eof,
        n if n == asked => Received::Full(n),
        n => Received::Bytes(n),
    })
}

/// Sends the slices, one behind the other, in one system call, and tells how many bytes of them the
/// socket took. At most [`MAX_SLICES`].
///
/// # Errors
/// Those of `sendmsg`; [`ErrorKind::WouldBlock`] where the socket takes nothing. An interrupted call
/// is repeated, and SIGPIPE is never raised.
///
/// # Panics
/// Where there are more slices.
pub fn send(fd: RawFd, slices: &[&[u8]]) -> Result<usize> {
    send_by(&mut Descriptor(fd), slices)
}

#[inline(always)]
fn send_by(calls: &mut impl Calls, slices: &[&[u8]]) -> Result<usize> {
    assert!(slices.len() <= MAX_SLICES, "too many slices");
    // Small ones are put together and sent by the plain call, which is cheaper.
    let mut together = [0; TOGETHER_LEN];
    let total: usize = slices.iter().map(|slice| slice.len()).sum();
    if total <= TOGETHER_LEN {
        let mut end = 0;
        for slice in slices {
            together[end..end + slice.len()].copy_from_slice(slice);
            end += slice.len();
        }
        let mut iovec = [iovec_of(&together[..total])];
        // SAFETY: the iovec covers bytes of ours, which are only read.
        return repeat(|| unsafe { calls.send(&mut iovec) });
    }
    let mut iovecs = [iovec_of(&[]); MAX_SLICES];
    for (iovec, slice) in iovecs.iter_mut().zip(slices) {
        *iovec = iovec_of(slice);
    }
    // SAFETY: the iovecs cover the slices, which are only read.
    repeat(|| unsafe { calls.send(&mut iovecs[..slices.len()]) })
}

fn iovec_of(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// How many slices [`send`] takes: what is queued, a header and a payload.
pub const MAX_SLICES: usize = 3;

/// Up to how many bytes are copied rather than described to the kernel piece by piece.
const TOGETHER_LEN: usize = 256;

/// A descriptor of the process.
struct Descriptor(RawFd);

// With one iovec the plain calls are made, which are the cheaper ones; for a small message that counts.
impl Calls for Descriptor {
    #[inline(always)]
    unsafe fn receive(&mut self, iovecs: &mut [libc::iovec]) -> Result<usize> {
        const FLAGS: i32 = libc::MSG_DONTWAIT;
        if let [only] = iovecs {
            // SAFETY: the caller vouches for the iovec; a descriptor that is not open gives an error.
            return count(unsafe { libc::recv(self.0, only.iov_base, only.iov_len, FLAGS) });
        }
        let mut message = message_of(iovecs);
        // SAFETY: as above.
        count(unsafe { libc::recvmsg(self.0, &mut message, FLAGS) })
    }

    #[inline(always)]
    unsafe fn send(&mut self, iovecs: &mut [libc::iovec]) -> Result<usize> {
        const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        if let [only] = iovecs {
            // SAFETY: the caller vouches for the iovec, which the call only reads.
            return count(unsafe { libc::send(self.0, only.iov_base, only.iov_len, FLAGS) });
        }
        let message = message_of(iovecs);
        // SAFETY: as above.
        count(unsafe { libc::sendmsg(self.0, &message, FLAGS) })
    }
}

fn message_of(iovecs: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all-zero is a valid `msghdr`: no address, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = iovecs.len() as _;
    message
}

/// What a system call has returned.
fn count(returned: isize) -> Result<usize> {
    usize::try_from(returned).map_err(|_| Error::last_os_error())
}

/// Makes a system call, again where a signal has interrupted it.
fn repeat(mut call: impl FnMut() -> Result<usize>) -> Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Config, Event};
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn messages(connection: &mut Connection) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        while let Some(event) = connection.next_event() {
            match event {
                Event::Message { payload, .. } => messages.push(payload.to_vec()),
                other => panic!("{other:?}"),
            }
        }
        messages
    }

    #[test]
    fn large_and_small_messages_come_through_a_socket_intact() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut sender = Connection::new(Config { masked: true, ..Config::default() });
        let sizes = [0, 5, 20_000, 1_000_000, 3, 65_536, 400_000, 125];
        let sent: Vec<Vec<u8>> = sizes
            .iter()
            .map(|&len| (0..len).map(|i: usize| (i * 7 + len) as u8).collect())
            .collect();
        for payload in &sent {
            sender.send(2, payload).unwrap();
        }
        let bytes = sender.take_output();
        let writer = std::thread::spawn(move || theirs.write_all(&bytes).unwrap());

        let config = Config { max_payload_size: 0, ..Config::default() };
        let mut receiver = Connection::new(config);
        let mut received = Vec::new();
        loop {
            match receive(&mut receiver, ours.as_raw_fd()) {
                Ok(Received::Eof) => break,
                Ok(_) => received.extend(messages(&mut receiver)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        writer.join().unwrap();
        assert!(received == sent);
    }

    #[test]
    fn a_read_that_may_have_left_something_says_so() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut receiver = Connection::new(Config::default());
        theirs.write_all(&[0; BUFFER_LEN]).unwrap();
        let full = Received::Full(BUFFER_LEN);
        assert_eq!(receive(&mut receiver, ours.as_raw_fd()).unwrap(), full);
        theirs.write_all(&[0; 7]).unwrap();
        assert_eq!(receive(&mut receiver, ours.as_raw_fd()).unwrap(), Received::Bytes(7));
    }

    #[test]
    fn an_announced_length_costs_no_memory_until_the_data_comes() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut receiver = Connection::new(Config { max_payload_size: 0, ..Config::default() });
        theirs.write_all(&[0x82, 127, 0, 0, 0, 0, 0x40, 0, 0, 0, b'x']).unwrap();
        assert_eq!(receive(&mut receiver, ours.as_raw_fd()).unwrap(), Received::Bytes(11));
        assert!(receiver.next_event().is_none());
        let target = receiver.read_into();
        let (block, missing) = target.direct.expect("the frame is under way");
        assert_eq!(missing, 0x3FFF_FFFF);
        assert!(block.capacity() <= 768 * 1024, "{}", block.capacity());
    }

    #[test]
    fn slices_leave_in_order_and_a_full_socket_says_so() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(send(ours.as_raw_fd(), &[b"ab", b"", b"cd"]).unwrap(), 4);
        let mut bytes = [0; 4];
        theirs.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"abcd");
        let large = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = send(ours.as_raw_fd(), &[&large]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        drop(theirs);
        let error = send(ours.as_raw_fd(), &[b"x"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
