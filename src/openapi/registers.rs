//! The national registers' feeds, on the services' listener.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, RefOr, Required};

use super::tracing::{item, operation};
use super::{ADMIN_TOKEN, content, described, not_http, problems, types};
use crate::respond::JSON;

/// Most changes of one page.
pub const REGISTER_CHANGES_MAX: usize = 1_000;

/// How a register's feed stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterState {
    /// `population`, `insurance`, `vaccination` or `testing`.
    pub register: String,
    /// Whether it is asked for changes.
    pub followed: bool,
    /// Whether it may push changes.
    pub pushes: bool,
    /// `closed`: it is asked; `open`: it is left alone; `half_open`: it is tried. Null where it is never asked.
    #[schema(schema_with = breaker, required)]
    pub breaker: Option<String>,
    /// How far its feed is taken in.
    pub cursor: String,
    /// How old what is known from it may be, in seconds; null where its feed was never read to its end.
    #[schema(required, minimum = 0)]
    pub age_s: Option<u64>,
    /// How many changes were still to come at its last answer.
    #[schema(minimum = 0)]
    pub behind: u64,
    /// When it last answered since the start, RFC 3339.
    #[schema(required)]
    pub succeeded_at: Option<String>,
    /// When it last failed, where it has not answered since.
    #[schema(required)]
    pub failed_at: Option<String>,
    /// How.
    #[schema(required)]
    pub failure: Option<String>,
    /// Changes that told something new.
    #[schema(minimum = 0)]
    pub accepted: u64,
    /// Changes that had been told before, or were overtaken by a higher version.
    #[schema(minimum = 0)]
    pub repeated: u64,
    /// Changes that break the contract.
    #[schema(minimum = 0)]
    pub refused: u64,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterStates {
    /// One a register.
    pub registers: Vec<RegisterState>,
}

/// What became of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PushAnswer {
    /// Those that told something new.
    #[schema(minimum = 0)]
    pub accepted: u64,
    /// Those that had been told before.
    #[schema(minimum = 0)]
    pub repeated: u64,
    /// Those that say otherwise than the same version of the record did before.
    #[schema(minimum = 0)]
    pub conflicting: u64,
    /// Those that break the contract.
    pub refused: Vec<RefusedChange>,
    /// How far the feed is taken in: a page that begins elsewhere counts, and doesn't move it.
    pub cursor: String,
}

/// A change that breaks the contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefusedChange {
    /// Which member, as a JSON pointer into the document.
    pub field: String,
    /// The rule.
    pub detail: String,
}

/// Whom to look for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"citizen": "001093029317", "purpose": "a dose that is missing"}))]
pub struct LookupRequest {
    /// The citizen's number: 12 digits.
    #[schema(pattern = "^[0-9]{12}$")]
    pub citizen: String,
    /// What for, as the audit log says it; never a person's number.
    #[schema(min_length = 1, max_length = 120)]
    pub purpose: String,
}

/// The name of the security scheme.
const REGISTER_SIGNATURE: &str = "register_signature";

pub(super) fn scheme() -> (&'static str, SecurityScheme) {
    let text = "HMAC-SHA256, in hexadecimal, of the register's name, scangate-time, scangate-delivery and the body, \
                each but the last followed by a line feed; the key is the register's secret";
    let header = ApiKeyValue::with_description("scangate-signature", text);
    (REGISTER_SIGNATURE, SecurityScheme::ApiKey(ApiKey::Header(header)))
}

pub(super) fn paths() -> Vec<(&'static str, PathItem)> {
    let states = operation("How the registers' feeds stand", "registers", ADMIN_TOKEN)
        .description(Some("Needs the scope services. The age says how old what is known may be."))
        .response("200", described("One a register").content(JSON, content::<RegisterStates>()));
    vec![
        ("/v1/registers", item(HttpMethod::Get, problems(states, &[400]))),
        ("/v1/registers/{register}/changes", item(HttpMethod::Post, push())),
        ("/v1/registers/{register}/lookups", item(HttpMethod::Post, lookup())),
    ]
}

fn push() -> OperationBuilder {
    let page = RequestBodyBuilder::new()
        .description(Some(
            "A page as config/registers describes it, each change as its register's contract has it",
        ))
        .content(JSON, Content::new(Some(page())))
        .required(Some(Required::True));
    let operation = OperationBuilder::new()
        .tag("services")
        .operation_id(Some("register_push"))
        .summary(Some("Take in a page that a register pushes"))
        .description(Some(
            "Answered when it is durable and in force. Whatever comes twice or in another order counts once, by \
             record and version; a bad change spoils only itself. A page moves the cursor only if it begins there.",
        ))
        .parameter(register())
        .parameter(header("scangate-time", "Seconds since 1970, within 300 of now"))
        .parameter(header("scangate-delivery", "The delivery's number, from 1; up to 63 behind the newest"))
        .request_body(Some(page.build()))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(REGISTER_SIGNATURE, []))
        .response("200", described("Taken in").content(JSON, content::<PushAnswer>()));
    not_http(problems(operation, &[400, 401, 404, 408, 409, 413, 415, 500, 503]), &[431])
}

fn lookup() -> OperationBuilder {
    let body =
        RequestBodyBuilder::new().content(JSON, content::<LookupRequest>()).required(Some(Required::True));
    let operation = operation("Have a register looked through for one citizen", "register_lookup", ADMIN_TOKEN)
        .description(Some(
            "Needs the scope services. In the audit log first. For vaccination and testing; what is found is taken in.",
        ))
        .parameter(register())
        .request_body(Some(body.build()))
        .response("200", described("Taken in").content(JSON, content::<PushAnswer>()));
    problems(operation, &[400, 413, 415, 422])
}

fn register() -> ParameterBuilder {
    let names = ["population", "insurance", "vaccination", "testing"];
    let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names));
    let parameter = ParameterBuilder::new().name("register").parameter_in(ParameterIn::Path);
    parameter.required(Required::True).schema(Some(Schema::from(schema.build())))
}

fn header(name: &str, description: &str) -> ParameterBuilder {
    let schema = types::pattern("A number", "^[0-9]{1,19}$");
    let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header);
    parameter.required(Required::True).description(Some(description)).schema(Some(schema))
}

fn breaker() -> Schema {
    let nullable = SchemaType::from_iter([Type::String, Type::Null]);
    let names = [Some("closed"), Some("open"), Some("half_open"), None];
    ObjectBuilder::new().schema_type(nullable).enum_values(Some(names)).build().into()
}

fn page() -> RefOr<Schema> {
    let cursor = || types::pattern("A cursor of the register", "^[!-~]{0,64}$");
    let anything: Schema = ObjectBuilder::new().schema_type(SchemaType::AnyValue).build().into();
    let changes = ArrayBuilder::new().items(RefOr::T(anything)).max_items(Some(REGISTER_CHANGES_MAX));
    let behind = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
    let page = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("after", cursor())
        .property("cursor", cursor())
        .property("behind", behind)
        .property("changes", changes)
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
    let required = ["after", "cursor", "behind", "changes"];
    RefOr::T(required.into_iter().fold(page, ObjectBuilder::required).build().into())
}
