//! `kubectl waltree adopt` on fleets that somebody connected by hand: what it prints is accepted and moves nobody.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use support::certificates::Keys;
use support::kube::ApiServer;
use support::operator::{Operator, install};
use support::postgres::{Tree, WALTREE_PASSWORD};
use support::topology::{apply_text, converged, secret};
use support::witness::Witness;
use waltree::api::ReplicaTopology;

/// Twelve servers on two levels below the primary and what they are called, each with its upstream and its slot there:
/// some have one under another name, some have none.
const TWELVE: [(&str, &str, &str); 12] = [
    ("Main", "", ""),
    ("standby_of_main", "Main", "ha_slot"),
    ("relay.A", "Main", "upstream_a"),
    ("B-relay", "Main", ""),
    ("7", "Main", ""),
    ("reports", "relay.A", "reports_old"),
    ("Shop_1", "relay.A", ""),
    ("Shop_2", "relay.A", "shop_2"),
    ("Shop_3", "relay.A", ""),
    ("wh", "B-relay", "x1"),
    ("wh.2", "B-relay", ""),
    ("analytics", "7", ""),
];

/// The names that adoption gives them.
const NAMES: [&str; 12] = [
    "main",
    "standby-of-main",
    "relay-a",
    "b-relay",
    "pg-7",
    "reports",
    "shop-1",
    "shop-2",
    "shop-3",
    "wh",
    "wh-2",
    "analytics",
];

async fn twelve() -> Tree {
    let mut tree = Tree::start(None);
    tree.primary("Main").await;
    for (node, upstream, slot) in &TWELVE[1..] {
        if !slot.is_empty() {
            tree.value(upstream, &format!("SELECT pg_create_physical_replication_slot('{slot}', true)")).await;
        }
        tree.standby(node, upstream).await;
        if !slot.is_empty() {
            tree.sql(node, &format!("ALTER SYSTEM SET primary_slot_name = '{slot}'")).await;
            tree.sql(node, "SELECT pg_reload_conf()").await;
        }
    }
    for (node, _, slot) in &TWELVE[1..] {
        tree.until(node, "SELECT coalesce(slot_name, '') FROM pg_stat_wal_receiver WHERE status = 'streaming'", slot)
            .await;
    }
    tree
}

/// Runs adoption as a person does, with the password in the environment.
fn adopt(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-waltree"));
    command.arg("adopt").args(arguments).args(["--sslmode", "disable"]).env_remove("KUBECONFIG");
    command.env("PGPASSWORD", WALTREE_PASSWORD).output().unwrap()
}

