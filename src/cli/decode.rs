//! `decode`: the codes of images, read as the gateway reads frames, with time enough for whole photographs.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::print;
use crate::decode::{self, Frames, Settings};

/// One code, as it is printed.
#[derive(Serialize)]
struct Line<'a> {
    file: std::borrow::Cow<'a, str>,
    payload: &'a str,
    decoder: &'static str,
    /// Processor time for the whole file.
    ms: f64,
}

/// Prints the payload of every code, since that is what was asked for. A file that can't be read is told on
/// standard error, and the next one is tried.
pub(super) fn run(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let frames = Frames::start(Settings::for_files())?;
    let mut read = false;
    for path in files {
        let decoded = match decode::file(&frames, path) {
            Ok(decoded) => decoded,
            Err(error) => {
                eprintln!("{}: {:#}", path.display(), anyhow::Error::from(error));
                continue;
            }
        };
        if decoded.codes.is_empty() {
            eprintln!("{}: no code was found", path.display());
        }
        // Microseconds are as exact as the clock.
        let ms = decoded.elapsed.as_secs_f64() * 1e3;
        let ms = (ms * 1e3).round() / 1e3;
        for code in &decoded.codes {
            match &code.payload {
                Ok(payload) => {
                    let file = path.to_string_lossy();
                    let line = Line { file, payload, decoder: code.decoder.name(), ms };
                    print(&serde_json::to_string(&line)?)?;
                    read = true;
                }
                Err(refusal) => eprintln!("{}: {refusal}", path.display()),
            }
        }
    }
    Ok(if read { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
