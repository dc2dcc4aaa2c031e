//! Whether servers keep to the limits, and whether WAL reaches them, by what the servers do and what the spec says alone:
//! whatever the planner believes.

use std::collections::{BTreeMap, BTreeSet};

use super::server::{Process, Receiver, Server};
use super::stream::history_holds;
use super::world::{Place, World};
use crate::model::primary::Primary;
use crate::model::{ByNode, Desired, Group, Memory, NodeName, Observed};
use crate::plan::{Plan, Wait, WaitReason};

/// Children of every server.
pub(super) fn load(world: &World) -> ByNode<usize> {
    let mut load = ByNode::default();
    for (_, upstream) in streams(world) {
        *load.entry(upstream.clone()).or_default() += 1;
    }
    load
}

/// Who receives, or believes to, and from whom.
fn streams(world: &World) -> impl Iterator<Item = (&NodeName, &NodeName)> {
    let running = world.servers.iter().filter(|(_, server)| server.process != Process::Down);
    running.filter_map(|(name, server)| Some((name, server.upstream()?)))
}

/// Who is fed, with the edges between it and the primary of the newest timeline: down every stream on which something comes.
fn hops(world: &World) -> BTreeMap<&NodeName, usize> {
    let mut children: BTreeMap<&NodeName, Vec<&NodeName>> = BTreeMap::new();
    for (name, server) in world.servers.iter().filter(|(_, server)| server.is_up() && server.in_recovery) {
        if let Receiver::Streaming { from, silent_since: None, .. } = &server.receiver {
            children.entry(from).or_default().push(name);
        }
    }
    let mut hops: BTreeMap<_, _> = world.newest_primary().map(|primary| (primary, 0)).into_iter().collect();
    let mut next: Vec<_> = hops.keys().copied().collect();
    while let Some(at) = next.pop() {
        let below = hops[at] + 1;
        for child in children.remove(at).unwrap_or_default() {
            hops.insert(child, below);
            next.push(child);
        }
    }
    hops
}

/// Who takes WAL from another region, by regions.
fn crossing<'a>(world: &'a World, desired: &'a Desired) -> BTreeMap<&'a str, Vec<&'a NodeName>> {
    let mut crossing: BTreeMap<&str, Vec<&NodeName>> = BTreeMap::new();
    for (name, upstream) in streams(world).filter(|(name, _)| desired.nodes.contains_key(*name)) {
        let region = desired.region_of(name);
        if region != desired.region_of(upstream) {
            crossing.entry(region).or_default().push(name);
        }
    }
    crossing
}

/// Limits of a tree in which every server runs: there is no need to be over any.
pub(super) fn at_rest(world: &World, desired: &Desired) -> Vec<String> {
    let mut broken = Vec::new();
    for (node, children) in load(world) {
        let most = desired.fan_out(&node);
        if children > most {
            broken.push(format!("law 7: {children} children on {node}, whose fanOut is {most}"));
        }
    }
    let most = desired.limits.cross_region_streams;
    for (region, by) in crossing(world, desired).into_iter().filter(|(_, by)| by.len() > most) {
        broken.push(format!("limits: {} streams into region {region:?}, crossRegionStreams is {most}", by.len()));
    }
    broken.extend(too_deep(&hops(world), desired));
    broken
}

fn too_deep(hops: &BTreeMap<&NodeName, usize>, desired: &Desired) -> Option<String> {
    let most = desired.limits.depth;
    let (node, hops) = hops.iter().find(|(_, hops)| **hops > most)?;
    Some(format!("limits: {node} is {hops} hops below the primary, depth is {most}"))
}

/// Law 7, by libpq alone, after the loss of one: nobody is over the burst limit, and no region takes more streams than it may
/// as long as one of its relays has room. A path comes before limits: whoever finds every relay of its region full goes on to
/// another region rather than to nobody, until the next pass parks it below a sibling.
pub(super) fn after_a_loss(world: &World, desired: &Desired, lost: &NodeName) -> Vec<String> {
    let mut broken = Vec::new();
    let load = load(world);
    for (node, children) in &load {
        let most = desired.burst(node);
        if *children > most {
            broken.push(format!("law 7: {children} on {node} after the loss of {lost}, burst {most}"));
        }
    }
    let (most, hops) = (desired.limits.cross_region_streams, hops(world));
    for (region, by) in crossing(world, desired).into_iter().filter(|(_, by)| by.len() > most) {
        let room = |up: &&NodeName| load.get(*up).copied().unwrap_or(0) < desired.burst(up) && hops.contains_key(*up);
        let near = |node: &&NodeName| declared(desired, node).into_iter().filter(|up| desired.region_of(up) == region);
        let needless = by.iter().find_map(|node| Some((node, near(node).find(|up| room(up))?)));
        if let Some((node, up)) = needless {
            broken.push(format!(
                "limits: {} streams into region {region:?} after the loss of {lost}, crossRegionStreams is {most}, and {up} \
                 has room for {node}",
                by.len()
            ));
        }
    }
    broken.extend(too_deep(&hops, desired).map(|what| format!("{what}, after the loss of {lost}")));
    broken
}

