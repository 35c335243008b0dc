//! **Promise:** the database can stop, die and come back under load and no client notices: scans are
//! acknowledged from the journal, and when the database answers again it receives every one of them, once.
//! And several gateways may share it: a scan that reaches two of them counts once.
//!
//! The database is a real Cassandra node started by `deploy/dev/cql-dev.sh`, with a synchronous commit log:
//! what it acknowledged survives its SIGKILL. **Not proven:** the loss of a node's disk, or of a majority of
//! a cluster.
//!
//! The file holds one test, since there is one port 9042.

// A test may panic, and says what it counted.
#![allow(clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::collections::{HashMap, HashSet};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::cql::Database;
use support::gateway::{Gateway, Site};
use support::{codes, export};

/// Lines of each batch, and the pause after it: about 2,000 scans a second.
const BATCH_LINES: u32 = 100;
const PAUSE_MS: u64 = 50;
/// The store may need this long to catch up on a busy machine.
const CATCH_UP_S_MAX: u64 = 60;

#[test]
fn the_database_may_stop_die_and_be_shared() {
    let Some(database) = Database::start() else { return };
    outages(&database);
    two_gateways();
}

fn outages(database: &Database) {
    let site = cql_site("outage");
    let gateway = site.start();
    let mut load = Load::new(&gateway, "gate");
    load.run_for(Duration::from_secs(2));
    load.caught_up(&site);

    database.signal("STOP");
    let before = load.acknowledged.len();
    load.run_for(Duration::from_secs(6));
    assert!(load.acknowledged.len() > before + 1000, "scans are acknowledged while the database is paused");
    database.signal("CONT");
    load.caught_up(&site);

    load.run_for(Duration::from_secs(1));
    database.signal("KILL");
    let before = load.acknowledged.len();
    load.run_for(Duration::from_secs(4));
    assert!(load.acknowledged.len() > before + 1000, "scans are acknowledged while the database is dead");
    // The gateway dies in the outage, too, and comes back before the database does.
    drop(load.client);
    gateway.kill();
    let gateway = site.start();
    load.client = gateway.connect();
    load.run_for(Duration::from_secs(1));
    database.up();
    load.run_for(Duration::from_secs(1));
    load.caught_up(&site);
    println!("outages: {} acknowledged, each exported once", load.acknowledged.len());
    assert!(gateway.terminate(Duration::from_secs(30)).success());
}

/// The same scans go to both gateways, a third of them at the same moment and the rest in turn.
fn two_gateways() {
    let site = cql_site("shared");
    let first = site.start();
    let token = site.place_device("gate");
    let sibling = site.sibling();
    let second = sibling.start();
    let (mut to_first, mut to_second) = (first.connect(), second.connect());
    let mut ids = HashSet::new();
    let mut persons = 0;
    for batch in 0..20_u32 {
        let scans: Vec<Value> = (0..BATCH_LINES)
            .map(|n| {
                let serial = batch * BATCH_LINES + n;
                let at = codes::at(-i64::from(serial % 7) * 90);
                json!({"id": format!("t{serial}"), "qr": codes::citizen(serial), "at": at, "direction": "in"})
            })
            .collect();
        persons += scans.len();
        let (one, two) = if batch % 3 == 0 {
            std::thread::scope(|scope| {
                let racing = scope.spawn(|| to_first.batch(&token, &scans));
                let two = to_second.batch(&token, &scans);
                (racing.join().expect("the first gateway's answers"), two)
            })
        } else {
            (to_first.batch(&token, &scans), to_second.batch(&token, &scans))
        };
        for (left, right) in one.iter().zip(&two) {
            assert_eq!(checkin(left), checkin(right), "both gateways name one check-in");
            ids.insert(checkin(left));
        }
    }
    // Two different scans of one person within the window meet different gateways: two records, one visit.
    for serial in 500_000..500_100_u32 {
        let scan = |id: &str, ago: i64| json!({"id": format!("{id}{serial}"), "qr": codes::citizen(serial), "at": codes::at(-ago), "direction": "in"});
        to_first.scan(&token, &scan("w", 100));
        to_second.scan(&token, &scan("v", 90));
        persons += 1;
    }
    assert_eq!(ids.len() + 100, persons);
    let rows = site.export_when(persons, Duration::from_secs(CATCH_UP_S_MAX));
    sleep(Duration::from_secs(1));
    let rows = if rows.len() == persons { site.export() } else { rows };
    assert_eq!(rows.len(), persons, "each scan counts once");
    let exported: HashSet<&str> = rows.iter().map(|row| row.checkin.as_str()).collect();
    assert_eq!(exported.len(), persons);
    assert!(ids.iter().all(|id| exported.contains(id.as_str())));
    assert_eq!(rows, sibling.export(), "both gateways export the same");
    println!("two gateways: {persons} scans sent to both, {} rows", rows.len());
    assert!(first.terminate(Duration::from_secs(30)).success());
    assert!(second.terminate(Duration::from_secs(30)).success());
}

fn cql_site(keyspace: &str) -> Site {
    Site::new()
        .set("store.kind", "cql")
        .set("cql.nodes", r#"["127.0.0.1:9042"]"#)
        .set("cql.keyspace", &format!("e2e_{keyspace}"))
        .set("cql.request_timeout_ms", "3000")
}

fn checkin(line: &Value) -> String {
    let id = line["checkin"].as_str().or_else(|| line["original"]["checkin"].as_str());
    id.unwrap_or_else(|| panic!("no check-in in {line}")).to_owned()
}

/// Sends batches and keeps what was acknowledged.
struct Load {
    client: support::http::Client,
    token: String,
    serial: u32,
    acknowledged: HashMap<String, String>,
}

impl Load {
    fn new(gateway: &Gateway, place: &str) -> Self {
        let token = gateway.site.place_device(place);
        Self { client: gateway.connect(), token, serial: 0, acknowledged: HashMap::new() }
    }

    fn run_for(&mut self, time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            let scans: Vec<Value> = (self.serial..self.serial + BATCH_LINES)
                .map(|serial| {
                    let direction = if serial % 2 == 0 { "in" } else { "out" };
                    json!({"id": format!("o{serial}"), "qr": codes::citizen(serial), "direction": direction})
                })
                .collect();
            self.serial += BATCH_LINES;
            for (scan, line) in scans.iter().zip(self.client.batch(&self.token, &scans)) {
                assert_eq!(line["status"], 201, "{line}");
                assert_eq!(line["direction"], scan["direction"]);
                let direction = line["direction"].as_str().expect("a direction").to_owned();
                self.acknowledged.insert(checkin(&line), direction);
            }
            sleep(Duration::from_millis(PAUSE_MS));
        }
    }

    /// The store holds all that was acknowledged, and nothing else.
    fn caught_up(&self, site: &Site) {
        let started = Instant::now();
        let rows = site.export_when(self.acknowledged.len(), Duration::from_secs(CATCH_UP_S_MAX));
        let wrong = export::audit(&self.acknowledged, &rows);
        assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
        println!("caught up on {} rows in {:?}", rows.len(), started.elapsed());
    }
}
