//! `PUT /v1/places` brings places, `GET /v1/places/{key}` tells one.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Response};
use serde::{Deserialize, Serialize};

use super::{CLASS_BYTES_MAX, DistrictCode, Entry, NAME_BYTES_MAX, Place, ProvinceCode};
use crate::identity::Identity;
use crate::issue::REFERENCE_BYTES_MAX;
use crate::journal::EVENT_BODY_BYTES_MAX;
use crate::openapi::PlacesPut;
use crate::respond::{self, Cause, Refused, Rejection};
use crate::scan::PlaceKey;
use crate::services::Services;
use crate::services::ask::Ask;
use crate::services::capability::{Effect, Kind};
use crate::verify::admin_token::AdminScope;
use crate::verify::{hex, unhex};

/// Most places in a request.
pub const LINES_MAX: usize = 100_000;

/// A request's body: so many lines of 300 bytes.
pub const BODY_BYTES_MAX: usize = 30 << 20;

/// Events under way at once: they share their commits.
const EVENTS_AT_ONCE: usize = 32;

/// One line of `PUT /v1/places`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    reference: String,
    name: Box<str>,
    district: DistrictCode,
    province: ProvinceCode,
    lon: f64,
    lat: f64,
    #[serde(default)]
    class: Box<str>,
}

#[derive(Serialize)]
struct Told<'a> {
    key: String,
    #[serde(flatten)]
    place: &'a Place,
}

/// Whether so long a body may be sent: only officers send places.
///
/// # Errors
/// It is for the directory, and not an officer's.
pub(in crate::services) fn may_send(services: &Services, ask: &Ask) -> Result<(), Refused> {
    if ask.method() == Method::PUT && ask.head.uri.path() == "/v1/places" {
        ask.officer(services.host.as_ref(), AdminScope::Services)?;
    }
    Ok(())
}

/// Whatever is asked under `/v1/places`.
///
/// # Errors
/// As the API describes.
pub(in crate::services) async fn answer(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    match (ask.method(), ask.path().as_slice()) {
        (&Method::GET | &Method::HEAD, ["places", key]) => get(services, ask, key),
        (&Method::PUT, ["places"]) => put(services, ask).await,
        (_, ["places"]) => Ok(respond::rejected(Rejection::MethodNotAllowed("PUT"))),
        (_, ["places", _]) => Ok(respond::rejected(Rejection::MethodNotAllowed("GET, HEAD"))),
        _ => Err(Refused::new(Cause::NotFound, "there is nothing under this path")),
    }
}

fn get(services: &Services, ask: &Ask, key: &str) -> Result<Response<Bytes>, Refused> {
    let [] = ask.query([])?;
    let wrong = || Refused::new(Cause::Malformed, "a place's key has 32 hexadecimal digits").field("key");
    let key = PlaceKey(unhex(key).ok_or_else(wrong)?);
    let unknown = || Refused::new(Cause::NotFound, "the directory doesn't know this place").field("key");
    let place = services.capabilities.places.get(key).ok_or_else(unknown)?;
    Ok(respond::json(&Told { key: key.to_string(), place: &place }))
}

async fn put(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    may_send(services, ask)?;
    let [] = ask.query([])?;
    let essence = ask.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = essence.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-ndjson") {
        let detail = "Content-Type must be application/x-ndjson";
        return Err(Refused::new(Cause::UnsupportedMediaType, detail).field("content-type"));
    }
    let (body, host) = (ask.body.clone(), std::sync::Arc::clone(&services.host));
    // Thousands of lines: other requests are answered meanwhile.
    let events = tokio::task::spawn_blocking(move || events(&body, host.identity())).await;
    let events = events.map_err(|_| Refused::new(Cause::Unavailable, "reading the lines failed"))??;
    let record = |event| services.log.record(Kind::Places, event, ask.now);
    let effects = stream::iter(events).map(record).buffered(EVENTS_AT_ONCE);
    let add = async |sum: PlacesPut, effect: Effect| match effect {
        Effect::Created(body) | Effect::Done(body) => {
            let put: PlacesPut = serde_json::from_slice(&body).unwrap_or_default();
            Ok(PlacesPut {
                created: sum.created + put.created,
                changed: sum.changed + put.changed,
                unchanged: sum.unchanged + put.unchanged,
            })
        }
        Effect::Refused(refused) => Err(refused),
    };
    let sum = effects.try_fold(PlacesPut::default(), add).await?;
    Ok(respond::json(&sum))
}

