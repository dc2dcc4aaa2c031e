//! `kubectl waltree` as a person runs it: against a real API server and real servers, without any operator.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use std::process::{Command, Output};

use support::kube::ApiServer;
use support::postgres::{Tree, WALTREE_PASSWORD};
use support::topology::apply_text;

fn plugin(server: &ApiServer, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-waltree"));
    command.env("KUBECONFIG", server.kubeconfig()).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn manifest(tree: &Tree, second: &str) -> String {
    let host = |node: &str| format!("{{name: {node}, address: 127.0.0.1, port: {}}}", tree.port(node));
    format!(
        "apiVersion: waltree.dev/v1alpha1\nkind: ReplicaTopology\nmetadata: {{name: orders, namespace: default}}\nspec:\n\
         \x20 groups:\n\
         \x20 - {{name: core, sslMode: Disable, credentialsSecretRef: {{name: orders-sql}}, hosts: [{}, {}]}}\n\
         \x20 - {{name: eu, upstreams: [core], sslMode: Disable, credentialsSecretRef: {{name: orders-sql}}, hosts: [{}]}}\n",
        host("core-1"),
        host("core-2"),
        host(second),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_and_the_plan_are_shown_from_the_servers_and_nothing_is_written() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("core-2", "core-1").await;
    tree.standby("eu-1", "core-1").await;
    let server = ApiServer::start();
    let crd = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/waltree.dev_replicatopologies.yaml");
    assert!(server.kubectl(&["apply", "--server-side", "-f", crd], "").status.success());
    let established = ["wait", "--for=condition=Established", "crd/replicatopologies.waltree.dev", "--timeout=30s"];
    assert!(server.kubectl(&established, "").status.success());
    apply_text(&server, &support::topology::secret(WALTREE_PASSWORD));
    apply_text(&server, &manifest(&tree, "eu-1"));

    let shown = plugin(&server, &["tree", "orders", "-n", "default", "-o", "json"]);
    let lines: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let edges: Vec<_> = lines.as_array().unwrap().iter().map(|line| (&line["node"], &line["upstream"])).collect();
    assert_eq!(
        format!("{edges:?}").replace("String", ""),
        r#"[(("core-1"), Null), (("core-2"), ("core-1")), (("eu-1"), ("core-1"))]"#
    );
    assert_eq!((&lines[2]["state"], &lines[2]["depth"]), (&"rooted".into(), &1.into()), "{}", text(&shown));

    let planned = plugin(&server, &["plan", "orders", "-n", "default"]);
    assert_eq!(planned.status.code(), Some(2), "there is something to do");
    assert!(text(&planned).contains("create the slot of eu-1 on core-2 (Prepare)"), "{}", text(&planned));
    assert!(tree.sql("core-2", "SELECT slot_name FROM pg_replication_slots").await.is_empty(), "a plan writes nothing");

    let file = server.directory().join("new.yaml");
    std::fs::write(
        &file,
        manifest(&tree, "eu-1").replace("name: eu, upstreams: [core]", "name: eu, upstreams: [wrong]"),
    )
    .unwrap();
    let refused = plugin(&server, &["plan", "orders", "-n", "default", "-f", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("wrong"), "the culprit is named");

    let missing = plugin(&server, &["tree", "nothing", "-n", "default"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("default/nothing"), "what was not found is named");
}
