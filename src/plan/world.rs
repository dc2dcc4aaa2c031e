//! What the passes look at: the input, and what follows from it, put together once.

use indexmap::{IndexMap, IndexSet};
use rustc_hash::FxBuildHasher;

use super::others;
use super::standing::{self, Standing};
use crate::model::memory::NodeMemory;
use crate::model::observed::Slot;
use crate::model::primary::Primary;
use crate::model::rooted::Rooted;
use crate::model::tree::Edge;
use crate::model::{
    Addresses, ByNodeRef, Desired, Facts, Group, Management, Millis, NodeName, NodeSpec, Observed, Route, Sight,
};

/// The input and what follows from it.
pub(super) struct World<'a> {
    pub(super) desired: &'a Desired,
    pub(super) observed: &'a Observed,
    pub(super) sight: &'a Sight,
    pub(super) now: Millis,
    /// In the order of the spec.
    nodes: ByNodeRef<'a, Node<'a>>,
    /// Whose slot has which name: nodes, and those that were taken out of the spec.
    owners: IndexMap<&'a str, Owner<'a>, FxBuildHasher>,
}

/// Whose a slot is by its name.
#[derive(Clone, Copy)]
struct Owner<'a> {
    name: &'a NodeName,
    /// Its place among the nodes; `None` when it was taken out of the spec.
    place: Option<usize>,
}

/// All that is known of one node, side by side: the passes look at it far more often than it is put together, and most of
/// their time is the way to memory that is not at hand.
struct Node<'a> {
    group: Option<&'a Group>,
    /// One text for each zone: they are compared far more often than there are zones.
    zone: Option<&'a str>,
    /// What it says now.
    facts: Option<&'a Facts>,
    memory: Option<&'a NodeMemory>,
    edge: Option<&'a Edge>,
    is_rooted: bool,
    standing: Standing,
    /// The route that it had when it was seen last.
    installed: Option<Installed>,
    /// The slots on it, with the owners of those that are ours.
    slots: Vec<(Option<&'a NodeName>, &'a Slot)>,
    /// The slots of its name, each with the server that it is on.
    own_slots: Vec<(&'a NodeName, &'a Slot)>,
}

/// A route that is set.
struct Installed {
    route: Route,
    /// It is set as we set it, keyword for keyword.
    exactly: bool,
}

impl<'a> World<'a> {
    pub(super) fn new(desired: &'a Desired, observed: &'a Observed, sight: &'a Sight, now: Millis) -> Self {
        let addresses = desired.addresses();
        let mut zones = IndexSet::with_hasher(FxBuildHasher);
        let mut nodes = ByNodeRef::with_capacity_and_hasher(desired.nodes.len(), FxBuildHasher);
        for (name, spec) in &desired.nodes {
            let mut node = Node::new(desired, observed, sight, &addresses, (name, spec));
            node.zone = spec.zone.as_deref().map(|zone| {
                let (place, _) = zones.insert_full(zone);
                zones[place]
            });
            nodes.insert(name.into(), node);
        }
        let leavers = observed.memory.leaving.keys().map(|name| Owner { name, place: None });
        let present = desired.nodes.keys().enumerate().map(|(place, name)| Owner { name, place: Some(place) });
        let owners = leavers.chain(present).map(|owner| (owner.name.slot(), owner)).collect();
        let mut world = Self { desired, observed, sight, now, nodes, owners };
        world.find_owners();
        let standings: Vec<_> = desired.nodes.keys().map(|name| standing::standing(&world, name)).collect();
        world.nodes.values_mut().zip(standings).for_each(|(node, standing)| node.standing = standing);
        world
    }

    /// Gives every slot to its owner, by its name; to nobody when it is somebody else's.
    fn find_owners(&mut self) {
        for at in 0..self.nodes.len() {
            let Some((on, &Node { facts: Some(facts), .. })) = self.nodes.get_index(at) else { continue };
            let on = on.name;
            let mut slots = Vec::with_capacity(facts.slots.len());
            for (name, slot) in &facts.slots {
                let owner = self.owners.get(name.as_str()).copied();
                if let Some(place) = owner.and_then(|owner| owner.place) {
                    self.nodes[place].own_slots.push((on, slot));
                }
                let ours = |owner: &&NodeName| *owner != on && !others::is_his(self, owner, on);
                slots.push((owner.map(|owner| owner.name).filter(ours), slot));
            }
            self.nodes[at].slots = slots;
        }
    }

