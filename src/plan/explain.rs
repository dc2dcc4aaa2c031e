//! Why a node is wanted where it is: what it prefers, what each of those is good for now, and who has room.

use std::collections::BTreeMap;

use super::prefer::preferences;
use super::spread::Spread;
use super::{Plan, Standing, World, ready};
use crate::model::{Desired, Millis, NodeName, Observed, Route};

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
    let world = World::new(desired, observed, &plan.sight, now);
    let preferences = preferences(desired);
    let wanted = plan.wanted.get(node);
    let meant_below_primary = preferences.tier_one.contains(node);
    // Asked of what the plan asks, so that the two cannot tell different stories.
    let spread = Spread::of(&world, preferences);
    let tier_one = spread.is_tier_one(node);
    let mut load: BTreeMap<&NodeName, usize> = BTreeMap::new();
    for first in plan.wanted.values().filter_map(Route::first) {
        *load.entry(first).or_default() += 1;
    }
    let order = if tier_one { &[] } else { spread.order(node) };
    let mut listed: Vec<(usize, NodeName)> = order.iter().map(|one| (one.tier, one.node.clone())).collect();
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
        not_ready: ready::first(&world, node, &name, false).err().map(|(_, why)| why),
        node: name,
    };
    Explanation {
        tier_one,
        candidates: listed.into_iter().map(candidate).collect(),
        installed: world.installed(node).cloned(),
    }
}
