//! The API's description, OpenAPI 3.1, made from the types of its bodies.
//!
//! Every status that an operation can answer with is listed, so that a tester can take an unlisted one for
//! a fault.

mod card;
mod declarations;
pub mod feedback;
mod health;
mod links;
mod places;
mod registers;
mod risk_map;
mod trace;
mod tracing;
mod types;

use std::sync::LazyLock;

use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Header, Ref, RefOr, Required, Response, ResponseBuilder, ServerBuilder};
use utoipa::{OpenApi, ToSchema};

use crate::observe::health::Readiness;
use crate::observe::metrics::CONTENT_TYPE as OPENMETRICS;
use crate::observe::stats::Stats;
use crate::respond::{EVENTS, JSON, NDJSON, PROBLEM_JSON};

pub use card::{CardReason, CardRules, CardRulesList, CardRulesTaken, CardText, PersonCard, ScanCard};
pub use declarations::{
    AmendRequest, CheckRequest, Declaration, DeclarationCheck, DeclarationPage, DeclarationRequest,
    DeclaredFor, EarlierRevision, FormList, FormVersion, JourneyCode, Relation,
};
pub use health::{
    HealthCode, HealthFact, HealthFacts, HealthHistory, HealthProvenance, HealthRead, HealthTaken,
    HealthVersion,
};
pub use links::{FeedState, FeedSummary, LinkRequest};
pub use places::{PlaceLine, PlaceTold, PlacesPut};
pub use registers::{
    LookupRequest, PushAnswer, REGISTER_CHANGES_MAX, RefusedChange, RegisterState, RegisterStates,
};
pub use risk_map::{MapDay, MapDays, MapFeature, MapFeatures, MapFigures};
pub use trace::TraceRequest;
pub use tracing::{
    Acknowledged, CASE_ID_CHARS_MAX, CaseRequest, Notification, NotificationSettings, Notifications,
    Notified, SealedContacts, TraceCase, TraceCases, TraceContact, TraceContacts, TraceMeeting,
};
pub use types::{
    Alive, BatchLine, CheckinRequest, Draining, Duplicate, ExportedCheckin, LineResult, Original, Problem,
    Recorded, Refused, Reloaded,
};

/// The document, as served at `/openapi.json` and printed by `scangate openapi`.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
        // Plain strings and numbers always serialize; an empty document would fail its test.
        describe().to_pretty_json().unwrap_or_default() + "\n"
    });
    &DOCUMENT
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "scangate",
        description = "QR check-ins: read, verified, deduplicated and durable before they are answered."
    ),
    components(schemas(
        Acknowledged, Alive, CaseRequest, CheckinRequest, Draining, Duplicate, ExportedCheckin, FeedState,
        FeedSummary, LinkRequest, LookupRequest, MapDay, MapDays, MapFeature, MapFeatures, MapFigures, Notification, NotificationSettings, Notifications, Notified, Original, Problem, PushAnswer,
        Readiness, Recorded, Refused, RefusedChange, RegisterState, RegisterStates, Reloaded, SealedContacts, Stats, TraceCase, TraceCases, TraceContact,
        TraceContacts, TraceMeeting, TraceRequest
    )),
    tags(
        (name = "checkins", description = "For devices"),
        (name = "health", description = "For load balancers"),
        (name = "admin", description = "For operators, on the admin listener only: the public one answers 404"),
        (name = "services", description = "What check-ins are for, on the services' listener")
    )
)]
struct Types;

/// `limits.batch_lines_max`, at its default.
const BATCH_LINES_MAX: usize = 1000;

/// Raw luma, by way of example: the parameters are part of the type.
const LUMA: &str = "application/vnd.scangate.luma;w=640;h=480";

/// The names of the security schemes.
const DEVICE_TOKEN: &str = "device_token";
const ADMIN_TOKEN: &str = "admin_token";
const ADMIN_BASIC: &str = "admin_basic";

