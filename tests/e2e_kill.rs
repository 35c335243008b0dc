//! **Promise:** whatever the moment at which the gateway's process dies, each scan that was answered 201 or
//! 200 is in the store after the next start: once, in the direction that was answered, under the id that was
//! answered; and the memory of what was recorded survives, so that a resend is a duplicate of that id.
//!
//! The gateway is killed with SIGKILL at random moments under load, some of them during its own recovery,
//! and started again on the same data directory. Scans whose answer was lost are sent again after the last
//! start, as devices do; with them the set of rows is known exactly, so that "none twice" and "nothing else"
//! are checked by equality.
//!
//! **Not proven:** SIGKILL keeps the page cache, so this shows that a record is *written* before its answer
//! leaves, not that it was fsynced: the journal's fault-injecting file layer pins that. A power cut, a torn
//! sector and a lying disk are out of its reach as well.

// A test may panic, and says what it counted.
#![allow(clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use serde_json::{Value, json};
use support::gateway::Site;
use support::http::Client;
use support::{codes, export};

/// Kills of a gateway that was ready, and of one that was still starting.
const KILLS: u32 = 20;
const KILLS_WHILE_STARTING: u32 = 5;
/// Lines of a client's batch.
const BATCH_LINES: u32 = 50;
/// Scans of one client, so that a fast machine ends, too.
const CLIENT_SCANS_MAX: u32 = 20_000;
/// Serial numbers kept apart for each client.
const CLIENT_SERIALS: u32 = 200_000;

#[test]
fn no_kill_loses_or_repeats_an_acknowledged_scan() {
    let site = Site::new();
    let mut random = Random::seeded();
    let mut gateway = site.start();
    let tokens: Vec<String> = (0..4).map(|gate| site.place_device(&format!("gate-{gate}"))).collect();
    let stop = AtomicBool::new(false);

    let (mut gateway, clients) = thread::scope(|scope| {
        let running: Vec<_> = (0_u32..4)
            .zip(&tokens)
            .map(|(index, token)| {
                let (site, stop) = (&site, &stop);
                scope.spawn(move || Sender::new(site, token, index).run(stop))
            })
            .collect();
        for kill in 0..KILLS {
            sleep(Duration::from_millis(random.between(30, 400)));
            gateway.kill();
            if kill < KILLS_WHILE_STARTING {
                let starting = site.spawn();
                sleep(Duration::from_millis(random.between(0, 60)));
                starting.kill();
            }
            gateway = site.start();
        }
        stop.store(true, Ordering::Relaxed);
        let clients: Vec<Sender> =
            running.into_iter().map(|client| client.join().expect("a client")).collect();
        (gateway, clients)
    });

    let mut acknowledged = HashMap::new();
    let (mut scans, mut lost) = (0, 0);
    for mut client in clients {
        lost += client.unanswered.len();
        client.resend_unanswered();
        client.resend_acknowledged();
        scans += client.acknowledged.len();
        for answer in client.acknowledged.values() {
            let before = acknowledged.insert(answer.checkin.clone(), answer.direction.clone());
            assert!(before.is_none(), "two scans were answered with one check-in");
        }
    }
    let rows = site.export_when(acknowledged.len(), Duration::from_secs(30));
    let wrong = export::audit(&acknowledged, &rows);
    println!("{KILLS} kills, {scans} scans, {lost} of them first unanswered, {} rows", rows.len());
    assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    assert!(scans > 500 && lost > 0, "the load was too small to mean anything");

    gateway.signal(libc::SIGTERM);
    assert!(gateway.wait(Duration::from_secs(20)).success());
}

/// What a scan was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    checkin: String,
    direction: String,
}

/// One scan and the direction that it must be recorded in.
#[derive(Debug, Clone)]
struct Sent {
    scan: Value,
    expected: &'static str,
}

/// One device: sends its scans in order, keeps what was acknowledged and what was not.
struct Sender<'a> {
    site: &'a Site,
    token: &'a str,
    index: u32,
    /// By client id.
    sent: HashMap<String, Sent>,
    acknowledged: HashMap<String, Answer>,
    /// In the order of sending, so that a resend keeps entries before their exits.
    unanswered: Vec<Sent>,
}

impl<'a> Sender<'a> {
    fn new(site: &'a Site, token: &'a str, index: u32) -> Self {
        Self {
            site,
            token,
            index,
            sent: HashMap::new(),
            acknowledged: HashMap::new(),
            unanswered: Vec::new(),
        }
    }

