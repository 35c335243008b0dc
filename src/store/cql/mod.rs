//! The shared store: ScyllaDB or Cassandra through the `scylla` driver.
//!
//! The schema and what each table is for stand in `deploy/schema`. This module decides how it is used:
//! - A batch of records is split by partition. Rows of one partition travel as unlogged batches, which
//!   the database applies as one mutation; a person's row is nearly always alone and goes by itself.
//! - Every statement is an upsert with a timestamp out of the record, hence idempotent, and marked so:
//!   the driver may retry it and race a slow replica with another.
//! - The places of a day are listed before their first rows are written, so whatever a reader of
//!   `places_by_day` does not see was not acknowledged either.
//! - The driver's tasks live on a runtime of this module, so that callers on any runtime, even one
//!   that blocks, find its connections answered.

mod rows;
mod schema;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::statement::Consistency;
use tokio::runtime::Runtime;

use crate::scan::{Checkin, PlaceKey, Pseudonym, UnixMillis};

use super::{Retention, StoreError};
use rows::{Statements, Table};
pub use schema::{MigrationReport, SchemaReport};

/// Cassandra refuses a TTL of more than 20 years.
const RETENTION_DAYS_MAX: u16 = 7300;

/// Settings of a CQL store.
#[derive(Debug, Clone)]
pub struct CqlSettings {
    /// First nodes to ask, each `host:port`.
    pub nodes: Vec<String>,
    /// The keyspace, a plain lowercase name.
    pub keyspace: String,
    /// The replication map of a keyspace created here.
    pub replication: String,
    /// Whether to create what is missing of keyspace and schema.
    pub create_schema: bool,
    /// The datacenter to prefer.
    pub local_datacenter: Option<String>,
    /// User and password, where the cluster asks for them.
    pub credentials: Option<CqlCredentials>,
    /// How many replicas must answer.
    pub consistency: Consistency,
    /// How long one request may take, retries and all.
    pub request_timeout_ms: u64,
    /// How long making a session may take.
    pub connect_timeout_ms: u64,
    /// Requests in flight; above 64 to 128 on one node only their latency grows.
    pub concurrency_requests: usize,
    /// Rows in one unlogged batch. 64 rows of both tables stay under the 16 KiB where Cassandra's
    /// default begins to warn.
    pub batch_rows_max: usize,
    /// How long a replica may take before another is asked as well.
    pub speculative_after_ms: u64,
    /// Further replicas asked; 0 turns it off.
    pub speculative_max: usize,
    /// Days a row is kept after its event time; 0 for ever.
    pub retention_days: u16,
    /// Places remembered as listed for their day, about 40 bytes each; past it older days go, then
    /// all, which costs writes.
    pub places_listed_max: usize,
}

impl Default for CqlSettings {
    fn default() -> Self {
        Self {
            nodes: vec!["127.0.0.1:9042".to_owned()],
            keyspace: "scangate".to_owned(),
            replication: "{'class': 'SimpleStrategy', 'replication_factor': 1}".to_owned(),
            create_schema: true,
            local_datacenter: None,
            credentials: None,
            consistency: Consistency::LocalQuorum,
            request_timeout_ms: 3_000,
            connect_timeout_ms: 5_000,
            concurrency_requests: 64,
            batch_rows_max: 64,
            speculative_after_ms: 250,
            speculative_max: 1,
            retention_days: 30,
            places_listed_max: 500_000,
        }
    }
}

/// The database's user; never printed.
#[derive(Clone)]
pub struct CqlCredentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for CqlCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CqlCredentials(..)")
    }
}

/// The consistency with this name, as the configuration spells it.
pub fn consistency_from_name(name: &str) -> Option<Consistency> {
    Some(match name {
        "one" => Consistency::One,
        "local_one" => Consistency::LocalOne,
        "quorum" => Consistency::Quorum,
        "local_quorum" => Consistency::LocalQuorum,
        "each_quorum" => Consistency::EachQuorum,
        "all" => Consistency::All,
        _ => return None,
    })
}

/// See the module's text.
pub struct Cql {
    settings: CqlSettings,
    retention: Retention,
    // An Option only so that drop can shut it down without waiting.
    runtime: Option<Runtime>,
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
    listed: Mutex<HashSet<(i32, PlaceKey)>>,
    expired: AtomicU64,
}

struct Connection {
    session: Session,
    statements: Statements,
}

