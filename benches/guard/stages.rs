//! The stages of the hot path, each as an operation that can be repeated any number of times at the same
//! cost: on fixed keys and inputs, with maps that hold enough to be met as in service.
//!
//! Two keys are drawn at random in every process and can't be fixed from here, those of the token caches.
//! They decide which shard and slot an entry takes, not how many instructions it takes to find the only one.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use scangate::authenticate::{AuthenticateSettings, Authenticator, Lookup, RateLimits};
use scangate::deduplicate::{Admission, Deduplicate, Settings};
use scangate::identity::Identity;
use scangate::journal::{Journal, JournalSettings};
use scangate::payload::{self, Claim, SignedForm};
use scangate::request;
use scangate::respond::{self, Verdict};
use scangate::scan::{
    App, Checkin, CheckinId, ClientKey, DeviceKey, Direction, DirectionRequest, Form, PlaceKey, Pseudonym,
    Scan, Subject, Trust, UnixMillis,
};
use scangate::services::capability::{State, StateError};
use scangate::services::card::cards::{Cards, FactsOf};
use scangate::services::card::rules::RuleSet;
use scangate::services::health::fact::{Fact, Known, Provenance, RegisterId, Source};
use scangate::services::places::Places;
use scangate::verify::{self, KeyStore, Pepper, Resolved, TokenCache};

use crate::fixture::{self, NOW};
use crate::health_support::{self, dgc};

/// Rounds a stage; the cheapest counts.
pub const ROUNDS: usize = 3;

/// The function that callgrind watches.
pub const MEASURED: &str = "scangate_guard_measured";

/// Every so many operations an injected regression does one twice: 5 %.
const INJECTED_EVERY: u32 = 20;

/// Calls `operation` with the numbers from `first` on. Not inlined and under a name of its own, so that
/// callgrind can tell when it is entered and left.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "Rust" fn scangate_guard_measured(
    operation: &mut dyn FnMut(u32),
    first: u32,
    calls: u32,
    inject: bool,
) {
    for number in first..first + calls {
        operation(number);
        if inject && number % INJECTED_EVERY == 0 {
            operation(number);
        }
    }
}

/// One stage of the hot path.
pub struct Stage {
    /// As in the budget.
    pub name: &'static str,
    /// Calls per round.
    calls: u32,
    /// Operations per call.
    operations: u32,
    call: Box<dyn FnMut(u32)>,
}

impl Stage {
    /// Runs one unmeasured round and then the measured ones. Returns the operations of a round.
    pub fn run(&mut self, inject: bool) -> u32 {
        for number in 0..self.calls {
            (self.call)(number);
        }
        for round in 1..=ROUNDS {
            let first = u32::try_from(round).unwrap_or(1) * self.calls;
            scangate_guard_measured(&mut self.call, first, self.calls, inject);
        }
        self.calls * self.operations
    }
}

fn stage<T>(name: &'static str, calls: u32, mut operation: impl FnMut(u32) -> T + 'static) -> Stage {
    let call = Box::new(move |number| drop(black_box(operation(number))));
    Stage { name, calls, operations: 1, call }
}

/// All stages, in the order a scan passes them.
pub fn all(dir: &Path) -> Result<Vec<Stage>> {
    fixture::write_keys(dir)?;
    let mut stages = Vec::new();
    stages.extend(authenticate(dir)?);
    stages.extend(request(dir)?);
    stages.extend(payload());
    stages.extend(verify(dir)?);
    stages.extend(identity(dir)?);
    stages.extend(deduplicate());
    stages.extend(journal_and_respond(dir)?);
    stages.extend(card(dir)?);
    Ok(stages)
}

