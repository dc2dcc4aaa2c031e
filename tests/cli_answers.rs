//! What a person asks `kubectl waltree` about a tree, and whether the answers are true: on real servers, with an operator.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;

use serde_json::Value;
use support::ground::{Ground, PRIMARY, apply, star};
use support::postgres::eventually;
use support::region::fed_by;

const ROOT: [&str; 2] = [PRIMARY, "core-2"];
/// Two relays, and leaves that they feed in turn.
const REGION: [&str; 5] = ["eu-1", "eu-2", "eu-3", "eu-4", "eu-5"];
/// Whom a standby receives from, by its port.
const UPSTREAM: &str = "SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'";

/// Seven servers, as declared.
async fn region(namespace: &'static str) -> Ground {
    settling(namespace, 1).await
}

/// The same, where a relay that failed gets its leaves back after so many seconds.
async fn settling(namespace: &'static str, seconds: u32) -> Ground {
    let ground = Ground::of(star(&[&ROOT[1..], &REGION].concat()).await, namespace).await;
    let groups = [ground.group("core", "", &ROOT), ground.group("eu", "upstreams: [core], relays: 2", &REGION)];
    apply(&ground.manifest(&groups).replace("settleSeconds: 1", &format!("settleSeconds: {seconds}")));
    ground.as_declared().await;
    ground
}

/// An answer as data, and its exit code.
fn asked(ground: &Ground, verb: &str, arguments: &[&str]) -> (i32, Value) {
    let (code, said) = ground.plugin(verb, &[arguments, &["-o", "json"]].concat());
    (code, serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}")))
}

/// Who is told to go where.
fn moves(answer: &Value, when: &str) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = answer[when]["moves"].as_array().unwrap();
    all.iter().map(|one| (text(&one["node"]), text(&one["to"]))).collect()
}

