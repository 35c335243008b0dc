//! `/v1/health` on the services' listener: vaccinations, tests and recoveries.

use serde::{Deserialize, Serialize};
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{Components, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Content, Ref, Required, ServerBuilder};
use utoipa::{PartialSchema, ToSchema};

use super::{ADMIN_BASIC, ADMIN_TOKEN, DEVICE_TOKEN, content, described, not_http, problems};
use crate::respond::JSON;

/// A code that a person presents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCode {
    /// A health certificate (`HC1:`) or a SMART Health Card (`shc:/`), as scanned.
    pub qr: String,
}

/// Whose health an officer wants to know, and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"person": "001093029317", "purpose": "case 17"}))]
pub struct HealthRead {
    /// A citizen number, a QID, another reference to a person, or a pseudonym of 32 hexadecimal digits.
    #[schema(min_length = 1, max_length = 256)]
    pub person: String,
    /// What for, as the audit log says it; never a person's number.
    #[schema(min_length = 1, max_length = 120)]
    pub purpose: String,
    /// All versions of all records, not just what is known now.
    #[serde(default)]
    #[schema(default = false)]
    pub history: bool,
}

/// Who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthProvenance {
    /// A register (`vaccination`, `testing`), or a code's form (`hc1`, `shc`).
    pub source: String,
    /// The record's id at the source; of a code, the pseudonym of its holder's name.
    pub record: String,
    /// A record's highest version is current: a register's own number, a code's time of issue in seconds since 1970.
    pub version: u64,
    /// When it arrived, RFC 3339.
    pub received: String,
}

/// One thing that was done or found. `kind` says which members there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"kind": "vaccination", "product": "EU/1/20/1528", "dose": 2, "doses": 2, "day": "2021-11-24"}))]
pub struct HealthFact {
    /// `vaccination`, `test` or `recovery`.
    pub kind: String,
    /// Of a vaccination: the vaccine, by its source's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Of a vaccination: which dose of the series.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dose: Option<u8>,
    /// Of a vaccination: how many the series has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doses: Option<u8>,
    /// Of a vaccination: the day, such as 2021-11-24.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// Of a test: `pcr` or `antigen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
    /// Of a test: `positive` or `negative`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Of a test: when the sample was taken, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<String>,
    /// Of a recovery: the day of the first positive test.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positive_day: Option<String>,
    /// Of a recovery: the first day on which it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_day: Option<String>,
    /// Of a recovery: the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_day: Option<String>,
    /// Who says so; not within a history, where it stands once for all facts of a version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provenance: Option<HealthProvenance>,
}

/// What became of a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthTaken {
    /// `current`, `superseded` by an edition that was there before, or `known`.
    pub outcome: String,
    /// What the code says.
    pub facts: Vec<HealthFact>,
}

/// What is known of a person now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthFacts {
    /// Each with its provenance.
    pub facts: Vec<HealthFact>,
}

/// What was ever told of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthHistory {
    /// By record, lowest version first.
    pub history: Vec<HealthVersion>,
}

/// One version of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthVersion {
    /// What it says of the person; nothing where it was withdrawn, or is about somebody else.
    pub facts: Vec<HealthFact>,
    /// Where it comes from.
    pub provenance: HealthProvenance,
    /// Whether it is the record's highest.
    pub current: bool,
}

/// Adds the schemas that [`paths`] names.
pub(super) fn add_to(components: &mut Components) {
    let schemas = [
        (HealthCode::name(), HealthCode::schema()),
        (HealthRead::name(), HealthRead::schema()),
        (HealthProvenance::name(), HealthProvenance::schema()),
        (HealthFact::name(), HealthFact::schema()),
        (HealthTaken::name(), HealthTaken::schema()),
        (HealthFacts::name(), HealthFacts::schema()),
        (HealthHistory::name(), HealthHistory::schema()),
        (HealthVersion::name(), HealthVersion::schema()),
    ];
    components.schemas.extend(schemas.map(|(name, schema)| (name.into_owned(), schema)));
}

/// The paths and what they take.
pub(super) fn paths() -> [(&'static str, PathItem); 3] {
    [
        ("/v1/health", item(HttpMethod::Get, own())),
        ("/v1/health/codes", item(HttpMethod::Post, present())),
        ("/v1/health/read", item(HttpMethod::Post, read())),
    ]
}

fn own() -> OperationBuilder {
    let boolean: Schema = ObjectBuilder::new().schema_type(Type::Boolean).build().into();
    let history = ParameterBuilder::new()
        .name("history")
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some("All versions of all records, not just what is known now"))
        .schema(Some(boolean));
    let operation = operation("What is known of the token's person", "health_own")
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(DEVICE_TOKEN, []))
        .parameter(history)
        .response("200", described("HealthFacts, or HealthHistory with history=true").content(JSON, told()));
    problems(operation, &[400])
}

fn present() -> OperationBuilder {
    let body =
        RequestBodyBuilder::new().content(JSON, content::<HealthCode>()).required(Some(Required::True));
    let operation = operation("Present a code, whose facts become the person's", "health_present")
        .description(Some(
            "The code must verify under a configured issuer's key, and be linked to the token's person: its holder's \
             name is compared under the pepper and never kept. A later edition of a code replaces an earlier one.",
        ))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(DEVICE_TOKEN, []))
        .request_body(Some(body.build()))
        .response("200", described("It was known").content(JSON, content::<HealthTaken>()))
        .response("201", described("It is new").content(JSON, content::<HealthTaken>()));
    problems(operation, &[400, 409, 411, 415, 422])
}

fn read() -> OperationBuilder {
    let body =
        RequestBodyBuilder::new().content(JSON, content::<HealthRead>()).required(Some(Required::True));
    let operation = operation("What is known of somebody", "health_read")
        .description(Some(
            "For tokens of the scope services. The call is in the audit log before anything is read; 503 where it \
             can't be.",
        ))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(ADMIN_TOKEN, []))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(ADMIN_BASIC, []))
        .request_body(Some(body.build()))
        .response("200", described("HealthFacts, or HealthHistory with history").content(JSON, told()));
    problems(operation, &[400, 411, 415, 422, 429])
}

fn told() -> Content {
    let [facts, history] = [HealthFacts::name(), HealthHistory::name()].map(Ref::from_schema_name);
    Content::new(Some(Schema::from(OneOfBuilder::new().item(facts).item(history).build())))
}

/// An operation of the services' listener.
pub(super) fn operation(summary: &str, id: &str) -> OperationBuilder {
    let operation = OperationBuilder::new().tag("services").operation_id(Some(id)).summary(Some(summary));
    not_http(problems(operation, &[401, 403, 404, 405, 408, 413, 500, 503]), &[431])
}

/// A path of the services' listener.
pub(super) fn item(method: HttpMethod, operation: OperationBuilder) -> PathItem {
    let mut item = PathItem::new(method, operation);
    let server =
        ServerBuilder::new().url("http://127.0.0.1:8090").description(Some("The services' listener"));
    item.servers = Some(vec![server.build()]);
    item
}
