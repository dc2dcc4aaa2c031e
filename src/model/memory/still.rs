//! Who stands still, told from where the primary was when.

use super::{Memory, NodeMemory, Sample};
use crate::model::{Facts, Lsn, Millis, NodeName};

impl Memory {
    /// The sample that shows a node standing still: the primary was beyond the node's position then, that is
    /// `patience_milliseconds` ago, and the node has not moved since.
    pub fn stands_still(&self, node: &NodeName, patience_milliseconds: u64) -> Option<&Sample> {
        self.stood_still(self.node(node)?, patience_milliseconds)
    }

    /// The same of one whose memory is at hand.
    pub(crate) fn stood_still(&self, node: &NodeMemory, patience_milliseconds: u64) -> Option<&Sample> {
        let since = self.still_since(node)?;
        let passed = self.passed(node)?;
        // By its own last answer: that it was not asked since does not show it standing still.
        (node.asked_at.since(since) >= patience_milliseconds).then_some(passed)
    }

    /// Whether a node has stood still for a quarter of the patience and not yet for all of it, so that it is worth a look
    /// before the next tick: the patience, and half of it, are to end when they end, not up to a tick later.
    pub fn is_in_doubt(&self, node: &NodeName, patience_milliseconds: u64) -> bool {
        self.node(node).is_some_and(|node| self.doubts(node, patience_milliseconds))
    }

    /// The same of one whose memory is at hand.
    pub(crate) fn doubts(&self, node: &NodeMemory, patience_milliseconds: u64) -> bool {
        let still_since = self.still_since(node).filter(|_| node.unseen_since.is_none());
        let still_for = still_since.map(|since| node.asked_at.since(since));
        still_for.is_some_and(|t| t >= patience_milliseconds / 4 && t < patience_milliseconds)
    }

    /// The first sample in which the primary was beyond a node. Samples are of one history, so their positions only grow.
    fn passed(&self, node: &NodeMemory) -> Option<&Sample> {
        self.samples.get(self.samples.partition_point(|sample| sample.position <= node.position))
    }

    /// Since when a node has not moved although the primary was beyond it; `None` when it has all that was sampled.
    pub(super) fn still_since(&self, node: &NodeMemory) -> Option<Millis> {
        self.passed(node).map(|passed| passed.at.max(node.advanced_at))
    }

    /// The time of the newest sample that this position has reached.
    pub(super) fn newest_reached(&self, facts: &Facts, position: Lsn) -> Option<Millis> {
        let same_history = facts.timeline.is_none() || facts.timeline == self.timeline;
        let reached = |sample: &&Sample| same_history && sample.position <= position;
        self.samples.iter().rev().find(reached).map(|sample| sample.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_stands_still_by_its_own_answer_and_never_because_it_was_not_asked() {
        let node = NodeName::new("l1").unwrap();
        let sample = Sample { at: Millis(1_000), timeline: None, position: Lsn(200) };
        let mut memory = Memory { at: Millis(9_000), samples: [sample].into(), ..Memory::default() };
        let asked = |at| NodeMemory { position: Lsn(100), asked_at: Millis(at), ..NodeMemory::default() };
        memory.nodes.insert(node.clone(), asked(1_499));
        assert_eq!(memory.stands_still(&node, 500), None);
        memory.nodes.insert(node.clone(), asked(1_500));
        assert_eq!(memory.stands_still(&node, 500), Some(&sample));
    }
}
