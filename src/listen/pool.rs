//! The buffers that ring operations own, a bounded number per core, and the heap that a burst leaves behind.

use std::cell::RefCell;

/// One buffer: the size of hyper's first read.
pub(super) const BUFFER_BYTES: usize = 8192;
/// Buffers per core (2 MiB): several times the connections that are mid-request at once on one core.
const BUFFERS_MAX: usize = 256;

/// A burst worth cleaning up after, in active connections.
const BURST_MIN: usize = 512;
/// Between two clean-ups: after a burst of 8,000 one held its core for 80 ms.
const TRIM_PAUSE_MS: u64 = 30_000;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { free: Vec::new(), leased: 0 }) };
}

struct Pool {
    free: Vec<Vec<u8>>,
    leased: usize,
}

/// A buffer on loan; it goes back on drop, wherever the operation that owned it ends.
pub(super) struct Lease {
    bytes: Vec<u8>,
    /// Bytes in use. The rest is left as it is: clearing it would cost more than the copy.
    length: usize,
    pooled: bool,
}

impl Lease {
    /// A pool buffer of [`BUFFER_BYTES`], or none when all are out.
    pub(super) fn take() -> Option<Self> {
        POOL.with_borrow_mut(|pool| {
            if pool.leased >= BUFFERS_MAX {
                return None;
            }
            pool.leased += 1;
            let bytes = pool.free.pop().unwrap_or_else(|| vec![0; BUFFER_BYTES]);
            Some(Self { bytes, length: BUFFER_BYTES, pooled: true })
        })
    }

    /// A copy of `source`, in a pool buffer if it fits and there is one.
    pub(super) fn copy_of(source: &[u8]) -> Self {
        if source.len() <= BUFFER_BYTES
            && let Some(mut lease) = Self::take()
        {
            lease.length = source.len();
            lease.bytes_mut().copy_from_slice(source);
            return lease;
        }
        Self { bytes: source.to_vec(), length: source.len(), pooled: false }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.pooled {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        // At thread exit the pool may be gone before the last operation; then there is nothing to keep.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            pool.leased -= 1;
            pool.free.push(bytes);
        });
    }
}

/// Gives memory back to the system when a burst of active connections is over. The allocator keeps what
/// they freed: each connection's few long-lived bytes lie between its buffers, so the heap can't shrink.
#[derive(Default)]
pub(super) struct Trim {
    active_peak: usize,
    next_ms: u64,
}

impl Trim {
    /// Takes the number of active connections at each sweep.
    pub(super) fn after_sweep(&mut self, active: usize, now_ms: u64) {
        self.active_peak = self.active_peak.max(active);
        if self.active_peak < BURST_MIN || active > self.active_peak / 8 || now_ms < self.next_ms {
            return;
        }
        self.active_peak = active;
        self.next_ms = now_ms + TRIM_PAUSE_MS;
        #[cfg(target_env = "gnu")]
        // SAFETY: takes its own locks and leaves every allocation where it is.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
