//! Each way a server can fail, made for real on real servers: what the readers of a leaf see, and what it is called.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::process::Command;

use support::ground::{Ground, MISSES_BEYOND, PRIMARY, apply, star};
use support::postgres::eventually;
use support::region::{LEAVES_OF_EU_1, REGION, ROOT, fed_by, groups, region};
use support::walsenders::Walsenders;

/// Sends a signal to one process of a server.
fn signal(pid: &str, signal: &str) {
    assert!(Command::new("kill").args([signal, pid]).status().unwrap().success());
}

async fn reload(ground: &Ground, node: &str) {
    ground.tree.sql(node, "SELECT pg_reload_conf()").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_relay_is_left_and_gets_its_leaves_back() {
    let ground = region("hung-relay").await;
    ground.tree.freeze("eu-1");
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-2").await;
    }
    ground.told("HungRelay", "eu-1").await;
    ground.tree.thaw("eu-1");
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-1").await;
    }
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_answers_and_receives_nothing_is_left() {
    let ground = region("cut-off-relay").await;
    let receiver = ground.tree.value("eu-1", "SELECT pid FROM pg_stat_wal_receiver").await;
    signal(&receiver, "-STOP");
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-2").await;
    }
    ground.told("CutOffRelay", "eu-1").await;
    // It was pointed to a standby of the primary, and PostgreSQL waits for ever for the walreceiver to end.
    ground.tree.until("eu-1", "SELECT status FROM pg_stat_wal_receiver", "stopping").await;
    signal(&receiver, "-CONT");
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-1").await;
    }
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leaf_is_named_although_its_upstream_shows_it_streaming() {
    let ground = region("hung-leaf").await;
    let before = ground.connected(&["eu-5"]).await;
    ground.tree.freeze("eu-3");
    ground.told("HungLeaf", "eu-3").await;
    let shown = "SELECT state FROM pg_stat_replication WHERE application_name = 'eu-3'";
    assert_eq!(ground.tree.value("eu-1", shown).await, "streaming");
    ground.tree.thaw("eu-3");
    fed_by(&ground, "eu-3", "eu-1").await;
    ground.untouched(&before).await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_is_put_below_an_upstream_that_is_behind_it_is_taken_away() {
    let ground = region("ahead").await;
    let receiver = ground.tree.value("eu-1", "SELECT pid FROM pg_stat_wal_receiver").await;
    signal(&receiver, "-STOP");
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-2").await;
    }
    // Ahead within one segment PostgreSQL sees nothing wrong: it streams, and waits (postgres-facts.md 3).
    let position = "SELECT pg_last_wal_replay_lsn()";
    let (ahead, behind) = (ground.tree.value("eu-3", position).await, ground.tree.value("eu-1", position).await);
    assert_eq!(ground.tree.value("eu-3", &format!("SELECT '{ahead}'::pg_lsn > '{behind}'")).await, "t");
    let conninfo = ground.tree.conninfo("eu-3", "eu-1");
    let client = ground.tree.connect("eu-3").await.unwrap();
    let set = format!("ALTER SYSTEM SET primary_conninfo = '{}'", conninfo.replace('\'', "''"));
    client.batch_execute(&set).await.unwrap();
    client.batch_execute("ALTER SYSTEM SET primary_slot_name = ''").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let made = format!("parameter \"primary_conninfo\" changed to \"{conninfo}\"");
    eventually("somebody put it there", async || ground.tree.log("eu-3").contains(&made)).await;
    fed_by(&ground, "eu-3", "eu-2").await;
    signal(&receiver, "-CONT");
    fed_by(&ground, "eu-3", "eu-1").await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_whose_walreceiver_does_not_end_is_named() {
    let ground = region("stuck-receiver").await;
    let receiver = ground.tree.value("eu-3", "SELECT pid FROM pg_stat_wal_receiver").await;
    signal(&receiver, "-STOP");
    ground.told("WalReceiverStuck", "eu-3").await;
    ground.misses("eu-3", &["eu-5"]).await;
    signal(&receiver, "-CONT");
    ground.flows(&["eu-3"]).await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_lets_nobody_in_is_left_by_those_who_need_it() {
    let ground = region("half-relay").await;
    let hba = std::fs::read_to_string(ground.tree.data("eu-1").join("pg_hba.conf")).unwrap();
    let without: String = hba.split_inclusive('\n').filter(|line| !line.contains("replication")).collect();
    assert_ne!(hba, without);
    ground.tree.write_hba("eu-1", &without);
    reload(&ground, "eu-1").await;
    ground.tree.sql("eu-1", "SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await;
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-2").await;
    }
    ground.told("HalfRelay", "eu-1").await;
    ground.tree.write_hba("eu-1", &hba);
    reload(&ground, "eu-1").await;
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-1").await;
    }
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_has_no_walsender_left_is_left_by_those_who_need_one() {
    let ground = region("no-walsender").await;
    let hba = std::fs::read_to_string(ground.tree.data("eu-1").join("pg_hba.conf")).unwrap();
    ground.tree.write_hba("eu-1", &format!("{hba}host replication postgres 127.0.0.1/32 trust\n"));
    reload(&ground, "eu-1").await;
    let mut taken = Walsenders::default();
    eventually("others have all of them", async || {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name LIKE 'eu-%'";
        ground.tree.sql("eu-1", end).await;
        taken.take(&ground.tree, "eu-1").await
    })
    .await;
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-2").await;
    }
    ground.told("HalfRelay", "eu-1").await;
    drop(taken);
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-1").await;
    }
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_with_paused_replay_follows_when_it_goes_on() {
    let mut ground = region("replay-paused").await;
    ground.tree.sql("eu-3", "SELECT pg_wal_replay_pause()").await;
    ground.told("ReplayBlocked", "eu-3").await;
    ground.tree.kill("eu-1");
    fed_by(&ground, "eu-5", "eu-2").await;
    ground.told("DeadRelay", "eu-1").await;
    let writes = || ground.tree.log("eu-3").matches("received SIGHUP").count();
    eventually("it is not told again and again what it cannot do", async || {
        let before = writes();
        ground.asked("eu-3", 5).await;
        writes() == before
    })
    .await;
    ground.tree.sql("eu-3", "SELECT pg_wal_replay_resume()").await;
    fed_by(&ground, "eu-3", "eu-2").await;
    ground.tree.start_node("eu-1").await;
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-1").await;
    }
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_below_that_of_the_primary_is_named_with_both_values() {
    let mut ground = region("parameter").await;
    let most: u32 = ground.tree.value(PRIMARY, "SHOW max_connections").await.parse().unwrap();
    ground.tree.configure(PRIMARY, &format!("max_connections = {}", most + 7));
    ground.tree.stop(PRIMARY);
    ground.tree.start_node(PRIMARY).await;
    ground.told("ParameterTooLow", "eu-3").await;
    let told = ground.events().await;
    let named = format!("max_connections is {most} on eu-3 and {} on {PRIMARY}", most + 7);
    assert!(told.iter().any(|(reason, note)| reason == "ParameterTooLow" && note.contains(&named)), "{told:?}");
    // It has the WAL and does not replay it; its readers see what was before.
    ground.tree.sql(PRIMARY, "CREATE TABLE beyond AS SELECT 1").await;
    let end = ground.tree.value(PRIMARY, "SELECT pg_current_wal_flush_lsn()").await;
    ground.tree.until("eu-3", &format!("SELECT pg_last_wal_receive_lsn() >= '{end}'"), "t").await;
    assert_eq!(ground.tree.value("eu-3", MISSES_BEYOND).await, "t");
    for node in [&ROOT[1..], &REGION].concat() {
        ground.tree.configure(node, &format!("max_connections = {}", most + 7));
        ground.tree.stop(node);
        ground.tree.start_node(node).await;
    }
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-1").await;
    }
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_dies_is_named_and_comes_back_to_where_it_was() {
    let mut ground = region("dead-leaf").await;
    let before = ground.connected(&["eu-1", "eu-2", "eu-4", "eu-5"]).await;
    ground.tree.kill("eu-3");
    ground.told("DeadLeaf", "eu-3").await;
    ground.untouched(&before).await;
    ground.tree.start_node("eu-3").await;
    fed_by(&ground, "eu-3", "eu-1").await;
    ground.as_declared().await;
    ground.untouched(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_whose_wal_is_gone_everywhere_is_named_and_never_cloned() {
    let mut ground = region("wal-gone").await;
    let leaf = "eu-5";
    let position = ground.tree.value(leaf, "SELECT pg_last_wal_replay_lsn()").await;
    let needed = ground.tree.value(PRIMARY, &format!("SELECT pg_walfile_name('{position}')")).await;
    ground.tree.stop(leaf);
    ground.told("DeadLeaf", leaf).await;
    let before = ground.connected(&["core-2", "eu-1", "eu-2", "eu-3", "eu-4"]).await;
    let others = [&ROOT[..], &REGION[..4]].concat();
    for node in &others {
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'eu_5'";
        ground.tree.sql(node, drop).await;
    }
    // An old segment goes with a (restart)checkpoint, once no idle slot of a fallback keeps it any more.
    let held = format!("SELECT count(*) FROM pg_ls_waldir() WHERE name <= '{needed}' AND name ~ '^[0-9A-F]+$'");
    for node in &others {
        eventually(&format!("{node} has removed {needed}"), async || {
            ground.tree.sql(PRIMARY, "SELECT pg_switch_wal()").await;
            ground.tree.sql(PRIMARY, "CHECKPOINT").await;
            ground.flows(&others).await;
            ground.tree.sql(node, "CHECKPOINT").await;
            ground.tree.value(node, &held).await == "0"
        })
        .await;
    }
    ground.tree.start_node(leaf).await;
    ground.told("WalGone", leaf).await;
    // It goes on to show what it has, and nobody makes a copy in its place.
    ground.tree.sql(PRIMARY, "CREATE TABLE beyond AS SELECT 1").await;
    ground.untouched(&before).await;
    ground.asked(leaf, 3).await;
    assert_eq!(ground.tree.value(leaf, MISSES_BEYOND).await, "t");
    // What the message says to do.
    ground.tree.stop(leaf);
    ground.tree.clone_anew(leaf, "eu-2");
    ground.tree.start_node(leaf).await;
    fed_by(&ground, leaf, "eu-1").await;
    ground.as_declared().await;
    ground.untouched(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_made_by_hand_is_broken() {
    let ground = region("ring").await;
    let conninfo = ground.tree.conninfo("eu-1", "eu-3");
    let client = ground.tree.connect("eu-1").await.unwrap();
    let set = format!("ALTER SYSTEM SET primary_conninfo = '{}'", conninfo.replace('\'', "''"));
    client.batch_execute(&set).await.unwrap();
    client.batch_execute("ALTER SYSTEM SET primary_slot_name = ''").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let ring = format!("parameter \"primary_conninfo\" changed to \"{conninfo}\"");
    eventually("somebody made a ring", async || ground.tree.log("eu-1").contains(&ring)).await;
    fed_by(&ground, "eu-1", PRIMARY).await;
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-1").await;
    }
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_again_and_again_is_named() {
    let mut ground = region("crash-loop").await;
    // A start that no pass of the operator saw is not counted.
    for _ in 0..12 {
        ground.tree.kill("eu-4");
        ground.tree.start_node("eu-4").await;
        ground.asked("eu-4", 2).await;
        ground.asked(PRIMARY, 2).await;
        if ground.events().await.iter().any(|(told, _)| told == "CrashLoop") {
            break;
        }
    }
    ground.told("CrashLoop", "eu-4").await;
    ground.flows(&["eu-4"]).await;
    // It lasts for ten minutes from the last start, or until a person says that it was mended.
    ground.until("Converged", "False", "CrashLoop").await;
    ground.plugin("acknowledge", &["eu-4"]);
    ground.over("CrashLoop", "eu-4").await;
    ground.as_declared().await;
    ground.flows(&["eu-4"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_crashes_again_and_again_loses_its_leaves_once() {
    let mut ground = region("crashing-relay").await;
    apply(&ground.manifest(&groups(&ground)).replace("settleSeconds: 1", "settleSeconds: 600"));
    ground.as_declared().await;
    ground.tree.kill("eu-1");
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-2").await;
    }
    ground.told("DeadRelay", "eu-1").await;
    // Until its route says so too, libpq begins with the one that crashes.
    let led = format!("SELECT current_setting('primary_conninfo') ~ 'port={},'", ground.tree.port("eu-2"));
    for leaf in LEAVES_OF_EU_1 {
        ground.tree.until(leaf, &led, "t").await;
        ground.asked(leaf, 3).await;
        fed_by(&ground, leaf, "eu-2").await;
    }
    let before = ground.connected(&LEAVES_OF_EU_1).await;
    for _ in 0..12 {
        ground.tree.start_node("eu-1").await;
        // A login is some questions before the first look.
        ground.asked("eu-1", 5).await;
        if ground.events().await.iter().any(|(told, _)| told == "CrashLoop") {
            break;
        }
        ground.tree.kill("eu-1");
        ground.asked(PRIMARY, 2).await;
    }
    ground.told("CrashLoop", "eu-1").await;
    ground.flows(&["eu-1"]).await;
    ground.untouched(&before).await;
    ground.plugin("acknowledge", &["eu-1"]);
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_most_servers_do_not_answer_moves_nobody() {
    let ground = region("blind").await;
    // A fallback that fails stays in a route for so long: four servers do not freeze in one moment.
    apply(&ground.manifest(&groups(&ground)).replace("settleSeconds: 1", "settleSeconds: 5"));
    ground.as_declared().await;
    let before = ground.connected(&["eu-1", "eu-3"]).await;
    let silent = ["core-2", "eu-2", "eu-4", "eu-5"];
    for node in silent {
        ground.tree.freeze(node);
    }
    let message = ground.until("Converged", "False", "BlindOperator").await;
    assert!(message.contains("Nothing is done until most are seen again"), "{message}");
    fed_by(&ground, "eu-3", "eu-1").await;
    for node in silent {
        ground.tree.thaw(node);
    }
    ground.as_declared().await;
    ground.untouched(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_that_goes_down_is_told_once_and_healed_around() {
    let mut ground = Ground::of(star(&[&ROOT[1..], &REGION].concat()).await, "zone-down").await;
    let mut manifest = ground.manifest(&groups(&ground));
    for (node, zone) in [("eu-1", "b"), ("eu-3", "b"), ("eu-2", "c"), ("eu-4", "c"), ("eu-5", "c")] {
        let host = format!("{{name: {node}, ");
        manifest = manifest.replace(&host, &format!("{host}zone: {zone}, "));
    }
    apply(&manifest);
    ground.as_declared().await;
    fed_by(&ground, "eu-3", "eu-1").await;
    ground.tree.kill("eu-1");
    ground.tree.kill("eu-3");
    ground.told("ZoneDown", "eu-1").await;
    ground.flows(&["eu-2", "eu-4", "eu-5"]).await;
    let told = ground.events().await;
    let dead = told.iter().filter(|(reason, _)| reason == "DeadRelay" || reason == "DeadLeaf").count();
    assert_eq!(dead, 0, "{told:?}");
    for node in ["eu-1", "eu-3"] {
        ground.tree.start_node(node).await;
    }
    fed_by(&ground, "eu-3", "eu-1").await;
    ground.over("ZoneDown", "eu-1").await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_relays_of_a_region_die_its_leaves_feed_each_other() {
    let mut ground = Ground::of(star(&[&ROOT[1..], &REGION].concat()).await, "regroup").await;
    let more = "upstreams: [core], relays: 2, region: eu";
    apply(&ground.manifest(&[ground.group("core", "", &ROOT), ground.group("eu", more, &REGION)]));
    ground.as_declared().await;
    for relay in ["eu-1", "eu-2"] {
        ground.tree.kill(relay);
    }
    // Two streams may come into the region.
    fed_by(&ground, "eu-3", "core-2").await;
    fed_by(&ground, "eu-4", "core-2").await;
    fed_by(&ground, "eu-5", "eu-3").await;
    for relay in ["eu-1", "eu-2"] {
        ground.tree.start_node(relay).await;
    }
    for (leaf, relay) in [("eu-3", "eu-1"), ("eu-4", "eu-2"), ("eu-5", "eu-1")] {
        fed_by(&ground, leaf, relay).await;
    }
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_primary_is_dead_nobody_is_moved() {
    let mut ground = region("dead-primary").await;
    let below = &REGION[2..];
    let before = ground.connected(&["eu-3", "eu-4", "eu-5"]).await;
    ground.tree.kill(PRIMARY);
    ground.told("DeadPrimary", PRIMARY).await;
    ground.tree.start_node(PRIMARY).await;
    ground.flows(below).await;
    ground.untouched(&before).await;
    ground.as_declared().await;
    let told = ground.events().await;
    assert!(told.iter().all(|(reason, _)| reason != "Settling"), "{told:?}");
}
