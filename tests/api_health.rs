//! Health certificates and cards posted over HTTP to a gateway that has their issuers' keys.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod api_support;
mod health_support;

use std::path::Path;

use api_support::{Server, request};
use health_support::dgc;
use health_support::issuer::{Issuer, certificate, claims};
use scangate::openapi::{Duplicate, Recorded, Reloaded};
use scangate::scan::UnixMillis;

#[test]
fn a_health_certificate_is_recorded_once_its_issuer_is_known() {
    let server = Server::start(|_| {});
    let gate = server.place_device("gate");
    let (sample, issuer) = (dgc::sample(dgc::AUSTRIAN), Issuer::lasting());
    let issued_s = UnixMillis::now().seconds() - 60;
    let fresh = |uvci| issuer.code(&claims(issued_s, issued_s + 3600, certificate("v", uvci)));
    let code = fresh("URN:UVCI:01:AT:10807843F94AEE0EE5093FBC254BD813#B");
    let text = sample.prefix.as_deref().unwrap();
    for (id, code) in [("real", text), ("fresh", code.as_str())] {
        let problem = server.scan(&gate, id, code).problem();
        assert_eq!((problem.status, problem.outcome.as_str()), (422, "unknown_key"), "{id}");
    }

    health_support::write(&server.data(), "hc1/austria.pem", &sample.pem());
    health_support::write(&server.data(), "hc1/fresh.pem", &issuer.pem);
    assert!(server.operate("POST", "/v1/reload").json::<Reloaded>().keys_changed);

    // A code of the EU's test data, whose day has passed.
    let problem = server.scan(&gate, "real", text).problem();
    assert_eq!((problem.status, problem.outcome.as_str()), (422, "expired"));

    let answer = server.scan(&gate, "fresh", &code);
    assert_eq!(answer.status, 201, "{}", answer.text());
    let recorded: Recorded = answer.json();
    assert_eq!((recorded.subject.as_str(), recorded.trust.as_str()), ("person", "proven"));
    // The same holder in a code that was signed again, and written otherwise.
    let mut again = request("again", &fresh("urn:uvci:01:at:10807843f94aee0ee5093fbc254bd813#b"));
    again["direction"] = "in".into();
    let answer = server.post(&gate, "application/json", again.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json::<Duplicate>().original.checkin, recorded.checkin);

    for needle in
        ["10807843F94AEE0EE5093FBC254BD813", "10807843f94aee0ee5093fbc254bd813", "MUSTERFRAU", &code[4..]]
    {
        assert_eq!(files_with(&server.data(), needle.as_bytes()), [""; 0], "{needle:.20}");
    }

    // A person's phone scans places.
    let problem = server.scan(&server.person_device("001090123456"), "phone", &code).problem();
    assert_eq!(problem.outcome, "wrong_subject");
}

/// The files under a directory that hold these bytes.
fn files_with(directory: &Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if memchr::memmem::find(&std::fs::read(&path).unwrap(), needle).is_some() {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn a_health_card_is_recorded_once_its_issuer_is_allowed() {
    let server = Server::start(|_| {});
    let gate = server.place_device("gate");
    let card = include_str!("data/shc/example-00.txt");
    assert_eq!(server.scan(&gate, "card", card).problem().outcome, "unknown_key");
    health_support::write(&server.data(), "shc/examples.json", include_str!("data/shc/issuer.json"));
    assert!(server.operate("POST", "/v1/reload").json::<Reloaded>().keys_changed);
    let answer = server.scan(&gate, "card", card);
    assert_eq!(answer.status, 201, "{}", answer.text());
    let chunk = server.scan(&gate, "chunk", include_str!("data/shc/chunk-1-of-3.txt")).problem();
    assert_eq!((chunk.status, chunk.outcome.as_str()), (422, "chunked_code"));
}
