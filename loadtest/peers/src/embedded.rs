//! fjall, with one thread that writes: it takes whatever scans wait, looks each up, and commits all that is new
//! with one fsync. fjall itself has no group commit; a fsync for each request would be the unfair way to do it.
//!
//! ```text
//! by_place   place:16 id:16                          person:16 rest
//! by_person  person:16 place:16 direction:1 time:8   id:16 rest
//! clients    client:12                               id:16 direction:1
//! rest       device:8 client:12 received:8 app:1 subject:1 trust:1 form:1 asked:1
//! ```

use std::collections::HashMap;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Slice};
use scangate::scan::{Checkin, CheckinId, ClientKey, Direction, DirectionRequest, Scan};
use tokio::sync::{mpsc, oneshot};

use crate::database::{Admitted, WINDOW_MS, resolve, row};

/// Requests that wait for the writer; past it they wait for a place among those.
const WAITING_MAX: usize = 8192;
/// Scans of one commit, give or take a request's.
const COMMIT_SCANS_MAX: usize = 4096;

/// The database, behind its thread.
pub struct Embedded {
    requests: mpsc::Sender<Request>,
}

struct Request {
    scans: Vec<Scan>,
    answer: oneshot::Sender<Result<Vec<Admitted>>>,
}

impl Embedded {
    /// Opens or creates the database in a directory.
    pub fn open(directory: &Path) -> Result<Self> {
        let trees = Trees::open(directory)?;
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        thread::Builder::new().name("peer-commit".to_owned()).spawn(move || trees.serve(waiting))?;
        Ok(Self { requests })
    }

    /// See [`crate::database::Database::admit`].
    pub async fn admit(&self, scans: Vec<Scan>) -> Result<Vec<Admitted>> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request { scans, answer }).await.map_err(|_| anyhow!("the writer has ended"))?;
        answered.await.context("the writer has ended")?
    }
}

struct Trees {
    db: Database,
    by_place: Keyspace,
    by_person: Keyspace,
    clients: Keyspace,
}

/// What a commit under way has admitted and no read sees yet.
#[derive(Default)]
struct Pending {
    rows: Vec<Checkin>,
    clients: HashMap<ClientKey, (CheckinId, Direction)>,
    times: HashMap<[u8; 33], Vec<(i64, CheckinId)>>,
}

impl Trees {
    fn open(directory: &Path) -> Result<Self> {
        let db = Database::builder(directory).worker_threads(1).open()?;
        let tree = |name| db.keyspace(name, KeyspaceCreateOptions::default);
        let (by_place, by_person, clients) = (tree("by_place")?, tree("by_person")?, tree("clients")?);
        Ok(Self { db, by_place, by_person, clients })
    }

    fn serve(&self, mut waiting: mpsc::Receiver<Request>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut count = first.scans.len();
            let mut requests = vec![first];
            while count < COMMIT_SCANS_MAX {
                let Ok(next) = waiting.try_recv() else { break };
                count += next.scans.len();
                requests.push(next);
            }
            self.commit(requests);
        }
    }

    fn commit(&self, requests: Vec<Request>) {
        let mut pending = Pending::default();
        let mut answers = Vec::with_capacity(requests.len());
        for Request { scans, answer } in requests {
            let admitted: Result<Vec<_>> =
                scans.into_iter().map(|scan| self.admit(scan, &mut pending)).collect();
            answers.push((answer, admitted));
        }
        let committed = self.write(&pending.rows);
        for (answer, admitted) in answers {
            let result = match &committed {
                Ok(()) => admitted,
                Err(error) => Err(anyhow!("the commit failed: {error}")),
            };
            // Whoever has hung up doesn't want it.
            let _ = answer.send(result);
        }
    }

    fn admit(&self, scan: Scan, pending: &mut Pending) -> Result<Admitted> {
        if let Some((id, direction)) = self.client(scan.client, pending)? {
            return Ok(Admitted::Duplicate(id, direction));
        }
        let direction = match scan.direction {
            DirectionRequest::Auto => resolve(
                scan.direction,
                self.last(&scan, Direction::In, pending)?,
                self.last(&scan, Direction::Out, pending)?,
            ),
            asked => resolve(asked, None, None),
        };
        let near = prefix(&scan, direction);
        if let Some(id) = self.within_window(&near, scan.at.0, pending)? {
            return Ok(Admitted::Duplicate(id, direction));
        }
        let row = row(scan, direction);
        pending.clients.insert(row.scan.client, (row.id, direction));
        pending.times.entry(near).or_default().push((row.scan.at.0, row.id));
        let id = row.id;
        pending.rows.push(row);
        Ok(Admitted::Recorded(id, direction))
    }

    fn client(&self, client: ClientKey, pending: &Pending) -> Result<Option<(CheckinId, Direction)>> {
        if let Some(known) = pending.clients.get(&client) {
            return Ok(Some(*known));
        }
        let Some(value) = self.clients.get(client.0)? else { return Ok(None) };
        let id = value.first_chunk().context("a short value in clients")?;
        let direction = value.get(16).and_then(|code| Direction::from_code(*code));
        Ok(Some((CheckinId(*id), direction.context("a bad direction in clients")?)))
    }

    fn within_window(&self, near: &[u8; 33], at_ms: i64, pending: &Pending) -> Result<Option<CheckinId>> {
        let is_near = |other: i64| (other - at_ms).abs() < WINDOW_MS;
        let mut waiting = pending.times.get(near).into_iter().flatten();
        if let Some((_, id)) = waiting.find(|(other, _)| is_near(*other)) {
            return Ok(Some(*id));
        }
        let (from, to) = (timed(near, at_ms - WINDOW_MS + 1), timed(near, at_ms + WINDOW_MS - 1));
        match self.by_person.range(from..=to).next() {
            Some(found) => id_of(&found.value()?).map(Some),
            None => Ok(None),
        }
    }

    /// The person's last check-in there in this direction.
    fn last(&self, scan: &Scan, direction: Direction, pending: &Pending) -> Result<Option<i64>> {
        let near = prefix(scan, direction);
        let waiting = pending.times.get(&near).into_iter().flatten().map(|(at, _)| *at).max();
        let kept = match self.by_person.prefix(near).next_back() {
            Some(found) => Some(time_of(&found.key()?)?),
            None => None,
        };
        Ok(waiting.max(kept))
    }

    /// One commit, on disk when this returns.
    fn write(&self, rows: &[Checkin]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let batch = OwnedWriteBatch::with_capacity(self.db.clone(), rows.len() * 3);
        let mut batch = batch.durability(Some(PersistMode::SyncData));
        for row in rows {
            let scan = &row.scan;
            let rest = rest(row);
            batch.insert(&self.by_place, joined(&scan.place.0, &row.id.0), joined(&scan.person.0, &rest));
            let near = timed(&prefix(scan, row.direction), scan.at.0);
            batch.insert(&self.by_person, near, joined(&row.id.0, &rest));
            batch.insert(&self.clients, scan.client.0, joined(&row.id.0, &[row.direction.code()]));
        }
        Ok(batch.commit()?)
    }
}

