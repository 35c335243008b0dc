//! Marks where an approved case's person was, once a day is told, and takes it back when the test is withdrawn.
//!
//! Levels change together and seldom: whoever looks every minute would otherwise see the places of one case turn at once,
//! which is somebody's way through two weeks.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::publish::{PublishError, record};
use super::{Change, Day, EXPOSURES, RiskMap, Spot, day_key};
use crate::scan::UnixMillis;
use crate::services::Services;
use crate::services::capability::StateError;
use crate::services::tracing::Unmarked;
use crate::verify::hex;

/// Spots in an event, which has room for some 55.
const SPOTS_AN_EVENT: usize = 40;

/// Brings the map to what tracing knew when levels last changed. One that is interrupted is done again: the same marks are
/// the same. A case that can't be marked now doesn't hold up the others.
pub(super) fn mark(services: &Arc<Services>, now: UnixMillis) -> Result<(), PublishError> {
    let map = &services.capabilities.risk_map;
    let newest = map.published()?.first().map(|published| published.day);
    let as_of = map.settings.levels_as_of(now);
    let (mut after, mut failed) = (None, Ok(()));
    loop {
        let cases = services.capabilities.tracing.unmarked(after)?;
        let Some(last) = cases.last() else { return failed };
        after = Some(last.case);
        for case in cases.into_iter().filter(|case| case.since < as_of) {
            if map.worker.stops() {
                return Err(PublishError::Stopped);
            }
            let marked = if case.withdrawn {
                clear(services, &case, now)
            } else {
                newest.map_or(Ok(()), |newest| expose(services, &case, newest, now))
            };
            failed = failed.and(marked);
        }
    }
}

/// The case's days that are told and aren't marked yet: a day that isn't told may still get check-ins.
fn expose(
    services: &Arc<Services>,
    case: &Unmarked,
    newest: Day,
    now: UnixMillis,
) -> Result<(), PublishError> {
    let map = &services.capabilities.risk_map;
    let oldest = newest.plus(1 - map.settings.days);
    let first = case.through.map_or(case.from, |through| through.plus(1)).max(oldest);
    let last = case.to.min(newest);
    if first > last && last < case.to {
        return Ok(());
    }
    if first <= last {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(PublishError::Runtime)?;
        let (from, to) = (first.begins(), last.plus(1).begins());
        let stays = services.capabilities.tracing.stays(&services.host, case.person, (from, to));
        let mut spots = BTreeSet::new();
        for stay in runtime.block_on(stays)? {
            let place = hex(&stay.place.0);
            let days = Day::of(stay.from).max(first).0..=Day::of(stay.to).min(last).0;
            spots.extend(days.map(|day| Spot { day: Day(day), place: place.clone() }));
        }
        let spots: Vec<Spot> = spots.into_iter().collect();
        for at in spots.chunks(SPOTS_AN_EVENT) {
            let citizen = services.host.links().citizen_of(case.person);
            let (case, person) = (hex(&case.case), hex(&citizen.0));
            record(services, &Change::Exposed { case, person, at: at.to_vec() }, now)?;
        }
    }
    marked(services, case, last, now)
}

fn clear(services: &Arc<Services>, case: &Unmarked, now: UnixMillis) -> Result<(), PublishError> {
    for at in services.capabilities.risk_map.spots_of(case)?.chunks(SPOTS_AN_EVENT) {
        record(services, &Change::Cleared { case: hex(&case.case), at: at.to_vec() }, now)?;
    }
    marked(services, case, case.to, now)
}

fn marked(services: &Services, case: &Unmarked, through: Day, now: UnixMillis) -> Result<(), PublishError> {
    let (kind, body) = case.marked(through);
    services.log.record_blocking(kind, body, now).map(|_| ()).map_err(PublishError::Log)
}

impl RiskMap {
    /// Where the case is marked.
    fn spots_of(&self, case: &Unmarked) -> Result<Vec<Spot>, StateError> {
        let mut spots = Vec::new();
        for day in (case.from.0..=case.to.0).map(Day) {
            for guard in self.exposures.prefix(day_key(day)) {
                let key = guard.key()?;
                let place = key.get(4..20).ok_or(StateError::Damaged { table: EXPOSURES })?;
                if key.get(20..) == Some(&case.case) {
                    spots.push(Spot { day, place: hex(place) });
                }
            }
        }
        Ok(spots)
    }
}
