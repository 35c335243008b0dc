//! Searches in an embedded store, small enough to be read off.

use tempfile::TempDir;

use super::*;
use crate::identity::Identity;
use crate::identity::feed::Alias;
use crate::identity::links::LinksSettings;
use crate::scan::{
    App, CheckinId, ClientKey, DeviceKey, Direction, DirectionRequest, Form, Scan, Subject, Trust,
};
use crate::store::EmbeddedSettings;
use crate::verify::Pepper;

const MINUTE: i64 = 60_000;
const RULES: Rules = Rules { missing_ms: 120 * MINUTE, stay_ms: 720 * MINUTE, overlap_ms: 1000 };
const BOUNDS: Bounds = Bounds { contacts_max: 100, rows_max: 10_000 };

fn person(number: u8) -> Pseudonym {
    Pseudonym([number; 16])
}

fn place(number: u8) -> PlaceKey {
    PlaceKey([number; 16])
}

/// 23:00 UTC two days ago, so that stays reach over midnight.
fn start() -> i64 {
    i64::from(UnixMillis::now().day() - 1) * DAY_MS - 60 * MINUTE
}

fn row(of: u8, at_place: u8, minute: i64, direction: Direction) -> Checkin {
    let at = UnixMillis(start() + minute * MINUTE);
    let mut client = [of; 12];
    client[..8].copy_from_slice(&(minute * 2 + i64::from(direction == Direction::In)).to_be_bytes());
    client[8] = at_place;
    Checkin {
        id: CheckinId::new(at, u64::from(of) << 8 | u64::from(at_place)),
        direction,
        scan: Scan {
            person: person(of),
            place: place(at_place),
            direction: DirectionRequest::Auto,
            at,
            received: at,
            client: ClientKey(client),
            device: DeviceKey([1; 8]),
            app: App::PcCovid,
            subject: Subject::Person,
            trust: Trust::Asserted,
            form: Form::Cccd,
            window_s: 60,
        },
    }
}

fn stay(of: u8, at_place: u8, from: i64, to: i64) -> [Checkin; 2] {
    [row(of, at_place, from, Direction::In), row(of, at_place, to, Direction::Out)]
}

struct Fixture {
    store: Store,
    links: Links,
    _dir: TempDir,
}

impl Fixture {
    async fn new(rows: &[Checkin]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::embedded(&dir.path().join("store"), EmbeddedSettings::default()).unwrap();
        let links =
            Links::open(&dir.path().join("links"), LinksSettings::default(), UnixMillis::now()).unwrap();
        store.write(rows).await.unwrap();
        Self { store, links, _dir: dir }
    }

    async fn ask(&self, around: Around, depth: u8) -> Found {
        self.ask_within(around, depth, BOUNDS).await
    }

    async fn ask_within(&self, around: Around, depth: u8, bounds: Bounds) -> Found {
        let question =
            Question { around, from: UnixMillis(start()), to: UnixMillis(start() + 600 * MINUTE), depth };
        Search::new(&self.store, &self.links, RULES, bounds).contacts(&question).await.unwrap()
    }
}

/// Who, how deep, by way of whom, for how many minutes.
fn told(found: &Found) -> Vec<(u8, u8, Option<u8>, i64)> {
    let tell = |of: &Contact| (of.person.0[0], of.depth, of.via.map(|via| via.0[0]), of.seconds / 60);
    found.contacts.iter().map(tell).collect()
}

#[tokio::test]
async fn contacts_are_those_who_were_there_together_and_theirs_from_then_on() {
    let rows = [
        stay(1, 1, 0, 90),
        stay(2, 1, 60, 120),  // 30 minutes with 1, over midnight
        stay(3, 1, 90, 100),  // came as 1 left, and met 2
        stay(4, 2, 130, 190), // met 2 later
        stay(2, 2, 140, 180), //
        stay(5, 3, 5, 50),    // met 2 before 2 met 1
        stay(2, 3, 5, 50),    //
        stay(6, 1, 10, 20),   // met 1, and 4 below for longer than 2 did
        stay(6, 2, 130, 185),
    ];
    let fixture = Fixture::new(&rows.concat()).await;
    let one = fixture.ask(Around::Person(person(1)), 1).await;
    assert_eq!(told(&one), [(2, 1, None, 30), (6, 1, None, 10)]);
    assert_eq!(one.contacts[0].meetings[0].from.0, start() + 60 * MINUTE);
    let two = fixture.ask(Around::Person(person(1)), 2).await;
    assert_eq!(told(&two), [(2, 1, None, 30), (6, 1, None, 10), (3, 2, Some(2), 10), (4, 2, Some(6), 55)]);
    assert_eq!(two.contacts[3].meetings[0].place, place(2));
    assert_eq!(two.bound, None);
}

