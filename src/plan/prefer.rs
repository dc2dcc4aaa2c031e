//! Which upstreams a node prefers, from the spec alone: as nothing seen goes into it, a node that was moved away goes
//! back to where it was, and the failure of one upstream moves only that one's children.

use super::World;
use super::world::At;
use crate::model::{Desired, Group, GroupName};

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
    pub node: At<'a>,
}

/// What the spec alone says about the tree.
#[derive(Debug, Clone, Default)]
pub(super) struct Preferences<'a> {
    /// Of every node by its place, whether it hangs directly below the primary, whoever that is: the root group, and the
    /// relays of groups that name only the root group, as long as the primary has room for them.
    tier_one: Vec<bool>,
    /// The preferred upstreams of every node by its place, most wanted first; none of a node of the root group.
    pub lists: Vec<Vec<Preference<'a>>>,
}

/// The preferences of every node, of which nothing that is seen has a part.
pub(super) fn preferences<'a>(world: &World<'a>) -> Preferences<'a> {
    let (desired, members) = (world.desired, &world.members);
    let groups = &desired.groups;
    let feeders = groups.iter().zip(members).map(|(group, members)| &members[..group.feeders().len()]);
    let feeders: Vec<&[At<'_>]> = feeders.collect();
    let lists = vec![Vec::new(); desired.nodes.len()];
    let mut this = Preferences { tier_one: tier_one(desired, members, &feeders), lists };
    for (group, (members, own)) in groups.iter().zip(members.iter().zip(&feeders)) {
        let index = |name: &GroupName| groups.iter().position(|other| other.name == *name);
        let above: Vec<_> = group.upstreams.iter().filter_map(index).map(|index| feeders[index]).collect();
        let own = if group.relays == 0 { &[][..] } else { own };
        let direct = if group.relays == 0 { members.len() } else { own.len() };
        let (direct, below) = members.split_at(direct);
        // One of tier 1 needs them only while the primary gives it nothing, so it takes nobody's place.
        let (tier_one, direct): (Vec<_>, Vec<_>) = direct.iter().copied().partition(|node| this.is_tier_one(*node));
        this.add(world, &tier_one, &above);
        this.add(world, &direct, &above);
        let tiers: Vec<_> = std::iter::once(own).chain(above).collect();
        this.add(world, below, &tiers);
    }
    this
}

/// A node that feeds others gets the shortest path; a leaf is fed by a standby of the root group where there is one, as
/// every child costs the primary CPU for each commit.
fn tier_one(desired: &Desired, members: &[Vec<At<'_>>], feeders: &[&[At<'_>]]) -> Vec<bool> {
    let mut tier_one = vec![false; desired.nodes.len()];
    let Some((root, standbys)) = desired.groups.iter().zip(members).find(|(group, _)| group.is_root()) else {
        return tier_one;
    };
    let fed_from = |group: &Group| desired.groups.iter().any(|other| other.upstreams.contains(&group.name));
    let below_root = |group: &Group| group.upstreams == [root.name.clone()];
    let feeding = |group: &Group| group.relays > 0 || fed_from(group);
    let groups = desired.groups.iter().zip(feeders).filter(|(group, _)| below_root(group) && feeding(group));
    let relays = groups.flat_map(|(_, feeders)| feeders.iter());
    let places = root.fan_out.saturating_sub(root.members.len().saturating_sub(1));
    for node in standbys.iter().chain(relays.take(places)) {
        if let Some(is_it) = tier_one.get_mut(node.place()) {
            *is_it = true;
        }
    }
    tier_one
}

impl<'a> Preferences<'a> {
    /// Whether a node is meant to hang directly below the primary.
    pub(super) fn is_tier_one(&self, node: At<'_>) -> bool {
        self.tier_one.get(node.place()).is_some_and(|is_it| *is_it)
    }

    /// Spreads `nodes` evenly over the feeders of the first tier, same zone first, and lists the others behind it.
    fn add(&mut self, world: &World<'a>, nodes: &[At<'a>], tiers: &[&[At<'a>]]) {
        let Some((&nearest, further)) = tiers.split_first() else { return };
        let zone = |node: &At<'a>| world.zone(*node);
        let zones: Vec<_> = nearest.iter().map(zone).collect();
        let share = nodes.len().div_ceil(nearest.len().max(1));
        let mut fed = vec![0_usize; nearest.len()];
        for (turn, node) in nodes.iter().enumerate() {
            let zone = zone(node);
            let cost = |i: &usize| (fed[*i] >= share, zones[*i] != zone, fed[*i], *i);
            let Some(first) = (0..nearest.len()).min_by_key(cost) else { continue };
            let child = fed[first];
            fed[first] += 1;
            let mut list = Vec::with_capacity(PREFERENCES_MAX);
            list.push(Preference { tier: 0, node: nearest[first] });
            // The k-th child of an upstream begins its fallbacks k places on, so that the children of one upstream
            // scatter over all others when it is lost (law 7).
            let others = rotated(nearest.len() - 1, child, 0, |i| nearest[(first + 1 + i) % nearest.len()]);
            // However many there are near, some of the next tier have a place: a whole region may be down.
            list.extend(others.take(NEAREST_MAX - 1));
            for (tier, feeders) in further.iter().enumerate() {
                let others = rotated(feeders.len(), turn, tier + 1, |i| feeders[i]);
                list.extend(others.take(PREFERENCES_MAX - list.len()));
            }
            if let Some(known) = self.lists.get_mut(node.place()) {
                *known = list;
            }
        }
    }
}

fn rotated<'a>(
    count: usize,
    by: usize,
    tier: usize,
    at: impl Fn(usize) -> At<'a>,
) -> impl Iterator<Item = Preference<'a>> {
    (0..count).map(move |i| Preference { tier, node: at((i + by) % count) })
}
