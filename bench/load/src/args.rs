//! The command line.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use lexopt::{Parser, prelude::*};

use crate::messages::STAMP;

pub const USAGE: &str = "\
usage: load MODE [options]

Modes, each of which prints one line of JSON when it is done:
  echo           keeps messages in flight, and checks every byte that comes back
  broadcast      sends on one connection what the server has to send to all
  connect        connections opened, upgraded and closed, over and over
  idle           the server's memory for open connections
  accept         a server for the connections of a client
  flood          a server that sends without pause to a client
The last two print their port first and end with their standard input.

  --port N           the server's port                      (all but the servers)
  --server-pid N     the server's process, to be measured   (all but the servers)
  --spinner-pid N    a process whose CPU time is nobody's load
  --wire KIND        ws, raw (bytes without WebSocket, as many), deflate (echo: JSON texts)
  --tls              over TLS, with any certificate
  --payload BYTES    payload of each message, at least 16   (16)
  --connections N    connections                            (1)
  --in-flight N      messages in flight on each connection  (1)
  --warm-up SECONDS  load before anything is counted        (0.3)
  --seconds SECONDS  how long to send while counting        (1)
  --spin             ask for events without sleeping in between
  --stall SECONDS    give up when nothing moves for so long (20)
";

/// Beyond these a slip of the hand would fill the machine's memory.
const PAYLOAD: RangeInclusive<usize> = STAMP..=64 << 20;
const CONNECTIONS: RangeInclusive<usize> = 1..=100_000;
const IN_FLIGHT: RangeInclusive<usize> = 1..=4096;
const MAX_SECONDS: f64 = 600.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Echo,
    Broadcast,
    Connect,
    Idle,
    Accept,
    Flood,
}

impl Mode {
    const NAMES: [(&str, Mode); 6] = [
        ("echo", Mode::Echo),
        ("broadcast", Mode::Broadcast),
        ("connect", Mode::Connect),
        ("idle", Mode::Idle),
        ("accept", Mode::Accept),
        ("flood", Mode::Flood),
    ];

    fn is_server(self) -> bool {
        matches!(self, Mode::Accept | Mode::Flood)
    }
}

/// What a message is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    WebSocket,
    Raw,
    Deflate,
}

impl Wire {
    const NAMES: [(&str, Wire); 3] =
        [("ws", Wire::WebSocket), ("raw", Wire::Raw), ("deflate", Wire::Deflate)];
}

#[derive(Debug)]
pub struct Args {
    pub mode: Mode,
    pub port: u16,
    pub server_pid: u32,
    pub spinner_pid: Option<u32>,
    pub wire: Wire,
    pub tls: bool,
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
        Self::parse(Parser::from_env()).map_err(|e| e.to_string())
    }

    fn parse(mut parser: Parser) -> Result<Option<Self>, lexopt::Error> {
        let mut mode = None;
        let mut port = None;
        let mut server_pid = None;
        let mut args = Args {
            mode: Mode::Echo,
            port: 0,
            server_pid: 0,
            spinner_pid: None,
            wire: Wire::WebSocket,
            tls: false,
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
                Value(name) if mode.is_none() => mode = Some(named("MODE", &Mode::NAMES, name)?),
                Long("port") => port = Some(parser.value()?.parse()?),
                Long("server-pid") => server_pid = Some(parser.value()?.parse()?),
                Long("spinner-pid") => args.spinner_pid = Some(parser.value()?.parse()?),
                Long("wire") => args.wire = named("--wire", &Wire::NAMES, parser.value()?)?,
                Long("tls") => args.tls = true,
                Long("payload") => args.payload = within("--payload", &mut parser, PAYLOAD)?,
                Long("connections") => {
                    args.connections = within("--connections", &mut parser, CONNECTIONS)?;
                }
                Long("in-flight") => {
                    args.in_flight = within("--in-flight", &mut parser, IN_FLIGHT)?;
                }
                Long("warm-up") => args.warm_up = seconds(&mut parser)?,
                Long("seconds") => args.measured = seconds(&mut parser)?,
                Long("spin") => args.spin = true,
                Long("stall") => args.stall = seconds(&mut parser)?,
                Long("help") | Short('h') => return Ok(None),
                other => return Err(other.unexpected()),
            }
        }
        args.mode = mode.ok_or("MODE is missing")?;
        if !args.mode.is_server() {
            args.port = port.ok_or("--port is missing")?;
            args.server_pid = server_pid.ok_or("--server-pid is missing")?;
        }
        if args.mode != Mode::Echo && args.wire != Wire::WebSocket {
            return Err("--wire is for echo".into());
        }
        Ok(Some(args))
    }
}

fn named<T: Copy>(
    option: &str,
    names: &[(&str, T)],
    given: std::ffi::OsString,
) -> Result<T, lexopt::Error> {
    let found = names.iter().find(|(name, _)| *name == given);
    found.map(|&(_, value)| value).ok_or_else(|| {
        let all: Vec<_> = names.iter().map(|&(name, _)| name).collect();
        format!("{option} must be one of {}", all.join(", ")).into()
    })
}

fn within<T>(
    option: &str,
    parser: &mut Parser,
    range: RangeInclusive<T>,
) -> Result<T, lexopt::Error>
where
    T: FromStr<Err: Into<Box<dyn std::error::Error + Send + Sync>>> + PartialOrd + Display,
{
    let value = parser.value()?.parse()?;
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(format!("{option} must be {}..{}", range.start(), range.end()).into())
    }
}

fn seconds(parser: &mut Parser) -> Result<Duration, lexopt::Error> {
    let value: f64 = parser.value()?.parse()?;
    if (0.0..=MAX_SECONDS).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(format!("seconds must be 0..{MAX_SECONDS}").into())
    }
}
