//! Whether the process lives, and whether it should be sent scans.

use std::sync::atomic::{AtomicU8, Ordering};

use serde::Serialize;
use utoipa::ToSchema;

/// Where the process is between start and stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Replaying the journal; nothing listens yet.
    Starting = 0,
    /// Serving.
    Serving = 1,
    /// Told to stop: still answering, no longer to be sent anything.
    Draining = 2,
}

/// Why scans would fail although the process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Impairment {
    /// An fsync failed: only a restart mends it.
    JournalPoisoned = 1,
    /// The disk or the journal is full: passes when space returns.
    JournalFull = 2,
}

impl Impairment {
    const ALL: &[Self] = &[Self::JournalPoisoned, Self::JournalFull];

    /// The stable name in `/readyz`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::JournalPoisoned => "journal_poisoned",
            Self::JournalFull => "journal_full",
        }
    }
}

/// The answer to `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Readiness {
    /// Whether scans should be sent here.
    pub ready: bool,
    /// Why not: `starting`, `draining`, `journal_poisoned`, `journal_full`.
    pub reasons: Vec<&'static str>,
}

/// State shared by the parts that change it and the listeners that report it.
#[derive(Debug, Default)]
pub struct Health {
    phase: AtomicU8,
    impairments: AtomicU8,
}

impl Health {
    /// Moves on to a later phase; a phase that has passed doesn't come back.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::Release);
    }

    /// Notes that an impairment began or ended. A poisoned journal stays poisoned.
    pub fn impair(&self, impairment: Impairment, present: bool) {
        if present {
            self.impairments.fetch_or(impairment as u8, Ordering::Release);
        } else if impairment != Impairment::JournalPoisoned {
            self.impairments.fetch_and(!(impairment as u8), Ordering::Release);
        }
    }

    /// Whether scans should be sent here.
    pub fn is_ready(&self) -> bool {
        self.phase.load(Ordering::Acquire) == Phase::Serving as u8
            && self.impairments.load(Ordering::Acquire) == 0
    }

    /// Whether only a restart helps.
    pub fn needs_restart(&self) -> bool {
        self.impairments.load(Ordering::Acquire) & Impairment::JournalPoisoned as u8 != 0
    }

    /// [`is_ready`](Self::is_ready) with every reason.
    pub fn readiness(&self) -> Readiness {
        let phase = self.phase.load(Ordering::Acquire);
        let impairments = self.impairments.load(Ordering::Acquire);
        let mut reasons = Vec::new();
        if phase == Phase::Starting as u8 {
            reasons.push("starting");
        } else if phase == Phase::Draining as u8 {
            reasons.push("draining");
        }
        let present = Impairment::ALL.iter().filter(|impairment| impairments & (**impairment as u8) != 0);
        reasons.extend(present.map(|impairment| impairment.name()));
        Readiness { ready: reasons.is_empty(), reasons }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draining_is_final_and_every_reason_is_told() {
        let health = Health::default();
        assert_eq!(health.readiness().reasons, ["starting"]);
        health.enter(Phase::Serving);
        assert!(health.is_ready());
        health.impair(Impairment::JournalFull, true);
        assert!(!health.is_ready() && !health.needs_restart());
        health.impair(Impairment::JournalFull, false);
        assert!(health.is_ready());
        health.enter(Phase::Draining);
        health.enter(Phase::Serving);
        health.impair(Impairment::JournalPoisoned, true);
        health.impair(Impairment::JournalPoisoned, false);
        assert_eq!(health.readiness().reasons, ["draining", "journal_poisoned"]);
        assert!(health.needs_restart());
    }
}
