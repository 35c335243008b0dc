//! The promises pinned here: one look-up resolves, whatever order links came in; a batch is durable and in
//! force as a whole; and whoever looked before a change is told so.

use super::*;
use crate::verify::Pepper;

const NOW: UnixMillis = UnixMillis(1_637_700_000_000);
const CITIZEN: &str = "001093029317";
const OTHER: &str = "001090123456";
const QID: &str = "162979388586171100";

struct Table {
    dir: tempfile::TempDir,
    identity: Identity,
    links: Links,
}

impl Table {
    fn new(settings: LinksSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let links = Links::open(dir.path(), settings, NOW).unwrap();
        Self { dir, identity: Identity::new(&Pepper::new([7; 32], true)), links }
    }

    fn reopened(self, now: UnixMillis) -> Self {
        let Self { dir, identity, links } = self;
        let settings = links.settings;
        drop(links);
        let links = Links::open(dir.path(), settings, now).unwrap();
        Self { dir, identity, links }
    }

    fn take(&self, lines: &[String]) -> Taken {
        self.take_at(lines, "c", NOW).unwrap()
    }

    fn take_at(&self, lines: &[String], cursor: &str, now: UnixMillis) -> Result<Taken, FeedError> {
        let lines = lines.iter().map(String::as_bytes);
        self.links.take(&self.identity, lines, ("test", cursor), now)
    }

    fn citizen(&self, number: &str) -> Pseudonym {
        self.identity.citizen(number)
    }

    fn qid(&self, qid: &str) -> Pseudonym {
        self.identity.alias(&Alias::Qid(qid))
    }

    fn resolved(&self, qid: &str) -> Pseudonym {
        self.links.resolve(self.qid(qid)).person
    }
}

