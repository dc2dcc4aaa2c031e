//! What networks do to a tree: a stream that is slow, and one of which every packet is lost. Only root can make these.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on has failed; figures are shown")]

mod support;

use support::ground::{Ground, PRIMARY, apply, star};
use support::network::Uplink;
use support::region::{LEAVES_OF_EU_1, REGION, ROOT, fed_by, formed, groups};
use support::staleness::{Staleness, Writer};

/// What a slow stream lets through, in bytes a second; the writer of [`Load`] makes some five times as much. A walsender sends
/// up to 128 kB at a time, and the position moves when all of it is there: a stream that takes longer for it than the patience
/// of a second is rightly one that stands still. A third of that leaves a busy machine room.
const SLOW: u64 = 400_000;

/// Seven servers as declared, of which `node` has a way of its own to `upstream`; `None` where we cannot make one.
async fn region(namespace: &'static str, node: &str, upstream: &str, healing: &str) -> Option<(Ground, Uplink)> {
    let uplink = Uplink::new(namespace)?;
    let mut tree = star(&[&ROOT[1..], &REGION].concat()).await;
    uplink.lead(&mut tree, node, upstream, &[&ROOT[..], &REGION].concat()).await;
    let ground = Ground::of(tree, namespace).await;
    apply(&ground.manifest(&groups(&ground)).replace("settleSeconds: 1", healing));
    formed(&ground).await;
    Some((ground, uplink))
}

/// A load that is dropped when this is: two megabytes of WAL a second.
struct Load(tokio::task::JoinHandle<()>);

impl Load {
    async fn on(ground: &Ground) -> Self {
        let client = ground.tree.connect(PRIMARY).await.unwrap();
        Self(tokio::spawn(async move {
            let write = "SELECT pg_logical_emit_message(false, 'load', repeat('x', 100000))";
            while client.batch_execute(write).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_from_which_every_packet_of_its_upstream_is_lost_is_left() {
    let Some((ground, uplink)) = region("lost-packets", "eu-1", PRIMARY, "settleSeconds: 1").await else { return };
    let _writer = Writer::on(&ground.tree, PRIMARY, 10).await;
    let reader = Staleness::on(&ground.tree, "eu-3").await;
    uplink.cut();
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-2").await;
    }
    ground.told("CutOffRelay", "eu-1").await;
    println!("a leaf's rows were {} ms old at most", reader.stop().await);
    uplink.mend();
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-1").await;
    }
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_lags_loses_its_leaves_and_gets_them_back() {
    let lag = "settleSeconds: 1, lagSeconds: 2";
    let Some((ground, uplink)) = region("lagging-relay", "eu-1", PRIMARY, lag).await else { return };
    uplink.slow(SLOW);
    let load = Load::on(&ground).await;
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-2").await;
    }
    ground.told("LaggingRelay", "eu-1").await;
    // It streams all the time, and what it passes on is old.
    let streams = "SELECT status FROM pg_stat_wal_receiver";
    assert_eq!(ground.tree.value("eu-1", streams).await, "streaming");
    // Of so much WAL the readers of the leaves see the end at once; those of the relay cannot within twenty seconds.
    let burst = "SELECT pg_logical_emit_message(false, 'load', repeat('x', 1000000)) FROM generate_series(1, 8)";
    ground.tree.sql(PRIMARY, burst).await;
    ground.misses("eu-1", &LEAVES_OF_EU_1).await;
    uplink.mend();
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-1").await;
    }
    drop(load);
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_lags_is_named_and_nobody_is_moved() {
    let lag = "settleSeconds: 1, lagSeconds: 2";
    let Some((ground, uplink)) = region("lagging-leaf", "eu-3", "eu-1", lag).await else { return };
    // A leaf that was moved while the tree was formed may be on its way back.
    ground.status_rests().await;
    let before = ground.connected(&["eu-1", "eu-2", "eu-3", "eu-4", "eu-5"]).await;
    uplink.slow(SLOW);
    let load = Load::on(&ground).await;
    ground.told("LaggingLeaf", "eu-3").await;
    // It streams all the time, and what its readers see is old; that of its sibling's is not.
    ground.tree.sql(PRIMARY, "CREATE TABLE late AS SELECT 1 AS a").await;
    let there = "SELECT to_regclass('late') IS NOT NULL";
    ground.tree.until("eu-5", there, "t").await;
    assert_eq!(ground.tree.value("eu-3", there).await, "f");
    assert_eq!(ground.tree.value("eu-3", "SELECT status FROM pg_stat_wal_receiver").await, "streaming");
    uplink.mend();
    drop(load);
    ground.tree.until("eu-3", there, "t").await;
    ground.over("LaggingLeaf", "eu-3").await;
    ground.untouched(&before).await;
    ground.as_declared().await;
}
