//! `serve --demo`: services beside the gateway, registers that are simulated, and tokens for everybody who has a part in
//! README's journey.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;

use crate::config::Config;
use crate::gateway::Gateway;
use crate::issue::{RoleRef, issue_device};
use crate::scan::{App, UnixMillis};
use crate::services::health::fact::RegisterId;
use crate::services::registers::simulator::{CITIZENS, Simulators};
use crate::services::risk_map::Day;
use crate::verify::KeysError;
use crate::verify::admin_token::{self, AdminScope};

/// Where the services listen unless something else is said.
const SERVICES: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8070);

/// The first place of `config/places/demo.ndjson`.
const PLACE: &str = "demo/cho-dong-xuan";

/// How long the tokens are good for.
const TTL: Duration = Duration::from_hours(24);

/// Every run makes the same registers.
const SEED: u64 = 1;

/// How often the simulated registers are asked for changes, so that nobody waits for one.
const POLL_MS: u64 = 500;

/// From the start to when the map tells of yesterday.
const MAP_AFTER_S: i64 = 90;

/// The variables of the journey, whose token has which scope.
const OFFICERS: [(&str, &str, AdminScope); 4] = [
    ("OFFICER", "demo-officer", AdminScope::Services),
    ("ASKS", "demo-asks", AdminScope::Trace),
    ("APPROVES", "demo-approves", AdminScope::Approve),
    ("APPROVES_TOO", "demo-approves-too", AdminScope::Approve),
];

/// A demonstration under way; the simulators end with it.
pub(super) struct Demo {
    simulators: Simulators,
}

impl Demo {
    /// Starts the simulators and has the gateway follow them.
    ///
    /// # Errors
    /// A simulator can't start.
    pub(super) fn prepare(config: &mut Config) -> anyhow::Result<Self> {
        let simulators = Simulators::start(SEED).context("cannot start the simulated registers")?;
        for (register, address) in simulators.addresses() {
            let url = Some(format!("http://{address}"));
            match register {
                RegisterId::Population => config.registers.population_url = url,
                RegisterId::Insurance => config.registers.insurance_url = url,
                RegisterId::Vaccination => config.registers.vaccination_url = url,
                RegisterId::Testing => config.registers.testing_url = url,
            }
        }
        config.registers.poll_ms = POLL_MS;
        config.services.listen.get_or_insert(SERVICES);
        // A day is told once, and for good: so that yesterday isn't told before the journey has filled it.
        let now = UnixMillis::now();
        let of_today_s = now.seconds() - Day::of(now).begins().seconds();
        config.risk_map.delay_s = u64::try_from(of_today_s + MAP_AFTER_S).unwrap_or(0);
        config.risk_map.levels_every_s = 60;
        Ok(Self { simulators })
    }

    /// Makes tokens, and prints them as the variables that README's journey uses.
    ///
    /// # Errors
    /// Tokens can't be made.
    pub(super) fn greeting(&self, config: &Config, gateway: &Gateway) -> anyhow::Result<String> {
        let (data_dir, now) = (&config.gateway.data_dir, UnixMillis::now());
        let scheme = if config.tls.certificate_file.is_some() { "https" } else { "http" };
        let services = gateway.services_address().context("there are no services")?;
        let device = |role| issue_device(data_dir, App::PcCovid, role, None, TTL, now);
        let mut text =
            "a demonstration: the registers are simulated. README's journey uses these:\n\n".to_owned();
        let mut export = |name: &str, value: &str| {
            // Writing to a String can't fail.
            let _ = writeln!(text, "export {name}={value}");
        };
        export("GATEWAY", &format!("{scheme}://{}", gateway.address()));
        export("SERVICES", &format!("{scheme}://{services}"));
        for (register, address) in self.simulators.addresses() {
            export(&register.name().to_uppercase(), &format!("http://{address}"));
        }
        export("PLACE", PLACE);
        export("GATE", &device(RoleRef::Place(PLACE))?);
        export("PHONE", &device(RoleRef::Person(CITIZENS[1]))?);
        for (variable, name, scope) in OFFICERS {
            export(variable, &token(config, name, scope, now)?);
        }
        gateway.signals().reload();
        Ok(text)
    }
}

/// A token of this name, made anew: the one of an earlier start can't be told again.
fn token(config: &Config, name: &str, scope: AdminScope, now: UnixMillis) -> Result<String, KeysError> {
    let data_dir = &config.gateway.data_dir;
    if admin_token::load(data_dir)?.iter().any(|token| token.name == name) {
        admin_token::revoke(data_dir, name)?;
    }
    let ttl_ms = i64::try_from(TTL.as_millis()).unwrap_or(i64::MAX);
    let expires = UnixMillis(now.0.saturating_add(ttl_ms));
    Ok(admin_token::make(data_dir, name, &[scope], Some(expires), now)?.to_string())
}
