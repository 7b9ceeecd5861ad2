//! Connections opened, upgraded and closed over and over, a few at a time.

use std::{
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};
use serde_json::{Value, json};

use crate::{
    args::Args,
    connections::{CLOSE, latencies, note},
    echo_check::head,
    socket::{Opener, Socket},
    upgrade::Upgrade,
    usage::{self, Meter},
};

/// The longest wait when nothing happens.
const TICK: Duration = Duration::from_millis(50);

pub fn run(args: &Args) -> Result<Value, String> {
    let meter = Meter::new(args)?;
    let mut churn = Churn {
        poll: Poll::new().map_err(|e| format!("epoll: {e}"))?,
        opener: Opener::new(args)?,
        visits: Vec::new(),
        latency: latencies()?,
        wait: if args.spin { Duration::ZERO } else { TICK },
        stall: args.stall,
    };
    churn.visit_for(args.warm_up, args.connections)?;
    churn.latency.reset();
    let begin = meter.begin()?;
    let count = churn.visit_for(args.measured, args.connections)?;
    let usage = meter.end(&begin)?;
    let more = json!({
        "p50_ns": churn.latency.value_at_quantile(0.50),
        "p99_ns": churn.latency.value_at_quantile(0.99),
    });
    Ok(usage::with(usage.to_json(count), more))
}

struct Churn {
    poll: Poll,
    opener: Opener,
    visits: Vec<Option<Visit>>,
    /// From connecting to the answer.
    latency: Histogram<u64>,
    wait: Duration,
    stall: Duration,
}

/// One connection from its beginning to its end.
struct Visit {
    socket: Socket,
    upgrade: Upgrade,
    /// How much of the request is out.
    sent: usize,
    since: Instant,
    upgraded: bool,
    /// What came after the answer.
    received: Vec<u8>,
}

impl Churn {
    /// So many at a time. Says how many there were.
    fn visit_for(&mut self, duration: Duration, at_a_time: usize) -> Result<u64, String> {
        let begin = Instant::now();
        let mut progress = begin;
        let mut count = 0;
        self.visits.clear();
        for slot in 0..at_a_time {
            let visit = self.begin(slot)?;
            self.visits.push(Some(visit));
        }
        let mut events = Events::with_capacity(at_a_time.max(16));
        let mut open = at_a_time;
        while open > 0 {
            match self.poll.poll(&mut events, Some(self.wait)) {
                Err(e) if e.kind() != ErrorKind::Interrupted => return Err(format!("epoll: {e}")),
                _ => {}
            }
            for event in &events {
                progress = Instant::now();
                let Token(slot) = event.token();
                let Some(visit) = &mut self.visits[slot] else {
                    continue;
                };
                if !visit.go_on(&mut self.latency)? {
                    continue;
                }
                count += 1;
                // Before the next one, which has the same token.
                self.visits[slot] = None;
                if begin.elapsed() < duration {
                    self.visits[slot] = Some(self.begin(slot)?);
                } else {
                    open -= 1;
                }
            }
            if progress.elapsed() > self.stall {
                return Err(format!("nothing has moved for {} s", self.stall.as_secs_f64()));
            }
        }
        Ok(count)
    }

    fn begin(&mut self, slot: usize) -> Result<Visit, String> {
        let since = Instant::now();
        let mut socket = self.opener.begin()?;
        socket.register(self.poll.registry(), Token(slot))?;
        let upgrade = self.opener.upgrade();
        Ok(Visit { socket, upgrade, sent: 0, since, upgraded: false, received: Vec::new() })
    }
}

impl Visit {
    /// Says whether it is over.
    fn go_on(&mut self, latency: &mut Histogram<u64>) -> Result<bool, String> {
        self.send().map_err(|e| format!("sending the request: {e}"))?;
        let mut buffer = [0; 4096];
        loop {
            let n = match self.socket.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                // Before the connection is there.
                Err(e) if e.kind() == ErrorKind::NotConnected => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(format!("a connection failed: {e}")),
            };
            if n == 0 {
                return self.end().map(|()| true);
            }
            if self.upgraded {
                self.received.extend_from_slice(&buffer[..n]);
            } else if self.upgrade.feed(&buffer[..n])? {
                self.upgraded = true;
                note(latency, self.since, Instant::now());
                self.socket.write_all(&CLOSE).map_err(|e| format!("sending Close: {e}"))?;
            }
        }
    }

    fn send(&mut self) -> std::io::Result<()> {
        self.socket.flush()?;
        while self.sent < self.upgrade.request.len() {
            match self.socket.write(&self.upgrade.request[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// What came was a Close frame, and nothing else.
    fn end(&self) -> Result<(), String> {
        if !self.upgraded {
            return Err("the server ended a connection before its answer".into());
        }
        match head(&self.received)? {
            Some((_, length, size))
                if self.received[0] == 0x88 && self.received.len() == size + length as usize =>
            {
                Ok(())
            }
            _ => Err(format!("instead of a Close frame came {:02x?}", self.received)),
        }
    }
}
