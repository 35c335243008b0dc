//! `audit`: the audit log's chain and its records; and how commands write to it.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use super::{Audit, print};
use crate::audit::{self, AuditLog, AuditSettings, Entry, Head, Outcome, Record, RecordHash};
use crate::config::Config;
use crate::gateway::{audit_dir, audit_settings};
use crate::scan::UnixMillis;

/// Records that `show --last` may keep in memory.
const LAST_MAX: usize = 1_000_000;

pub(super) fn run(command: &Audit) -> anyhow::Result<ExitCode> {
    match command {
        Audit::Verify { dir, head } => {
            let verified = audit::verify(dir, *head)?;
            print(&serde_json::to_string(&verified)?)?;
            Ok(if verified.broken.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Audit::Show { dir, last } => show(dir, *last),
    }
}

fn show(dir: &Path, last: Option<usize>) -> anyhow::Result<ExitCode> {
    let keep = last.map(|last| last.min(LAST_MAX));
    let mut kept: VecDeque<Record> = VecDeque::new();
    let mut failed = Ok(());
    let broken = audit::each(dir, &mut |record| {
        match keep {
            Some(keep) => {
                kept.push_back(record.clone());
                if kept.len() > keep {
                    kept.pop_front();
                }
            }
            None => failed = print_record(record),
        }
        if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    failed?;
    for record in &kept {
        print_record(record)?;
    }
    if let Some(broken) = broken {
        eprintln!(
            "error: {}:{}: {}; see `scangate audit verify`",
            broken.file.display(),
            broken.line,
            broken.what
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_record(record: &Record) -> anyhow::Result<()> {
    print(&serde_json::to_string(record)?)?;
    Ok(())
}

/// A head as it is logged and shown: `SEQ:HASH`.
pub(super) fn parse_head(text: &str) -> Result<Head, String> {
    let parts =
        text.split_once(':').and_then(|(seq, hash)| Some((seq.parse().ok()?, RecordHash::parse(hash)?)));
    parts
        .map(|(seq, hash)| Head { seq, hash })
        .ok_or_else(|| "must be a record's number, ':' and its hash".to_owned())
}

/// What the log calls whoever runs a command.
pub(super) fn caller() -> String {
    let user = std::fs::metadata("/proc/self").map(|process| process.uid().to_string());
    format!("cli:{}", user.as_deref().unwrap_or("unknown"))
}

/// A command's call that the log has the beginning of.
pub(super) struct Audited {
    log: AuditLog,
    number: u64,
    entry: Entry,
}

impl Audited {
    pub(super) fn begin(config: &Config, entry: Entry) -> anyhow::Result<Self> {
        Self::begin_in(&config.gateway.data_dir, audit_settings(config), entry)
    }

    fn begin_in(data_dir: &Path, settings: AuditSettings, entry: Entry) -> anyhow::Result<Self> {
        let log = AuditLog::new(&audit_dir(data_dir), settings);
        let number = log.append(&entry, Outcome::Begun, UnixMillis::now()).context(NOT_IN_THE_LOG)?;
        Ok(Self { log, number, entry })
    }

    pub(super) fn end(self, outcome: Outcome, rows: Option<u64>) -> anyhow::Result<()> {
        self.log.end(self.number, &self.entry, (outcome, rows), UnixMillis::now())?;
        Ok(())
    }
}

const NOT_IN_THE_LOG: &str = "nothing was done, since it can't be put in the audit log";

/// Does what changes a data directory between two records.
pub(super) fn audited<T>(
    data_dir: &Path,
    entry: Entry,
    change: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let call = Audited::begin_in(data_dir, AuditSettings::default(), entry)?;
    let changed = change();
    call.end(if changed.is_ok() { Outcome::Done } else { Outcome::Failed }, None)?;
    changed
}
