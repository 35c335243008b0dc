//! Readers of the risk map at a rate while a day of it is published and check-ins arrive.
//!
//! The day is yesterday's, with a known number of persons at each place. The gateway comes back in the middle of the
//! load with no delay before a day is told, so that it is counted while everybody reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use scangate::scan::UnixMillis;
use scangate::services::risk_map::Day;
use serde_json::{Value, json};
use tokio::time::sleep_until;

use super::caller::{Caller, locked, request, typed};
use super::scans::Visit;
use super::{Common, Stage, due, officer, site, total};
use crate::issue::Issuer;
use crate::record::{Ending, Recorder};
use crate::wire::Answer;

/// Fewer persons than this are never told.
const K: u64 = 10;
/// Persons at the fullest place.
const PERSONS_MAX: u64 = 60;
const DISTRICTS: u64 = 8;

/// How much is read.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Answers a second.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Places that people were at.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=10_000))]
    places: u64,
}

/// What readers have seen of one path.
#[derive(Debug, Default)]
struct Seen {
    /// By ETag, the bytes.
    versions: BTreeMap<String, Vec<u8>>,
    newest: Option<String>,
    /// Answers with other bytes than those of the same ETag before, without an ETag, or 304 to what wasn't asked.
    contradictions: u64,
    unchanged: u64,
}

struct Readers {
    caller: Arc<Caller>,
    recorder: Arc<Recorder>,
    paths: Vec<(String, Mutex<Seen>)>,
}

/// Runs it. False when a promise or a limit was broken.
///
/// # Errors
/// The gateway doesn't start, or somebody never got an answer.
pub fn run(options: &Options) -> Result<bool> {
    let (site, services) = site(&options.common)?;
    let site = site.set("risk_map.k", &K.to_string()).set("risk_map.delay_s", "86400");
    let keeper = officer(&site, "keeper", "services")?;
    let mut stage = Stage::set(&options.common, (site, services))?;
    let day = Day::of(UnixMillis::now()).plus(-1);
    fill(&mut stage, options.places, &keeper)?;
    let told = |what: &str| format!("/v1/map/{day}/{what}.geojson");
    let paths = ["/v1/map/days".to_owned(), told("districts"), told("places"), "/map".to_owned()];
    let readers = Arc::new(Readers {
        caller: Arc::clone(&stage.caller),
        recorder: Arc::new(Recorder::start()),
        paths: paths.map(|path| (path, Mutex::default())).into(),
    });
    let began = Instant::now();
    let load = all(Arc::clone(&readers), total(options.rate, options.common.seconds), options.rate);
    stage.load("the day is to be told", load, |site, server| {
        let ended = server.terminate(Duration::from_mins(1))?;
        ensure!(ended.success(), "the gateway exited with {ended} on SIGTERM");
        let site = site.clone().set("risk_map.delay_s", "0");
        let server = site.start()?;
        Ok((site, server))
    })?;
    stage.recorder = Arc::clone(&readers.recorder);
    let elapsed_s = began.elapsed().as_secs_f64();
    stage.runtime.block_on(published(&readers))?;
    check(&mut stage, &readers, options.places)?;
    let plan = json!({
        "answers_per_s": options.rate, "seconds": options.common.seconds, "places": options.places,
        "scans_per_s": options.common.scans,
    });
    stage.close("map", plan, elapsed_s)
}

/// How many persons were at a place: some places are below k, and some at a multiple of it.
const fn persons(place: u64) -> u64 {
    place * 7 % PERSONS_MAX + 1
}

