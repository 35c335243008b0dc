//! The promise: a hostile frame costs its sender one verdict, never a process. 2,000 frames here;
//! `scangate-loadtest hostile` reads the same kinds by the hundred thousand.
#![allow(clippy::unwrap_used, reason = "tests")]

mod decode_support;

use std::collections::VecDeque;

use decode_support::hostile::{Hostile, worst};
use decode_support::settings;
use scangate::decode::{DecodeError, Decoded, FrameKind, Frames, Pending};

const FRAMES: u64 = 2_000;

#[test]
fn hostile_frames_cost_one_verdict_each_and_no_process() {
    let mut settings = settings();
    settings.workers = 2;
    settings.sandbox.process_frames_max = u64::MAX;
    let frames = Frames::start(settings).unwrap();
    let hostile = Hostile::new(0x5ca6_a7e5).unwrap();
    let mut waiting: VecDeque<Pending> = VecDeque::new();
    let mut tally = Tally::default();
    for index in 0..FRAMES {
        if let Ok(pending) = frames.submit(hostile.frame(index)) {
            waiting.push_back(pending);
        }
        if waiting.len() > 100 {
            tally.add(&waiting.pop_front().unwrap().wait());
        }
    }
    for pending in waiting {
        tally.add(&pending.wait());
    }
    let stats = frames.stats();
    println!("{tally:?} {stats:?}");
    assert_eq!((tally.deaths, stats.crashed, stats.restarts), (0, 0, 0));
    assert_eq!(stats.timed_out, 0);
    assert!(tally.read > 0 && tally.refused > 0);
}

#[test]
fn the_crafted_frames_are_of_the_size_that_they_are_said_to_be() {
    for (name, frame) in worst(1) {
        assert_eq!(frame.kind, FrameKind::Luma { width: 1280, height: 720 }, "{name}");
        assert_eq!(frame.bytes.len(), 1280 * 720, "{name}");
    }
}

#[derive(Debug, Default)]
struct Tally {
    read: u64,
    refused: u64,
    deaths: u64,
}

impl Tally {
    fn add(&mut self, result: &Result<Decoded, DecodeError>) {
        match result {
            Ok(_) => self.read += 1,
            Err(DecodeError::Image(_) | DecodeError::Panicked) => self.refused += 1,
            Err(_) => self.deaths += 1,
        }
    }
}