impl Cql {
    /// Checks the settings. Connects at first use.
    pub fn new(settings: CqlSettings) -> Result<Self, StoreError> {
        check(&settings)?;
        let runtime = driver_runtime()?;
        Ok(Self {
            retention: Retention { days: settings.retention_days },
            settings,
            runtime: Some(runtime),
            connection: tokio::sync::Mutex::new(None),
            listed: Mutex::new(HashSet::new()),
            expired: AtomicU64::new(0),
        })
    }

    /// Connects, and applies the migrations that are missing or, without `create_schema`, fails with the first.
    ///
    /// # Errors
    /// Also where a migration was applied that this version doesn't know, or in another form.
    pub fn migrate(settings: &CqlSettings) -> Result<SchemaReport, StoreError> {
        check(settings)?;
        let runtime = driver_runtime()?;
        let migrated =
            runtime.block_on(async { schema::prepare(&open_session(settings).await?, settings).await });
        runtime.shutdown_background();
        migrated
    }

    /// Upserts the batch; acknowledged means at the configured consistency.
    pub async fn write(&self, batch: &[Checkin]) -> Result<(), StoreError> {
        let now = UnixMillis::now();
        let live: Vec<&Checkin> =
            batch.iter().filter(|checkin| !self.retention.is_over(checkin.scan.at, now)).collect();
        if !live.is_empty() {
            let connection = self.connected().await?;
            // Anew: connecting takes seconds, by which every row would live longer than its retention.
            let now = UnixMillis::now();
            self.list_places(&connection, &live, now).await?;
            self.upsert(&connection, live.clone(), now).await?;
        }
        self.expired.fetch_add((batch.len() - live.len()) as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Takes rows out of both tables, whatever was written of them.
    pub(super) async fn remove(&self, batch: &[Checkin]) -> Result<(), StoreError> {
        let connection = self.connected().await?;
        stream::iter(batch)
            .map(|row| connection.statements.remove(&connection.session, row))
            .buffer_unordered(self.settings.concurrency_requests)
            .try_collect()
            .await
    }

    /// Asks the database for nothing much.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let connection = self.connected().await?;
        connection
            .session
            .query_unpaged("SELECT release_version FROM system.local", ())
            .await
            .map_err(execute_failed("ping"))?;
        Ok(())
    }

    /// Drops the session. A later call makes a new one.
    pub async fn close(&self) {
        self.connection.lock().await.take();
    }

    /// See [`super::Store::expired_total`].
    pub fn expired_total(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    pub(super) async fn days(&self, from: i32, to: i32) -> Result<Vec<i32>, StoreError> {
        let connection = self.connected().await?;
        connection.statements.days(&connection.session, from, to).await
    }

    /// One bucket at a time, in order: the rest of the bucket `after` lies in, or the next that has any.
    pub(super) async fn places(
        &self,
        day: i32,
        after: Option<PlaceKey>,
    ) -> Result<Vec<PlaceKey>, StoreError> {
        let connection = self.connected().await?;
        connection.statements.places(&connection.session, day, after).await
    }

    pub(super) async fn place_day(
        &self,
        place: PlaceKey,
        day: i32,
        from: UnixMillis,
        to: UnixMillis,
        into: &mut Vec<Checkin>,
    ) -> Result<(), StoreError> {
        let connection = self.connected().await?;
        connection.statements.place_day(&connection.session, place, day, from, to, into).await
    }

    pub(super) async fn person_day(
        &self,
        person: Pseudonym,
        day: i32,
        into: &mut Vec<Checkin>,
    ) -> Result<(), StoreError> {
        let connection = self.connected().await?;
        connection.statements.person_day(&connection.session, person, day, into).await
    }

    /// The session, made now if there is none. The driver itself reconnects a session it has.
    async fn connected(&self) -> Result<Arc<Connection>, StoreError> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(Arc::clone(connection));
        }
        let Some(runtime) = &self.runtime else { return Err(self.connect_timeout()) };
        let connecting = runtime.spawn(connect(self.settings.clone()));
        let made = Arc::new(connecting.await.map_err(|_| self.connect_timeout())??);
        tracing::info!(keyspace = %self.settings.keyspace, "connected to the database");
        *connection = Some(Arc::clone(&made));
        Ok(made)
    }

