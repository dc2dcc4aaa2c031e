//! The live cluster: real servers, watched by `observe` and written to by `act`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::pods::Keeper;
use super::{Cluster, clock};
use crate::act::{self, NotDone};
use crate::model::pods::Pods;
use crate::model::{
    Automation, Desired, Management, Memory, Millis, NodeName, NodeSpec, NodeView, Observed, Unseen, WhyUnseen,
};
use crate::observe::{Fence, Fleet, ServerAccess, ServerSpec, Timing, Wallet, Writer};
use crate::plan::{self, Done, Outcome, Plan, Planned, Step};

/// So long after a pass began to act nothing more is begun on a server. Everybody waits for the slowest, and nobody is
/// judged before the next pass: a slow disk that is asked for many slots must not be what keeps a frozen relay from being
/// left. With the deadline of the step that was begun last, acting takes 3 s at most.
const BEGIN_WITHIN: Duration = Duration::from_secs(1);

/// The servers of one topology and what is remembered of them. Dropping it ends every session.
pub struct LiveCluster {
    fleet: Fleet,
    access: Mutex<BTreeMap<NodeName, ServerAccess>>,
    fence: Option<Fence>,
    memory: Mutex<Arc<Memory>>,
    keeper: Option<Arc<Keeper>>,
}

impl LiveCluster {
    /// A cluster that logs in with what `wallet` has and remembers `memory`. Without a `fence` it can only be looked at:
    /// every step is refused.
    pub fn new(wallet: Wallet, timing: Timing, fence: Option<Fence>, memory: Memory) -> Self {
        let topology = fence.as_ref().map_or("", |fence| fence.scope.as_str());
        let fleet = Fleet::of_topology(topology, wallet, timing, clock::now);
        Self { fleet, access: Mutex::default(), fence, memory: Mutex::new(Arc::new(memory)), keeper: None }
    }

    /// The same, with somebody who sees to pods.
    #[must_use]
    pub fn with_keeper(self, keeper: Arc<Keeper>) -> Self {
        Self { keeper: Some(keeper), ..self }
    }

    /// How each server is reached, from the next look on. A node that is not named is logged in to with defaults.
    pub fn set_access(&self, access: BTreeMap<NodeName, ServerAccess>) {
        *lock(&self.access) = access;
    }

    /// Returns when something changed that is worth a pass: a server came into or went out of sight, or its role,
    /// upstream or route is another.
    pub async fn changed(&self) {
        let pods = async {
            match &self.keeper {
                Some(keeper) => keeper.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.fleet.changed() => {}
            () = pods => {}
        }
    }

    fn specs(&self, desired: &Desired) -> BTreeMap<NodeName, ServerSpec> {
        let access = lock(&self.access);
        // Whoever only observes takes no lock, so that nothing at all is changed by it.
        let fence = self.fence.as_ref().filter(|_| desired.automation != Automation::Observe);
        let spec = |(name, node): (&NodeName, &NodeSpec)| {
            let access = access.get(name).cloned().unwrap_or_default();
            // What is no IP is looked up like any name.
            let hostaddr = node.hostaddr.as_ref().and_then(|address| address.parse().ok());
            let (address, port) = (node.address.clone(), node.port);
            let spec = ServerSpec { address, hostaddr, port, access, fence: fence.cloned() };
            (name.clone(), spec)
        };
        // A pod is called by a name that nobody looks up.
        let has_address = |(name, node): &(&NodeName, &NodeSpec)| {
            node.hostaddr.is_some() || desired.group_of(name).is_none_or(|group| group.management != Management::Agent)
        };
        desired.nodes.iter().filter(has_address).map(spec).collect()
    }

    /// The steps of one server, in their order, as far as it gets in time. What is not begun then did not fail: the next
    /// pass decides about it anew.
    async fn on_one_server(&self, server: &NodeName, steps: Vec<(usize, &Planned)>) -> Vec<(usize, Done)> {
        let until = Instant::now() + BEGIN_WITHIN;
        let all = steps.len();
        let mut done = Vec::with_capacity(all);
        for (place, planned) in steps {
            // Its turn does not come while a question waits for its answer.
            let writer = timeout_at(until, self.fleet.writer(server)).await;
            let Some(writer) = writer.ok().filter(|_| Instant::now() < until) else { break };
            let result = match writer {
                Ok(writer) => one(writer, &planned.step).await,
                Err(no_right) => Err(no_right.to_string()),
            };
            done.push((place, Done { planned: planned.clone(), result }));
        }
        if done.len() < all {
            let topology = self.fence.as_ref().map_or("", |fence| fence.scope.as_str());
            tracing::info!(topology, %server, left = all - done.len(), "slow; what is left is for the next pass");
        }
        done
    }
}

async fn one(writer: Writer, step: &Step) -> Result<(), String> {
    match act::carry_out(&writer, step).await {
        Err(overdue @ NotDone::Overdue) => {
            writer.give_up();
            Err(overdue.to_string())
        }
        result => result.map_err(|not_done| not_done.to_string()),
    }
}

impl Cluster for LiveCluster {
    fn now(&self) -> Millis {
        clock::now()
    }