fn fill(stage: &mut Stage, places: u64, keeper: &str) -> Result<()> {
    let references: Vec<String> = (0..places).map(|place| format!("place-{place}")).collect();
    let directory = (0..places).map(|place| {
        let district = format!("{:03}", place % DISTRICTS + 1);
        let reference = format!("place-{place}");
        json!({"reference": reference, "name": reference, "district": district, "province": "01",
            "lon": 105.85, "lat": 21.03})
        .to_string()
    });
    let lines: Vec<String> = directory.collect();
    for chunk in lines.chunks(500) {
        let body = chunk.join("\n") + "\n";
        let put = typed("PUT", "/v1/places", keeper, ("application/x-ndjson", body.as_bytes()));
        let answer = stage.runtime.block_on(stage.caller.insist(&put))?;
        ensure!(answer.status == 200, "places were answered {}", answer.status);
    }
    let evening = Day::of(UnixMillis::now()).begins().0 - 3_600_000;
    let tokens = Issuer::new(&stage.site).place_devices(&references)?;
    let visits = |place: u64| {
        let visit = |one: u64| Visit {
            person: place * PERSONS_MAX + one,
            at_ms: evening + i64::try_from(one).unwrap_or_default() * 1000,
            is_exit: false,
        };
        (0..persons(place)).map(visit).collect::<Vec<_>>()
    };
    let batches: Vec<_> = tokens.into_iter().zip(0..).map(|(token, place)| (token, visits(place))).collect();
    stage.runtime.block_on(stage.scans.fill(&batches))?;
    stage.settle()
}

