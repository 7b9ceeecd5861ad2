//! Echoes: warm-up, the counted stretch, and the end of every connection.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{
    args::Args,
    connections::{Check, Connections, latencies, note},
    usage::{self, Meter},
};

pub fn run(args: &Args) -> Result<Value, String> {
    let meter = Meter::new(args)?;
    let mut load = Load {
        connections: Connections::open(args, |id| id)?,
        in_flight: args.in_flight as u64,
        latency: latencies()?,
    };

    load.echo_for(args.warm_up)?;
    load.latency.reset();
    let received = load.received();

    // Nothing is in flight at either end of the stretch, so that the time
    // the server used belongs to exactly the messages counted.
    let begin = meter.begin()?;
    let messages = load.echo_for(args.measured)?;
    let usage = meter.end(&begin)?;

    let more = json!({
        "p50_ns": load.latency.value_at_quantile(0.50),
        "p99_ns": load.latency.value_at_quantile(0.99),
    });
    let (compressed, bytes) = load.received();
    let compression = json!({
        "compressed": compressed - received.0,
        "bytes_from_server": bytes - received.1,
        "bytes_of_text": load.connections.messages.texts().mean() * messages as f64,
    });
    load.connections.close()?;
    let report = usage::with(usage.to_json(messages), more);
    Ok(if bytes > 0 { usage::with(report, compression) } else { report })
}

struct Load {
    connections: Connections,
    in_flight: u64,
    latency: Histogram<u64>,
}

impl Load {
    /// Sends for so long, then waits until all of it has come back. Says how
    /// many messages did.
    fn echo_for(&mut self, duration: Duration) -> Result<u64, String> {
        let Load { connections, in_flight, latency } = self;
        let before = connections.arrived();
        let begin = Instant::now();
        connections.restart_patience();
        for id in 0..connections.all.len() {
            fill(connections, id, *in_flight, begin)?;
        }
        loop {
            let mut sending = begin.elapsed() < duration;
            connections.turn(None, |connections, id, came| {
                let now = Instant::now();
                let connection = &mut connections.all[id];
                let waiting = connection.sender.next() - connection.check.expected();
                while connection.sent_at.len() as u64 > waiting {
                    if let Some(sent_at) = connection.sent_at.pop_front() {
                        note(latency, sent_at, now);
                    }
                }
                sending = sending && now - begin < duration;
                if sending && came {
                    fill(connections, id, *in_flight, now)
                } else {
                    connections.flush(id)
                }
            })?;
            if begin.elapsed() >= duration && connections.sent() == connections.arrived() {
                return Ok(connections.arrived() - before);
            }
        }
    }

    /// Of compressed texts: how many came so, and the bytes of all.
    fn received(&self) -> (u64, u64) {
        self.connections.all.iter().fold((0, 0), |sum, connection| match &connection.check {
            Check::Text(check) => (sum.0 + check.received().0, sum.1 + check.received().1),
            Check::Binary(_) => sum,
        })
    }
}

fn fill(
    connections: &mut Connections,
    id: usize,
    in_flight: u64,
    now: Instant,
) -> Result<(), String> {
    let connection = &connections.all[id];
    let waiting = connection.sender.next() - connection.check.expected();
    for _ in waiting..in_flight {
        connections.queue(id, now);
    }
    connections.flush(id)
}