    /// The true primary, or the last one known while none is seen.
    pub(super) fn primary(&self) -> Option<&'a NodeName> {
        match &self.sight.primary {
            Primary::Known { name, .. } => Some(name),
            Primary::NotSeen | Primary::Several(_) => self.observed.memory.primary.as_ref(),
        }
    }

    pub(super) fn is_primary(&self, node: &NodeName) -> bool {
        self.primary().is_some_and(|primary| self.observed.memory.are_one(primary, node))
    }

    /// Whether its server is in the spec by another name too.
    pub(super) fn is_twice(&self, node: &NodeName) -> bool {
        self.observed.memory.is_twice(node)
    }

    pub(super) fn seen(&self, node: &NodeName) -> Option<&'a Facts> {
        self.nodes.get(node)?.facts
    }

    pub(super) fn memory(&self, node: &NodeName) -> Option<&'a NodeMemory> {
        self.nodes.get(node)?.memory
    }

    pub(super) fn standing(&self, node: &NodeName) -> Standing {
        self.nodes.get(node).map_or(Standing::Barred, |node| node.standing)
    }

    pub(super) fn is_rooted(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|node| node.is_rooted)
    }

    /// The edge of a node that is seen.
    pub(super) fn edge(&self, node: &NodeName) -> Option<&'a Edge> {
        self.nodes.get(node)?.edge
    }

    /// The upstream a node receives from now.
    pub(super) fn upstream(&self, node: &NodeName) -> Option<&'a NodeName> {
        self.edge(node)?.upstream()
    }

    /// Whether both ends tell at two looks that `node` receives from a server other than `other`, and it is rooted.
    pub(super) fn streams_elsewhere(&self, node: &NodeName, other: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|node| {
            node.is_rooted
                && node.memory.is_some_and(NodeMemory::receives_steadily)
                && matches!(node.edge, Some(Edge::Both(up)) if up != other)
        })
    }

    /// The slots of a server that is seen, with the owners of those that are ours.
    pub(super) fn all_slots(&self, on: &NodeName) -> &[(Option<&'a NodeName>, &'a Slot)] {
        self.nodes.get(on).map(|node| node.slots.as_slice()).unwrap_or_default()
    }

    /// The slots of our nodes on a server that is seen, with their owners.
    pub(super) fn slots(&self, on: &NodeName) -> impl Iterator<Item = (&'a NodeName, &'a Slot)> {
        self.all_slots(on).iter().filter_map(|(owner, slot)| Some(((*owner)?, *slot)))
    }

    /// The slot of a node's name on a server that is seen, whosever it is.
    pub(super) fn slot(&self, owner: &NodeName, on: &NodeName) -> Option<&'a Slot> {
        self.nodes.get(owner)?.own_slots.iter().find(|(server, _)| *server == on).map(|(_, slot)| *slot)
    }

    /// The node whose slots have this name, or had while it was in the spec.
    pub(super) fn owner(&self, slot: &str) -> Option<&'a NodeName> {
        self.owners.get(slot).map(|owner| owner.name)
    }

    pub(super) fn group(&self, node: &NodeName) -> Option<&'a Group> {
        self.nodes.get(node)?.group
    }

    pub(super) fn zone(&self, node: &NodeName) -> Option<&'a str> {
        self.nodes.get(node)?.zone
    }

    pub(super) fn management(&self, node: &NodeName) -> Management {
        self.group(node).map_or(Management::Observe, |group| group.management)
    }

    /// The route a node had when it was seen last; `None` when it named none of ours.
    pub(super) fn installed(&self, node: &NodeName) -> Option<&Route> {
        self.nodes.get(node)?.installed.as_ref().map(|installed| &installed.route)
    }

    /// Whether `route` is what a node had when it was seen last, keyword for keyword.
    pub(super) fn has_installed(&self, node: &NodeName, route: &Route) -> bool {
        let installed = self.nodes.get(node).and_then(|node| node.installed.as_ref());
        installed.is_some_and(|installed| installed.exactly && installed.route == *route)
    }
}

impl<'a> Node<'a> {
    fn new(
        desired: &'a Desired,
        observed: &'a Observed,
        sight: &'a Sight,
        addresses: &Addresses<'_>,
        (name, spec): (&NodeName, &'a NodeSpec),
    ) -> Self {
        let view = observed.nodes.get(name);
        let last = view.and_then(|view| view.last.as_deref());
        let installed = last.and_then(|last| {
            let route = standing::installed(addresses, last)?;
            Some(Installed { exactly: desired.has_installed(name, &route, last), route })
        });
        Self {
            group: desired.groups.get(spec.group),
            zone: None,
            facts: last.filter(|_| view.is_some_and(|view| view.unseen.is_none())),
            memory: observed.memory.node(name),
            edge: sight.edges.get(name),
            is_rooted: sight.rooted.get(name).is_some_and(Rooted::is_yes),
            // Nobody's yet: it is judged when all are there.
            standing: Standing::Barred,
            installed,
            slots: Vec::new(),
            own_slots: Vec::new(),
        }
    }
}
