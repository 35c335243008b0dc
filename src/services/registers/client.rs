//! A register over HTTP: bounded in time, in bytes and in how much is under way, and left alone where it keeps failing.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Method, Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Semaphore;

use super::breaker::{self, Breaker, Position};
use super::page::{Found, Page};
use crate::config::Registers as Settings;
use crate::openapi::REGISTER_CHANGES_MAX as CHANGES_MAX;
use crate::services::health::fact::RegisterId;

/// A national register.
pub trait Register: Send + Sync {
    /// Which one.
    fn id(&self) -> RegisterId;

    /// The changes behind a cursor, oldest first; "" is the beginning.
    fn changes(&self, after: &str) -> impl Future<Output = Result<Page, RegisterError>> + Send;

    /// The current records about one citizen, where the register answers that; none where it doesn't.
    fn lookup(&self, citizen: &str) -> impl Future<Output = Result<Option<Found>, RegisterError>> + Send;
}

/// Why a register gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// It failed too often just now, and is not asked.
    #[error("the register is left alone for a time after it has failed")]
    Open {
        /// Until it is tried again.
        wait: Duration,
    },
    /// As many requests as may be are under way.
    #[error("too many requests to the register are under way")]
    Busy,
    /// No answer in time.
    #[error("no answer within {} ms", limit.as_millis())]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// No connection, or one that broke.
    #[error("the connection failed")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An answer other than 200.
    #[error("status {0}")]
    Status(u16),
    /// More than may be read.
    #[error("the answer has more than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// An answer that isn't as the contract has it.
    #[error("the answer isn't as the contract has it")]
    Garbage,
}

impl RegisterError {
    /// Whether the same request may fare better in a moment.
    fn passes(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Connection(_) | Self::Garbage => true,
            Self::Status(status) => *status == 429 || *status >= 500,
            Self::Open { .. } | Self::Busy | Self::TooLong { .. } => false,
        }
    }

    /// A stable name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Busy => "busy",
            Self::Timeout { .. } => "timeout",
            Self::Connection(_) => "connection",
            Self::Status(_) => "status",
            Self::TooLong { .. } => "too_long",
            Self::Garbage => "garbage",
        }
    }
}

/// Why a register can't be asked at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// Persons' data in the clear.
    #[error("registers.{0}_url must be an https URL; http is for loopback addresses")]
    Url(&'static str),
    /// Certificates or key can't be read.
    #[error("cannot read {}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// Certificates or key can't be used.
    #[error("cannot set up TLS for the registers")]
    Tls(#[from] rustls::Error),
    /// Only one of certificate and key is there.
    #[error("registers.certificate_file and registers.key_file go together")]
    Half,
    /// A secret can't be read.
    #[error("cannot read a register's secret")]
    Secret(#[from] crate::verify::KeysError),
    /// The thread can't start.
    #[error("cannot start the registers' thread")]
    Thread(#[source] std::io::Error),
}

/// A register that is asked over HTTP.
pub struct HttpRegister {
    id: RegisterId,
    base: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    breaker: Mutex<Breaker>,
    slots: Semaphore,
    settings: Settings,
}

impl HttpRegister {
    /// Sets it up; nothing is sent yet.
    ///
    /// # Errors
    /// The URL, or the files that TLS needs.
    pub fn new(id: RegisterId, url: &str, settings: &Settings) -> Result<Self, SetupError> {
        let uri: Uri = url.parse().map_err(|_| SetupError::Url(id.name()))?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let is_loopback = host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if is_loopback => {}
            _ => return Err(SetupError::Url(id.name())),
        }
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(Duration::from_millis(settings.connect_timeout_ms)));
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls(settings)?).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(1)
            .build(https.wrap_connector(http));
        let breaker = breaker::Settings {
            failures: settings.breaker_failures,
            pause: Duration::from_millis(settings.breaker_pause_ms),
        };
        Ok(Self {
            id,
            base: url.trim_end_matches('/').to_owned(),
            client,
            breaker: Mutex::new(Breaker::new(breaker)),
            slots: Semaphore::new(settings.in_flight_max),
            settings: settings.clone(),
        })
    }

    /// Where its breaker stands.
    pub fn position(&self, now: Instant) -> Position {
        self.breaker.lock().position(now)
    }

    /// Whether its contract has a look-up.
    pub fn answers_lookups(&self) -> bool {
        matches!(self.id(), RegisterId::Vaccination | RegisterId::Testing)
    }

    /// Asks, again where that may help, until it is answered or the breaker or the number of retries says no.
    async fn ask<T>(
        &self,
        (method, path, body): (Method, &str, Bytes),
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, RegisterError> {
        let _slot = self.slots.try_acquire().map_err(|_| RegisterError::Busy)?;
        let limit = Duration::from_millis(self.settings.request_timeout_ms);
        let (mut retries, mut failed) = (0, None);
        loop {
            // Where the failure before has opened it, that is what there is to tell.
            let attempt = match Attempt::begin(&self.breaker) {
                Ok(attempt) => attempt,
                Err(open) => return Err(failed.unwrap_or(open)),
            };
            let request = Request::builder().method(&method).uri(format!("{}{path}", self.base));
            let request = request.header(ACCEPT, "application/json").header(CONTENT_TYPE, "application/json");
            let request = request.body(Full::new(body.clone())).map_err(|_| RegisterError::Garbage)?;
            let answered = tokio::time::timeout(limit, self.once(request)).await;
            let error = match answered.unwrap_or(Err(RegisterError::Timeout { limit })) {
                Ok(answer) => match parse(&answer) {
                    Some(read) => {
                        attempt.succeeded();
                        return Ok(read);
                    }
                    None => RegisterError::Garbage,
                },
                Err(error) => error,
            };
            drop(attempt);
            if !error.passes() || retries >= self.settings.retries_max {
                return Err(error);
            }
            tokio::time::sleep(pause(self.settings.backoff_ms, retries)).await;
            (retries, failed) = (retries + 1, Some(error));
        }
    }

    async fn once(&self, request: Request<Full<Bytes>>) -> Result<Bytes, RegisterError> {
        let answered = self.client.request(request).await;
        let response = answered.map_err(|error| RegisterError::Connection(error.into()))?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(RegisterError::Status(status));
        }
        let limit = self.settings.page_bytes_max;
        let (mut body, mut read) = (response.into_body(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| RegisterError::Connection(error.into()))?;
            let Ok(data) = frame.into_data() else { continue };
            if read.len() + data.len() > limit {
                return Err(RegisterError::TooLong { limit });
            }
            read.extend_from_slice(&data);
        }
        Ok(read.freeze())
    }
}

