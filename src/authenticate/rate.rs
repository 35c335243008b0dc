//! How fast one device may scan: a token bucket in its one-word form, the generic cell rate algorithm. A
//! bucket is the time at which it will be full again; taking from it moves that time, and it may lie ahead
//! by the burst at most.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::scan::DeviceKey;

/// How fast one device may scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// Sustained scans per second; 0 for no limit.
    pub device_scans_per_s: u32,
    /// Scans at once after a pause: at least one whole batch, so that a scanner that was offline can send
    /// what it kept.
    pub device_burst_scans: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { device_scans_per_s: 50, device_burst_scans: 1000 }
    }
}

/// A device is over its rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("over the device's rate; send again after {retry_after_s} s")]
pub struct RateLimited {
    /// When sending the same again can succeed, in seconds from now, rounded up.
    pub retry_after_s: u32,
}

const SECOND_NS: u64 = 1_000_000_000;

/// The rate that every bucket follows, changeable while they are in use.
#[derive(Debug)]
struct Rate {
    base: Instant,
    /// Nanoseconds per scan; 0 for no limit.
    scan_ns: AtomicU64,
    burst_ns: AtomicU64,
}

impl Rate {
    fn set(&self, limits: RateLimits) {
        let scan_ns = match u64::from(limits.device_scans_per_s) {
            0 => 0,
            rate => (SECOND_NS / rate).max(1),
        };
        self.scan_ns.store(scan_ns, Ordering::Relaxed);
        self.burst_ns.store(scan_ns * u64::from(limits.device_burst_scans.max(1)), Ordering::Relaxed);
    }

    fn ns(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// One device's bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: Arc<Rate>,
    full_at_ns: AtomicU64,
}

impl Bucket {
    /// Takes `scans`, or nothing. More than the burst can be taken from a full bucket only, and leaves a
    /// debt: a large batch is then possible and costs what it holds.
    pub(crate) fn admit(&self, scans: u32, now: Instant) -> Result<(), RateLimited> {
        let scan_ns = self.rate.scan_ns.load(Ordering::Relaxed);
        if scan_ns == 0 || scans == 0 {
            return Ok(());
        }
        let burst_ns = self.rate.burst_ns.load(Ordering::Relaxed);
        let now_ns = self.rate.ns(now);
        let cost_ns = scan_ns.saturating_mul(u64::from(scans));
        let mut full_at = self.full_at_ns.load(Ordering::Relaxed);
        loop {
            let from = full_at.max(now_ns);
            let over_ns =
                from.saturating_add(cost_ns.min(burst_ns)).saturating_sub(now_ns.saturating_add(burst_ns));
            if over_ns > 0 {
                let retry_after_s = u32::try_from(over_ns.div_ceil(SECOND_NS)).unwrap_or(u32::MAX);
                return Err(RateLimited { retry_after_s });
            }
            let taken = from.saturating_add(cost_ns);
            match self.full_at_ns.compare_exchange_weak(full_at, taken, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(current) => full_at = current,
            }
        }
    }

    /// Gives back what was taken and not used.
    pub(crate) fn give_back(&self, scans: u32) {
        let unused_ns = self.rate.scan_ns.load(Ordering::Relaxed).saturating_mul(u64::from(scans));
        let back = |full_at: u64| Some(full_at.saturating_sub(unused_ns));
        // Always some, and so never refused.
        let _ = self.full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }

    fn is_full(&self, now_ns: u64) -> bool {
        self.full_at_ns.load(Ordering::Relaxed) <= now_ns
    }
}

/// The buckets of all devices, one each, however many tokens a device has. What is counted is for the owner
/// to say: scans, or milliseconds of reading frames.
pub(crate) struct Buckets {
    rate: Arc<Rate>,
    shards: Vec<Mutex<HashMap<DeviceKey, Arc<Bucket>>>>,
    shard_devices_max: usize,
}

const SHARDS: usize = 64;

impl Buckets {
    pub(crate) fn new(limits: RateLimits, devices_max: usize) -> Self {
        let rate = Rate { base: Instant::now(), scan_ns: AtomicU64::new(0), burst_ns: AtomicU64::new(0) };
        rate.set(limits);
        Self {
            rate: Arc::new(rate),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            shard_devices_max: devices_max.div_ceil(SHARDS).max(1),
        }
    }

    pub(super) fn set_rate(&self, limits: RateLimits) {
        self.rate.set(limits);
    }

