//! A second server of one name (law 12): a copy of a leaf, started beside it with its name, its slot and its password.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on has failed; figures are shown")]

mod support;

use support::ground::{Ground, PRIMARY};
use support::postgres::eventually;
use support::region::{fed_by, region};
use support::staleness::{Staleness, Writer};

/// Starts a copy of `eu-3` that streams from one server.
async fn copy(ground: &mut Ground, upstream: &str) {
    let conninfo = ground.tree.conninfo("eu-3", upstream);
    let settings = format!("primary_conninfo = '{conninfo}'\nprimary_slot_name = 'eu_3'\n");
    std::fs::write(ground.tree.data("copy").join("postgresql.auto.conf"), settings).unwrap();
    ground.tree.start_node("copy").await;
    let streams = "SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    ground.tree.until("copy", streams, &ground.tree.port(upstream).to_string()).await;
    assert_eq!(ground.tree.value("copy", "SHOW cluster_name").await, "eu-3");
}

/// What is to be told of where the copy streams from, and from where it comes: not by which of its connections, as a busy
/// machine may let one time out.
fn note(upstream: &str) -> String {
    format!(
        "eu-3: a server that is not eu-3 streams from {upstream} by its name and its slot, connected from 127.0.0.1:"
    )
}

async fn route(ground: &Ground, node: &str) -> String {
    ground.tree.value(node, "SELECT substring(current_setting('primary_conninfo') from 'port=([0-9,]+)')").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_took_a_fallbacks_slot_is_named_and_the_leaf_goes_on_elsewhere() {
    let mut ground = region("copy-elsewhere").await;
    let _writer = Writer::on(&ground.tree, PRIMARY, 10).await;
    let reader = Staleness::on(&ground.tree, "eu-3").await;
    ground.tree.clone_of("copy", "eu-3");
    copy(&mut ground, "eu-2").await;
    ground.told("DuplicateName", &note("eu-2")).await;
    // In its route it is of no use any more: libpq would not go on from there (safety.md X3).
    let taken = ground.tree.port("eu-2").to_string();
    eventually("its route goes round the copy", async || !route(&ground, "eu-3").await.contains(&taken)).await;
    ground.tree.kill("eu-1");
    fed_by(&ground, "eu-3", "core-2").await;
    println!("the leaf's rows were {} ms old at most", reader.stop().await);
    let copied = ground.tree.port("copy").to_string();
    for node in ["core-2", "eu-2", "eu-3", "eu-4", "eu-5"] {
        assert!(!route(&ground, node).await.contains(&copied), "nobody follows the copy");
    }
    ground.tree.kill("copy");
    ground.tree.start_node("eu-1").await;
    fed_by(&ground, "eu-3", "eu-1").await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_took_the_place_of_a_leaf_that_was_down_is_named_and_the_leaf_fed_elsewhere() {
    let mut ground = region("copy-in-place").await;
    ground.tree.clone_of("copy", "eu-3");
    ground.tree.stop("eu-3");
    copy(&mut ground, "eu-1").await;
    ground.tree.start_node("eu-3").await;
    fed_by(&ground, "eu-3", "eu-2").await;
    ground.told("DuplicateName", &note("eu-1")).await;
    // The other has the slot on eu-1, so that is no fallback either; the new route has begun, with a connection of its own.
    let taken = ground.tree.port("eu-1");
    let round = format!("SELECT count(*) FROM pg_stat_wal_receiver WHERE conninfo NOT LIKE '%{taken}%'");
    ground.tree.until("eu-3", &round, "1").await;
    fed_by(&ground, "eu-3", "eu-2").await;
    // It is not asked back as long as the other is there.
    let before = ground.connected(&["eu-3"]).await;
    ground.asked("eu-3", 8).await;
    ground.untouched(&before).await;
    ground.tree.kill("copy");
    fed_by(&ground, "eu-3", "eu-1").await;
    ground.as_declared().await;
}
