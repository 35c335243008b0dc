//! `/v1/feedback`: what is sent, what its sender is told, and what officers do with it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ArrayBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, Content, Ref, Required, ServerBuilder};

use super::{ADMIN_BASIC, ADMIN_TOKEN, DEVICE_TOKEN, binary, content, described, header, ok, types};
use crate::respond::{JSON, NDJSON, PROBLEM_JSON};

/// The name of the security scheme.
const RECEIPT: &str = "feedback_receipt";

/// What somebody has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "id": "5b0c8e0e-6f0a-4d1e-9f0b-0d6f3c1e7a11", "category": "scan_problem", "language": "vi",
    "place": "https://qr.pccovid.gov.vn/Xa3bK9pQ", "text": "Mã ở cổng sau bị mờ, quét nhiều lần không được."
}))]
pub struct FeedbackRequest {
    /// The sender's own id: the same one again is the same feedback.
    #[schema(pattern = "^[!-~]{1,64}$")]
    pub id: String,
    /// What it is about.
    #[schema(schema_with = category, required)]
    pub category: String,
    /// What a place's poster says, or another reference to a place.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 1024)]
    pub place: Option<String>,
    /// What there is to say, 1 to 2,000 characters. Where nobody signs it, numbers of nine digits or more are masked
    /// before it is kept.
    #[schema(min_length = 1, max_length = 2000)]
    pub text: String,
    /// The language of the text, and of the answer.
    #[schema(schema_with = language, required)]
    pub language: String,
    /// The id that a photo was given within the last hour.
    #[serde(default)]
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub photo: Option<String>,
}

/// That it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackTaken {
    /// Its id.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub id: String,
    /// How far it has come.
    #[schema(schema_with = state, required)]
    pub state: String,
    /// When it came, RFC 3339.
    #[schema(format = DateTime)]
    pub received: String,
    /// The secret with which its sender asks for the answer. It is told this once.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub receipt: String,
}

/// A secret that came with an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackReceipt {
    /// The secret.
    #[schema(pattern = "^[0-9a-fA-F]{32}$")]
    pub receipt: String,
}

/// What the sender may know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackProgress {
    /// Its id.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub id: String,
    /// What it is about.
    #[schema(schema_with = category, required)]
    pub category: String,
    /// How far it has come.
    #[schema(schema_with = state, required)]
    pub state: String,
    /// When it came, RFC 3339.
    #[schema(format = DateTime)]
    pub received: String,
    /// When it last changed, RFC 3339.
    #[schema(format = DateTime)]
    pub changed: String,
    /// The answer, once there is one.
    pub answer: Option<String>,
}

/// A photo that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackPhoto {
    /// Its id, which feedback has to name within an hour.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub photo: String,
    /// How many bytes it has as it is kept.
    pub bytes: u64,
}

/// A part of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackPage {
    /// Those that wait longest first.
    pub items: Vec<FeedbackSummary>,
    /// The cursor of the next page, if there is one.
    #[schema(pattern = "^[0-9a-f]{80}$")]
    pub next: Option<String>,
}

/// A piece of feedback in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackSummary {
    /// Its id.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub id: String,
    /// How far it has come.
    #[schema(schema_with = state, required)]
    pub state: String,
    /// How many steps it has made.
    pub revision: u32,
    /// What it is about.
    #[schema(schema_with = category, required)]
    pub category: String,
    /// The sender's language.
    #[schema(schema_with = language, required)]
    pub language: String,
    /// When it came, RFC 3339.
    #[schema(format = DateTime)]
    pub received: String,
    /// When it last changed, RFC 3339.
    #[schema(format = DateTime)]
    pub changed: String,
    /// The text's first 160 characters.
    pub excerpt: String,
    /// Whether a person signed it.
    pub signed: bool,
    /// Whether a photo belongs to it.
    pub has_photo: bool,
}

