//! The schema's migrations, embedded from deploy/schema and applied in order, once each.
//!
//! What was applied stands in `schema_migrations`, with a checksum of its statements. A keyspace is refused whose
//! migrations are not a beginning of these: one that this version doesn't know may have changed what rows mean,
//! and a changed one was never what made the tables.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use futures_util::TryStreamExt as _;
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::serialize::row::SerializeRow;
use scylla::value::CqlTimestamp;
use serde::Serialize;

use crate::scan::UnixMillis;
use crate::store::StoreError;

use super::{CqlSettings, execute_failed};

/// A file of deploy/schema: statements that end in `;` and may run again, with `--` comments, without string
/// literals that hold either.
struct Migration {
    number: i32,
    name: &'static str,
    text: &'static str,
}

/// In order, numbered from 1 without a gap. Only ever appended to.
const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    name: "001_checkins",
    text: include_str!("../../../deploy/schema/001_checkins.cql"),
}];

const CREATE_MIGRATIONS_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations \
     (version int PRIMARY KEY, name text, checksum text, applied_at timestamp)";

/// The tables of the first gateways had no checksum.
const ADD_CHECKSUM: &str = "ALTER TABLE schema_migrations ADD checksum text";

const READ_APPLIED: &str = "read applied schema migrations";

/// The migrations of a keyspace, all of them applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaReport {
    /// In order.
    pub migrations: Vec<MigrationReport>,
}

/// One migration of a keyspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigrationReport {
    /// Its number, from 1.
    pub number: i32,
    /// Its file in deploy/schema, without `.cql`.
    pub name: &'static str,
    /// SHA-256 of its statements, comments and white space left out, as 64 hexadecimal digits.
    pub checksum: String,
    /// Whether it was applied now, not before.
    pub applied_now: bool,
}

/// A row of `schema_migrations`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Applied {
    number: i32,
    checksum: Option<String>,
}

/// Selects the keyspace. Creates it and what is missing in it, where the settings allow that; else
/// says what is missing.
///
/// Concurrent DDL is what Cassandra is worst at, so a start that finds everything applied runs none.
pub(super) async fn prepare(session: &Session, settings: &CqlSettings) -> Result<SchemaReport, StoreError> {
    let keyspace = settings.keyspace.as_str();
    let exists = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let found: Vec<(String,)> = read(session, "look for the keyspace", exists, (keyspace,)).await?;
    if found.is_empty() && settings.create_schema {
        let create =
            format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {}", settings.replication);
        run(session, "create the keyspace", create).await?;
    }
    session
        .use_keyspace(keyspace, false)
        .await
        .map_err(|source| StoreError::Keyspace { keyspace: keyspace.to_owned(), source: Box::new(source) })?;
    let applied = applied(session, settings).await?;
    let pending = pending(MIGRATIONS, &applied, keyspace)?;
    if let (Some(first), false) = (pending.first(), settings.create_schema) {
        return Err(StoreError::SchemaMissing { version: first.number, keyspace: keyspace.to_owned() });
    }
    for migration in &pending {
        for statement in statements(migration.text) {
            run(session, "apply a schema migration", statement).await?;
        }
        record(session, migration).await?;
        tracing::info!(number = migration.number, name = migration.name, "applied schema migration");
    }
    if settings.create_schema {
        // Rows without a checksum are of a gateway that knew none.
        for row in applied.iter().filter(|row| row.checksum.is_none()) {
            for migration in MIGRATIONS.iter().filter(|migration| migration.number == row.number) {
                record(session, migration).await?;
            }
        }
    }
    let report = |migration: &Migration| MigrationReport {
        number: migration.number,
        name: migration.name,
        checksum: checksum(migration.text),
        applied_now: pending.iter().any(|applied| applied.number == migration.number),
    };
    Ok(SchemaReport { migrations: MIGRATIONS.iter().map(report).collect() })
}

/// What is still to be applied, in order.
///
/// # Errors
/// Something was applied that isn't among the known, or with other statements.
fn pending<'a>(
    known: &'a [Migration],
    applied: &[Applied],
    keyspace: &str,
) -> Result<Vec<&'a Migration>, StoreError> {
    let newest = known.last().map_or(0, |migration| migration.number);
    for row in applied {
        let Some(migration) = known.iter().find(|migration| migration.number == row.number) else {
            return Err(StoreError::SchemaUnknown {
                version: row.number,
                newest,
                keyspace: keyspace.to_owned(),
            });
        };
        let expected = checksum(migration.text);
        if row.checksum.as_ref().is_some_and(|found| *found != expected) {
            let name = migration.name;
            return Err(StoreError::SchemaChanged { name, keyspace: keyspace.to_owned() });
        }
    }
    let is_applied = |migration: &Migration| applied.iter().any(|row| row.number == migration.number);
    Ok(known.iter().filter(|migration| !is_applied(migration)).collect())
}

/// The rows of `schema_migrations`, which is brought up to date itself where the settings allow that.
async fn applied(session: &Session, settings: &CqlSettings) -> Result<Vec<Applied>, StoreError> {
    let columns = "SELECT column_name FROM system_schema.columns \
         WHERE keyspace_name = ? AND table_name = 'schema_migrations'";
    let columns: Vec<(String,)> = read(session, READ_APPLIED, columns, (&settings.keyspace,)).await?;
    let mut has_checksum = columns.iter().any(|(name,)| name == "checksum");
    if columns.is_empty() {
        if settings.create_schema {
            run(session, "create the migrations table", CREATE_MIGRATIONS_TABLE.to_owned()).await?;
        }
        return Ok(Vec::new());
    }
    if !has_checksum && settings.create_schema {
        run(session, "add checksums to the migrations table", ADD_CHECKSUM.to_owned()).await?;
        has_checksum = true;
    }
    if has_checksum {
        let all = "SELECT version, checksum FROM schema_migrations";
        let rows: Vec<(i32, Option<String>)> = read(session, READ_APPLIED, all, ()).await?;
        return Ok(rows.into_iter().map(|(number, checksum)| Applied { number, checksum }).collect());
    }
    let rows: Vec<(i32,)> = read(session, READ_APPLIED, "SELECT version FROM schema_migrations", ()).await?;
    Ok(rows.into_iter().map(|(number,)| Applied { number, checksum: None }).collect())
}

