//! Wires the stages together, starts them in the order of their needs, and stops them in reverse.
//!
//! Start: lock the data directory, load keys and links, replay the journal into `deduplicate`, start the drain and the
//! processes that read frames, and only then listen. Stop: turn readiness false, let the listeners finish what
//! they have, end the reading of frames, close the journal (which commits what is left), drain the store, and
//! let the lock go.

mod admin;
mod audited;
mod cards;
mod checkins;
mod core;
mod frame_problems;
mod frames;
mod hosting;
mod inflate;
mod leftover;
mod links;
mod lock;
pub mod migration;
mod signatures;
mod reading;
mod shared;
pub mod settle;
pub mod source;
mod steps;
mod stop;

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::admin::Admin;
use self::core::{Core, Public};
use self::frames::FrameLane;
pub use self::leftover::{Leftover, drain_journal};
pub use self::lock::{DataLock, Holder, LockError};
pub use self::shared::Shared;
use self::source::{JournalSource, Written};
use crate::audit::{Action, AuditLog, AuditSettings, Outcome};
use crate::authenticate::AdminAuth;
use crate::config::{self, Config, StoreKind};
use crate::decode::StartError;
use crate::deduplicate::{self, Deduplicate};
use crate::identity::Identity;
use crate::identity::links::{Links, LinksError, LinksSettings};
use crate::journal::file::{Disk, Storage};
use crate::journal::{Durable, Journal, JournalError, JournalSettings, Lane, Recovery, Ticket};
use crate::listen::tls::{Clients, Tls, TlsError};
use crate::listen::{self, ListenError, RuntimeChoice};
use crate::observe::health::Phase;
use crate::observe::metrics::Metrics;
use crate::observe::notify::ServiceManager;
use crate::scan::{Checkin, UnixMillis};
use crate::services::{self, Services, ServicesError};
use crate::store::drain::{Drain, DrainEnd, DrainError, DrainHandle, DrainSettings};
use crate::store::{Cql, CqlSettings, SchemaReport, Store, StoreError};
use crate::verify::manage;
use crate::verify::{FeedToken, KeyStore, KeysError, Pepper};

