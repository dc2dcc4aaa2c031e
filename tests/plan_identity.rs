//! Whose server it is (law 12 of design.md section 3): a second one of a node's name, and one that is in the spec twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod fleet;

use std::cell::{Cell, RefCell};

use fleet::Fleet;
use fleet::laws::{act, as_wanted, look, settle};
use fleet::shapes::{brownfield, config, desired, draws, shapes};
use proptest::prelude::*;
use waltree::model::NodeName;
use waltree::model::observed::Sender;
use waltree::model::tree::{Edge, entries};
use waltree::plan::{Plan, Step, Why};

/// Who streams from whom in truth is what is counted as an edge, and nobody is sent where another holds his slot.
fn stranger_is_not_he(fleet: &Fleet, made: &Plan, stranger: &Stranger) -> Result<(), TestCaseError> {
    for (node, edge) in &made.sight.edges {
        let Edge::Both(up) = edge else { continue };
        prop_assert_eq!(fleet.servers[node].upstream.as_ref(), Some(up), "law 12: {} is counted at {}", node, up);
    }
    let (who, on) = (&stranger.name, &stranger.on);
    for planned in &made.steps {
        match &planned.step {
            Step::EndSender { pid, .. } => prop_assert!(*pid != STRANGER, "law 12: one that lives: {planned}"),
            Step::SetRoute { node, route, .. } if node == who && stranger.is_known => {
                prop_assert!(route.first() != Some(on), "law 12: {planned}, where another holds its slot");
            }
            _ => {}
        }
    }
    Ok(())
}

/// A second server by the name of a node.
struct Stranger {
    name: NodeName,
    on: NodeName,
    /// It has been seen to reply for longer than the patience.
    is_known: bool,
}

/// The process id of its walsender.
const STRANGER: i32 = 9_999;

/// It streams from `on` by the name and the slot of a node, which that node finds taken.
fn begins(fleet: &mut Fleet, name: &NodeName, on: &NodeName) {
    let (mine, there, replies) = (name.clone(), on.clone(), Cell::new(0));
    fleet.refuses = Some((name.clone(), on.clone()));
    fleet.says = Box::new(move |node, facts| {
        let Some(slot) = facts.slots.get_mut(mine.slot()).filter(|_| *node == there) else { return };
        slot.active_pid = Some(STRANGER);
        replies.set(replies.get() + 1);
        facts.senders.push(Sender {
            pid: STRANGER,
            application_name: mine.to_string(),
            state: "streaming".to_owned(),
            sync: Some(false),
            slot: Some(mine.slot().to_owned()),
            client: Some("192.0.2.9".to_owned()),
            replied: Some(replies.get()),
        });
    });
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn a_second_server_of_a_nodes_name_is_not_counted_as_the_node_and_the_node_is_not_sent_where_it_is(
        shape in shapes(),
        parents in draws(),
        (who, at) in (any::<u8>(), any::<u8>()),
        lost in prop::option::of(any::<u8>()),
    ) {
        let mut fleet = brownfield(&desired(&shape), &parents);
        settle(&mut fleet)?;
        let names = fleet.standbys();
        prop_assume!(!names.is_empty());
        let pick = |which: u8| &names[usize::from(which) % names.len()];
        let name = pick(who);
        let holding: Vec<_> = fleet.servers.iter().filter(|(_, server)| server.slots.contains_key(name.slot())).collect();
        let on = holding[usize::from(at) % holding.len()].0.clone();
        begins(&mut fleet, name, &on);
        if let Some(lost) = lost {
            fleet.set_up(pick(lost), false);
        }
        let mut stranger = Stranger { name: name.clone(), on, is_known: false };
        for turn in 0..40 {
            let (observed, made) = look(&mut fleet)?;
            stranger.is_known = observed.memory.is_taken(&stranger.name, &stranger.on);
            let is_seen = fleet.servers[&stranger.name].up && fleet.servers[&stranger.on].up;
            prop_assert!(stranger.is_known || turn < 10 || !is_seen, "law 12: the second {} is not noticed", name);
            stranger_is_not_he(&fleet, &made, &stranger)?;
            act(&mut fleet, &made, |_| true)?;
        }
        fleet.says = Box::new(|_, _| {});
        fleet.refuses = None;
        fleet.clone_anew();
        let made = settle(&mut fleet)?;
        as_wanted(&fleet, &made)?;
    }

    #[test]
    fn a_server_that_is_in_the_spec_twice_is_neither_written_to_nor_anybodys_new_upstream(
        shape in shapes(),
        parents in draws(),
        (one, other) in (any::<u8>(), any::<u8>()),
        lost in prop::option::of(any::<u8>()),
    ) {
        let mut fleet = brownfield(&desired(&shape), &parents);
        let names: Vec<NodeName> = fleet.desired.nodes.keys().cloned().collect();
        let (one, other) = (usize::from(one) % names.len(), usize::from(other) % names.len());
        prop_assume!(one != other);
        let pair = [names[one.min(other)].clone(), names[one.max(other)].clone()];
        let (said, [first, second]) = (RefCell::new(None), pair.clone());
        fleet.says = Box::new(move |node, facts| {
            if *node == first {
                facts.started = 7;
                said.replace(Some(facts.clone()));
            } else if let Some(said) = said.borrow().clone().filter(|_| *node == second) {
                *facts = said;
            }
        });
        for turn in 0..30 {
            fleet.tick(500);
            if let Some(lost) = lost.filter(|_| turn == 10) {
                let lost = &names[usize::from(lost) % names.len()];
                fleet.set_up(lost, pair.contains(lost) || *lost == fleet.primary);
            }
            let (observed, made) = fleet.plan();
            for planned in &made.steps {
                let (server, owner) = (planned.step.server(), planned.step.owner());
                let bounds = planned.why == Why::RetainedWal || planned.step.is_housekeeping();
                let touches = pair.contains(server) || pair.contains(owner);
                prop_assert!(bounds || !touches, "law 12: {planned}, and {pair:?} are one");
                let Step::SetRoute { node, route, .. } = &planned.step else { continue };
                let had = entries(&fleet.desired.addresses(), &observed.last(node).unwrap().route.conninfo);
                let new = route.entries.iter().find(|up| pair.contains(up) && !had.contains(up));
                prop_assert!(new.is_none(), "law 12: {planned}, and {new:?} is in the spec twice");
            }
            fleet.carry_out(&made, |_| true);
        }
    }
}
