//! What a loss would do, told beforehand by three: the planner (`tolerates`), a world that is made of what is seen, and
//! the fleet itself, to which it then happens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod fleet;

use std::collections::{BTreeMap, BTreeSet};

use fleet::Fleet;
use fleet::shapes::{brownfield, config, desired, draws, shapes};
use proptest::prelude::*;
use waltree::model::{ByNode, Desired, Loss, Management, NodeName, Observed};
use waltree::plan::{Plan, Tolerated, Tolerates};
use waltree::simulate::World;

/// Rounds of 500 ms until any fleet here is as declared.
const ROUNDS: usize = 60;

/// The operator works for a while.
fn tend(fleet: &mut Fleet, rounds: usize) {
    for _ in 0..rounds {
        fleet.tick(500);
        let (_, made) = fleet.plan();
        fleet.carry_out(&made, |_| true);
    }
}

/// All losses of one kind, the primary excepted; none where there are not two zones or regions.
fn losses(desired: &Desired, primary: &NodeName, kind: Kind) -> Vec<BTreeSet<NodeName>> {
    let all: BTreeSet<Loss> = desired.nodes.keys().filter_map(|node| kind(desired, node)).collect();
    let without = |loss: Loss| loss.members(desired).into_iter().filter(|node| *node != primary).cloned().collect();
    if all.len() < 2 { Vec::new() } else { all.into_iter().map(without).collect() }
}

/// In what a node can be lost.
type Kind = fn(&Desired, &NodeName) -> Option<Loss>;

/// As a node, in its zone, in its region: as `tolerates` tells them.
const KINDS: [Kind; 3] = [
    |_, node| Some(Loss::Node(node.clone())),
    |desired, node| desired.zone_of(node).map(|zone| Loss::Zone(zone.to_owned())),
    |desired, node| Some(Loss::Region(desired.region_of(node).to_owned())),
];

/// What the world that is made of what is seen says of each kind of loss.
fn simulated(fleet: &Fleet, observed: &Observed) -> [Tolerated; 3] {
    let world = World::seen(&fleet.desired, observed);
    KINDS.map(|kind| {
        let all = losses(&fleet.desired, &fleet.primary, kind);
        let survived = |lost: &BTreeSet<NodeName>| world.aftermath(&fleet.desired, lost).is_within_limits();
        match all.is_empty() {
            true => Tolerated::Unknown,
            false if all.iter().all(survived) => Tolerated::True,
            false => Tolerated::False,
        }
    })
}

fn planned(told: &Tolerates) -> [Tolerated; 3] {
    [told.node, told.zone, told.region]
}

/// Who receives from whom in the fleet when it happens.
fn after(fleet: &mut Fleet, lost: &BTreeSet<NodeName>) -> ByNode<Option<NodeName>> {
    let servers = fleet.servers.clone();
    for node in lost {
        fleet.set_up(node, false);
    }
    fleet.tick(10);
    let tree = fleet.tree();
    fleet.servers = servers;
    tree
}

