//! What to declare so that a fleet that runs already is as declared: groups read off the tree as seen. Whether it is so
//! is asked of the plan itself.

mod names;
mod shape;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::plan;
use crate::model::{Automation, Desired, Found, Management, Millis, NodeName, NodeView, Observed};
use shape::Shape;

/// A fleet as it would be declared.
#[derive(Debug, Clone)]
pub struct Adoption {
    /// What to declare, with the automation that only looks.
    pub desired: Desired,
    /// What stands against it, or is to be known of it, a sentence each.
    pub remarks: Vec<String>,
    /// Who would receive from another server than now, and from whom.
    pub moves: BTreeMap<NodeName, Option<NodeName>>,
    /// Rights that our role lacks, as SQL.
    pub missing_grants: BTreeSet<String>,
}

/// What to declare for the servers that were found, with so much to be written on those of the root group; `None` when there
/// is none.
///
/// Relays that have as many children each stand in one group, and cover for each other; where the plan would move
/// anybody because of that, each relay gets a group of its own, whose only source is the one that feeds it now.
pub fn adopt(found: &[Found], root: Management) -> Option<Adoption> {
    let found = &in_order(found);
    let names = names::names(found)?;
    let shape = Shape::of(found)?;
    let observed = observed(&names, found);
    let mut desired = shape.desired(found, &names, root, true)?;
    let mut moves = moves(&shape, &names, &desired, &observed);
    if !moves.is_empty() {
        desired = shape.desired(found, &names, root, false)?;
        moves = self::moves(&shape, &names, &desired, &observed);
    }
    let mut remarks = left_out(found, &shape);
    remarks.extend(names::renamed(found, &names));
    remarks.extend(shape.remarks(&names));
    remarks
        .extend(plan_of(&desired, &observed).findings.into_iter().map(|f| format!("{}: {}", f.diagnosis, f.message)));
    remarks.extend(moves.iter().map(|(node, to)| match to {
        Some(to) => {
            format!("{node} would be moved below {to}: nothing else can be declared that leaves it where it is.")
        }
        None => format!("{node} would not be left where it is: no path from it to the primary can be seen."),
    }));
    remarks.extend(other_slots(found, &names, &shape));
    let missing_grants = found.iter().flat_map(|server| server.facts.missing_grants.iter().cloned()).collect();
    desired.automation = Automation::Observe;
    Some(Adoption { desired, remarks, moves, missing_grants })
}

/// The servers by what they call themselves, so that it does not matter where the crawl began.
fn in_order(found: &[Found]) -> Vec<Found> {
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by_cached_key(|place| (names::said(&found[*place]), found[*place].listener()));
    let upstream = |server: &Found| server.upstream.and_then(|up| order.iter().position(|place| *place == up));
    order.iter().map(|place| Found { upstream: upstream(&found[*place]), ..found[*place].clone() }).collect()
}

/// What an operator would see that looks for the first time.
fn observed(names: &[NodeName], found: &[Found]) -> Observed {
    let view = |server: &Found| NodeView { last: Some(server.facts.clone()), unseen: None };
    let nodes = names.iter().zip(found).map(|(name, server)| (name.clone(), view(server))).collect();
    Observed { nodes, memory: Arc::default() }
}

fn plan_of(desired: &Desired, observed: &Observed) -> super::Plan {
    let mut observed = observed.clone();
    observed.nodes.retain(|name, _| desired.nodes.contains_key(name));
    let now = observed.nodes.values().filter_map(NodeView::seen).map(|facts| facts.at).max().unwrap_or(Millis(0));
    Arc::make_mut(&mut observed.memory).advance(desired, &observed.nodes, now);
    plan(desired, &observed, now)
}

/// Who would receive from another server than now.
fn moves(
    shape: &Shape,
    names: &[NodeName],
    desired: &Desired,
    observed: &Observed,
) -> BTreeMap<NodeName, Option<NodeName>> {
    let plan = plan_of(desired, observed);
    let wanted = |name: &NodeName| plan.wanted.get(name).and_then(|route| route.first()).cloned();
    let edges = shape.edges().map(|(child, upstream)| (&names[child], &names[upstream]));
    let moved = edges.filter(|(child, upstream)| wanted(child).as_ref() != Some(*upstream));
    moved.map(|(child, _)| (child.clone(), wanted(child))).collect()
}

fn left_out(found: &[Found], shape: &Shape) -> Vec<String> {
    let sentence = |(place, server): (usize, &Found)| {
        let name = names::said(server);
        let why = match (server.facts.in_recovery, server.upstream) {
            (false, _) => "answers as a primary beside the one taken for it",
            (true, None) => "receives from no server that was found",
            (true, Some(_)) => "is fed by a server that is left out",
        };
        (!shape.contains(place)).then(|| format!("{name} ({}) {why}, and is left out.", server.listener()))
    };
    found.iter().enumerate().filter_map(sentence).collect()
}

/// Slots that standbys use now under other names than those that they would have.
fn other_slots(found: &[Found], names: &[NodeName], shape: &Shape) -> Option<String> {
    let used = shape.edges().filter_map(|(child, upstream)| {
        let slot = &found[child].facts.route.slot;
        let other = !slot.is_empty() && *slot != names[child].slot();
        other.then(|| format!("{slot} on {} ({})", names[upstream], names[child]))
    });
    let used: Vec<String> = used.collect();
    (!used.is_empty()).then(|| {
        let drop = "With Heal they fall idle and hold WAL: drop them when the topology is Converged";
        format!("Slots in use now that are not named after their nodes: {}. {drop}.", used.join(", "))
    })
}
