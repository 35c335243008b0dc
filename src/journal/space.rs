//! Which segments there are, how much they take, and which may go.

use super::Position;
use crate::scan::UnixMillis;
use std::collections::VecDeque;

/// One segment on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// Where its records end, once it is sealed.
    pub(super) sealed_at: Option<u64>,
    pub(super) newest_received: UnixMillis,
}

/// All segments, oldest first.
#[derive(Debug, Default)]
pub(super) struct Space {
    pub(super) segments: VecDeque<Segment>,
    pub(super) released: Position,
    pub(super) deleted: u64,
    pub(super) deleted_early: u64,
    /// The directory was not synced since the last removal.
    pub(super) removal_unsynced: bool,
}

impl Space {
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The oldest segment, if it may be deleted now, and whether that is before its time.
    ///
    /// `bytes_wanted` is the total above which released segments go before their time.
    pub(super) fn deletable(
        &self,
        now: UnixMillis,
        retain_ms: i64,
        bytes_wanted: u64,
    ) -> Option<(u64, bool)> {
        // The last one stays even when sealed: its number is all that keeps numbers, and with them the
        // store's watermark, from starting over.
        let oldest = self.segments.front().filter(|_| self.segments.len() > 1)?;
        let end = Position { segment: oldest.number, offset: oldest.sealed_at? };
        if self.released < end {
            return None;
        }
        let young = oldest.newest_received.0.saturating_add(retain_ms) > now.0;
        if young && self.bytes() <= bytes_wanted {
            return None;
        }
        Some((oldest.number, young))
    }

    /// Takes the oldest segment off the list: its file is gone, if not yet for good.
    pub(super) fn deleted(&mut self, early: bool) {
        self.segments.pop_front();
        self.removal_unsynced = true;
        self.deleted += 1;
        self.deleted_early += u64::from(early);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(released: Position) -> Space {
        let sealed = |number| Segment {
            number,
            bytes: 100,
            sealed_at: Some(90),
            newest_received: UnixMillis(1_000 * i64::try_from(number).unwrap()),
        };
        let last = Segment { sealed_at: None, ..sealed(3) };
        Space { segments: [sealed(1), sealed(2), last].into(), released, ..Space::default() }
    }

    #[test]
    fn only_what_is_released_and_old_goes() {
        let at = |segment, offset| Position { segment, offset };
        let never = UnixMillis(i64::MAX);
        assert_eq!(space(at(1, 89)).deletable(never, 0, 0), None, "one record not in the store yet");
        assert_eq!(space(at(1, 90)).deletable(UnixMillis(1_499), 500, 300), None, "young");
        assert_eq!(space(at(1, 90)).deletable(UnixMillis(1_500), 500, 300), Some((1, false)));
        assert_eq!(space(at(1, 90)).deletable(UnixMillis(0), 500, 299), Some((1, true)), "bytes needed");
        let mut all = space(at(3, 90));
        all.deleted(false);
        all.deleted(true);
        assert_eq!(all.deletable(never, 0, 0), None, "the open segment stays");
        assert_eq!((all.deleted, all.deleted_early, all.bytes()), (2, 1, 100));
    }
}
