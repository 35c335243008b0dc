//! What a figure was measured on and with: enough to judge it, no name or path of anyone's machine.

use std::fs;

use serde::{Deserialize, Serialize};

/// Command, machine and versions, kept with every result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model name of the first processor.
    pub cpu: String,
    /// Processors online.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release, without local suffixes.
    pub kernel: String,
    /// Whether a hypervisor is underneath.
    pub hypervisor: bool,
}

/// Reads it from `/proc`.
pub fn machine() -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": "))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let memory_kib: u64 = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| text.lines().next()?.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or_default();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Machine {
        cpu: field("model name"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mib: memory_kib / 1024,
        kernel: release.trim().split('-').next().unwrap_or_default().to_owned(),
        hypervisor: field("flags").split(' ').any(|flag| flag == "hypervisor"),
    }
}

/// The command line with paths cut to their last component.
pub fn command_line() -> String {
    let words = std::env::args().map(|word| match word.rsplit_once('/') {
        Some((_, last)) if !word.contains("://") => last.to_owned(),
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Today in UTC, `YYYY-MM-DD`, the name of a results directory.
pub fn today() -> String {
    let mut now = scangate::scan::UnixMillis::now().to_string();
    now.truncate(10);
    now
}
