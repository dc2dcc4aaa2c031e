//! What nobody could try beforehand is tried on few: whether a node can log in at another upstream is in its passfile, its
//! certificates and the other's pg_hba.conf, which we never see. A node that streams well is sent where nobody came before
//! us only with one or two others, and nowhere while several did not arrive. Who has no path to the primary is never held up.

use std::collections::BTreeMap;

use super::World;
use super::ready::NotYet;
use super::routes::ORDER_MILLISECONDS;
use super::step::WaitReason;
use super::traffic::Move;
use crate::model::NodeName;
use crate::model::memory::NodeMemory;

/// So many nodes that streamed well and did not arrive hold up all others.
const STRAYED_MAX: usize = 2;

/// Moves at once to upstreams of which nothing is known, in the beginning: each that takes somebody in adds one more.
const UNTRIED_AT_ONCE: usize = 2;

/// Orders to upstreams that have taken in nobody yet.
pub(super) struct Brake<'a> {
    /// Who did not arrive lately, and where.
    strayed: Vec<(&'a NodeName, &'a NodeName)>,
    /// Upstreams that took somebody in who came from elsewhere, and who connected anew.
    tried: (usize, usize),
    /// Who is on the way to one that has not.
    untried: BTreeMap<NodeName, NodeName>,
}

impl<'a> Brake<'a> {
    /// As it stands before this plan.
    pub(super) fn of(world: &World<'a>) -> Self {
        let memory = &world.observed.memory;
        let nodes = || world.all().filter_map(|node| Some((node.name, world.memory(node)?)));
        let settle = world.desired.healing.settle_seconds;
        // Where others came in, it tells against the node alone.
        let closed = |first: &&NodeName| !is_tried(world, first, true);
        let strayed = |(name, node): (&'a NodeName, &NodeMemory)| {
            node.strayed.as_ref()?;
            Some((name, memory.strayed(name, settle).filter(closed)?))
        };
        let count = |tried: &dyn Fn(&NodeMemory) -> bool| nodes().filter(|(_, memory)| tried(memory)).count();
        let mut this = Self {
            strayed: nodes().filter_map(strayed).collect(),
            tried: (count(&|memory| memory.took_in), count(&|memory| memory.took_back)),
            untried: BTreeMap::new(),
        };
        for (name, remembered) in nodes() {
            let Some(order) = remembered.ordered.as_ref().filter(|order| order.streamed && !order.arrived) else {
                continue;
            };
            let Some(first) = order.route.first().filter(|first| !is_tried(world, first, order.moves)) else {
                continue;
            };
            if world.now.since(order.at) < ORDER_MILLISECONDS && !this.is_strayed(name) {
                this.untried.insert(first.clone(), name.clone());
            }
        }
        this
    }

    /// Why a move of a node that streams well waits until it is seen how others fare.
    pub(super) fn holds_up(&self, world: &World<'_>, node: &NodeName, moved: &Move) -> Option<NotYet> {
        let first = moved.route.first().filter(|_| !moved.urgent)?;
        let elsewhere = world.upstream(node).map(|upstream| upstream.name) != Some(first);
        if is_tried(world, first, elsewhere) {
            return None;
        }
        if self.strayed.len() >= STRAYED_MAX {
            return Some((WaitReason::NotFollowed, self.sentence()));
        }
        let on_the_way = |name: &NodeName| format!("whether {name} arrives at its new upstream is seen first");
        if let Some(other) = self.untried.get(first) {
            return Some((WaitReason::MovesUnderWay, on_the_way(other)));
        }
        let tried = if elsewhere { self.tried.0 } else { self.tried.1 };
        let most = if self.strayed.is_empty() { UNTRIED_AT_ONCE + tried } else { UNTRIED_AT_ONCE - self.strayed.len() };
        let other = self.untried.values().next().or(self.strayed.first().map(|(node, _)| *node));
        other.filter(|_| self.untried.len() >= most).map(|other| (WaitReason::MovesUnderWay, on_the_way(other)))
    }

    /// Whether a node did not arrive lately, so that others are to be tried before it.
    pub(super) fn is_strayed(&self, node: &NodeName) -> bool {
        self.strayed.iter().any(|(strayed, _)| *strayed == node)
    }

    /// Counts a move of this plan.
    pub(super) fn add(&mut self, world: &World<'_>, node: &NodeName, moved: &Move) {
        let elsewhere = |first: &&NodeName| world.upstream(node).map(|upstream| upstream.name) != Some(first);
        let first = moved.route.first().filter(|first| !moved.urgent && !is_tried(world, first, elsewhere(first)));
        if let Some(first) = first {
            self.untried.insert(first.clone(), node.clone());
        }
    }

    fn sentence(&self) -> String {
        let pair = |(node, first): &(&NodeName, &NodeName)| format!("{node} at {first}");
        let pairs = self.strayed.iter().map(pair).collect::<Vec<_>>().join(", ");
        format!(
            "others streamed well and did not arrive where their new route leads, {pairs}, so nobody else that \
             streams well is sent where nobody came before. Read their logs: their passfile may lack a line for it, the certificates may not fit its address, \
             or its pg_hba.conf refuses them. A few are tried again after a while, or at once when these are acknowledged"
        )
    }
}

/// Whether an upstream took somebody in since it was started: one from elsewhere, or one that connected anew.
fn is_tried(world: &World<'_>, upstream: &NodeName, elsewhere: bool) -> bool {
    let memory = world.observed.memory.node(upstream);
    memory.is_some_and(|memory| memory.took_in || (memory.took_back && !elsewhere))
}
