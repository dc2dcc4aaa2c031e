//! How stale a leaf gets when something happens to its relay: by PostgreSQL and SQL alone (the floor), with the operator
//! up, and where it can be so with the operator stopped. `cargo bench --bench heal -- TIMES SLOW`: SLOW is how often what
//! takes seconds is repeated, else TIMES and at most 10. Prints a table with one figure a leaf and time, asserts no time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "a bench is for its table")]

#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use futures::future::join_all;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use support::ground::group_at;
use support::kube::ApiServer;
use support::network::Uplink;
use support::operator::{Operator, install};
use support::owner::owner;
use support::postgres::{Tree, WALTREE_PASSWORD, eventually};
use support::readers::{Writer, worst_milliseconds};
use support::topology::{self, NAME, NAMESPACE, nine};
use waltree::api::ReplicaTopology;
use waltree::operator::clock;

const RELAYS: [&str; 2] = ["eu-1", "eu-2"];
const LEAVES: [&str; 4] = ["eu-3", "eu-4", "eu-5", "eu-6"];
/// How long readers watch each kill.
const WATCH: Duration = Duration::from_millis(1_500);
/// How long what the operator has to notice first.
const WATCH_LONG: Duration = Duration::from_secs(7);
/// How long readers watch what PostgreSQL does by itself: nothing, and for ever.
const WATCH_ALONE: Duration = Duration::from_secs(20);
/// How often what takes seconds is repeated at most, where nobody says.
const SLOW_TIMES: usize = 10;
/// What a slow stream lets through, in bytes a second; the load of `lagging` makes some five times as much. At a third of it a
/// message of 128 kB takes longer than the patience, and the relay counts as cut off.
const SLOW: u64 = 200_000;
/// Between two messages of that load, each of 50 kB.
const LOAD_EVERY: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let times = numbers.next().unwrap_or(20).max(1);
    let slow_times = numbers.next().unwrap_or(times.min(SLOW_TIMES)).max(1);
    let mut tree = nine().await;
    let writer = Writer::start(&tree, "core-1").await;
    let build = if cfg!(debug_assertions) { "the operator is not optimized" } else { "the operator is optimized" };
    let version = tree.value("core-1", "SELECT split_part(version(), ' on ', 1)").await;
    println!("nine servers of {version}, a row every 10 ms; {build}");
    println!("{:<46} {:>6} {:>10} {:>10}", "staleness of the leaves of a relay", "leaves", "median ms", "worst ms");
    print("planned move, floor: reload", planned(&tree, times).await);
    print("killed, floor: reload fired at once", floor(&mut tree, times, Fault::Kill).await);
    print("frozen, floor: reload fired at once", floor(&mut tree, slow_times, Fault::Freeze).await);

    let server = ApiServer::start();
    install(&server);
    let operator = Operator::start(&server, "bench").await;
    print("planned move, operator: spec changed", planned_by_spec(&tree, times, &server).await);
    topology::apply(&server, &tree, "healing: {settleSeconds: 1}");
    topology::converged(&server).await;
    let (killed_up, given_back) = killed(&mut tree, times, Some(&server)).await;
    print("killed, operator up", killed_up);
    print("back again and given its leaves back", given_back);
    topology::converged(&server).await;
    // The defaults: suspected after 2000 ms.
    print("frozen, operator up, defaults", frozen(&tree, slow_times, &server).await);
    operator.stop().await;
    print("killed, operator stopped", killed(&mut tree, times, None).await.0);
    if owner().is_none() {
        println!("cut off and lagging: not measured, only root can make a network namespace");
    } else if let Some(uplink) = Uplink::new("a relay that is cut off, and one that lags") {
        uplink.lead(&mut tree, RELAYS[0], "core-1", &[&topology::CORE[..], &topology::EU].concat()).await;
        drop(writer);
        let _writer = Writer::start(&tree, "core-1").await;
        on_uplink(&mut tree, slow_times, &server, &uplink).await;
    }
}

