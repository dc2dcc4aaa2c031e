//! A tree below the relays of another topology: both are on one fleet, each with its own nodes, and neither touches what
//! the other has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::fs;

use support::ground::{Ground, PRIMARY, apply, validate};
use support::postgres::{Tree, eventually};

/// The relays of the upper topology, and all its standbys.
const RELAYS: [&str; 2] = ["eu-1", "eu-2"];
const UPPER: [&str; 4] = ["eu-1", "eu-2", "eu-3", "eu-4"];
/// The leaves of the lower one, below those relays.
const LOWER: [&str; 3] = ["us-1", "us-2", "us-3"];

/// One fleet as somebody may have left it, and a namespace for each topology.
async fn fleet() -> (Ground, Ground) {
    let mut tree = Tree::start(None);
    tree.primary(PRIMARY).await;
    for node in UPPER {
        tree.standby(node, PRIMARY).await;
    }
    for (place, node) in LOWER.iter().enumerate() {
        tree.standby(node, RELAYS[place % RELAYS.len()]).await;
    }
    (Ground::of(tree, "upper").await, Ground::of(Tree::start(None), "lower").await)
}

fn upper_manifest(upper: &Ground) -> String {
    upper.manifest(&[upper.group("core", "", &[PRIMARY]), upper.group("eu", "upstreams: [core], relays: 2", &UPPER)])
}

/// The servers that may be the primary, then the relays that others keep, then our own.
fn lower_manifest(upper: &Ground, lower: &Ground) -> String {
    lower.manifest(&[
        upper.group("core", "management: Observe", &[PRIMARY]),
        upper.group("theirs", "management: Observe, upstreams: [core]", &RELAYS),
        upper.group("us", "upstreams: [theirs]", &LOWER),
    ])
}

/// All settings of the servers of the upper topology, and how often each was told to read them again.
async fn settings(tree: &Tree) -> BTreeMap<&'static str, (String, usize)> {
    let sql =
        "SELECT string_agg(concat_ws('|', name, setting, source, sourcefile), E'\\n' ORDER BY name) FROM pg_settings";
    let mut all = BTreeMap::new();
    for node in [PRIMARY].into_iter().chain(UPPER) {
        let told = tree.value(node, sql).await;
        assert!(told.lines().count() > 100, "{node} tells its settings: {told}");
        let auto = fs::read_to_string(tree.data(node).join("postgresql.auto.conf")).unwrap();
        all.insert(node, (format!("{told}\n{auto}"), tree.log(node).matches("received SIGHUP").count()));
    }
    all
}

/// The slots of one topology's nodes, by server.
async fn slots(tree: &Tree, kind: &str) -> BTreeMap<&'static str, String> {
    let sql = format!(
        "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots WHERE slot_name LIKE '{kind}%'"
    );
    let mut all = BTreeMap::new();
    for node in [PRIMARY].into_iter().chain(UPPER).chain(LOWER) {
        all.insert(node, tree.value(node, &sql).await);
    }
    all
}

/// Waits until these receive from this server, each by its own slot.
async fn fed_by(tree: &Tree, nodes: &[&str], upstream: &str) {
    for node in nodes {
        let expected = format!("{}|{}", tree.port(upstream), node.replace('-', "_"));
        let sql = "SELECT concat_ws('|', sender_port, slot_name) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        tree.until(node, sql, &expected).await;
    }
}

/// Nobody told of the other as of somebody who interferes.
async fn no_fight(both: [&Ground; 2]) {
    for ground in both {
        for (reason, note) in ground.events().await {
            assert!(!["SlotRemovedByOther", "OtherWriter", "SlotsLeft"].contains(&reason.as_str()), "{reason}: {note}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_below_the_relays_of_another_topology_survives_one_of_them_and_touches_nothing_but_its_slots() {
    let (mut upper, lower) = fleet().await;
    apply(&upper_manifest(&upper));
    upper.as_declared().await;
    let (before, his_slots) = (settings(&upper.tree).await, slots(&upper.tree, "eu").await);

    let manifest = lower_manifest(&upper, &lower);
    assert_eq!(validate(&manifest).0, Some(0), "{manifest}");
    apply(&manifest);
    lower.as_declared().await;
    upper.as_declared().await;
    upper.flows(&LOWER).await;
    assert_eq!(settings(&upper.tree).await, before, "a setting of the upper topology's servers was touched");
    assert_eq!(slots(&upper.tree, "eu").await, his_slots);
    // Prepared on both relays and nowhere else.
    let our_slots = slots(&upper.tree, "us").await;
    for (node, slots) in &our_slots {
        assert_eq!(slots, if RELAYS.contains(node) { "us_1,us_2,us_3" } else { "" }, "{node}");
    }

    // Whichever feeds a leaf of the lower topology; the other is all that is left to both.
    let port = upper.tree.value("us-1", "SELECT sender_port FROM pg_stat_wal_receiver").await;
    let [lost, left] = if port == upper.tree.port("eu-1").to_string() { ["eu-1", "eu-2"] } else { ["eu-2", "eu-1"] };
    upper.tree.kill(lost);
    upper.flows(&[left, "eu-3", "eu-4", "us-1", "us-2", "us-3"]).await;
    fed_by(&upper.tree, &["eu-3", "eu-4", "us-1", "us-2", "us-3"], left).await;
    // Both see it, and have time to do something about what is of the other.
    for ground in [&upper, &lower] {
        ground.told("DeadRelay", lost).await;
    }
    upper.asked(left, 20).await;
    fed_by(&upper.tree, &["eu-3", "eu-4", "us-1", "us-2", "us-3"], left).await;
    let active = "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots WHERE active";
    upper.tree.until(left, active, "eu_3,eu_4,us_1,us_2,us_3").await;

    // It comes back, and all is as before.
    upper.tree.start_node(lost).await;
    upper.as_declared().await;
    lower.as_declared().await;
    upper.flows(&["eu-1", "eu-2", "eu-3", "eu-4", "us-1", "us-2", "us-3"]).await;
    let texts =
        |all: BTreeMap<_, (String, _)>| all.into_iter().map(|(node, (text, _))| (node, text)).collect::<Vec<_>>();
    assert_eq!(texts(settings(&upper.tree).await), texts(before));
    assert_eq!((slots(&upper.tree, "eu").await, slots(&upper.tree, "us").await), (his_slots.clone(), our_slots));
    no_fight([&upper, &lower]).await;

    // The lower topology is deleted: its idle slots go, and nobody else's.
    drop(lower);
    eventually("idle slots are dropped", async || {
        let idle = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'us%' AND NOT active";
        upper.tree.value("eu-1", idle).await == "0" && upper.tree.value("eu-2", idle).await == "0"
    })
    .await;
    assert_eq!(slots(&upper.tree, "eu").await, his_slots);
    upper.as_declared().await;
    upper.flows(&LOWER).await;
}
