//! Processor time of the calling thread: what a frame costs, however busy the machine is. A budget in wall
//! time would drop stages, and so reads, exactly when the gateway is loaded.

use std::time::Duration;

pub(super) fn processor_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value that outlives the call. The clock exists on every Linux; were it
    // refused, the time would stay zero and the wall deadline would still hold.
    unsafe {
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now);
    }
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}
