//! `migrate pepper`: a new pepper for a stopped gateway, and everything it keeps under the pseudonyms of that.

use std::ops::ControlFlow;
use std::process::ExitCode;

use super::{Migrate, print};
use crate::config::{self, Overrides};
use crate::gateway::migration::{Rotated, rotate_pepper};

pub(super) fn run(command: &Migrate) -> anyhow::Result<ExitCode> {
    let Migrate::Pepper { data_dir, config } = command;
    let overrides = Overrides { data_dir: Some(data_dir.path()), ..Overrides::default() };
    let config = config::load(config.as_deref(), std::env::vars_os(), &overrides)?.config;
    let Rotated { epoch, records, rows, links } = rotate_pepper(&config, &mut |_| ControlFlow::Continue(()))?;
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
