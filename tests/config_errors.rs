//! Every mistake is reported, each with its place.

use std::ffi::OsString;
use std::io::Write as _;

use scangate::config::{self, Config, Loaded, Origin, Overrides};

/// Loads `text` as a file and `variables`, and gives the errors with the file's directory cut off.
fn load(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    let environment = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let path = file.path().display().to_string();
    config::load(Some(file.path()), environment, &Overrides::default())
        .map_err(|errors| errors.to_string().replace(&path, "F").lines().map(str::to_owned).collect())
}

fn errors(text: &str) -> Vec<String> {
    load(text, &[]).expect_err("a mistake")
}

#[test]
fn all_mistakes_are_reported_in_reading_order_with_line_and_column() {
    let found = errors(
        "[limits]\nbatch_lines_max = 0\nbody_bytes = 5\n\n[listn]\n[listen]\naddr = 8080\nruntime = \"io_uring\"\n\
         [cql]\nnodes = [\"a\", 5]\n[deduplicate]\nwindows_s_by_class = { bus = 20, school = -1 }\n",
    );
    assert_eq!(
        found,
        [
            "F:2:19: limits.batch_lines_max: must be a whole number in 1..=100000; got 0",
            "F:3:1: limits.body_bytes: unknown key; did you mean body_bytes_max?",
            "F:5:2: listn: unknown section; did you mean listen?",
            "F:7:8: listen.addr: must be an IP address and port such as \"127.0.0.1:8080\" or \"[::]:8080\"; got 8080",
            "F:8:11: listen.runtime: must be one of \"auto\", \"uring\", \"epoll\"; got \"io_uring\"",
            "F:10:15: cql.nodes: must be a list of one or more strings such as [\"127.0.0.1:9042\"]; got 5",
            "F:12:43: deduplicate.windows_s_by_class: must be a table of class names, each with a whole number in \
             0..=65535; got school = -1",
        ]
    );
}

#[test]
fn syntax_errors_and_duplicates_name_their_place_beside_other_mistakes() {
    let found = errors(
        "[limits]\nbody_bytes_max = 2000\nbody_bytes_max = 3000\npayload_bytes_max = = 3\nbatch_lines_max = 0\n\
         [journal]\nlane_bytes_max = 4096\n",
    );
    let places: Vec<&str> = found.iter().filter_map(|line| line.split(": ").next()).collect();
    assert_eq!(places, ["F:3:1", "F:4:21", "F:4:23", "F:5:19"], "{found:#?}");
    assert!(found[..3].iter().all(|line| line.contains(": not TOML: ")), "{found:#?}");
}

#[test]
fn a_sub_section_may_stand_as_table_or_dotted_or_inline() {
    for text in [
        "[deduplicate.windows_s_by_class]\nbus = 20\n",
        "[deduplicate]\nwindows_s_by_class.bus = 20\n",
        "deduplicate.windows_s_by_class.bus = 20\n",
        "deduplicate = { windows_s_by_class = { bus = 20 } }\n",
    ] {
        let loaded = load(text, &[]).expect(text);
        assert_eq!(loaded.config.deduplicate.windows_s_by_class.get("bus"), Some(&20), "{text}");
    }
}

#[test]
fn a_column_counts_characters_not_bytes() {
    assert_eq!(
        errors("log = { level = \"thông tin\", format = \"x\" }"),
        [
            "F:1:17: log.level: must be one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"; got \"thông tin\"",
            "F:1:39: log.format: must be one of \"json\", \"text\"; got \"x\"",
        ]
    );
}

#[test]
fn a_missing_file_is_named() {
    let errors = config::load(Some("/nonexistent/s.toml".as_ref()), [], &Overrides::default());
    let text = errors.expect_err("no such file").to_string();
    assert!(text.starts_with("/nonexistent/s.toml: can't be read: "), "{text}");
}

#[test]
fn broken_relations_name_both_keys_and_where_one_was_set() {
    let found = errors("[deduplicate]\nremember_s = 100000\n\n[tls]\nkey_file = \"k.pem\"\n");
    assert_eq!(
        found,
        [
            "F:2:1: deduplicate.remember_s: must be at least 172800 (from limits.clock_skew_past_s), or a late \
             resend would be recorded twice; got 100000",
            "F:5:1: tls.certificate_file: must be set, since tls.key_file is; got \"\"",
        ]
    );
    for (text, key) in [
        ("[journal]\nretain_s = 60", "journal.retain_s"),
        ("[journal]\nsegment_bytes = 65536", "journal.segment_bytes"),
        ("[journal]\nsegment_bytes = 5242880", "journal.segment_bytes"),
        ("[journal]\nbytes_max = 67108864", "journal.bytes_max"),
        ("[journal]\nlane_bytes_max = 8192", "journal.lane_bytes_max"),
        ("[limits]\ndevice_scans_burst = 10", "limits.device_scans_burst"),
        ("[limits]\nbody_bytes_max = 2048", "limits.body_bytes_max"),
        ("[listen]\nrequest_timeout_ms = 5000", "listen.request_timeout_ms"),
        ("[listen]\nadmin = \"127.0.0.1:8080\"", "listen.admin"),
        ("[gateway]\ndrain_timeout_ms = 1", "gateway.drain_timeout_ms"),
        ("[deduplicate]\nauto_reset_s = 200000", "deduplicate.remember_s"),
        ("[cql]\nuser = \"u\"", "cql.password_file"),
        ("[tls]\nclient_ca_file = \"ca.pem\"", "tls.certificate_file"),
        ("[tls]\nclient_crl_file = \"crl.pem\"", "tls.client_ca_file"),
    ] {
        let found = errors(text);
        assert!(
            found.len() == 1 && found[0].starts_with(&format!("F:2:1: {key}: must be")),
            "{text}: {found:#?}"
        );
    }
    load("[limits]\ndevice_scans_per_s = 0\ndevice_scans_burst = 1", &[]).expect("no limit, no burst needed");
}