    /// The device's bucket. At the bound, those that nobody holds and that are full again are dropped,
    /// which changes nothing; if none are, those that nobody holds.
    pub(crate) fn of(&self, device: DeviceKey, now: Instant) -> Arc<Bucket> {
        let fresh = || Arc::new(Bucket { rate: Arc::clone(&self.rate), full_at_ns: AtomicU64::new(0) });
        let [byte, ..] = device.0;
        let Some(shard) = self.shards.get(usize::from(byte) % SHARDS) else { return fresh() };
        let mut buckets = shard.lock();
        if buckets.len() >= self.shard_devices_max && !buckets.contains_key(&device) {
            let now_ns = self.rate.ns(now);
            let held = |bucket: &Arc<Bucket>| Arc::strong_count(bucket) > 1;
            buckets.retain(|_, bucket| held(bucket) || !bucket.is_full(now_ns));
            // Held ones are bounded by the token cache, so this leaves at most as many again.
            if buckets.len() >= 2 * self.shard_devices_max {
                buckets.retain(|_, bucket| held(bucket));
            }
        }
        Arc::clone(buckets.entry(device).or_insert_with(fresh))
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMITS: RateLimits = RateLimits { device_scans_per_s: 50, device_burst_scans: 100 };

    fn bucket(limits: RateLimits) -> (Arc<Bucket>, Instant) {
        let buckets = Buckets::new(limits, 1);
        let now = Instant::now();
        (buckets.of(DeviceKey([1; 8]), now), now)
    }

    #[test]
    fn exactly_the_burst_then_exactly_the_rate() {
        let (bucket, start) = bucket(LIMITS);
        for scan in 0..100 {
            assert_eq!(bucket.admit(1, start), Ok(()), "scan {scan}");
        }
        assert_eq!(bucket.admit(1, start), Err(RateLimited { retry_after_s: 1 }));
        let mut admitted = 0;
        for ms in 1..=10_000 {
            admitted += u32::from(bucket.admit(1, start + Duration::from_millis(ms)).is_ok());
        }
        assert_eq!(admitted, 500);
    }

    #[test]
    fn a_scan_is_refused_one_nanosecond_early_and_admitted_on_time() {
        let (bucket, start) = bucket(LIMITS);
        assert_eq!(bucket.admit(100, start), Ok(()));
        let due = start + Duration::from_millis(20);
        assert!(bucket.admit(1, start + Duration::from_nanos(19_999_999)).is_err());
        assert_eq!(bucket.admit(1, due), Ok(()));
        assert_eq!(bucket.admit(50, due), Err(RateLimited { retry_after_s: 1 }));
        assert_eq!(bucket.admit(51, due), Err(RateLimited { retry_after_s: 2 }));
    }

    #[test]
    fn a_batch_above_the_burst_needs_a_full_bucket_and_is_paid_back() {
        let (bucket, start) = bucket(LIMITS);
        assert_eq!(bucket.admit(1000, start), Ok(()));
        // 1,000 scans at 50 a second are 20 s, of which the burst covers 2.
        assert_eq!(bucket.admit(1, start), Err(RateLimited { retry_after_s: 19 }));
        assert!(bucket.admit(1000, start + Duration::from_millis(19_999)).is_err());
        assert_eq!(bucket.admit(1000, start + Duration::from_secs(20)), Ok(()));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let (bucket, start) = bucket(LIMITS);
        assert_eq!(bucket.admit(100, start), Ok(()));
        assert!(bucket.admit(1, start).is_err());
        bucket.give_back(40);
        assert_eq!(bucket.admit(40, start), Ok(()));
        assert!(bucket.admit(1, start).is_err());
        // Beyond full there is nothing to save up.
        bucket.give_back(u32::MAX);
        assert_eq!(bucket.admit(100, start), Ok(()));
        assert!(bucket.admit(1, start).is_err());
    }

    #[test]
    fn zero_means_no_limit_and_a_change_applies_at_once() {
        let buckets = Buckets::new(RateLimits { device_scans_per_s: 0, ..LIMITS }, 1);
        let now = Instant::now();
        let bucket = buckets.of(DeviceKey([1; 8]), now);
        assert_eq!(bucket.admit(u32::MAX, now), Ok(()));
        buckets.set_rate(LIMITS);
        assert_eq!(bucket.admit(100, now), Ok(()));
        assert!(bucket.admit(1, now).is_err());
    }

    #[test]
    fn one_device_has_one_bucket_and_the_map_stays_bounded() {
        let buckets = Buckets::new(LIMITS, SHARDS * 4);
        let now = Instant::now();
        let held = buckets.of(DeviceKey([9; 8]), now);
        assert_eq!(held.admit(100, now), Ok(()));
        for device in 0..100_000_u64 {
            // Left in debt, so that only the hard bound can drop them.
            assert_eq!(
                buckets.of(DeviceKey(device.reverse_bits().to_be_bytes()), now).admit(100, now),
                Ok(())
            );
        }
        assert!(buckets.len() <= SHARDS * 8, "{}", buckets.len());
        assert!(buckets.of(DeviceKey([9; 8]), now).admit(1, now).is_err(), "the held bucket was replaced");
    }
}
