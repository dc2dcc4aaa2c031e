//! What comes after the first entry of a route: where a node goes on by itself when its upstream is lost.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use super::spread::{Spread, feeds_by_spec, is_stand_in};
use super::standing::Standing;
use super::world::{At, RouteAt};
use crate::model::route::ROUTE_ENTRIES_MAX;
use crate::model::{SessionAttrs, burst};

/// The route of every node that has an upstream, in the order of the groups. Relays choose first: many hang by each, and one
/// below another group's relays has no other places than those, where a leaf may have some above.
pub(super) fn routes<'a>(spread: &Spread<'a>) -> Vec<(At<'a>, RouteAt<'a>)> {
    let mut after_loss = AfterLoss::default();
    let all = spread.nodes.iter().copied().enumerate();
    let (relays, leaves): (Vec<_>, Vec<_>) = all.partition(|(_, node)| feeds_by_spec(spread.world, *node));
    let mut routes = Vec::with_capacity(spread.nodes.len());
    for (place, node) in relays.into_iter().chain(leaves) {
        let Some(first) = spread.first(node) else { continue };
        let route = if spread.is_tier_one(node) {
            spread.tier_one_route(node, first)
        } else {
            spread.route(node, first, &mut after_loss)
        };
        routes.push((place, (node, route)));
    }
    routes.sort_unstable_by_key(|(place, _)| *place);
    routes.into_iter().map(|(_, route)| route).collect()
}

