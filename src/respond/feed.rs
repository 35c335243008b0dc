//! What a feed of links hears. Its bad lines are told as those of a batch of check-ins are.

use std::io::Write as _;

use bytes::Bytes;
use hyper::Response;
use serde::Serialize;

use super::{JSON, line, ok, push_json_string};

/// The members of a source's state.
#[derive(Serialize)]
struct State<'a> {
    cursor: &'a str,
    accepted: u64,
    unchanged: u64,
    refused: u64,
}

/// The last line of a batch's answer: how its lines ended, and the cursor that is durable now.
pub fn feed_summary(body: &mut Vec<u8>, accepted: u64, unchanged: u64, refused: usize, cursor: &str) {
    // Writing into memory can't fail.
    let _ =
        write!(body, "{{\"accepted\":{accepted},\"unchanged\":{unchanged},\"refused\":{refused},\"cursor\":");
    push_json_string(body, cursor);
    body.extend_from_slice(b"}\n");
}

/// How far a source has come: its last durable cursor, "" if it never sent a batch, and the lines of all its
/// batches by how they ended.
pub fn feed_state(cursor: &str, [accepted, unchanged, refused]: [u64; 3]) -> Response<Bytes> {
    ok(JSON, line(&State { cursor, accepted, unchanged, refused }))
}
