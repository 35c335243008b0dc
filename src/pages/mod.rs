//! The pages that a browser opens: the scanner on the public listener, the status page on the admin one, and on the
//! services' listener the form of feedback and its queue.
//!
//! All files are compiled in, and nothing comes from another origin: the content security policy forbids it, and
//! scripts or styles inside a page as well. A file is asked for again with its ETag and usually answered 304. The
//! scanner's service worker carries a version made of the ETags of all its files, so that a browser that has one
//! release's page never mixes it with another's.

use std::sync::LazyLock;

use aws_lc_rs::digest::{self, SHA256};
use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_ENCODING, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH};
use hyper::{HeaderMap, Response};

use crate::respond;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const WASM: &str = "application/wasm";
const TEXT: &str = "text/plain; charset=utf-8";

/// The service worker's path; its text is completed when the files are first asked for.
const WORKER: &str = "/scan/worker.js";

/// What the scanner may load: its own files, and a compiled decoder (`wasm-unsafe-eval` lets WebAssembly be
/// compiled; it allows no script to be made from text).
const SCAN_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; \
    connect-src 'self'; img-src 'self'; media-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// What the status page may load: its own files and the stream of statistics.
const STATUS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// What the pages of feedback may load: their own files, and a photo that was read with a token (`blob:`).
const FEEDBACK_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// One file of a page: its path, its type, its bytes as they are sent.
struct Source {
    path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! source {
    ($path:literal, $content_type:expr, $file:literal) => {
        Source { path: $path, content_type: $content_type, bytes: include_bytes!($file) }
    };
}

const SCAN: &[Source] = &[
    source!("/scan", HTML, "scan/page.html"),
    source!("/scan/app.js", SCRIPT, "scan/app.js"),
    source!("/scan/camera.js", SCRIPT, "scan/camera.js"),
    source!("/scan/device.js", SCRIPT, "scan/device.js"),
    source!("/scan/frames.js", SCRIPT, "scan/frames.js"),
    source!("/scan/queue.js", SCRIPT, "scan/queue.js"),
    source!("/scan/reader.js", SCRIPT, "scan/reader.js"),
    source!("/scan/sender.js", SCRIPT, "scan/sender.js"),
    source!("/scan/signal.js", SCRIPT, "scan/signal.js"),
    source!("/scan/verdict.js", SCRIPT, "scan/verdict.js"),
    source!("/scan/words.js", SCRIPT, "scan/words.js"),
    source!("/scan/language.js", SCRIPT, "shared/language.js"),
    source!("/scan/memory.js", SCRIPT, "shared/memory.js"),
    source!("/scan/base.css", CSS, "shared/base.css"),
    source!("/scan/scan.css", CSS, "scan/scan.css"),
    source!("/scan/icon.svg", SVG, "shared/icon.svg"),
    source!("/scan/zxing/reader/index.js", SCRIPT, "zxing-wasm/index.js"),
    source!("/scan/zxing/share.js", SCRIPT, "zxing-wasm/share.js"),
    source!("/scan/zxing/zxing_reader.wasm", WASM, "zxing-wasm/zxing_reader.wasm.gz"),
    source!("/scan/zxing/LICENSE", TEXT, "zxing-wasm/LICENSE"),
    source!("/scan/worker.js", SCRIPT, "scan/worker.js"),
];

const STATUS: &[Source] = &[
    source!("/", HTML, "status/page.html"),
    source!("/status/app.js", SCRIPT, "status/app.js"),
    source!("/status/history.js", SCRIPT, "status/history.js"),
    source!("/status/sparkline.js", SCRIPT, "status/sparkline.js"),
    source!("/status/words.js", SCRIPT, "status/words.js"),
    source!("/status/language.js", SCRIPT, "shared/language.js"),
    source!("/status/memory.js", SCRIPT, "shared/memory.js"),
    source!("/status/base.css", CSS, "shared/base.css"),
    source!("/status/status.css", CSS, "status/status.css"),
    source!("/status/icon.svg", SVG, "shared/icon.svg"),
];

const FEEDBACK: &[Source] = &[
    source!("/feedback", HTML, "feedback/page.html"),
    source!("/feedback/app.js", SCRIPT, "feedback/app.js"),
    source!("/feedback/new", HTML, "feedback/new.html"),
    source!("/feedback/form.js", SCRIPT, "feedback/form.js"),
    source!("/feedback/words.js", SCRIPT, "feedback/words.js"),
    source!("/feedback/language.js", SCRIPT, "shared/language.js"),
    source!("/feedback/memory.js", SCRIPT, "shared/memory.js"),
    source!("/feedback/base.css", CSS, "shared/base.css"),
    source!("/feedback/feedback.css", CSS, "feedback/feedback.css"),
    source!("/feedback/icon.svg", SVG, "shared/icon.svg"),
];

static SCAN_FILES: LazyLock<Vec<File>> = LazyLock::new(|| files(SCAN, SCAN_POLICY));
static STATUS_FILES: LazyLock<Vec<File>> = LazyLock::new(|| files(STATUS, STATUS_POLICY));
static FEEDBACK_FILES: LazyLock<Vec<File>> = LazyLock::new(|| files(FEEDBACK, FEEDBACK_POLICY));

/// A file of a page as it is sent.
#[derive(Debug)]
pub struct File {
    path: &'static str,
    content_type: &'static str,
    policy: &'static str,
    body: Bytes,
    etag: String,
}

/// The scanner's file under this path of the public listener.
pub fn scan(path: &str) -> Option<&'static File> {
    SCAN_FILES.iter().find(|file| file.path == path)
}

