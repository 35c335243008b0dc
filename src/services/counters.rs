//! Requests by capability and class of status.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted apart, by the first part of the path behind `/v1/`.
const CAPABILITIES: [(&str, &[&str]); 9] = [
    ("card", &["card"]),
    ("declarations", &["declarations", "forms"]),
    ("feedback", &["feedback"]),
    ("health", &["health"]),
    ("places", &["places"]),
    ("registers", &["registers"]),
    ("risk_map", &["map"]),
    ("tracing", &["cases", "notifications"]),
    // Pages, health of the process, and what isn't there.
    ("other", &[]),
];

/// One row a capability, one counter a class of status.
#[derive(Debug, Default)]
pub(super) struct Counters([[AtomicU64; 5]; CAPABILITIES.len()]);

impl Counters {
    /// Counts an answer.
    pub(super) fn count(&self, path: &str, status: u16) {
        let first = path.strip_prefix("/v1/").and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let other = CAPABILITIES.len() - 1;
        let row = CAPABILITIES.iter().position(|(_, paths)| paths.contains(&first)).unwrap_or(other);
        let class = usize::from(status / 100).saturating_sub(1);
        if let Some(counter) = self.0.get(row).and_then(|row| row.get(class)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every row by its name.
    pub(super) fn read(&self) -> Vec<(&'static str, [u64; 5])> {
        let read = |row: &[AtomicU64; 5]| row.each_ref().map(|counter| counter.load(Ordering::Relaxed));
        CAPABILITIES.iter().zip(&self.0).map(|((name, _), row)| (*name, read(row))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_the_first_part_of_their_path() {
        let counters = Counters::default();
        for (path, status) in [
            ("/v1/cases/7/contacts", 200),
            ("/v1/notifications", 401),
            ("/v1/card", 503),
            ("/map", 200),
            ("/v1/cases", 201),
        ] {
            counters.count(path, status);
        }
        let read = counters.read();
        let of = |name| read.iter().find(|(row, _)| *row == name).map(|(_, counts)| *counts);
        assert_eq!(of("tracing"), Some([0, 2, 0, 1, 0]));
        assert_eq!(of("card"), Some([0, 0, 0, 0, 1]));
        assert_eq!(of("other"), Some([0, 1, 0, 0, 0]));
    }
}
