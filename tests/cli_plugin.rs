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
    assert_eq!((&lines[2]["hopLagBytes"], &lines[2]["totalLagBytes"]), (&0.into(), &0.into()), "{}", text(&shown));
    assert_eq!(lines[2]["fallbacks"], serde_json::json!([]), "none is installed");
    assert_eq!(lines[2]["wanted"], "core-2", "the root's standby spares the primary");
    assert_eq!(shown.status.code(), Some(2), "one receives from another than it should");

    let planned = plugin(&server, &["plan", "orders", "-n", "default"]);
    assert_eq!(planned.status.code(), Some(2), "there is something to do");
    assert!(text(&planned).contains("create the slot of eu-1 on core-2 (Prepare)"), "{}", text(&planned));
    assert!(!text(&planned).contains("heartbeat"), "one look cannot tell a quiet primary: {}", text(&planned));
    the_plan_is_data_too(&server);
    assert!(tree.sql("core-2", "SELECT slot_name FROM pg_replication_slots").await.is_empty(), "a plan writes nothing");

    let file = server.directory().join("new.yaml");
    std::fs::write(
        &file,
        manifest(&tree, "eu-1").replace("name: eu, upstreams: [core]", "name: eu, upstreams: [wrong]"),
    )
    .unwrap();
    let refused = plugin(&server, &["plan", "orders", "-n", "default", "-f", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(3));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("the file ") && said.contains("new.yaml is refused"), "it is the file: {said}");
    assert!(said.contains("eu names wrong, and there is no such group"), "the culprit is named: {said}");
    assert!(said.contains("orders as it is applied is not touched by that"), "{said}");

    std::fs::write(&file, manifest(&tree, "eu-1").replace("name: orders,", "name: bills,")).unwrap();
    let new = plugin(&server, &["plan", "bills", "-n", "default", "-f", file.to_str().unwrap()]);
    assert_eq!(new.status.code(), Some(2), "{}", String::from_utf8_lossy(&new.stderr));
    assert_eq!(text(&new), text(&planned), "what is not applied yet is planned as if it were");
    let none = plugin(&server, &["plan", "bills", "-n", "default"]);
    assert_eq!(none.status.code(), Some(1));
    let said = String::from_utf8_lossy(&none.stderr);
    assert!(said.contains("default/bills; plan a new one by its manifest, with -f FILE"), "{said}");

    std::fs::write(&file, manifest(&tree, "eu-1").replace("name: orders,", "name: invoices,")).unwrap();
    let other = plugin(&server, &["plan", "orders", "-n", "default", "-f", file.to_str().unwrap()]);
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stderr).contains("is the manifest of invoices, not of orders"));

    std::fs::write(&file, manifest(&tree, "eu-1").replace("namespace: default", "namespace: shop")).unwrap();
    let other = plugin(&server, &["plan", "orders", "-n", "default", "-f", file.to_str().unwrap()]);
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stderr).contains("is a manifest of the namespace shop"), "{other:?}");

    let missing = plugin(&server, &["tree", "nothing", "-n", "default"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("default/nothing"), "what was not found is named");
    what_is_not_replayed_is_lag(&tree, &server).await;
}

async fn what_is_not_replayed_is_lag(tree: &Tree, server: &ApiServer) {
    tree.sql("eu-1", "SELECT pg_wal_replay_pause()").await;
    tree.until("eu-1", "SELECT pg_get_wal_replay_pause_state()", "paused").await;
    tree.sql("core-1", "CREATE TABLE written AS SELECT * FROM generate_series(1, 1000)").await;
    let shown = plugin(server, &["tree", "orders", "-n", "default", "-o", "json"]);
    let lines: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let lag = |line: usize| lines[line]["totalLagBytes"].as_u64().unwrap();
    assert!(lag(1) == 0 && lag(2) > 10_000, "what is not replayed there is its lag: {}", text(&shown));
}