/// Whom a node may be fed by as declared: the relays of its own group, and who feeds others in the groups above.
fn declared<'a>(desired: &'a Desired, node: &NodeName) -> Vec<&'a NodeName> {
    let Some(group) = desired.group_of(node) else { return Vec::new() };
    let own = if group.relays == 0 || group.feeders().contains(node) { &[] } else { group.feeders() };
    let above = group.upstreams.iter().filter_map(|name| desired.group(name)).flat_map(Group::feeders);
    own.iter().chain(above).filter(|up| *up != node).collect()
}

/// A tree with whatever is wrong with some of its servers, as an operator that sees most of them has left it.
struct Standing<'a> {
    world: &'a World,
    desired: &'a Desired,
    memory: &'a Memory,
    plan: &'a Plan,
    /// Whom the operator sees.
    visible: BTreeSet<&'a NodeName>,
    hops: BTreeMap<&'a NodeName, usize>,
    load: BTreeMap<&'a NodeName, usize>,
    inflow: BTreeMap<&'a str, Vec<&'a NodeName>>,
}

/// What is true of a tree that has had time to heal while faults stand, of the servers that are visible and reach each other:
/// nobody is over his burst limit and no region takes more streams than it may where one of those could be elsewhere within
/// the limits, nobody is too deep, and whoever can be fed from where he is wanted is. A path comes before limits: whoever has
/// nowhere else to go may be over any (`Spread::next_best`).
///
/// Nothing is asked while the primary is not one that is seen, as then nobody is moved (law 5, law 8).
pub(super) fn while_faults_stand(world: &World, desired: &Desired, observed: &Observed, plan: &Plan) -> Vec<String> {
    let known = match &plan.sight.primary {
        Primary::Known { name, .. } => Some(name),
        Primary::NotSeen | Primary::Several(_) => None,
    };
    if known.is_none() || known != world.newest_primary() {
        return Vec::new();
    }
    let standing = Standing::of(world, desired, observed, plan);
    standing.overloaded().chain(standing.flooded()).chain(standing.too_deep()).chain(standing.starving()).collect()
}

impl<'a> Standing<'a> {
    fn of(world: &'a World, desired: &'a Desired, observed: &'a Observed, plan: &'a Plan) -> Self {
        let visible: BTreeSet<_> = desired.nodes.keys().filter(|node| world.answers(node)).collect();
        let mut load: BTreeMap<&NodeName, usize> = BTreeMap::new();
        let judged = |node: &NodeName| visible.contains(node);
        let seen = |(node, up): &(&NodeName, &NodeName)| judged(node) && judged(up) && !world.are_cut(node, up);
        for (_, up) in streams(world).filter(seen) {
            *load.entry(up).or_default() += 1;
        }
        // A stream over a way that is cut is none, though its ends believe in it for as long as they wait for each other.
        let flows = |node: &NodeName| {
            let up = world.servers.get(node).and_then(Server::upstream);
            judged(node) && up.is_some_and(|up| !world.are_cut(node, up))
        };
        let mut inflow = crossing(world, desired);
        for by in inflow.values_mut() {
            by.retain(|node| flows(node));
        }
        Self { world, desired, memory: &observed.memory, plan, hops: hops(world), visible, load, inflow }
    }

