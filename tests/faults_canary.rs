//! Routes that lead where nobody is let in: on real servers, by how many lose their stream.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use support::ground::{Ground, PRIMARY, apply, star};
use support::region::fed_by;

/// A relay, and leaves that all stream from the primary before there is a topology.
const EU: [&str; 6] = ["eu-1", "eu-2", "eu-3", "eu-4", "eu-5", "eu-6"];

#[tokio::test(flavor = "multi_thread")]
async fn where_a_relay_lets_nobody_in_two_lose_their_stream_and_the_others_are_left_where_they_are() {
    let tree = star(&EU).await;
    let hba = std::fs::read_to_string(tree.data("eu-1").join("pg_hba.conf")).unwrap();
    let without: String = hba.split_inclusive('\n').filter(|line| !line.contains("replication")).collect();
    assert_ne!(hba, without);
    tree.write_hba("eu-1", &without);
    tree.sql("eu-1", "SELECT pg_reload_conf()").await;
    let ground = Ground::of(tree, "canary").await;
    let before = ground.connected(&["eu-4", "eu-5", "eu-6"]).await;
    let groups = [ground.group("core", "", &[PRIMARY]), ground.group("eu", "upstreams: [core], relays: 1", &EU)];
    let manifest = ground.manifest(&groups).replace("settleSeconds: 1", "settleSeconds: 60");
    apply(&manifest);
    ground.tree.until("eu-1", "SELECT current_setting('primary_slot_name')", "eu_1").await;
    let message = ground.until("Converged", "False", "Blocked").await;
    assert!(
        message.contains("eu-2 at eu-1, eu-3 at eu-1, so nobody else that streams well is sent where nobody came"),
        "{message}"
    );
    assert!(message.contains("Read their logs: their passfile may lack a line for it"), "{message}");
    ground.asked("eu-4", 5).await;
    ground.untouched(&before).await;
    // Nothing holds up who has lost its stream: it gets one again.
    for node in ["eu-2", "eu-3"] {
        fed_by(&ground, node, PRIMARY).await;
    }

    // Mended, and a person says so.
    ground.tree.write_hba("eu-1", &hba);
    ground.tree.sql("eu-1", "SELECT pg_reload_conf()").await;
    apply(&manifest.replacen("}\nspec:", ", annotations: {waltree.dev/acknowledge: all}}\nspec:", 1));
    ground.as_declared().await;
    for node in &EU[1..] {
        fed_by(&ground, node, "eu-1").await;
    }
}
