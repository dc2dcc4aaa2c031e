//! WAL that is kept for who is away, WAL that goes, and WAL that only one server has left, on real servers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use support::ground::{Ground, PRIMARY, apply, star};
use support::leaf::{LEAF, STANDBYS, leaf_below, receives_from, reload, restartpoint, segments_below, write_segments};
use support::postgres::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_slot_follows_its_leaf_and_the_wal_behind_it_leaves_the_disk() {
    let ground = Ground::of(star(&STANDBYS).await, "idle-slot").await;
    ground.tree.configure("eu-2", "wal_keep_size = 0");
    reload(&ground, "eu-2").await;
    let groups = leaf_below(&ground, ["a", "b"]);
    apply(&ground.manifest(&groups));
    ground.as_declared().await;
    receives_from(&ground, "eu-1").await;

    // Where nobody moves the slot, all is kept that was written since.
    apply(&ground.manifest_with("automation: Observe", &groups));
    ground.as_declared().await;
    let idle = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'eu_3' AND NOT active";
    let kept = ground.tree.value("eu-2", idle).await;
    write_segments(&ground, 4, &STANDBYS).await;
    let replayed = ground.tree.value(LEAF, "SELECT pg_last_wal_replay_lsn()").await;
    restartpoint(&ground, "eu-2").await;
    assert_eq!(ground.tree.value("eu-2", idle).await, kept);
    assert!(segments_below(&ground, "eu-2", &replayed).await >= 4);

    apply(&ground.manifest(&groups));
    eventually("what the leaf has replayed is removed", async || {
        restartpoint(&ground, "eu-2").await;
        segments_below(&ground, "eu-2", &replayed).await == 0
    })
    .await;
    let moved = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'eu_3' AND NOT active AND restart_lsn >";
    assert_eq!(ground.tree.value("eu-2", &format!("{moved} '{kept}'")).await, "1");
    receives_from(&ground, "eu-1").await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slots_of_a_leaf_that_is_away_too_long_are_given_up_and_those_of_the_others_stay() {
    let nodes = ["eu-1", "eu-2", "eu-3", "eu-4"];
    let mut ground = Ground::of(star(&nodes).await, "retained-wal").await;
    for relay in ["eu-1", "eu-2"] {
        ground.tree.configure(relay, "wal_keep_size = 0");
        reload(&ground, relay).await;
    }
    let groups = [ground.group("core", "", &[PRIMARY]), ground.group("eu", "upstreams: [core], relays: 2", &nodes)];
    apply(&ground.manifest_with("limits: {retainedWal: 64Mi}", &groups));
    ground.as_declared().await;
    let others = ["eu-1", "eu-2", "eu-4"];
    let before = ground.connected(&others).await;
    let slots = "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots";
    for relay in ["eu-1", "eu-2"] {
        ground.tree.until(relay, slots, "eu_3,eu_4").await;
    }

    ground.tree.stop("eu-3");
    write_segments(&ground, 3, &others).await;
    let missing = ground.tree.value(PRIMARY, "SELECT pg_current_wal_flush_lsn()").await;
    ground.asked("eu-1", 3).await;
    assert_eq!(ground.tree.value("eu-1", slots).await, "eu_3,eu_4", "it is within the bound");
    restartpoint(&ground, "eu-1").await;
    assert!(segments_below(&ground, "eu-1", &missing).await >= 3, "what it misses is kept");
    write_segments(&ground, 4, &others).await;
    for relay in ["eu-1", "eu-2"] {
        ground.tree.until(relay, slots, "eu_4").await;
    }
    ground.told("RetainedWal", "eu-3").await;
    eventually("it is told why the fallbacks are not ready", async || {
        ground.until("FallbacksReady", "False", "NotReady").await.contains("limits.retainedWal")
    })
    .await;
    // What it was for: the WAL goes, and nobody else heard of it.
    for relay in ["eu-1", "eu-2"] {
        eventually("what it misses is removed", async || {
            restartpoint(&ground, relay).await;
            segments_below(&ground, relay, &missing).await == 0
        })
        .await;
    }
    ground.asked("eu-1", 3).await;
    assert_eq!(ground.tree.value("eu-1", slots).await, "eu_4", "it is not made again while its node is away");
    ground.untouched(&before).await;

    // The primary alone still has the WAL (wal_keep_size is 256 MB there): it is led there, and back to its relay when that
    // has all that it needs, and gets its fallback again.
    ground.tree.start_node("eu-3").await;
    ground.flows(&["eu-3"]).await;
    for relay in ["eu-1", "eu-2"] {
        ground.tree.until(relay, slots, "eu_3,eu_4").await;
    }
    ground.as_declared().await;
    ground.untouched(&before).await;
}

/// A leaf that has received five segments and replayed none of them, below relays that keep no WAL but what slots hold. Of its
/// own WAL it reads nothing from the third of them on as long as a file is there.
struct Backlog {
    ground: Ground,
    held: std::path::PathBuf,
    received: String,
    begun: u64,
}

impl Backlog {
    async fn made(namespace: &'static str) -> Self {
        let ground = Ground::of(star(&STANDBYS).await, namespace).await;
        apply(&ground.manifest(&leaf_below(&ground, ["a", "b"])));
        ground.as_declared().await;
        receives_from(&ground, "eu-1").await;
        for node in [PRIMARY, "eu-1", "eu-2"] {
            ground.tree.configure(node, "wal_keep_size = 0");
            reload(&ground, node).await;
        }
        // As a slow archive that has none of it; what fails there is then read from pg_wal.
        let archive = "restore_command = 'while [ -e hold-%f ]; do sleep 0.05; done; false'";
        // It would ask for the next segment before it replays what it has of the last.
        ground.tree.configure(LEAF, &format!("{archive}\nrecovery_prefetch = off"));
        reload(&ground, LEAF).await;
        ground.tree.sql(LEAF, "SELECT pg_wal_replay_pause()").await;
        ground.tree.until(LEAF, "SELECT pg_get_wal_replay_pause_state()", "paused").await;
        let mut segments = Vec::new();
        for _ in 0..5 {
            segments.push(ground.tree.value(PRIMARY, "SELECT pg_walfile_name(pg_switch_wal())").await);
            ground.flows(&["eu-1", "eu-2"]).await;
        }
        let received = ground.tree.value(PRIMARY, "SELECT pg_current_wal_flush_lsn()").await;
        ground.tree.until(LEAF, &format!("SELECT pg_last_wal_receive_lsn() >= '{received}'"), "t").await;
        let held = ground.tree.data(LEAF).join(format!("hold-{}", segments[2]));
        std::fs::write(&held, "").unwrap();
        let begun = Self::begun(&ground);
        Self { ground, held, received, begun }
    }

    /// What is another one in a directory that was made anew.
    fn begun(ground: &Ground) -> u64 {
        let version = std::fs::metadata(ground.tree.data(LEAF).join("PG_VERSION")).unwrap();
        std::os::unix::fs::MetadataExt::ino(&version)
    }

    /// Everybody else removes what the leaf has received, as slots that keep no more than that let them.
    async fn only_the_leaf_has_it(&self) {
        let Self { ground, received, .. } = self;
        let forward = format!(
            "SELECT pg_replication_slot_advance(slot_name, '{received}') FROM pg_replication_slots \
             WHERE slot_name = 'eu_3' AND NOT active AND restart_lsn < '{received}'"
        );
        let held = format!(
            "SELECT count(*) FROM pg_ls_waldir() WHERE name <= '{}' AND name ~ '^[0-9A-F]{{24}}$'",
            self.segment()
        );
        for node in [PRIMARY, "eu-1", "eu-2"] {
            eventually(&format!("{node} has removed it"), async || {
                ground.tree.sql(node, &forward).await;
                ground.tree.sql(PRIMARY, "CHECKPOINT").await;
                ground.flows(&["eu-1", "eu-2"]).await;
                ground.tree.sql(node, "CHECKPOINT").await;
                ground.tree.value(node, &held).await == "0"
            })
            .await;
        }
    }

    fn segment(&self) -> &str {
        let name = self.held.file_name().and_then(|name| name.to_str()).unwrap();
        name.trim_start_matches("hold-")
    }
}

/// What a leaf is told whose stream ended and which still reads what it has itself, and what comes of it.
async fn waits_it_out(backlog: &Backlog, upstream: &str) {
    let ground = &backlog.ground;
    let waits = "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'";
    ground.tree.until(LEAF, waits, "RestoreCommand").await;
    ground.tree.sql(PRIMARY, "CREATE TABLE beyond AS SELECT 1").await;
    ground.told("CutOffLeaf", LEAF).await;
    ground.asked(LEAF, 5).await;
    let there = "SELECT to_regclass('beyond') IS NOT NULL";
    assert_eq!(ground.tree.value(LEAF, there).await, "f");
    assert_eq!(ground.tree.value(LEAF, "SELECT count(*) FROM pg_stat_wal_receiver").await, "0");

    goes_on(backlog, upstream).await;
}

/// It reads on, has all rows in the end, and is neither told that its WAL is gone nor made anew.
async fn goes_on(backlog: &Backlog, upstream: &str) {
    let ground = &backlog.ground;
    std::fs::remove_file(&backlog.held).unwrap();
    ground.tree.until(LEAF, "SELECT to_regclass('beyond') IS NOT NULL", "t").await;
    receives_from(ground, upstream).await;
    ground.as_declared().await;
    let told = ground.events().await;
    assert!(told.iter().all(|(reason, _)| reason != "WalGone"), "{told:#?}");
    assert_eq!(Backlog::begun(ground), backlog.begun, "its data are others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_starts_with_wal_that_nobody_else_has_any_more_reads_it_and_is_not_told_that_it_is_gone() {
    let mut backlog = Backlog::made("own-wal").await;
    backlog.ground.tree.stop(LEAF);
    backlog.ground.told("DeadLeaf", LEAF).await;
    backlog.only_the_leaf_has_it().await;
    backlog.ground.tree.start_node(LEAF).await;
    waits_it_out(&backlog, "eu-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_asks_for_wal_which_is_removed_and_which_it_has_itself_goes_on_by_itself() {
    let backlog = Backlog::made("asks-for-own-wal").await;
    let ground = &backlog.ground;
    backlog.only_the_leaf_has_it().await;
    // A person points it to the other relay, which waltree would not do now.
    let groups = leaf_below(ground, ["b", "a"]);
    apply(&ground.manifest_with("automation: Observe", &groups));
    ground.until("Converged", "False", "ReplayBlocked").await;
    let conninfo = ground.tree.conninfo(LEAF, "eu-2").replace('\'', "''");
    ground.tree.sql(LEAF, &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).await;
    reload(ground, LEAF).await;
    // Who receives when its route changes asks from what it has replayed on (postgres-facts.md 2.4).
    ground.tree.sql(LEAF, "SELECT pg_wal_replay_resume()").await;
    eventually("its upstream has removed it", async || ground.tree.log(LEAF).contains("has already been removed"))
        .await;
    apply(&ground.manifest(&groups));
    ground.tree.sql(PRIMARY, "CREATE TABLE beyond AS SELECT 1").await;
    goes_on(&backlog, "eu-2").await;
}
