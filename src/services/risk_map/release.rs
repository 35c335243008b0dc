//! What of a day's counts may be told: figures from which nobody learns anything about a group of fewer than `k`.
//!
//! A figure is rounded down to a multiple of `k`, and what is under `k` isn't told: it is *hidden*. That alone would
//! give hidden places away where a district has few of them: of 20 persons in a district, 10 at its only told place,
//! at least one was at the other. So a district's figure is held down to what could be true with any one of its hidden
//! places empty and another cell known exactly, as its keeper knows it. What that bound is made of is told anyway, so
//! the bound tells nothing.
//!
//! The argument in full, and what it doesn't cover, is in `docs/risk-map.md`; `attack_tests.rs` tries to break it.

/// The figures of one district and one day.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Released {
    /// For each place its persons, at least so many; nothing where they are hidden.
    pub places: Vec<Option<u64>>,
    /// Persons in the district, at least so many.
    pub district: Option<u64>,
}

/// Decides over one district. `places` are the different persons at each of its places that had any, `listed` how many
/// places the directory has there, `together` the different persons in the district.
pub fn release(k: u64, places: &[u64], listed: u64, together: u64) -> Released {
    let told: Vec<Option<u64>> = places.iter().map(|persons| told(k, *persons)).collect();
    let shown = told.iter().flatten().count() as u64;
    let hidden = listed.max(places.len() as u64) - shown;
    let most_at_shown: u64 = told.iter().flatten().map(|least| least + k - 1).sum();
    let bound = match hidden {
        0 => u64::MAX,
        // One of the hidden is empty, and some cell is no fuller than its keeper knows.
        _ => (most_at_shown + (hidden - 1) * (k - 1)).saturating_sub(k - 1),
    };
    Released { places: told, district: self::told(k, together.min(bound)) }
}

/// A count rounded down to a multiple of `k`; nothing for one under `k`.
pub fn told(k: u64, count: u64) -> Option<u64> {
    (count >= k).then(|| count - count % k)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn district(places: &[u64], listed: u64, together: u64) -> Option<u64> {
        release(10, places, listed, together).district
    }

    #[test]
    fn a_figure_under_k_is_hidden_and_others_are_rounded_down() {
        let counts = [0, 9, 10, 19, 20, 1_234];
        let released = release(10, &counts, 6, 1_250);
        assert_eq!(released.places, [None, None, Some(10), Some(10), Some(20), Some(1_230)]);
    }

    #[test]
    fn a_districts_figure_tells_nothing_of_its_one_hidden_place() {
        // 19 at most were at the told place: with 20 the other can't have been empty.
        assert_eq!(district(&[12, 9], 2, 21), Some(10));
        assert_eq!(district(&[12], 2, 12), Some(10));
        // Nothing is hidden, nothing is held back.
        assert_eq!(district(&[12, 11], 2, 23), Some(20));
        // Of many small places there is a district's figure though none of theirs is told.
        assert_eq!(district(&[9; 30], 30, 200), Some(200));
        assert_eq!(district(&[9; 30], 30, 270), Some(250));
        assert_eq!(district(&[9, 9, 9], 3, 27), None);
    }
}