fn link(citizen: &str, qid: &str) -> String {
    format!(r#"{{"citizen":"{citizen}","qid":"{qid}"}}"#)
}

fn unlink(qid: &str) -> String {
    format!(r#"{{"citizen":null,"qid":"{qid}"}}"#)
}

fn counts(taken: &Taken) -> (u64, u64, usize) {
    (taken.accepted, taken.unchanged, taken.refused.len())
}

#[test]
fn an_alias_resolves_to_its_citizen_moves_and_comes_loose() {
    let table = Table::new(LinksSettings::default());
    let own = table.qid(QID);
    assert_eq!(table.links.resolve(own), Linked { own, person: own, changes: 0 });
    assert_eq!(counts(&table.take(&[link(CITIZEN, QID)])), (1, 0, 0));
    assert_eq!(table.resolved(QID), table.citizen(CITIZEN));
    assert_eq!(counts(&table.take(&[link(CITIZEN, QID)])), (0, 1, 0));
    assert_eq!(counts(&table.take(&[link(CITIZEN, QID), link(OTHER, QID)])), (1, 1, 0));
    assert_eq!(table.resolved(QID), table.citizen(OTHER), "the last line wins");
    assert_eq!(table.links.aliases_of(table.citizen(CITIZEN)).unwrap(), []);
    assert_eq!(table.links.aliases_of(table.citizen(OTHER)).unwrap(), [own]);
    assert_eq!(counts(&table.take(&[unlink(QID), unlink(QID)])), (1, 1, 0));
    assert_eq!(table.resolved(QID), own);
    assert_eq!(table.links.stats().held, 0);
    assert_eq!(table.links.stats().recent, 0);
}

#[test]
fn the_star_stays_a_star() {
    let table = Table::new(LinksSettings::default());
    let cti = |number: &str| {
        let cti = table.identity.cti_of_person(table.citizen(number));
        format!("{:032x}", u128::from_be_bytes(cti))
    };
    let of_cti =
        |citizen: &str, number: &str| format!(r#"{{"citizen":"{citizen}","cti":"{}"}}"#, cti(number));
    assert_eq!(counts(&table.take(&[of_cti(CITIZEN, CITIZEN)])), (0, 1, 0), "it is the citizen's already");
    table.take(&[link(CITIZEN, QID)]);
    let taken = table.take(&[of_cti(OTHER, CITIZEN)]);
    assert_eq!(taken.refused[0].1.field, "cti", "a citizen with aliases can't become one");
    table.take(&[unlink(QID), of_cti(OTHER, CITIZEN)]);
    let taken = table.take(&[link(CITIZEN, QID)]);
    assert_eq!(taken.refused[0].1.field, "citizen", "an alias can't become a citizen");
    let many: Vec<_> = (0..=ALIASES_MAX).map(|n| link(OTHER, &format!("{n:018}"))).collect();
    let taken = table.take(&many);
    assert_eq!(counts(&taken), (15, 0, 2), "with the cti there are sixteen");
    assert_eq!(taken.refused[0].0, 16);
}

#[test]
fn a_restart_finds_links_cursor_and_counts() {
    let table = Table::new(LinksSettings::default());
    let bad = r#"{"citizen":"1","qid":"2"}"#.to_owned();
    let taken = table.take_at(&[link(CITIZEN, QID), bad], "page-7", NOW).unwrap();
    assert_eq!((taken.refused[0].0, taken.refused[0].1.field), (2, "citizen"));
    let state = table.links.feed("test").unwrap().expect("a state");
    assert_eq!((state.cursor.as_str(), state.accepted, state.refused), ("page-7", 1, 1));
    let table = table.reopened(NOW);
    assert_eq!(table.links.feed("test").unwrap(), Some(state));
    assert_eq!(table.links.feed("unknown").unwrap(), None);
    assert_eq!(table.links.stats().last_feed_ms, NOW.0);
    let linked = table.links.resolve(table.qid(QID));
    assert_eq!(linked.person, table.citizen(CITIZEN));
    assert_eq!(table.links.recent(&linked, NOW), [table.qid(QID)], "a link of just now is recent");
    let later = UnixMillis(NOW.0 + i64::from(LinksSettings::default().recent_s) * 1000);
    assert_eq!(table.links.recent(&linked, later), []);
    assert_eq!(table.reopened(later).links.stats().recent, 0);
}

#[test]
fn what_is_not_recent_any_more_is_swept_out() {
    let table = Table::new(LinksSettings { recent_s: 60, ..LinksSettings::default() });
    table.take(&[link(CITIZEN, QID), link(CITIZEN, "000000000000000001"), link(OTHER, "000000000000000002")]);
    table.links.sweep(UnixMillis(NOW.0 + SWEEP_MS - 1));
    assert_eq!(table.links.stats().recent, 3);
    table.links.sweep(UnixMillis(NOW.0 + SWEEP_MS));
    assert_eq!((table.links.stats().recent, table.links.stats().held), (0, 3));
}

#[test]
fn bounds_are_told_and_nothing_of_such_a_batch_is_in_force() {
    let bounds = [
        (LinksSettings { links_max: 1, ..LinksSettings::default() }, "identity.links_max"),
        (LinksSettings { recent_links_max: 1, ..LinksSettings::default() }, "identity.recent_links_max"),
    ];
    for (settings, expected) in bounds {
        let table = Table::new(settings);
        let two = [link(CITIZEN, QID), link(OTHER, "000000000000000002")];
        match table.take_at(&two, "c", NOW) {
            Err(FeedError::Full { bound, limit: 1 }) => assert_eq!(bound, expected),
            other => panic!("{other:?}"),
        }
        assert_eq!((table.resolved(QID), table.links.feed("test").unwrap()), (table.qid(QID), None));
        assert_eq!(counts(&table.take(&two[..1])), (1, 0, 0));
        assert_eq!(counts(&table.take(&[link(CITIZEN, QID)])), (0, 1, 0), "what is known needs no room");
    }
    let table = Table::new(LinksSettings { sources_max: 2, ..LinksSettings::default() });
    let take = |source| table.links.take(&table.identity, std::iter::empty(), (source, ""), NOW);
    for source in ["one", "two", "one"] {
        take(source).unwrap();
    }
    assert!(matches!(take("three"), Err(FeedError::Full { bound: "identity.feed_sources_max", limit: 2 })));
}

#[test]
fn whoever_looked_before_a_change_is_told() {
    let table = Table::new(LinksSettings::default());
    let before = table.links.resolve(table.qid(QID));
    let bystander = table.links.resolve(table.citizen(OTHER));
    assert!(table.links.holds(&before, &[], NOW));
    table.take(&[link(CITIZEN, QID)]);
    assert!(!table.links.holds(&before, &[], NOW));
    assert!(table.links.holds(&bystander, &[], NOW), "the change was about somebody else");
    let citizen = table.links.resolve(table.citizen(CITIZEN));
    assert!(table.links.holds(&citizen, &[table.qid(QID)], NOW));
    table.take(&[link(CITIZEN, "000000000000000001")]);
    assert!(!table.links.holds(&citizen, &[table.qid(QID)], NOW), "it has one alias more");
}
