//! `scangate migrate schema` on a real CQL database: a fresh keyspace, one that the first gateways made, one that
//! was changed, one of a newer version, and one whose schema the gateway may not touch.

// As in the support.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing)]

mod store_support;
mod support;

use std::process::Output;
use std::time::{Duration, Instant};

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use serde_json::{Value, json};
use store_support::node::Node;
use support::codes;
use support::gateway::Site;

/// The database and a site whose store is a keyspace of its own there.
struct Bench {
    node: Node,
    session: Session,
}

impl Bench {
    async fn start() -> Self {
        let node = Node::start();
        let session = SessionBuilder::new().known_node(node.address()).build().await.unwrap();
        Self { node, session }
    }

    fn site(&self, keyspace: &str) -> Site {
        Site::new()
            .set("store.kind", "cql")
            .set("cql.nodes", &format!("[\"{}\"]", self.node.address()))
            .set("cql.keyspace", keyspace)
    }

    async fn cql(&self, statement: &str) {
        self.session
            .query_unpaged(statement, ())
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    async fn rows(&self, statement: &str) -> Vec<(i32, Option<String>, Option<String>)> {
        let rows = self.session.query_unpaged(statement, ()).await.unwrap().into_rows_result().unwrap();
        rows.rows().unwrap().map(Result::unwrap).collect()
    }
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

#[tokio::test]
async fn migrations_are_applied_once_and_only_to_a_keyspace_that_is_this_versions() {
    let bench = Bench::start().await;
    let migrate = |site: &Site| site.run_plain(&["migrate", "schema"]);
    let check = |site: &Site| site.run_plain(&["migrate", "schema", "--check"]);

    // Fresh.
    let site = bench.site("gate");
    assert!(refusal(&check(&site)).contains("keyspace gate can't be used"));
    let first = lines(&migrate(&site));
    assert_eq!((&first[0]["number"], &first[0]["name"]), (&json!(1), &json!("001_checkins")));
    assert_eq!(first[0]["applied_now"], true);
    let checksum = first[0]["checksum"].as_str().unwrap().to_owned();
    let stored = bench.rows("SELECT version, name, checksum FROM gate.schema_migrations").await;
    assert_eq!(stored, [(1, Some("001_checkins".to_owned()), Some(checksum.clone()))]);
    for again in [migrate(&site), check(&site)] {
        assert_eq!(lines(&again)[0]["applied_now"], false, "{again:?}");
    }

    // As the first gateways made it: no checksums. It gets them, and stays otherwise as it is.
    bench.cql("ALTER TABLE gate.schema_migrations DROP checksum").await;
    assert!(check(&site).status.success());
    assert_eq!(lines(&migrate(&site))[0]["applied_now"], false);
    let stored = bench.rows("SELECT version, name, checksum FROM gate.schema_migrations").await;
    assert_eq!(stored, [(1, Some("001_checkins".to_owned()), Some(checksum))]);

    // A gateway that may not change the schema serves on it.
    let gateway = site.clone().set("cql.create_schema", "false").start();
    let token = site.place_device("gate");
    assert_eq!(gateway.connect().batch(&token, &[json!({"id": "a", "qr": codes::CCCD})])[0]["status"], 201);
    assert_eq!(site.export_when(1, Duration::from_secs(30)).len(), 1);
    assert!(gateway.terminate(Duration::from_secs(30)).success());

    // Changed, and newer: neither the command nor a gateway goes on, and what was accepted stays in the journal.
    bench.cql("UPDATE gate.schema_migrations SET checksum = 'other' WHERE version = 1").await;
    assert!(refusal(&migrate(&site)).ends_with("with other statements than this version's"));
    bench.cql("UPDATE gate.schema_migrations SET checksum = null WHERE version = 1").await;
    bench.cql("INSERT INTO gate.schema_migrations (version, name) VALUES (2, '002_future')").await;
    assert!(
        refusal(&migrate(&site))
            .ends_with("has schema migration 2, this version knows them up to 1: it needs a newer gateway")
    );
    let gateway = site.start();
    let token = site.place_device("side");
    assert_eq!(gateway.connect().batch(&token, &[json!({"id": "b", "qr": codes::CCCD})])[0]["status"], 201);
    let waited = Instant::now();
    while !site.log().contains("it needs a newer gateway") {
        assert!(waited.elapsed() < Duration::from_secs(30), "{}", site.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(gateway);
    let left = site.run(&["journal", "drain", "--timeout", "1s"]);
    assert_eq!((left.status.code(), &lines(&left)[0]["drained"]), (Some(1), &json!(false)), "{left:?}");

    // The newer gateway came and went: the journal is brought over, once.
    bench.cql("DELETE FROM gate.schema_migrations WHERE version = 2").await;
    let done = site.run(&["journal", "drain", "--timeout", "30s"]);
    assert_eq!((done.status.code(), &lines(&done)[0]["drained"]), (Some(0), &json!(true)), "{done:?}");
    assert_eq!(lines(&site.run(&["journal", "drain"]))[0]["written"], 0);
    assert_eq!(site.export().len(), 2);
}
