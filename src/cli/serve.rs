//! `serve`: starts the gateway, tells where it is, and passes signals on to it.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::demo::Demo;
use super::{Serve, print};
use crate::config::Config;
use crate::gateway::{Gateway, Signals};
use crate::issue::{RoleRef, issue_device};
use crate::scan::{App, UnixMillis};

/// How long the token in the ready-to-paste line is good for.
const EXAMPLE_TTL: Duration = Duration::from_hours(24);

/// The place that the ready-to-paste line's device stands at.
const EXAMPLE_PLACE: &str = "demo-gate";

/// The citizen card of the document that defines its form: a specimen, nobody's.
const EXAMPLE_CARD: &str =
    "001090123456|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021";

pub(super) fn run(serve: Serve) -> anyhow::Result<ExitCode> {
    let config = &mut serve.load()?.config;
    let demo = if serve.demo { Some(Demo::prepare(config)?) } else { None };
    let config = &*config;
    crate::observe::log::start(&config.log);
    keep_memory_private();
    let gateway = Gateway::start(config)?;
    gateway.reload_limits_from(move || Ok(serve.load()?.config.limits));
    let signals = listen_for_signals(gateway.signals())?;
    let mut greeting = greeting(config, &gateway)?;
    if let Some(demo) = &demo {
        greeting.push_str(&demo.greeting(config, &gateway)?);
    }
    if let Err(error) = print(&greeting) {
        // Nobody reads it: no reason not to serve.
        tracing::warn!(error = %error, "cannot print the greeting");
    }
    let ended = gateway.run();
    drop(demo);
    signals.shutdown_background();
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// Before any key is read: no core dump of this process, and no other process of the same user may look into it.
/// Both the limit and the flag, since the limit doesn't hold for dumps that are piped to a program. Pages aren't
/// locked: the caches and the journal's buffers are too many for that, so swap is to be off or encrypted.
fn keep_memory_private() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take integers and a struct that outlives them, and change only this process's own state.
    let done = unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none) == 0
            && libc::prctl(libc::PR_SET_DUMPABLE, 0_i64, 0_i64, 0_i64, 0_i64) == 0
    };
    if !done {
        tracing::warn!(error = %std::io::Error::last_os_error(), "a crash may leave keys in a core dump");
    }
}

fn greeting(config: &Config, gateway: &Gateway) -> anyhow::Result<String> {
    let scheme = if config.tls.certificate_file.is_some() { "https" } else { "http" };
    let (public, admin) = (gateway.address(), gateway.admin_address());
    let admin_scheme = if config.admin.tls_cert_file.is_some() { "https" } else { "http" };
    let mut text = format!("scangate listens on {scheme}://{public} (admin {admin_scheme}://{admin})\n");
    // Writing to a String can't fail.
    if let Some(services) = gateway.services_address() {
        let _ = writeln!(text, "services on {scheme}://{services}");
    }
    if gateway.has_development_keys() {
        let place = RoleRef::Place(EXAMPLE_PLACE);
        let data_dir = &config.gateway.data_dir;
        let token = issue_device(data_dir, App::PcCovid, place, None, EXAMPLE_TTL, UnixMillis::now())?;
        let _ = write!(
            text,
            "development keys: for loopback only. A first check-in:\n\n\
             curl -s {scheme}://{public}/v1/checkins -H 'Content-Type: application/json' \\\n  \
             -H 'Authorization: Bearer {token}' \\\n  \
             -d '{{\"id\":\"scan-1\",\"qr\":\"{EXAMPLE_CARD}\"}}'\n\n"
        );
    }
    Ok(text)
}

/// SIGTERM and SIGINT drain and stop; SIGHUP loads keys, revocations and the certificate again.
fn listen_for_signals(signals: Signals) -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("signals")
        .enable_all()
        .build()?;
    let _entered = runtime.enter();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    runtime.spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => signals.stop(),
                _ = interrupt.recv() => signals.stop(),
                _ = hangup.recv() => signals.reload(),
            }
        }
    });
    Ok(runtime)
}