/// A piece of feedback, whole; a line of the export as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackItem {
    /// Its id.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub id: String,
    /// How far it has come.
    #[schema(schema_with = state, required)]
    pub state: String,
    /// How many steps it has made.
    pub revision: u32,
    /// What it is about.
    #[schema(schema_with = category, required)]
    pub category: String,
    /// The sender's language.
    #[schema(schema_with = language, required)]
    pub language: String,
    /// When it came, RFC 3339.
    #[schema(format = DateTime)]
    pub received: String,
    /// When it last changed, RFC 3339.
    #[schema(format = DateTime)]
    pub changed: String,
    /// What the sender wrote.
    pub text: String,
    /// The key of the place.
    pub place: Option<String>,
    /// The sender's pseudonym, if it was signed.
    pub sender: Option<String>,
    /// The photo's id.
    pub photo: Option<String>,
    /// The answer.
    pub answer: Option<String>,
    /// Its steps.
    pub history: Vec<FeedbackStep>,
}

/// A step that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackStep {
    /// Where it led.
    #[schema(schema_with = state, required)]
    pub to: String,
    /// When, RFC 3339.
    #[schema(format = DateTime)]
    pub at: String,
    /// Whose token it was.
    pub by: String,
}

/// A step to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"to": "answered", "revision": 1, "answer": "Cảm ơn bạn, mã đã được in lại."}))]
pub struct FeedbackMove {
    /// received goes to triaged or rejected, triaged to answered or rejected, answered to closed.
    #[schema(schema_with = state, required)]
    pub to: String,
    /// The revision that the officer saw.
    #[schema(value_type = i64, minimum = 0, maximum = 4_294_967_295_i64)]
    pub revision: u32,
    /// What the sender is told; with the step to answered, and with no other.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 2000)]
    pub answer: Option<String>,
}

/// A step that was made, now or by the same request before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackMoved {
    /// The feedback's id.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub id: String,
    /// How far it has come.
    #[schema(schema_with = state, required)]
    pub state: String,
    /// How many steps it has made.
    pub revision: u32,
}

/// The last line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackExportEnd {
    /// The cursor that the next 1,000 begin behind, if there are more.
    #[schema(pattern = "^[0-9a-f]{80}$")]
    pub next: Option<String>,
}

/// Why a request was refused (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackProblem {
    /// `urn:scangate:outcome:` or `urn:scangate:rejection:` and `outcome`.
    #[serde(rename = "type")]
    #[schema(pattern = "^urn:scangate:(outcome|rejection):[a-z_]+$")]
    pub kind: String,
    /// `outcome` in words.
    pub title: String,
    /// The status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// How the request ended, as a stable name.
    #[schema(pattern = "^[a-z_]+$")]
    pub outcome: String,
    /// What is wrong.
    pub detail: String,
    /// The header or parameter that is wrong, or the body's member as a JSON pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The bound that was reached, by its name in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    /// The limit's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The value that passed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
}

/// Its types and its security scheme.
pub(super) fn add_to(components: &mut Components) {
    macro_rules! schemas {
        ($($Type:ty)+) => {
            $( components.schemas.insert(<$Type>::name().into_owned(), <$Type as utoipa::PartialSchema>::schema()); )+
        };
    }
    schemas!(
        FeedbackRequest FeedbackTaken FeedbackReceipt FeedbackProgress FeedbackPhoto FeedbackPage FeedbackSummary
        FeedbackItem FeedbackStep FeedbackMove FeedbackMoved FeedbackExportEnd FeedbackProblem
    );
    let line = OneOfBuilder::new()
        .item(Ref::from_schema_name(FeedbackItem::name()))
        .item(Ref::from_schema_name(FeedbackExportEnd::name()));
    components.schemas.insert("FeedbackLine".to_owned(), Schema::OneOf(line.build()).into());
    let text = "Receipt, a space, and the secret that came when the feedback was taken";
    let receipt = ApiKey::Header(ApiKeyValue::with_description("Authorization", text));
    components.add_security_scheme(RECEIPT, SecurityScheme::ApiKey(receipt));
}

