//! The live cluster below the real planner: a tree forms on real servers, heals, and is left alone by who may only look.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "what fails here fails the test, and figures are shown"
)]

mod support;

use std::collections::BTreeSet;

use support::fleet::{credentials, fence, name};
use support::postgres::{Tree, eventually};
use support::staleness::{Staleness, Writer};
use waltree::model::{
    Automation, ByNode, Desired, Facts, Group, GroupName, Healing, Limits, Management, Memory, NodeName, NodeSpec,
    Observed, Reads, WhyUnseen,
};
use waltree::observe::{ServerAccess, SslMode, Timing, Wallet};
use waltree::operator::{Cluster, LiveCluster, clock};
use waltree::plan::{Plan, Planned, Step, Why, plan};

const RELAYS: [&str; 2] = ["eu-1", "eu-2"];
const LEAVES: [&str; 2] = ["eu-3", "eu-4"];

/// A primary with two relays that feed two leaves.
fn desired(tree: &Tree, automation: Automation) -> Desired {
    let group = |group: &str, upstreams: &[&str], relays, members: &[&str]| Group {
        name: GroupName::new(group).unwrap(),
        upstreams: upstreams.iter().map(|up| GroupName::new(up).unwrap()).collect(),
        relays,
        region: None,
        management: Management::Routes,
        fan_out: 8,
        members: members.iter().map(|member| name(member)).collect(),
    };
    let groups = vec![group("core", &[], 0, &["core-1"]), group("eu", &["core"], 2, &[RELAYS, LEAVES].concat())];
    let spec = |(at, group): (usize, &Group)| {
        let spec = |node: &NodeName| NodeSpec {
            name: node.clone(),
            group: at,
            address: "127.0.0.1".into(),
            hostaddr: None,
            port: tree.port(node.as_str()),
            zone: None,
        };
        group.members.iter().map(|node| (node.clone(), spec(node))).collect::<Vec<_>>()
    };
    Desired {
        automation,
        deleting: false,
        acknowledged: BTreeSet::new(),
        leaving: BTreeSet::new(),
        limits: Limits { fan_out: 8, depth: 4, cross_region_streams: 2, retained_wal_bytes: 10 << 30 },
        healing: Healing { suspect_after_milliseconds: 1000, lag_seconds: 30, settle_seconds: 1 },
        reads: Reads::default(),
        nodes: groups.iter().enumerate().flat_map(spec).collect(),
        groups,
    }
}

/// Five servers, all of them below the primary.
async fn star() -> Tree {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    for node in RELAYS.into_iter().chain(LEAVES) {
        tree.standby(node, "core-1").await;
    }
    tree
}

fn cluster(desired: &Desired, term: Option<u64>) -> LiveCluster {
    let fence = term.map(|term| fence(term, "test"));
    let cluster = LiveCluster::new(Wallet::fixed(credentials()), Timing::default(), fence, Memory::default());
    let access = ServerAccess { secret: None, ssl_mode: SslMode::Disable };
    cluster.set_access(desired.nodes.keys().map(|node| (node.clone(), access.clone())).collect());
    cluster
}

/// Once along the straight line.
async fn pass(cluster: &LiveCluster, desired: &Desired) -> (Observed, Plan) {
    let observed = cluster.observe(desired).await;
    let plan = plan(desired, &observed, cluster.now());
    cluster.carry_out(&plan).await;
    (observed, plan)
}

/// Along the straight line again and again, until what is seen is as wanted and nothing is left to be done.
async fn settles(cluster: &LiveCluster, desired: &Desired, what: &str, wanted: impl Fn(&Observed) -> bool) -> Observed {
    let mut last = None;
    eventually(what, async || {
        let (observed, plan) = pass(cluster, desired).await;
        let calm = plan.steps.iter().all(|planned| matches!(planned.why, Why::Quiet | Why::Release));
        let done = calm && wanted(&observed);
        last = Some(observed);
        done
    })
    .await;
    last.unwrap()
}

