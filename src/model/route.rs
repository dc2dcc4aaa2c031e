//! A route: the ordered upstreams of one node.

use super::NodeName;

/// Which servers of a route libpq may settle on (`target_session_attrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionAttrs {
    /// Any server that lets us in.
    Any,
    /// The primary only. For the direct children of the primary, whose whole route is the root group: after a
    /// promotion they find the new primary by themselves.
    Primary,
}

/// The ordered upstreams of a node, compiled into one multi-host `primary_conninfo`. The entries after the first are
/// called fallbacks. Every entry has a lower rank than the node (law 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// First the intended upstream, then the fallbacks, in the order in which libpq tries them.
    pub entries: Vec<NodeName>,
    /// Which of them libpq may settle on.
    pub attrs: SessionAttrs,
}

/// Most entries of a route that is not [`SessionAttrs::Primary`]: the intended upstream and two fallbacks. Each entry
/// costs a slot and its retained WAL on that upstream.
pub const ROUTE_ENTRIES_MAX: usize = 3;

impl Route {
    /// The intended upstream.
    pub fn first(&self) -> Option<&NodeName> {
        self.entries.first()
    }

    /// What libpq goes on to when the first entry refuses.
    pub fn fallbacks(&self) -> &[NodeName] {
        self.entries.get(1..).unwrap_or_default()
    }

    /// Whether `node` is one of the entries.
    pub fn contains(&self, node: &NodeName) -> bool {
        self.entries.contains(node)
    }
}
