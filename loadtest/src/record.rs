//! Latency and rate as they happen: one histogram for the whole, one for each second.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies are kept from a microsecond to ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;
/// Significant digits of the whole, and of a single second: the latter's histograms take 40 KB each.
const DIGITS: u8 = 3;
const SECOND_DIGITS: u8 = 2;

/// What happened in one second, by the time of the answer.
#[derive(Debug, Clone, Serialize)]
pub struct Second {
    /// Requests answered with a success.
    pub answered: u64,
    /// Requests shed with 429 or 503.
    pub shed: u64,
    /// Requests that failed: no connection, no answer, another status.
    pub failed: u64,
    /// Milliseconds from the intended time of sending.
    pub p50_ms: f64,
    /// As above.
    pub p99_ms: f64,
    /// As above.
    pub max_ms: f64,
    /// Resident memory of the gateway in MiB, if it was looked at.
    pub resident_mib: f64,
}

/// Percentiles of a histogram in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// Median.
    pub p50_ms: f64,
    /// Of ten, the slowest.
    pub p90_ms: f64,
    /// Of a hundred.
    pub p99_ms: f64,
    /// Of a thousand.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// Quantile and milliseconds, for the plot.
    pub curve: Vec<(f64, f64)>,
}

/// Shared by all connections.
pub struct Recorder {
    started: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    all: Histogram<u64>,
    seconds: Vec<(Bucket, Histogram<u64>)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    answered: u64,
    shed: u64,
    failed: u64,
    resident_bytes: u64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With a success.
    Answered,
    /// Told to come back later.
    Shed,
    /// Any other way.
    Failed,
}

impl Recorder {
    /// Counts from now on.
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            inner: Mutex::new(Inner { all: histogram(DIGITS), seconds: Vec::new() }),
        }
    }

    /// When it started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// One request: `latency` runs from the intended time of sending.
    pub fn record(&self, ending: Ending, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.with_second(|all, bucket, histogram| match ending {
            Ending::Answered => {
                bucket.answered += 1;
                all.saturating_record(us);
                histogram.saturating_record(us);
            }
            Ending::Shed => bucket.shed += 1,
            Ending::Failed => bucket.failed += 1,
        });
    }

    /// The gateway's memory now.
    pub fn resident(&self, bytes: u64) {
        self.with_second(|_, bucket, _| bucket.resident_bytes = bytes);
    }

    /// The second before this one, for the progress line.
    pub fn last_second(&self) -> Option<Second> {
        let elapsed = usize::try_from(self.started.elapsed().as_secs()).ok()?;
        let inner = self.inner.lock().ok()?;
        inner.seconds.get(elapsed.checked_sub(1)?).map(second)
    }

    /// Percentiles of everything answered.
    pub fn latency(&self) -> Latency {
        let Ok(inner) = self.inner.lock() else { return latency(&histogram(DIGITS)) };
        latency(&inner.all)
    }

    /// Percentiles of what was answered in whole seconds of this range.
    pub fn latency_within(&self, seconds: std::ops::Range<usize>) -> Latency {
        let mut all = histogram(SECOND_DIGITS);
        if let Ok(inner) = self.inner.lock() {
            for (_, second) in inner.seconds.get(seconds).unwrap_or_default() {
                // Both have the same bounds.
                let _ = all.add(second);
            }
        }
        latency(&all)
    }

    /// All seconds so far.
    pub fn seconds(&self) -> Vec<Second> {
        self.inner.lock().map(|inner| inner.seconds.iter().map(second).collect()).unwrap_or_default()
    }

    fn with_second(&self, change: impl FnOnce(&mut Histogram<u64>, &mut Bucket, &mut Histogram<u64>)) {
        let index = usize::try_from(self.started.elapsed().as_secs()).unwrap_or_default();
        let Ok(mut inner) = self.inner.lock() else { return };
        let Inner { all, seconds } = &mut *inner;
        while seconds.len() <= index {
            seconds.push((Bucket::default(), histogram(SECOND_DIGITS)));
        }
        if let Some((bucket, histogram)) = seconds.get_mut(index) {
            change(all, bucket, histogram);
        }
    }
}

#[allow(clippy::cast_precision_loss)] // Bytes stay far below 2^52.
fn second((bucket, histogram): &(Bucket, Histogram<u64>)) -> Second {
    Second {
        answered: bucket.answered,
        shed: bucket.shed,
        failed: bucket.failed,
        p50_ms: ms(histogram.value_at_quantile(0.5)),
        p99_ms: ms(histogram.value_at_quantile(0.99)),
        max_ms: ms(histogram.max()),
        resident_mib: bucket.resident_bytes as f64 / f64::from(1 << 20),
    }
}

/// Percentiles of microseconds.
pub fn latency(histogram: &Histogram<u64>) -> Latency {
    let at = |quantile| ms(histogram.value_at_quantile(quantile));
    let quantiles = [
        0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995,
        0.9999, 1.0,
    ];
    Latency {
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: ms(histogram.max()),
        curve: quantiles.iter().map(|quantile| (*quantile, at(*quantile))).collect(),
    }
}

#[allow(clippy::cast_precision_loss)] // Microseconds of a run stay far below 2^52.
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn histogram(digits: u8) -> Histogram<u64> {
    // The arguments are constants inside the documented bounds.
    Histogram::new_with_bounds(1, LATENCY_US_MAX, digits)
        .unwrap_or_else(|error| unreachable!("1..={LATENCY_US_MAX} at {digits} digits: {error}"))
}
