//! A topology of the servers of a tree, applied as a person does it.

use std::time::SystemTime;

use kube::Api;
use waltree::api::ReplicaTopology;
use waltree::api::acknowledge::ACKNOWLEDGE;

use super::kube::ApiServer;
use super::postgres::{Tree, WALTREE_PASSWORD, eventually};

/// The namespace of all topologies in tests.
pub const NAMESPACE: &str = "default";
/// The name of the topology.
pub const NAME: &str = "orders";
/// The root group of the nine servers.
pub const CORE: [&str; 3] = ["core-1", "core-2", "core-3"];
/// Two relays and four leaves.
pub const EU: [&str; 6] = ["eu-1", "eu-2", "eu-3", "eu-4", "eu-5", "eu-6"];

/// Nine servers, all below the primary, as somebody may have left them.
pub async fn nine() -> Tree {
    nine_with("").await
}

/// The same, with lines of configuration for all of them.
pub async fn nine_with(settings: &str) -> Tree {
    let mut tree = Tree::start(None);
    tree.all_have(settings);
    tree.primary(CORE[0]).await;
    for node in CORE[1..].iter().chain(&EU) {
        tree.standby(node, CORE[0]).await;
    }
    tree
}

/// The manifest of the nine servers; `settings` are lines of the spec.
pub fn manifest(tree: &Tree, settings: &str) -> String {
    let host =
        |node: &&str| format!("    - {{name: {node}, address: {}, port: {}}}\n", tree.address(node), tree.port(node));
    let hosts = |nodes: &[&str]| nodes.iter().map(host).collect::<String>();
    let access = "    sslMode: Disable\n    credentialsSecretRef: {name: orders-sql}\n    hosts:\n";
    format!(
        "apiVersion: waltree.dev/v1alpha1\nkind: ReplicaTopology\nmetadata: {{name: {NAME}, namespace: {NAMESPACE}}}\n\
         spec:\n  {settings}\n  groups:\n  - name: core\n{access}{}\
         \x20\x20- name: eu\n    relays: 2\n    region: eu\n    upstreams: [core]\n{access}{}",
        hosts(&CORE),
        hosts(&EU)
    )
}

/// The Secret with which the operator logs in.
pub fn secret(password: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: orders-sql, namespace: {NAMESPACE}}}\n\
         stringData: {{username: waltree, password: {password}}}\n"
    )
}

/// Applies the Secret and the topology.
pub fn apply(server: &ApiServer, tree: &Tree, settings: &str) {
    apply_text(server, &format!("{}---\n{}", secret(WALTREE_PASSWORD), manifest(tree, settings)));
}

/// Applies a text.
pub fn apply_text(server: &ApiServer, text: &str) {
    let done = server.kubectl(&["apply", "-f", "-"], text);
    assert!(done.status.success(), "{}\n{text}", String::from_utf8_lossy(&done.stderr));
}

/// The topology as the API server has it now.
pub async fn get(server: &ApiServer) -> ReplicaTopology {
    let topologies: Api<ReplicaTopology> = Api::namespaced(server.client().await, NAMESPACE);
    topologies.get(NAME).await.unwrap()
}

/// The status, reason and message of one condition; empty while it is not there.
pub async fn condition(server: &ApiServer, kind: &str) -> (String, String, String) {
    let conditions = get(server).await.status.map(|status| status.conditions).unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition.type_ == kind);
    found.map(|c| (c.status, c.reason, c.message)).unwrap_or_default()
}

/// Waits until a condition has this status and reason, and returns its message.
pub async fn wait_for(server: &ApiServer, kind: &str, status: &str, reason: &str) -> String {
    eventually(&format!("{kind}={status} {reason}"), async || {
        let (seen_status, seen_reason, _) = condition(server, kind).await;
        (seen_status.as_str(), seen_reason.as_str()) == (status, reason)
    })
    .await;
    condition(server, kind).await.2
}

/// Says as a person that all was mended: a bench kills more often than any relay is trusted again, each time for twice as
/// long.
pub fn acknowledge(server: &ApiServer) {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let value = format!("{ACKNOWLEDGE}=all {since}");
    let done = server.kubectl(&["annotate", "-n", NAMESPACE, "rtopo", NAME, &value, "--overwrite"], "");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Waits until everything is as declared now; what was declared before does not count.
pub async fn converged(server: &ApiServer) {
    eventually("the topology has converged", async || {
        let topology = get(server).await;
        let generation = topology.metadata.generation;
        let conditions = topology.status.map(|status| status.conditions).unwrap_or_default();
        let found = conditions.iter().find(|condition| condition.type_ == "Converged");
        found.is_some_and(|found| found.status == "True" && found.observed_generation == generation)
    })
    .await;
}
