//! `/v1/forms` and `/v1/declarations` of the services' listener.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathsBuilder,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Components, Content, Required};
use utoipa::{PartialSchema, ToSchema};

use super::{DEVICE_TOKEN, content, described, not_http, ok, problems, types};
use crate::respond::JSON;

/// What a dependant is to the person who declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// Son or daughter.
    Child,
    /// Father or mother.
    Parent,
    /// Husband or wife.
    Spouse,
    /// Brother or sister.
    Sibling,
    /// Somebody whom they look after.
    Ward,
    /// Anybody else.
    Other,
}

/// Whom a declaration is about.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum DeclaredFor {
    /// The person who declares.
    #[serde(rename = "self")]
    Oneself,
    /// Somebody else, by the text of any code of theirs.
    #[serde(rename = "dependant")]
    Dependant(String),
}

/// A new declaration.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"id": "8d5c6a52-5f0b-4d5e-9c55-0d6f0c7f9a11", "form": "health", "version": 1, "for": "self",
    "answers": {"symptoms": [], "contact_with_case": false, "contact_with_symptoms": false, "in_outbreak_area": false}}))]
pub struct DeclarationRequest {
    /// The app's own id for it, such as a UUID: sent again, it is the same declaration.
    #[schema(schema_with = client_id, required)]
    pub id: String,
    /// The form's name.
    #[schema(schema_with = form_name, required)]
    pub form: String,
    /// The form's version.
    pub version: u16,
    /// Whom it is about.
    #[serde(rename = "for")]
    pub subject: DeclaredFor,
    /// What a dependant is to the person who declares; only for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable)]
    pub relation: Option<Relation>,
    /// As the form has it.
    #[schema(schema_with = answers, required)]
    pub answers: Value,
}

/// Other answers.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AmendRequest {
    /// The revision that it replaces.
    pub revision: u16,
    /// The version of the form that the answers are by.
    pub version: u16,
    /// As the form has it.
    #[schema(schema_with = answers, required)]
    pub answers: Value,
}

/// The code that was scanned.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// Its text.
    #[schema(schema_with = code_text, required)]
    pub qr: String,
}

/// A code that checkpoints scan.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JourneyCode {
    /// Its text, to be drawn.
    #[schema(schema_with = code_text, required)]
    pub qr: String,
    /// When it ends.
    #[schema(schema_with = types::time_parameter, required)]
    pub expires_at: String,
}

/// What was declared before.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlierRevision {
    /// Its number, from 1.
    pub revision: u16,
    /// When it was declared.
    #[schema(schema_with = types::time_parameter, required)]
    pub at: String,
    /// By which version of the form.
    pub version: u16,
    /// What was answered.
    #[schema(schema_with = answers, required)]
    pub answers: Value,
}

/// A declaration as it stands.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// Its name, a UUID.
    #[serde(rename = "declaration")]
    #[schema(schema_with = uuid_text, required)]
    pub id: String,
    /// The form's name.
    pub form: String,
    /// The form's version.
    pub version: u16,
    /// `self` or `dependant`.
    #[serde(rename = "for")]
    pub subject: String,
    /// What the dependant is to the person who declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub relation: Option<Relation>,
    /// When it was declared.
    #[schema(schema_with = types::time_parameter, required)]
    pub at: String,
    /// From 1; each change makes it one more.
    pub revision: u16,
    /// When it was last changed.
    #[schema(schema_with = types::time_parameter, required)]
    pub changed_at: String,
    /// Whether it was taken back, and no longer counts.
    pub withdrawn: bool,
    /// What was answered.
    #[schema(schema_with = answers, required)]
    pub answers: Value,
    /// A journey's code, while it is good. There is none for a dependant whose own code isn't signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub code: Option<JourneyCode>,
    /// What was declared before, oldest first; only where one declaration is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub earlier: Option<Vec<EarlierRevision>>,
}

/// Some of a person's declarations.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclarationPage {
    /// Newest first.
    pub declarations: Vec<Declaration>,
    /// What to ask for as `cursor` to see the next; none at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next: Option<String>,
}

/// Whether a movement declaration stands behind a code. Nothing in it says whose.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclarationCheck {
    /// Whether one does, now.
    pub valid: bool,
    /// Why not: `no_declaration`, `expired` or `revoked`, which is amended or withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
    /// What was declared: origin, stops, destination, means, departs_at, arrives_at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = answers)]
    pub journey: Option<Value>,
    /// When the code ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub expires_at: Option<String>,
}

/// A form that there is.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FormVersion {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u16,
    /// The day, in UTC, from which on it isn't accepted; null while there is none.
    #[schema(nullable, required)]
    pub accepted_until: Option<String>,
}

/// The forms that there are.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FormList {
    /// Every version of each.
    pub forms: Vec<FormVersion>,
}

/// The bodies' types.
pub(super) fn add_to(components: &mut Components) {
    macro_rules! add {
        ($($Type:ty)+) => { $( components.schemas.insert(<$Type>::name().into_owned(), <$Type>::schema()); )+ };
    }
    add!(Relation DeclaredFor DeclarationRequest AmendRequest CheckRequest JourneyCode EarlierRevision Declaration);
    add!(DeclarationPage DeclarationCheck FormVersion FormList);
}