impl Register for HttpRegister {
    fn id(&self) -> RegisterId {
        self.id
    }

    async fn changes(&self, after: &str) -> Result<Page, RegisterError> {
        let after_in_url: String = form_urlencoded::byte_serialize(after.as_bytes()).collect();
        let path = format!("/changes?after={after_in_url}&limit={CHANGES_MAX}");
        let this = |page: &Page| page.after == after;
        self.ask((Method::GET, &path, Bytes::new()), |bytes| Page::parse(bytes).filter(this)).await
    }

    async fn lookup(&self, citizen: &str) -> Result<Option<Found>, RegisterError> {
        if !self.answers_lookups() {
            return Ok(None);
        }
        // In the body: a number has no place in a URL.
        let body = serde_json::json!({ "citizen": citizen }).to_string();
        self.ask((Method::POST, "/lookup", body.into()), Found::parse).await.map(Some)
    }
}

/// A request that the breaker let through. One that is dropped, even unfinished, has failed.
struct Attempt<'a> {
    breaker: &'a Mutex<Breaker>,
    succeeded: bool,
}

impl<'a> Attempt<'a> {
    fn begin(breaker: &'a Mutex<Breaker>) -> Result<Self, RegisterError> {
        let admitted = breaker.lock().admit(Instant::now());
        admitted.map(|()| Self { breaker, succeeded: false }).map_err(|wait| RegisterError::Open { wait })
    }

    fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut breaker = self.breaker.lock();
        if self.succeeded { breaker.succeeded() } else { breaker.failed(Instant::now()) }
    }
}

/// Full jitter: anything up to the doubled pause, so that gateways that failed together don't come back together.
pub(super) fn pause(first_ms: u64, retries: u32) -> Duration {
    const PAUSE_MS_MAX: u64 = 30_000;
    let most = first_ms.saturating_mul(1 << retries.min(16)).clamp(1, PAUSE_MS_MAX);
    jitter(Duration::from_millis(most))
}

/// Anything from nothing to this.
pub(super) fn jitter(most: Duration) -> Duration {
    let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX - 1);
    let mut bytes = [0; 8];
    // Without random numbers all wait the longest, which is no harm but to the spread.
    let drawn = rand::fill(&mut bytes).map_or(most, |()| u64::from_le_bytes(bytes) % (most + 1));
    Duration::from_millis(drawn)
}

fn tls(settings: &Settings) -> Result<ClientConfig, SetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in settings.ca_file.as_deref().map(certificates).transpose()?.unwrap_or_default() {
        roots.add(certificate)?;
    }
    let builder = ClientConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match (settings.certificate_file.as_deref(), settings.key_file.as_deref()) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(chain), Some(key)) => {
            let pem = |source| SetupError::Pem { path: key.to_owned(), source };
            let key = PrivateKeyDer::from_pem_file(key).map_err(pem)?;
            Ok(builder.with_client_auth_cert(certificates(chain)?, key)?)
        }
        _ => Err(SetupError::Half),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let pem = |source| SetupError::Pem { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_drawn_from_twice_as_much_each_time_and_bounded() {
        for (retries, most) in [(0, 200), (1, 400), (4, 3_200), (60, 30_000)] {
            let drawn: Vec<Duration> = (0..64).map(|_| pause(200, retries)).collect();
            assert!(drawn.iter().all(|pause| *pause <= Duration::from_millis(most)), "{retries}");
            assert!(drawn.iter().any(|pause| *pause != drawn[0]), "not always the same");
        }
    }

    #[test]
    fn only_loopback_is_spoken_to_in_the_clear() {
        let settings = Settings::default();
        for (url, fits) in [
            ("https://vaccination.example", true),
            ("http://127.0.0.1:7003", true),
            ("http://[::1]:7003/v1", true),
            ("http://vaccination.example", false),
            ("http://10.0.0.1", false),
            ("ftp://127.0.0.1", false),
            ("vaccination", false),
        ] {
            let made = HttpRegister::new(RegisterId::Vaccination, url, &settings);
            assert_eq!(made.is_ok(), fits, "{url}");
        }
        let half = Settings { key_file: Some("key.pem".into()), ..settings };
        let made = HttpRegister::new(RegisterId::Vaccination, "https://vaccination.example", &half);
        assert!(matches!(made.err(), Some(SetupError::Half)));
    }
}
