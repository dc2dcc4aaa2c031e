//! One server that is in the spec by several names: by its address and a DNS name of it, say, or by two of its addresses.
//! What two names may do to one server, two operators may: nothing is written there until one is left (law 12).

use std::collections::BTreeSet;

use super::Memory;
use crate::model::{ByNode, Desired, Facts, NodeName, NodeView, near};

/// How long what a name said last counts for whom it names, in milliseconds: longer than a server takes to be started again.
const FORGOTTEN_AFTER_MILLISECONDS: u64 = 60_000;

impl Memory {
    /// Whether a node's server is in the spec by another name too.
    pub fn is_twice(&self, node: &NodeName) -> bool {
        self.twice.keys().any(|(one, other)| one == node || other == node)
    }

    /// Whether two nodes are one server, or the same node.
    pub fn are_one(&self, one: &NodeName, other: &NodeName) -> bool {
        one == other || (!self.twice.is_empty() && self.twice.contains_key(&pair(one, other)))
    }

    /// Notes who is one server. It is seen by the start of its postmaster, to the microsecond: no two servers of a cluster
    /// have that in common, a copy of one neither. A server that is started again is seen to be another by the one name
    /// before it is by the other, so a pair lasts until both were asked after they were seen to differ. One that has a new
    /// address has said nothing yet, and is in no pair; nor is one that has said nothing for so long that it may well be
    /// another by now.
    pub(super) fn note_twice(&mut self, desired: &Desired, nodes: &ByNode<NodeView>) {
        let at = self.at;
        let silent: BTreeSet<NodeName> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.unseen_since.is_some_and(|since| at.since(since) >= FORGOTTEN_AFTER_MILLISECONDS))
            .map(|(name, _)| name.clone())
            .collect();
        let last = |name: &NodeName| {
            let said = nodes.get(name).filter(|_| desired.nodes.contains_key(name) && !silent.contains(name))?;
            said.last.as_deref()
        };
        for (pair, differ_since) in std::mem::take(&mut self.twice) {
            let (Some(one), Some(other)) = (last(&pair.0), last(&pair.1)) else { continue };
            let since = differ_since.unwrap_or(self.at);
            let asked_since = |name: &NodeName| {
                let facts = nodes.get(name).and_then(NodeView::seen);
                facts.is_some_and(|facts| facts.asked_at > since)
            };
            if !(asked_since(&pair.0) && asked_since(&pair.1)) || incarnation(one) == incarnation(other) {
                self.twice.insert(pair, Some(since));
            }
        }
        let said = |place, name| near(nodes, place, name).filter(|_| !silent.contains(name))?.last.as_deref();
        let all = desired.nodes.keys().enumerate();
        let mut all: Vec<_> = all.filter_map(|(place, name)| Some((incarnation(said(place, name)?)?, name))).collect();
        all.sort_unstable();
        for same in all.chunk_by(|(one, _), (other, _)| one == other) {
            for (at, (_, one)) in same.iter().enumerate() {
                for (_, other) in &same[at + 1..] {
                    self.twice.insert(pair(one, other), None);
                }
            }
        }
    }
}

/// Which run of which cluster's server it is; `None` when it is not known.
fn incarnation(facts: &Facts) -> Option<(u64, u64)> {
    (facts.started > 0).then_some((facts.system_identifier, facts.started))
}

fn pair(one: &NodeName, other: &NodeName) -> (NodeName, NodeName) {
    if one <= other { (one.clone(), other.clone()) } else { (other.clone(), one.clone()) }
}
