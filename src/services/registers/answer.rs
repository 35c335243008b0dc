//! `/v1/registers`: how the feeds stand, for officers; what registers push; and a look for one citizen's records.

use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::hmac;
use bytes::Bytes;
use hyper::{Method, Response};

use super::client::{Register as _, RegisterError};
use super::intake::{self, Taken};
use super::page::{Bad, Page};
use super::{Delivery, End, WINDOW};
use crate::audit::{Action, Entry, Outcome, Purpose};
use crate::openapi::{LookupRequest, PushAnswer, RefusedChange, RegisterState, RegisterStates};
use crate::respond::{self, Cause, Refused};
use crate::scan::UnixMillis;
use crate::services::Services;
use crate::services::ask::Ask;
use crate::services::health::fact::RegisterId;
use crate::verify::admin_token::AdminScope;
use crate::verify::unhex;

/// How far a push's time may be from now, so that one that was caught can't be sent again much later.
const PUSH_SKEW_S: i64 = 300;

/// Whether a path is that of a push, whose bodies may be longer.
pub(in crate::services) fn is_push(path: &str) -> bool {
    path.starts_with("/v1/registers/") && path.ends_with("/changes")
}

/// Answers what is under `/v1/registers`.
pub(in crate::services) async fn answer(
    services: &Arc<Services>,
    ask: &Ask,
) -> Result<Response<Bytes>, Refused> {
    let nothing = || Refused::new(Cause::NotFound, "there is nothing under this path");
    match (ask.method(), ask.path().as_slice()) {
        (&Method::GET | &Method::HEAD, ["registers"]) => states(services, ask),
        (&Method::POST, ["registers", name, "changes"]) => {
            push(services, ask, RegisterId::from_name(name).ok_or_else(nothing)?).await
        }
        (&Method::POST, ["registers", name, "lookups"]) => {
            lookup(services, ask, RegisterId::from_name(name).ok_or_else(nothing)?).await
        }
        _ => Err(nothing()),
    }
}

fn states(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    ask.officer(&*services.host, AdminScope::Services)?;
    ask.query([])?;
    let registers = RegisterId::ALL.iter().map(|register| state(services, *register, ask.now)).collect();
    Ok(respond::json(&RegisterStates { registers }))
}

fn state(services: &Services, register: RegisterId, now: UnixMillis) -> RegisterState {
    let registers = &services.capabilities.registers;
    let (source, live) = (services.registers.of(register), registers.live(register));
    let client = source.and_then(|source| source.client.as_ref());
    RegisterState {
        register: register.name().to_owned(),
        followed: client.is_some(),
        pushes: source.is_some_and(|source| source.secret.is_some()),
        breaker: client.map(|client| client.position(Instant::now()).name().to_owned()),
        cursor: live.feed.cursor,
        age_s: registers.age(register, now).map(|age| age.as_secs()),
        behind: live.feed.behind,
        succeeded_at: live.succeeded_at.map(|at| at.to_string()),
        failed_at: live.failed.map(|(at, _)| at.to_string()),
        failure: live.failed.map(|(_, why)| why.to_owned()),
        accepted: live.feed.accepted,
        repeated: live.feed.repeated,
        refused: live.feed.refused,
    }
}

async fn push(services: &Arc<Services>, ask: &Ask, register: RegisterId) -> Result<Response<Bytes>, Refused> {
    let registers = &services.capabilities.registers;
    let source = services.registers.of(register);
    let Some((source, secret)) = source.and_then(|source| Some((source, source.secret.as_ref()?))) else {
        return Err(Refused::new(Cause::NotFound, "this register pushes nothing here"));
    };
    let number = signed(secret, ask, register)?;
    ask.query([])?;
    let page: Page = ask.json()?;
    page.keeps_the_contract().map_err(|bad| Refused::new(Cause::Malformed, bad.rule).field(bad.field))?;
    let _turn = source.turn.lock().await;
    if registers.live(register).feed.knows(number) == Delivery::TooOld {
        let detail = format!("may be up to {} behind the newest delivery", WINDOW - 1);
        return Err(Refused::new(Cause::Conflict, detail).field("scangate-delivery"));
    }
    let end = End { after: page.after, cursor: page.cursor, behind: page.behind, delivery: Some(number) };
    // One that has come before is taken in again, which changes nothing: its answer is the same but for the counts.
    let taken = intake::take(services, register, page.changes, Some(end), ask.now).await?;
    registers.has_answered(register, registers.live(register).feed.behind, ask.now);
    Ok(respond::json(&answered(services, register, taken, "changes")))
}

