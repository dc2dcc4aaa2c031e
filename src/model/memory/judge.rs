//! Who has failed by its own fault, who only suffers, who is well again, and who gives nothing to whom.

use std::collections::BTreeSet;

use super::{DOUBLINGS_MAX, FORGIVEN_AFTER_MILLISECONDS, Memory, NodeMemory, RELOADS_MAX, Refused};
use crate::model::observed::Look;
use crate::model::primary::Primary;
use crate::model::rooted::Rooted;
use crate::model::tree::{Edge, entries, primary_only};
use crate::model::{Addresses, ByNode, Desired, Group, Healing, Millis, NodeName, NodeView, Sight, WhyUnseen, near};

/// How long after an order a node may still be on its way to its new upstream, in milliseconds: `tcp_user_timeout` and
/// one retry.
pub(super) const REFUSED_AFTER_MILLISECONDS: u64 = 3_000;

/// A node that fails again within so many settling times after it got its children back has to stay well for twice as long
/// (design.md section 7).
const FAILS_AGAIN_WITHIN_SETTLES: u64 = 10;

impl Memory {
    /// A person has looked at these nodes: what they failed, whom they refused and who refused them, and who wrote over our
    /// routes there, is forgotten. What is wrong with them now stays wrong.
    pub(super) fn forgive(&mut self, acknowledged: &BTreeSet<NodeName>) {
        if acknowledged.is_empty() {
            return;
        }
        for (name, node) in &mut self.nodes {
            if acknowledged.contains(name) {
                node.settling_until = None;
                node.failures = 0;
                node.restarts.clear();
                node.refused.clear();
                node.strayed = None;
                node.reloads = 0;
                node.overwritten = 0;
            }
            node.refused.retain(|by, _| !acknowledged.contains(by));
        }
    }

    /// Somebody who has watched it says that this node is well again and has to stay so.
    pub fn settles(&mut self, node: &NodeName, now: Millis, healing: &Healing) {
        let until = now.plus(healing.settle_seconds.saturating_mul(1000));
        self.nodes.entry(node.clone()).or_default().settling_until = Some(until);
    }

    /// Who is no good as an upstream, since when, and who is well again; and what that is judged by.
    pub(super) fn judge(&mut self, desired: &Desired, addresses: &Addresses<'_>, nodes: &ByNode<NodeView>) -> Sight {
        let sight = Sight::at(desired, addresses, Look { nodes, memory: self });
        let vouched_for = self.vouched_for(desired, nodes, &sight);
        let settle = desired.healing.settle_seconds.saturating_mul(1000);
        let bound = desired.healing.lag_seconds.saturating_mul(1000);
        let still: Vec<Option<Millis>> = self.nodes.values().map(|node| self.still_since(node)).collect();
        for (place, (name, node)) in self.nodes.iter_mut().enumerate() {
            // The verdict may have taken the patience already; what counts is since when it is so.
            let since = node.unseen_since.or(still.get(place).copied().flatten()).unwrap_or(self.at);
            let (rooted, unrooted) = match near(&sight.rooted, place, name) {
                Some(Rooted::Yes { hops, .. }) => {
                    node.hops = Some(*hops);
                    (true, false)
                }
                Some(Rooted::No(_)) => (false, true),
                Some(Rooted::Unknown(_)) | None => (false, false),
            };
            node.rooted_since = node.rooted_since.filter(|_| rooted).or(rooted.then_some(self.at));
            node.note_upstream(near(&sight.edges, place, name));
            node.unrooted_since = node.unrooted_since.filter(|_| unrooted).or(unrooted.then_some(since));
            let paused = near(nodes, place, name).and_then(NodeView::seen).is_some_and(|facts| facts.replay_paused);
            node.note_late(sight.shows_late(name).filter(|_| !paused), bound, self.at);
        }
        let doubted = self.doubted(&still, &sight);
        let well_since: ByNode<Millis> =
            self.nodes.iter().filter_map(|(name, node)| Some((name.clone(), node.rooted_since?))).collect();
        self.note_refusals(desired, addresses, nodes, &sight, &well_since);
        self.note_arrivals(nodes, &sight, &well_since);
        let failing = self.failing();
        for (place, (name, node)) in self.nodes.iter_mut().enumerate() {
            let verdict = near(&sight.rooted, place, name);
            // What it suffered from others before is not held against it.
            let since =
                node.unseen_since.or(still.get(place).copied().flatten().filter(|_| !node.suffers)).unwrap_or(self.at);
            // Nor what was not seen because of us.
            let since = since.max(self.blind_at.unwrap_or_default());
            if self.blind_since.is_some() && node.unseen_since.is_some() {
                node.failing_since = None;
                continue;
            }
            let by_another = || sight.culprit(name) != name || doubted.contains(name);
            let suffers = matches!(verdict, Some(Rooted::No(_))) && by_another();
            node.suffers = suffers || (node.suffers && node.unrooted_since.is_some());
            let well = match verdict {
                Some(Rooted::Yes { lag_milliseconds, .. }) => {
                    let alike = || sight.siblings_lag_too(desired, name, |other| !failing.contains(other));
                    node.keeps_up(*lag_milliseconds, bound, || sight.lags_by_itself(name), alike)
                }
                // It says nothing for or against itself.
                Some(Rooted::No(_)) if suffers => continue,
                Some(Rooted::No(_)) => false,
                // We cannot see it, and that is all that can be said against it: the trouble is ours (law 8).
                Some(Rooted::Unknown(_)) | None => vouched_for.contains(name) || node.unseen_since.is_none(),
            };
            match (well, node.failing_since) {
                (true, Some(since)) => {
                    if self.at.since(since) >= desired.healing.suspect_after_milliseconds {
                        node.recover(settle, since, self.at);
                    }
                    node.failing_since = None;
                }
                (false, None) => node.failing_since = Some(since),
                (true, None) | (false, Some(_)) => {}
            }
        }
        sight
    }

