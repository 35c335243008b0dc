//! Keys and tokens that are the same in every process, for which verification takes the same path each time.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use scangate::issue::{self, PRINTED_TTL, RoleRef};
use scangate::scan::{App, UnixMillis};
use scangate::verify::Kid;
use serde_json::{Value, json};

/// When the stages run.
pub const NOW: UnixMillis = UnixMillis(1_637_736_569_000);

/// The place whose scanner is used.
pub const PLACE: &str = "https://qr.pccovid.gov.vn/Ab3xK9pQ";

/// Writes a pepper, an SG1 key and a device issuer's key under `data_dir`, all from fixed seeds.
pub fn write_keys(data_dir: &Path) -> Result<()> {
    let pepper = json!({ "pepper": URL_SAFE_NO_PAD.encode([1; 32]), "dev": true });
    write(&data_dir.join("keys"), "pepper", &pepper)?;
    let mut sg1 = key(2)?;
    merge(&mut sg1, json!({ "epoch": 1, "issuer": "scangate", "types": ["person", "place"] }));
    write(&data_dir.join("keys/sg1"), "fixed.json", &sg1)?;
    for (seed, app) in (3..).zip(App::ALL) {
        let mut device = key(seed)?;
        merge(&mut device, json!({ "app": app.name() }));
        write(&data_dir.join("keys/devices"), &format!("{app}.fixed.json"), &device)?;
    }
    Ok(())
}

/// The token of the scanner at [`PLACE`].
pub fn device_token(data_dir: &Path, now: UnixMillis) -> Result<String> {
    let (role, ttl) = (RoleRef::Place(PLACE), Duration::from_hours(24));
    Ok(issue::issue_device_named(data_dir, App::PcCovid, role, "gate-1", None, ttl, now)?)
}

/// A person's SG1 code.
pub fn person_token(data_dir: &Path, now: UnixMillis) -> Result<String> {
    Ok(issue::issue_person(data_dir, "001090123456", PRINTED_TTL, now)?)
}

/// The body of a single check-in, and without its line end a line of a batch.
pub fn body(id: &str, qr: &str, at: UnixMillis) -> String {
    format!(r#"{{"id":"{id}","qr":"{qr}","at":"{at}","direction":"in"}}"#)
}

fn key(seed: u8) -> Result<Value> {
    let seed = [seed; 32];
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).ok().context("an Ed25519 key")?;
    let public = pair.public_key().as_ref();
    Ok(json!({
        "kty": "OKP",
        "crv": "Ed25519",
        "x": URL_SAFE_NO_PAD.encode(public),
        "d": URL_SAFE_NO_PAD.encode(seed),
        "kid": Kid::of_public_key(public).to_string(),
        "dev": true,
    }))
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

fn write(dir: &Path, name: &str, value: &Value) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(name))?;
    Ok(serde_json::to_writer(file, value)?)
}
