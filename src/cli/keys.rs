//! `keys`: the signing keys of a data directory, the public keys of others, and what is revoked. All of it
//! works beside a running gateway, which takes it in at its next reload (SIGHUP).

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use super::audit::{audited, caller};
use super::keys_admin::{self, AdminTokens};
use super::{DataDir, parse_app, print, ttl};
use crate::audit::{Action, Entry};
use crate::scan::{App, UnixMillis};
use crate::verify::import::{self, Foreign};
use crate::verify::manage::{self, KeyUse};
use crate::verify::revocations::bulk::{self, Imported};
use crate::verify::{self, Revocation};

/// Which keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeySet {
    /// The keys that sign codes.
    Sg1,
    /// PC-COVID's device token keys.
    PcCovid,
    /// VNeID's device token keys.
    Vneid,
    /// Sổ sức khỏe điện tử's device token keys.
    Sskdt,
}

/// Which keys, those of other issuers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AnyKeySet {
    /// The keys that sign codes.
    Sg1,
    /// PC-COVID's device token keys.
    PcCovid,
    /// VNeID's device token keys.
    Vneid,
    /// Sổ sức khỏe điện tử's device token keys.
    Sskdt,
    /// Signers of health certificates (HC1).
    Hc1,
    /// An issuer of SMART Health Cards: all of its keys, by the id of any.
    Shc,
    /// The NHS's place posters.
    Nhs,
}

/// `keys`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make the keys that are missing: pepper, signing keys, device token keys.
    Generate {
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// List key ids, what they sign, since when, and whether they are staged, active, verifying or revoked.
    List {
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// Make a new key that signs from now on, or later; the old one is still accepted.
    #[command(after_help = "Example:\n  scangate keys rotate --stage 7d    time to copy it to every gateway")]
    Rotate {
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
        /// Which keys.
        #[arg(long, value_enum, default_value_t = KeySet::Sg1)]
        set: KeySet,
        /// How long the new key only verifies before it signs: 90s, 45m, 12h, 30d, 4w.
        #[arg(long, value_parser = ttl::parse, value_name = "TIME")]
        stage: Option<Duration>,
    },
    /// Refuse a key, a code, a health certificate or a device from now on, or a list of them.
    #[command(
        after_help = "A list is NDJSON, a line each: {\"kind\":\"cti|dcc|device|kid\",\"value\":\"…\",\"at\":\"<RFC 3339, or left out>\"}.\nAll of it counts or, if a line can't be read, nothing; reading it again changes nothing.\n\nExamples:\n  scangate keys revoke --kid 3f9a02c1\n  scangate keys revoke --file dcc-revoked.ndjson"
    )]
    Revoke {
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
        /// What to refuse.
        #[command(flatten)]
        target: Revoked,
    },
    /// Count what is revoked, by kind, or write all of it out as a list that `revoke --file` reads.
    Revoked {
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
        /// Write a line each; devices by a hash.
        #[arg(long)]
        export: bool,
        /// Write devices by name where the name is still known.
        #[arg(long, requires = "export")]
        full: bool,
    },
    /// Move revocations from lines into sorted sets, and merge sets: for millions of them.
    Compact {
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// Take in public keys of other issuers, once they are seen to load.
    #[command(subcommand)]
    Import(Import),
    /// Make, list or revoke the tokens that the admin listener asks for.
    Admin(AdminTokens),
    /// Take a key out of use: its file goes to keys/retired, without its private part.
    #[command(
        after_help = "A key that signs, or of which something valid is out there, is refused.\n\nExample:\n  scangate keys retire 3f9a02c1aabbccdd"
    )]
    Retire {
        /// The key's id, as `keys list` shows it.
        kid: String,
        /// Which keys.
        #[arg(long, value_enum, default_value_t = AnyKeySet::Sg1)]
        set: AnyKeySet,
        /// Even if something that it signed is still valid, and will be refused as `unknown_key`.
        #[arg(long)]
        force: bool,
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
    },
}

/// What `keys revoke` refuses: exactly one of these.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct Revoked {
    /// A key id, as `keys list` shows it.
    #[arg(long)]
    kid: Option<String>,
    /// A code's id, 32 hexadecimal digits, as `verify` shows it.
    #[arg(long)]
    cti: Option<String>,
    /// A health certificate's hash, 32 hexadecimal digits, as the EU's lists have them.
    #[arg(long)]
    dcc: Option<String>,
    /// A device: its app and name, APP/SUB, the `iss` and `sub` of its token.
    #[arg(long)]
    device: Option<String>,
    /// A list of these; - for standard input.
    #[arg(long, value_name = "LIST.ndjson")]
    file: Option<PathBuf>,
}

