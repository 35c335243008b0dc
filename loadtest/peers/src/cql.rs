//! Cassandra or ScyllaDB: two reads, then an INSERT into each table, at the consistency that scangate uses.
//!
//! The two tables of rows are scangate's own (`deploy/schema`); two more answer whether a scan is new. Two equal
//! scans at the same moment may both be recorded: what would prevent that, a lightweight transaction, costs four
//! round trips between replicas, and few who build this pay them.

use anyhow::{Context, Result};
use scangate::scan::{Checkin, CheckinId, Direction, DirectionRequest, Scan};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use tokio::{join, try_join};
use uuid::Uuid;

use crate::database::{Admitted, WINDOW_MS, resolve, row};

/// Thirty days, scangate's default.
const TTL_S: i32 = 30 * 86_400;

/// The tables that answer whether a scan is new; the rows' own come from scangate's schema.
const LOOKUPS: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS clients (client blob PRIMARY KEY, id blob, direction tinyint)",
    "CREATE TABLE IF NOT EXISTS recent (person blob, place blob, direction tinyint, at bigint, id blob, \
     PRIMARY KEY ((person, place, direction), at)) WITH CLUSTERING ORDER BY (at DESC)",
];
const ROWS: &str = include_str!("../../../deploy/schema/001_checkins.cql");

/// A session and its statements.
pub struct Cql {
    session: Session,
    by_place: PreparedStatement,
    by_person: PreparedStatement,
    client: PreparedStatement,
    recent: PreparedStatement,
    find_client: PreparedStatement,
    find_recent: PreparedStatement,
    last: PreparedStatement,
}

impl Cql {
    /// Connects, and makes what is missing of keyspace and tables.
    pub async fn connect(node: &str, keyspace: &str) -> Result<Self> {
        let profile = ExecutionProfile::builder().consistency(Consistency::LocalQuorum).build();
        let session = SessionBuilder::new()
            .known_node(node)
            .default_execution_profile_handle(profile.into_handle())
            .build()
            .await?;
        let create = format!(
            "CREATE KEYSPACE IF NOT EXISTS {keyspace} \
             WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
        );
        session.query_unpaged(create, ()).await?;
        session.use_keyspace(keyspace, false).await?;
        for statement in rows_schema().into_iter().chain(LOOKUPS.map(str::to_owned)) {
            session.query_unpaged(statement, ()).await?;
        }
        let prepare = async |text: String| -> Result<PreparedStatement> {
            let mut prepared = session.prepare(text).await?;
            prepared.set_is_idempotent(true);
            Ok(prepared)
        };
        let insert = |table: &str| {
            format!(
                "INSERT INTO {table} (place, day, id, person, direction, asked, received, client, device, app, subject, \
                 trust, form, window_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TTL {TTL_S}"
            )
        };
        let near = "FROM recent WHERE person = ? AND place = ? AND direction = ?";
        let (by_place, by_person, client, recent, find_client, find_recent, last) = try_join!(
            prepare(insert("checkins_by_place")),
            prepare(insert("checkins_by_person")),
            prepare(format!(
                "INSERT INTO clients (client, id, direction) VALUES (?, ?, ?) USING TTL {TTL_S}"
            )),
            prepare(format!(
                "INSERT INTO recent (person, place, direction, at, id) VALUES (?, ?, ?, ?, ?) USING TTL {TTL_S}"
            )),
            prepare("SELECT id, direction FROM clients WHERE client = ?".to_owned()),
            prepare(format!("SELECT id {near} AND at > ? AND at < ? LIMIT 1")),
            prepare(format!("SELECT at {near} LIMIT 1")),
        )?;
        Ok(Self { session, by_place, by_person, client, recent, find_client, find_recent, last })
    }

    /// See [`crate::database::Database::admit`]. The scans of one request are written one after the other.
    pub async fn admit(&self, scans: Vec<Scan>) -> Result<Vec<Admitted>> {
        let mut admitted = Vec::with_capacity(scans.len());
        for scan in scans {
            // Boxed, or the embedded database's requests would carry its 16 KB along.
            admitted.push(Box::pin(self.admit_one(scan)).await?);
        }
        Ok(admitted)
    }

