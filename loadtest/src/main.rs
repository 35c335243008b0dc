//! Load and fault scenarios for scangate, each ending in an audit, and a comparison of costs in one run.

mod audit;
mod closed;
mod codes;
mod compare;
mod corpus;
mod cpu;
mod database;
mod idle;
mod issue;
mod ledger;
mod machine;
mod model;
mod morning;
mod open;
mod peers;
mod plot;
mod poison;
mod profile;
mod record;
mod report;
mod requests;
mod scale;
mod scenarios;
mod server;
mod services;
mod sources;
mod sys;
mod thresholds;
mod tls;
mod tracing;
mod traffic;
mod wire;

use std::process::ExitCode;

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
    /// CPU a request, latency, memory a connection: scangate, nginx, an axum peer and Benthos, in one run.
    Compare(Box<compare::Options>),
    /// CPU, rate, latency and memory of a check-in over connections, lines of a batch, entries remembered and cores.
    Scale(scale::Options),
    /// What a nation's check-ins take, from measured unit costs and stated assumptions.
    Model(model::Options),
    /// What the decoders read in folders of images with their texts, how fast; or makes such a folder.
    Corpus(corpus::Options),
    /// Frames that mean harm, by the number: no process may die. And the worst crafted ones, by the clock.
    Hostile(corpus::HostileOptions),
    /// A morning of declarations, the gateway killed in the middle of it, and an audit.
    Morning(morning::Options),
    /// Officers ask for cases, approve, read and notify, the gateway killed in the middle of it, beside check-ins.
    TraceStorm(services::storm::Options),
    /// Readers of the risk map while a day of it is published and check-ins arrive.
    Map(services::map::Options),
    /// Feedback with and without photos, the gateway killed in the middle of it, and an audit.
    Feedback(services::feedback::Options),
    /// How long a case of contact tracing takes in an embedded store of so many check-ins.
    Tracing(tracing::Options),
    /// One rate.
    Steady(Box<scenarios::Options>),
    /// Ten times the rate within ten seconds, held, and back.
    RushHour(Box<scenarios::Options>),
    /// A day of scans from many devices (--amount) at once, a third of the batches sent twice.
    Backlog(Box<scenarios::Options>),
    /// The database is killed for a while (--amount, in seconds), then comes back.
    Outage(Box<scenarios::Options>),
    /// The database is paused for a while (--amount, in seconds), then goes on.
    Paused(Box<scenarios::Options>),
    /// All connections are closed and opened again, ten times.
    ReconnectStorm(Box<scenarios::Options>),
    /// Connections (--amount) that never end their requests, beside a steady load.
    Slowloris(Box<scenarios::Options>),
    /// Every hostile payload and request there is, --amount times, beside a steady load.
    Poison(Box<scenarios::Options>),
    /// Steady for long, with an eye on memory.
    Soak(Box<scenarios::Options>),
    /// The gateway is killed with SIGKILL --amount times.
    KillLoop(Box<scenarios::Options>),
    /// Two gateways on one database receive the same scans.
    TwoGateways(Box<scenarios::Options>),
    /// Frames at three times what is read of them (--amount times, with pauses), beside payloads that must not
    /// feel it.
    Frames(Box<scenarios::Options>),
}

fn main() -> Result<ExitCode> {
    use scenarios::Scenario;
    // This binary is executed again for the processes that read frames.
    scangate::decode::sandbox::worker_main();
    let (scenario, options) = match Cli::parse().command {
        Command::Compare(options) => return compare::run(&options).map(exit_code),
        Command::Scale(options) => return scale::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Model(options) => return model::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Corpus(options) => return corpus::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Hostile(options) => return corpus::survive(&options).map(exit_code),
        Command::Morning(options) => return morning::run(&options).map(exit_code),
        Command::TraceStorm(options) => return services::storm::run(&options).map(exit_code),
        Command::Map(options) => return services::map::run(&options).map(exit_code),
        Command::Feedback(options) => return services::feedback::run(&options).map(exit_code),
        Command::Tracing(options) => return tracing::run(&options).map(exit_code),
        Command::Steady(options) => (Scenario::Steady, options),
        Command::RushHour(options) => (Scenario::RushHour, options),
        Command::Backlog(options) => (Scenario::Backlog, options),
        Command::Outage(options) => (Scenario::Outage, options),
        Command::Paused(options) => (Scenario::Paused, options),
        Command::ReconnectStorm(options) => (Scenario::ReconnectStorm, options),
        Command::Slowloris(options) => (Scenario::Slowloris, options),
        Command::Poison(options) => (Scenario::Poison, options),
        Command::Soak(options) => (Scenario::Soak, options),
        Command::KillLoop(options) => (Scenario::KillLoop, options),
        Command::TwoGateways(options) => (Scenario::TwoGateways, options),
        Command::Frames(options) => (Scenario::Frames, options),
    };
    scenarios::run(scenario, &options).map(exit_code)
}

fn exit_code(passed: bool) -> ExitCode {
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
