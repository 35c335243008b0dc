//! The commands that work on files: `issue`, `keys`, `verify` and `journal`. All of them work beside a
//! running gateway.

use std::fs;
use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context as _;

use super::{Code, Holder, Issue, Journal, KeySet, Keys, Revoked, Verify, print};
use crate::issue::{self, RoleRef};
use crate::journal;
use crate::payload::PAYLOAD_BYTES_MAX;
use crate::scan::{App, UnixMillis};
use crate::verify::manage::{self, KeyUse};
use crate::verify::{self, Revocation};

/// Pixels a module in PNG pictures: a version 9 code becomes 488 pixels wide, sharp on phone and printer.
const PNG_MODULE_PX: usize = 8;

/// Points a module in PDF pictures: a version 9 code becomes 10.7 cm wide, readable from a step away.
const PDF_MODULE_PT: usize = 5;

pub(super) fn issue(issue: Issue) -> anyhow::Result<ExitCode> {
    let now = UnixMillis::now();
    match issue {
        Issue::Device { data_dir, holder, app, class, ttl } => {
            let role = match &holder {
                Holder { place: Some(place), .. } => RoleRef::Place(place),
                Holder { person, .. } => RoleRef::Person(person.as_deref().unwrap_or_default()),
            };
            let token = issue::issue_device(&data_dir.path(), app, role, class.as_deref(), ttl, now)?;
            print(&format!("{token}\n"))?;
        }
        Issue::Place(code) => {
            draw(&code, &issue::issue_place(&code.data_dir.path(), &code.reference, code.ttl, now)?)?;
        }
        Issue::Person(code) => {
            draw(&code, &issue::issue_person(&code.data_dir.path(), &code.reference, code.ttl, now)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn draw(code: &Code, payload: &str) -> anyhow::Result<()> {
    let written = |path: &std::path::Path| format!("cannot write {}", path.display());
    if let Some(path) = &code.svg {
        fs::write(path, issue::draw_svg(payload)?).with_context(|| written(path))?;
    }
    if let Some(path) = &code.png {
        fs::write(path, issue::draw_png(payload, PNG_MODULE_PX)?).with_context(|| written(path))?;
    }
    if let Some(path) = &code.pdf {
        fs::write(path, issue::draw_pdf(payload, PDF_MODULE_PT)?).with_context(|| written(path))?;
    }
    print(&format!("{payload}\n"))?;
    Ok(())
}

pub(super) fn keys(keys: Keys) -> anyhow::Result<ExitCode> {
    let now = UnixMillis::now();
    let listed = match keys {
        Keys::Generate { data_dir } => {
            let made = manage::keys_generate(&data_dir.path(), App::ALL, now)?;
            verify::FeedToken::ensure(&data_dir.path())?;
            made
        }
        Keys::List { data_dir } => manage::keys_list(&data_dir.path())?,
        Keys::Rotate { data_dir, set } => vec![manage::keys_rotate(&data_dir.path(), key_use(set), now)?],
        Keys::Revoke { data_dir, target } => {
            let data_dir = data_dir.path();
            manage::keys_revoke(&data_dir, &revocation(target)?, now)?;
            print("{\"revoked\":true}\n")?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    for key in listed {
        print(&format!("{}\n", serde_json::to_string(&key)?))?;
    }
    Ok(ExitCode::SUCCESS)
}

const fn key_use(set: KeySet) -> KeyUse {
    match set {
        KeySet::Sg1 => KeyUse::Sg1,
        KeySet::PcCovid => KeyUse::Device(App::PcCovid),
        KeySet::Vneid => KeyUse::Device(App::Vneid),
        KeySet::Sskdt => KeyUse::Device(App::Sskdt),
    }
}

fn revocation(target: Revoked) -> anyhow::Result<Revocation> {
    let (kind, value) = match target {
        Revoked { kid: Some(kid), .. } => ("kid", kid),
        Revoked { cti: Some(cti), .. } => ("cti", cti),
        Revoked { device, .. } => ("device", device.unwrap_or_default()),
    };
    Revocation::parse(kind, &value).with_context(|| match kind {
        "cti" => "--cti must be 32 hexadecimal digits, as `scangate verify` shows them",
        "device" => "--device must be APP/SUB, the `iss` and `sub` of its token",
        _ => "--kid must be a key id, as `scangate keys list` shows it",
    })
}

pub(super) fn verify(command: &Verify) -> anyhow::Result<ExitCode> {
    let payload = if command.payload == "-" {
        let mut text = String::new();
        let limit = u64::try_from(PAYLOAD_BYTES_MAX * 2).unwrap_or(u64::MAX);
        std::io::stdin().take(limit).read_to_string(&mut text)?;
        text
    } else {
        command.payload.clone()
    };
    let keys = verify::Keys::load(&command.data_dir.path())?;
    let explanation = issue::explain(&payload, UnixMillis::now(), &keys);
    print(&format!("{}\n", serde_json::to_string_pretty(&explanation)?))?;
    Ok(if explanation.outcome == "accepted" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn journal(command: &Journal) -> anyhow::Result<ExitCode> {
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
