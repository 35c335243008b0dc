//! The few system calls that the standard library has no name for.

use anyhow::{Context, Result, bail, ensure};

/// Pins the calling thread, and whatever it starts afterwards, to one core.
pub fn pin(core: usize) -> Result<()> {
    pin_to(&[core])
}

/// The same to any of several cores.
pub fn pin_to(cores: &[usize]) -> Result<()> {
    ensure!(cores.iter().all(|core| *core < 1024), "cores must be in 0..1024; got {cores:?}");
    // SAFETY: cpu_set_t is plain bits, for which zero is valid; CPU_SET stays inside it because of the check
    // above; sched_setaffinity only reads it.
    let failed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for core in cores {
            libc::CPU_SET(*core, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error()).context(format!("can't pin to cores {cores:?}"))
    }
}

/// Makes the calling thread run only when no other wants its core.
pub fn give_way() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a value that outlives the call; 0 is the calling thread. Refused, it costs
    // precision only.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters);
    }
}

/// CPU time of the calling thread, in nanoseconds: what others do on the core doesn't count.
pub fn thread_cpu_ns() -> u64 {
    // SAFETY: timespec is two integers, for which zero is valid; clock_gettime writes exactly that struct.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
        time
    };
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// Raises the limit on open descriptors to what is allowed, for this process and its children.
pub fn raise_descriptors() -> Result<u64> {
    // SAFETY: rlimit is two integers; both calls read or write exactly that struct.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            bail!("getrlimit: {}", std::io::Error::last_os_error());
        }
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
            bail!("setrlimit: {}", std::io::Error::last_os_error());
        }
        limit
    };
    Ok(limit.rlim_cur)
}

/// Sends a signal to a child that hasn't been reaped.
pub fn signal(pid: u32, signal: i32) -> Result<()> {
    let pid = i32::try_from(pid)?;
    // SAFETY: kill takes two integers. Callers pass the id of a child that they still hold unreaped.
    let failed = unsafe { libc::kill(pid, signal) };
    if failed == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error()).context(format!("can't signal {pid}"))
    }
}