fn prefix(scan: &Scan, direction: Direction) -> [u8; 33] {
    let mut key = [0; 33];
    let parts = scan.person.0.iter().chain(&scan.place.0).copied().chain([direction.code()]);
    for (to, from) in key.iter_mut().zip(parts) {
        *to = from;
    }
    key
}

fn timed(near: &[u8; 33], at_ms: i64) -> Vec<u8> {
    joined(near, &at_ms.to_be_bytes())
}

fn rest(row: &Checkin) -> Vec<u8> {
    let scan = &row.scan;
    let mut rest = Vec::with_capacity(33);
    rest.extend_from_slice(&scan.device.0);
    rest.extend_from_slice(&scan.client.0);
    rest.extend_from_slice(&scan.received.0.to_be_bytes());
    rest.extend_from_slice(&[
        scan.app.code(),
        scan.subject.code(),
        scan.trust.code(),
        scan.form.code(),
        scan.direction.code(),
    ]);
    rest
}

fn joined(first: &[u8], second: &[u8]) -> Vec<u8> {
    [first, second].concat()
}

fn id_of(value: &Slice) -> Result<CheckinId> {
    Ok(CheckinId(*value.first_chunk().context("a short value in by_person")?))
}

fn time_of(key: &Slice) -> Result<i64> {
    Ok(i64::from_be_bytes(*key.last_chunk().context("a short key in by_person")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use scangate::scan::{App, DeviceKey, Form, PlaceKey, Pseudonym, Subject, Trust, UnixMillis};

    fn scan(client: u8, person: u8, at_ms: i64, direction: DirectionRequest) -> Scan {
        Scan {
            person: Pseudonym([person; 16]),
            place: PlaceKey([9; 16]),
            direction,
            at: UnixMillis(at_ms),
            received: UnixMillis(at_ms),
            client: ClientKey([client; 12]),
            device: DeviceKey([1; 8]),
            app: App::PcCovid,
            subject: Subject::Person,
            trust: Trust::Proven,
            form: Form::Sg1,
            window_s: 60,
        }
    }

    #[tokio::test]
    async fn a_scan_is_new_once_within_a_commit_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let at = 1_637_736_569_000;
        let scans = || {
            vec![
                scan(1, 1, at, DirectionRequest::In),
                scan(1, 2, at, DirectionRequest::In),
                scan(2, 1, at + WINDOW_MS - 1, DirectionRequest::In),
                scan(3, 1, at + WINDOW_MS, DirectionRequest::In),
                scan(4, 1, at + 2 * WINDOW_MS, DirectionRequest::Auto),
            ]
        };
        let recorded = |admitted: &[Admitted]| -> Vec<bool> {
            admitted.iter().map(|one| matches!(one, Admitted::Recorded(..))).collect()
        };
        let embedded = Embedded::open(dir.path()).unwrap();
        let first = embedded.admit(scans()).await.unwrap();
        assert_eq!(recorded(&first), [true, false, false, true, true]);
        assert!(matches!(first[4], Admitted::Recorded(_, Direction::Out)));
        drop(embedded);
        // The thread ends and lets the directory go a moment after its last sender has.
        let again = loop {
            match Embedded::open(dir.path()) {
                Ok(embedded) => break embedded,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert_eq!(recorded(&again.admit(scans()).await.unwrap()), [false; 5]);
    }
}
