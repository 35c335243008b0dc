//! One person, one pseudonym; one place, one key; whatever form named them.
//!
//! Everything here is keyed by the pepper, a 32-byte secret that all gateways of one deployment share:
//! that is what lets them agree without talking, and what keeps a stolen journal from being searched by
//! trying every citizen number.
//!
//! | from | message under HMAC-SHA-256(pepper, ·), first 16 bytes |
//! |---|---|
//! | citizen number | the twelve digits |
//! | PC-COVID QID | `qid:` and the eighteen digits |
//! | health certificate (HC1) | `uvci:` and the UVCI without `URN:UVCI:`, in upper case |
//! | SMART Health Card | `shc:`, issuer, `#`, and the card's `rid` or the hash of what was signed |
//! | social-insurance number | `bhyt:` and the ten digits |
//! | another person reference | `ref:` and the reference |
//! | PC-COVID place poster | `place:`, host, `/`, slug |
//! | NHS place poster | `place:nhs/` and the venue's id |
//! | NZ place poster | `place:gln/` and the location number |
//! | Corona-Warn-App place poster | `place:cwa/` and the SHA-256 of its message, hexadecimal |
//! | another place reference | `place:` and the reference |
//!
//! Where the pepper was rotated, a person's pseudonym is HMAC-SHA-256(next pepper, pseudonym of before), first 16
//! bytes, once for each rotation (`verify::rotation`); all other keys stay as the first pepper makes them.
//!
//! The messages cannot be confused: only a citizen number starts with a digit. The other keys below are
//! derived from the pepper once, under labels of their own.
//!
//! Every function here returns the identifier's **own** pseudonym. Which of them belong to one citizen is
//! told by [`links`], and asked in one place, when the scan is put together: so caches of tokens and devices
//! never hold what a link that arrives would change.

pub mod feed;
pub mod links;
mod link_store;

use std::fmt;
use std::hash::Hasher;

use aes::Aes128;
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aws_lc_rs::hmac;
use siphasher::{sip, sip128};
use zeroize::Zeroizing;

use crate::payload::{PersonForm, PersonRef, PlaceForm, PlaceRef, place_reference};
use crate::scan::{App, ClientKey, DeviceKey, Outcome, PlaceKey, Pseudonym, Refusal};
use crate::verify::{Holder, Pepper, ResolvedSubject, TokenKind, hex};
use feed::Alias;

/// Turns identifiers into pseudonyms and keys. Cheap to share, safe to use from every core.
pub struct Identity {
    /// Keyed with the pepper itself; the other keys are derived from it.
    pepper: hmac::Key,
    /// What persons' pseudonyms were rotated with since, in order; seldom any.
    later: Box<[hmac::Key]>,
    person_cti: Aes128,
    place_cti: Aes128,
    device: sip::SipHasher24,
    client: sip128::SipHasher24,
}

/// Prints nothing: everything inside is secret.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

impl Identity {
    /// Derives every key from the pepper.
    pub fn new(pepper: &Pepper) -> Self {
        let later = pepper.later().map(|bytes| hmac::Key::new(hmac::HMAC_SHA256, bytes)).collect();
        let pepper = hmac::Key::new(hmac::HMAC_SHA256, pepper.bytes());
        let key = |label: &str| {
            let tag = hmac::sign(&pepper, format!("derive:{label}").as_bytes());
            Zeroizing::new(first::<16>(tag.as_ref()))
        };
        Self {
            person_cti: Aes128::new(&Array::from(*key("person cti"))),
            place_cti: Aes128::new(&Array::from(*key("place cti"))),
            device: sip::SipHasher24::new_with_key(&key("device")),
            client: sip128::SipHasher24::new_with_key(&key("client")),
            pepper,
            later,
        }
    }

    /// The pseudonym of the person an unsigned code names.
    pub fn person(&self, form: &PersonForm<'_>) -> Pseudonym {
        match form.key {
            PersonRef::Citizen(number) => self.citizen(number),
            PersonRef::Insurance(number) => self.alias(&Alias::Insurance(number)),
            PersonRef::Qid(qid) => self.alias(&Alias::Qid(qid)),
        }
    }

    /// The pseudonym behind a reference typed by an operator or carried by a device token: a citizen
    /// number, a QID, or any other text that names a person.
    pub fn person_reference(&self, reference: &str) -> Pseudonym {
        self.rotations(self.root_reference(reference))
    }

