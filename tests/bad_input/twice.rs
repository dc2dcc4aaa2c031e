//! One server that is in the spec by two names, its address and a name for it.

use super::support::ground::{Ground, PRIMARY, apply, group_at, star};
use super::{STANDBYS, says};

/// All that could be written on a server, and the operator's sessions there: none of them may end another.
async fn state(ground: &Ground, node: &str) -> Vec<String> {
    let sql = "SELECT 'slot', slot_name, active_pid::text FROM pg_replication_slots UNION ALL \
               SELECT 'set', name, setting FROM pg_file_settings WHERE name LIKE 'primary%' UNION ALL \
               SELECT 'session', application_name, pid::text FROM pg_stat_activity \
               WHERE usename = 'waltree' AND backend_type = 'client backend' ORDER BY 1, 2, 3";
    ground.tree.sql(node, sql).await
}

/// Until the operator has asked the servers several times more, nothing is written on any of them.
async fn nothing_is_written(ground: &Ground) {
    let nodes = [PRIMARY, "eu-1", "eu-2"];
    let mut before = Vec::new();
    for node in nodes {
        before.push(state(ground, node).await);
    }
    for node in nodes {
        ground.asked(node, 8).await;
    }
    for (node, before) in nodes.iter().zip(before) {
        assert_eq!(state(ground, node).await, before, "{node} was written to");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_in_the_spec_twice_is_named_and_left_as_it_is() {
    let ground = Ground::formed("standby-twice").await;
    let before = ground.connected(&STANDBYS).await;
    let [core, eu] = ground.groups();
    let port = ground.tree.port("eu-1");
    let ap = group_at("ap", "orders-sql", "upstreams: [core]", &[("ap-1", "localhost", port)]);
    apply(&ground.manifest(&[core, eu, ap]));
    let message = ground.until("Converged", "False", "SameServer").await;
    // In the order of the spec as the API server keeps it.
    says(&message, &["eu-1", " and ", "ap-1", " are one server: take one of them out of the spec"]);
    for node in ["eu-1", "ap-1"] {
        ground.told("SameServer", node).await;
    }
    ground.until("Writable", "True", "PrimarySeen").await;
    ground.until("Serving", "True", "EveryGroupServes").await;
    ground.status_rests().await;
    nothing_is_written(&ground).await;
    ground.untouched(&before).await;
    assert!(ground.events().await.iter().all(|(reason, _)| reason != "OtherWriter" && reason != "DuplicateName"));

    apply(&ground.manifest(&ground.groups()));
    ground.as_declared().await;
    ground.untouched(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_in_the_spec_twice_is_named_and_counts_once() {
    let ground = Ground::of(star(&STANDBYS).await, "primary-twice").await;
    let before = ground.connected(&STANDBYS).await;
    let port = ground.tree.port(PRIMARY);
    let hosts = [(PRIMARY, ground.tree.address(PRIMARY), port), ("core-2", "localhost", port)];
    let [_, eu] = ground.groups();
    let groups = [group_at("core", "orders-sql", "", &hosts), eu];
    for automation in ["automation: Observe", "automation: Heal"] {
        apply(&ground.manifest_with(automation, &groups));
        let message = ground.until("Converged", "False", "SameServer").await;
        says(&message, &["core-1 and core-2 are one server: take one of them out of the spec"]);
        let message = ground.until("Writable", "True", "PrimarySeen").await;
        says(&message, &["core-1 is the primary and takes writes"]);
        for node in [PRIMARY, "core-2"] {
            ground.told("SameServer", node).await;
        }
        ground.status_rests().await;
        nothing_is_written(&ground).await;
        ground.untouched(&before).await;
    }
    let told = ground.events().await;
    assert!(told.iter().all(|(reason, _)| reason != "TwoPrimaries" && reason != "DuplicateName"), "{told:?}");

    apply(&ground.manifest(&ground.groups()));
    ground.as_declared().await;
}
