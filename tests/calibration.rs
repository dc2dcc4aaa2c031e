//! The same eleven scenes on real servers and on simulated ones: who receives from whom in turn, what is diagnosed, and the
//! tree in the end have to be the same. Times are not compared.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::kube::ApiServer;
use support::operator::{Operator, install};
use support::postgres::{Tree, WALTREE_PASSWORD, connect, eventually};
use support::staleness::Writer;
use support::topology::{self, NAME, NAMESPACE};
use support::witness::events;
use tokio_postgres::Client;
use waltree::api::ReplicaTopologySpec;
use waltree::model::{Conninfo, NodeName};
use waltree::simulate::world::Settings;
use waltree::simulate::{Drama, Fault};

const NODES: [&str; 6] = ["core-1", "core-2", "eu-1", "eu-2", "eu-3", "eu-4"];
/// Each scene begins and ends with the tree as declared.
const SCENES: [&[&str]; 11] = [
    &["kill eu-1", "start eu-1"],
    &["freeze eu-1", "thaw eu-1"],
    &["freeze eu-3", "thaw eu-3"],
    &["pause eu-3", "kill eu-1", "resume eu-3", "start eu-1"],
    &["repoint eu-3 core-1"],
    &["kill eu-3", "drop-slot eu-3 eu-1", "start eu-3"],
    &["lockout eu-1", "admit eu-1"],
    &["operator stop", "kill eu-1", "operator start", "start eu-1"],
    &["pause eu-4", "resume eu-4"],
    &["kill eu-3", "reject eu-1", "start eu-3", "accept eu-1"],
    &["remove eu-4"],
];
/// The longest that a simulated fleet takes to come to rest, in milliseconds.
const REST_MILLISECONDS: u64 = 600_000;
/// Between two looks at who receives from whom.
const PACE: Duration = Duration::from_millis(20);

/// What one command led to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Course {
    /// From whom each node came to receive, one after the other; only of those that changed.
    moves: BTreeMap<String, Vec<String>>,
    /// What was diagnosed.
    told: BTreeSet<String>,
    /// From whom each node receives now.
    streams: BTreeMap<String, String>,
}

/// The spec, whose hosts are the real servers; without those that were removed.
fn spec(tree: &Tree, without: Option<&str>) -> String {
    let host = |node: &&str| format!("{{name: {node}, address: 127.0.0.1, port: {}}}", tree.port(node));
    let hosts = |nodes: &[&str]| {
        let there: Vec<_> = nodes.iter().filter(|node| Some(**node) != without).map(host).collect();
        there.join(", ")
    };
    let access = "sslMode: Disable, credentialsSecretRef: {name: orders-sql}";
    format!(
        "  healing: {{suspectAfterMilliseconds: 1000, settleSeconds: 2, lagSeconds: 3600}}\n  groups:\n\
         \x20 - {{name: core, {access}, hosts: [{}]}}\n\
         \x20 - {{name: eu, {access}, relays: 2, upstreams: [core], hosts: [{}]}}\n",
        hosts(&NODES[..2]),
        hosts(&NODES[2..])
    )
}

fn parsed(spec: &str) -> ReplicaTopologySpec {
    serde_yaml::from_str(spec).unwrap()
}

/// A simulated fleet whose servers are set as the real ones are, and from whom each received last.
struct Simulated(Drama, BTreeMap<String, String>);

impl Simulated {
    fn new(spec: &str) -> Self {
        let drama = Drama::new(parsed(spec), 1, |_| NodeName::new("core-1").unwrap()).unwrap();
        let set = Settings {
            retry_milliseconds: 100,
            receiver_timeout_milliseconds: 3_000,
            sender_timeout_milliseconds: 5_000,
            ..Settings::default()
        };
        drama.cluster().world().settings = set;
        let mut this = Self(drama, BTreeMap::new());
        assert!(this.0.rest(REST_MILLISECONDS));
        this.0.take_told();
        this.1 = this.streams();
        this
    }

    fn streams(&self) -> BTreeMap<String, String> {
        let world = self.0.cluster().world();
        let streams = world.servers.iter().filter(|(_, server)| server.is_up());
        streams.filter_map(|(name, server)| Some((name.to_string(), server.upstream()?.to_string()))).collect()
    }

    fn play(&mut self, tree: &Tree, command: &str) -> Course {
        match command.strip_prefix("remove ") {
            Some(node) => self.0.apply(parsed(&spec(tree, Some(node)))).unwrap(),
            None => self.0.strike(&command.parse().unwrap()),
        }
        // Whoever is refused asks again and again, ever more seldom: there is no rest until he is let in.
        let refused = self.0.cluster().world().servers.values().any(|server| server.rejects_replication);
        assert!(self.0.rest(REST_MILLISECONDS) || refused, "no rest after {command}");
        let mut course = Course { streams: self.streams(), ..Course::default() };
        for told in self.0.take_told() {
            if let Some((node, from)) = told.what.split_once(" receives from ") {
                if self.1.insert(node.to_owned(), from.to_owned()).as_deref() != Some(from) {
                    course.moves.entry(node.to_owned()).or_default().push(from.to_owned());
                }
            } else if let Some((node, reason)) = told.what.split_once(": ").filter(|(node, _)| NODES.contains(node)) {
                course.told.extend(is_compared(reason).then(|| format!("{reason} {node}")));
            }
        }
        course
    }
}

