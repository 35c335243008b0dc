//! The `scangate` binary: parse, run, map an error to its exit code.

use std::process::ExitCode;

use clap::Parser as _;
use scangate::cli::{self, Cli};

fn main() -> ExitCode {
    // First of all: the gateway re-executes itself as the process that reads frames.
    scangate::decode::sandbox::worker_main();
    // Wrong usage ends here with exit code 2, help and version with 0.
    let Cli { command } = Cli::parse();
    cli::run(command).unwrap_or_else(|error| cli::report(&error))
}
