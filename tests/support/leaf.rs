//! A leaf below one of two relays, the other its fallback, and what is written, kept and removed there.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

use super::ground::{Ground, PRIMARY};

/// The relays and the leaf.
pub const STANDBYS: [&str; 3] = ["eu-1", "eu-2", "eu-3"];
/// The leaf.
pub const LEAF: &str = "eu-3";

/// The groups: the leaf has the first of these two relays' groups as its upstream, the other behind it.
pub fn leaf_below(ground: &Ground, [first, fallback]: [&str; 2]) -> [String; 4] {
    [
        ground.group("core", "", &[PRIMARY]),
        ground.group("a", "upstreams: [core]", &["eu-1"]),
        ground.group("b", "upstreams: [core]", &["eu-2"]),
        ground.group("leaf", &format!("upstreams: [{first}, {fallback}]"), &[LEAF]),
    ]
}

/// Has a server read its configuration again.
pub async fn reload(ground: &Ground, node: &str) {
    ground.tree.sql(node, "SELECT pg_reload_conf()").await;
}

/// Waits until the leaf streams from `upstream` and shows a row that is written now.
pub async fn receives_from(ground: &Ground, upstream: &str) {
    let from = "SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    ground.tree.until(LEAF, from, &ground.tree.port(upstream).to_string()).await;
    ground.flows(&[LEAF]).await;
}

/// Lets a relay have a restartpoint of now: its slots are on disk as they are, and WAL that nobody needs goes.
pub async fn restartpoint(ground: &Ground, relay: &str) {
    ground.tree.sql(PRIMARY, "CHECKPOINT").await;
    ground.flows(&[relay]).await;
    ground.tree.sql(relay, "CHECKPOINT").await;
}

/// How many segments a server has that are older than the one of this position.
pub async fn segments_below(ground: &Ground, node: &str, position: &str) -> u32 {
    let segment = ground.tree.value(PRIMARY, &format!("SELECT pg_walfile_name('{position}')")).await;
    let below = format!("SELECT count(*) FROM pg_ls_waldir() WHERE name < '{segment}' AND name ~ '^[0-9A-F]{{24}}$'");
    ground.tree.value(node, &below).await.parse().unwrap()
}

/// Writes so many segments, which every one of these nodes receives, and makes (restart)checkpoints everywhere.
pub async fn write_segments(ground: &Ground, segments: usize, nodes: &[&str]) {
    for _ in 0..segments {
        ground.tree.sql(PRIMARY, "SELECT pg_switch_wal()").await;
        ground.flows(nodes).await;
    }
    for node in [&[PRIMARY], nodes].concat() {
        ground.tree.sql(node, "CHECKPOINT").await;
    }
}