/// The lines as events, each as full as it may be. One bad line refuses all, before anything is recorded.
fn events(body: &[u8], identity: &Identity) -> Result<Vec<Vec<u8>>, Refused> {
    const HEAD: &[u8] = br#"{"type":"put","places":["#;
    const TAIL: &[u8] = b"]}";
    let mut events = Vec::new();
    let mut event = HEAD.to_vec();
    let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).zip(1_u64..);
    let lines = lines.filter(|(line, _)| !line.is_empty());
    for (count, (line, number)) in lines.enumerate() {
        if count >= LINES_MAX {
            let refused = Refused::new(Cause::TooLarge, "a request may have 100000 places").field("body");
            return Err(refused.limit(LINES_MAX as u64, None));
        }
        let (reference, place) = read(line, number)?;
        let entry = Entry { key: hex(&identity.place(&reference).0), place };
        // Strings and numbers always serialize.
        let entry = serde_json::to_vec(&entry).unwrap_or_default();
        if event.len() > HEAD.len() {
            if event.len() + 1 + entry.len() + TAIL.len() > EVENT_BODY_BYTES_MAX {
                event.extend_from_slice(TAIL);
                events.push(std::mem::replace(&mut event, HEAD.to_vec()));
            } else {
                event.push(b',');
            }
        }
        event.extend_from_slice(&entry);
    }
    if event.len() > HEAD.len() {
        event.extend_from_slice(TAIL);
        events.push(event);
    }
    Ok(events)
}

fn read(line: &[u8], number: u64) -> Result<(String, Place), Refused> {
    let invalid = |field: &str, what: &str| {
        Refused::new(Cause::Invalid, format!("line {number}: {field} {what}")).field(format!("/{field}"))
    };
    let reader = &mut serde_json::Deserializer::from_slice(line);
    let line: Line = serde_path_to_error::deserialize(reader).map_err(|error| {
        let path = error.path().to_string();
        if path == "." || !error.inner().is_data() {
            let what = "must be an object with reference, name, district, province, lon and lat";
            return Refused::new(Cause::Invalid, format!("line {number}: {what}")).field("body");
        }
        invalid(&path, "must be as the API describes it")
    })?;
    if !(1..=REFERENCE_BYTES_MAX).contains(&line.reference.trim().len()) {
        return Err(invalid("reference", "must have 1 to 256 bytes"));
    }
    if !(1..=NAME_BYTES_MAX).contains(&line.name.len()) || line.name.chars().any(char::is_control) {
        return Err(invalid("name", "must have 1 to 256 bytes and no control characters"));
    }
    if line.class.len() > CLASS_BYTES_MAX || !line.class.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid("class", "must have up to 32 visible ASCII characters"));
    }
    if !(-180.0..=180.0).contains(&line.lon) {
        return Err(invalid("lon", "must be degrees from -180 to 180"));
    }
    if !(-90.0..=90.0).contains(&line.lat) {
        return Err(invalid("lat", "must be degrees from -90 to 90"));
    }
    let Line { reference, name, district, province, lon, lat, class } = line;
    Ok((reference, Place { name, district, province, lon, lat, class }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Pepper;

    const LINE: &str = r#"{"reference":"cho-dong-xuan","name":"Chợ Đồng Xuân","district":"002","province":"01","lon":105.85,"lat":21.0385,"class":"market"}"#;

    fn identity() -> Identity {
        Identity::new(&Pepper::new([7; 32], true))
    }

    #[test]
    fn lines_become_events_of_many_places_within_their_bound() {
        let lines: Vec<String> = (0..100).map(|n| LINE.replace("xuan", &format!("xuan-{n}"))).collect();
        let events = events(lines.join("\n").as_bytes(), &identity()).unwrap();
        assert!((2..20).contains(&events.len()), "{}", events.len());
        let mut keys = Vec::new();
        for event in events {
            assert!(event.len() <= EVENT_BODY_BYTES_MAX);
            let super::super::Change::Put { places } = serde_json::from_slice(&event).unwrap();
            assert!(places.iter().all(|entry| entry.place.district == *"002"));
            keys.extend(places.into_iter().map(|entry| entry.key));
        }
        let expected: Vec<String> =
            (0..100).map(|n| identity().place(&format!("cho-dong-xuan-{n}")).to_string()).collect();
        assert_eq!(keys, expected);
    }

    #[test]
    fn a_bad_line_is_named_with_its_member() {
        for (from, to, field) in [
            ("cho-dong-xuan", "", "/reference"),
            ("Chợ Đồng Xuân", "", "/name"),
            ("\"002\"", "\"2\"", "/district"),
            ("\"01\"", "1", "/province"),
            ("105.85", "181", "/lon"),
            ("21.0385", "-90.5", "/lat"),
            ("market", "a market", "/class"),
            ("\"class\"", "\"klass\"", "/klass"),
            (",\"lon\":105.85", "", "body"),
            ("}", "", "body"),
        ] {
            let body = format!("{LINE}\n\n{}\n", LINE.replace(from, to));
            let refused = events(body.as_bytes(), &identity()).unwrap_err();
            assert_eq!((refused.cause, refused.field.as_deref()), (Cause::Invalid, Some(field)), "{to}");
            assert!(refused.detail.starts_with("line 3: "), "{}", refused.detail);
        }
    }
}
