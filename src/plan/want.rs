//! The wanted tree: a route for every node, within the limits now and after the loss of any one node.

use super::fallbacks::routes;
use super::prefer::preferences;
use super::spread::Spread;
use super::standing::Standing;
use super::step::{Plan, Readiness};
use super::{World, ready, slots};
use crate::model::{Management, NodeName, Route};

/// Fills in `plan.wanted`, `plan.fallbacks` and `plan.shortages`.
pub(super) fn want(world: &World<'_>, plan: &mut Plan) {
    plan.wanted = routes(&Spread::of(world, preferences(world.desired)));
    plan.fallbacks.reserve(plan.wanted.len());
    // A server whose route is not ours to set needs no fallbacks: none is prepared for it.
    let barred = |node: &NodeName| world.standing(node) == Standing::Barred || world.is_twice(node);
    let ours = |node: &NodeName| !barred(node) && world.management(node) == Management::Routes;
    for (node, route) in plan.wanted.iter().filter(|(node, _)| ours(node)) {
        let state = |upstream: &NodeName| ready::fallback(world, node, upstream);
        let states: Vec<_> = route.fallbacks().iter().map(|up| (up.clone(), state(up))).collect();
        // Where there is no slot, nothing is ready.
        let without = states.iter().filter(|(_, readiness)| *readiness == Readiness::NotReady).map(|(up, _)| up);
        let given_up = without.filter(|up| slots::is_given_up(world, node, up));
        plan.given_up.extend(given_up.map(|up| (node.clone(), up.clone())));
        plan.fallbacks.insert(node.clone(), states);
    }
    plan.shortages = shortages(world, plan);
}

/// One sentence for each group in which nodes have no fallback at all. A node right below the primary goes on to the next
/// primary only; where the root group has no other that could be it, there is no fallback to be had.
fn shortages(world: &World<'_>, plan: &Plan) -> Vec<String> {
    let root = world.desired.root().map(|root| root.members.as_slice()).unwrap_or_default();
    let spared = |node: &NodeName, route: &Route| {
        let last = root.iter().all(|member| member == node || world.is_primary(member));
        last && route.first().is_some_and(|first| world.is_primary(first))
    };
    let without = |node: &&NodeName| {
        let ours = world.management(node) == Management::Routes;
        plan.wanted.get(*node).is_some_and(|route| ours && route.fallbacks().is_empty() && !spared(node, route))
    };
    let sentence = |group: &crate::model::Group| {
        let count = group.members.iter().filter(without).count();
        let size = group.members.len();
        (count > 0).then(|| {
            format!(
                "{count} of {size} nodes of {} have no fallback within the limits: add a relay or a root standby, or \
                 raise fanOut",
                group.name
            )
        })
    };
    world.desired.groups.iter().filter_map(sentence).collect()
}
