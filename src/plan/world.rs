//! What the passes look at: the input, and what follows from it, put together once.

use std::fmt;

use indexmap::IndexSet;
use rustc_hash::FxBuildHasher;

use super::others;
use super::standing::{self, Standing};
use crate::model::desired::has_installed;
use crate::model::memory::NodeMemory;
use crate::model::observed::Slot;
use crate::model::primary::Primary;
use crate::model::rooted::Rooted;
use crate::model::tree::Edge;
use crate::model::{
    Addresses, Called, Desired, Facts, Group, Management, Millis, NodeName, NodeSpec, Observed, Route, SessionAttrs,
    Sight, near,
};

/// The input and what follows from it.
pub(super) struct World<'a> {
    pub(super) desired: &'a Desired,
    pub(super) observed: &'a Observed,
    pub(super) sight: &'a Sight,
    pub(super) now: Millis,
    /// The members of every group, in the order of the groups.
    pub(super) members: Vec<Vec<At<'a>>>,
    /// In the order of the spec.
    nodes: Vec<Node<'a>>,
    /// What the primary says now.
    primary_says: Option<&'a Facts>,
}

/// A node with its place in the spec: what is known of it is found by that without a look at its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    place: usize,
    /// Its name.
    pub(super) name: &'a NodeName,
}

/// The place of those that are in no spec, as a primary that was taken out of it.
const NOWHERE: usize = usize::MAX;

impl<'a> At<'a> {
    pub(super) fn of(desired: &Desired, name: &'a NodeName) -> Self {
        Self { place: desired.nodes.get_index_of(name).unwrap_or(NOWHERE), name }
    }

    /// Its place in the spec; beyond all others for who is not in it.
    pub(super) fn place(self) -> usize {
        self.place
    }
}

impl PartialEq for At<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place && (self.place != NOWHERE || self.name == other.name)
    }
}

impl Eq for At<'_> {}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

fn all(desired: &Desired) -> impl Iterator<Item = At<'_>> {
    desired.nodes.keys().enumerate().map(|(place, name)| At { place, name })
}

/// A route, by the places of its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouteAt<'a> {
    pub(super) entries: Vec<At<'a>>,
    pub(super) attrs: SessionAttrs,
}

impl<'a> RouteAt<'a> {
    pub(super) fn first(&self) -> Option<At<'a>> {
        self.entries.first().copied()
    }

    /// See [`Route::fallbacks`].
    pub(super) fn fallbacks(&self) -> &[At<'a>] {
        self.entries.get(1..).unwrap_or_default()
    }

    pub(super) fn contains(&self, node: At<'_>) -> bool {
        self.entries.contains(&node)
    }

    /// By the names of its entries.
    pub(super) fn named(&self) -> Route {
        Route { entries: self.entries.iter().map(|entry| entry.name.clone()).collect(), attrs: self.attrs }
    }
}

/// The members of every group. Most often the spec names the nodes in the order of its groups.
fn members(desired: &Desired) -> Vec<Vec<At<'_>>> {
    let mut next = 0;
    let mut at = |name| {
        let there = desired.nodes.get_index(next).is_some_and(|(there, _)| there == name);
        let at = if there { At { place: next, name } } else { At::of(desired, name) };
        next = at.place.wrapping_add(1);
        at
    };
    desired.groups.iter().map(|group| group.members.iter().map(&mut at).collect()).collect()
}

/// What a node is found by: its name, or its place.
pub(super) trait Key: Copy {
    fn find<'w, 'a>(self, world: &'w World<'a>) -> Option<&'w Node<'a>>;
}

impl Key for &NodeName {
    fn find<'w, 'a>(self, world: &'w World<'a>) -> Option<&'w Node<'a>> {
        world.at(self).find(world)
    }
}

impl Key for At<'_> {
    fn find<'w, 'a>(self, world: &'w World<'a>) -> Option<&'w Node<'a>> {
        world.nodes.get(self.place)
    }
}

/// All that is known of one node, side by side: the passes look at it far more often than it is put together, and most of
/// their time is the way to memory that is not at hand.
pub(super) struct Node<'a> {
    /// Its group's place among the groups.
    group: usize,
    /// One text for each zone: they are compared far more often than there are zones.
    zone: Option<&'a str>,
    /// What it says now.
    facts: Option<&'a Facts>,
    memory: Option<&'a NodeMemory>,
    edge: Option<&'a Edge>,
    /// Whom it receives from by that.
    upstream: Option<At<'a>>,
    rooted: Option<&'a Rooted>,
    is_rooted: bool,
    standing: Standing,
    /// The route that it had when it was seen last.
    installed: Option<Installed<'a>>,
    /// The slots on it, with the owners of those that are ours.
    slots: Vec<(Option<At<'a>>, &'a Slot)>,
    /// The slots of its name, each with the place of the server that it is on.
    own_slots: Vec<(usize, &'a Slot)>,
}

