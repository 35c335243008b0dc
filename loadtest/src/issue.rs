//! Device tokens and SG1 codes by the number, with the keys of a gateway's data directory.

use std::thread;

use anyhow::{Context, Result};

use crate::server::Site;

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
        self.many(places, |place| self.site.run(&["issue", "device", "--place", place]))
    }

    /// A bearer token for each person's own device.
    pub fn person_devices(&self, persons: &[String]) -> Result<Vec<String>> {
        self.many(persons, |person| self.site.run(&["issue", "device", "--person", person]))
    }

    /// An SG1 payload for each of these people.
    pub fn persons(&self, references: &[String]) -> Result<Vec<String>> {
        self.many(references, |person| self.site.run(&["issue", "person", person]))
    }

    fn many(&self, references: &[String], one: impl Fn(&str) -> Result<String> + Sync) -> Result<Vec<String>> {
        let one = &one;
        let half = references.len().div_ceil(2).max(1);
        thread::scope(|scope| {
            let parts: Vec<_> = references
                .chunks(half)
                .map(|part| {
                    scope.spawn(move || {
                        part.iter()
                            .map(|reference| {
                                let printed = one(reference)?;
                                let line = printed.lines().find(|line| line.starts_with("SG1:") || line.starts_with("ey"));
                                Ok(line.context("nothing was issued")?.trim().to_owned())
                            })
                            .collect::<Result<Vec<String>>>()
                    })
                })
                .collect();
            let mut all = Vec::with_capacity(references.len());
            for part in parts {
                all.extend(part.join().map_err(|_| anyhow::anyhow!("an issuing thread panicked"))??);
            }
            Ok(all)
        })
    }
}
