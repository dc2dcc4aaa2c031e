//! The scripts of `tests/scripts/calibration` on real servers: who receives from whom in turn, what is diagnosed, in which
//! order all that comes, and the tree in the end have to be as the simulator tells them. Times are not compared.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed; when things happened is shown"
)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use support::kube::ApiServer;
use support::network::Uplink;
use support::operator::{Operator, install};
use support::postgres::{Tree, WALTREE_PASSWORD, connect_at};
use support::script::{Course, Picture, Script};
use support::staleness::Writer;
use support::topology::{self, NAME, NAMESPACE};
use support::witness::{Scene, events};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Client;
use waltree::model::{Conninfo, NodeName};
use waltree::simulate::Fault;
use waltree::simulate::shape::Shape;

const NODES: [&str; 6] = ["core-1", "core-2", "eu-1", "eu-2", "eu-3", "eu-4"];
/// Between two looks at who receives from whom.
const PACE: Duration = Duration::from_millis(20);
/// Two events that the simulator puts so far apart, in milliseconds, come in that order on real servers too. An operator
/// looks once a second at least, so what it tells and does may come a second later than in another run, and one that had to
/// wait for a server or for the API server another one. What is closer than that may come in either order.
const APART_MILLISECONDS: u128 = 2_000;

/// Settling is a matter of time: it may be over before anybody has looked. So is a missing slot, which is made in the very
/// pass that sees it; that the node streams from there in the end is compared.
fn is_compared(reason: &str) -> bool {
    !["well", "Settling", "Recovered", "MissingSlot"].contains(&reason)
}

/// What was seen of the real fleet, looked at all the time, and when.
#[derive(Clone, Default)]
struct Seen {
    looks: Arc<Mutex<Vec<(Instant, Look)>>>,
    told: Arc<Mutex<Vec<(Instant, String)>>>,
}

/// The walreceiver of each node that has one: its process id, and from whom it receives.
type Look = BTreeMap<String, (i32, String)>;

impl Seen {
    async fn watch_streams(self, nodes: BTreeMap<u16, (String, String)>) {
        let mut eyes: BTreeMap<u16, Client> = BTreeMap::new();
        loop {
            let mut now = BTreeMap::new();
            for (port, (node, address)) in &nodes {
                let seen = tokio::time::timeout(10 * PACE, look(address, *port, &mut eyes)).await.ok().flatten();
                if let Some((pid, from)) = seen.and_then(|(pid, port)| Some((pid, nodes.get(&port)?.0.clone()))) {
                    now.insert(node.clone(), (pid, from));
                }
            }
            self.looks.lock().unwrap().push((Instant::now(), now));
            tokio::time::sleep(PACE).await;
        }
    }

    async fn watch_events(self, server: Arc<ApiServer>) {
        let mut before: Option<BTreeMap<String, u32>> = None;
        loop {
            let mut now = BTreeMap::new();
            for event in events(&server).await {
                // Another operator's event of the same is another event.
                if let Some((told, times)) = event.strip_prefix("Diagnose ").and_then(|event| event.rsplit_once(" x")) {
                    *now.entry(told.to_owned()).or_default() += times.parse::<u32>().unwrap();
                }
            }
            if let Some(before) = &before {
                let more = now.iter().filter(|(told, times)| before.get(*told) != Some(times));
                let more = more.map(|(told, _)| (Instant::now(), told.clone()));
                self.told.lock().unwrap().extend(more);
            }
            before = Some(now);
            tokio::time::sleep(5 * PACE).await;
        }
    }

    /// What two looks in a row saw: a row of milliseconds tells nothing (postgres-facts.md 5.2).
    fn since(&self, began: Instant) -> Vec<(Instant, Look)> {
        let looks = self.looks.lock().unwrap();
        let first = looks.partition_point(|(at, _)| *at < began).saturating_sub(1);
        let steady = |pair: &[(Instant, Look)]| {
            let same = pair[1].1.iter().filter(|(node, stream)| pair[0].1.get(*node) == Some(stream));
            (pair[1].0, same.map(|(node, stream)| (node.clone(), stream.clone())).collect())
        };
        looks[first..].windows(2).map(steady).collect()
    }

    fn receivers(&self) -> Look {
        let looks = self.looks.lock().unwrap();
        let last: Vec<_> = looks.iter().rev().take(2).map(|(_, look)| look.clone()).collect();
        let [now, before] = last.as_slice() else { return Look::new() };
        now.clone().into_iter().filter(|(node, stream)| before.get(node) == Some(stream)).collect()
    }

    fn streams(&self) -> BTreeMap<String, String> {
        self.receivers().into_iter().map(|(node, (_, from))| (node, from)).collect()
    }
}