/// A route that is set.
struct Installed<'a> {
    route: RouteAt<'a>,
    /// It is set as we set it, keyword for keyword.
    exactly: bool,
}

impl<'a> World<'a> {
    pub(super) fn new(
        desired: &'a Desired,
        addresses: &Addresses<'a>,
        observed: &'a Observed,
        sight: &'a Sight,
        now: Millis,
    ) -> Self {
        let mut zones = IndexSet::with_hasher(FxBuildHasher);
        let mut nodes = Vec::with_capacity(desired.nodes.len());
        for (at, spec) in all(desired).zip(desired.nodes.values()) {
            let mut node = Node::new(desired, addresses, (observed, sight), (at, spec));
            node.zone = spec.zone.as_deref().map(|zone| {
                let (place, _) = zones.insert_full(zone);
                zones[place]
            });
            nodes.push(node);
        }
        let mut world = Self { desired, observed, sight, now, members: members(desired), nodes, primary_says: None };
        world.primary_says = world.primary().and_then(|primary| world.seen(primary));
        world.find_owners();
        let standings: Vec<_> = world.all().map(|node| standing::standing(&world, node)).collect();
        world.nodes.iter_mut().zip(standings).for_each(|(node, standing)| node.standing = standing);
        world
    }

    /// Gives every slot to its owner, by its name; to nobody when it is somebody else's.
    fn find_owners(&mut self) {
        for on in all(self.desired) {
            let Some(facts) = self.seen(on) else { continue };
            let mut slots = Vec::with_capacity(facts.slots.len());
            for (name, slot) in &facts.slots {
                let owner = self.owner(name);
                if let Some(owner) = owner.and_then(|owner| self.nodes.get_mut(owner.place)) {
                    owner.own_slots.push((on.place, slot));
                }
                let ours = |owner: &At<'_>| *owner != on && !others::is_his(self, *owner, on);
                slots.push((owner.filter(ours), slot));
            }
            self.nodes[on.place].slots = slots;
        }
    }

    /// Every node, in the order of the spec.
    pub(super) fn all(&self) -> impl Iterator<Item = At<'a>> + use<'a> {
        all(self.desired)
    }

