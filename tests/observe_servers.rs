//! What is seen of real servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "what fails here fails the test, and figures are shown"
)]

mod support;

use std::sync::Arc;

use support::fleet::{facts, unseen, until, view, watch};
use support::postgres::{Tree, eventually};
use waltree::model::{Facts, Lsn, Timeline, WhyUnseen};

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_a_relay_and_a_leaf_are_seen_as_they_are() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    tree.standby("eu-2", "eu-1").await;
    tree.sql("core-1", "SELECT pg_create_physical_replication_slot('spare', true)").await;
    tree.sql("core-1", "CREATE TABLE t AS SELECT 1").await;
    tree.caught_up("eu-2", "core-1").await;
    let fleet = watch(&tree, &["core-1", "eu-1", "eu-2"], None).await;
    let core = facts(&fleet, "core-1").await;
    let there = |facts: &Facts| facts.position >= core.position && facts.replay == facts.position;
    let relay = until(&fleet, "eu-1", "has what the primary has", there).await;
    let leaf = until(&fleet, "eu-2", "has what the primary has", there).await;

    assert!(!core.in_recovery && relay.in_recovery && leaf.in_recovery);
    assert!(core.version_num >= 150_000 && core.segment_bytes == 16 << 20 && core.alter_system_allowed);
    assert_eq!(core.system_identifier, leaf.system_identifier);
    for facts in [&core, &relay, &leaf] {
        assert_eq!(facts.timeline, Some(Timeline(1)));
        assert_eq!(facts.missing_grants, [""; 0]);
        assert!(facts.oldest_wal.is_some_and(|oldest| oldest > Lsn(0) && oldest <= facts.redo));
    }
    let receiver = leaf.receiver.as_ref().unwrap();
    assert_eq!((receiver.host.as_str(), receiver.port), ("127.0.0.1", tree.port("eu-1")));
    assert_eq!(relay.senders[0].application_name, "eu-2");
    assert_eq!(leaf.route.conninfo.hosts(), [("127.0.0.1".to_owned(), tree.port("eu-1"))]);
    assert_eq!((leaf.route.pending.as_ref(), leaf.route.has_password, leaf.route.unreadable), (None, false, false));
    assert!(core.slots["spare"].restart_lsn.is_some() && core.slots["spare"].active_pid.is_none());
}

const REPLAYED: &str = "SELECT pg_last_wal_replay_lsn()";