fn answered(services: &Services, register: RegisterId, taken: Taken, list: &str) -> PushAnswer {
    let refused = |(index, Bad { field, rule }): (usize, Bad)| RefusedChange {
        field: format!("/{list}/{index}{field}"),
        detail: rule,
    };
    PushAnswer {
        accepted: taken.accepted,
        repeated: taken.repeated,
        conflicting: taken.conflicting,
        refused: taken.bad.into_iter().map(refused).collect(),
        cursor: services.capabilities.registers.live(register).feed.cursor,
    }
}

const TIME: &str = "must be the time of the delivery in seconds since 1970, within 300 of now";
const NUMBER: &str = "must be the number of the delivery, counted from 1";
const SIGNATURE: &str = "must be the HMAC-SHA256 of register, time, number and body, in hexadecimal";

/// The number of a delivery whose signature holds: HMAC-SHA256 of register, time, number and body, a line each.
fn signed(secret: &hmac::Key, ask: &Ask, register: RegisterId) -> Result<u64, Refused> {
    let header = |name: &'static str, detail: &'static str| {
        let value = ask.headers().get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| Refused::new(Cause::Unauthenticated, detail).field(name))
    };
    let wrong =
        |name: &'static str, detail: &'static str| Refused::new(Cause::Unauthenticated, detail).field(name);
    let (at, number) = (header("scangate-time", TIME)?, header("scangate-delivery", NUMBER)?);
    let signature = header("scangate-signature", SIGNATURE)?;
    let text = [register.name().as_bytes(), at.as_bytes(), number.as_bytes(), &ask.body].join(&b'\n');
    let tag: Option<[u8; 32]> = unhex(signature);
    if tag.is_none_or(|tag| hmac::verify(secret, &text, &tag).is_err()) {
        return Err(wrong("scangate-signature", SIGNATURE));
    }
    let seconds =
        at.parse().ok().filter(|at: &i64| at.abs_diff(ask.now.seconds()) <= PUSH_SKEW_S.unsigned_abs());
    seconds.ok_or_else(|| wrong("scangate-time", TIME))?;
    number.parse().ok().filter(|number| *number > 0).ok_or_else(|| wrong("scangate-delivery", NUMBER))
}

async fn lookup(
    services: &Arc<Services>,
    ask: &Ask,
    register: RegisterId,
) -> Result<Response<Bytes>, Refused> {
    let caller = ask.officer(&*services.host, AdminScope::Services)?;
    ask.query([])?;
    let LookupRequest { citizen, purpose } = ask.json()?;
    if citizen.len() != 12 || !citizen.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refused::new(Cause::Invalid, "must be 12 digits").field("/citizen"));
    }
    let purpose = Purpose::parse(&purpose)
        .map_err(|error| Refused::new(Cause::Invalid, error.to_string()).field("/purpose"))?;
    let source = services.registers.of(register);
    let asked = source.and_then(|source| Some((source, source.client.as_ref()?)));
    let Some((source, client)) = asked.filter(|(_, client)| client.answers_lookups()) else {
        return Err(Refused::new(Cause::NotFound, "this register isn't asked about single persons here"));
    };
    let host = Arc::clone(&services.host);
    let person = host.links().citizen_of(host.identity().citizen(&citizen));
    let entry = Entry::new(caller.to_string(), Action::RegisterLookup).about(person).purpose(Some(purpose));
    let appended =
        tokio::task::spawn_blocking(move || host.audit().append(&entry, Outcome::Done, UnixMillis::now()))
            .await;
    if !matches!(appended, Ok(Ok(_))) {
        tracing::error!("the audit log can't be written; a look-up was refused");
        let detail = "the audit log can't be written, and nothing is done that is not in it";
        return Err(Refused::new(Cause::Unavailable, detail).bound("audit.disk").retry_after(30));
    }
    let found = client.lookup(&citizen).await.map_err(|error| away(&error))?;
    let records = found.map(|found| found.records).unwrap_or_default();
    let _turn = source.turn.lock().await;
    let taken = intake::take(services, register, records, None, ask.now).await?;
    Ok(respond::json(&answered(services, register, taken, "records")))
}

/// What is known stays known; only this question has no answer now.
fn away(error: &RegisterError) -> Refused {
    let refused = Refused::new(Cause::Unavailable, format!("{error}; what is known stays as it is"));
    match error {
        RegisterError::Open { wait } => {
            let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            refused.bound("registers.breaker_pause_ms").retry_after(seconds)
        }
        RegisterError::Busy => refused.bound("registers.in_flight_max"),
        _ => refused.bound("registers"),
    }
}
