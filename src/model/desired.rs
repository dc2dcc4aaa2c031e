//! What the user wants, as a graph of groups and nodes. Built from the resource by `api`, checked by [`super::check`].

use std::collections::BTreeSet;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use super::conninfo::Entry;
use super::{ByNode, Conninfo, Facts, GroupName, NodeName, Route, SessionAttrs};

/// How much waltree may do by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Automation {
    /// Look and report. Writes nothing to any server.
    Observe,
    /// Routes and slots. Never promotes, never re-clones.
    Heal,
}

/// What may be written on the servers of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Management {
    /// Only the slots of our own nodes; no setting is touched.
    Observe,
    /// The route too: `primary_conninfo` and `primary_slot_name` by SQL.
    Routes,
    /// Everything: it runs in a pod of ours, below our agent.
    Agent,
}

impl Management {
    /// Whether routes are set.
    pub fn sets_routes(self) -> bool {
        match self {
            Self::Observe => false,
            Self::Routes | Self::Agent => true,
        }
    }
}

/// What no node may exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Children of one node in normal times.
    pub fan_out: usize,
    /// Hops from the primary to the lowest node.
    pub depth: usize,
    /// WAL streams into one region from others.
    pub cross_region_streams: usize,
    /// WAL that idle slots may keep on one server beyond what that server needs itself, in bytes.
    pub retained_wal_bytes: u64,
}

/// When a node counts as failed, and as well again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Healing {
    /// How long a node may be silent or stand still before anything is done about it, in milliseconds.
    pub suspect_after_milliseconds: u64,
    /// How far a node may lag before it is called lagging, in seconds: a relay by what it received, readers by what is replayed.
    pub lag_seconds: u64,
    /// How long a node that failed must have been well before it gets its children back, in seconds.
    pub settle_seconds: u64,
}

/// What readers are given, of servers in pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reads {
    /// How old what a standby shows may be while another shows newer, in seconds.
    pub max_staleness_seconds: u64,
}

impl Default for Reads {
    /// As old as what counts as lagging by default.
    fn default() -> Self {
        Self { max_staleness_seconds: 30 }
    }
}

/// A group of nodes with the same upstream groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// Upstream groups, most wanted first. Empty for the root group, of which one member is the primary.
    pub upstreams: Vec<GroupName>,
    /// How many of the first members feed the others. 0: every member hangs below the upstream groups.
    pub relays: usize,
    /// Where it is; `None` is a region of its own name, "".
    pub region: Option<String>,
    /// What may be written on its servers.
    pub management: Management,
    /// Children of one member in normal times.
    pub fan_out: usize,
    /// Members in the written order.
    pub members: Vec<NodeName>,
}

impl Group {
    /// Whether one of this group is the primary.
    pub fn is_root(&self) -> bool {
        self.upstreams.is_empty()
    }

    /// The members that feed others: the relays, or all when it has none.
    pub fn feeders(&self) -> &[NodeName] {
        let end = if self.relays == 0 { self.members.len() } else { self.relays.min(self.members.len()) };
        &self.members[..end]
    }
}

/// One server that is to be part of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its name.
    pub name: NodeName,
    /// Index of its group in [`Desired::groups`].
    pub group: usize,
    /// Name or IP under which the operator and the other servers reach it.
    pub address: String,
    /// The IP that is dialled in place of looking `address` up, of a node whose address is the name in its certificate.
    pub hostaddr: Option<String>,
    /// Its port.
    pub port: u16,
    /// Failure zone, when one was given.
    pub zone: Option<String>,
}

impl NodeSpec {
    /// Its address and port.
    pub(crate) fn listens(&self) -> (&str, u16) {
        (&self.address, self.port)
    }

    /// How it stands in a route.
    pub(crate) fn entry(&self) -> Entry<'_> {
        Entry { host: &self.address, hostaddr: self.hostaddr.as_deref(), port: self.port }
    }
}

/// Everything the user wants of one topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// How much may be done.
    pub automation: Automation,
    /// The topology is being deleted: drop idle slots, touch nothing else.
    pub deleting: bool,
    /// Nodes whose past a person has just taken note of: it is not held against them any more.
    pub acknowledged: BTreeSet<NodeName>,
    /// Nodes that are about to be started anew: their children are moved where there is room.
    pub leaving: BTreeSet<NodeName>,
    /// What no node may exceed.
    pub limits: Limits,
    /// When a node counts as failed, and as well again.
    pub healing: Healing,
    /// What readers are given.
    pub reads: Reads,
    /// Groups in the written order; a group names only groups before it as upstreams.
    pub groups: Vec<Group>,
    /// Every node of every group.
    pub nodes: ByNode<NodeSpec>,
}

