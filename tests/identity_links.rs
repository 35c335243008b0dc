//! The promise pinned here: one person is one person, by whichever code. Links arrive by a feed that is
//! authenticated, resumable and idempotent; from then on the person's codes count once, and what was recorded
//! before reads as one.
#![allow(missing_docs, clippy::indexing_slicing, clippy::unwrap_used)]

mod api_support;

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use api_support::{Answer, Server, exchange};
use scangate::deduplicate::{Admission, AdmitError, Deduplicate, Settings};
use scangate::identity::Identity;
use scangate::identity::feed::Alias;
use scangate::identity::links::{Links, LinksSettings};
use scangate::openapi::{ExportedCheckin, FeedState, FeedSummary};
use scangate::scan::{
    App, ClientKey, DeviceKey, DirectionRequest, Form, PlaceKey, Scan, Subject, Trust, UnixMillis,
};
use scangate::verify::Pepper;
use serde_json::Value;

/// The specimen of the personal code, its number and its QID; the citizen card of the same number.
const QRQG: &str = "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422";
const NUMBER: &str = "001093029317";
const QID: &str = "162979388586171100";
const CARD: &str = "001093029317||NGUYEN VAN A|18011993|Nam|Hà Nội|15042021";
const LINK: &str = r#"{"citizen":"001093029317","qid":"162979388586171100"}"#;
const UNLINK: &str = r#"{"citizen":null,"qid":"162979388586171100"}"#;

fn feed_token(server: &Server) -> String {
    fs::read_to_string(server.data().join("keys/feed-token")).unwrap().trim().to_owned()
}

fn feed_with(server: &Server, headers: &[(&str, &str)], query: &str, body: &[u8]) -> Answer {
    let answer = exchange(server.admin, "POST", &format!("/v1/links{query}"), headers, body);
    answer.assert_documented("/v1/links", "post");
    answer
}

fn feed(server: &Server, cursor: &str, lines: &[&str]) -> Answer {
    let authorization = format!("Bearer {}", feed_token(server));
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/x-ndjson")];
    let query = format!("?source=test&cursor={cursor}");
    feed_with(server, &headers, &query, lines.join("\n").as_bytes())
}

fn counts(answer: &Answer) -> (u64, u64, u64) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let last = answer.text().lines().last().expect("a summary");
    let summary: FeedSummary = serde_json::from_str(last).expect("a summary");
    (summary.accepted, summary.unchanged, summary.refused)
}

fn state(server: &Server, source: &str) -> FeedState {
    let authorization = format!("Bearer {}", feed_token(server));
    let path = format!("/v1/links?source={source}");
    let answer = exchange(server.admin, "GET", &path, &[("Authorization", authorization.as_str())], b"");
    answer.assert_documented("/v1/links", "get");
    answer.json()
}

fn export(server: &Server) -> Vec<ExportedCheckin> {
    server.operate("GET", "/v1/export?from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00Z").lines()
}

fn checkin(answer: &Answer) -> String {
    let body: Value = answer.json();
    let id = if answer.status == 201 { &body["checkin"] } else { &body["original"]["checkin"] };
    id.as_str().expect("an id").to_owned()
}

fn code_of_qid(server: &Server) -> String {
    let ttl = std::time::Duration::from_hours(1);
    scangate::issue::issue_person(&server.data(), QID, ttl, UnixMillis::now()).unwrap()
}

#[test]
fn three_forms_of_one_person_count_once() {
    let server = Server::start(|_| {});
    let token = server.place_device("gate");
    let first = server.scan(&token, "qrqg", QRQG);
    assert_eq!(first.status, 201);
    assert_eq!(counts(&feed(&server, "1", &[LINK])), (1, 0, 0));
    for (id, qr) in [("card", CARD.to_owned()), ("sg1", code_of_qid(&server)), ("again", QRQG.to_owned())] {
        let repeats = server.scan(&token, id, &qr);
        assert_eq!((repeats.status, checkin(&repeats)), (200, checkin(&first)), "{id}");
    }
    let resent = server.scan(&token, "qrqg", QRQG);
    assert_eq!((resent.status, checkin(&resent)), (200, checkin(&first)), "the same client id");
    let other = server.place_device("other gate");
    assert_eq!(server.scan(&other, "qrqg", QRQG).status, 201);
    assert_eq!(server.scan(&other, "card", CARD).status, 200);
    let rows = export(&server);
    let persons: BTreeSet<_> = rows.iter().map(|row| row.person.as_str()).collect();
    assert_eq!((rows.len(), persons.len()), (2, 1));
}

