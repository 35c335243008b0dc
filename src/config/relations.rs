//! Bounds between keys: settings that are each valid and together would lose or refuse what they shouldn't.

use super::value::Setting as _;
use super::{Config, FrameDecoder, FrameIsolation, FrameStage};

/// An upper bound on one journal record, frame included. The journal's record is under 200 bytes; the
/// margin keeps this file free of its layout.
const RECORD_BYTES_MAX: u64 = 256;

/// An upper bound on what a segment holds beside one commit's records.
const HEADERS_BYTES_MAX: u64 = 1024;

/// A broken relation, told at the key that should change.
pub(super) struct Broken {
    pub(super) section: &'static str,
    pub(super) key: &'static str,
    /// To follow "must be".
    pub(super) expected: String,
    pub(super) got: String,
    /// The keys that take part, the blamed one included: any of them may be the one that was set.
    pub(super) parties: Vec<(&'static str, &'static str)>,
}

/// Every broken relation.
pub(super) fn check(config: &Config) -> Vec<Broken> {
    let mut broken: Vec<Broken> = durations(config)
        .into_iter()
        .chain(sizes(config))
        .filter(|rule| rule.applies && rule.low.2 < rule.bound.2)
        .map(|rule| Broken {
            section: rule.low.0,
            key: rule.low.1,
            expected: format!(
                "at least {} (from {}.{}), {}",
                rule.bound.2, rule.bound.0, rule.bound.1, rule.because
            ),
            got: rule.low.2.to_string(),
            parties: vec![(rule.low.0, rule.low.1), (rule.bound.0, rule.bound.1)],
        })
        .collect();
    broken.extend(pairs(config));
    broken.extend(listeners(config));
    broken.extend(admin_tls(config));
    broken.extend(stages(config));
    broken
}

/// Section, key and value.
type Value = (&'static str, &'static str, u64);

/// `low` must not be under `bound`.
struct AtLeast {
    applies: bool,
    low: Value,
    bound: Value,
    because: &'static str,
}

const fn rule(low: Value, bound: Value, because: &'static str) -> AtLeast {
    AtLeast { applies: true, low, bound, because }
}

fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// How long things are remembered and waited for.
fn durations(config: &Config) -> Vec<AtLeast> {
    let Config { gateway, listen, limits, workers, frames, deduplicate, journal, tracing, .. } = config;
    let classes = deduplicate.windows_s_by_class.values().copied();
    let window_s_max = u64::from(classes.fold(deduplicate.window_s, u16::max));
    let remember = ("deduplicate", "remember_s", deduplicate.remember_s);
    let request = ("listen", "request_timeout_ms", listen.request_timeout_ms);
    vec![
        rule(
            remember,
            ("limits", "clock_skew_past_s", limits.clock_skew_past_s),
            "or a late resend would be recorded twice",
        ),
        rule(remember, ("deduplicate", "window_s", window_s_max), "the longest window"),
        rule(
            remember,
            ("deduplicate", "auto_reset_s", deduplicate.auto_reset_s),
            "or the last direction would be forgotten",
        ),
        rule(
            ("journal", "retain_s", journal.retain_s),
            remember,
            "or a restart would forget what it must deduplicate",
        ),
        rule(request, ("listen", "body_timeout_ms", listen.body_timeout_ms), "which it includes"),
        rule(request, ("workers", "deadline_ms", workers.deadline_ms), "which it includes"),
        rule(request, ("frames", "deadline_ms", frames.deadline_ms), "which it includes"),
        rule(
            ("gateway", "drain_timeout_ms", gateway.drain_timeout_ms),
            request,
            "or a drain would cut requests short",
        ),
        rule(
            ("tracing", "stay_max_s", tracing.stay_max_s),
            ("tracing", "missing_exit_max_s", tracing.missing_exit_max_s.saturating_mul(2)),
            "twice that, or one person's stays could overlap",
        ),
    ]
}

/// What must fit into what.
fn sizes(config: &Config) -> Vec<AtLeast> {
    let Config { limits, journal, .. } = config;
    let lines_max = wide(limits.batch_lines_max);
    let payload = ("limits", "payload_bytes_max", wide(limits.payload_bytes_max));
    let largest_commit =
        wide(journal.lane_bytes_max.saturating_add(journal.batch_bytes_max)) + HEADERS_BYTES_MAX;
    vec![
        AtLeast {
            applies: limits.device_scans_per_s > 0,
            ..rule(
                ("limits", "device_scans_burst", u64::from(limits.device_scans_burst)),
                ("limits", "batch_lines_max", lines_max),
                "or no full batch would pass",
            )
        },
        rule(
            ("limits", "batch_inflated_bytes_max", wide(limits.batch_inflated_bytes_max)),
            payload,
            "or no such payload would pass",
        ),
        rule(
            ("limits", "body_bytes_max", wide(limits.body_bytes_max)),
            payload,
            "or no such payload would pass",
        ),
        rule(
            ("journal", "segment_bytes", journal.segment_bytes),
            ("journal", "lane_bytes_max", largest_commit),
            "which with journal.batch_bytes_max and headers is the largest commit; none spans segments",
        ),
        rule(
            ("journal", "bytes_max", journal.bytes_max),
            ("journal", "segment_bytes", journal.segment_bytes.saturating_mul(2)),
            "twice that: one segment to write while the other drains",
        ),
        rule(
            ("journal", "lane_bytes_max", wide(journal.lane_bytes_max)),
            ("limits", "batch_lines_max", lines_max.saturating_mul(RECORD_BYTES_MAX)),
            "256 bytes a line, or no full batch would pass",
        ),
    ]
}

