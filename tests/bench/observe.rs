//! What looking costs: the operator over twenty idle servers, and the same looking at five hundred. `cargo bench --bench
//! observe -- MINUTES`; prints figures, asserts nothing.
//!
//! Five hundred servers do not fit into one machine, their sessions do: each of the twenty is watched under twenty-five
//! names, by a session, a question a tick and a right to write of each name's own. What the passes over so many cost is
//! measured over simulated servers, at the same rhythm and in the same process; what simulating them costs is in it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and fails where it cannot go on")]

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use support::fleet::{credentials, fence, name, spec};
use support::kube::ApiServer;
use support::operator::install;
use support::postgres::{Tree, WALTREE_PASSWORD, eventually};
use support::process::{Process, cpu_seconds, resident_mib};
use support::regions;
use support::topology::{self, NAME, NAMESPACE};
use tokio::time::Instant;
use waltree::model::{Millis, NodeName};
use waltree::observe::{Fence, Fleet, ServerSpec, Timing, Wallet};
use waltree::operator::clock;
use waltree::simulate::Drama;

/// Servers of the root group, and below it.
const SERVERS: [(&str, usize); 2] = [("core", 3), ("eu", 17)];
/// Hosts that are watched by sessions of this process.
const HOSTS: usize = 500;
/// How long.
const WATCHED: Duration = Duration::from_secs(60);
/// How often it is counted who was asked; each is asked once a second.
const COUNT_EVERY: Duration = Duration::from_millis(400);

#[tokio::main]
async fn main() {
    let minutes: u32 = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(2);
    let build = if cfg!(debug_assertions) { "not optimized" } else { "optimized" };
    let tree = twenty().await;
    println!("{build}; {}", tree.value("core-1", "SELECT split_part(version(), ' on ', 1)").await);
    operator(&tree, minutes).await;
    let watched = Watched::begin(&tree).await;
    println!("\n{:<52} {:>9} {:>8} {:>12} {:>12}", "at 500 hosts", "core, %", "MiB", "asked a s", "status bytes");
    println!("{:<52} {:>9} {:>8.1}", "before", "", resident_mib(std::process::id()));
    let alone = watched.measure(None).await;
    println!("{:<52} {:>9.1} {:>8.1} {:>12.0}", "500 sessions", alone.core, alone.resident_mib, alone.asked);
    println!("{:<52} {:>9.2} ms", "  and what a question costs the server that is asked", alone.answer_milliseconds);
    let ([at_rest, most], drama) = tokio::task::spawn_blocking(fleet).await.unwrap();
    let all = watched.measure(Some(drama)).await;
    let passes = format!("500 sessions, and {:.1} passes a s", all.passes);
    println!("{passes:<52} {:>9.1} {:>8.1} {:>12.0} {at_rest:>12}", all.core, all.resident_mib, all.asked);
    println!("{:<52} {most:>36}", "  and at most while a zone is cut off and comes back");
}

fn nodes() -> Vec<String> {
    SERVERS.iter().flat_map(|(group, size)| (1..=*size).map(move |i| format!("{group}-{i}"))).collect()
}

async fn twenty() -> Tree {
    let (mut tree, nodes) = (Tree::start(None), nodes());
    tree.primary(&nodes[0]).await;
    for node in &nodes[1..] {
        tree.standby(node, &nodes[0]).await;
    }
    tree
}

/// The operator itself over the twenty.
async fn operator(tree: &Tree, minutes: u32) {
    let server = ApiServer::start();
    install(&server);
    let host = |node: &String| format!("    - {{name: {node}, address: 127.0.0.1, port: {}}}\n", tree.port(node));
    let hosts =
        |group: &str| nodes().iter().filter(|node| node.starts_with(group)).map(host).collect::<Vec<_>>().concat();
    let group = |group: &str, more: &str| {
        let hosts = hosts(group);
        format!(
            "  - name: {group}\n    sslMode: Disable\n    credentialsSecretRef: {{name: orders-sql}}\n{more}    hosts:\n{hosts}"
        )
    };
    let groups = group("core", "") + &group("eu", "    upstreams: [core]\n    relays: 3\n");
    let secret = topology::secret(WALTREE_PASSWORD);
    let head = format!("kind: ReplicaTopology\nmetadata: {{name: {NAME}, namespace: {NAMESPACE}}}");
    topology::apply_text(
        &server,
        &format!("{secret}---\napiVersion: waltree.dev/v1alpha1\n{head}\nspec:\n  groups:\n{groups}"),
    );
    let operator = Process::start(&server, "first").await;
    topology::converged(&server).await;
    operator.comes_to_rest().await;
    let (cpu, passes) = (operator.cpu_seconds(), operator.passes().await);
    tokio::time::sleep(Duration::from_secs(60) * minutes).await;
    let cpu = (operator.cpu_seconds() - cpu) / f64::from(minutes);
    let passes = (operator.passes().await - passes) / f64::from(minutes);
    let status = serde_json::to_string(&topology::get(&server).await.status).unwrap().len();
    println!("the operator over 20 idle servers, {minutes} min, default settings");
    println!("CPU seconds a minute          {cpu:.2}");
    println!("CPU milliseconds a s and node {:.3}", cpu * 1000.0 / 60.0 / 20.0);
    println!("RSS in MiB                    {:.1}", operator.resident_mib());
    println!("passes a minute               {passes:.1}");
    println!("status bytes                  {status}");
}

