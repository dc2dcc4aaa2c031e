//! At each attempt at an upstream that then does not send, a walreceiver is there for milliseconds, `streaming` as any
//! other (postgres-facts.md 2.3, 5.2). Made on real servers, and shown to the planner as the operator does it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::Arc;

use support::fleet::{facts, name, watch};
use support::postgres::{Tree, eventually};
use support::staleness::Writer;
use waltree::api::ReplicaTopologySpec;
use waltree::model::rooted::Rooted;
use waltree::model::tree::Edge;
use waltree::model::{Desired, Memory, NodeView, Observed, Sight};
use waltree::observe::Fleet;
use waltree::operator::clock;
use waltree::plan::{Step, plan};

const NODES: [&str; 4] = ["core-1", "ap-1", "eu-1", "eu-2"];
/// Looks at which the leaf seemed to stream from its new upstream, until it is enough.
const FLASHES: usize = 12;

/// A primary and two relays; the leaf `eu-2` streams from the relay of a group that its own route never names.
async fn tree() -> Tree {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("ap-1", "core-1").await;
    tree.standby("eu-1", "core-1").await;
    tree.standby("eu-2", "ap-1").await;
    // The more often it tries, the more often it is seen to.
    tree.configure("eu-2", "wal_retrieve_retry_interval = 1ms");
    tree.sql("ap-1", "SELECT pg_create_physical_replication_slot('eu_2', true)").await;
    tree
}

fn desired(tree: &Tree, suspect_after_milliseconds: u32) -> Desired {
    let host = |node: &str| format!("{{name: {node}, address: 127.0.0.1, port: {}}}", tree.port(node));
    let [core, ap, relay, leaf] = NODES.map(host);
    let spec: ReplicaTopologySpec = serde_yaml::from_str(&format!(
        "healing: {{suspectAfterMilliseconds: {suspect_after_milliseconds}}}\ngroups:\n\
         - {{name: core, hosts: [{core}]}}\n- {{name: ap, upstreams: [core], hosts: [{ap}]}}\n\
         - {{name: eu, upstreams: [core], relays: 1, hosts: [{relay}, {leaf}]}}\n"
    ))
    .unwrap();
    Desired::try_from(&spec).unwrap()
}

/// Lets a leaf begin anew, pointed to `eu-1` with its slot.
async fn point(tree: &mut Tree) {
    let conninfo = tree.conninfo("eu-2", "eu-1");
    let settings = format!("primary_conninfo = '{conninfo}'\nprimary_slot_name = 'eu_2'\n");
    std::fs::write(tree.data("eu-2").join("postgresql.auto.conf"), settings).unwrap();
    tree.start_node("eu-2").await;
}

/// What was seen in the looks at which the leaf seemed to stream.
#[derive(Debug, Default)]
struct Seen {
    looks: usize,
    flashes: usize,
    both: usize,
    rooted: usize,
    dropped: usize,
}

