//! What is known of nodes that run in pods of ours, beside what their servers say.

use std::collections::BTreeMap;

use super::orders::{Account, Role};
use super::{Desired, NodeName};

/// Every node that is to be a pod.
pub type Pods = BTreeMap<NodeName, Pod>;

/// One node that is to be a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Pod {
    /// Whether its objects in Kubernetes are there and as they are to be.
    pub is_made: bool,
    /// Whether whoever makes pods in Kubernetes has taken in what they are to be.
    pub is_taken_in: bool,
    /// The IP that stays the same whatever becomes of the pod: its Service's. `None` until there is one.
    pub hostaddr: Option<String>,
    /// What its agent says; `None` where it is not heard.
    pub account: Option<Account>,
    /// Whether what the spec says of its server, parameters for one, is in the orders that its agent follows.
    pub is_current: bool,
    /// Whether whatever clients find the tree by is there, and the Service for writers leads to this node; `None` where that
    /// is not known.
    pub is_writer: Option<bool>,
    /// What the labels of its pod in Kubernetes say; `None` where there is no pod, and `Some(None)` where they say nothing.
    pub labelled: Option<Option<Labels>>,
    /// What its pod in Kubernetes was made from.
    pub made_from: MadeFrom,
    /// Whether Kubernetes says that its server answers, and it is not on its way out.
    pub is_ready: bool,
    /// What keeps that pod from running, in the words of Kubernetes; `None` where nothing does.
    pub stuck: Option<String>,
    /// Why what was decided about it last is not done; `None` where it is.
    pub undone: Option<String>,
}

impl Pod {
    /// What keeps its server from being as it was asked for, or from a part of it.
    pub fn trouble(&self) -> Option<&str> {
        let told = self.account.as_ref().map(|account| account.trouble.as_str());
        self.undone.as_deref().or(told.filter(|trouble| !trouble.is_empty()))
    }
}

/// What a pod in Kubernetes was made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum MadeFrom {
    /// There is none, or it is not known.
    #[default]
    Unknown,
    /// It is on its way out.
    Leaving,
    /// What the spec says now; the uid of the pod.
    Now(String),
    /// What it said before; the uid of the pod.
    Before(String),
}

/// By what Services find a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labels {
    /// What its server is.
    pub role: Role,
    /// Whether readers are led to it who are led to any.
    pub reads: bool,
    /// Whether readers are led to it who are led to those of its group.
    pub reads_in_group: bool,
}

impl Labels {
    /// What a pod begins with: whoever is made anew while nobody of ours is there serves once it is ready.
    pub fn first(role: Role) -> Self {
        Self { role, reads: true, reads_in_group: true }
    }
}

/// What a node is ordered to be, as far as that is a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Its role.
    pub role: Role,
    /// Whose data it has to have; `None` for the first server of a tree that has none yet.
    pub system_identifier: Option<u64>,
    /// Whom it may be cloned from, the best first.
    pub sources: Vec<NodeName>,
    /// Which start of its PostgreSQL is to be followed by another one, as [`Account::postmaster`] calls it.
    pub restart: Option<String>,
}

impl Desired {
    /// The same, with the addresses that the pods have.
    #[must_use]
    pub fn located(mut self, pods: &Pods) -> Self {
        for (name, pod) in pods {
            if let Some(node) = self.nodes.get_mut(name) {
                node.hostaddr.clone_from(&pod.hostaddr);
            }
        }
        self
    }
}
