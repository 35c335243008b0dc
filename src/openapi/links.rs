//! `/v1/links`: the feed of links between a citizen's identifiers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Content, Ref, Required};

use super::{content, described, guarded, items, problems, types};
use crate::identity::feed::{CERTIFICATE_CHARS_MAX, CURSOR_CHARS_MAX, SOURCE_CHARS_MAX};
use crate::respond::{JSON, NDJSON};

/// The name of the security scheme.
pub(super) const FEED_TOKEN: &str = "feed_token";

/// `identity.feed_lines_max`, at its default.
const FEED_LINES_MAX: usize = 10_000;

/// A citizen and the identifiers that are theirs: one alias at least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"citizen": "001093029317", "qid": "162979388586171100"}))]
pub struct LinkRequest {
    /// The citizen's number; null takes the links of the aliases away.
    #[schema(schema_with = citizen, required)]
    pub citizen: Option<String>,
    /// PC-COVID's QID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = qid)]
    pub qid: Option<String>,
    /// The cti of an SG1 token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = cti)]
    pub cti: Option<String>,
    /// A health-insurance code, or its last ten digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = insurance)]
    pub insurance: Option<String>,
    /// A certificate's UVCI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = certificate)]
    pub certificate: Option<String>,
}

/// The last line of a batch's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedSummary {
    /// Lines that changed a link.
    pub accepted: u64,
    /// Lines that told what was known.
    pub unchanged: u64,
    /// Lines that could not be taken; each has a line of its own before this one.
    pub refused: u64,
    /// The batch's cursor, durable now.
    #[schema(schema_with = cursor_text, required)]
    pub cursor: String,
}

/// How far a source has come, over all its batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedState {
    /// The cursor of its last durable batch; empty if there was none.
    #[schema(schema_with = cursor_text, required)]
    pub cursor: String,
    /// Lines that changed a link.
    pub accepted: u64,
    /// Lines that told what was known.
    pub unchanged: u64,
    /// Lines that could not be taken.
    pub refused: u64,
}

pub(super) fn post() -> OperationBuilder {
    let body = RequestBodyBuilder::new()
        .description(Some("One LinkRequest a line; gzip or zstd with Content-Encoding"))
        .content(NDJSON, batch())
        .required(Some(Required::True))
        .build();
    let operation = guarded("Link identifiers to citizens", "feed_links")
        .description(Some(
            "Answered when the batch is durable and in force. A bad line spoils only itself and is answered by \
             a line that names its number, field and limit, never a value; a summary is the last line. A batch \
             sent again changes nothing. Of two lines about one alias the last wins.",
        ))
        .parameter(source())
        .parameter(parameter("cursor", "What GET is to tell of this batch; the source's own", cursor_text()))
        .request_body(Some(body))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(FEED_TOKEN, []))
        .response(
            "200",
            described("A line for each that was refused, then FeedSummary").content(NDJSON, items("FeedLine", "One a line")),
        );
    problems(operation, &[400, 401, 408, 411, 413, 415, 503])
}

pub(super) fn get() -> OperationBuilder {
    let operation = guarded("How far a source of links has come", "feed_state")
        .parameter(source())
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(FEED_TOKEN, []))
        .response("200", described("As asked").content(JSON, content::<FeedState>()));
    problems(operation, &[400, 401, 503])
}

fn source() -> ParameterBuilder {
    let schema = types::pattern("The feed's name", &format!("^[a-z0-9._-]{{1,{SOURCE_CHARS_MAX}}}$"));
    parameter("source", "The feed's name", schema)
}

fn parameter(name: &str, description: &str, schema: Schema) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(schema))
}

/// Lines are LinkRequests, but one that isn't only spoils itself.
fn batch() -> Content {
    let anything: Schema = ObjectBuilder::new().schema_type(SchemaType::AnyValue).build().into();
    let line = AnyOfBuilder::new().item(Ref::from_schema_name(LinkRequest::name())).item(anything);
    let items = ArrayBuilder::new().items(line).max_items(Some(FEED_LINES_MAX));
    let items = items.description(Some("One LinkRequest a line. Any other line spoils only itself"));
    Content::new(Some(Schema::Array(items.build())))
}

fn citizen() -> Schema {
    let number = ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null]));
    let number = number.pattern(Some("^[0-9]{12}$"));
    number.description(Some("The citizen's number; null takes the links away")).build().into()
}

fn qid() -> Schema {
    types::pattern("PC-COVID's QID", "^[0-9]{18}$")
}

fn cti() -> Schema {
    types::pattern("The cti of an SG1 token", "^[0-9a-fA-F]{32}$")
}

fn insurance() -> Schema {
    types::pattern("A health-insurance code", "^([0-9]{10}|[A-Za-z]{2}[0-9]{13})$")
}

fn certificate() -> Schema {
    types::pattern("A certificate's UVCI", &format!("^[!-~]{{1,{CERTIFICATE_CHARS_MAX}}}$"))
}

fn cursor_text() -> Schema {
    types::pattern("Up to 64 visible ASCII characters", &format!("^[!-~]{{0,{CURSOR_CHARS_MAX}}}$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_may_have_as_many_lines_as_the_default_limit() {
        assert_eq!(crate::config::Config::default().identity.feed_lines_max, FEED_LINES_MAX);
    }
}
