//! Who feeds whom: the first entry of every node's route, within the limits as far as a path for everybody allows.

use std::collections::BTreeMap;

use rustc_hash::FxBuildHasher;

use super::World;
use super::prefer::{Preference, Preferences};
use super::standing::Standing;
use crate::model::{ByNodeRef, Facts, Group, NodeName, Route};

/// The chosen upstream of every node, and what that makes of the limits.
pub(super) struct Spread<'a> {
    pub(super) world: &'a World<'a>,
    /// Of each list the present primary is behind the other members of its tier (see `prefer::tier_one`).
    preferences: Preferences<'a>,
    /// The chosen upstream of every node.
    pub(super) first: ByNodeRef<'a, &'a NodeName>,
    /// Children of every node by that choice.
    load: ByNodeRef<'a, usize>,
    /// WAL streams into a region from others by that choice.
    inflow: BTreeMap<&'a str, usize>,
}

impl<'a> Spread<'a> {
    /// First those whose place is fixed, then whoever can have what it prefers, then the displaced, so that one failure
    /// moves nobody else.
    pub(super) fn of(world: &'a World<'a>, mut preferences: Preferences<'a>) -> Self {
        for list in preferences.lists.values_mut() {
            list.sort_by_key(|preference| (preference.tier, world.is_primary(preference.node)));
        }
        let mut this = Self {
            world,
            preferences,
            first: ByNodeRef::with_capacity_and_hasher(world.desired.nodes.len(), FxBuildHasher),
            load: ByNodeRef::default(),
            inflow: BTreeMap::new(),
        };
        let (tier_one, others): (Vec<_>, Vec<_>) = this.nodes().partition(|node| this.is_tier_one(node));
        for node in tier_one {
            if let Some(primary) = world.primary() {
                this.take(node, primary, matches!(world.standing(node), Standing::Good));
            }
        }
        let mut displaced = Vec::new();
        for node in others {
            match this.order(node).first().map(|best| best.node) {
                Some(best) if this.may_be_first(node, best) && this.has_place(best) => {
                    this.take(node, best, matches!(world.standing(node), Standing::Good));
                }
                _ => displaced.push(node),
            }
        }
        for node in this.in_turn(displaced) {
            if let Some(upstream) = this.next_best(node) {
                this.take(node, upstream, world.standing(node) != Standing::Failed);
            }
        }
        this
    }

