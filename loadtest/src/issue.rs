//! Device tokens and SG1 codes by the number, with the keys of a gateway's data directory.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use scangate::issue::{DEVICE_TTL, IssueError, RoleRef, issue_device_named, issue_person};
use scangate::scan::{App, UnixMillis};

use crate::server::Site;

/// Codes outlive every run.
const CODE_TTL: Duration = Duration::from_hours(30 * 24);

/// What a data directory can issue.
pub struct Issuer<'a> {
    site: &'a Site,
}

impl<'a> Issuer<'a> {
    /// Uses the keys of a site, which must have been started once.
    pub fn new(site: &'a Site) -> Self {
        Self { site }
    }

    /// A bearer token for a device at each of these places.
    pub fn place_devices(&self, places: &[String]) -> Result<Vec<String>> {
        self.devices(places, "gate", |place| RoleRef::Place(place))
    }

    /// A bearer token for each person's own device.
    pub fn person_devices(&self, persons: &[String]) -> Result<Vec<String>> {
        self.devices(persons, "phone", |person| RoleRef::Person(person))
    }

    /// An SG1 payload for each of these people.
    pub fn persons(&self, references: &[String]) -> Result<Vec<String>> {
        let now = UnixMillis::now();
        many(references, |_, person| issue_person(&self.site.data, person, CODE_TTL, now))
    }

    fn devices(
        &self,
        references: &[String],
        kind: &str,
        role: impl for<'r> Fn(&'r str) -> RoleRef<'r> + Sync,
    ) -> Result<Vec<String>> {
        let now = UnixMillis::now();
        many(references, |index, reference| {
            let app = App::ALL.get(index % App::ALL.len()).copied().unwrap_or(App::PcCovid);
            let name = format!("{kind}-{index}");
            issue_device_named(&self.site.data, app, role(reference), &name, None, DEVICE_TTL, now)
        })
    }
}

/// On two threads: a signature and the reading of its key take some 100 µs.
fn many(
    references: &[String],
    one: impl Fn(usize, &str) -> Result<String, IssueError> + Sync,
) -> Result<Vec<String>> {
    let one = &one;
    let half = references.len().div_ceil(2).max(1);
    let parts = thread::scope(|scope| {
        let parts: Vec<_> = references
            .chunks(half)
            .enumerate()
            .map(|(part, chunk)| {
                scope.spawn(move || {
                    let numbered = chunk.iter().zip(part * half..);
                    numbered.map(|(reference, index)| one(index, reference)).collect::<Result<Vec<_>, _>>()
                })
            })
            .collect();
        parts.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    let mut all = Vec::with_capacity(references.len());
    for part in parts {
        all.extend(part.map_err(|_| anyhow::anyhow!("an issuing thread panicked"))??);
    }
    Ok(all)
}
