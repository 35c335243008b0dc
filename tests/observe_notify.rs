//! What a service manager and a container's health check are told, by a real process over a real socket.
//!
//! It proves that READY=1 comes when both listeners answer; not that nothing could answer before.

// A test may panic.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Output;
use std::time::Duration;

use serde_json::json;
use support::codes;
use support::gateway::Site;
use support::http::Client;

/// The manager's end of the socket.
fn manager(address: &SocketAddr) -> UnixDatagram {
    let socket = UnixDatagram::bind_addr(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    socket
}

fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).expect("the gateway tells something within a minute");
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

fn health(site: &Site) -> Output {
    site.run_plain(&["health", "--address", &site.listen.to_string()])
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_service_manager_is_told_of_readiness_life_and_the_end() {
    let site = Site::new();
    let first = site.start();
    let token = site.place_device("gate");
    assert_eq!(first.connect().batch(&token, &[json!({"id": "a", "qr": codes::CCCD})])[0]["status"], 201);
    drop(first);
    assert_eq!(health(&site).status.code(), Some(1));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = manager(&SocketAddr::from_pathname(&path).unwrap());
    let gateway = site
        .clone()
        .variable("NOTIFY_SOCKET", path.to_str().unwrap())
        .variable("WATCHDOG_USEC", "30000000")
        .spawn();
    // The journal that the first one left is replayed.
    assert_eq!(told(&socket), "EXTEND_TIMEOUT_USEC=60000000");
    assert_eq!(told(&socket), "READY=1");
    for address in [site.listen, site.admin] {
        let mut client = Client::try_connect(address, Duration::from_secs(10)).expect("it listens");
        assert_eq!(client.try_request("GET", "/readyz", &[], b"").expect("it answers").status, 200);
    }
    assert_eq!(told(&socket), "WATCHDOG=1");
    let well = health(&site);
    assert_eq!((well.status.code(), said(&well).as_str()), (Some(0), r#"{"ready":true,"reasons":[]}"#));
    gateway.signal(libc::SIGTERM);
    let end = std::iter::repeat_with(|| told(&socket)).find(|told| told != "WATCHDOG=1");
    assert_eq!(end.as_deref(), Some("STOPPING=1\nEXTEND_TIMEOUT_USEC=60000000"));
    assert!(gateway.terminate(Duration::from_mins(1)).success());
}

#[test]
fn an_abstract_socket_is_told_and_another_processes_watchdog_is_not_fed() {
    let name = format!("scangate-test-{}", std::process::id());
    let socket = manager(&SocketAddr::from_abstract_name(&name).unwrap());
    let site = Site::new()
        .variable("NOTIFY_SOCKET", &format!("@{name}"))
        .variable("WATCHDOG_USEC", "30000000")
        .variable("WATCHDOG_PID", "1");
    let gateway = site.spawn();
    assert_eq!(told(&socket), "READY=1");
    // A second and more, in which there would have been a message.
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(gateway.terminate(Duration::from_mins(1)).success());
    assert!(told(&socket).starts_with("STOPPING=1\n"));
}

#[test]
fn a_socket_that_is_not_there_holds_nothing_up() {
    let site = Site::new().variable("NOTIFY_SOCKET", "/nonexistent/notify");
    assert!(site.start().terminate(Duration::from_mins(1)).success());
    assert!(site.log().contains("the service manager can't be told"), "{}", site.log());
}
