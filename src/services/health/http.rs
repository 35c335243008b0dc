//! `POST /v1/health/codes`: a person presents a code. `GET /v1/health`: what is known of oneself. `POST /v1/health/read`:
//! what is known of somebody, for an officer, in the audit log first.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{Method, Response};
use serde::Serialize;

use super::fact::{Known, Source};
use super::presented::presented;
use super::{Health, Past, Report};
use crate::audit::{Action, Entry, Outcome, Purpose};
use crate::issue::REFERENCE_BYTES_MAX;
use crate::openapi::{HealthCode, HealthRead};
use crate::payload::{self, Claim, SignedForm};
use crate::respond::{self, Cause, Refused, Rejection};
use crate::scan::{Pseudonym, Refusal, UnixMillis};
use crate::services::ask::Ask;
use crate::services::capability::StateError;
use crate::services::{Host, Services};
use crate::verify::admin_token::AdminScope;
use crate::verify::{self, ResolvedSubject, hex, unhex};

/// What is known of a person.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Facts(Vec<Known>),
    History(Vec<Past>),
}

impl Told {
    fn len(&self) -> usize {
        match self {
            Self::Facts(facts) => facts.len(),
            Self::History(past) => past.len(),
        }
    }
}

/// Whatever is asked under `/v1/health`.
///
/// # Errors
/// As the API describes.
pub(in crate::services) async fn answer(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    match (ask.method(), ask.path().as_slice()) {
        (&Method::GET | &Method::HEAD, ["health"]) => own(services, ask).await,
        (&Method::POST, ["health", "codes"]) => present(services, ask).await,
        (&Method::POST, ["health", "read"]) => read(services, ask).await,
        (_, ["health"]) => Ok(respond::rejected(Rejection::MethodNotAllowed("GET, HEAD"))),
        (_, ["health", "codes" | "read"]) => Ok(respond::rejected(Rejection::MethodNotAllowed("POST"))),
        _ => Err(Refused::new(Cause::NotFound, "there is nothing under this path")),
    }
}

async fn own(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let person = ask.person(services.host.as_ref())?;
    let [history] = ask.query(["history"])?;
    let history = match history.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Refused::new(Cause::Malformed, "history is true or false").field("history")),
    };
    let health = Arc::clone(&services.capabilities.health);
    Ok(respond::json(&blocking(move || told(&health, person, history)).await?))
}

async fn present(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let person = ask.person(services.host.as_ref())?;
    let [] = ask.query([])?;
    let HealthCode { qr } = ask.json()?;
    let (host, now) = (Arc::clone(&services.host), ask.now);
    let report = blocking(move || report(host.as_ref(), &qr, person, now)).await?;
    Ok(Health::record(&services.log, report, ask.now).await?.into())
}

/// What a code says of the person who presents it.
fn report(host: &dyn Host, qr: &str, person: Pseudonym, now: UnixMillis) -> Result<Report, Refused> {
    let invalid = |detail: String| Refused::new(Cause::Invalid, detail).field("/qr");
    let refused = |refusal: Refusal| invalid(format!("{}: {}", refusal.outcome, refusal.detail));
    let claim = payload::parse(qr.trim()).map_err(refused)?;
    let Claim::Signed(form @ (SignedForm::Hc1(_) | SignedForm::Shc(_))) = claim else {
        return Err(invalid("must be a health certificate (HC1:) or a SMART Health Card (shc:/)".to_owned()));
    };
    let verified = verify::signed(form, now, &host.keys().load()).map_err(refused)?;
    let ResolvedSubject::Person(holder) = host.identity().holder(&verified.holder).map_err(refused)? else {
        return Err(invalid("the code stands for no person".to_owned()));
    };
    if host.links().citizen_of(holder) != person {
        let detail =
            "the code isn't known to be the token's person's; the feed of links tells whose codes are whose";
        return Err(Refused::new(Cause::Forbidden, detail).field("/qr"));
    }
    let presented = presented(form).map_err(|why| invalid(why.to_owned()))?;
    Ok(Report {
        source: Source::Code(verified.form),
        record: hex(&holder.0),
        version: presented.issued_at_s,
        person: Some(holder),
        facts: presented.facts,
    })
}

async fn read(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let caller = ask.officer(services.host.as_ref(), AdminScope::Services)?;
    let [] = ask.query([])?;
    let HealthRead { person, purpose, history } = ask.json()?;
    let invalid = |field: &'static str, detail: String| Refused::new(Cause::Invalid, detail).field(field);
    let purpose = Purpose::parse(&purpose).map_err(|error| invalid("/purpose", error.to_string()))?;
    if !(1..=REFERENCE_BYTES_MAX).contains(&person.trim().len()) {
        return Err(invalid("/person", "must have 1 to 256 bytes".to_owned()));
    }
    let own = match unhex(&person) {
        Some(pseudonym) => Pseudonym(pseudonym),
        None => services.host.identity().person_reference(&person),
    };
    let (host, health) = (Arc::clone(&services.host), Arc::clone(&services.capabilities.health));
    let told = blocking(move || {
        let person = host.links().citizen_of(own);
        let entry = Entry::new(caller.to_string(), Action::Health).about(person).purpose(Some(purpose));
        let unwritten = |error: crate::audit::AuditError| {
            tracing::error!(error = %anyhow::Error::from(error), "the audit log can't be written; the call was refused");
            let detail = "the audit log can't be written, and nothing is done that is not in it";
            Refused::new(Cause::Unavailable, detail).bound("audit.disk").retry_after(30)
        };
        let call = host.audit().append(&entry, Outcome::Begun, UnixMillis::now()).map_err(unwritten)?;
        let told = told(&health, person, history);
        let (outcome, rows) = match &told {
            Ok(told) => (Outcome::Done, u64::try_from(told.len()).ok()),
            Err(_) => (Outcome::Failed, None),
        };
        host.audit().end(call, &entry, (outcome, rows), UnixMillis::now()).map_err(unwritten)?;
        told
    });
    Ok(respond::json(&told.await?))
}

fn told(health: &Health, person: Pseudonym, history: bool) -> Result<Told, Refused> {
    let unreadable = |error: StateError| {
        tracing::error!(error = %anyhow::Error::from(error), "facts can't be read");
        Refused::new(Cause::Unavailable, "the tables can't be read").bound("services.disk").retry_after(30)
    };
    if history {
        health.history_of(person).map(Told::History).map_err(unreadable)
    } else {
        health.facts_of(person).map(Told::Facts).map_err(unreadable)
    }
}

/// Done on a thread of its own, so that other requests don't wait for the disk or a signature.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    let panicked = |_| Refused::new(Cause::Unavailable, "the request failed on this side");
    tokio::task::spawn_blocking(work).await.map_err(panicked)?
}
