//! Bodies as a client sees them. The hot path writes the same bytes by hand; `tests/api_conformance.rs`
//! holds every answer to these.

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{
    KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema as _, ToSchema};

use super::FeedSummary;
use super::card::ScanCard;
use crate::request::{CLIENT_ID_CHARS_MAX, FRAME_ID_CHARS_MAX};
use crate::respond::{Cause, Rejection};
use crate::scan::{App, Direction, DirectionRequest, Form, Outcome, Subject, Trust};

/// One scan to check in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "id": "7f7a5f3c-5f0e-4a44-9d2a-0f8a2f2c9a10",
    "qr": "001090123456|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021"
}))]
pub struct CheckinRequest {
    /// The device's own id for this scan, a UUID as a rule. Sent again with the same id, a scan is
    /// answered as a duplicate.
    #[schema(schema_with = client_id, required)]
    pub id: String,
    /// The decoded payload; at most 4,096 bytes as UTF-8.
    #[schema(min_length = 1, max_length = 4096)]
    pub qr: String,
    /// When the code was scanned; the time of arrival if left out or null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = event_time)]
    pub at: Option<String>,
    /// `auto`, the default, toggles from the person's last check-in at the place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = direction_request)]
    pub direction: Option<String>,
}

/// A check-in that is recorded and durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// `recorded`
    #[schema(schema_with = recorded, required)]
    pub outcome: String,
    /// The check-in's id.
    #[schema(schema_with = checkin_id, required)]
    pub checkin: String,
    /// The device's own id.
    #[schema(schema_with = client_id, required)]
    pub id: String,
    /// The direction it counts under.
    #[schema(schema_with = direction, required)]
    pub direction: String,
    /// Whose code it was.
    #[schema(schema_with = subject, required)]
    pub subject: String,
    /// Whether the code was signed.
    #[schema(schema_with = trust, required)]
    pub trust: String,
    /// Event time.
    #[schema(schema_with = timestamp, required)]
    pub at: String,
    /// The person's card, where a place's device asked with `card=true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub card: Option<ScanCard>,
}

/// A scan that an earlier, durable check-in already stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Duplicate {
    /// `duplicate`
    #[schema(schema_with = duplicate, required)]
    pub outcome: String,
    /// The check-in it repeats.
    pub original: Original,
    /// The device's own id of this scan.
    #[schema(schema_with = client_id, required)]
    pub id: String,
    /// The direction the original counts under.
    #[schema(schema_with = direction, required)]
    pub direction: String,
    /// Whose code it was.
    #[schema(schema_with = subject, required)]
    pub subject: String,
    /// Whether the code was signed.
    #[schema(schema_with = trust, required)]
    pub trust: String,
    /// Event time of this scan.
    #[schema(schema_with = timestamp, required)]
    pub at: String,
    /// The person's card, where a place's device asked with `card=true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub card: Option<ScanCard>,
}

/// The check-in that a duplicate repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Original {
    /// Its id.
    #[schema(schema_with = checkin_id, required)]
    pub checkin: String,
    /// Its event time.
    #[schema(schema_with = timestamp, required)]
    pub at: String,
}

/// One line of a batch's answer: its number, the status it would have had alone, and how it ended. Its
/// schema is written by hand, in `batch_line`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchLine {
    /// The input line that it answers, or the frame's code, from 1; blank lines don't count.
    pub line: u32,
    /// The status that the scan would have had alone.
    pub status: u16,
    /// How the scan ended.
    #[serde(flatten)]
    pub result: LineResult,
}

/// How one scan of a batch ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LineResult {
    /// Recorded and durable.
    Recorded(Recorded),
    /// Already recorded.
    Duplicate(Duplicate),
    /// Not recorded.
    Refused(Refused),
}

/// `BatchLine`: each way in which a scan ends, with two members more. Put together by `allOf`, the parts
/// would refuse each other's members.
pub(super) fn batch_line() -> Schema {
    numbered([Recorded::schema(), Duplicate::schema(), Refused::schema()]).build().into()
}

/// `FeedLine`: a refused line of a batch of links, or the summary at its end.
pub(super) fn feed_line() -> Schema {
    numbered([Refused::schema()]).item(Ref::from_schema_name(FeedSummary::name())).build().into()
}

