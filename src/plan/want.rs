//! The wanted tree: a route for every node, within the limits now and after the loss of any one node.

use std::collections::BTreeMap;

use super::prefer::{Preference, Preferences, preferences};
use super::standing::Standing;
use super::step::{Plan, Readiness};
use super::{World, ready};
use crate::model::route::ROUTE_ENTRIES_MAX;
use crate::model::{Facts, Management, NodeName, Route, SessionAttrs};

/// Fills in `plan.wanted`, `plan.fallbacks` and `plan.shortages`.
pub(super) fn want(world: &World<'_>, plan: &mut Plan) {
    let preferences = preferences(world.desired);
    let mut spread = Spread { world, preferences: &preferences, first: BTreeMap::new(), load: BTreeMap::new() };
    spread.choose_first();
    plan.wanted = spread.routes();
    // A server whose route is not ours to set needs no fallbacks: none is prepared for it.
    let ours =
        |node: &NodeName| world.standing(node) != Standing::Barred && world.management(node) == Management::Routes;
    for (node, route) in plan.wanted.iter().filter(|(node, _)| ours(node)) {
        let state = |upstream: &NodeName| match ready::fallback(world, node, upstream) {
            Ok(()) => Readiness::Unproven,
            Err(_) => Readiness::NotReady,
        };
        let states = route.fallbacks().iter().map(|up| (up.clone(), state(up))).collect();
        plan.fallbacks.insert(node.clone(), states);
    }
    plan.shortages = shortages(world, plan);
}

struct Spread<'a> {
    world: &'a World<'a>,
    preferences: &'a Preferences,
    /// The chosen upstream of every node.
    first: BTreeMap<&'a NodeName, NodeName>,
    /// Children of every node by that choice.
    load: BTreeMap<NodeName, usize>,
}

impl<'a> Spread<'a> {
    fn take(&mut self, node: &'a NodeName, upstream: NodeName) {
        *self.load.entry(upstream.clone()).or_default() += 1;
        self.first.insert(node, upstream);
    }

    fn load(&self, node: &NodeName) -> usize {
        self.load.get(node).copied().unwrap_or(0)
    }

    /// Nodes in the order of the groups, so that who is above is served first.
    fn nodes(&self) -> impl Iterator<Item = &'a NodeName> + use<'a> {
        let world = self.world;
        world.desired.groups.iter().flat_map(|group| &group.members).filter(move |node| !world.is_primary(node))
    }

    /// First those whose place is fixed, then whoever can have what it prefers, then the displaced, so that one failure
    /// moves nobody else.
    fn choose_first(&mut self) {
        let (tier_one, others): (Vec<_>, Vec<_>) = self.nodes().partition(|n| self.preferences.tier_one.contains(*n));
        for node in tier_one {
            if let Some(primary) = self.world.primary() {
                self.take(node, primary.clone());
            }
        }
        let mut displaced = Vec::new();
        for node in others {
            match self.order(node).first() {
                Some(best) if self.may_be_first(node, best) && self.has_place(&best.node) => {
                    self.take(node, best.node.clone());
                }
                _ => displaced.push(node),
            }
        }
        for node in displaced {
            if let Some(upstream) = self.next_best(node) {
                self.take(node, upstream);
            }
        }
    }

    fn has_place(&self, node: &NodeName) -> bool {
        self.load(node) < self.world.desired.fan_out(node)
    }