/// The shape that the README tells.
fn the_plan_is_data_too(server: &ApiServer) {
    let planned = plugin(server, &["plan", "orders", "-n", "default", "-o", "json"]);
    assert_eq!(planned.status.code(), Some(2));
    let plan: serde_json::Value = serde_json::from_slice(&planned.stdout).unwrap();
    let route = plan["routes"].as_array().unwrap().iter().find(|route| route["node"] == "eu-1").unwrap();
    assert_eq!((&route["upstream"], &route["installed"]), (&"core-1".into(), &serde_json::json!(["core-1"])), "{plan}");
    assert_eq!(
        (&route["wanted"], &route["set"]),
        (&serde_json::json!(["core-2", "core-1"]), &"later".into()),
        "{plan}"
    );
    assert_eq!(route["waitsFor"]["reason"], "SlotNotReady", "{plan}");
    let step = serde_json::json!({
        "kind": "CreateSlot", "server": "core-2", "owner": "eu-1", "why": "Prepare",
        "what": "create the slot of eu-1 on core-2 (Prepare)", "withheld": false,
    });
    let withheld = |mut step: serde_json::Value| {
        step["withheld"] = true.into();
        step
    };
    let steps = plan["steps"].as_array().unwrap();
    assert!(steps.contains(&step) || steps.contains(&withheld(step)), "{plan}");
    let moves = serde_json::json!([{"node": "eu-1", "from": "core-1", "to": "core-2", "now": false}]);
    assert_eq!((&plan["moves"], &plan["findings"]), (&moves, &serde_json::json!([])), "{plan}");
}

#[test]
fn arguments_that_are_wrong_end_with_the_code_of_an_error_and_not_with_that_of_a_tree_that_is_not_as_declared() {
    let ended =
        |program: &str, arguments: &[&str]| Command::new(program).args(arguments).output().unwrap().status.code();
    for program in [env!("CARGO_BIN_EXE_waltree"), env!("CARGO_BIN_EXE_kubectl-waltree")] {
        assert_eq!(ended(program, &["--help"]), Some(0));
        assert_eq!(ended(program, &["no-such-verb"]), Some(1));
        assert_eq!(ended(program, &[]), Some(1));
    }
    assert_eq!(ended(env!("CARGO_BIN_EXE_kubectl-waltree"), &["tree"]), Some(1));
}

#[test]
fn what_would_have_no_effect_is_refused() {
    let refused = |program: &str, arguments: &[&str], why: &str| {
        let output = Command::new(program).args(arguments).env("KUBECONFIG", "/nowhere").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{arguments:?}: {said}");
    };
    let (waltree, plugin) = (env!("CARGO_BIN_EXE_waltree"), env!("CARGO_BIN_EXE_kubectl-waltree"));
    let scene = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts/both_relays_of_a_region_die.txt");
    refused(waltree, &["simulate", scene, "--nodes", "50"], "cannot be used with");
    refused(waltree, &["simulate", scene, "--seeds", "2"], "cannot be used with");
    refused(waltree, &["simulate", "--hours", "1", "--seeds", "2"], "each seed gets an hour at least");
    refused(waltree, &["simulate", "--hours", "0"], "--hours");
    refused(plugin, &["adopt", "127.0.0.1", "--context", "there"], "leave --context out");
    refused(
        plugin,
        &["what-if", "-f", "x.yaml", "--lose", "eu-1", "-n", "shop"],
        "leave --context and --namespace out",
    );
    refused(plugin, &["tree", "orders", "--context", "there"], "--context needs a kubeconfig");
}

#[test]
fn the_hours_and_servers_that_were_simulated_are_told_as_they_were() {
    let arguments = ["simulate", "--hours", "3", "--seeds", "2", "--nodes", "20"];
    let output = Command::new(env!("CARGO_BIN_EXE_waltree")).args(arguments).output().unwrap();
    let said = text(&output);
    // Two hours by one seed and one by the other, and each lives its last day to its end.
    let (hours, rest) = said.split_once(" hours of ").unwrap();
    assert!((3.0..8.0).contains(&hours.parse::<f64>().unwrap()), "{said}");
    assert!(rest.starts_with("19 servers over 2 seeds: no law was broken"), "{said}");
}
