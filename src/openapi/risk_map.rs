//! `/v1/map`: the risk map's figures, for everybody.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathsBuilder,
};
use utoipa::openapi::schema::{Schema, Type};
use utoipa::openapi::{Required, Response};

use super::{content, described, header, item, problems, types};
use crate::respond::{GEO_JSON, JSON};

/// The days that are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MapDays {
    /// The smallest group that is told of, and what figures are rounded down to.
    pub k: u64,
    /// From how many persons on a figure is of class 1, 2 and so on.
    pub classes: Vec<u64>,
    /// The newest first.
    pub days: Vec<MapDay>,
}

/// A day that is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MapDay {
    /// From midnight to midnight in Vietnam.
    #[schema(schema_with = day, required)]
    pub day: String,
    /// As it was when the day was told.
    pub k: u64,
    /// Districts with a figure.
    pub districts: u64,
    /// Places with a figure.
    pub places: u64,
}

/// Features of a day (RFC 7946), districts or places.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MapFeatures {
    /// `FeatureCollection`
    #[serde(rename = "type")]
    pub kind: String,
    /// The day.
    #[schema(schema_with = day, required)]
    pub day: String,
    /// As it was when the day was told.
    pub k: u64,
    /// One a district or place.
    pub features: Vec<MapFeature>,
}

/// A district or a place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MapFeature {
    /// `Feature`
    #[serde(rename = "type")]
    pub kind: String,
    /// A district's code or a place's key.
    pub id: String,
    /// A polygon of a scheme or a point; null where neither is known.
    #[schema(required)]
    pub geometry: Option<serde_json::Map<String, serde_json::Value>>,
    /// What is told.
    pub properties: MapFigures,
}

/// What is told of a district or a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MapFigures {
    /// A place's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub place: Option<String>,
    /// Null where it isn't known.
    #[schema(required)]
    pub name: Option<String>,
    /// The district's code.
    pub district: String,
    /// The province's code.
    #[schema(required)]
    pub province: Option<String>,
    /// Different persons, at least so many; null where that is hidden.
    #[schema(required)]
    pub persons: Option<u64>,
    /// Check-ins at a place, at least so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub checkins: Option<u64>,
    /// The class of `persons`; 0 where they are hidden.
    #[schema(maximum = 5)]
    pub class: u8,
    /// Cases that are known at the place, or at the worst of the district's told places: `hidden`, `none`, `exposed` by
    /// fewer than k, `cluster`.
    #[schema(schema_with = level, required)]
    pub level: String,
}

/// Adds the map's paths.
pub(super) fn paths(paths: PathsBuilder) -> PathsBuilder {
    let district = ParameterBuilder::new()
        .name("district")
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some("Of this district only"))
        .schema(Some(types::pattern("A district's code", "^[0-9]{3}$")))
        .build();
    paths
        .path(
            "/v1/map/days",
            get(operation("The days of the risk map", "map_days", &answer::<MapDays>(JSON), &[400, 503])),
        )
        .path(
            "/v1/map/{day}/districts.geojson",
            get(of_day("Districts of a day", "map_districts", &[400, 404, 503])),
        )
        .path(
            "/v1/map/{day}/places.geojson",
            get(of_day("Places of a day that may be shown", "map_places", &[400, 404, 422, 503])
                .parameter(district)),
        )
}

fn get(operation: OperationBuilder) -> PathItem {
    item(HttpMethod::Get, operation)
}

fn of_day(summary: &str, id: &str, statuses: &[u16]) -> OperationBuilder {
    let day = ParameterBuilder::new()
        .name("day")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("One of those that /v1/map/days lists"))
        .schema(Some(day()));
    operation(summary, id, &answer::<MapFeatures>(GEO_JSON), statuses).parameter(day)
}

fn operation(summary: &str, id: &str, answer: &Response, statuses: &[u16]) -> OperationBuilder {
    let operation = OperationBuilder::new()
        .tag("services")
        .operation_id(Some(id))
        .summary(Some(summary))
        .description(Some(
            "On the services' listener, for everybody, and the same for all. Figures are rounded down to multiples of \
             k, hidden where they would tell of fewer than k persons, and never change once they are told; levels do.",
        ))
        .response("200", answer.clone())
        .response("304", described("As the client has it").build());
    problems(operation, statuses)
}

fn answer<T: ToSchema>(content_type: &str) -> Response {
    let answer = described("As asked").content(content_type, content::<T>());
    answer.header("ETag", header(Type::String, "To ask again with If-None-Match")).build()
}

fn day() -> Schema {
    types::pattern("A day in Vietnam, such as 2021-11-24", "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
}

fn level() -> Schema {
    types::pattern("What is known of infectious visitors", "^(hidden|none|exposed|cluster)$")
}