fn describe() -> utoipa::openapi::OpenApi {
    let mut document = Types::openapi();
    if let Some(components) = &mut document.components {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some("EdDSA or ES256; iss = app, sub = device, place or person, exp"))
            .build();
        components.schemas.insert("BatchLine".to_owned(), types::batch_line().into());
        components.schemas.insert("FeedLine".to_owned(), types::feed_line().into());
        components.add_security_scheme(DEVICE_TOKEN, SecurityScheme::Http(scheme));
        let feed =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("DATA/keys/feed-token"));
        components.add_security_scheme(links::FEED_TOKEN, SecurityScheme::Http(feed.build()));
        let admin = |scheme, text| HttpBuilder::new().scheme(scheme).description(Some(text)).build();
        let bearer = admin(
            HttpAuthScheme::Bearer,
            "Made by `scangate keys admin NAME --scope …`; nobody is asked on loopback",
        );
        let basic = admin(HttpAuthScheme::Basic, "The same token as the password of its name");
        components.add_security_scheme(ADMIN_TOKEN, SecurityScheme::Http(bearer));
        components.add_security_scheme(ADMIN_BASIC, SecurityScheme::Http(basic));
        card::add_to(components);
        feedback::add_to(components);
        health::add_to(components);
        places::add_to(components);
        let (name, scheme) = registers::scheme();
        components.add_security_scheme(name, scheme);
        declarations::add_to(components);
    }
    let paths = risk_map::paths(PathsBuilder::new())
        .path("/v1/checkins", item(HttpMethod::Post, checkins()))
        .path("/v1/frames", item(HttpMethod::Post, frames()))
        .path(
            "/healthz",
            item(
                HttpMethod::Get,
                health("Whether the process lives", "alive").response("200", ok::<Alive>()),
            ),
        )
        .path("/readyz", item(HttpMethod::Get, ready()))
        .path("/openapi.json", item(HttpMethod::Get, openapi()))
        .path("/metrics", admin(HttpMethod::Get, metrics()))
        .path(
            "/v1/stats",
            admin(
                HttpMethod::Get,
                operator("Rates, outcomes, backlog, latency", "stats").response("200", ok::<Stats>()),
            ),
        )
        .path("/v1/stats/stream", admin(HttpMethod::Get, stream()))
        .path("/v1/drain", admin(HttpMethod::Post, drain()))
        .path("/v1/reload", admin(HttpMethod::Post, reload()))
        .path("/v1/export", admin(HttpMethod::Get, export()))
        .path("/v1/trace", traces())
        .path("/v1/links", feed());
    let of_services = card::paths()
        .into_iter()
        .chain(health::paths())
        .chain(places::paths())
        .chain(registers::paths())
        .chain(tracing::paths());
    let paths = declarations::paths(paths);
    let paths = of_services.fold(paths, |paths, (path, item)| paths.path(path, item));
    document.paths = feedback::paths(paths).build();
    document
}

fn item(method: HttpMethod, operation: OperationBuilder) -> PathItem {
    PathItem::new(method, operation)
}

fn admin(method: HttpMethod, operation: OperationBuilder) -> PathItem {
    let mut item = PathItem::new(method, operation);
    let server = ServerBuilder::new().url("http://127.0.0.1:9090").description(Some("The admin listener"));
    item.servers = Some(vec![server.build()]);
    item
}

fn traces() -> PathItem {
    let mut item = admin(HttpMethod::Get, trace::get());
    item.post = Some(trace::post().build());
    item
}

fn feed() -> PathItem {
    let mut item = admin(HttpMethod::Get, links::get());
    item.post = Some(links::post().build());
    item
}

fn checkins() -> OperationBuilder {
    let body = RequestBodyBuilder::new()
        .description(Some("One scan, or one a line; gzip or zstd with Content-Encoding"))
        .content(JSON, content::<CheckinRequest>())
        .content(NDJSON, batch())
        .required(Some(Required::True))
        .build();
    let operation = OperationBuilder::new()
        .tag("checkins")
        .operation_id(Some("checkin"))
        .summary(Some("Check in one scan or a batch"))
        .description(Some(
            "Answered when the check-in is durable. A batch is answered 200 with one BatchLine per input line, \
             in order, once all of its records are durable; a bad line spoils only itself.",
        ))
        .parameter(card::parameter())
        .request_body(Some(body))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(DEVICE_TOKEN, []))
        .response("201", described("Recorded and durable").content(JSON, content::<Recorded>()))
        .response(
            "200",
            described("A duplicate, or a batch")
                .content(JSON, content::<Duplicate>())
                .content(NDJSON, items("BatchLine", "One a line, in the order of the input")),
        );
    not_http(problems(operation, &[400, 401, 405, 408, 411, 413, 415, 422, 429, 500, 503]), &[431])
}