/// Settling is a matter of time: it may be over before anybody has looked. So is a missing slot, which is made in the very
/// pass that sees it; that the node streams from there in the end is compared.
fn is_compared(reason: &str) -> bool {
    !["well", "Settling", "Recovered", "MissingSlot"].contains(&reason)
}

/// Who receives from whom, looked at all the time.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<Vec<Look>>>);

/// The walreceiver of each node that has one: its process id, and from whom it receives.
type Look = BTreeMap<String, (i32, String)>;

impl Streams {
    fn watch(tree: &Tree) -> Self {
        let this = Self::default();
        let names: BTreeMap<u16, String> = NODES.iter().map(|node| (tree.port(node), (*node).to_owned())).collect();
        let (looks, ports) = (Arc::clone(&this.0), names.clone());
        tokio::spawn(async move {
            let mut eyes: BTreeMap<u16, Client> = BTreeMap::new();
            loop {
                let mut now = BTreeMap::new();
                for (port, name) in &ports {
                    let seen = tokio::time::timeout(10 * PACE, look(*port, &mut eyes)).await.ok().flatten();
                    if let Some((pid, from)) = seen.and_then(|(pid, port)| Some((pid, names.get(&port)?.clone()))) {
                        now.insert(name.clone(), (pid, from));
                    }
                }
                looks.lock().unwrap().push(now);
                tokio::time::sleep(PACE).await;
            }
        });
        this
    }

    fn looks(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// What two looks in a row saw: a row of milliseconds tells nothing (postgres-facts.md 5.2).
    fn since(&self, first: usize) -> Vec<BTreeMap<String, String>> {
        let looks = self.0.lock().unwrap();
        let steady = |pair: &[Look]| {
            let same = pair[1].iter().filter(|(node, stream)| pair[0].get(*node) == Some(stream));
            same.map(|(node, (_, from))| (node.clone(), from.clone())).collect()
        };
        looks[first.saturating_sub(1)..].windows(2).map(steady).collect()
    }

    fn now(&self) -> BTreeMap<String, String> {
        self.since(self.looks().saturating_sub(1)).pop().unwrap_or_default()
    }
}

async fn look(port: u16, eyes: &mut BTreeMap<u16, Client>) -> Option<(i32, u16)> {
    if eyes.get(&port).is_none_or(Client::is_closed) {
        eyes.insert(port, connect(port).await.ok()?);
    }
    let row = "SELECT pid, sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    let row = eyes[&port].query_opt(row, &[]).await.ok()??;
    Some((row.get(0), u16::try_from(row.get::<_, i32>(1)).ok()?))
}

/// The real fleet with the real operator.
struct Real {
    server: ApiServer,
    tree: Tree,
    operator: Option<Operator>,
    streams: Streams,
    hba: String,
    /// From whom each node received last.
    last: BTreeMap<String, String>,
    _writer: Writer,
}

impl Real {
    async fn new() -> Self {
        let mut tree = Tree::start(None);
        tree.primary(NODES[0]).await;
        for node in &NODES[1..] {
            tree.standby(node, NODES[0]).await;
        }
        let server = ApiServer::start();
        install(&server);
        let operator = Some(Operator::start(&server, "first").await);
        topology::apply_text(&server, &topology::secret(WALTREE_PASSWORD));
        let (streams, writer) = (Streams::watch(&tree), Writer::on(&tree, NODES[0], 10).await);
        let hba = std::fs::read_to_string(tree.data("eu-1").join("pg_hba.conf")).unwrap();
        let this = Self { server, tree, operator, streams, hba, last: BTreeMap::new(), _writer: writer };
        this.apply(&spec(&this.tree, None));
        topology::converged(&this.server).await;
        this
    }

    fn apply(&self, spec: &str) {
        let head = format!("metadata: {{name: {NAME}, namespace: {NAMESPACE}}}");
        let kind = "apiVersion: waltree.dev/v1alpha1\nkind: ReplicaTopology";
        topology::apply_text(&self.server, &format!("{kind}\n{head}\nspec:\n{spec}"));
    }

    /// What was diagnosed so far, and how often.
    async fn diagnoses(&self) -> BTreeMap<String, u32> {
        let mut all = BTreeMap::new();
        for event in events(&self.server).await {
            // Another operator's event of the same is another event.
            if let Some((told, times)) = event.strip_prefix("Diagnose ").and_then(|event| event.rsplit_once(" x")) {
                *all.entry(told.to_owned()).or_default() += times.parse::<u32>().unwrap();
            }
        }
        all
    }

