//! Load for WebSocket servers: keeps a fixed number of messages in flight,
//! checks every byte that comes back, and relates the count to what the server
//! spent on it. The servers that clients are measured with are here too.

mod args;
mod broadcast;
mod connect;
mod connections;
mod cpu_time;
mod echo;
mod echo_check;
mod idle;
mod memory;
mod messages;
mod sender;
mod serve;
mod socket;
mod text_check;
mod texts;
mod tls;
mod upgrade;
mod usage;

use std::process::ExitCode;

use args::{Args, Mode};

fn main() -> ExitCode {
    let result = Args::from_command_line().and_then(|args| match args {
        Some(args) => run(&args).map(|report| println!("{report}")),
        None => {
            print!("{}", args::USAGE);
            Ok(())
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("load: {what}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<serde_json::Value, String> {
    match args.mode {
        Mode::Echo => echo::run(args),
        Mode::Broadcast => broadcast::run(args),
        Mode::Connect => connect::run(args),
        Mode::Idle => idle::run(args),
        Mode::Accept => serve::accept(),
        Mode::Flood => serve::flood(args),
    }
}
