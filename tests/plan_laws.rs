//! The laws of design.md section 3 that the planner answers for, over random fleets, faults and interruptions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod fleet;

use std::collections::BTreeMap;

use fleet::Fleet;
use fleet::laws::{as_wanted, no_ring, round, settle};
use fleet::shapes::{brownfield, config, desired, draws, shapes, tight};
use proptest::prelude::*;
use waltree::model::{Desired, NodeName};
use waltree::plan::{Plan, plan};

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

/// Law 7, by libpq alone: whoever is lost, nobody has more than his burst limit, and everybody else is fed unless the
/// lost
/// one is the primary.
fn survives_any_one_loss(fleet: &mut Fleet) -> Result<(), TestCaseError> {
    holds_after_any_one_loss(fleet, |_| true)
}

/// The limits of law 7 after each loss, and whoever is `to_be_fed` is.
fn holds_after_any_one_loss(fleet: &mut Fleet, to_be_fed: impl Fn(&NodeName) -> bool) -> Result<(), TestCaseError> {
    let servers = fleet.servers.clone();
    for lost in fleet.desired.nodes.keys().cloned().collect::<Vec<_>>() {
        fleet.set_up(&lost, false);
        fleet.tick(10);
        for (node, children) in fleet.load() {
            let burst = fleet.desired.burst(&node);
            prop_assert!(children <= burst, "law 7: {children} on {node} after the loss of {lost}, burst {burst}");
        }
        for node in fleet.servers.keys().filter(|node| **node != lost && lost != fleet.primary && to_be_fed(node)) {
            prop_assert!(fleet.is_rooted(node), "law 7: {node} is fed by nobody after the loss of {lost}");
        }
        fleet.servers.clone_from(&servers);
    }
    Ok(())
}

/// A route of up to three upstreams for everybody, wherever the limits leave room.
fn fallbacks_where_there_is_room(fleet: &Fleet, made: &Plan) -> Result<(), TestCaseError> {
    let load = fleet.load();
    let load = |node: &NodeName| load.get(node).copied().unwrap_or(0);
    for (node, route) in &made.wanted {
        let first = route.first().unwrap();
        let others: Vec<_> = upstreams(&fleet.desired, node).filter(|up| *up != node && *up != first).collect();
        // Even if all children of the first go to the same one.
        let has_room = |up: &&NodeName| load(up) + load(first) <= fleet.desired.burst(up);
        if others.iter().copied().any(|up| has_room(&up)) {
            let (have, wants) = (route.fallbacks().len(), others.len().min(2));
            prop_assert!(have == wants, "{node} has {have} fallbacks and could have {wants}: {route:?}");
        }
    }
    Ok(())
}

/// Whom the spec gives a node as upstreams: the root group, and to a leaf the relays of its group.
fn upstreams<'a>(desired: &'a Desired, node: &NodeName) -> impl Iterator<Item = &'a NodeName> {
    let group = desired.group_of(node).unwrap();
    let is_relay = group.members.iter().take(group.relays).any(|relay| relay == node);
    let relays = group.members.iter().take(if is_relay { 0 } else { group.relays });
    desired.root().unwrap().members.iter().chain(relays)
}

proptest! {
    #![proptest_config(config(2_000))]

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
        fallbacks_where_there_is_room(&fleet, &made)?;
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
    fn without_a_place_to_spare_nobody_has_more_children_than_he_may_whoever_is_lost(
        shape in shapes(),
        parents in draws(),
        spare in 0..3_usize,
    ) {
        let desired = tight(desired(&shape), spare);
        let mut fleet = brownfield(&desired, &parents);
        let made = settle(&mut fleet)?;
        as_wanted(&fleet, &made)?;
        for (node, children) in fleet.load() {
            prop_assert!(children <= desired.fan_out(&node), "{children} children on {node}");
        }
        fallbacks_where_there_is_room(&fleet, &made)?;
        holds_after_any_one_loss(&mut fleet, |_| false)?;
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
            round(&mut fleet, |step| cut >> (step % 16) & 1 == 1)?;
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
                if *operator_is_there {
                    round(&mut fleet, |_| true)?;
                } else {
                    fleet.tick(500);
                    no_ring(&fleet, "a tick without an operator")?;
                }
            }
        }
        for node in &names {
            fleet.set_up(node, true);
        }
        let made = settle(&mut fleet)?;
        as_wanted(&fleet, &made)?;
        prop_assert_eq!(fleet.tree(), before);
        fallbacks_where_there_is_room(&fleet, &made)?;
        survives_any_one_loss(&mut fleet)?;
    }

    #[test]
    fn no_ring_arises_while_routes_are_written_and_not_in_use_yet(
        shape in shapes(),
        parents in draws(),
        blows in prop::collection::vec((any::<u8>(), any::<u8>(), 1..16_usize, 0..4_usize, 1..6_usize), 1..9),
    ) {
        let desired = desired(&shape);
        let mut fleet = brownfield(&desired, &parents);
        settle(&mut fleet)?;
        let names: Vec<NodeName> = desired.nodes.keys().filter(|node| **node != fleet.primary).cloned().collect();
        for (lost, held, for_ticks, reloads, rounds) in blows.iter().filter(|_| !names.is_empty()) {
            let at = |which: &u8| &names[usize::from(*which) % names.len()];
            let (lost, held) = (at(lost), at(held));
            fleet.set_up(lost, !fleet.servers[lost].up);
            let server = fleet.servers.get_mut(held).unwrap();
            (server.held, server.loses) = (*for_ticks, *reloads);
            for _ in 0..*rounds {
                round(&mut fleet, |_| true)?;
            }
        }
        for node in &names {
            fleet.set_up(node, true);
            // What was lost is not made up for: somebody has to see that it was.
            let server = fleet.servers.get_mut(node).unwrap();
            (server.held, server.loses) = (0, 0);
        }
        let made = settle(&mut fleet)?;
        as_wanted(&fleet, &made)?;
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn a_plan_cut_after_each_of_its_steps_is_legal_and_ends_as_declared(
        shape in shapes(),
        parents in draws(),
        rounds_before in 0..12_usize,
        lost in prop::option::of(any::<u8>()),
    ) {
        let desired = desired(&shape);
        let mut fleet = brownfield(&desired, &parents);
        for _ in 0..rounds_before {
            round(&mut fleet, |_| true)?;
        }
        let names: Vec<NodeName> = desired.nodes.keys().filter(|node| **node != fleet.primary).cloned().collect();
        if let Some(lost) = lost.filter(|_| !names.is_empty()) {
            fleet.set_up(&names[usize::from(lost) % names.len()], false);
        }
        let (_, made) = round(&mut fleet.copy(), |_| false)?;
        for cut in 0..=made.steps.len() {
            let mut cut_short = fleet.copy();
            round(&mut cut_short, |step| step < cut)?;
            // The next operator remembers nothing.
            cut_short.memory = waltree::model::Memory::default();
            let made = settle(&mut cut_short)?;
            as_wanted(&cut_short, &made)?;
        }
    }
}
