//! Whether what is wanted can be: every rule, with the culprit, the value and the cure in the message.
//!
//! The API server checks what fits into the cost of CEL; a cycle or a duplicate by name does not (kubernetes-facts.md),
//! nor do sums. The operator and `waltree validate` check all of it here.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::{ford_fulkerson, tarjan_scc};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use super::{Desired, Group, GroupName};

/// One thing that cannot be as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Where in the resource: `spec.groups[1].relays`.
    pub field: String,
    /// Who, which value, and the cure.
    pub message: String,
}

impl Rejection {
    /// A rejection of one field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Everything that is wrong with what is wanted; empty when nothing is. Sums are judged only when names and order are
/// right, as they would mean nothing otherwise.
pub fn check(desired: &Desired) -> Vec<Rejection> {
    let mut found = upstreams(desired);
    found.extend(roots(desired));
    found.extend(names(desired));
    found.extend(listeners(desired));
    found.extend(members(desired));
    if found.is_empty() {
        found.extend(own_places(desired));
        found.extend(depth(desired));
        found.extend(cross_region(desired));
    }
    if found.is_empty() {
        found.extend(places(desired));
    }
    found
}

/// The rank of the feeders of each group, in the order of [`Desired::groups`]: 0 for the root group, else one more than
/// the highest rank among the groups that feed it. The other members of a group with relays are one rank lower. In the
/// tree as wanted a node is as many hops below the primary as its rank says; only the standbys of the root group, whose
/// rank is 0 because each of them may be the primary one day, are one hop below.
pub fn feeder_ranks(desired: &Desired) -> Vec<usize> {
    let mut ranks: BTreeMap<&GroupName, usize> = BTreeMap::new();
    let mut of_group = Vec::with_capacity(desired.groups.len());
    for group in &desired.groups {
        let above = group.upstreams.iter().filter_map(|name| ranks.get(name)).max();
        let rank = if group.is_root() { 0 } else { above.map_or(1, |rank| rank + 1) };
        ranks.insert(&group.name, rank);
        of_group.push(rank);
    }
    of_group
}

fn group_field(place: usize, field: &str) -> String {
    format!("spec.groups[{place}].{field}")
}

fn upstreams(desired: &Desired) -> Vec<Rejection> {
    let place_of: BTreeMap<&GroupName, usize> = desired.groups.iter().enumerate().map(|(i, g)| (&g.name, i)).collect();
    let circles = circles(desired, &place_of);
    let mut found = Vec::new();
    for (place, group) in desired.groups.iter().enumerate() {
        let mut named = BTreeSet::new();
        for (index, upstream) in group.upstreams.iter().enumerate() {
            let field = group_field(place, &format!("upstreams[{index}]"));
            let name = &group.name;
            let message = match place_of.get(upstream) {
                None => {
                    format!("{name} names {upstream}, and there is no such group: correct the name, or add the group")
                }
                Some(&there) if there == place => format!("{name} names itself: remove it"),
                Some(&there) if there > place => match circles.iter().find(|circle| circle.contains(name)) {
                    Some(circle) if circle.contains(upstream) => {
                        format!("{} feed each other in a cycle: let one of them name a group outside it", list(circle))
                    }
                    _ => format!("{name} names {upstream}, which is written below it: move {name} below {upstream}"),
                },
                Some(_) if !named.insert(upstream) => format!("{name} names {upstream} twice: remove one"),
                Some(_) => continue,
            };
            found.push(Rejection::new(field, message));
        }
    }
    found
}

/// Groups that feed each other in a ring, each ring once.
fn circles(desired: &Desired, place_of: &BTreeMap<&GroupName, usize>) -> Vec<Vec<GroupName>> {
    let mut graph = DiGraph::<(), ()>::new();
    let nodes: Vec<NodeIndex> = desired.groups.iter().map(|_| graph.add_node(())).collect();
    for (place, group) in desired.groups.iter().enumerate() {
        for there in group.upstreams.iter().filter_map(|upstream| place_of.get(upstream)) {
            graph.add_edge(nodes[place], nodes[*there], ());
        }
    }
    let rings = tarjan_scc(&graph).into_iter().filter(|ring| ring.len() > 1);
    rings
        .map(|mut ring| {
            ring.sort_unstable();
            ring.iter().map(|node| desired.groups[node.index()].name.clone()).collect()
        })
        .collect()
}

fn roots(desired: &Desired) -> Vec<Rejection> {
    let roots: Vec<&GroupName> = desired.groups.iter().filter(|g| g.is_root()).map(|g| &g.name).collect();
    match roots.len() {
        1 => Vec::new(),
        0 => vec![Rejection::new(
            "spec.groups",
            "no group is without upstreams: write the root group, of which one server is the primary, first and \
             without upstreams",
        )],
        _ => vec![Rejection::new(
            "spec.groups",
            format!(
                "{} have no upstreams, and only the root group may have none: give the others upstreams",
                list(&roots)
            ),
        )],
    }
}

fn names(desired: &Desired) -> Vec<Rejection> {
    let mut found = Vec::new();
    let mut groups = BTreeSet::new();
    let mut members = BTreeMap::new();
    for (place, group) in desired.groups.iter().enumerate() {
        if !groups.insert(&group.name) {
            let message = format!("there are two groups {}: rename one", group.name);
            found.push(Rejection::new(group_field(place, "name"), message));
        }
        for (index, member) in group.members.iter().enumerate() {
            if let Some(other) = members.insert(member, &group.name) {
                let field = group_field(place, &format!("hosts[{index}].name"));
                let message = if *other == group.name {
                    format!("{member} is there twice in {other}: rename one, or take it out")
                } else {
                    format!("{member} is a host of {other} already, and of {}: rename one", group.name)
                };
                found.push(Rejection::new(field, message));
            }
        }
    }
    found
}

fn listeners(desired: &Desired) -> Vec<Rejection> {
    let mut found = Vec::new();
    let mut known = BTreeMap::new();
    for (place, group) in desired.groups.iter().enumerate() {
        for (index, member) in group.members.iter().enumerate() {
            let Some(spec) = desired.nodes.get(member) else { continue };
            // Host names do not tell upper from lower case.
            let listener = (spec.address.to_ascii_lowercase(), spec.port);
            if let Some(other) = known.insert(listener, member).filter(|other| *other != member) {
                let field = group_field(place, &format!("hosts[{index}].address"));
                let (address, port) = (&spec.address, spec.port);
                let message =
                    format!("{member} has the address {address}:{port} of {other}: one server is one host; correct it");
                found.push(Rejection::new(field, message));
            }
        }
    }
    found
}

fn members(desired: &Desired) -> Vec<Rejection> {
    let mut found = Vec::new();
    for (place, group) in desired.groups.iter().enumerate() {
        let (name, relays, count) = (&group.name, group.relays, group.members.len());
        if count == 0 {
            found.push(Rejection::new(group_field(place, "hosts"), format!("{name} has no hosts: name at least one")));
        } else if group.is_root() && relays > 0 {
            let message = format!("{name} is the root group, whose primary feeds its other servers: leave relays out");
            found.push(Rejection::new(group_field(place, "relays"), message));
        } else if relays >= count {
            let message = format!(
                "{name}: {relays} relays of {count} hosts leave nobody to feed: lower relays to {} at most, or leave it \
                 out",
                count - 1
            );
            found.push(Rejection::new(group_field(place, "relays"), message));
        }
    }
    found
}

/// Members of a group that its own feeders serve.
fn own_children(group: &Group) -> usize {
    if group.is_root() { group.members.len().saturating_sub(1) } else { group.members.len() - group.feeders().len() }
}

/// Members of a group that feed its own other members: of the root group only the primary does, as its standbys follow
/// whoever is the primary (`target_session_attrs=primary`). Groups below are fed by every feeder.
fn working_feeders(group: &Group) -> usize {
    if group.is_root() { 1 } else { group.feeders().len() }
}

/// How the places below so many feeders of a group come about, for messages: `2 relays x 8 = 16`.
fn places_text(group: &Group, feeders: usize) -> String {
    let kind = match (group.is_root(), feeders, group.relays) {
        (true, 1, _) => "primary",
        (_, _, 0) => "hosts",
        (_, _, 1) => "relay",
        (_, _, _) => "relays",
    };
    format!("{feeders} {kind} x {} = {}", group.fan_out, feeders * group.fan_out)
}

fn own_places(desired: &Desired) -> Vec<Rejection> {
    let mut found = Vec::new();
    for (place, group) in desired.groups.iter().enumerate() {
        let (feeders, children) = (working_feeders(group), own_children(group));
        if children <= feeders * group.fan_out {
            continue;
        }
        let fan_out = children.div_ceil(feeders);
        let cure = if group.is_root() {
            format!("raise its fanOut to {fan_out}, or move servers into a group below it")
        } else {
            format!("raise its fanOut to {fan_out}, or its relays to {}", needed_relays(group))
        };
        let message = format!("{}: {} places for {children} nodes: {cure}", group.name, places_text(group, feeders));
        found.push(Rejection::new(group_field(place, "fanOut"), message));
    }
    found
}

/// The fewest relays that can feed the rest of their group: `r * fan_out >= members - r`.
fn needed_relays(group: &Group) -> usize {
    group.members.len().div_ceil(group.fan_out + 1)
}

fn depth(desired: &Desired) -> Vec<Rejection> {
    let limit = desired.limits.depth;
    let deepest = desired.groups.iter().zip(feeder_ranks(desired)).map(|(group, rank)| {
        let below = usize::from(own_children(group) > 0);
        (rank + below, &group.name)
    });
    match deepest.max_by_key(|(hops, _)| *hops) {
        Some((hops, name)) if hops > limit => vec![Rejection::new(
            "spec.limits.depth",
            format!(
                "the lowest nodes of {name} are {hops} hops below the primary, and the limit is {limit}: raise \
                 limits.depth to {hops}, or let {name} name a group further up"
            ),
        )],
        _ => Vec::new(),
    }
}

fn cross_region(desired: &Desired) -> Vec<Rejection> {
    let limit = desired.limits.cross_region_streams;
    let mut streams: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for group in &desired.groups {
        let region = group.region.as_deref().unwrap_or_default();
        let Some(upstream) = group.upstreams.first().and_then(|name| desired.group(name)) else { continue };
        if upstream.region.as_deref().unwrap_or_default() != region {
            let entry = streams.entry(region).or_default();
            let count = group.feeders().len();
            entry.0 += count;
            entry.1.push(format!("{} brings {count} from {}", group.name, upstream.name));
        }
    }
    let crowded = streams.into_iter().filter(|(_, (count, _))| *count > limit);
    crowded
        .map(|(region, (count, groups))| {
            let region = if region.is_empty() { "the region of the groups without one".into() } else { format!("region {region}") };
            let message = format!(
                "{region} takes {count} WAL streams from other regions ({}), and the limit is {limit}: let fewer relays \
                 feed the rest of the region, or raise limits.crossRegionStreams to {count}",
                groups.join(", ")
            );
            Rejection::new("spec.limits.crossRegionStreams", message)
        })
        .collect()
}

/// Whether every feeder finds a place below one of its upstream groups: a flow from the groups that want places to the
/// groups that have them. Where it falls short, the cut names the groups that want too much together.
fn places(desired: &Desired) -> Vec<Rejection> {
    let mut graph = DiGraph::<(), usize>::new();
    let (source, sink) = (graph.add_node(()), graph.add_node(()));
    let wants: Vec<NodeIndex> = desired.groups.iter().map(|_| graph.add_node(())).collect();
    let gives: Vec<NodeIndex> = desired.groups.iter().map(|_| graph.add_node(())).collect();
    let everybody = desired.nodes.len();
    for (place, group) in desired.groups.iter().enumerate() {
        graph.add_edge(gives[place], sink, free_places(group));
        if group.is_root() {
            continue;
        }
        graph.add_edge(source, wants[place], group.feeders().len());
        let above = desired.groups.iter().enumerate().filter(|(_, other)| group.upstreams.contains(&other.name));
        for (there, _) in above {
            graph.add_edge(wants[place], gives[there], everybody);
        }
    }
    let (flow, flows) = ford_fulkerson(&graph, source, sink);
    let wanted: usize = desired.groups.iter().filter(|group| !group.is_root()).map(|group| group.feeders().len()).sum();
    if flow >= wanted {
        return Vec::new();
    }
    let short = cut(&graph, &flows, source);
    let pick = |of: &[NodeIndex]| -> Vec<usize> { (0..of.len()).filter(|place| short.contains(&of[*place])).collect() };
    vec![too_few_places(desired, &pick(&wants), &pick(&gives))]
}

/// Places of a group that its own members leave free.
fn free_places(group: &Group) -> usize {
    (group.feeders().len() * group.fan_out).saturating_sub(own_children(group))
}

/// What can still be reached from `source` when the flow is as large as it can be.
fn cut(graph: &DiGraph<(), usize>, flows: &[usize], source: NodeIndex) -> BTreeSet<NodeIndex> {
    let mut reached = BTreeSet::from([source]);
    let mut open = vec![source];
    while let Some(node) = open.pop() {
        for edge in graph.edge_references() {
            let used = flows.get(edge.id().index()).copied().unwrap_or_default();
            let next = match node {
                from if from == edge.source() && used < *edge.weight() => edge.target(),
                to if to == edge.target() && used > 0 => edge.source(),
                _ => continue,
            };
            if reached.insert(next) {
                open.push(next);
            }
        }
    }
    reached
}

fn too_few_places(desired: &Desired, wants: &[usize], gives: &[usize]) -> Rejection {
    let group = |place: &usize| &desired.groups[*place];
    let demand: Vec<String> =
        wants.iter().map(|place| format!("{} of {}", group(place).feeders().len(), group(place).name)).collect();
    let supply: Vec<String> = gives
        .iter()
        .map(|place| {
            let group = group(place);
            let own = own_children(group);
            let less = if own == 0 { String::new() } else { format!(" less {own} of its own") };
            format!("{}: {}{less}", group.name, places_text(group, group.feeders().len()))
        })
        .collect();
    let wanted: usize = wants.iter().map(|place| group(place).feeders().len()).sum();
    let free: usize = gives.iter().map(|place| free_places(group(place))).sum();
    let upper: Vec<&GroupName> = gives.iter().map(|place| &group(place).name).collect();
    let feeders: usize = gives.iter().map(|place| group(place).feeders().len()).sum();
    let own: usize = gives.iter().map(|place| own_children(group(place))).sum();
    let message = format!(
        "{wanted} nodes ({}) want a place directly below {}, which has {free} ({}): raise the fanOut of {} to {}, or give \
         {} relays that feed the rest",
        demand.join(", "),
        list(&upper),
        supply.join("; "),
        list(&upper),
        (wanted + own).div_ceil(feeders.max(1)),
        list(&wants.iter().map(|place| &group(place).name).collect::<Vec<_>>()),
    );
    let first = gives.first().copied().unwrap_or_default();
    Rejection::new(group_field(first, "fanOut"), message)
}

/// `a`, `a and b`, `a, b and c`.
fn list(names: &[impl ToString]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    match names.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