fn numbered<const N: usize>(ends: [RefOr<Schema>; N]) -> OneOfBuilder {
    let whole = |minimum: usize, maximum: Option<usize>, description: &str| -> Schema {
        let whole = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(minimum));
        whole.maximum(maximum).description(Some(description)).build().into()
    };
    let line = whole(
        1,
        None,
        "The input line that it answers, or the frame's code, from 1; blank lines don't count",
    );
    let status = whole(200, Some(599), "The status that the scan would have had alone");
    let lines = ends.into_iter().filter_map(|end| match end {
        RefOr::T(Schema::Object(mut object)) => {
            for (name, schema) in [("line", &line), ("status", &status)] {
                object.properties.insert(name.to_owned(), schema.clone().into());
                object.required.push(name.to_owned());
            }
            Some(object)
        }
        _ => None,
    });
    lines.fold(OneOfBuilder::new(), OneOfBuilder::item)
}

/// A scan of a batch that was not recorded. At most one of `field` and `bound` is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// Why, as a stable name.
    #[schema(schema_with = refusal, required)]
    pub outcome: String,
    /// Why, in words.
    pub detail: String,
    /// The device's own id, where the line could be read that far.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(schema_with = client_id)]
    pub id: Option<String>,
    /// The field of the line that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(schema_with = field)]
    pub field: Option<String>,
    /// The bound that was reached, by its name in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(schema_with = bound)]
    pub bound: Option<String>,
    /// The limit's value.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(schema_with = limit)]
    pub limit: Option<u64>,
    /// The value that passed it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(schema_with = value)]
    pub value: Option<u64>,
    /// Seconds to wait before the scan is sent again, where that is worth it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(schema_with = retry_after)]
    pub retry_after_s: Option<u64>,
}

/// Why a request was refused (RFC 9457). At most one of `field` and `bound` is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// `urn:scangate:outcome:` or `urn:scangate:rejection:` and `outcome`.
    #[serde(rename = "type")]
    #[schema(schema_with = problem_type, required)]
    pub kind: String,
    /// `outcome` in words.
    pub title: String,
    /// The status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// How the scan or the request ended, as a stable name.
    #[schema(schema_with = problem_outcome, required)]
    pub outcome: String,
    /// What is wrong, naming thing, limit and value.
    pub detail: String,
    /// The field of the body, the header, the token's claim or the parameter that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(schema_with = field)]
    pub field: Option<String>,
    /// The bound that was reached, by its name in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(schema_with = bound)]
    pub bound: Option<String>,
    /// The limit's value.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(schema_with = limit)]
    pub limit: Option<u64>,
    /// The value that passed it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(schema_with = value)]
    pub value: Option<u64>,
}

/// The answer of `/healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Alive {
    /// `alive`
    #[schema(schema_with = alive, required)]
    pub status: String,
    /// The running version.
    pub version: String,
}

/// The answer to `/v1/drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Draining {
    /// Always true: readiness is false from now on, and the process ends when it has drained.
    pub draining: bool,
}

/// The answer to `/v1/reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reloaded {
    /// Always true: keys, revocations and the certificate have been read again.
    pub reloaded: bool,
    /// Whether the keys or revocations are others than before.
    pub keys_changed: bool,
}

/// One line of `/v1/export` and of `scangate export`: a check-in under pseudonyms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportedCheckin {
    /// The check-in's id.
    #[schema(schema_with = checkin_id, required)]
    pub checkin: String,
    /// Who, as a pseudonym.
    #[schema(schema_with = key_16_bytes, required)]
    pub person: String,
    /// Where, as a pseudonym.
    #[schema(schema_with = key_16_bytes, required)]
    pub place: String,
    /// The direction it counts under.
    #[schema(schema_with = direction, required)]
    pub direction: String,
    /// Event time.
    #[schema(schema_with = timestamp, required)]
    pub at: String,
    /// When the gateway received it.
    #[schema(schema_with = timestamp, required)]
    pub received_at: String,
    /// The device, as a pseudonym.
    #[schema(schema_with = key_8_bytes, required)]
    pub device: String,
    /// The app that vouches for the device.
    #[schema(schema_with = app, required)]
    pub app: String,
    /// Whose code it was.
    #[schema(schema_with = subject, required)]
    pub subject: String,
    /// Whether the code was signed.
    #[schema(schema_with = trust, required)]
    pub trust: String,
    /// The code's format.
    #[schema(schema_with = form, required)]
    pub form: String,
}

/// Refuses an explicit null, which no answer holds.
fn present<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

fn string(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description))
}

pub(super) fn words(description: &str, words: impl IntoIterator<Item = &'static str>) -> Schema {
    string(description).enum_values(Some(words)).build().into()
}

pub(super) fn pattern(description: &str, pattern: &str) -> Schema {
    string(description).pattern(Some(pattern)).build().into()
}

