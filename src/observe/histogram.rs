//! A log-linear histogram: every power of two is cut into 64 equal buckets, so a value is known to
//! 1.6 % wherever it lies, in a fixed 18 KB and without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// 2^6 buckets to a power of two: at most 1/64 wide, which is two significant digits.
const SUB_BITS: u32 = 6;

/// Values from here on are counted in the last bucket. 2^40 ns are 18 minutes, longer than any request
/// may take; as bytes it is a tebibyte.
const VALUE_BITS_MAX: u32 = 40;

const BUCKETS: usize = ((VALUE_BITS_MAX - 1 - SUB_BITS) as usize + 2) << SUB_BITS;

const _: () = assert!(bucket(u64::MAX) == BUCKETS - 1);

/// Counts values by size. Written by one core as a rule; other threads are safe, only slower.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one value: two relaxed additions.
    #[inline]
    pub fn record(&self, value: u64) {
        if let Some(count) = self.buckets.get(bucket(value)) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(value, Relaxed);
    }

    /// Adds what was counted so far to `totals`.
    pub fn add_to(&self, totals: &mut Counts) {
        for (total, count) in totals.buckets.iter_mut().zip(&self.buckets) {
            *total += count.load(Relaxed);
        }
        totals.sum = totals.sum.wrapping_add(self.sum.load(Relaxed));
    }
}

/// A histogram's counts at one moment, summed over cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    buckets: Vec<u64>,
    sum: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], sum: 0 }
    }
}

impl Counts {
    /// How many values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let buckets = self.buckets.iter().zip(&earlier.buckets).map(|(now, then)| now.saturating_sub(*then));
        Self { buckets: buckets.collect(), sum: self.sum.wrapping_sub(earlier.sum) }
    }

    /// The value that `per_mille` thousandths of the values don't exceed, as the top of its bucket; none
    /// while nothing was counted.
    pub fn quantile(&self, per_mille: u64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = (u128::from(count) * u128::from(per_mille.min(1000))).div_ceil(1000).max(1);
        let mut seen = 0_u128;
        self.buckets.iter().enumerate().find_map(|(index, held)| {
            seen += u128::from(*held);
            (seen >= rank).then(|| top(index))
        })
    }

    /// How many values are below `2^bits`, exactly: powers of two are bucket edges.
    pub fn below_power(&self, bits: u32) -> u64 {
        self.buckets.iter().take(bucket(1 << bits.min(VALUE_BITS_MAX - 1))).sum()
    }
}

/// Values below 128 have a bucket each; above, the value's top seven bits choose one.
const fn bucket(value: u64) -> usize {
    let clamped = if value >> VALUE_BITS_MAX == 0 { value } else { (1 << VALUE_BITS_MAX) - 1 };
    let magnitude = (clamped | 1).ilog2();
    let shift = magnitude.saturating_sub(SUB_BITS);
    // At most 2^12: the clamp above bounds the shift to 33 and the shifted value to 127.
    #[allow(clippy::cast_possible_truncation)]
    let index = (((shift as u64) << SUB_BITS) + (clamped >> shift)) as usize;
    index
}

/// The largest value of a bucket.
fn top(index: usize) -> u64 {
    let index = u64::try_from(index).unwrap_or_default();
    let shift = (index >> SUB_BITS).saturating_sub(1);
    let base = index - (shift << SUB_BITS);
    ((base + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(values: impl IntoIterator<Item = u64>) -> Counts {
        let histogram = Histogram::default();
        for value in values {
            histogram.record(value);
        }
        let mut counts = Counts::default();
        histogram.add_to(&mut counts);
        counts
    }

    #[test]
    fn buckets_are_contiguous_and_at_most_a_sixty_fourth_wide() {
        let mut low = 0;
        for index in 0..BUCKETS {
            let high = top(index);
            assert_eq!(bucket(low), index);
            assert_eq!(bucket(high), index);
            assert!(high - low <= low / 64, "{low}..={high}");
            low = high + 1;
        }
        assert_eq!(low, 1 << VALUE_BITS_MAX);
    }

    #[test]
    fn quantiles_are_within_two_digits() {
        let counts = counts(1..=100_000);
        for (per_mille, exact) in [(500, 50_000_u64), (990, 99_000), (999, 99_900), (1000, 100_000)] {
            let estimate = counts.quantile(per_mille).expect("values");
            assert!(estimate >= exact && estimate - exact <= exact / 50, "{per_mille}: {estimate}");
        }
        assert_eq!(counts.count(), 100_000);
        assert_eq!(counts.sum(), 5_000_050_000);
        assert_eq!(Counts::default().quantile(500), None);
    }

    #[test]
    fn powers_of_two_split_exactly() {
        let counts = counts([0, 1023, 1024, 1025, u64::MAX]);
        assert_eq!(counts.below_power(10), 2);
        assert_eq!(counts.below_power(11), 4);
    }

    #[test]
    fn a_difference_holds_only_what_came_between() {
        let earlier = counts([5, 10]);
        let later = counts([5, 10, 10, 7000]);
        let between = later.since(&earlier);
        assert_eq!((between.count(), between.sum()), (2, 7010));
        assert_eq!(between.quantile(1), Some(10));
    }
}
