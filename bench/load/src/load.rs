//! The run: all connections on one thread and one epoll, warm-up, the
//! counted stretch, and the end of every connection.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    process,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token, net::TcpStream};

use crate::{
    args::Args,
    cpu_time::{self, Clock, CpuTime},
    echo_check::EchoCheck,
    messages::Messages,
    sender::Sender,
    socket,
};

/// Bytes asked for in one read.
const READ: usize = 256 << 10;

/// Longest wait for events, so that time limits are noticed.
const TICK: Duration = Duration::from_millis(50);

/// The longest delay that is told apart from longer ones.
const LONGEST_NS: u64 = 600_000_000_000;

/// A masked Close frame with code 1000, under a key of zero.
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8];

pub struct Report {
    messages: u64,
    wall: Duration,
    server_cpu_ns: u64,
    client_cpu_ns: u64,
    /// What everything else on the machine used.
    other_cpu_ns: u64,
    clock: Clock,
    latency: Histogram<u64>,
}

impl Report {
    pub fn to_json(&self, args: &Args) -> String {
        format!(
            concat!(
                r#"{{"payload":{},"connections":{},"in_flight":{},"messages":{},"wall_ns":{},"#,
                r#""server_cpu_ns":{},"client_cpu_ns":{},"other_cpu_ns":{},"cpu_clock":"{}","p50_ns":{},"p99_ns":{}}}"#
            ),
            args.payload,
            args.connections,
            args.in_flight,
            self.messages,
            self.wall.as_nanos(),
            self.server_cpu_ns,
            self.client_cpu_ns,
            self.other_cpu_ns,
            self.clock.name(),
            self.latency.value_at_quantile(0.50),
            self.latency.value_at_quantile(0.99),
        )
    }
}

pub fn run(args: &Args) -> Result<Report, String> {
    let server = CpuTime::of(args.server_pid)?;
    let client = CpuTime::of(process::id())?;
    let mut load = Load::open(args)?;

    load.echo_for(args.warm_up)?;
    load.latency.reset();

    // Nothing is in flight at either end of the stretch, so that the time
    // the server used belongs to exactly the messages counted.
    let server_begin = server.ns_at_rest()?;
    let client_begin = client.ns()?;
    let all_begin = cpu_time::of_all_ns()?;
    let begin = Instant::now();
    let messages = load.echo_for(args.measured)?;
    let wall = begin.elapsed();
    let all_cpu_ns = cpu_time::of_all_ns()? - all_begin;
    let client_cpu_ns = client.ns()? - client_begin;
    let server_cpu_ns = server.ns_at_rest()? - server_begin;

    let latency = load.latency.clone();
    load.close()?;
    Ok(Report {
        messages,
        wall,
        server_cpu_ns,
        client_cpu_ns,
        other_cpu_ns: all_cpu_ns.saturating_sub(server_cpu_ns + client_cpu_ns),
        clock: server.clock,
        latency,
    })
}

struct Load {
    poll: Poll,
    events: Events,
    messages: Messages,
    connections: Vec<Connection>,
    in_flight: u64,
    buffer: Vec<u8>,
    latency: Histogram<u64>,
    longest_wait: Duration,
    stall: Duration,
    progress: Instant,
}

struct Connection {
    socket: TcpStream,
    sender: Sender,
    check: EchoCheck,
    sent_at: VecDeque<Instant>,
    ended: bool,
}

impl Load {
    fn open(args: &Args) -> Result<Self, String> {
        let poll = Poll::new().map_err(|e| format!("epoll: {e}"))?;
        let messages = Messages::new(args.payload);
        let mut connections = Vec::with_capacity(args.connections);
        for id in 0..args.connections {
            let mut socket = socket::open(args.port)?;
            poll.registry()
                .register(&mut socket, Token(id), Interest::READABLE | Interest::WRITABLE)
                .map_err(|e| format!("epoll: {e}"))?;
            connections.push(Connection {
                socket,
                sender: Sender::new(id as u32, &messages),
                check: EchoCheck::new(id as u32),
                sent_at: VecDeque::with_capacity(args.in_flight),
                ended: false,
            });
        }
        Ok(Load {
            poll,
            events: Events::with_capacity(args.connections.max(16)),
            messages,
            connections,
            in_flight: args.in_flight as u64,
            buffer: vec![0; READ],
            latency: Histogram::new_with_bounds(1, LONGEST_NS, 3).map_err(|e| e.to_string())?,
            // A server that answers a sleeping client pays for waking it,
            // which it would not for a client on another machine.
            longest_wait: if args.spin { Duration::ZERO } else { TICK },
            stall: args.stall,
            progress: Instant::now(),
        })
    }

