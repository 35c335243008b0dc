//! The buffers that ring operations own, a bounded number per core.

use std::cell::RefCell;

/// One buffer: the size of hyper's first read.
pub(super) const BUFFER_BYTES: usize = 8192;
/// Buffers per core (2 MiB): several times the connections that are mid-request at once on one core.
const BUFFERS_MAX: usize = 256;

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
