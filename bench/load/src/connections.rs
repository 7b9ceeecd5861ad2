//! Open connections on one thread and one epoll, with what is sent on each and
//! what has to come back.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use crate::{
    args::{Args, Wire},
    echo_check::EchoCheck,
    messages::Messages,
    sender::Sender,
    socket::{Opener, Socket},
    text_check::TextCheck,
};

/// Bytes asked for in one read.
const READ: usize = 256 << 10;

/// Longest wait for events, so that time limits are noticed.
const TICK: Duration = Duration::from_millis(50);

/// The longest delay that is told apart from longer ones.
const LONGEST_NS: u64 = 600_000_000_000;

/// A masked Close frame with code 1000, under a key of zero.
pub const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8];

pub enum Check {
    Binary(EchoCheck),
    Text(Box<TextCheck>),
}

impl Check {
    pub fn expected(&self) -> u64 {
        match self {
            Check::Binary(check) => check.expected(),
            Check::Text(check) => check.expected(),
        }
    }

    fn feed(&mut self, messages: &Messages, sent: u64, data: &[u8]) -> Result<(), String> {
        match self {
            Check::Binary(check) => check.feed(messages, sent, data),
            Check::Text(check) => check.feed(messages, sent, data),
        }
    }

    fn close_sent(&mut self) {
        match self {
            Check::Binary(check) => check.close_sent(),
            Check::Text(check) => check.close_sent(),
        }
    }

    fn end(&self, messages: &Messages) -> Result<(), String> {
        match self {
            Check::Binary(check) => check.end(messages),
            Check::Text(check) => check.end(),
        }
    }

    fn wrong(&self, what: &str) -> String {
        match self {
            Check::Binary(check) => check.wrong(what),
            Check::Text(check) => check.wrong(what),
        }
    }
}

pub struct Connection {
    socket: Socket,
    pub sender: Sender,
    pub check: Check,
    pub sent_at: VecDeque<Instant>,
    ended: bool,
}

pub struct Connections {
    poll: Poll,
    events: Events,
    pub messages: Messages,
    pub all: Vec<Connection>,
    buffer: Vec<u8>,
    longest_wait: Duration,
    stall: Duration,
    progress: Instant,
}

impl Connections {
    /// All get back what `sender_of` their number has sent.
    pub fn open(args: &Args, sender_of: impl Fn(usize) -> usize) -> Result<Self, String> {
        let poll = Poll::new().map_err(|e| format!("epoll: {e}"))?;
        let messages = Messages::new(args.payload, args.wire);
        let mut opener = Opener::new(args)?;
        let mut all = Vec::with_capacity(args.connections);
        for id in 0..args.connections {
            let mut socket = opener.open()?;
            socket.register(poll.registry(), Token(id))?;
            let of = sender_of(id) as u32;
            all.push(Connection {
                socket,
                sender: Sender::new(id as u32, &messages),
                check: match args.wire {
                    Wire::Deflate => Check::Text(Box::new(TextCheck::new(of))),
                    _ => Check::Binary(EchoCheck::new(of)),
                },
                sent_at: VecDeque::with_capacity(args.in_flight),
                ended: false,
            });
        }
        Ok(Connections {
            poll,
            events: Events::with_capacity(args.connections.clamp(16, 1024)),
            messages,
            all,
            buffer: vec![0; READ],
            // A server that answers a sleeping client pays for waking it,
            // which it would not for a client on another machine.
            longest_wait: if args.spin { Duration::ZERO } else { TICK },
            stall: args.stall,
            progress: Instant::now(),
        })
    }

    pub fn restart_patience(&mut self) {
        self.progress = Instant::now();
    }

    /// Waits for events and reads what has come, of which messages before
    /// `sent` have been sent; `None` for as many as the connection itself has
    /// sent. Then calls `after` for each with whether a message came.
    pub fn turn(
        &mut self,
        sent: Option<u64>,
        mut after: impl FnMut(&mut Self, usize, bool) -> Result<(), String>,
    ) -> Result<(), String> {
        match self.poll.poll(&mut self.events, Some(self.longest_wait)) {
            Err(e) if e.kind() != ErrorKind::Interrupted => return Err(format!("epoll: {e}")),
            _ => {}
        }
        if self.progress.elapsed() > self.stall {
            return Err(format!("nothing has moved for {} s", self.stall.as_secs_f64()));
        }
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let result = events.iter().try_for_each(|event| {
            let Token(id) = event.token();
            let came = self.receive(id, sent, event.is_read_closed())?;
            self.progress = Instant::now();
            after(self, id, came)
        });
        std::mem::swap(&mut self.events, &mut events);
        result
    }

    /// Reads what is there, to the end if the server has closed its side.
    /// Says whether a message came back.
    fn receive(&mut self, id: usize, sent: Option<u64>, to_the_end: bool) -> Result<bool, String> {
        let connection = &mut self.all[id];
        if connection.ended {
            return Ok(false);
        }
        let before = connection.check.expected();
        loop {
            let n = match connection.socket.read(&mut self.buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(connection.check.wrong(&e.to_string())),
            };
            if n == 0 {
                connection.check.end(&self.messages)?;
                connection.ended = true;
                break;
            }
            let sent = sent.unwrap_or(connection.sender.next());
            connection.check.feed(&self.messages, sent, &self.buffer[..n])?;
            // A read that comes back short has emptied the socket, and the
            // edge-triggered epoll reports whatever arrives later. An end
            // that it has reported already it does not report again.
            if n < self.buffer.len() && !to_the_end && connection.socket.short_is_empty() {
                break;
            }
        }
        Ok(connection.check.expected() > before)
    }

    pub fn queue(&mut self, id: usize, now: Instant) {
        let connection = &mut self.all[id];
        connection.sender.queue(&self.messages);
        connection.sent_at.push_back(now);
    }

    pub fn flush(&mut self, id: usize) -> Result<(), String> {
        let connection = &mut self.all[id];
        connection
            .socket
            .flush()
            .and_then(|()| connection.sender.flush(&mut connection.socket, &self.messages))
            .map_err(|e| connection.check.wrong(&format!("sending: {e}")))
    }

    pub fn arrived(&self) -> u64 {
        self.all.iter().map(|c| c.check.expected()).sum()
    }

    pub fn sent(&self) -> u64 {
        self.all.iter().map(|c| c.sender.next()).sum()
    }

    /// Ends every connection in the way of its protocol and waits for the
    /// server to do the same.
    pub fn close(mut self) -> Result<(), String> {
        let raw = self.messages.wire() == Wire::Raw;
        for connection in &mut self.all {
            connection.check.close_sent();
            // Everything sent has come back: there is room for a few bytes.
            let socket = &mut connection.socket;
            if raw { socket.end() } else { socket.write_all(&CLOSE) }
                .map_err(|e| connection.check.wrong(&format!("closing: {e}")))?;
        }
        self.restart_patience();
        while self.all.iter().any(|c| !c.ended) {
            self.turn(None, |_, _, _| Ok(()))?;
        }
        Ok(())
    }
}

pub fn latencies() -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(1, LONGEST_NS, 3).map_err(|e| e.to_string())
}

pub fn note(latencies: &mut Histogram<u64>, since: Instant, now: Instant) {
    latencies.saturating_record((now - since).as_nanos() as u64);
}