/// Where the servers listen, as a person lists it.
fn ports(tree: &Tree) -> String {
    TWELVE.iter().map(|(node, ..)| tree.port(node).to_string()).collect::<Vec<_>>().join(",")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The first server of each node's wanted route, as `kubectl waltree plan` tells it.
fn wanted(plan: &str) -> BTreeMap<String, String> {
    let one = |line: &str| {
        let (node, route) = line.strip_suffix('.')?.split_once(" is to receive from ")?;
        Some((node.to_owned(), route.split(" > ").next()?.to_owned()))
    };
    plan.lines().filter_map(one).collect()
}

/// Who receives from whom, by the names of adoption.
fn present() -> BTreeMap<String, String> {
    let name = |node: &str| NAMES[TWELVE.iter().position(|(other, ..)| *other == node).unwrap()].to_owned();
    TWELVE[1..].iter().map(|(node, upstream, _)| (name(node), name(upstream))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_of_twelve_connected_by_hand_is_adopted_as_it_is_and_nobody_is_moved() {
    let tree = twelve().await;
    let any = format!("127.0.0.1:{}", tree.port("wh.2"));
    let adopted = adopt(&[&any, "--port", &ports(&tree), "--name", "orders", "-n", "default"]);
    let manifest = stdout(&adopted);
    assert_eq!(adopted.status.code(), Some(0), "{}\n{manifest}", stderr(&adopted));
    assert!(stderr(&adopted).ends_with("12 servers, 0 moves.\n"), "{}", stderr(&adopted));
    for remark in ["relay-a is \"relay.A\"", "ha_slot on main (standby-of-main)"] {
        assert!(stderr(&adopted).contains(remark), "{remark}\n{manifest}");
    }
    let secret_command = "#   kubectl -n default create secret generic orders-sql --from-literal=username=waltree";
    assert!(manifest.contains(secret_command), "{manifest}");
    assert!(!manifest.contains(WALTREE_PASSWORD) && !stderr(&adopted).contains(WALTREE_PASSWORD));
    assert_eq!(validated(&manifest), (Some(0), "-[0]: ReplicaTopology orders is valid\n".to_owned()));

    let server = ApiServer::start();
    install(&server);
    apply_text(&server, &secret(WALTREE_PASSWORD));
    apply_text(&server, &manifest);
    let (code, plan) = planned(&server, &[]);
    assert_eq!(wanted(&plan), present(), "{plan}");
    assert!(plan.contains(" 0 moves planned."), "{plan}");
    assert_eq!(code, Some(2), "there is something to arm: {plan}");

    // Armed for real, by the operator: everybody gets slots and fallbacks, and nobody ever another sender.
    let nodes = TWELVE.map(|(node, ..)| node);
    let witness = Witness::of(&tree, &nodes).await;
    let _operator = Operator::start(&server, "first").await;
    apply_text(&server, &manifest.replace("automation: Observe", "automation: Heal"));
    converged(&server).await;
    let testimony = witness.tell().await;
    let seen: BTreeMap<&str, Vec<&str>> = testimony
        .upstreams
        .iter()
        .map(|(node, upstreams)| (node.as_str(), upstreams.iter().map(String::as_str).collect()))
        .collect();
    let by_hand = TWELVE[1..].iter().map(|(node, upstream, _)| (*node, vec![*upstream])).collect();
    assert_eq!(seen, by_hand, "somebody was moved");
    assert_eq!(testimony.rings, Vec::<Vec<String>>::new());
    for (node, ..) in &TWELVE[1..] {
        let slot = tree.value(node, "SELECT current_setting('primary_slot_name')").await;
        let name = NAMES[nodes.iter().position(|other| other == node).unwrap()];
        assert_eq!(slot, name.replace('-', "_"), "{node} is armed");
    }
}

/// What `waltree validate` says of a manifest.
fn validated(manifest: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waltree"));
    let mut child = command.args(["validate", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), stdout(&output))
}

fn planned(server: &ApiServer, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-waltree"));
    command.env("KUBECONFIG", server.kubeconfig()).args(["plan", "orders", "-n", "default"]).args(more);
    let output = command.output().unwrap();
    (output.status.code(), stdout(&output))
}

#[tokio::test(flavor = "multi_thread")]
async fn adoption_finds_the_same_fleet_from_whichever_server_it_begins() {
    let tree = twelve().await;
    let from = |begin: &str| {
        let adopted = adopt(&[&format!("127.0.0.1:{}", tree.port(begin)), "--port", &ports(&tree)]);
        assert_eq!(adopted.status.code(), Some(0), "from {begin}: {}", stderr(&adopted));
        serde_yaml::from_str::<ReplicaTopology>(&stdout(&adopted)).unwrap().spec
    };
    let first = from(TWELVE[0].0);
    for (begin, ..) in &TWELVE[1..] {
        assert_eq!(from(begin), first, "from {begin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_adoption_cannot_reach_or_may_not_ask_is_said_by_name_with_the_cure() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    tree.standby("eu-2", "eu-1").await;
    let at = |node: &str| format!("127.0.0.1:{}", tree.port(node));

    // The port of a child is not told by its upstream, and here nobody gives it.
    let adopted = adopt(&[&at("core-1")]);
    assert_eq!(adopted.status.code(), Some(2));
    let said = stderr(&adopted);
    assert!(said.contains(&format!("core-1 ({}) sends WAL to \"eu-1\" at 127.0.0.1", at("core-1"))), "{said}");
    assert!(said.contains("Give its port with --port"), "{said}");
    assert!(said.ends_with("1 server, 0 moves.\n"), "{said}");
    assert_eq!(validated(&stdout(&adopted)).0, Some(0));

    // A right that is missing is told as the SQL that grants it.
    tree.sql("core-1", "REVOKE ALTER SYSTEM ON PARAMETER primary_conninfo FROM waltree").await;
    tree.caught_up("eu-2", "core-1").await;
    let adopted = adopt(&[&at("eu-2"), "--port", &tree.port("eu-1").to_string()]);
    assert!(stderr(&adopted).ends_with("3 servers, 0 moves.\n"), "{}", stderr(&adopted));
    let grant = "#   GRANT ALTER SYSTEM ON PARAMETER primary_conninfo TO waltree;";
    assert!(stdout(&adopted).lines().any(|line| line == grant), "{}", stdout(&adopted));

    // An upstream that is gone is named, and nobody is taken for the primary in silence.
    let gone = at("core-1");
    tree.kill("core-1");
    let adopted = adopt(&[&format!("127.0.0.1:{}", tree.port("eu-2"))]);
    assert_eq!(adopted.status.code(), Some(2));
    let said = stderr(&adopted);
    assert!(said.contains(&format!("{gone}, which primary_conninfo of eu-1")), "{said}");
    assert!(said.contains("No primary was found; eu-1 is taken for the top"), "{said}");

    let none = adopt(&["127.0.0.1:1"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(stderr(&none).contains("127.0.0.1:1, which was given, cannot be asked: Refused"), "{}", stderr(&none));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_comes_from_a_file_that_nobody_else_can_read() {
    use std::os::unix::fs::PermissionsExt as _;

    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let directory = std::env::temp_dir().join(format!("waltree-adopt-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("passfile");
    std::fs::write(&file, format!("127.0.0.1:{}:*:waltree:{WALTREE_PASSWORD}\n", tree.port("core-1"))).unwrap();
    let run = |mode: u32| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-waltree"));
        command.args(["adopt", &format!("127.0.0.1:{}", tree.port("core-1")), "--sslmode", "disable", "--passfile"]);
        command.arg(&file).env_remove("PGPASSWORD").output().unwrap()
    };
    let (private, open) = (run(0o600), run(0o644));
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(private.status.code(), Some(0), "{}", stderr(&private));
    assert_eq!(open.status.code(), Some(1));
    assert!(stderr(&open).contains("run chmod 600"), "{}", stderr(&open));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_certificate_cannot_be_checked_is_said_with_the_flags_that_help() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let keys = Keys::make(tree.data("core-1"));
    tree.configure("core-1", "ssl = on\nssl_ca_file = 'ca.crt'");
    tree.sql("core-1", "SELECT pg_reload_conf()").await;
    tree.until("core-1", "SELECT current_setting('ssl')", "on").await;
    let adopt = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-waltree"));
        command.args(["adopt", &format!("127.0.0.1:{}", tree.port("core-1"))]).args(arguments);
        command.env_remove("KUBECONFIG").env_remove("PGSSLMODE").env_remove("PGSSLROOTCERT");
        command.env("PGPASSWORD", WALTREE_PASSWORD).output().unwrap()
    };
    let file = |name: &str, certificate: &[u8]| {
        let path = tree.data("core-1").join(name);
        std::fs::write(&path, certificate).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, other) = (file("right.crt", &keys.ca), file("wrong.crt", &keys.other_ca));
    let helps = |output: &Output| {
        let said = stderr(output);
        output.status.code() == Some(1) && ["--sslrootcert FILE", "--sslmode require"].iter().all(|w| said.contains(w))
    };

    let without = adopt(&[]);
    assert!(helps(&without) && stderr(&without).contains("--sslmode verify-full checks"), "{}", stderr(&without));
    let without = adopt(&["--sslmode", "verify-ca"]);
    assert!(helps(&without) && stderr(&without).contains("--sslmode verify-ca checks"), "{}", stderr(&without));
    assert!(!stderr(&without).contains("--sslmode verify-ca takes"), "it was given: {}", stderr(&without));
    let by_another = adopt(&["--sslrootcert", &other]);
    assert!(helps(&by_another) && stderr(&by_another).contains("TlsFailed ("), "{}", stderr(&by_another));
    for cure in [["--sslrootcert", right.as_str()], ["--sslmode", "require"]] {
        let adopted = adopt(&cure);
        assert_eq!(adopted.status.code(), Some(0), "{}", stderr(&adopted));
        assert_eq!(stderr(&adopted), "1 server, 0 moves.\n");
    }
}