    async fn pods(&self, desired: &Desired) -> Pods {
        self.keeper.as_ref().map(|keeper| keeper.pods(desired)).unwrap_or_default()
    }

    async fn left_over(&self, desired: &Desired) -> BTreeSet<NodeName> {
        self.keeper.as_ref().map(|keeper| keeper.left_over(desired)).unwrap_or_default()
    }

    async fn observe(&self, desired: &Desired) -> Observed {
        self.fleet.watch(&self.specs(desired));
        self.fleet.tried().await;
        let mut nodes = self.fleet.views();
        for node in desired.nodes.keys() {
            nodes.entry(node.clone()).or_insert_with(without_address);
        }
        nodes.sort_unstable_keys();
        // Its agent knows better than we do why a server is not there.
        for (node, view) in nodes.iter_mut().filter(|(_, view)| view.unseen.is_some()) {
            let told = self.keeper.as_ref().and_then(|keeper| keeper.trouble(node));
            view.unseen.iter_mut().zip(told).for_each(|(unseen, told)| unseen.detail = told);
        }
        let mut memory = lock(&self.memory);
        Arc::make_mut(&mut memory).advance(desired, &nodes, clock::now());
        let patience = desired.healing.suspect_after_milliseconds;
        desired.nodes.keys().filter(|node| memory.is_in_doubt(node, patience)).for_each(|node| self.fleet.poke(node));
        Observed { nodes, memory: memory.clone() }
    }

    async fn carry_out(&self, plan: &Plan) -> Outcome {
        if let Some(keeper) = &self.keeper {
            keeper.carry_out(&plan.deeds);
        }
        let servers = plan.by_server();
        let touched: Vec<&NodeName> = plan.steps.iter().flat_map(|planned| touches(&planned.step)).collect();
        let mut done =
            join_all(servers.into_iter().map(|(server, steps)| self.on_one_server(server, steps))).await.concat();
        done.sort_by_key(|(place, _)| *place);
        for node in touched {
            self.fleet.poke(node);
        }
        let outcome = Outcome { done: done.into_iter().map(|(_, done)| done).collect() };
        if !outcome.done.is_empty() {
            plan::record(Arc::make_mut(&mut lock(&self.memory)), &outcome, clock::now());
        }
        outcome
    }
}

/// The servers on which a step can be seen: an edge is seen when both ends agree (law 9).
fn touches(step: &Step) -> Vec<&NodeName> {
    let upstream = if let Step::SetRoute { route, .. } = step { route.first() } else { None };
    std::iter::once(step.server()).chain(upstream).collect()
}

/// What is seen of a pod before its Service has an address.
fn without_address() -> NodeView {
    let detail = "its Service has no address yet".to_owned();
    NodeView { last: None, unseen: Some(Unseen { why: WhyUnseen::Starting, detail }) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
