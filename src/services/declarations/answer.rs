//! `/v1/forms` and `/v1/declarations`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{Method, Response};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::Declarations;
use super::form::Form;
use super::journey::Journey;
use super::record::{Answered, Change, Declared, Earlier, Id, Record, client_of};
use super::tables::Cursor;
use crate::openapi::{
    AmendRequest, CheckRequest, Declaration, DeclarationCheck, DeclarationPage, DeclarationRequest,
    DeclaredFor, EarlierRevision, FormList, FormVersion, Relation,
};
use crate::payload::{self, Claim, SignedForm};
use crate::respond::{self, Cause, Refused};
use crate::scan::{Outcome, Pseudonym, UnixMillis};
use crate::services::ask::Ask;
use crate::services::capability::{Effect, Kind, StateError};
use crate::services::{Host, Services};
use crate::verify::{self, ResolvedSubject, When};

/// Declarations of a page, unless fewer are asked for.
const PAGE_MAX: usize = 100;

/// The longest id that an app gives a declaration, as a check-in's.
const CLIENT_ID_CHARS_MAX: usize = 64;

/// The longest code that is read, as at a scan.
const CODE_BYTES_MAX: usize = 4096;

type Answer = Result<Response<Bytes>, Refused>;

/// Whatever is asked under `/v1/declarations` and `/v1/forms`.
///
/// # Errors
/// As the API describes.
pub(in crate::services) async fn answer(services: &Services, ask: &Ask) -> Answer {
    let here = Here { services, host: &*services.host, all: &services.capabilities.declarations, ask };
    match (ask.method(), ask.path().as_slice()) {
        (&Method::GET | &Method::HEAD, ["forms"]) => Ok(here.forms()),
        (&Method::GET | &Method::HEAD, ["forms", name, version]) => here.form(name, version),
        (&Method::POST, ["declarations"]) => here.declare().await,
        (&Method::GET | &Method::HEAD, ["declarations"]) => here.list(),
        (&Method::POST, ["declarations", "check"]) => here.check(),
        (&Method::GET | &Method::HEAD, ["declarations", id]) => here.read(id),
        (&Method::PUT, ["declarations", id]) => here.amend(id).await,
        (&Method::DELETE, ["declarations", id]) => here.withdraw(id).await,
        _ => Err(Refused::new(Cause::NotFound, "there is nothing under this path")),
    }
}

/// One request, and what it is answered from.
struct Here<'a> {
    services: &'a Services,
    host: &'a dyn Host,
    all: &'a Declarations,
    ask: &'a Ask,
}

