//! What synthetic devices send. Scan number `n` of a seed is always the same scan, so that a scan whose
//! answer was lost can be made again instead of being kept.

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::codes::{self, Random, Zipf};
use crate::issue::Issuer;
use crate::requests::{time_text, uuid_like};

/// Shares of the formats among the codes of persons, in percent; the rest is QRQG.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Mix {
    /// scangate's own tokens.
    pub sg1: u64,
    /// Citizen cards.
    pub cccd: u64,
}

/// Who sends what.
#[derive(Debug, Clone, Serialize)]
pub struct Shape {
    /// Devices at places.
    pub place_devices: usize,
    /// People's own devices, which scan places.
    pub person_devices: usize,
    /// Places, visited by Zipf's law.
    pub places: usize,
    /// People.
    pub population: u64,
    /// People with an SG1 code.
    pub sg1_persons: usize,
    /// Formats.
    pub mix: Mix,
    /// Nobody is scanned twice.
    pub distinct: bool,
    /// Repeatability.
    pub seed: u64,
}

/// Devices with tokens, people with codes.
pub struct Traffic {
    shape: Shape,
    devices: Vec<Device>,
    sg1: Vec<String>,
    zipf: Zipf,
}

struct Device {
    token: String,
    scans_places: bool,
}

/// One scan, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// Index of its device.
    pub device: usize,
    /// The direction it asks for.
    pub direction: &'static str,
    /// The JSON document.
    pub json: String,
}

impl Traffic {
    /// Issues what the shape asks for.
    pub fn prepare(issuer: &Issuer<'_>, shape: Shape) -> Result<Self> {
        ensure!(shape.place_devices > 0, "at least one device at a place");
        let zipf = Zipf::new(shape.places);
        let mut random = Random::new(shape.seed);
        // A busy place has more devices: their places are drawn by the same law.
        let places: Vec<String> =
            (0..shape.place_devices).map(|_| codes::poster(zipf.rank(&mut random) as u64)).collect();
        let persons: Vec<String> =
            (0..shape.person_devices).map(|person| codes::citizen_number(person as u64)).collect();
        let mut devices = Vec::new();
        for (tokens, scans_places) in
            [(issuer.place_devices(&places)?, false), (issuer.person_devices(&persons)?, true)]
        {
            devices.extend(tokens.into_iter().map(|token| Device { token, scans_places }));
        }
        let sg1_persons: Vec<String> = (0..shape.sg1_persons as u64).map(codes::citizen_number).collect();
        let sg1 = issuer.persons(&sg1_persons)?;
        Ok(Self { shape, devices, sg1, zipf })
    }

    /// The shape it was made from.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// A device's bearer token.
    pub fn token(&self, device: usize) -> Result<&str> {
        Ok(self.devices.get(device).context("no such device")?.token.as_str())
    }

    /// Scan `n`, at this time. Lines of one batch must come from one device, so the device is chosen by
    /// `group`.
    pub fn scan(&self, n: u64, group: u64, at_ms: i64) -> Scan {
        let mut random = Random::new(self.shape.seed ^ group.wrapping_mul(0xd134_2543_de82_ef95));
        let device = usize::try_from(random.below(self.devices.len() as u64)).unwrap_or_default();
        let mut random = Random::new(!self.shape.seed ^ n.wrapping_mul(0xaf25_1af3_b0f0_25b5));
        let direction = match random.below(20) {
            0..9 => "in",
            9..18 => "out",
            _ => "auto",
        };
        let scans_places = self.devices.get(device).is_some_and(|device| device.scans_places);
        let qr = if scans_places {
            codes::poster(self.zipf.rank(&mut random) as u64)
        } else {
            self.person(n, &mut random)
        };
        let id = uuid_like(n);
        let id = std::str::from_utf8(&id).unwrap_or_default();
        let qr = serde_json::Value::from(qr);
        let at = time_text(at_ms);
        let json = format!(r#"{{"id":"{id}","qr":{qr},"at":"{at}","direction":"{direction}"}}"#);
        Scan { device, direction, json }
    }

    fn person(&self, n: u64, random: &mut Random) -> String {
        let kind = random.below(100);
        let person = if self.shape.distinct { n } else { random.below(self.shape.population) };
        if kind < self.shape.mix.sg1 && !self.sg1.is_empty() {
            let index = usize::try_from(person % self.sg1.len() as u64).unwrap_or_default();
            self.sg1.get(index).cloned().unwrap_or_default()
        } else if kind < self.shape.mix.sg1 + self.shape.mix.cccd {
            codes::cccd(person)
        } else {
            codes::qrqg(person)
        }
    }
}
