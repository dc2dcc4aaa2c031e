//! The graph of who receives from whom: as seen, as installed, as ordered.

use std::collections::BTreeMap;

use petgraph::algo::{DfsSpace, has_path_connecting};
use petgraph::stable_graph::{NodeIndex, StableDiGraph};

use super::observed::{Look, Sender};
use super::{
    Addresses, ByNode, Called, Desired, Facts, Management, NodeName, NodeView, Observed, Route, SessionAttrs, near,
};

/// The edge on which a node receives WAL now, as both its ends tell it (law 9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edge {
    /// The child names the upstream, and the upstream holds the child's slot with a walsender of the child's name.
    Both(NodeName),
    /// The child names the upstream; the upstream is not seen, or knows the child by its slot or its name only.
    ChildOnly(NodeName),
    /// The child names the upstream, which is seen and knows it neither by slot nor by name: the child has not noticed
    /// yet that it was left, or has just come.
    Denied(NodeName),
    /// The child names a server that is not in the topology, as `host:port`.
    Stranger(String),
    /// No walreceiver.
    None,
}

impl Edge {
    /// The upstream, when it is one of ours.
    pub fn upstream(&self) -> Option<&NodeName> {
        match self {
            Self::Both(upstream) | Self::ChildOnly(upstream) | Self::Denied(upstream) => Some(upstream),
            Self::Stranger(_) | Self::None => None,
        }
    }
}

/// The edge of every node that is seen.
pub(crate) fn edges(desired: &Desired, addresses: &Addresses<'_>, look: Look<'_>) -> ByNode<Edge> {
    let facts = |place, name| near(look.nodes, place, name)?.seen();
    let all = desired.nodes.keys().enumerate();
    let seen: Vec<_> = all.filter_map(|(place, name)| Some(((place, name), facts(place, name)?))).collect();
    let senders = Senders::of(desired, &seen);
    let edge = |child, facts| edge(desired, (addresses, &senders), look, child, facts);
    seen.iter().map(|(child, facts)| (child.1.clone(), edge(*child, facts))).collect()
}

/// The walsenders of all servers by the place of the node at the other end: one server may have thousands. Nearly every node
/// has one, so that the others stand apart.
struct Senders<'a>(Vec<(Option<SenderOn<'a>>, Vec<SenderOn<'a>>)>);

/// A walsender, and the server that it is on.
type SenderOn<'a> = (&'a NodeName, &'a Sender);

impl<'a> Senders<'a> {
    fn of(desired: &Desired, seen: &[((usize, &'a NodeName), &'a Facts)]) -> Self {
        let mut this = Self(vec![(None, Vec::new()); desired.nodes.len()]);
        for one in seen.iter().flat_map(|((_, on), facts)| facts.senders.iter().map(move |sender| (*on, sender))) {
            if let Some(child) = desired.nodes.get_index_of(&Called::by_name(&one.1.application_name)) {
                match &mut this.0[child] {
                    (first @ None, _) => *first = Some(one),
                    (Some(_), others) => others.push(one),
                }
            }
        }
        this
    }

    fn to(&self, child: usize, on: &NodeName) -> impl Iterator<Item = &'a Sender> {
        let all = self.0.get(child).into_iter().flat_map(|(first, others)| first.iter().chain(others));
        all.filter(move |(at, _)| *at == on).map(|(_, sender)| *sender)
    }
}

fn edge(
    desired: &Desired,
    (addresses, senders): (&Addresses<'_>, &Senders<'_>),
    look: Look<'_>,
    (place, child): (usize, &NodeName),
    facts: &Facts,
) -> Edge {
    let Some(receiver) = facts.receiver.as_ref().filter(|_| facts.in_recovery) else { return Edge::None };
    let known = addresses.at(&receiver.host, receiver.port);
    let his = || desired.nodes.get_full(his_upstream(desired, look, child, facts)?).map(|(at, name, _)| (at, name));
    let Some((at, upstream)) = known.or_else(his) else {
        return Edge::Stranger(format!("{}:{}", receiver.host, receiver.port));
    };
    let Some(up) = near(look.nodes, at, upstream).and_then(NodeView::seen) else {
        return Edge::ChildOnly(upstream.clone());
    };
    // Only who uses the slot can be its holder: otherwise that is somebody else of its name.
    let slot = up.slots.get(child.slot()).filter(|_| receiver.slot.as_deref() == Some(child.slot()));
    let holder = slot.and_then(|slot| slot.active_pid);
    let by_slot = |sender: &Sender| Some(sender.pid) == holder;
    let mut by_name = senders.to(place, upstream).peekable();
    let is_named = by_name.peek().is_some();
    if by_name.any(by_slot) {
        Edge::Both(upstream.clone())
    } else if known.is_none() || is_named || up.senders.iter().any(by_slot) {
        Edge::ChildOnly(upstream.clone())
    } else {
        Edge::Denied(upstream.clone())
    }
}

