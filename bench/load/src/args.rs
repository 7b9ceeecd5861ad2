//! The command line.

use std::time::Duration;

use lexopt::prelude::*;

use crate::messages::STAMP;

pub const USAGE: &str = "\
usage: load --port N --server-pid N [options]
  --payload BYTES    payload of each message, at least 16   (16)
  --connections N    connections                            (1)
  --in-flight N      messages in flight on each connection  (1)
  --warm-up SECONDS  load before anything is counted        (0.3)
  --seconds SECONDS  how long to send while counting        (1)
  --spin             ask for events without sleeping in between
  --stall SECONDS    give up when nothing moves for so long (20)
";

/// Beyond these a slip of the hand would fill the machine's memory.
const MAX_PAYLOAD: usize = 64 << 20;
const MAX_CONNECTIONS: usize = 1000;
const MAX_IN_FLIGHT: usize = 4096;
const MAX_SECONDS: f64 = 600.0;

#[derive(Debug)]
pub struct Args {
    pub port: u16,
    pub server_pid: u32,
    pub payload: usize,
    pub connections: usize,
    pub in_flight: usize,
    pub warm_up: Duration,
    pub measured: Duration,
    pub spin: bool,
    pub stall: Duration,
}

impl Args {
    /// `None` when only the usage is asked for.
    pub fn from_command_line() -> Result<Option<Self>, String> {
        Self::parse(lexopt::Parser::from_env()).map_err(|e| e.to_string())
    }

    fn parse(mut parser: lexopt::Parser) -> Result<Option<Self>, lexopt::Error> {
        let mut port = None;
        let mut server_pid = None;
        let mut args = Args {
            port: 0,
            server_pid: 0,
            payload: STAMP,
            connections: 1,
            in_flight: 1,
            warm_up: Duration::from_millis(300),
            measured: Duration::from_secs(1),
            spin: false,
            stall: Duration::from_secs(20),
        };
        while let Some(arg) = parser.next()? {
            match arg {
                Long("port") => port = Some(parser.value()?.parse()?),
                Long("server-pid") => server_pid = Some(parser.value()?.parse()?),
                Long("payload") => args.payload = parser.value()?.parse()?,
                Long("connections") => args.connections = parser.value()?.parse()?,
                Long("in-flight") => args.in_flight = parser.value()?.parse()?,
                Long("warm-up") => args.warm_up = seconds(&parser.value()?.parse::<f64>()?)?,
                Long("seconds") => args.measured = seconds(&parser.value()?.parse::<f64>()?)?,
                Long("spin") => args.spin = true,
                Long("stall") => args.stall = seconds(&parser.value()?.parse::<f64>()?)?,
                Long("help") | Short('h') => return Ok(None),
                other => return Err(other.unexpected()),
            }
        }
        args.port = port.ok_or("--port is missing")?;
        args.server_pid = server_pid.ok_or("--server-pid is missing")?;
        if !(STAMP..=MAX_PAYLOAD).contains(&args.payload) {
            return Err(format!("--payload must be {STAMP}..{MAX_PAYLOAD}").into());
        }
        if !(1..=MAX_CONNECTIONS).contains(&args.connections) {
            return Err(format!("--connections must be 1..{MAX_CONNECTIONS}").into());
        }
        if !(1..=MAX_IN_FLIGHT).contains(&args.in_flight) {
            return Err(format!("--in-flight must be 1..{MAX_IN_FLIGHT}").into());
        }
        Ok(Some(args))
    }
}

fn seconds(value: &f64) -> Result<Duration, lexopt::Error> {
    if (0.0..=MAX_SECONDS).contains(value) {
        Ok(Duration::from_secs_f64(*value))
    } else {
        Err(format!("seconds must be 0..{MAX_SECONDS}").into())
    }
}
