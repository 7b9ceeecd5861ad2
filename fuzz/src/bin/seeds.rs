//! Writes the seeds of the targets: `seeds DIR` makes `DIR/<target>/<number>`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs, io};

use aews_fuzz::seeds::seeds;
use aews_fuzz::target::TARGETS;

fn write(directory: PathBuf) -> io::Result<()> {
    for (target, _) in TARGETS {
        let directory = directory.join(target);
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds(target).into_iter().enumerate() {
            fs::write(directory.join(format!("{number:03}")), seed)?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: seeds DIR");
        return ExitCode::from(2);
    };
    match write(directory.into()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seeds: {error}");
            ExitCode::from(2)
        }
    }
}
