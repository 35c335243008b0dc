//! One request at a time.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;
use ureq::http::Response;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::types::{Answer, Duplicate, Reason, Recorded, Refusal, Scan};

/// The longest answer that is read: a batch's 1,000 lines take some 300 KB.
const ANSWER_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Bodies from here on are compressed.
const COMPRESS_BYTES_MIN: usize = 1024;

/// Why a request led to no answer about a scan. Whatever it is, the scan may be sent again: it is recorded once.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 401: the token is missing, expired or revoked. Sending again needs another one.
    #[error("the device token is refused: {0}")]
    Unauthorized(String),
    /// 429 or 503, or another 5xx.
    #[error("the gateway can't take it now: {detail}")]
    Busy {
        /// Why, in words.
        detail: String,
        /// How long the gateway asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// 413: more than the gateway takes in one request.
    #[error("the request is too large: {0}")]
    TooLarge(String),
    /// Any other status: wrong address, wrong type, a gateway of another kind.
    #[error("the gateway refuses the request with {status}: {detail}")]
    Rejected {
        /// The status.
        status: u16,
        /// Why, in words.
        detail: String,
    },
    /// No answer, or half of one.
    #[error("no answer from the gateway")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The certificates can't be used.
    #[error("the trusted certificates can't be used")]
    Certificates(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An answer that is not the API's.
    #[error("the answer with status {status} can't be read")]
    Unreadable {
        /// The status.
        status: u16,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    pub(crate) fn transport(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Transport(error.into())
    }
}

/// A gateway and the token of the device that speaks to it.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    base: String,
    bearer: String,
}

/// Without the token.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

/// How a [`Client`] reaches its gateway.
#[derive(Clone)]
pub struct ClientBuilder {
    base: String,
    token: String,
    timeout: Duration,
    authorities: Option<Vec<u8>>,
}

impl ClientBuilder {
    /// How long a request may take in all; 30 seconds if it isn't said.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The certificates (PEM) of the authorities that may vouch for an `https` gateway. No others are trusted.
    #[must_use]
    pub fn authorities(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities = Some(pem.into());
        self
    }

    /// The client.
    pub fn build(self) -> Result<Client, Error> {
        let authorities = parse_pem(self.authorities.as_deref().unwrap_or_default())
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
                Ok(_) => None,
                Err(error) => Some(Err(Error::Certificates(error.into()))),
            })
            .collect::<Result<Vec<Certificate<'static>>, Error>>()?;
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(authorities)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .timeout_global(Some(self.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls)
            .build()
            .new_agent();
        let base = self.base.trim_end_matches('/').to_owned();
        Ok(Client { agent, base, bearer: format!("Bearer {}", self.token) })
    }
}