    /// As of the first pepper.
    fn root_reference(&self, reference: &str) -> Pseudonym {
        let reference = reference.trim();
        let digits = reference.bytes().all(|byte| byte.is_ascii_digit());
        Pseudonym(match reference.len() {
            12 if digits => self.tag(&[reference]),
            18 if digits => self.tag(&["qid:", reference]),
            _ => self.tag(&["ref:", reference]),
        })
    }

    /// The pseudonym of a citizen, by the twelve digits of the number.
    pub fn citizen(&self, number: &str) -> Pseudonym {
        self.person_named(&[number])
    }

    /// The own pseudonym of an identifier that may be linked to a citizen.
    pub fn alias(&self, alias: &Alias<'_>) -> Pseudonym {
        match *alias {
            Alias::Qid(qid) => self.person_named(&["qid:", qid]),
            Alias::Cti(cti) => self.person_of_cti(cti),
            Alias::Insurance(number) => self.person_named(&["bhyt:", number]),
            Alias::Certificate(ref uvci) => self.person_named(&["uvci:", uvci]),
            Alias::Card(name) => self.person_named(&["shc:", name]),
        }
    }

    /// The key of the place that an unsigned code names.
    pub fn place_form(&self, form: &PlaceForm<'_>) -> PlaceKey {
        self.place_of_poster(form.reference)
    }

    /// The key behind a place reference: what an unsigned poster says, or any other text that names a place
    /// (`gln/` and a location number names the NZ poster's, `nhs/` and a venue's id the NHS poster's).
    pub fn place(&self, reference: &str) -> PlaceKey {
        let reference = reference.trim();
        match place_reference(reference) {
            Some(poster) => self.place_of_poster(poster),
            None => PlaceKey(self.tag(&["place:", reference])),
        }
    }

    fn place_of_poster(&self, poster: PlaceRef<'_>) -> PlaceKey {
        PlaceKey(match poster {
            PlaceRef::Url { host, slug } => self.tag(&["place:", host, "/", slug]),
            PlaceRef::Gln(digits) => self.tag(&["place:gln/", &String::from_utf8_lossy(&digits)]),
            PlaceRef::Digest(digest) => self.tag(&["place:cwa/", &hex(&digest)]),
        })
    }

    /// The key of one device of one app, from its token's `iss` and `sub`.
    pub fn device(&self, app: App, sub: &str) -> DeviceKey {
        let mut hasher = self.device;
        hasher.write(&[app.code()]);
        hasher.write(sub.as_bytes());
        DeviceKey(hasher.finish().to_be_bytes())
    }

    /// The key of one scan, from its device and the id that the device gave it.
    pub fn client(&self, device: DeviceKey, client_id: &str) -> ClientKey {
        use sip128::Hasher128 as _;
        let mut hasher = self.client;
        hasher.write(&device.0);
        hasher.write(client_id.as_bytes());
        ClientKey(first(&hasher.finish128().as_bytes()))
    }

    /// The subject behind the name that a verified code carries.
    ///
    /// # Errors
    /// The code stands for a device.
    pub fn holder(&self, holder: &Holder) -> Result<ResolvedSubject, Refusal> {
        match holder {
            Holder::Cti(TokenKind::Person, cti) => Ok(ResolvedSubject::Person(self.person_of_cti(*cti))),
            Holder::Cti(TokenKind::Place, cti) => Ok(ResolvedSubject::Place(self.place_of_cti(*cti))),
            Holder::Cti(TokenKind::Device, _) => {
                Err(Refusal::new(Outcome::WrongSubject, "the code stands for a device"))
            }
            Holder::Person { label, value } => {
                Ok(ResolvedSubject::Person(self.person_named(&[label, ":", value])))
            }
            Holder::NhsVenue(id) => Ok(ResolvedSubject::Place(PlaceKey(self.tag(&["place:nhs/", id])))),
        }
    }

    /// The person whom an SG1 token's cti stands for: the inverse of [`Self::cti_of_person`].
    pub fn person_of_cti(&self, cti: [u8; 16]) -> Pseudonym {
        self.rotations(Pseudonym(decrypt(&self.person_cti, cti)))
    }

