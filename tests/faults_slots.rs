//! What slots do to those who do not use them, and what connections that nobody has any more do to slots: made for real on
//! real servers, and seen by readers and by vacuum.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use support::ground::{Ground, PRIMARY, apply, group, star};
use support::leaf::{LEAF, STANDBYS, leaf_below, receives_from, reload, restartpoint, write_segments};
use support::postgres::eventually;
use support::proxy::Proxy;

/// A leaf below one of two relays, the other its fallback; every standby tells of its transactions.
async fn with_feedback(namespace: &'static str) -> Ground {
    let ground = Ground::of(star(&STANDBYS).await, namespace).await;
    for node in STANDBYS {
        ground.tree.configure(node, "hot_standby_feedback = on\nlog_replication_commands = on");
        reload(&ground, node).await;
    }
    apply(&ground.manifest(&leaf_below(&ground, ["a", "b"])));
    ground.as_declared().await;
    receives_from(&ground, "eu-1").await;
    for (on, slot) in [("eu-1", "eu_3"), (PRIMARY, "eu_1")] {
        let held = format!("SELECT xmin IS NOT NULL FROM pg_replication_slots WHERE slot_name = '{slot}'");
        ground.tree.until(on, &held, "t").await;
    }
    ground
}

/// Rows that are deleted, which vacuum removes when nobody holds them back.
async fn delete_rows(ground: &Ground) {
    ground.tree.sql(PRIMARY, "CREATE TABLE old AS SELECT generate_series(1, 1000)").await;
    ground.tree.sql(PRIMARY, "DELETE FROM old").await;
    ground.flows(&STANDBYS).await;
}

async fn vacuum_removes_them(ground: &Ground) -> bool {
    ground.tree.sql(PRIMARY, "VACUUM old").await;
    ground.tree.value(PRIMARY, "SELECT pg_relation_size('old')").await == "0"
}

/// How often the slot that the leaf left was told that it holds nothing back: nobody else streams from it.
fn times_told(ground: &Ground) -> usize {
    ground.tree.log("eu-1").matches("START_REPLICATION SLOT eu_3 PHYSICAL").count()
}

