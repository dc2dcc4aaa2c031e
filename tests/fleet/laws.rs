//! The laws of design.md section 3, asked of a fleet and of one plan, and rounds in which they are asked.

use proptest::prelude::*;
use waltree::model::memory::NodeMemory;
use waltree::model::tree::{self, Union};
use waltree::model::{Desired, Facts, Millis, NodeName, Observed, Timeline};
use waltree::plan::{Plan, Planned, Step, StepKind, Why, plan};

use super::{Fleet, SEGMENT};

/// Rounds of 500 ms within which any fleet here comes to rest: settling takes 10 of them, moves go 8 at a time.
const ROUNDS_MAX: usize = 80;

/// So many who are fed are moved at once.
const MOVES_AT_ONCE: usize = 8;

/// Every prefix of a plan is legal: no ring, only seen servers written, nothing dropped that is in use (laws 1, 3, 4,
/// 8).
pub(crate) fn legal(desired: &Desired, observed: &Observed, made: &Plan) -> Result<(), TestCaseError> {
    let mut union = Union::of(desired, observed);
    prop_assert!(!union.is_cyclic(), "the fleet has a ring already");
    for planned in &made.steps {
        prop_assert!(observed.seen(planned.step.server()).is_some(), "law 8: written unseen: {planned:?}");
        if let Step::SetRoute { node, route, .. } = &planned.step {
            union.add_route(node, route);
            prop_assert!(!union.is_cyclic(), "law 1: a ring through {planned:?}");
            for up in &route.entries {
                prop_assert!(is_proven(desired, observed, node, up), "law 2: before {up} is proven: {planned:?}");
            }
        }
    }
    for planned in &made.steps {
        is_left(desired, observed, planned)?;
    }
    few_at_once(desired, observed, made)
}

/// Law 2: the slot of `node` on `up` is of use, the WAL that it would ask for is there, and it has nothing beyond the
/// fork where the history of `up` left its own. Of one that is not seen: it was proven when it came into the route.
fn is_proven(desired: &Desired, observed: &Observed, node: &NodeName, up: &NodeName) -> bool {
    let child = observed.seen(node).unwrap();
    let Some(facts) = observed.seen(up) else {
        return tree::entries(&desired.addresses(), &child.route.conninfo).contains(up);
    };
    let of_use = facts.slots.get(node.slot()).is_some_and(|slot| !slot.lost && slot.restart_lsn.is_some());
    of_use && has_all_of(child, facts)
}

/// Whether a server has the WAL that a child asks for, and is on the same history.
pub(crate) fn has_all_of(child: &Facts, up: &Facts) -> bool {
    let fork = |timeline: Timeline| up.history.iter().find(|(of, _)| *of == timeline).map(|(_, fork)| *fork);
    let same = child.timeline == up.timeline || fork(child.timeline.unwrap()).is_some_and(|at| child.position <= at);
    same && up.oldest_wal.unwrap() <= child.replay.segment_start(SEGMENT)
}

/// Law 3: what is dropped is idle, and who left it has no route, in use or ordered, that leads back there.
fn is_left(desired: &Desired, observed: &Observed, planned: &Planned) -> Result<(), TestCaseError> {
    let Step::DropSlot { on, owner } = &planned.step else { return Ok(()) };
    let slot = observed.seen(on).and_then(|facts| facts.slots.get(owner.slot()));
    prop_assert!(slot.is_some_and(|slot| slot.active_pid.is_none()), "law 3: dropped in use: {planned} {slot:?}");
    if planned.why != Why::LeftRoute {
        return Ok(());
    }
    let installed = tree::entries(&desired.addresses(), &observed.last(owner).unwrap().route.conninfo);
    prop_assert!(!installed.contains(on), "law 3: dropped and {owner} may go there still: {planned}");
    let order = observed.memory.node(owner).and_then(|memory| memory.ordered.as_ref());
    let ordered = order.is_some_and(|order| !order.seen_installed && order.route.contains(on));
    prop_assert!(!ordered, "law 3: dropped and {owner} is sent there: {planned}");
    Ok(())
}

/// Of those who are fed at most eight are moved at once.
fn few_at_once(desired: &Desired, observed: &Observed, made: &Plan) -> Result<(), TestCaseError> {
    let half = desired.healing.suspect_after_milliseconds / 2;
    let is_fed = |node: &NodeName| {
        let receives = observed.seen(node).is_some_and(|facts| facts.receiver.is_some());
        receives && made.sight.is_rooted(node) && observed.memory.stands_still(node, half).is_none()
    };
    let moved = made.steps.iter().filter(|planned| planned.step.kind() == StepKind::SetRoute);
    let fed = moved.filter(|planned| is_fed(planned.step.server())).count();
    prop_assert!(fed <= MOVES_AT_ONCE, "{fed} who are fed are moved at once");
    Ok(())
}

