//! What is true of a tree at every sampled moment, asked of the servers alone: who receives from whom, whether that is
//! ever a ring, and whether slots, rows and routes are what they have to be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::kube::ApiServer;
use super::postgres::{Tree, connect};
use super::topology::NAMESPACE;

/// Between two samples.
const PACE: Duration = Duration::from_millis(25);
/// A server that does not answer for so long counts as not seen in a sample.
const ANSWER: Duration = Duration::from_millis(500);

const RECEIVER: &str = "SELECT pid, sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'";
/// The port it receives from, the ports of its route in their order, and its slots.
const SCENE: &str = "SELECT (SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'), \
    CASE WHEN pg_is_in_recovery() THEN substring(current_setting('primary_conninfo') from 'port=([0-9,]+)') END, \
    (SELECT string_agg(slot_name, ',') FROM pg_replication_slots)";
/// Every row and their order.
const ROWS: &str = "SELECT count(*) || ' ' || md5(string_agg(at::text, ',' ORDER BY at)) FROM beat";

/// Who receives from which port, with the pid of the walreceiver.
type Sample = BTreeMap<String, (i32, u16)>;

/// Looks at all servers of a tree again and again.
pub struct Witness {
    stop: CancellationToken,
    task: JoinHandle<Testimony>,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Testimony {
    /// How often it was looked.
    pub samples: usize,
    /// Rings: each holds two nodes or more, or one that receives from itself.
    pub rings: Vec<Vec<String>>,
    /// Which upstreams each node was seen to receive from, in their order; the same twice is one.
    pub upstreams: BTreeMap<String, Vec<String>>,
    /// Which walreceivers each node had.
    pub receivers: BTreeMap<String, BTreeSet<i32>>,
}

impl Testimony {
    /// How often a node had another walreceiver than before.
    pub fn reconnects(&self) -> usize {
        self.receivers.values().map(|pids| pids.len().saturating_sub(1)).sum()
    }

