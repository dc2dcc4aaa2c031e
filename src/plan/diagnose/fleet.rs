//! What is wrong with many at once.

use std::collections::BTreeMap;

use super::World;
use crate::model::{Diagnosis, Finding, NodeName, WhyUnseen};

/// It is us, not them: most servers of every zone have been silent for longer than the patience.
pub(super) fn blind(world: &World<'_>) -> Option<Finding> {
    let patience = world.desired.healing.suspect_after_milliseconds;
    world.observed.memory.blind_for().filter(|t| *t >= patience)?;
    let node = world.primary().or(world.desired.nodes.keys().next())?.clone();
    // How many of them moves with every look, and the status with it.
    let message =
        "most servers cannot be asked, in every zone, so the trouble is on this side. Nothing is done until most \
                   are seen again; look at the network and the DNS of the operator."
            .to_owned();
    Some(Finding { node, diagnosis: Diagnosis::BlindOperator, message })
}

/// Zones of two servers and more of which none is seen, and one of them for longer than the patience. Who is there and does not
/// let us in, or whom we have nothing to show, is not out of sight.
pub(super) fn zones_down<'a>(world: &World<'a>) -> BTreeMap<&'a str, Vec<&'a NodeName>> {
    // As nearly always.
    if world.all().all(|node| world.memory(node).is_none_or(|memory| memory.unseen_since.is_none())) {
        return BTreeMap::new();
    }
    let mut zones: BTreeMap<&str, Vec<&NodeName>> = BTreeMap::new();
    for node in world.desired.nodes.keys() {
        if let Some(zone) = world.zone(node) {
            zones.entry(zone).or_default().push(node);
        }
    }
    let patience = world.desired.healing.suspect_after_milliseconds;
    let ours = [WhyUnseen::CredentialsMissing, WhyUnseen::CredentialsRejected, WhyUnseen::TlsFailed];
    let why =
        |node: &NodeName| world.observed.nodes.get(node).and_then(|view| view.unseen.as_ref()).map(|unseen| unseen.why);
    let gone_for = |node: &&NodeName| {
        let gone = world.observed.memory.unseen_for(node);
        gone.filter(|_| why(node).is_none_or(|why| !ours.contains(&why)))
    };
    let all_gone = |nodes: &[&NodeName]| nodes.iter().map(gone_for).collect::<Option<Vec<_>>>();
    zones.retain(|_, nodes| {
        nodes.len() >= 2 && all_gone(nodes).is_some_and(|gone| gone.into_iter().max() >= Some(patience))
    });
    zones
}
