//! All servers of one topology: a task each, and what they saw last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::server::{Logins, Shared, Sighting, Task};
use super::{NoRight, ServerSpec, Timing, Wallet, Writer};
use crate::model::{ByNode, Millis, NodeName, NodeView, Unseen, WhyUnseen};

/// The boot-time clock, given because this folder has none of its own.
pub type Clock = fn() -> Millis;

/// The servers of one topology, watched. Dropping it ends every session.
pub struct Fleet {
    shared: Arc<Shared>,
    servers: Mutex<BTreeMap<NodeName, Server>>,
}

struct Server {
    spec: ServerSpec,
    sighting: watch::Receiver<Sighting>,
    poke: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fleet {
    /// A fleet without servers.
    pub fn new(wallet: Wallet, timing: Timing, clock: Clock) -> Self {
        Self::of_topology("", wallet, timing, clock)
    }

    /// A fleet without servers, of a topology that is named in the log: `namespace/name`.
    pub fn of_topology(topology: &str, wallet: Wallet, timing: Timing, clock: Clock) -> Self {
        let topology = topology.to_owned();
        let shared = Shared { topology, wallet, timing, clock, wake: Notify::new(), logins: Logins::default() };
        Self { shared: Arc::new(shared), servers: Mutex::default() }
    }

    /// Watches exactly these servers. One whose access or fence changed logs in anew; one that is new at its address
    /// has nothing remembered. Must be called on a tokio runtime.
    pub fn watch(&self, wanted: &BTreeMap<NodeName, ServerSpec>) {
        let mut servers = self.servers();
        servers.retain(|node, _| wanted.contains_key(node));
        for (node, spec) in wanted {
            let present = servers.get(node);
            if present.is_some_and(|server| &server.spec == spec) {
                continue;
            }
            let at = |spec: &ServerSpec| (spec.address.clone(), spec.hostaddr, spec.port);
            let same = present.filter(|server| at(&server.spec) == at(spec));
            // What was said to a session without this fence is not what holds under it.
            let last = same.and_then(|server| server.sighting.borrow().view.last.clone());
            let view = NodeView { last, unseen: Some(not_yet()) };
            let server = self.start(node, spec, view);
            servers.insert(node.clone(), server);
        }
    }

    fn start(&self, node: &NodeName, spec: &ServerSpec, view: NodeView) -> Server {
        let (sender, sighting) = watch::channel(Sighting { view, session: None });
        let poke = Arc::new(Notify::new());
        let task = Task {
            shared: Arc::clone(&self.shared),
            node: node.clone(),
            spec: spec.clone(),
            sighting: sender,
            poke: Arc::clone(&poke),
        };
        Server { spec: spec.clone(), sighting, poke, task: tokio::spawn(task.run()) }
    }

    /// Waits until every server was tried once, or the deadlines of one login and one answer have passed.
    pub async fn tried(&self) {
        let sightings: Vec<_> = self.servers().values().map(|server| server.sighting.clone()).collect();
        let tried = sightings.into_iter().map(|mut sighting| async move {
            let _ = sighting.wait_for(|now| now.view.unseen.as_ref().is_none_or(|u| u.why != WhyUnseen::NotYet)).await;
        });
        let deadline = self.shared.timing.login + self.shared.timing.answer;
        let _ = tokio::time::timeout(deadline, futures::future::join_all(tried)).await;
    }

    /// What is known of every server now.
    pub fn views(&self) -> ByNode<NodeView> {
        self.servers().iter().map(|(node, server)| (node.clone(), server.sighting.borrow().view.clone())).collect()
    }

    /// Asks a server now, and a few times more within a fraction of a second: something was written there, or is
    /// suspected.
    pub fn poke(&self, node: &NodeName) {
        if let Some(server) = self.servers().get(node) {
            server.poke.notify_one();
        }
    }

    /// Returns when a server came into or went out of sight, or its role, upstream or route changed, since it was
    /// waited for last. For one waiter.
    pub async fn changed(&self) {
        self.shared.wake.notified().await;
    }

    /// A server's session, for writing, when its turn has come.
    ///
    /// # Errors
    /// [`NoRight`] when nothing may be written there now.
    pub async fn writer(&self, node: &NodeName) -> Result<Writer, NoRight> {
        let sighting = self.servers().get(node).map(|server| server.sighting.borrow().clone());
        let Some(sighting) = sighting else { return Err(NoRight::Unseen(not_yet())) };
        match (sighting.session, sighting.view.unseen) {
            (Some(session), _) => session.writer().await,
            (None, unseen) => Err(NoRight::Unseen(unseen.unwrap_or_else(not_yet))),
        }
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<NodeName, Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_yet() -> Unseen {
    Unseen { why: WhyUnseen::NotYet, detail: String::new() }
}
