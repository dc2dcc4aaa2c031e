//! What is done about slots beyond making and dropping them, on real servers, as the role `waltree`, and each of it twice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what fails here fails the test, and a test that cannot go on has failed"
)]

mod support;

use support::certificates::Keys;
use support::fleet::{credentials, facts, fence, name, spec, until, watch, watch_as};
use support::postgres::{Tree, WALTREE_PASSWORD, eventually};
use support::proxy::Proxy;
use waltree::act::{self, NotDone};
use waltree::observe::{Credentials, Fleet, NoReplication, ServerSpec, SslMode};
use waltree::plan::Step;

async fn carry_out(fleet: &Fleet, step: &Step) -> Result<(), NotDone> {
    let writer = fleet.writer(step.server()).await.unwrap();
    act::carry_out(&writer, step).await
}

fn clear(on: &str, owner: &str) -> Step {
    Step::ClearXmin { on: name(on), owner: name(owner) }
}

/// A standby of `upstream` that tells it of its transactions by a slot of its own.
async fn with_feedback(tree: &mut Tree, node: &str, upstream: &str) {
    let slot = node.replace('-', "_");
    tree.sql(upstream, &format!("SELECT pg_create_physical_replication_slot('{slot}', true)")).await;
    tree.standby(node, upstream).await;
    tree.configure(node, &format!("primary_slot_name = {slot}\nhot_standby_feedback = on"));
    tree.sql(node, "SELECT pg_reload_conf()").await;
    tree.until(upstream, &format!("SELECT xmin IS NOT NULL FROM pg_replication_slots WHERE slot_name = '{slot}'"), "t")
        .await;
}

/// What a slot keeps and holds back: its restart_lsn, and whether it has an xmin.
async fn slot(tree: &Tree, on: &str, owner: &str) -> (String, bool) {
    let sql = format!(
        "SELECT restart_lsn, xmin IS NULL FROM pg_replication_slots WHERE slot_name = '{}'",
        owner.replace('-', "_")
    );
    let row = tree.value(on, &sql).await;
    let (restart, free) = row.split_once('|').expect("the slot is there");
    (restart.to_owned(), free == "f")
}

async fn idle(tree: &Tree, on: &str, owner: &str) {
    let slot = owner.replace('-', "_");
    tree.until(on, &format!("SELECT NOT active FROM pg_replication_slots WHERE slot_name = '{slot}'"), "t").await;
}

/// Rows that are deleted and that vacuum cannot remove as long as somebody holds them back.
async fn delete_rows(tree: &Tree) {
    tree.sql("core-1", "CREATE TABLE old AS SELECT generate_series(1, 1000)").await;
    tree.sql("core-1", "DELETE FROM old").await;
}

