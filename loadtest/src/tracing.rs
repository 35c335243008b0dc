//! How long a case takes in an embedded store of many check-ins.
//!
//! Every person visits three places a day, and six are at a place at any time of its sixteen hours: so that somebody
//! has met some 500 others after two weeks, whatever the number of check-ins. One exit in twenty is missing. Rows are
//! written straight into a store of their own, which goes afterwards.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use scangate::config;
use scangate::identity::links::{Links, LinksSettings};
use scangate::scan::{
    App, Checkin, CheckinId, ClientKey, DAY_MS, DeviceKey, Direction, DirectionRequest, Form, PlaceKey,
    Pseudonym, Scan, Subject, Trust, UnixMillis,
};
use scangate::services::tracing::search::{Around, Bounds, Question, Search};
use scangate::services::tracing::stays::Rules;
use scangate::store::{EmbeddedSettings, Store};

const DAYS: u64 = 14;
const VISITS_A_PERSON_DAY: u64 = 3;
/// A stay lasts 45 minutes on average, so that six are there at a time.
const VISITS_A_PLACE_DAY: u64 = 128;
const BATCH_ROWS: usize = 8192;
const CHECKINS_MAX: u64 = 1_000_000_000;

/// What to fill and how often to ask.
#[derive(Debug, Args)]
pub struct Options {
    /// Check-ins in the store.
    #[arg(long, default_value_t = 100_000_000, value_parser = clap::value_parser!(u64).range(100_000..=CHECKINS_MAX))]
    checkins: u64,
    /// Cases, each of another person.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    cases: u64,
    /// 1, or 2 for contacts of contacts as well.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    depth: u8,
    /// The median case may take so long.
    #[arg(long, default_value_t = 1000)]
    ms_max: u128,
    /// Where the store is made.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
}

/// The shape of the store that is made.
struct Plan {
    places: u64,
    people: u64,
    /// The first of its days, since 1970.
    first_day: i64,
}

/// Fills a store, asks, prints; false if the median took too long.
pub fn run(options: &Options) -> Result<bool> {
    std::fs::create_dir_all(&options.dir)?;
    let dir = tempfile::tempdir_in(&options.dir)?;
    let store = Store::embedded(&dir.path().join("store"), EmbeddedSettings::default())?;
    let now = UnixMillis::now();
    let links = Links::open(&dir.path().join("links"), LinksSettings::default(), now)?;
    let visits = options.checkins / 2;
    let plan = Plan {
        places: (visits / DAYS / VISITS_A_PLACE_DAY).max(1),
        people: (visits / DAYS / VISITS_A_PERSON_DAY).max(1),
        first_day: i64::from(now.day()) - i64::try_from(DAYS)? - 1,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let started = Instant::now();
    let rows = runtime.block_on(fill(&store, &plan))?;
    let told = format!(
        "{rows} check-ins of {} persons at {} places in {} s",
        plan.people,
        plan.places,
        started.elapsed().as_secs()
    );
    writeln!(std::io::stdout(), "{told}")?;
    let config = config::Tracing::default();
    let ms = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000);
    let rules = Rules {
        missing_ms: ms(config.missing_exit_max_s),
        stay_ms: ms(config.stay_max_s),
        overlap_ms: ms(config.overlap_min_s),
    };
    let bounds = Bounds { contacts_max: config.contacts_max, rows_max: config.rows_max };
    let mut seen = Vec::new();
    for case in 0..options.cases {
        let person = person(mixed(case ^ 0x5eed) % plan.people);
        let from = UnixMillis(plan.first_day * DAY_MS);
        let to = UnixMillis(from.0 + i64::try_from(DAYS)? * DAY_MS);
        let question = Question { around: Around::Person(person), from, to, depth: options.depth };
        let started = Instant::now();
        let found = runtime.block_on(Search::new(&store, &links, rules, bounds).contacts(&question))?;
        seen.push((started.elapsed(), found.contacts.len(), found.rows, found.bound.is_some()));
    }
    let cut = seen.iter().filter(|(.., cut)| *cut).count();
    let contacts = quantile(seen.iter().map(|(_, contacts, ..)| *contacts).collect(), 50);
    let read = quantile(seen.iter().map(|(_, _, rows, _)| *rows).collect(), 50);
    let time = |percent| quantile(seen.iter().map(|(time, ..)| time.as_millis()).collect(), percent);
    let (median, p99) = (time(50), time(99));
    let told = format!(
        "{} cases of depth {}: median {median} ms, p99 {p99} ms; {contacts} contacts and {read} rows read in the median; {cut} cut short",
        seen.len(),
        options.depth
    );
    writeln!(std::io::stdout(), "{told}")?;
    ensure!(contacts > 0, "nobody met anybody: the store isn't what was planned");
    Ok(median <= options.ms_max)
}

/// The value that so many in a hundred don't pass.
fn quantile<T: Copy + Default + Ord>(mut values: Vec<T>, percent: usize) -> T {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

async fn fill(store: &Store, plan: &Plan) -> Result<u64> {
    let (mut batch, mut written, mut visit) = (Vec::with_capacity(BATCH_ROWS), 0, 0_u64);
    for day in 0..DAYS {
        let opens = (plan.first_day + i64::try_from(day)?) * DAY_MS + 4 * 3_600_000;
        for place in 0..plan.places {
            for _ in 0..VISITS_A_PLACE_DAY {
                let bits = mixed(visit);
                let entry = opens + i64::try_from(bits % (15 * 3_600_000))?;
                let stay = i64::try_from(900_000 + (bits >> 32) % 3_600_000)?;
                let who = person(mixed(!visit) % plan.people);
                batch.push(checkin(visit * 2, who, place, entry, Direction::In));
                if bits >> 57 >= 6 {
                    batch.push(checkin(visit * 2 + 1, who, place, entry + stay, Direction::Out));
                }
                visit += 1;
            }
            if batch.len() >= BATCH_ROWS {
                store.write(&batch).await?;
                written += batch.len() as u64;
                batch.clear();
            }
        }
    }
    store.write(&batch).await?;
    store.sync().await?;
    Ok(written + batch.len() as u64)
}

fn checkin(number: u64, person: Pseudonym, place: u64, at: i64, direction: Direction) -> Checkin {
    let at = UnixMillis(at);
    let mut client = [0; 12];
    client[..8].copy_from_slice(&number.to_be_bytes());
    Checkin {
        id: CheckinId::new(at, mixed(number)),
        direction,
        scan: Scan {
            person,
            place: PlaceKey(spread(place ^ 0x00ff_0000_0000)),
            direction: DirectionRequest::Auto,
            at,
            received: at,
            client: ClientKey(client),
            device: DeviceKey([1; 8]),
            app: App::PcCovid,
            subject: Subject::Person,
            trust: Trust::Proven,
            form: Form::Sg1,
            window_s: 60,
        },
    }
}

fn person(number: u64) -> Pseudonym {
    Pseudonym(spread(number))
}

fn spread(number: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mixed(number).to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// SplitMix64 (Steele, Lea and Flood, 2014): the same store each time.
fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
