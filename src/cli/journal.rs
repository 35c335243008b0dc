//! `journal`: what a journal's segments hold, the first bad offset, and bringing what it holds into the store.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{Journal, print};
use crate::config::{self, Overrides};
use crate::gateway::drain_journal;
use crate::journal;

pub(super) fn run(command: &Journal) -> anyhow::Result<ExitCode> {
    match command {
        Journal::Inspect { dir } => inspect(dir, true),
        Journal::Verify { dir } => inspect(dir, false),
        Journal::Drain { data_dir, config, timeout } => drain(data_dir.clone(), config.as_deref(), *timeout),
    }
}

fn inspect(dir: &Path, list: bool) -> anyhow::Result<ExitCode> {
    let inspection = journal::inspect(dir)?;
    if list {
        for segment in &inspection.segments {
            print(&format!("{}\n", serde_json::to_string(segment)?))?;
        }
    }
    let summary = serde_json::json!({
        "segments": inspection.segments.len(),
        "records": inspection.records,
        "bytes": inspection.bytes,
        "damage": inspection.damage,
    });
    print(&format!("{summary}\n"))?;
    Ok(if inspection.damage.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn drain(data_dir: Option<PathBuf>, config: Option<&Path>, timeout: Duration) -> anyhow::Result<ExitCode> {
    let overrides = Overrides { data_dir, ..Overrides::default() };
    let config = config::load(config, std::env::vars_os(), &overrides)?.config;
    crate::observe::log::start(&config.log);
    let leftover = drain_journal(&config, timeout)?;
    print(&serde_json::to_string(&leftover)?)?;
    Ok(if leftover.drained { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
