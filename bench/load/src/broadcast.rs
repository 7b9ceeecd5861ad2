//! One message to many: the first connection sends, all get it, and only then
//! comes the next.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{
    args::Args,
    connections::{Connections, latencies, note},
    usage::{self, Meter},
};

pub fn run(args: &Args) -> Result<Value, String> {
    let meter = Meter::new(args)?;
    let mut connections = Connections::open(args, |_| 0)?;
    let mut latency = latencies()?;

    broadcast_for(&mut connections, args.warm_up, &mut latency)?;
    latency.reset();
    let begin = meter.begin()?;
    let messages = broadcast_for(&mut connections, args.measured, &mut latency)?;
    let usage = meter.end(&begin)?;

    connections.close()?;
    let more = json!({
        "p50_ns": latency.value_at_quantile(0.50),
        "p99_ns": latency.value_at_quantile(0.99),
    });
    Ok(usage::with(usage.to_json(messages), more))
}

/// Says how many messages have arrived, one for each connection and broadcast.
/// Their times are those from sending to the last arrival.
fn broadcast_for(
    connections: &mut Connections,
    duration: Duration,
    latency: &mut Histogram<u64>,
) -> Result<u64, String> {
    let before = connections.arrived();
    let begin = Instant::now();
    loop {
        let sent_at = Instant::now();
        if sent_at - begin >= duration && connections.arrived() > before {
            return Ok(connections.arrived() - before);
        }
        connections.restart_patience();
        connections.queue(0, sent_at);
        connections.flush(0)?;
        let sent = connections.sent();
        let mut missing = connections.all.len();
        while missing > 0 {
            connections.turn(Some(sent), |connections, id, came| {
                if came {
                    missing -= 1;
                }
                connections.flush(id)
            })?;
        }
        note(latency, sent_at, Instant::now());
    }
}
