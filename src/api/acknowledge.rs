//! `waltree.dev/acknowledge`: a person has looked, and what nodes did before is not to be held against them any more.

use std::collections::BTreeSet;

use super::ReplicaTopology;
use crate::model::{Desired, NodeName};

/// The annotation of a topology: `NODE[,NODE...]` or `all`, and after a blank anything that makes it another value than the
/// last. The operator never writes it: which value it took last is in `status.acknowledged`.
pub const ACKNOWLEDGE: &str = "waltree.dev/acknowledge";

/// The longest value that is told from others, in characters.
pub const ACKNOWLEDGE_CHARS_MAX: usize = 1_000;

/// An acknowledgement that was not taken yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acknowledgement {
    /// The whole value, for `status.acknowledged`.
    pub value: String,
    /// Whom it is about.
    pub nodes: BTreeSet<NodeName>,
    /// Names in it that no node has.
    pub unknown: Vec<String>,
}

/// The acknowledgement of a topology, unless its value is the one that was taken last.
pub fn acknowledgement(topology: &ReplicaTopology, desired: &Desired, taken: Option<&str>) -> Option<Acknowledgement> {
    let value = topology.metadata.annotations.as_ref()?.get(ACKNOWLEDGE)?;
    let value: String = value.chars().take(ACKNOWLEDGE_CHARS_MAX).collect();
    if taken == Some(value.as_str()) {
        return None;
    }
    let mut this = Acknowledgement::default();
    let names = value.split_whitespace().next().unwrap_or_default();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        match NodeName::new(name).ok().filter(|node| desired.nodes.contains_key(node)) {
            Some(node) => drop(this.nodes.insert(node)),
            // A node may be called so; then only that one is meant.
            None if name == "all" => this.nodes.extend(desired.nodes.keys().cloned()),
            None => this.unknown.push(name.to_owned()),
        }
    }
    Some(Acknowledgement { value, ..this })
}
