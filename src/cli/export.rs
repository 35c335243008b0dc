//! `export` and `trace`: check-ins as NDJSON, from the running gateway if there is one, and else from the store itself.
//! Either way the audit log has the call before the first line is out.

use std::io::{self, BufRead as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::admin_client::{self, Ask, encoded};
use super::audit::Audited;
use super::{Export, Trace};
use crate::audit::{Action, Entry, Outcome, Purpose};
use crate::config::{self, Config, Overrides};
use crate::gateway::{DataLock, GatewayError, migration, open_store};
use crate::identity::Identity;
use crate::identity::links::LinkReader;
use crate::issue::REFERENCE_BYTES_MAX;
use crate::scan::{DAY_MS, Pseudonym};
use crate::store::export::{ExportError, ExportRange, export};
use crate::store::trace::{TRACE_DAYS_MAX, trace};
use crate::verify::{Pepper, unhex};

pub(super) fn run(command: &Export) -> anyhow::Result<ExitCode> {
    let config = load(command)?;
    let data_dir = &config.gateway.data_dir;
    match DataLock::holder(data_dir) {
        Some(holder) => {
            let purpose = command.purpose.as_deref().map(|text| format!("&purpose={}", encoded(text)));
            let purpose = purpose.unwrap_or_default();
            let target = format!("/v1/export?from={}&to={}{purpose}", command.from, command.to);
            let ask = Ask { method: "GET", target: &target, body: "" };
            admin_client::ask(&holder, data_dir, &command.token, &ask)?;
        }
        None => from_store(&config, command, None)?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn run_trace(command: &Trace) -> anyhow::Result<ExitCode> {
    let Trace { person, range } = command;
    let person = if person == "-" {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        line.trim().to_owned()
    } else {
        person.trim().to_owned()
    };
    if !(1..=REFERENCE_BYTES_MAX).contains(&person.len()) {
        bail!("PERSON must have 1 to {REFERENCE_BYTES_MAX} bytes");
    }
    let config = load(range)?;
    let data_dir = &config.gateway.data_dir;
    if let Some(holder) = DataLock::holder(data_dir) {
        let mut body = serde_json::json!({
            "person": person,
            "from": range.from.to_string(),
            "to": range.to.to_string(),
        });
        if let (Some(purpose), Some(members)) = (&range.purpose, body.as_object_mut()) {
            members.insert("purpose".to_owned(), purpose.as_str().into());
        }
        let ask = Ask { method: "POST", target: "/v1/trace", body: &body.to_string() };
        admin_client::ask(&holder, data_dir, &range.token, &ask)?;
    } else if range.to.0.saturating_sub(range.from.0) > TRACE_DAYS_MAX * DAY_MS {
        bail!("--to must be at most {TRACE_DAYS_MAX} days after --from");
    } else {
        from_store(&config, range, Some(&person))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn load(command: &Export) -> anyhow::Result<Config> {
    let overrides = Overrides { data_dir: Some(command.data_dir.path()), ..Overrides::default() };
    Ok(config::load(command.config.as_deref(), std::env::vars_os(), &overrides)?.config)
}

/// Reads the store of a directory that no gateway holds.
fn from_store(config: &Config, command: &Export, person: Option<&str>) -> anyhow::Result<()> {
    let data_dir = &config.gateway.data_dir;
    let purpose = command.purpose.as_deref().map(Purpose::parse).transpose().context("--purpose")?;
    if config.admin.purpose_required && purpose.is_none() {
        bail!("--purpose is required (admin.purpose_required)");
    }
    let _lock = DataLock::acquire(data_dir)?;
    if migration::is_under_way(data_dir)? {
        return Err(GatewayError::RotationUnderWay.into());
    }
    let widest_s = config.deduplicate.windows_s_by_class.values().copied().max().unwrap_or(0);
    let range = ExportRange::over(command.from, command.to, widest_s.max(config.deduplicate.window_s));
    let links = LinkReader::open(&data_dir.join("identity"))?;
    let person = match person {
        Some(reference) => {
            let own = match unhex(reference) {
                Some(pseudonym) => Pseudonym(pseudonym),
                None => Identity::new(&Pepper::load(data_dir)?).person_reference(reference),
            };
            Some(links.citizen_of(own)?)
        }
        None => None,
    };
    let action = if person.is_some() { Action::Trace } else { Action::Export };
    let entry = Entry::new(super::audit::caller(), action).over(command.from, command.to).purpose(purpose);
    let entry = match person {
        Some(person) => entry.about(person),
        None => entry,
    };
    let call = Audited::begin(config, entry)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let read = read(config, person, range, &links, &mut out);
    let (outcome, rows) = match &read {
        Ok(rows) => (Outcome::Done, Some(*rows)),
        Err(error) => (if is_output(error) { Outcome::BrokenOff } else { Outcome::Failed }, None),
    };
    call.end(outcome, rows)?;
    read?;
    Ok(())
}

fn is_output(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ExportError::Output(_)))
}

fn read(
    config: &Config,
    person: Option<Pseudonym>,
    range: ExportRange,
    links: &LinkReader,
    out: &mut impl io::Write,
) -> anyhow::Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let summary = runtime.block_on(async {
        let store = open_store(config)?;
        let summary = match person {
            None => {
                let citizen = |own| links.citizen_of(own).map_err(io::Error::other);
                export(&store, range, &citizen, out).await?
            }
            Some(person) => {
                let mut pseudonyms = links.aliases_of(person)?;
                pseudonyms.push(person);
                trace(&store, (person, &pseudonyms), range, out).await?
            }
        };
        store.close().await?;
        anyhow::Ok(summary)
    })?;
    out.flush().map_err(ExportError::Output)?;
    Ok(summary.checkins)
}