/// Why the gateway didn't start or didn't end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// Another process has the data directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The keys can't be used.
    #[error("cannot load keys")]
    Keys(#[from] KeysError),
    /// Development keys on an address that others can reach.
    #[error(
        "listen.addr and services.listen must be loopback addresses while the keys are development keys; got {address}"
    )]
    DevelopmentKeys {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The journal can't be opened.
    #[error("cannot open the journal")]
    Journal(#[from] JournalError),
    /// The store can't be opened.
    #[error("cannot open the store")]
    Store(#[from] StoreError),
    /// The links between identifiers can't be opened.
    #[error("cannot open the links")]
    Links(#[from] LinksError),
    /// The store's settings name a file that can't be read.
    #[error("cannot read {}", path.display())]
    Secret {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Only a CQL store has a schema.
    #[error("store.kind must be \"cql\": the embedded store has no schema to migrate")]
    NoSchema,
    /// There is no journal to drain.
    #[error("there is no journal in {}", path.display())]
    NoJournal {
        /// Where it would be.
        path: std::path::PathBuf,
    },
    /// The drain can't start.
    #[error("cannot start the drain")]
    Drain(#[from] DrainError),
    /// A rotation of the pepper was interrupted: journal, store and links may be of different peppers.
    #[error("a rotation of the pepper was interrupted; `scangate migrate pepper` ends it")]
    RotationUnderWay,
    /// A rotation of the pepper can't go on.
    #[error("the rotation of the pepper can't go on at {}", path.display())]
    Rotation {
        /// The file or directory.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A rotation of the pepper was told to stop.
    #[error("the rotation of the pepper was interrupted after {step}")]
    Interrupted {
        /// The last step done.
        step: &'static str,
    },
    /// A listener can't start.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The services can't start.
    #[error(transparent)]
    Services(#[from] ServicesError),
    /// The certificate can't be used.
    #[error("cannot use the TLS certificate")]
    Tls(#[from] TlsError),
    /// Frames can't be read as the configuration asks.
    #[error("cannot read frames")]
    Frames(#[from] StartError),
    /// A thread can't start.
    #[error("cannot start the worker threads")]
    Workers(#[source] std::io::Error),
    /// Cores ended by a panic.
    #[error("{cores} cores ended by a panic")]
    Panicked {
        /// How many.
        cores: usize,
    },
}

/// Records replayed between two words to the service manager.
const GETTING_ON_RECORDS: u64 = 8192;

/// What ending takes beside its timeouts: the notice, the last sweep of connections, a sync of the store.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// A running gateway.
pub struct Gateway {
    manager: ServiceManager,
    lock: DataLock,
    shared: Arc<Shared>,
    drain: DrainHandle,
    public: listen::Handle,
    admin: listen::Handle,
    services: Option<(Arc<Services>, listen::Handle)>,
    drain_timeout: Duration,
}

impl Gateway {
    /// Starts everything; on return the gateway listens and is ready.
    ///
    /// To read frames, the program executes itself again: its `main` must begin with
    /// [`worker_main`](crate::decode::sandbox::worker_main), or `frames.enabled` be false.
    pub fn start(config: &Config) -> Result<Self, GatewayError> {
        Self::start_on(Arc::new(Disk), config)
    }

    /// As [`Gateway::start`], with the journal on storage that fault tests bring along.
    pub fn start_on(storage: Arc<dyn Storage>, config: &Config) -> Result<Self, GatewayError> {
        let data_dir = &config.gateway.data_dir;
        let manager = ServiceManager::from_environment();
        let lock = lock_for_serving(data_dir)?;
        for key in manage::ensure_development(data_dir, UnixMillis::now())? {
            tracing::info!(key_use = ?key.key_use, "development key made");
        }
        let keys = Arc::new(KeyStore::open_with(data_dir, config.verify.rotating_skew_s)?);
        let reachable = [Some(config.listen.addr), config.services.listen];
        let reachable = reachable.into_iter().flatten().find(|address| !address.ip().is_loopback());
        if let Some(address) = reachable.filter(|_| keys.load().is_dev()) {
            return Err(GatewayError::DevelopmentKeys { address });
        }
        let pepper = Pepper::load(data_dir)?;
        let identity = Arc::new(Identity::new(&pepper));
        if pepper.is_dev() && FeedToken::ensure(data_dir)? {
            tracing::info!("token for the feed of links made");
        }
        let feed_token = FeedToken::load(data_dir, config.identity.feed_token_file.as_deref())?;
        let links = open_links(config)?;
        let deduplicate = Deduplicate::new(deduplicate_settings(&config.deduplicate), identity.checkin_key())
            .of_epoch(identity.epoch());
        let cores = cores(config.listen.cores);
        let metrics = Metrics::new(cores + 1);
        let (journal, lanes) = open_journal(storage, config, cores, &deduplicate, &metrics, &manager)?;
        let store = Arc::new(open_store(config)?);
        let written = Written::default();
        let source = JournalSource::new(Arc::clone(&journal), config.journal.segment_bytes, written.clone());
        let watermark = data_dir.join("watermark");
        let drain = Drain::start(source, Arc::clone(&store), drain_settings(config), watermark)?;
        let tls = tls(&config.tls)?;
        let (admin_tls, admin_auth) = (admin_tls(&config.admin)?, admin_auth(config)?);
        let audit = AuditLog::new(&audit_dir(data_dir), audit_settings(config));
        let frames = FrameLane::start(config)?;
        let parts = shared::Parts {
            keys,
            identity,
            links,
            feed_token,
            deduplicate,
            journal,
            store,
            written,
            metrics,
            frames,
            tls: tls.clone(),
            admin_tls,
            admin_auth,
            audit,
        };
        let shared = Arc::new(Shared::new(config, parts, Arc::clone(drain.stats()))?);
        let services = open_services(config, &shared)?;
        let (public, admin) = open_listeners(config, cores, &shared, tls.as_ref(), lanes)?;
        let services = listen_for_services(config, services, tls.as_ref())?;
        lock.announce(Some(admin.address()), config.admin.tls_cert_file.as_deref())?;
        shared.serving(public.runtime(), public.counters());
        shared.health.enter(Phase::Serving);
        let drain_timeout = Duration::from_millis(config.gateway.drain_timeout_ms);
        Ok(Self { manager, lock, shared, drain, public, admin, services, drain_timeout })
    }

    /// The public listener's address.
    pub fn address(&self) -> SocketAddr {
        self.public.address()
    }

    /// The admin listener's address.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// The services' address, where there are any.
    pub fn services_address(&self) -> Option<SocketAddr> {
        self.services.as_ref().map(|(_, listener)| listener.address())
    }

    /// Whether its keys are good for loopback only.
    pub fn has_development_keys(&self) -> bool {
        self.shared.keys.load().is_dev()
    }

    /// Where a reload finds the limits; without it they stay as they were at the start.
    pub fn reload_limits_from(
        &self,
        source: impl Fn() -> Result<config::Limits, config::ConfigErrors> + Send + Sync + 'static,
    ) {
        self.shared.reload_limits_from(Box::new(source));
    }

    /// What signal handlers use.
    pub fn signals(&self) -> Signals {
        Signals(Arc::clone(&self.shared))
    }

    /// Tells the service manager that the gateway serves, looks after it until it is asked to stop, then
    /// drains and ends it.
    pub fn run(self) -> Result<(), GatewayError> {
        self.manager.ready();
        while !self.shared.stop.wait(Duration::from_secs(1)) {
            self.shared.housekeeping();
            if let Some((services, _)) = &self.services {
                services.housekeeping(UnixMillis::now());
            }
            if self.is_sound() {
                self.manager.alive();
            }
        }
        self.stop()
    }

    /// Whether nothing is broken that only another start can mend. A full disk or a database that is away
    /// is not: both pass.
    fn is_sound(&self) -> bool {
        let runs = self.public.is_running() && self.admin.is_running() && self.drain.is_running();
        let serves = |(services, listener): &(Arc<Services>, listen::Handle)| {
            services.is_sound() && listener.is_running()
        };
        runs && self.services.as_ref().is_none_or(serves) && !self.shared.health.needs_restart()
    }

    fn stop(self) -> Result<(), GatewayError> {
        tracing::info!("draining");
        // Once for the connections, once for the store.
        self.manager.stopping(self.drain_timeout * 2 + STOP_MARGIN);
        self.shared.health.enter(Phase::Draining);
        // Load balancers and probes get to see it before connections are turned away.
        std::thread::sleep(self.shared.drain_notice);
        self.public.drain();
        let mut panicked = self.public.join().err().unwrap_or(0);
        if let Some((services, listener)) = self.services {
            listener.drain();
            panicked += listener.join().err().unwrap_or(0);
            services.close();
        }
        if let Some(frames) = &self.shared.frames {
            frames.stop();
        }
        let deadline = Instant::now() + self.drain_timeout;
        self.shared.journal.close();
        match self.drain.stop(deadline.saturating_duration_since(Instant::now())) {
            DrainEnd::Drained => tracing::info!("store holds everything"),
            DrainEnd::Behind => {
                tracing::warn!("store is behind; the journal keeps the rest for the next start");
            }
            DrainEnd::Panicked => {
                tracing::error!("drain panicked; the journal keeps the rest for the next start");
            }
        }
        self.admin.drain();
        let panicked = panicked + self.admin.join().err().unwrap_or(0);
        drop(self.lock);
        if panicked == 0 { Ok(()) } else { Err(GatewayError::Panicked { cores: panicked }) }
    }
}

/// Passes a process's signals on to its gateway.
#[derive(Clone)]
pub struct Signals(Arc<Shared>);

impl Signals {
    /// Drain and stop.
    pub fn stop(&self) {
        self.0.stop.request();
    }

    /// Load keys, revocations and certificates again. A failure is logged and changes nothing.
    pub fn reload(&self) {
        let call = audited::signalled(&self.0, Action::Reload);
        let loaded = self.0.reload();
        if let Err(error) = &loaded {
            tracing::error!(error = format!("{error:#}"), "reload failed; what doesn't load stays as it was");
        }
        if let Some(call) = call {
            call.end(&self.0, if loaded.is_ok() { Outcome::Done } else { Outcome::Failed }, None);
        }
    }
}

fn cores(configured: usize) -> usize {
    if configured > 0 { configured } else { std::thread::available_parallelism().map_or(1, usize::from) }
}

fn deduplicate_settings(config: &config::Deduplicate) -> deduplicate::Settings {
    deduplicate::Settings {
        windows_s: config.windows_s_by_class.values().copied().chain([config.window_s]).collect(),
        remember_s: u32::try_from(config.remember_s).unwrap_or(u32::MAX).min(deduplicate::REMEMBER_S_MAX),
        auto_reset_s: u32::try_from(config.auto_reset_s).unwrap_or(u32::MAX),
        entries_max: config.entries_max,
    }
}

/// Opens the links and loads them: the first scan must know them all.
fn open_links(config: &Config) -> Result<Links, LinksError> {
    let began = Instant::now();
    let settings = LinksSettings {
        links_max: config.identity.links_max,
        recent_links_max: config.identity.recent_links_max,
        sources_max: config.identity.feed_sources_max,
        recent_s: deduplicate_settings(&config.deduplicate).remember_s,
    };
    let links = Links::open(&config.gateway.data_dir.join("identity"), settings, UnixMillis::now())?;
    let load_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(links = links.stats().held, load_ms, "links loaded");
    Ok(links)
}

/// Opens the journal and replays it into `deduplicate`: nothing listens before that is done.
fn open_journal(
    storage: Arc<dyn Storage>,
    config: &Config,
    cores: usize,
    deduplicate: &Deduplicate<Ticket, Durable>,
    metrics: &Arc<Metrics>,
    manager: &ServiceManager,
) -> Result<(Arc<Journal>, Vec<Lane>), GatewayError> {
    let lanes = u16::try_from(cores).unwrap_or(u16::MAX);
    let (now, began) = (UnixMillis::now(), Instant::now());
    let mut replayed: u64 = 0;
    let mut replay = |checkin: &Checkin| {
        if replayed.is_multiple_of(GETTING_ON_RECORDS) {
            manager.getting_on();
        }
        replayed += 1;
        deduplicate.restore(checkin, now);
    };
    let dir = journal_dir(&config.gateway.data_dir);
    let (journal, recovery) = Journal::open_on(storage, &dir, journal_settings(config, lanes), &mut replay)?;
    let Recovery { records, segments, torn_bytes, durable, .. } = recovery;
    deduplicate.vouch(durable);
    let replay_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(records, segments, torn_bytes, replay_ms, "journal replayed");
    let observer = Arc::clone(metrics);
    journal.observe_commits(move |records, bytes, elapsed| observer.commit(records, bytes, elapsed));
    let lanes = (0..lanes).map(|index| journal.lane(index)).collect::<Result<_, _>>()?;
    Ok((Arc::new(journal), lanes))
}

fn journal_settings(config: &Config, lanes: u16) -> JournalSettings {
    JournalSettings {
        lanes,
        lane_bytes_max: config.journal.lane_bytes_max,
        batch_bytes_max: config.journal.batch_bytes_max,
        segment_bytes: config.journal.segment_bytes,
        bytes_max: config.journal.bytes_max,
        retain_ms: i64::try_from(config.journal.retain_s).unwrap_or(i64::MAX).saturating_mul(1000),
        ..JournalSettings::default()
    }
}

fn drain_settings(config: &Config) -> DrainSettings {
    DrainSettings { batch_records_max: config.store.batch_rows_max, ..DrainSettings::default() }
}

/// Locks a data directory whose journal and store are of one pepper.
fn lock_for_serving(data_dir: &Path) -> Result<DataLock, GatewayError> {
    let lock = DataLock::acquire(data_dir)?;
    if migration::is_under_way(data_dir)? { Err(GatewayError::RotationUnderWay) } else { Ok(lock) }
}

/// Brings the CQL store's schema up to date, or with `check_only` says whether it is.
///
/// # Errors
/// The configuration's store is another, the database can't be reached, or its schema is not one that this
/// version can go on from.
pub fn migrate_schema(config: &Config, check_only: bool) -> Result<SchemaReport, GatewayError> {
    if config.store.kind != StoreKind::Cql {
        return Err(GatewayError::NoSchema);
    }
    let settings = CqlSettings { create_schema: !check_only, ..shared::cql_settings(config)? };
    Ok(Cql::migrate(&settings)?)
}

/// Opens the store that the configuration names.
pub fn open_store(config: &Config) -> Result<Store, GatewayError> {
    match config.store.kind {
        StoreKind::Embedded => {
            Ok(Store::embedded(&config.gateway.data_dir.join("store"), shared::embedded_settings(config))?)
        }
        StoreKind::Cql => Ok(Store::cql(shared::cql_settings(config)?)?),
    }
}

fn tls(config: &config::Tls) -> Result<Option<Tls>, TlsError> {
    match (&config.certificate_file, &config.key_file) {
        (Some(certificates), Some(key)) => {
            let clients = config.client_ca_file.as_ref().map(|authorities| Clients {
                authorities: authorities.clone(),
                revocations: config.client_crl_file.clone(),
                required: config.client_certificates == config::ClientCertificates::Required,
            });
            Tls::load_for(certificates, key, clients).map(Some)
        }
        _ => Ok(None),
    }
}

fn admin_tls(admin: &config::Admin) -> Result<Option<Tls>, TlsError> {
    match (&admin.tls_cert_file, &admin.tls_key_file) {
        (Some(certificates), Some(key)) => {
            let clients = admin.tls_client_ca_file.clone().map(|authorities| Clients {
                authorities,
                revocations: None,
                required: true,
            });
            Tls::load_for(certificates, key, clients).map(Some)
        }
        _ => Ok(None),
    }
}

fn admin_auth(config: &Config) -> Result<AdminAuth, KeysError> {
    let asks = config.admin.auth == config::AdminAuth::Required || !config.listen.admin.ip().is_loopback();
    let auth = AdminAuth::load(&config.gateway.data_dir, asks)?;
    tracing::info!(asks, tokens = auth.tokens(), "admin tokens loaded");
    Ok(auth)
}

/// Where the journal of a data directory is.
fn journal_dir(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("journal")
}

/// Where the audit log of a data directory is.
pub fn audit_dir(data_dir: &std::path::Path) -> std::path::PathBuf {
    data_dir.join("audit")
}

/// The audit log's bounds.
pub fn audit_settings(config: &Config) -> AuditSettings {
    AuditSettings { segment_bytes: config.audit.segment_bytes, retention_days: config.audit.retention_days }
}

fn open_listeners(
    config: &Config,
    cores: usize,
    shared: &Arc<Shared>,
    tls: Option<&Tls>,
    lanes: Vec<Lane>,
) -> Result<(listen::Handle, listen::Handle), GatewayError> {
    let admin_settings = listen::Settings {
        address: config.listen.admin,
        runtime: RuntimeChoice::Epoll,
        cores: 1,
        connections_max: 256,
        ..listen_settings(config)
    };
    let admin_shared = Arc::clone(shared);
    let admin = listen::run(
        &admin_settings,
        shared.admin_tls(),
        move |_| Admin(Arc::clone(&admin_shared)),
        listen::Drain::new(),
    )?;
    let settings = listen::Settings { cores, ..listen_settings(config) };
    let lanes: Arc<Vec<_>> =
        Arc::new(lanes.into_iter().map(|lane| parking_lot::Mutex::new(Some(lane))).collect());
    let core_shared = Arc::clone(shared);
    let service = move |index: usize| {
        // Each core takes its own lane, once, on its own thread.
        let lane = lanes.get(index).and_then(|lane| lane.lock().take());
        Public(lane.map(|lane| Rc::new(Core { shared: Arc::clone(&core_shared), lane, index })))
    };
    match listen::run(&settings, tls, service, listen::Drain::new()) {
        Ok(public) => Ok((public, admin)),
        Err(error) => {
            admin.drain();
            Err(error.into())
        }
    }
}

/// Opens the services, if this gateway has them, and brings their tables up to their log's end.
fn open_services(config: &Config, shared: &Arc<Shared>) -> Result<Option<Arc<Services>>, ServicesError> {
    match config.services.listen {
        Some(_) => {
            let services = Services::open(config, Arc::clone(shared) as Arc<dyn services::Host>)?;
            shared.beside(&services);
            Ok(Some(services))
        }
        None => Ok(None),
    }
}

fn listen_for_services(
    config: &Config,
    services: Option<Arc<Services>>,
    tls: Option<&Tls>,
) -> Result<Option<(Arc<Services>, listen::Handle)>, ListenError> {
    let (Some(services), Some(address)) = (services, config.services.listen) else { return Ok(None) };
    let settings = listen::Settings {
        address,
        runtime: RuntimeChoice::Epoll,
        cores: config.services.cores,
        ..listen_settings(config)
    };
    let listener = services.listen(&settings, tls)?;
    Ok(Some((services, listener)))
}

fn listen_settings(config: &Config) -> listen::Settings {
    let listen = &config.listen;
    let mut settings = listen::Settings {
        address: listen.addr,
        runtime: match listen.runtime {
            config::Runtime::Auto => RuntimeChoice::Auto,
            config::Runtime::Uring => RuntimeChoice::Uring,
            config::Runtime::Epoll => RuntimeChoice::Epoll,
        },
        connections_max: listen.connections_max,
        head_bytes_max: listen.headers_bytes_max,
        handshake_timeout_ms: config.tls.handshake_timeout_ms,
        header_timeout_ms: listen.header_timeout_ms,
        body_timeout_ms: listen.body_timeout_ms,
        request_timeout_ms: listen.request_timeout_ms,
        idle_timeout_ms: listen.idle_timeout_ms,
        drain_timeout_ms: config.gateway.drain_timeout_ms,
        ..listen::Settings::default()
    };
    settings.http2.streams_max = listen.h2_streams_max;
    settings
}