/// Its paths.
pub(super) fn paths(paths: PathsBuilder) -> PathsBuilder {
    paths
        .path("/v1/feedback", item(vec![(HttpMethod::Get, queue()), (HttpMethod::Post, send())]))
        .path("/v1/feedback/photos", item(vec![(HttpMethod::Post, photos())]))
        .path(
            "/v1/feedback/receipt",
            item(vec![(HttpMethod::Get, receipt()), (HttpMethod::Post, receipt_posted())]),
        )
        .path("/v1/feedback/export", item(vec![(HttpMethod::Get, export())]))
        .path("/v1/feedback/{id}", item(vec![(HttpMethod::Get, one())]))
        .path("/v1/feedback/{id}/photo", item(vec![(HttpMethod::Get, photo())]))
        .path("/v1/feedback/{id}/state", item(vec![(HttpMethod::Post, step())]))
}

fn item(operations: Vec<(HttpMethod, OperationBuilder)>) -> PathItem {
    let mut item = PathItem::default();
    for (method, operation) in operations {
        let operation = Some(operation.build());
        match method {
            HttpMethod::Post => item.post = operation,
            _ => item.get = operation,
        }
    }
    let server =
        ServerBuilder::new().url("http://127.0.0.1:8090").description(Some("The services' listener"));
    item.servers = Some(vec![server.build()]);
    item
}

fn operation(summary: &str, id: &str) -> OperationBuilder {
    let operation = OperationBuilder::new().tag("services").operation_id(Some(id)).summary(Some(summary));
    super::not_http(problems(operation, &[405, 408, 413]), &[400, 431])
}

/// An operation for whoever has something to say.
fn open(summary: &str, id: &str) -> OperationBuilder {
    problems(operation(summary, id), &[400, 401, 403, 415, 422, 429, 503])
        .security(SecurityRequirement::default())
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(DEVICE_TOKEN, []))
}

/// An operation for officers.
fn officers(summary: &str, id: &str) -> OperationBuilder {
    problems(operation(summary, id), &[401, 403, 429, 503])
        .description(Some(
            "For tokens of the scope services. The call is in the audit log before anything is read.",
        ))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(ADMIN_TOKEN, []))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(ADMIN_BASIC, []))
}

fn body<T: ToSchema>() -> utoipa::openapi::request_body::RequestBody {
    RequestBodyBuilder::new().content(JSON, content::<T>()).required(Some(Required::True)).build()
}

fn send() -> OperationBuilder {
    open("Send feedback, signed by a person's app or not", "feedback_send")
        .description(Some(
            "Answered when it is durable. The same id again, or the same text and category from the same sender \
             within ten minutes, is the same feedback: 200, with another receipt for it. 409 where the id was used \
             for something else.",
        ))
        .request_body(Some(body::<FeedbackRequest>()))
        .response("201", described("Taken").content(JSON, content::<FeedbackTaken>()))
        .response("200", described("Taken before").content(JSON, content::<FeedbackTaken>()))
        .response("409", problem(409))
}

fn photos() -> OperationBuilder {
    let body = RequestBodyBuilder::new()
        .content("image/jpeg", binary("A JPEG image of at most 2,097,152 bytes and 12,582,912 pixels"))
        .content("image/png", binary("A PNG image of the same"))
        .required(Some(Required::True));
    open("Send a photo for feedback to come", "feedback_photo_send")
        .description(Some(
            "It is decoded and encoded anew, at most 1,600 pixels wide and high: nothing but the picture is kept. It \
             goes where no feedback names it within an hour.",
        ))
        .request_body(Some(body.build()))
        .response("201", described("Kept").content(JSON, content::<FeedbackPhoto>()))
}

fn receipt() -> OperationBuilder {
    problems(operation("How far feedback has come, by its receipt", "feedback_receipt"), &[401, 404, 503])
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(RECEIPT, []))
        .response("200", ok::<FeedbackProgress>())
}