    /// Plays a command until it has led to what it led to on the simulated fleet, or to something else.
    async fn play(&mut self, command: &str, expected: &Course) -> Course {
        let (first, before) = (self.streams.looks(), self.diagnoses().await);
        self.strike(command).await;
        let mut course = Course::default();
        for _ in 0..300 {
            tokio::time::sleep(5 * PACE).await;
            let told = self.diagnoses().await.into_iter().filter(|(told, times)| before.get(told) != Some(times));
            let told = told.map(|(told, _)| told);
            // Unseen in passing is no difference: a real server is starting for a while, and a frozen one unseen before
            // its children have stood still for long enough. Nor is a leaf cut off between two upstreams: a real one takes its
            // time to connect. A simulated one is none of these.
            let moves =
                |told: &str| told.strip_prefix("CutOffLeaf ").is_some_and(|leaf| expected.moves.contains_key(leaf));
            let resumes = command.starts_with("resume");
            let passing = |told: &str| told.starts_with("Unseen ") || (moves(told) && !resumes);
            let passes = |told: &String| passing(told) && !expected.told.contains(told);
            let told = told.filter(|told| is_compared(told.split(' ').next().unwrap()) && !passes(told));
            course.told = told.collect();
            course.streams = self.streams.now();
            if course.streams == expected.streams && course.told.is_superset(&expected.told) {
                break;
            }
        }
        for now in self.streams.since(first) {
            for (node, from) in now {
                if self.last.insert(node.clone(), from.clone()).as_ref() != Some(&from) {
                    course.moves.entry(node).or_default().push(from);
                }
            }
        }
        course
    }

    async fn strike(&mut self, command: &str) {
        if let Some(node) = command.strip_prefix("remove ") {
            return self.apply(&spec(&self.tree, Some(node)));
        }
        match command.parse().unwrap() {
            Fault::Kill(node) => self.tree.kill(node.as_str()),
            Fault::Start(node) => self.tree.start_node(node.as_str()).await,
            Fault::Freeze(node) => self.tree.freeze(node.as_str()),
            Fault::Thaw(node) => self.tree.thaw(node.as_str()),
            Fault::Pause(node) => drop(self.tree.sql(node.as_str(), "SELECT pg_wal_replay_pause()").await),
            Fault::Resume(node) => drop(self.tree.sql(node.as_str(), "SELECT pg_wal_replay_resume()").await),
            Fault::Lockout(node) => {
                self.admit(&node, &format!("host all waltree 127.0.0.1/32 reject\n{}", self.hba)).await;
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'waltree'";
                self.tree.sql(node.as_str(), end).await;
            }
            Fault::Reject(node) => {
                self.admit(&node, &format!("host replication all 127.0.0.1/32 reject\n{}", self.hba)).await;
            }
            Fault::Admit(node) | Fault::Accept(node) => self.admit(&node, &self.hba).await,
            Fault::Repoint(node, upstream) => self.repoint(&node, &upstream).await,
            Fault::DropSlot(node, on) => {
                let of_it = format!("FROM pg_replication_slots WHERE slot_name = '{}'", node.slot());
                self.tree.until(on.as_str(), &format!("SELECT count(active_pid) {of_it}"), "0").await;
                self.tree.sql(on.as_str(), &format!("SELECT pg_drop_replication_slot(slot_name) {of_it}")).await;
            }
            Fault::OperatorStop => self.operator.take().unwrap().stop().await,
            Fault::OperatorStart => self.operator = Some(Operator::start(&self.server, "next").await),
            other => panic!("{other} is not made here"),
        }
    }

    async fn admit(&self, node: &NodeName, hba: &str) {
        self.tree.write_hba(node.as_str(), hba);
        self.tree.sql(node.as_str(), "SELECT pg_reload_conf()").await;
    }

    async fn repoint(&self, node: &NodeName, upstream: &NodeName) {
        let mut conninfo = Conninfo::parse(&self.tree.value(node.as_str(), "SHOW primary_conninfo").await).unwrap();
        conninfo.set("host", "127.0.0.1");
        conninfo.set("port", &self.tree.port(upstream.as_str()).to_string());
        let set = format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'");
        self.tree.sql(node.as_str(), &set).await;
        self.tree.sql(node.as_str(), "SELECT pg_reload_conf()").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eleven_scenes_go_the_same_way_on_real_servers_and_on_simulated_ones() {
    let mut real = Real::new().await;
    let mut simulated = Simulated::new(&spec(&real.tree, None));
    let mut different = Vec::new();
    for scene in SCENES {
        let same = simulated.streams();
        eventually("both are as declared", async || real.streams.now() == same).await;
        topology::converged(&real.server).await;
        if real.last.is_empty() {
            real.last.clone_from(&same);
        }
        for command in scene {
            let expected = simulated.play(&real.tree, command);
            let seen = real.play(command, &expected).await;
            if seen != expected {
                different.push(format!("{command} of {scene:?}\n  real      {seen:?}\n  simulated {expected:?}"));
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
