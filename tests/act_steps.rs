//! Every step on real servers, as the role `waltree`, and each of them twice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "what fails here fails the test, and figures are shown"
)]

mod support;

use std::sync::Arc;

use support::fleet::{facts, fence, name, until, watch};
use support::postgres::Tree;
use support::staleness::{Staleness, Writer};
use waltree::act::{self, NotDone};
use waltree::model::conninfo::Entry;
use waltree::model::{Conninfo, Facts, Lsn, Route, SessionAttrs};
use waltree::observe::Fleet;
use waltree::plan::Step;

async fn watch_all(tree: &Tree, nodes: &[&str]) -> Fleet {
    watch(tree, nodes, Some(&fence(1, "test"))).await
}

async fn carry_out(fleet: &Fleet, step: &Step) -> Result<(), NotDone> {
    let writer = fleet.writer(step.server()).await.unwrap();
    act::carry_out(&writer, step).await
}

/// A step that was done and is done again changes nothing and is no error.
async fn twice(fleet: &Fleet, step: &Step) {
    for _ in 0..2 {
        carry_out(fleet, step).await.unwrap();
    }
}

fn set_route(tree: &Tree, node: &str, upstream: &str, slot: Option<&str>) -> Step {
    let conninfo = Conninfo::parse(&tree.conninfo(node, upstream)).unwrap();
    Step::SetRoute {
        node: name(node),
        route: Route { entries: vec![name(upstream)], attrs: SessionAttrs::Any },
        conninfo: conninfo.with_route(node, &[Entry::new("127.0.0.1", tree.port(upstream))], false),
        nudge: false,
        slot: slot.map(ToOwned::to_owned),
    }
}

