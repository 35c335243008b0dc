//! The usual way to take check-ins, for comparison: axum, serde_json, and a database write before the answer.
//!
//! It promises what scangate promises, that a 201 is on disk, and says the same in the same words; what differs
//! is how. README.md beside this says what it does, what it leaves out, and why that is fair.

mod codes;
mod cql;
mod database;
mod devices;
mod embedded;
mod http;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use scangate::identity::Identity;
use scangate::verify::{Keys, Pepper};
use tokio::net::TcpSocket;
use tokio::signal::unix::{SignalKind, signal};

use database::Database;

/// Connections that wait to be accepted: as many as scangate lets wait.
const BACKLOG: u32 = 8192;

#[derive(Parser)]
#[command(about, version)]
struct Cli {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// A gateway's data directory, of which only the keys are read.
    #[arg(long)]
    keys: PathBuf,
    /// Directory of the embedded database.
    #[arg(long, required_unless_present = "cql")]
    store: Option<PathBuf>,
    /// A CQL database instead, as HOST:PORT.
    #[arg(long, conflicts_with = "store")]
    cql: Option<String>,
    /// Keyspace in the CQL database; made if it is missing.
    #[arg(long, default_value = "scangate_peer")]
    keyspace: String,
    /// Threads that serve requests.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    ensure!(cli.threads > 0, "--threads must be at least 1");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cli.threads)
        .thread_name("peer")
        .enable_all()
        .build()?;
    runtime.block_on(serve(&cli))
}

async fn serve(cli: &Cli) -> Result<()> {
    let keys = Arc::new(Keys::load(&cli.keys)?);
    let identity = Arc::new(Identity::new(&Pepper::load(&cli.keys)?));
    let database = match (&cli.store, &cli.cql) {
        (Some(directory), _) => Database::Embedded(embedded::Embedded::open(directory)?),
        (None, Some(node)) => {
            let cql = Box::pin(cql::Cql::connect(node, &cli.keyspace)).await?;
            Database::Cql(Box::new(cql))
        }
        (None, None) => anyhow::bail!("either --store or --cql"),
    };
    let app = http::App {
        devices: devices::Devices::new(keys.clone(), identity.clone()),
        codes: codes::Codes::new(keys, identity.clone()),
        identity,
        database,
    };
    let socket = if cli.listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(cli.listen).with_context(|| format!("can't listen on {}", cli.listen))?;
    let listener = socket.listen(BACKLOG)?;
    let mut terminated = signal(SignalKind::terminate())?;
    http::serve(listener, app, async move {
        terminated.recv().await;
    })
    .await
}