/// Years that every offset leaves within what a timestamp may be, as the formats' check can't tell.
const YEARS: &str = "^(19(7[1-9]|[89][0-9])|[2-8][0-9]{3})-";

fn date_time(description: &str) -> ObjectBuilder {
    string(description).format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
}

fn timestamp() -> Schema {
    date_time("RFC 3339, in UTC").build().into()
}

/// A time in a query.
pub(super) fn time_parameter() -> Schema {
    date_time("RFC 3339, 1970 or later").pattern(Some(YEARS)).build().into()
}

fn event_time() -> Schema {
    let time = date_time("When the code was scanned, RFC 3339; the time of arrival if left out or null");
    time.schema_type(nullable_string()).pattern(Some(YEARS)).build().into()
}

fn nullable_string() -> SchemaType {
    SchemaType::from_iter([Type::String, Type::Null])
}

fn field() -> Schema {
    string("The field of the body, the header, the token's claim or the parameter that is wrong")
        .build()
        .into()
}

fn bound() -> Schema {
    string("The bound that was reached, by its name in the configuration").build().into()
}

fn number(description: &str) -> Schema {
    let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
    number.description(Some(description)).build().into()
}

fn limit() -> Schema {
    number("The limit's value")
}

fn value() -> Schema {
    number("The value that passed it")
}

fn retry_after() -> Schema {
    number("Seconds to wait before the scan is sent again")
}

fn client_id() -> Schema {
    let id = string("The device's own id for this scan, a UUID as a rule").pattern(Some("^[!-~]+$"));
    id.min_length(Some(1)).max_length(Some(CLIENT_ID_CHARS_MAX)).build().into()
}

/// The `id` of a frame's query.
pub(super) fn frame_id() -> Schema {
    let id = string("The device's own id for this frame, a UUID as a rule").pattern(Some("^[!-~]+$"));
    id.min_length(Some(1)).max_length(Some(FRAME_ID_CHARS_MAX)).build().into()
}

/// The `direction` of a frame's query.
pub(super) fn direction_parameter() -> Schema {
    words("auto, the default, toggles", DirectionRequest::ALL.iter().map(|one| one.name()))
}

fn checkin_id() -> Schema {
    let id = string("The check-in's id, a UUID of version 8 that begins with the event time");
    id.format(Some(SchemaFormat::Custom("uuid".to_owned()))).build().into()
}

fn key_16_bytes() -> Schema {
    pattern("A pseudonym", "^[0-9a-f]{32}$")
}

fn key_8_bytes() -> Schema {
    pattern("The device, as a pseudonym", "^[0-9a-f]{16}$")
}

fn recorded() -> Schema {
    words("New, and durable", [Outcome::Recorded.name()])
}

fn duplicate() -> Schema {
    words("Durable already", [Outcome::Duplicate.name()])
}

fn alive() -> Schema {
    words("The process lives", ["alive"])
}

/// The outcomes of what was not recorded. No device is forbidden anything yet.
fn refusals() -> impl Iterator<Item = &'static str> {
    let is_refusal =
        |one: &&Outcome| !matches!(one, Outcome::Recorded | Outcome::Duplicate | Outcome::Forbidden);
    Outcome::ALL.iter().filter(is_refusal).map(|one| one.name())
}

fn refusal() -> Schema {
    words("How the scan ended", refusals())
}

fn problem_outcome() -> Schema {
    let of_gateway: Vec<&'static str> = refusals().chain(Rejection::NAMES.iter().copied()).collect();
    let of_services = Cause::ALL.iter().map(|one| one.name()).filter(|name| !of_gateway.contains(name));
    words("How the scan or the request ended", of_gateway.iter().copied().chain(of_services))
}

fn problem_type() -> Schema {
    pattern("What outcome means", "^urn:scangate:(outcome|rejection):[a-z_]+$")
}

fn direction() -> Schema {
    words("The direction it counts under", Direction::ALL.iter().map(|one| one.name()))
}

fn direction_request() -> Schema {
    let names = DirectionRequest::ALL.iter().map(|one| Some(one.name()));
    string("auto, the default, toggles from the person's last check-in at the place")
        .schema_type(nullable_string())
        .enum_values(Some(names.chain([None])))
        .build()
        .into()
}

fn subject() -> Schema {
    words("Whose code it was", Subject::ALL.iter().map(|one| one.name()))
}

fn trust() -> Schema {
    words("proven if the code was signed", Trust::ALL.iter().map(|one| one.name()))
}

fn app() -> Schema {
    words("The app that vouches for the device", App::ALL.iter().map(|one| one.name()))
}

fn form() -> Schema {
    words("The code's format", Form::ALL.iter().map(|one| one.name()))
}
