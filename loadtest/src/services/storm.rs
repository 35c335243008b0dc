//! A storm of tracing: officers ask for cases, others approve, and all read contacts and notify at a rate, in a store
//! with a rush hour's check-ins. The gateway is killed in the middle of it.
//!
//! Groups of twenty were at a place of their own together, each for an hour: so everybody has nineteen contacts, and
//! every list that is answered can be held against that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use scangate::scan::UnixMillis;
use serde_json::{Value, json};
use tokio::time::sleep_until;

use super::caller::{Caller, request};
use super::difference::{Difference, counted};
use super::scans::Visit;
use super::{Common, Stage, document, due, kill_and_restart, member, officer, site, total};
use crate::codes;
use crate::issue::Issuer;
use crate::record::{Ending, Recorder};
use crate::requests::time_text;

/// People at one place together.
const GROUP: u64 = 20;
/// Between the intended times of a case's steps.
const STEP: Duration = Duration::from_millis(200);
/// One case in so many is never approved.
const UNAPPROVED: usize = 5;
const MINUTE_MS: i64 = 60_000;

/// What to fill and how much to ask.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Check-ins of the rush hour.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(400..=10_000_000))]
    checkins: u64,
    /// Cases a second.
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Officers who ask, and as many who approve.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=200))]
    officers: u64,
}

/// Everything a case's task needs.
struct Storm {
    caller: Arc<Caller>,
    recorder: Arc<Recorder>,
    askers: Vec<String>,
    approvers: Vec<String>,
    groups: u64,
    began_ms: i64,
    /// Contacts answered, or a case approved, against the rule of two persons.
    alone: AtomicU64,
    /// Lists with other than everybody's nineteen contacts.
    wrong_lists: AtomicU64,
}

/// One case that was acknowledged.
#[derive(Debug, Clone)]
struct Seen {
    number: usize,
    case: String,
    is_approved: bool,
}

/// Runs it. False when a promise or a limit was broken.
///
/// # Errors
/// The gateway doesn't start, or somebody never got an answer.
pub fn run(options: &Options) -> Result<bool> {
    let cases = total(options.rate, options.common.seconds);
    let groups = options.checkins / 2 / GROUP;
    ensure!(cases as u64 <= groups * GROUP, "more cases than persons: {cases}, {}", groups * GROUP);
    let officers = usize::try_from(options.officers)?;
    // Everybody asks for a tenth more than they may.
    let per_hour = (cases / officers * 9 / 10).max(1);
    let (site, services) = site(&options.common)?;
    let site = site.set("tracing.cases_per_h", &per_hour.to_string());
    // Whoever asks could approve as well, but for the rule.
    let named = |kind: &str, scopes: &str| -> Result<Vec<String>> {
        (0..officers).map(|index| officer(&site, &format!("{kind}{index}"), scopes)).collect()
    };
    let (askers, approvers) = (named("asker", "trace,approve")?, named("approver", "approve")?);
    let mut stage = Stage::set(&options.common, (site, services))?;
    let began_ms = UnixMillis::now().0 - 300 * MINUTE_MS;
    fill(&mut stage, groups, began_ms)?;
    stage.recorder = Arc::new(Recorder::start());
    let recorder = Arc::new(Recorder::start());
    let storm = Arc::new(Storm {
        caller: Arc::clone(&stage.caller),
        recorder: Arc::clone(&recorder),
        askers,
        approvers,
        groups,
        began_ms,
        alone: AtomicU64::new(0),
        wrong_lists: AtomicU64::new(0),
    });
    let began = Instant::now();
    let load = all(Arc::clone(&storm), cases, options.rate);
    let seen = stage.load("the gateway is killed", load, |site, server| {
        Ok((site.clone(), kill_and_restart(site, server)?))
    })?;
    stage.recorder = recorder;
    let elapsed_s = began.elapsed().as_secs_f64();
    check(&mut stage, &storm, &seen, (cases, per_hour))?;
    let plan = json!({
        "cases_per_s": options.rate, "seconds": options.common.seconds, "checkins": options.checkins,
        "officers": options.officers, "cases_per_h": per_hour, "scans_per_s": options.common.scans,
    });
    stage.close("trace-storm", plan, elapsed_s)
}

