//! What is seen of real servers.

mod support;

use support::fleet::{facts, until, watch};
use support::postgres::Tree;
use waltree::model::{Facts, Lsn, Timeline};

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