impl Client {
    /// For the gateway at `base`, such as `https://gate.example`, with a device token.
    pub fn builder(base: impl Into<String>, token: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            base: base.into(),
            token: token.into(),
            timeout: Duration::from_secs(30),
            authorities: None,
        }
    }

    /// Sends one scan and waits until it is on disk, known, or refused.
    pub fn checkin(&self, scan: &Scan) -> Result<Answer, Error> {
        let body = serde_json::to_vec(scan).map_err(Error::transport)?;
        let mut response = self.post("/v1/checkins", "application/json", &body)?;
        let status = response.status().as_u16();
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()
            .map_err(Error::transport)?;
        match status {
            200 | 201 | 422 => answer(status, &text),
            _ => Err(problem(&response, &text)),
        }
    }

    /// Sends a picture (`image/jpeg` or `image/png`, at most 256 KiB) and returns one answer for each code in it.
    pub fn frame(&self, id: &str, media_type: &str, picture: &[u8]) -> Result<Vec<Answer>, Error> {
        let path = format!("/v1/frames?id={id}");
        let mut answers = Vec::new();
        let response = self.post(&path, media_type, picture)?;
        if response.status() == 422 {
            let text = response.into_body().into_with_config().limit(ANSWER_BYTES_MAX).reader();
            let refusal = serde_json::from_reader(text);
            return Ok(vec![Answer::Refused(
                refusal.map_err(|source| Error::Unreadable { status: 422, source })?,
            )]);
        }
        for line in self.lines(response)? {
            let line = line?;
            answers.push(line.answer?);
        }
        Ok(answers)
    }

    /// Sends lines, each a scan as JSON, as one batch. The iterator ends with an error where the answer breaks off.
    pub(crate) fn batch(&self, body: &[u8]) -> Result<Lines, Error> {
        let response = self.post("/v1/checkins", "application/x-ndjson", body)?;
        self.lines(response)
    }

    #[expect(clippy::unused_self, reason = "reads as what the client does")]
    fn lines(&self, response: Response<Body>) -> Result<Lines, Error> {
        if response.status() == 200 {
            let reader = response.into_body().into_with_config().limit(ANSWER_BYTES_MAX).reader();
            return Ok(Lines(BufReader::new(reader)));
        }
        let (head, body) = response.into_parts();
        let mut text = Vec::new();
        let mut reader = body.into_with_config().limit(ANSWER_BYTES_MAX).reader();
        reader.read_to_end(&mut text).map_err(Error::transport)?;
        Err(problem(&Response::from_parts(head, ()), &text))
    }

    fn post(&self, path: &str, content_type: &str, body: &[u8]) -> Result<Response<Body>, Error> {
        let request = self
            .agent
            .post(format!("{}{path}", self.base))
            .header("Authorization", &self.bearer)
            .header("Content-Type", content_type);
        if body.len() < COMPRESS_BYTES_MIN || !content_type.contains("json") {
            return request.send(body).map_err(Error::transport);
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let compressed = encoder.write_all(body).and_then(|()| encoder.finish()).map_err(Error::transport)?;
        request.header("Content-Encoding", "gzip").send(&compressed[..]).map_err(Error::transport)
    }
}

/// The answer to a batch, line by line as it arrives.
pub(crate) struct Lines(BufReader<ureq::BodyReader<'static>>);

/// One line: which of the batch it answers, counted from 1, with which status.
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) status: u16,
    pub(crate) answer: Result<Answer, Error>,
}

impl Iterator for Lines {
    type Item = Result<Line, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        #[derive(Deserialize)]
        struct Head {
            line: usize,
            status: u16,
        }
        let mut text = Vec::new();
        match self.0.read_until(b'\n', &mut text) {
            Ok(0) => None,
            // The last line of an answer ends like every other: without its end it is half a line.
            Ok(_) if text.last() != Some(&b'\n') => {
                Some(Err(Error::transport("the answer broke off within a line")))
            }
            Ok(_) => Some(match serde_json::from_slice::<Head>(&text) {
                Ok(Head { line, status }) => Ok(Line { number: line, status, answer: answer(status, &text) }),
                Err(source) => Err(Error::Unreadable { status: 200, source }),
            }),
            Err(error) => Some(Err(Error::transport(error))),
        }
    }
}

fn answer(status: u16, text: &[u8]) -> Result<Answer, Error> {
    let read = match status {
        201 => serde_json::from_slice::<Recorded>(text).map(Answer::Recorded),
        200 => serde_json::from_slice::<Duplicate>(text).map(Answer::Duplicate),
        _ => serde_json::from_slice::<Refusal>(text).map(Answer::Refused),
    };
    read.map_err(|source| Error::Unreadable { status, source })
}

/// What a status means that says nothing of a scan.
fn problem<B>(response: &Response<B>, text: &[u8]) -> Error {
    let status = response.status().as_u16();
    let detail = serde_json::from_slice::<Refusal>(text)
        .map_or_else(|_| format!("status {status}"), |problem| problem.detail);
    let seconds = response.headers().get("Retry-After").and_then(|value| value.to_str().ok()?.parse().ok());
    match status {
        401 | 403 => Error::Unauthorized(detail),
        413 => Error::TooLarge(detail),
        408 | 429 | 500..=599 => Error::Busy { detail, retry_after: seconds.map(Duration::from_secs) },
        _ => Error::Rejected { status, detail },
    }
}

impl Refusal {
    /// Whether the same scan may still be recorded later.
    pub(crate) fn is_for_now(&self, status: u16) -> bool {
        matches!(self.reason, Reason::RateLimited | Reason::Overloaded | Reason::Unavailable)
            || matches!(status, 401 | 403 | 408 | 429 | 500..=599)
    }
}
