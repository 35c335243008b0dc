//! Writes counters and samples as OpenMetrics text.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::scan::{Form, Outcome};

use super::histogram::Counts;
use super::metrics::{AuthFailure, Cache, Endpoint, Metrics, STATUS_CLASSES, TimeoutKind, Totals};
use super::names::{self, Kind, Name};
use super::sampled::{ConnectionsSample, FramesSample, Sampled, ServicesSample};

/// Durations are exported in powers of two from 8 µs to 17 s: coarse enough for a time series database,
/// and exact, since they are edges of the finer buckets that `/v1/stats` estimates from.
const DURATION_BITS: std::ops::RangeInclusive<u32> = 13..=34;

/// Lines and records in powers of two, up to a million.
const SIZE_BITS: std::ops::RangeInclusive<u32> = 0..=20;

/// What a scraper is told it gets.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The whole scrape.
pub(super) fn text(metrics: Arc<Metrics>, sampled: Sampled) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { metrics, sampled }));
    let mut out = String::with_capacity(32 * 1024);
    // Writing to a string doesn't fail; a half-written scrape would be refused by its missing EOF line.
    let _ = prometheus_client::encoding::text::encode(&mut out, &registry);
    out
}

#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    sampled: Sampled,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Writer { encoder, units: units() };
        let totals = self.metrics.totals();
        self.facts(&mut out)?;
        requests(&mut out, &totals)?;
        connections(&mut out, &self.sampled.connections)?;
        histograms(&mut out, &totals)?;
        self.parts(&mut out)?;
        frames(&mut out, &self.sampled.frames)?;
        self.process(&mut out)
    }
}

impl Scrape {
    fn facts(&self, out: &mut Writer<'_>) -> Result<(), Error> {
        out.info(&names::BUILD, ("version", env!("CARGO_PKG_VERSION")))?;
        out.info(&names::RUNTIME, ("runtime", self.sampled.runtime))?;
        out.gauge(&names::READY, u64::from(self.sampled.ready))?;
        out.gauge(&names::UPTIME, self.metrics.uptime().as_secs_f64())
    }

    fn parts(&self, out: &mut Writer<'_>) -> Result<(), Error> {
        let Sampled { workers, journal, store, .. } = &self.sampled;
        let caches = [
            (Cache::Token.name(), self.sampled.token_cache_entries),
            (Cache::Device.name(), self.sampled.device_cache_entries),
        ];
        out.gauges(&names::CACHE_ENTRIES, "cache", caches)?;
        out.gauge(&names::WORKERS_QUEUE, workers.queue_jobs)?;
        out.counter(&names::WORKERS_DONE, workers.done)?;
        out.counter(&names::WORKERS_SHED, workers.shed)?;
        out.counter(&names::WORKERS_LATE, workers.late)?;
        out.counter(&names::WORKERS_PANICKED, workers.panicked)?;
        let mut certificate = out.describe(&names::CERTIFICATE_EXPIRY)?;
        if let Some(expires_s) = self.sampled.certificate_expires_s {
            certificate.encode_gauge(&expires_s)?;
        }
        out.gauge(&names::RELOAD_FAILED, u64::from(self.sampled.reload_failed))?;
        out.gauge(&names::DEDUPLICATE_ENTRIES, self.sampled.deduplicate_entries)?;
        out.gauge(&names::DEDUPLICATE_MAX, self.sampled.deduplicate_entries_max)?;
        self.links(out)?;
        self.services(out)?;
        out.gauge(&names::AUDIT_RECORDS, self.sampled.audit.seq)?;
        out.gauge(&names::AUDIT_WORKS, u64::from(self.sampled.audit.works))?;
        out.gauge(&names::JOURNAL_SIZE, journal.bytes)?;
        out.gauge(&names::JOURNAL_SIZE_MAX, journal.bytes_max)?;
        out.gauge(&names::JOURNAL_SEGMENTS, journal.segments)?;
        out.gauge(&names::JOURNAL_POISONED, u64::from(journal.poisoned))?;
        out.gauge(&names::JOURNAL_FULL, u64::from(journal.full))?;
        out.gauge(&names::JOURNAL_DISK_FREE, journal.disk.free_bytes)?;
        out.gauge(&names::JOURNAL_DISK_SIZE, journal.disk.size_bytes)?;
        out.gauge(&names::STORE_LAG_RECORDS, store.lag_records)?;
        out.gauge(&names::STORE_LAG_BYTES, store.lag_bytes)?;
        out.gauge(&names::STORE_LAG_SECONDS, float(store.lag_ms) / 1e3)?;
        out.counter(&names::STORE_WRITTEN, store.rows_written)?;
        out.gauge(&names::STORE_FAILING, u64::from(store.failing))?;
        out.counter(&names::STORE_RETRIES, store.retries)
    }