    fn connect_timeout(&self) -> StoreError {
        StoreError::ConnectTimeout { limit_ms: self.settings.connect_timeout_ms }
    }

    /// Lists the places that this process has not yet listed for their day.
    async fn list_places(
        &self,
        connection: &Connection,
        rows: &[&Checkin],
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let new: HashSet<(i32, PlaceKey)> = {
            let listed = self.listed.lock();
            let places = rows.iter().map(|row| (row.scan.at.day(), row.scan.place));
            places.filter(|place| !listed.contains(place)).collect()
        };
        if new.is_empty() {
            return Ok(());
        }
        stream::iter(&new)
            .map(|(day, place)| {
                connection.statements.list_place(&connection.session, *day, *place, self.retention, now)
            })
            .buffer_unordered(self.settings.concurrency_requests)
            .try_collect::<()>()
            .await?;
        let mut listed = self.listed.lock();
        if listed.len() + new.len() > self.settings.places_listed_max {
            listed.retain(|(day, _)| *day + 1 >= now.day());
        }
        if listed.len() + new.len() > self.settings.places_listed_max {
            listed.clear();
        }
        listed.extend(new);
        Ok(())
    }

    async fn upsert(
        &self,
        connection: &Connection,
        rows: Vec<&Checkin>,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let mut by_place = rows.clone();
        by_place.sort_unstable_by_key(|row| (row.scan.place, row.scan.at.day(), row.id));
        let mut by_person = rows;
        by_person.sort_unstable_by_key(|row| (row.scan.person, row.scan.at.day(), row.id));
        let size = self.settings.batch_rows_max;
        let place_chunks = by_place
            .chunk_by(|a, b| (a.scan.place, a.scan.at.day()) == (b.scan.place, b.scan.at.day()))
            .flat_map(|partition| partition.chunks(size))
            .map(|chunk| (Table::ByPlace, chunk));
        let person_chunks = by_person
            .chunk_by(|a, b| (a.scan.person, a.scan.at.day()) == (b.scan.person, b.scan.at.day()))
            .flat_map(|partition| partition.chunks(size))
            .map(|chunk| (Table::ByPerson, chunk));
        let requests: Vec<(Table, &[&Checkin])> = place_chunks.chain(person_chunks).collect();
        stream::iter(requests)
            .map(|(table, chunk)| {
                connection.statements.upsert(&connection.session, table, chunk, self.retention, now)
            })
            .buffer_unordered(self.settings.concurrency_requests)
            .try_collect::<()>()
            .await
    }
}

/// A runtime dropped on another runtime's thread panics unless it is told not to wait.
impl Drop for Cql {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Each step has a limit of its own: making tables takes a busy database longer than a session does.
async fn connect(settings: CqlSettings) -> Result<Connection, StoreError> {
    let session = open_session(&settings).await?;
    schema::prepare(&session, &settings).await?;
    let statements = within(&settings, Statements::prepare(&session)).await?;
    Ok(Connection { session, statements })
}

/// What is given to one step of connecting.
async fn within<T>(
    settings: &CqlSettings,
    step: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let limit_ms = settings.connect_timeout_ms;
    let done = tokio::time::timeout(Duration::from_millis(limit_ms), step).await;
    done.map_err(|_| StoreError::ConnectTimeout { limit_ms })?
}

fn driver_runtime() -> Result<Runtime, StoreError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("scangate-cql")
        .enable_all()
        .build()
        .map_err(StoreError::Runtime)
}

async fn open_session(settings: &CqlSettings) -> Result<Session, StoreError> {
    let mut profile = ExecutionProfile::builder()
        .consistency(settings.consistency)
        .request_timeout(Some(Duration::from_millis(settings.request_timeout_ms)));
    if settings.speculative_max > 0 {
        profile = profile.speculative_execution_policy(Some(Arc::new(SimpleSpeculativeExecutionPolicy {
            max_retry_count: settings.speculative_max,
            retry_interval: Duration::from_millis(settings.speculative_after_ms),
        })));
    }
    let mut builder = SessionBuilder::new()
        .known_nodes(&settings.nodes)
        .default_execution_profile_handle(profile.build().into_handle())
        .connection_timeout(Duration::from_millis(settings.connect_timeout_ms))
        // A node that stopped without closing its sockets is noticed in ten seconds, not in a minute.
        .keepalive_interval(Duration::from_secs(5))
        .keepalive_timeout(Duration::from_secs(5))
        .keyspaces_to_fetch([&settings.keyspace]);
    if let Some(datacenter) = &settings.local_datacenter {
        builder = builder.prefer_datacenter(datacenter.clone());
    }
    if let Some(CqlCredentials { user, password }) = &settings.credentials {
        builder = builder.user(user, password);
    }
    let made = async { builder.build().await.map_err(|source| StoreError::Connect(Box::new(source))) };
    within(settings, made).await
}

