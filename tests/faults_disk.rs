//! A disk that takes no more WAL, made full for real: a small tmpfs below one server's data.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use support::disk::Disk;
use support::ground::{Ground, PRIMARY};
use support::postgres::eventually;
use support::region::{LEAVES_OF_EU_1, fed_by, region};

/// Two segments of WAL find a place, and not many more.
const SPARE_MIB: u64 = 40;

/// WAL until a server has no place for more. Of no table, as a standby whose tables cannot grow ends.
async fn fill(ground: &Ground, node: &str) {
    let write = "SELECT pg_logical_emit_message(false, 'load', repeat('x', 1000000)) FROM generate_series(1, 4)";
    eventually("its disk is full", async || {
        ground.tree.sql(PRIMARY, write).await;
        ground.tree.log(node).contains("No space left on device")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_whose_disk_is_full_is_named_and_goes_on_when_there_is_space() {
    let mut ground = region("full-leaf").await;
    let Some(disk) = Disk::below(&mut ground.tree, "eu-3", SPARE_MIB).await else { return };
    ground.as_declared().await;
    let before = ground.connected(&["eu-1", "eu-2", "eu-4", "eu-5"]).await;
    fill(&ground, "eu-3").await;
    ground.told("DiskFull", "eu-3: no space is left on the disk of eu-3").await;
    // It answers, and serves what it has: what is written now has no place in the segments that it has.
    ground.misses("eu-3", &["eu-1", "eu-2", "eu-4", "eu-5"]).await;
    ground.untouched(&before).await;
    disk.grow(1024);
    ground.flows(&["eu-3"]).await;
    fed_by(&ground, "eu-3", "eu-1").await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_disk_is_full_loses_its_leaves_and_gets_them_back() {
    let mut ground = region("full-relay").await;
    let Some(disk) = Disk::below(&mut ground.tree, "eu-1", SPARE_MIB).await else { return };
    ground.as_declared().await;
    fill(&ground, "eu-1").await;
    ground.told("DiskFull", "eu-1: no space is left on the disk of eu-1").await;
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-2").await;
    }
    disk.grow(1024);
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-1").await;
    }
    ground.as_declared().await;
}
