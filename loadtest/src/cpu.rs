//! Where a process spends its CPU time: nanoseconds by thread name, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// CPU time of each thread name of a process tree, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    by_thread_ns: BTreeMap<String, u64>,
}

/// CPU time by thread name, divided by a count.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Microseconds of CPU, user and system, over all threads.
    pub total_us: f64,
    /// The same by thread name.
    pub by_thread_us: BTreeMap<String, f64>,
}

/// Reads all threads of these processes. The kernel's own accounting of run time is exact where it is
/// compiled in (`schedstat`); ticks of 10 ms stand in where it isn't.
pub fn usage(pids: &[u32]) -> Result<Usage> {
    let mut usage = Usage::default();
    for pid in pids {
        let tasks =
            fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?;
        for task in tasks.flatten() {
            let path = task.path();
            // A thread may end between the listing and the reading.
            let (Ok(name), Ok(stat)) =
                (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("stat")))
            else {
                continue;
            };
            let exact = fs::read_to_string(path.join("schedstat"))
                .ok()
                .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
                .filter(|ns| *ns > 0);
            let spent_ns = exact.or_else(|| ticks_ns(&stat)).unwrap_or_default();
            let name = name.trim().trim_end_matches(|last: char| last.is_ascii_digit() || last == '-');
            *usage.by_thread_ns.entry(name.to_owned()).or_default() += spent_ns;
        }
    }
    Ok(usage)
}

impl Usage {
    /// Nanoseconds over all threads.
    pub fn total_ns(&self) -> u64 {
        self.by_thread_ns.values().sum()
    }

    /// What was spent since an earlier reading, shared out over `count` requests or lines.
    #[allow(clippy::cast_precision_loss)] // Nanoseconds of a run stay far below 2^52.
    pub fn since(&self, earlier: &Self, count: u64) -> Cost {
        let mut cost = Cost::default();
        for (name, ns) in &self.by_thread_ns {
            let before = earlier.by_thread_ns.get(name).copied().unwrap_or_default();
            let each_us = ns.saturating_sub(before) as f64 / 1000.0 / count.max(1) as f64;
            cost.total_us += each_us;
            if each_us >= 0.005 {
                cost.by_thread_us.insert(name.clone(), each_us);
            }
        }
        cost
    }
}

impl Cost {
    /// The part of threads whose name contains one of these words.
    pub fn part_us(&self, words: &[&str]) -> f64 {
        let named = self.by_thread_us.iter().filter(|(name, _)| words.iter().any(|word| name.contains(word)));
        // Not sum(), which is -0.0 of nothing.
        named.fold(0.0, |total, (_, us)| total + us)
    }
}

/// Waits until the processes use less than 2 % of a core, so that work left behind by one measurement (a
/// store that is catching up) is counted in it and not in the next.
pub fn wait_until_quiet(pids: &[u32], at_most: Duration) -> Result<bool> {
    const LOOK: Duration = Duration::from_millis(300);
    let started = Instant::now();
    let mut before = usage(pids)?.total_ns();
    while started.elapsed() < at_most {
        sleep(LOOK);
        let now = usage(pids)?.total_ns();
        if u128::from(now.saturating_sub(before)) * 50 < LOOK.as_nanos() {
            return Ok(true);
        }
        before = now;
    }
    Ok(false)
}

/// Resident memory in bytes.
pub fn resident_bytes(pids: &[u32]) -> Result<u64> {
    let mut total = 0;
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        total += line.split_whitespace().nth(1).context("no value")?.parse::<u64>()? * 1024;
    }
    Ok(total)
}

/// Open descriptors.
pub fn descriptors(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64)
}

/// A process and its descendants.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(parent) = all.get(next).copied() {
        let tasks = fs::read_dir(format!("/proc/{parent}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|text| text.parse::<u32>().ok()));
        }
        next += 1;
    }
    all
}

/// utime and stime, the 14th and 15th fields, in nanoseconds; Linux fixes the tick at 100 Hz for `/proc`.
fn ticks_ns(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks * 10_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_past_a_name_with_spaces_and_brackets() {
        let stat = "12 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 5";
        assert_eq!(ticks_ns(stat), Some(3_000_000_000));
    }

    #[test]
    fn this_process_is_measured() {
        let pid = std::process::id();
        let before = usage(&[pid]).unwrap();
        // However busy the machine is: work is done until it shows.
        while usage(&[pid]).unwrap().since(&before, 1).total_us < 30_000.0 {
            std::hint::black_box((0..100_000_u64).fold(1, u64::wrapping_mul));
        }
        assert!(resident_bytes(&[pid]).unwrap() > 1 << 20);
        assert!(tree(pid).contains(&pid));
    }
}
