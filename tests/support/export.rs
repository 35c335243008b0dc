//! The store's rows as `scangate export` prints them.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::codes;
use super::gateway::Site;

/// One exported check-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub checkin: String,
    pub direction: String,
    pub person: String,
    pub place: String,
    pub trust: String,
    pub subject: String,
    pub at: String,
}

impl Site {
    /// Every row of the days around now, in the order printed.
    pub fn export(&self) -> Vec<Row> {
        let (from, to) = (codes::at(-3 * 86_400), codes::at(86_400));
        self.run_ok(&["export", "--from", &from, "--to", &to]).lines().map(row).collect()
    }

    /// Exports until there are as many rows as expected, or the time is up: the store follows the journal.
    pub fn export_when(&self, rows: usize, within: Duration) -> Vec<Row> {
        let started = Instant::now();
        loop {
            // While the store is far behind, a running gateway refuses to export.
            let (from, to) = (codes::at(-3 * 86_400), codes::at(86_400));
            let output = self.run(&["export", "--from", &from, "--to", &to]);
            let exported: Vec<Row> = String::from_utf8_lossy(&output.stdout).lines().map(row).collect();
            if output.status.success() && exported.len() >= rows || started.elapsed() >= within {
                return exported;
            }
            sleep(Duration::from_millis(200));
        }
    }
}

/// Acknowledged check-ins (id → direction) against exported rows: each there, once, in its direction, and
/// nothing else. Returns what is wrong, a line each, empty when all is well.
pub fn audit(acknowledged: &HashMap<String, String>, rows: &[Row]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen: HashMap<&str, u32> = HashMap::new();
    for row in rows {
        *seen.entry(&row.checkin).or_default() += 1;
        match acknowledged.get(&row.checkin) {
            None => wrong.push(format!("{} exported but never acknowledged", row.checkin)),
            Some(direction) if *direction != row.direction => {
                wrong.push(format!(
                    "{} acknowledged as {direction}, exported as {}",
                    row.checkin, row.direction
                ));
            }
            Some(_) => {}
        }
    }
    for (id, times) in &seen {
        if *times > 1 {
            wrong.push(format!("{id} exported {times} times"));
        }
    }
    for id in acknowledged.keys() {
        if !seen.contains_key(id.as_str()) {
            wrong.push(format!("{id} acknowledged but missing"));
        }
    }
    wrong
}

fn row(line: &str) -> Row {
    let value: Value = serde_json::from_str(line).expect("a line of JSON");
    let field = |name: &str| value[name].as_str().unwrap_or_else(|| panic!("{name} in {line}")).to_owned();
    Row {
        checkin: field("checkin"),
        direction: field("direction"),
        person: field("person"),
        place: field("place"),
        trust: field("trust"),
        subject: field("subject"),
        at: field("at"),
    }
}
