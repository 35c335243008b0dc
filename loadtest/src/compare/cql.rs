//! The same scans with one CQL node behind the server: what the server spends, and what the node does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::Options;
use super::bench::Bench;
use crate::closed::Closed;
use crate::cpu;
use crate::database::Database;
use crate::peers::Peer;
use crate::server::{Server, Site};
use crate::sources::{Cached, Limited};

const NODE: &str = "127.0.0.1:9042";
/// The gateway's counter of check-ins that the store has acknowledged.
const STORED: &str = "scangate_store_written_rows_total";
const KEYSPACE: &str = "scangate_compare";
/// A store that falls behind must catch up within this time.
const CATCH_UP_S_MAX: u64 = 300;

/// What servers and node spent.
#[derive(Debug, Serialize, Deserialize)]
pub struct WithCql {
    /// Each server.
    pub servers: Vec<Served>,
    /// Bytes on the node's disk for a check-in of scangate's: both tables, compressed, without the commit log.
    pub disk_bytes_each: f64,
}

/// One server, and the node behind it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Served {
    /// Which.
    pub server: String,
    /// Check-ins.
    pub count: u64,
    /// Answers a second.
    pub answered_per_s: f64,
    /// Check-ins a second until the last was in the database.
    pub stored_per_s: f64,
    /// CPU of the server a check-in.
    pub server_us: f64,
    /// CPU of the node a check-in.
    pub database_us: f64,
    /// Client-side latency in microseconds, closed loop.
    pub p50_us: u64,
    /// As above.
    pub p99_us: u64,
}

impl WithCql {
    /// Some lines for the terminal.
    pub fn table(&self) -> String {
        let mut out =
            String::from("\nsingle POST of a cached SG1 token, with one CQL node on the same cores\n");
        for served in &self.servers {
            let _ = writeln!(
                out,
                "  {:<10} {:>8.2} µs CPU of the server, {:.2} of the node  {:>7.0}/s answered, {:.0}/s stored  p50 {} µs  \
                 p99 {} µs  of {}",
                served.server,
                served.server_us,
                served.database_us,
                served.answered_per_s,
                served.stored_per_s,
                served.p50_us,
                served.p99_us,
                served.count
            );
        }
        let _ = writeln!(out, "  {:.0} bytes of the node's disk a check-in", self.disk_bytes_each);
        out
    }
}

/// scangate and the peer, one after the other, on one node.
pub fn measure(bench: &Bench<'_>, options: &Options) -> Result<WithCql> {
    let (name, site) = bench.first()?;
    let database = Database::start(&options.cql_script, &options.work_dir)?;
    let gateway = site
        .sibling()?
        .set("store.kind", "cql")
        .set("cql.nodes", &format!(r#"["{NODE}"]"#))
        .set("cql.keyspace", KEYSPACE);
    let tokens = bench.tokens(name)?.get(..options.connections).context("too few tokens")?;
    let codes = bench.codes(name)?;
    let source = || Cached::new(tokens, codes, 0, 201);
    let mut servers = Vec::new();
    {
        let server = gateway.start()?;
        servers.push(served(name, &server, Some(&gateway), &database, options, source())?);
        server.terminate(Duration::from_secs(CATCH_UP_S_MAX))?;
    }
    if options.peer != Path::new("none") {
        let peer = Peer::new(&options.peer, &site.data, options.server_core, Some(NODE), &options.work_dir)?;
        servers.push(served("axum+cql", &peer.start()?, None, &database, options, source())?);
    }
    // A quarter more was sent first, to warm up.
    let stored = options.cql_scans + options.cql_scans / 4;
    let bytes = database.stop_and_measure(KEYSPACE, "checkins_by_")?;
    #[allow(clippy::cast_precision_loss)] // Bytes of a run.
    Ok(WithCql { servers, disk_bytes_each: bytes as f64 / stored as f64 })
}

#[allow(clippy::cast_precision_loss)] // Counts of a run stay far below 2^52.
fn served(
    name: &str,
    server: &Server,
    gateway: Option<&Site>,
    database: &Database,
    options: &Options,
    mut source: Cached,
) -> Result<Served> {
    let mut client = Closed::connect(server.listen, options.connections)?;
    let forever = Duration::from_secs(CATCH_UP_S_MAX);
    let mut run = |count: u64| {
        let stored_before = gateway.map_or(Ok(0.0), |gateway| gateway.metric(STORED))?;
        let started = Instant::now();
        let stretch = client.run(forever, &mut Limited::new(&mut source, count))?;
        // The peer's answers come after the write.
        if let Some(gateway) = gateway {
            stored(gateway, stored_before + count as f64)?;
        }
        Ok::<_, anyhow::Error>((stretch, started.elapsed()))
    };
    run(options.cql_scans / 4)?;
    let (pids, node) = (server.pids(), [database.pid()?]);
    let (before, node_before) = (cpu::usage(&pids)?, cpu::usage(&node)?);
    let (stretch, until_stored) = run(options.cql_scans)?;
    let count = stretch.answers();
    ensure!(stretch.statuses == BTreeMap::from([(201, count)]), "{name} answered {:?}", stretch.statuses);
    Ok(Served {
        server: name.to_owned(),
        count,
        answered_per_s: count as f64 / stretch.elapsed.as_secs_f64(),
        stored_per_s: count as f64 / until_stored.as_secs_f64(),
        server_us: cpu::usage(&pids)?.since(&before, count).total_us,
        database_us: cpu::usage(&node)?.since(&node_before, count).total_us,
        p50_us: stretch.latency_us.value_at_quantile(0.5),
        p99_us: stretch.latency_us.value_at_quantile(0.99),
    })
}

/// Waits until the store has acknowledged so many check-ins.
fn stored(gateway: &Site, wanted: f64) -> Result<()> {
    let started = Instant::now();
    while gateway.metric(STORED)? < wanted {
        ensure!(
            started.elapsed().as_secs() < CATCH_UP_S_MAX,
            "the store didn't catch up in {CATCH_UP_S_MAX} s"
        );
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
