//! The slots of nodes that were taken out of the spec.

use super::super::World;
use super::super::standing::Standing;
use super::super::step::{Plan, Planned, Step, Why};
use super::RECONNECT_MILLISECONDS;
use crate::model::NodeName;

/// While such a node uses one of its slots, the others hold WAL for nobody; when it has used none for as long as a failed
/// node has to settle, so do all: a server that only reconnects keeps what it needs.
pub(super) fn release(world: &World<'_>, plan: &mut Plan) {
    let settle = world.desired.healing.settle_seconds.saturating_mul(1000).max(RECONNECT_MILLISECONDS);
    for (owner, leaver) in &world.observed.memory.leaving {
        let slot = owner.slot();
        let of = |on: &NodeName| world.seen(on).and_then(|facts| facts.slots.get(slot));
        let streams = world.desired.nodes.keys().any(|on| of(on).is_some_and(|slot| slot.active_pid.is_some()));
        if !(streams || world.desired.deleting || world.now.since(leaver.used) >= settle) {
            continue;
        }
        for on in world.all().filter(|on| world.standing(*on) != Standing::Barred) {
            if world.slots(on).any(|(of, slot)| of.name == owner && slot.active_pid.is_none()) {
                let step = Step::DropSlot { on: on.name.clone(), owner: owner.clone() };
                plan.steps.push(Planned { step, why: Why::LeftSpec });
            }
        }
    }
}

/// Whether a node was taken out of the spec.
pub(super) fn has_left(world: &World<'_>, owner: &NodeName) -> bool {
    world.observed.memory.leaving.contains_key(owner)
}