/// The fleet of five hundred, come to rest, and the bytes of its status: at rest, and at most while a third of it is down and
/// comes back.
fn fleet() -> ([usize; 2], Drama) {
    let first = name("core-1");
    let mut drama = Drama::new(regions::spec(HOSTS), 1, |_| first.clone()).unwrap();
    drama.cluster().world().servers.values_mut().for_each(|server| server.senders_max = HOSTS);
    drama.rest(600_000);
    let bytes = |drama: &Drama| serde_json::to_string(drama.status().unwrap()).unwrap().len();
    let at_rest = bytes(&drama);
    let mut most = 0;
    for what in ["cut zone b", "mend zone b"] {
        drama.strike(&what.parse().unwrap());
        for _ in 0..180 {
            drama.pass(1_000);
            most = most.max(bytes(&drama));
        }
    }
    drama.rest(600_000);
    ([at_rest, most], drama)
}

/// Five hundred names of twenty servers, watched.
struct Watched<'a> {
    tree: &'a Tree,
    fleet: Fleet,
}

/// What watching cost.
struct Cost {
    core: f64,
    resident_mib: f64,
    asked: f64,
    answer_milliseconds: f64,
    passes: f64,
}

impl<'a> Watched<'a> {
    /// Returns when every name was seen and has the right to write.
    async fn begin(tree: &'a Tree) -> Self {
        let nodes = nodes();
        let host = |i: usize| {
            // Names of one server would take the right from each other.
            let right = Fence { scope: format!("bench/{i}"), ..fence(1, "bench") };
            let there: ServerSpec = spec(tree, &nodes[i % nodes.len()], Some(&right));
            (name(&format!("host-{i}")), there)
        };
        let fleet = Fleet::new(Wallet::fixed(credentials()), Timing::default(), clock::now);
        fleet.watch(&(0..HOSTS).map(host).collect());
        let begun = Instant::now();
        eventually("all are seen", async || fleet.views().values().all(|view| view.seen().is_some())).await;
        println!("\n500 sessions were there after {:.1} s", begun.elapsed().as_secs_f64());
        tokio::time::sleep(Duration::from_secs(5)).await;
        Self { tree, fleet }
    }

    /// Watches for a while, with a pass a second over simulated servers where they are given.
    async fn measure(&self, drama: Option<Drama>) -> Cost {
        let (own, seconds) = (std::process::id(), WATCHED.as_secs_f64());
        let (cpu, servers) = (cpu_seconds(own), self.servers_cpu_seconds());
        let passing = drama.map(|drama| tokio::task::spawn_blocking(move || pass_every_second(drama)));
        let asked = self.count_asked().await;
        let core = 100.0 * (cpu_seconds(own) - cpu) / seconds;
        let answer_milliseconds = 1000.0 * (self.servers_cpu_seconds() - servers) / asked;
        let passes = match passing {
            Some(passing) => passing.await.unwrap() / seconds,
            None => 0.0,
        };
        Cost { core, resident_mib: resident_mib(own), asked: asked / seconds, answer_milliseconds, passes }
    }

    /// How many answers were got while it was watched.
    async fn count_asked(&self) -> f64 {
        let (mut asked, mut last) = (0_u32, BTreeMap::<NodeName, Millis>::new());
        let (mut ticks, end) = (tokio::time::interval(COUNT_EVERY), Instant::now() + WATCHED);
        while ticks.tick().await < end {
            for (node, view) in self.fleet.views() {
                let now = view.last.map(|facts| facts.asked_at).unwrap_or_default();
                asked += u32::from(last.insert(node, now).is_some_and(|before| before != now));
            }
        }
        f64::from(asked)
    }

    fn servers_cpu_seconds(&self) -> f64 {
        nodes().iter().flat_map(|node| self.tree.processes(node)).map(cpu_seconds).sum()
    }
}

/// Passes over simulated servers for as long as it is watched, and tells how often.
fn pass_every_second(mut drama: Drama) -> f64 {
    let (begun, before) = (Instant::now(), drama.counts().passes);
    let mut second = 1;
    while begun.elapsed() < WATCHED {
        drama.pass(1_000);
        std::thread::sleep(Duration::from_secs(second).saturating_sub(begun.elapsed()));
        second += 1;
    }
    f64::from(u32::try_from(drama.counts().passes - before).unwrap())
}
