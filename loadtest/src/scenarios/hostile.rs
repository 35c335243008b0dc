//! Peers that mean harm, beside peers that don't.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::open::plain;
use crate::profile::Profile;
use crate::wire::Post;
use crate::{cpu, poison};

use super::Stage;

/// Connections that send a byte now and then, beside a steady load.
pub fn slowloris(stage: &mut Stage<'_>) -> Result<()> {
    let count = usize::try_from(stage.options.amount.unwrap_or(5000))?;
    let seconds = stage.options.seconds;
    let plan = stage.plan(|rate| Profile::constant(rate, seconds), 0);
    let to = stage.server.listen;
    stage.load_while(&plan, |stage| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ends = Instant::now() + Duration::from_secs_f64(seconds);
        let before = cpu::descriptors(stage.server.pid());
        stage.event("slow connections");
        let closed = runtime.block_on(async {
            let mut slow = tokio::task::JoinSet::new();
            for index in 0..count {
                // A third never ends its headers, a third its body, a third never begins.
                slow.spawn(async move {
                    let mut connection = plain(to).http1().await?;
                    match index % 3 {
                        0 => connection.write(b"POST /v1/checkins HTTP/1.1\r\nHost: x\r\nX-Slow: ").await?,
                        1 => connection.write(b"POST /v1/checkins HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 400\r\n\r\n{").await?,
                        _ => {}
                    }
                    while Instant::now() < ends {
                        if connection.closed_within(Duration::from_millis(900)).await {
                            return anyhow::Ok(true);
                        }
                        if index % 3 != 2 && connection.write(b"a").await.is_err() {
                            return Ok(true);
                        }
                    }
                    Ok(false)
                });
            }
            let mut closed = 0_u32;
            while let Some(ended) = slow.join_next().await {
                // A connection that was refused or reset is closed as well.
                closed += u32::from(ended?.unwrap_or(true));
            }
            anyhow::Ok(closed)
        })?;
        let after = cpu::descriptors(stage.server.pid());
        stage.event("slow connections gone");
        stage.notes.insert("slow connections".to_owned(), f64::from(u32::try_from(count)?));
        stage.notes.insert("closed by the gateway".to_owned(), f64::from(closed));
        #[allow(clippy::cast_precision_loss)] // Descriptors are few.
        stage.notes.insert("descriptors left open".to_owned(), after.saturating_sub(before) as f64);
        Ok(())
    })
}

/// Every hostile payload and request, over and over, beside a steady load.
pub fn poison(stage: &mut Stage<'_>) -> Result<()> {
    let rounds = stage.options.amount.unwrap_or(20);
    let seconds = stage.options.seconds;
    let plan = stage.plan(|rate| Profile::constant(rate, seconds), 0);
    let to = stage.server.listen;
    let token = stage.traffic.token(0)?.to_owned();
    stage.load_while(&plan, |stage| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut sent, mut server_errors, mut closed) = (0_u32, 0_u32, 0_u32);
        let mut accepted = Vec::new();
        for round in 0..rounds {
            runtime.block_on(async {
                for body in poison::bodies(round) {
                    let mut connection = plain(to).http1().await?;
                    let post = Post { token: token.clone(), batch: body.batch, body: body.bytes };
                    sent += 1;
                    match connection.post(&post).await {
                        Ok(answer) if answer.status >= 500 && answer.status != 503 => server_errors += 1,
                        Ok(answer)
                            if answer.status == 201
                                || memchr::memmem::find(&answer.body, b"\"recorded\"").is_some() =>
                        {
                            accepted.push(body.name);
                        }
                        Ok(_) => {}
                        Err(_) => closed += 1,
                    }
                }
                for request in poison::requests(&token) {
                    let mut connection = plain(to).http1().await?;
                    sent += 1;
                    match tokio::time::timeout(Duration::from_secs(8), connection.exchange(&request)).await {
                        Ok(Ok(answer)) if answer.status >= 500 && answer.status != 503 => server_errors += 1,
                        Ok(Ok(_)) => {}
                        Ok(Err(_)) | Err(_) => closed += 1,
                    }
                }
                anyhow::Ok(())
            })?;
        }
        ensure!(accepted.is_empty(), "hostile payloads were recorded: {accepted:?}");
        stage.ledger.server_errors += u64::from(server_errors);
        for (name, count) in
            [("hostile requests", sent), ("answered 5xx", server_errors), ("closed unanswered", closed)]
        {
            stage.notes.insert(name.to_owned(), f64::from(count));
        }
        Ok(())
    })
}