fn receipt_posted() -> OperationBuilder {
    problems(
        operation("The same, with the receipt in the body", "feedback_receipt_posted"),
        &[400, 404, 415, 503],
    )
    .request_body(Some(body::<FeedbackReceipt>()))
    .response("200", ok::<FeedbackProgress>())
}

fn queue() -> OperationBuilder {
    problems(officers("The queue: those that wait longest first, 50 a page", "feedback_queue"), &[400])
        .parameter(parameter("state", ParameterIn::Query, state()))
        .parameter(cursor())
        .response("200", ok::<FeedbackPage>())
}

fn one() -> OperationBuilder {
    problems(officers("One piece of feedback", "feedback_read"), &[404])
        .parameter(id())
        .response("200", ok::<FeedbackItem>())
}

fn photo() -> OperationBuilder {
    problems(officers("The photo that belongs to feedback", "feedback_photo"), &[404])
        .parameter(id())
        .response("200", described("The photo").content("image/jpeg", binary("A JPEG image")))
}

fn step() -> OperationBuilder {
    problems(officers("Move feedback on, and answer it", "feedback_step"), &[400, 404, 409, 415, 422])
        .description(Some(
            "409 where it was changed since the revision, or doesn't go there from where it is. The same step by the \
             same officer again is 200.",
        ))
        .parameter(id())
        .request_body(Some(body::<FeedbackMove>()))
        .response("200", ok::<FeedbackMoved>())
}

fn export() -> OperationBuilder {
    let lines =
        ArrayBuilder::new().items(Ref::from_schema_name("FeedbackLine")).description(Some("One a line"));
    let lines = Content::new(Some(Schema::Array(lines.build())));
    problems(officers("Up to 1,000 pieces, oldest first", "feedback_export"), &[400])
        .parameter(cursor())
        .response("200", described("FeedbackItem a line, then FeedbackExportEnd").content(NDJSON, lines))
}

fn problems(operation: OperationBuilder, statuses: &[u16]) -> OperationBuilder {
    statuses
        .iter()
        .fold(operation, |operation, status| operation.response(status.to_string(), problem(*status)))
}

fn problem(status: u16) -> utoipa::openapi::Response {
    let text = match status {
        400 => "The request can't be read; what is wrong is named. No body where the head isn't one of HTTP",
        403 => "The token's holder may not do this",
        404 => "There is none, or no longer",
        409 => "It was changed, or used for something else, before",
        413 => "The body, or the photo, is over its limit",
        415 => "The body's type isn't taken",
        422 => "Read, and not acceptable; the member is named",
        429 => "More than this sender may",
        status => super::meaning(status),
    };
    let response = described(text).content(PROBLEM_JSON, content::<FeedbackProblem>());
    match status {
        401 => response.header("WWW-Authenticate", header(Type::String, "How to ask")),
        405 => response.header("Allow", header(Type::String, "The methods that this path has")),
        429 | 503 => response.header("Retry-After", header(Type::Integer, "Seconds to wait")),
        _ => response,
    }
    .build()
}

fn parameter(name: &str, of: ParameterIn, schema: Schema) -> ParameterBuilder {
    let required = if matches!(of, ParameterIn::Path) { Required::True } else { Required::False };
    ParameterBuilder::new().name(name).parameter_in(of).required(required).schema(Some(schema))
}

fn id() -> ParameterBuilder {
    parameter("id", ParameterIn::Path, types::pattern("The feedback's id", "^[0-9a-f]{32}$"))
}

fn cursor() -> ParameterBuilder {
    parameter("cursor", ParameterIn::Query, types::pattern("What came as next", "^[0-9a-f]{80}$"))
}

fn category() -> Schema {
    types::words(
        "What it is about",
        ["scan_problem", "place_problem", "data_correction", "suggestion", "other"],
    )
}

fn language() -> Schema {
    types::words("vi or en", ["vi", "en"])
}

fn state() -> Schema {
    types::words("How far it has come", ["received", "triaged", "answered", "closed", "rejected"])
}
