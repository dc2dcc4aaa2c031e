//! The agents of one topology's pods: a task each, which asks how its node is, and what it said last.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::{Caller, Credentials};
use crate::model::NodeName;
use crate::model::orders::Account;

/// Between two questions.
const TICK: Duration = Duration::from_secs(1);

/// The agents of one topology. Dropping it ends every line.
#[derive(Default)]
pub struct Agents {
    wake: Arc<Notify>,
    agents: Mutex<BTreeMap<NodeName, Agent>>,
}

struct Agent {
    at: SocketAddr,
    caller: Arc<Caller>,
    account: watch::Receiver<Option<Account>>,
    poke: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agents {
    /// Asks exactly these, whom `credentials` say who we are. Must be called on a tokio runtime.
    pub fn watch(&self, wanted: &BTreeMap<NodeName, SocketAddr>, credentials: &Credentials) {
        let mut agents = self.agents();
        agents.retain(|node, agent| wanted.get(node) == Some(&agent.at));
        for (node, at) in wanted {
            if agents.contains_key(node) {
                continue;
            }
            match Caller::new(node, *at, credentials) {
                Ok(caller) => drop(agents.insert(node.clone(), self.start(*at, caller))),
                Err(error) => tracing::warn!(%node, %error, "its agent cannot be asked"),
            }
        }
    }

    /// Ends every line: who we are is shown anew.
    pub fn forget(&self) {
        self.agents().clear();
    }

    fn start(&self, at: SocketAddr, caller: Caller) -> Agent {
        let (tell, account) = watch::channel(None);
        let (caller, poke) = (Arc::new(caller), Arc::new(Notify::new()));
        let task = tokio::spawn(ask(Arc::clone(&caller), Arc::clone(&poke), tell, Arc::clone(&self.wake)));
        Agent { at, caller, account, poke, task }
    }

    /// What an agent says now; `None` where it is not heard.
    pub fn account(&self, node: &NodeName) -> Option<Account> {
        self.agents().get(node).and_then(|agent| agent.account.borrow().clone())
    }

    /// The line to an agent.
    pub fn caller(&self, node: &NodeName) -> Option<Arc<Caller>> {
        self.agents().get(node).map(|agent| Arc::clone(&agent.caller))
    }

    /// Asks it now: it was told something.
    pub fn poke(&self, node: &NodeName) {
        if let Some(agent) = self.agents().get(node) {
            agent.poke.notify_one();
        }
    }

    /// Returns when an agent says something else than it said. For one waiter.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    fn agents(&self) -> MutexGuard<'_, BTreeMap<NodeName, Agent>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(caller: Arc<Caller>, poke: Arc<Notify>, tell: watch::Sender<Option<Account>>, wake: Arc<Notify>) {
    loop {
        let said = caller.account().await.ok();
        let changed = tell.send_if_modified(|known| {
            let differ = *known != said;
            *known = said;
            differ
        });
        if changed {
            wake.notify_one();
        }
        let _ = tokio::time::timeout(TICK, poke.notified()).await;
    }
}
