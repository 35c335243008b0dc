//! `/v1/places` on the services' listener: the directory of places.

use serde::{Deserialize, Serialize};
use utoipa::openapi::Required;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::Components;
use utoipa::openapi::security::SecurityRequirement;
use utoipa::{PartialSchema, ToSchema};

use super::health::{item, operation};
use super::{ADMIN_BASIC, ADMIN_TOKEN, content, described, items, problems, types};
use crate::respond::{JSON, NDJSON};

/// One line of `PUT /v1/places`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "reference": "demo/cho-dong-xuan", "name": "Chợ Đồng Xuân", "district": "002", "province": "01", "lon": 105.8497,
    "lat": 21.0386, "class": "market"
}))]
pub struct PlaceLine {
    /// What the place's devices and codes are issued for, or any form of a poster that names it.
    #[schema(min_length = 1, max_length = 256)]
    pub reference: String,
    /// What it is called; 1 to 256 bytes.
    #[schema(min_length = 1, max_length = 256)]
    pub name: String,
    /// The district's code (General Statistics Office).
    #[schema(pattern = "^[0-9]{3}$")]
    pub district: String,
    /// The province's code (General Statistics Office).
    #[schema(pattern = "^[0-9]{2}$")]
    pub province: String,
    /// Degrees east (WGS 84).
    #[schema(minimum = -180, maximum = 180)]
    pub lon: f64,
    /// Degrees north (WGS 84).
    #[schema(minimum = -90, maximum = 90)]
    pub lat: f64,
    /// What it is: `market`, `hospital`, `school`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(pattern = "^[!-~]{0,32}$")]
    pub class: String,
}

/// A place of the directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlaceTold {
    /// Its key, as check-ins have it.
    pub key: String,
    /// What it is called.
    pub name: String,
    /// The district's code.
    pub district: String,
    /// The province's code.
    pub province: String,
    /// Degrees east (WGS 84).
    pub lon: f64,
    /// Degrees north (WGS 84).
    pub lat: f64,
    /// What it is, where somebody said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub class: String,
}

/// What became of the lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlacesPut {
    /// Places that are new.
    pub created: u64,
    /// Places that are told otherwise than before.
    pub changed: u64,
    /// Places that were so.
    pub unchanged: u64,
}

/// Adds the schemas that [`paths`] names.
pub(super) fn add_to(components: &mut Components) {
    let schemas = [
        (PlaceLine::name(), PlaceLine::schema()),
        (PlaceTold::name(), PlaceTold::schema()),
        (PlacesPut::name(), PlacesPut::schema()),
    ];
    components.schemas.extend(schemas.map(|(name, schema)| (name.into_owned(), schema)));
}

/// The paths and what they take.
pub(super) fn paths() -> [(&'static str, PathItem); 2] {
    [("/v1/places", item(HttpMethod::Put, put())), ("/v1/places/{key}", item(HttpMethod::Get, get()))]
}

fn put() -> OperationBuilder {
    let body = RequestBodyBuilder::new()
        .description(Some("One PlaceLine a line, up to 100,000"))
        .content(NDJSON, items("PlaceLine", "One PlaceLine a line"))
        .required(Some(Required::True));
    let operation = operation("Bring places into the directory, or tell them anew", "places_put")
        .description(Some(
            "For tokens of the scope services. One bad line refuses all of them, and is named in detail with its \
             number. Where the answer is 503 or names places.max, lines before may be in the directory: the same \
             again changes nothing.",
        ))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(ADMIN_TOKEN, []))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(ADMIN_BASIC, []))
        .request_body(Some(body.build()))
        .response("200", described("All are in the directory").content(JSON, content::<PlacesPut>()));
    problems(operation, &[400, 411, 415, 422, 429])
}

fn get() -> OperationBuilder {
    let key = ParameterBuilder::new()
        .name("key")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("The place's key, as check-ins have it"))
        .schema(Some(types::pattern("32 hexadecimal digits", "^[0-9a-f]{32}$")));
    let operation = operation("A place of the directory", "place")
        .parameter(key)
        .security(SecurityRequirement::default())
        .response("200", described("As asked").content(JSON, content::<PlaceTold>()));
    problems(operation, &[400])
}