impl Here<'_> {
    fn forms(&self) -> Response<Bytes> {
        let forms = self.all.forms.list().map(|about| FormVersion {
            name: about.name.clone(),
            version: about.version,
            accepted_until: about.accepted_until.clone(),
        });
        respond::json(&FormList { forms: forms.collect() })
    }

    fn form(&self, name: &str, version: &str) -> Answer {
        let version = version.parse().ok();
        let form = version.and_then(|version| self.all.forms.find(name, version));
        let form = form.ok_or_else(|| Refused::new(Cause::NotFound, "there is no such form"))?;
        let mut response = respond::ok(respond::JSON, form.text.clone().into_owned());
        // Only `accepted_until` of a version ever changes.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        Ok(response)
    }

    async fn declare(&self) -> Answer {
        let person = self.ask.person(self.host)?;
        let asked: DeclarationRequest = self.ask.json()?;
        if !(1..=CLIENT_ID_CHARS_MAX).contains(&asked.id.chars().count()) {
            let refused = Refused::new(Cause::Invalid, "must have 1 to 64 characters").field("/id");
            return Err(refused.limit(CLIENT_ID_CHARS_MAX as u64, None));
        }
        let client = client_of(&asked.id);
        let id = self.all.tables.id_of(person, client).map_err(unreadable)?;
        let known = self.all.tables.get(id).map_err(unreadable)?;
        // Sent again it is judged as of its first time: a phone's code has ended since.
        let at = known.as_ref().map_or(self.ask.now, |known| UnixMillis(known.at_ms));
        let form = self.form_of(&asked.form, asked.version)?;
        let (subject, proven_until_s) = self.subject(person, &asked, at)?;
        let first = fingerprint(&asked);
        let declared = Declared {
            declarer: person.0,
            subject: subject.0,
            relation: asked.relation,
            epoch: self.host.identity().epoch(),
            epoch_first: None,
            client: Some(client),
            proven_until_s,
            form: asked.form,
            first,
        };
        let answered = self.answered(form, asked.answers, at)?;
        let effect = self.record(&Change::Declared { id, declared, answered }).await?;
        self.told(id, effect)
    }

    async fn amend(&self, id: &str) -> Answer {
        let (id, record) = self.own(id)?;
        let asked: AmendRequest = self.ask.json()?;
        let form = self.form_of(&record.declared.form, asked.version)?;
        // The same answers, sent again, are judged as of when they were taken.
        let is_known = record.answered.version == asked.version && record.answered.answers == asked.answers;
        let at = if is_known { UnixMillis(record.changed_ms) } else { self.ask.now };
        let answered = self.answered(form, asked.answers, at)?;
        let effect = self.record(&Change::Amended { id, revision: asked.revision, answered }).await?;
        self.told(id, effect)
    }

    async fn withdraw(&self, id: &str) -> Answer {
        let (id, _) = self.own(id)?;
        let effect = self.record(&Change::Withdrawn { id }).await?;
        self.told(id, effect)
    }

    fn read(&self, id: &str) -> Answer {
        let (id, record) = self.own(id)?;
        let earlier = self.all.tables.earlier(id).map_err(unreadable)?;
        let earlier = earlier.into_iter().map(revision).collect();
        Ok(respond::json(&Declaration { earlier: Some(earlier), ..self.view(id, record) }))
    }

    fn list(&self) -> Answer {
        let person = self.ask.person(self.host)?;
        let [limit, cursor] = self.ask.query(["limit", "cursor"])?;
        let malformed = |field, detail: &'static str| Refused::new(Cause::Malformed, detail).field(field);
        let limit = match limit {
            None => PAGE_MAX,
            Some(limit) => {
                let limit = limit.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
                limit.ok_or_else(|| malformed("limit", "must be within 1 and 100"))?
            }
        };
        let after = match cursor {
            None => None,
            Some(cursor) => {
                let place = URL_SAFE_NO_PAD.decode(&cursor).ok();
                let place = place.and_then(|place| Cursor::try_from(place.as_slice()).ok());
                Some(place.ok_or_else(|| malformed("cursor", "must be what next said"))?)
            }
        };
        // What a person declared before their codes were linked is theirs as well.
        let mut declarers = vec![person];
        declarers.extend(self.host.links().aliases_of(person).map_err(|error| {
            tracing::error!(error = %error, "links can't be read");
            Refused::new(Cause::Unavailable, "links can't be read now").bound("services.disk")
        })?);
        let page = self.all.tables.page(&declarers, after, limit).map_err(unreadable)?;
        let last = page.last().filter(|_| page.len() == limit);
        let next = last.map(|(place, _)| URL_SAFE_NO_PAD.encode(place));
        let mut declarations = Vec::with_capacity(page.len());
        for (_, id) in &page {
            // One that went since is none.
            if let Some(record) = self.all.tables.get(*id).map_err(unreadable)? {
                declarations.push(self.view(*id, record));
            }
        }
        Ok(respond::json(&DeclarationPage { declarations, next }))
    }

    fn check(&self) -> Answer {
        self.ask.place(self.host)?;
        let CheckRequest { qr } = self.ask.json()?;
        let unread = |detail| Refused::new(Cause::Invalid, detail).field("/qr");
        let claim = read(&qr).map_err(unread)?;
        let not_valid = |reason: &str| {
            let reason = Some(reason.to_owned());
            Ok(respond::json(&DeclarationCheck { valid: false, reason, journey: None, expires_at: None }))
        };
        let Claim::Signed(SignedForm::Sg1(text)) = claim else { return not_valid("no_declaration") };
        let token = match verify::sg1(text, self.ask.now, &self.host.keys().load()) {
            Ok(token) => token,
            Err(refusal) if refusal.outcome == Outcome::Expired => return not_valid("expired"),
            Err(refusal) if refusal.outcome == Outcome::Revoked => return not_valid("revoked"),
            Err(refusal) => return Err(unread(refusal.detail)),
        };
        if token.sealed.is_none() {
            return not_valid("no_declaration");
        }
        let Some(record) = self.all.tables.of_cti(token.cti).map_err(unreadable)? else {
            return not_valid("expired");
        };
        if record.withdrawn || token.issued_at_s < record.issued_s {
            return not_valid("revoked");
        }
        let shown = ["origin", "stops", "destination", "means", "departs_at", "arrives_at"];
        let answers = &record.answered.answers;
        let shown = shown.iter().filter_map(|name| Some(((*name).to_owned(), answers.get(name)?.clone())));
        let expires_at = UnixMillis(token.expires_at_s.saturating_mul(1000)).to_string();
        Ok(respond::json(&DeclarationCheck {
            valid: true,
            reason: None,
            journey: Some(Value::Object(shown.collect())),
            expires_at: Some(expires_at),
        }))
    }

    fn form_of(&self, name: &str, version: u16) -> Result<&Form, Refused> {
        self.all.forms.find(name, version).ok_or_else(|| {
            let has_name = self.all.forms.list().any(|about| about.name == name);
            let field = if has_name { "/version" } else { "/form" };
            Refused::new(Cause::Invalid, "must be of a form that GET /v1/forms tells").field(field)
        })
    }

    /// Answers that are as the form has it.
    fn answered(&self, form: &Form, answers: Value, at: UnixMillis) -> Result<Answered, Refused> {
        form.check_accepted(at)?;
        form.check(&answers)?;
        let journey = form.is_movement.then(|| Journey::of(&answers, at)).transpose()?;
        if journey.is_some() && !self.all.codes.can_sign() {
            let detail = "this gateway has no key to sign the codes of journeys with";
            return Err(Refused::new(Cause::Unavailable, detail).bound("declarations.key").retry_after(60));
        }
        Ok(Answered { version: form.about.version, answers, journey })
    }

    /// Whom it is about, and until when that is proven.
    fn subject(
        &self,
        person: Pseudonym,
        asked: &DeclarationRequest,
        at: UnixMillis,
    ) -> Result<(Pseudonym, i64), Refused> {
        let refused = |field, detail: &'static str| Refused::new(Cause::Invalid, detail).field(field);
        match (&asked.subject, asked.relation) {
            (DeclaredFor::Oneself, None) => Ok((person, i64::MAX)),
            (DeclaredFor::Oneself, Some(_)) => Err(refused("/relation", "is for a dependant only")),
            (DeclaredFor::Dependant(_), None) => {
                Err(refused("/relation", "must say what a dependant is to them"))
            }
            (DeclaredFor::Dependant(qr), Some(_)) => {
                self.dependant(qr, at).map_err(|detail| refused("/for/dependant", detail))
            }
        }
    }

    /// The person of a code, as a scan finds them.
    fn dependant(&self, qr: &str, at: UnixMillis) -> Result<(Pseudonym, i64), &'static str> {
        let identity = self.host.identity();
        let (holder, until_s) = match read(qr)? {
            Claim::Person(form) => (ResolvedSubject::Person(identity.person(&form)), 0),
            Claim::Place(form) => (ResolvedSubject::Place(identity.place_form(&form)), 0),
            Claim::Signed(form) => {
                let when = When { scanned: at, received: self.ask.now };
                let verified = verify::signed(form, when, &self.host.keys().load());
                let verified = verified.map_err(|refusal| refusal.detail)?;
                let holder = identity.holder(&verified.holder).map_err(|refusal| refusal.detail)?;
                (holder, verified.validity.until_s)
            }
        };
        match holder {
            ResolvedSubject::Person(own) => Ok((self.host.links().citizen_of(own), until_s)),
            ResolvedSubject::Place(_) => Err("must be the code of a person, not of a place"),
        }
    }

    /// A declaration of whoever asks. Anybody else's is none.
    fn own(&self, id: &str) -> Result<(Id, Record), Refused> {
        let person = self.ask.person(self.host)?;
        let none = || Refused::new(Cause::NotFound, "there is no such declaration").field("id");
        let id = uuid(id).ok_or_else(none)?.into_bytes();
        let record = self.all.tables.get(id).map_err(unreadable)?;
        let is_own =
            |record: &Record| self.host.links().citizen_of(Pseudonym(record.declared.declarer)) == person;
        Ok((id, record.filter(is_own).ok_or_else(none)?))
    }

    async fn record(&self, change: &Change) -> Result<Effect, Refused> {
        let event = serde_json::to_vec(change)
            .map_err(|_| Refused::new(Cause::Malformed, "can't be written as JSON").field("body"))?;
        self.services.log.record(Kind::Declarations, event, self.ask.now).await
    }

    /// What came of it, with the code.
    fn told(&self, id: Id, effect: Effect) -> Answer {
        let (record, is_new) = match effect {
            Effect::Created(record) => (record, true),
            Effect::Done(record) => (record, false),
            refused @ Effect::Refused(_) => return Ok(Response::from(refused)),
        };
        let damaged = |_| unreadable(StateError::Damaged { table: "declarations1" });
        let record: Record = serde_json::from_slice(&record).map_err(damaged)?;
        if is_new || record.changed_ms == self.ask.now.0 {
            self.all.codes.count(&record);
        }
        let view = self.view(id, record);
        Ok(if is_new { respond::created(&view) } else { respond::json(&view) })
    }

    fn view(&self, id: Id, record: Record) -> Declaration {
        let code = self.all.codes.of(self.host, id, &record, self.ask.now);
        Declaration {
            id: Uuid::from_bytes(id).to_string(),
            subject: if record.declared.relation.is_some() { "dependant" } else { "self" }.to_owned(),
            form: record.declared.form,
            version: record.answered.version,
            relation: record.declared.relation,
            at: UnixMillis(record.at_ms).to_string(),
            revision: record.revision,
            changed_at: UnixMillis(record.changed_ms).to_string(),
            withdrawn: record.withdrawn,
            answers: record.answered.answers,
            code,
            earlier: None,
        }
    }
}

