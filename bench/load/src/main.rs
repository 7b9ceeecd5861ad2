//! Load for a WebSocket echo server: keeps a fixed number of messages in
//! flight, checks every byte that comes back, and relates the count to the
//! CPU time the server spent on it. Prints one line of JSON.

mod args;
mod cpu_time;
mod echo_check;
mod load;
mod messages;
mod sender;
mod socket;

use std::process::ExitCode;

fn main() -> ExitCode {
    let result = args::Args::from_command_line().and_then(|args| match args {
        Some(args) => load::run(&args).map(|report| println!("{}", report.to_json(&args))),
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
