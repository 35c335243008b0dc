//! `migrate pepper`: a new pepper for a stopped gateway, and everything it keeps under the pseudonyms of that.

use std::ops::ControlFlow;
use std::process::ExitCode;

use super::audit::{audited, caller};
use super::{Migrate, print};
use crate::audit::{Action, Entry};
use crate::config::{self, Overrides};
use crate::gateway::DataLock;
use crate::gateway::migration::{Rotated, rotate_pepper};

pub(super) fn run(command: &Migrate) -> anyhow::Result<ExitCode> {
    let Migrate::Pepper { data_dir, config } = command;
    let overrides = Overrides { data_dir: Some(data_dir.path()), ..Overrides::default() };
    let config = config::load(config.as_deref(), std::env::vars_os(), &overrides)?.config;
    // Before anything is made: a gateway that runs is no rotation.
    drop(DataLock::acquire(&config.gateway.data_dir)?);
    let entry = Entry::new(caller(), Action::Pepper);
    let rotate = || Ok(rotate_pepper(&config, &mut |_| ControlFlow::Continue(()))?);
    let Rotated { epoch, records, rows, links } = audited(&config.gateway.data_dir, entry, rotate)?;
    let summary = serde_json::json!({
        "epoch": epoch,
        "records": records,
        "rows": rows.rows,
        "rows_found": rows.found,
        "links": links,
    });
    print(&format!("{summary}\n"))?;
    Ok(ExitCode::SUCCESS)
}
