//! Whether it is they or we, when servers are not seen.

use std::collections::BTreeMap;

use super::{ByNode, Desired, NodeName, NodeView, WhyUnseen};

/// Fewer servers than this are no ground to judge our own sight by.
const NODES_MIN: usize = 3;

/// Most servers, and most of every zone, tell us nothing now: it is us, not them. Whoever refuses a connection, TLS or a login
/// has answered.
pub fn blind(desired: &Desired, nodes: &ByNode<NodeView>) -> bool {
    let silent = |node: &NodeName| {
        let unseen = nodes.get(node).and_then(|view| view.unseen.as_ref());
        let silence = [WhyUnseen::Timeout, WhyUnseen::AddressUnknown];
        unseen.is_some_and(|unseen| silence.contains(&unseen.why))
    };
    let mut zones: BTreeMap<Option<&str>, (usize, usize)> = BTreeMap::new();
    for (node, spec) in &desired.nodes {
        let (seen, unseen) = zones.entry(spec.zone.as_deref()).or_default();
        *(if silent(node) { unseen } else { seen }) += 1;
    }
    let all = desired.nodes.len();
    let unseen: usize = zones.values().map(|(_, unseen)| unseen).sum();
    all >= NODES_MIN && unseen * 2 > all && zones.values().all(|(seen, unseen)| unseen > seen)
}