    /// The cti that stands for the person behind a reference, whatever the pepper was rotated with.
    pub fn cti_of_reference(&self, reference: &str) -> [u8; 16] {
        self.cti_of_person(self.root_reference(reference))
    }

    /// The cti that stands for a person, by the pseudonym of the first pepper: one AES block under a derived
    /// key, so that a printed code does not reveal the pseudonym and no table is needed to find it.
    pub fn cti_of_person(&self, person: Pseudonym) -> [u8; 16] {
        encrypt(&self.person_cti, person.0)
    }

    /// The place that an SG1 token's cti stands for: the inverse of [`Self::cti_of_place`].
    pub fn place_of_cti(&self, cti: [u8; 16]) -> PlaceKey {
        PlaceKey(decrypt(&self.place_cti, cti))
    }

    /// The cti that stands for a place.
    pub fn cti_of_place(&self, place: PlaceKey) -> [u8; 16] {
        encrypt(&self.place_cti, place.0)
    }

    /// The key of the hash in check-in ids: equal on every gateway that shares the pepper.
    pub fn checkin_key(&self) -> [u8; 16] {
        self.tag(&["derive:checkin"])
    }

    /// How often the pepper was rotated.
    pub fn epoch(&self) -> u16 {
        u16::try_from(self.later.len()).unwrap_or(u16::MAX)
    }

    /// What the rotations since make of a pseudonym of an epoch.
    pub fn rotated(&self, person: Pseudonym, epoch: u16) -> Pseudonym {
        self.later.iter().skip(epoch.into()).fold(person, |person, key| rotated(key, person))
    }

    /// The pseudonym of the person whom a message names.
    fn person_named(&self, message: &[&str]) -> Pseudonym {
        self.rotations(Pseudonym(self.tag(message)))
    }

    /// Takes a pseudonym of the first pepper through all rotations.
    fn rotations(&self, root: Pseudonym) -> Pseudonym {
        self.rotated(root, 0)
    }

    /// Of a place or under a label; of a person only as of the first pepper.
    fn tag(&self, parts: &[&str]) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.pepper);
        for part in parts {
            context.update(part.as_bytes());
        }
        first(context.sign().as_ref())
    }
}

fn rotated(key: &hmac::Key, person: Pseudonym) -> Pseudonym {
    Pseudonym(first(hmac::sign(key, &person.0).as_ref()))
}

fn encrypt(cipher: &Aes128, block: [u8; 16]) -> [u8; 16] {
    let mut block = Array::from(block);
    cipher.encrypt_block(&mut block);
    block.into()
}

fn decrypt(cipher: &Aes128, block: [u8; 16]) -> [u8; 16] {
    let mut block = Array::from(block);
    cipher.decrypt_block(&mut block);
    block.into()
}

