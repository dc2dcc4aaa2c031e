//! Why a node is wanted where it is: what it prefers, what each of those is good for now, and who has room. And how far what
//! is wanted is from what is.

use std::collections::{BTreeMap, BTreeSet};

use super::prefer::preferences;
use super::spread::Spread;
use super::traffic::bytes_between;
use super::world::{At, RouteAt};
use super::{Plan, Readiness, Standing, Step, Wait, World, ready, standing};
use crate::model::tree::Edge;
use crate::model::{ByNode, Desired, Facts, Millis, NodeName, Observed, Route};

/// One possible upstream of a node, the most preferred first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub node: NodeName,
    /// How far it is from what was declared: 0 for the nearest source.
    pub tier: usize,
    /// It is in the node's zone.
    pub same_zone: bool,
    /// What it is good for.
    pub standing: Standing,
    /// Children that are wanted below it, and how many it may have in normal times.
    pub children: usize,
    /// How many it may have in normal times.
    pub fan_out: usize,
    /// It gave the node nothing a while ago and is not tried for so long, in milliseconds.
    pub refused_for_milliseconds: Option<u64>,
    /// Its place in the wanted route, from 0.
    pub place: Option<usize>,
    /// Why the node could not go on from it now; `None` when it could.
    pub not_ready: Option<String>,
}

/// What decides where one node is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// It is wanted right below the primary, whoever that is.
    pub tier_one: bool,
    /// Everybody it could be fed by.
    pub candidates: Vec<Candidate>,
    /// The route that was installed when it was seen last.
    pub installed: Option<Route>,
}

/// What decides where `node` is wanted by `plan`.
pub fn explain(desired: &Desired, observed: &Observed, plan: &Plan, node: &NodeName, now: Millis) -> Explanation {
    let world = World::new(desired, &desired.addresses(), observed, &plan.sight, now);
    let preferences = preferences(&world);
    let wanted = plan.wanted.get(node);
    let meant_below_primary = preferences.is_tier_one(At::of(desired, node));
    // Asked of what the plan asks, so that the two cannot tell different stories.
    let spread = Spread::of(&world, preferences);
    let tier_one = spread.is_tier_one(world.at(node));
    let mut load: BTreeMap<&NodeName, usize> = BTreeMap::new();
    for first in plan.wanted.values().filter_map(Route::first) {
        *load.entry(first).or_default() += 1;
    }
    let order = if tier_one { &[] } else { spread.order(world.at(node)) };
    let mut listed: Vec<(usize, NodeName)> = order.iter().map(|one| (one.tier, one.node.name.clone())).collect();
    if meant_below_primary {
        // It is below another for a while only because the primary, which it is meant to hang below, gives it nothing.
        listed.sort_by_key(|(_, name)| !world.is_primary(name));
    }
    // Those right below the primary prefer nobody: their route is the root group.
    for entry in wanted.into_iter().flat_map(|route| &route.entries) {
        if !listed.iter().any(|(_, name)| name == entry) {
            listed.push((0, entry.clone()));
        }
    }
    let memory = observed.memory.node(node);
    let refused = |by: &NodeName| {
        let until = memory.and_then(|memory| memory.refused.get(by)).map(|refused| refused.until);
        until.filter(|until| *until > observed.memory.at).map(|until| until.since(observed.memory.at))
    };
    let zone = desired.zone_of(node);
    let candidate = |(tier, name): (usize, NodeName)| Candidate {
        tier,
        same_zone: zone.is_some() && desired.zone_of(&name) == zone,
        standing: world.standing(&name),
        children: load.get(&name).copied().unwrap_or(0),
        fan_out: desired.fan_out(&name),
        refused_for_milliseconds: refused(&name),
        place: wanted.and_then(|route| route.entries.iter().position(|entry| *entry == name)),
        not_ready: ready::first(&world, world.at(node), world.at(&name), false).err().map(|(_, why)| why),
        node: name,
    };
    Explanation {
        tier_one,
        candidates: listed.into_iter().map(candidate).collect(),
        installed: world.installed(node).map(RouteAt::named),
    }
}

/// A wanted route beside what is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Whose.
    pub node: NodeName,
    /// The route that it is to have.
    pub wanted: Route,
    /// The route that was installed when it was seen last.
    pub installed: Option<Route>,
    /// It is not there yet.
    pub is_due: bool,
    /// A step of this plan sets it, or would if that were allowed.
    pub is_now: bool,
    /// The node does not receive from its first entry, and will.
    pub is_move: bool,
    /// What the first entry would send to it again if it came there now, in bytes; `None` where one of the two is not seen.
    pub bytes_again: Option<u64>,
    /// What it waits for.
    pub wait: Option<Wait>,
}

/// Every wanted route, in the order of the spec, and how far it is from being there. The steps of a plan are those of one
/// moment: where a route waits for its slots, its move is a later plan's and no less certain.
pub fn intents(desired: &Desired, observed: &Observed, plan: &Plan) -> Vec<Intent> {
    let addresses = desired.addresses();
    let at = |(host, port): (&str, u16)| addresses.node_at(host, port).map(|name| At::of(desired, name));
    let installed = |facts: &Facts| {
        let entries = facts.route.conninfo.listeners().filter_map(at).collect();
        standing::installed(entries, facts).map(|route| route.named())
    };
    let set: BTreeSet<&NodeName> = plan
        .steps
        .iter()
        .chain(&plan.withheld)
        .filter(|planned| matches!(planned.step, Step::SetRoute { .. }))
        .map(|planned| planned.step.owner())
        .collect();
    let intent = |node: &NodeName| {
        let wanted = plan.wanted.get(node)?;
        let ours = desired.group_of(node).is_some_and(|group| group.management.sets_routes());
        let last = observed.last(node);
        let is_there = last.is_some_and(|facts| desired.has_installed(node, wanted, facts));
        let edge = plan.sight.edges.get(node);
        let elsewhere = edge.is_some_and(|edge| edge.upstream() != wanted.first());
        // One that receives from nobody at the moment and has its route is not moved by us.
        let strays = elsewhere && edge.is_some_and(|edge| *edge != Edge::None);
        let is_now = set.contains(node);
        let is_due = ours && (is_now || !is_there || strays);
        let upstream = wanted.first().and_then(|first| observed.seen(first));
        Some(Intent {
            node: node.clone(),
            wanted: wanted.clone(),
            installed: last.and_then(installed),
            is_due,
            is_now,
            is_move: is_due && elsewhere,
            bytes_again: observed.seen(node).zip(upstream).map(|(facts, upstream)| bytes_between(facts, upstream)),
            wait: plan.waits.iter().find(|wait| wait.node == *node).cloned(),
        })
    };
    desired.groups.iter().flat_map(|group| &group.members).filter_map(intent).collect()
}

/// Where each standby would go on by itself now when the server that it receives from is lost: what is installed and runs
/// there, not what is wanted.
pub fn fallbacks(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    now: Millis,
) -> ByNode<Vec<(NodeName, Readiness)>> {
    let world = World::new(desired, &desired.addresses(), observed, &plan.sight, now);
    let standby = |node: &&NodeName| observed.last(node).is_some_and(|facts| facts.in_recovery);
    let all = desired.nodes.keys().filter(standby).filter_map(|node| Some((node, world.installed(node)?)));
    let state = |node: &NodeName, upstream: At<'_>| ready::fallback(&world, world.at(node), upstream);
    all.map(|(node, route)| {
        let others = route.entries.iter().filter(|entry| world.upstream(node) != Some(**entry));
        (node.clone(), others.map(|entry| (entry.name.clone(), state(node, *entry))).collect())
    })
    .collect()
}
