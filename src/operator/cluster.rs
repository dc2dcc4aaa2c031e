//! The only seam: what the straight line asks of the world. The live cluster and the simulated one implement it.

use std::collections::BTreeSet;
use std::future::Future;

use crate::model::pods::Pods;
use crate::model::{Desired, Millis, NodeName, Observed};
use crate::plan::{Outcome, Plan};

/// A world in which a tree lives.
pub trait Cluster {
    /// The boot-time clock, in milliseconds.
    fn now(&self) -> Millis;

    /// What is known of the nodes of `desired` that are to be pods; nothing where there are none.
    fn pods(&self, desired: &Desired) -> impl Future<Output = Pods> + Send {
        let _ = desired;
        std::future::ready(Pods::new())
    }

    /// Nodes that have objects in Kubernetes and are not to be pods by `desired`.
    fn left_over(&self, desired: &Desired) -> impl Future<Output = BTreeSet<NodeName>> + Send {
        let _ = desired;
        std::future::ready(BTreeSet::new())
    }

    /// Looks at every node of `desired`. Never fails: what cannot be seen is [`crate::model::Unseen`].
    fn observe(&self, desired: &Desired) -> impl Future<Output = Observed> + Send;

    /// Carries out every step of a plan, each with a deadline, and remembers what became of it. Makes no choice.
    fn carry_out(&self, plan: &Plan) -> impl Future<Output = Outcome> + Send;
}
