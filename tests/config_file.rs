//! `config/scangate.toml` is the table of keys, written out: it may not drift from the code.

use std::path::{Path, PathBuf};
use std::sync::Once;

use scangate::config::{self, Config, Overrides, SECTIONS};

/// The file; written anew first, once for all tests, with `SCANGATE_BLESS=1`.
fn shipped() -> PathBuf {
    static WRITTEN: Once = Once::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/scangate.toml");
    WRITTEN.call_once(|| {
        if std::env::var_os("SCANGATE_BLESS").is_some() {
            std::fs::write(&path, Config::documented()).expect("writable");
        }
    });
    path
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

#[test]
fn the_shipped_file_is_the_one_the_table_writes() {
    let text = std::fs::read_to_string(shipped()).expect("readable");
    assert!(
        text == Config::documented(),
        "config/scangate.toml is stale: run this test with SCANGATE_BLESS=1"
    );
}
