//! Routes that somebody else makes or that we may not make, and upstreams that give nothing to one leaf: made for real on
//! real servers, and seen by the readers of the leaves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use support::ground::{Ground, MISSES_BEYOND, PRIMARY, apply, star};
use support::postgres::eventually;
use support::region::{LEAVES_OF_EU_1, REGION, ROOT, fed_by, groups, region};

/// Points a node to a server by hand, without a slot. In one session, before anybody puts it back.
async fn point(ground: &Ground, node: &str, upstream: &str) {
    let conninfo = ground.tree.conninfo(node, upstream);
    let client = ground.tree.connect(node).await.unwrap();
    let set = format!("ALTER SYSTEM SET primary_conninfo = '{}'", conninfo.replace('\'', "''"));
    client.batch_execute(&set).await.unwrap();
    client.batch_execute("ALTER SYSTEM SET primary_slot_name = ''").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let made = format!("parameter \"primary_conninfo\" changed to \"{conninfo}\"");
    eventually("somebody pointed it there", async || ground.tree.log(node).contains(&made)).await;
}

async fn only_look(ground: &Ground) {
    apply(&ground.manifest_with("automation: Observe", &groups(ground)));
    // A session that may write is another one than before.
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    for node in [&ROOT[..], &REGION].concat() {
        ground.tree.until(node, locks, "0").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_somebody_pointed_to_a_server_outside_is_named_and_pointed_back() {
    let mut ground = region("wrong-upstream").await;
    let conninfo = ground.tree.conninfo("outside", PRIMARY);
    ground.tree.standby_with("outside", &conninfo).await;
    let before = ground.connected(&["eu-1", "eu-2", "eu-4", "eu-5"]).await;
    // Who may write puts it back before it has a name.
    only_look(&ground).await;
    point(&ground, "eu-3", "outside").await;
    fed_by(&ground, "eu-3", "outside").await;
    let from = format!("eu-3 receives from 127.0.0.1:{}, which is not in the topology", ground.tree.port("outside"));
    ground.told("WrongUpstream", &from).await;
    apply(&ground.manifest(&groups(&ground)));
    fed_by(&ground, "eu-3", "eu-1").await;
    ground.untouched(&before).await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_waits_in_the_files_of_a_node_is_written_over_and_nobody_reconnects() {
    let ground = region("waiting-route").await;
    let before = ground.connected(&LEAVES_OF_EU_1).await;
    let conninfo = ground.tree.conninfo("eu-3", "eu-2").replace('\'', "''");
    ground.tree.value("eu-3", &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).await;
    let waits =
        "SELECT bool_or(setting <> current_setting(name)) FROM pg_file_settings WHERE name = 'primary_conninfo'";
    ground.tree.until("eu-3", waits, "f").await;
    // What the next restart, or anybody's reload, brings is what runs.
    ground.tree.value("eu-3", "SELECT pg_reload_conf()").await;
    ground.untouched(&before).await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_somebody_else_that_knows_its_upstream_by_another_host_is_found_there_and_left_alone() {
    let mut tree = star(&["eu-1", "eu-2"]).await;
    let conninfo = tree.conninfo_to("his-2", "localhost", tree.port(PRIMARY));
    tree.standby_with("core-2", &conninfo).await;
    let mut ground = Ground::of(tree, "another-host").await;
    let before = ground.connected(&["core-2"]).await;
    let groups = [
        ground.group("core", "management: Observe", &ROOT),
        ground.group("eu", "upstreams: [core], relays: 1", &["eu-1", "eu-2"]),
    ];
    apply(&ground.manifest(&groups));
    ground.as_declared().await;
    ground.untouched(&before).await;
    // It is the fallback of tier 1, with a slot.
    let ports = format!("%port={},{} %", ground.tree.port(PRIMARY), ground.tree.port("core-2"));
    let listed = format!("SELECT current_setting('primary_conninfo') LIKE '{ports}'");
    assert_eq!(ground.tree.value("eu-1", &listed).await, "t");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'eu_1'";
    assert_eq!(ground.tree.value("core-2", slots).await, "1");

    // Which of two of one name is the standby cannot be told.
    ground.tree.standby_with("outside", &conninfo).await;
    ground.told("WrongUpstream", "core-2").await;
    let message = ground.until("Rooted", "False", "WrongUpstream").await;
    assert!(message.contains("Write the host that its primary_conninfo names"), "{message}");
    ground.tree.kill("outside");
    ground.as_declared().await;
    ground.untouched(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_that_nobody_may_break_is_named_and_broken_by_who_may() {
    let ground = region("ring-named").await;
    only_look(&ground).await;
    point(&ground, "eu-1", "eu-3").await;
    ground.told("Ring", "eu-1").await;
    // Both ends of each edge say `streaming`, and nothing that is written arrives.
    let row = "CREATE TABLE after_the_ring AS SELECT 1";
    ground.tree.sql(PRIMARY, row).await;
    ground.flows(&["eu-2", "eu-4"]).await;
    let missing = "SELECT to_regclass('after_the_ring') IS NULL";
    for node in ["eu-1", "eu-3", "eu-5"] {
        assert_eq!(ground.tree.value(node, missing).await, "t", "{node}");
    }
    apply(&ground.manifest(&groups(&ground)));
    fed_by(&ground, "eu-1", PRIMARY).await;
    for leaf in LEAVES_OF_EU_1 {
        fed_by(&ground, leaf, "eu-1").await;
    }
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_its_relay_does_not_let_in_is_named_fed_elsewhere_and_asked_back() {
    let ground = region("cut-off-leaf").await;
    let before = ground.connected(&["eu-5"]).await;
    // Who may write feeds it elsewhere before it has a name.
    only_look(&ground).await;
    let hba = std::fs::read_to_string(ground.tree.data("eu-1").join("pg_hba.conf")).unwrap();
    let without: String = hba.split_inclusive('\n').filter(|line| !line.contains("replication")).collect();
    assert_ne!(hba, without);
    ground.tree.write_hba("eu-1", &without);
    ground.tree.sql("eu-1", "SELECT pg_reload_conf()").await;
    // The other keeps the connection that it has.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'eu-3'";
    ground.tree.sql("eu-1", end).await;
    ground.told("CutOffLeaf", "eu-3").await;
    ground.misses("eu-3", &REGION[3..]).await;
    apply(&ground.manifest(&groups(&ground)));
    fed_by(&ground, "eu-3", "eu-2").await;
    ground.untouched(&before).await;
    ground.tree.write_hba("eu-1", &hba);
    ground.tree.sql("eu-1", "SELECT pg_reload_conf()").await;
    fed_by(&ground, "eu-3", "eu-1").await;
    ground.untouched(&before).await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_primary_is_frozen_it_is_named_and_nobody_is_moved() {
    let ground = region("hung-primary").await;
    let before = ground.connected(&["eu-3", "eu-4", "eu-5"]).await;
    ground.flows(&REGION[2..]).await;
    let writer = ground.tree.connect(PRIMARY).await.unwrap();
    ground.tree.freeze(PRIMARY);
    let write = tokio::spawn(async move { writer.batch_execute("CREATE TABLE beyond AS SELECT 1").await });
    ground.told("HungPrimary", PRIMARY).await;
    // Who writes waits, and who reads sees what was written before.
    for leaf in &REGION[2..] {
        assert_eq!(ground.tree.value(leaf, MISSES_BEYOND).await, "t");
    }
    ground.tree.thaw(PRIMARY);
    write.await.unwrap().unwrap();
    for leaf in &REGION[2..] {
        ground.tree.until(leaf, MISSES_BEYOND, "f").await;
    }
    ground.flows(&REGION[2..]).await;
    ground.untouched(&before).await;
    ground.as_declared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named_with_the_sql_that_grants_it_and_nothing_is_written_until_then() {
    let tree = star(&["eu-1", "eu-2"]).await;
    tree.sql(PRIMARY, "REVOKE ALTER SYSTEM ON PARAMETER primary_conninfo FROM waltree").await;
    let may = "SELECT has_parameter_privilege('waltree', 'primary_conninfo', 'ALTER SYSTEM')";
    for node in ["eu-1", "eu-2"] {
        tree.until(node, may, "f").await;
    }
    let ground = Ground::of(tree, "missing-grant").await;
    let before = ground.connected(&["eu-1", "eu-2"]).await;
    apply(&ground.manifest(&ground.groups()));
    let message = ground.until("Converged", "False", "MissingGrant").await;
    let (_, grant) = message.split_once("Run on the primary: ").unwrap();
    let grant = grant.split_inclusive(';').next().unwrap().to_owned();
    ground.told("MissingGrant", "eu-2").await;
    ground.untouched(&before).await;
    ground.tree.sql(PRIMARY, &grant).await;
    ground.as_declared().await;
    ground.flows(&["eu-1", "eu-2"]).await;
}