    fn links(&self, out: &mut Writer<'_>) -> Result<(), Error> {
        let links = &self.sampled.links;
        out.gauge(&names::LINKS, links.held)?;
        out.gauge(&names::LINKS_RECENT, links.recent)?;
        out.counters(
            &names::FEED_LINES,
            "outcome",
            ["accepted", "unchanged", "refused"].into_iter().zip(links.lines),
        )?;
        out.gauge(&names::FEED_LAST, float(links.last_feed_ms) / 1e3)
    }

    fn services(&self, out: &mut Writer<'_>) -> Result<(), Error> {
        let none = ServicesSample::default();
        let services = self.sampled.services.as_ref().unwrap_or(&none);
        let requests = services.requests.iter().copied();
        out.counter_pairs(&names::SERVICES_REQUESTS, ["capability", "status"], STATUS_CLASSES, requests)?;
        out.counters(&names::SERVICES_EVENTS, "capability", services.events.iter().copied())?;
        out.gauge(&names::SERVICES_LOG_SIZE, services.log_bytes)?;
        out.gauge(&names::SERVICES_WORK, u64::from(services.works))?;
        out.gauges(&names::REGISTER_AGE, "register", services.register_age_s.iter().copied())
    }

    fn process(&self, out: &mut Writer<'_>) -> Result<(), Error> {
        let process = &self.sampled.process;
        out.gauge(&names::PROCESS_RESIDENT, process.resident_bytes)?;
        out.gauge(&names::PROCESS_DESCRIPTORS, process.descriptors)?;
        out.counter(&names::PROCESS_CPU, float(process.cpu_ms) / 1e3)
    }
}

fn requests(out: &mut Writer<'_>, totals: &Totals) -> Result<(), Error> {
    let outcomes = Outcome::ALL.iter().map(|outcome| outcome.name()).zip(totals.outcomes);
    out.counters(&names::SCANS, "outcome", outcomes)?;
    out.counters(&names::FORMS, "form", Form::ALL.iter().map(|form| form.name()).zip(totals.forms))?;
    let endpoints = Endpoint::ALL.iter().map(|endpoint| endpoint.name()).zip(totals.requests);
    out.counter_pairs(&names::REQUESTS, ["endpoint", "status"], STATUS_CLASSES, endpoints)?;
    out.counter(&names::BODY, totals.body_bytes)?;
    out.counter(&names::RATE_LIMITED, totals.rate_limited)?;
    let reasons = AuthFailure::ALL.iter().map(|reason| reason.name()).zip(totals.auth_failures);
    out.counters(&names::AUTH_FAILURES, "reason", reasons)?;
    let refused = AuthFailure::ALL.iter().map(|reason| reason.name()).zip(totals.admin_failures);
    out.counters(&names::ADMIN_FAILURES, "reason", refused)?;
    let caches = Cache::ALL.iter().map(|cache| cache.name()).zip(totals.cache_lookups);
    out.counter_pairs(&names::CACHE_LOOKUPS, ["cache", "result"], ["miss", "hit"], caches)
}

