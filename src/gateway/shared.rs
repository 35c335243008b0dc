//! What all cores share, and what is read from it at a scrape.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::frames::FrameLane;
use super::signatures::Signatures;
use super::source::Written;
use super::stop::Stop;
use super::{GatewayError, cores};
use crate::audit::{AuditLog, Head};
use crate::authenticate::{AdminAuth, AuthenticateSettings, Authenticator, RateLimits};
use crate::config::{Config, ConfigErrors, Limits};
use crate::deduplicate::Deduplicate;
use crate::identity::Identity;
use crate::identity::links::{Links, LinksStats};
use crate::journal::{Durable, Journal, Ticket};
use crate::listen::tls::Tls;
use crate::listen::{Counters, Runtime};
use crate::observe::health::{Health, Impairment};
use crate::observe::metrics::Metrics;
use crate::observe::process::{DiskSample, ProcessSample};
use crate::observe::sampled::{
    AuditSample, ConnectionsSample, JournalSample, LinksSample, Sampled, StoreSample, WorkersSample,
};
use crate::observe::stats::{History, Stats};
use crate::scan::UnixMillis;
use crate::services::Services;
use crate::store::drain::DrainStats;
use crate::store::{CqlCredentials, CqlSettings, EmbeddedSettings, Store, consistency_from_name};
use crate::verify::{FeedToken, KeyStore, TokenCache};
use crate::workers::{self, Workers};

/// How long readiness is false before connections are turned away: more than one probe interval of a
/// load balancer in the same rack, less than anyone waits for a restart.
const DRAIN_NOTICE: Duration = Duration::from_millis(500);

/// Everything that the cores and the admin listener share.
pub struct Shared {
    limits: ArcSwap<Limits>,
    limits_source: OnceLock<LimitsSource>,
    pub(super) authenticator: Authenticator,
    pub(super) admin_auth: AdminAuth,
    pub(super) audit: AuditLog,
    pub(super) purpose_required: bool,
    pub(super) identity: Arc<Identity>,
    pub(super) links: Links,
    pub(super) feed_token: Option<FeedToken>,
    /// Whose turn it is to feed links: one batch in memory at a time.
    pub(super) feed_turn: Arc<tokio::sync::Mutex<()>>,
    pub(super) feed_limits: crate::config::Identity,
    pub(super) keys: Arc<KeyStore>,
    pub(super) tokens: Arc<TokenCache>,
    pub(super) workers: Workers<Signatures>,
    pub(super) deduplicate: Deduplicate<Ticket, Durable>,
    pub(super) journal: Arc<Journal>,
    pub(super) store: Arc<Store>,
    pub(super) written: Written,
    pub(super) metrics: Arc<Metrics>,
    pub(super) frames: Option<FrameLane>,
    pub(super) health: Health,
    pub(super) stop: Stop,
    pub(super) drain_notice: Duration,
    pub(super) widest_window_s: u16,
    windows_s: crate::config::Deduplicate,
    journal_bytes_max: u64,
    cores: usize,
    tls: Option<Tls>,
    admin_tls: Option<Tls>,
    data_dir: PathBuf,
    /// The minute in which what is past its retention was last looked for.
    expired_in_minute: AtomicI64,
    pub(super) drain: Arc<DrainStats>,
    history: Mutex<History>,
    reload_failed: AtomicBool,
    listener: OnceLock<(Runtime, Arc<Counters>)>,
    pub(super) services: OnceLock<Weak<Services>>,
}

/// Where a reload finds the limits: the configuration file and the environment.
pub(super) type LimitsSource = Box<dyn Fn() -> Result<Limits, ConfigErrors> + Send + Sync>;

