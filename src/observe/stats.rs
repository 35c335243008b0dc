//! `/v1/stats`: rates, outcomes, backlog and latency as JSON, for a person or a script without a time
//! series database.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use crate::scan::Outcome;

use super::histogram::Counts;
use super::metrics::{Endpoint, Metrics, Totals};
use super::render::float;
use super::sampled::{FramesSample, Sampled};

/// The longest window that rates are told for.
const HISTORY_TICKS_MAX: usize = 61;

/// Latency is told over ten seconds; older snapshots drop their histograms, 18 KB each.
const LATENCY_TICKS: usize = 10;

/// Counters once a second for the last minute.
#[derive(Debug, Default)]
pub struct History {
    ticks: VecDeque<Tick>,
}

#[derive(Debug)]
struct Tick {
    at: Instant,
    scans: u64,
    requests: u64,
    recorded: u64,
    latency: Option<Latencies>,
}

#[derive(Debug, Clone)]
struct Latencies {
    single: Counts,
    batch: Counts,
    frame: Counts,
    commit: Counts,
}

/// Scans and requests a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
#[allow(clippy::struct_field_names)] // The JSON names bear their unit.
pub struct Rates {
    /// Scans, however they ended.
    pub scans_per_s: f64,
    /// Scans recorded.
    pub recorded_per_s: f64,
    /// Requests: single, batch and frame.
    pub requests_per_s: f64,
}

/// A distribution of durations, in milliseconds; zeros while there was nothing to measure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
pub struct Percentiles {
    /// How many were measured.
    pub count: u64,
    /// Half took no longer.
    pub p50_ms: f64,
    /// 90 % took no longer.
    pub p90_ms: f64,
    /// 99 % took no longer.
    pub p99_ms: f64,
    /// 99.9 % took no longer.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// The journal, in `/v1/stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct JournalStats {
    /// Size of all segments.
    pub bytes: u64,
    /// Size at which scans are refused.
    pub bytes_max: u64,
    /// Segments on disk.
    pub segments: u64,
    /// An fsync failed.
    pub poisoned: bool,
    /// The disk or the journal is full.
    pub full: bool,
}

/// The store, in `/v1/stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct StoreStats {
    /// Durable check-ins that it doesn't have yet.
    pub lag_records: u64,
    /// Age of the oldest of them.
    pub lag_ms: u64,
    /// Rows it acknowledged since start.
    pub rows_written: u64,
    /// Writes tried again since start.
    pub retries: u64,
}

/// The end of the audit log, in `/v1/stats`: what a copy kept elsewhere is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AuditStats {
    /// The number of its newest record; 0 for none.
    pub seq: u64,
    /// That record's SHA-256.
    pub hash: String,
    /// Whether it can be written; while it can't, nothing is exported.
    pub works: bool,
}

/// The pool, in `/v1/stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct WorkersStats {
    /// Jobs waiting.
    pub queue_jobs: u64,
    /// Jobs refused since start because the queue was full.
    pub shed: u64,
    /// Jobs dropped since start because their deadline had passed.
    pub late: u64,
}

/// The reading of frames, in `/v1/stats`; counts since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct FramesStats {
    /// Whether frames can be read at all.
    pub available: bool,
    /// Frames waiting.
    pub queue_frames: u64,
    /// Frames in which a code was found.
    pub read: u64,
    /// Frames without one.
    pub without_code: u64,
    /// Codes found.
    pub codes: u64,
    /// Frames whose bytes were no image within the limits.
    pub malformed: u64,
    /// Frames refused because the queue was full, or dropped because they had waited too long.
    pub shed: u64,
    /// Frames ended at the deadline.
    pub timed_out: u64,
    /// Frames during which their process died or panicked.
    pub crashed: u64,
    /// Processes started in place of another.
    pub restarts: u64,
}

/// The answer to `/v1/stats`, and every event of `/v1/stats/stream`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Stats {
    /// Version of the running program.
    pub version: &'static str,
    /// `uring` or `epoll`.
    pub runtime: &'static str,
    /// Whether scans are taken.
    pub ready: bool,
    /// Time since start.
    pub uptime_s: f64,
    /// Rates over the last second, ten seconds and minute.
    pub rates: RateWindows,
    /// Scans since start by how they ended; outcomes that never happened are left out.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Durations over the last ten seconds.
    pub latency: LatencyStats,
    /// Connections open now.
    pub connections: u64,
    /// Scans remembered for deduplication.
    pub deduplicate_entries: u64,
    /// The journal.
    pub journal: JournalStats,
    /// The store.
    pub store: StoreStats,
    /// The audit log.
    pub audit: AuditStats,
    /// The pool.
    pub workers: WorkersStats,
    /// The reading of frames.
    pub frames: FramesStats,
    /// Resident memory.
    pub resident_bytes: u64,
}

