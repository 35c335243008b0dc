//! `verify`: what a payload is and what would become of it. Its exit code is the verdict.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;

use clap::Args;

use super::{DataDir, USAGE, print};
use crate::issue;
use crate::payload::PAYLOAD_BYTES_MAX;
use crate::scan::UnixMillis;
use crate::verify::Keys;

/// `verify`
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit code 0 if the payload would be accepted, 1 if it would be refused, 2 if that can't be told.\n\nExample:\n  zbarimg -q --raw code.png | scangate verify -"
)]
pub struct Verify {
    /// The payload; - or nothing reads it from standard input, which keeps it out of the shell's history.
    #[arg(
        default_value = "-",
        value_name = "PAYLOAD",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    payload: String,
    /// Where the keys are.
    #[command(flatten)]
    data_dir: DataDir,
    /// Answer in JSON, as is done by itself where nobody reads along.
    #[arg(long)]
    json: bool,
    /// Answer in plain words, as is done by itself on a terminal.
    #[arg(long, conflicts_with = "json")]
    plain: bool,
}

/// A failure is no verdict, so it has the third exit code.
pub(super) fn run(command: &Verify) -> anyhow::Result<ExitCode> {
    match explain(command) {
        Ok(explanation) => {
            let plain = command.plain || (!command.json && std::io::stdout().is_terminal());
            print(&if plain { explanation.plain() } else { serde_json::to_string_pretty(&explanation)? })?;
            Ok(if explanation.is_accepted() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            Ok(ExitCode::from(USAGE))
        }
    }
}

fn explain(command: &Verify) -> anyhow::Result<issue::Explanation> {
    let payload = if command.payload == "-" {
        let mut text = Vec::new();
        let limit = u64::try_from(PAYLOAD_BYTES_MAX * 2).unwrap_or(u64::MAX);
        std::io::stdin().take(limit).read_to_end(&mut text)?;
        // What is no text is no code either, and is refused as that.
        String::from_utf8_lossy(&text).into_owned()
    } else {
        command.payload.clone()
    };
    let keys = Keys::load(&command.data_dir.path())?;
    Ok(issue::explain(&payload, UnixMillis::now(), &keys))
}
