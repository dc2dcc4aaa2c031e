//! One server that is in the spec by several names: what a step does to the one the next undoes to the other, so neither is
//! written to until a person has taken one out (law 12).

use super::World;
use super::step::{Plan, Planned, Step, Why};
use crate::model::NodeName;

/// Which names of a node are one server, and the cure; `None` when it has one name.
pub(super) fn told(world: &World<'_>, node: &NodeName) -> Option<String> {
    if !world.is_twice(node) {
        return None;
    }
    // In the order of the spec, whichever of them is asked about.
    let memory = &world.observed.memory;
    let names = world.desired.nodes.keys().filter(|name| memory.are_one(name, node));
    let names: Vec<&str> = names.map(NodeName::as_str).collect();
    let (last, others) = names.split_last()?;
    let which = if others.len() == 1 { "one" } else { "all but one" };
    Some(format!("{} and {last} are one server: take {which} of them out of the spec", others.join(", ")))
}

/// Takes every step on such a server, and every one for its sake, out of the plan. Where it is the primary nobody is moved,
/// so nothing is prepared but what a route names already. What keeps the WAL of idle slots within its bound goes on, as the
/// disk comes before a mistake in the spec (law 3), and so does a deletion: what they do is the same by whatever name.
pub(super) fn leave(world: &World<'_>, plan: &mut Plan) {
    if world.desired.deleting {
        return;
    }
    let nobody_moves = world.primary().is_some_and(|primary| world.is_twice(primary));
    let installed = |owner: &NodeName| world.installed(owner).map(|route| &route.entries).into_iter().flatten();
    let named = |owner: &NodeName, on: &NodeName| installed(owner).any(|entry| entry.name == on);
    let bounds = |planned: &Planned| match &planned.step {
        Step::AdvanceSlot { owner, .. } | Step::ClearXmin { owner, .. } => !world.is_twice(owner),
        _ => planned.why == Why::RetainedWal,
    };
    let is_left = |planned: &Planned| match &planned.step {
        _ if bounds(planned) => false,
        step if world.is_twice(step.server()) || world.is_twice(step.owner()) => true,
        Step::CreateSlot { on, owner } => nobody_moves && !named(owner, on),
        _ => false,
    };
    plan.steps.retain(|planned| !is_left(planned));
}
