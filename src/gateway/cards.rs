//! `?card=true`: the person's card in the answer to a scan.

use std::sync::Weak;

use bytes::Bytes;
use hyper::Response;

use super::core::Core;
use crate::authenticate::{Device, Role};
use crate::respond::{self, Problem, Verdict};
use crate::scan::{Outcome, UnixMillis};

/// Whether a place's device asks for cards. What else a query says is nobody's concern, as ever.
///
/// # Errors
/// It says neither yes nor no.
#[cold]
pub(super) fn are_asked_for(query: &str, device: &Device) -> Result<bool, Problem> {
    let asked = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "card");
    match asked.as_ref().map(|(_, value)| value.as_ref()) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(matches!(device.role, Role::Place { .. })),
        Some(_) => Err(Problem::new(Outcome::Malformed, "card must be true or false").field("card")),
    }
}

/// Puts the card into an answer, where it is a success.
pub(super) fn append(core: &Core, body: &mut Vec<u8>, verdict: &Verdict, now: UnixMillis) {
    let scan = match verdict {
        Verdict::Recorded { checkin, proof: _ } => &checkin.scan,
        Verdict::Duplicate { scan, .. } => scan,
        Verdict::Refused(_) => return,
    };
    match core.shared.services.get().and_then(Weak::upgrade) {
        Some(services) => {
            let look = services.capabilities.card.cards().at_place(scan.person, scan.place, now);
            let rules = look.rules.as_ref().map(|rules| rules.label.as_str());
            let card = respond::Card { colour: look.colour.name(), as_of: look.as_of, rules };
            respond::append_card(body, &card);
        }
        // A gateway without services knows nobody's.
        None => respond::append_card(body, &respond::Card { colour: "unknown", as_of: None, rules: None }),
    }
}

/// The answer to a single scan with the card in it.
pub(super) fn with_card(
    core: &Core,
    response: Response<Bytes>,
    verdict: &Verdict,
    now: UnixMillis,
) -> Response<Bytes> {
    response.map(|body| {
        let mut body = Vec::from(body);
        append(core, &mut body, verdict, now);
        body.into()
    })
}
