//! Bodies: a request's read up to a limit, a response's sent whole or as a stream.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::limits::{self, Deadline};

/// A body's announced length is believed only up to here; beyond, memory follows what arrives.
const RESERVE_BYTES_MAX: usize = 64 * 1024;

/// Why a request's body could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is, or says it is, longer than allowed.
    #[error("body must be at most {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The body didn't arrive within `body_timeout_ms`.
    #[error("body must arrive within {limit_ms} ms")]
    Timeout {
        /// The limit.
        limit_ms: u64,
    },
    /// The peer stopped in the middle or broke the framing.
    #[error("body ended early or is malformed")]
    Broken,
}

/// Reads a whole body. One that announces more than the limit is refused unread; one that comes in a
/// single frame isn't copied.
///
/// # Errors
/// The body is too large, too slow or broken.
pub async fn read(mut incoming: Incoming, limit_bytes: usize) -> Result<Bytes, BodyError> {
    let too_large = BodyError::TooLarge { limit_bytes };
    let limit = u64::try_from(limit_bytes).unwrap_or(u64::MAX);
    let announced = incoming.size_hint().lower();
    if announced > limit {
        return Err(too_large);
    }
    if incoming.is_end_stream() {
        return Ok(Bytes::new());
    }
    let mut deadline: Option<Deadline> = None;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let frame = poll_fn(|cx| {
            let polled = Pin::new(&mut incoming).poll_frame(cx);
            // Only a body that keeps us waiting needs a limit on time.
            if polled.is_pending() && deadline.get_or_insert_with(Deadline::for_body).poll_over(cx) {
                return Poll::Ready(Err(limits::body_timed_out()));
            }
            polled.map(Ok)
        });
        let frame = frame.await.map_err(|limit_ms| BodyError::Timeout { limit_ms })?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit_bytes {
            return Err(too_large);
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            let announced = usize::try_from(announced).unwrap_or(usize::MAX);
            rest.reserve(
                announced.clamp(first.len() + data.len(), RESERVE_BYTES_MAX.max(first.len() + data.len())),
            );
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// A response's body.
pub enum Body {
    /// All of it; empty is no body.
    Full(Bytes),
    /// Pieces as they come, such as server-sent events. Ended early when the listener drains.
    Stream(Pin<Box<dyn Stream<Item = Bytes>>>),
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::Full(Bytes::new())
    }

    /// A body that is sent piece by piece.
    pub fn stream(pieces: impl Stream<Item = Bytes> + 'static) -> Self {
        Self::Stream(Box::pin(pieces))
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Full(bytes.into())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            Self::Full(bytes) if bytes.is_empty() => None,
            Self::Full(bytes) => Some(std::mem::take(bytes)),
            Self::Stream(pieces) => ready!(pieces.as_mut().poll_next(cx)),
        };
        Poll::Ready(piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