async fn vacuum_removes_them(tree: &Tree) -> bool {
    tree.sql("core-1", "VACUUM old").await;
    tree.value("core-1", "SELECT pg_relation_size('old')").await == "0"
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_slot_below_a_relay_lets_vacuum_on_the_primary_go_on_and_keeps_its_wal() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    with_feedback(&mut tree, "eu-1", "core-1").await;
    with_feedback(&mut tree, "eu-2", "eu-1").await;
    let fleet = watch(&tree, &["core-1", "eu-1"], Some(&fence(1, "test"))).await;
    let in_use = carry_out(&fleet, &clear("eu-1", "eu-2")).await;
    assert!(matches!(in_use, Err(NotDone::Active { slot, .. }) if slot == "eu_2"));

    tree.sql("core-1", "CHECKPOINT").await;
    tree.caught_up("eu-1", "core-1").await;
    tree.sql("eu-1", "CHECKPOINT").await;
    tree.stop("eu-2");
    idle(&tree, "eu-1", "eu-2").await;
    delete_rows(&tree).await;
    tree.caught_up("eu-1", "core-1").await;
    assert!(!vacuum_removes_them(&tree).await, "nobody holds it back");
    let (restart, held) = slot(&tree, "eu-1", "eu-2").await;
    assert!(held);

    for _ in 0..2 {
        carry_out(&fleet, &clear("eu-1", "eu-2")).await.unwrap();
        assert_eq!(slot(&tree, "eu-1", "eu-2").await, (restart.clone(), false));
    }
    eventually("vacuum goes on", async || vacuum_removes_them(&tree).await).await;

    // Cleared in memory only: a crash brings it back, and it is cleared as before.
    tree.kill("eu-1");
    tree.start_node("eu-1").await;
    let (restart, held) = slot(&tree, "eu-1", "eu-2").await;
    assert!(held, "it was saved before");
    facts(&fleet, "eu-1").await;
    eventually("it has the right again", async || fleet.writer(&name("eu-1")).await.is_ok()).await;
    carry_out(&fleet, &clear("eu-1", "eu-2")).await.unwrap();
    assert_eq!(slot(&tree, "eu-1", "eu-2").await, (restart, false));

    // The one for whom it was said finds its slot as it left it.
    tree.start_node("eu-2").await;
    tree.caught_up("eu-2", "core-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_xmin_is_cleared_with_a_password_or_a_certificate_over_tls_and_not_without_a_line_in_pg_hba_conf() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    for standby in ["eu-1", "eu-2", "eu-3", "eu-4"] {
        with_feedback(&mut tree, standby, "core-1").await;
        tree.stop(standby);
    }
    let keys = Keys::make(tree.data("core-1"));
    tree.configure("core-1", "ssl = on\nssl_ca_file = 'ca.crt'");
    let hba = async |lines: &str| {
        tree.write_hba("core-1", &format!("host all postgres 127.0.0.1/32 trust\n{lines}"));
        tree.sql("core-1", "SELECT pg_reload_conf()").await;
        let rules = "SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL";
        assert_eq!(tree.value("core-1", rules).await, "0");
    };
    tree.until("core-1", "SELECT current_setting('ssl')", "off").await;
    hba("hostssl all waltree 127.0.0.1/32 scram-sha-256").await;
    tree.until("core-1", "SELECT current_setting('ssl')", "on").await;
    let reach = async |credentials: Credentials| {
        let mut there = spec(&tree, "core-1", Some(&fence(1, "test")));
        there.access.ssl_mode = SslMode::VerifyFull;
        let credentials = Credentials { ca: Some(keys.ca.clone()), ..credentials };
        let fleet = watch_as(credentials, [(name("core-1"), there)].into()).await;
        facts(&fleet, "core-1").await;
        fleet
    };
    let fleet = reach(credentials()).await;
    let refused = carry_out(&fleet, &clear("core-1", "eu-1")).await.unwrap_err().to_string();
    assert!(refused.contains("no pg_hba.conf entry for replication connection"), "{refused}");
    assert!(slot(&tree, "core-1", "eu-1").await.1);

    for (method, owner) in [("scram-sha-256", "eu-1"), ("password", "eu-2"), ("md5", "eu-4")] {
        if method == "md5" {
            let set = format!("SET password_encryption = md5; ALTER ROLE waltree PASSWORD '{WALTREE_PASSWORD}'");
            tree.sql("core-1", &set).await;
        }
        let line = format!("hostssl all,replication waltree 127.0.0.1/32 {method}");
        hba(&line).await;
        let (restart, _) = slot(&tree, "core-1", owner).await;
        carry_out(&fleet, &clear("core-1", owner)).await.unwrap();
        assert_eq!(slot(&tree, "core-1", owner).await, (restart, false), "{method}");
    }
    let wrong = Credentials { password: Some("wrong".into()), ..credentials() };
    drop(fleet);

    hba("hostssl all waltree 127.0.0.1/32 cert\nhostssl replication waltree 127.0.0.1/32 scram-sha-256").await;
    let client_certificate = Some((keys.client.clone(), keys.client_key.clone()));
    let fleet = reach(Credentials { client_certificate: client_certificate.clone(), ..wrong }).await;
    let refused = carry_out(&fleet, &clear("core-1", "eu-3")).await.unwrap_err().to_string();
    assert!(refused.contains("28P01") && !refused.contains("wrong"), "{refused}");
    hba("hostssl all,replication waltree 127.0.0.1/32 cert").await;
    let (restart, _) = slot(&tree, "core-1", "eu-3").await;
    carry_out(&fleet, &clear("core-1", "eu-3")).await.unwrap();
    assert_eq!(slot(&tree, "core-1", "eu-3").await, (restart, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_cleared_where_the_address_leads_to_another_server_by_now() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("core-2", "core-1").await;
    with_feedback(&mut tree, "eu-1", "core-1").await;
    tree.stop("eu-1");
    idle(&tree, "core-1", "eu-1").await;
    // Another cluster, and a server of the same cluster, each with a slot of that name.
    tree.primary("other-1").await;
    for on in ["core-2", "other-1"] {
        tree.sql(on, "SELECT pg_create_physical_replication_slot('eu_1', true)").await;
    }
    let proxy = Proxy::before(tree.port("core-1")).await;
    let through = ServerSpec { port: proxy.port, ..spec(&tree, "core-1", Some(&fence(1, "test"))) };
    let fleet = watch_as(credentials(), [(name("core-1"), through)].into()).await;
    facts(&fleet, "core-1").await;
    let used = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND usename = 'waltree'";
    for on in ["core-2", "other-1"] {
        proxy.lead_to(tree.port(on));
        let before = slot(&tree, on, "eu-1").await;
        let refused = carry_out(&fleet, &clear("core-1", "eu-1")).await;
        let is_other = matches!(refused, Err(NotDone::NoReplication(NoReplication::OtherServer(..))));
        assert!(is_other, "{on}: {refused:?}");
        tree.until(on, used, "0").await;
        assert_eq!(slot(&tree, on, "eu-1").await, before);
    }
    assert!(slot(&tree, "core-1", "eu-1").await.1);
    proxy.lead_to(tree.port("core-1"));
    carry_out(&fleet, &clear("core-1", "eu-1")).await.unwrap();
    assert!(!slot(&tree, "core-1", "eu-1").await.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_cleared_by_a_leader_that_was_superseded() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    with_feedback(&mut tree, "eu-1", "core-1").await;
    tree.stop("eu-1");
    idle(&tree, "core-1", "eu-1").await;
    let older = watch(&tree, &["core-1"], Some(&fence(1, "old"))).await;
    facts(&older, "core-1").await;
    let paused = older.writer(&name("core-1")).await.unwrap();
    let newer = watch(&tree, &["core-1"], Some(&fence(2, "new"))).await;
    eventually("the newer one has the right", async || newer.writer(&name("core-1")).await.is_ok()).await;
    assert!(act::carry_out(&paused, &clear("core-1", "eu-1")).await.is_err(), "its session was ended");
    assert!(slot(&tree, "core-1", "eu-1").await.1);
    carry_out(&newer, &clear("core-1", "eu-1")).await.unwrap();
    assert!(!slot(&tree, "core-1", "eu-1").await.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walsender_is_ended_only_while_it_holds_the_slot() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    with_feedback(&mut tree, "eu-1", "core-1").await;
    let fleet = watch(&tree, &["core-1"], Some(&fence(1, "test"))).await;
    let seen = until(&fleet, "core-1", "has the slot in use", |facts| facts.slots["eu_1"].active_pid.is_some()).await;
    assert!(seen.may_end_senders);
    let pid = seen.slots["eu_1"].active_pid.unwrap();
    let end = |pid| Step::EndSender { on: name("core-1"), owner: name("eu-1"), pid };

    // Neither a process that holds another slot or none, nor one that does not exist.
    let other: i32 =
        tree.value("core-1", "SELECT pid FROM pg_stat_activity WHERE usename = 'waltree'").await.parse().unwrap();
    for stranger in [other, i32::MAX] {
        carry_out(&fleet, &end(stranger)).await.unwrap();
    }
    assert_eq!(facts(&fleet, "core-1").await.slots["eu_1"].active_pid, Some(pid));

    carry_out(&fleet, &end(pid)).await.unwrap();
    let anew = |facts: &waltree::model::Facts| facts.slots["eu_1"].active_pid.is_some_and(|now| now != pid);
    let now = until(&fleet, "core-1", "has another connection", anew).await.slots["eu_1"].active_pid;
    carry_out(&fleet, &end(pid)).await.unwrap();
    assert_eq!(facts(&fleet, "core-1").await.slots["eu_1"].active_pid, now);

    tree.sql("core-1", "REVOKE pg_signal_backend FROM waltree").await;
    let refused = carry_out(&fleet, &end(now.unwrap())).await;
    // It may end what its own role runs, and nobody else's.
    assert!(matches!(refused, Err(NotDone::Refused(_))), "{refused:?}");
    drop(fleet);
    let fleet = watch(&tree, &["core-1"], Some(&fence(1, "test"))).await;
    let lacking = facts(&fleet, "core-1").await;
    assert!(!lacking.may_end_senders && lacking.missing_grants.is_empty());
}