fn upstream<'a>(tree: &Tree, observed: &'a Observed, node: &str, among: &[&'a str]) -> Option<&'a str> {
    let port = observed.seen(&name(node))?.receiver.as_ref()?.port;
    among.iter().find(|upstream| tree.port(upstream) == port).copied()
}

/// Both ends of every edge say so, and each leaf streams on a slot of its own.
fn as_declared(tree: &Tree, observed: &Observed) -> bool {
    RELAYS.iter().all(|relay| upstream(tree, observed, relay, &["core-1"]).is_some())
        && LEAVES.iter().all(|leaf| {
            let feeding = upstream(tree, observed, leaf, &RELAYS).and_then(|relay| observed.seen(&name(relay)));
            let slot = feeding.and_then(|relay| relay.slots.get(name(leaf).slot()));
            slot.is_some_and(|slot| slot.active_pid.is_some())
        })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_forms_and_its_leaves_outlive_a_relay_with_and_without_the_operator() {
    let mut tree = star().await;
    let desired = desired(&tree, Automation::Heal);
    let writer = Writer::on(&tree, "core-1", 10).await;
    let live = cluster(&desired, Some(1));
    let formed = settles(&live, &desired, "the tree forms", |observed| as_declared(&tree, observed)).await;
    for leaf in LEAVES {
        let hosts = formed.seen(&name(leaf)).unwrap().route.conninfo.hosts();
        assert!(hosts.len() >= 2, "{leaf} has a fallback: {hosts:?}");
    }

    // The operator is up, and nobody needs it.
    let dead = upstream(&tree, &formed, LEAVES[0], &RELAYS).unwrap();
    let other = RELAYS.into_iter().find(|relay| *relay != dead).unwrap();
    let reader = Staleness::on(&tree, LEAVES[0]).await;
    tree.kill(dead);
    let moved = |observed: &Observed| LEAVES.iter().all(|leaf| upstream(&tree, observed, leaf, &[other]).is_some());
    settles(&live, &desired, "the leaves move", moved).await;
    println!("worst staleness, operator up: {} ms", reader.stop().await);
    tree.start_node(dead).await;
    let given_back =
        |observed: &Observed| as_declared(&tree, observed) && upstream(&tree, observed, LEAVES[0], &[dead]).is_some();
    let back = settles(&live, &desired, "the relay gets its leaf back", given_back).await;

    // The operator is gone, and nobody misses it.
    let dead = upstream(&tree, &back, LEAVES[0], &RELAYS).unwrap();
    let other = RELAYS.into_iter().find(|relay| *relay != dead).unwrap();
    drop(live);
    let reader = Staleness::on(&tree, LEAVES[0]).await;
    tree.kill(dead);
    let port = tree.port(other).to_string();
    tree.until(LEAVES[0], "SELECT sender_port FROM pg_stat_wal_receiver", &port).await;
    tree.caught_up(LEAVES[0], "core-1").await;
    println!("worst staleness, operator gone: {} ms", reader.stop().await);
    drop(writer);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_automation_observe_nothing_is_written_whoever_leads() {
    let tree = star().await;
    let desired = desired(&tree, Automation::Observe);
    let live = cluster(&desired, Some(1));
    let observed = live.observe(&desired).await;
    assert!(observed.nodes.values().all(|view| view.seen().is_some()));
    let made = plan(&desired, &observed, clock::now());
    assert!(made.steps.is_empty() && !made.withheld.is_empty(), "{made:?}");
    // Even if a step got into a plan.
    let forced = Plan { steps: made.withheld, ..Plan::default() };
    let outcome = live.carry_out(&forced).await;
    assert!(outcome.done.iter().all(|done| done.result.as_ref().is_err_and(|e| e.starts_with("ObserveOnly"))));
    for node in desired.nodes.keys() {
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
        assert_eq!(tree.value(node.as_str(), locks).await, "0");
        assert_eq!(tree.value(node.as_str(), "SELECT count(*) FROM pg_replication_slots").await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_does_not_keep_steps_from_the_others() {
    let tree = star().await;
    let desired = desired(&tree, Automation::Heal);
    let live = cluster(&desired, Some(1));
    eventually("all are seen", async || live.observe(&desired).await.nodes.values().all(|v| v.seen().is_some())).await;
    tree.freeze("eu-1");
    let create = |on: &str, owner: &str| Planned {
        step: Step::CreateSlot { on: name(on), owner: name(owner) },
        why: Why::Prepare,
    };
    let steps = vec![create("eu-1", "eu-3"), create("eu-2", "eu-3"), create("eu-1", "eu-4"), create("eu-2", "eu-4")];
    let outcome = live.carry_out(&Plan { steps: steps.clone(), ..Plan::default() }).await;
    let done: Vec<_> = outcome.done.iter().map(|done| (&done.planned, done.result.is_ok())).collect();
    let begun = [(&steps[0], false), (&steps[1], true), (&steps[3], true)];
    assert_eq!(done, begun, "in the plan's order, and nothing more on who did not answer");
    assert_eq!(tree.value("eu-2", "SELECT count(*) FROM pg_replication_slots").await, "2");
    eventually("it is not seen", async || {
        let observed = live.observe(&desired).await;
        observed.nodes[&name("eu-1")].unseen.as_ref().is_some_and(|unseen| unseen.why == WhyUnseen::Timeout)
    })
    .await;
    tree.thaw("eu-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_server_does_not_get_to_is_left_to_the_next_pass_and_has_not_failed() {
    let tree = star().await;
    // As with a disk that is saturated: each flush takes 100 ms.
    for setting in ["fsync = on", "commit_siblings = 0", "commit_delay = 100000"] {
        tree.sql("core-1", &format!("ALTER SYSTEM SET {setting}")).await;
    }
    tree.sql("core-1", "SELECT pg_reload_conf()").await;
    let desired = desired(&tree, Automation::Heal);
    let live = cluster(&desired, Some(1));
    eventually("it is seen", async || live.observe(&desired).await.seen(&name("core-1")).is_some()).await;
    let beat = Planned { step: Step::Heartbeat { primary: name("core-1") }, why: Why::Quiet };
    let steps = vec![beat; 40];
    let done = live.carry_out(&Plan { steps, ..Plan::default() }).await.done;
    assert!((1..40).contains(&done.len()), "{}", done.len());
    assert!(done.iter().all(|done| done.result.is_ok()), "{done:?}");
    let observed = live.observe(&desired).await;
    assert!(observed.seen(&name("core-1")).is_some(), "it was not given up");
    assert!(observed.memory.failed_steps.is_empty(), "and nothing waits for a back-off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_leaves_the_topology_is_let_go() {
    let tree = star().await;
    let mut desired = desired(&tree, Automation::Heal);
    let live = cluster(&desired, Some(1));
    let sees = |facts: &Facts| facts.in_recovery;
    let observed = live.observe(&desired).await;
    assert!(observed.seen(&name("eu-4")).is_some_and(sees));
    desired.nodes.shift_remove(&name("eu-4"));
    desired.groups[1].members.pop();
    assert!(!live.observe(&desired).await.nodes.contains_key(&name("eu-4")));
    tree.until("eu-4", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'waltree'", "0").await;
    let none = ByNode::default();
    assert!(live.observe(&Desired { nodes: none, groups: Vec::new(), ..desired }).await.nodes.is_empty());
}