fn authenticate(dir: &Path) -> Result<Vec<Stage>> {
    let keys = Arc::new(KeyStore::open(dir)?);
    let identity = Arc::new(Identity::new(&Pepper::load(dir)?));
    let rate = RateLimits { device_scans_per_s: 1_000_000_000, device_burst_scans: 1_000_000_000 };
    let settings = AuthenticateSettings { rate, ..AuthenticateSettings::default() };
    let authenticator = Authenticator::new(keys, identity, &settings);
    let token = fixture::device_token(dir, NOW)?;
    let device = authenticator.verify(&token, NOW).map_err(|error| anyhow!(error))?;
    let header = format!("Bearer {token}").into_bytes();
    ensure!(matches!(authenticator.lookup(&header, NOW), Lookup::Known(_)), "the device is not known");
    let now = Instant::now();
    Ok(vec![
        stage("authenticate: token seen before", 200, move |_| {
            match authenticator.lookup(black_box(&header), NOW) {
                Lookup::Known(device) => Some(device),
                Lookup::Unknown(_) | Lookup::Refused(_) => None,
            }
        }),
        stage("authenticate: admit", 200, move |_| device.admit(black_box(1), now)),
    ])
}

fn request(dir: &Path) -> Result<Vec<Stage>> {
    const LINES: u32 = 1_000;
    const PAYLOAD_BYTES_MAX: usize = 4096;
    let token = fixture::person_token(dir, NOW)?;
    let one = fixture::body("0b5c1f0e-7a53-4f0e-9d3c-000000000007", &token, NOW);
    ensure!(request::single(one.as_bytes(), PAYLOAD_BYTES_MAX).is_ok(), "the body is refused");
    let line = |index| fixture::body(&format!("0b5c1f0e-7a53-4f0e-9d3c-{index:012}"), &token, NOW) + "\n";
    let many: String = (0..LINES).map(line).collect();
    // As some writers do, with an escape in each line.
    let escaped = many.replace("SG1:", "SG1\\u003a");
    let batch = |many: String| {
        move |_: u32| {
            let (body, mut document) = (black_box(many.as_bytes()), Vec::new());
            drop(black_box(request::batch(&mut document, body, LINES as usize, PAYLOAD_BYTES_MAX)));
        }
    };
    Ok(vec![
        stage("request: single", 200, move |_| {
            request::single(black_box(one.as_bytes()), PAYLOAD_BYTES_MAX).is_ok()
        }),
        Stage { operations: LINES, ..stage("request: batch of 1000, a line", 20, batch(many)) },
        Stage {
            operations: LINES,
            ..stage("request: batch of 1000 with escapes, a line", 20, batch(escaped))
        },
    ])
}

const CCCD: &str =
    "001090123456|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021";

const BHYT: &str = "0123456789|4e677579656e2056616e2041|01/01/1990|1|-|01 - 001|01/04/2021|-|15/03/2021|\
                    01010123456789|-|4|01/10/2026|0123456789abcdef-1202|4|48e1bb93|$";

const NZ_POSTER: &str = "NZCOVIDTRACER:eyJnbG4iOiI5NDI5MzAwMDAwMDA3IiwidmVyIjoiYzE5OjEiLCJ0eXAiOiJlbnRyeSIsIm9wbiI6Ik\
                         NhZsOpIiwiYWRyIjoiMSBSb2FkXG5Ub3duIn0=";

/// The example in the format's specification.
const CWA_POSTER: &str = "https://e.coronawarn.app?v=1#CAESEwgBEgdGcmlzZXVyGgZCZXJsaW4adggBEmCDAszMTXne1DAA5_YxmhRdd_N\
                          ZN2VKl9L32Jl9-ZybE4b2eNIrhFOKYU4XAOHq3RPLDxdHTW6ANiO24rCOO4rj06HzcVZy3pel58-L1KSPG-_PneL2B\
                          oyZQRz3qlu2hoAaEATXwzyyIshzBHREtsdmc6kiBggBEAUYeA";

fn payload() -> Vec<Stage> {
    let parse = |name, text: &'static str| stage(name, 200, move |_| payload::parse(black_box(text)).is_ok());
    vec![
        parse("payload: cccd", CCCD),
        parse("payload: qrqg", "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422"),
        parse("payload: pc-covid poster", fixture::PLACE),
        parse("payload: bhyt", BHYT),
        parse("payload: nz poster", NZ_POSTER),
        parse("payload: corona-warn-app poster", CWA_POSTER),
    ]
}

/// Tokens that a worker checks together.
const JOB: u32 = 64;