/// What is opened before the parts can be put together.
pub(super) struct Parts {
    pub(super) keys: Arc<KeyStore>,
    pub(super) identity: Arc<Identity>,
    pub(super) links: Links,
    pub(super) feed_token: Option<FeedToken>,
    pub(super) deduplicate: Deduplicate<Ticket, Durable>,
    pub(super) journal: Arc<Journal>,
    pub(super) store: Arc<Store>,
    pub(super) written: Written,
    pub(super) metrics: Arc<Metrics>,
    pub(super) frames: Option<FrameLane>,
    pub(super) tls: Option<Tls>,
    pub(super) admin_tls: Option<Tls>,
    pub(super) admin_auth: AdminAuth,
    pub(super) audit: AuditLog,
}

impl Shared {
    pub(super) fn new(config: &Config, parts: Parts, drain: Arc<DrainStats>) -> Result<Self, GatewayError> {
        let settings = AuthenticateSettings {
            device_tokens_max: config.verify.device_cache_entries_max,
            rate: rate(&config.limits),
            ..AuthenticateSettings::default()
        };
        let tokens = Arc::new(TokenCache::new(config.verify.token_cache_entries_max));
        let signatures = Signatures {
            keys: Arc::clone(&parts.keys),
            identity: Arc::clone(&parts.identity),
            tokens: Arc::clone(&tokens),
        };
        let pool = workers::Settings {
            threads: cores(config.workers.threads),
            queue_jobs_max: config.workers.queue_jobs_max,
            deadline: Duration::from_millis(config.workers.deadline_ms),
        };
        let workers = Workers::start(pool, signatures).map_err(GatewayError::Workers)?;
        let windows_s = config.deduplicate.windows_s_by_class.values().copied();
        Ok(Self {
            limits: ArcSwap::from_pointee(config.limits.clone()),
            limits_source: OnceLock::new(),
            authenticator: Authenticator::new(
                Arc::clone(&parts.keys),
                Arc::clone(&parts.identity),
                &settings,
            ),
            admin_auth: parts.admin_auth,
            audit: parts.audit,
            purpose_required: config.admin.purpose_required,
            identity: parts.identity,
            links: parts.links,
            feed_token: parts.feed_token,
            feed_turn: Arc::default(),
            feed_limits: config.identity.clone(),
            keys: parts.keys,
            tokens,
            workers,
            deduplicate: parts.deduplicate,
            journal: parts.journal,
            store: parts.store,
            written: parts.written,
            metrics: parts.metrics,
            frames: parts.frames,
            health: Health::default(),
            stop: Stop::default(),
            drain_notice: DRAIN_NOTICE,
            widest_window_s: windows_s.chain([config.deduplicate.window_s]).max().unwrap_or(0),
            windows_s: config.deduplicate.clone(),
            journal_bytes_max: config.journal.bytes_max,
            cores: cores(config.listen.cores),
            tls: parts.tls,
            admin_tls: parts.admin_tls,
            data_dir: config.gateway.data_dir.clone(),
            expired_in_minute: AtomicI64::new(i64::MIN),
            drain,
            history: Mutex::default(),
            reload_failed: AtomicBool::new(false),
            listener: OnceLock::new(),
            services: OnceLock::new(),
        })
    }

    /// The window that applies to a class of places.
    pub(super) fn window_s(&self, class: Option<&str>) -> u16 {
        let of_class = class.and_then(|class| self.windows_s.windows_s_by_class.get(class));
        of_class.copied().unwrap_or(self.windows_s.window_s)
    }

    /// Whose counters the admin listener uses: the block behind the cores'.
    pub(super) fn admin_core(&self) -> usize {
        self.cores
    }

    pub(super) fn admin_tls(&self) -> Option<&Tls> {
        self.admin_tls.as_ref()
    }

    pub(super) fn serving(&self, runtime: Runtime, counters: Arc<Counters>) {
        // Called once, when the listener has started.
        let _ = self.listener.set((runtime, counters));
    }

    /// Which services run beside; they outlive nobody, since they hold this.
    pub(super) fn beside(&self, services: &Arc<Services>) {
        // Called once, when they are opened.
        let _ = self.services.set(Arc::downgrade(services));
    }

    /// The limits in force.
    pub(super) fn limits(&self) -> Guard<Arc<Limits>> {
        self.limits.load()
    }