async fn look(address: &str, port: u16, eyes: &mut BTreeMap<u16, Client>) -> Option<(i32, u16)> {
    if eyes.get(&port).is_none_or(Client::is_closed) {
        eyes.insert(port, connect_at(address, port).await.ok()?);
    }
    let row = "SELECT pid, sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    let row = eyes[&port].query_opt(row, &[]).await.ok()??;
    Some((row.get(0), u16::try_from(row.get::<_, i32>(1)).ok()?))
}

/// The real fleet with the real operator.
struct Real {
    server: Arc<ApiServer>,
    tree: Tree,
    operator: Option<Operator>,
    seen: Seen,
    hba: String,
    /// A zone that can be cut off, and who is in it.
    network: Option<(Uplink, Vec<String>)>,
    /// From whom each node received last.
    last: BTreeMap<String, String>,
    _writer: Writer,
    _watchers: JoinSet<()>,
}

impl Real {
    /// Servers with these settings, and an operator that has nothing to do yet.
    async fn new(settings: &str, network: Option<(Uplink, Vec<String>)>) -> Self {
        let mut tree = Tree::start(None);
        tree.all_have(settings);
        tree.primary(NODES[0]).await;
        for node in &NODES[1..] {
            tree.standby(node, NODES[0]).await;
        }
        if let Some((uplink, zone)) = &network {
            uplink.enclose(&mut tree, zone, &NODES).await;
        }
        let server = Arc::new(ApiServer::start());
        install(&server);
        let operator = Some(Operator::start(&server, "first").await);
        topology::apply_text(&server, &topology::secret(WALTREE_PASSWORD));
        let (seen, mut watchers) = (Seen::default(), JoinSet::new());
        let node = |node: &&str| (tree.port(node), ((*node).to_owned(), tree.address(node).to_owned()));
        watchers.spawn(seen.clone().watch_streams(NODES.iter().map(node).collect()));
        watchers.spawn(seen.clone().watch_events(Arc::clone(&server)));
        let writer = Writer::on(&tree, NODES[0], 10).await;
        let hba = std::fs::read_to_string(tree.data("eu-1").join("pg_hba.conf")).unwrap();
        let last = BTreeMap::new();
        Self { server, tree, operator, seen, hba, network, last, _writer: writer, _watchers: watchers }
    }

    /// Applies a spec whose hosts are the real servers.
    fn apply(&self, shape: &Shape) {
        let mut spec = serde_json::to_value(shape.spec().unwrap()).unwrap();
        for group in spec["groups"].as_array_mut().unwrap() {
            group["sslMode"] = json!("Disable");
            group["credentialsSecretRef"] = json!({"name": "orders-sql"});
            for host in group["hosts"].as_array_mut().unwrap() {
                let node = host["name"].as_str().unwrap().to_owned();
                let apart = self.network.as_ref().filter(|(_, zone)| zone.contains(&node));
                host["address"] = json!(apart.map_or(self.tree.address(&node), |(uplink, _)| uplink.zone_address()));
                host["port"] = json!(self.tree.port(&node));
            }
        }
        let of = json!({"name": NAME, "namespace": NAMESPACE});
        let topology =
            json!({"apiVersion": "waltree.dev/v1alpha1", "kind": "ReplicaTopology", "metadata": of, "spec": spec});
        topology::apply_text(&self.server, &topology.to_string());
    }

    /// Plays a script; what came otherwise than on the simulated servers.
    async fn play(&mut self, script: &Script) -> Vec<String> {
        let mut shape = script.shape.clone();
        self.apply(&shape);
        // Nothing is held against a server for what befell it in another script.
        topology::acknowledge(&self.server);
        self.comes_to(&script.formed).await;
        self.last.clone_from(&script.formed.streams);
        let mut different = Vec::new();
        for (command, expected) in &script.acts {
            let seen = self.act(command, expected, &mut shape).await;
            println!("{}: {command}: {:?}, simulated {:?}", script.name, seen.first, expected.first);
            let differences = differences(expected, &seen);
            different.extend(differences.map(|what| format!("{}: {command}: {what}", script.name)));
        }
        if different.is_empty() {
            let (_, course) = script.acts.last().unwrap();
            self.comes_to(&course.tree).await;
        }
        different
    }

    /// Waits until who receives from whom and all routes are these, and the operator has nothing more to do.
    async fn comes_to(&self, tree: &Picture) {
        topology::converged(&self.server).await;
        let mut seen = Picture::default();
        for _ in 0..300 {
            let Scene { shape, routes, .. } = Scene::of(&self.tree, &NODES).await;
            seen = Picture { streams: shape, routes };
            if seen == *tree {
                return;
            }
            tokio::time::sleep(5 * PACE).await;
        }
        panic!("not within 30 s:\n  simulated {tree:?}\n  real      {seen:?}");
    }

