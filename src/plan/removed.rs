//! Pods of nodes that were taken out of the spec: they go once nobody needs them. Their volumes stay.

use std::collections::BTreeSet;

use super::pods::Deed;
use super::rollout::may_restart;
use super::step::Plan;
use crate::model::orders::Data;
use crate::model::pods::{Pod, Pods};
use crate::model::primary::Primary;
use crate::model::{Desired, NodeName, Observed};

/// Fills in the deeds about nodes that have objects in Kubernetes and are not in the spec.
pub fn remove(desired: &Desired, observed: &Observed, pods: &Pods, left: &BTreeSet<NodeName>, plan: &mut Plan) {
    if !may_restart(desired) {
        return;
    }
    for node in left {
        let needed = needed(desired, observed, pods, node, plan);
        plan.deeds.extend(needed.is_none().then(|| Deed::Remove { node: node.clone() }));
        let what = needed.map_or("is removed".to_owned(), |why| format!("stays for now, as {why}"));
        plan.pending.insert(node.clone(), format!("{node} is not in the spec any more and {what}"));
    }
}

/// Why a node cannot go yet: whoever is not known to do without it may need it (law 8).
fn needed(desired: &Desired, observed: &Observed, pods: &Pods, node: &NodeName, plan: &Plan) -> Option<String> {
    // Whoever has no data follows nobody. That somebody was never seen says nothing: we may have begun a moment ago.
    let is_empty = |other: &NodeName| {
        let has_none = |pod: &Pod| pod.account.as_ref().is_some_and(|account| account.data == Data::None);
        pods.get(other).is_some_and(|pod| has_none(pod) || (pod.labelled.is_none() && pod.is_writer.is_some()))
    };
    let memory = &observed.memory;
    let Primary::Known { name: primary, .. } = &plan.sight.primary else {
        let was_none = memory.system_identifier.is_none() && memory.primary.is_none();
        if was_none && desired.nodes.keys().all(is_empty) {
            return None; // Nobody was ever seen: there is no tree yet that could need it.
        }
        return Some("no primary is seen among those that are in the spec".to_owned());
    };
    let is_cloned = |pod: &Pod| {
        let account = pod.account.as_ref().filter(|account| account.data == Data::None);
        let orders = account.and_then(|account| account.orders.as_ref());
        orders.is_some_and(|orders| orders.sources.first().is_some_and(|source| source.node == node.as_str()))
    };
    if let Some((clone, _)) = pods.iter().find(|(_, pod)| is_cloned(pod)) {
        return Some(format!("{clone} is being cloned from it"));
    }
    let mut others = desired.nodes.keys().filter(|other| *other != primary && !is_empty(other));
    let follows_nobody = others.find(|other| plan.sight.upstream(other).is_none());
    follows_nobody.map(|other| format!("{other} is not seen to receive from another, and may from it"))
}
