//! Ways to feed a connection that must make no difference.

use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use aews::connection::Connection;
use aews::io::{self, Received};

use crate::seen::{Seen, drain};
use crate::source::Source;

/// Where to cut, and how to hand in the pieces.
#[derive(Clone, Debug)]
pub struct Feed {
    way: Way,
    cuts: Cuts,
}

/// How pieces are handed in.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Through a socket, from which large frames are read straight into their message.
    socket: bool,
    /// When events are asked for.
    ask: Ask,
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    /// After every read.
    Always,
    /// After every second one, from the first on: what is read straight into a message lies there meanwhile.
    Seldom,
    /// When all is in.
    Late,
}

#[derive(Clone, Debug)]
enum Cuts {
    At(Vec<u16>),
    Every(u16),
}

/// The bits of a feed's first byte; those above are how many cuts there are.
pub const SOCKET: u8 = 1;
/// See [`SOCKET`].
pub const LATE: u8 = 2;
/// Pieces of one size, instead of cuts. See [`SOCKET`].
pub const EVERY: u8 = 4;
/// See [`SOCKET`].
pub const SELDOM: u8 = 8;

/// How many pieces there are at most.
const PIECES: usize = 400;

impl Feed {
    /// All at once, without a socket.
    pub const WHOLE: Feed =
        Feed { way: Way { socket: false, ask: Ask::Always }, cuts: Cuts::At(Vec::new()) };

    /// Byte by byte, as far as that does not take long.
    pub const BYTES: Feed =
        Feed { way: Way { socket: false, ask: Ask::Always }, cuts: Cuts::Every(1) };

    /// Reads one.
    pub fn read(source: &mut Source<'_>) -> Feed {
        let bits = source.byte();
        let ask = match bits & (LATE | SELDOM) {
            0 => Ask::Always,
            SELDOM => Ask::Seldom,
            _ => Ask::Late,
        };
        let way = Way { socket: bits & SOCKET != 0, ask };
        let cuts = if bits & EVERY != 0 {
            Cuts::Every(source.number())
        } else {
            Cuts::At((0..bits >> 4).map(|_| source.number()).collect())
        };
        Feed { way, cuts }
    }

    /// Cuts bytes; a cut may be at an end, or at the same place as another.
    pub fn pieces<'a>(&self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        match &self.cuts {
            Cuts::At(cuts) => {
                let mut at: Vec<usize> =
                    cuts.iter().map(|&cut| usize::from(cut) % (bytes.len() + 1)).collect();
                at.extend([0, bytes.len()]);
                at.sort_unstable();
                at.windows(2).map(|at| &bytes[at[0]..at[1]]).collect()
            }
            Cuts::Every(len) => {
                bytes.chunks(usize::from(*len).max(bytes.len() / PIECES + 1)).collect()
            }
        }
    }

    /// Feeds bytes to a connection, calls `look` with the new events wherever they are asked for, and returns all.
    pub fn run(
        &self,
        connection: &mut Connection,
        bytes: &[u8],
        mut look: impl FnMut(&[Seen]),
    ) -> Vec<Seen> {
        let mut seen = vec![];
        let mut reads = 0;
        let mut tell = |connection: &mut Connection, at_end: bool| {
            reads += 1;
            let asks = match self.way.ask {
                Ask::Always => true,
                Ask::Seldom => reads % 2 == 1,
                Ask::Late => false,
            };
            if asks || at_end {
                let new = drain(connection);
                look(&new);
                seen.extend(new);
            }
        };
        for piece in self.pieces(bytes) {
            if self.way.socket {
                through_socket(connection, piece, |connection| tell(connection, false));
            } else {
                connection.receive(piece);
                tell(connection, false);
            }
        }
        tell(connection, true);
        seen
    }
}

thread_local! {
    static SOCKETS: (UnixStream, UnixStream) = {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        for socket in [&ours, &theirs] {
            socket.set_nonblocking(true).expect("a socket that does not block");
        }
        (ours, theirs)
    };
}

/// Has the connection read bytes from a socket; `after` is called after each read. The socket is empty then.
pub fn through_socket(
    connection: &mut Connection,
    mut bytes: &[u8],
    mut after: impl FnMut(&mut Connection),
) {
    SOCKETS.with(|(ours, theirs)| {
        while !bytes.is_empty() {
            let written = (&*theirs).write(bytes).expect("room in a socket that is empty");
            bytes = &bytes[written..];
            let mut left = written;
            while left > 0 {
                match io::receive(connection, ours.as_raw_fd()) {
                    Ok(Received::Bytes(n) | Received::Full(n)) => left -= n,
                    other => panic!("{left} bytes are left to read, but: {other:?}"),
                }
                after(connection);
            }
        }
        match io::receive(connection, ours.as_raw_fd()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => panic!("nothing is left to read, but: {other:?}"),
        }
    });
}
