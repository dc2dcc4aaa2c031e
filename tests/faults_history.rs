//! Histories that part, made for real on real servers: two servers that take writes, WAL that the new primary never had, and
//! a leaf that was a primary for a while.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use support::ground::{Ground, PRIMARY};
use support::postgres::eventually;
use support::region::{REGION, fed_by, region};

const STANDBY: &str = "core-2";

/// Makes a server a primary by hand, as a person may at any time.
async fn promote(ground: &Ground, node: &str) {
    assert_eq!(ground.tree.value(node, "SELECT pg_promote()").await, "t");
    ground.tree.until(node, "SELECT pg_is_in_recovery()", "f").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_that_take_writes_are_named_and_nobody_is_moved_until_one_is_left() {
    let mut ground = region("two-primaries").await;
    let before = ground.connected(&REGION).await;
    promote(&ground, STANDBY).await;
    for node in [PRIMARY, STANDBY] {
        ground.told("TwoPrimaries", node).await;
    }
    ground.until("Writable", "False", "TwoPrimaries").await;
    // The readers below go on to see what their primary writes, and nothing of the other.
    ground.tree.sql(STANDBY, "CREATE TABLE theirs AS SELECT 1").await;
    ground.asked(PRIMARY, 5).await;
    ground.untouched(&before).await;
    for leaf in &REGION[2..] {
        assert_eq!(ground.tree.value(leaf, "SELECT to_regclass('theirs') IS NULL").await, "t");
    }
    ground.tree.stop(STANDBY);
    ground.until("Writable", "True", "PrimarySeen").await;
    for (leaf, relay) in [("eu-3", "eu-1"), ("eu-4", "eu-2"), ("eu-5", "eu-1")] {
        fed_by(&ground, leaf, relay).await;
    }
    ground.tree.begin_anew(STANDBY, PRIMARY).await;
    ground.tree.until(STANDBY, "SELECT to_regclass('theirs') IS NULL", "t").await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_somebody_promoted_is_named_and_nobody_follows_it() {
    let mut ground = region("foreign-primary").await;
    let others = ["core-2", "eu-1", "eu-2", "eu-4", "eu-5"];
    let before = ground.connected(&others).await;
    promote(&ground, "eu-3").await;
    ground.told("ForeignPrimary", "eu-3").await;
    ground.tree.sql("eu-3", "CREATE TABLE theirs AS SELECT 1").await;
    ground.asked("eu-3", 5).await;
    ground.untouched(&before).await;
    for node in others {
        assert_eq!(ground.tree.value(node, "SELECT to_regclass('theirs') IS NULL").await, "t");
    }
    ground.tree.begin_anew("eu-3", "eu-2").await;
    fed_by(&ground, "eu-3", "eu-1").await;
    ground.as_declared().await;
    ground.untouched(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_beyond_the_fork_of_a_promotion_are_named() {
    let mut ground = region("beyond-the-fork").await;
    // The one that is promoted misses what the others receive.
    ground.tree.stop(STANDBY);
    ground.tree.sql(PRIMARY, "CREATE TABLE lost AS SELECT 1").await;
    ground.flows(&REGION).await;
    ground.tree.kill(PRIMARY);
    ground.tree.start_node(STANDBY).await;
    promote(&ground, STANDBY).await;
    ground.tree.sql(STANDBY, "CREATE TABLE kept AS SELECT 1").await;
    for node in REGION {
        ground.told("Diverged", &format!("{node}: it holds WAL of timeline 1 beyond the fork at")).await;
    }
    // They answer all the time, with rows that are lost: only who compares histories sees anything wrong.
    let rows = "SELECT to_regclass('lost') IS NOT NULL AND to_regclass('kept') IS NULL AND pg_is_in_recovery()";
    assert_eq!(ground.tree.value("eu-3", rows).await, "t");
    ground.until("Serving", "False", "GroupDown").await;
    ground.until("Rooted", "False", "Diverged").await;
    for node in [&[PRIMARY], &REGION[..]].concat() {
        ground.tree.begin_anew(node, STANDBY).await;
    }
    ground.as_declared().await;
    ground.tree.sql(STANDBY, "CREATE TABLE afterwards AS SELECT 1").await;
    let rows = "SELECT to_regclass('lost') IS NULL AND to_regclass('kept') IS NOT NULL AND \
                to_regclass('afterwards') IS NOT NULL";
    for node in REGION {
        ground.tree.until(node, rows, "t").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_was_a_primary_for_a_while_is_named_and_takes_nobody_with_it() {
    let mut ground = region("was-a-primary").await;
    let others = ["core-2", "eu-1", "eu-2", "eu-4", "eu-5"];
    let before = ground.connected(&others).await;
    promote(&ground, "eu-3").await;
    ground.told("ForeignPrimary", "eu-3").await;
    ground.tree.sql("eu-3", "CREATE TABLE theirs AS SELECT 1").await;
    ground.tree.stop("eu-3");
    let conninfo = ground.tree.conninfo("eu-3", "eu-1");
    let data = ground.tree.data("eu-3").to_owned();
    std::fs::write(data.join("postgresql.auto.conf"), format!("primary_conninfo = '{conninfo}'\n")).unwrap();
    std::fs::write(data.join("standby.signal"), "").unwrap();
    ground.tree.start_node("eu-3").await;
    let told = "eu-3: it is on timeline 2, which is not in the history of timeline 1. Its timeline is newer than the \
                primary's: find out";
    ground.told("Diverged", told).await;
    assert_eq!(ground.tree.value("eu-3", "SELECT to_regclass('theirs') IS NOT NULL").await, "t");
    // It is no standby that a new route could help.
    let told = || ground.tree.log("eu-3").matches("received SIGHUP").count();
    eventually("it is left alone", async || {
        let before = told();
        ground.asked("eu-3", 5).await;
        told() == before
    })
    .await;
    ground.untouched(&before).await;
    fed_by(&ground, "eu-5", "eu-1").await;
    ground.tree.begin_anew("eu-3", "eu-1").await;
    fed_by(&ground, "eu-3", "eu-1").await;
    assert_eq!(ground.tree.value("eu-3", "SELECT to_regclass('theirs') IS NULL").await, "t");
    ground.as_declared().await;
    ground.untouched(&before).await;
}
