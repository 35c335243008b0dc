//! All targets in one program, so that it is linked once: `SCANGATE_FUZZ` names the one that runs.

#![no_main]
#![allow(clippy::indexing_slicing, reason = "a target panics where it finds something")]

#[path = "../entry.rs"]
mod entry;

use std::sync::OnceLock;

static TARGET: OnceLock<entry::Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("SCANGATE_FUZZ").unwrap_or_default();
        // The fuzzer ends at any panic, a contained one too; the cascade contains those of its stages.
        if name == "cascade" {
            std::panic::set_hook(Box::new(|_| {}));
        }
        let found = entry::TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target);
        let target = if name == "planted" { Some(planted as entry::Target) } else { found };
        let _ = TARGET.set(target.expect("SCANGATE_FUZZ must name a target"));
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(data);
        }
    }
);

/// A bug that only a fuzzer that sees the branches finds within seconds: it shows that this one does, and that
/// a finding fails the run.
fn planted(data: &[u8]) {
    let at = |index| data.get(index).copied().unwrap_or_default();
    assert!(!(at(0) == b'F' && at(1) == b'U' && at(2) == b'Z' && at(3) == b'Z'), "the planted bug was found");
}