async fn record(session: &Session, migration: &Migration) -> Result<(), StoreError> {
    let insert = "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (?, ?, ?, ?)";
    let applied_at = CqlTimestamp(UnixMillis::now().0);
    let values = (migration.number, migration.name, checksum(migration.text), applied_at);
    session.query_unpaged(insert, values).await.map_err(execute_failed("record a schema migration"))?;
    Ok(())
}

async fn read<R>(
    session: &Session,
    statement: &'static str,
    text: &str,
    values: impl SerializeRow,
) -> Result<Vec<R>, StoreError>
where
    R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata> + 'static,
{
    session
        .query_iter(text, values)
        .await
        .map_err(|source| StoreError::Read { statement, source: Box::new(source) })?
        .rows_stream::<R>()
        .map_err(|source| StoreError::Columns { statement, source: Box::new(source) })?
        .try_collect()
        .await
        .map_err(|source| StoreError::Page { statement, source: Box::new(source) })
}

async fn run(session: &Session, what: &'static str, statement: String) -> Result<(), StoreError> {
    session.query_unpaged(statement, ()).await.map_err(execute_failed(what))?;
    Ok(())
}

fn statements(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().map(|line| line.split("--").next().unwrap_or("").trim_end()).collect();
    let code = code.join("\n");
    code.split(';').map(str::trim).filter(|statement| !statement.is_empty()).map(str::to_owned).collect()
}

/// See [`MigrationReport::checksum`]: a comment may be mended, a statement may not.
fn checksum(text: &str) -> String {
    let words = |statement: String| statement.split_whitespace().collect::<Vec<_>>().join(" ");
    let canonical: Vec<String> = statements(text).into_iter().map(words).collect();
    let digest = digest::digest(&digest::SHA256, canonical.join(";").as_bytes());
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_the_files_of_deploy_schema_in_repeatable_statements() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/schema")).unwrap();
        let mut files: Vec<_> =
            files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let names: Vec<_> = MIGRATIONS.iter().map(|migration| format!("{}.cql", migration.name)).collect();
        assert_eq!(files, names);
        for (migration, number) in MIGRATIONS.iter().zip(1..) {
            assert_eq!(migration.number, number);
            assert!(migration.name.starts_with(&format!("{number:03}_")));
            for statement in statements(migration.text) {
                assert!(statement.starts_with("CREATE TABLE IF NOT EXISTS "), "{statement}");
            }
        }
        assert_eq!(statements(MIGRATIONS[0].text).len(), 3);
    }

    /// What a released version has applied somewhere can't be applied in another form.
    #[test]
    fn released_migrations_stay_as_they_are() {
        assert_eq!(
            checksum(MIGRATIONS[0].text),
            "47a6fa9bf661ea3d80431370d0cc027e494db4e047d0bd5d54ee84e541cc532b"
        );
    }

    const KNOWN: &[Migration] = &[
        Migration { number: 1, name: "001_a", text: "CREATE TABLE a (k int); -- the first" },
        Migration { number: 2, name: "002_b", text: "CREATE TABLE b (k int);" },
        Migration { number: 3, name: "003_c", text: "CREATE TABLE c (k int);" },
    ];

    fn decided(applied: &[(i32, Option<&str>)]) -> Result<Vec<i32>, String> {
        let row =
            |(number, text): &(i32, Option<&str>)| Applied { number: *number, checksum: text.map(checksum) };
        let applied: Vec<_> = applied.iter().map(row).collect();
        let pending = pending(KNOWN, &applied, "gate").map_err(|error| error.to_string())?;
        Ok(pending.iter().map(|migration| migration.number).collect())
    }

    #[test]
    fn what_is_missing_is_applied_in_order() {
        assert_eq!(decided(&[]), Ok(vec![1, 2, 3]));
        assert_eq!(decided(&[(1, None)]), Ok(vec![2, 3]));
        // Interrupted between two gateways' starts: whatever is missing may run again.
        assert_eq!(decided(&[(2, Some("CREATE TABLE b (k int);"))]), Ok(vec![1, 3]));
        let all = KNOWN.iter().map(|migration| (migration.number, Some(migration.text))).collect::<Vec<_>>();
        assert_eq!(decided(&all), Ok(vec![]));
    }

    #[test]
    fn a_changed_or_unknown_migration_is_refused_and_a_mended_comment_is_not() {
        assert_eq!(decided(&[(1, Some("create  table a (k int)"))]).unwrap_err().lines().count(), 1);
        assert_eq!(decided(&[(1, Some("-- first\nCREATE TABLE a\n  (k int);"))]), Ok(vec![2, 3]));
        assert_eq!(
            decided(&[(1, Some("CREATE TABLE a (k bigint);"))]).unwrap_err(),
            "schema migration 001_a was applied to keyspace gate with other statements than this version's"
        );
        assert_eq!(
            decided(&[(1, None), (7, None)]).unwrap_err(),
            "keyspace gate has schema migration 7, this version knows them up to 3: it needs a newer gateway"
        );
        assert!(decided(&[(0, None)]).is_err());
    }
}
