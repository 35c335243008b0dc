//! Counters of the hot path: one block a core, so that counting never moves a cache line between cores;
//! they are summed at the scrape. Gauges aren't kept here but read at the scrape ([`super::Sampled`]),
//! so they can't drift.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::scan::{Form, Outcome};

use super::histogram::{Counts, Histogram};
use super::render;
pub use super::render::CONTENT_TYPE;
use super::sampled::Sampled;

/// An enum whose variants are the values of one label.
macro_rules! label {
    ($(#[$doc:meta])* $Name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $Name { $($(#[$variant_doc])* $variant,)+ }

        impl $Name {
            /// Every variant, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The label's value.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

label!(
    /// What a request asked for.
    Endpoint {
        /// One check-in.
        Single = "single",
        /// A batch of check-ins.
        Batch = "batch",
        /// A camera frame.
        Frame = "frame",
        /// Liveness, readiness, the API's description.
        Public = "public",
        /// Anything on the admin listener.
        Admin = "admin",
        /// No such path or method.
        Unknown = "unknown",
    }
);

label!(
    /// Which time limit closed a connection.
    TimeoutKind {
        /// The TLS handshake.
        Handshake = "handshake",
        /// A request's headers.
        Header = "header",
        /// A request's body.
        Body = "body",
        /// A whole request.
        Request = "request",
        /// The rest between requests.
        Idle = "idle",
        /// A response that the peer did not take.
        Write = "write",
        /// The end of a drain.
        Drain = "drain",
    }
);

label!(
    /// Why a device token was refused.
    AuthFailure {
        /// There was none.
        Missing = "missing",
        /// It can't be parsed, or lacks a claim.
        Malformed = "malformed",
        /// Its algorithm isn't accepted.
        Algorithm = "algorithm",
        /// No key of its app has its key id.
        UnknownKey = "unknown_key",
        /// Its signature doesn't verify.
        BadSignature = "bad_signature",
        /// Its time is over.
        Expired = "expired",
        /// Its device or key was revoked.
        Revoked = "revoked",
        /// It is bound to another client certificate than the connection's.
        Certificate = "certificate",
        /// The device may not do this.
        Forbidden = "forbidden",
    }
);

label!(
    /// A cache of verified signatures.
    Cache {
        /// SG1 tokens.
        Token = "token",
        /// Device tokens.
        Device = "device",
    }
);

/// Classes of status: 1xx to 5xx.
pub(super) const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

type Counters<const N: usize> = [AtomicU64; N];

/// One core's counters. The alignment keeps two cores' blocks off one pair of prefetched cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct CoreMetrics {
    outcomes: Counters<{ Outcome::ALL.len() }>,
    forms: Counters<{ Form::ALL.len() }>,
    requests: [Counters<5>; Endpoint::ALL.len()],
    auth_failures: Counters<{ AuthFailure::ALL.len() }>,
    admin_failures: Counters<{ AuthFailure::ALL.len() }>,
    cache_lookups: [Counters<2>; Cache::ALL.len()],
    rate_limited: AtomicU64,
    body_bytes: AtomicU64,
    single_ns: Histogram,
    batch_ns: Histogram,
    frame_ns: Histogram,
    batch_lines: Histogram,
}

impl CoreMetrics {
    /// One scan ended.
    #[inline]
    pub fn outcome(&self, outcome: Outcome) {
        self.outcomes(outcome, 1);
    }

    /// `count` scans of a batch ended alike.
    #[inline]
    pub fn outcomes(&self, outcome: Outcome, count: u64) {
        add(self.outcomes.get(usize::from(outcome.code())), count);
    }

    /// A payload was read as this form.
    #[inline]
    pub fn form(&self, form: Form) {
        add(self.forms.get(usize::from(form.code())), 1);
    }

    /// A request was answered. `elapsed` counts from the end of its headers.
    #[inline]
    pub fn request_done(&self, endpoint: Endpoint, status: u16, elapsed: Duration) {
        let class = usize::from(status / 100).saturating_sub(1);
        add(self.requests.get(endpoint as usize).and_then(|classes| classes.get(class)), 1);
        let histogram = match endpoint {
            Endpoint::Single => &self.single_ns,
            Endpoint::Batch => &self.batch_ns,
            Endpoint::Frame => &self.frame_ns,
            Endpoint::Public | Endpoint::Admin | Endpoint::Unknown => return,
        };
        histogram.record(nanoseconds(elapsed));
    }

    /// A body arrived, of so many bytes on the wire.
    #[inline]
    pub fn body(&self, bytes: usize) {
        add(Some(&self.body_bytes), wide(bytes));
    }

    /// A batch held so many lines.
    #[inline]
    pub fn batch(&self, lines: usize) {
        self.batch_lines.record(wide(lines));
    }

    /// So many scans were refused because their device was over its rate.
    #[inline]
    pub fn rate_limited(&self, scans: u64) {
        add(Some(&self.rate_limited), scans);
    }

    /// A device token was refused.
    #[inline]
    pub fn auth_failure(&self, reason: AuthFailure) {
        add(self.auth_failures.get(reason as usize), 1);
    }

    /// A request to the admin listener was refused for its token.
    pub fn admin_failure(&self, reason: AuthFailure) {
        add(self.admin_failures.get(reason as usize), 1);
    }

    /// A cache was asked.
    #[inline]
    pub fn cache_lookup(&self, cache: Cache, hit: bool) {
        add(self.cache_lookups.get(cache as usize).and_then(|results| results.get(usize::from(hit))), 1);
    }

    fn new() -> Self {
        Self {
            outcomes: zeros(),
            forms: zeros(),
            requests: std::array::from_fn(|_| zeros()),
            auth_failures: zeros(),
            admin_failures: zeros(),
            cache_lookups: std::array::from_fn(|_| zeros()),
            rate_limited: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            single_ns: Histogram::default(),
            batch_ns: Histogram::default(),
            frame_ns: Histogram::default(),
            batch_lines: Histogram::default(),
        }
    }
}

/// All counters of the process.
#[derive(Debug)]
pub struct Metrics {
    cores: Box<[CoreMetrics]>,
    commit_ns: Histogram,
    commit_records: Histogram,
    commit_bytes: AtomicU64,
    started: Instant,
}

impl Metrics {
    /// Counters for `cores` cores, at least one.
    pub fn new(cores: usize) -> Arc<Self> {
        Arc::new(Self {
            cores: (0..cores.max(1)).map(|_| CoreMetrics::new()).collect(),
            commit_ns: Histogram::default(),
            commit_records: Histogram::default(),
            commit_bytes: AtomicU64::new(0),
            started: Instant::now(),
        })
    }

    /// A core's block; an index beyond the last wraps around, which costs speed and no count.
    ///
    /// # Panics
    /// Never: there is at least one block.
    #[allow(clippy::indexing_slicing)]
    pub fn core(&self, index: usize) -> &CoreMetrics {
        &self.cores[index % self.cores.len()]
    }

    /// The journal's writer made a group commit durable.
    pub fn commit(&self, records: usize, bytes: usize, elapsed: Duration) {
        self.commit_ns.record(nanoseconds(elapsed));
        self.commit_records.record(wide(records));
        self.commit_bytes.fetch_add(wide(bytes), Relaxed);
    }

    /// Time since start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// OpenMetrics text, of content type [`CONTENT_TYPE`].
    pub fn render(self: &Arc<Self>, sampled: &Sampled) -> String {
        render::text(Arc::clone(self), sampled.clone())
    }

    /// The sum over all cores.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for core in &self.cores {
            sum(&mut totals.outcomes, &core.outcomes);
            sum(&mut totals.forms, &core.forms);
            for (to, from) in totals.requests.iter_mut().zip(&core.requests) {
                sum(to, from);
            }
            sum(&mut totals.auth_failures, &core.auth_failures);
            sum(&mut totals.admin_failures, &core.admin_failures);
            for (to, from) in totals.cache_lookups.iter_mut().zip(&core.cache_lookups) {
                sum(to, from);
            }
            totals.rate_limited += core.rate_limited.load(Relaxed);
            totals.body_bytes += core.body_bytes.load(Relaxed);
            core.single_ns.add_to(&mut totals.single_ns);
            core.batch_ns.add_to(&mut totals.batch_ns);
            core.frame_ns.add_to(&mut totals.frame_ns);
            core.batch_lines.add_to(&mut totals.batch_lines);
        }
        self.commit_ns.add_to(&mut totals.commit_ns);
        self.commit_records.add_to(&mut totals.commit_records);
        totals.commit_bytes = self.commit_bytes.load(Relaxed);
        totals
    }
}

/// Every counter, summed over cores, at one moment. Arrays are in the order of the label's `ALL`.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Scans by [`Outcome`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Payloads by [`Form`].
    pub forms: [u64; Form::ALL.len()],
    /// Requests by [`Endpoint`] and class of status.
    pub requests: [[u64; 5]; Endpoint::ALL.len()],
    /// Refused tokens by [`AuthFailure`].
    pub auth_failures: [u64; AuthFailure::ALL.len()],
    /// Refusals of the admin listener by [`AuthFailure`].
    pub admin_failures: [u64; AuthFailure::ALL.len()],
    /// Misses and hits by [`Cache`].
    pub cache_lookups: [[u64; 2]; Cache::ALL.len()],
    /// Scans over their device's rate.
    pub rate_limited: u64,
    /// Body bytes on the wire.
    pub body_bytes: u64,
    /// Durations of single check-ins, in nanoseconds.
    pub single_ns: Counts,
    /// Durations of batches, in nanoseconds.
    pub batch_ns: Counts,
    /// Durations of frames, in nanoseconds.
    pub frame_ns: Counts,
    /// Lines of batches.
    pub batch_lines: Counts,
    /// Durations of group commits, in nanoseconds.
    pub commit_ns: Counts,
    /// Records of group commits.
    pub commit_records: Counts,
    /// Bytes committed.
    pub commit_bytes: u64,
}

