//! Seven servers that a fault is made on: a root group of two, two relays, and leaves that they feed in turn.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

use super::ground::{Ground, PRIMARY, apply, star};

/// The root group.
pub const ROOT: [&str; 2] = [PRIMARY, "core-2"];
/// Two relays, and leaves that they feed in turn.
pub const REGION: [&str; 5] = ["eu-1", "eu-2", "eu-3", "eu-4", "eu-5"];
/// Whom the first relay feeds.
pub const LEAVES_OF_EU_1: [&str; 2] = ["eu-3", "eu-5"];

/// Seven servers, as declared.
pub async fn region(namespace: &'static str) -> Ground {
    let ground = Ground::of(star(&[&ROOT[1..], &REGION].concat()).await, namespace).await;
    apply(&ground.manifest(&groups(&ground)));
    formed(&ground).await;
    ground
}

/// Waits until they are as declared.
pub async fn formed(ground: &Ground) {
    ground.as_declared().await;
    for leaf in LEAVES_OF_EU_1 {
        fed_by(ground, leaf, "eu-1").await;
    }
}

/// The two groups.
pub fn groups(ground: &Ground) -> [String; 2] {
    [ground.group("core", "", &ROOT), ground.group("eu", "upstreams: [core], relays: 2", &REGION)]
}

/// Waits until a node streams from `upstream` and shows a row that is written now.
pub async fn fed_by(ground: &Ground, node: &str, upstream: &str) {
    let from = "SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    ground.tree.until(node, from, &ground.tree.port(upstream).to_string()).await;
    ground.flows(&[node]).await;
}
