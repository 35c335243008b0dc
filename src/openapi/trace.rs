//! `/v1/trace`: one person's check-ins; and the parameters that it shares with the export.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::Required;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

use super::{content, described, items, operator, problems, types};
use crate::audit::PURPOSE_CHARS_MAX;
use crate::issue::REFERENCE_BYTES_MAX;
use crate::respond::{JSON, NDJSON};

/// Whose check-ins, of which event times, and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"person": "001093029317", "from": "2021-11-01T00:00:00Z", "to": "2021-11-25T00:00:00Z", "purpose": "case 17"}))]
pub struct TraceRequest {
    /// A citizen number, a QID, another reference to a person, or a pseudonym of 32 hexadecimal digits.
    #[schema(schema_with = person, required)]
    pub person: String,
    /// First event time.
    #[schema(schema_with = types::time_parameter, required)]
    pub from: String,
    /// First event time that is left out, at most 366 days later.
    #[schema(schema_with = types::time_parameter, required)]
    pub to: String,
    /// What for, as the audit log says it; never a person's number. Required where admin.purpose_required is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = purpose_or_null)]
    pub purpose: Option<String>,
}

const TEXT: &str = "Every pseudonym that is linked to the person's counts, and repetitions are left out as in an \
                    export. The call is in the audit log before its first line leaves; 503 where it can't be.";

pub(super) fn get() -> OperationBuilder {
    let pseudonym = types::pattern("The person's pseudonym, as an export tells it", "^[0-9a-fA-F]{32}$");
    let operation = range(operator("One person's check-ins, by pseudonym", "trace"))
        .description(Some(TEXT))
        .parameter(parameter(
            "person",
            Required::True,
            "No other reference: a number has no place in a URL",
            pseudonym,
        ))
        .response(
            "200",
            described("One check-in a line").content(NDJSON, items("ExportedCheckin", "One a line")),
        );
    problems(operation, &[400, 503])
}

pub(super) fn post() -> OperationBuilder {
    let body = RequestBodyBuilder::new()
        .content(JSON, content::<TraceRequest>())
        .required(Some(Required::True))
        .build();
    let operation = operator("One person's check-ins, by any reference to the person", "trace_reference")
        .description(Some(TEXT))
        .request_body(Some(body))
        .response(
            "200",
            described("One check-in a line").content(NDJSON, items("ExportedCheckin", "One a line")),
        );
    problems(operation, &[400, 408, 411, 413, 415, 503])
}

/// The event times of an operation, and what it is for.
pub(super) fn range(operation: OperationBuilder) -> OperationBuilder {
    let time = types::time_parameter;
    operation
        .parameter(parameter("from", Required::True, "First event time", time()))
        .parameter(parameter("to", Required::True, "First event time that is left out", time()))
        .parameter(parameter(
            "purpose",
            Required::False,
            "What for, as the audit log says it; never a person's number",
            purpose(),
        ))
}

fn parameter(name: &str, required: Required, description: &str, schema: Schema) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(required)
        .description(Some(description))
        .schema(Some(schema))
}

fn text(chars_max: usize) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(chars_max))
}

fn person() -> Schema {
    text(REFERENCE_BYTES_MAX).build().into()
}

fn purpose() -> Schema {
    text(PURPOSE_CHARS_MAX).build().into()
}

fn purpose_or_null() -> Schema {
    let nullable = SchemaType::from_iter([Type::String, Type::Null]);
    text(PURPOSE_CHARS_MAX).schema_type(nullable).build().into()
}