    pub(super) fn reload_limits_from(&self, source: LimitsSource) {
        // Called once, before anybody can ask for a reload.
        let _ = self.limits_source.set(source);
    }

    /// Loads limits, keys, revocations, admin tokens and certificates again; says whether the keys changed. Each of
    /// them changes only if it loads; the first that doesn't is the error, and ends the reload.
    pub(super) fn reload(&self) -> anyhow::Result<bool> {
        let reloaded = self.load_again();
        self.reload_failed.store(reloaded.is_err(), Ordering::Relaxed);
        reloaded
    }

    fn load_again(&self) -> anyhow::Result<bool> {
        if let Some(source) = self.limits_source.get() {
            let limits = source()?;
            self.authenticator.set_rate(rate(&limits));
            self.limits.store(Arc::new(limits));
        }
        let changed = self.keys.reload()?;
        self.admin_auth.reload(&self.data_dir)?;
        for tls in [&self.tls, &self.admin_tls].into_iter().flatten() {
            tls.reload()?;
        }
        tracing::info!(keys_changed = changed, "reloaded");
        Ok(changed)
    }

    /// Once a second: expiry, orphans, readiness and the history of rates.
    pub(super) fn housekeeping(&self) {
        self.deduplicate.sweep(UnixMillis::now(), |ticket| self.journal.outcome(ticket).map(Result::ok));
        self.links.sweep(UnixMillis::now());
        self.expire(UnixMillis::now());
        let journal = self.journal.stats();
        self.health.impair(Impairment::JournalPoisoned, journal.poisoned);
        self.health.impair(Impairment::JournalFull, journal.disk_full || journal.bytes_max_reached);
        self.history.lock().tick(Instant::now(), &self.metrics);
    }

    /// Once a minute: what is past its retention goes, also where nothing comes in that would make it go.
    fn expire(&self, now: UnixMillis) {
        let minute = now.0.div_euclid(60_000);
        if self.expired_in_minute.swap(minute, Ordering::Relaxed) == minute {
            return;
        }
        self.journal.expire(now);
        if let Err(error) = self.store.expire(now) {
            tracing::error!(error = %anyhow::Error::from(error), "check-ins past their retention can't be removed");
        }
        if let Err(error) = self.audit.expire(now) {
            tracing::error!(error = %anyhow::Error::from(error), "audit records past their retention can't be removed");
        }
    }

    pub(super) fn stats(&self) -> Stats {
        self.history.lock().stats(Instant::now(), &self.metrics, &self.sample())
    }

    pub(super) fn sample(&self) -> Sampled {
        let (journal, workers) = (self.journal.stats(), self.workers.stats());
        let lag = self.drain.lag();
        let oldest = self.drain.oldest_received().filter(|_| lag.records > 0);
        let lag_ms = oldest.map_or(0, |received| UnixMillis::now().0.saturating_sub(received.0));
        Sampled {
            runtime: self.listener.get().map_or("none", |(runtime, _)| runtime.name()),
            ready: self.health.is_ready(),
            journal: JournalSample {
                bytes: journal.bytes,
                bytes_max: self.journal_bytes_max,
                segments: journal.segments,
                poisoned: journal.poisoned,
                full: journal.disk_full || journal.bytes_max_reached,
                disk: DiskSample::read(&super::journal_dir(&self.data_dir)),
            },
            store: StoreSample {
                lag_records: lag.records,
                lag_bytes: lag.bytes,
                lag_ms: u64::try_from(lag_ms).unwrap_or(0),
                rows_written: self.drain.written_total(),
                retries: self.drain.retries_total(),
                failing: self.drain.is_failing(),
            },
            deduplicate_entries: self.deduplicate.entries(),
            deduplicate_entries_max: self.windows_s.entries_max,
            certificate_expires_s: [&self.tls, &self.admin_tls]
                .into_iter()
                .flatten()
                .map(Tls::expires_s)
                .min(),
            reload_failed: self.reload_failed.load(Ordering::Relaxed),
            links: links(self.links.stats()),
            audit: audit(&self.audit),
            services: self.services.get().and_then(Weak::upgrade).map(|services| services.sample()),
            workers: WorkersSample {
                queue_jobs: workers.queued as u64,
                done: workers.completed,
                shed: workers.refused,
                late: workers.late,
                panicked: workers.panicked,
            },
            frames: self.frames.as_ref().map(FrameLane::sample).unwrap_or_default(),
            token_cache_entries: self.tokens.len() as u64,
            device_cache_entries: self.authenticator.devices() as u64,
            connections: self.listener.get().map(|(_, counters)| connections(counters)).unwrap_or_default(),
            process: ProcessSample::read(),
        }
    }
}