/// `keys import`
#[derive(Debug, Subcommand)]
pub enum Import {
    /// Certificates of those who sign health certificates (HC1): PEM, any number a file.
    Hc1 {
        /// The files.
        #[arg(required = true, value_name = "FILE.pem")]
        files: Vec<PathBuf>,
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// An issuer of SMART Health Cards: its JWK set replaces the one it had.
    #[command(
        after_help = "Example:\n  curl -s https://example.org/issuer/.well-known/jwks.json > jwks.json\n  scangate keys import shc https://example.org/issuer jwks.json"
    )]
    Shc {
        /// The issuer's URL, the `iss` of its cards.
        #[arg(value_name = "ISSUER_URL")]
        issuer: String,
        /// Its JWK set.
        #[arg(value_name = "FILE.jwks.json")]
        file: PathBuf,
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// A key of the NHS's place posters: P-256 in PEM.
    Nhs {
        /// The `kid` of its posters.
        kid: String,
        /// The public key.
        #[arg(value_name = "FILE.pem")]
        file: PathBuf,
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// A key of an app's device tokens: Ed25519 or P-256, as JWK or PEM.
    Device {
        /// The app.
        #[arg(value_parser = parse_app, value_name = "pc-covid|vneid|sskdt")]
        app: App,
        /// The public key.
        file: PathBuf,
        /// The `kid` of its tokens, if the file doesn't say.
        #[arg(long)]
        kid: Option<String>,
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
    },
}

pub(super) fn run(keys: Keys) -> anyhow::Result<ExitCode> {
    match change(&keys) {
        Some((data_dir, what)) => {
            let entry = Entry::new(caller(), Action::Keys).named(what);
            audited(&data_dir, entry, || run_now(keys))
        }
        None => run_now(keys),
    }
}

/// What a command changes and where, in the audit log's words.
fn change(keys: &Keys) -> Option<(PathBuf, &'static str)> {
    let (data_dir, what) = match keys {
        Keys::Generate { data_dir } => (data_dir, "generate"),
        Keys::Rotate { data_dir, .. } => (data_dir, "rotate"),
        Keys::Revoke { data_dir, .. } => (data_dir, "revoke"),
        Keys::Compact { data_dir } => (data_dir, "compact"),
        Keys::Retire { data_dir, .. } => (data_dir, "retire"),
        Keys::Import(
            Import::Hc1 { data_dir, .. }
            | Import::Shc { data_dir, .. }
            | Import::Nhs { data_dir, .. }
            | Import::Device { data_dir, .. },
        ) => (data_dir, "import"),
        Keys::List { .. } | Keys::Revoked { .. } | Keys::Admin(_) => return None,
    };
    Some((data_dir.path(), what))
}

fn run_now(keys: Keys) -> anyhow::Result<ExitCode> {
    let now = UnixMillis::now();
    let listed = match keys {
        Keys::Generate { data_dir } => {
            let made = manage::keys_generate(&data_dir.path(), App::ALL, now)?;
            verify::FeedToken::ensure(&data_dir.path())?;
            made
        }
        Keys::List { data_dir } => manage::keys_list(&data_dir.path())?,
        Keys::Rotate { data_dir, set, stage } => {
            let later = |stage: Duration| i64::try_from(stage.as_millis()).unwrap_or(i64::MAX);
            let signs_from = stage.map(|stage| UnixMillis(now.0.saturating_add(later(stage))));
            vec![manage::keys_stage(&data_dir.path(), key_use(set), signs_from, now)?]
        }
        Keys::Revoke { data_dir, target } => {
            revoke(&data_dir.path(), target, now)?;
            Vec::new()
        }
        Keys::Revoked { data_dir, export: true, full } => {
            let mut out = BufWriter::new(io::stdout().lock());
            bulk::export(&data_dir.path(), full, &mut out)?;
            out.flush()?;
            Vec::new()
        }
        Keys::Revoked { data_dir, .. } => {
            for counted in verify::Keys::load(&data_dir.path())?.revoked_counts() {
                print(&serde_json::to_string(&counted)?)?;
            }
            Vec::new()
        }
        Keys::Compact { data_dir } => {
            bulk::compact(&data_dir.path())?;
            print("{\"compacted\":true}")?;
            Vec::new()
        }
        Keys::Import(import) => {
            take_in(&import)?;
            Vec::new()
        }
        Keys::Admin(command) => {
            keys_admin::run(&command, now)?;
            Vec::new()
        }
        Keys::Retire { kid, set, force, data_dir } => {
            let path = manage::keys_retire(&data_dir.path(), any_key_use(set), &kid, force, now)?;
            print(&serde_json::json!({ "retired": kid, "path": path }).to_string())?;
            Vec::new()
        }
    };
    for key in listed {
        print(&serde_json::to_string(&key)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn take_in(import: &Import) -> anyhow::Result<()> {
    let (data_dir, foreign, files) = match import {
        Import::Hc1 { files, data_dir } => (data_dir, Foreign::Hc1, files.as_slice()),
        Import::Shc { issuer, file, data_dir } => {
            (data_dir, Foreign::Shc { issuer }, std::slice::from_ref(file))
        }
        Import::Nhs { kid, file, data_dir } => (data_dir, Foreign::Nhs { kid }, std::slice::from_ref(file)),
        Import::Device { app, file, kid, data_dir } => {
            (data_dir, Foreign::Device { app: *app, kid: kid.as_deref() }, std::slice::from_ref(file))
        }
    };
    for file in files {
        let written = import::keys_import(&data_dir.path(), foreign, file)?;
        print(&serde_json::json!({ "file": file, "written": written }).to_string())?;
    }
    Ok(())
}

fn revoke(data_dir: &Path, target: Revoked, now: UnixMillis) -> anyhow::Result<()> {
    let (kind, value) = match target {
        Revoked { file: Some(file), .. } => return revoke_list(data_dir, &file, now),
        Revoked { kid: Some(kid), .. } => ("kid", kid),
        Revoked { cti: Some(cti), .. } => ("cti", cti),
        Revoked { dcc: Some(dcc), .. } => ("dcc", dcc),
        Revoked { device, .. } => ("device", device.unwrap_or_default()),
    };
    let revocation = Revocation::parse(kind, &value).with_context(|| match kind {
        "cti" => "--cti must be 32 hexadecimal digits, as `scangate verify` shows them",
        "dcc" => "--dcc must be 32 hexadecimal digits, as the EU's lists have them",
        "device" => "--device must be APP/SUB, the `iss` and `sub` of its token",
        _ => "--kid must be a key id, as `scangate keys list` shows it",
    })?;
    manage::keys_revoke(data_dir, &revocation, now)?;
    print("{\"revoked\":true}")?;
    Ok(())
}

fn revoke_list(data_dir: &Path, file: &Path, now: UnixMillis) -> anyhow::Result<()> {
    let progress = |imported: Imported| {
        eprintln!("{} lines: {} new, {} known", imported.lines, imported.added, imported.known);
    };
    let imported = if file == Path::new("-") {
        bulk::import(data_dir, file, io::stdin().lock(), now, progress)?
    } else {
        let list = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        bulk::import(data_dir, file, BufReader::with_capacity(1 << 20, list), now, progress)?
    };
    print(&serde_json::to_string(&imported)?)?;
    Ok(())
}

const fn key_use(set: KeySet) -> KeyUse {
    match set {
        KeySet::Sg1 => KeyUse::Sg1,
        KeySet::PcCovid => KeyUse::Device(App::PcCovid),
        KeySet::Vneid => KeyUse::Device(App::Vneid),
        KeySet::Sskdt => KeyUse::Device(App::Sskdt),
    }
}

const fn any_key_use(set: AnyKeySet) -> KeyUse {
    match set {
        AnyKeySet::Sg1 => KeyUse::Sg1,
        AnyKeySet::PcCovid => KeyUse::Device(App::PcCovid),
        AnyKeySet::Vneid => KeyUse::Device(App::Vneid),
        AnyKeySet::Sskdt => KeyUse::Device(App::Sskdt),
        AnyKeySet::Hc1 => KeyUse::Hc1,
        AnyKeySet::Shc => KeyUse::Shc,
        AnyKeySet::Nhs => KeyUse::Nhs,
    }
}