/// Rates by window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
#[allow(clippy::struct_field_names)] // The JSON names bear their unit.
pub struct RateWindows {
    /// The last second.
    pub last_1_s: Rates,
    /// The last ten seconds.
    pub last_10_s: Rates,
    /// The last minute.
    pub last_60_s: Rates,
}

/// Durations by what was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
pub struct LatencyStats {
    /// Single check-ins.
    pub single: Percentiles,
    /// Batches.
    pub batch: Percentiles,
    /// Frames.
    pub frame: Percentiles,
    /// The journal's group commits.
    pub commit: Percentiles,
}

impl Stats {
    /// The answer to `/v1/stats`.
    pub fn to_json(&self) -> String {
        // Finite numbers and plain strings always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// One server-sent event.
    pub fn to_event(&self) -> String {
        format!("data: {}\n\n", self.to_json())
    }
}

impl History {
    /// Takes a snapshot. The gateway calls this once a second.
    pub fn tick(&mut self, now: Instant, metrics: &Metrics) {
        self.ticks.push_back(Tick::new(now, metrics.totals()));
        if self.ticks.len() > HISTORY_TICKS_MAX {
            self.ticks.pop_front();
        }
        let outdated = self.ticks.len().saturating_sub(LATENCY_TICKS + 1);
        if let Some(tick) = outdated.checked_sub(1).and_then(|index| self.ticks.get_mut(index)) {
            tick.latency = None;
        }
    }

    /// The state at `now`.
    pub fn stats(&self, now: Instant, metrics: &Metrics, sampled: &Sampled) -> Stats {
        let totals = metrics.totals();
        let named = Outcome::ALL.iter().map(|outcome| outcome.name()).zip(totals.outcomes);
        let outcomes = named.filter(|(_, count)| *count > 0).collect();
        let connections = sampled.connections.open;
        let current = Tick::new(now, totals);
        let Sampled { journal, store, workers, audit, .. } = sampled;
        Stats {
            version: env!("CARGO_PKG_VERSION"),
            runtime: sampled.runtime,
            ready: sampled.ready,
            uptime_s: metrics.uptime().as_secs_f64(),
            rates: RateWindows {
                last_1_s: self.rates(&current, 1),
                last_10_s: self.rates(&current, 10),
                last_60_s: self.rates(&current, 60),
            },
            outcomes,
            latency: self.latency(&current),
            connections,
            deduplicate_entries: sampled.deduplicate_entries,
            journal: JournalStats {
                bytes: journal.bytes,
                bytes_max: journal.bytes_max,
                segments: journal.segments,
                poisoned: journal.poisoned,
                full: journal.full,
            },
            store: StoreStats {
                lag_records: store.lag_records,
                lag_ms: store.lag_ms,
                rows_written: store.rows_written,
                retries: store.retries,
            },
            audit: AuditStats { seq: audit.seq, hash: audit.hash.clone(), works: audit.works },
            workers: WorkersStats { queue_jobs: workers.queue_jobs, shed: workers.shed, late: workers.late },
            frames: FramesStats::of(&sampled.frames),
            resident_bytes: sampled.process.resident_bytes,
        }
    }

    /// Against the youngest snapshot that is at least the window old, or the oldest there is.
    fn rates(&self, current: &Tick, window_s: u64) -> Rates {
        let window = Duration::from_secs(window_s);
        let old = |tick: &&Tick| current.at.saturating_duration_since(tick.at) >= window;
        let Some(then) = self.ticks.iter().rev().find(old).or(self.ticks.front()) else {
            return Rates::default();
        };
        let seconds = current.at.saturating_duration_since(then.at).as_secs_f64();
        if seconds == 0.0 {
            return Rates::default();
        }
        let rate = |now: u64, before: u64| float(now.saturating_sub(before)) / seconds;
        Rates {
            scans_per_s: rate(current.scans, then.scans),
            recorded_per_s: rate(current.recorded, then.recorded),
            requests_per_s: rate(current.requests, then.requests),
        }
    }

