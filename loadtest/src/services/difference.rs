//! What was acknowledged against what is listed afterwards.

use std::collections::BTreeSet;
use std::ops::AddAssign;

/// How far apart they are; nothing may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// Acknowledged and not listed.
    pub lost: u64,
    /// Listed more than once.
    pub doubled: u64,
    /// Listed, and acknowledged to nobody.
    pub unasked: u64,
}

impl AddAssign for Difference {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.unasked += other.unasked;
    }
}

/// By their ids.
pub fn difference(acknowledged: &BTreeSet<&str>, listed: &[String]) -> Difference {
    let once: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    Difference {
        lost: acknowledged.difference(&once).count() as u64,
        doubled: (listed.len() - once.len()) as u64,
        unasked: once.difference(acknowledged).count() as u64,
    }
}

/// By their number, where whoever made them was not told their ids.
pub fn counted(acknowledged: u64, listed: &[String]) -> Difference {
    let once = listed.iter().collect::<BTreeSet<_>>().len() as u64;
    Difference {
        lost: acknowledged.saturating_sub(once),
        doubled: listed.len() as u64 - once,
        unasked: once.saturating_sub(acknowledged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn a_row_that_is_missing_doubled_or_new_is_seen() {
        let acknowledged = BTreeSet::from(["a", "b"]);
        let seen = |ids| difference(&acknowledged, &listed(ids));
        assert_eq!(seen(&["b", "a"]), Difference::default());
        assert_eq!(seen(&["a"]), Difference { lost: 1, ..Difference::default() });
        assert_eq!(seen(&["a", "b", "a"]), Difference { doubled: 1, ..Difference::default() });
        assert_eq!(seen(&["a", "b", "c"]), Difference { unasked: 1, ..Difference::default() });
        assert_eq!(seen(&["a", "c"]), Difference { lost: 1, doubled: 0, unasked: 1 });
    }

    #[test]
    fn so_is_one_by_number() {
        assert_eq!(counted(2, &listed(&["a", "b"])), Difference::default());
        assert_eq!(counted(2, &listed(&["a"])), Difference { lost: 1, ..Difference::default() });
        assert_eq!(counted(2, &listed(&["a", "b", "b"])), Difference { doubled: 1, ..Difference::default() });
        assert_eq!(counted(2, &listed(&["a", "b", "c"])), Difference { unasked: 1, ..Difference::default() });
    }
}
