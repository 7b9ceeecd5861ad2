//! What the server, this process and the rest of the machine use over a
//! stretch of time.

use std::{
    process,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    args::Args,
    cpu_time::{self, CpuTime},
    memory,
};

pub struct Meter {
    server: CpuTime,
    client: CpuTime,
    spinner: Option<CpuTime>,
}

/// All figures at one time.
pub struct Reading {
    at: Instant,
    server_ns: u64,
    client_ns: u64,
    spinner_ns: u64,
    all_ns: u64,
    faults: u64,
}

impl Meter {
    pub fn new(args: &Args) -> Result<Self, String> {
        Ok(Meter {
            server: CpuTime::of(args.server_pid)?,
            client: CpuTime::of(process::id())?,
            spinner: args.spinner_pid.map(CpuTime::of).transpose()?,
        })
    }

    /// Before the stretch, with nothing in flight: the server comes to rest
    /// first, so that its time belongs to exactly what is counted.
    pub fn begin(&self) -> Result<Reading, String> {
        let server_ns = self.server.ns_at_rest()?;
        let mut reading = self.reading(server_ns, Instant::now())?;
        reading.at = Instant::now();
        Ok(reading)
    }

    /// After it, again with nothing in flight.
    pub fn end(&self, begin: &Reading) -> Result<Usage, String> {
        // What the server does until it is at rest belongs to it; the time
        // that passes does not.
        let at = Instant::now();
        let early = self.reading(0, at)?;
        let server_ns = self.server.ns_at_rest()? - begin.server_ns;
        let client_ns = early.client_ns - begin.client_ns;
        let spinner_ns = early.spinner_ns - begin.spinner_ns;
        let all_ns = early.all_ns - begin.all_ns;
        Ok(Usage {
            wall: at - begin.at,
            server_ns,
            client_ns,
            other_ns: all_ns.saturating_sub(server_ns + client_ns + spinner_ns),
            faults: memory::minor_faults(self.server.pid)? - begin.faults,
            clock: self.server.clock.name(),
        })
    }

    fn reading(&self, server_ns: u64, at: Instant) -> Result<Reading, String> {
        Ok(Reading {
            at,
            server_ns,
            client_ns: self.client.ns()?,
            spinner_ns: self.spinner.as_ref().map_or(Ok(0), CpuTime::ns)?,
            all_ns: cpu_time::of_all_ns()?,
            faults: memory::minor_faults(self.server.pid)?,
        })
    }
}

pub struct Usage {
    wall: Duration,
    server_ns: u64,
    client_ns: u64,
    /// What everything else on the machine used.
    other_ns: u64,
    faults: u64,
    clock: &'static str,
}

impl Usage {
    /// `count` of whatever was done.
    pub fn to_json(&self, count: u64) -> Value {
        json!({
            "count": count,
            "wall_ns": self.wall.as_nanos() as u64,
            "server_cpu_ns": self.server_ns,
            "client_cpu_ns": self.client_ns,
            "other_cpu_ns": self.other_ns,
            "minor_faults": self.faults,
            "cpu_clock": self.clock,
        })
    }
}

/// Both together; `more` is an object.
pub fn with(mut report: Value, more: Value) -> Value {
    if let (Value::Object(report), Value::Object(more)) = (&mut report, more) {
        report.extend(more);
    }
    report
}
