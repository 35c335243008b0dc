//! Devices that were offline for a day come back at once: batches hours late, in order, a third sent twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use scangate::scan::UnixMillis;
use tokio::sync::Mutex;

use crate::ledger::{Doubt, Ledger};
use crate::open::{make, settle};
use crate::record::Ending;

use super::Stage;

/// Scans that one device made in its day.
const SCANS_A_DEVICE: u64 = 300;
/// Lines of a batch, unless asked otherwise.
const BATCH_LINES: u64 = 100;

/// As many batches at once as there are connections, each device's in order.
pub fn run(stage: &mut Stage<'_>) -> Result<()> {
    let devices = stage.options.amount.unwrap_or(10_000);
    let lines = if stage.options.batch == 0 { BATCH_LINES } else { stage.options.batch };
    let batches = SCANS_A_DEVICE.div_ceil(lines);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let next = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let started = Instant::now();
    let day_ago_ms = UnixMillis::now().0 - 24 * 3_600_000;
    let mut tasks = Vec::new();
    for _ in 0..stage.options.connections {
        let (next, ledger, traffic) = (next.clone(), ledger.clone(), stage.traffic.clone());
        let (recorder, target) = (stage.recorder.clone(), stage.target());
        tasks.push(runtime.spawn(async move {
            let mut connection = target.http1().await?;
            loop {
                let device = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if device >= devices {
                    return anyhow::Ok(());
                }
                for batch in 0..batches {
                    let n = (device * batches + batch) * lines;
                    let hours_ms = i64::try_from(batch * 20 * 3_600_000 / batches)?;
                    let doubt = Doubt { n, group: device, lines, at_ms: day_ago_ms + hours_ms };
                    let times = if (device * batches + batch) % 3 == 0 { 2 } else { 1 };
                    for _ in 0..times {
                        let (post, asked) = make(&traffic, &doubt, true)?;
                        let sent = Instant::now();
                        let mut ending = Ending::Shed;
                        // A device that is told to come back does.
                        while ending == Ending::Shed {
                            let answer = connection.post(&post).await?;
                            ending = settle(&mut *ledger.lock().await, &asked, &answer, true)?;
                            recorder.record(ending, sent.elapsed());
                            if ending == Ending::Shed {
                                tokio::time::sleep(Duration::from_millis(200)).await;
                            }
                        }
                    }
                }
            }
        }));
    }
    runtime.block_on(async {
        for task in tasks {
            task.await??;
        }
        anyhow::Ok(())
    })?;
    let elapsed = started.elapsed().as_secs_f64();
    let ledger = std::mem::take(&mut *runtime.block_on(ledger.lock()));
    #[allow(clippy::cast_precision_loss)] // Lines of a run stay far below 2^52.
    let answered = ledger.successes() as f64;
    stage.notes.insert("devices".to_owned(), f64::from(u32::try_from(devices)?));
    stage.notes.insert("lines answered a second".to_owned(), (answered / elapsed).round());
    stage.ledger.merge(ledger);
    Ok(())
}