fn verify(dir: &Path) -> Result<Vec<Stage>> {
    let certificate = dgc::sample(dgc::AUSTRIAN);
    health_support::write(dir, "hc1/austria.pem", &certificate.pem());
    let text = certificate.prefix.clone().context("the certificate's text")?;
    let valid_at = certificate.clock().context("the certificate's clock")?;
    let store = Arc::new(KeyStore::open(dir)?);
    ensure!(verify::hc1(&text, valid_at, &store.load()).is_ok(), "the certificate is refused");
    let identity = Identity::new(&Pepper::load(dir)?);
    let token: Arc<str> = fixture::person_token(dir, NOW)?.into();
    let verified = verify::signed(SignedForm::Sg1(&token), NOW, &store.load())
        .map_err(|refusal| anyhow!("{refusal:?}"))?;
    let cache = TokenCache::new(1 << 18);
    let subject = identity.holder(&verified.holder).map_err(|refusal| anyhow!("{refusal:?}"))?;
    let resolved = Resolved { subject, form: verified.form, validity: verified.validity };
    cache.insert(cache.key(&token), &store.load(), resolved);
    // A worker's job of distinct persons.
    let together: Vec<String> = (0..JOB)
        .map(|person| fixture::person_token(dir, UnixMillis(NOW.0 - 1000 * i64::from(person))))
        .collect::<Result<_>>()?;
    let job_store = Arc::clone(&store);
    let job = move |_: u32| {
        let tokens: Vec<(&str, UnixMillis)> = together.iter().map(|token| (token.as_str(), NOW)).collect();
        drop(black_box(verify::sg1_all(&tokens, &job_store.load())));
    };
    let (cold_store, cold_token) = (Arc::clone(&store), Arc::clone(&token));
    let health_store = Arc::clone(&store);
    Ok(vec![
        stage("verify: token seen before", 200, move |_| {
            let keys = store.load();
            let resolved = cache.get(cache.key(black_box(&token)), &keys)?;
            resolved.validity.check(NOW).ok()?;
            Some(resolved.subject)
        }),
        stage("verify: token never seen", 20, move |_| {
            verify::sg1(black_box(&cold_token), NOW, &cold_store.load()).is_ok()
        }),
        stage("verify: health certificate never seen", 20, move |_| {
            verify::hc1(black_box(&text), valid_at, &health_store.load()).is_ok()
        }),
        Stage { operations: JOB, ..stage("verify: token never seen, one of 64", 5, job) },
    ])
}

fn identity(dir: &Path) -> Result<Vec<Stage>> {
    let identity = Arc::new(Identity::new(&Pepper::load(dir)?));
    let Ok(Claim::Person(card)) = payload::parse(CCCD) else { return Err(anyhow!("the card is refused")) };
    let cti = identity.cti_of_person(identity.person(&card));
    let device = identity.device(App::PcCovid, "gate-1");
    let (of_cti, of_client) = (Arc::clone(&identity), Arc::clone(&identity));
    Ok(vec![
        stage("identity: person by hmac", 200, move |_| identity.person(black_box(&card))),
        stage("identity: person of cti", 200, move |_| of_cti.person_of_cti(black_box(cti))),
        stage("identity: client key", 200, move |_| {
            of_client.client(device, black_box("0b5c1f0e-7a53-4f0e-9d3c-000000000007"))
        }),
    ])
}

