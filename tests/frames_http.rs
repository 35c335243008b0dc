//! The promise: a code in a camera frame is exactly a payload, and whatever a frame holds or does to the
//! process that reads it, one frame is answered for it and nothing else feels it.
//!
//! Not proven here: what a subverted process could do (`decode_contained.rs`), and the latency of payloads
//! while frames are shed, which takes a machine of its own.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::float_cmp,
    reason = "tests; counts are whole"
)]

mod api_support;
mod decode_support;
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use api_support::{Answer, Server, eventually, exchange, request};
use decode_support::Sheet;
use scangate::issue;
use scangate::openapi::{BatchLine, Duplicate, LineResult, Recorded, Refused};
use serde_json::Value;
use support::codes::{citizen, citizen_number};
use support::gateway::{Gateway, Site};

const PNG: &str = "image/png";
const JPEG: &str = "image/jpeg";
const LUMA: &str = "application/vnd.scangate.luma;w=640;h=480";

/// A gateway with one process that reads frames, and a device at its gate.
struct Lane {
    gateway: Gateway,
    token: String,
}

impl Lane {
    fn start(site: Site) -> Self {
        let gateway = site.set("frames.workers", "1").start();
        let token = gateway.site.place_device("gate");
        Self { gateway, token }
    }

    /// Time enough for a loaded machine, and no budget in the way.
    fn patient() -> Site {
        Site::new()
            .set("frames.deadline_ms", "10000")
            .set("frames.wait_ms_max", "4000")
            .set("frames.priority", "low")
            .set("frames.device_ms_per_s", "0")
    }

    fn post(&self, query: &str, content_type: &str, body: &[u8]) -> Answer {
        self.post_as(&self.token, query, content_type, body)
    }

    fn post_as(&self, token: &str, query: &str, content_type: &str, body: &[u8]) -> Answer {
        let headers = [("Authorization", &*format!("Bearer {token}")), ("Content-Type", content_type)];
        let answer =
            exchange(self.gateway.site.listen, "POST", &format!("/v1/frames?{query}"), &headers, body);
        answer.assert_documented("/v1/frames", "post");
        answer
    }

    fn scan(&self, id: &str, payload: &str) -> Answer {
        let headers =
            [("Authorization", &*format!("Bearer {}", self.token)), ("Content-Type", "application/json")];
        let body = request(id, payload).to_string();
        exchange(self.gateway.site.listen, "POST", "/v1/checkins", &headers, body.as_bytes())
    }

    fn assert_reads(&self, id: &str, serial: u32) {
        let answer = self.post(&format!("id={id}"), LUMA, &luma(&[&citizen(serial)]));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(recorded(&answer.lines::<BatchLine>()[0]).id, id);
    }

    /// The processes that read frames: all that the gateway has started.
    fn readers(&self) -> Vec<i32> {
        let gateway = self.gateway.pid().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
        stats
            .filter(|stat| {
                let mut fields = stat.rsplit(')').next().unwrap().split_whitespace();
                let (state, parent) = (fields.next(), fields.next());
                state != Some("Z") && parent == Some(gateway.as_str())
            })
            .map(|stat| stat.split_whitespace().next().unwrap().parse().unwrap())
            .collect()
    }

    /// Signals the process that reads frames.
    fn signal_reader(&self, signal: i32) {
        eventually("a reader", || {
            let readers = self.readers();
            // SAFETY: kill takes two integers; the process is a child of our own child, alive a moment ago.
            readers.len() == 1 && unsafe { libc::kill(readers[0], signal) } == 0
        });
    }

    fn queued(&self) -> f64 {
        self.gateway.metric("scangate_frames_queue_frames")
    }
}

/// 640 × 480 pixels of luma that hold these payloads, side by side.
fn sheet(payloads: &[&str]) -> Sheet {
    let mut sheet = Sheet::new(640, 480);
    for (index, payload) in payloads.iter().enumerate() {
        sheet.draw(payload.as_bytes(), (40 + 300 * index, 120 - 40 * index), 4);
    }
    sheet
}

fn luma(payloads: &[&str]) -> Vec<u8> {
    sheet(payloads).pixels
}

