//! Who has a proven path of advancing WAL to the primary.

use std::collections::BTreeMap;

use super::{Desired, NodeName, Observed};

/// Whether a node has a path to the true primary along which positions advance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rooted {
    /// It has.
    Yes {
        /// Edges up to the primary; 0 for the primary itself.
        hops: usize,
        /// How far it is behind at most, in milliseconds.
        lag_milliseconds: u64,
    },
    /// It has not: what was seen.
    No(String),
    /// It could not be seen: why.
    Unknown(String),
}

/// Rootedness of every node.
pub fn rooted(desired: &Desired, _observed: &Observed) -> BTreeMap<NodeName, Rooted> {
    desired.nodes.keys().map(|node| (node.clone(), Rooted::Unknown("not looked at".to_owned()))).collect()
}
