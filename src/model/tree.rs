//! The graph of who receives from whom: as seen, as installed, as ordered.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use petgraph::algo::has_path_connecting;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use rustc_hash::FxBuildHasher;

use super::observed::Sender;
use super::{Addresses, ByNode, Desired, Facts, Management, NodeName, Observed, Route, SessionAttrs};

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
pub fn edges(desired: &Desired, observed: &Observed) -> ByNode<Edge> {
    let seen: Vec<_> = desired.nodes.keys().filter_map(|name| Some((name, observed.seen(name)?))).collect();
    let (addresses, senders) = (desired.addresses(), Senders::of(&seen));
    let edge = |(name, facts): (&NodeName, &Facts)| edge(desired, (&addresses, &senders), observed, name, facts);
    seen.into_iter().map(|seen| (seen.0.clone(), edge(seen))).collect()
}

/// The walsenders of all servers by the name of the other end: one server may have thousands. Nearly every name has one, so
/// that the others stand apart.
struct Senders<'a>(IndexMap<&'a str, (SenderOn<'a>, Vec<SenderOn<'a>>), FxBuildHasher>);

/// A walsender, and the server that it is on.
type SenderOn<'a> = (&'a NodeName, &'a Sender);

impl<'a> Senders<'a> {
    fn of(seen: &[(&'a NodeName, &'a Facts)]) -> Self {
        let mut this = Self(IndexMap::with_capacity_and_hasher(seen.len(), FxBuildHasher));
        for one in seen.iter().flat_map(|(on, facts)| facts.senders.iter().map(move |sender| (*on, sender))) {
            let known = this.0.entry(&one.1.application_name);
            known.and_modify(|(_, others)| others.push(one)).or_insert_with(|| (one, Vec::new()));
        }
        this
    }

    fn to(&self, child: &NodeName, on: &NodeName) -> impl Iterator<Item = &'a Sender> {
        let all =
            self.0.get(child.as_str()).into_iter().flat_map(|(first, others)| std::iter::once(first).chain(others));
        all.filter(move |(at, _)| *at == on).map(|(_, sender)| *sender)
    }
}

fn edge(
    desired: &Desired,
    (addresses, senders): (&Addresses<'_>, &Senders<'_>),
    observed: &Observed,
    child: &NodeName,
    facts: &Facts,
) -> Edge {
    let Some(receiver) = facts.receiver.as_ref().filter(|_| facts.in_recovery) else { return Edge::None };
    let known = addresses.node_at(&receiver.host, receiver.port);
    let Some(upstream) = known.or_else(|| his_upstream(desired, observed, child, facts)) else {
        return Edge::Stranger(format!("{}:{}", receiver.host, receiver.port));
    };
    let Some(up) = observed.seen(upstream) else { return Edge::ChildOnly(upstream.clone()) };
    // Only who uses the slot can be its holder: otherwise that is somebody else of its name.
    let slot = up.slots.get(child.slot()).filter(|_| receiver.slot.as_deref() == Some(child.slot()));
    let holder = slot.and_then(|slot| slot.active_pid);
    let by_slot = |sender: &Sender| Some(sender.pid) == holder;
    let mut by_name = senders.to(child, upstream).peekable();
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
pub fn his_upstream<'a>(
    desired: &'a Desired,
    observed: &Observed,
    child: &NodeName,
    facts: &Facts,
) -> Option<&'a NodeName> {
    let management = desired.group_of(child).map(|group| group.management);
    let receiver = facts.receiver.as_ref().filter(|_| management == Some(Management::Observe))?;
    // One server has all that fits once, whatever its names.
    let memory = &observed.memory;
    let is_first = |name: &NodeName| desired.nodes.keys().find(|first| memory.are_one(first, name)) == Some(name);
    let is_other = |other: &&NodeName| !memory.are_one(other, child) && (!memory.is_twice(other) || is_first(other));
    let others = || desired.nodes.keys().filter(is_other);
    let others = || others().filter_map(|other| Some((other, observed.seen(other)?)));
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
#[derive(Debug, Clone, Default)]
pub struct Union {
    graph: StableDiGraph<(), ()>,
    index: ByNode<NodeIndex>,
}

impl Union {
    /// The union as it stands. Routes of nodes that are not seen now count as they were seen last (law 8).
    pub fn of(desired: &Desired, observed: &Observed) -> Self {
        let addresses = desired.addresses();
        let nodes = desired.nodes.len();
        let index = ByNode::with_capacity_and_hasher(nodes, FxBuildHasher);
        let mut this = Self { graph: StableDiGraph::with_capacity(nodes, 2 * nodes), index };
        for name in desired.nodes.keys() {
            let index = this.graph.add_node(());
            this.index.insert(name.clone(), index);
        }
        // One that was never seen may be at the other end of a walsender that is.
        let mut fed: BTreeMap<&str, Vec<&NodeName>> = BTreeMap::new();
        if desired.nodes.keys().any(|name| observed.last(name).is_none()) {
            for (up, facts) in desired.nodes.keys().filter_map(|up| Some((up, observed.last(up)?))) {
                facts.senders.iter().for_each(|sender| fed.entry(&sender.application_name).or_default().push(up));
            }
        }
        for name in desired.nodes.keys() {
            if let Some(facts) = observed.last(name).filter(|facts| facts.in_recovery) {
                let known = facts.receiver.as_ref().and_then(|r| addresses.node_at(&r.host, r.port));
                let receiver = known.or_else(|| his_upstream(desired, observed, name, facts));
                this.add(name, receiver);
                let pending = facts.route.pending.as_ref();
                for conninfo in std::iter::once(&facts.route.conninfo).chain(pending).filter(|c| !primary_only(c)) {
                    this.add(name, conninfo.listeners().filter_map(|(host, port)| addresses.node_at(host, port)));
                }
            }
            if observed.last(name).is_none() {
                this.add(name, fed.get(name.as_str()).into_iter().flatten().copied());
            }
            let ordered = observed.memory.nodes.get(name).and_then(|m| m.ordered.as_ref());
            if let Some(order) = ordered.filter(|order| !order.seen_installed) {
                this.add_route(name, &order.route);
            }
        }
        this
    }

    fn add<'a>(&mut self, child: &NodeName, upstreams: impl IntoIterator<Item = &'a NodeName>) {
        let Some(&from) = self.index.get(child) else { return };
        for to in upstreams.into_iter().filter_map(|upstream| self.index.get(upstream)) {
            self.graph.update_edge(from, *to, ());
        }
    }

    /// Adds what a route makes possible.
    pub fn add_route(&mut self, child: &NodeName, route: &Route) {
        if route.attrs == SessionAttrs::Any {
            self.add(child, &route.entries);
        }
    }

    /// The entry of `route` through which `child` could come to receive from itself, if there is one.
    pub fn ring<'a>(&self, child: &NodeName, route: &'a Route) -> Option<&'a NodeName> {
        let from = *self.index.get(child)?;
        let reaches =
            |up: &&NodeName| self.index.get(*up).is_some_and(|&up| has_path_connecting(&self.graph, up, from, None));
        route.entries.iter().filter(|_| route.attrs == SessionAttrs::Any).find(reaches)
    }

    /// Whether there is a ring already.
    pub fn is_cyclic(&self) -> bool {
        petgraph::algo::is_cyclic_directed(&self.graph)
    }
}
