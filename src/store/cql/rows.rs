//! Prepared statements, and how a check-in becomes a row and a row a check-in.

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use scylla::client::session::Session;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use uuid::Uuid;

use crate::scan::{
    App, Checkin, CheckinId, ClientKey, DAY_MS, DeviceKey, Direction, DirectionRequest, Form, PlaceKey,
    Pseudonym, Scan, Subject, Trust, UnixMillis,
};
use crate::store::{Retention, StoreError, version_us};

use super::execute_failed;

const BUCKETS: i8 = 16;

/// Cassandra refuses more: 20 years.
const TTL_S_MAX: i64 = 20 * 365 * 86_400;

/// Rows fetched at a time: about 1 MiB.
const PAGE_ROWS: i32 = 5_000;

/// Columns in the order of [`row_values`].
const INSERT_COLUMNS: &str = "(place, day, id, person, direction, asked, received, client, device, app, subject, trust, \
     form, window_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?";

/// Columns in the order of [`Row`].
const SELECT_COLUMNS: &str =
    "place, id, person, direction, asked, received, client, device, app, subject, trust, form, window_s";

type Row = (Bytes, Uuid, Bytes, i8, i8, CqlTimestamp, Bytes, Bytes, i8, i8, i8, i8, i32);

/// A table of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    ByPlace,
    ByPerson,
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Self::ByPlace => "checkins_by_place",
            Self::ByPerson => "checkins_by_person",
        }
    }
}

/// The statements of one session. The database may be restarted under them: the driver prepares them anew.
pub(super) struct Statements {
    insert_by_place: PreparedStatement,
    insert_by_person: PreparedStatement,
    delete_by_place: PreparedStatement,
    delete_by_person: PreparedStatement,
    list_place: PreparedStatement,
    select_days: PreparedStatement,
    select_places: PreparedStatement,
    select_place_day: PreparedStatement,
    select_person_day: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(session: &Session) -> Result<Self, StoreError> {
        let insert = |table: Table| format!("INSERT INTO {} {INSERT_COLUMNS}", table.name());
        Ok(Self {
            insert_by_place: prepare(session, "upsert by place", insert(Table::ByPlace)).await?,
            insert_by_person: prepare(session, "upsert by person", insert(Table::ByPerson)).await?,
            delete_by_place: prepare(
                session,
                "delete by place",
                "DELETE FROM checkins_by_place USING TIMESTAMP ? WHERE place = ? AND day = ? AND id = ?"
                    .to_owned(),
            )
            .await?,
            delete_by_person: prepare(
                session,
                "delete by person",
                "DELETE FROM checkins_by_person USING TIMESTAMP ? WHERE person = ? AND day = ? AND id = ?"
                    .to_owned(),
            )
            .await?,
            list_place: prepare(
                session,
                "list a place",
                "INSERT INTO places_by_day (day, bucket, place) VALUES (?, ?, ?) USING TIMESTAMP ? AND TTL ?"
                    .to_owned(),
            )
            .await?,
            // Reads partition keys only, of a table with 16 partitions a day.
            select_days: prepare(
                session,
                "read days",
                "SELECT DISTINCT day, bucket FROM places_by_day".to_owned(),
            )
            .await?,
            select_places: prepare(
                session,
                "read places",
                "SELECT place FROM places_by_day WHERE day = ? AND bucket = ? AND place > ?".to_owned(),
            )
            .await?,
            select_place_day: prepare(
                session,
                "read a place's day",
                format!(
                    "SELECT {SELECT_COLUMNS} FROM checkins_by_place \
                     WHERE place = ? AND day = ? AND id >= ? AND id < ?"
                ),
            )
            .await?,
            select_person_day: prepare(
                session,
                "read a person's day",
                format!("SELECT {SELECT_COLUMNS} FROM checkins_by_person WHERE person = ? AND day = ?"),
            )
            .await?,
        })
    }

