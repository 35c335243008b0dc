//! Contact tracing and its notifications, on the services' listener.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Required, ServerBuilder};

use super::{ADMIN_TOKEN, DEVICE_TOKEN, content, described, not_http, problems, types};
use crate::audit::PURPOSE_CHARS_MAX;
use crate::issue::REFERENCE_BYTES_MAX;
use crate::respond::JSON;

/// Characters of a case's own id.
pub const CASE_ID_CHARS_MAX: usize = 64;

/// A trace that is asked for: around a person or around a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"id": "hn-17", "person": "001093029317", "from": "2021-11-10T00:00:00+07:00", "to": "2021-11-24T00:00:00+07:00", "purpose": "ca bệnh 17", "depth": 2}))]
pub struct CaseRequest {
    /// The officer's own id. Sent again with the same id, a case is told as it is.
    #[schema(schema_with = case_name, required)]
    pub id: String,
    /// A citizen number, a QID, another reference to a person, or a pseudonym of 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = reference)]
    pub person: Option<String>,
    /// A reference to a place, or a place's key of 32 hexadecimal digits. Either person or place is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = reference)]
    pub place: Option<String>,
    /// First moment.
    #[schema(schema_with = types::time_parameter, required)]
    pub from: String,
    /// First moment that is left out, at most 31 days later.
    #[schema(schema_with = types::time_parameter, required)]
    pub to: String,
    /// What for, as the audit log says it; never a person's number.
    #[schema(schema_with = purpose, required)]
    pub purpose: String,
    /// 1 for contacts, 2 for theirs as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2)]
    pub depth: Option<u8>,
}

/// A case as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceCase {
    /// Its number.
    #[schema(schema_with = key, required)]
    pub case: String,
    /// `waiting` for approval, `approved`, or `withdrawn` with the test that made it.
    #[schema(schema_with = state, required)]
    pub state: String,
    /// The person's pseudonym.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = key)]
    pub person: Option<String>,
    /// The place's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = key)]
    pub place: Option<String>,
    /// First moment.
    pub from: String,
    /// First moment that is left out.
    pub to: String,
    /// 1 or 2.
    pub depth: u8,
    /// What for.
    pub purpose: String,
    /// Who asked; nobody where a positive test did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<String>,
    /// When.
    pub asked_at: String,
    /// How many persons must have approved it, each another one and none of them who asked.
    pub approvals_needed: u8,
    /// Who has, and is not out of date.
    pub approved_by: Vec<String>,
    /// Until when it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_until: Option<String>,
}

/// Some cases, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceCases {
    /// At most 100.
    pub cases: Vec<TraceCase>,
}

/// Where and when two were together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceMeeting {
    /// The place's key.
    #[schema(schema_with = key, required)]
    pub place: String,
    /// From when.
    pub from: String,
    /// Until when.
    pub to: String,
    /// Whether an entry or exit is missing, and the time is the rule's.
    pub assumed: bool,
}

/// One contact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceContact {
    /// The pseudonym.
    #[schema(schema_with = key, required)]
    pub person: String,
    /// 1, or 2 for a contact's contact.
    pub depth: u8,
    /// For depth 2: which contact they met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = key)]
    pub via: Option<String>,
    /// How long they were together, in seconds, each moment once.
    pub seconds: i64,
    /// The first 64 meetings.
    pub meetings: Vec<TraceMeeting>,
    /// How many there were.
    pub meetings_total: usize,
}

/// A page of a case's contacts, by depth and then by pseudonym.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceContacts {
    /// The case.
    #[schema(schema_with = key, required)]
    pub case: String,
    /// At most 100.
    pub contacts: Vec<TraceContact>,
    /// How many there are over all pages.
    pub total: usize,
    /// The bound that cut the search short, by its name in the configuration; left out where it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    /// What `cursor` is for the next page; left out on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = cursor)]
    pub next: Option<String>,
}

/// All of a case's contacts for the population register and nobody else: HPKE in base mode (RFC 9180) with
/// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM, info `scangate contacts 1`, the case's number as
/// associated data. What is sealed is a `TraceContacts` with all contacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedContacts {
    /// The case.
    #[schema(schema_with = key, required)]
    pub case: String,
    /// The SHA-256 of the register's public key, as hexadecimal digits.
    pub key: String,
    /// The encapsulated key, base64url.
    pub enc: String,
    /// The ciphertext, base64url.
    pub ciphertext: String,
}

/// How many were notified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Notified {
    /// Contacts of the case.
    pub contacts: usize,
    /// Of these, who had no notification of this case before.
    pub notified: usize,
}

/// A message for a person. It never says whose contact they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Notification {
    /// Its id, for acknowledging it.
    #[schema(schema_with = key, required)]
    pub id: String,
    /// 1 for a contact, 2 for a contact's contact. Left out, as all that follows, where the person wants no content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u8>,
    /// The last day of contact, in Vietnam's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// The place's key, where at least ten were contacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = key)]
    pub place: Option<String>,
}

/// What is waiting for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Notifications {
    /// The oldest first, at most 100; each stays until it is acknowledged.
    pub notifications: Vec<Notification>,
    /// Whether the person wants to be told more than that there is a message.
    pub content: bool,
}

/// Whether notifications have content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NotificationSettings {
    /// False for no more than that there is a message.
    pub content: bool,
}

/// An acknowledged notification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Acknowledged {
    /// Its id.
    #[schema(schema_with = key, required)]
    pub id: String,
}

