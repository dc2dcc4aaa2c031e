//! Replay that is held up by those who read: what it is called, and that nothing is done about it but what helps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use support::ground::{Ground, PRIMARY, apply};
use support::postgres::eventually;
use support::region::{fed_by, groups, region};
use waltree::api::status::LagBucket;

/// A region in which `eu-3` waits for readers of the table `t` for ever, and two seconds are too long for that.
async fn patient_with_readers(name: &'static str) -> Ground {
    let ground = region(name).await;
    apply(&ground.manifest(&groups(&ground)).replace("settleSeconds: 1", "settleSeconds: 1, lagSeconds: 2"));
    ground.as_declared().await;
    ground.tree.sql(PRIMARY, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS a").await;
    ground.tree.caught_up("eu-3", PRIMARY).await;
    ground.tree.configure("eu-3", "max_standby_streaming_delay = -1");
    ground.tree.sql("eu-3", "SELECT pg_reload_conf()").await;
    ground.tree.until("eu-3", "SHOW max_standby_streaming_delay", "-1").await;
    ground
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_whose_replay_is_held_up_by_a_reader_is_named_and_follows_when_the_reader_is_done() {
    let mut ground = patient_with_readers("recovery-conflict").await;
    let reader = ground.tree.connect("eu-3").await.unwrap();
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t").await.unwrap();
    ground.tree.sql(PRIMARY, "DELETE FROM t WHERE a > 1").await;
    // What another session of the primary may still see is not removed at once.
    let waits = "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'";
    eventually("replay is in conflict with the reader", async || {
        ground.tree.sql(PRIMARY, "VACUUM t").await;
        ground.tree.value("eu-3", waits).await == "RecoveryConflictSnapshot"
    })
    .await;
    ground.told("ReplayBlocked", "eu-3: replay is blocked on eu-3: RecoveryConflictSnapshot").await;
    // To everybody else it is a leaf that has all WAL there is.
    let behind = "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()";
    ground.tree.until("eu-3", behind, "t").await;
    assert_eq!(ground.tree.value("eu-3", "SELECT status FROM pg_stat_wal_receiver").await, "streaming");

    // Nobody of its relay's children but itself stays where it was.
    ground.tree.kill("eu-1");
    fed_by(&ground, "eu-5", "eu-2").await;
    let rows = reader.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1000, "the reader keeps what it sees");
    drop(reader);
    fed_by(&ground, "eu-3", "eu-2").await;
    assert_eq!(ground.tree.value("eu-3", "SELECT count(*) FROM t").await, "1");
    ground.tree.start_node("eu-1").await;
    fed_by(&ground, "eu-3", "eu-1").await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_whose_replay_waits_for_the_lock_of_a_reader_is_named_until_the_reader_is_done() {
    let ground = patient_with_readers("recovery-lock").await;
    let before = ground.connected(&["eu-3", "eu-5"]).await;
    let reader = ground.tree.connect("eu-3").await.unwrap();
    reader.batch_execute("BEGIN; SELECT count(*) FROM t").await.unwrap();
    // As VACUUM FULL and every change of a table do.
    ground.tree.sql(PRIMARY, "ALTER TABLE t ADD b int").await;
    let waits = "SELECT wait_event_type || ' ' || wait_event FROM pg_stat_activity WHERE backend_type = 'startup'";
    ground.tree.until("eu-3", waits, "Lock relation").await;
    ground.told("ReplayBlocked", "eu-3: replay is blocked on eu-3: relation").await;
    let behind = "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()";
    ground.tree.until("eu-3", behind, "t").await;
    drop(reader);
    ground.untouched(&before).await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_replays_late_is_named_and_a_relay_that_does_is_not_as_it_passes_all_on() {
    let ground = region("replays-late").await;
    apply(&ground.manifest(&groups(&ground)).replace("settleSeconds: 1", "settleSeconds: 1, lagSeconds: 2"));
    ground.as_declared().await;
    let before = ground.connected(&["eu-1", "eu-2", "eu-3", "eu-4", "eu-5"]).await;
    let delay = async |of: &str| {
        for node in ["eu-1", "eu-3"] {
            ground.tree.configure(node, &format!("recovery_min_apply_delay = '{of}'"));
            ground.tree.sql(node, "SELECT pg_reload_conf()").await;
            ground.tree.until(node, "SHOW recovery_min_apply_delay", of).await;
        }
    };
    delay("1h").await;
    ground.tree.sql(PRIMARY, "CREATE TABLE late AS SELECT 1 AS a").await;
    ground.told("LaggingLeaf", "eu-3").await;
    // Below the relay what it passes on is there, and its own readers do not see it.
    let there = "SELECT to_regclass('late') IS NOT NULL";
    ground.tree.until("eu-5", there, "t").await;
    for node in ["eu-1", "eu-3"] {
        assert_eq!(ground.tree.value(node, there).await, "f");
        let received = "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()";
        assert_eq!(ground.tree.value(node, received).await, "t");
    }
    let lagging = |events: Vec<(String, String)>| {
        let lags = |(reason, _): &(String, String)| reason.starts_with("Lagging") || reason == "ReplayBlocked";
        events.into_iter().filter(lags).map(|(reason, _)| reason).collect::<Vec<_>>()
    };
    assert_eq!(lagging(ground.events().await), ["LaggingLeaf"]);
    ground.until("Converged", "True", "AsDeclared").await;
    eventually("both are shown as far behind as their readers are", async || {
        let nodes = ground.topology().await.status.unwrap().nodes;
        let late = nodes.iter().filter(|node| node.lag > Some(LagBucket::Second)).map(|node| node.name.as_str());
        late.eq(["eu-1", "eu-3"])
    })
    .await;
    let (_, drawn) = ground.plugin("tree", &["-o", "json"]);
    let drawn: serde_json::Value = serde_json::from_str(&drawn).unwrap();
    let behind = |node: &str| {
        let line = drawn.as_array().unwrap().iter().find(|line| line["node"] == node).unwrap();
        (line["hopLagBytes"].as_u64().unwrap() > 0, line["totalLagBytes"].as_u64().unwrap() > 0)
    };
    assert_eq!(["eu-1", "eu-3", "eu-5"].map(behind), [(false, true), (false, true), (false, false)], "{drawn}");
    delay("0").await;
    ground.over("LaggingLeaf", "eu-3").await;
    ground.untouched(&before).await;
    ground.as_declared().await;
}