/// Who listens where.
#[derive(Debug, Clone)]
pub struct Addresses<'a>(IndexMap<(&'a str, u16), (usize, &'a NodeName), FxBuildHasher>);

impl<'a> Addresses<'a> {
    /// The same node with its place in the spec.
    pub(crate) fn at(&self, host: &str, port: u16) -> Option<(usize, &'a NodeName)> {
        self.0.get(&(host, port)).copied()
    }

    /// The node that listens at `host:port` as written in a `primary_conninfo`; `None` when it is none of ours.
    pub fn node_at(&self, host: &str, port: u16) -> Option<&NodeName> {
        self.at(host, port).map(|(_, name)| name)
    }
}

impl Desired {
    /// The group of a node; `None` for a node that is not ours.
    pub fn group_of(&self, node: &NodeName) -> Option<&Group> {
        self.nodes.get(node).and_then(|spec| self.groups.get(spec.group))
    }

    /// The failure zone of a node, when one was given.
    pub fn zone_of(&self, node: &NodeName) -> Option<&str> {
        self.nodes.get(node).and_then(|spec| spec.zone.as_deref())
    }

    /// The region of a node; "" when its group has none.
    pub fn region_of(&self, node: &NodeName) -> &str {
        self.group_of(node).and_then(|group| group.region.as_deref()).unwrap_or_default()
    }

    /// A group by name.
    pub fn group(&self, name: &GroupName) -> Option<&Group> {
        self.groups.iter().find(|group| &group.name == name)
    }

    /// The root group; `None` only in a topology that [`super::check`] refuses.
    pub fn root(&self) -> Option<&Group> {
        self.groups.iter().find(|group| group.is_root())
    }

    /// Whether its primary runs in a pod of ours.
    pub fn runs_pods(&self) -> bool {
        self.root().is_some_and(|root| root.management == Management::Agent)
    }

    /// Who listens where, for looking up many addresses.
    pub fn addresses(&self) -> Addresses<'_> {
        let nodes = self.nodes.iter().enumerate();
        Addresses(nodes.map(|(place, (name, spec))| (spec.listens(), (place, name))).collect())
    }

    /// The `primary_conninfo` that installs `route` on `node`: the present one with our entries in it.
    pub fn conninfo(&self, node: &NodeName, route: &Route, present: &Conninfo) -> Conninfo {
        present.with_route(node.as_str(), &self.hosts(route), route.attrs == SessionAttrs::Primary)
    }

    /// Whether `route` is what runs on `node`, keyword for keyword, with the node's own slot, and no other waits in its
    /// configuration files for the next reload.
    pub fn has_installed(&self, node: &NodeName, route: &Route, facts: &Facts) -> bool {
        has_installed(node, &self.hosts(route), route.attrs, facts)
    }

    /// Where the entries of a route listen, as far as they are ours.
    fn hosts(&self, route: &Route) -> Vec<Entry<'_>> {
        let specs = route.entries.iter().filter_map(|name| self.nodes.get(name));
        specs.map(NodeSpec::entry).collect()
    }

    /// Children that one node may have in normal times.
    pub fn fan_out(&self, node: &NodeName) -> usize {
        self.group_of(node).map_or(self.limits.fan_out, |group| group.fan_out)
    }

    /// Children that one node may have right after the loss of another: 1.5 x fanOut, rounded up (law 7).
    pub fn burst(&self, node: &NodeName) -> usize {
        burst(self.fan_out(node))
    }
}

/// See [`Desired::has_installed`]; `hosts` is where the entries of the route listen.
pub(crate) fn has_installed(node: &NodeName, hosts: &[Entry<'_>], attrs: SessionAttrs, facts: &Facts) -> bool {
    facts.route.pending.is_none()
        && facts.route.slot == node.slot()
        && facts.route.conninfo.has_route(node.as_str(), hosts, attrs == SessionAttrs::Primary)
}

/// See [`Desired::burst`].
pub fn burst(fan_out: usize) -> usize {
    (fan_out * 3).div_ceil(2)
}
