//! Feedback with and without photos at a rate, the gateway killed in the middle of it. Each photo comes with Exif and a
//! comment that hold a marker, of which no byte may be kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep_until;

use super::caller::{Caller, request, typed};
use super::difference::difference;
use super::{Common, Stage, document, due, kill_and_restart, member, officer, site, total};
use crate::codes::{self, Random};
use crate::issue::Issuer;
use crate::record::{Ending, Recorder};
use crate::wire::Answer;

/// What is planted in every photo, and found in none.
const MARKER: &[u8] = b"GPS-MARKER-21-01-42";
/// One in so many has a photo, and one in so many is signed by nobody.
const PHOTO: usize = 3;
const ANONYMOUS: usize = 5;
/// Pieces an hour from one address, which all that nobody signed come from.
const ADDRESS_PER_H: u64 = 3;
const WIDTH: u16 = 160;
const HEIGHT: u16 = 120;

/// How much is sent.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Pieces a second.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// People who sign, by turns.
    #[arg(long, default_value_t = 500)]
    persons: usize,
}

struct Crowd {
    caller: Arc<Caller>,
    recorder: Arc<Recorder>,
    tokens: Vec<String>,
}

/// One piece that was acknowledged.
struct Seen {
    id: String,
    photo: Option<String>,
}

/// Runs it. False when a promise or a limit was broken.
///
/// # Errors
/// The gateway doesn't start, or somebody never got an answer.
pub fn run(options: &Options) -> Result<bool> {
    let (site, services) = site(&options.common)?;
    let site =
        site.set("feedback.address_per_h", &ADDRESS_PER_H.to_string()).set("feedback.person_per_h", "100000");
    let reader = officer(&site, "reader", "services")?;
    let mut stage = Stage::set(&options.common, (site, services))?;
    let names: Vec<String> = (0..options.persons as u64).map(codes::citizen_number).collect();
    let crowd = Arc::new(Crowd {
        caller: Arc::clone(&stage.caller),
        recorder: Arc::new(Recorder::start()),
        tokens: Issuer::new(&stage.site).person_devices(&names)?,
    });
    let pieces = total(options.rate, options.common.seconds);
    let began = Instant::now();
    let load = all(Arc::clone(&crowd), pieces, options.rate);
    let seen = stage.load("the gateway is killed", load, |site, server| {
        Ok((site.clone(), kill_and_restart(site, server)?))
    })?;
    stage.recorder = Arc::clone(&crowd.recorder);
    let elapsed_s = began.elapsed().as_secs_f64();
    check(&mut stage, &crowd.caller, &reader, &seen)?;
    stage.note("pieces", seen.len() as u64);
    stage.note("photos", seen.iter().filter(|one| one.photo.is_some()).count() as u64);
    stage.note("rate_limited", (pieces - seen.len()) as u64);
    stage.broken.push(("rate_never_limited", u64::from(seen.len() == pieces)));
    let plan = json!({
        "pieces_per_s": options.rate, "seconds": options.common.seconds, "persons": options.persons,
        "scans_per_s": options.common.scans, "photo_one_in": PHOTO, "unsigned_one_in": ANONYMOUS,
    });
    stage.close("feedback", plan, elapsed_s)
}

async fn all(crowd: Arc<Crowd>, pieces: usize, rate: f64) -> Result<Vec<Seen>> {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    let mut seen = Vec::new();
    for number in 0..pieces {
        let due = began + due(number, rate);
        sleep_until(due.into()).await;
        let crowd = Arc::clone(&crowd);
        tasks.spawn(async move { crowd.piece(number, due).await });
    }
    while let Some(ended) = tasks.join_next().await {
        seen.extend(ended??);
    }
    Ok(seen)
}

impl Crowd {
    /// One piece, its photo first. None if its sender had sent too many.
    async fn piece(&self, number: usize, due: Instant) -> Result<Option<Seen>> {
        let token = match number % ANONYMOUS {
            0 => "",
            _ => self.tokens.get(number % self.tokens.len()).context("no person")?,
        };
        let mut body = json!({
            "id": format!("piece-{number}"), "category": "scan_problem", "language": "vi",
            "text": format!("Cổng số {number} không đọc được mã."),
        });
        let mut photo = None;
        if number.is_multiple_of(PHOTO) {
            let post = typed("POST", "/v1/feedback/photos", token, ("image/jpeg", &jpeg(number as u64)?));
            let Some(taken) = self.taken(&self.caller.insist(&post).await?, due)? else { return Ok(None) };
            let id = member(&taken, "photo")?;
            body.as_object_mut().context("not an object")?.insert("photo".to_owned(), json!(id));
            photo = Some(id);
        }
        let post = request("POST", "/v1/feedback", token, &body.to_string());
        let Some(taken) = self.taken(&self.caller.insist(&post).await?, due)? else { return Ok(None) };
        Ok(Some(Seen { id: member(&taken, "id")?, photo }))
    }

