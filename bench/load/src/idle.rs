//! What open connections cost the server in memory while nothing happens.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{args::Args, connections::Connections, cpu_time::CpuTime, memory::resident};

/// After it the servers' timers for what is not used any more have come.
const SETTLE: Duration = Duration::from_millis(500);

pub fn run(args: &Args) -> Result<Value, String> {
    let server = CpuTime::of(args.server_pid)?;
    let settled = || -> Result<u64, String> {
        sleep(SETTLE);
        server.ns_at_rest()?;
        resident(args.server_pid)
    };

    // What is made once, with the first connection, belongs to none of them.
    let mut first = Connections::open(&Args { connections: 1, ..*args }, |id| id)?;
    echo_each(&mut first)?;
    first.close()?;

    let before = settled()?;
    let mut connections = Connections::open(args, |id| id)?;
    let fresh = settled()?;
    echo_each(&mut connections)?;
    let used = settled()?;
    connections.close()?;
    Ok(json!({
        "count": args.connections,
        "resident": before,
        "resident_fresh": fresh,
        "resident_used": used,
    }))
}

/// One after the other, so that the server needs no more at a time than for one.
fn echo_each(connections: &mut Connections) -> Result<(), String> {
    for id in 0..connections.all.len() {
        connections.restart_patience();
        connections.queue(id, Instant::now());
        connections.flush(id)?;
        while connections.all[id].check.expected() == 0 {
            connections.turn(None, |connections, id, _| connections.flush(id))?;
        }
    }
    Ok(())
}