/// The status page's file under this path of the admin listener.
pub fn status(path: &str) -> Option<&'static File> {
    STATUS_FILES.iter().find(|file| file.path == path)
}

/// The file under this path of the services' listener.
pub fn services(path: &str) -> Option<&'static File> {
    FEEDBACK_FILES.iter().find(|file| file.path == path)
}

impl File {
    /// The file, or 304 to a browser that has it.
    pub fn answer(&self, request: &HeaderMap) -> Response<Bytes> {
        let mut response = if self.is_known(request) {
            respond::not_modified()
        } else {
            respond::ok(self.content_type, self.body.clone())
        };
        let headers = response.headers_mut();
        for (name, value) in [
            ("content-security-policy", self.policy),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("permissions-policy", "camera=(self), microphone=(), geolocation=()"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        // Kept, and asked for again each time: a new release shows at once.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(etag) = HeaderValue::from_str(&self.etag) {
            headers.insert(ETAG, etag);
        }
        if self.content_type == WASM {
            // Every browser that runs WebAssembly inflates gzip.
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if self.path == WORKER {
            // The page itself lies one level above the worker's files.
            let scope = HeaderValue::from_static("/scan");
            headers.insert(HeaderName::from_static("service-worker-allowed"), scope);
        }
        response
    }

    /// RFC 9110, 13.1.2: by weak comparison.
    fn is_known(&self, request: &HeaderMap) -> bool {
        let mut known = request.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        known.any(|value| {
            value.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == self.etag)
        })
    }
}

fn files(sources: &'static [Source], policy: &'static str) -> Vec<File> {
    let mut files: Vec<File> = sources
        .iter()
        .map(|source| {
            let body = Bytes::from_static(source.bytes);
            let etag = etag(&body);
            File { path: source.path, content_type: source.content_type, policy, body, etag }
        })
        .collect();
    let list = manifest(&files);
    if let Some(worker) = files.iter_mut().find(|file| file.path == WORKER) {
        worker.body = [list.as_bytes(), &worker.body].concat().into();
        worker.etag = etag(&worker.body);
    }
    files
}

/// The first lines of the service worker: what to keep, and a version that changes with any of it.
fn manifest(files: &[File]) -> String {
    let paths: Vec<&str> = files.iter().map(|file| file.path).filter(|path| *path != WORKER).collect();
    let etags: String = files.iter().map(|file| file.etag.as_str()).collect();
    format!("const VERSION = {};\nconst FILES = {};\n", etag(etags.as_bytes()), serde_json::json!(paths))
}

/// A strong ETag: half of the content's SHA-256, in quotes; enough that no two releases' files share one.
fn etag(bytes: &[u8]) -> String {
    let hash = digest::digest(&SHA256, bytes);
    let half = hash.as_ref().first_chunk().copied().unwrap_or_default();
    format!("\"{:032x}\"", u128::from_be_bytes(half))
}

#[cfg(test)]
mod tests;
