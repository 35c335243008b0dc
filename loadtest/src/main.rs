//! Load and fault scenarios for scangate, each ending in an audit, and a comparison of costs in one run.

mod closed;
mod codes;
mod compare;
mod cpu;
mod idle;
mod issue;
mod machine;
mod requests;
mod server;
mod sources;
mod sys;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about, version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// CPU a request, memory a connection: scangate on both runtimes and nginx, in one run.
    Compare(compare::Options),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Compare(options) => compare::run(&options),
    }
}