fn connections(out: &mut Writer<'_>, connections: &ConnectionsSample) -> Result<(), Error> {
    out.gauge(&names::CONNECTIONS_OPEN, connections.open)?;
    out.counter(&names::CONNECTIONS_ACCEPTED, connections.accepted)?;
    out.counter(&names::CONNECTIONS_REFUSED, connections.refused)?;
    out.counter(&names::ACCEPT_ERRORS, connections.accept_errors)?;
    out.counter(&names::HANDSHAKE_ERRORS, connections.handshake_errors)?;
    out.counter(&names::PROTOCOL_ERRORS, connections.protocol_errors)?;
    let kinds = TimeoutKind::ALL.iter().map(|kind| kind.name()).zip(connections.timeouts);
    out.counters(&names::CONNECTION_TIMEOUTS, "kind", kinds)
}

fn frames(out: &mut Writer<'_>, frames: &FramesSample) -> Result<(), Error> {
    out.counters(&names::FRAMES, "result", frames.results())?;
    out.gauge(&names::FRAMES_QUEUE, frames.queue_frames)?;
    out.gauge(&names::FRAMES_AVAILABLE, u64::from(frames.available))?;
    out.counter(&names::FRAMES_CODES, frames.codes)?;
    out.counter(&names::FRAMES_RESTARTS, frames.restarts)?;
    out.counter(&names::FRAMES_BUSY, float(frames.busy_us) / 1e6)?;
    let results = ["read", "nothing", "panicked", "skipped"];
    let stages = frames
        .stages
        .iter()
        .map(|stage| (stage.name.as_str(), [stage.read, stage.nothing, stage.panicked, stage.skipped]));
    out.counter_pairs(&names::FRAME_STAGES, ["stage", "result"], results, stages)?;
    let times = frames.stages.iter().map(|stage| (stage.name.as_str(), float(stage.busy_us) / 1e6));
    out.counters(&names::FRAME_STAGE_TIME, "stage", times)
}

fn histograms(out: &mut Writer<'_>, totals: &Totals) -> Result<(), Error> {
    let mut durations = out.describe(&names::REQUEST_DURATION)?;
    for (endpoint, counts) in [
        (Endpoint::Single, &totals.single_ns),
        (Endpoint::Batch, &totals.batch_ns),
        (Endpoint::Frame, &totals.frame_ns),
    ] {
        let labels = [("endpoint", endpoint.name())];
        let mut family = durations.encode_family(&labels)?;
        histogram(&mut family, counts, DURATION_BITS, 1e9)?;
    }
    histogram(&mut out.describe(&names::BATCH_LINES)?, &totals.batch_lines, SIZE_BITS, 1.0)?;
    let mut commits = out.describe(&names::JOURNAL_COMMIT_DURATION)?;
    histogram(&mut commits, &totals.commit_ns, DURATION_BITS, 1e9)?;
    histogram(&mut out.describe(&names::JOURNAL_COMMIT_RECORDS)?, &totals.commit_records, SIZE_BITS, 1.0)?;
    out.counter(&names::JOURNAL_WRITTEN, totals.commit_bytes)
}

/// `per_unit` recorded units make one exported unit.
fn histogram(
    encoder: &mut MetricEncoder<'_>,
    counts: &Counts,
    bits: std::ops::RangeInclusive<u32>,
    per_unit: f64,
) -> Result<(), Error> {
    let mut below = 0;
    let mut buckets = Vec::with_capacity(40);
    for bits in bits {
        let cumulative = counts.below_power(bits);
        // Values are whole, so "below 2^n" is "at most 2^n - 1".
        buckets.push((float((1 << bits) - 1) / per_unit, cumulative.saturating_sub(below)));
        below = cumulative;
    }
    let count = counts.count();
    buckets.push((f64::INFINITY, count.saturating_sub(below)));
    encoder.encode_histogram::<NoLabelSet>(float(counts.sum()) / per_unit, count, &buckets, None)
}

struct Writer<'a> {
    encoder: DescriptorEncoder<'a>,
    units: Vec<(&'static str, Unit)>,
}