    fn server(&self, node: &NodeName) -> Option<&'a Server> {
        self.world.servers.get(node).filter(|_| self.visible.contains(node))
    }

    fn load(&self, node: &NodeName) -> usize {
        self.load.get(node).copied().unwrap_or(0)
    }

    fn is_over(&self, region: &str, more: usize) -> bool {
        self.inflow.get(region).map_or(0, Vec::len) + more > self.desired.limits.cross_region_streams
    }

    /// Its route can be changed: it is seen, and its replay is not blocked.
    fn can_move(&self, node: &NodeName) -> bool {
        self.server(node).is_some_and(|server| server.in_recovery && !server.paused)
    }

    /// `up` is fed, seen, well and lets `node` in, has the WAL that it needs, and has as much as it.
    fn could_feed(&self, up: &NodeName, node: &NodeName) -> bool {
        let (Some(upstream), Some(child)) = (self.server(up), self.server(node)) else { return false };
        let well = self.memory.node(up).is_none_or(|memory| memory.failing_since.is_none());
        let open = !upstream.rejects_replication && upstream.senders.len() < upstream.senders_max;
        let segment = child.received.segment_start(child.segment_bytes);
        let has_wal = upstream.oldest <= segment && upstream.received >= segment;
        self.hops.contains_key(up)
            && self.path_is_seen(up)
            && (well && open && has_wal && history_holds(child, upstream))
            && !self.memory.is_settling(up)
            && !self.memory.is_refused(node, up)
            && !self.world.is_cut(&Place::Node(up.clone()), &Place::Node(node.clone()))
    }

    /// Who hangs below one that is not seen cannot be told to have a path.
    fn path_is_seen(&self, node: &NodeName) -> bool {
        let upstream = |at: &&'a NodeName| self.world.servers.get(*at).and_then(Server::upstream);
        let start = self.world.servers.get_key_value(node).map(|(name, _)| name);
        let mut path = std::iter::successors(start, upstream).take(self.world.servers.len());
        path.all(|at| self.visible.contains(at))
    }

    /// Somebody who could feed `node` within every limit, other than who does.
    fn elsewhere(&self, node: &'a NodeName) -> Option<&'a NodeName> {
        let now = self.world.servers.get(node).and_then(Server::upstream);
        let crosses = |up: &NodeName| self.desired.region_of(up) != self.desired.region_of(node);
        // Members of a group that stream well are held where they are as long as others did not arrive where they were sent.
        let held = |wait: &Wait| {
            wait.reason == WaitReason::NotFollowed && self.desired.group_of(&wait.node) == self.desired.group_of(node)
        };
        if self.plan.waits.iter().any(held) {
            return None;
        }
        let within = |up: &&NodeName| {
            Some(*up) != now
                && self.could_feed(up, node)
                && self.load(up) < self.desired.fan_out(up)
                && !(crosses(up) && self.is_over(self.desired.region_of(node), usize::from(!now.is_some_and(crosses))))
        };
        let declared = declared(self.desired, node).into_iter();
        declared.chain(self.siblings(node)).find(within)
    }

    /// Members of the group of `node` that may stand in as its relay.
    fn siblings(&self, node: &'a NodeName) -> impl Iterator<Item = &'a NodeName> + use<'a, '_> {
        let leaf = |group: &&Group| !group.is_root() && group.relays > 0 && !group.feeders().contains(node);
        let members = self.desired.group_of(node).filter(leaf).map(|group| &group.members[group.relays..]);
        let near = |other: &&NodeName| self.hops.get(*other).is_some_and(|hops| *hops < self.desired.limits.depth);
        let below = |other: &NodeName| self.world.servers.get(other).and_then(Server::upstream) == Some(node);
        members.unwrap_or_default().iter().filter(move |other| *other != node && !below(other)).filter(near)
    }

    fn overloaded(&self) -> impl Iterator<Item = String> {
        let over = self.load.iter().filter(|(node, children)| **children > self.desired.burst(node));
        over.filter_map(|(node, children)| {
            let mut own = streams(self.world).filter(|(child, up)| up == node && self.can_move(child));
            let (child, other) = own.find_map(|(child, _)| Some((child, self.elsewhere(child)?)))?;
            let most = self.desired.burst(node);
            Some(format!(
                "law 7: {children} on {node}, burst {most}, and {other} has a place for {child}{}",
                self.wait(child)
            ))
        })
    }

    fn flooded(&self) -> impl Iterator<Item = String> {
        let over = self.inflow.iter().filter(|(region, _)| self.is_over(region, 0));
        over.filter_map(|(region, by)| {
            let mut movable = by.iter().filter(|node| self.can_move(node));
            let (node, other) = movable.find_map(|node| Some((node, self.elsewhere(node)?)))?;
            let most = self.desired.limits.cross_region_streams;
            Some(format!(
                "limits: {} streams into region {region:?}, crossRegionStreams is {most}, and {other} has a place for {node}{}",
                by.len(),
                self.wait(node)
            ))
        })
    }

    fn too_deep(&self) -> impl Iterator<Item = String> {
        let most = self.desired.limits.depth;
        let over = self.hops.iter().filter(move |(node, hops)| **hops > most && self.can_move(node));
        over.filter_map(move |(node, hops)| {
            let other = self.elsewhere(node)?;
            Some(format!("limits: {node} is {hops} hops below the primary, depth is {most}, and {other} has a place"))
        })
    }

    /// Whoever may be where he is wanted is fed: there, or by whom his route goes on to.
    fn starving(&self) -> impl Iterator<Item = String> {
        let hungry = self.plan.wanted.iter().filter(|(node, _)| self.can_move(node) && !self.hops.contains_key(*node));
        hungry.filter_map(|(node, route)| {
            let first = route.first().filter(|first| self.could_feed(first, node))?;
            Some(format!("{node} is fed by nobody, and {first} could feed it{}", self.wait(node)))
        })
    }

    /// What the operator says of it.
    fn wait(&self, node: &NodeName) -> String {
        let wait = self.plan.waits.iter().find(|wait| wait.node == *node);
        wait.map_or_else(|| "; no wait".to_owned(), |wait| format!("; {}", wait.message))
    }
}
