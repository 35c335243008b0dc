//! `check-config`: what a file, with the environment, amounts to.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use crate::config::{self, Config, ConfigErrors, Loaded, Overrides, SECTIONS};

/// Every setting that isn't at its default, and where it comes from.
///
/// # Errors
/// Every mistake found.
pub(super) fn report(
    file: &Path,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<String, ConfigErrors> {
    let Loaded { config, origins } = config::load(Some(file), environment, &Overrides::default())?;
    let defaults = Config::default();
    let keys: usize = SECTIONS.iter().map(|section| section.keys.len()).sum();
    let mut out = format!("ok: {}: {} of {keys} keys set", file.display(), origins.len());
    let mut changed = 0;
    for (section, key) in
        SECTIONS.iter().flat_map(|section| section.keys.iter().map(move |key| (section.name, key.name)))
    {
        let value = config.written(section, key).unwrap_or_default();
        if defaults.written(section, key).as_ref() == Some(&value) {
            continue;
        }
        let origin = origins.get(&(section.to_owned(), key.to_owned()));
        let place = origin.map(ToString::to_string).unwrap_or_default();
        let _ = write!(out, "\n{section}.{key} = {value}  # {place}");
        changed += 1;
    }
    if changed == 0 {
        out.push_str(", all at their defaults");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_settings_are_listed_with_their_origin() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("s.toml");
        std::fs::write(&file, "[store]\nkind = \"embedded\"\nretention_days = 21\n").expect("written");
        let environment = [("SCANGATE_DEDUPLICATE__WINDOW_S".into(), "0".into())];
        let shown = file.display().to_string();
        let text = report(&file, environment).expect("no mistake").replace(&shown, "F");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("ok: F: 3 of "), "{text}");
        assert_eq!(
            lines[1..],
            [
                "deduplicate.window_s = 0  # SCANGATE_DEDUPLICATE__WINDOW_S",
                "store.retention_days = 21  # F:3:1",
            ]
        );
    }
}