/// What happens to the stream of the first relay.
async fn on_uplink(tree: &mut Tree, times: usize, server: &ApiServer, uplink: &Uplink) {
    let (cut, slow) = (Fault::Cut(uplink), Fault::Slow(uplink));
    print("cut off, floor: reload fired at once", floor(tree, times, cut).await);
    print("lagging, floor: reload fired at once", floor(tree, times, slow).await);
    // The relay's walreceiver gives up after wal_receiver_timeout; those of the leaves hear of their relay all the time.
    let watched = WATCH_ALONE.as_secs();
    print(&format!("cut off, PostgreSQL alone, {watched} s watched"), alone(tree, cut).await);
    print(&format!("lagging, PostgreSQL alone, {watched} s watched"), alone(tree, slow).await);
    topology::apply(server, tree, "healing: {settleSeconds: 1, lagSeconds: 2}");
    let operator = Operator::start(server, "bench again").await;
    topology::converged(server).await;
    print("cut off (packets), operator up, defaults", cut_off(tree, times, server, uplink).await);
    print("lagging, operator up, lagSeconds 2", lagging(tree, times, server, uplink).await);
    operator.stop().await;
}

/// What happens to a relay.
#[derive(Clone, Copy)]
enum Fault<'a> {
    Kill,
    Freeze,
    /// Every packet of the primary is lost.
    Cut(&'a Uplink),
    /// Less comes than is written.
    Slow(&'a Uplink),
}

impl Fault<'_> {
    /// Whom the i-th of them strikes, and who takes over: only the first relay has a way of its own to the primary.
    fn relays(self, i: usize) -> [&'static str; 2] {
        match self {
            Self::Kill | Self::Freeze => [RELAYS[i % 2], RELAYS[(i + 1) % 2]],
            Self::Cut(_) | Self::Slow(_) => RELAYS,
        }
    }

    /// Lets it happen, and be watched for so long.
    async fn strike(self, tree: &mut Tree, relay: &str, watch: Duration) {
        match self {
            Self::Kill => tree.kill(relay),
            Self::Freeze => tree.freeze(relay),
            Self::Cut(uplink) => uplink.cut(),
            Self::Slow(uplink) => {
                let (client, load) = (tree.connect("core-1").await.unwrap(), load(watch));
                uplink.slow(SLOW);
                tokio::spawn(async move { client.batch_execute(&load).await });
            }
        }
    }

    /// Ends it, and waits until the relay can feed somebody again.
    async fn end(self, tree: &mut Tree, relay: &str) {
        match self {
            Self::Kill => tree.start_node(relay).await,
            Self::Freeze => tree.thaw(relay),
            Self::Cut(uplink) | Self::Slow(uplink) => {
                uplink.mend();
                tree.caught_up(relay, "core-1").await;
            }
        }
    }
}

/// SQL that writes five times as much as a slow stream lets through, for so long.
fn load(time: Duration) -> String {
    let (times, pause) = (time.as_millis() / LOAD_EVERY.as_millis(), LOAD_EVERY.as_secs_f64());
    format!(
        "SELECT pg_logical_emit_message(false, 'load', repeat('x', 50000)), pg_sleep({pause}) \
         FROM generate_series(1, {times})"
    )
}

fn print(what: &str, mut worst: Vec<f64>) {
    worst.sort_by(f64::total_cmp);
    let (median, most) = (worst[worst.len() / 2], worst[worst.len() - 1]);
    println!("{what:<46} {:>6} {median:>10.0} {most:>10.0}", worst.len());
}

/// What the readers of these leaves see at worst while something happens.
async fn watched(tree: &Tree, leaves: &[String], watch: Duration, happens: impl Future<Output = ()>) -> Vec<f64> {
    let clients = join_all(leaves.iter().map(|leaf| tree.connect(leaf))).await;
    let readers = clients.iter().map(|client| worst_milliseconds(client.as_ref().unwrap(), watch));
    let (figures, ()) = tokio::join!(join_all(readers), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        happens.await;
    });
    figures
}

