//! What one look at the servers says before anything is decided. The plan, the status and the drawings all go by the same
//! one, so that no two of them can tell a different story.

use super::observed::Look;
use super::primary::{Primary, true_primary};
use super::rooted::{Rooted, rooted};
use super::tree::{Edge, edges};
use super::{Addresses, ByNode, Desired, Group, NodeName, Observed};

/// Who is the primary, who receives from whom, and who has a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sight {
    /// The true primary.
    pub primary: Primary,
    /// The edge of every node that is seen.
    pub edges: ByNode<Edge>,
    /// The rootedness of every node.
    pub rooted: ByNode<Rooted>,
}

impl Sight {
    /// What is seen now.
    pub fn of(desired: &Desired, observed: &Observed) -> Self {
        Self::at(desired, &desired.addresses(), observed.into())
    }

    /// The same, by one who has looked up already who listens where.
    pub(crate) fn at(desired: &Desired, addresses: &Addresses<'_>, look: Look<'_>) -> Self {
        let edges = edges(desired, addresses, look);
        let primary = true_primary(desired, look.nodes, look.memory);
        Self { rooted: rooted(desired, look, &primary, &edges), primary, edges }
    }

    /// Whether a node has a path to the primary.
    pub fn is_rooted(&self, node: &NodeName) -> bool {
        self.rooted.get(node).is_some_and(Rooted::is_yes)
    }

    /// Whose fault it is that `node` has no path: the first on its way up that receives nothing although its upstream has
    /// a path, or that cannot be seen, or that receives from nobody of ours. Those below it only suffer from it.
    pub fn culprit<'a>(&'a self, node: &'a NodeName) -> &'a NodeName {
        let mut at = node;
        for _ in 0..self.edges.len() {
            let Some(upstream) = self.upstream(at) else { return at };
            match self.rooted.get(upstream) {
                Some(Rooted::Yes { .. }) => return at,
                Some(Rooted::No(_)) => at = upstream,
                Some(Rooted::Unknown(_)) | None => return upstream,
            }
        }
        // A ring: each of it is.
        node
    }

    /// Whether a node's lag arises on its own way from its upstream: that one is at most half as far behind.
    pub fn lags_by_itself(&self, node: &NodeName) -> bool {
        self.lag(node).is_none_or(|own| self.arises_below(node, own))
    }

    /// Whether all others that feed its group and are `well` else are nearly as far behind: then their source or the link to it
    /// is slow, and whoever is moved takes the lag along (safety.md section 4).
    pub fn siblings_lag_too(&self, desired: &Desired, node: &NodeName, well: impl Fn(&NodeName) -> bool) -> bool {
        let Some(own) = self.lag(node) else { return false };
        let feeders = desired.group_of(node).map(Group::feeders).filter(|feeders| feeders.contains(node));
        let siblings = feeders.unwrap_or_default().iter().filter(|sibling| *sibling != node && well(sibling));
        let mut lags = siblings.filter_map(|sibling| self.lag(sibling)).peekable();
        // Half as far as it at least, and nearly the bound.
        let least = (own / 2).max(desired.healing.lag_seconds.saturating_mul(750));
        lags.peek().is_some() && lags.all(|lag| lag > least)
    }

    /// How old what readers of a node see may be at most, where that arises at it or on its way from its upstream, in
    /// milliseconds. An upstream passes on what it has received, whatever of that it has replayed.
    pub fn shows_late(&self, node: &NodeName) -> Option<u64> {
        let Some(Rooted::Yes { shown_lag_milliseconds: own, .. }) = self.rooted.get(node) else { return None };
        Some(*own).filter(|own| self.arises_below(node, *own))
    }

    fn lag(&self, node: &NodeName) -> Option<u64> {
        match self.rooted.get(node) {
            Some(Rooted::Yes { lag_milliseconds, .. }) => Some(*lag_milliseconds),
            _ => None,
        }
    }

    fn arises_below(&self, node: &NodeName, own: u64) -> bool {
        self.upstream(node).and_then(|above| self.lag(above)).is_none_or(|above| above <= own / 2)
    }

    /// The upstream that a node tells, as far as it is one of ours.
    pub fn upstream(&self, node: &NodeName) -> Option<&NodeName> {
        self.edges.get(node).and_then(Edge::upstream)
    }
}