#[test]
fn variables_win_over_the_file_and_are_read_as_toml_or_text() {
    let loaded = load(
        "[limits]\ndevice_scans_per_s = 7\n",
        &[
            ("SCANGATE_LIMITS__DEVICE_SCANS_PER_S", "0"),
            ("SCANGATE_LISTEN__ADDR", "0.0.0.0:80"),
            ("SCANGATE_CQL__NODES", "[\"a:1\", \"b:2\"]"),
            ("SCANGATE_CQL__DATACENTER", "2021"),
            ("SCANGATE_STORE__KIND", "\"cql\""),
            ("SCANGATE_DEDUPLICATE__WINDOWS_S_BY_CLASS", "{ bus = 20 }"),
            ("SCANGATE_PORT", "tcp://10.0.0.1:80"),
            ("OTHER__NAME", "1"),
        ],
    )
    .expect("no mistake");
    let config = loaded.config;
    assert_eq!(config.limits.device_scans_per_s, 0);
    assert_eq!(config.listen.addr.to_string(), "0.0.0.0:80");
    assert_eq!(config.cql.nodes, ["a:1", "b:2"]);
    assert_eq!(config.cql.datacenter.as_deref(), Some("2021"));
    assert_eq!(config.store.kind, config::StoreKind::Cql);
    assert_eq!(config.deduplicate.windows_s_by_class.get("bus"), Some(&20));
    let origin = &loaded.origins[&("limits".to_owned(), "device_scans_per_s".to_owned())];
    assert_eq!(*origin, Origin::Variable("SCANGATE_LIMITS__DEVICE_SCANS_PER_S".to_owned()));
}

#[test]
fn mistakes_in_variables_name_the_variable() {
    let found = load(
        "",
        &[
            ("SCANGATE_LIMITS__DEVICE_SCANS_PER_S", "fast"),
            ("SCANGATE_LIMITS__DEVICE_SCAN_PER_S", "1"),
            ("SCANGATE_LIMIT__X", "1"),
            ("SCANGATE_DEDUPLICATE_WINDOW_S", "0"),
            ("SCANGATE_GATEWAY__DRAIN_TIMEOUT_MS", "5"),
        ],
    )
    .expect_err("mistakes");
    assert_eq!(
        found,
        [
            "SCANGATE_DEDUPLICATE_WINDOW_S: deduplicate.window_s: must be spelled SCANGATE_DEDUPLICATE__WINDOW_S",
            "SCANGATE_LIMITS__DEVICE_SCANS_PER_S: limits.device_scans_per_s: must be a whole number in 0..=1000000; \
             got \"fast\"",
            "SCANGATE_LIMITS__DEVICE_SCAN_PER_S: limits.device_scan_per_s: unknown key; did you mean \
             device_scans_per_s?",
            "SCANGATE_LIMIT__X: limit: unknown section; did you mean limits?",
            "SCANGATE_GATEWAY__DRAIN_TIMEOUT_MS: gateway.drain_timeout_ms: must be at least 15000 (from \
             listen.request_timeout_ms), or a drain would cut requests short; got 5",
        ]
    );
}

#[test]
fn flags_win_over_everything() {
    let overrides = Overrides {
        data_dir: Some("/var/lib/scangate".into()),
        listen: Some("127.0.0.1:1".parse().expect("an address")),
        admin: Some("127.0.0.1:2".parse().expect("an address")),
        services: Some("127.0.0.1:3".parse().expect("an address")),
    };
    let environment = [(OsString::from("SCANGATE_LISTEN__ADDR"), OsString::from("127.0.0.1:9"))];
    let loaded = config::load(None, environment, &overrides).expect("no mistake");
    let mut expected = Config::default();
    expected.gateway.data_dir = "/var/lib/scangate".into();
    expected.listen.addr.set_port(1);
    expected.listen.admin.set_port(2);
    expected.services.listen = Some("127.0.0.1:3".parse().expect("an address"));
    assert_eq!(loaded.config, expected);
}

proptest::proptest! {
    /// Any text is either a configuration or a list of mistakes, each with a position; never a panic.
    #[test]
    fn any_text_is_answered(text in "(\\[[a-z]{1,6}\\]|[a-z_]{1,12} ?= ?[0-9a-z\"\\[\\]{},]{0,6}|\\PC{0,8}|\n){0,12}") {
        if let Err(found) = load(&text, &[]) {
            proptest::prop_assert!(!found.is_empty());
        }
    }
}
