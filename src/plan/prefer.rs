//! Which upstreams a node prefers, from the spec alone: as nothing seen goes into it, a node that was moved away goes
//! back to where it was, and the failure of one upstream moves only that one's children.

use rustc_hash::FxBuildHasher;

use crate::model::{ByNodeRef, Desired, Group, NodeName};

/// Longest list of preferences: a route and as many losses beyond it. Longer lists only cost time in large fleets.
const PREFERENCES_MAX: usize = 8;

/// Most of them from the nearest tier.
const NEAREST_MAX: usize = 5;

/// One possible upstream of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Preference<'a> {
    /// How far from what was declared: 0 for the first declared source, one more for each next.
    pub tier: usize,
    /// The upstream.
    pub node: &'a NodeName,
}

/// What the spec alone says about the tree.
#[derive(Debug, Clone, Default)]
pub(super) struct Preferences<'a> {
    /// Nodes that hang directly below the primary, whoever that is: the root group, and the relays of groups that name
    /// only the root group, as long as the primary has room for them.
    pub tier_one: ByNodeRef<'a, ()>,
    /// The preferred upstreams of every node outside the root group, most wanted first.
    pub lists: ByNodeRef<'a, Vec<Preference<'a>>>,
}

/// The preferences of every node.
pub(super) fn preferences(desired: &Desired) -> Preferences<'_> {
    let lists = ByNodeRef::with_capacity_and_hasher(desired.nodes.len(), FxBuildHasher);
    let mut this = Preferences { tier_one: tier_one(desired), lists };
    for group in &desired.groups {
        let above = feeders_above(desired, group);
        let own = if group.relays == 0 { &[][..] } else { group.feeders() };
        let direct = if group.relays == 0 { group.members.len() } else { own.len() };
        let (direct, below) = group.members.split_at(direct);
        // One of tier 1 needs them only while the primary gives it nothing, so it takes nobody's place.
        let (tier_one, direct): (Vec<_>, Vec<_>) = direct.iter().partition(|node| this.tier_one.contains_key(*node));
        this.add(desired, &tier_one, &above);
        this.add(desired, &direct, &above);
        let tiers: Vec<&[NodeName]> = std::iter::once(own).chain(above).collect();
        this.add(desired, &below.iter().collect::<Vec<_>>(), &tiers);
    }
    this
}

fn feeders_above<'a>(desired: &'a Desired, group: &Group) -> Vec<&'a [NodeName]> {
    group.upstreams.iter().filter_map(|name| desired.group(name)).map(Group::feeders).collect()
}

/// A node that feeds others gets the shortest path; a leaf is fed by a standby of the root group where there is one, as
/// every child costs the primary CPU for each commit.
fn tier_one(desired: &Desired) -> ByNodeRef<'_, ()> {
    let Some(root) = desired.root() else { return ByNodeRef::default() };
    let fed_from = |group: &Group| desired.groups.iter().any(|other| other.upstreams.contains(&group.name));
    let below_root = |group: &&Group| group.upstreams == [root.name.clone()];
    let feeding = |group: &&Group| group.relays > 0 || fed_from(group);
    let relays = desired.groups.iter().filter(below_root).filter(feeding).flat_map(Group::feeders);
    let places = root.fan_out.saturating_sub(root.members.len().saturating_sub(1));
    root.members.iter().chain(relays.take(places)).map(|node| (node.into(), ())).collect()
}

impl<'a> Preferences<'a> {
    /// Spreads `nodes` evenly over the feeders of the first tier, same zone first, and lists the others behind it.
    fn add(&mut self, desired: &'a Desired, nodes: &[&'a NodeName], tiers: &[&'a [NodeName]]) {
        let Some((&nearest, further)) = tiers.split_first() else { return };
        let zones: Vec<_> = nearest.iter().map(|feeder| desired.zone_of(feeder)).collect();
        let share = nodes.len().div_ceil(nearest.len().max(1));
        let mut fed = vec![0_usize; nearest.len()];
        for (turn, &node) in nodes.iter().enumerate() {
            let zone = desired.zone_of(node);
            let cost = |i: &usize| (fed[*i] >= share, zones[*i] != zone, fed[*i], *i);
            let Some(first) = (0..nearest.len()).min_by_key(cost) else { continue };
            let child = fed[first];
            fed[first] += 1;
            let mut list = Vec::with_capacity(PREFERENCES_MAX);
            list.push(Preference { tier: 0, node: &nearest[first] });
            // The k-th child of an upstream begins its fallbacks k places on, so that the children of one upstream
            // scatter over all others when it is lost (law 7).
            let others = rotated(nearest.len() - 1, child, 0, |i| &nearest[(first + 1 + i) % nearest.len()]);
            // However many there are near, some of the next tier have a place: a whole region may be down.
            list.extend(others.take(NEAREST_MAX - 1));
            for (tier, feeders) in further.iter().enumerate() {
                let others = rotated(feeders.len(), turn, tier + 1, |i| &feeders[i]);
                list.extend(others.take(PREFERENCES_MAX - list.len()));
            }
            self.lists.insert(node.into(), list);
        }
    }
}

fn rotated<'a>(
    count: usize,
    by: usize,
    tier: usize,
    at: impl Fn(usize) -> &'a NodeName,
) -> impl Iterator<Item = Preference<'a>> {
    (0..count).map(move |i| Preference { tier, node: at((i + by) % count) })
}
