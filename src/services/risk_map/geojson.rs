//! A day's figures as GeoJSON (RFC 7946).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde_json::{Value, json};

use super::outlines::{Outline, outlines};
use super::{Cell, Published};
use crate::scan::PlaceKey;
use crate::services::capability::StateError;
use crate::services::places::{DistrictCode, Places, ProvinceCode};
use crate::verify::unhex;

/// From how many persons on a figure is of the first class, the second, and so on; in multiples of `k`.
const CLASSES: [u64; 5] = [1, 10, 50, 200, 1000];

/// The classes' lower bounds in persons.
pub(super) fn classes(k: u64) -> [u64; 5] {
    CLASSES.map(|times| times * k)
}

/// What is known of infectious visitors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// The figure is hidden, and so is this.
    Hidden,
    /// None is known.
    None,
    /// One at least, and fewer than `k`.
    Exposed,
    /// `k` at least.
    Cluster,
}

impl Level {
    fn of(k: u64, cases: u64) -> Self {
        match cases {
            0 => Self::None,
            few if few < k => Self::Exposed,
            _ => Self::Cluster,
        }
    }
}

#[derive(Serialize)]
struct Collection<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    day: String,
    k: u64,
    features: Vec<Feature<'a>>,
}

#[derive(Serialize)]
struct Feature<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    geometry: Option<Cow<'a, Value>>,
    properties: Properties,
}

#[derive(Serialize)]
struct Properties {
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    name: Option<Box<str>>,
    district: DistrictCode,
    province: Option<ProvinceCode>,
    /// At least so many; null where they are hidden.
    persons: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkins: Option<u64>,
    /// 0 where persons are hidden.
    class: usize,
    level: Level,
}

/// The worst level of each district's told places, where it has any case. Places that aren't told have no say, or a
/// district's level would tell of them.
pub(super) fn levels(
    k: u64,
    places: impl Iterator<Item = Result<Cell, StateError>>,
    cases: &HashMap<PlaceKey, u64>,
) -> Result<BTreeMap<DistrictCode, Level>, StateError> {
    let mut levels = BTreeMap::new();
    for cell in places {
        let cell = cell?;
        let level = level(k, &cell, cases);
        let worst = levels.entry(cell.district).or_insert(level);
        *worst = level.max(*worst);
    }
    Ok(levels)
}

fn level(k: u64, cell: &Cell, cases: &HashMap<PlaceKey, u64>) -> Level {
    let key = cell.place.as_deref().and_then(unhex).map(PlaceKey);
    Level::of(k, key.and_then(|key| cases.get(&key)).copied().unwrap_or(0))
}

fn class(k: u64, persons: Option<u64>) -> usize {
    persons.map_or(0, |persons| classes(k).iter().filter(|least| persons >= **least).count())
}

/// Every district that has an outline or a figure.
pub(super) fn districts(of: &Published, told: &[Cell], levels: &BTreeMap<DistrictCode, Level>) -> Vec<u8> {
    let outlined: BTreeMap<DistrictCode, &Outline> =
        outlines().iter().map(|outline| (outline.properties.district, outline)).collect();
    let told: BTreeMap<DistrictCode, &Cell> = told.iter().map(|cell| (cell.district, cell)).collect();
    let codes: BTreeSet<DistrictCode> = outlined.keys().chain(told.keys()).copied().collect();
    let feature = |district: DistrictCode| {
        let (outline, cell) = (outlined.get(&district), told.get(&district));
        let persons = cell.map(|cell| cell.persons);
        let province = outline.map(|outline| outline.properties.province);
        let level = if persons.is_some() { Level::None } else { Level::Hidden };
        Feature {
            kind: "Feature",
            id: district.to_string(),
            geometry: outline.map(|outline| Cow::Borrowed(&outline.geometry)),
            properties: Properties {
                place: None,
                name: outline.map(|outline| outline.properties.name.as_str().into()),
                district,
                province: province.or(cell.map(|cell| cell.province)),
                persons,
                checkins: None,
                class: class(of.k, persons),
                level: levels.get(&district).copied().unwrap_or(level),
            },
        }
    };
    collection(of, codes.into_iter().map(feature).collect())
}

/// Every told place.
pub(super) fn places(
    of: &Published,
    told: Vec<Cell>,
    cases: &HashMap<PlaceKey, u64>,
    directory: &Places,
) -> Vec<u8> {
    let feature = |cell: Cell| {
        let spot = cell.place.as_deref().and_then(unhex).and_then(|key| directory.get(PlaceKey(key)));
        let point = spot.as_ref().map(|spot| json!({"type": "Point", "coordinates": [spot.lon, spot.lat]}));
        Feature {
            kind: "Feature",
            id: cell.place.clone().unwrap_or_default(),
            geometry: point.map(Cow::Owned),
            properties: Properties {
                name: spot.map(|spot| spot.name.clone()),
                persons: Some(cell.persons),
                checkins: cell.checkins,
                class: class(of.k, Some(cell.persons)),
                level: level(of.k, &cell, cases),
                place: cell.place,
                district: cell.district,
                province: Some(cell.province),
            },
        }
    };
    collection(of, told.into_iter().map(feature).collect())
}

fn collection(of: &Published, features: Vec<Feature<'_>>) -> Vec<u8> {
    let (kind, day) = ("FeatureCollection", of.day.to_string());
    super::written(&Collection { kind, day, k: of.k, features })
}