    /// Where a node is in the spec.
    pub(super) fn at<'n>(&self, name: &'n NodeName) -> At<'n> {
        At::of(self.desired, name)
    }

    /// The true primary, or the last one known while none is seen.
    pub(super) fn primary(&self) -> Option<&'a NodeName> {
        match &self.sight.primary {
            Primary::Known { name, .. } => Some(name),
            Primary::NotSeen | Primary::Several(_) => self.observed.memory.primary.as_ref(),
        }
    }

    /// What it says now.
    pub(super) fn primary_says(&self) -> Option<&'a Facts> {
        self.primary_says
    }

    pub(super) fn is_primary(&self, node: &NodeName) -> bool {
        self.primary().is_some_and(|primary| self.observed.memory.are_one(primary, node))
    }

    /// Whether its server is in the spec by another name too.
    pub(super) fn is_twice(&self, node: &NodeName) -> bool {
        self.observed.memory.is_twice(node)
    }

    pub(super) fn seen(&self, node: impl Key) -> Option<&'a Facts> {
        node.find(self)?.facts
    }

    pub(super) fn memory(&self, node: impl Key) -> Option<&'a NodeMemory> {
        node.find(self)?.memory
    }

    pub(super) fn standing(&self, node: impl Key) -> Standing {
        node.find(self).map_or(Standing::Barred, |node| node.standing)
    }

    pub(super) fn is_rooted(&self, node: impl Key) -> bool {
        node.find(self).is_some_and(|node| node.is_rooted)
    }

    pub(super) fn rooted(&self, node: At<'_>) -> Option<&'a Rooted> {
        node.find(self)?.rooted
    }

    /// See [`Memory::failing_for`](crate::model::Memory::failing_for).
    pub(super) fn failing_for(&self, node: At<'_>) -> Option<u64> {
        self.memory(node)?.failing_since.map(|since| self.observed.memory.at.since(since))
    }

    /// See [`Memory::unrooted_for`](crate::model::Memory::unrooted_for).
    pub(super) fn unrooted_for(&self, node: At<'_>) -> Option<u64> {
        self.memory(node)?.unrooted_since.map(|since| self.observed.memory.at.since(since))
    }

    /// See [`Memory::is_settling`](crate::model::Memory::is_settling).
    pub(super) fn is_settling(&self, node: At<'_>) -> bool {
        self.memory(node).and_then(|memory| memory.settling_until).is_some_and(|until| until > self.observed.memory.at)
    }

    /// The edge of a node that is seen.
    pub(super) fn edge(&self, node: impl Key) -> Option<&'a Edge> {
        node.find(self)?.edge
    }

    /// The upstream a node receives from now.
    pub(super) fn upstream(&self, node: impl Key) -> Option<At<'a>> {
        node.find(self)?.upstream
    }

    /// Whether both ends tell at two looks that `node` receives from a server other than `other`, and it is rooted.
    pub(super) fn streams_elsewhere(&self, node: impl Key, other: &NodeName) -> bool {
        node.find(self).is_some_and(|node| {
            node.is_rooted
                && node.memory.is_some_and(NodeMemory::receives_steadily)
                && matches!(node.edge, Some(Edge::Both(up)) if up != other)
        })
    }

    /// The slots of a server that is seen, with the owners of those that are ours.
    pub(super) fn all_slots(&self, on: impl Key) -> &[(Option<At<'a>>, &'a Slot)] {
        on.find(self).map(|node| node.slots.as_slice()).unwrap_or_default()
    }

    /// The slots of our nodes on a server that is seen, with their owners.
    pub(super) fn slots(&self, on: At<'_>) -> impl Iterator<Item = (At<'a>, &'a Slot)> {
        self.all_slots(on).iter().filter_map(|(owner, slot)| Some(((*owner)?, *slot)))
    }

    /// The slot of a node's name on a server that is seen, whosever it is.
    pub(super) fn slot(&self, owner: impl Key, on: At<'_>) -> Option<&'a Slot> {
        owner.find(self)?.own_slots.iter().find(|(server, _)| *server == on.place).map(|(_, slot)| *slot)
    }

    /// The node whose slots have this name, or had while it was in the spec.
    pub(super) fn owner(&self, slot: &str) -> Option<At<'a>> {
        let known = self.desired.nodes.get_full(&Called::by_slot(slot)).map(|(place, name, _)| At { place, name });
        let mut leavers = self.observed.memory.leaving.keys();
        known.or_else(|| leavers.find(|name| name.slot() == slot).map(|name| At { place: NOWHERE, name }))
    }

    /// The place of a node's group among the groups.
    pub(super) fn group_place(&self, node: At<'_>) -> Option<usize> {
        Some(node.find(self)?.group)
    }

    /// See [`Memory::is_refused`](crate::model::Memory::is_refused).
    pub(super) fn is_refused(&self, node: At<'_>, by: At<'_>) -> bool {
        self.memory(node).is_some_and(|memory| memory.is_refused(by.name, self.observed.memory.at))
    }

    pub(super) fn group(&self, node: impl Key) -> Option<&'a Group> {
        self.desired.groups.get(node.find(self)?.group)
    }

    pub(super) fn zone(&self, node: impl Key) -> Option<&'a str> {
        node.find(self)?.zone
    }

    pub(super) fn management(&self, node: impl Key) -> Management {
        self.group(node).map_or(Management::Observe, |group| group.management)
    }

    /// Children that a node may have in normal times.
    pub(super) fn fan_out(&self, node: impl Key) -> usize {
        self.group(node).map_or(self.desired.limits.fan_out, |group| group.fan_out)
    }

    /// The route a node had when it was seen last; `None` when it named none of ours.
    pub(super) fn installed(&self, node: impl Key) -> Option<&RouteAt<'a>> {
        node.find(self)?.installed.as_ref().map(|installed| &installed.route)
    }

    /// Whether `route` is what a node had when it was seen last, keyword for keyword.
    pub(super) fn has_installed(&self, node: impl Key, route: &RouteAt<'_>) -> bool {
        let installed = node.find(self).and_then(|node| node.installed.as_ref());
        installed.is_some_and(|installed| installed.exactly && installed.route == *route)
    }
}

impl<'a> Node<'a> {
    fn new(
        desired: &'a Desired,
        addresses: &Addresses<'a>,
        (observed, sight): (&'a Observed, &'a Sight),
        (At { place, name }, spec): (At<'_>, &'a NodeSpec),
    ) -> Self {
        let view = near(&observed.nodes, place, name);
        let last = view.and_then(|view| view.last.as_deref());
        let installed = last.and_then(|last| {
            let entries = last.route.conninfo.listeners().filter_map(|(host, port)| addresses.at(host, port));
            let entries = entries.map(|(place, name)| At { place, name }).collect();
            let route = standing::installed(entries, last)?;
            let hosts: Vec<_> = route.entries.iter().map(|entry| desired.nodes[entry.place].entry()).collect();
            Some(Installed { exactly: has_installed(name, &hosts, route.attrs, last), route })
        });
        let edge = near(&sight.edges, place, name);
        let rooted = near(&sight.rooted, place, name);
        Self {
            group: spec.group,
            zone: None,
            facts: last.filter(|_| view.is_some_and(|view| view.unseen.is_none())),
            memory: near(&observed.memory.nodes, place, name),
            edge,
            upstream: edge.and_then(Edge::upstream).map(|upstream| At::of(desired, upstream)),
            rooted,
            is_rooted: rooted.is_some_and(Rooted::is_yes),
            // Nobody's yet: it is judged when all are there.
            standing: Standing::Barred,
            installed,
            slots: Vec::new(),
            own_slots: Vec::new(),
        }
    }
}