    /// Whether a node has been no good as an upstream for the patience, of which nothing counts while its replay was kept: it
    /// could begin no stream then (postgres-facts.md 1.3), and does so in a moment.
    pub fn fails_ungated(&self, node: &NodeName, patience_milliseconds: u64) -> bool {
        let ungated_for = self.node(node).and_then(|memory| memory.ungated_since).map(|since| self.at.since(since));
        self.failing_for(node).min(ungated_for).is_some_and(|t| t >= patience_milliseconds)
    }

    /// Who is no good as an upstream.
    fn failing(&self) -> BTreeSet<NodeName> {
        let failing = self.nodes.iter().filter(|(_, node)| node.failing_since.is_some());
        failing.map(|(name, _)| name.clone()).collect()
    }

    /// Nodes that stand still since a time from which on their upstream has not answered either: its deadline may not be
    /// over yet, and then it is the one that hangs.
    fn doubted(&self, still: &[Option<Millis>], sight: &Sight) -> BTreeSet<NodeName> {
        let answered = |upstream: &NodeName| self.nodes.get(upstream).map_or(Millis(0), |node| node.asked_at);
        let doubted = |node, since| sight.upstream(node).is_some_and(|up| answered(up) <= since);
        let still =
            self.nodes.keys().zip(still).filter(|(node, since)| since.is_some_and(|since| doubted(node, since)));
        still.map(|(node, _)| node.clone()).collect()
    }

    /// Who is no worse for what we do not see of it: its children are fed, or it is only our credentials that keep us from
    /// seeing it, and no child of it is seen to go without.
    fn vouched_for(&self, desired: &Desired, nodes: &ByNode<NodeView>, sight: &Sight) -> BTreeSet<NodeName> {
        // Two witnesses: one that does not answer and whose children have got nothing for half the patience is not fed by
        // anybody's fault but its own, so the other half is not waited for.
        let half = desired.healing.suspect_after_milliseconds / 2;
        // As nearly always: whoever can be judged by itself needs nobody who vouches for it.
        if sight.rooted.values().all(|verdict| !matches!(verdict, Rooted::Unknown(_))) {
            return BTreeSet::new();
        }
        let fed = |child: &NodeName| sight.is_rooted(child) && self.stands_still(child, half).is_none();
        let children = sight.edges.iter().filter_map(|(child, edge)| Some((child, edge.upstream()?)));
        let (carrying, others): (Vec<_>, Vec<_>) = children.partition(|(child, _)| fed(child));
        let is_seen = |child: &NodeName| nodes.get(child).is_some_and(|view| view.seen().is_some());
        let starving: BTreeSet<_> = others.into_iter().filter(|(child, _)| is_seen(child)).map(|(_, up)| up).collect();
        let ours = [WhyUnseen::CredentialsRejected, WhyUnseen::CredentialsMissing];
        let lives = |view: &NodeView| view.unseen.as_ref().is_some_and(|unseen| ours.contains(&unseen.why));
        let living = nodes.iter().filter(|(name, view)| lives(view) && !starving.contains(name)).map(|(name, _)| name);
        carrying.into_iter().map(|(_, up)| up).chain(living).cloned().collect()
    }

