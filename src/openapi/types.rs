//! Bodies as a client sees them. The hot path writes the same bytes by hand; a test holds it to these.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};

use crate::scan::{App, Direction, DirectionRequest, Form, Outcome, Subject, Trust};

/// One scan to check in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckinRequest {
    /// The device's own id for this scan, a UUID as a rule. Sent again with the same id, a scan is
    /// answered as a duplicate.
    #[schema(schema_with = client_id, required)]
    pub id: String,
    /// The decoded payload.
    #[schema(min_length = 1, max_length = 4096)]
    pub qr: String,
    /// When the code was scanned; the time of arrival if left out.
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
}

/// A scan that an earlier, durable check-in already stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
}

/// The check-in that a duplicate repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Original {
    /// Its id.
    #[schema(schema_with = checkin_id, required)]
    pub checkin: String,
    /// Its event time.
    #[schema(schema_with = timestamp, required)]
    pub at: String,
}

/// One line of a batch's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchLine {
    /// The input line it answers, from 1.
    #[schema(minimum = 1)]
    pub line: u32,
    /// The status that the scan would have had alone.
    #[schema(minimum = 200, maximum = 599)]
    pub status: u16,
    /// How the scan ended.
    #[serde(flatten)]
    pub result: LineResult,
}

/// How one scan of a batch ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum LineResult {
    /// Recorded and durable.
    Recorded(Recorded),
    /// Already recorded.
    Duplicate(Duplicate),
    /// Not recorded.
    Refused(Refused),
}

/// A scan of a batch that was not recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refused {
    /// Why, as a stable name.
    #[schema(schema_with = outcome, required)]
    pub outcome: String,
    /// Why, in words.
    pub detail: String,
    /// The device's own id, where the line could be read that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = client_id)]
    pub id: Option<String>,
}

/// Why a request was refused (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the title is the status's own.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong, naming thing, limit and value.
    pub detail: String,
    /// How the scan ended, for requests that carry one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = outcome)]
    pub outcome: Option<String>,
    /// The field of the body, or the header, that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(schema_with = field)]
    pub field: Option<String>,
    /// The bound that was reached, by its name in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(schema_with = bound)]
    pub bound: Option<String>,
    /// The bound's value.
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
pub struct Alive {
    /// `alive`
    pub status: String,
    /// The running version.
    pub version: String,
}

/// The answer to `/v1/drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Draining {
    /// Always true: readiness is false from now on, and the process ends when it has drained.
    pub draining: bool,
}

/// The answer to `/v1/reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// What was read again: `keys`, `revocations`, `limits`, `certificate`.
    pub reloaded: Vec<String>,
}

/// One line of `/v1/export` and of `scangate export`: a check-in under pseudonyms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    pub received: String,
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

fn words(description: &str, words: impl IntoIterator<Item = &'static str>) -> Schema {
    string(description).enum_values(Some(words)).build().into()
}

fn pattern(description: &str, pattern: &str) -> Schema {
    string(description).pattern(Some(pattern)).build().into()
}

fn date_time(description: &str) -> Schema {
    string(description).format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).build().into()
}

pub(super) fn timestamp() -> Schema {
    date_time("RFC 3339, 1970 or later")
}

fn event_time() -> Schema {
    date_time("When the code was scanned, RFC 3339; the time of arrival if left out")
}

fn field() -> Schema {
    string("The field of the body, or the header, that is wrong").build().into()
}

fn bound() -> Schema {
    string("The bound that was reached, by its name in the configuration").build().into()
}

fn number(description: &str) -> Schema {
    let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
    number.description(Some(description)).build().into()
}

fn limit() -> Schema {
    number("The bound's value")
}

fn value() -> Schema {
    number("The value that passed it")
}

fn client_id() -> Schema {
    pattern("The device's own id for this scan, a UUID as a rule", "^[!-~]{1,64}$")
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

fn outcome() -> Schema {
    let refusals = Outcome::ALL.iter().filter(|one| !matches!(one, Outcome::Recorded | Outcome::Duplicate));
    words("How the scan ended", refusals.map(|one| one.name()))
}

fn direction() -> Schema {
    words("The direction it counts under", Direction::ALL.iter().map(|one| one.name()))
}

fn direction_request() -> Schema {
    let names = DirectionRequest::ALL.iter().map(|one| one.name());
    words("auto, the default, toggles from the person's last check-in at the place", names)
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