/// The upstream of a server of somebody else's that names it by a host of which the spec knows nothing, as a service of his
/// (CloudNativePG) or a name for an address: the one server that has exactly one walsender by that standby's own name and
/// slot. Where two would fit, or two standbys have that name, nothing is taken for it.
pub(crate) fn his_upstream<'a>(
    desired: &'a Desired,
    look: Look<'_>,
    child: &NodeName,
    facts: &Facts,
) -> Option<&'a NodeName> {
    let management = desired.group_of(child).map(|group| group.management);
    let receiver = facts.receiver.as_ref().filter(|_| management == Some(Management::Observe))?;
    // One server has all that fits once, whatever its names.
    let memory = look.memory;
    let is_first = |name: &NodeName| desired.nodes.keys().find(|first| memory.are_one(first, name)) == Some(name);
    let is_other = |other: &&NodeName| !memory.are_one(other, child) && (!memory.is_twice(other) || is_first(other));
    let others = || desired.nodes.keys().filter(is_other);
    let others = || others().filter_map(|other| Some((other, look.seen(other)?)));
    let name = facts.application_name();
    if others().any(|(_, other)| other.receiver.is_some() && other.application_name() == name) {
        return None;
    }
    let slot = receiver.slot.as_deref().unwrap_or_default();
    let fits = |sender: &&Sender| sender.application_name == name && sender.slot.as_deref().unwrap_or_default() == slot;
    let same = |up: &Facts| {
        up.system_identifier == facts.system_identifier && up.timeline.is_none_or(|own| own == receiver.timeline)
    };
    let mut found = others().flat_map(|(up, at)| at.senders.iter().filter(fits).map(move |_| (up, at)));
    found.next().filter(|(_, at)| found.next().is_none() && same(at)).map(|(up, _)| up)
}

/// The upstreams that a connection string names, as far as they are ours.
pub fn entries(addresses: &Addresses<'_>, conninfo: &super::Conninfo) -> Vec<NodeName> {
    conninfo.listeners().filter_map(|(host, port)| addresses.node_at(host, port).cloned()).collect()
}

/// Whether a connection string settles on a primary only: such an edge can be in no ring, as a primary receives from
/// nobody (safety.md 2.4).
pub fn primary_only(conninfo: &super::Conninfo) -> bool {
    matches!(conninfo.get("target_session_attrs"), Some("primary" | "read-write"))
}

/// Everything through which a node may come to receive from another: edges seen, routes installed or waiting in a
/// configuration file, routes ordered and not verified. An edge points from the child to its upstream. Law 1: it stays
/// acyclic whatever is added.
#[derive(Debug, Clone)]
pub struct Union<'a> {
    desired: &'a Desired,
    /// Each node is in it at its place in the spec.
    graph: StableDiGraph<(), ()>,
}

impl<'a> Union<'a> {
    /// The union as it stands. Routes of nodes that are not seen now count as they were seen last (law 8).
    pub fn of(desired: &'a Desired, observed: &Observed) -> Self {
        let addresses = desired.addresses();
        let nodes = desired.nodes.len();
        let mut this = Self { desired, graph: StableDiGraph::with_capacity(nodes, 3 * nodes) };
        for _ in 0..nodes {
            this.graph.add_node(());
        }
        // One that was never seen may be at the other end of a walsender that is.
        let mut fed: BTreeMap<&str, Vec<&NodeName>> = BTreeMap::new();
        if desired.nodes.keys().any(|name| observed.last(name).is_none()) {
            for (up, facts) in desired.nodes.keys().filter_map(|up| Some((up, observed.last(up)?))) {
                facts.senders.iter().for_each(|sender| fed.entry(&sender.application_name).or_default().push(up));
            }
        }
        for (place, name) in desired.nodes.keys().enumerate() {
            let last = near(&observed.nodes, place, name).and_then(|view| view.last.as_deref());
            let at = |host, port| addresses.at(host, port).map(|(at, _)| at);
            if let Some(facts) = last.filter(|facts| facts.in_recovery) {
                let known = facts.receiver.as_ref().and_then(|receiver| at(&receiver.host, receiver.port));
                let his = || desired.nodes.get_index_of(his_upstream(desired, observed.into(), name, facts)?);
                this.join(place, known.or_else(his));
                let pending = facts.route.pending.as_ref();
                for conninfo in std::iter::once(&facts.route.conninfo).chain(pending).filter(|c| !primary_only(c)) {
                    this.join(place, conninfo.listeners().filter_map(|(host, port)| at(host, port)));
                }
            }
            if last.is_none() {
                this.add(name, fed.get(name.as_str()).into_iter().flatten().copied());
            }
            let ordered = near(&observed.memory.nodes, place, name).and_then(|memory| memory.ordered.as_ref());
            if let Some(order) = ordered.filter(|order| !order.seen_installed) {
                this.add_route(name, &order.route);
            }
        }
        this
    }

    fn index(&self, node: &NodeName) -> Option<NodeIndex> {
        self.desired.nodes.get_index_of(node).map(NodeIndex::new)
    }

    fn join(&mut self, child: usize, upstreams: impl IntoIterator<Item = usize>) {
        for upstream in upstreams {
            self.graph.update_edge(NodeIndex::new(child), NodeIndex::new(upstream), ());
        }
    }

    fn add<'b>(&mut self, child: &NodeName, upstreams: impl IntoIterator<Item = &'b NodeName>) {
        let desired = self.desired;
        let Some(child) = desired.nodes.get_index_of(child) else { return };
        self.join(child, upstreams.into_iter().filter_map(|upstream| desired.nodes.get_index_of(upstream)));
    }

    /// Adds what a route makes possible.
    pub fn add_route(&mut self, child: &NodeName, route: &Route) {
        if route.attrs == SessionAttrs::Any {
            self.add(child, &route.entries);
        }
    }

    /// The entry of `route` through which `child` could come to receive from itself, if there is one.
    pub fn ring<'b>(&self, child: &NodeName, route: &'b Route) -> Option<&'b NodeName> {
        let from = self.index(child)?;
        let mut space = DfsSpace::new(&self.graph);
        let mut leads_back = |up| has_path_connecting(&self.graph, up, from, Some(&mut space));
        let reaches = |up: &&NodeName| self.index(up).is_some_and(&mut leads_back);
        route.entries.iter().filter(|_| route.attrs == SessionAttrs::Any).find(reaches)
    }

    /// Whether there is a ring already.
    pub fn is_cyclic(&self) -> bool {
        petgraph::algo::is_cyclic_directed(&self.graph)
    }
}
