//! Counts the days that are over, on a thread of its own, and has the log remember what may be told of them.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::count::{Counter, Counts, ENTRIES_MAX};
use super::mark::mark;
use super::release::{release, told};
use super::{Cell, Change, Day, Published, RiskMap, written};
use crate::respond::Refused;
use crate::scan::{PlaceKey, UnixMillis};
use crate::services::Services;
use crate::services::capability::{Kind, StateError};
use crate::services::places::{DistrictCode, Place, ProvinceCode};
use crate::services::tracing::search::SearchError;
use crate::store::StoreError;
use crate::store::export::ExportRange;
use crate::store::fold::fold;

/// Cells in an event, which has room for some 35.
const CELLS_AN_EVENT: usize = 25;

/// Why a day isn't told yet, or a case not marked. It is tried again within a minute.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    #[error("the check-ins can't be read")]
    Store(#[from] StoreError),
    #[error("a case's check-ins can't be read")]
    Search(#[from] SearchError),
    #[error("the map's tables can't be read")]
    State(#[from] StateError),
    #[error("the figures can't be recorded: {}", .0.detail)]
    Log(Refused),
    #[error("the thread has no runtime")]
    Runtime(#[source] std::io::Error),
    #[error("the gateway is ending")]
    Stopped,
}

/// The thread, while it runs.
#[derive(Default)]
pub(super) struct Worker {
    thread: Mutex<Option<JoinHandle<()>>>,
    stop: AtomicBool,
}

impl Worker {
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the risk map's thread panicked");
        }
    }

    pub(super) fn stops(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Begins to count what is over and not told yet, and to mark cases, unless that is under way.
pub(in crate::services) fn publish_due(services: &Arc<Services>, now: UnixMillis) {
    let map = &services.capabilities.risk_map;
    let mut thread = map.worker.thread.lock();
    if map.worker.stops() || thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
        return;
    }
    let mut due = match map.due(now) {
        Ok(due) => due,
        Err(error) => return failed(PublishError::from(error)),
    };
    // A database that was away for longer than the delay still gets its say.
    if let Some(oldest) = services.host.oldest_unstored() {
        due.retain(|day| day.plus(1).begins().0.saturating_add(map.settings.delay_ms) <= oldest.0);
    }
    let services = Arc::clone(services);
    let run = move || {
        let told = due.into_iter().try_for_each(|day| publish(&services, day, now));
        for result in [told, mark(&services, now)] {
            match result {
                Ok(()) | Err(PublishError::Stopped) => {}
                Err(error) => failed(error),
            }
        }
    };
    match std::thread::Builder::new().name("risk-map".to_owned()).spawn(run) {
        Ok(started) => *thread = Some(started),
        Err(error) => failed(PublishError::Runtime(error)),
    }
}

fn failed(error: PublishError) {
    tracing::error!(error = %anyhow::Error::from(error), "the risk map can't be brought up to date");
}

impl RiskMap {
    /// Days that ended long enough ago and aren't told, the oldest first.
    pub(super) fn due(&self, now: UnixMillis) -> Result<Vec<Day>, StateError> {
        let settings = &self.settings;
        let end = Day::of(UnixMillis(now.0.saturating_sub(settings.delay_ms)));
        let oldest = end.plus(-settings.days);
        let newest = self.published()?.first().map(|published| published.day);
        let first = newest.map_or(oldest, |newest| newest.plus(1).max(oldest));
        Ok((first.0..end.0).map(Day).collect())
    }
}

/// The districts of the directory, for one count.
struct Districts {
    /// Code, province, and how many places are listed.
    all: Vec<(DistrictCode, ProvinceCode, u64)>,
    of: HashMap<PlaceKey, u32>,
}

impl Districts {
    fn of(places: &[(PlaceKey, Arc<Place>)]) -> Self {
        let mut all = Vec::new();
        let mut index: BTreeMap<DistrictCode, u32> = BTreeMap::new();
        let mut of = HashMap::with_capacity(places.len());
        for (key, place) in places {
            let number = *index.entry(place.district).or_insert_with(|| {
                all.push((place.district, place.province, 0));
                u32::try_from(all.len() - 1).unwrap_or(u32::MAX)
            });
            if let Some((_, _, listed)) = all.get_mut(number as usize) {
                *listed += 1;
            }
            of.insert(*key, number);
        }
        Self { all, of }
    }
}

fn publish(services: &Services, day: Day, now: UnixMillis) -> Result<(), PublishError> {
    let map = &services.capabilities.risk_map;
    let districts = Districts::of(&map.places.all());
    let counts = count(services, &districts, day)?;
    let cells = cells(map.settings.k, &districts, &counts);
    let told = cells.len() as u64;
    let attempt = now.0.unsigned_abs();
    let places = cells.iter().filter(|cell| cell.place.is_some()).count() as u64;
    for cells in cells.chunks(CELLS_AN_EVENT) {
        if map.worker.stops() {
            return Err(PublishError::Stopped);
        }
        record(services, &Change::Cells { day, attempt, cells: cells.to_vec() }, now)?;
    }
    let keeps_from = day.plus(1 - map.settings.days);
    let published =
        Published { day, attempt, k: map.settings.k, districts: told - places, places, keeps_from };
    record(services, &Change::Published(published), now)?;
    tracing::info!(%day, districts = told - places, places, "a day of the risk map is told");
    Ok(())
}

pub(super) fn record(services: &Services, change: &Change, now: UnixMillis) -> Result<(), PublishError> {
    let recorded = services.log.record_blocking(Kind::RiskMap, written(change), now);
    recorded.map(|_| ()).map_err(PublishError::Log)
}

fn count(services: &Services, districts: &Districts, day: Day) -> Result<Counts, PublishError> {
    let (host, stops) = (&services.host, || services.capabilities.risk_map.worker.stops());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(PublishError::Runtime)?;
    let range = ExportRange::over(day.begins(), day.plus(1).begins(), host.window_s_max());
    let number = u32::try_from(districts.all.len()).unwrap_or(u32::MAX);
    let mut counter = Counter::new(&districts.of, number, ENTRIES_MAX);
    loop {
        let mut sink = |first: UnixMillis, rows: &[crate::scan::Checkin]| {
            let mut rows = rows.to_vec();
            for row in &mut rows {
                row.scan.person = host.links().citizen_of(row.scan.person);
            }
            fold(&mut rows);
            rows.retain(|row| row.scan.at >= first);
            counter.add(&rows);
            if stops() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let read = host.store().place_days(range.from, range.to, range.lookback_ms, &mut sink);
        runtime.block_on(read)?;
        if stops() {
            return Err(PublishError::Stopped);
        }
        if !counter.ends_short() {
            return Ok(counter.counts());
        }
    }
}

/// What may be told, district by district.
fn cells(k: u64, districts: &Districts, counts: &Counts) -> Vec<Cell> {
    let mut places = vec![Vec::new(); districts.all.len()];
    for count in &counts.places {
        if let Some(places) = places.get_mut(count.district as usize) {
            places.push(count);
        }
    }
    let mut cells = Vec::new();
    let together = districts.all.iter().zip(&counts.districts).zip(&places);
    for (((district, province, listed), together), places) in together {
        let persons: Vec<u64> = places.iter().map(|count| count.persons).collect();
        let released = release(k, &persons, *listed, *together);
        let cell = |place, persons, checkins| Cell {
            district: *district,
            province: *province,
            place,
            persons,
            checkins,
        };
        cells.extend(released.district.map(|persons| cell(None, persons, None)));
        for (count, persons) in places.iter().zip(released.places) {
            let checkins = told(k, count.checkins);
            cells.extend(persons.map(|persons| cell(Some(count.place.to_string()), persons, checkins)));
        }
    }
    cells
}