/// Law 1, by the streams themselves: nobody receives from himself, through however many others.
pub(crate) fn no_ring(fleet: &Fleet, after: &str) -> Result<(), TestCaseError> {
    let ring = fleet.ring();
    prop_assert!(ring.is_none(), "law 1: {ring:?} receives from himself after {after}: {:?}", fleet.tree());
    Ok(())
}

/// Law 2, by what the new upstream does: whoever is moved receives from the first entry of his new route at once.
fn is_fed_by_first(fleet: &Fleet, step: &Step) -> Result<(), TestCaseError> {
    let Step::SetRoute { node, route, .. } = step else { return Ok(()) };
    let server = &fleet.servers[node];
    let first = route.first().unwrap();
    let fed = server.stale || server.upstream.as_ref() == Some(first);
    prop_assert!(fed, "law 2: {} is moved to {} and gets nothing: {:?}", node, first, server);
    Ok(())
}

/// Half a second goes by; what is planned then is asked about the laws.
pub(crate) fn look(fleet: &mut Fleet) -> Result<(Observed, Plan), TestCaseError> {
    fleet.tick(500);
    no_ring(fleet, "a tick")?;
    let (observed, made) = fleet.plan();
    legal(&fleet.desired, &observed, &made)?;
    if made.steps.iter().any(|planned| planned.step.kind() == StepKind::SetRoute) {
        prop_assert_eq!(&made, &plan(&fleet.desired, &observed, fleet.now), "same input, same plan");
    }
    Ok((observed, made))
}

/// Carries out the steps that `keep` lets through; the laws are asked after each.
pub(crate) fn act(fleet: &mut Fleet, made: &Plan, keep: impl Fn(usize) -> bool) -> Result<(), TestCaseError> {
    for (_, planned) in made.steps.iter().enumerate().filter(|(step, _)| keep(*step)) {
        fleet.carry_out_one(planned.clone());
        no_ring(fleet, &planned.to_string())?;
        is_fed_by_first(fleet, &planned.step)?;
    }
    Ok(())
}

/// A look, and what is planned then is done as far as `keep` lets it through.
pub(crate) fn round(fleet: &mut Fleet, keep: impl Fn(usize) -> bool) -> Result<(Observed, Plan), TestCaseError> {
    let (observed, made) = look(fleet)?;
    act(fleet, &made, keep)?;
    Ok((observed, made))
}

/// Runs rounds until the planner has nothing to change; checks the laws in each.
pub(crate) fn settle(fleet: &mut Fleet) -> Result<Plan, TestCaseError> {
    let mut last = Plan::default();
    let mut calm = 0;
    for _ in 0..ROUNDS_MAX {
        let (observed, made) = round(fleet, |_| true)?;
        last = made;
        calm = if last.steps.iter().any(|planned| !planned.step.is_housekeeping())
            || !observed.memory.nodes.values().all(|node| is_calm(node, fleet.now))
        {
            0
        } else {
            calm + 1
        };
        if calm > 6 {
            return Ok(last);
        }
    }
    Err(TestCaseError::fail(format!("no rest after {ROUNDS_MAX} rounds: {:?} {:?}", last.steps, last.waits)))
}

fn is_calm(memory: &NodeMemory, now: Millis) -> bool {
    let settled = memory.settling_until.is_none()
        || memory.failing_since.is_some()
        || memory.settling_until < Some(memory.advanced_at);
    settled && memory.refused.values().all(|refused| refused.until <= now)
}

/// The tree is the wanted one, everybody is fed, the slots are exactly those that routes need.
pub(crate) fn as_wanted(fleet: &Fleet, made: &Plan) -> Result<(), TestCaseError> {
    for (node, route) in &made.wanted {
        let server = &fleet.servers[node];
        if server.up {
            let waits = &made.waits;
            prop_assert_eq!(server.upstream.as_ref(), route.first(), "{} is not where it is wanted: {:?}", node, waits);
        }
    }
    for (on, server) in fleet.servers.iter().filter(|(_, server)| server.up) {
        for slot in server.slots.keys() {
            let owner = fleet.desired.nodes.keys().find(|name| name.slot() == *slot).unwrap();
            let needed = made.wanted.get(owner).is_some_and(|route| route.contains(on));
            prop_assert!(needed || !fleet.servers[owner].up, "the slot of {owner} is left over on {on}");
        }
    }
    Ok(())
}