fn fill(stage: &mut Stage, groups: u64, began_ms: i64) -> Result<()> {
    let places: Vec<String> = (0..groups).map(|group| format!("hall-{group}")).collect();
    let tokens = Issuer::new(&stage.site).place_devices(&places)?;
    let visits = |group: u64| {
        let visit = move |is_exit: bool| {
            (0..GROUP).zip(if is_exit { 60.. } else { 0_i64.. }).map(move |(one, minute)| Visit {
                person: group * GROUP + one,
                at_ms: began_ms + minute * MINUTE_MS,
                is_exit,
            })
        };
        visit(false).chain(visit(true)).collect::<Vec<_>>()
    };
    let batches: Vec<_> = tokens.into_iter().zip(0..).map(|(token, group)| (token, visits(group))).collect();
    stage.runtime.block_on(stage.scans.fill(&batches))?;
    stage.settle()
}

async fn all(storm: Arc<Storm>, cases: usize, rate: f64) -> Result<Vec<Seen>> {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    let mut seen = Vec::new();
    for number in 0..cases {
        let due = began + due(number, rate);
        sleep_until(due.into()).await;
        let storm = Arc::clone(&storm);
        tasks.spawn(async move { storm.case(number, due).await });
    }
    while let Some(ended) = tasks.join_next().await {
        seen.extend(ended??);
    }
    Ok(seen)
}

impl Storm {
    fn asker(&self, number: usize) -> Result<&str> {
        Ok(self.askers.get(number % self.askers.len()).context("no officer")?)
    }

    fn approver(&self, number: usize) -> Result<&str> {
        Ok(self.approvers.get(number % self.approvers.len()).context("no officer")?)
    }

    /// The first of each group, then the second of each.
    fn person(&self, number: usize) -> u64 {
        let number = number as u64;
        number % self.groups * GROUP + number / self.groups
    }

    fn asked(&self, number: usize) -> Result<Vec<u8>> {
        let at = |minutes: i64| time_text(self.began_ms + minutes * MINUTE_MS);
        let body = json!({
            "id": format!("storm-{number}"), "person": codes::citizen_number(self.person(number)),
            "from": at(-60), "to": at(120), "purpose": format!("storm {number}"), "depth": 1,
        });
        Ok(request("POST", "/v1/cases", self.asker(number)?, &body.to_string()))
    }

    /// One case, step by step, each at its intended time. None if it was one too many for its officer.
    async fn case(&self, number: usize, due: Instant) -> Result<Option<Seen>> {
        let (asker, approver) = (self.asker(number)?, self.approver(number)?);
        let asked = self.step(&self.asked(number)?, due, &[200, 201, 429]).await?;
        if asked.0 == 429 {
            return Ok(None);
        }
        let case = member(&asked.1, "case")?;
        let path = |part: &str| format!("/v1/cases/{case}/{part}");
        let mut due = due;
        let mut at = || {
            due += STEP;
            due
        };
        let contacts = request("GET", &path("contacts"), asker, "");
        let early = self.step(&contacts, at(), &[200, 409]).await?.0;
        let own = self.step(&request("POST", &path("approve"), asker, ""), at(), &[200, 403]).await?.0;
        self.alone.fetch_add(u64::from(early == 200) + u64::from(own == 200), Ordering::Relaxed);
        let is_approved = number % UNAPPROVED != UNAPPROVED - 1;
        if is_approved {
            self.step(&request("POST", &path("approve"), approver, ""), at(), &[200]).await?;
            self.read(&path("contacts"), asker, at()).await?;
            let told = self.step(&request("POST", &path("notify"), asker, ""), at(), &[200]).await?.1;
            let is_whole = told.get("contacts").and_then(Value::as_u64) == Some(GROUP - 1);
            self.wrong_lists.fetch_add(u64::from(!is_whole), Ordering::Relaxed);
        } else {
            let late = self.step(&contacts, at(), &[200, 409]).await?.0;
            self.alone.fetch_add(u64::from(late == 200), Ordering::Relaxed);
        }
        Ok(Some(Seen { number, case, is_approved }))
    }

