//! How stale a leaf gets when its relay's processes are killed: by PostgreSQL and SQL alone (the floor), with the
//! operator up, and with the operator stopped. `cargo test --bench heal -- KILLS`; prints a table with one figure a leaf and kill,
//! asserts no time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "a bench is for its table")]

#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use futures::future::join_all;
use support::kube::ApiServer;
use support::operator::{Operator, install};
use support::postgres::{Tree, eventually};
use support::readers::{Writer, worst_milliseconds};
use support::topology::{self, nine};

const RELAYS: [&str; 2] = ["eu-1", "eu-2"];
const LEAVES: [&str; 4] = ["eu-3", "eu-4", "eu-5", "eu-6"];
/// How long readers watch each kill.
const WATCH: Duration = Duration::from_millis(1_500);

#[tokio::main]
async fn main() {
    let kills = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(20);
    let mut tree = nine().await;
    let _writer = Writer::start(&tree, "core-1").await;
    println!("{:<38} {:>6} {:>10} {:>10}", "relay killed, staleness of its leaves", "leaves", "median ms", "worst ms");
    print("floor: reload fired at once", floor(&mut tree, kills).await);

    let server = ApiServer::start();
    install(&server);
    topology::apply(&server, &tree, "healing: {settleSeconds: 1}");
    let operator = Operator::start(&server, "bench").await;
    topology::converged(&server).await;
    print("operator up", killed(&mut tree, kills, Some(&server)).await);
    topology::converged(&server).await;
    operator.stop().await;
    print("operator stopped", killed(&mut tree, kills, None).await);
}

fn print(what: &str, mut worst: Vec<f64>) {
    worst.sort_by(f64::total_cmp);
    let (median, most) = (worst[worst.len() / 2], worst[worst.len() - 1]);
    println!("{what:<38} {:>6} {median:>10.0} {most:>10.0}", worst.len());
}

/// Kills relays in turn; what the leaves of each saw, one figure a leaf and kill.
async fn killed(tree: &mut Tree, kills: usize, operator: Option<&ApiServer>) -> Vec<f64> {
    let mut seen = Vec::new();
    for i in 0..kills {
        let relay = RELAYS[i % 2];
        let fed = children(tree, relay).await;
        let clients = join_all(fed.iter().map(|leaf| tree.connect(leaf))).await;
        let readers = clients.iter().map(|client| worst_milliseconds(client.as_ref().unwrap(), WATCH));
        let (figures, ()) = tokio::join!(join_all(readers), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            tree.kill(relay);
        });
        seen.extend(figures);
        tree.start_node(relay).await;
        if let Some(server) = operator {
            topology::converged(server).await;
        } else {
            // Nobody gives children back: the next kill takes them to where they came from.
            let streams = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
            eventually("the relay streams again", async || tree.value(relay, streams).await == "1").await;
        }
    }
    seen
}

/// The leaves that receive from a server.
async fn children(tree: &Tree, relay: &str) -> Vec<String> {
    let port = tree.port(relay);
    let mut fed = Vec::new();
    for leaf in LEAVES {
        let sql = format!("SELECT 1 FROM pg_stat_wal_receiver WHERE sender_port = {port}");
        if !tree.sql(leaf, &sql).await.is_empty() {
            fed.push(leaf.to_owned());
        }
    }
    fed
}

/// What SQL alone can do: the leaves have one upstream each, and are re-pointed in the instant of the kill.
async fn floor(tree: &mut Tree, kills: usize) -> Vec<f64> {
    let mut seen = Vec::new();
    for i in 0..kills {
        let (relay, other) = (RELAYS[i % 2], RELAYS[(i + 1) % 2]);
        for leaf in LEAVES {
            point(tree, leaf, relay).await;
        }
        let clients = join_all(LEAVES.iter().map(|leaf| tree.connect(leaf))).await;
        let movers = join_all(LEAVES.iter().map(|leaf| tree.connect(leaf))).await;
        let readers = clients.iter().map(|client| worst_milliseconds(client.as_ref().unwrap(), WATCH));
        let (figures, ()) = tokio::join!(join_all(readers), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            tree.kill(relay);
            for (leaf, mover) in LEAVES.iter().zip(&movers) {
                let conninfo = tree.conninfo(leaf, other).replace('\'', "''");
                let mover = mover.as_ref().unwrap();
                mover.batch_execute(&format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).await.unwrap();
                mover.batch_execute("SELECT pg_reload_conf()").await.unwrap();
            }
        });
        // Two leaves count as in the other rows, where a relay feeds two.
        seen.extend(figures.into_iter().take(2));
        tree.start_node(relay).await;
    }
    seen
}

async fn point(tree: &Tree, leaf: &str, upstream: &str) {
    let conninfo = tree.conninfo(leaf, upstream).replace('\'', "''");
    tree.sql(leaf, &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).await;
    let streams = format!("SELECT count(*) FROM pg_stat_wal_receiver WHERE sender_port = {}", tree.port(upstream));
    eventually("the leaf follows", async || {
        tree.sql(leaf, "SELECT pg_reload_conf()").await;
        tree.value(leaf, &streams).await == "1"
    })
    .await;
}
