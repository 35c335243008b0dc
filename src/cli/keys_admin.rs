//! `keys admin`: tokens for the admin listener.

use std::time::Duration;

use clap::Args;

use super::audit::{audited, caller};
use super::{DataDir, print, ttl};
use crate::audit::{Action, Entry};
use crate::scan::UnixMillis;
use crate::verify::admin_token::{self, AdminScope, is_token_name};

/// `keys admin`
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "A token is good on the admin listener as a bearer, or as the password of its name. A running gateway takes changes in\nat its next reload (SIGHUP).\n\nExamples:\n  scangate keys admin prometheus --scope read > /etc/prometheus/scangate-token\n  scangate keys admin cdc-hanoi --scope read,export --ttl 90d\n  scangate keys admin --revoke cdc-hanoi"
)]
#[group(id = "what", required = true, multiple = false, args = ["name", "list", "revoke"])]
pub struct AdminTokens {
    /// Make a token under this name, and print it: it is shown this once.
    #[arg(value_parser = parse_name, requires = "scope")]
    name: Option<String>,
    /// What it is good for: read (metrics, statistics), export (export, trace), operate (drain, reload), links;
    /// and of the services: services (places, rules, feedback), trace (ask for one), approve (one that another asked for).
    #[arg(long, value_parser = parse_scope, value_delimiter = ',', requires = "name")]
    scope: Vec<AdminScope>,
    /// How long it is good: 90s, 45m, 12h, 30d, 4w; otherwise until it is revoked.
    #[arg(long, value_parser = ttl::parse, value_name = "TIME", requires = "name")]
    ttl: Option<Duration>,
    /// List the tokens there are, never themselves.
    #[arg(long)]
    list: bool,
    /// Take a token away.
    #[arg(long, value_parser = parse_name, value_name = "NAME")]
    revoke: Option<String>,
    /// Where the keys are.
    #[command(flatten)]
    data_dir: DataDir,
}

pub(super) fn run(command: &AdminTokens, now: UnixMillis) -> anyhow::Result<()> {
    let data_dir = command.data_dir.path();
    let change = |name: &str| Entry::new(caller(), Action::AdminToken).named(name);
    if let Some(name) = &command.name {
        let ttl_ms = command.ttl.map(|ttl| i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let expires = ttl_ms.map(|ttl_ms| UnixMillis(now.0.saturating_add(ttl_ms)));
        let make = || Ok(admin_token::make(&data_dir, name, &command.scope, expires, now)?);
        let token = audited(&data_dir, change(&format!("make {name}")), make)?;
        print(&token)?;
    } else if let Some(name) = &command.revoke {
        let revoke = || Ok(admin_token::revoke(&data_dir, name)?);
        audited(&data_dir, change(&format!("revoke {name}")), revoke)?;
        print("{\"revoked\":true}")?;
    } else {
        for token in admin_token::load(&data_dir)? {
            let listed = serde_json::json!({
                "name": token.name,
                "scopes": token.scopes,
                "made": token.made.to_string(),
                "expires": token.expires.map(|at| at.to_string()),
                "expired": token.expires.is_some_and(|expires| expires <= now),
            });
            print(&listed.to_string())?;
        }
    }
    Ok(())
}

fn parse_name(name: &str) -> Result<String, String> {
    let wrong = "must be 1 to 32 of a-z, 0-9, '.', '_' and '-', a letter or digit first";
    if is_token_name(name) { Ok(name.to_owned()) } else { Err(wrong.to_owned()) }
}

fn parse_scope(name: &str) -> Result<AdminScope, String> {
    let names: Vec<&str> = AdminScope::ALL.iter().map(|scope| scope.name()).collect();
    AdminScope::from_name(name).ok_or_else(|| format!("must be one of {}", names.join(", ")))
}