    /// All pages of a case's contacts.
    async fn read(&self, path: &str, asker: &str, due: Instant) -> Result<()> {
        let mut persons = BTreeSet::new();
        let mut cursor = String::new();
        loop {
            let page =
                self.step(&request("GET", &format!("{path}{cursor}"), asker, ""), due, &[200]).await?.1;
            let contacts = page.get("contacts").and_then(Value::as_array).context("no contacts")?;
            for contact in contacts {
                persons.insert(member(contact, "person")?);
            }
            match page.get("next").and_then(Value::as_str) {
                Some(next) => cursor = format!("?cursor={next}"),
                None => break,
            }
        }
        self.wrong_lists.fetch_add(u64::from(persons.len() as u64 != GROUP - 1), Ordering::Relaxed);
        Ok(())
    }

    /// One call, not before its time, which must be answered with one of these.
    async fn step(&self, request: &[u8], due: Instant, expected: &[u16]) -> Result<(u16, Value)> {
        sleep_until(due.into()).await;
        let answer = self.caller.insist(request).await?;
        ensure!(
            expected.contains(&answer.status),
            "answered {} instead of {expected:?}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        let ending = if answer.status == 429 { Ending::Shed } else { Ending::Answered };
        self.recorder.record(ending, due.elapsed());
        Ok((answer.status, document(&answer)?))
    }
}

/// Holds what the gateway has against what it acknowledged.
fn check(stage: &mut Stage, storm: &Storm, seen: &[Seen], asked: (usize, usize)) -> Result<()> {
    let (cases, per_hour) = asked;
    let (kept, unapproved) = stage.runtime.block_on(kept(storm, seen))?;
    let expected = notified(storm, seen);
    let persons: Vec<u64> = expected.keys().copied().collect();
    let numbers: Vec<String> = persons.iter().map(|person| codes::citizen_number(*person)).collect();
    let apps = Issuer::new(&stage.site).person_devices(&numbers)?;
    let mut mail = Difference::default();
    for (count, app) in expected.values().zip(&apps) {
        let answer =
            stage.runtime.block_on(storm.caller.insist(&request("GET", "/v1/notifications", app, "")))?;
        let page = document(&answer)?;
        let items = page.get("notifications").and_then(Value::as_array).context("no notifications")?;
        let ids = items.iter().map(|item| member(item, "id")).collect::<Result<Vec<_>>>()?;
        mail += counted(*count, &ids);
    }
    let mut by_officer = vec![0_usize; storm.askers.len()];
    for one in seen {
        if let Some(count) = by_officer.get_mut(one.number % storm.askers.len()) {
            *count += 1;
        }
    }
    stage.note("cases", seen.len() as u64);
    stage.note("approved", seen.iter().filter(|one| one.is_approved).count() as u64);
    stage.note("notifications", expected.values().sum());
    stage.note("rate_limited", (cases - seen.len()) as u64);
    stage.broken.extend([
        ("cases_lost", kept.lost),
        ("cases_doubled", kept.doubled),
        ("approvals_lost", unapproved),
        ("approved_or_read_alone", storm.alone.load(Ordering::Relaxed)),
        ("steps_not_in_audit_log", unrecorded(&records(&stage.site.data.join("audit"))?, seen)),
        ("wrong_contact_lists", storm.wrong_lists.load(Ordering::Relaxed)),
        ("notifications_lost", mail.lost),
        ("notifications_doubled", mail.doubled + mail.unasked),
        ("officers_over_their_rate", by_officer.iter().filter(|count| **count > per_hour).count() as u64),
        ("rate_never_limited", u64::from(seen.len() == cases)),
    ]);
    Ok(())
}

/// How the cases differ from what was acknowledged, and how many have lost their approval. Asked for again, a case must
/// be the one that it was.
async fn kept(storm: &Storm, seen: &[Seen]) -> Result<(Difference, u64)> {
    let mut found = Difference::default();
    let mut unapproved = 0;
    let distinct: BTreeSet<&str> = seen.iter().map(|one| one.case.as_str()).collect();
    found.doubled += (seen.len() - distinct.len()) as u64;
    for one in seen {
        let path = format!("/v1/cases/{}", one.case);
        let answer = storm.caller.insist(&request("GET", &path, storm.approver(one.number)?, "")).await?;
        if answer.status != 200 {
            found.lost += 1;
            continue;
        }
        let is_approved = member(&document(&answer)?, "state")? == "approved";
        unapproved += u64::from(one.is_approved && !is_approved);
        storm.alone.fetch_add(u64::from(!one.is_approved && is_approved), Ordering::Relaxed);
        let again = storm.caller.insist(&storm.asked(one.number)?).await?;
        let is_same = again.status == 200 && member(&document(&again)?, "case")? == one.case;
        found.doubled += u64::from(!is_same);
    }
    Ok((found, unapproved))
}

/// Steps of approved cases that the audit log doesn't have as done, and readings that it has of others, begun or done. A
/// step that the kill broke off was asked for again, and so is done as well.
fn unrecorded(records: &[Value], seen: &[Seen]) -> u64 {
    let told = |record: &Value| {
        let of = |name: &str| record.get(name).and_then(Value::as_str).map(str::to_owned);
        Some((of("action")?, of("outcome")?, of("subject")?))
    };
    let recorded: BTreeSet<(String, String, String)> = records.iter().filter_map(told).collect();
    let has = |action: &str, outcome: &str, one: &Seen| {
        recorded.contains(&(action.to_owned(), outcome.to_owned(), format!("case:{}", one.case)))
    };
    let steps = ["trace_approve", "trace_read", "trace_notify"];
    let missing = |one: &Seen| steps.iter().filter(|step| !has(step, "done", one)).count();
    let too_many =
        |one: &Seen| ["begun", "done"].iter().filter(|outcome| has("trace_read", outcome, one)).count();
    seen.iter().map(|one| if one.is_approved { missing(one) } else { too_many(one) } as u64).sum()
}

/// All records of the audit log.
fn records(log: &Path) -> Result<Vec<Value>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(log)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ndjson") {
            for line in fs::read_to_string(&path)?.lines() {
                records.push(serde_json::from_str(line)?);
            }
        }
    }
    Ok(records)
}