#[test]
fn what_was_recorded_before_the_link_reads_as_one() {
    let server = Server::start(|_| {});
    let token = server.place_device("gate");
    for (id, qr) in [("qrqg", QRQG), ("card", CARD)] {
        assert_eq!(server.scan(&token, id, qr).status, 201, "{id}: nobody knows that they are one");
    }
    let before = export(&server);
    assert_eq!(before.len(), 2);
    feed(&server, "1", &[LINK]);
    let after = export(&server);
    assert_eq!(after.len(), 1);
    let citizen = Identity::new(&Pepper::load(&server.data()).unwrap()).citizen(NUMBER);
    assert_eq!((&after[0].checkin, &after[0].person), (&before[0].checkin, &citizen.to_string()));
    // The same from the files alone.
    let directory = server.stopped();
    let data = directory.path().join("data");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_scangate"))
        .args(["export", "--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z", "--data-dir"])
        .arg(&data)
        .output()
        .unwrap();
    let lines: Vec<ExportedCheckin> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, after);
}

#[test]
fn a_restart_knows_links_and_what_came_before_them() {
    let server = Server::start(|_| {});
    let token = server.place_device("gate");
    let first = server.scan(&token, "qrqg", QRQG);
    feed(&server, "page-2", &[LINK]);
    let known = state(&server, "test");
    assert_eq!((known.cursor.as_str(), known.accepted), ("page-2", 1));
    let server = Server::start_in(server.stopped(), |_| {});
    assert_eq!(state(&server, "test"), known);
    let repeats = server.scan(&token, "card", CARD);
    assert_eq!((repeats.status, checkin(&repeats)), (200, checkin(&first)));
    assert_eq!(counts(&feed(&server, "page-2", &[LINK])), (0, 1, 0), "sent again, it changes nothing");
    assert_eq!(counts(&feed(&server, "page-3", &[UNLINK])), (1, 0, 0));
    let other = server.place_device("other gate");
    assert_eq!(server.scan(&other, "qrqg", QRQG).status, 201);
    assert_eq!(server.scan(&other, "card", CARD).status, 201, "they are two again");
}

#[test]
fn a_phone_scans_for_whom_its_token_was_issued() {
    let server = Server::start(|_| {});
    let (by_qid, by_number) = (server.person_device(QID), server.person_device(NUMBER));
    let poster = "https://qr.pccovid.gov.vn/Xa3bK9pQ";
    let first = server.scan(&by_qid, "a", poster);
    assert_eq!(first.status, 201);
    feed(&server, "1", &[LINK]);
    for (token, id) in [(&by_number, "b"), (&by_qid, "c")] {
        let repeats = server.scan(token, id, poster);
        assert_eq!((repeats.status, checkin(&repeats)), (200, checkin(&first)), "{id}");
    }
}

#[test]
fn the_feed_asks_for_its_token() {
    let server = Server::start(|_| {});
    let device = format!("Bearer {}", server.place_device("gate"));
    let ndjson = ("Content-Type", "application/x-ndjson");
    let query = "?source=test&cursor=1";
    for headers in
        [vec![ndjson], vec![ndjson, ("Authorization", "Bearer x")], vec![("Authorization", &*device)]]
    {
        let refused = feed_with(&server, &headers, query, LINK.as_bytes());
        assert_eq!((refused.status, refused.problem().outcome.as_str()), (401, "unauthenticated"));
        assert!(refused.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Bearer")));
    }
    assert_eq!(server.operate("GET", "/v1/links?source=test").status, 401);
    assert_eq!(state(&server, "test").cursor, "", "nothing was taken");
    assert_eq!(exchange(server.public, "POST", "/v1/links", &[], b"").status, 404);
}

#[test]
fn what_the_feed_sends_is_bounded_and_each_bad_line_is_told() {
    let server = Server::start(|config| {
        config.identity.feed_lines_max = 4;
        config.identity.feed_bytes_max = 2048;
    });
    let token = format!("Bearer {}", feed_token(&server));
    let authorization = ("Authorization", token.as_str());
    let ndjson = ("Content-Type", "application/x-ndjson");
    for (query, headers, body, status, name) in [
        ("", vec![authorization, ndjson], LINK.to_owned(), 400, "source"),
        ("?source=test", vec![authorization, ndjson], LINK.to_owned(), 400, "cursor"),
        ("?source=test&cursor=a%20b", vec![authorization, ndjson], LINK.to_owned(), 400, "cursor"),
        ("?source=test&cursor=1", vec![authorization], LINK.to_owned(), 415, "content-type"),
        (
            "?source=test&cursor=1",
            vec![authorization, ndjson],
            format!("{LINK}\n").repeat(5),
            413,
            "identity.feed_lines_max",
        ),
        (
            "?source=test&cursor=1",
            vec![authorization, ndjson],
            "x".repeat(2049),
            413,
            "identity.feed_bytes_max",
        ),
    ] {
        let refused = feed_with(&server, &headers, query, body.as_bytes());
        let problem = refused.problem();
        let named = problem.field.or(problem.bound);
        assert_eq!((refused.status, named.as_deref()), (status, Some(name)), "{query}");
    }
    let bad = r#"{"citizen":"001093029317","qid":"1629793885861711001"}"#;
    let long = format!("{bad}{}", " ".repeat(512)).replace(' ', "\t") + "}";
    let answer = feed(&server, "1", &[bad, LINK, &long]);
    assert_eq!(counts(&answer), (1, 0, 2));
    let told: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&told[0]["line"], &told[0]["field"], &told[0]["limit"]),
        (&1.into(), &"qid".into(), &18.into())
    );
    assert_eq!(
        (&told[1]["line"], &told[1]["field"], &told[1]["limit"]),
        (&3.into(), &"line".into(), &512.into())
    );
    assert!(!answer.text().contains("16297938"), "{}", answer.text());
    let metrics = server.operate("GET", "/metrics");
    for line in
        ["scangate_links 1", "scangate_links_recent 1", "scangate_feed_lines_total{outcome=\"refused\"} 2"]
    {
        assert!(metrics.text().lines().any(|found| found == line), "{line}");
    }
}

