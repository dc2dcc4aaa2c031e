//! The right to write: who has it, who loses it, and that nothing at all is written without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "what fails here fails the test, and figures are shown"
)]

mod support;

use support::fleet::{credentials, fence, name, spec, until, watch, watch_as};
use support::postgres::{Tree, eventually};
use waltree::act;
use waltree::observe::{Credentials, Fence, Fleet, NoRight, ServerSpec};
use waltree::plan::Step;

fn heartbeat() -> Step {
    Step::Heartbeat { primary: name("core-1") }
}

async fn right(fleet: &Fleet) -> Result<(), NoRight> {
    fleet.writer(&name("core-1")).await.map(drop)
}

/// What a session with this right is called on `core-1`.
fn called(fence: &Fence) -> String {
    fence.application_name(&name("core-1"))
}

async fn gets_the_right(fleet: &Fleet) {
    eventually("it has the right to write", async || right(fleet).await.is_ok()).await;
}

const HOLDERS: &str = "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) \
                       WHERE locktype = 'advisory' AND granted";

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_leader_takes_over_and_the_older_one_is_refused_by_name() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let older = watch(&tree, &["core-1"], Some(&fence(1, "old"))).await;
    gets_the_right(&older).await;
    assert_eq!(tree.sql("core-1", HOLDERS).await, [called(&fence(1, "old"))]);

    // It holds a session as one that was paused does.
    let paused = older.writer(&name("core-1")).await.unwrap();
    let newer = watch(&tree, &["core-1"], Some(&fence(2, "new"))).await;
    gets_the_right(&newer).await;
    assert_eq!(tree.sql("core-1", HOLDERS).await, [called(&fence(2, "new"))]);
    assert!(act::carry_out(&paused, &heartbeat()).await.is_err(), "its session was ended");
    drop(paused);

    let superseded = NoRight::Superseded { holder: called(&fence(2, "new")) };
    eventually("the older one knows", async || right(&older).await == Err(superseded.clone())).await;
    assert!(superseded.to_string().starts_with("Superseded"));
    // It goes on to see, and gets the right when the newer one is gone and nobody else wants it.
    until(&older, "core-1", "is seen", |_| true).await;
    drop(newer);
    gets_the_right(&older).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_logs_in_to_another_database_takes_over_all_the_same_and_the_older_one_is_refused() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.sql("core-1", "CREATE DATABASE other").await;
    let elsewhere = || Credentials { dbname: "other".into(), ..credentials() };
    let watch_elsewhere = async |fence: &Fence| {
        watch_as(elsewhere(), [(name("core-1"), spec(&tree, "core-1", Some(fence)))].into()).await
    };
    let older = watch(&tree, &["core-1"], Some(&fence(1, "old"))).await;
    gets_the_right(&older).await;
    let paused = older.writer(&name("core-1")).await.unwrap();

    let newer = watch_elsewhere(&fence(2, "new")).await;
    gets_the_right(&newer).await;
    assert_eq!(tree.sql("core-1", HOLDERS).await, [called(&fence(2, "new"))]);
    assert!(act::carry_out(&paused, &heartbeat()).await.is_err(), "its session was ended");
    drop(paused);

    let superseded = NoRight::Superseded { holder: called(&fence(2, "new")) };
    eventually("the older one knows", async || right(&older).await == Err(superseded.clone())).await;
    // Nor does it keep a lock that it may not use.
    tree.until("core-1", HOLDERS, &called(&fence(2, "new"))).await;
    drop(newer);
    gets_the_right(&older).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_leader_takes_over_whatever_number_the_name_of_the_topology_becomes() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    // 0xc6b86d58: below zero for one who sends it and above for one who reads it.
    let of = |term, who| Fence { scope: "shop/bills".into(), ..fence(term, who) };
    let older = watch(&tree, &["core-1"], Some(&of(1, "old"))).await;
    gets_the_right(&older).await;
    let newer = watch(&tree, &["core-1"], Some(&of(2, "new"))).await;
    gets_the_right(&newer).await;
    assert_eq!(tree.sql("core-1", HOLDERS).await, [called(&fence(2, "new"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_comes_back_ends_its_own_session_of_before() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let before = watch(&tree, &["core-1"], Some(&fence(3, "me"))).await;
    gets_the_right(&before).await;
    let lost = before.writer(&name("core-1")).await.unwrap();
    let after = watch(&tree, &["core-1"], Some(&fence(3, "me"))).await;
    gets_the_right(&after).await;
    assert!(act::carry_out(&lost, &heartbeat()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_names_of_one_server_do_not_end_each_others_session() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let own = fence(3, "me");
    let by_ip = spec(&tree, "core-1", Some(&own));
    let by_name = ServerSpec { address: "localhost".into(), ..by_ip.clone() };
    let fleet = watch_as(credentials(), [(name("core-1"), by_ip), (name("core-2"), by_name)].into()).await;
    let sessions =
        "SELECT pid, application_name FROM pg_stat_activity WHERE application_name LIKE 'waltree:%' ORDER BY 2";
    eventually("both are logged in", async || tree.sql("core-1", sessions).await.len() == 2).await;
    let before = tree.sql("core-1", sessions).await;
    let nodes = ["core-1", "core-2"];
    for _ in 0..4 {
        for node in nodes {
            until(&fleet, node, "is seen", |_| true).await;
        }
        let mut rights = Vec::new();
        for node in nodes {
            rights.push(fleet.writer(&name(node)).await.map(drop));
        }
        let holder = |node: &str| NoRight::SameServer { holder: own.application_name(&name(node)) };
        let one = [[Ok(()), Err(holder("core-1"))], [Err(holder("core-2")), Ok(())]];
        assert!(one.iter().any(|one| rights == one), "{rights:?}");
    }
    assert_eq!(tree.sql("core-1", sessions).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_is_taken_again_with_its_right() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    // On a standby the lock works as well.
    for node in ["core-1", "eu-1"] {
        let fleet = watch(&tree, &[node], Some(&fence(1, "me"))).await;
        eventually("it has the right", async || fleet.writer(&name(node)).await.is_ok()).await;
        let pid = tree.value(node, "SELECT pid FROM pg_locks WHERE locktype = 'advisory'").await;
        tree.sql(node, &format!("SELECT pg_terminate_backend({pid})")).await;
        tree.until(node, &format!("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid <> {pid}"), "1")
            .await;
        eventually("it has the right again", async || fleet.writer(&name(node)).await.is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_topologies_that_share_a_server_do_not_fence_each_other() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let orders = watch(&tree, &["core-1"], Some(&fence(1, "me"))).await;
    let bills = Fence { scope: "shop/bills".into(), ..fence(1, "me") };
    let bills = watch(&tree, &["core-1"], Some(&bills)).await;
    gets_the_right(&orders).await;
    gets_the_right(&bills).await;
    assert_eq!(tree.sql("core-1", HOLDERS).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_that_is_gained_later_is_taken_by_the_servers_that_are_watched_already() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let fleet = watch(&tree, &["core-1"], None).await;
    until(&fleet, "core-1", "is seen", |_| true).await;
    assert_eq!(right(&fleet).await, Err(NoRight::ObserveOnly));
    fleet.watch(&[(name("core-1"), spec(&tree, "core-1", Some(&fence(1, "me"))))].into());
    gets_the_right(&fleet).await;
    fleet.watch(&[(name("core-1"), spec(&tree, "core-1", None))].into());
    until(&fleet, "core-1", "is seen", |_| true).await;
    assert_eq!(right(&fleet).await, Err(NoRight::ObserveOnly));
    tree.until("core-1", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_only_observes_sends_nothing_but_reads_and_takes_no_lock() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    let state = async |node: &str| {
        let settings = tree.sql(node, "SELECT name, setting FROM pg_settings ORDER BY 1").await;
        let slots = tree.sql(node, "SELECT slot_name, restart_lsn FROM pg_replication_slots ORDER BY 1").await;
        let files = std::fs::read_to_string(tree.data(node).join("postgresql.auto.conf")).unwrap();
        (settings, slots, files)
    };
    for node in ["core-1", "eu-1"] {
        tree.configure(node, "log_statement = all");
        tree.sql(node, "SELECT pg_reload_conf()").await;
        tree.until(node, "SELECT current_setting('log_statement')", "all").await;
    }
    let before = (state("core-1").await, state("eu-1").await);
    let fleet = watch(&tree, &["core-1", "eu-1"], None).await;
    for node in ["core-1", "eu-1"] {
        until(&fleet, node, "is seen", |_| true).await;
        fleet.poke(&name(node));
        until(&fleet, node, "is seen again", |_| true).await;
        assert_eq!(fleet.writer(&name(node)).await.err(), Some(NoRight::ObserveOnly));
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
        assert_eq!(tree.value(node, locks).await, "0");
    }
    assert_eq!((state("core-1").await, state("eu-1").await), before);
    for node in ["core-1", "eu-1"] {
        let log = tree.log(node);
        assert!(log.contains("pg_control_system()"), "the log has what we ask");
        for write in ["pg_try_advisory_lock", "pg_terminate_backend", "pg_create_physical", "pg_logical_emit_message("]
        {
            assert!(!log.contains(write), "{node}: {write}");
        }
    }
}
