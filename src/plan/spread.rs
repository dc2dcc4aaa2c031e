//! Who feeds whom: the first entry of every node's route, within the limits as far as a path for everybody allows.

use std::collections::BTreeMap;

use indexmap::IndexSet;
use rustc_hash::FxBuildHasher;

use super::prefer::{Preference, Preferences};
use super::standing::Standing;
use super::world::{At, RouteAt};
use super::{World, ready};
use crate::model::{Facts, Group, burst};

/// The chosen upstream of every node, and what that makes of the limits.
pub(super) struct Spread<'a> {
    pub(super) world: &'a World<'a>,
    /// Of each list the present primary is behind the other members of its tier (see `prefer::tier_one`).
    preferences: Preferences<'a>,
    /// All but the primary in the order of the groups, so that who is above is served first.
    pub(super) nodes: Vec<At<'a>>,
    /// The chosen upstream of every node by its place.
    first: Vec<Option<At<'a>>>,
    /// Children of every node by that choice, by its place.
    load: Vec<usize>,
    /// Of every group by its place, which region it is in; without one it is in the first.
    regions: Vec<usize>,
    /// WAL streams into a region from others by that choice.
    inflow: Vec<usize>,
}

impl<'a> Spread<'a> {
    /// First those whose place is fixed, then whoever can have what it prefers, then the displaced, so that one failure
    /// moves nobody else.
    pub(super) fn of(world: &'a World<'a>, mut preferences: Preferences<'a>) -> Self {
        for list in &mut preferences.lists {
            list.sort_by_key(|preference| (preference.tier, world.is_primary(preference.node.name)));
        }
        let all = world.members.iter().flatten().copied();
        let mut this = Self {
            world,
            nodes: all.filter(|node| !world.is_primary(node.name)).collect(),
            preferences,
            first: vec![None; world.desired.nodes.len()],
            load: vec![0; world.desired.nodes.len()],
            inflow: vec![0; world.desired.groups.len() + 1],
            regions: regions(&world.desired.groups),
        };
        let (tier_one, others): (Vec<_>, Vec<_>) = this.nodes.iter().copied().partition(|node| this.is_tier_one(*node));
        for node in tier_one {
            if let Some(primary) = world.primary() {
                this.take(node, world.at(primary), streams(world, node));
            }
        }
        let mut displaced = Vec::new();
        for node in others {
            match this.order(node).first().map(|best| best.node) {
                Some(best) if this.may_be_first(node, best) && this.has_place(best) && this.has_wal(node, best) => {
                    this.take(node, best, streams(world, node));
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

    /// The chosen upstream of a node.
    pub(super) fn first(&self, node: At<'_>) -> Option<At<'a>> {
        *self.first.get(node.place())?
    }

    /// Whether a node hangs directly below the primary. A relay to which the primary gives nothing, although it is well,
    /// goes below a standby of it for a while, and for as long as another server holds its slot on the primary (law 12); a
    /// member of the root group never does (safety.md 2.4).
    pub(super) fn is_tier_one(&self, node: At<'_>) -> bool {
        let cut_off = |primary: At<'_>| {
            self.order(node).iter().any(|other| other.node != primary)
                && (self.world.is_refused(node, primary) || self.is_taken(node, primary))
                && !self.is_fed_by(node, primary)
        };
        let primary = || self.world.primary().map(|primary| self.world.at(primary));
        self.preferences.is_tier_one(node) && !primary().is_some_and(cut_off)
    }

    /// `streams`: it takes WAL from another region now.
    fn take(&mut self, node: At<'a>, upstream: At<'a>, streams: bool) {
        if let Some(load) = self.load.get_mut(upstream.place()) {
            *load += 1;
        }
        if streams && self.crosses(node, upstream) {
            let region = self.region(node);
            self.inflow[region] += 1;
        }
        if let Some(first) = self.first.get_mut(node.place()) {
            *first = Some(upstream);
        }
    }

    pub(super) fn load(&self, node: At<'_>) -> usize {
        self.load.get(node.place()).copied().unwrap_or(0)
    }

    fn region(&self, node: At<'_>) -> usize {
        self.world.group_place(node).and_then(|group| self.regions.get(group)).copied().unwrap_or(0)
    }

    fn crosses(&self, node: At<'_>, upstream: At<'_>) -> bool {
        self.region(node) != self.region(upstream)
    }

    fn has_place(&self, node: At<'_>) -> bool {
        self.load(node) < self.world.fan_out(node)
    }

    fn has_room(&self, node: At<'_>) -> bool {
        self.load(node) < burst(self.world.fan_out(node))
    }

    /// Whether the region of `node` may take one more stream, when this is one from another region.
    fn may_cross(&self, node: At<'_>, upstream: At<'_>) -> bool {
        let taken = self.inflow[self.region(node)];
        !self.crosses(node, upstream) || taken < self.world.desired.limits.cross_region_streams
    }

    /// A node's preferences, the most wanted first.
    pub(super) fn order(&self, node: At<'_>) -> &[Preference<'a>] {
        self.preferences.lists.get(node.place()).map(Vec::as_slice).unwrap_or_default()
    }

    fn is_fed_by(&self, node: At<'_>, upstream: At<'_>) -> bool {
        self.world.upstream(node) == Some(upstream) && self.world.is_rooted(node)
    }

    /// Whether another server holds the slot of a node on an upstream, which then gives the node nothing.
    fn is_taken(&self, node: At<'_>, upstream: At<'_>) -> bool {
        self.world.observed.memory.is_taken(node.name, upstream.name)
    }

    /// Whether a node could go on from an upstream, as far as is known.
    fn has_wal(&self, node: At<'_>, upstream: At<'_>) -> bool {
        !ready::has_lost_what_it_needs(self.world, node, upstream)
    }

    fn may_be_first(&self, node: At<'_>, upstream: At<'_>) -> bool {
        let world = self.world;
        let full = || world.seen(upstream).is_some_and(Facts::is_full);
        let closed = || world.is_refused(node, upstream) || self.is_taken(node, upstream) || full();
        if !self.is_fed_by(node, upstream) && closed() {
            return false;
        }
        match world.standing(upstream) {
            Standing::Good => true,
            Standing::Keeps => self.names(node, upstream) && !self.is_out_of_reach(node, upstream),
            Standing::Settling => world.upstream(node) == Some(upstream),
            Standing::Lagging | Standing::Failed | Standing::Barred => false,
        }
    }

    /// Whether a node receives from another, or is about to, and could not be moved to this upstream, as that one is not
    /// seen: it may be for long, and others have a place. While nobody was seen counts for nothing (law 8).
    fn is_out_of_reach(&self, node: At<'_>, upstream: At<'_>) -> bool {
        let (world, memory) = (self.world, &self.world.observed.memory);
        let unseen_since = world.memory(upstream).and_then(|memory| memory.unseen_since);
        let since = unseen_since.map(|since| since.max(memory.blind_at.unwrap_or_default()));
        let heads_for = || world.installed(node).and_then(RouteAt::first);
        let at = world.upstream(node).or_else(heads_for);
        since.is_some_and(|since| memory.at.since(since) >= world.desired.healing.suspect_after_milliseconds)
            && at.is_some_and(|at| at != upstream)
    }

    /// Whether the installed route of a node names an upstream.
    pub(super) fn names(&self, node: At<'_>, upstream: At<'_>) -> bool {
        self.world.installed(node).is_some_and(|route| route.contains(upstream))
    }

    /// The displaced by groups, relays before leaves of whatever group, as no sibling can take one in; of each zone one before
    /// the second of any, as the first of them may have to stand in as relays; the failed last. Whom they receive from now has
    /// no part in it: it would move with what is decided here.
    fn in_turn(&self, displaced: Vec<At<'a>>) -> Vec<At<'a>> {
        let mut turns: BTreeMap<(usize, bool, Option<&str>), usize> = BTreeMap::new();
        let mut keyed: Vec<_> = displaced
            .into_iter()
            .filter_map(|node| {
                let group = self.world.group_place(node)?;
                let failed = matches!(self.world.standing(node), Standing::Failed | Standing::Barred);
                let turn = turns.entry((group, failed, self.world.zone(node))).or_default();
                *turn += 1;
                Some(((failed || !feeds_by_spec(self.world, node), group, failed, *turn), node))
            })
            .collect();
        keyed.sort_by_key(|(key, _)| *key);
        keyed.into_iter().map(|(_, node)| node).collect()
    }

    /// The first preference that is good and has a place, or else room for an emergency, both within the streams that a
    /// region may take; or else a sibling that has a place below it; or else the emptiest; without a good one, one that
    /// is settling: a path to the primary comes before limits and settling times.
    fn next_best(&self, node: At<'_>) -> Option<At<'a>> {
        let order = || self.order(node).iter().map(|preference| preference.node);
        let mut good: Vec<_> = order().filter(|up| self.may_be_first(node, *up)).collect();
        let mut settling = order().filter(|up| self.world.standing(*up) == Standing::Settling);
        if good.iter().any(|up| self.has_wal(node, *up)) {
            good.retain(|up| self.has_wal(node, *up));
        } else if let Some(only) = settling.clone().find(|up| !good.is_empty() && self.has_wal(node, *up)) {
            return Some(only);
        }
        // Where nobody has it, that is told of the one that it would have gone to.
        let within = || good.iter().copied().filter(|up| self.may_cross(node, *up));
        let place = within().find(|up| self.has_place(*up));
        let room = || within().find(|up| self.has_room(*up));
        // Rather late than over somebody's limit.
        let late = order().find(|up| self.world.upstream(node) == Some(*up));
        let late = late.filter(|up| self.world.standing(*up) == Standing::Lagging);
        if let Some(stays) = late.filter(|_| place.is_none() && room().is_none()) {
            return Some(stays);
        }
        let emptiest = || good.iter().copied().min_by_key(|up| self.load(*up));
        // Rather one that cannot be asked now than nobody.
        let unseen = || order().find(|up| self.world.standing(*up) == Standing::Keeps && self.names(node, *up));
        let known = place.or_else(room).or_else(|| self.sibling(node)).or_else(emptiest);
        known.or_else(|| settling.next()).or_else(unseen)
    }

    /// A sibling that can stand in as a relay: one that was placed before, is well and has a place. Rather one that is not
    /// itself below a relay that lags, as who is fresh would wait for it to catch up; as near to the primary as there is; of
    /// those the one that feeds the node by its route already, then one of its own zone.
    fn sibling(&self, node: At<'_>) -> Option<At<'a>> {
        let world = self.world;
        if feeds_by_spec(world, node) {
            return None;
        }
        let fits = |other: &At<'a>| {
            self.first(*other).is_some()
                && self.has_place(*other)
                && (self.may_be_first(node, *other) || self.will_be_fed(*other))
                && self.hops(*other) < world.desired.limits.depth
                && self.has_wal(node, *other)
        };
        let cost = |other: &At<'a>| {
            let keeps = world.installed(node).and_then(RouteAt::first) == Some(*other);
            let zone = world.zone(*other) != world.zone(node);
            (self.is_late(*other), self.hops(*other), !keeps, zone, self.load(*other))
        };
        let others = self.group(node).iter().copied().filter(|other| *other != node && !feeds_by_spec(world, *other));
        others.filter(fits).min_by_key(cost)
    }

    /// The members of the root group.
    pub(super) fn root(&self) -> &[At<'a>] {
        let mut groups = self.world.desired.groups.iter().zip(&self.world.members);
        groups.find(|(group, _)| group.is_root()).map(|(_, members)| members.as_slice()).unwrap_or_default()
    }

    /// The members of a node's group.
    fn group(&self, node: At<'_>) -> &[At<'a>] {
        let group = self.world.group_place(node).and_then(|group| self.world.members.get(group));
        group.map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a node that has no path now is given a good upstream by this choice; who is put below it waits for that.
    fn will_be_fed(&self, node: At<'_>) -> bool {
        let good = |upstream: At<'_>| self.world.standing(upstream) == Standing::Good;
        self.world.seen(node).is_some()
            && self.world.standing(node) == Standing::Keeps
            && self.first(node).is_some_and(good)
    }

    /// Whether a node is below one that lags, or did a short while ago, by the choice so far.
    fn is_late(&self, node: At<'_>) -> bool {
        let mut path = std::iter::successors(self.first(node), |up| self.first(*up)).take(self.first.len());
        path.any(|up| matches!(self.world.standing(up), Standing::Lagging | Standing::Settling))
    }

    /// Edges between a node and the primary by the choice so far.
    pub(super) fn hops(&self, node: At<'_>) -> usize {
        let mut at = self.first(node);
        for hops in 0..=self.world.desired.nodes.len() {
            match at {
                Some(upstream) => at = self.first(upstream),
                None => return hops,
            }
        }
        usize::MAX
    }

    /// Siblings of `node` that feed others by this choice and are nearer to the primary than it (law 1: a route names
    /// lower ranks).
    pub(super) fn standing_in(&self, node: At<'_>) -> Vec<At<'a>> {
        if self.world.group(node).is_none_or(Group::is_root) {
            return Vec::new();
        }
        let own = self.hops(node);
        let feeds = |other: &At<'_>| self.load(*other) > 0 && self.hops(*other) < own;
        let others = self.group(node).iter().copied().filter(|other| !feeds_by_spec(self.world, *other));
        others.filter(feeds).collect()
    }
}

/// Whether a node takes WAL where it is wanted. A relay that is down does not, and one that came back and is settling does
/// beside those who stand in for it, until they give it their place. One that lags does as well, however little arrives, and
/// so does one that is not seen while its children are fed (law 8).
fn streams(world: &World<'_>, node: At<'_>) -> bool {
    match world.standing(node) {
        Standing::Good | Standing::Lagging => true,
        Standing::Keeps => world.failing_for(node).is_none(),
        Standing::Settling | Standing::Failed | Standing::Barred => false,
    }
}

/// Which region each group is in.
fn regions(groups: &[Group]) -> Vec<usize> {
    let mut known = IndexSet::<&str, FxBuildHasher>::from_iter([""]);
    groups.iter().map(|group| known.insert_full(group.region.as_deref().unwrap_or_default()).0).collect()
}

/// Whether a node feeds others of its own group by the spec.
pub(super) fn feeds_by_spec(world: &World<'_>, node: At<'_>) -> bool {
    world.group(node).is_some_and(|group| group.relays > 0 && group.feeders().contains(node.name))
}

/// Whether `upstream` is a sibling that stands in as a relay for `node`: of the same group, and no relay by the spec.
pub(super) fn is_stand_in(world: &World<'_>, node: At<'_>, upstream: At<'_>) -> bool {
    let same = world.group_place(node).is_some_and(|group| world.group_place(upstream) == Some(group));
    same && world.group(node).is_some_and(|group| !group.is_root()) && !feeds_by_spec(world, upstream)
}
