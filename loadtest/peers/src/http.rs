//! The requests of scangate's API that the comparison sends: a scan, a batch of scans, readiness.

use std::borrow::Cow;
use std::sync::Arc;

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use scangate::identity::Identity;
use scangate::scan::{DirectionRequest, Scan, Subject, UnixMillis};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::codes::Codes;
use crate::database::{Admitted, Database, WINDOW_MS};
use crate::devices::{Device, Devices};

/// Characters in a client id.
const ID_CHARS_MAX: usize = 64;
/// Lines of a batch.
const LINES_MAX: usize = 1000;
/// How far back and ahead a device's time may lie: scangate's defaults.
const BACK_MS: i64 = 48 * 3_600_000;
const AHEAD_MS: i64 = 300_000;

/// Everything that a request needs.
pub struct App {
    /// Who sends.
    pub devices: Devices,
    /// Whose code it is.
    pub codes: Codes,
    /// What a client id is known by.
    pub identity: Arc<Identity>,
    /// Where check-ins are kept.
    pub database: Database,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    qr: Cow<'a, str>,
    #[serde(borrow)]
    at: Option<Cow<'a, str>>,
    #[serde(borrow)]
    direction: Option<Cow<'a, str>>,
}

/// A scan's answer, alone or as a line of a batch's.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<Original>,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct Original {
    checkin: String,
    at: String,
}

/// Why a line is no scan.
struct Refused {
    status: StatusCode,
    outcome: &'static str,
    detail: Cow<'static, str>,
}

/// Serves until `ended`.
pub async fn serve(
    listener: TcpListener,
    app: App,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let router = Router::new()
        .route("/v1/checkins", post(checkins))
        .route("/readyz", get(|| async { StatusCode::OK }))
        .with_state(Arc::new(app));
    // Without it an answer may wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, router).with_graceful_shutdown(ended).await?)
}

async fn checkins(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Response {
    let now = UnixMillis::now();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = text(header::AUTHORIZATION).strip_prefix("Bearer ").unwrap_or_default();
    let device = match app.devices.authenticate(token, now) {
        Ok(device) => device,
        Err(error) => return problem(StatusCode::UNAUTHORIZED, "unauthenticated", error.to_string()),
    };
    match text(header::CONTENT_TYPE) {
        "application/json" => single(&app, device, &body, now).await,
        "application/x-ndjson" => batch(&app, device, &body, now).await,
        _ => problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "JSON or NDJSON"),
    }
}

async fn single(app: &App, device: Device, body: &[u8], now: UnixMillis) -> Response {
    let (line, scan) = match app.read(device, body, now) {
        Ok(read) => read,
        Err(refused) => return problem(refused.status, refused.outcome, refused.detail),
    };
    match app.database.admit(vec![scan]).await.as_deref() {
        Ok([admitted]) => {
            let (status, answer) = answer(None, &line.id, &scan, admitted);
            (status, Json(answer)).into_response()
        }
        Ok(_) => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "one scan, another number of answers")
        }
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string()),
    }
}

async fn batch(app: &App, device: Device, body: &[u8], now: UnixMillis) -> Response {
    let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    if lines.len() > LINES_MAX {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "at most 1000 lines");
    }
    let read: Vec<Result<(Line<'_>, Scan), Refused>> =
        lines.iter().map(|line| app.read(device, line, now)).collect();
    let scans = read.iter().flatten().map(|(_, scan)| *scan).collect();
    let admitted = match app.database.admit(scans).await {
        Ok(admitted) => admitted,
        Err(error) => return problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string()),
    };
    let mut admitted = admitted.iter();
    let mut out = Vec::with_capacity(lines.len() * 256);
    for (number, read) in (1..).zip(&read) {
        let answer = match read {
            Ok((line, scan)) => match admitted.next() {
                Some(admitted) => answer(Some(number), &line.id, scan, admitted).1,
                None => failed(Some(number), 500, "internal", "no answer"),
            },
            Err(refused) => failed(Some(number), refused.status.as_u16(), refused.outcome, &*refused.detail),
        };
        if serde_json::to_writer(&mut out, &answer).is_err() {
            return problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "an answer can't be written");
        }
        out.push(b'\n');
    }
    ([(header::CONTENT_TYPE, "application/x-ndjson")], out).into_response()
}

impl App {
    fn read<'a>(&self, device: Device, json: &'a [u8], now: UnixMillis) -> Result<(Line<'a>, Scan), Refused> {
        let malformed = |detail: &'static str| Refused {
            status: StatusCode::BAD_REQUEST,
            outcome: "malformed",
            detail: detail.into(),
        };
        let line: Line<'a> = serde_json::from_slice(json).map_err(|_| malformed("not a scan in JSON"))?;
        if line.id.len() > ID_CHARS_MAX
            || !line.id.bytes().all(|byte| byte.is_ascii_graphic())
            || line.id.is_empty()
        {
            return Err(malformed("id must be 1 to 64 visible ASCII characters"));
        }
        let at = match &line.at {
            Some(text) => UnixMillis::parse(text).map_err(|_| malformed("at must be RFC 3339"))?,
            None => now,
        };
        if !(now.0 - BACK_MS..=now.0 + AHEAD_MS).contains(&at.0) {
            return Err(Refused {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                outcome: "clock_skew",
                detail: "at must be within two days back and five minutes ahead".into(),
            });
        }
        let asked = line.direction.as_deref().unwrap_or("auto");
        let direction = DirectionRequest::from_name(asked)
            .ok_or_else(|| malformed("direction must be in, out or auto"))?;
        let code = self.codes.read(&line.qr, now).map_err(|refusal| Refused {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            outcome: refusal.outcome.name(),
            detail: refusal.detail.into(),
        })?;
        let scan = Scan {
            person: code.person,
            place: device.place,
            direction,
            at,
            received: now,
            client: self.identity.client(device.key, &line.id),
            device: device.key,
            app: device.app,
            subject: Subject::Person,
            trust: code.trust,
            form: code.form,
            window_s: u16::try_from(WINDOW_MS / 1000).unwrap_or(u16::MAX),
        };
        Ok((line, scan))
    }
}

fn answer<'a>(
    number: Option<usize>,
    id: &'a str,
    scan: &Scan,
    admitted: &Admitted,
) -> (StatusCode, Answer<'a>) {
    let (status, outcome, checkin, original, direction) = match admitted {
        Admitted::Recorded(checkin, direction) => {
            (StatusCode::CREATED, "recorded", Some(checkin.to_string()), None, direction)
        }
        Admitted::Duplicate(checkin, direction) => {
            let original = Original { checkin: checkin.to_string(), at: checkin.at().to_string() };
            (StatusCode::OK, "duplicate", None, Some(original), direction)
        }
    };
    let answer = Answer {
        line: number,
        status: number.map(|_| status.as_u16()),
        outcome,
        checkin,
        original,
        id,
        direction: Some(direction.name()),
        trust: Some(scan.trust.name()),
        at: Some(scan.at.to_string()),
        detail: None,
    };
    (status, answer)
}

fn failed<'a>(
    line: Option<usize>,
    status: u16,
    outcome: &'a str,
    detail: impl Into<Cow<'a, str>>,
) -> Answer<'a> {
    Answer {
        line,
        status: Some(status),
        outcome,
        checkin: None,
        original: None,
        id: "",
        direction: None,
        trust: None,
        at: None,
        detail: Some(detail.into()),
    }
}

fn problem(status: StatusCode, outcome: &'static str, detail: impl Into<Cow<'static, str>>) -> Response {
    (status, Json(failed(None, status.as_u16(), outcome, detail))).into_response()
}
