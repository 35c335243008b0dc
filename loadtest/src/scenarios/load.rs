//! Load alone: steady, rising, and reconnecting.

use std::time::Duration;

use anyhow::Result;

use crate::cpu;
use crate::profile::Profile;

use super::Stage;

/// One rate for the whole time.
pub fn steady(stage: &mut Stage<'_>) -> Result<()> {
    let seconds = stage.options.seconds;
    let plan = stage.plan(|rate| Profile::constant(rate, seconds), 0);
    stage.load_while(&plan, |_| Ok(()))
}

/// A fifth of the time at the rate, ten times as much within ten seconds, two fifths there, and back.
pub fn rush_hour(stage: &mut Stage<'_>) -> Result<()> {
    let seconds = stage.options.seconds;
    let rise = 10.0_f64.min(seconds / 5.0);
    let (start, peak, end) = (seconds / 5.0, seconds / 5.0 + rise, seconds * 3.0 / 5.0 + rise);
    let profile = |rate: f64| {
        let high = rate * 10.0;
        let points = vec![(0.0, rate), (start, rate), (peak, high), (end, high), (end + rise, rate)];
        Profile::through([points, vec![(end + rise + start, rate)]].concat())
    };
    let plan = stage.plan(profile, 0);
    stage.event("rate");
    stage.load_while(&plan, |_| Ok(()))
}

/// Ten rounds of the same load, each on connections of its own: every round opens all of them at once.
pub fn reconnect_storm(stage: &mut Stage<'_>) -> Result<()> {
    let rounds: u32 = 10;
    let seconds = stage.options.seconds / f64::from(rounds);
    let mut first_scan = 0;
    let before = cpu::descriptors(stage.server.pid());
    for _ in 0..rounds {
        stage.event("reconnect");
        let offset = stage.recorder.started().elapsed().as_secs_f64();
        // The intended times continue where the last round's ended.
        let profile = |rate: f64| {
            Profile::through(vec![(0.0, 0.0), (offset, 0.0), (offset + 1e-6, rate), (offset + seconds, rate)])
        };
        let plan = stage.plan(profile, first_scan);
        first_scan += plan.profile.arrivals() * plan.batch_lines.max(1) + 1000;
        stage.load_while(&plan, |_| Ok(()))?;
    }
    std::thread::sleep(Duration::from_secs(1));
    let after = cpu::descriptors(stage.server.pid());
    #[allow(clippy::cast_precision_loss)] // Descriptors are few.
    stage.notes.insert("descriptors left open".to_owned(), after.saturating_sub(before) as f64);
    Ok(())
}