#[tokio::test]
async fn a_place_has_the_contacts_who_were_there() {
    let rows = [stay(1, 1, -30, 10), stay(2, 1, 590, 700), stay(3, 1, 601, 610), stay(4, 2, 20, 30)].concat();
    let fixture = Fixture::new(&rows).await;
    let found = fixture.ask(Around::Place(place(1)), 1).await;
    assert_eq!(told(&found), [(1, 1, None, 10), (2, 1, None, 10)]);
    let deep = fixture.ask(Around::Place(place(1)), 2).await;
    assert_eq!(told(&deep), told(&found), "nobody met them from then on");
}

#[tokio::test]
async fn missing_exits_end_with_the_next_entry_elsewhere() {
    let rows = vec![
        row(1, 1, 0, Direction::In), // stays for the rule's two hours
        row(2, 1, 10, Direction::In),
        row(2, 2, 25, Direction::In), // has left for elsewhere
        row(3, 1, 30, Direction::Out),
        row(4, 1, 121, Direction::In), // when 1 has left by the rule
    ];
    let fixture = Fixture::new(&rows).await;
    let found = fixture.ask(Around::Person(person(1)), 1).await;
    assert_eq!(told(&found), [(2, 1, None, 15), (3, 1, None, 30)]);
    assert!(found.contacts.iter().all(|contact| contact.meetings[0].assumed));
}

#[tokio::test]
async fn linked_pseudonyms_are_one_person() {
    let identity = Identity::new(&Pepper::new([7; 32], true));
    let citizen = identity.citizen("001093029317");
    let mut rows =
        [stay(1, 1, 0, 60), stay(2, 2, 100, 160), stay(3, 1, 10, 20), stay(3, 2, 120, 130)].concat();
    for row in &mut rows {
        row.scan.person = match row.scan.person.0[0] {
            1 => citizen,
            2 => identity.alias(&Alias::Qid("162979388586171100")),
            _ => row.scan.person,
        };
    }
    let fixture = Fixture::new(&rows).await;
    let line = br#"{"citizen":"001093029317","qid":"162979388586171100"}"#;
    fixture.links.take(&identity, [line.as_slice()].into_iter(), ("test", "1"), UnixMillis::now()).unwrap();
    let found = fixture.ask(Around::Person(citizen), 1).await;
    assert_eq!(told(&found), [(3, 1, None, 20)]);
    let back = fixture.ask(Around::Person(person(3)), 1).await;
    assert_eq!(back.contacts.iter().map(|of| (of.person, of.seconds)).collect::<Vec<_>>(), [(citizen, 1200)]);
}

#[tokio::test]
async fn bounds_cut_and_say_so() {
    let mut rows = stay(1, 1, 0, 60).to_vec();
    rows.extend((2..12).flat_map(|of| stay(of, 1, 0, i64::from(of))));
    let fixture = Fixture::new(&rows).await;
    let few = Bounds { contacts_max: 3, ..BOUNDS };
    let found = fixture.ask_within(Around::Person(person(1)), 1, few).await;
    assert_eq!(found.bound, Some("tracing.contacts_max"));
    assert_eq!(told(&found), [(9, 1, None, 9), (10, 1, None, 10), (11, 1, None, 11)], "the longest stay");
    let little = Bounds { rows_max: 5, ..BOUNDS };
    let found = fixture.ask_within(Around::Person(person(1)), 2, little).await;
    assert_eq!(found.bound, Some("tracing.rows_max"));
    assert!(found.rows <= 5 + 22, "{}", found.rows);
}