    /// Even clients send singles, odd ones batches.
    fn run(mut self, stop: &AtomicBool) -> Self {
        let mut connection: Option<Client> = None;
        let mut next = 0;
        while !stop.load(Ordering::Relaxed) && next < CLIENT_SCANS_MAX {
            let Some(client) = connection.as_mut() else {
                connection = Client::try_connect(self.site.listen, Duration::from_secs(5)).ok();
                if connection.is_none() {
                    sleep(Duration::from_millis(5));
                }
                continue;
            };
            let group = self.group(&mut next);
            let answers = if self.index.is_multiple_of(2) {
                singles(client, self.token, &group)
            } else {
                batch(client, self.token, &group)
            };
            let answered = answers.len();
            for (sent, answer) in group.iter().zip(answers) {
                self.take(sent, &answer);
            }
            if answered < group.len() {
                self.unanswered.extend_from_slice(&group[answered..]);
                connection = None;
            }
        }
        self
    }

    /// The next scans: entries, exits, and entries followed by an `auto` that must come out as an exit.
    fn group(&mut self, next: &mut u32) -> Vec<Sent> {
        let count = if self.index.is_multiple_of(2) { 2 } else { BATCH_LINES };
        let mut group = Vec::new();
        for _ in 0..count / 2 {
            let person = codes::citizen(self.index * CLIENT_SERIALS + *next);
            let (entry, first, second) = match *next % 3 {
                0 => ("in", "in", "out"),
                1 => ("auto", "in", "out"),
                _ => ("out", "out", "in"),
            };
            group.push(self.scan(&person, -600, entry, first));
            group.push(self.scan(&person, -300, "auto", second));
            *next += 1;
        }
        group
    }

    fn scan(&mut self, person: &str, offset_s: i64, direction: &str, expected: &'static str) -> Sent {
        let id = format!("{}-{}", self.index, self.sent.len());
        let scan = json!({"id": id, "qr": person, "at": codes::at(offset_s), "direction": direction});
        let sent = Sent { scan, expected };
        self.sent.insert(id, sent.clone());
        sent
    }

    fn take(&mut self, sent: &Sent, answer: &Value) {
        let original = if answer["outcome"] == "duplicate" { &answer["original"] } else { answer };
        let (Some(checkin), Some(direction)) = (original["checkin"].as_str(), answer["direction"].as_str())
        else {
            panic!("{} was answered {answer}", sent.scan);
        };
        assert_eq!(direction, sent.expected, "{} was answered {answer}", sent.scan);
        let id = sent.scan["id"].as_str().expect("an id").to_owned();
        assert_eq!(answer["id"], sent.scan["id"]);
        let answer = Answer { checkin: checkin.to_owned(), direction: direction.to_owned() };
        if let Some(before) = self.acknowledged.insert(id, answer.clone()) {
            assert_eq!(before, answer, "a resend was answered differently");
        }
    }

    fn resend_unanswered(&mut self) {
        let mut client = Client::connect(self.site.listen);
        for group in std::mem::take(&mut self.unanswered).chunks(BATCH_LINES as usize) {
            let scans: Vec<Value> = group.iter().map(|sent| sent.scan.clone()).collect();
            for (sent, answer) in group.iter().zip(client.batch(self.token, &scans)) {
                self.take(sent, &answer);
            }
        }
    }

    /// Each must be a duplicate of the id that it was acknowledged with (`take` compares).
    fn resend_acknowledged(&mut self) {
        let mut client = Client::connect(self.site.listen);
        let mut all: Vec<Sent> = self.sent.values().cloned().collect();
        all.sort_by_key(|sent| sent.scan["id"].to_string());
        assert_eq!(all.len(), self.acknowledged.len(), "every scan sent is acknowledged by now");
        for group in all.chunks(1000) {
            let scans: Vec<Value> = group.iter().map(|sent| sent.scan.clone()).collect();
            for (sent, answer) in group.iter().zip(client.batch(self.token, &scans)) {
                assert_eq!(answer["outcome"], "duplicate", "{} was answered {answer}", sent.scan);
                assert_eq!(answer["status"], 200);
                self.take(sent, &answer);
            }
        }
    }
}

/// Posts one by one until a connection breaks; returns the answers that came.
fn singles(client: &mut Client, token: &str, group: &[Sent]) -> Vec<Value> {
    let mut answers = Vec::new();
    for sent in group {
        match client.try_scan(token, &sent.scan) {
            Ok(response) if matches!(response.status, 200 | 201) => answers.push(response.json()),
            Ok(response) => panic!("{} was answered {} {}", sent.scan, response.status, response.text()),
            Err(_) => break,
        }
    }
    answers
}

/// Posts as one batch; all answers or none.
fn batch(client: &mut Client, token: &str, group: &[Sent]) -> Vec<Value> {
    let scans: Vec<Value> = group.iter().map(|sent| sent.scan.clone()).collect();
    match client.try_batch(token, &scans) {
        Ok(response) => {
            assert_eq!(response.status, 200, "{}", response.text());
            response.lines()
        }
        Err(_) => Vec::new(),
    }
}

/// Xorshift, seeded by the clock; the seed is printed.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let seed = std::env::var("SCANGATE_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| scangate::scan::UnixMillis::now().0.unsigned_abs() | 1);
        println!("SCANGATE_TEST_SEED={seed}");
        Self(seed)
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        low + self.0 % (high - low)
    }
}