/// Relays that are frozen, in turn, until they have no leaves any more.
async fn frozen(tree: &Tree, times: usize, server: &ApiServer) -> Vec<f64> {
    let mut seen = Vec::new();
    for i in 0..times {
        let relay = RELAYS[i % 2];
        let fed = children(tree, relay).await;
        seen.extend(watched(tree, &fed, WATCH_LONG, async { tree.freeze(relay) }).await);
        tree.thaw(relay);
        rested(server).await;
    }
    seen
}

/// The first relay, from which every packet of the primary is lost.
async fn cut_off(tree: &Tree, times: usize, server: &ApiServer, uplink: &Uplink) -> Vec<f64> {
    let mut seen = Vec::new();
    for _ in 0..times {
        let fed = fed(tree, RELAYS[0]).await;
        seen.extend(watched(tree, &fed, WATCH_LONG, async { uplink.cut() }).await);
        uplink.mend();
        rested(server).await;
    }
    seen
}

/// The first relay, whose stream is slower than what is written.
async fn lagging(tree: &Tree, times: usize, server: &ApiServer, uplink: &Uplink) -> Vec<f64> {
    let mut seen = Vec::new();
    for _ in 0..times {
        let fed = fed(tree, RELAYS[0]).await;
        let client = tree.connect("core-1").await.unwrap();
        seen.extend(
            watched(tree, &fed, WATCH_LONG, async {
                uplink.slow(SLOW);
                client.batch_execute(&load(Duration::from_secs(6))).await.unwrap();
            })
            .await,
        );
        uplink.mend();
        rested(server).await;
    }
    seen
}

/// Waits until a fault was seen to be over: before it is noticed the status says that all is well.
async fn rested(server: &ApiServer) {
    topology::acknowledge(server);
    tokio::time::sleep(Duration::from_secs(2)).await;
    topology::converged(server).await;
}

/// Leaves that are pointed from one healthy relay to the other.
async fn planned(tree: &Tree, times: usize) -> Vec<f64> {
    let mut seen = Vec::new();
    for i in 0..times {
        let (relay, other) = (RELAYS[i % 2], RELAYS[(i + 1) % 2]);
        let leaves = LEAVES[..2].iter().map(|leaf| (*leaf).to_owned()).collect::<Vec<_>>();
        for leaf in &leaves {
            point(tree, leaf, relay).await;
        }
        let all = watched(tree, &leaves, WATCH, async {
            for leaf in &leaves {
                point(tree, leaf, other).await;
            }
        });
        seen.extend(all.await);
    }
    seen
}

/// Leaves of which the spec says that the other relay is to feed them.
async fn planned_by_spec(tree: &Tree, times: usize, server: &ApiServer) -> Vec<f64> {
    topology::apply_text(server, &topology::secret(WALTREE_PASSWORD));
    topology::apply_text(server, &two_relays(tree));
    topology::converged(server).await;
    let topologies: Api<ReplicaTopology> = Api::namespaced(server.client().await, NAMESPACE);
    let leaves = LEAVES[..2].iter().map(|leaf| (*leaf).to_owned()).collect::<Vec<_>>();
    let mut seen = Vec::new();
    for _ in 0..times {
        let mut groups = topology::get(server).await.spec.groups;
        groups.last_mut().unwrap().upstreams.as_mut().unwrap().reverse();
        let patch = Patch::Merge(json!({"spec": {"groups": groups}}));
        let begun = clock::now();
        let all = watched(tree, &leaves, WATCH_LONG, async {
            topologies.patch(NAME, &PatchParams::default(), &patch).await.unwrap();
            topology::converged(server).await;
            let took = Duration::from_millis(clock::now().since(begun));
            assert!(took < WATCH_LONG, "they moved when nobody watched any more");
        });
        seen.extend(all.await);
    }
    seen
}

