//! What was sent and what came of it: enough to audit the store afterwards.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};

/// A scan that may or may not have been recorded: sent, but not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    /// Number of the first scan.
    pub n: u64,
    /// The request's number, which names the device.
    pub group: u64,
    /// How many scans were in the request.
    pub lines: u64,
    /// Their event time.
    pub at_ms: i64,
}

/// Acknowledged check-ins, refusals, doubts.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Check-in id and whether it was acknowledged as an exit.
    acknowledged: HashMap<u128, bool>,
    /// Lines by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Requests without an answer.
    pub doubts: Vec<Doubt>,
    /// Answers that contradict the request or an earlier answer, described; a few are kept.
    pub contradictions: Vec<String>,
    /// Answers with a status of 500 or above that isn't 503.
    pub server_errors: u64,
}

impl Ledger {
    /// Takes in the answer to one scan: a single's body, or one line of a batch's.
    pub fn answer(&mut self, asked: &str, line: &[u8]) -> Result<()> {
        let outcome = text_of(line, b"\"outcome\":\"").context("an answer without an outcome")?;
        *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
        if outcome == "recorded" || outcome == "duplicate" {
            let checkin = text_of(line, b"\"checkin\":\"").context("a success without a check-in")?;
            let direction = text_of(line, b"\"direction\":\"").context("a success without a direction")?;
            if asked != "auto" && asked != direction {
                self.contradict(format!("asked for {asked}, answered {direction}"));
            }
            let exit = direction == "out";
            if self.acknowledged.insert(parse_uuid(checkin)?, exit).is_some_and(|before| before != exit) {
                self.contradict(format!("{checkin} was acknowledged in both directions"));
            }
        }
        Ok(())
    }

    /// Adds another ledger to this one.
    pub fn merge(&mut self, other: Self) {
        for (id, exit) in other.acknowledged {
            if self.acknowledged.insert(id, exit).is_some_and(|before| before != exit) {
                self.contradict("a check-in was acknowledged in both directions".to_owned());
            }
        }
        for (outcome, count) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        self.doubts.extend(other.doubts);
        self.contradictions.extend(other.contradictions);
        self.server_errors += other.server_errors;
    }

    /// Distinct check-ins acknowledged.
    pub fn checkins(&self) -> usize {
        self.acknowledged.len()
    }

    /// The direction a check-in was acknowledged in: true for an exit.
    pub fn exit(&self, id: u128) -> Option<bool> {
        self.acknowledged.get(&id).copied()
    }

    /// Lines answered with a success.
    pub fn successes(&self) -> u64 {
        ["recorded", "duplicate"].iter().filter_map(|name| self.outcomes.get(*name)).sum()
    }

    fn contradict(&mut self, what: String) {
        if self.contradictions.len() < 20 {
            self.contradictions.push(what);
        }
    }
}

/// The text after a marker, up to the next quotation mark. The gateway's values need no unescaping here.
pub fn text_of<'a>(line: &'a [u8], marker: &[u8]) -> Option<&'a str> {
    let start = memchr::memmem::find(line, marker)? + marker.len();
    let rest = line.get(start..)?;
    std::str::from_utf8(rest.get(..memchr::memchr(b'"', rest)?)?).ok()
}

/// The 128 bits of a UUID.
pub fn parse_uuid(text: &str) -> Result<u128> {
    ensure!(text.len() == 36, "not a UUID: {} bytes", text.len());
    u128::from_str_radix(&text.replace('-', ""), 16).context("not a UUID")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &[u8] =
        br#"{"outcome":"recorded","checkin":"00000000-0000-8000-8000-000000000001","id":"a","direction":"in"}"#;

    #[test]
    fn contradictions_are_seen() {
        let mut ledger = Ledger::default();
        ledger.answer("in", RECORDED).unwrap();
        ledger.answer("auto", RECORDED).unwrap();
        assert_eq!((ledger.checkins(), ledger.successes(), ledger.contradictions.len()), (1, 2, 0));
        ledger.answer("out", RECORDED).unwrap();
        assert_eq!(ledger.contradictions.len(), 1);
        assert_eq!(ledger.exit(0x8000_8000_0000_0000_0001), Some(false));
        ledger.answer("in", br#"{"outcome":"expired"}"#).unwrap();
        assert_eq!(ledger.checkins(), 1);
        assert!(ledger.answer("in", b"{}").is_err());
    }
}
