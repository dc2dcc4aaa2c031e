//! The laws of design.md section 3 that the planner answers for, over random fleets, faults and interruptions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod fleet;

use std::collections::BTreeMap;

use fleet::Fleet;
use fleet::shapes::{brownfield, config, desired, draws, shapes};
use proptest::prelude::*;
use waltree::model::tree::{self, Union};
use waltree::model::{Desired, NodeName, Observed};
use waltree::plan::{Plan, Step, plan};

/// Rounds of 500 ms within which any fleet here comes to rest: settling takes 10 of them, moves go 8 at a time.
const ROUNDS_MAX: usize = 80;

/// Every prefix of a plan is legal: no ring, only seen servers written, nothing dropped that is in use (laws 1, 3, 4, 8).
fn legal(desired: &Desired, observed: &Observed, made: &Plan) -> Result<(), TestCaseError> {
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

/// Runs rounds until the planner has nothing to change; checks the laws in each.
fn settle(fleet: &mut Fleet) -> Result<Plan, TestCaseError> {
    let mut last = Plan::default();
    let mut calm = 0;
    for _ in 0..ROUNDS_MAX {
        fleet.tick(500);
        let (observed, made) = fleet.plan();
        legal(&fleet.desired, &observed, &made)?;
        fleet.carry_out(&made, |_| true);
        last = made;
        calm = if last.steps.iter().any(|planned| !planned.step.is_housekeeping())
            || !observed.memory.nodes.values().all(calm_node)
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

fn calm_node(memory: &waltree::model::memory::NodeMemory) -> bool {
    memory.settling_until.is_none()
        || memory.failing_since.is_some()
        || memory.settling_until < Some(memory.advanced_at)
}

/// The tree is the wanted one, everybody is fed, the slots are exactly those that routes need.
fn as_wanted(fleet: &Fleet, made: &Plan) -> Result<(), TestCaseError> {
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

/// Nobody who runs has more children than in an emergency, and no region takes more streams from others than it may.
fn within_limits(fleet: &Fleet) -> Result<(), TestCaseError> {
    let desired = &fleet.desired;
    for (node, children) in fleet.load() {
        prop_assert!(children <= desired.burst(&node), "{children} children on {node}");
    }
    let region = |node: &NodeName| desired.group_of(node).unwrap().region.clone();
    let mut inflow = BTreeMap::new();
    for (node, upstream) in fleet.tree() {
        prop_assert!(
            upstream.is_some() || !fleet.servers[&node].up || node == fleet.primary,
            "{node} is fed by nobody"
        );
        if upstream.is_some_and(|upstream| region(&upstream) != region(&node)) {
            *inflow.entry(region(&node)).or_insert(0) += 1;
        }
    }
    for (region, streams) in inflow {
        prop_assert!(streams <= desired.limits.cross_region_streams, "{streams} streams into {region:?}");
    }
    Ok(())
}

/// Law 7, by libpq alone: whoever is lost, nobody has more than his burst limit and everybody else is fed.
fn survives_any_one_loss(fleet: &mut Fleet) -> Result<(), TestCaseError> {
    let servers = fleet.servers.clone();
    for lost in fleet.desired.nodes.keys().cloned().collect::<Vec<_>>() {
        fleet.set_up(&lost, false);
        fleet.tick(10);
        for (node, children) in fleet.load() {
            let burst = fleet.desired.burst(&node);
            prop_assert!(children <= burst, "law 7: {children} on {node} after the loss of {lost}, burst {burst}");
        }
        fleet.servers.clone_from(&servers);
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(3_400))]

    #[test]
    fn any_tree_becomes_the_declared_one_and_then_rests(shape in shapes(), parents in draws()) {
        let desired = desired(&shape);
        let mut fleet = brownfield(&desired, &parents);
        let made = settle(&mut fleet)?;
        as_wanted(&fleet, &made)?;
        prop_assert!(made.wanted.len() == desired.nodes.len() - 1, "everybody but the primary has a route");
        for (node, children) in fleet.load() {
            prop_assert!(children <= desired.fan_out(&node), "{children} children on {node}");
        }
        survives_any_one_loss(&mut fleet)?;
        let moves = fleet.moves;
        for _ in 0..20 {
            fleet.tick(1_000);
            let (observed, made) = fleet.plan();
            prop_assert_eq!(&made, &plan(&fleet.desired, &observed, fleet.now), "same input, same plan");
            fleet.carry_out(&made, |_| true);
        }
        prop_assert_eq!(fleet.moves, moves, "a move without a reason");
    }

    #[test]
    fn a_plan_cut_anywhere_by_operators_that_forget_ends_as_declared(
        shape in shapes(),
        parents in draws(),
        cuts in prop::collection::vec(any::<u16>(), 12),
    ) {
        let desired = desired(&shape);
        let mut fleet = brownfield(&desired, &parents);
        for cut in &cuts {
            fleet.tick(500);
            let (observed, made) = fleet.plan();
            legal(&fleet.desired, &observed, &made)?;
            fleet.carry_out(&made, |step| cut >> (step % 16) & 1 == 1);
            if cut % 3 == 0 {
                fleet.memory = waltree::model::Memory::default();
            }
        }
        let made = settle(&mut fleet)?;
        as_wanted(&fleet, &made)?;
    }

    #[test]
    fn after_many_losses_at_once_the_limits_hold_again(
        shape in shapes(),
        parents in draws(),
        lost in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        let desired = desired(&shape);
        let mut fleet = brownfield(&desired, &parents);
        settle(&mut fleet)?;
        let names: Vec<NodeName> = desired.nodes.keys().filter(|node| **node != fleet.primary).cloned().collect();
        for which in lost.iter().filter(|_| !names.is_empty()) {
            fleet.set_up(&names[usize::from(*which) % names.len()], false);
        }
        let made = settle(&mut fleet)?;
        as_wanted(&fleet, &made)?;
        within_limits(&fleet)?;
    }

    #[test]
    fn after_losses_and_returns_the_tree_is_what_it_was(
        shape in shapes(),
        parents in draws(),
        losses in prop::collection::vec((any::<u8>(), 0..12_usize, any::<bool>()), 1..4),
    ) {
        let desired = desired(&shape);
        let mut fleet = brownfield(&desired, &parents);
        settle(&mut fleet)?;
        let before = fleet.tree();
        let names: Vec<NodeName> = desired.nodes.keys().filter(|node| **node != fleet.primary).cloned().collect();
        for (which, rounds, operator_is_there) in &losses {
            if names.is_empty() {
                break;
            }
            fleet.set_up(&names[usize::from(*which) % names.len()], false);
            for _ in 0..*rounds {
                fleet.tick(500);
                if *operator_is_there {
                    let (observed, made) = fleet.plan();
                    legal(&desired, &observed, &made)?;
                    fleet.carry_out(&made, |_| true);
                }
            }
        }
        for node in &names {
            fleet.set_up(node, true);
        }
        let made = settle(&mut fleet)?;
        as_wanted(&fleet, &made)?;
        prop_assert_eq!(fleet.tree(), before);
        survives_any_one_loss(&mut fleet)?;
    }
}