    /// Does what a command says until it has led to what it led to on the simulated fleet, or to something else.
    async fn act(&mut self, command: &str, expected: &Course, shape: &mut Shape) -> Course {
        let (began, before) = (Instant::now(), self.seen.receivers());
        self.strike(command, shape).await;
        let mut course = Course::default();
        for _ in 0..300 {
            tokio::time::sleep(5 * PACE).await;
            course = Course::default();
            let told = self.seen.told.lock().unwrap().clone();
            for (at, told) in told.into_iter().filter(|(at, _)| *at >= began) {
                if is_compared(told.split(' ').next().unwrap()) && !is_passing(&told, command, expected) {
                    course.is_told(told, at.duration_since(began).as_millis());
                }
            }
            course.tree.streams = self.seen.streams();
            if course.tree.streams == expected.tree.streams && course.told.is_superset(&expected.told) {
                break;
            }
        }
        for (at, now) in self.seen.since(began) {
            // A receiver of before is nothing that has happened.
            for (node, (_, from)) in now.into_iter().filter(|(node, stream)| before.get(node) != Some(stream)) {
                course.receives(&node, &from, at.duration_since(began).as_millis(), &mut self.last);
            }
        }
        course
    }

    async fn strike(&mut self, command: &str, shape: &mut Shape) {
        if let Some(node) = command.strip_prefix("remove ") {
            shape.remove(node).unwrap();
            return self.apply(shape);
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
            Fault::CutZone(_) => self.network.as_ref().unwrap().0.cut(),
            Fault::MendZone(_) => self.network.as_ref().unwrap().0.mend(),
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

/// Unseen in passing is no difference: a real server is starting for a while, and a frozen one unseen before its children
/// have stood still for long enough. Nor is a leaf cut off between two upstreams: a real one takes its time to connect. A
/// simulated one is none of these. Nor is one server of a zone hung: real ones are not found out in one instant.
fn is_passing(told: &str, command: &str, expected: &Course) -> bool {
    let moves = |leaf| expected.moves.contains_key(leaf) && !command.starts_with("resume");
    let passing = told.starts_with("Unseen ")
        || told.strip_prefix("CutOffLeaf ").is_some_and(moves)
        || command.contains(" zone ") && told.starts_with("HungRelay ");
    expected.brief.contains(told) || passing && !expected.told.contains(told)
}

/// What came otherwise on real servers.
fn differences(simulated: &Course, real: &Course) -> impl Iterator<Item = String> {
    let other = |what: &str, simulated: String, real: String| {
        (simulated != real).then(|| format!("{what}\n  simulated {simulated}\n  real      {real}"))
    };
    let mut different: Vec<_> = [
        other("moves", format!("{:?}", simulated.moves), format!("{:?}", real.moves)),
        other("diagnoses", format!("{:?}", simulated.told), format!("{:?}", real.told)),
        other("streams", format!("{:?}", simulated.tree.streams), format!("{:?}", real.tree.streams)),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (earlier, at) in &simulated.first {
        let later = simulated.first.iter().filter(|(_, later)| **later >= at + APART_MILLISECONDS);
        for (later, _) in later {
            // Whether it came at all is asked above.
            if let (Some(one), Some(other)) = (real.first.get(earlier), real.first.get(later))
                && one >= other
            {
                different.push(format!("{earlier:?} came after {later:?}, {one} ms and {other} ms from the command"));
            }
        }
    }
    different.into_iter()
}

/// The scripts in which a zone is cut off, or the others.
fn scripts(of_networks: bool) -> Vec<Script> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/calibration");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut scripts: Vec<_> = paths.iter().map(|path| Script::read(path, is_compared)).collect();
    scripts.retain(|script| cut_off(script).is_some() == of_networks);
    scripts
}

/// Who is in the zone that a script cuts off.
fn cut_off(script: &Script) -> Option<Vec<String>> {
    let zone = script.acts.iter().find_map(|(command, _)| command.strip_prefix("cut zone "))?;
    let hosts = script.shape.spec().unwrap().groups.into_iter().flat_map(|group| group.hosts);
    Some(hosts.filter(|host| host.zone.as_deref() == Some(zone)).map(|host| host.name).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_script_goes_the_same_way_on_real_servers_and_on_simulated_ones() {
    let scripts = scripts(false);
    let settings = &scripts[0].settings;
    let mut real = Real::new(settings, None).await;
    let mut different = Vec::new();
    for script in &scripts {
        assert_eq!(&script.settings, settings, "{} is for other servers", script.name);
        different.extend(real.play(script).await);
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_of_real_servers_that_is_cut_off_goes_the_way_of_a_simulated_one() {
    for script in scripts(true) {
        let Some(uplink) = Uplink::new(&script.name) else { return };
        let mut real = Real::new(&script.settings, Some((uplink, cut_off(&script).unwrap()))).await;
        let different = real.play(&script).await;
        assert!(different.is_empty(), "{}", different.join("\n"));
    }
}