#[tokio::test(flavor = "multi_thread")]
async fn the_position_of_a_restarted_standby_is_what_it_has_and_not_the_start_of_the_segment() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    tree.sql("core-1", "CREATE TABLE t AS SELECT generate_series(1, 1000)").await;
    tree.caught_up("eu-1", "core-1").await;
    // The trap is there until the primary writes something, which it may do by itself.
    eventually("the trap is there", async || {
        tree.stop("eu-1");
        tree.start_node("eu-1").await;
        tree.until("eu-1", "SELECT count(*) FROM pg_stat_wal_receiver", "1").await;
        tree.value("eu-1", "SELECT pg_last_wal_receive_lsn() < pg_last_wal_replay_lsn()").await == "t"
    })
    .await;

    let fleet = watch(&tree, &["eu-1"], None).await;
    let replayed: Lsn = tree.value("eu-1", REPLAYED).await.parse().unwrap();
    let seen = facts(&fleet, "eu-1").await;
    assert!(seen.position >= replayed && seen.replay >= replayed, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timeline_after_a_promotion_is_the_real_one_and_not_that_of_pg_control() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("core-2", "core-1").await;
    tree.standby("eu-1", "core-2").await;
    tree.caught_up("eu-1", "core-1").await;
    let fleet = watch(&tree, &["core-2", "eu-1"], None).await;
    tree.kill("core-1");
    tree.sql("core-2", "SELECT pg_promote()").await;
    tree.sql("core-2", "CREATE TABLE t AS SELECT 1").await;
    tree.caught_up("eu-1", "core-2").await;
    let trap = "SELECT timeline_id FROM pg_control_checkpoint()";
    assert_eq!(tree.value("eu-1", trap).await, "1", "the trap is there");

    let second = |facts: &Facts| facts.timeline == Some(Timeline(2));
    let primary = until(&fleet, "core-2", "is on timeline 2", second).await;
    let leaf = until(&fleet, "eu-1", "is on timeline 2", second).await;
    assert!(!primary.in_recovery && leaf.in_recovery);
    assert_eq!(primary.history.first().map(|(timeline, _)| *timeline), Some(Timeline(1)));
    assert_eq!(primary.history, leaf.history);
    assert!(primary.history[0].1 <= leaf.position);

    // Without a walreceiver nothing in SQL says it; what was seen last goes on to hold.
    tree.kill("core-2");
    let alone = until(&fleet, "eu-1", "receives nothing", |facts| facts.receiver.is_none()).await;
    assert_eq!((alone.timeline, &alone.history), (Some(Timeline(2)), &primary.history));
    // An observer who has never seen it receive does not know.
    let fresh = watch(&tree, &["eu-1"], None).await;
    assert_eq!(facts(&fresh, "eu-1").await.timeline, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_position_of_a_standby_that_never_received_anything_is_what_it_replayed() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby_with("eu-1", "").await;
    let trap = "SELECT pg_last_wal_receive_lsn() IS NULL";
    assert_eq!(tree.value("eu-1", trap).await, "t", "the trap is there");
    let fleet = watch(&tree, &["eu-1"], None).await;
    let replayed: Lsn = tree.value("eu-1", REPLAYED).await.parse().unwrap();
    let seen = facts(&fleet, "eu-1").await;
    assert_eq!((seen.position, seen.replay), (replayed, replayed));
    assert!(seen.in_recovery && seen.receiver.is_none() && seen.position > Lsn(0));
}

/// It has the file that says what timeline 2 is, a walreceiver that says `streaming` now and then, and a receive position
/// that went back: by each of them it would be well.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_beyond_the_fork_is_seen_on_its_own_timeline_and_not_behind_what_it_replayed() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("core-2", "core-1").await;
    tree.standby("eu-1", "core-1").await;
    tree.caught_up("core-2", "core-1").await;
    tree.stop("core-2");
    tree.sql("core-1", "CREATE TABLE lost AS SELECT generate_series(1, 1000)").await;
    tree.caught_up("eu-1", "core-1").await;
    let fleet = watch(&tree, &["core-1", "core-2", "eu-1"], None).await;
    until(&fleet, "eu-1", "is on timeline 1", |facts| facts.timeline == Some(Timeline(1))).await;
    tree.kill("core-1");
    tree.start_node("core-2").await;
    tree.sql("core-2", "SELECT pg_promote()").await;
    let conninfo = tree.conninfo("eu-1", "core-2").replace('\'', "''");
    tree.sql("eu-1", &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).await;
    tree.sql("eu-1", "SELECT pg_reload_conf()").await;
    let forked = "new timeline 2 forked off current database system timeline 1 before current recovery point";
    eventually("it finds out", async || tree.log("eu-1").contains(forked)).await;
    let file = "SELECT count(*) FROM pg_ls_waldir() WHERE name = '00000002.history'";
    tree.until("eu-1", file, "1").await;
    tree.until("eu-1", "SELECT pg_last_wal_receive_lsn() < pg_last_wal_replay_lsn()", "t").await;

    let replayed: Lsn = tree.value("eu-1", REPLAYED).await.parse().unwrap();
    for _ in 0..20 {
        let seen = facts(&fleet, "eu-1").await;
        assert_eq!(seen.timeline, Some(Timeline(1)), "{seen:?}");
        // Half a record that it had received is gone, as it is asked for anew; what it replayed is not.
        assert!(seen.position >= replayed, "{replayed} {seen:?}");
    }
    let primary = facts(&fleet, "core-2").await;
    assert!(primary.history.iter().any(|(timeline, fork)| *timeline == Timeline(1) && *fork < replayed));
}

