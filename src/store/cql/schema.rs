//! The schema's migrations, embedded from deploy/schema and applied in order, once each.

use scylla::client::session::Session;
use scylla::value::CqlTimestamp;

use crate::scan::UnixMillis;
use crate::store::StoreError;

use super::{CqlSettings, execute_failed};

/// Each file holds statements that end in `;` and may run again, with `--` comments, without string
/// literals that hold either.
const MIGRATIONS: &[(i32, &str, &str)] =
    &[(1, "001_checkins", include_str!("../../../deploy/schema/001_checkins.cql"))];

const CREATE_MIGRATIONS_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations \
     (version int PRIMARY KEY, name text, applied_at timestamp)";

/// Selects the keyspace. Creates it and what is missing in it, where the settings allow that; else
/// says what is missing.
pub(super) async fn prepare(session: &Session, settings: &CqlSettings) -> Result<(), StoreError> {
    if settings.create_schema {
        let create = format!(
            "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {}",
            settings.keyspace, settings.replication
        );
        run(session, "create the keyspace", create).await?;
    }
    session.use_keyspace(&settings.keyspace, false).await.map_err(|source| StoreError::Keyspace {
        keyspace: settings.keyspace.clone(),
        source: Box::new(source),
    })?;
    let applied = applied_versions(session, settings).await?;
    for (version, name, text) in MIGRATIONS.iter().filter(|(version, ..)| !applied.contains(version)) {
        if !settings.create_schema {
            return Err(StoreError::SchemaMissing { version: *version, keyspace: settings.keyspace.clone() });
        }
        for statement in statements(text) {
            run(session, "apply a schema migration", statement).await?;
        }
        let insert = "INSERT INTO schema_migrations (version, name, applied_at) VALUES (?, ?, ?)";
        session
            .query_unpaged(insert, (*version, *name, CqlTimestamp(UnixMillis::now().0)))
            .await
            .map_err(execute_failed("record a schema migration"))?;
        tracing::info!(version, name, "applied schema migration");
    }
    Ok(())
}

/// Concurrent DDL is what Cassandra is worst at, so a start that finds everything applied runs none.
async fn applied_versions(session: &Session, settings: &CqlSettings) -> Result<Vec<i32>, StoreError> {
    const STATEMENT: &str = "read applied schema migrations";
    let exists = "SELECT table_name FROM system_schema.tables \
         WHERE keyspace_name = ? AND table_name = 'schema_migrations'";
    let found = session
        .query_unpaged(exists, (settings.keyspace.as_str(),))
        .await
        .map_err(execute_failed(STATEMENT))?
        .into_rows_result()
        .is_ok_and(|rows| rows.rows_num() > 0);
    if !found {
        if settings.create_schema {
            run(session, "create the migrations table", CREATE_MIGRATIONS_TABLE.to_owned()).await?;
        }
        return Ok(Vec::new());
    }
    let rows = session
        .query_unpaged("SELECT version FROM schema_migrations", ())
        .await
        .map_err(execute_failed(STATEMENT))?
        .into_rows_result()
        .ok();
    let versions = rows.as_ref().and_then(|rows| rows.rows::<(i32,)>().ok());
    Ok(versions.into_iter().flatten().filter_map(|row| row.ok().map(|(version,)| version)).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_in_order_and_split_into_repeatable_statements() {
        for ((version, name, text), expected) in MIGRATIONS.iter().zip(1..) {
            assert_eq!(*version, expected);
            assert!(name.starts_with(&format!("{version:03}_")));
            for statement in statements(text) {
                assert!(statement.starts_with("CREATE TABLE IF NOT EXISTS "), "{statement}");
            }
        }
        assert_eq!(statements(MIGRATIONS[0].2).len(), 3);
    }
}