    async fn admit_one(&self, scan: Scan) -> Result<Admitted> {
        let direction = match scan.direction {
            DirectionRequest::Auto => {
                let (last_in, last_out) =
                    join!(self.last(&scan, Direction::In), self.last(&scan, Direction::Out));
                resolve(scan.direction, last_in?, last_out?)
            }
            asked => resolve(asked, None, None),
        };
        let (client, near) = try_join!(self.client(&scan), self.within_window(&scan, direction))?;
        if let Some((id, direction)) = client {
            return Ok(Admitted::Duplicate(id, direction));
        }
        if let Some(id) = near {
            return Ok(Admitted::Duplicate(id, direction));
        }
        let row = row(scan, direction);
        self.write(&row).await?;
        Ok(Admitted::Recorded(row.id, direction))
    }

    async fn client(&self, scan: &Scan) -> Result<Option<(CheckinId, Direction)>> {
        let rows = self.session.execute_unpaged(&self.find_client, (&scan.client.0[..],)).await?;
        let found = rows.into_rows_result()?.maybe_first_row::<(Vec<u8>, i8)>()?;
        let Some((id, code)) = found else { return Ok(None) };
        let direction = u8::try_from(code).ok().and_then(Direction::from_code);
        Ok(Some((id_of(&id)?, direction.context("a bad direction in clients")?)))
    }

    async fn within_window(&self, scan: &Scan, direction: Direction) -> Result<Option<CheckinId>> {
        let values = (
            &scan.person.0[..],
            &scan.place.0[..],
            code(direction.code()),
            scan.at.0 - WINDOW_MS,
            scan.at.0 + WINDOW_MS,
        );
        let rows = self.session.execute_unpaged(&self.find_recent, values).await?;
        let found = rows.into_rows_result()?.maybe_first_row::<(Vec<u8>,)>()?;
        found.map(|(id,)| id_of(&id)).transpose()
    }

    async fn last(&self, scan: &Scan, direction: Direction) -> Result<Option<i64>> {
        let values = (&scan.person.0[..], &scan.place.0[..], code(direction.code()));
        let rows = self.session.execute_unpaged(&self.last, values).await?;
        Ok(rows.into_rows_result()?.maybe_first_row::<(i64,)>()?.map(|(at,)| at))
    }

    async fn write(&self, row: &Checkin) -> Result<()> {
        let scan = &row.scan;
        let direction = code(row.direction.code());
        let values = (
            &scan.place.0[..],
            scan.at.day(),
            Uuid::from_bytes(row.id.0),
            &scan.person.0[..],
            direction,
            code(scan.direction.code()),
            CqlTimestamp(scan.received.0),
            &scan.client.0[..],
            &scan.device.0[..],
            code(scan.app.code()),
            code(scan.subject.code()),
            code(scan.trust.code()),
            code(scan.form.code()),
            i32::from(scan.window_s),
        );
        let client = (&scan.client.0[..], &row.id.0[..], direction);
        let recent = (&scan.person.0[..], &scan.place.0[..], direction, scan.at.0, &row.id.0[..]);
        try_join!(
            self.session.execute_unpaged(&self.by_place, values),
            self.session.execute_unpaged(&self.by_person, values),
            self.session.execute_unpaged(&self.client, client),
            self.session.execute_unpaged(&self.recent, recent),
        )?;
        Ok(())
    }
}

/// The statements of scangate's schema, without its comments.
fn rows_schema() -> Vec<String> {
    let lines = ROWS.lines().map(|line| line.split("--").next().unwrap_or_default());
    let text = lines.collect::<Vec<_>>().join("\n");
    text.split(';').map(str::trim).filter(|statement| !statement.is_empty()).map(str::to_owned).collect()
}

/// The database's smallest integer is signed; all codes are small.
fn code(code: u8) -> i8 {
    i8::try_from(code).unwrap_or(i8::MAX)
}

fn id_of(bytes: &[u8]) -> Result<CheckinId> {
    Ok(CheckinId(*bytes.first_chunk().context("a short id")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_split_into_its_statements() {
        let statements = rows_schema();
        assert_eq!(statements.len(), 3);
        assert!(statements.iter().all(|statement| statement.starts_with("CREATE TABLE IF NOT EXISTS")));
    }
}