    /// Whom a node gets nothing from although it is pointed to it and it is well. Each time in a row the node is kept from
    /// it twice as long, beginning with the time that a failed node has to settle.
    fn note_refusals(
        &mut self,
        desired: &Desired,
        addresses: &Addresses<'_>,
        nodes: &ByNode<NodeView>,
        sight: &Sight,
        well_since: &ByNode<Millis>,
    ) {
        let (at, patience) = (self.at, desired.healing.suspect_after_milliseconds);
        let settle = desired.healing.settle_seconds.saturating_mul(1000).max(REFUSED_AFTER_MILLISECONDS);
        let seen = |name: &NodeName| nodes.get(name).and_then(NodeView::seen);
        let is_root = |name: &NodeName| desired.group_of(name).is_some_and(Group::is_root);
        for (place, (name, node)) in self.nodes.iter_mut().enumerate() {
            let facts = near(nodes, place, name).and_then(NodeView::seen);
            let Some(facts) = facts.filter(|facts| facts.in_recovery) else { continue };
            node.refused.retain(|_, refused| at.since(refused.until) < FORGIVEN_AFTER_MILLISECONDS);
            let installed = entries(addresses, &facts.route.conninfo);
            let from = facts.receiver.as_ref().and_then(|r| addresses.node_at(&r.host, r.port));
            if from.is_some_and(|from| installed.contains(from)) {
                node.reloads = 0;
            }
            node.upstream.take_if(|(known, _)| Some(&*known) != from);
            if let (None, Some(from)) = (&node.upstream, from) {
                node.upstream = Some((from.clone(), facts.asked_at));
            }
            // Of a list that settles on a primary only, it is the primary's turn. Members of the root group have no other.
            let first = match &sight.primary {
                _ if !primary_only(&facts.route.conninfo) => installed.first(),
                Primary::Known { name: primary, .. } if !is_root(name) => Some(primary),
                _ => None,
            };
            let Some(first) = first else { continue };
            if from == Some(first) && sight.is_rooted(name) {
                node.ordered.iter_mut().for_each(|order| order.followed = true);
                // Forgiven when it has fed the node for a while: one that only lets in and gives nothing seems well at first.
                let fed_for = node.upstream.as_ref().map_or(0, |(_, since)| at.since(*since));
                node.refused.retain(|by, _| by != first || fed_for < settle);
                continue;
            }
            // While replay is blocked, the disk full, or its own WAL not read to the end, it follows nobody, whoever it is.
            if facts.disk_full
                || facts.replay_blocked_by().is_some()
                || node.reads_its_own(facts)
                || (seen(first).is_some() && !sight.is_rooted(first))
            {
                continue;
            }
            if seen(first).is_none() {
                // libpq stays at one that refuses the login. One that is down it passes by.
                if from.is_none() && node.reloads >= RELOADS_MAX {
                    node.refuse(first, settle, at);
                }
                continue;
            }
            // It has to have been there for so long, and the upstream well for so long: what it lacks may be the doing of
            // the last upstream, or of who was above this one.
            let arrived = node.upstream.as_ref().map(|(_, since)| *since);
            let since = [node.unrooted_since, arrived, well_since.get(first).copied()];
            let dry = since.into_iter().collect::<Option<Vec<_>>>().and_then(|since| since.into_iter().max());
            let dry = dry.is_some_and(|since| at.since(since) >= patience);
            if if from == Some(first) { dry } else { node.gets_nothing(first, from.is_some(), facts.asked_at) } {
                node.refuse(first, settle, at);
            }
        }
    }
}

impl NodeMemory {
    /// Whom it has come to receive from, and whom it has left for that, whatever was seen on the way.
    fn note_upstream(&mut self, edge: Option<&Edge>) {
        let upstream = edge.filter(|edge| !matches!(edge, Edge::Denied(_))).and_then(Edge::upstream);
        let other = upstream.filter(|upstream| self.fed_by.as_ref() != Some(upstream));
        self.left = other.and_then(|upstream| self.fed_by.replace(upstream.clone()));
    }