/// The first `N` bytes; every caller hands in at least as many.
fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{self, Claim};

    fn identity(byte: u8) -> Identity {
        Identity::new(&Pepper::new([byte; 32], true))
    }

    fn person(identity: &Identity, text: &str) -> Pseudonym {
        match payload::parse(text) {
            Ok(Claim::Person(form)) => identity.person(&form),
            other => panic!("not a person: {other:?}"),
        }
    }

    const CARD: &str = "001090123456|012345678|NGUYEN VAN A|01011990|Nam|Hà Nội|15042021";
    const QRQG: &str = "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422";

    #[test]
    fn a_pseudonym_is_the_documented_hmac() {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]), b"001090123456");
        assert_eq!(person(&identity(7), CARD).0, tag.as_ref()[..16]);
    }

    #[test]
    fn forms_of_one_person_meet_and_others_do_not() {
        let identity = identity(7);
        let card = person(&identity, CARD);
        assert_eq!(identity.person_reference("001090123456"), card);
        let masked = QRQG.replacen("001093", "******", 1).replacen("-01-18", "-**-**", 1);
        assert_eq!(person(&identity, &masked), person(&identity, QRQG));
        assert_eq!(identity.person_reference("162979388586171100"), person(&identity, QRQG));
        assert_ne!(person(&identity, QRQG), card);
        assert_ne!(identity.person_reference("qid:162979388586171100"), person(&identity, QRQG));
        assert_ne!(person(&super::tests::identity(8), CARD), card);
    }

    #[test]
    fn forms_of_one_place_meet() {
        let identity = identity(7);
        let Ok(Claim::Place(poster)) = payload::parse("https://qr.pccovid.gov.vn/Ab3x?x=1") else {
            panic!("not a place");
        };
        let key = identity.place_form(&poster);
        assert_eq!(identity.place("HTTPS://qr.pccovid.gov.vn/Ab3x/"), key);
        assert_eq!(identity.place("qr.pccovid.gov.vn/Ab3x"), key);
        assert_ne!(identity.place("qr.pccovid.gov.vn/ab3x"), key);
        assert_ne!(identity.place("001090123456").0, identity.person_reference("001090123456").0);
    }

    #[test]
    fn insurance_cards_of_one_person_meet() {
        let identity = identity(7);
        let new = "0123456789|4e|1990|1|-|01 - 001|01/04/2021|-|15/03/2021|x$";
        let old = new.replacen("0123456789", "DN4010123456789", 1);
        assert_eq!(person(&identity, new), person(&identity, &old));
        assert_eq!(person(&identity, new).0, identity.tag(&["bhyt:0123456789"]));
        assert_ne!(person(&identity, new), identity.person_reference("0123456789"));
    }

    #[test]
    fn what_the_feed_names_is_what_a_code_is_resolved_to() {
        let identity = identity(7);
        let line = br#"{"citizen":null,"insurance":"DN4010123456789","certificate":"urn:uvci:01:vn:abc#x"}"#;
        let named = feed::line(line, |_, aliases| {
            aliases.iter().map(|alias| identity.alias(alias)).collect::<Vec<_>>()
        });
        let card = person(&identity, "0123456789|4e|1990|1|-|01 - 001|01/04/2021|-|15/03/2021|x$");
        let holder = Holder::Person { label: "uvci", value: "01:VN:ABC#X".to_owned() };
        let Ok(ResolvedSubject::Person(certificate)) = identity.holder(&holder) else {
            panic!("not a person");
        };
        assert_eq!(named, Ok(vec![card, certificate]));
    }

    #[test]
    fn posters_of_other_countries_are_places_by_the_documented_names() {
        let identity = identity(7);
        let nz = "NZCOVIDTRACER:eyJnbG4iOiI5NDI5MzAwMDAwMDA3IiwidmVyIjoiYzE5OjEiLCJ0eXAiOiJlbnRyeSIsIm9wbiI6Ii\
                  IsImFkciI6IiJ9";
        let Ok(Claim::Place(poster)) = payload::parse(nz) else { panic!("not a place") };
        assert_eq!(identity.place_form(&poster).0, identity.tag(&["place:gln/9429300000007"]));
        assert_eq!(identity.place(nz), identity.place("gln/9429300000007"));
        let cwa = PlaceForm { form: crate::scan::Form::CwaPlace, reference: PlaceRef::Digest([0xab; 32]) };
        assert_eq!(identity.place_form(&cwa), identity.place(&format!("cwa/{}", "ab".repeat(32))));
        let nhs = identity.holder(&Holder::NhsVenue("4WT59M5Y".to_owned()));
        assert_eq!(nhs, Ok(ResolvedSubject::Place(identity.place("nhs/4WT59M5Y"))));
    }

    #[test]
    fn a_cti_hides_its_subject_and_leads_back_to_it() {
        let identity = identity(7);
        let person = identity.person_reference("001090123456");
        let cti = identity.cti_of_person(person);
        assert_ne!(cti, person.0);
        assert_eq!(identity.person_of_cti(cti), person);
        let place = identity.place("gate 4");
        assert_eq!(identity.place_of_cti(identity.cti_of_place(place)), place);
        assert_ne!(identity.cti_of_place(PlaceKey(person.0)), cti);
    }

    #[test]
    fn devices_clients_and_checkins_are_told_apart() {
        let identity = identity(7);
        let device = identity.device(App::PcCovid, "gate-1");
        assert_eq!(identity.device(App::PcCovid, "gate-1"), device);
        assert_ne!(identity.device(App::Vneid, "gate-1"), device);
        assert_ne!(identity.device(App::PcCovid, "gate-2"), device);
        assert_ne!(identity.client(device, "a"), identity.client(device, "b"));
        assert_ne!(identity.checkin_key(), super::tests::identity(8).checkin_key());
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", identity(7)), "Identity(..)");
    }
}