fn frames() -> OperationBuilder {
    let body = RequestBodyBuilder::new()
        .description(Some(
            "One frame. Raw luma is one byte a pixel, row by row, w times h of them, for any w and h up to \
             1280; 640 and 480 stand for them here. No Content-Encoding",
        ))
        .content("image/jpeg", binary("A JPEG image of at most 262,144 bytes"))
        .content("image/png", binary("A PNG image of at most 262,144 bytes"))
        .content(LUMA, binary("307,200 bytes of luma"))
        .required(Some(Required::True))
        .build();
    let query = |name: &str, required: Required, schema: Schema, description: &str| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Query)
            .required(required)
            .description(Some(description))
            .schema(Some(schema))
            .build()
    };
    let operation = OperationBuilder::new()
        .tag("checkins")
        .operation_id(Some("frame"))
        .summary(Some("Check in every code of a camera frame"))
        .description(Some(
            "Answered when all check-ins are durable, with one BatchLine per code in reading order, each as if \
             its payload had been sent. The first code goes by the frame's id, the others by id#2, id#3 and so \
             on: a frame sent again is answered by duplicates. A frame that takes too long to read or holds \
             no code is 422 and no_code_found. Frames are never stored.",
        ))
        .parameter(query("id", Required::True, types::frame_id(), "The device's own id for this frame"))
        .parameter(query(
            "at",
            Required::False,
            types::time_parameter(),
            "When the frame was taken; the time of arrival if left out",
        ))
        .parameter(query(
            "direction",
            Required::False,
            types::direction_parameter(),
            "As in CheckinRequest",
        ))
        .request_body(Some(body))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(DEVICE_TOKEN, []))
        .response(
            "200",
            described("One line a code, at least one").content(NDJSON, items("BatchLine", "One a code")),
        );
    not_http(problems(operation, &[400, 401, 404, 405, 408, 411, 413, 415, 422, 429, 500, 503]), &[431])
}

fn binary(text: &str) -> Content {
    // Any bytes: a body that is no string of characters has no type in JSON Schema.
    let schema = ObjectBuilder::new().schema_type(SchemaType::AnyValue).description(Some(text));
    Content::new(Some(Schema::from(schema.build())))
}

fn health(summary: &str, id: &str) -> OperationBuilder {
    let operation = OperationBuilder::new().tag("health").operation_id(Some(id)).summary(Some(summary));
    reading(operation)
}

/// What any request can be answered that has no body to be wrong about.
fn reading(operation: OperationBuilder) -> OperationBuilder {
    not_http(problems(operation, &[405, 500]), &[400, 431])
}

/// Refusals of what isn't a request of HTTP: the connection is closed, and there is no body.
fn not_http(operation: OperationBuilder, statuses: &[u16]) -> OperationBuilder {
    statuses.iter().fold(operation, |operation, status| {
        let text = match status {
            431 => "The headers are over their limit; no body",
            _ => "The request's head can't be read; no body",
        };
        operation.response(status.to_string(), described(text).build())
    })
}

fn ready() -> OperationBuilder {
    health("Whether to send scans here", "ready")
        .response("200", ok::<Readiness>())
        .response("503", described("Not now, with the reasons").content(JSON, content::<Readiness>()))
}

fn openapi() -> OperationBuilder {
    let any_object: Schema = ObjectBuilder::new().schema_type(Type::Object).build().into();
    health("This document", "openapi")
        .response("200", described("This document").content(JSON, Content::new(Some(any_object))))
}