/// How many notifications each person of the groups with approved cases must have: one of each other's case.
fn notified(storm: &Storm, seen: &[Seen]) -> BTreeMap<u64, u64> {
    let mut expected = BTreeMap::new();
    for one in seen.iter().filter(|one| one.is_approved) {
        let case = storm.person(one.number);
        let first = case / GROUP * GROUP;
        for person in first..first + GROUP {
            *expected.entry(person).or_default() += u64::from(person != case);
        }
    }
    expected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storm() -> Storm {
        Storm {
            caller: Arc::new(Caller::new(([127, 0, 0, 1], 1).into())),
            recorder: Arc::new(Recorder::start()),
            askers: vec![String::new()],
            approvers: vec![String::new()],
            groups: 10,
            began_ms: 0,
            alone: AtomicU64::new(0),
            wrong_lists: AtomicU64::new(0),
        }
    }

    #[test]
    fn everybody_of_a_group_is_told_of_each_other_case_that_was_approved() {
        let case = |number, is_approved| Seen { number, case: number.to_string(), is_approved };
        // Persons 0 and 1 of the first group, and person 20, whose case waits.
        let expected = notified(&storm(), &[case(0, true), case(10, true), case(1, false)]);
        assert_eq!(expected.len() as u64, GROUP);
        assert_eq!((expected[&0], expected[&1], expected[&2], expected[&19]), (1, 1, 2, 2));
        let told = |count: u64| (0..count).map(|id| id.to_string()).collect::<Vec<_>>();
        assert_eq!(counted(expected[&2], &told(2)), Difference::default());
        assert_eq!(counted(expected[&2], &told(1)).lost, 1);
        assert_eq!(counted(expected[&2], &told(3)).unasked, 1);
    }

    #[test]
    fn a_step_that_is_not_in_the_audit_log_is_seen_and_so_is_a_reading_that_must_not_be() {
        let case = |is_approved| [Seen { number: 0, case: "a".to_owned(), is_approved }];
        let record = |action: &str| json!({"action": action, "subject": "case:a", "outcome": "done"});
        let all = ["trace_approve", "trace_read", "trace_notify"].map(record);
        assert_eq!(unrecorded(&all, &case(true)), 0);
        assert_eq!(unrecorded(&all[1..], &case(true)), 1);
        assert_eq!(unrecorded(&all, &case(false)), 1);
        assert_eq!(unrecorded(&[], &case(false)), 0);
    }

    #[test]
    fn nobody_is_the_person_of_two_cases() {
        let storm = storm();
        let persons: BTreeSet<u64> = (0..200).map(|number| storm.person(number)).collect();
        assert_eq!((persons.len(), persons.last()), (200, Some(&199)));
    }
}
