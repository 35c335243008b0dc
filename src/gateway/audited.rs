//! What is recorded in the audit log before it happens, and answered 503 where it can't be.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;

use super::Shared;
use crate::audit::{Action, Entry, Outcome};
use crate::respond::{self, Problem};
use crate::scan::{self, UnixMillis};

/// A call that the log has the beginning of.
pub(super) struct Call {
    number: u64,
    entry: Entry,
}

impl Call {
    /// Records the end. Blocks for an fsync. Without it the log shows a call that was broken off, which is what the
    /// error is then about.
    pub(super) fn end(&self, shared: &Shared, outcome: Outcome, rows: Option<u64>) {
        if let Err(error) = shared.audit.end(self.number, &self.entry, (outcome, rows), UnixMillis::now()) {
            tracing::error!(error = %format_args!("{error:#}"), call = self.number, "the end of a call isn't in the audit log");
        }
    }
}

/// Records that a call begins; on disk before this is done.
///
/// # Errors
/// The answer that the call must get: it can't be recorded, and so must not happen.
pub(super) async fn begin(shared: &Arc<Shared>, entry: Entry) -> Result<Call, Response<Bytes>> {
    record(shared, entry, Outcome::Begun).await
}

/// Records something that is done as soon as it is asked for.
///
/// # Errors
/// As for [`begin`].
pub(super) async fn done(shared: &Arc<Shared>, entry: Entry) -> Result<(), Response<Bytes>> {
    record(shared, entry, Outcome::Done).await.map(|_| ())
}

/// Records what a signal asks for. Whoever may send one may end the process: it is done, recorded or not, since a
/// revocation must not wait for room on the disk.
pub(super) fn signalled(shared: &Shared, action: Action) -> Option<Call> {
    let entry = Entry::new("signal", action);
    match shared.audit.append(&entry, Outcome::Begun, UnixMillis::now()) {
        Ok(number) => Some(Call { number, entry }),
        Err(error) => {
            tracing::error!(error = %anyhow::Error::from(error), "a signal isn't in the audit log");
            None
        }
    }
}

async fn record(shared: &Arc<Shared>, entry: Entry, outcome: Outcome) -> Result<Call, Response<Bytes>> {
    let log = Arc::clone(shared);
    // The admin listener's other requests don't wait for the disk.
    let appended = tokio::task::spawn_blocking(move || {
        let number = log.audit.append(&entry, outcome, UnixMillis::now());
        number.map(|number| Call { number, entry })
    });
    match appended.await {
        Ok(Ok(call)) => Ok(call),
        Ok(Err(error)) => {
            tracing::error!(error = %anyhow::Error::from(error), "the audit log can't be written; the call was refused");
            let detail = "the audit log can't be written, and nothing is done that is not in it";
            let problem = Problem::new(scan::Outcome::Unavailable, detail);
            Err(respond::problem(&problem.bound("audit.disk").retry_after(30)))
        }
        // The append panicked, which the log has.
        Err(_) => Err(respond::internal()),
    }
}
