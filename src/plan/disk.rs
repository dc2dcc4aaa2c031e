//! Whose disk is tried: nothing that a server says by itself tells a full one from a cut.

use super::World;
use super::standing::Standing;
use super::step::{Plan, Planned, Step, Why};

/// How often one disk is tried at most, in milliseconds: it is written to.
const AGAIN_MILLISECONDS: u64 = 10_000;

/// Has the disk tried of whoever is seen and has received nothing for longer than the patience, by its own fault.
pub(super) fn doubt(world: &World<'_>, plan: &mut Plan) {
    let patience = world.desired.healing.suspect_after_milliseconds;
    // In the order of the spec, which no operator's past has a part in.
    let known = world.all().filter_map(|node| Some((node, world.memory(node)?)));
    for (node, remembered) in known.filter(|(_, remembered)| remembered.failing_since.is_some()) {
        let Some(facts) = world.seen(node).filter(|facts| facts.in_recovery) else { continue };
        let starves = world.failing_for(node).is_some_and(|t| t >= patience) && !remembered.receives_steadily();
        // While it replays a backlog, what is free is needed by its data files: a full one ends the server.
        let replays = facts.position.bytes_since(facts.replay) >= facts.segment_bytes;
        let due = remembered.disk_tried_at.is_none_or(|at| world.now.since(at) >= AGAIN_MILLISECONDS);
        if starves && !replays && due && world.standing(node) != Standing::Barred {
            plan.steps.push(Planned { step: Step::TryDisk { node: node.name.clone() }, why: Why::Starves });
        }
    }
}
