//! One small WAL record on a quiet primary: without it a node that stands still cannot be told from one with nothing to
//! receive (safety.md law 19).

use super::World;
use super::standing::{Standing, is_the_primary};
use super::step::{Plan, Planned, Step, Why};
use crate::model::NodeName;

/// While any node is in doubt, in milliseconds.
const SUSPECT_MILLISECONDS: u64 = 1_000;

/// In calm times, in milliseconds.
const CALM_MILLISECONDS: u64 = 10_000;

/// Adds a heartbeat when it is due and the primary's position has not moved by itself.
pub(super) fn beat(world: &World<'_>, plan: &mut Plan) {
    // Barred while it is the primary: a version that is not to be touched.
    let writable = |name: &&NodeName| is_the_primary(world, name) && world.standing(*name) != Standing::Barred;
    let Some(primary) = world.primary().filter(writable) else { return };
    let memory = &world.observed.memory;
    let in_doubt = memory.nodes.values().any(|node| node.failing_since.or(node.unseen_since).is_some());
    let period = if in_doubt { SUSPECT_MILLISECONDS } else { CALM_MILLISECONDS };
    let moved = |since: u64| {
        let newest = memory.samples.back();
        memory
            .samples
            .iter()
            .any(|s| world.now.since(s.at) <= since && newest.is_some_and(|n| n.position != s.position))
    };
    let due = memory.heartbeat_at.is_none_or(|at| world.now.since(at) >= period);
    if due && !moved(period) {
        let step = Step::Heartbeat { primary: primary.clone() };
        plan.steps.push(Planned { step, why: Why::Quiet });
    }
}