#[inline]
fn add(counter: Option<&AtomicU64>, count: u64) {
    if let Some(counter) = counter {
        counter.fetch_add(count, Relaxed);
    }
}

fn sum(totals: &mut [u64], counters: &[AtomicU64]) {
    for (total, counter) in totals.iter_mut().zip(counters) {
        *total += counter.load(Relaxed);
    }
}

fn zeros<const N: usize>() -> Counters<N> {
    std::array::from_fn(|_| AtomicU64::new(0))
}

#[inline]
fn wide(value: usize) -> u64 {
    value as u64
}

/// 2^64 ns are 584 years.
#[inline]
#[allow(clippy::cast_possible_truncation)]
fn nanoseconds(elapsed: Duration) -> u64 {
    elapsed.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_and_form_codes_are_their_positions() {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(usize::from(outcome.code()), index);
        }
        for (index, form) in Form::ALL.iter().enumerate() {
            assert_eq!(usize::from(form.code()), index);
        }
    }

    #[test]
    fn cores_are_summed_and_a_foreign_index_wraps() {
        let metrics = Metrics::new(2);
        metrics.core(0).outcome(Outcome::Recorded);
        metrics.core(1).outcome(Outcome::Recorded);
        metrics.core(7).outcomes(Outcome::Duplicate, 5);
        metrics.core(1).request_done(Endpoint::Single, 201, Duration::from_micros(80));
        let totals = metrics.totals();
        assert_eq!(totals.outcomes[usize::from(Outcome::Recorded.code())], 2);
        assert_eq!(totals.outcomes[usize::from(Outcome::Duplicate.code())], 5);
        assert_eq!(totals.requests[Endpoint::Single as usize], [0, 1, 0, 0, 0]);
        assert_eq!(totals.single_ns.count(), 1);
    }
}