fn recorded(line: &BatchLine) -> &Recorded {
    match &line.result {
        LineResult::Recorded(recorded) => recorded,
        other => panic!("{other:?}"),
    }
}

fn duplicate(line: &BatchLine) -> &Duplicate {
    match &line.result {
        LineResult::Duplicate(duplicate) => duplicate,
        other => panic!("{other:?}"),
    }
}

fn refused(line: &BatchLine) -> &Refused {
    match &line.result {
        LineResult::Refused(refused) => refused,
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_of_every_kind_are_recorded_once_on_both_runtimes() {
    for runtime in ["epoll", "uring"] {
        if runtime == "uring" && !support::io_uring_allowed() {
            continue;
        }
        let lane = Lane::start(Lane::patient().set("listen.runtime", runtime));
        let issued = lane.gateway.site.code("person", &citizen_number(2));
        let png = issue::draw_png(&issued, 4).unwrap();
        let jpeg = decode_support::jpeg(&sheet(&[&citizen(4)])).bytes;
        let raw = luma(&[&citizen(6)]);
        for (id, content_type, body, payload, trust) in [
            ("png", PNG, png.as_slice(), issued.as_str(), "proven"),
            ("jpeg", JPEG, jpeg.as_ref(), &citizen(4), "asserted"),
            ("luma", LUMA, &raw, &citizen(6), "asserted"),
        ] {
            let query = format!("id={id}&direction=in");
            let first: Vec<BatchLine> = lane.post(&query, content_type, body).lines();
            assert_eq!((first.len(), first[0].line, first[0].status), (1, 1, 201), "{runtime} {id}");
            let check_in = recorded(&first[0]);
            assert_eq!((check_in.id.as_str(), check_in.direction.as_str()), (id, "in"));
            assert_eq!((check_in.subject.as_str(), check_in.trust.as_str()), ("person", trust));
            let again: Vec<BatchLine> = lane.post(&query, content_type, body).lines();
            assert_eq!((again.len(), again[0].status), (1, 200), "{runtime} {id}");
            assert_eq!(duplicate(&again[0]).original.checkin, check_in.checkin);
            // The payload by itself is the same scan.
            let answer = lane.scan(id, payload);
            let by_payload: Duplicate = answer.json();
            assert_eq!(by_payload.original.checkin, check_in.checkin);
        }
        assert_eq!(lane.gateway.metric("scangate_frame_codes_total"), 6.0);
        assert_eq!(lane.gateway.metric("scangate_frames_available"), 1.0);
        let stats = exchange(lane.gateway.site.admin, "GET", "/v1/stats", &[], b"");
        let stats: Value = serde_json::from_str(stats.text()).unwrap();
        assert_eq!((&stats["frames"]["read"], &stats["frames"]["codes"]), (&6.into(), &6.into()));
        let status = lane.gateway.terminate(Duration::from_secs(30));
        assert!(status.success(), "{status}");
    }
}

#[test]
fn every_code_is_a_line_in_reading_order_with_an_id_of_its_own() {
    let lane = Lane::start(Lane::patient());
    // The right one stands a little higher, and is still second in its row; neither is a payment.
    let body = luma(&[&citizen(1), &citizen(3)]);
    let query = "id=two&at=2099-01-01T00:00:00%2B07:00";
    let early: Vec<BatchLine> = lane.post(query, LUMA, &body).lines();
    let outcomes: Vec<_> = early.iter().map(|line| refused(line).outcome.as_str()).collect();
    assert_eq!(outcomes, ["clock_skew", "clock_skew"]);
    assert_eq!(refused(&early[1]).id.as_deref(), Some("two#2"));

    let first: Vec<BatchLine> = lane.post("id=two", LUMA, &body).lines();
    assert_eq!(first.iter().map(|line| (line.line, line.status)).collect::<Vec<_>>(), [(1, 201), (2, 201)]);
    let ids: Vec<_> = first.iter().map(|line| recorded(line).id.as_str()).collect();
    assert_eq!(ids, ["two", "two#2"]);
    let again: Vec<BatchLine> = lane.post("id=two", LUMA, &body).lines();
    for (line, original) in again.iter().zip(&first) {
        assert_eq!((line.status, &duplicate(line).original.checkin), (200, &recorded(original).checkin));
    }
    // The second is the second: by its payload alone it is the same scan.
    let by_payload: Duplicate = lane.scan("two#2", &citizen(3)).json();
    assert_eq!(by_payload.original.checkin, recorded(&first[1]).checkin);
    // A code that is none of ours spoils only itself.
    let mixed: Vec<BatchLine> = lane.post("id=mixed", LUMA, &luma(&["hello", &citizen(5)])).lines();
    assert_eq!(mixed.iter().map(|line| line.status).collect::<Vec<_>>(), [422, 201]);
    assert_eq!(refused(&mixed[0]).outcome, "unrecognized");
}

#[test]
fn hostile_bytes_cost_one_answer_and_the_next_frame_is_read() {
    let lane = Lane::start(Lane::patient());
    let blank = lane.post("id=blank", LUMA, &luma(&[])).problem();
    assert_eq!((blank.status, blank.outcome.as_str()), (422, "no_code_found"));

    let png = issue::draw_png(&citizen(1), 4).unwrap();
    let mut lying = png.clone();
    lying[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    let mut crc = flate2::Crc::new();
    crc.update(&lying[12..29]);
    lying[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let noise: Vec<u8> = (0..5_000_u32).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let long = vec![0xff; 300_000];
    let wide = "application/vnd.scangate.luma;w=65535;h=65535";
    for (content_type, body, status, named) in [
        (PNG, noise.as_slice(), 400, "body"),
        (JPEG, noise.as_slice(), 400, "body"),
        (JPEG, png.as_slice(), 400, "body"),
        (PNG, &png[..png.len() / 2], 400, "body"),
        (PNG, b"", 400, "body"),
        (PNG, lying.as_slice(), 413, "frames.pixels_max"),
        (JPEG, long.as_slice(), 413, "frames.frame_bytes_max"),
        (LUMA, noise.as_slice(), 400, "body"),
        (LUMA, &vec![0; 307_201], 400, "body"),
        (wide, b"x", 413, "frames.side_px_max"),
        ("application/vnd.scangate.luma;w=640", b"x", 400, "content-type"),
        ("application/vnd.scangate.luma;w=0;h=1", b"x", 400, "content-type"),
        ("image/webp", b"x", 415, "content-type"),
        ("application/json", b"{}", 415, "content-type"),
    ] {
        let headers = [
            ("Authorization", &*format!("Bearer {}", lane.token)),
            ("Content-Type", content_type),
            ("Content-Length", "0"),
        ];
        let headers = if body.is_empty() { &headers[..] } else { &headers[..2] };
        let answer = exchange(lane.gateway.site.listen, "POST", "/v1/frames?id=x", headers, body);
        answer.assert_documented("/v1/frames", "post");
        let problem = answer.problem();
        let found = problem.field.as_deref().or(problem.bound.as_deref());
        assert_eq!((problem.status, found), (status, Some(named)), "{content_type}: {problem:?}");
        assert!(status != 413 || problem.limit.is_some(), "{problem:?}");
    }
    lane.assert_reads("after", 7);

    for (query, field) in
        [("", "id"), ("id=a%20b", "id"), ("id=a&id=b", "id"), ("id=a&at=noon", "at"), ("id=a&qr=x", "query")]
    {
        let problem = lane.post(query, LUMA, &luma(&[])).problem();
        assert_eq!((problem.status, problem.field.as_deref()), (400, Some(field)), "{query}");
    }
    let problem = lane.post(&format!("id={}", "i".repeat(62)), LUMA, &luma(&[])).problem();
    assert_eq!((problem.limit, problem.value), (Some(61), Some(62)));
    assert_eq!(lane.post_as("no.such.token", "id=a", PNG, &png).problem().status, 401);
    let headers = [("Authorization", &*format!("Bearer {}", lane.token)), ("Content-Type", PNG)];
    let gzip = [&headers[..], &[("Content-Encoding", "gzip")]].concat();
    let answer = exchange(lane.gateway.site.listen, "POST", "/v1/frames?id=a", &gzip, b"x");
    assert_eq!((answer.status, answer.header("accept-encoding")), (415, Some("identity")));
    let get = exchange(lane.gateway.site.listen, "GET", "/v1/frames", &headers, b"");
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
}

#[test]
fn frames_past_the_queue_are_shed_and_payloads_feel_nothing() {
    let lane = Lane::start(Lane::patient().set("frames.queue_frames_max", "1"));
    let frame = luma(&[&citizen(1)]);
    // One frame is being read and never done, one waits.
    lane.signal_reader(libc::SIGSTOP);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| lane.post("id=busy", LUMA, &frame));
        eventually("the first frame is taken", || {
            lane.queued() == 0.0 && lane.post("id=probe", "image/webp", b"x").status == 415
        });
        // Taken by the reader only once it has left the queue again: give it the time to get there.
        std::thread::sleep(Duration::from_millis(300));
        let waiting = scope.spawn(|| lane.post("id=waiting", LUMA, &frame));
        eventually("the second frame waits", || lane.queued() == 1.0);

        let began = Instant::now();
        let problem = lane.post("id=shed", LUMA, &frame).problem();
        assert_eq!((problem.status, problem.outcome.as_str()), (503, "overloaded"));
        assert_eq!((problem.bound.as_deref(), problem.limit), (Some("frames.queue_frames_max"), Some(1)));
        assert!(began.elapsed() < Duration::from_secs(2), "a full queue refuses at once");
        assert_eq!(lane.scan("payload", &citizen(3)).status, 201);
        assert_eq!(exchange(lane.gateway.site.listen, "GET", "/readyz", &[], b"").status, 200);

        lane.signal_reader(libc::SIGCONT);
        let statuses = [busy, waiting].map(|frame| frame.join().unwrap().status);
        assert_eq!(statuses, [200, 200]);
    });
    assert_eq!(lane.gateway.metric("scangate_frames_total{result=\"shed\"}"), 1.0);
}

#[test]
fn a_process_killed_under_a_frame_costs_that_frame_only() {
    let lane = Lane::start(Lane::patient());
    let frame = luma(&[&citizen(1)]);
    let before = lane.readers();
    lane.signal_reader(libc::SIGSTOP);
    let answer = std::thread::scope(|scope| {
        let killed = scope.spawn(|| lane.post("id=killed", LUMA, &frame));
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(lane.scan("payload", &citizen(3)).status, 201);
        lane.signal_reader(libc::SIGKILL);
        killed.join().unwrap()
    });
    let problem = answer.problem();
    assert_eq!((problem.status, problem.bound.as_deref()), (503, Some("frames.crashed")));
    // Nothing was recorded of it: the same frame is new.
    lane.assert_reads("killed", 1);
    assert_ne!(lane.readers(), before);
    assert_eq!(lane.gateway.metric("scangate_frames_restarts_total"), 1.0);
}

#[test]
fn a_device_whose_frames_hang_is_held_back_and_another_is_not() {
    let site = Lane::patient().set("frames.deadline_ms", "300").set("frames.device_ms_per_s", "1");
    let lane = Lane::start(site);
    let frame = luma(&[&citizen(1)]);
    let mut hung = 0;
    let problem = loop {
        // A reader that has read stands ready: stopped while it starts, it would hold up more than a frame.
        let warm = lane.post(&format!("id=warm-{hung}"), LUMA, &frame);
        if warm.status == 429 {
            break warm.problem();
        }
        lane.signal_reader(libc::SIGSTOP);
        let problem = lane.post("id=slow", LUMA, &frame).problem();
        if problem.status == 429 {
            break problem;
        }
        assert_eq!((problem.status, problem.outcome.as_str()), (422, "no_code_found"), "{problem:?}");
        assert_eq!(problem.limit, Some(300));
        hung += 1;
        assert!(hung <= 4, "four deadlines are all that a device has");
    };
    assert_eq!((problem.bound.as_deref(), problem.limit), (Some("frames.device_ms_per_s"), Some(1)));
    lane.signal_reader(libc::SIGCONT);
    // A payload is no frame, and another device has a budget of its own.
    assert_eq!(lane.scan("payload", &citizen(3)).status, 201);
    let other = lane.gateway.site.place_device("other");
    assert_eq!(lane.post_as(&other, "id=other", LUMA, &frame).status, 200);
}

#[test]
fn no_payload_of_a_frame_is_logged_or_kept() {
    let lane = Lane::start(Lane::patient().set("log.level", "trace"));
    let (card, foreign) = (citizen(11), "NGUYEN VAN 12 and 001190000012");
    for (index, payload) in [card.as_str(), foreign].into_iter().enumerate() {
        assert_eq!(lane.post(&format!("id=f{index}"), LUMA, &luma(&[payload])).status, 200);
    }
    lane.signal_reader(libc::SIGSTOP);
    std::thread::scope(|scope| {
        let frame = luma(&[foreign]);
        let lane = &lane;
        scope.spawn(move || lane.post("id=killed", LUMA, &frame));
        std::thread::sleep(Duration::from_millis(300));
        lane.signal_reader(libc::SIGKILL);
    });
    let metrics = exchange(lane.gateway.site.admin, "GET", "/metrics", &[], b"").body;
    let mut found =
        vec![("log".to_owned(), lane.gateway.site.log().into_bytes()), ("metrics".to_owned(), metrics)];
    collect(&lane.gateway.site.data, &mut found);
    assert!(found[0].1.len() > 1_000, "the log is talkative");
    let pixels = luma(&[&card]);
    let row = &pixels[640 * 140..640 * 141];
    for (name, bytes) in &found {
        for secret in [citizen_number(11).as_bytes(), b"NGUYEN VAN 1", b"001190000012", row] {
            assert!(memchr::memmem::find(bytes, secret).is_none(), "{name} holds a frame's content");
        }
    }
}

fn collect(dir: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            collect(&entry.path(), found);
        } else {
            found.push((entry.path().display().to_string(), std::fs::read(entry.path()).unwrap_or_default()));
        }
    }
}

