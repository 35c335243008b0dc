//! `config/scangate.toml` is the table of keys, written out: it may not drift from the code.

use std::path::{Path, PathBuf};

use scangate::config::{self, Config, Overrides, SECTIONS};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/scangate.toml")
}

#[test]
fn the_shipped_file_parses_to_exactly_the_defaults() {
    let loaded = config::load(Some(&shipped()), [], &Overrides::default()).expect("no mistake");
    assert_eq!(loaded.config, Config::default());
    let keys: usize = SECTIONS.iter().map(|section| section.keys.len()).sum();
    assert_eq!(loaded.origins.len(), keys, "every key is in the file");
}

#[test]
fn every_key_of_the_shipped_file_is_commented() {
    let text = std::fs::read_to_string(shipped()).expect("readable");
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(lines[index - 1].starts_with("# "), "{line}: has no comment");
        }
    }
}

/// Run with `SCANGATE_BLESS=1` to write the file anew after a change to the table.
#[test]
fn the_shipped_file_is_the_one_the_table_writes() {
    let expected = Config::documented();
    if std::env::var_os("SCANGATE_BLESS").is_some() {
        std::fs::write(shipped(), &expected).expect("writable");
    }
    let text = std::fs::read_to_string(shipped()).expect("readable");
    assert!(text == expected, "config/scangate.toml is stale: run this test with SCANGATE_BLESS=1");
}
