//! Made-up people, places and the payloads that stand for them. No number here is anyone's: serials are
//! counted up under one province and birth year.

/// Serials of one province, birth year and sex.
const SERIALS: u64 = 1_000_000;

/// A citizen number: two sexes, 90 birth years, a million serials each.
pub fn citizen_number(person: u64) -> String {
    let (serial, group) = (person % SERIALS, person / SERIALS);
    let (sex, year) = (group % 2, 10 + group / 2 % 90);
    format!("001{sex}{year:02}{serial:06}")
}

/// The citizen card (CCCD) of a made-up person.
pub fn cccd(person: u64) -> String {
    let group = person / SERIALS;
    let (sex, year) = (if group.is_multiple_of(2) { "Nam" } else { "Nữ" }, 1910 + group / 2 % 90);
    let number = citizen_number(person);
    format!("{number}|012345678|NGUYEN VAN A|0101{year}|{sex}|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021")
}

/// The PC-COVID personal code (QRQG) of a made-up person, masked as the app shows it.
pub fn qrqg(person: u64) -> String {
    format!(
        "******{:06}|NGUYEN VAN A|1987-**-**|0|{:018}|<1<00<0123232422",
        person % SERIALS,
        100_000_000_000_000_000 + person
    )
}

/// The PC-COVID poster of a made-up place.
pub fn poster(place: u64) -> String {
    format!("https://qr.pccovid.gov.vn/{place:08x}")
}

/// Draws ranks 0 to n - 1 with probability proportional to 1 / (rank + 1): a few stations and markets, and a
/// long tail of shops. By a table of cumulative weights, so that a draw is one binary search.
pub struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    /// Exponent 1 over `n` ranks.
    #[allow(clippy::cast_precision_loss)] // Ranks stay far below 2^52.
    pub fn new(n: usize) -> Self {
        let mut total = 0.0;
        let weights = (1..=n.max(1)).map(|rank| {
            total += 1.0 / rank as f64;
            total
        });
        Self { cumulative: weights.collect() }
    }

    /// The rank for a uniform random number.
    pub fn rank(&self, random: &mut Random) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(1.0);
        let wanted = random.unit() * total;
        self.cumulative.partition_point(|weight| *weight < wanted).min(self.cumulative.len() - 1)
    }
}

/// SplitMix64: every scenario is repeatable from its seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.bits()) * u128::from(bound)) >> 64).unwrap_or_default()
    }

    /// In 0..1.
    #[allow(clippy::cast_precision_loss)] // 53 bits fit.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_distinct_and_consistent() {
        assert_eq!(citizen_number(0), "001010000000");
        assert_eq!(citizen_number(1_000_001), "001110000001");
        assert!(cccd(3_000_007).contains("|01011911|Nữ|"));
        assert!(qrqg(5).contains("|100000000000000005|"));
    }

    #[test]
    fn zipf_gives_the_first_rank_its_share() {
        let (zipf, mut random) = (Zipf::new(100), Random::new(1));
        let first = (0..10_000).filter(|_| zipf.rank(&mut random) == 0).count();
        // 1 / H(100) = 19.3 %.
        assert!((1_750..2_100).contains(&first), "{first}");
    }
}
