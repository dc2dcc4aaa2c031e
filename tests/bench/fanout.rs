//! What forty-eight standbys cost their primary, all below it and as the tree that the planner wants: `cargo bench --bench
//! fanout -- SECONDS`. Prints figures, asserts nothing.
//!
//! Every standby streams by a slot, as the operator has it. All servers are on this one machine, and CPU is what the
//! kernel counted for each process, so that what the others do is not in it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and fails where it cannot go on")]

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use support::fleet::{name, watch};
use support::postgres::{Tree, eventually};
use support::process::cpu_seconds;
use tokio::task::JoinHandle;
use waltree::api::ReplicaTopologySpec;
use waltree::model::{Desired, Memory, Observed};
use waltree::operator::clock;
use waltree::plan::plan;

const PRIMARY: &str = "core-1";
const STANDBYS: usize = 48;
/// The shape that is declared: four relays, which feed eleven each.
const SHAPE: &str = "relays: 4, fanOut: 11";
/// Room for all of them below each, and small.
const SETTINGS: &str = "max_wal_senders = 60\nmax_replication_slots = 60\nshared_buffers = 2MB\nmin_wal_size = 32MB\n\
                        max_wal_size = 64MB\nwal_keep_size = 0";
/// The load: commits a second, each of so many rows of 1 kB.
const COMMITS_A_SECOND: u64 = 50;
const ROWS: u32 = 20;
/// How long is written before it is counted.
const BEFORE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() {
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(30);
    let standbys: Vec<String> = (1..=STANDBYS).map(|i| format!("eu-{i}")).collect();
    let mut tree = Tree::start(None);
    tree.all_have(SETTINGS);
    tree.primary(PRIMARY).await;
    tree.sql(PRIMARY, "CREATE TABLE load (a int, b text)").await;
    for node in &standbys {
        tree.standby(node, PRIMARY).await;
    }
    let star: BTreeMap<String, String> = standbys.iter().map(|node| (node.clone(), PRIMARY.to_owned())).collect();
    let planned = planned(&tree, &standbys).await;

    println!("{STANDBYS} standbys, {COMMITS_A_SECOND} commits a second of {ROWS} rows of 1 kB, {seconds} s each");
    println!(
        "{:<28} {:>7} {:>7} {:>8} {:>13} {:>15} {:>12} {:>12}",
        "shape", "senders", "WAL MB", "sent MB", "walsenders, s", "for 100 MB, s", "primary, s", "all, s"
    );
    let one = run(&tree, "star", &star, seconds).await;
    let other = run(&tree, "tree of waltree's plan", &planned, seconds).await;
    println!(
        "the walsenders of the star cost {:.1} times those of the tree, its primary {:.1} times",
        one.0 / other.0,
        one.1 / other.1
    );
}

/// Whom each standby is to receive from, by the plan for what is seen of the servers.
async fn planned(tree: &Tree, standbys: &[String]) -> BTreeMap<String, String> {
    let host = |node: &str| format!("{{name: {node}, address: 127.0.0.1, port: {}}}", tree.port(node));
    let hosts = standbys.iter().map(|node| host(node)).collect::<Vec<_>>().join(", ");
    let spec: ReplicaTopologySpec = serde_yaml::from_str(&format!(
        "groups:\n- {{name: core, hosts: [{}]}}\n- {{name: eu, upstreams: [core], {SHAPE}, hosts: [{hosts}]}}\n",
        host(PRIMARY)
    ))
    .unwrap();
    let desired = Desired::try_from(&spec).unwrap();
    let nodes: Vec<&str> = std::iter::once(PRIMARY).chain(standbys.iter().map(String::as_str)).collect();
    let fleet = watch(tree, &nodes, None).await;
    eventually("all are seen", async || fleet.views().values().all(|view| view.seen().is_some())).await;
    let (nodes, mut memory) = (fleet.views(), Memory::default());
    memory.advance(&desired, &nodes, clock::now());
    let plan = plan(&desired, &Observed { nodes, memory: memory.into() }, clock::now());
    let upstream = |node: &String| plan.wanted[&name(node)].first().unwrap().to_string();
    standbys.iter().map(|node| (node.clone(), upstream(node))).collect()
}

/// Points every standby to its upstream, and lets no slot stay that is not used.
async fn form(tree: &Tree, edges: &BTreeMap<String, String>) {
    for (node, upstream) in edges {
        let slot = node.replace('-', "_");
        let make = format!(
            "SELECT pg_create_physical_replication_slot('{slot}', true)
             WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{slot}')"
        );
        tree.sql(upstream, &make).await;
        let conninfo = tree.conninfo(node, upstream).replace('\'', "''");
        tree.sql(node, &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).await;
        tree.sql(node, &format!("ALTER SYSTEM SET primary_slot_name = '{slot}'")).await;
        tree.sql(node, "SELECT pg_reload_conf()").await;
    }
    for (node, upstream) in edges {
        let streams = format!(
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}' AND active",
            node.replace('-', "_")
        );
        tree.until(upstream, &streams, "1").await;
        tree.caught_up(node, PRIMARY).await;
    }
    tree.sql(PRIMARY, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active").await;
}

/// Writes while the standbys are in a shape; the CPU seconds of the primary's walsenders for 100 MB of WAL, and of it all.
async fn run(tree: &Tree, shape: &str, edges: &BTreeMap<String, String>, seconds: u64) -> (f64, f64) {
    form(tree, edges).await;
    let load = load(tree).await;
    tokio::time::sleep(BEFORE).await;
    let senders = tree.sql(PRIMARY, "SELECT pid FROM pg_stat_replication").await;
    let senders: Vec<u32> = senders.iter().map(|pid| pid.parse().unwrap()).collect();
    let of_senders = || senders.iter().copied().map(cpu_seconds).sum::<f64>();
    let of_primary = || tree.processes(PRIMARY).into_iter().map(cpu_seconds).sum::<f64>();
    let of_all = || edges.keys().flat_map(|node| tree.processes(node)).map(cpu_seconds).sum::<f64>() + of_primary();
    let written =
        async || tree.value(PRIMARY, "SELECT pg_current_wal_flush_lsn() - '0/0'").await.parse::<f64>().unwrap();
    let before = (of_senders(), of_primary(), of_all(), written().await);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = (of_senders(), of_primary(), of_all(), written().await);
    load.abort();
    let (own, primary, all) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
    let megabytes = (after.3 - before.3) / 1e6;
    let count = f64::from(u32::try_from(senders.len()).unwrap());
    let each = own * 100.0 / megabytes;
    println!(
        "{shape:<28} {:>7} {megabytes:>7.1} {:>8.0} {own:>13.2} {each:>15.2} {primary:>12.2} {all:>12.2}",
        senders.len(),
        megabytes * count
    );
    (each, primary * 100.0 / megabytes)
}

async fn load(tree: &Tree) -> JoinHandle<()> {
    let client = tree.connect(PRIMARY).await.unwrap();
    // Below 2 kB a row is stored as it is, so that 1 kB is 1 kB.
    let write = format!("INSERT INTO load SELECT i, repeat('x', 1000) FROM generate_series(1, {ROWS}) i");
    let write = client.prepare(&write).await.unwrap();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(1_000 / COMMITS_A_SECOND));
        loop {
            ticks.tick().await;
            client.execute(&write, &[]).await.unwrap();
        }
    })
}
