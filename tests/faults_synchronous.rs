//! Commits that wait for a standby, and routes that would take it from them: on real servers, whose commits are made.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use support::ground::{Ground, PRIMARY, apply, star};
use support::postgres::{Tree, eventually};
use support::region;

/// Commits on the primary wait for these.
async fn wait_for(tree: &Tree, names: &str) {
    let client = tree.connect(PRIMARY).await.unwrap();
    client.batch_execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let is_set = format!("SELECT current_setting('synchronous_standby_names') = '{names}'");
    tree.until(PRIMARY, &is_set, "t").await;
}

/// The names of those that commits wait for.
async fn synchronous(tree: &Tree) -> String {
    let names =
        "SELECT string_agg(application_name, ',' ORDER BY 1) FROM pg_stat_replication WHERE sync_state = 'sync'";
    tree.value(PRIMARY, names).await
}

/// No commit waits for a standby that is not there.
async fn commits(ground: &Ground) {
    let commit = ground.tree.sql(PRIMARY, "CREATE TABLE IF NOT EXISTS committed ()");
    tokio::time::timeout(Duration::from_secs(30), commit).await.expect("a commit is made");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    ground.tree.until(PRIMARY, waiting, "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_standby_under_another_name_is_not_renamed_until_the_primary_waits_for_its_new_name() {
    let mut tree = star(&["core-3"]).await;
    let conninfo = tree.conninfo_to("db2", tree.address(PRIMARY), tree.port(PRIMARY));
    tree.standby_with("core-2", &conninfo).await;
    wait_for(&tree, "FIRST 1 (db2)").await;
    eventually("db2 is synchronous", async || synchronous(&tree).await == "db2").await;
    let ground = Ground::of(tree, "synchronous-name").await;
    let before = ground.connected(&["core-2"]).await;
    apply(&ground.manifest(&[ground.group("core", "", &[PRIMARY, "core-2", "core-3"])]));
    let message = ground.until("Converged", "False", "Blocked").await;
    assert!(message.contains("core-1 waits for core-2 as a synchronous standby by the name db2"), "{message}");
    assert!(message.contains("Put core-2 into synchronous_standby_names on core-1 first"), "{message}");
    // Nobody waits for the other, so its route is set.
    let name = "SELECT current_setting('primary_conninfo') LIKE '%application_name=core-3 %'";
    ground.tree.until("core-3", name, "t").await;
    ground.asked("core-2", 5).await;
    commits(&ground).await;
    ground.untouched(&before).await;
    assert_eq!(synchronous(&ground.tree).await, "db2");

    wait_for(&ground.tree, "FIRST 1 (db2, \"core-2\")").await;
    ground.as_declared().await;
    eventually("core-2 is synchronous", async || synchronous(&ground.tree).await == "core-2").await;
    commits(&ground).await;
    ground.flows(&["core-2", "core-3"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_standby_is_not_put_below_a_relay_until_the_primary_waits_for_it_no_more() {
    let tree = star(&["eu-1", "eu-2"]).await;
    wait_for(&tree, "FIRST 1 (\"eu-2\")").await;
    eventually("eu-2 is synchronous", async || synchronous(&tree).await == "eu-2").await;
    let ground = Ground::of(tree, "synchronous-leaf").await;
    apply(&ground.manifest(&ground.groups()));
    let message = ground.until("Converged", "False", "Blocked").await;
    assert!(message.contains("its route takes it away from core-1, so that commits hang"), "{message}");
    assert!(message.contains("Take it out of synchronous_standby_names on core-1 first"), "{message}");
    ground.asked("eu-2", 5).await;
    commits(&ground).await;
    assert_eq!(synchronous(&ground.tree).await, "eu-2");

    wait_for(&ground.tree, "").await;
    ground.as_declared().await;
    region::fed_by(&ground, "eu-2", "eu-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_commits_wait_for_any_standby_the_tree_is_formed_and_they_go_on() {
    let tree = star(&[&region::ROOT[1..], &region::REGION].concat()).await;
    wait_for(&tree, "*").await;
    let ground = Ground::of(tree, "synchronous-any").await;
    apply(&ground.manifest(&region::groups(&ground)));
    region::formed(&ground).await;
    commits(&ground).await;
}