/// What the leaf's slot on the relay that it left keeps and holds back.
async fn left_slot(ground: &Ground, what: &str) -> String {
    ground.tree.value("eu-1", &format!("SELECT {what} FROM pg_replication_slots WHERE slot_name = 'eu_3'")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_moved_holds_back_no_vacuum_and_keeps_its_fallback() {
    let mut ground = with_feedback("xmin-cleared").await;
    // On disk with its xmin, and never without: what the operator clears it clears in memory (safety.md X6).
    restartpoint(&ground, "eu-1").await;
    let kept = left_slot(&ground, "restart_lsn").await;
    apply(&ground.manifest(&leaf_below(&ground, ["b", "a"])));
    receives_from(&ground, "eu-2").await;
    delete_rows(&ground).await;
    eventually("vacuum goes on", async || vacuum_removes_them(&ground).await).await;
    assert_eq!(left_slot(&ground, "active OR xmin IS NOT NULL").await, "f");
    assert_eq!(left_slot(&ground, &format!("restart_lsn >= '{kept}'")).await, "t");
    // The slot was told, and not made anew.
    let told = times_told(&ground);
    assert!(told > 0, "{}", ground.tree.log("eu-1"));
    assert!(ground.events().await.iter().all(|(reason, _)| reason != "SlotHoldsXmin"));
    ground.as_declared().await;

    // With a crash of the relay the old xmin is back.
    ground.tree.kill("eu-1");
    ground.tree.start_node("eu-1").await;
    ground.tree.sql(PRIMARY, "DROP TABLE old").await;
    delete_rows(&ground).await;
    eventually("it is told again", async || times_told(&ground) > told).await;
    eventually("vacuum goes on again", async || vacuum_removes_them(&ground).await).await;
    assert_eq!(left_slot(&ground, "active OR xmin IS NOT NULL").await, "f");
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_holds_back_vacuum_and_cannot_be_cleared_is_named_until_it_can() {
    let ground = with_feedback("xmin-held").await;
    apply(&ground.manifest_with("automation: Observe", &leaf_below(&ground, ["b", "a"])));
    ground.until("Converged", "False", "ObserveOnly").await;
    let conninfo = ground.tree.conninfo(LEAF, "eu-2").replace('\'', "''");
    ground.tree.sql(LEAF, &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).await;
    reload(&ground, LEAF).await;
    receives_from(&ground, "eu-2").await;
    delete_rows(&ground).await;
    assert!(!vacuum_removes_them(&ground).await, "nothing is held back");

    // Neither by the wire nor by making it anew, which would begin to reserve behind what the leaf has replayed.
    let hba = std::fs::read_to_string(ground.tree.data("eu-1").join("pg_hba.conf")).unwrap();
    let ours = |line: &&str| line.contains("replication") && line.contains("waltree");
    let without: String = hba.split_inclusive('\n').filter(|line| !ours(line)).collect();
    assert_ne!(hba, without);
    ground.tree.write_hba("eu-1", &without);
    reload(&ground, "eu-1").await;
    ground.tree.sql(LEAF, "SELECT pg_wal_replay_pause()").await;
    let replayed = ground.tree.value(LEAF, "SELECT pg_last_wal_replay_lsn()").await;
    let beyond = format!("SELECT redo_lsn - '{replayed}' > 16 * 1024 * 1024 FROM pg_control_checkpoint()");
    eventually("eu-1 has a restartpoint beyond the leaf", async || {
        ground.tree.sql(PRIMARY, "SELECT pg_switch_wal()").await;
        ground.tree.sql(PRIMARY, "CHECKPOINT").await;
        ground.flows(&["eu-1"]).await;
        ground.tree.sql("eu-1", "CHECKPOINT").await;
        ground.tree.value("eu-1", &beyond).await == "t"
    })
    .await;
    apply(&ground.manifest(&leaf_below(&ground, ["b", "a"])));
    ground.told("SlotHoldsXmin", "eu-1").await;
    assert!(!vacuum_removes_them(&ground).await, "nothing is held back");
    let kept = left_slot(&ground, "restart_lsn").await;

    ground.tree.write_hba("eu-1", &hba);
    reload(&ground, "eu-1").await;
    eventually("vacuum goes on", async || vacuum_removes_them(&ground).await).await;
    assert_eq!(left_slot(&ground, &format!("restart_lsn BETWEEN '{kept}' AND '{replayed}'")).await, "t");
    ground.tree.sql(LEAF, "SELECT pg_wal_replay_resume()").await;
    ground.flows(&[LEAF]).await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_is_gone_holds_back_no_vacuum_and_finds_its_wal_when_it_is_back() {
    let mut ground = with_feedback("xmin-of-the-dead").await;
    ground.tree.stop(LEAF);
    ground.tree.sql(PRIMARY, "CREATE TABLE old AS SELECT generate_series(1, 1000)").await;
    ground.tree.sql(PRIMARY, "DELETE FROM old").await;
    ground.flows(&STANDBYS[..2]).await;
    assert!(!vacuum_removes_them(&ground).await, "nothing is held back");
    let kept = left_slot(&ground, "restart_lsn").await;
    eventually("vacuum goes on", async || vacuum_removes_them(&ground).await).await;
    assert_eq!(left_slot(&ground, "restart_lsn").await, kept);
    ground.tree.start_node(LEAF).await;
    ground.flows(&[LEAF]).await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_vanished_without_a_word_is_ended_where_we_may_and_its_leaf_comes_back() {
    let ground = Ground::of(star(&["eu-1", "eu-2"]).await, "zombie").await;
    ground.tree.configure("eu-1", "wal_sender_timeout = 10min");
    reload(&ground, "eu-1").await;
    ground.tree.sql(PRIMARY, "REVOKE pg_signal_backend FROM waltree").await;
    let may = "SELECT pg_has_role('waltree', 'pg_signal_backend', 'USAGE')";
    ground.tree.until("eu-1", may, "f").await;
    let proxy = Proxy::before(ground.tree.port("eu-1")).await;
    let groups = [
        ground.group("core", "", &[PRIMARY]),
        group(
            "eu",
            "orders-sql",
            "upstreams: [core], relays: 1",
            &[("eu-1", proxy.port), ("eu-2", ground.tree.port("eu-2"))],
        ),
    ];
    apply(&ground.manifest(&groups));
    ground.as_declared().await;
    let by_proxy = format!(
        "SELECT count(*) FROM pg_stat_wal_receiver WHERE sender_port = {} AND status = 'streaming'",
        proxy.port
    );
    ground.tree.until("eu-2", &by_proxy, "1").await;
    let holder = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'eu_2'";

    let zombie = ground.tree.value("eu-1", holder).await;
    proxy.swallow_replication();
    ground.told("ZombieSlot", "eu-2").await;
    let told = ground.events().await;
    assert!(told.iter().any(|(_, note)| note.contains("GRANT pg_signal_backend")), "{told:?}");
    // Its readers are served from where the other entry of its route leads, and it is still kept out of the first.
    let from = "SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    ground.tree.until("eu-2", from, &ground.tree.port(PRIMARY).to_string()).await;
    ground.flows(&["eu-2"]).await;
    assert_eq!(ground.tree.value("eu-1", holder).await, zombie);

    ground.tree.sql(PRIMARY, "GRANT pg_signal_backend TO waltree").await;
    eventually("the zombie is ended", async || ground.tree.value("eu-1", holder).await != zombie).await;
    ground.tree.until("eu-2", &by_proxy, "1").await;
    ground.flows(&["eu-2"]).await;
    ground.as_declared().await;
}

/// A leaf and its first upstream, which is told to keep no WAL but what slots hold.
async fn away_from_its_relay(namespace: &'static str) -> Ground {
    let mut ground = Ground::of(star(&STANDBYS).await, namespace).await;
    apply(&ground.manifest(&leaf_below(&ground, ["a", "b"])));
    ground.as_declared().await;
    receives_from(&ground, "eu-1").await;
    ground.tree.stop(LEAF);
    ground.told("DeadLeaf", LEAF).await;
    ground
}

/// Takes the leaf's slot from a server, and all the places where it could be made again.
async fn leave_no_place(ground: &Ground, on: &str) {
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'eu_3'";
    ground.tree.sql(on, drop).await;
    let fill = "SELECT pg_create_physical_replication_slot('other_' || i) FROM generate_series(1, \
                current_setting('max_replication_slots')::int - (SELECT count(*)::int FROM pg_replication_slots)) i";
    ground.tree.sql(on, fill).await;
}

async fn make_place(ground: &Ground, on: &str) {
    let free = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'other%'";
    ground.tree.sql(on, free).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_gone_and_finds_no_place_is_named_and_made_when_there_is_one() {
    let mut ground = away_from_its_relay("missing-slot").await;
    let upstreams = [PRIMARY, "eu-1", "eu-2"];
    for on in upstreams {
        leave_no_place(&ground, on).await;
    }
    ground.tree.start_node(LEAF).await;
    ground.told("MissingSlot", LEAF).await;
    let log = ground.tree.log(LEAF);
    assert!(log.contains("replication slot \"eu_3\" does not exist"), "{log}");
    ground.misses(LEAF, &STANDBYS[..2]).await;
    for on in upstreams {
        make_place(&ground, on).await;
    }
    receives_from(&ground, "eu-1").await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_whose_slot_finds_no_place_on_its_relay_is_fed_by_another() {
    let mut ground = away_from_its_relay("no-place").await;
    leave_no_place(&ground, "eu-1").await;
    ground.tree.start_node(LEAF).await;
    receives_from(&ground, "eu-2").await;
    make_place(&ground, "eu-1").await;
    receives_from(&ground, "eu-1").await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_invalidated_is_named_and_made_anew_and_its_leaf_fed() {
    let mut ground = away_from_its_relay("lost-slot").await;
    ground.tree.configure("eu-1", "wal_keep_size = 0\nmax_slot_wal_keep_size = 16MB");
    reload(&ground, "eu-1").await;
    let lost = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'eu_3'";
    eventually("the relay has invalidated it", async || {
        write_segments(&ground, 2, &STANDBYS[..2]).await;
        ground.tree.value("eu-1", lost).await == "lost"
    })
    .await;
    // Who may write has made it anew, or led the leaf elsewhere, before it has a name.
    apply(&ground.manifest_with("automation: Observe", &leaf_below(&ground, ["a", "b"])));
    ground.tree.start_node(LEAF).await;
    ground.told("LostSlot", LEAF).await;
    ground.misses(LEAF, &STANDBYS[..2]).await;
    // What it needs is on the other relay.
    apply(&ground.manifest(&leaf_below(&ground, ["a", "b"])));
    ground.flows(&[LEAF]).await;
    ground.tree.until("eu-1", lost, "reserved").await;
    receives_from(&ground, "eu-1").await;
    ground.as_declared().await;
}