impl<'a> Spread<'a> {
    /// The primary first, then the other members of the root group that are its standbys; libpq settles on a primary
    /// only. A deposed primary is `Barred` and so in nobody's route until it is a standby again (safety.md 2.3).
    fn tier_one_route(&self, node: At<'a>, primary: At<'a>) -> RouteAt<'a> {
        let installed = self.world.installed(node);
        let members = self.root();
        let listed = |member: &At<'_>| {
            let had = installed.is_some_and(|route| route.contains(*member));
            let is_standby = self.world.observed.last(member.name).is_none_or(|facts| facts.in_recovery);
            is_standby
                && *member != node
                && *member != primary
                && match self.world.standing(*member) {
                    Standing::Good => true,
                    // A dead entry behind a live primary costs nothing; taking it out would cut the stream.
                    Standing::Keeps | Standing::Settling | Standing::Lagging | Standing::Failed => had,
                    Standing::Barred => false,
                }
        };
        let entries = std::iter::once(primary).chain(members.iter().copied().filter(listed)).collect();
        let attrs = if members.len() > 1 { SessionAttrs::Primary } else { SessionAttrs::Any };
        let new = RouteAt { entries, attrs };
        installed.filter(|old| same_but_order(old, &new)).cloned().unwrap_or(new)
    }

    fn route(&self, node: At<'a>, first: At<'a>, after_loss: &mut AfterLoss) -> RouteAt<'a> {
        let installed = self.world.installed(node);
        let candidates = self.candidates(node, first);
        let new = self.ideal(node, first, &candidates, after_loss);
        let kept = installed.filter(|old| self.as_good(node, old, &new, &candidates, after_loss)).cloned();
        let route = kept.unwrap_or(new);
        if let Some(fallback) = route.fallbacks().first() {
            after_loss.add(first, *fallback);
        }
        route
    }

    fn ideal(&self, node: At<'a>, first: At<'a>, candidates: &[Candidate<'a>], after: &AfterLoss) -> RouteAt<'a> {
        let first_stays = self.world.installed(node).and_then(RouteAt::first) == Some(first);
        let usable = |up: &At<'_>| *up != first && self.may_be_fallback(node, *up, first_stays);
        let mut rest: Vec<_> = candidates.iter().map(|candidate| candidate.node).filter(usable).collect();
        let mut entries = Vec::with_capacity(ROUTE_ENTRIES_MAX);
        entries.push(first);
        if let Some(at) = rest.iter().position(|up| self.has_room_after_loss(first, *up, after)) {
            entries.push(rest.remove(at));
            entries.extend(rest.into_iter().take(ROUTE_ENTRIES_MAX - 2));
        }
        RouteAt { entries, attrs: SessionAttrs::Any }
    }

    /// Whom a node can go on to, the best first: its preferences, and where a sibling feeds it, also the other siblings
    /// that stand in as relays.
    fn candidates(&self, node: At<'_>, first: At<'_>) -> Vec<Candidate<'a>> {
        let siblings = if is_stand_in(self.world, node, first) { self.standing_in(node) } else { Vec::new() };
        let declared = self.order(node).iter().map(|preference| (preference.tier, preference.node));
        let zone = self.world.zone(first);
        let candidate = |(tier, node)| {
            let same_zone = zone.is_some() && self.world.zone(node) == zone;
            Candidate { cost: (tier, same_zone), node }
        };
        let all = siblings.into_iter().map(|sibling| (0, sibling)).chain(declared);
        let mut candidates: Vec<_> = all.map(candidate).collect();
        candidates.sort_by_key(|candidate| candidate.cost);
        candidates
    }

    /// A fallback that fails stays in a route whose first entry stays, for as long as a failed node has to settle:
    /// each rewriting costs the child a reconnect, and libpq passes over who refuses.
    fn may_be_fallback(&self, node: At<'_>, upstream: At<'_>, first_stays: bool) -> bool {
        let settle = self.world.desired.healing.settle_seconds.saturating_mul(1000);
        match self.world.standing(upstream) {
            _ if self.world.observed.memory.is_taken(node.name, upstream.name) => false,
            Standing::Good => true,
            Standing::Keeps | Standing::Settling | Standing::Lagging => self.names(node, upstream),
            Standing::Failed => {
                let failing = self.world.failing_for(upstream);
                first_stays && failing.is_some_and(|t| t < settle) && self.names(node, upstream)
            }
            Standing::Barred => false,
        }
    }

    /// Law 7: after the loss of `lost`, `fallback` stays within its burst limit with one more of its children.
    fn has_room_after_loss(&self, lost: At<'_>, fallback: At<'_>, after_loss: &AfterLoss) -> bool {
        self.load(fallback) + after_loss.get(lost, fallback) < burst(self.world.fan_out(fallback))
    }

    /// Whether the installed route is as good as the ideal one, so that a move would gain nothing.
    fn as_good(
        &self,
        node: At<'_>,
        old: &RouteAt<'_>,
        new: &RouteAt<'_>,
        candidates: &[Candidate<'_>],
        after_loss: &AfterLoss,
    ) -> bool {
        let Some(first) = old.first().filter(|first| Some(*first) == new.first()) else { return false };
        let cost = |entry: &At<'_>| Some(candidates.iter().find(|candidate| candidate.node == *entry)?.cost);
        let usable = |entry: &At<'_>| cost(entry).is_some() && self.may_be_fallback(node, *entry, true);
        old.attrs == new.attrs
            && old.fallbacks().iter().map(cost).eq(new.fallbacks().iter().map(cost))
            && old.fallbacks().iter().all(usable)
            && old.fallbacks().first().is_none_or(|f| self.has_room_after_loss(first, *f, after_loss))
    }
}

/// Whom a node can go on to.
struct Candidate<'a> {
    /// How far it is from what was declared, and whether it is in the first entry's zone, so that both may be lost at once.
    cost: (usize, bool),
    node: At<'a>,
}

fn same_but_order(old: &RouteAt<'_>, new: &RouteAt<'_>) -> bool {
    let sorted = |route: &RouteAt<'_>| {
        let mut places: Vec<_> = route.entries.iter().map(|entry| (entry.place(), entry.name.clone())).collect();
        places.sort();
        places
    };
    old.attrs == new.attrs && old.first() == new.first() && sorted(old) == sorted(new)
}

/// How many children of a lost node have which first fallback, by the places of the two.
#[derive(Default)]
struct AfterLoss(IndexMap<(usize, usize), usize, FxBuildHasher>);

impl AfterLoss {
    fn get(&self, lost: At<'_>, fallback: At<'_>) -> usize {
        self.0.get(&(lost.place(), fallback.place())).copied().unwrap_or(0)
    }

    fn add(&mut self, lost: At<'_>, fallback: At<'_>) {
        *self.0.entry((lost.place(), fallback.place())).or_default() += 1;
    }
}