/// Looks, as the operator does, until it was enough and both ends told of the stream so often; `late` are the looks that count
/// for rootedness.
async fn look(tree: &Tree, fleet: &Fleet, desired: &Desired, both_least: usize) -> Seen {
    let (mut memory, mut seen) = (Memory::default(), Seen::default());
    let patience = desired.healing.suspect_after_milliseconds;
    let (leaf, began, mut held) = (name("eu-2"), clock::now(), None);
    for node in NODES {
        facts(fleet, node).await;
    }
    eventually("it is seen often enough", async || {
        let (facts, upstream) = tokio::join!(facts(fleet, "eu-2"), facts(fleet, "eu-1"));
        if upstream.slots.get("eu_2").is_some_and(|slot| slot.active_pid.is_some()) {
            held = Some(Arc::clone(&upstream));
        }
        // Of the other end what it last told of the leaf: no two servers are asked in the same millisecond.
        let mut views = fleet.views();
        for (node, facts) in [("eu-1", held.as_ref().unwrap_or(&upstream)), ("eu-2", &facts)] {
            views.insert(name(node), NodeView { last: Some(Arc::clone(facts)), unseen: None });
        }
        seen.looks += 1;
        memory.advance(desired, &views, clock::now());
        let observed = Observed { nodes: views, memory: memory.clone().into() };
        let sight = Sight::of(desired, &observed);
        let plan = plan(desired, &observed, clock::now());
        let drop = |step: &Step| matches!(step, Step::DropSlot { owner, .. } if *owner == leaf);
        seen.dropped += usize::from(plan.steps.iter().any(|planned| drop(&planned.step)));
        if facts.receiver.as_ref().is_some_and(|r| r.status == "streaming" && r.port == tree.port("eu-1")) {
            seen.flashes += 1;
            seen.both += usize::from(matches!(sight.edges.get(&leaf), Some(Edge::Both(_))));
            // Two looks more than the patience: what was seen last is a look old.
            let late = clock::now().since(began) > 2 * patience;
            seen.rooted += usize::from(late && sight.is_rooted(&leaf));
        }
        seen.flashes >= FLASHES && seen.both >= both_least && clock::now().since(began) > 3 * patience
    })
    .await;
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streaming_row_without_a_slot_at_the_other_end_is_no_edge_and_no_path() {
    let mut tree = tree().await;
    let _writer = Writer::on(&tree, "core-1", 10).await;
    tree.caught_up("eu-2", "core-1").await;
    tree.stop("eu-2");
    point(&mut tree).await;
    let fleet = watch(&tree, &NODES, None).await;
    let seen = look(&tree, &fleet, &desired(&tree, 1_000), 0).await;
    assert!(tree.log("eu-2").contains("replication slot \"eu_2\" does not exist"));
    assert_eq!((seen.both, seen.rooted, seen.dropped), (0, 0, 0), "{seen:?}");
}

/// Here both ends tell of the stream, as the slot is taken before the WAL is looked for. The slot on the server that it
/// left holds the only WAL from which it can go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_streaming_row_without_wal_at_the_other_end_costs_no_slot_elsewhere() {
    let mut tree = tree().await;
    tree.sql("core-1", "CREATE TABLE t (a int)").await;
    tree.caught_up("eu-2", "core-1").await;
    tree.stop("eu-2");
    tree.configure("eu-1", "wal_keep_size = 0");
    tree.sql("eu-1", "SELECT pg_reload_conf()").await;
    let needed = tree.value("core-1", "SELECT pg_walfile_name(pg_current_wal_lsn())").await;
    let held = format!("SELECT count(*) FROM pg_ls_waldir() WHERE name <= '{needed}' AND name ~ '^[0-9A-F]+$'");
    eventually("eu-1 has removed it", async || {
        tree.sql("core-1", "INSERT INTO t VALUES (1)").await;
        tree.sql("core-1", "SELECT pg_switch_wal()").await;
        tree.sql("core-1", "CHECKPOINT").await;
        tree.caught_up("eu-1", "core-1").await;
        tree.sql("eu-1", "CHECKPOINT").await;
        tree.value("eu-1", &held).await == "0"
    })
    .await;
    tree.sql("eu-1", "SELECT pg_create_physical_replication_slot('eu_2', true)").await;
    let _writer = Writer::on(&tree, "core-1", 10).await;
    point(&mut tree).await;
    let fleet = watch(&tree, &NODES, None).await;
    let seen = look(&tree, &fleet, &desired(&tree, 4_000), 1).await;
    assert!(tree.log("eu-2").contains("has already been removed"));
    assert_eq!((seen.rooted, seen.dropped), (0, 0), "{seen:?}");
}

/// Looks until the leaf has no path, for a reason that says this or not.
async fn has_no_path(fleet: &Fleet, desired: &Desired, memory: &mut Memory, word: &str, is_said: bool) {
    eventually(&format!("{word}: {is_said}"), async || {
        let looked = facts(fleet, "eu-2").await;
        let views = fleet.views();
        memory.advance(desired, &views, clock::now());
        let sight = Sight::of(desired, &Observed { nodes: views, memory: memory.clone().into() });
        let said = matches!(sight.rooted.get(&name("eu-2")), Some(Rooted::No(why)) if why.contains(word) == is_said);
        looked.receiver.is_none() && said
    })
    .await;
}

/// Both have no row in `pg_stat_wal_receiver`.
#[tokio::test(flavor = "multi_thread")]
async fn a_walreceiver_that_hangs_in_connect_is_told_from_none_at_all() {
    let mut tree = tree().await;
    let desired = desired(&tree, 1_000);
    tree.caught_up("eu-2", "core-1").await;
    let fleet = watch(&tree, &NODES, None).await;
    tree.stop("eu-2");
    tree.freeze("eu-1");
    point(&mut tree).await;
    let mut memory = Memory::default();
    has_no_path(&fleet, &desired, &mut memory, "is connecting, and nobody answers", true).await;
    let trap = "SELECT (SELECT count(*) FROM pg_stat_wal_receiver), count(*) FROM pg_stat_activity \
                WHERE backend_type = 'walreceiver'";
    assert_eq!(tree.sql("eu-2", trap).await, ["0|1"], "the trap is there");
    assert!(facts(&fleet, "eu-2").await.connecting);

    tree.kill("eu-1");
    has_no_path(&fleet, &desired, &mut memory, "connecting", false).await;
}