/// Every operation, by its path.
pub(super) fn paths() -> Vec<(&'static str, PathItem)> {
    let officer = |summary: &str, id: &str| operation(summary, id, ADMIN_TOKEN);
    let of_case =
        |summary: &str, id: &str| officer(summary, id).parameter(in_path("case", "The case's number"));
    let person = |summary: &str, id: &str| operation(summary, id, DEVICE_TOKEN);
    let mut cases = item(
        HttpMethod::Post,
        problems(
            officer("Ask for a trace", "trace_ask")
                .description(Some("Needs the scope trace. In the audit log first. It waits for approval."))
                .request_body(Some(body::<CaseRequest>()))
                .response("201", described("Waiting for approval").content(JSON, content::<TraceCase>()))
                .response("200", described("Asked before").content(JSON, content::<TraceCase>())),
            &[400, 409, 413, 415, 422, 429],
        ),
    );
    cases.get = Some(
        officer("The newest cases", "trace_cases")
            .description(Some("Needs the scope trace, which sees its own and those of tests, or approve."))
            .response("200", described("As asked").content(JSON, content::<TraceCases>()))
            .build(),
    );
    let case = of_case("A case", "trace_case")
        .response("200", described("As it stands").content(JSON, content::<TraceCase>()));
    let approve = of_case("Approve a trace that somebody else asked for", "trace_approve")
        .description(Some("Needs the scope approve. The approval ends after tracing.approval_s."))
        .response("200", described("As it stands").content(JSON, content::<TraceCase>()));
    let contacts = of_case("A case's contacts", "trace_contacts")
        .description(Some(
            "Needs the scope trace; for who asked, while it is approved. In the audit log first.",
        ))
        .parameter(optional("cursor", "The next member of the page before", cursor()))
        .response("200", described("A page").content(JSON, content::<TraceContacts>()));
    let sealed = of_case("A case's contacts, sealed for the population register", "trace_sealed")
        .response("200", described("Sealed").content(JSON, content::<SealedContacts>()));
    let notify = of_case("Notify a case's contacts", "trace_notify")
        .description(Some("Done again, it notifies whom it hasn't."))
        .response("200", described("Notified").content(JSON, content::<Notified>()));
    let list = person("What is waiting for the person", "notifications")
        .response("200", described("As asked").content(JSON, content::<Notifications>()));
    let acknowledge = person("Acknowledge a notification", "notification_ack")
        .parameter(in_path("id", "The notification's id"))
        .response("200", described("Acknowledged, now or before").content(JSON, content::<Acknowledged>()));
    let settings = person("Turn content on or off", "notification_settings")
        .request_body(Some(body::<NotificationSettings>()))
        .response("200", described("Set").content(JSON, content::<NotificationSettings>()));
    vec![
        ("/v1/cases", cases),
        ("/v1/cases/{case}", item(HttpMethod::Get, case)),
        ("/v1/cases/{case}/approve", item(HttpMethod::Post, problems(approve, &[413]))),
        ("/v1/cases/{case}/contacts", item(HttpMethod::Get, problems(contacts, &[400, 409]))),
        ("/v1/cases/{case}/sealed", item(HttpMethod::Get, problems(sealed, &[409]))),
        ("/v1/cases/{case}/notify", item(HttpMethod::Post, problems(notify, &[409, 413]))),
        ("/v1/notifications", item(HttpMethod::Get, list)),
        ("/v1/notifications/{id}/ack", item(HttpMethod::Post, problems(acknowledge, &[413]))),
        ("/v1/notifications/settings", item(HttpMethod::Put, problems(settings, &[400, 413, 415]))),
    ]
}

pub(super) fn operation(summary: &str, id: &str, token: &str) -> OperationBuilder {
    let operation = OperationBuilder::new().tag("services").operation_id(Some(id)).summary(Some(summary));
    let operation = operation.security(SecurityRequirement::new::<_, [&str; 0], &str>(token, []));
    not_http(problems(operation, &[401, 403, 404, 408, 429, 500, 503]), &[400, 431])
}

pub(super) fn item(method: HttpMethod, operation: OperationBuilder) -> PathItem {
    let mut item = PathItem::new(method, operation);
    let server =
        ServerBuilder::new().url("http://127.0.0.1:8090").description(Some("The services' listener"));
    item.servers = Some(vec![server.build()]);
    item
}

fn body<T: ToSchema>() -> utoipa::openapi::request_body::RequestBody {
    RequestBodyBuilder::new().content(JSON, content::<T>()).required(Some(Required::True)).build()
}

fn in_path(name: &str, description: &str) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(key()))
}

fn optional(name: &str, description: &str, schema: Schema) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
}

fn key() -> Schema {
    types::pattern("32 hexadecimal digits", "^[0-9a-f]{32}$")
}

fn cursor() -> Schema {
    types::pattern("Where the next page begins", "^[12]-[0-9a-f]{32}$")
}

fn case_name() -> Schema {
    types::pattern("The officer's own id", &format!("^[A-Za-z0-9._-]{{1,{CASE_ID_CHARS_MAX}}}$"))
}

fn state() -> Schema {
    types::pattern("How it stands", "^(waiting|approved|withdrawn)$")
}

fn reference() -> Schema {
    let nullable = SchemaType::from_iter([Type::String, Type::Null]);
    let text = ObjectBuilder::new().schema_type(nullable).min_length(Some(1));
    text.max_length(Some(REFERENCE_BYTES_MAX)).build().into()
}

fn purpose() -> Schema {
    let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1));
    text.max_length(Some(PURPOSE_CHARS_MAX)).build().into()
}
