//! The process and its disk as Linux sees them, read from `/proc/self` and by `statvfs`; zeros where there is
//! no such thing.

use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Linux reports CPU time in hundredths of a second on every architecture that the gateway is built for.
const TICKS_PER_S: u64 = 100;

/// Resources used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessSample {
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// CPU time, user and system.
    pub cpu_ms: u64,
}

impl ProcessSample {
    /// Reads the numbers now. A scrape a second makes this cheap enough for the admin thread.
    pub fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let descriptors = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self {
            resident_bytes: resident_bytes(&status),
            // Listing the directory opens one more.
            descriptors: u64::try_from(descriptors).unwrap_or_default().saturating_sub(1),
            cpu_ms: cpu_ticks(&stat) * 1000 / TICKS_PER_S,
        }
    }
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskSample {
    /// What an unprivileged process may still write.
    pub free_bytes: u64,
    /// All of it.
    pub size_bytes: u64,
}

impl DiskSample {
    /// Asks for the file system that holds `path` now.
    pub fn read(path: &Path) -> Self {
        let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return Self::default() };
        let mut found = MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the path ends in a NUL and lives through the call, which writes only to `found`.
        if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
            return Self::default();
        }
        // SAFETY: the call succeeded, so all of it is written.
        let found = unsafe { found.assume_init() };
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Self { free_bytes: bytes(found.f_bavail), size_bytes: bytes(found.f_blocks) }
    }
}

fn resident_bytes(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default();
    kib * 1024
}

/// User and system ticks are the 14th and 15th fields; the second, the program's name in parentheses, may
/// hold spaces, so fields are counted from its end.
fn cpu_ticks(stat: &str) -> u64 {
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_is_skipped() {
        let stat = "12 (a ) b) S 1 12 12 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 9 0 100 0 0";
        assert_eq!(cpu_ticks(stat), 300);
        assert_eq!(cpu_ticks(""), 0);
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\n"), 2_097_152);
    }

    #[test]
    fn a_file_system_has_room_and_a_missing_path_none() {
        let sample = DiskSample::read(Path::new("/"));
        assert!(sample.size_bytes > 0 && sample.free_bytes <= sample.size_bytes, "{sample:?}");
        assert_eq!(DiskSample::read(Path::new("/no/such/directory")), DiskSample::default());
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let sample = ProcessSample::read();
        assert!(sample.resident_bytes > 0 && sample.descriptors > 2, "{sample:?}");
    }
}