    /// Whether it is well by how far it is behind: within the bound, or because of who is above it, or like its siblings.
    fn keeps_up(
        &self,
        lag_milliseconds: u64,
        bound: u64,
        by_itself: impl FnOnce() -> bool,
        alike: impl FnOnce() -> bool,
    ) -> bool {
        // Once it counts as lagging it has to catch up to half the bound, whatever its siblings do.
        let lagged = self.failing_since.is_some();
        let most = if lagged { bound / 2 } else { bound };
        lag_milliseconds <= most || !by_itself() || (!lagged && alike())
    }

    /// Whether its readers see data older than the bound, the time left out for which sessions hold up replay now. Nothing is
    /// known of one that is away, so one that is started again has the patience anew.
    fn note_late(&mut self, lag_milliseconds: Option<u64>, bound: u64, now: Millis) {
        let held_up_for = self.conflict.map_or(0, |(_, since)| now.since(since));
        // Once it counts as lagging it has to catch up to half the bound.
        let most = if self.late_since.is_some() { bound / 2 } else { bound };
        let late = lag_milliseconds.is_some_and(|lag| lag.saturating_sub(held_up_for) > most);
        self.late_since = self.late_since.filter(|_| late).or(late.then_some(now));
    }

    /// Whether it was pointed to `first` and did not arrive there, or streams from nobody whatever is reloaded.
    fn gets_nothing(&self, first: &NodeName, streams: bool, asked_at: Millis) -> bool {
        let not_followed = self.ordered.as_ref().is_some_and(|order| {
            let late = asked_at.since(order.at) >= REFUSED_AFTER_MILLISECONDS;
            order.seen_installed && !order.followed && order.route.first() == Some(first) && late
        });
        not_followed || (!streams && self.reloads >= RELOADS_MAX)
    }

    fn refuse(&mut self, by: &NodeName, settle_milliseconds: u64, now: Millis) {
        let known = self.refused.get(by);
        if known.is_some_and(|refused| refused.until > now) {
            return;
        }
        let times = known.map_or(1, |refused| refused.times.saturating_add(1));
        let pause = settle_milliseconds.saturating_mul(1 << times.saturating_sub(1).min(DOUBLINGS_MAX));
        self.refused.insert(by.clone(), Refused { times, until: now.plus(pause) });
        self.reloads = 0;
    }

    /// It is well again after it failed at `failed_at`, and has to stay so: twice as long where it failed again soon after it
    /// had got its children back. While it waits for them it can show nothing, however long that is.
    fn recover(&mut self, settle_milliseconds: u64, failed_at: Millis, now: Millis) {
        let stood_for = self.settling_until.map(|until| failed_at.since(until));
        let soon = stood_for.is_some_and(|t| t < settle_milliseconds.saturating_mul(FAILS_AGAIN_WITHIN_SETTLES));
        self.failures = if soon { self.failures.saturating_add(1) } else { 1 };
        let pause = settle_milliseconds.saturating_mul(1 << self.failures.saturating_sub(1).min(DOUBLINGS_MAX));
        self.settling_until = Some(now.plus(pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE_MILLISECONDS: u64 = 60_000;

    /// How long a node waits that fails so many times, each time so long after it has got its children back.
    fn waits(times: usize, after_milliseconds: u64) -> Vec<u64> {
        let (mut node, mut now) = (NodeMemory::default(), Millis(1));
        let mut waits = || {
            let failed_at = node.settling_until.map_or(now, |until| until.plus(after_milliseconds));
            now = failed_at.plus(5_000);
            node.recover(SETTLE_MILLISECONDS, failed_at, now);
            node.settling_until.unwrap().since(now) / SETTLE_MILLISECONDS
        };
        (0..times).map(|_| waits()).collect()
    }

    #[test]
    fn a_node_that_fails_whenever_it_has_its_children_back_waits_twice_as_long_each_time_up_to_a_bound() {
        assert_eq!(waits(9, 0), [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(waits(3, SETTLE_MILLISECONDS * FAILS_AGAIN_WITHIN_SETTLES - 1), [1, 2, 4]);
        assert_eq!(waits(3, SETTLE_MILLISECONDS * FAILS_AGAIN_WITHIN_SETTLES), [1, 1, 1]);
    }
}