fn rate(limits: &Limits) -> RateLimits {
    RateLimits {
        device_scans_per_s: limits.device_scans_per_s,
        device_burst_scans: limits.device_scans_burst,
    }
}

fn connections(counters: &Counters) -> ConnectionsSample {
    use std::sync::atomic::{AtomicU64, Ordering};
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    ConnectionsSample {
        open: read(&counters.open),
        accepted: read(&counters.accepted),
        refused: read(&counters.refused),
        timeouts: [
            read(&counters.handshake_timeouts),
            read(&counters.header_timeouts),
            read(&counters.body_timeouts),
            read(&counters.request_timeouts),
            read(&counters.idle_timeouts),
            read(&counters.write_timeouts),
            read(&counters.drain_timeouts),
        ],
        accept_errors: read(&counters.accept_errors),
        protocol_errors: read(&counters.protocol_errors),
        handshake_errors: read(&counters.handshake_errors),
    }
}

fn links(stats: LinksStats) -> LinksSample {
    LinksSample {
        held: stats.held,
        recent: stats.recent,
        lines: [stats.accepted, stats.unchanged, stats.refused],
        last_feed_ms: u64::try_from(stats.last_feed_ms).unwrap_or(0),
    }
}

fn audit(log: &AuditLog) -> AuditSample {
    let head = log.head();
    let Head { seq, hash } = head.unwrap_or(Head::EMPTY);
    AuditSample { seq, hash: hash.to_string(), works: head.is_some() && log.works() }
}

pub(super) fn embedded_settings(config: &Config) -> EmbeddedSettings {
    EmbeddedSettings {
        retention_days: u16::try_from(config.store.retention_days).unwrap_or(u16::MAX),
        cache_bytes: config.store.cache_bytes_max,
        ..EmbeddedSettings::default()
    }
}

/// The CQL store's settings, its password read from its file.
pub(super) fn cql_settings(config: &Config) -> Result<CqlSettings, GatewayError> {
    let cql = &config.cql;
    let credentials = match (&cql.user, &cql.password_file) {
        (Some(user), Some(path)) => {
            let failed = |source| GatewayError::Secret { path: path.clone(), source };
            let password = fs::read_to_string(path).map_err(failed)?.trim_end().to_owned();
            Some(CqlCredentials { user: user.clone(), password })
        }
        _ => None,
    };
    let defaults = CqlSettings::default();
    let replication = match &cql.datacenter {
        Some(datacenter) => {
            format!("{{'class': 'NetworkTopologyStrategy', '{datacenter}': {}}}", cql.replication_factor)
        }
        None => format!("{{'class': 'SimpleStrategy', 'replication_factor': {}}}", cql.replication_factor),
    };
    Ok(CqlSettings {
        nodes: cql.nodes.clone(),
        keyspace: cql.keyspace.clone(),
        replication,
        create_schema: cql.create_schema,
        local_datacenter: cql.datacenter.clone(),
        credentials,
        consistency: consistency_from_name(cql.consistency.name()).unwrap_or(defaults.consistency),
        request_timeout_ms: cql.request_timeout_ms,
        concurrency_requests: cql.concurrency_max,
        retention_days: u16::try_from(config.store.retention_days).unwrap_or(u16::MAX),
        ..defaults
    })
}