    /// Nodes in the order of the groups, so that who is above is served first.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &'a NodeName> + use<'a> {
        let world = self.world;
        world.desired.groups.iter().flat_map(|group| &group.members).filter(move |node| !world.is_primary(node))
    }

    /// Whether a node hangs directly below the primary. A relay to which the primary gives nothing, although it is well,
    /// goes below a standby of it for a while; a member of the root group never does (safety.md 2.4).
    pub(super) fn is_tier_one(&self, node: &NodeName) -> bool {
        let cut_off = |primary: &NodeName| {
            self.order(node).iter().any(|other| other.node != primary)
                && self.world.observed.memory.is_refused(node, primary)
                && !self.is_fed_by(node, primary)
        };
        self.preferences.tier_one.contains_key(node) && !self.world.primary().is_some_and(cut_off)
    }

    /// `streams`: it takes WAL from another region now. A relay that is down does not, and one that came back and is
    /// settling does beside those who stand in for it, until they give it their place.
    fn take(&mut self, node: &'a NodeName, upstream: &'a NodeName, streams: bool) {
        *self.load.entry(upstream.into()).or_default() += 1;
        if streams && self.crosses(node, upstream) {
            *self.inflow.entry(self.region(node)).or_default() += 1;
        }
        self.first.insert(node.into(), upstream);
    }

    pub(super) fn load(&self, node: &NodeName) -> usize {
        self.load.get(node).copied().unwrap_or(0)
    }

    fn region(&self, node: &NodeName) -> &'a str {
        self.world.group(node).and_then(|group| group.region.as_deref()).unwrap_or_default()
    }

    fn crosses(&self, node: &NodeName, upstream: &NodeName) -> bool {
        self.region(node) != self.region(upstream)
    }

    fn has_place(&self, node: &NodeName) -> bool {
        self.load(node) < self.world.desired.fan_out(node)
    }

    fn has_room(&self, node: &NodeName) -> bool {
        self.load(node) < self.world.desired.burst(node)
    }

    /// Whether the region of `node` may take one more stream, when this is one from another region.
    fn may_cross(&self, node: &NodeName, upstream: &NodeName) -> bool {
        let taken = self.inflow.get(self.region(node)).copied().unwrap_or(0);
        !self.crosses(node, upstream) || taken < self.world.desired.limits.cross_region_streams
    }

    /// A node's preferences, the most wanted first.
    pub(super) fn order(&self, node: &NodeName) -> &[Preference<'a>] {
        self.preferences.lists.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    fn is_fed_by(&self, node: &NodeName, upstream: &NodeName) -> bool {
        self.world.upstream(node) == Some(upstream) && self.world.is_rooted(node)
    }

    fn may_be_first(&self, node: &NodeName, upstream: &NodeName) -> bool {
        let world = self.world;
        let full = || world.seen(upstream).is_some_and(Facts::is_full);
        let memory = &world.observed.memory;
        let closed = || memory.is_refused(node, upstream) || memory.is_taken(node, upstream) || full();
        if !self.is_fed_by(node, upstream) && closed() {
            return false;
        }
        match world.standing(upstream) {
            Standing::Good => true,
            Standing::Keeps => self.names(node, upstream),
            Standing::Settling => world.upstream(node) == Some(upstream),
            Standing::Lagging | Standing::Failed | Standing::Barred => false,
        }
    }

    /// Whether the installed route of a node names an upstream.
    pub(super) fn names(&self, node: &NodeName, upstream: &NodeName) -> bool {
        self.world.installed(node).is_some_and(|route| route.contains(upstream))
    }

    /// The displaced by groups, of each zone one before the second of any, as the first of them may have to stand in as
    /// relays; the failed last. Whom they receive from now has no part in it: it would move with what is decided here.
    fn in_turn(&self, displaced: Vec<&'a NodeName>) -> Vec<&'a NodeName> {
        let mut turns: BTreeMap<(usize, bool, Option<&str>), usize> = BTreeMap::new();
        let mut keyed: Vec<_> = displaced
            .into_iter()
            .filter_map(|node| {
                let spec = self.world.desired.nodes.get(node)?;
                let failed = matches!(self.world.standing(node), Standing::Failed | Standing::Barred);
                let turn = turns.entry((spec.group, failed, spec.zone.as_deref())).or_default();
                *turn += 1;
                Some(((spec.group, failed, *turn), node))
            })
            .collect();
        keyed.sort_by_key(|(key, _)| *key);
        keyed.into_iter().map(|(_, node)| node).collect()
    }

    /// The first preference that is good and has a place, or else room for an emergency, both within the streams that a
    /// region may take; or else a sibling that has a place below it; or else the emptiest; without a good one, one that
    /// is settling: a path to the primary comes before limits and settling times.
    fn next_best(&self, node: &NodeName) -> Option<&'a NodeName> {
        let order = self.order(node);
        let good: Vec<_> = order.iter().map(|p| p.node).filter(|up| self.may_be_first(node, up)).collect();
        let within = |up: &&&NodeName| self.may_cross(node, up);
        let place = good.iter().filter(within).find(|up| self.has_place(up));
        let room = || good.iter().filter(within).find(|up| self.has_room(up));
        // Rather late than over somebody's limit.
        let late = order.iter().map(|p| p.node).find(|up| self.world.upstream(node) == Some(up));
        let late = late.filter(|up| self.world.standing(up) == Standing::Lagging);
        if let Some(stays) = late.filter(|_| place.is_none() && room().is_none()) {
            return Some(stays);
        }
        let emptiest = || good.iter().min_by_key(|up| self.load(up)).copied();
        let settling = || order.iter().map(|p| p.node).find(|up| self.world.standing(up) == Standing::Settling);
        place.or_else(room).copied().or_else(|| self.sibling(node)).or_else(emptiest).or_else(settling)
    }

    /// A sibling that can stand in as a relay: one that was placed before, is well and has a place, as near to the
    /// primary as there is; of those the one that feeds the node by its route already, then one of its own zone.
    fn sibling(&self, node: &NodeName) -> Option<&'a NodeName> {
        let group = self.world.group(node).filter(|group| !feeds_by_spec(group, node))?;
        let zone = |node: &NodeName| self.world.zone(node);
        let fits = |other: &&'a NodeName| {
            self.first.contains_key(*other)
                && self.has_place(other)
                && (self.may_be_first(node, other) || self.will_be_fed(other))
                && self.hops(other) < self.world.desired.limits.depth
        };
        let cost = |other: &&'a NodeName| {
            let keeps = self.world.installed(node).and_then(Route::first) == Some(*other);
            (self.hops(other), !keeps, zone(other) != zone(node), self.load(other))
        };
        group
            .members
            .iter()
            .filter(|other| *other != node && !feeds_by_spec(group, other))
            .filter(fits)
            .min_by_key(cost)
    }

    /// Whether a node that has no path now is given a good upstream by this choice; who is put below it waits for that.
    fn will_be_fed(&self, node: &NodeName) -> bool {
        let good = |upstream: &&NodeName| self.world.standing(upstream) == Standing::Good;
        self.world.seen(node).is_some()
            && self.world.standing(node) == Standing::Keeps
            && self.first.get(node).is_some_and(good)
    }

    /// Edges between a node and the primary by the choice so far.
    pub(super) fn hops(&self, node: &NodeName) -> usize {
        let mut at = node;
        for hops in 0..=self.world.desired.nodes.len() {
            match self.first.get(at) {
                Some(upstream) => at = upstream,
                None => return hops,
            }
        }
        usize::MAX
    }

    /// Siblings of `node` that feed others by this choice and are nearer to the primary than it (law 1: a route names
    /// lower ranks).
    pub(super) fn standing_in(&self, node: &NodeName) -> Vec<&'a NodeName> {
        let Some(group) = self.world.group(node).filter(|group| !group.is_root()) else { return Vec::new() };
        let own = self.hops(node);
        let feeds = |other: &&NodeName| self.load(other) > 0 && self.hops(other) < own;
        group.members.iter().filter(|other| !feeds_by_spec(group, other)).filter(feeds).collect()
    }
}

/// Whether `node` feeds others of its own group by the spec.
fn feeds_by_spec(group: &Group, node: &NodeName) -> bool {
    group.relays > 0 && group.feeders().contains(node)
}

/// Whether `upstream` is a sibling that stands in as a relay for `node`: of the same group, and no relay by the spec.
pub(super) fn is_stand_in(world: &World<'_>, node: &NodeName, upstream: &NodeName) -> bool {
    let group_of = |node: &NodeName| world.desired.nodes.get(node).map(|spec| spec.group);
    let same = group_of(node).filter(|group| group_of(upstream) == Some(*group));
    let group = same.and_then(|group| world.desired.groups.get(group));
    group.is_some_and(|group| !group.is_root() && !feeds_by_spec(group, upstream))
}
