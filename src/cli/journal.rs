//! `journal`: what a journal's segments hold, and the first bad offset.

use std::process::ExitCode;

use super::{Journal, print};
use crate::journal;

pub(super) fn run(command: &Journal) -> anyhow::Result<ExitCode> {
    let (dir, verify) = match command {
        Journal::Inspect { dir } => (dir, false),
        Journal::Verify { dir } => (dir, true),
    };
    let inspection = journal::inspect(dir)?;
    if !verify {
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