/// Keys that are set together or not at all.
fn pairs(config: &Config) -> Vec<Broken> {
    let pair = |section, set: (&'static str, bool), other: (&'static str, bool)| {
        let (key, partner) = if set.1 { (other.0, set.0) } else { (set.0, other.0) };
        (set.1 != other.1).then(|| Broken {
            section,
            key,
            expected: format!("set, since {section}.{partner} is"),
            got: "\"\"".to_owned(),
            parties: vec![(section, key), (section, partner)],
        })
    };
    // One way only: the second does without the first.
    let needs = |section, set: (&'static str, bool), other: (&'static str, bool)| {
        (set.1 && !other.1).then(|| Broken {
            section,
            key: other.0,
            expected: format!("set, since {section}.{} is", set.0),
            got: "\"\"".to_owned(),
            parties: vec![(section, other.0), (section, set.0)],
        })
    };
    let (tls, admin, cql) = (&config.tls, &config.admin, &config.cql);
    [
        pair(
            "tls",
            ("certificate_file", tls.certificate_file.is_some()),
            ("key_file", tls.key_file.is_some()),
        ),
        pair(
            "admin",
            ("tls_cert_file", admin.tls_cert_file.is_some()),
            ("tls_key_file", admin.tls_key_file.is_some()),
        ),
        needs(
            "tls",
            ("client_ca_file", tls.client_ca_file.is_some()),
            ("certificate_file", tls.certificate_file.is_some()),
        ),
        needs(
            "tls",
            ("client_crl_file", tls.client_crl_file.is_some()),
            ("client_ca_file", tls.client_ca_file.is_some()),
        ),
        pair("cql", ("user", cql.user.is_some()), ("password_file", cql.password_file.is_some())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Port 0 means "any free port", twice without conflict.
fn listeners(config: &Config) -> Option<Broken> {
    let listen = &config.listen;
    (listen.addr == listen.admin && listen.addr.port() != 0).then(|| Broken {
        section: "listen",
        key: "admin",
        expected: "another address than listen.addr".to_owned(),
        got: format!("\"{}\"", listen.admin),
        parties: vec![("listen", "admin"), ("listen", "addr")],
    })
}

/// What the admin listener asks for and hands out must not cross a network in the clear, and nobody can be asked
/// for a certificate without TLS.
fn admin_tls(config: &Config) -> Option<Broken> {
    let (listen, admin) = (&config.listen, &config.admin);
    let has_tls = admin.tls_cert_file.is_some();
    if !has_tls && admin.tls_client_ca_file.is_some() {
        return Some(Broken {
            section: "admin",
            key: "tls_cert_file",
            expected: "set, since admin.tls_client_ca_file is".to_owned(),
            got: "\"\"".to_owned(),
            parties: vec![("admin", "tls_cert_file"), ("admin", "tls_client_ca_file")],
        });
    }
    (!listen.admin.ip().is_loopback() && !has_tls && !admin.allow_plain).then(|| Broken {
        section: "listen",
        key: "admin",
        expected:
            "a loopback address, unless admin.tls_cert_file is set, or admin.allow_plain is true because \
                   something else encrypts what passes"
                .to_owned(),
        got: listen.admin.written(),
        parties: vec![("listen", "admin"), ("admin", "tls_cert_file"), ("admin", "allow_plain")],
    })
}

/// The decoder in C++ never runs in the gateway's own process.
fn stages(config: &Config) -> Option<Broken> {
    let frames = &config.frames;
    let is_cxx = |stage: &FrameStage| stage.decoder == FrameDecoder::Zxing;
    (frames.isolation == FrameIsolation::Thread && frames.stages.iter().any(is_cxx)).then(|| Broken {
        section: "frames",
        key: "stages",
        expected: "without zxing, since frames.isolation is \"thread\"".to_owned(),
        got: frames.stages.written(),
        parties: vec![("frames", "stages"), ("frames", "isolation")],
    })
}
