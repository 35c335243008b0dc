//! A search's contacts as they are told: in pages, sealed, and to the contacts themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::change::{Key, Told};
use super::search::{Contact, Found, Meeting};
use crate::openapi::{TraceContact, TraceContacts, TraceMeeting};
use crate::respond::{Cause, Refused};
use crate::scan::{DAY_MS, PlaceKey, Pseudonym, UnixMillis};
use crate::services::risk_map::Day;

/// Contacts on one page.
const PAGE: usize = 100;

/// A place is told to contacts only where so many met the case there: of fewer, one could know who it was.
const CROWD_MIN: usize = 10;

/// The contacts behind the cursor.
///
/// # Errors
/// The cursor is none.
pub(super) fn page(case: Key, found: &Found, cursor: Option<&str>) -> Result<TraceContacts, Refused> {
    let after = cursor.map(read_cursor).transpose()?;
    let first = after.map_or(0, |after| {
        found.contacts.partition_point(|contact| (contact.depth, contact.person) <= after)
    });
    let rest = found.contacts.get(first..).unwrap_or_default();
    let (shown, more) = rest.split_at(rest.len().min(PAGE));
    let last = shown.last().filter(|_| !more.is_empty());
    let next = last.map(|contact| format!("{}-{}", contact.depth, contact.person));
    Ok(TraceContacts { next, ..listed(case, found, shown) })
}

/// All of them.
pub(super) fn all(case: Key, found: &Found) -> TraceContacts {
    listed(case, found, &found.contacts)
}

fn listed(case: Key, found: &Found, shown: &[Contact]) -> TraceContacts {
    TraceContacts {
        case: case.to_string(),
        contacts: shown.iter().map(told).collect(),
        total: found.contacts.len(),
        bound: found.bound.map(str::to_owned),
        next: None,
    }
}

fn told(contact: &Contact) -> TraceContact {
    let meeting = |meeting: &Meeting| TraceMeeting {
        place: meeting.place.to_string(),
        from: meeting.from.to_string(),
        to: meeting.to.to_string(),
        assumed: meeting.assumed,
    };
    TraceContact {
        person: contact.person.to_string(),
        depth: contact.depth,
        via: contact.via.map(|via| via.to_string()),
        seconds: contact.seconds,
        meetings: contact.meetings.iter().map(meeting).collect(),
        meetings_total: contact.meetings_total,
    }
}

fn read_cursor(text: &str) -> Result<(u8, Pseudonym), Refused> {
    let read = text.split_once('-').and_then(|(depth, person)| {
        let depth = depth.parse().ok().filter(|depth| (1..=2).contains(depth))?;
        Some((depth, Pseudonym(Key::parse(person)?.0)))
    });
    read.ok_or_else(|| Refused::new(Cause::Malformed, "cursor is not the next of a page").field("cursor"))
}

/// What each contact is told: the last day, and its place if enough others met there as well.
pub(super) fn notices(found: &Found) -> Vec<Told> {
    let mut crowds: BTreeMap<PlaceKey, BTreeSet<Pseudonym>> = BTreeMap::new();
    for contact in &found.contacts {
        for meeting in &contact.meetings {
            crowds.entry(meeting.place).or_default().insert(contact.person);
        }
    }
    let is_crowd = |place: &PlaceKey| crowds.get(place).is_some_and(|crowd| crowd.len() >= CROWD_MIN);
    let notice = |contact: &Contact| {
        let last = contact.meetings.iter().max_by_key(|meeting| meeting.to)?;
        Some(Told {
            person: Key(contact.person.0),
            depth: contact.depth,
            day: Day::of(last.to).0,
            place: Some(last.place).filter(is_crowd).map(|place| Key(place.0)),
        })
    };
    found.contacts.iter().filter_map(notice).collect()
}

/// `2021-11-24`.
pub(super) fn day_text(day: i32) -> String {
    let mut text = UnixMillis(i64::from(day) * DAY_MS).to_string();
    text.truncate(10);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(depth: u8, person: u8, place: u8) -> Contact {
        let (from, to) = (UnixMillis(17 * 3_600_000 - 60_000), UnixMillis(17 * 3_600_000));
        let meeting = Meeting { from, to, place: PlaceKey([place; 16]), assumed: false };
        let person = Pseudonym([person; 16]);
        Contact { person, depth, via: None, seconds: 60, meetings: vec![meeting], meetings_total: 1 }
    }

    fn found(contacts: Vec<Contact>) -> Found {
        Found { contacts, bound: None, rows: 0 }
    }

    #[test]
    fn pages_go_on_behind_their_cursor_even_if_others_come_in_between() {
        let of = |depth| (0..120).map(move |person| contact(depth, person, 1));
        let all = found(of(1).chain(of(2)).collect());
        let (mut read, mut cursor) = (Vec::new(), None);
        loop {
            let page = page(Key([9; 16]), &all, cursor.as_deref()).unwrap();
            assert_eq!(page.total, 240);
            read.extend(page.contacts);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(read, super::all(Key([9; 16]), &all).contacts);
        for wrong in ["", "3-00000000000000000000000000000000", "1-", "1-zz", "x"] {
            let refused = page(Key([9; 16]), &all, Some(wrong)).unwrap_err();
            assert_eq!((refused.cause, refused.field.as_deref()), (Cause::Malformed, Some("cursor")));
        }
    }

    #[test]
    fn contacts_are_told_a_day_and_a_place_only_of_a_crowd() {
        let nine = found((0..9).map(|person| contact(1, person, 1)).collect());
        assert!(notices(&nine).iter().all(|told| told.place.is_none()));
        let mut ten: Vec<Contact> = (0..10).map(|person| contact(1, person, 1)).collect();
        ten.push(contact(1, 10, 2));
        let told = notices(&found(ten));
        assert!(told[..10].iter().all(|told| told.place == Some(Key([1; 16]))));
        assert_eq!(told[10].place, None);
        // Midnight in Vietnam is 17:00 in UTC.
        assert_eq!(day_text(told[0].day), "1970-01-02");
    }
}