fn check(settings: &CqlSettings) -> Result<(), StoreError> {
    let wrong = |name, rule: String| Err(StoreError::Setting { name, rule });
    if settings.nodes.is_empty() {
        return wrong("cql.nodes", "must name at least one node; got none".to_owned());
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let name = &settings.keyspace;
    if !(1..=48).contains(&name.len())
        || !name.chars().all(plain)
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
    {
        return wrong(
            "cql.keyspace",
            format!("must be 1..=48 of a-z, 0-9 and _, a letter first; got {name:?}"),
        );
    }
    // The map is put into a statement as it stands, so it must not be able to end it.
    if !(settings.replication.starts_with('{') && settings.replication.ends_with('}'))
        || settings.replication.contains(';')
    {
        return wrong("cql.replication", format!("must be a map in braces; got {:?}", settings.replication));
    }
    for (name, value, max) in [
        ("cql.concurrency_requests", settings.concurrency_requests, 4096),
        ("cql.batch_rows_max", settings.batch_rows_max, 1000),
    ] {
        if !(1..=max).contains(&value) {
            return wrong(name, format!("must be in 1..={max}; got {value}"));
        }
    }
    if settings.retention_days > RETENTION_DAYS_MAX {
        let got = settings.retention_days;
        return wrong("store.retention_days", format!("must be in 0..={RETENTION_DAYS_MAX}; got {got}"));
    }
    Ok(())
}

fn execute_failed(statement: &'static str) -> impl Fn(ExecutionError) -> StoreError {
    move |source| StoreError::Execute { statement, source: Box::new(source) }
}

/// See [`StoreError::kind`].
pub(super) fn kind_of(error: &ExecutionError) -> super::FailureKind {
    use super::FailureKind::{Refused, Timeout, Unavailable, Unreachable};
    match error {
        ExecutionError::EmptyPlan | ExecutionError::ConnectionPoolError(_) => Unreachable,
        ExecutionError::RequestTimeout(_) => Timeout,
        ExecutionError::LastAttemptError(attempt) => match attempt {
            RequestAttemptError::BrokenConnectionError(_) => Unreachable,
            RequestAttemptError::DbError(reason, _) => match reason {
                DbError::ReadTimeout { .. } | DbError::WriteTimeout { .. } => Timeout,
                DbError::SyntaxError
                | DbError::Invalid
                | DbError::Unauthorized
                | DbError::AuthenticationError
                | DbError::ConfigError
                | DbError::ProtocolError => Refused,
                _ => Unavailable,
            },
            RequestAttemptError::UnableToAllocStreamId => Unavailable,
            _ => Refused,
        },
        ExecutionError::SchemaAgreementError(_) | ExecutionError::MetadataError(_) => Unavailable,
        _ => Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_bounds_name_rule_and_value() {
        let refuse = |change: fn(&mut CqlSettings)| {
            let mut settings = CqlSettings::default();
            change(&mut settings);
            check(&settings).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(refuse(|_| ()), "");
        assert_eq!(
            refuse(|settings| settings.keyspace = "a; drop".to_owned()),
            "cql.keyspace must be 1..=48 of a-z, 0-9 and _, a letter first; got \"a; drop\""
        );
        assert_eq!(
            refuse(|settings| settings.batch_rows_max = 0),
            "cql.batch_rows_max must be in 1..=1000; got 0"
        );
        assert!(refuse(|settings| settings.replication = "{}; x}".to_owned()).starts_with("cql.replication"));
        assert!(refuse(|settings| settings.nodes.clear()).starts_with("cql.nodes"));
        assert!(refuse(|settings| settings.retention_days = 9000).starts_with("store.retention_days"));
    }

    #[test]
    fn credentials_are_not_printed() {
        let credentials = CqlCredentials { user: "gate".to_owned(), password: "hunter2".to_owned() };
        let settings = CqlSettings { credentials: Some(credentials), ..CqlSettings::default() };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
