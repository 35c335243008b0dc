//! `GET /v1/map/days`, `GET /v1/map/{day}/districts.geojson`, `GET /v1/map/{day}/places.geojson`: for everybody,
//! without a token, and the same for all, so that it may be kept along the way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, ETAG, HeaderValue};
use hyper::{Method, Response};
use serde_json::json;

use super::{DISTRICT, Day, PLACE, RiskMap, geojson, written};
use crate::pages;
use crate::respond::{self, Cause, GEO_JSON, JSON, Refused};
use crate::services::Services;
use crate::services::ask::Ask;
use crate::services::capability::StateError;
use crate::services::places::DistrictCode;

/// Most places in an answer: 6 MB.
const PLACES_MAX: usize = 20_000;

/// Answers kept, of which a day has one of districts and few of places.
const KEPT_MAX: usize = 64;

/// One thing to be asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    Days,
    Districts(Day),
    Places(Day, Option<DistrictCode>),
}

/// Its answer, and the version of the map that it was made from.
#[derive(Debug, Clone)]
pub(super) struct Built {
    version: u64,
    pub(super) body: Bytes,
    pub(super) etag: String,
}

/// Whatever is asked under `/v1/map`.
///
/// # Errors
/// As the API describes.
pub(in crate::services) async fn answer(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let nothing = || Refused::new(Cause::NotFound, "there is nothing under this path");
    if ![Method::GET, Method::HEAD].contains(ask.method()) {
        return Err(nothing());
    }
    let asked = match ask.path().as_slice() {
        ["map", "days"] => Asked::Days,
        ["map", day, "districts.geojson"] => Asked::Districts(read_day(day)?),
        ["map", day, "places.geojson"] => {
            let [district] = ask.query(["district"])?;
            Asked::Places(read_day(day)?, district.as_deref().map(read_district).transpose()?)
        }
        _ => return Err(nothing()),
    };
    if !matches!(asked, Asked::Places(..)) {
        let [] = ask.query([])?;
    }
    let content_type = if asked == Asked::Days { JSON } else { GEO_JSON };
    let map = Arc::clone(&services.capabilities.risk_map);
    let built = tokio::task::spawn_blocking(move || map.built(asked)).await;
    let built = built.map_err(|_| Refused::new(Cause::Unavailable, "the map can't be read now"))??;
    let mut response = if pages::is_known(ask.headers(), &built.etag) {
        respond::not_modified()
    } else {
        respond::ok(content_type, built.body)
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    if let Ok(etag) = HeaderValue::from_str(&built.etag) {
        headers.insert(ETAG, etag);
    }
    Ok(response)
}

fn read_day(text: &str) -> Result<Day, Refused> {
    Day::parse(text)
        .ok_or_else(|| Refused::new(Cause::Malformed, "must be a day such as 2021-11-24").field("day"))
}

fn read_district(text: &str) -> Result<DistrictCode, Refused> {
    let wrong = || Refused::new(Cause::Malformed, "a district's code has three digits").field("district");
    DistrictCode::parse(text).ok_or_else(wrong)
}

fn unreadable(error: StateError) -> Refused {
    tracing::error!(error = %anyhow::Error::from(error), "the risk map can't be read");
    Refused::new(Cause::Unavailable, "the map's tables can't be read").bound("services.disk").retry_after(30)
}

impl RiskMap {
    /// An answer as it was made before, if nothing has changed since.
    pub(super) fn built(&self, asked: Asked) -> Result<Built, Refused> {
        let version = self.version.load(Ordering::Acquire);
        if let Some(built) = self.answers.lock().get(&asked).filter(|built| built.version == version) {
            return Ok(built.clone());
        }
        let body = Bytes::from(self.build(&asked)?);
        let built = Built { version, etag: pages::etag(&body), body };
        let mut answers = self.answers.lock();
        if answers.len() >= KEPT_MAX {
            answers.clear();
        }
        answers.insert(asked, built.clone());
        Ok(built)
    }

    pub(super) fn build(&self, asked: &Asked) -> Result<Vec<u8>, Refused> {
        match asked {
            Asked::Days => self.tell_days(),
            Asked::Districts(day) => {
                let of = self.on(*day)?;
                let districts: Result<Vec<_>, _> = self.told(&of, DISTRICT, None).collect();
                let cases = self.cases(*day).map_err(unreadable)?;
                // Without a case there is no need to look at the places.
                let levels = if cases.is_empty() {
                    BTreeMap::new()
                } else {
                    geojson::levels(of.k, self.told(&of, PLACE, None), &cases).map_err(unreadable)?
                };
                Ok(geojson::districts(&of, &districts.map_err(unreadable)?, &levels))
            }
            Asked::Places(day, district) => {
                let of = self.on(*day)?;
                let places = self.told(&of, PLACE, *district).take(PLACES_MAX + 1);
                let places = places.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
                if places.len() > PLACES_MAX {
                    let detail = "there are more places than an answer holds: ask by district";
                    let refused = Refused::new(Cause::Invalid, detail).field("district");
                    return Err(refused.limit(PLACES_MAX as u64, None));
                }
                let cases = self.cases(*day).map_err(unreadable)?;
                Ok(geojson::places(&of, places, &cases, &self.places))
            }
        }
    }

    fn on(&self, day: Day) -> Result<super::Published, Refused> {
        let unknown =
            || Refused::new(Cause::NotFound, "nothing is told of this day (yet, or any more)").field("day");
        self.published_on(day).map_err(unreadable)?.ok_or_else(unknown)
    }

    fn tell_days(&self) -> Result<Vec<u8>, Refused> {
        let days = self.published().map_err(unreadable)?;
        let days: Vec<_> = days
            .iter()
            .map(|of| json!({"day": of.day, "k": of.k, "districts": of.districts, "places": of.places}))
            .collect();
        let k = self.settings.k;
        Ok(written(&json!({"k": k, "classes": geojson::classes(k), "days": days})))
    }
}
