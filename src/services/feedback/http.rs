//! What is asked of feedback over HTTP.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response};
use serde::Deserialize;

use super::event::{self, Sent, Told};
use super::item::{self, Category, Language, TEXT_CHARS_MAX};
use super::limits::Sender;
use super::tables::{Taken, unknown_photo};
use super::{Feedback, body, random};
use crate::openapi::feedback as api;
use crate::payload::{self, Claim};
use crate::respond::{self, Cause, Refused, Rejection};
use crate::scan::{PlaceKey, Pseudonym};
use crate::services::Services;
use crate::services::ask::Ask;
use crate::services::capability::{Effect, Kind};
use crate::verify::{self, hex, unhex};

mod officers;
mod photos;

/// Characters of the sender's id, and bytes of a place's reference or code.
const ID_CHARS_MAX: usize = 64;
const PLACE_BYTES_MAX: usize = 1_024;

/// Answers a request under `/v1/feedback`.
///
/// # Errors
/// It is refused.
pub async fn answer(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let path = ask.path();
    let path: &[&str] = path.get(1..).unwrap_or_default();
    let reads = matches!(*ask.method(), Method::GET | Method::HEAD);
    let posts = *ask.method() == Method::POST;
    let allowed = match path {
        [] if posts => return send(services, ask).await,
        [] if reads => return officers::queue(services, ask).await,
        ["photos"] if posts => return photos::take(services, ask).await,
        ["photos"] => "POST",
        ["receipt"] if posts || reads => return receipt(services, ask),
        [] | ["receipt"] => "GET, HEAD, POST",
        ["export"] if reads => return officers::export(services, ask).await,
        ["export"] => "GET, HEAD",
        [id] if reads => return officers::one(services, ask, id).await,
        [id, "photo"] if reads => return photos::show(services, ask, id).await,
        [id, "state"] if posts => return officers::step(services, ask, id).await,
        [_] | [_, "photo"] => "GET, HEAD",
        [_, "state"] => "POST",
        _ => return Err(Refused::new(Cause::NotFound, "there is nothing under this path")),
    };
    Ok(respond::rejected(Rejection::MethodNotAllowed(allowed)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    id: String,
    category: Category,
    #[serde(default)]
    place: Option<String>,
    text: String,
    language: Language,
    #[serde(default)]
    photo: Option<String>,
}

/// `POST /v1/feedback`
async fn send(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let feedback = &services.capabilities.feedback;
    let person = within_rate(services, ask)?;
    let asked: Body = ask.json()?;
    if !(1..=ID_CHARS_MAX).contains(&asked.id.len()) || !asked.id.bytes().all(|byte| byte.is_ascii_graphic())
    {
        let detail = "id must have 1 to 64 visible ASCII characters";
        return Err(Refused::new(Cause::Invalid, detail).field("/id"));
    }
    let text = checked(&asked.text, "/text")?;
    let text = if person.is_some() { text } else { item::masked(&text) };
    let place = asked.place.map(|place| self::place(services, ask, &place)).transpose()?;
    let photo = asked.photo.map(photo_id).transpose()?;
    let sender = person.map(|person| person.to_string());
    let place = place.map(|place| hex(&place.0));
    let (category, language) = (asked.category, asked.language);
    let parts = [
        Some(category.name()),
        Some(language.name()),
        Some(text.as_str()),
        place.as_deref(),
        photo.as_deref(),
    ];
    let content = hashed(&parts);
    let key = hashed(&[sender.as_deref(), Some(&asked.id)]);
    let repeat = repeat(feedback, ask, &[sender.as_deref(), Some(category.name()), Some(&text)]);
    let (receipt, draft) = (secret()?, secret()?);
    let open_max = feedback.anonymous_open_max;
    let (texts, text) = event::parted(text, &draft);
    record_all(services, ask, texts).await?;
    let sent = Sent {
        key,
        content,
        repeat,
        receipt: hashed(&[Some(&receipt)]),
        category,
        language,
        place,
        photo,
        text,
        sender,
        open_max,
    };
    let effect = record(services, ask, &Told::Sent(Box::new(sent))).await?;
    let told = |body: &[u8]| {
        let Taken { id, state, received } = serde_json::from_slice(body).map_err(|_| broken())?;
        Ok(api::FeedbackTaken { id, state: state.name().to_owned(), received, receipt: receipt.clone() })
    };
    match effect {
        Effect::Created(body) => Ok(respond::created(&told(&body)?)),
        Effect::Done(body) => Ok(respond::json(&told(&body)?)),
        Effect::Refused(refused) => Err(refused),
    }
}

/// Who signed a request, if anybody; one is taken from that sender's bucket.
fn within_rate(services: &Services, ask: &Ask) -> Result<Option<Pseudonym>, Refused> {
    let feedback = &services.capabilities.feedback;
    let is_signed = ask.headers().contains_key(AUTHORIZATION);
    let person = is_signed.then(|| ask.person(&*services.host)).transpose()?;
    let taken = feedback.limits.take(Sender::of(person, ask.peer.address.ip()), ask.now);
    taken.map(|()| person).map_err(|(limit, bound, wait_s)| {
        let detail = "more feedback than one sender may send";
        Refused::new(Cause::RateLimited, detail)
            .bound(bound)
            .limit(u64::from(limit), None)
            .retry_after(wait_s)
    })
}

fn checked(text: &str, field: &'static str) -> Result<String, Refused> {
    item::text(text).map_err(|error| {
        let name = field.trim_start_matches('/');
        let refused = Refused::new(Cause::Invalid, format!("{name} {error}")).field(field);
        match error {
            item::TextError::Length(chars) => refused.limit(TEXT_CHARS_MAX as u64, Some(chars as u64)),
            item::TextError::Control => refused,
        }
    })
}

/// The key of the place that a poster's payload or any other reference names.
fn place(services: &Services, ask: &Ask, text: &str) -> Result<PlaceKey, Refused> {
    let refused = |detail: String| Refused::new(Cause::Invalid, detail).field("/place");
    let text = text.trim();
    if !(1..=PLACE_BYTES_MAX).contains(&text.len()) {
        let detail = format!("place must have 1 to {PLACE_BYTES_MAX} bytes");
        return Err(refused(detail).limit(PLACE_BYTES_MAX as u64, Some(text.len() as u64)));
    }
    let identity = services.host.identity();
    match payload::parse(text) {
        Ok(Claim::Place(form)) => Ok(identity.place_form(&form)),
        Ok(Claim::Person(_)) => Err(refused("place must be a place's code, not a person's".to_owned())),
        Ok(Claim::Signed(form)) => {
            let verified = verify::signed(form, ask.now, &services.host.keys().load());
            match verified.and_then(|verified| identity.holder(&verified.holder)) {
                Ok(verify::ResolvedSubject::Place(place)) => Ok(place),
                Ok(_) => Err(refused("place must be a place's code, not a person's".to_owned())),
                Err(refusal) => Err(refused(format!("place: {}", refusal.detail))),
            }
        }
        // A code of some kind, and a broken one: not to be taken for a place's name.
        Err(refusal) if payload::format_name(text).is_some() => {
            Err(refused(format!("place: {}", refusal.detail)))
        }
        Err(_) => Ok(identity.place(text)),
    }
}

fn photo_id(id: String) -> Result<String, Refused> {
    let is_hash = id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hash { Ok(id) } else { Err(unknown_photo()) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceiptBody {
    receipt: String,
}

/// `GET /v1/feedback/receipt` with the secret in a header, and `POST` with it in the body: it has no place in a URL.
fn receipt(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let (given, field) = if *ask.method() == Method::POST {
        (ask.json::<ReceiptBody>()?.receipt, "/receipt")
    } else {
        let header = ask.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = header.and_then(|header| header.split_once(' '));
        let Some((_, given)) = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("receipt")) else {
            let detail = "Authorization must be Receipt and the secret that came with the answer";
            return Err(Refused::new(Cause::Unauthenticated, detail).field("authorization"));
        };
        (given.trim().to_owned(), "authorization")
    };
    let unknown = || Refused::new(Cause::NotFound, "no feedback has this receipt, or no longer").field(field);
    let secret: [u8; 16] = unhex(&given).ok_or_else(unknown)?;
    let hash = hashed(&[Some(&hex(&secret))]);
    let item =
        services.capabilities.feedback.tables.of_receipt(&hash).map_err(unreadable)?.ok_or_else(unknown)?;
    Ok(respond::json(&api::FeedbackProgress {
        id: item.id,
        category: item.category.name().to_owned(),
        state: item.state.name().to_owned(),
        received: item::written(item.at),
        changed: item::written(item.changed),
        answer: item.answer,
    }))
}

/// Records an event and waits until it is applied.
async fn record(services: &Services, ask: &Ask, told: &Told) -> Result<Effect, Refused> {
    services.log.record(Kind::Feedback, body(told), ask.now).await
}

/// The parts of a text, in order.
async fn record_all(services: &Services, ask: &Ask, parts: Vec<Told>) -> Result<(), Refused> {
    for part in &parts {
        if let Effect::Refused(refused) = record(services, ask, part).await? {
            return Err(refused);
        }
    }
    Ok(())
}

/// A hash of parts that can't be told apart from no other parts'.
fn hashed(parts: &[Option<&str>]) -> String {
    hex(digest(&SHA256, &framed(parts)).as_ref())
}

/// What comes from one sender with one text within minutes has one of these. Of who doesn't sign, it takes the address,
/// under a key that ends with the process.
fn repeat(feedback: &Feedback, ask: &Ask, parts: &[Option<&str>]) -> String {
    let address = ask.peer.address.ip().to_canonical().to_string();
    let is_signed = parts.first().is_some_and(Option::is_some);
    let origin = if is_signed { None } else { Some(address.as_str()) };
    let tag = hmac::sign(&feedback.origins, &framed(&[&[origin], parts].concat()));
    hex(tag.as_ref())
}

fn framed(parts: &[Option<&str>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(part.unwrap_or_default().as_bytes());
    }
    bytes
}

fn secret() -> Result<String, Refused> {
    let none = || Refused::new(Cause::Unavailable, "the system has no random numbers");
    random().map(|secret| hex(&secret)).ok_or_else(none)
}

/// The tables can't be read: the log has why.
fn unreadable(error: crate::services::capability::StateError) -> Refused {
    tracing::error!(error = %anyhow::Error::from(error), "feedback can't be read");
    Refused::new(Cause::Unavailable, "feedback can't be read now").bound("services.disk").retry_after(30)
}

/// What a thread beside the listener's was to do, it didn't: it panicked, which the log has.
fn broken() -> Refused {
    Refused::new(Cause::Unavailable, "the gateway failed at this; its log has why")
}

/// The essence of a body's type.
fn content_type(ask: &Ask) -> &str {
    let value = ask.headers().get(CONTENT_TYPE).map(HeaderValue::to_str);
    let value = value.and_then(Result::ok).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}