    /// A node's preferences, the present primary behind the other members of its tier (see `prefer::tier_one`).
    fn order(&self, node: &NodeName) -> Vec<&'a Preference> {
        let mut list: Vec<_> = self.preferences.lists.get(node).into_iter().flatten().collect();
        list.sort_by_key(|preference| (preference.tier, self.world.is_primary(&preference.node)));
        list
    }

    fn may_be_first(&self, node: &NodeName, preference: &Preference) -> bool {
        let upstream = &preference.node;
        let world = self.world;
        let fed_now = world.upstream(node) == Some(upstream) && world.is_rooted(node);
        let full = || world.seen(upstream).is_some_and(Facts::is_full);
        if !fed_now && (world.observed.memory.is_refused(node, upstream) || full()) {
            return false;
        }
        match self.world.standing(upstream) {
            Standing::Good => true,
            Standing::Keeps => self.has_installed(node, upstream),
            Standing::Settling => self.world.upstream(node) == Some(upstream),
            Standing::Lagging | Standing::Failed | Standing::Barred => false,
        }
    }

    fn has_installed(&self, node: &NodeName, upstream: &NodeName) -> bool {
        self.world.installed(node).is_some_and(|route| route.contains(upstream))
    }

    /// The first preference that is good and has a place, or else room for an emergency, or else the emptiest; without a
    /// good one, one that is settling: a path to the primary comes before limits and settling times.
    fn next_best(&self, node: &NodeName) -> Option<NodeName> {
        let order = self.order(node);
        let good: Vec<_> = order.iter().filter(|p| self.may_be_first(node, p)).collect();
        let place = good.iter().find(|p| self.has_place(&p.node));
        let room = || good.iter().find(|p| self.load(&p.node) < self.world.desired.burst(&p.node));
        // Rather late than over somebody's limit.
        let late = self.world.upstream(node).filter(|up| self.world.standing(up) == Standing::Lagging);
        if let Some(stays) = late.filter(|_| place.is_none() && room().is_none()) {
            return Some(stays.clone());
        }
        let emptiest = || good.iter().min_by_key(|p| self.load(&p.node));
        let settling = || order.iter().find(|p| self.world.standing(&p.node) == Standing::Settling);
        place.or_else(room).or_else(emptiest).copied().or_else(settling).map(|p| p.node.clone())
    }

    fn routes(&self) -> BTreeMap<NodeName, Route> {
        let mut after_loss = AfterLoss::default();
        let mut routes = BTreeMap::new();
        for node in self.nodes() {
            let Some(first) = self.first.get(node) else { continue };
            let route = if self.preferences.tier_one.contains(node) {
                self.tier_one_route(node, first)
            } else {
                self.route(node, first, &mut after_loss)
            };
            routes.insert(node.clone(), route);
        }
        routes
    }

    /// The primary first, then the other members of the root group that are its standbys; libpq settles on a primary
    /// only. A deposed primary is `Barred` and so in nobody's route until it is a standby again (safety.md 2.3).
    fn tier_one_route(&self, node: &NodeName, primary: &NodeName) -> Route {
        let installed = self.world.installed(node);
        let members = self.world.desired.root().map(|root| root.members.as_slice()).unwrap_or_default();
        let listed = |member: &&NodeName| {
            let had = installed.is_some_and(|route| route.contains(member));
            let is_standby = self.world.observed.last(member).is_none_or(|facts| facts.in_recovery);
            is_standby
                && *member != node
                && *member != primary
                && match self.world.standing(member) {
                    Standing::Good => true,
                    // A dead entry behind a live primary costs nothing; taking it out would cut the stream.
                    Standing::Keeps | Standing::Settling | Standing::Lagging | Standing::Failed => had,
                    Standing::Barred => false,
                }
        };
        let entries: Vec<_> = std::iter::once(primary).chain(members.iter().filter(listed)).cloned().collect();
        let attrs = if members.len() > 1 { SessionAttrs::Primary } else { SessionAttrs::Any };
        let new = Route { entries, attrs };
        installed.filter(|old| same_but_order(old, &new)).cloned().unwrap_or(new)
    }

    fn route(&self, node: &NodeName, first: &NodeName, after_loss: &mut AfterLoss) -> Route {
        let installed = self.world.installed(node);
        let new = self.ideal(node, first, after_loss, installed);
        let kept = installed.filter(|old| self.as_good(node, old, &new, after_loss)).cloned();
        let route = kept.unwrap_or(new);
        if let Some(fallback) = route.fallbacks().first() {
            after_loss.add(first, fallback);
        }
        route
    }

    fn ideal(&self, node: &NodeName, first: &NodeName, after: &AfterLoss, installed: Option<&Route>) -> Route {
        let zone = |node: &NodeName| self.world.desired.nodes.get(node).and_then(|spec| spec.zone.as_deref());
        let first_stays = installed.and_then(Route::first) == Some(first);
        let usable = |p: &&&Preference| p.node != *first && self.may_be_fallback(node, p, first_stays);
        let order = self.order(node);
        let mut rest: Vec<_> = order.iter().filter(usable).collect();
        rest.sort_by_key(|p| (p.tier, zone(&p.node).is_some() && zone(&p.node) == zone(first)));
        let mut entries = vec![first.clone()];
        if let Some(at) = rest.iter().position(|p| self.has_room_after_loss(first, &p.node, after)) {
            entries.push(rest.remove(at).node.clone());
            entries.extend(rest.iter().take(ROUTE_ENTRIES_MAX - 2).map(|p| p.node.clone()));
        }
        Route { entries, attrs: SessionAttrs::Any }
    }

    /// A fallback that fails stays in a route whose first entry stays, for as long as a failed node has to settle:
    /// each rewriting costs the child a reconnect, and libpq passes over who refuses.
    fn may_be_fallback(&self, node: &NodeName, preference: &Preference, first_stays: bool) -> bool {
        let upstream = &preference.node;
        let settle = self.world.desired.healing.settle_seconds.saturating_mul(1000);
        match self.world.standing(upstream) {
            Standing::Good => true,
            Standing::Keeps | Standing::Settling | Standing::Lagging => self.has_installed(node, upstream),
            Standing::Failed => {
                let failing = self.world.observed.memory.failing_for(upstream);
                first_stays && failing.is_some_and(|t| t < settle) && self.has_installed(node, upstream)
            }
            Standing::Barred => false,
        }
    }

    /// Law 7: after the loss of `lost`, `fallback` stays within its burst limit with one more of its children.
    fn has_room_after_loss(&self, lost: &NodeName, fallback: &NodeName, after_loss: &AfterLoss) -> bool {
        self.load(fallback) + after_loss.get(lost, fallback) < self.world.desired.burst(fallback)
    }

    /// Whether the installed route is as good as the ideal one, so that a move would gain nothing.
    fn as_good(&self, node: &NodeName, old: &Route, new: &Route, after_loss: &AfterLoss) -> bool {
        let zone = |node: &NodeName| self.world.desired.nodes.get(node).and_then(|spec| spec.zone.as_deref());
        let order = self.order(node);
        let worth = |route: &Route| -> Option<Vec<(usize, bool)>> {
            let first = route.first()?;
            let of = |entry: &NodeName| {
                let found = order.iter().find(|p| &p.node == entry)?;
                Some((found.tier, zone(entry).is_some() && zone(entry) == zone(first)))
            };
            route.fallbacks().iter().map(of).collect()
        };
        let usable = |entry: &NodeName| order.iter().any(|p| &p.node == entry && self.may_be_fallback(node, p, true));
        old.first() == new.first()
            && old.attrs == new.attrs
            && worth(old).is_some()
            && worth(old) == worth(new)
            && old.fallbacks().iter().all(usable)
            && old.fallbacks().first().is_none_or(|f| self.has_room_after_loss(&old.entries[0], f, after_loss))
    }
}