#[tokio::test(flavor = "multi_thread")]
async fn streaming_from_a_frozen_upstream_is_seen_to_stand_still() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    tree.standby("eu-2", "eu-1").await;
    tree.sql("eu-2", "ALTER SYSTEM SET wal_receiver_timeout = '60s'").await;
    tree.sql("eu-2", "SELECT pg_reload_conf()").await;
    tree.caught_up("eu-2", "core-1").await;
    let fleet = watch(&tree, &["core-1", "eu-1", "eu-2"], None).await;
    tree.freeze("eu-1");
    tree.sql("core-1", "CREATE TABLE t AS SELECT 1").await;
    unseen(&fleet, "eu-1", WhyUnseen::Timeout).await;

    let (core, leaf) = (facts(&fleet, "core-1").await, facts(&fleet, "eu-2").await);
    assert_eq!(leaf.receiver.as_ref().map(|r| r.status.as_str()), Some("streaming"), "the trap is there");
    assert!(leaf.position < core.position);

    // While it tries to connect to a frozen server there is no row at all.
    tree.sql("eu-2", "ALTER SYSTEM SET primary_slot_name = 'other'").await;
    tree.sql("eu-2", "SELECT pg_reload_conf()").await;
    until(&fleet, "eu-2", "connects", |facts| facts.receiver.is_none() && facts.connecting).await;
    let trap = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'";
    assert_eq!(tree.value("eu-2", trap).await, "1", "it is there all the same");

    tree.thaw("eu-1");
    facts(&fleet, "eu-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_a_standby_invalidated_is_seen_as_lost() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    tree.configure("eu-1", "wal_keep_size = 0\nmax_slot_wal_keep_size = 16MB");
    tree.sql("eu-1", "SELECT pg_reload_conf()").await;
    tree.sql("eu-1", "SELECT pg_create_physical_replication_slot('eu_2', true)").await;
    let fleet = watch(&tree, &["eu-1"], None).await;
    let slot = |facts: Arc<Facts>| facts.slots["eu_2"].clone();
    let fresh = slot(facts(&fleet, "eu-1").await);
    assert!(!fresh.lost && fresh.restart_lsn.is_some());

    tree.sql("core-1", "CREATE TABLE t (a int)").await;
    for _ in 0..4 {
        tree.sql("core-1", "INSERT INTO t VALUES (1)").await;
        tree.sql("core-1", "SELECT pg_switch_wal()").await;
    }
    tree.sql("core-1", "CHECKPOINT").await;
    tree.caught_up("eu-1", "core-1").await;
    let behind = slot(facts(&fleet, "eu-1").await);
    let status = tree.value("eu-1", "SELECT wal_status FROM pg_replication_slots").await;
    assert_eq!((status.as_str(), behind.lost), ("reserved", false), "until the very end");
    tree.sql("eu-1", "CHECKPOINT").await;
    let lost = until(&fleet, "eu-1", "lost the slot", |facts| facts.slots["eu_2"].lost).await;
    assert_eq!(lost.slots["eu_2"].restart_lsn, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_replay_and_what_the_startup_process_waits_for_are_seen() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    let fleet = watch(&tree, &["eu-1"], None).await;
    tree.sql("eu-1", "SELECT pg_wal_replay_pause()").await;
    tree.sql("core-1", "CREATE TABLE t AS SELECT 1").await;
    let seen = until(&fleet, "eu-1", "is paused", |facts| facts.startup_wait.as_deref() == Some("RecoveryPause")).await;
    assert!(seen.replay_paused);
    let seen = until(&fleet, "eu-1", "received on", |facts| facts.position > facts.replay).await;
    assert!(seen.replay_paused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_our_two_functions_sees_all_else_and_is_told_how_to_get_them() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.sql("core-1", "DROP SCHEMA waltree CASCADE").await;
    let fleet = watch(&tree, &["core-1"], None).await;
    let seen = facts(&fleet, "core-1").await;
    assert_eq!((seen.route.pending.as_ref(), seen.history.len()), (None, 0));
    assert_eq!(seen.missing_grants, [r"\i deploy/sql/operator-role.sql"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_missing_are_named_as_the_sql_that_grants_them() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.sql("core-1", "REVOKE ALTER SYSTEM ON PARAMETER primary_conninfo FROM waltree").await;
    tree.sql("core-1", "REVOKE EXECUTE ON FUNCTION pg_reload_conf() FROM waltree").await;
    tree.sql("core-1", "ALTER ROLE waltree NOREPLICATION").await;
    let emit = "(SELECT format('REVOKE EXECUTE ON FUNCTION %s FROM public, waltree', oid::regprocedure) FROM pg_proc \
                WHERE proname = 'pg_logical_emit_message' AND proargtypes[2] = 'text'::regtype)";
    let emit = tree.value("core-1", emit).await;
    tree.sql("core-1", &emit).await;
    let fleet = watch(&tree, &["core-1"], None).await;
    let lacking = facts(&fleet, "core-1").await;
    assert_eq!(lacking.missing_grants.len(), 4);
    for grant in &lacking.missing_grants {
        tree.sql("core-1", grant).await;
    }
    until(&fleet, "core-1", "has every right", |facts| facts.missing_grants.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_replay_cancels_is_asked_again_and_the_server_stays_in_sight() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    // Replay waits for nobody, as it does where a long query has held it up for long enough.
    tree.configure("eu-1", "max_standby_streaming_delay = 0");
    tree.sql("eu-1", "SELECT pg_reload_conf()").await;
    let fleet = watch(&tree, &["eu-1"], None).await;
    facts(&fleet, "eu-1").await;
    let [primary, flush] = [tree.connect("core-1").await.unwrap(), tree.connect("core-1").await.unwrap()];
    // A lock is in the WAL at once, and on its way with the next commit of anybody.
    let lock = async |what: &str| {
        primary.batch_execute(what).await.unwrap();
        flush.batch_execute("SELECT txid_current()").await.unwrap();
    };
    let eyes = tree.connect("eu-1").await.unwrap();
    let waits = async || {
        let row = eyes.query_one("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)", &[]).await;
        row.unwrap().get::<_, bool>(0)
    };
    // Asked once before, it needs to read nothing that is locked then.
    assert!(!waits().await);
    flush.batch_execute("SELECT txid_current()").await.unwrap();
    let is_in_sight = || {
        let unseen = view(&fleet, "eu-1").unseen.filter(|unseen| unseen.why != WhyUnseen::Timeout);
        assert!(unseen.is_none(), "{unseen:?}");
    };

    // The question reads both, this one last: while it waits for it, it is in the way of the other.
    lock("BEGIN; LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE").await;
    eventually("the question waits", waits).await;
    lock("LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE").await;
    eventually("the question is cancelled", async || {
        is_in_sight();
        tree.log("eu-1").contains("canceling statement due to conflict with recovery")
    })
    .await;
    primary.batch_execute("COMMIT").await.unwrap();

    let before = view(&fleet, "eu-1").last.unwrap().at;
    eventually("it answers again", async || {
        is_in_sight();
        view(&fleet, "eu-1").seen().is_some_and(|facts| facts.at > before)
    })
    .await;
}
