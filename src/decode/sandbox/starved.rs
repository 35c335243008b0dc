//! Whether a process that missed its deadline hung, or was never given a processor: it yields to everything
//! else on the machine, so on a busy one it may wait all the time that it has.

use std::time::Duration;

/// A process's own clock: the processor time that it has had.
#[derive(Debug)]
pub(super) struct ProcessClock {
    pid: u32,
    clock: Option<libc::clockid_t>,
}

impl ProcessClock {
    /// The clock of a child that hasn't been waited for.
    pub(super) fn of(pid: u32) -> Self {
        let mut clock = 0;
        let known = libc::pid_t::try_from(pid).is_ok_and(|pid| {
            // SAFETY: the pointer is to a value that outlives the call.
            unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) == 0 }
        });
        Self { pid, clock: known.then_some(clock) }
    }

    /// The processor time so far; none if the process is gone.
    pub(super) fn now(&self) -> Option<Duration> {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a value that outlives the call.
        let read = unsafe { libc::clock_gettime(self.clock?, &raw mut now) } == 0;
        let (seconds, nanos) = (u64::try_from(now.tv_sec).ok()?, u32::try_from(now.tv_nsec).ok()?);
        read.then(|| Duration::new(seconds, nanos))
    }

    /// Whether the process stands ready to run and has had less than a quarter of this time since `before`. One
    /// that sleeps or was stopped has had its chance.
    pub(super) fn was_starved(&self, before: Option<Duration>, time: Duration) -> bool {
        let (Some(before), Some(now)) = (before, self.now()) else {
            return false;
        };
        now.saturating_sub(before) < time / 4 && self.is_ready()
    }

    fn is_ready(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('R'))
    }
}