/// A scan of a person of its own, at one of 251 places.
fn scan(number: u32) -> Scan {
    let number = u64::from(number);
    let mut person = [0; 16];
    person[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let mut client = [0; 12];
    client[..8].copy_from_slice(&number.wrapping_mul(0xd6e8_feb8_6659_fd93).to_le_bytes());
    Scan {
        person: Pseudonym(person),
        place: PlaceKey([number.to_le_bytes()[0] % 251; 16]),
        direction: DirectionRequest::In,
        at: NOW,
        received: NOW,
        client: ClientKey(client),
        device: DeviceKey([1; 8]),
        app: App::PcCovid,
        subject: Subject::Person,
        trust: Trust::Proven,
        form: Form::Sg1,
        window_s: 60,
    }
}

fn deduplicate() -> Vec<Stage> {
    const HELD: u32 = 30_000;
    let settings =
        Settings { windows_s: vec![60], remember_s: 176_400, auto_reset_s: 57_600, entries_max: u64::MAX };
    let memory = Arc::new(Deduplicate::<u64, ()>::new(settings, [3; 16]));
    let admit = |memory: &Deduplicate<u64, ()>, scan: &Scan| match memory
        .admit(black_box(scan), &[], |_| Ok::<_, ()>(1))
    {
        Ok(Admission::Fresh(in_flight)) => Some(in_flight.durable(()).id),
        Ok(Admission::Duplicate(original, _)) => Some(original.id),
        Err(_) => None,
    };
    for number in 0..HELD {
        admit(&memory, &scan(number));
    }
    memory.vouch(());
    let same = Arc::clone(&memory);
    vec![
        stage("deduplicate: fresh, then durable", 200, move |number| admit(&memory, &scan(HELD + number))),
        stage("deduplicate: duplicate by client id", 200, move |number| admit(&same, &scan(number % HELD))),
    ]
}

fn checkin(number: u32) -> Checkin {
    let scan = scan(number);
    Checkin { id: CheckinId::new(scan.at, u64::from(number)), direction: Direction::In, scan }
}

fn journal_and_respond(dir: &Path) -> Result<Vec<Stage>> {
    let settings = JournalSettings { lanes: 1, lane_bytes_max: 16 << 20, ..JournalSettings::default() };
    let (journal, _) = Journal::open(&dir.join("journal"), settings, &mut |_| {})?;
    let lane = journal.lane(0)?;
    let proof = journal.committed_blocking(lane.append(&checkin(0)).map_err(|error| anyhow!(error))?)?;
    // The writer is never joined: the process ends while it waits.
    std::mem::forget(journal);
    let id = "0b5c1f0e-7a53-4f0e-9d3c-000000000007";
    let recorded = Verdict::Recorded { checkin: checkin(7), proof };
    let line = Verdict::Recorded { checkin: checkin(7), proof };
    let duplicate = {
        let original = checkin(7);
        let original = scangate::deduplicate::Original { id: original.id, direction: original.direction };
        Verdict::Duplicate { scan: scan(7), original, proof }
    };
    let mut body = Vec::with_capacity(512);
    let at = NOW.to_string();
    UnixMillis::parse(&at).context("the time's own text")?;
    Ok(vec![
        stage("journal: append", 200, move |number| lane.append(black_box(&checkin(number))).is_ok()),
        stage("respond: single, recorded", 200, move |_| respond::single(black_box(&recorded), id)),
        stage("respond: single, duplicate", 200, move |_| respond::single(black_box(&duplicate), id)),
        stage("respond: line of a batch, recorded", 200, move |_| {
            body.clear();
            respond::batch_line(&mut body, 7, black_box(&line), id);
        }),
        stage("scan: timestamp read", 200, move |_| UnixMillis::parse(black_box(&at)).is_ok()),
    ])
}

/// One dose each, or two.
struct Doses;

impl FactsOf for Doses {
    fn facts_of(&self, person: Pseudonym) -> Result<Vec<Known>, StateError> {
        let source = Source::Register(RegisterId::Vaccination);
        let provenance = Provenance { source, record: "r".to_owned(), version: 1, received: NOW };
        let [byte, ..] = person.0;
        let fact = Fact::Vaccination {
            product: "EU/1/21/1529".to_owned(),
            dose: 1 + byte % 2,
            doses: 2,
            day: 18_900,
        };
        Ok(vec![Known { fact, provenance }])
    }

    fn each_person(&self, _: &mut dyn FnMut(Pseudonym)) -> Result<(), StateError> {
        Ok(())
    }
}

/// What a scan's answer costs more where the place asks for the card.
fn card(dir: &Path) -> Result<Vec<Stage>> {
    const HELD: u32 = 2_000;
    let places = Arc::new(Places::open(&State::open(&dir.join("tables"))?, 1)?);
    let cards = Cards::new(Arc::new(Doses), places);
    let rules = RuleSet::read(include_bytes!("../../config/rules/vn.json"))?;
    cards.take_rules(vec![Arc::new(rules)]);
    cards.tick(NOW)?;
    for number in 0..HELD {
        cards.facts_changed(scan(number).person, NOW)?;
    }
    let place = PlaceKey([1; 16]);
    let look = move |number: u32| cards.at_place(black_box(scan(number % HELD).person), place, NOW).colour;
    Ok(vec![stage("card: look-up at a scan", 200, look)])
}