async fn all(readers: Arc<Readers>, answers: usize, rate: f64) -> Result<()> {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..answers {
        let due = began + due(number, rate);
        sleep_until(due.into()).await;
        let readers = Arc::clone(&readers);
        tasks.spawn(async move { readers.read(number, due).await });
        while let Some(ended) = tasks.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

impl Readers {
    /// One answer; every second reader of a path has the newest one already.
    async fn read(&self, number: usize, due: Instant) -> Result<()> {
        let (path, seen) = self.paths.get(number % self.paths.len()).context("no path")?;
        let asks_again = number / self.paths.len() % 2 == 1;
        let known = if asks_again { locked(seen).newest.clone() } else { None };
        let mut get = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n");
        if let Some(etag) = &known {
            get = get + "If-None-Match: " + etag + "\r\n";
        }
        let answer = self.caller.insist((get + "\r\n").as_bytes()).await?;
        // A day that isn't told yet is unknown, which is an answer as well.
        ensure!(matches!(answer.status, 200 | 304 | 404), "{path} was answered {}", answer.status);
        self.recorder.record(Ending::Answered, due.elapsed());
        locked(seen).take(known.as_deref(), &answer);
        Ok(())
    }
}

impl Seen {
    fn take(&mut self, known: Option<&str>, answer: &Answer) {
        let etag = answer.header("etag");
        match (answer.status, etag) {
            (304, etag) => {
                self.unchanged += 1;
                let is_known = known.is_some() && etag == known && answer.body.is_empty();
                self.contradictions += u64::from(!is_known);
            }
            (200, Some(etag)) => {
                self.newest = Some(etag.to_owned());
                let first = self.versions.entry(etag.to_owned()).or_insert_with(|| answer.body.clone());
                self.contradictions += u64::from(*first != answer.body);
            }
            (200, None) => self.contradictions += 1,
            _ => {}
        }
    }
}

/// Reads on until the day is told, and each path once more.
async fn published(readers: &Readers) -> Result<()> {
    let began = Instant::now();
    let (path, _) = readers.paths.get(2).context("no path")?;
    while readers.caller.insist(&request("GET", path, "", "")).await?.status != 200 {
        ensure!(began.elapsed() < Duration::from_mins(1), "the day isn't told within a minute");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for number in 0..readers.paths.len() {
        readers.read(number, Instant::now()).await?;
    }
    Ok(())
}

fn check(stage: &mut Stage, readers: &Readers, places: u64) -> Result<()> {
    let (mut contradictions, mut unchanged, mut small, mut versions) = (0, 0, 0, 0);
    let mut told = BTreeMap::new();
    for (path, seen) in &readers.paths {
        let seen = locked(seen);
        contradictions += seen.contradictions;
        unchanged += seen.unchanged;
        versions += seen.versions.len() as u64;
        if !path.contains("geojson") {
            continue;
        }
        // What is told of a day stays as it is.
        contradictions += (seen.versions.len() as u64).saturating_sub(1);
        for body in seen.versions.values() {
            let features: Value = serde_json::from_slice(body)?;
            small += below_k(&features)?;
            if path.contains("places") {
                told = figures(&features)?;
            }
        }
    }
    let wrong =
        (0..places).filter(|place| told.get(&format!("place-{place}")).copied() != rounded(*place)).count();
    stage.note("versions", versions);
    stage.note("not_modified", unchanged);
    stage.note("places_told", told.len() as u64);
    stage.broken.extend([
        ("contradictory_answers", contradictions),
        ("figures_below_k", small),
        ("wrong_figures", wrong as u64),
        ("never_not_modified", u64::from(unchanged == 0)),
    ]);
    Ok(())
}

/// What must be told of a place: nothing below k, else the multiple of k that is not above its persons.
fn rounded(place: u64) -> Option<u64> {
    Some(persons(place) / K * K).filter(|told| *told > 0)
}

/// Figures that are told and too small to be.
fn below_k(collection: &Value) -> Result<u64> {
    let mut small = 0;
    for properties in properties(collection)? {
        let figure = |name: &str| properties.get(name).and_then(Value::as_u64);
        small +=
            [figure("persons"), figure("checkins")].iter().flatten().filter(|told| **told < K).count() as u64;
    }
    Ok(small)
}

/// Persons by the place's name.
fn figures(collection: &Value) -> Result<BTreeMap<String, u64>> {
    let mut told = BTreeMap::new();
    let mut names = BTreeSet::new();
    for properties in properties(collection)? {
        let name = properties.get("name").and_then(Value::as_str).context("a place without a name")?;
        ensure!(names.insert(name), "{name} is told twice");
        if let Some(persons) = properties.get("persons").and_then(Value::as_u64) {
            told.insert(name.to_owned(), persons);
        }
    }
    Ok(told)
}

fn properties(collection: &Value) -> Result<impl Iterator<Item = &Value>> {
    let features = collection.get("features").and_then(Value::as_array).context("no features")?;
    Ok(features.iter().filter_map(|feature| feature.get("properties")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, etag: &str, body: &[u8]) -> Answer {
        let head = format!("HTTP/1.1 {status} x\r\nETag: {etag}\r\n\r\n").into_bytes();
        Answer { status, head, body: body.to_vec() }
    }

    #[test]
    fn other_bytes_of_one_version_are_seen() {
        let mut seen = Seen::default();
        seen.take(None, &answer(200, "\"a\"", b"1"));
        seen.take(None, &answer(200, "\"a\"", b"1"));
        seen.take(None, &answer(200, "\"b\"", b"2"));
        seen.take(Some("\"b\""), &answer(304, "\"b\"", b""));
        assert_eq!((seen.contradictions, seen.versions.len(), seen.unchanged), (0, 2, 1));
        seen.take(None, &answer(200, "\"a\"", b"3"));
        seen.take(None, &answer(304, "\"b\"", b""));
        seen.take(Some("\"a\""), &answer(304, "\"b\"", b""));
        assert_eq!(seen.contradictions, 3);
    }

    #[test]
    fn a_figure_below_k_and_a_place_told_twice_are_seen() {
        let of = |persons: &[Value]| {
            let feature =
                |persons: &Value| json!({"properties": {"name": "a", "persons": persons, "checkins": 20}});
            json!({"features": persons.iter().map(feature).collect::<Vec<_>>()})
        };
        assert_eq!(below_k(&of(&[json!(10), Value::Null])).unwrap(), 0);
        assert_eq!(below_k(&of(&[json!(9)])).unwrap(), 1);
        assert_eq!(figures(&of(&[json!(20)])).unwrap(), BTreeMap::from([("a".to_owned(), 20)]));
        assert!(figures(&of(&[json!(20), json!(20)])).is_err());
    }

    #[test]
    fn some_places_are_hidden_and_some_are_told() {
        let told: BTreeSet<Option<u64>> = (0..PERSONS_MAX).map(rounded).collect();
        assert!(told.contains(&None) && told.contains(&Some(PERSONS_MAX)));
    }
}