    /// The body of a success, none for one too many; its latency runs from the piece's intended time.
    fn taken(&self, answer: &Answer, due: Instant) -> Result<Option<Value>> {
        if answer.status == 429 {
            self.recorder.record(Ending::Shed, due.elapsed());
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(matches!(answer.status, 200 | 201), "answered {}: {text}", answer.status);
        self.recorder.record(Ending::Answered, due.elapsed());
        document(answer).map(Some)
    }
}

/// Holds what officers see against what was acknowledged, and looks for the marker.
fn check(stage: &mut Stage, caller: &Caller, reader: &str, seen: &[Seen]) -> Result<()> {
    let mut listed = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/feedback/export{cursor}");
        let answer = stage.runtime.block_on(caller.insist(&request("GET", &path, reader, "")))?;
        ensure!(answer.status == 200, "the export was answered {}", answer.status);
        let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut next = None;
        for line in lines {
            let line: Value = serde_json::from_slice(line)?;
            match line.get("id").and_then(Value::as_str) {
                Some(id) => listed.push(id.to_owned()),
                None => next = line.get("next").and_then(Value::as_str).map(str::to_owned),
            }
        }
        match next {
            Some(next) => cursor = format!("?cursor={next}"),
            None => break,
        }
    }
    let acknowledged: BTreeSet<&str> = seen.iter().map(|one| one.id.as_str()).collect();
    let found = difference(&acknowledged, &listed);
    let (mut missing, mut marked) = (0, 0);
    for one in seen.iter().filter(|one| one.photo.is_some()) {
        let path = format!("/v1/feedback/{}/photo", one.id);
        let answer = stage.runtime.block_on(caller.insist(&request("GET", &path, reader, "")))?;
        missing += u64::from(answer.status != 200 || !answer.body.starts_with(&[0xff, 0xd8]));
        marked += u64::from(has_metadata(&answer.body));
    }
    stage.broken.extend([
        ("pieces_lost", found.lost),
        ("pieces_doubled", found.doubled + (seen.len() - acknowledged.len()) as u64),
        ("pieces_unasked", found.unasked),
        ("photos_lost", missing),
        ("photos_with_metadata", marked),
        ("files_with_the_marker", files_with(&stage.site.data, MARKER)?),
    ]);
    Ok(())
}

/// Whether a JPEG still has Exif, a comment, or the marker.
fn has_metadata(jpeg: &[u8]) -> bool {
    let holds = |wanted: &[u8]| memchr::memmem::find(jpeg, wanted).is_some();
    holds(MARKER) || holds(b"Exif\0\0") || segments(jpeg).any(|marker| marker == 0xfe || marker == 0xe1)
}

/// The markers before the picture itself.
fn segments(jpeg: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut at = 2;
    std::iter::from_fn(move || {
        let [0xff, marker, high, low] = *jpeg.get(at..at + 4)? else { return None };
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
        (marker != 0xda).then_some(marker)
    })
}

/// How many files below hold these bytes.
fn files_with(directory: &Path, wanted: &[u8]) -> Result<u64> {
    let mut found = 0;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found += files_with(&path, wanted)?;
        } else if path.is_file() {
            // What is gone by now was no photo: those stay for an hour at least.
            let bytes = fs::read(&path).unwrap_or_default();
            found += u64::from(memchr::memmem::find(&bytes, wanted).is_some());
        }
    }
    Ok(found)
}

/// A picture of its own for each number, with Exif and a comment before it.
fn jpeg(number: u64) -> Result<Vec<u8>> {
    let mut random = Random::new(number);
    let (cells, row) = (random.bits(), usize::from(WIDTH));
    let pixels: Vec<u8> = (0..usize::from(HEIGHT) * row)
        .map(|at| {
            let cell = at / row / 15 * 8 + at % row / 20;
            if cells >> (cell % 64) & 1 == 1 { 220 } else { 40 }
        })
        .collect();
    let mut plain = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut plain, 90);
    encoder.encode(&pixels, WIDTH, HEIGHT, jpeg_encoder::ColorType::Luma)?;
    let (start, rest) = plain.split_at_checked(2).context("not a JPEG")?;
    let mut out = start.to_vec();
    for (marker, head) in [(0xe1, &b"Exif\0\0II*\0\x08\0\0\0\0\0"[..]), (0xfe, b"NOTE ")] {
        out.extend_from_slice(&[0xff, marker]);
        out.extend_from_slice(&u16::try_from(head.len() + MARKER.len() + 2)?.to_be_bytes());
        out.extend_from_slice(head);
        out.extend_from_slice(MARKER);
    }
    out.extend_from_slice(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_seen_where_it_is_and_nowhere_else() {
        let sent = jpeg(7).unwrap();
        assert!(has_metadata(&sent));
        let marker = |part: &[u8]| memchr::memmem::find(part, MARKER).is_some();
        assert!(marker(&sent));
        let mut bare = sent[..2].to_vec();
        let rest = sent.windows(2).rposition(|two| two == [0xff, 0xfe]).unwrap();
        let length = usize::from(u16::from_be_bytes([sent[rest + 2], sent[rest + 3]]));
        bare.extend_from_slice(&sent[rest + 2 + length..]);
        assert!(!has_metadata(&bare));
        bare.splice(2..2, [0xff, 0xfe, 0, 3, b'x']);
        assert!(has_metadata(&bare), "a comment without the marker");
        assert_ne!(jpeg(7).unwrap(), jpeg(8).unwrap());
    }

    #[test]
    fn a_file_with_the_marker_is_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("photos")).unwrap();
        fs::write(dir.path().join("photos/one"), b"nothing").unwrap();
        assert_eq!(files_with(dir.path(), MARKER).unwrap(), 0);
        fs::write(dir.path().join("photos/two"), jpeg(1).unwrap()).unwrap();
        assert_eq!(files_with(dir.path(), MARKER).unwrap(), 1);
    }
}