    /// Sends for so long, then waits until all of it has come back. Says how
    /// many messages did.
    fn echo_for(&mut self, duration: Duration) -> Result<u64, String> {
        let before = self.echoed();
        let begin = Instant::now();
        self.progress = begin;
        let mut sending = true;
        for id in 0..self.connections.len() {
            self.send(id, begin)?;
        }
        loop {
            self.wait()?;
            let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
            for event in &events {
                let Token(id) = event.token();
                let echoed = self.receive(id, event.is_read_closed())?;
                let now = Instant::now();
                self.progress = now;
                self.note_latency(id, now);
                sending = sending && now - begin < duration;
                if sending && echoed {
                    self.send(id, now)?;
                } else {
                    self.flush(id)?;
                }
            }
            std::mem::swap(&mut self.events, &mut events);
            sending = sending && begin.elapsed() < duration;
            if !sending && self.outstanding() == 0 {
                return Ok(self.echoed() - before);
            }
        }
    }

    /// Ends every connection in the way of the protocol and waits for the
    /// server to do the same.
    fn close(mut self) -> Result<(), String> {
        for connection in &mut self.connections {
            connection.check.close_sent();
            // Everything sent has come back: there is room for a few bytes.
            connection
                .socket
                .write_all(&CLOSE)
                .map_err(|e| connection.check.wrong(&format!("sending Close: {e}")))?;
        }
        self.progress = Instant::now();
        while self.connections.iter().any(|c| !c.ended) {
            self.wait()?;
            let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
            for event in &events {
                self.receive(event.token().0, event.is_read_closed())?;
                self.progress = Instant::now();
            }
            std::mem::swap(&mut self.events, &mut events);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), String> {
        match self.poll.poll(&mut self.events, Some(self.longest_wait)) {
            Err(e) if e.kind() != ErrorKind::Interrupted => return Err(format!("epoll: {e}")),
            _ => {}
        }
        if self.progress.elapsed() > self.stall {
            return Err(format!(
                "nothing has moved for {} s, {} messages have not come back",
                self.stall.as_secs_f64(),
                self.outstanding()
            ));
        }
        Ok(())
    }

    /// Reads what is there, to the end if the server has closed its side.
    /// Says whether a message came back.
    fn receive(&mut self, id: usize, to_the_end: bool) -> Result<bool, String> {
        let connection = &mut self.connections[id];
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
                connection.check.end()?;
                connection.ended = true;
                break;
            }
            let sent = connection.sender.next();
            connection.check.feed(&self.messages, sent, &self.buffer[..n])?;
            // A read that comes back short has emptied the socket, and the
            // edge-triggered epoll reports whatever arrives later. An end
            // that it has reported already it does not report again.
            if n < self.buffer.len() && !to_the_end {
                break;
            }
        }
        Ok(connection.check.expected() > before)
    }

    fn note_latency(&mut self, id: usize, now: Instant) {
        let connection = &mut self.connections[id];
        let waiting = connection.sender.next() - connection.check.expected();
        while connection.sent_at.len() as u64 > waiting {
            if let Some(sent_at) = connection.sent_at.pop_front() {
                self.latency.saturating_record((now - sent_at).as_nanos() as u64);
            }
        }
    }

    fn send(&mut self, id: usize, now: Instant) -> Result<(), String> {
        let connection = &mut self.connections[id];
        while connection.sender.next() - connection.check.expected() < self.in_flight {
            connection.sender.queue(&self.messages);
            connection.sent_at.push_back(now);
        }
        self.flush(id)
    }

    fn flush(&mut self, id: usize) -> Result<(), String> {
        let connection = &mut self.connections[id];
        connection
            .sender
            .flush(&mut connection.socket, &self.messages)
            .map_err(|e| connection.check.wrong(&format!("sending: {e}")))
    }

    fn echoed(&self) -> u64 {
        self.connections.iter().map(|c| c.check.expected()).sum()
    }

    fn outstanding(&self) -> u64 {
        let sent: u64 = self.connections.iter().map(|c| c.sender.next()).sum();
        sent - self.echoed()
    }
}
