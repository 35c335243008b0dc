//! A gate: reads codes from standard input, one a line, and checks each in.
//!
//!     cargo run -p scangate-client --example gate -- http://127.0.0.1:8080 TOKEN-FILE QUEUE-FILE
//!
//! Each code is safe in the queue file before the next one is read. While the gateway can't be reached they wait there, and
//! a later run sends them.

#![allow(clippy::print_stdout, reason = "a command's own output")]

use std::io::{BufRead as _, stdin};
use std::time::Duration;

use anyhow::Context as _;
use scangate_client::{Client, Direction, Outbox, Queue, Scan};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what| arguments.next().context(what);
    let (base, token, queue) =
        (next("a gateway's address")?, next("a token's file")?, next("a queue's file")?);
    let token = std::fs::read_to_string(&token).with_context(|| token.clone())?;
    let client = Client::builder(base, token.trim()).timeout(Duration::from_secs(5)).build()?;
    let mut outbox = Outbox::new(client, Queue::open(queue, 10_000)?);
    for code in stdin().lock().lines() {
        outbox.push(&Scan::now(code?, Direction::Auto))?;
        report(&outbox.flush()?);
    }
    report(&outbox.drain(Duration::from_secs(5))?);
    Ok(())
}

fn report(flushed: &scangate_client::Flushed) {
    let scangate_client::Flushed { recorded, duplicates, refused, waiting, stopped_by } = flushed;
    println!("{recorded} recorded, {duplicates} known, {} refused, {waiting} waiting", refused.len());
    for one in refused {
        println!("  {}: {}", one.id, one.refusal.detail);
    }
    if let Some(reason) = stopped_by {
        println!("  {reason}");
    }
}