/// The operations.
pub(super) fn paths(paths: PathsBuilder) -> PathsBuilder {
    let mut all = PathItem::new(HttpMethod::Get, list());
    all.post = Some(declare().build());
    let mut one = PathItem::new(HttpMethod::Get, read());
    one.put = Some(amend().build());
    one.delete = Some(withdraw().build());
    paths
        .path("/v1/forms", PathItem::new(HttpMethod::Get, forms()))
        .path("/v1/forms/{name}/{version}", PathItem::new(HttpMethod::Get, form()))
        .path("/v1/declarations", all)
        .path("/v1/declarations/check", PathItem::new(HttpMethod::Post, check()))
        .path("/v1/declarations/{id}", one)
}

fn open(summary: &str, id: &str) -> OperationBuilder {
    let operation = OperationBuilder::new().tag("services").operation_id(Some(id)).summary(Some(summary));
    not_http(problems(operation, &[404, 408, 413, 500]), &[400, 431])
}

/// Whatever asks for a device's token.
fn device(summary: &str, id: &str, statuses: &[u16]) -> OperationBuilder {
    let operation =
        open(summary, id).security(SecurityRequirement::new::<_, [&str; 0], &str>(DEVICE_TOKEN, []));
    problems(problems(operation, &[401, 403, 503]), statuses)
}

fn body<T: ToSchema>() -> RequestBody {
    RequestBodyBuilder::new().content(JSON, content::<T>()).required(Some(Required::True)).build()
}

fn forms() -> OperationBuilder {
    open("The forms of declarations", "forms").response("200", ok::<FormList>())
}

fn form() -> OperationBuilder {
    let schema: Schema = ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("A JSON Schema (2020-12) of the answers, with x-labels in Vietnamese and English"))
        .build()
        .into();
    open("One version of a form", "form")
        .parameter(parameter("name", ParameterIn::Path, form_name()))
        .parameter(parameter("version", ParameterIn::Path, number(1, u16::MAX.into())))
        .response("200", described("The form").content(JSON, Content::new(Some(schema))))
}

fn declare() -> OperationBuilder {
    device("Declare", "declare", &[400, 409, 415, 422, 429])
        .description(Some(
            "By a person's own app. A movement declaration is answered with a code for checkpoints, which stands for the \
             person and ends a day after the arrival. The same id with the same answers is the same declaration, \
             answered 200.",
        ))
        .request_body(Some(body::<DeclarationRequest>()))
        .response("201", described("Declared").content(JSON, content::<Declaration>()))
        .response("200", described("Declared before").content(JSON, content::<Declaration>()))
}

fn list() -> OperationBuilder {
    device("A person's own declarations, newest first", "declarations", &[400])
        .parameter(optional("limit", number(1, 100)))
        .parameter(optional(
            "cursor",
            types::pattern("What `next` of the page before said", "^[A-Za-z0-9_-]{32}$"),
        ))
        .response("200", ok::<DeclarationPage>())
}

fn read() -> OperationBuilder {
    device("One of a person's own declarations, with what it was before", "declaration", &[])
        .parameter(parameter("id", ParameterIn::Path, uuid_text()))
        .response("200", ok::<Declaration>())
}

fn amend() -> OperationBuilder {
    device("Answer otherwise", "amend", &[400, 409, 415, 422])
        .description(Some(
            "Names the revision that it replaces, which is kept. The code of a journey is revoked, and another one given.",
        ))
        .parameter(parameter("id", ParameterIn::Path, uuid_text()))
        .request_body(Some(body::<AmendRequest>()))
        .response("200", ok::<Declaration>())
}

fn withdraw() -> OperationBuilder {
    device("Take a declaration back", "withdraw", &[])
        .description(Some("It is kept until its retention ends, and no longer counts; its code is revoked."))
        .parameter(parameter("id", ParameterIn::Path, uuid_text()))
        .response("200", ok::<Declaration>())
}

fn check() -> OperationBuilder {
    device("Whether a movement declaration stands behind a code", "check_declaration", &[400, 415, 422])
        .description(Some("By a place's device. Tells the route and its times, and nobody's identity."))
        .request_body(Some(body::<CheckRequest>()))
        .response("200", ok::<DeclarationCheck>())
}

fn parameter(name: &str, of: ParameterIn, schema: Schema) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(of)
        .required(Required::True)
        .description(Some(name))
        .schema(Some(schema))
}

fn optional(name: &str, schema: Schema) -> ParameterBuilder {
    parameter(name, ParameterIn::Query, schema).required(Required::False)
}

fn number(min: u32, max: u32) -> Schema {
    let number = ObjectBuilder::new().schema_type(Type::Integer);
    number.minimum(Some(min)).maximum(Some(max)).build().into()
}

fn uuid_text() -> Schema {
    types::pattern("A UUID", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$")
}

fn client_id() -> Schema {
    let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(64));
    text.description(Some("The app's own id, 1 to 64 characters")).build().into()
}

fn form_name() -> Schema {
    types::pattern("A form's name", "^[a-z]{1,32}$")
}

fn code_text() -> Schema {
    let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(4096));
    text.description(Some("The text of a code")).build().into()
}

/// Whatever the form's schema has.
fn answers() -> Schema {
    let any = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
    let answers = AnyOfBuilder::new().item(any.description(Some("As the form has it")).build());
    answers.build().into()
}
