//! `migrate schema`: the database's tables. `migrate pepper`: a new pepper for a stopped gateway, and everything
//! it keeps under the pseudonyms of that.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use super::audit::{audited, caller};
use super::{DataDir, Migrate, print};
use crate::audit::{Action, Entry};
use crate::config::{self, Overrides};
use crate::gateway::migration::{Rotated, rotate_pepper};
use crate::gateway::{DataLock, migrate_schema};

pub(super) fn run(command: &Migrate) -> anyhow::Result<ExitCode> {
    match command {
        Migrate::Schema { config, check } => schema(config.as_deref(), *check),
        Migrate::Pepper { data_dir, config } => pepper(data_dir, config.as_deref()),
    }
}

fn schema(config: Option<&Path>, check: bool) -> anyhow::Result<ExitCode> {
    let config = config::load(config, std::env::vars_os(), &Overrides::default())?.config;
    let report = migrate_schema(&config, check)?;
    for migration in &report.migrations {
        print(&serde_json::to_string(migration)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn pepper(data_dir: &DataDir, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let overrides = Overrides { data_dir: Some(data_dir.path()), ..Overrides::default() };
    let config = config::load(config, std::env::vars_os(), &overrides)?.config;
    // Before anything is made: a gateway that runs is no rotation.
    drop(DataLock::acquire(&config.gateway.data_dir)?);
    let entry = Entry::new(caller(), Action::Pepper);
    let rotate = || Ok(rotate_pepper(&config, &mut |_| ControlFlow::Continue(()))?);
    let Rotated { epoch, records, rows, links, events, entries } =
        audited(&config.gateway.data_dir, entry, rotate)?;
    let summary = serde_json::json!({
        "epoch": epoch,
        "records": records,
        "rows": rows.rows,
        "rows_found": rows.found,
        "links": links,
        "events": events,
        "entries": entries,
    });
    print(&format!("{summary}\n"))?;
    Ok(ExitCode::SUCCESS)
}
