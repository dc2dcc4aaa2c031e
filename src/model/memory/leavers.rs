//! Nodes that were taken out of the spec: what they left on others, and what others left on them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Memory, NodeMemory};
use crate::model::{ByNode, Desired, Millis, NodeName, NodeView};

/// A node that was taken out of the spec.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leaver {
    /// When one of its slots was last seen in use, or may have been.
    pub used: Millis,
    /// When one of its slots was last seen in use, on the servers that are seen.
    pub active: Millis,
    /// Its routes were seen to be ours, so its slots are, on whatever server.
    pub routed: bool,
    /// Where we dropped its slot, and when.
    pub dropped: BTreeMap<NodeName, Millis>,
}

impl Leaver {
    /// Its slot is there again after we dropped it: somebody else makes it, so the node is somebody else's now.
    fn is_taken_over(&self, slot: &str, nodes: &ByNode<NodeView>) -> bool {
        self.dropped.iter().any(|(on, at)| {
            let facts = nodes.get(on).and_then(NodeView::seen);
            facts.is_some_and(|facts| facts.asked_at > *at && facts.slots.contains_key(slot))
        })
    }
}

impl Memory {
    /// Who was taken out of the spec. One whose slots are nowhere any more is forgotten, with the steps that failed for its
    /// sake; a server that is not seen may have one (law 8).
    pub(super) fn note_leavers(&mut self, desired: &Desired, nodes: &ByNode<NodeView>) {
        let is_gone = |name: &NodeName| !desired.nodes.contains_key(name);
        let at = self.at;
        self.left_on.retain(|name, _| is_gone(name));
        // As nearly always, nobody is.
        if !self.nodes.keys().eq(desired.nodes.keys()) {
            let Self { nodes, leaving, left_on, .. } = self;
            nodes.retain(|name, node| {
                if !is_gone(name) {
                    return true;
                }
                let leaver = Leaver { used: at, active: at, routed: node.routed, dropped: BTreeMap::new() };
                leaving.entry(name.clone()).or_insert(leaver);
                let left = slots_on(desired, node);
                if !left.is_empty() {
                    left_on.insert(name.clone(), left);
                }
                false
            });
        }
        self.leaving.retain(|name, leaver| {
            let slot = name.slot();
            let is_hidden = nodes.values().any(|view| view.unseen.is_some());
            let slots = || nodes.values().filter_map(NodeView::seen).filter_map(|facts| facts.slots.get(slot));
            // What it does on a server that is not seen is not known: it may be back at any moment.
            let is_active = slots().any(|slot| slot.active_pid.is_some());
            if is_hidden || is_active {
                leaver.used = at;
            }
            if is_active {
                leaver.active = at;
            }
            is_gone(name) && (slots().next().is_some() || is_hidden) && !leaver.is_taken_over(slot, nodes)
        });
        let leaving = &self.leaving;
        let is_known = |owner: &NodeName| !is_gone(owner) || leaving.contains_key(owner);
        self.failed_steps.retain(|(server, owner, _), _| !is_gone(server) && is_known(owner));
    }

    /// Servers on which nobody will drop our slots, with their owners as far as they are known: those that were taken out
    /// of the spec, and those that are not seen while the topology is deleted.
    pub fn out_of_reach(&self, desired: &Desired, nodes: &ByNode<NodeView>) -> BTreeMap<NodeName, BTreeSet<NodeName>> {
        let is_hidden = |name: &NodeName| desired.deleting && nodes.get(name).is_none_or(|view| view.unseen.is_some());
        let hidden = self.nodes.iter().filter(|(name, _)| is_hidden(name));
        let hidden = hidden.map(|(name, node)| (name.clone(), slots_on(desired, node)));
        self.left_on.clone().into_iter().chain(hidden).collect()
    }
}

/// Whose slots were on a node when it was seen last, of those whose routes are ours.
fn slots_on(desired: &Desired, node: &NodeMemory) -> BTreeSet<NodeName> {
    let is_ours = |owner: &NodeName| desired.group_of(owner).is_some_and(|group| group.management.sets_routes());
    let is_there = |owner: &NodeName| node.kept.slot(owner.slot()).is_some_and(|kept| kept.there);
    desired.nodes.keys().filter(|owner| is_ours(owner) && is_there(owner)).cloned().collect()
}
