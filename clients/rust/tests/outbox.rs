//! No scan put into an outbox is lost or recorded twice, whatever becomes of the gateway meanwhile.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use scangate_client::{Answer, Direction, Error, Outbox, Queue, Reason, Scan};
use support::Gateway;

const PATIENCE: Duration = Duration::from_mins(1);

/// Scans of citizen cards that differ in their number only; the sex, century and year in it are as printed.
fn cards(count: usize) -> Vec<Scan> {
    (0..count)
        .map(|number| {
            let qr =
                format!("001090{number:06}|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hà Nội|15042021");
            Scan::now(qr, Direction::In)
        })
        .collect()
}

fn outbox(gateway: &Gateway, scans_max: usize) -> Outbox {
    let queue = Queue::open(gateway.directory.path().join("queue"), scans_max).unwrap();
    Outbox::new(gateway.client(), queue)
}

#[test]
fn single_answers_are_told_apart() {
    let gateway = Gateway::new(&[]);
    let client = gateway.client();
    let scan = Scan::now(gateway.person("visitor-1"), Direction::Auto);
    let Answer::Recorded(recorded) = client.checkin(&scan).unwrap() else { panic!("not recorded") };
    assert_eq!((recorded.direction, recorded.trust.as_str()), (Direction::In, "proven"));
    let Answer::Duplicate(duplicate) = client.checkin(&scan).unwrap() else { panic!("not a duplicate") };
    assert_eq!(duplicate.original.checkin, recorded.checkin);
    let bank = Scan::now("https://example.org/", Direction::Auto);
    let Answer::Refused(refusal) = client.checkin(&bank).unwrap() else { panic!("not refused") };
    assert_eq!(refusal.reason, Reason::Unrecognized);

    let png = gateway.directory.path().join("code.png");
    gateway.run(&["issue", "person", "visitor-2", "--png", png.to_str().unwrap()]);
    let answers = client.frame("photo-1", "image/png", &std::fs::read(&png).unwrap()).unwrap();
    assert!(matches!(answers[..], [Answer::Recorded(_)]), "{answers:?}");
    let answers = client.frame("photo-2", "image/png", b"no picture").unwrap_err();
    assert!(matches!(answers, Error::Rejected { .. } | Error::Busy { .. }), "{answers:?}");

    let stranger = scangate_client::Client::builder(&gateway.base, "nonsense").build().unwrap();
    assert!(matches!(stranger.checkin(&scan), Err(Error::Unauthorized(_))));
}

#[test]
fn a_queue_outlives_the_gateway_and_every_scan_is_recorded_once() {
    let mut gateway = Gateway::new(&[("SCANGATE_LIMITS__DEVICE_SCANS_PER_S", "0")]);
    let mut outbox = outbox(&gateway, 10_000);
    let scans = cards(1500);
    for scan in &scans[..500] {
        outbox.push(scan).unwrap();
    }
    let first = outbox.flush().unwrap();
    assert_eq!((first.recorded, first.waiting), (500, 0));

    gateway.kill();
    for scan in &scans {
        outbox.push(scan).unwrap();
    }
    let offline = outbox.flush().unwrap();
    assert_eq!(offline.waiting, 1500);
    assert!(matches!(offline.stopped_by, Some(Error::Transport(_))));

    gateway.start();
    let all = outbox.drain(PATIENCE).unwrap();
    assert_eq!((all.recorded, all.duplicates, all.waiting), (1000, 500, 0), "{all:?}");
    assert_eq!(gateway.rows(), 1500);
}

#[test]
fn killed_again_and_again_under_a_queue_that_is_sent_the_gateway_has_all_of_it_once() {
    let mut gateway = Gateway::new(&[("SCANGATE_LIMITS__DEVICE_SCANS_PER_S", "0")]);
    let mut outbox = outbox(&gateway, 10_000);
    for scan in &cards(3000) {
        outbox.push(scan).unwrap();
    }
    let sender = std::thread::spawn(move || outbox.drain(PATIENCE).unwrap());
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(150));
        gateway.kill();
        gateway.start();
    }
    let all = sender.join().unwrap();
    assert_eq!((all.recorded + all.duplicates, all.waiting, all.refused.len()), (3000, 0, 0), "{all:?}");
    assert_eq!(gateway.rows(), 3000);
}

#[test]
fn over_its_rate_it_waits_and_loses_nothing() {
    let gateway = Gateway::new(&[
        ("SCANGATE_LIMITS__DEVICE_SCANS_PER_S", "100"),
        ("SCANGATE_LIMITS__DEVICE_SCANS_BURST", "100"),
        ("SCANGATE_LIMITS__BATCH_LINES_MAX", "100"),
    ]);
    let mut outbox = outbox(&gateway, 1000);
    for scan in &cards(450) {
        outbox.push(scan).unwrap();
    }
    let one = outbox.flush().unwrap();
    assert!(matches!(one.stopped_by, Some(Error::Busy { retry_after: Some(_), .. })), "{one:?}");
    assert!(one.recorded > 0 && one.waiting > 0, "{one:?}");
    let rest = outbox.drain(PATIENCE).unwrap();
    assert_eq!((one.recorded + rest.recorded, rest.waiting), (450, 0), "{rest:?}");
    assert_eq!(gateway.rows(), 450);
}

#[test]
fn what_can_never_be_recorded_holds_nothing_back() {
    let gateway = Gateway::new(&[("SCANGATE_LIMITS__BATCH_LINES_MAX", "10")]);
    let mut outbox = outbox(&gateway, 1000);
    for (number, scan) in cards(30).iter().enumerate() {
        outbox.push(scan).unwrap();
        if number % 10 == 0 {
            outbox.push(&Scan::now("https://example.org/", Direction::Auto)).unwrap();
            let late = jiff::Timestamp::UNIX_EPOCH;
            outbox.push(&Scan { at: late, id: format!("late-{number}"), ..scan.clone() }).unwrap();
            outbox.push(&Scan { id: format!("an id with spaces {number}"), ..scan.clone() }).unwrap();
        }
    }
    let all = outbox.drain(PATIENCE).unwrap();
    assert_eq!((all.recorded, all.waiting, all.refused.len()), (30, 0, 9), "{all:?}");
    let reasons = |reason| all.refused.iter().filter(|one| one.refusal.reason == reason).count();
    assert_eq!(
        (reasons(Reason::Unrecognized), reasons(Reason::ClockSkew), reasons(Reason::Malformed)),
        (3, 3, 3)
    );
}

#[test]
fn a_refused_token_stops_and_keeps_everything() {
    let gateway = Gateway::new(&[]);
    let queue = Queue::open(gateway.directory.path().join("queue"), 10).unwrap();
    let stranger = scangate_client::Client::builder(&gateway.base, "nonsense").build().unwrap();
    let mut outbox = Outbox::new(stranger, queue);
    outbox.push(&cards(1)[0]).unwrap();
    let refused = outbox.drain(PATIENCE).unwrap();
    assert!(matches!(refused.stopped_by, Some(Error::Unauthorized(_))));
    assert_eq!(refused.waiting, 1);
    outbox.renew(gateway.client());
    assert_eq!(outbox.drain(PATIENCE).unwrap().recorded, 1);
}