/// The nine servers, where each relay is a group and the leaves say whose they are; two of them in the last group.
fn two_relays(tree: &Tree) -> String {
    let group = |name: &str, more: &str, nodes: &[&str]| {
        let hosts: Vec<_> = nodes.iter().map(|node| (*node, tree.address(node), tree.port(node))).collect();
        group_at(name, "orders-sql", more, &hosts)
    };
    format!(
        "apiVersion: waltree.dev/v1alpha1\nkind: ReplicaTopology\nmetadata: {{name: {NAME}, namespace: {NAMESPACE}}}\n\
         spec:\n  healing: {{settleSeconds: 1}}\n  groups:\n{}{}{}{}{}",
        group("core", "", &topology::CORE),
        group("a", "upstreams: [core]", &RELAYS[..1]),
        group("b", "upstreams: [core]", &RELAYS[1..]),
        group("others", "upstreams: [a, b]", &LEAVES[2..]),
        group("leaves", "upstreams: [a, b]", &LEAVES[..2]),
    )
}

/// Kills relays in turn; what the leaves of each saw, one figure a leaf and kill; and what they saw while it came back.
async fn killed(tree: &mut Tree, kills: usize, operator: Option<&ApiServer>) -> (Vec<f64>, Vec<f64>) {
    let (mut seen, mut given_back) = (Vec::new(), Vec::new());
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
            topology::acknowledge(server);
            given_back.extend(watched(tree, &fed, WATCH_LONG, topology::converged(server)).await);
        } else {
            // Nobody gives children back: the next kill takes them to where they came from.
            let streams = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
            eventually("the relay streams again", async || tree.value(relay, streams).await == "1").await;
        }
    }
    (seen, given_back)
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

/// The same, once there are any: what the status says is as old as the operator before.
async fn fed(tree: &Tree, relay: &str) -> Vec<String> {
    eventually("the relay has leaves", async || !children(tree, relay).await.is_empty()).await;
    children(tree, relay).await
}

/// What SQL alone can do: the leaves have one upstream each, and are re-pointed in the instant of the fault.
async fn floor(tree: &mut Tree, times: usize, fault: Fault<'_>) -> Vec<f64> {
    let mut seen = Vec::new();
    for i in 0..times {
        let [relay, other] = fault.relays(i);
        for leaf in LEAVES {
            point(tree, leaf, relay).await;
        }
        let clients = join_all(LEAVES.iter().map(|leaf| tree.connect(leaf))).await;
        let movers = join_all(LEAVES.iter().map(|leaf| tree.connect(leaf))).await;
        let readers = clients.iter().map(|client| worst_milliseconds(client.as_ref().unwrap(), WATCH));
        let (figures, ()) = tokio::join!(join_all(readers), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            fault.strike(tree, relay, WATCH).await;
            for (leaf, mover) in LEAVES.iter().zip(&movers) {
                let conninfo = tree.conninfo(leaf, other).replace('\'', "''");
                let mover = mover.as_ref().unwrap();
                mover.batch_execute(&format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).await.unwrap();
                mover.batch_execute("SELECT pg_reload_conf()").await.unwrap();
            }
        });
        // Two leaves count as in the other rows, where a relay feeds two.
        seen.extend(figures.into_iter().take(2));
        fault.end(tree, relay).await;
    }
    seen
}

/// What comes of it where nobody does anything, watched for a while: once, as it is the same each time.
async fn alone(tree: &mut Tree, fault: Fault<'_>) -> Vec<f64> {
    let [relay, _] = fault.relays(0);
    for leaf in LEAVES {
        point(tree, leaf, relay).await;
    }
    let clients = join_all(LEAVES[..2].iter().map(|leaf| tree.connect(leaf))).await;
    let readers = clients.iter().map(|client| worst_milliseconds(client.as_ref().unwrap(), WATCH_ALONE));
    let (figures, ()) = tokio::join!(join_all(readers), fault.strike(tree, relay, WATCH_ALONE));
    fault.end(tree, relay).await;
    figures
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