/// An operation of the admin listener, where nobody is asked for a token on loopback unless admin.auth says so.
fn operator(summary: &str, id: &str) -> OperationBuilder {
    guarded(summary, id).security(SecurityRequirement::default())
}

/// An operation of the admin listener that always asks for a token.
fn guarded(summary: &str, id: &str) -> OperationBuilder {
    let operation = OperationBuilder::new().tag("admin").operation_id(Some(id)).summary(Some(summary));
    problems(reading(operation), &[401, 403, 404, 429])
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(ADMIN_TOKEN, []))
        .security(SecurityRequirement::new::<_, [&str; 0], &str>(ADMIN_BASIC, []))
}

fn metrics() -> OperationBuilder {
    operator("Metrics as OpenMetrics", "metrics")
        .response("200", described("OpenMetrics text").content(OPENMETRICS, lines("OpenMetrics text")))
}

fn stream() -> OperationBuilder {
    operator("Statistics as they change", "stats_stream").response(
        "200",
        described("One Stats a second as an event").content(EVENTS, lines("Events whose data is Stats")),
    )
}

fn drain() -> OperationBuilder {
    let operation = operator("Stop taking scans and end", "drain")
        .response("202", described("Draining").content(JSON, content::<Draining>()));
    problems(operation, &[503])
}

fn reload() -> OperationBuilder {
    let operation = operator("Read limits, keys, revocations, admin tokens and certificates again", "reload")
        .description(Some("On 500, what could not be loaded stays as it was, and the log says why."))
        .response("200", ok::<Reloaded>());
    problems(operation, &[503])
}

fn export() -> OperationBuilder {
    let operation = trace::range(operator("Check-ins by event time, under pseudonyms", "export"))
        .description(Some(
            "The call is in the audit log before its first line leaves; 503 where it can't be.",
        ))
        .response(
            "200",
            described("One check-in a line").content(NDJSON, items("ExportedCheckin", "One a line")),
        );
    problems(operation, &[400, 503])
}

fn ok<T: ToSchema>() -> Response {
    described("As asked").content(JSON, content::<T>()).build()
}

fn described(text: &str) -> ResponseBuilder {
    ResponseBuilder::new().description(text)
}

fn content<T: ToSchema>() -> Content {
    Content::new(Some(RefOr::<Schema>::Ref(Ref::from_schema_name(T::name()))))
}

/// NDJSON, described as the array that its lines make.
fn items(name: &str, text: &str) -> Content {
    let items = ArrayBuilder::new().items(Ref::from_schema_name(name)).description(Some(text));
    Content::new(Some(Schema::Array(items.build())))
}

/// A batch. Its lines are CheckinRequests, but one that isn't only spoils itself.
fn batch() -> Content {
    let anything: Schema = ObjectBuilder::new().schema_type(SchemaType::AnyValue).build().into();
    let line = AnyOfBuilder::new().item(Ref::from_schema_name(CheckinRequest::name())).item(anything);
    let items = ArrayBuilder::new().items(line).max_items(Some(BATCH_LINES_MAX));
    let items = items.description(Some("One CheckinRequest a line. Any other line spoils only itself"));
    Content::new(Some(Schema::Array(items.build())))
}

/// Text that JSON Schema can't look into.
fn lines(text: &str) -> Content {
    let schema: Schema =
        ObjectBuilder::new().schema_type(Type::String).description(Some(text)).build().into();
    Content::new(Some(schema))
}

fn problems(operation: OperationBuilder, statuses: &[u16]) -> OperationBuilder {
    statuses
        .iter()
        .fold(operation, |operation, status| operation.response(status.to_string(), problem(*status)))
}

fn problem(status: u16) -> Response {
    let response = described(meaning(status)).content(PROBLEM_JSON, content::<Problem>());
    match status {
        401 => response.header("WWW-Authenticate", header(Type::String, "Bearer, and what is wrong")),
        405 => response.header("Allow", header(Type::String, "The methods that this path has")),
        429 | 503 => response.header("Retry-After", header(Type::Integer, "Seconds to wait")),
        _ => response,
    }
    .build()
}

