//! The laws of design.md section 3, asked of a fleet and of one plan, and rounds in which they are asked.

use proptest::prelude::*;
use waltree::model::memory::NodeMemory;
use waltree::model::tree::{self, Union};
use waltree::model::{Desired, Millis, NodeName, Observed};
use waltree::plan::{Plan, Step};

use super::Fleet;

/// Rounds of 500 ms within which any fleet here comes to rest: settling takes 10 of them, moves go 8 at a time.
const ROUNDS_MAX: usize = 80;

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
            let installed = tree::entries(&desired.addresses(), &observed.last(node).unwrap().route.conninfo);
            let proven = |up: &NodeName| match observed.seen(up) {
                Some(facts) => facts.slots.contains_key(node.slot()),
                None => installed.contains(up),
            };
            prop_assert!(route.entries.iter().all(proven), "law 2: a route before its slots: {planned:?}");
        }
    }
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