/// The moves that are told are those that happen.
fn moves_as_told(fleet: &mut Fleet, observed: &Observed) -> Result<(), TestCaseError> {
    let world = World::seen(&fleet.desired, observed);
    let before = fleet.tree();
    for lost in losses(&fleet.desired, &fleet.primary, KINDS[0]) {
        let told = world.aftermath(&fleet.desired, &lost).moves;
        let told: BTreeMap<String, String> = told.into_iter().map(|one| (one.node, one.to)).collect();
        let happened = after(fleet, &lost).into_iter().filter(|(node, to)| to.is_some() && before[node] != *to);
        let happened: BTreeMap<_, _> = happened.map(|(node, to)| (node.to_string(), to.unwrap().to_string())).collect();
        prop_assert_eq!(told, happened, "the loss of {:?}", lost);
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn what_is_told_of_a_loss_is_what_a_simulation_shows_and_what_happens(
        shape in shapes(),
        parents in draws(),
        fan_out in 2..12_usize,
        streams in 1..5_usize,
    ) {
        let mut desired = desired(&shape);
        desired.limits.cross_region_streams = streams;
        desired.groups.iter_mut().skip(1).for_each(|group| group.fan_out = fan_out);
        let mut fleet = brownfield(&desired, &parents);
        tend(&mut fleet, ROUNDS);
        let (observed, made) = fleet.plan();
        prop_assert_eq!(planned(&made.tolerates), simulated(&fleet, &observed), "{}", made.tolerates.weakest);
        moves_as_told(&mut fleet, &observed)?;
    }

    #[test]
    fn while_others_are_down_already_the_same_is_told_and_nothing_moves_by_itself(
        shape in shapes(),
        parents in draws(),
        down in prop::collection::vec(any::<u8>(), 1..4),
        rounds in 0..30_usize,
    ) {
        let desired = desired(&shape);
        let mut fleet = brownfield(&desired, &parents);
        tend(&mut fleet, ROUNDS);
        let names: Vec<NodeName> = desired.nodes.keys().filter(|node| **node != fleet.primary).cloned().collect();
        for which in down.iter().filter(|_| !names.is_empty()) {
            fleet.set_up(&names[usize::from(*which) % names.len()], false);
        }
        tend(&mut fleet, rounds);
        fleet.tick(10);
        let (observed, _) = fleet.plan();
        moves_as_told(&mut fleet, &observed)?;
        // What the children of a server do that died a moment ago is done within milliseconds; then both say the same.
        tend(&mut fleet, 2 * ROUNDS);
        let (observed, rested) = fleet.plan();
        prop_assert_eq!(planned(&rested.tolerates), simulated(&fleet, &observed), "{}", rested.tolerates.weakest);
        for _ in 0..20 {
            fleet.tick(1_000);
            let (_, made) = fleet.plan();
            prop_assert_eq!(&made.tolerates, &rested.tolerates);
            fleet.carry_out(&made, |_| true);
        }
    }
}

/// Two relays in zones a and b, four leaves below them.
fn region_of(fan_out: usize) -> Fleet {
    let shape = fleet::shapes::Shape { root: 1, regions: vec![(2, 4)], zones: 2 };
    let mut desired = desired(&shape);
    desired.groups[1].fan_out = fan_out;
    let first = desired.groups[0].members[0].clone();
    let mut fleet = Fleet::new(desired, |_| first.clone());
    tend(&mut fleet, ROUNDS);
    fleet
}

fn told(fleet: &mut Fleet) -> Plan {
    fleet.plan().1
}

#[test]
fn when_all_is_survived_the_primary_is_the_weakest_spot() {
    let mut fleet = region_of(12);
    let ours = told(&mut fleet).tolerates;
    assert_eq!(planned(&ours), [Tolerated::True, Tolerated::True, Tolerated::True], "{}", ours.weakest);
    assert_eq!(ours.weakest, "core-0, the primary: the root group has no other. Add one, which you could promote.");
    // Whoever promotes by hand what another manager keeps makes two primaries.
    fleet.desired.groups[0].management = Management::Observe;
    let theirs = told(&mut fleet).tolerates.weakest;
    assert_eq!(theirs, "core-0, the primary: core has no other. Add all that its manager could promote.");
}

#[test]
fn children_without_a_fallback_are_named_with_the_cure() {
    let shape = fleet::shapes::Shape { root: 1, regions: vec![(1, 2)], zones: 0 };
    let mut desired = desired(&shape);
    desired.groups[0].fan_out = 1;
    let first = desired.groups[0].members[0].clone();
    let mut fleet = Fleet::new(desired, |_| first.clone());
    tend(&mut fleet, ROUNDS);
    let told = told(&mut fleet).tolerates;
    assert_eq!((told.node, told.zone), (Tolerated::False, Tolerated::Unknown));
    // The other of its two leaves goes to the primary, which has room for one more after a loss.
    let expected = "Without r0-0, r0-2 would be fed by nobody. Give them a fallback: add a relay or a root standby, or raise \
                    fanOut.";
    assert_eq!(told.weakest, expected);
}

#[test]
fn while_a_server_cannot_be_asked_nothing_is_promised_for_it() {
    let mut fleet = region_of(12);
    fleet.rejects_us = Some(NodeName::new("r0-0").unwrap());
    tend(&mut fleet, ROUNDS);
    let told = told(&mut fleet).tolerates;
    assert_eq!(planned(&told), [Tolerated::Unknown; 3], "{}", told.weakest);
    assert!(told.weakest.starts_with("Of r0-0 nothing is seen"), "{}", told.weakest);
}

#[test]
fn while_nobody_is_the_primary_nothing_is_promised() {
    let mut fleet = region_of(12);
    let primary = fleet.primary.clone();
    fleet.set_up(&primary, false);
    tend(&mut fleet, ROUNDS);
    assert_eq!(planned(&told(&mut fleet).tolerates), [Tolerated::Unknown; 3]);
}

#[test]
fn a_relay_whose_walreceiver_is_started_anew_is_counted_on_and_one_that_stays_without_is_not() {
    let mut fleet = region_of(12);
    fleet.says = Box::new(|node, facts| {
        if node.as_str() == "r0-1" {
            facts.receiver = None;
        }
        facts.senders.retain(|sender| sender.application_name != "r0-1");
    });
    fleet.tick(100);
    assert_eq!(planned(&told(&mut fleet).tolerates), [Tolerated::True; 3]);
    fleet.tick(30_000);
    assert_eq!(told(&mut fleet).tolerates.node, Tolerated::False);
}