fn revision(earlier: Earlier) -> EarlierRevision {
    EarlierRevision {
        revision: earlier.revision,
        at: UnixMillis(earlier.at_ms).to_string(),
        version: earlier.answered.version,
        answers: earlier.answered.answers,
    }
}

/// A UUID in the notation of RFC 9562 and no other.
fn uuid(text: &str) -> Option<Uuid> {
    Uuid::parse_str(text).ok().filter(|_| text.len() == 36)
}

fn read(qr: &str) -> Result<Claim<'_>, &'static str> {
    if qr.len() > CODE_BYTES_MAX {
        return Err("a code has up to 4096 bytes");
    }
    payload::parse(qr).map_err(|refusal| refusal.detail)
}

/// What two requests have in common that are one declaration, besides the subject.
fn fingerprint(asked: &DeclarationRequest) -> Id {
    #[derive(Serialize)]
    struct Same<'a> {
        form: &'a str,
        version: u16,
        relation: Option<Relation>,
        answers: &'a Value,
    }
    let same =
        Same { form: &asked.form, version: asked.version, relation: asked.relation, answers: &asked.answers };
    // JSON that was read always serializes, its members in order.
    let same = serde_json::to_vec(&same).unwrap_or_default();
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    hash.update(&same);
    hash.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

fn unreadable(error: StateError) -> Refused {
    tracing::error!(error = %anyhow::Error::from(error), "declarations can't be read");
    Refused::new(Cause::Unavailable, "declarations can't be read now").bound("services.disk")
}
