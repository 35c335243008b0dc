//! What is remembered of a declaration, and the events that change it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::journey::Journey;
use crate::identity::Identity;
use crate::openapi::Relation;
use crate::scan::{Pseudonym, UnixMillis};

/// How often a declaration can be amended: each time leaves what was declared before.
pub(super) const REVISIONS_MAX: u16 = 20;

/// Names a declaration.
pub(super) type Id = [u8; 16];

/// The declaration that a person gave this id of their own to: the same id, sent again, is the same declaration.
/// Nobody who doesn't have the pseudonym can tell whose it is.
pub(super) fn id_of(declarer: Pseudonym, client: Id) -> Id {
    let bytes = hashed(&[b"declaration:", &declarer.0, &client]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().into_bytes()
}

/// What is kept of an id that a person's app gave a declaration.
pub(super) fn client_of(id: &str) -> Id {
    hashed(&[b"declaration's own id:", id.as_bytes()])
}

fn hashed(parts: &[&[u8]]) -> Id {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        hash.update(part);
    }
    hash.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

/// Sixteen bytes as 32 hexadecimal digits.
pub(super) mod digits {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::verify::{hex, unhex};

    pub(in super::super) fn serialize<S: Serializer>(bytes: &[u8; 16], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex(bytes))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 16], D::Error> {
        unhex(&String::deserialize(from)?).ok_or_else(|| D::Error::custom("32 hexadecimal digits"))
    }

    /// As many, or nothing.
    pub(in super::super) mod optional {
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        #[derive(Serialize, Deserialize)]
        struct Digits(#[serde(with = "super")] [u8; 16]);

        #[allow(clippy::ref_option)] // Serde hands it in so.
        pub(in super::super::super) fn serialize<S: Serializer>(
            bytes: &Option<[u8; 16]>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            bytes.map(Digits).serialize(to)
        }

        pub(in super::super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<[u8; 16]>, D::Error> {
            Ok(Option::<Digits>::deserialize(from)?.map(|digits| digits.0))
        }
    }
}

/// What was answered, by which version, and the journey that it makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answered {
    pub(super) version: u16,
    pub(super) answers: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) journey: Option<Journey>,
}

/// Who declares what for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Declared {
    #[serde(with = "digits")]
    pub(super) declarer: Id,
    /// The person it is about.
    #[serde(with = "digits")]
    pub(super) subject: Id,
    /// What the subject is to the declarer; none for oneself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) relation: Option<Relation>,
    /// Of the pepper that both pseudonyms are of.
    pub(super) epoch: u16,
    /// Of the pepper that was in force when it was declared, where that has been rotated since: codes of all epochs from
    /// it on may be on paper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) epoch_first: Option<u16>,
    /// What the declarer's app named it, hashed; none in records from before this was kept.
    #[serde(default, with = "digits::optional", skip_serializing_if = "Option::is_none")]
    pub(super) client: Option<Id>,
    /// Until when it is proven who the subject is, in seconds since 1970: a code made of a code lives no longer than that
    /// one, and nothing that was only asserted becomes proven.
    pub(super) proven_until_s: i64,
    pub(super) form: String,
    /// Hash of the first answers: the same id with others is another declaration.
    #[serde(with = "digits")]
    pub(super) first: Id,
}

/// An event. Only ever extended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(super) enum Change {
    Declared {
        #[serde(with = "digits")]
        id: Id,
        declared: Declared,
        answered: Answered,
    },
    Amended {
        #[serde(with = "digits")]
        id: Id,
        /// The revision that it replaces.
        revision: u16,
        answered: Answered,
    },
    Withdrawn {
        #[serde(with = "digits")]
        id: Id,
    },
    /// What ended before this time goes, up to a bound.
    Expired { before_ms: i64 },
}

/// A declaration as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(flatten)]
    pub(super) declared: Declared,
    #[serde(flatten)]
    pub(super) answered: Answered,
    pub(super) at_ms: i64,
    pub(super) changed_ms: i64,
    pub(super) revision: u16,
    /// The second that the code of this revision is issued in; later than that of the revision before, which is revoked
    /// up to its own.
    pub(super) issued_s: i64,
    #[serde(default)]
    pub(super) withdrawn: bool,
}

impl Record {
    /// As it is when it is declared.
    pub(super) fn new(declared: Declared, answered: Answered, at: UnixMillis) -> Self {
        let (at_ms, issued_s) = (at.0, at.seconds());
        Self { declared, answered, at_ms, changed_ms: at_ms, revision: 1, issued_s, withdrawn: false }
    }

    /// With other answers.
    pub(super) fn amended(&self, answered: Answered, at: UnixMillis) -> Self {
        let mut record = Self { answered, ..self.clone() };
        record.touch(at);
        record
    }

    /// Taken back.
    pub(super) fn taken_back(&self, at: UnixMillis) -> Self {
        let mut record = Self { withdrawn: true, ..self.clone() };
        record.touch(at);
        record
    }

    fn touch(&mut self, at: UnixMillis) {
        self.changed_ms = at.0;
        self.revision = self.revision.saturating_add(1);
        self.issued_s = at.seconds().max(self.issued_s.saturating_add(1));
    }

    /// Until when its code is good, in seconds since 1970, if there is one.
    pub(super) fn code_until_s(&self) -> Option<i64> {
        let journey = self.answered.journey.filter(|_| !self.withdrawn)?;
        let until_s = journey.ends_s().min(self.declared.proven_until_s);
        (until_s > self.issued_s).then_some(until_s)
    }

    /// When it is over: its retention begins then.
    pub(super) fn ends_ms(&self) -> i64 {
        let journey = self.answered.journey.map_or(0, |journey| journey.ends_s().saturating_mul(1000));
        self.at_ms.max(journey)
    }
}

/// What its codes are revoked by: those that were issued before a rotation of the pepper have its epoch.
pub(super) fn ctis(id: Id, record: &Record) -> impl Iterator<Item = [u8; 16]> + use<> {
    let Declared { epoch, epoch_first, .. } = record.declared;
    (epoch_first.unwrap_or(epoch)..=epoch).map(move |epoch| Identity::sealed_cti(id, epoch))
}

/// What its code is issued under.
pub(super) fn cti(id: Id, record: &Record) -> [u8; 16] {
    Identity::sealed_cti(id, record.declared.epoch)
}

/// What was declared before it was amended or withdrawn.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Earlier {
    pub(super) revision: u16,
    pub(super) at_ms: i64,
    pub(super) answered: Answered,
}