/// Whom every standby receives from.
async fn upstreams(ground: &Ground, nodes: &[&str]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for node in nodes {
        all.insert((*node).to_owned(), ground.tree.value(node, UPSTREAM).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_the_loss_of_a_relay_is_what_happens_when_it_is_killed() {
    let mut ground = region("what-if").await;
    let status = ground.topology().await.status.unwrap();
    let tolerates = serde_json::to_value(status.tolerates.unwrap()).unwrap();
    assert_eq!((&tolerates["node"], &tolerates["zone"]), (&"True".into(), &"Unknown".into()), "{tolerates}");

    let (code, told) = asked(&ground, "what-if", &["--lose", "eu-1"]);
    assert_eq!((code, &told["tolerated"]), (0, &true.into()), "{told}");
    assert!(moves(&told, "atOnce").len() >= 2, "its leaves go somewhere: {told}");
    happens(&mut ground, "eu-1", &told, &["core-2", "eu-2", "eu-3", "eu-4", "eu-5"]).await;

    // What was one of two is now the last.
    let (_, told) = asked(&ground, "what-if", &["--lose", "eu-2"]);
    assert_eq!(told["unseen"], serde_json::json!(["eu-1"]), "{told}");
    happens(&mut ground, "eu-2", &told, &["core-2", "eu-3", "eu-4", "eu-5"]).await;
}

/// Kills a server, and those who are left go where it was told.
async fn happens(ground: &mut Ground, lost: &str, told: &Value, left: &[&str]) {
    let mut expected = upstreams(ground, left).await;
    for (node, to) in moves(told, "atOnce").into_iter().chain(moves(told, "inTheEnd")) {
        expected.insert(node, ground.tree.port(&to).to_string());
    }
    ground.tree.kill(lost);
    ground.told("DeadRelay", lost).await;
    for node in left {
        ground.tree.until(node, UPSTREAM, &expected[*node]).await;
    }
    ground.status_rests().await;
    assert_eq!(upstreams(ground, left).await, expected, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_each_node_is_tried_and_the_primary_is_said_to_be_followed_by_nobody() {
    let mut ground = region("what-if-each").await;
    let before = ground.connected(&REGION).await;
    let (code, table) = ground.plugin("what-if", &["--repeat", "all"]);
    assert_eq!(code, 0, "{table}");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 1 + ROOT.len() + REGION.len(), "{table}");
    assert_eq!(rows[1][..2], ["core-1", "primary"], "{table}");
    assert!(rows[2..].iter().all(|row| row[1] == "yes"), "{table}");

    let (code, text) = ground.plugin("what-if", &["--lose", PRIMARY]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("without a path: core-2, eu-1"), "{text}");
    assert!(text.contains("nobody is promoted: promote a server of the root group by hand"), "{text}");
    let (code, text) = ground.plugin("what-if", &["--lose", "eu-9"]);
    assert_eq!((code, text.as_str()), (3, "there is no eu-9 in this topology\n"));
    ground.untouched(&before).await;
    assert_eq!(ground.plugin("tree", &[]).0, 0);

    ground.tree.kill(PRIMARY);
    reported(&ground, PRIMARY, "DeadPrimary").await;
    let (code, text) = ground.plugin("plan", &[]);
    assert_eq!(code, 2, "{text}");
    assert!(text.starts_with("DeadPrimary: core-1"), "{text}");
    let (code, text) = ground.plugin("tree", &[]);
    assert_eq!(code, 2, "{text}");
    assert_eq!(text.matches("the primary, core-1, is not seen").count(), 1, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_leaf_is_where_it_is_is_told_and_what_happened_to_it_too() {
    let mut ground = region("why").await;
    let (code, told) = asked(&ground, "why", &["eu-3"]);
    assert_eq!(code, 0, "{told}");
    assert_eq!(told["wanted"], serde_json::json!(["eu-1", "eu-2", "core-2"]));
    assert_eq!(told["installed"], told["wanted"]);
    assert_eq!(told["because"], "eu-1 is what it prefers, by the spec alone");
    let first = &told["candidates"][0];
    assert_eq!((&first["node"], &first["place"], &first["standing"]), (&"eu-1".into(), &0.into(), &"Good".into()));
    assert_eq!((&first["children"], &first["fanOut"], &first["ready"]), (&2.into(), &8.into(), &true.into()), "{told}");
    let (_, text) = ground.plugin("why", &["eu-3"]);
    assert!(text.contains("  eu-1 says the same: it holds the slot with this walsender (asked "), "{text}");

    ground.tree.kill("eu-1");
    ground.tree.until("eu-3", UPSTREAM, &ground.tree.port("eu-2").to_string()).await;
    ground.told("DeadRelay", "eu-1").await;
    ground.status_rests().await;
    let (_, text) = ground.plugin("why", &["eu-3"]);
    assert!(text.contains("because    eu-2 comes next: eu-1 is Failed"), "{text}");
    let (code, text) = ground.plugin("why", &["eu-1"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("wrong:\n  DeadRelay: ") && text.contains("  not seen for "), "{text}");
    assert!(text.contains("\ninstalled  not known while it is not seen"), "{text}");
    assert!(text.contains("the operator says: DeadRelay: "), "{text}");

    let (code, text) = ground.plugin("history", &[]);
    assert_eq!(code, 0);
    let line = |words: [&str; 3]| text.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(line(["Change", "eu-1", "cannot be seen"]), "{text}");
    assert!(
        line(["Diagnose", "DeadRelay", "eu-1"]) && line(["SetRoute", "Rearm", "eu-3: route set to eu-2"]),
        "{text}"
    );
    let (_, entries) = asked(&ground, "history", &[]);
    assert_eq!(entries.as_array().unwrap().len(), text.lines().count());
    let (code, text) = ground.plugin("why", &["eu-9"]);
    assert_eq!((code, text.as_str()), (3, "there is no eu-9 in orders\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_was_mended_gets_its_leaves_back_when_it_is_acknowledged_and_not_before() {
    let mut ground = settling("acknowledge", 600).await;
    let port = |ground: &Ground, node: &str| ground.tree.port(node).to_string();
    ground.tree.kill("eu-1");
    ground.tree.until("eu-3", UPSTREAM, &port(&ground, "eu-2")).await;
    reported(&ground, "eu-1", "DeadRelay").await;
    ground.tree.spawn("eu-1");
    reported(&ground, "eu-1", "Settling").await;
    ground.status_rests().await;
    assert_eq!(ground.tree.value("eu-3", UPSTREAM).await, port(&ground, "eu-2"));
    // What would be done is what the operator would do, who has watched it.
    let (_, planned) = ground.plugin("plan", &[]);
    assert!(planned.contains("Settling: eu-1") && !planned.contains("eu-3 on eu-1"), "{planned}");

    let (code, said) = ground.plugin("acknowledge", &["eu-9"]);
    assert_eq!((code, said.as_str()), (3, "there is no eu-9 in orders\n"));
    let (code, said) = ground.plugin("acknowledge", &["eu-1"]);
    assert_eq!(code, 0);
    assert!(said.starts_with("acknowledged: eu-1."), "{said}");
    ground.tree.until("eu-3", UPSTREAM, &port(&ground, "eu-1")).await;
    ground.told("Acknowledged", "eu-1").await;
    ground.over("Settling", "eu-1").await;
    ground.as_declared().await;

    // It is taken once: what fails after it is held against it again, until it is said again.
    ground.tree.kill("eu-1");
    reported(&ground, "eu-1", "DeadRelay").await;
    ground.tree.spawn("eu-1");
    reported(&ground, "eu-1", "Settling").await;
    ground.status_rests().await;
    assert_eq!(ground.tree.value("eu-3", UPSTREAM).await, port(&ground, "eu-2"));
    ground.plugin("acknowledge", &[]);
    fed_by(&ground, "eu-3", "eu-1").await;
}

/// Waits until the status gives this reason for a node.
async fn reported(ground: &Ground, node: &str, reason: &str) {
    eventually(&format!("{node} is reported: {reason}"), async || {
        let nodes = ground.topology().await.status.unwrap().nodes;
        nodes.iter().any(|told| told.name == node && told.reason.as_deref() == Some(reason))
    })
    .await;
}
