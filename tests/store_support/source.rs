//! A journal made of a list.

use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use scangate::scan::Checkin;
use scangate::store::drain::{Backlog, Source};

#[derive(Clone, Default)]
pub struct List {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    position: u64,
}

#[derive(Default)]
struct Shared {
    records: Vec<Checkin>,
    released: u64,
}

impl List {
    pub fn append(&self, records: &[Checkin]) {
        self.shared.0.lock().unwrap().records.extend_from_slice(records);
        self.shared.1.notify_all();
    }

    pub fn released(&self) -> u64 {
        self.shared.0.lock().unwrap().released
    }
}

impl Source for List {
    type Position = u64;
    type Error = Infallible;

    fn seek(&mut self, to: Option<u64>) -> Result<u64, Infallible> {
        self.position = to.unwrap_or(0);
        Ok(self.position)
    }

    fn read(&mut self, into: &mut Vec<Checkin>, records_max: usize) -> Result<u64, Infallible> {
        let shared = self.shared.0.lock().unwrap();
        let before = into.len();
        into.extend(shared.records.iter().skip(self.position as usize).take(records_max));
        self.position += (into.len() - before) as u64;
        Ok(self.position)
    }

    fn wait(&self, position: u64, limit: Duration) -> bool {
        let shared = self.shared.0.lock().unwrap();
        let nothing = |shared: &mut Shared| shared.records.len() as u64 <= position;
        !self.shared.1.wait_timeout_while(shared, limit, nothing).unwrap().1.timed_out()
    }

    fn release(&self, position: u64) {
        let mut shared = self.shared.0.lock().unwrap();
        assert!(position >= shared.released, "a release never goes back");
        shared.released = position;
    }

    fn backlog(&self, position: u64) -> Backlog {
        let records = self.shared.0.lock().unwrap().records.len() as u64 - position;
        Backlog { records, bytes: records * 100 }
    }
}
