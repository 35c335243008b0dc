//! Between hyper and the service: counts requests, bounds their time, lets streams end on drain.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue, TRANSFER_ENCODING};
use hyper::server::conn::{http1, http2};
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::TokioTimer;

use super::limits::{Deadline, Phase, Watch};
use super::{Answer, Body, ClientCertificate, Counters, Peer, Service, Settings};

/// hyper's view of one connection's service.
pub(super) struct Dispatch<S> {
    pub(super) service: Rc<S>,
    pub(super) peer: Peer,
    pub(super) certificate: Option<ClientCertificate>,
    pub(super) watch: Rc<Watch>,
    pub(super) request_timeout_ms: u64,
    pub(super) counters: Arc<Counters>,
}

impl<S: Service> hyper::service::Service<Request<Incoming>> for Dispatch<S> {
    type Response = Response<Tracked>;
    type Error = RequestTimeout;
    type Future = InFlight;

    fn call(&self, mut request: Request<Incoming>) -> InFlight {
        self.watch.begin_request();
        // An allocation a request, so only where there is one.
        if let Some(certificate) = self.certificate {
            request.extensions_mut().insert(certificate);
        }
        let guard = RequestGuard(Rc::clone(&self.watch));
        // An HTTP/1.1 connection has one request at a time, so the sweeper times the connection. Streams
        // of HTTP/2 are timed one by one, since one of them must not cost the others their connection.
        let time = self.watch.is_http2().then(|| StreamTime {
            deadline: Deadline::new(self.request_timeout_ms),
            limit_ms: self.request_timeout_ms,
            counters: Arc::clone(&self.counters),
        });
        let answer = if is_ambiguous(&request) {
            self.counters.protocol_errors.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::ready(bad_request())) as Answer
        } else {
            self.service.call(request, &self.peer)
        };
        InFlight { answer, guard: Some(guard), time }
    }
}

/// Whether another reader could cut this request's body elsewhere: hyper goes by the last transfer coding, a
/// proxy may go by the first, or by all of them. One `chunked` is the only one that anybody needs, and means
/// the same to everybody (RFC 9112, section 6.1). Asked only of bodies that come without a length.
fn is_ambiguous(request: &Request<Incoming>) -> bool {
    if request.version() >= Version::HTTP_2 || request.body().size_hint().exact().is_some() {
        return false;
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    !codings.next().is_some_and(is_chunked) || codings.next().is_some()
}

/// As hyper answers what it can't parse.
fn bad_request() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The service didn't answer in time; resets the stream.
#[derive(Debug, thiserror::Error)]
#[error("request must be answered within {limit_ms} ms")]
pub(super) struct RequestTimeout {
    limit_ms: u64,
}

/// A request that the service is working on.
pub(super) struct InFlight {
    answer: Answer,
    guard: Option<RequestGuard>,
    time: Option<StreamTime>,
}

struct StreamTime {
    deadline: Deadline,
    limit_ms: u64,
    counters: Arc<Counters>,
}

impl Future for InFlight {
    type Output = Result<Response<Tracked>, RequestTimeout>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Poll::Ready(response) = this.answer.as_mut().poll(cx) else {
            if let Some(time) = &mut this.time
                && time.deadline.poll_over(cx)
            {
                time.counters.request_timeouts.fetch_add(1, Ordering::Relaxed);
                return Poll::Ready(Err(RequestTimeout { limit_ms: time.limit_ms }));
            }
            return Poll::Pending;
        };
        let guard = this.guard.take();
        if let (Body::Stream(_), Some(RequestGuard(watch))) = (response.body(), &guard) {
            watch.enter(Phase::Streaming);
        }
        Poll::Ready(Ok(response.map(|body| Tracked { body, guard })))
    }
}

/// Counts a request as open until its response's body is with hyper, or until it is given up.
struct RequestGuard(Rc<Watch>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.end_request();
    }
}

/// A response's body together with the count it keeps up.
pub(super) struct Tracked {
    body: Body,
    guard: Option<RequestGuard>,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let draining = self.guard.as_ref().is_some_and(|guard| guard.0.draining());
        if draining && matches!(self.body, Body::Stream(_)) {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if self.body.is_end_stream() {
            // hyper has all of it. A peer that grants it no window must not make the connection look busy: from
            // here on it is idle, and time-limited as such.
            self.guard = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs HTTP/2's streams as tasks of the core.
#[derive(Clone, Copy)]
pub(super) struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// hyper's HTTP/1 with the listener's limits. Time limits are the sweeper's.
pub(super) fn http1(settings: &Settings) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // A client that sends its request and shuts its side still gets the answer.
        .half_close(true)
        // One contiguous write a response: cheaper here than gathering.
        .writev(false)
        .header_read_timeout(None)
        .max_header_size(settings.head_bytes_max)
        .max_buf_size(settings.buffer_bytes_max);
    if settings.headers_max != 100 {
        builder.max_headers(settings.headers_max);
    }
    builder
}

/// hyper's HTTP/2 with the listener's limits.
pub(super) fn http2(settings: &Settings) -> http2::Builder<LocalExecutor> {
    let limits = &settings.http2;
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(limits.header_list_bytes_max)
        .max_pending_accept_reset_streams(limits.resets_max)
        .max_local_error_reset_streams(limits.resets_max)
        .max_send_buf_size(settings.buffer_bytes_max);
    if limits.keep_alive_ms > 0 {
        let interval = std::time::Duration::from_millis(limits.keep_alive_ms);
        builder.keep_alive_interval(interval).keep_alive_timeout(interval);
    }
    builder
}
