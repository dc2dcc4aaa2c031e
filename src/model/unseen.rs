//! Whether it is they or we, when servers are not seen.

use std::collections::BTreeMap;

use super::{ByNode, Desired, NodeName, NodeView, WhyUnseen, near};

/// Fewer servers than this are no ground to judge our own sight by.
const NODES_MIN: usize = 3;

/// Most servers, and most of every zone, tell us nothing now: it is us, not them. Whoever refuses a connection, TLS or a login
/// has answered.
pub fn blind(desired: &Desired, nodes: &ByNode<NodeView>) -> bool {
    let silent = |(place, node): (usize, &NodeName)| {
        let unseen = near(nodes, place, node).and_then(|view| view.unseen.as_ref());
        let silence = [WhyUnseen::Timeout, WhyUnseen::AddressUnknown];
        unseen.is_some_and(|unseen| silence.contains(&unseen.why))
    };
    let all = desired.nodes.len();
    let unseen = desired.nodes.keys().enumerate().filter(|node| silent(*node)).count();
    if all < NODES_MIN || unseen * 2 <= all {
        return false;
    }
    let mut zones: BTreeMap<Option<&str>, (usize, usize)> = BTreeMap::new();
    for (place, (node, spec)) in desired.nodes.iter().enumerate() {
        let (seen, unseen) = zones.entry(spec.zone.as_deref()).or_default();
        *(if silent((place, node)) { unseen } else { seen }) += 1;
    }
    zones.values().all(|(seen, unseen)| unseen > seen)
}