    fn latency(&self, current: &Tick) -> LatencyStats {
        let then = self.ticks.iter().find_map(|tick| tick.latency.as_ref());
        let (Some(now), Some(then)) = (&current.latency, then) else {
            return LatencyStats::default();
        };
        LatencyStats {
            single: Percentiles::of(&now.single.since(&then.single)),
            batch: Percentiles::of(&now.batch.since(&then.batch)),
            frame: Percentiles::of(&now.frame.since(&then.frame)),
            commit: Percentiles::of(&now.commit.since(&then.commit)),
        }
    }
}

impl FramesStats {
    fn of(sample: &FramesSample) -> Self {
        Self {
            available: sample.available,
            queue_frames: sample.queue_frames,
            read: sample.read,
            without_code: sample.without_code,
            codes: sample.codes,
            malformed: sample.malformed,
            shed: sample.shed + sample.late,
            timed_out: sample.timed_out,
            crashed: sample.crashed + sample.panicked,
            restarts: sample.restarts,
        }
    }
}

impl Tick {
    fn new(at: Instant, totals: Totals) -> Self {
        let by_class =
            |endpoint: Endpoint| totals.requests.get(endpoint as usize).copied().unwrap_or_default();
        let requests =
            [Endpoint::Single, Endpoint::Batch, Endpoint::Frame].map(by_class).iter().flatten().sum();
        let recorded =
            totals.outcomes.get(usize::from(Outcome::Recorded.code())).copied().unwrap_or_default();
        Self {
            at,
            scans: totals.outcomes.iter().sum(),
            requests,
            recorded,
            latency: Some(Latencies {
                single: totals.single_ns,
                batch: totals.batch_ns,
                frame: totals.frame_ns,
                commit: totals.commit_ns,
            }),
        }
    }
}

impl Percentiles {
    fn of(counts: &Counts) -> Self {
        let ms = |per_mille| float(counts.quantile(per_mille).unwrap_or_default()) / 1e6;
        Self {
            count: counts.count(),
            p50_ms: ms(500),
            p90_ms: ms(900),
            p99_ms: ms(990),
            p999_ms: ms(999),
            max_ms: ms(1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_latency_are_of_their_window() {
        let metrics = Metrics::new(1);
        let mut history = History::default();
        let start = Instant::now();
        let second = |count: u64| start + Duration::from_secs(count);
        for at in 0..70 {
            history.tick(second(at), &metrics);
            metrics.core(0).outcomes(Outcome::Recorded, if at < 60 { 10 } else { 100 });
            let elapsed = if at < 50 { Duration::from_secs(5) } else { Duration::from_millis(2) };
            metrics.core(0).request_done(Endpoint::Single, 201, elapsed);
        }
        let stats = history.stats(second(70), &metrics, &Sampled::default());
        assert!((stats.rates.last_1_s.recorded_per_s - 100.0).abs() < 1e-9, "{:?}", stats.rates);
        assert!((stats.rates.last_10_s.scans_per_s - 100.0).abs() < 1e-9, "{:?}", stats.rates);
        assert!((stats.rates.last_60_s.scans_per_s - 25.0).abs() < 1e-9, "{:?}", stats.rates);
        assert!((stats.rates.last_60_s.requests_per_s - 1.0).abs() < 1e-9, "{:?}", stats.rates);
        assert_eq!(stats.latency.single.count, 11, "the five-second ones are forgotten");
        assert!((1.9..2.1).contains(&stats.latency.single.max_ms), "{:?}", stats.latency);
        assert_eq!(stats.outcomes.get("recorded"), Some(&1600));
        assert_eq!(stats.outcomes.len(), 1);
        assert_eq!(history.ticks.len(), HISTORY_TICKS_MAX);
        assert!(history.ticks.iter().filter(|tick| tick.latency.is_some()).count() <= LATENCY_TICKS + 1);
    }

    #[test]
    fn without_history_everything_is_zero() {
        let stats = History::default().stats(Instant::now(), &Metrics::new(1), &Sampled::default());
        assert_eq!(stats.rates, RateWindows::default());
        assert!(stats.to_event().starts_with("data: {\"version\":"), "{}", stats.to_event());
    }
}
