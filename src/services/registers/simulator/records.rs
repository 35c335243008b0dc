//! What a simulated register knows: made-up records about specimens, from a seed.

use serde::Serialize;
use serde_json::{Value, json};

use crate::scan::{DAY_MS, UnixMillis};
use crate::services::health::fact::RegisterId;

/// The specimens of the formats: the holders of the personal code and of the citizen card.
pub const CITIZENS: [&str; 2] = ["001093029317", "001090123456"];

/// The first specimen's QID and insurance code.
const QID: &str = "162979388586171100";
const INSURANCE: &str = "DN4010109063006";

const PRODUCTS: [&str; 4] = ["EU/1/20/1528", "EU/1/20/1507", "EU/1/21/1529", "Abdala"];

/// 2021-06-01 and the days after it, of which the made-up records are.
const FIRST_DAY: u64 = 18_779;
const DAYS: u64 = 150;

/// A version of a record, as the contracts have it.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    record: String,
    version: u64,
    citizen: String,
    withdrawn: bool,
    content: Value,
}

/// The changes of a register, oldest first.
pub struct Records {
    register: RegisterId,
    changes: Vec<Told>,
    made: u64,
}

impl Records {
    /// Those that a seed makes.
    pub fn made(register: RegisterId, seed: u64) -> Self {
        let mut records = Self { register, changes: Vec::new(), made: 0 };
        let mut draw = Draw(seed ^ u64::from(register as u8) << 56);
        match register {
            RegisterId::Population => drop(records.add(CITIZENS[0], json!({ "qid": QID }))),
            RegisterId::Insurance => drop(records.add(CITIZENS[0], json!({ "insurance": INSURANCE }))),
            RegisterId::Vaccination => {
                for citizen in CITIZENS {
                    let product = draw.one_of(PRODUCTS);
                    for dose in 1..=1 + draw.below(2) {
                        let day = day(FIRST_DAY + dose * 28 + draw.below(DAYS));
                        let content = json!({"product": product, "dose": dose, "doses": 2, "day": day});
                        records.add(citizen, content);
                    }
                }
            }
            RegisterId::Testing => {
                for citizen in CITIZENS {
                    let kind = draw.one_of(["pcr", "antigen"]);
                    let at = format!("{}T0{}:30:00Z", day(FIRST_DAY + draw.below(DAYS)), draw.below(10));
                    records.add(citizen, json!({"kind": kind, "result": "negative", "taken_at": at}));
                }
            }
        }
        records
    }

    /// All of them.
    pub fn changes(&self) -> &[Told] {
        &self.changes
    }

    /// The current version of every record about a citizen.
    pub(super) fn of(&self, citizen: &str) -> Vec<Told> {
        let about = |change: &&Told| change.citizen == citizen;
        let newest =
            |change: &&Told| self.newest(&change.record).is_some_and(|at| at.version == change.version);
        self.changes.iter().filter(about).filter(newest).cloned().collect()
    }

    pub(super) fn add(&mut self, citizen: &str, content: Value) -> String {
        self.made += 1;
        let record = format!("{}-{:06}", self.register.name(), self.made);
        let citizen = citizen.to_owned();
        self.changes.push(Told { record: record.clone(), version: 1, citizen, withdrawn: false, content });
        record
    }

    /// The next version of a record, with other content or withdrawn.
    pub(super) fn next(&mut self, record: &str, content: Option<Value>) -> bool {
        let Some(before) = self.newest(record).cloned() else { return false };
        let (version, withdrawn) = (before.version + 1, content.is_none());
        let content = content.unwrap_or_else(|| before.content.clone());
        self.changes.push(Told { version, withdrawn, content, ..before });
        true
    }

    fn newest(&self, record: &str) -> Option<&Told> {
        self.changes.iter().rev().find(|change| change.record == record)
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): any seed will do, and the next number is a function of the seed alone.
struct Draw(u64);

impl Draw {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn one_of<const N: usize>(&mut self, all: [&'static str; N]) -> &'static str {
        let at = usize::try_from(self.below(N as u64)).unwrap_or(0);
        all.get(at).copied().unwrap_or_default()
    }
}

fn day(days: u64) -> String {
    let at = UnixMillis(i64::try_from(days).unwrap_or(0) * DAY_MS).to_string();
    at.split('T').next().unwrap_or_default().to_owned()
}