impl Writer<'_> {
    fn describe<'s>(&'s mut self, name: &'s Name) -> Result<MetricEncoder<'s>, Error> {
        let kind = match name.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        let unit = self.units.iter().find(|(unit, _)| Some(*unit) == name.unit).map(|(_, unit)| unit);
        self.encoder.encode_descriptor(name.stem, name.help, unit, kind)
    }

    fn info(&mut self, name: &Name, label: (&str, &str)) -> Result<(), Error> {
        self.describe(name)?.encode_info(&[label])
    }

    fn gauge(&mut self, name: &Name, value: impl EncodeGaugeValue + Copy) -> Result<(), Error> {
        self.describe(name)?.encode_gauge(&value)
    }

    fn gauges<'v>(
        &mut self,
        name: &Name,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> Result<(), Error> {
        let mut encoder = self.describe(name)?;
        for (label_value, value) in values {
            encoder.encode_family(&[(label, label_value)])?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &Name, value: impl EncodeCounterValue + Copy) -> Result<(), Error> {
        self.describe(name)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn counters<'v>(
        &mut self,
        name: &Name,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, impl EncodeCounterValue)>,
    ) -> Result<(), Error> {
        let mut encoder = self.describe(name)?;
        for (label_value, value) in values {
            let labels = [(label, label_value)];
            encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn counter_pairs<'v, const N: usize>(
        &mut self,
        name: &Name,
        labels: [&str; 2],
        inner: [&'static str; N],
        values: impl IntoIterator<Item = (&'v str, [u64; N])>,
    ) -> Result<(), Error> {
        let [outer_label, inner_label] = labels;
        let mut encoder = self.describe(name)?;
        for (outer_value, row) in values {
            for (inner_value, value) in inner.iter().zip(row) {
                let labels = [(outer_label, outer_value), (inner_label, *inner_value)];
                encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            }
        }
        Ok(())
    }
}

/// The library wants references to owned units, alive as long as the encoder.
fn units() -> Vec<(&'static str, Unit)> {
    let named = names::ALL.iter().filter_map(|name| name.unit);
    named
        .map(|unit| match unit {
            "seconds" => (unit, Unit::Seconds),
            "bytes" => (unit, Unit::Bytes),
            other => (unit, Unit::Other(other.to_owned())),
        })
        .collect()
}

/// Exact up to 2^53, which no sum of nanoseconds reaches in a hundred days and no reader misses after.
#[allow(clippy::cast_precision_loss)]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_name_is_rendered_once_and_no_other() {
        let text = Metrics::new(1).render(&Sampled { runtime: "epoll", ..Sampled::default() });
        let mut rendered: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let mut expected: Vec<String> = names::ALL
            .iter()
            .map(|name| name.unit.map_or(name.stem.to_owned(), |unit| format!("{}_{unit}", name.stem)))
            .collect();
        rendered.sort_unstable();
        expected.sort();
        assert_eq!(rendered, expected);
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn samples_bear_their_labels_and_cumulative_buckets() {
        let metrics = Metrics::new(2);
        metrics.core(0).outcomes(Outcome::Recorded, 3);
        metrics.core(1).outcome(Outcome::Recorded);
        metrics.core(0).cache_lookup(Cache::Token, true);
        metrics.core(0).request_done(Endpoint::Batch, 200, Duration::from_nanos(1 << 14));
        metrics.core(1).request_done(Endpoint::Batch, 503, Duration::from_mins(1));
        let text = metrics.render(&Sampled { runtime: "uring", ready: true, ..Sampled::default() });
        for line in [
            "scangate_runtime_info{runtime=\"uring\"} 1",
            "scangate_ready 1",
            "scangate_scans_total{outcome=\"recorded\"} 4",
            "scangate_cache_lookups_total{cache=\"token\",result=\"hit\"} 1",
            "scangate_requests_total{endpoint=\"batch\",status=\"5xx\"} 1",
            "scangate_request_duration_seconds_count{endpoint=\"batch\"} 2",
            "scangate_request_duration_seconds_bucket{le=\"0.000016383\",endpoint=\"batch\"} 0",
            "scangate_request_duration_seconds_bucket{le=\"0.000032767\",endpoint=\"batch\"} 1",
            "scangate_request_duration_seconds_bucket{le=\"+Inf\",endpoint=\"batch\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
    }
}