fn header(kind: Type, text: &str) -> Header {
    let mut header = Header::new(ObjectBuilder::new().schema_type(kind).build());
    header.description = Some(text.to_owned());
    header
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request can't be read; what is wrong is named. No body where the head isn't one of HTTP",
        401 => "No valid token",
        403 => "The token isn't good for this",
        404 => "No such path on this listener; frames where frames.enabled is false",
        405 => "The path has other methods",
        409 => "It was decided otherwise before",
        408 => "The body took too long to arrive",
        411 => "The body's length isn't told",
        413 => "The body, a line, a payload or an image is over its limit",
        415 => "The body's type or encoding isn't taken; Accept-Encoding tells the encodings",
        422 => "Read, and refused for the reason in outcome",
        429 => "The device is over its rate, or its frames took too much time",
        500 => "A fault of the gateway; nothing was recorded",
        _ => "A bound was reached or the journal can't take records; nothing was recorded, send again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn parsed() -> Value {
        serde_json::from_str(document()).expect("JSON")
    }

    #[test]
    fn every_reference_resolves() {
        fn walk(value: &Value, root: &Value) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(reference)) = fields.get("$ref") {
                        let pointer = reference.strip_prefix('#').expect("local");
                        assert!(root.pointer(pointer).is_some(), "{reference} is missing");
                    }
                    fields.values().for_each(|field| walk(field, root));
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, root)),
                _ => {}
            }
        }
        let root = parsed();
        assert_eq!(root["openapi"], "3.1.0");
        walk(&root, &root);
    }

    #[test]
    fn every_refusal_is_a_problem_and_says_when_to_come_back() {
        let root = parsed();
        for (path, item) in root["paths"].as_object().expect("paths") {
            for operation in ["get", "post"].iter().filter_map(|method| item.get(method)) {
                assert!(operation["operationId"].is_string(), "{path}");
                for (status, response) in operation["responses"].as_object().expect("responses") {
                    let bare = response["description"].as_str().is_some_and(|text| text.ends_with("no body"));
                    let refusal = status.as_str() >= "400" && !(path == "/readyz" && status == "503");
                    let refusal = refusal && !bare;
                    assert!(!bare || response.get("content").is_none(), "{path} {status}");
                    assert!(!refusal || response["content"][PROBLEM_JSON].is_object(), "{path} {status}");
                    let later = refusal && matches!(status.as_str(), "429" | "503");
                    assert!(!later || response["headers"]["Retry-After"].is_object(), "{path} {status}");
                }
            }
        }
    }

    #[test]
    fn a_batch_may_have_as_many_lines_as_the_default_limit() {
        assert_eq!(crate::config::Config::default().limits.batch_lines_max, BATCH_LINES_MAX);
    }

    #[test]
    fn each_end_of_a_batch_line_has_all_its_members() {
        let root = parsed();
        let ends = root["components"]["schemas"]["BatchLine"]["oneOf"].as_array().expect("ends");
        assert_eq!(ends.len(), 3);
        for end in ends {
            assert_eq!(end["additionalProperties"], false);
            for member in ["line", "status", "outcome"] {
                assert!(end["properties"][member].is_object(), "{member}");
                assert!(end["required"].as_array().expect("names").contains(&member.into()), "{member}");
            }
        }
    }

    #[test]
    fn the_documented_examples_are_of_their_types() {
        let line = r#"{"line":1,"status":200,"outcome":"duplicate","original":{"checkin":"c","at":"t"},"id":"i","direction":"in","subject":"person","trust":"proven","at":"t"}"#;
        let parsed: BatchLine = serde_json::from_str(line).expect("a line");
        assert!(matches!(parsed.result, LineResult::Duplicate(_)));
        assert_eq!(serde_json::to_string(&parsed).expect("JSON"), line);
        let refused: BatchLine =
            serde_json::from_str(r#"{"line":2,"status":422,"outcome":"expired","detail":"x"}"#)
                .expect("a line");
        assert!(matches!(refused.result, LineResult::Refused(_)));
    }
}
