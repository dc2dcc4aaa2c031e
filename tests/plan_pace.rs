//! When nothing is done, or little at a time: while the operator is blind, while a zone is down, and where an upstream has
//! enough to send.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod fleet;

use std::collections::{BTreeMap, BTreeSet};

use fleet::laws::{act, look, round, settle};
use fleet::shapes::{Shape, brownfield, config, desired, downhill, draws, shapes};
use proptest::prelude::*;
use waltree::model::{Desired, Lsn, NodeName};
use waltree::plan::Step;

/// Most of the servers of each zone.
fn most_of_each_zone(desired: &Desired, draws: &[u8]) -> BTreeSet<NodeName> {
    let mut zones: BTreeMap<Option<&str>, Vec<(u8, &NodeName)>> = BTreeMap::new();
    for (place, (node, spec)) in desired.nodes.iter().enumerate() {
        zones.entry(spec.zone.as_deref()).or_default().push((draws[place], node));
    }
    let mut most = BTreeSet::new();
    for servers in zones.values_mut() {
        servers.sort();
        most.extend(servers.iter().take(servers.len() / 2 + 1).map(|(_, node)| (*node).clone()));
    }
    most
}

proptest! {
    #![proptest_config(config(1_000))]

    #[test]
    fn an_operator_that_most_servers_do_not_answer_orders_nothing_and_holds_it_against_nobody(
        shape in shapes(),
        parents in draws(),
        deaf in draws(),
        rounds in 1..20_usize,
    ) {
        let mut fleet = brownfield(&desired(&shape), &parents);
        prop_assume!(fleet.desired.nodes.len() >= 3);
        settle(&mut fleet)?;
        let (tree, moves) = (fleet.tree(), fleet.moves);
        fleet.silent = most_of_each_zone(&fleet.desired, &deaf);
        for _ in 0..rounds {
            let (_, made) = round(&mut fleet, |_| true)?;
            prop_assert!(made.steps.is_empty(), "ordered by who sees nothing: {:?}", made.steps);
        }
        fleet.silent.clear();
        settle(&mut fleet)?;
        prop_assert_eq!((fleet.tree(), fleet.moves), (tree, moves));
    }

    #[test]
    fn while_a_zone_is_down_only_whom_it_fed_is_moved_and_then_the_tree_is_what_it_was(
        shape in shapes().prop_map(|shape| Shape { zones: 2 + shape.zones % 2, ..shape }),
        parents in draws(),
        which in any::<u8>(),
    ) {
        let mut fleet = brownfield(&desired(&shape), &parents);
        // The first one is the primary's.
        let zone = format!("z{}", 1 + usize::from(which) % (shape.zones - 1));
        let is_there = |node: &&NodeName| fleet.desired.zone_of(node) == Some(zone.as_str());
        let gone: BTreeSet<NodeName> = fleet.desired.nodes.keys().filter(is_there).cloned().collect();
        prop_assume!(gone.len() >= 2);
        settle(&mut fleet)?;
        let before = fleet.tree();
        for node in &gone {
            fleet.set_up(node, false);
        }
        for _ in 0..40 {
            let (_, made) = look(&mut fleet)?;
            for planned in &made.steps {
                let Step::SetRoute { node, route, .. } = &planned.step else { continue };
                let stays = fleet.servers[node].upstream.as_ref() == route.first();
                let lost = before[node].as_ref().is_some_and(|upstream| gone.contains(upstream));
                prop_assert!(stays || lost, "{} is moved and zone {} fed it not: {}", node, zone, planned);
            }
            act(&mut fleet, &made, |_| true)?;
        }
        for node in &gone {
            fleet.set_up(node, true);
        }
        settle(&mut fleet)?;
        prop_assert_eq!(fleet.tree(), before);
    }
}

/// Twelve leaves that hang below the primary, and two relays to which they belong; each leaf has replayed less than the one
/// before it.
#[test]
fn who_has_to_be_sent_least_is_moved_first_and_no_upstream_has_more_than_its_fill_to_send() {
    const STEP_BYTES: u64 = 200 << 20;
    const FILL_BYTES: u64 = 1 << 30;
    let mut desired = desired(&Shape { root: 1, regions: vec![(2, 12)], zones: 0 });
    desired.healing.lag_seconds = 3_600;
    let leaves = desired.groups[1].members[2..].to_vec();
    let lag = move |node: &NodeName| leaves.iter().position(|leaf| leaf == node).unwrap_or(0) as u64 / 2 * STEP_BYTES;
    let mut fleet = downhill(&desired, &[0; 64]);
    fleet.servers.values_mut().for_each(|server| server.position = Lsn(16 << 30));
    let says = lag.clone();
    fleet.says = Box::new(move |node, facts| {
        facts.replay = Lsn(facts.position.0 - says(node));
        // All of the WAL is there, and kept.
        facts.oldest_wal = Some(Lsn(0));
        facts.slots.values_mut().for_each(|slot| slot.restart_lsn = Some(Lsn(0)));
    });
    let mut moved: BTreeMap<NodeName, Vec<u64>> = BTreeMap::new();
    for _ in 0..60 {
        fleet.tick(500);
        let (_, made) = fleet.plan();
        let mut sent: BTreeMap<NodeName, Vec<u64>> = BTreeMap::new();
        for planned in &made.steps {
            let Step::SetRoute { node, route, .. } = &planned.step else { continue };
            let first = route.first().unwrap();
            if fleet.servers[node].upstream.as_ref() != Some(first) {
                sent.entry(first.clone()).or_default().push(lag(node));
            }
        }
        for (upstream, bytes) in sent {
            assert!(bytes.len() == 1 || bytes.iter().sum::<u64>() <= FILL_BYTES, "{upstream} has to send {bytes:?}");
            moved.entry(upstream).or_default().extend(bytes);
        }
        fleet.carry_out(&made, |_| true);
    }
    let in_order: Vec<u64> = (0..6).map(|place| place * STEP_BYTES).collect();
    let relays = desired.groups[1].members[..2].iter().cloned();
    assert_eq!(moved, relays.map(|relay| (relay, in_order.clone())).collect());
}
