//! The store's suite over a real CQL database: the one at `SCANGATE_TEST_CQL` (`host:port`), or else a
//! Cassandra node that the test starts and stops itself.

#![allow(clippy::unwrap_used, clippy::cast_possible_wrap)] // As in the support.

mod store_support;

use scangate::store::{CqlSettings, Store};
use store_support::node::Node;
use store_support::suite;

#[tokio::test]
async fn cql_passes_the_suite() {
    let given = std::env::var("SCANGATE_TEST_CQL").ok();
    let node = given.is_none().then(Node::start);
    let address = given.or(node.as_ref().map(Node::address)).unwrap();
    let keyspace = format!("suite_{}", std::process::id());
    let open = || {
        let settings = CqlSettings {
            nodes: vec![address.clone()],
            keyspace: keyspace.clone(),
            ..CqlSettings::default()
        };
        Store::cql(settings).unwrap()
    };
    suite::run(open, true).await;
}