    fn add(&mut self, names: &BTreeMap<u16, String>, before: &Sample, now: &Sample) {
        self.samples += 1;
        for (node, (pid, port)) in now {
            let upstream = names.get(port).cloned().unwrap_or_else(|| port.to_string());
            let seen = self.upstreams.entry(node.clone()).or_default();
            if seen.last() != Some(&upstream) {
                seen.push(upstream);
            }
            self.receivers.entry(node.clone()).or_default().insert(*pid);
        }
        // The servers are not asked in one instant. A receiver that is the same in two samples, one after the other, was
        // there in the instant between the two: a ring of such ones was a ring.
        let at_once: BTreeMap<_, _> = now.iter().filter(|(node, edge)| before.get(*node) == Some(edge)).collect();
        for node in at_once.keys() {
            let mut ring = vec![(*node).clone()];
            while let Some(up) = ring.last().and_then(|at| names.get(&at_once.get(at)?.1)) {
                if up == *node {
                    ring.sort();
                    if !self.rings.contains(&ring) {
                        self.rings.push(ring);
                    }
                    break;
                } else if ring.contains(up) {
                    break;
                }
                ring.push(up.clone());
            }
        }
    }
}

impl Witness {
    /// Begins to look at these servers, and returns when it has looked once.
    pub async fn of(tree: &Tree, nodes: &[&str]) -> Self {
        let names: BTreeMap<u16, String> = nodes.iter().map(|node| (tree.port(node), (*node).to_owned())).collect();
        let (stop, began) = (CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn(watch(names, began.clone(), stop.clone()));
        began.cancelled().await;
        Self { stop, task }
    }

    /// Ends looking.
    pub async fn tell(self) -> Testimony {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

async fn watch(names: BTreeMap<u16, String>, began: CancellationToken, stop: CancellationToken) -> Testimony {
    let mut eyes: Vec<(u16, String, Option<Client>)> =
        names.iter().map(|(port, name)| (*port, name.clone(), None)).collect();
    let (mut testimony, mut before) = (Testimony::default(), Sample::new());
    while !stop.is_cancelled() {
        let looks = eyes.iter_mut().map(|(port, name, client)| async {
            let seen = tokio::time::timeout(ANSWER, look(*port, client)).await.ok().flatten();
            seen.map(|edge| (name.clone(), edge))
        });
        let now: Sample = join_all(looks).await.into_iter().flatten().collect();
        testimony.add(&names, &before, &now);
        before = now;
        began.cancel();
        tokio::time::sleep(PACE).await;
    }
    testimony
}

async fn look(port: u16, client: &mut Option<Client>) -> Option<(i32, u16)> {
    if client.as_ref().is_none_or(Client::is_closed) {
        *client = Some(connect(port).await.ok()?);
    }
    let row = client.as_ref()?.query_opt(RECEIVER, &[]).await.ok()??;
    Some((row.get(0), u16::try_from(row.get::<_, i32>(1)).ok()?))
}

/// A tree as its servers tell it now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scene {
    /// Who receives from whom; whoever receives from nobody is absent.
    pub shape: BTreeMap<String, String>,
    /// The installed route of every standby.
    pub routes: BTreeMap<String, Vec<String>>,
    /// All slots.
    pub slots: BTreeSet<String>,
}

impl Scene {
    /// Asks all servers, which have to run.
    pub async fn of(tree: &Tree, nodes: &[&str]) -> Self {
        let mut this = Self::default();
        let named = |port: &str| nodes.iter().find(|up| tree.port(up).to_string() == port).map(|up| (*up).to_owned());
        for node in nodes {
            let row = tree.value(node, SCENE).await;
            let [upstream, route, slots] = row.splitn(3, '|').collect::<Vec<_>>().try_into().unwrap();
            if let Some(upstream) = named(upstream) {
                this.shape.insert((*node).to_owned(), upstream);
            }
            if !route.is_empty() {
                this.routes.insert((*node).to_owned(), route.split(',').filter_map(named).collect());
            }
            this.slots.extend(slots.split(',').filter(|slot| !slot.is_empty()).map(|slot| format!("{slot} on {node}")));
        }
        this
    }

    /// The slots that the installed routes need: none may be missing, and none left over.
    pub fn needed_slots(&self) -> BTreeSet<String> {
        let slot = |node: &str| waltree::model::NodeName::new(node).unwrap().slot().to_owned();
        let of_one = |(node, route): (&String, &Vec<String>)| {
            let slot = slot(node);
            route.iter().map(|upstream| format!("{slot} on {upstream}")).collect::<Vec<_>>()
        };
        self.routes.iter().flat_map(of_one).collect()
    }
}

/// Waits until every node has exactly the primary's rows. Nobody may be writing.
pub async fn same_rows(tree: &Tree, nodes: &[&str], primary: &str) {
    let rows = tree.value(primary, ROWS).await;
    for node in nodes.iter().filter(|node| **node != primary) {
        tree.caught_up(node, primary).await;
        assert_eq!(tree.value(node, ROWS).await, rows, "the rows of {node} are not those of {primary}");
    }
}

/// Waits until a node has every row that the primary has now. The writer goes on, so new ones have come through.
pub async fn rows_arrive(tree: &Tree, node: &str, primary: &str) {
    let rows: u64 = tree.value(primary, "SELECT count(*) FROM beat").await.parse().unwrap();
    tree.until(node, &format!("SELECT count(*) > {rows} FROM beat"), "t").await;
}

/// The events of the topologies, as `action reason node xN`, N times.
pub async fn events(server: &ApiServer) -> Vec<String> {
    let events: Api<Event> = Api::namespaced(server.client().await, NAMESPACE);
    let events = events.list(&ListParams::default()).await.unwrap();
    let told = |event: Event| {
        let node = event.related.and_then(|related| related.field_path).unwrap_or_default();
        let times = event.series.map_or(1, |series| series.count);
        Some(format!("{} {} {node} x{times}", event.action?, event.reason?))
    };
    events.items.into_iter().filter_map(told).collect()
}