    /// Writes rows that all lie in one partition of `table`.
    pub(super) async fn upsert(
        &self,
        session: &Session,
        table: Table,
        rows: &[&Checkin],
        retention: Retention,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let (statement, what) = match table {
            Table::ByPlace => (&self.insert_by_place, "upsert by place"),
            Table::ByPerson => (&self.insert_by_person, "upsert by person"),
        };
        let done = if let [row] = rows {
            session.execute_unpaged(statement, row_values(row, retention, now)).await
        } else {
            let mut batch = Batch::new(BatchType::Unlogged);
            batch.set_is_idempotent(true);
            for _ in rows {
                batch.append_statement(statement.clone());
            }
            let values: Vec<_> = rows.iter().map(|row| row_values(row, retention, now)).collect();
            session.batch(&batch, values).await
        };
        done.map_err(execute_failed(what))?;
        Ok(())
    }

    /// Takes a row out of both tables, the one by which it is found last. A deletion of the same moment as a
    /// row wins over it.
    pub(super) async fn remove(&self, session: &Session, row: &Checkin) -> Result<(), StoreError> {
        let (day, id) = (row.scan.at.day(), Uuid::from_bytes(row.id.0));
        for (statement, of, what) in [
            (&self.delete_by_person, row.scan.person.0, "delete by person"),
            (&self.delete_by_place, row.scan.place.0, "delete by place"),
        ] {
            let values = (version_us(row), of.as_slice(), day, id);
            session.execute_unpaged(statement, values).await.map_err(execute_failed(what))?;
        }
        Ok(())
    }

    /// Lists a place under a day. It stays as long as the day's last moment may.
    pub(super) async fn list_place(
        &self,
        session: &Session,
        day: i32,
        place: PlaceKey,
        retention: Retention,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let day_ends = UnixMillis((i64::from(day) + 1) * DAY_MS);
        // The same at every listing, like a row's.
        let version_us = i64::from(day) * DAY_MS * 1000;
        let values = (day, bucket(place), place.0.as_slice(), version_us, ttl_s(day_ends, retention, now));
        session.execute_unpaged(&self.list_place, values).await.map_err(execute_failed("list a place"))?;
        Ok(())
    }

    /// The days in `from..=to` under which places are listed, in order.
    pub(super) async fn days(&self, session: &Session, from: i32, to: i32) -> Result<Vec<i32>, StoreError> {
        let listed: Vec<(i32, i8)> = read(session, "read days", &self.select_days, ()).await?;
        let mut days: Vec<i32> =
            listed.into_iter().map(|(day, _)| day).filter(|day| (from..=to).contains(day)).collect();
        days.sort_unstable();
        days.dedup();
        Ok(days)
    }

    /// See [`super::Cql::places`].
    pub(super) async fn places(
        &self,
        session: &Session,
        day: i32,
        after: Option<PlaceKey>,
    ) -> Result<Vec<PlaceKey>, StoreError> {
        const WHAT: &str = "read places";
        for of in after.map_or(0, bucket)..BUCKETS {
            let start: &[u8] = after.as_ref().map_or(&[], |place| &place.0);
            let listed: Vec<(Bytes,)> = read(session, WHAT, &self.select_places, (day, of, start)).await?;
            if listed.is_empty() {
                continue;
            }
            let place = |(place,): (Bytes,)| key(&place).map(PlaceKey).ok_or("place");
            return listed
                .into_iter()
                .map(place)
                .collect::<Result<Vec<PlaceKey>, _>>()
                .map_err(|what| StoreError::Damaged { table: "places_by_day", day, what });
        }
        Ok(Vec::new())
    }

    pub(super) async fn place_day(
        &self,
        session: &Session,
        place: PlaceKey,
        day: i32,
        from: UnixMillis,
        to: UnixMillis,
        into: &mut Vec<Checkin>,
    ) -> Result<(), StoreError> {
        let bound = |at: UnixMillis| Uuid::from_bytes(CheckinId::new(at, 0).0);
        let values = (place.0.as_slice(), day, bound(from), bound(to));
        let rows = read(session, "read a place's day", &self.select_place_day, values).await?;
        decode_all(Table::ByPlace, day, rows, into)
    }

    pub(super) async fn person_day(
        &self,
        session: &Session,
        person: Pseudonym,
        day: i32,
        into: &mut Vec<Checkin>,
    ) -> Result<(), StoreError> {
        let values = (person.0.as_slice(), day);
        let rows = read(session, "read a person's day", &self.select_person_day, values).await?;
        decode_all(Table::ByPerson, day, rows, into)
    }
}

