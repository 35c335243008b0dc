//! Processes that stop, die and come back under load.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::codes::Random;
use crate::open;
use crate::profile::Profile;
use crate::wire::Target;

use super::Stage;

/// A third of the load with the database, a while without it, the rest with it again.
pub fn database_away(stage: &mut Stage<'_>, killed: bool) -> Result<()> {
    let away = Duration::from_secs(stage.options.amount.unwrap_or(300));
    // A killed database takes a while to start, which the load must outlast.
    let start_s = if killed { 15.0 } else { 0.0 };
    let seconds = stage.options.seconds + away.as_secs_f64() + start_s;
    let calm = Duration::from_secs_f64(stage.options.seconds / 2.0);
    let plan = stage.plan(|rate| Profile::constant(rate, seconds), 0);
    stage.load_while(&plan, |stage| {
        sleep(calm);
        let signal = if killed { "KILL" } else { "STOP" };
        stage.event(if killed { "database killed" } else { "database paused" });
        stage.database.as_ref().context("no database")?.signal(signal)?;
        sleep(away);
        let database = stage.database.as_ref().context("no database")?;
        if killed {
            database.up()?;
        } else {
            database.signal("CONT")?;
        }
        stage.event("database back");
        Ok(())
    })
}

/// SIGKILL at random moments; each time the gateway starts again on the same directory.
pub fn kill_loop(stage: &mut Stage<'_>) -> Result<()> {
    let kills = stage.options.amount.unwrap_or(20);
    let mut random = Random::new(stage.options.seed);
    let seconds = stage.options.seconds;
    let plan = stage.plan(|rate| Profile::constant(rate, seconds), 0);
    let mut slowest = Duration::ZERO;
    #[allow(clippy::cast_precision_loss)] // Kills are few.
    let between_ms = seconds * 900.0 / kills.max(1) as f64;
    stage.load_while(&plan, |stage| {
        let load_ends = Instant::now() + Duration::from_secs_f64(seconds);
        for _ in 0..kills {
            sleep(Duration::from_secs_f64(between_ms * (0.5 + random.unit()) / 1000.0));
            if Instant::now() >= load_ends {
                break;
            }
            stage.event("SIGKILL");
            slowest = slowest.max(stage.kill_and_restart()?);
        }
        Ok(())
    })?;
    stage.notes.insert("slowest restart s".to_owned(), slowest.as_secs_f64());
    Ok(())
}

/// The same scans to two gateways on one database: the second receives what the first does, a moment later,
/// and both at once for a part.
pub fn two_gateways(stage: &mut Stage<'_>) -> Result<()> {
    let sibling = stage.site.sibling()?;
    let second = sibling.start()?;
    let to_second = Target { to: second.listen, ..stage.target() };
    stage.second = Some(second);
    let seconds = stage.options.seconds;
    let plan = stage.plan(|rate| Profile::constant(rate, seconds), 0);
    let mut other = stage.plan(|rate| Profile::constant(rate, seconds), 0);
    other.targets = vec![to_second];
    let (traffic, recorder) = (stage.traffic.clone(), stage.recorder.clone());
    let twin = Arc::new(other);
    let ledger = std::thread::scope(|scope| {
        let twin = twin.clone();
        let load = scope.spawn(move || open::run(&twin, &traffic, &recorder, true));
        stage.load_while(&plan, |_| Ok(()))?;
        load.join().unwrap_or_else(|_| anyhow::bail!("the second load panicked"))
    })?;
    #[allow(clippy::cast_precision_loss)] // Check-ins of a run stay far below 2^52.
    let each = [
        ("first gateway's check-ins", stage.ledger.checkins()),
        ("second gateway's check-ins", ledger.checkins()),
    ];
    for (name, count) in each {
        #[allow(clippy::cast_precision_loss)] // As above.
        stage.notes.insert(name.to_owned(), count as f64);
    }
    stage.ledger.merge(ledger);
    Ok(())
}
