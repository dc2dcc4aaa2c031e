//! What happens on a bad day, by chance, and when each thing is mended.

use super::{Dice, Drama, Fault, Place};
use crate::model::{Group, NodeName};

/// The longest time until a fault is mended, in milliseconds.
const LASTS_MILLISECONDS: usize = 240_000;
/// Most faults of a day.
const FAULTS: usize = 4;

/// One thing of a bad day: when, counted from its beginning in milliseconds, and what.
pub(super) type Scene = (u64, Fault);

/// Faults of one day and what mends each, in their order.
pub(super) fn bad_day(drama: &Drama, primary: &NodeName, dice: &mut Dice) -> Vec<Scene> {
    let mut day = Vec::new();
    let mut at = 0;
    for _ in 0..=dice.below(FAULTS) {
        at += dice.below(30_000) as u64;
        match dice.below(12) {
            0 => day.extend(promotion(drama, primary, at, dice)),
            1 => day.extend(blindness(drama, at, dice)),
            _ => {
                let Some(fault) = fault(drama, dice) else { continue };
                if let Some(undo) = fault.undo() {
                    day.push((at + lasts(dice), undo));
                }
                day.push((at, fault));
            }
        }
    }
    day.sort_by_key(|(at, _)| *at);
    day
}

/// How long something lasts, in milliseconds.
fn lasts(dice: &mut Dice) -> u64 {
    1_000 + dice.below(LASTS_MILLISECONDS) as u64
}

/// A person promotes another of the root group: with the primary gone, which may come back as what it was, or while it goes
/// on, until somebody stops one of the two or makes it anew.
fn promotion(drama: &Drama, primary: &NodeName, at: u64, dice: &mut Dice) -> Vec<Scene> {
    let members = drama.desired().root().map(|root| root.members.clone()).unwrap_or_default();
    let others: Vec<NodeName> = members.into_iter().filter(|member| member != primary).collect();
    let Some(other) = dice.pick(&others).cloned() else { return Vec::new() };
    let promoted = at + 1_000 + dice.below(30_000) as u64;
    let (old, later) = (primary.clone(), promoted + lasts(dice));
    let promote = (promoted, Fault::Promote(other.clone()));
    match dice.below(5) {
        0 => vec![(at, Fault::Kill(old)), promote],
        1 => vec![(at, Fault::Kill(old.clone())), promote, (later, Fault::Start(old))],
        2 => vec![(at, Fault::Kill(old.clone())), promote, (later, Fault::Reclone(old))],
        3 => vec![promote, (later, Fault::Reclone(old))],
        _ => vec![promote, (later, Fault::Kill(other))],
    }
}

/// The operator's own network fails: most servers are silent.
fn blindness(drama: &Drama, at: u64, dice: &mut Dice) -> Vec<Scene> {
    let silent: Vec<_> = drama.desired().nodes.keys().filter(|_| dice.below(5) > 0).collect();
    let until = at + lasts(dice);
    let place = |node: &&NodeName| Place::Node((*node).clone());
    let cut = silent.iter().map(|node| (at, Fault::Cut(Place::Operator, place(node))));
    let mend = silent.iter().map(|node| (until, Fault::Mend(Place::Operator, place(node))));
    cut.chain(mend).collect()
}

fn fault(drama: &Drama, dice: &mut Dice) -> Option<Fault> {
    let names: Vec<NodeName> = drama.desired().nodes.keys().cloned().collect();
    let feeders: Vec<NodeName> = drama.desired().groups.iter().flat_map(Group::feeders).cloned().collect();
    let root = drama.desired().root()?.members.clone();
    // Half of what happens, happens to those who feed others: there it matters.
    let node = if dice.below(2) == 0 { dice.pick(&names)? } else { dice.pick(&feeders)? }.clone();
    let (other, feeder) = (dice.pick(&feeders)?.clone(), dice.pick(&root)?.clone());
    let zone = ["a", "b", "c"][dice.below(3)].to_owned();
    Some(match dice.below(18) {
        0..=3 => Fault::Kill(node),
        4 => Fault::Freeze(node),
        5 if node != other => Fault::Cut(Place::Node(node), Place::Node(other)),
        6 => Fault::Cut(Place::Operator, Place::Node(node)),
        7 => Fault::CutZone(zone),
        8 => Fault::Pause(node),
        9 => Fault::Reject(node),
        10 => Fault::Lockout(node),
        11 => Fault::Slow(node, 100_000),
        12 if !root.contains(&node) => Fault::Repoint(node, feeder),
        13 if node != other => Fault::DropSlot(node, other),
        14 => Fault::OperatorStop,
        15 => Fault::OperatorDiesAfter(1 + dice.below(6)),
        16 if node != other => Fault::LoseSlot(node, other),
        17 => Fault::Senders(node, dice.below(3)),
        _ => return None,
    })
}