async fn prepare(
    session: &Session,
    statement: &'static str,
    text: String,
) -> Result<PreparedStatement, StoreError> {
    let mut prepared = session
        .prepare(text)
        .await
        .map_err(|source| StoreError::Prepare { statement, source: Box::new(source) })?;
    prepared.set_is_idempotent(true);
    prepared.set_page_size(PAGE_ROWS);
    Ok(prepared)
}

async fn read<R>(
    session: &Session,
    statement: &'static str,
    prepared: &PreparedStatement,
    values: impl scylla::serialize::row::SerializeRow,
) -> Result<Vec<R>, StoreError>
where
    R: for<'frame, 'metadata> scylla::deserialize::row::DeserializeRow<'frame, 'metadata>,
{
    session
        .execute_iter(prepared.clone(), values)
        .await
        .map_err(|source| StoreError::Read { statement, source: Box::new(source) })?
        .rows_stream::<R>()
        .map_err(|source| StoreError::Columns { statement, source: Box::new(source) })?
        .try_collect()
        .await
        .map_err(|source| StoreError::Page { statement, source: Box::new(source) })
}

fn bucket(place: PlaceKey) -> i8 {
    let [first, ..] = place.0;
    (first >> 4).cast_signed()
}

/// Seconds until `until` plus the retention; 0, which CQL reads as "never", where rows are kept for ever. Rounded up, and
/// one more: the server counts from the whole second before, and nothing may go early.
fn ttl_s(until: UnixMillis, retention: Retention, now: UnixMillis) -> i32 {
    let whole_s = |left_ms: i64| (left_ms.max(0).saturating_add(999) / 1000 + 1).min(TTL_S_MAX);
    retention.left_ms(until, now).map_or(0, |left| i32::try_from(whole_s(left)).unwrap_or(i32::MAX))
}

fn row_values(
    row: &Checkin,
    retention: Retention,
    now: UnixMillis,
) -> impl scylla::serialize::row::SerializeRow + use<'_> {
    let scan = &row.scan;
    (
        scan.place.0.as_slice(),
        scan.at.day(),
        Uuid::from_bytes(row.id.0),
        scan.person.0.as_slice(),
        row.direction.code().cast_signed(),
        scan.direction.code().cast_signed(),
        CqlTimestamp(scan.received.0),
        scan.client.0.as_slice(),
        scan.device.0.as_slice(),
        scan.app.code().cast_signed(),
        scan.subject.code().cast_signed(),
        scan.trust.code().cast_signed(),
        scan.form.code().cast_signed(),
        i32::from(scan.window_s),
        version_us(row),
        ttl_s(scan.at, retention, now),
    )
}

fn decode_all(table: Table, day: i32, rows: Vec<Row>, into: &mut Vec<Checkin>) -> Result<(), StoreError> {
    into.reserve(rows.len());
    for row in rows {
        into.push(decode(&row).map_err(|what| StoreError::Damaged { table: table.name(), day, what })?);
    }
    Ok(())
}

fn decode(row: &Row) -> Result<Checkin, &'static str> {
    let (place, id, person, direction, asked, received, client, device, app, subject, trust, form, window_s) =
        row;
    let id = CheckinId(id.into_bytes());
    Ok(Checkin {
        id,
        direction: Direction::from_code(direction.cast_unsigned()).ok_or("direction")?,
        scan: Scan {
            person: Pseudonym(key(person).ok_or("person")?),
            place: PlaceKey(key(place).ok_or("place")?),
            direction: DirectionRequest::from_code(asked.cast_unsigned()).ok_or("asked")?,
            at: id.at(),
            received: UnixMillis(received.0),
            client: ClientKey(key(client).ok_or("client")?),
            device: DeviceKey(key(device).ok_or("device")?),
            app: App::from_code(app.cast_unsigned()).ok_or("app")?,
            subject: Subject::from_code(subject.cast_unsigned()).ok_or("subject")?,
            trust: Trust::from_code(trust.cast_unsigned()).ok_or("trust")?,
            form: Form::from_code(form.cast_unsigned()).ok_or("form")?,
            window_s: u16::try_from(*window_s).map_err(|_| "window_s")?,
        },
    })
}

fn key<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}