fn receives_from(tree: &Tree, upstream: &str) -> impl Fn(&Facts) -> bool + use<> {
    let port = tree.port(upstream);
    move |facts| facts.receiver.as_ref().is_some_and(|receiver| receiver.port == port)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_moves_the_primary_and_does_not_wait_for_synchronous_standbys() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.sql("core-1", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    tree.sql("core-1", "SELECT pg_reload_conf()").await;
    tree.until("core-1", "SELECT current_setting('synchronous_standby_names')", "nobody").await;
    let fleet = watch_all(&tree, &["core-1"]).await;
    let before = facts(&fleet, "core-1").await.position;
    let step = Step::Heartbeat { primary: name("core-1") };
    twice(&fleet, &step).await;
    assert!(facts(&fleet, "core-1").await.position > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_on_a_standby_is_refused() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    let fleet = watch_all(&tree, &["eu-1"]).await;
    let refused = carry_out(&fleet, &Step::Heartbeat { primary: name("eu-1") }).await.unwrap_err();
    assert!(refused.to_string().contains("recovery"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_made_moved_made_anew_and_dropped_on_a_standby() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    let fleet = watch_all(&tree, &["core-1", "eu-1"]).await;
    let (on, owner) = (name("eu-1"), name("eu-2"));
    let reserved = |facts: &Arc<Facts>| facts.slots.get("eu_2").and_then(|slot| slot.restart_lsn);

    twice(&fleet, &Step::CreateSlot { on: on.clone(), owner: owner.clone() }).await;
    let first = reserved(&facts(&fleet, "eu-1").await).unwrap();

    tree.sql("core-1", "CREATE TABLE t AS SELECT generate_series(1, 100)").await;
    tree.caught_up("eu-1", "core-1").await;
    let to = facts(&fleet, "eu-1").await.replay;
    twice(&fleet, &Step::AdvanceSlot { on: on.clone(), owner: owner.clone(), to }).await;
    assert_eq!(reserved(&facts(&fleet, "eu-1").await), Some(to));
    // Back is no direction.
    carry_out(&fleet, &Step::AdvanceSlot { on: on.clone(), owner: owner.clone(), to: first }).await.unwrap();
    assert_eq!(reserved(&facts(&fleet, "eu-1").await), Some(to));

    twice(&fleet, &Step::RecreateSlot { on: on.clone(), owner: owner.clone() }).await;
    assert!(reserved(&facts(&fleet, "eu-1").await).is_some());

    twice(&fleet, &Step::DropSlot { on: on.clone(), owner: owner.clone() }).await;
    assert_eq!(facts(&fleet, "eu-1").await.slots.len(), 0);
    let gone = carry_out(&fleet, &Step::AdvanceSlot { on, owner, to: Lsn(1) }).await;
    assert!(matches!(gone, Err(NotDone::NoSlot(slot)) if slot == "eu_2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_a_slot_makes_one_that_keeps_wal_of_one_that_keeps_none() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let fleet = watch_all(&tree, &["core-1"]).await;
    let step = Step::CreateSlot { on: name("core-1"), owner: name("eu-2") };
    tree.sql("core-1", "SELECT pg_create_physical_replication_slot('eu_2', false)").await;
    assert_eq!(facts(&fleet, "core-1").await.slots["eu_2"].restart_lsn, None);
    twice(&fleet, &step).await;
    assert!(facts(&fleet, "core-1").await.slots["eu_2"].restart_lsn.is_some());

    tree.configure("core-1", "wal_keep_size = 0\nmax_slot_wal_keep_size = 1MB");
    tree.sql("core-1", "SELECT pg_reload_conf()").await;
    tree.sql("core-1", "CREATE TABLE t (a int)").await;
    for _ in 0..3 {
        tree.sql("core-1", "INSERT INTO t VALUES (1)").await;
        tree.sql("core-1", "SELECT pg_switch_wal()").await;
    }
    tree.sql("core-1", "CHECKPOINT").await;
    until(&fleet, "core-1", "lost the slot", |facts| facts.slots["eu_2"].lost).await;
    twice(&fleet, &step).await;
    let slot = facts(&fleet, "core-1").await.slots["eu_2"].clone();
    assert!(!slot.lost && slot.restart_lsn.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_in_use_is_left_as_it_is() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    let fleet = watch_all(&tree, &["core-1", "eu-1"]).await;
    let (on, owner) = (name("core-1"), name("eu-1"));
    carry_out(&fleet, &Step::CreateSlot { on: on.clone(), owner: owner.clone() }).await.unwrap();
    carry_out(&fleet, &set_route(&tree, "eu-1", "core-1", Some("eu_1"))).await.unwrap();
    // The list of walsenders may be of a moment before that of the slots.
    let used = until(&fleet, "core-1", "has the slot in use", |facts| {
        facts.senders.iter().any(|sender| sender.slot.as_deref() == Some("eu_1"))
    })
    .await;

    for step in [
        Step::DropSlot { on: on.clone(), owner: owner.clone() },
        Step::RecreateSlot { on: on.clone(), owner: owner.clone() },
    ] {
        let refused = carry_out(&fleet, &step).await;
        assert!(matches!(refused, Err(NotDone::Active { slot, .. }) if slot == "eu_1"));
    }
    twice(&fleet, &Step::CreateSlot { on: on.clone(), owner: owner.clone() }).await;
    twice(&fleet, &Step::AdvanceSlot { on, owner, to: Lsn(u64::MAX) }).await;
    assert_eq!(facts(&fleet, "core-1").await.slots["eu_1"].active_pid, used.slots["eu_1"].active_pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_moves_a_leaf_and_keeps_the_users_keywords() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    tree.standby("eu-2", "core-1").await;
    tree.standby("eu-3", "eu-1").await;
    let fleet = watch_all(&tree, &["core-1", "eu-1", "eu-2", "eu-3"]).await;
    let writer = Writer::on(&tree, "core-1", 10).await;
    let reader = Staleness::on(&tree, "eu-3").await;
    carry_out(&fleet, &Step::CreateSlot { on: name("eu-2"), owner: name("eu-3") }).await.unwrap();

    twice(&fleet, &set_route(&tree, "eu-3", "eu-2", Some("eu_3"))).await;
    let seen = until(&fleet, "eu-3", "receives from eu-2", receives_from(&tree, "eu-2")).await;
    let at_eu_2 = until(&fleet, "eu-2", "sends on the slot", |facts| facts.slots["eu_3"].active_pid.is_some()).await;
    println!("worst staleness during a planned move: {} ms", reader.stop().await);
    drop(writer);

    assert_eq!(at_eu_2.senders.iter().map(|s| s.application_name.as_str()).collect::<Vec<_>>(), ["eu-3"]);
    let before = Conninfo::parse(&tree.conninfo("eu-3", "eu-1")).unwrap();
    for kept in ["user", "passfile"] {
        assert_eq!(seen.route.conninfo.get(kept), before.get(kept));
    }
    assert_eq!((seen.route.slot.as_str(), seen.route.pending.as_ref()), ("eu_3", None));
    tree.caught_up("eu-3", "core-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equal_route_reconnects_only_when_it_is_nudged() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    let fleet = watch_all(&tree, &["eu-1"]).await;
    let Step::SetRoute { node, route, conninfo, slot, .. } = set_route(&tree, "eu-1", "core-1", None) else { panic!() };
    let set = |nudge| Step::SetRoute {
        node: node.clone(),
        route: route.clone(),
        conninfo: conninfo.clone(),
        nudge,
        slot: slot.clone(),
    };
    let theirs = until(&fleet, "eu-1", "receives", |facts| facts.receiver.is_some()).await.receiver.clone().unwrap();
    carry_out(&fleet, &set(false)).await.unwrap();
    let anew = |facts: &Facts| facts.receiver.as_ref().is_some_and(|r| r.pid != theirs.pid);
    let first = until(&fleet, "eu-1", "receives by our route", anew).await.receiver.clone().unwrap();
    carry_out(&fleet, &set(false)).await.unwrap();
    carry_out(&fleet, &Step::Reload { node: node.clone() }).await.unwrap();
    assert_eq!(facts(&fleet, "eu-1").await.receiver.as_ref().map(|r| r.pid), Some(first.pid));
    carry_out(&fleet, &set(true)).await.unwrap();
    let again = |facts: &Facts| facts.route.nudged && facts.receiver.as_ref().is_some_and(|r| r.pid != first.pid);
    until(&fleet, "eu-1", "reconnected", again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_with_quotes_and_backslashes_arrives_as_it_is() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let fleet = watch_all(&tree, &["core-1"]).await;
    let conninfo = Conninfo::parse(r"host=a user='it''s' passfile='/a b/\\c/\'d'").unwrap_or_default();
    assert!(conninfo.is_empty(), "'' is no quote in a conninfo");
    let conninfo = Conninfo::parse(r"host=a passfile='/a b/\\c/\'d' options='-c a=\'b\''").unwrap();
    let Step::SetRoute { node, route, slot, .. } = set_route(&tree, "core-1", "core-1", None) else { panic!() };
    let step = Step::SetRoute { node, route, conninfo: conninfo.clone(), nudge: false, slot };
    for strings in ["on", "off"] {
        tree.sql("core-1", &format!("ALTER SYSTEM SET standard_conforming_strings = {strings}")).await;
        tree.sql("core-1", "SELECT pg_reload_conf()").await;
        tree.until("core-1", "SELECT current_setting('standard_conforming_strings')", strings).await;
        tree.sql("core-1", "ALTER SYSTEM RESET primary_conninfo").await;
        twice(&fleet, &step).await;
        until(&fleet, "core-1", "has the route", |facts| facts.route.conninfo == conninfo).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_never_written() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let fleet = watch_all(&tree, &["core-1"]).await;
    let Step::SetRoute { node, route, .. } = set_route(&tree, "core-1", "core-1", None) else { panic!() };
    for bad in ["host=a password=s3cret", "host=a password=***", "host=a sslpassword=s3cret"] {
        let conninfo = Conninfo::parse(bad).unwrap();
        let step = Step::SetRoute {
            node: node.clone(),
            route: route.clone(),
            conninfo,
            nudge: false,
            slot: Some("eu_1".into()),
        };
        let refused = carry_out(&fleet, &step).await.unwrap_err();
        assert!(matches!(&refused, NotDone::Password(_)) && !refused.to_string().contains("s3cret"), "{refused}");
    }
    assert_eq!(tree.value("core-1", "SELECT current_setting('primary_slot_name')").await, "");
    assert!(!tree.log("core-1").contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_on_a_server_that_froze_is_overdue_and_not_done_when_it_thaws() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let fleet = watch_all(&tree, &["core-1"]).await;
    facts(&fleet, "core-1").await;
    let writer = fleet.writer(&name("core-1")).await.unwrap();
    tree.freeze("core-1");
    let step = set_route(&tree, "core-1", "core-1", Some("late"));
    assert!(matches!(act::carry_out(&writer, &step).await, Err(NotDone::Overdue)));
    writer.give_up();
    tree.thaw("core-1");
    let seen = facts(&fleet, "core-1").await;
    assert_eq!((seen.route.slot.as_str(), seen.route.conninfo.is_empty()), ("", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_is_refused_changes_nothing_and_reloads_nothing() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    let fleet = watch_all(&tree, &["core-1", "eu-1"]).await;
    tree.sql("core-1", "REVOKE ALTER SYSTEM ON PARAMETER primary_conninfo FROM waltree").await;
    tree.caught_up("eu-1", "core-1").await;
    let loaded = "SELECT pg_conf_load_time()";
    let before = tree.value("eu-1", loaded).await;
    let step = set_route(&tree, "eu-1", "core-1", Some("eu_1"));
    let refused = carry_out(&fleet, &step).await.unwrap_err();
    assert!(matches!(refused, NotDone::Refused(_)), "{refused}");
    // Whatever was sent to the session is answered by now.
    let writer = fleet.writer(&name("eu-1")).await.unwrap();
    writer.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(tree.value("eu-1", loaded).await, before);
    assert_eq!(tree.value("eu-1", "SELECT current_setting('primary_slot_name')").await, "");
}
