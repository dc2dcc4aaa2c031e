//! Which orders are still in force, who arrived where one sent it, and who did not.

use std::collections::BTreeSet;

use super::judge::REFUSED_AFTER_MILLISECONDS;
use super::{FORGIVEN_AFTER_MILLISECONDS, Memory, NodeMemory};
use crate::model::tree::Edge;
use crate::model::{ByNode, Desired, Millis, NodeName, NodeView, Sight, near};

/// For so many settling times it is remembered that a node did not arrive.
const STRAYED_FOR_SETTLES: u64 = 5;

impl Memory {
    /// Where a node that streamed well did not arrive a short while ago.
    pub fn strayed(&self, node: &NodeName, settle_seconds: u64) -> Option<&NodeName> {
        let (upstream, at) = self.node(node)?.strayed.as_ref()?;
        let lasts = settle_seconds.saturating_mul(1000).max(REFUSED_AFTER_MILLISECONDS);
        (self.at.since(*at) < lasts.saturating_mul(STRAYED_FOR_SETTLES)).then_some(upstream)
    }

    /// Whether our routes are still there.
    pub(super) fn compare_orders(&mut self, desired: &Desired, nodes: &ByNode<NodeView>) {
        let at = self.at;
        for (place, (name, node)) in self.nodes.iter_mut().enumerate() {
            let Some(facts) = near(nodes, place, name).and_then(NodeView::seen) else { continue };
            if at.since(node.overwritten_at) >= FORGIVEN_AFTER_MILLISECONDS {
                node.overwritten = 0;
            }
            let Some(order) = &mut node.ordered else { continue };
            if facts.asked_at <= order.at {
                continue;
            }
            if desired.has_installed(name, &order.route, facts) {
                order.seen_installed = true;
            } else if order.seen_installed {
                // What was written is there where it is the spec that has changed: nobody else wrote anything.
                let is_there = order.conninfo == facts.route.conninfo
                    && facts.route.pending.is_none()
                    && facts.route.slot == name.slot();
                if !is_there {
                    node.overwritten += 1;
                    node.overwritten_at = at;
                }
                node.ordered = None;
            }
        }
    }

    /// Compares where nodes are with where they were sent.
    pub(super) fn note_arrivals(&mut self, nodes: &ByNode<NodeView>, sight: &Sight, well_since: &ByNode<Millis>) {
        let mut took: BTreeSet<(NodeName, bool)> = BTreeSet::new();
        for (place, (name, node)) in self.nodes.iter_mut().enumerate() {
            if node.ordered.as_ref().is_none_or(|order| order.arrived) {
                continue;
            }
            let Some(facts) = near(nodes, place, name).and_then(NodeView::seen) else { continue };
            let edge = sight.edges.get(name).filter(|_| sight.is_rooted(name));
            // While replay is blocked, or the disk full, it follows nobody, whoever it is.
            let able = !facts.disk_full && facts.replay_blocked_by().is_none();
            if let Some((first, moves)) = node.arrives(edge, facts.asked_at) {
                took.insert((first, moves));
            } else if able {
                node.strays(sight.upstream(name), facts.asked_at, self.at, |first| well_since.get(first).copied());
            }
        }
        for (upstream, moves) in took {
            let upstream = self.nodes.entry(upstream).or_default();
            upstream.took_in |= moves;
            upstream.took_back = true;
        }
    }
}

impl NodeMemory {
    /// The upstream to which it has come by its last order, from elsewhere or by connecting anew.
    fn arrives(&mut self, edge: Option<&Edge>, asked_at: Millis) -> Option<(NodeName, bool)> {
        let connected = self.receiver.map(|(_, since)| since);
        let order = self.ordered.as_mut().filter(|order| !order.arrived && asked_at > order.at)?;
        let first = order.route.first()?;
        // One that stays where it is shows by a new walreceiver only that it was let in again.
        let anew = order.moves || connected.is_some_and(|since| since > order.at);
        if !anew || !matches!(edge, Some(Edge::Both(upstream)) if upstream == first) {
            return None;
        }
        order.arrived = true;
        self.strayed.take_if(|(upstream, _)| upstream == first);
        Some((first.clone(), order.moves))
    }

    /// Notes that it streamed well before its last order and has not arrived since, although its new upstream was well all
    /// the time, or that the order is not even in force.
    fn strays(
        &mut self,
        from: Option<&NodeName>,
        asked_at: Millis,
        now: Millis,
        well_since: impl Fn(&NodeName) -> Option<Millis>,
    ) {
        let Some(order) = self.ordered.as_ref().filter(|order| order.streamed && !order.arrived) else { return };
        let late = asked_at.since(order.at) >= REFUSED_AFTER_MILLISECONDS;
        let refused = |first: &NodeName| self.refused.get(first).is_some_and(|refused| refused.until > now);
        let well = |first: &NodeName| well_since(first).is_some_and(|since| since <= order.at);
        let lost = |first: &NodeName| {
            (late && !order.seen_installed) || (from != Some(first) && (late || refused(first)) && well(first))
        };
        let known = self.strayed.as_ref().is_some_and(|(_, at)| *at >= order.at);
        if let Some(first) = order.route.first().filter(|first| !known && lost(first)) {
            self.strayed = Some((first.clone(), now));
        }
    }
}