/// What the racers share: one person, two codes, and a link that comes and goes.
struct Race {
    identity: Identity,
    links: Links,
    memory: Deduplicate<(), ()>,
    /// The number of the link that is in force; 0 while there is none, or nobody can tell.
    in_force: AtomicU64,
    /// Originals by place.
    originals: Vec<AtomicUsize>,
    /// Originals at a place that had one, under a link that was in force all the time that it was admitted.
    late: AtomicUsize,
}

impl Race {
    const PLACES: usize = 80;
    const NOW: UnixMillis = UnixMillis(1_637_700_000_000);

    fn take(&self, line: &str) {
        let lines = std::iter::once(line.as_bytes());
        self.links.take(&self.identity, lines, ("test", ""), Self::NOW).unwrap();
    }

    fn scan(&self, by_qid: bool, place: usize, client: usize) {
        let number = |index: usize| u64::try_from(index).unwrap().to_le_bytes();
        let (mut place_key, mut client_key) = ([0; 16], [0; 12]);
        place_key[..8].copy_from_slice(&number(place));
        client_key[..8].copy_from_slice(&number(client));
        let own = if by_qid { self.identity.alias(&Alias::Qid(QID)) } else { self.identity.citizen(NUMBER) };
        let mut scan = Scan {
            person: own,
            place: PlaceKey(place_key),
            direction: DirectionRequest::In,
            at: Self::NOW,
            received: Self::NOW,
            client: ClientKey(client_key),
            device: DeviceKey([1; 8]),
            app: App::PcCovid,
            subject: Subject::Person,
            trust: Trust::Asserted,
            form: Form::Cccd,
            window_s: 60,
        };
        self.links.steadily(self.links.resolve(own), Self::NOW, |view| {
            scan.person = view.person();
            // Here a link may arrive: let it.
            if place.is_multiple_of(8) {
                std::thread::yield_now();
            }
            let admission = self.memory.admit(&scan, view.aliases(), |_| {
                let link = self.in_force.load(Ordering::SeqCst);
                if !view.holds() {
                    return Err(());
                }
                let second = self.originals[place].fetch_add(1, Ordering::SeqCst) > 0;
                if second && link > 0 && self.in_force.load(Ordering::SeqCst) == link {
                    self.late.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            });
            match admission {
                Ok(Admission::Fresh(in_flight)) => {
                    in_flight.durable(());
                    Some(())
                }
                Ok(Admission::Duplicate(..)) => Some(()),
                Err(AdmitError::Append(())) => None,
                Err(error) => panic!("{error:?}"),
            }
        });
    }
}

/// Four threads scan both codes of a person at the same places while the link between them arrives. Once it is
/// in force no place gets a second original, even by a scan that had looked at the links before.
#[test]
fn no_second_original_after_a_link_is_in_force() {
    const ROUNDS: usize = 20;
    const THREADS: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let settings =
        Settings { windows_s: vec![60], remember_s: 172_800, auto_reset_s: 57_600, entries_max: u64::MAX };
    let race = Race {
        identity: Identity::new(&Pepper::new([7; 32], true)),
        links: Links::open(dir.path(), LinksSettings::default(), Race::NOW).unwrap(),
        memory: Deduplicate::new(settings, [3; 16]),
        in_force: AtomicU64::new(0),
        originals: (0..ROUNDS * Race::PLACES).map(|_| AtomicUsize::new(0)).collect(),
        late: AtomicUsize::new(0),
    };
    race.memory.vouch(());
    let barrier = std::sync::Barrier::new(THREADS + 1);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (race, barrier) = (&race, &barrier);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    barrier.wait();
                    for place in round * Race::PLACES..(round + 1) * Race::PLACES {
                        race.scan(thread % 2 == 0, place, place * THREADS + thread);
                    }
                    barrier.wait();
                }
            });
        }
        for round in 0..ROUNDS {
            barrier.wait();
            race.take(LINK);
            race.in_force.store(round as u64 + 1, Ordering::SeqCst);
            barrier.wait();
            race.in_force.store(0, Ordering::SeqCst);
            race.take(UNLINK);
        }
    });
    assert_eq!(race.late.load(Ordering::SeqCst), 0);
    let counts: Vec<_> = race.originals.iter().map(|count| count.load(Ordering::SeqCst)).collect();
    assert!(counts.iter().all(|count| (1..=2).contains(count)), "{counts:?}");
}
