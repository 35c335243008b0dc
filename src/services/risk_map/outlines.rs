//! Outlines of districts: a scheme drawn from their middle points (`config/map/draw.py`), no surveyed boundaries.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

use crate::services::places::{DistrictCode, ProvinceCode};

const FILE: &str = include_str!("../../../config/map/districts.geojson");

/// A district of the scheme.
#[derive(Debug, Deserialize)]
pub(super) struct Outline {
    pub(super) properties: Properties,
    pub(super) geometry: Value,
}

#[derive(Debug, Deserialize)]
pub(super) struct Properties {
    pub(super) district: DistrictCode,
    pub(super) province: ProvinceCode,
    pub(super) name: String,
}

#[derive(Deserialize)]
struct Collection {
    features: Vec<Outline>,
}

/// Every district that there is an outline of, by code.
pub(super) fn outlines() -> &'static [Outline] {
    static OUTLINES: LazyLock<Vec<Outline>> = LazyLock::new(|| {
        // Compiled in, and read by a test.
        serde_json::from_str(FILE).map_or_else(|_| Vec::new(), |Collection { features }| features)
    });
    &OUTLINES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ring(outline: &Outline) -> Vec<[f64; 2]> {
        assert_eq!(outline.geometry["type"], "Polygon");
        serde_json::from_value(outline.geometry["coordinates"][0].clone()).expect("a ring")
    }

    #[test]
    fn every_district_of_both_cities_has_one_closed_outline_drawn_as_rfc_7946_asks() {
        let outlines = outlines();
        let of = |province: &str| {
            outlines.iter().filter(|outline| outline.properties.province == *province).count()
        };
        assert_eq!((of("01"), of("79"), outlines.len()), (30, 22, 52));
        let codes: BTreeSet<DistrictCode> =
            outlines.iter().map(|outline| outline.properties.district).collect();
        assert_eq!(codes.len(), 52);
        for outline in outlines {
            let ring = ring(outline);
            assert!(ring.len() >= 4 && ring.first() == ring.last(), "{outline:?}");
            let area: f64 =
                ring.windows(2).map(|pair| pair[0][0] * pair[1][1] - pair[1][0] * pair[0][1]).sum();
            assert!(area > 0.0, "{} isn't drawn counterclockwise", outline.properties.name);
            assert!(ring.iter().all(|[lon, lat]| (105.0..108.0).contains(lon) && (10.0..22.0).contains(lat)));
        }
    }
}
