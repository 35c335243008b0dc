//! The store's suite over a real CQL database: the one at `SCANGATE_TEST_CQL` (`host:port`), or else a
//! Cassandra node that the test starts and stops itself.

mod store_support;

use scangate::store::{CqlSettings, Store};
use store_support::node::Node;
use store_support::suite;

#[tokio::test]
async fn cql_passes_the_suite() {
    let (address, _node) = match std::env::var("SCANGATE_TEST_CQL") {
        Ok(address) => (address, None),
        Err(_) => {
            let node = Node::start();
            (node.address(), Some(node))
        }
    };
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