fn same_but_order(old: &Route, new: &Route) -> bool {
    let sorted = |route: &Route| {
        let mut entries = route.entries.clone();
        entries.sort();
        entries
    };
    old.attrs == new.attrs && old.first() == new.first() && sorted(old) == sorted(new)
}

/// How many children of a lost node have which first fallback.
#[derive(Default)]
struct AfterLoss(BTreeMap<NodeName, BTreeMap<NodeName, usize>>);

impl AfterLoss {
    fn get(&self, lost: &NodeName, fallback: &NodeName) -> usize {
        self.0.get(lost).and_then(|children| children.get(fallback)).copied().unwrap_or(0)
    }

    fn add(&mut self, lost: &NodeName, fallback: &NodeName) {
        *self.0.entry(lost.clone()).or_default().entry(fallback.clone()).or_default() += 1;
    }
}

/// One sentence for each group in which nodes have no fallback at all. A node right below the primary goes on to the next
/// primary only; where the root group has no other that could be it, there is no fallback to be had.
fn shortages(world: &World<'_>, plan: &Plan) -> Vec<String> {
    let root = world.desired.root().map(|root| root.members.as_slice()).unwrap_or_default();
    let spared = |node: &NodeName, route: &Route| {
        let last = root.iter().all(|member| member == node || world.is_primary(member));
        last && route.first().is_some_and(|first| world.is_primary(first))
    };
    let without = |node: &&NodeName| {
        let ours = world.management(node) == Management::Routes;
        plan.wanted.get(*node).is_some_and(|route| ours && route.fallbacks().is_empty() && !spared(node, route))
    };
    let sentence = |group: &crate::model::Group| {
        let count = group.members.iter().filter(without).count();
        let size = group.members.len();
        (count > 0).then(|| {
            format!(
                "{count} of {size} nodes of {} have no fallback within the limits: add a relay or a root standby, or \
                 raise fanOut",
                group.name
            )
        })
    };
    world.desired.groups.iter().filter_map(sentence).collect()
}