/// This test's own binary is no reader of frames, and so stands for a system that refuses them.
#[test]
fn without_readers_frames_are_503_and_check_ins_go_on() {
    let server = Server::start(|_| {});
    let token = server.place_device("gate");
    let headers = [("Authorization", &*format!("Bearer {token}")), ("Content-Type", PNG)];
    let answer = exchange(server.public, "POST", "/v1/frames?id=a", &headers, b"\x89PNG");
    answer.assert_documented("/v1/frames", "post");
    let problem = answer.problem();
    assert_eq!((problem.status, problem.bound.as_deref()), (503, Some("frames.unavailable")));
    assert_eq!(server.scan(&token, "payload", &citizen(1)).status, 201);
    assert_eq!(exchange(server.public, "GET", "/readyz", &[], b"").status, 200);

    let server = Server::start(|config| config.frames.enabled = false);
    let answer = exchange(server.public, "POST", "/v1/frames?id=a", &headers, b"\x89PNG");
    assert_eq!(answer.problem().status, 404);
}

#[test]
fn the_command_line_reads_images_as_the_gateway_does() {
    let dir = tempfile::tempdir().unwrap();
    let (png, jpeg, text) = (dir.path().join("a.png"), dir.path().join("b.jpg"), dir.path().join("c.txt"));
    std::fs::write(&png, issue::draw_png("SG1:HELLO", 4).unwrap()).unwrap();
    std::fs::write(&jpeg, decode_support::jpeg(&sheet(&["left", "right"])).bytes).unwrap();
    std::fs::write(&text, "no image").unwrap();
    let decode = |files: &[&Path]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_scangate"));
        command.arg("decode").args(files).output().unwrap()
    };
    let output = decode(&[&png, &text, &jpeg]);
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let read: Vec<_> = lines.iter().map(|line| line["payload"].as_str().unwrap()).collect();
    assert_eq!(read, ["SG1:HELLO", "left", "right"]);
    for line in &lines {
        let names: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["decoder", "file", "ms", "payload"]);
        assert!(line["ms"].as_f64().unwrap() > 0.0, "{line}");
    }
    assert_eq!(lines[0]["file"].as_str(), png.to_str());
    assert!(String::from_utf8(output.stderr).unwrap().contains("c.txt: the file is neither jpeg nor png"));
    assert_eq!(decode(&[&text]).status.code(), Some(1));
}
