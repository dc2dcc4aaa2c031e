//! What is remembered between two passes: timers and positions.

mod judge;
mod kept;
mod leavers;
mod namesakes;
mod orders;
mod still;
mod twice;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub use kept::{Kept, KeptSlot};
pub use leavers::Leaver;
pub use namesakes::Namesake;

use super::primary::{Primary, true_primary};
use super::unseen::blind;
use super::{
    ByNode, Conninfo, Desired, Facts, Lsn, Millis, NodeName, NodeView, Route, Sight, Timeline, WhyUnseen, near,
};

/// Samples of the primary's position that are kept at least: at one a second, two minutes, and always twice the patience, so
/// that standing still can be told. A node that lags more keeps the time it reached last, so nothing is lost but the fineness.
const SAMPLES_MAX: usize = 128;

/// An operator whose last pass is longer ago than so was stopped itself, in milliseconds: twice the longest tick, and the
/// deadline of an answer.
const SLEPT_MILLISECONDS: u64 = 3_000;

/// How long a step that failed once waits, in milliseconds.
const TRY_AGAIN_MILLISECONDS: u64 = 150;

/// A walreceiver whose attempt to connect ended is there again within this time, in milliseconds: twice the default of
/// `wal_retrieve_retry_interval`.
const CONNECTS_AGAIN_WITHIN_MILLISECONDS: u64 = 10_000;

/// A standby whose replay has not moved for so long, in milliseconds, is at the end of what it has, seen there or not: with an
/// archive that is slow to say no it is hardly ever seen to wait.
const READS_FOR_MILLISECONDS: u64 = 30_000;

/// How often a time is doubled at most.
const DOUBLINGS_MAX: u32 = 6;

/// After this time in which nobody touched a route, somebody else's earlier writes are forgiven, in milliseconds.
const FORGIVEN_AFTER_MILLISECONDS: u64 = 600_000;

/// So many reloads without a stream show that it is not a lost reload (postgres-facts.md: none of 120 stalled).
pub const RELOADS_MAX: u32 = 5;

/// What is remembered of one topology. It is lost with the operator; every law holds without it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// When it was last brought up to date.
    pub at: Millis,
    /// What was seen then: the plan of that look goes by the same.
    pub sight: Option<Arc<Sight>>,
    /// The cluster whose data the topology holds.
    pub system_identifier: Option<u64>,
    /// The node last seen as the true primary.
    pub primary: Option<NodeName>,
    /// The highest timeline on which a primary was seen: a primary of a lower one is a deposed one.
    pub timeline: Option<Timeline>,
    /// Positions of the primary, oldest first.
    pub samples: VecDeque<Sample>,
    /// When a heartbeat was last written.
    pub heartbeat_at: Option<Millis>,
    /// When the operator was last blind: most servers, in every zone, told it nothing.
    pub blind_at: Option<Millis>,
    /// Since when it is; `None` when it is not.
    pub blind_since: Option<Millis>,
    /// Per node.
    pub nodes: ByNode<NodeMemory>,
    /// Steps that failed last time: on which server, for whom, of which kind.
    pub failed_steps: BTreeMap<(NodeName, NodeName, &'static str), FailedStep>,
    /// Walsenders that use a node's name and are not the node's: whose, on which server, with which process id.
    pub namesakes: BTreeMap<(NodeName, NodeName, i32), Namesake>,
    /// Nodes that are one server: pairs, the smaller name first, with the time since when they are seen to differ.
    pub twice: BTreeMap<(NodeName, NodeName), Option<Millis>>,
    /// Nodes that were taken out of the spec and whose slots may still be somewhere.
    pub leaving: BTreeMap<NodeName, Leaver>,
    /// Servers that were taken out of the spec, with the nodes of ours that have a slot there.
    pub left_on: BTreeMap<NodeName, BTreeSet<NodeName>>,
    /// Since when the topology is being deleted; `None` when it is not.
    pub deleting_since: Option<Millis>,
}

/// A step that failed last time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FailedStep {
    /// How often in a row.
    pub times: u32,
    /// When last.
    pub at: Millis,
    /// What the server said then, without any secret.
    pub error: String,
}

/// Where the primary was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it was asked: who has reached `position` has everything that was committed by then.
    pub at: Millis,
    /// On which timeline.
    pub timeline: Option<Timeline>,
    /// Its flushed WAL.
    pub position: Lsn,
}

/// What is remembered of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct NodeMemory {
    /// Since when it is not seen.
    pub unseen_since: Option<Millis>,
    /// Its position when last seen.
    pub position: Lsn,
    /// When that position was first seen.
    pub advanced_at: Millis,
    /// When it was last asked and answered.
    pub asked_at: Millis,
    /// The time of the newest [`Sample`] that this node has reached: its data is not older than that.
    pub reached: Option<Millis>,
    /// The same of what its readers see: by what is replayed.
    pub shown: Option<Millis>,
    /// Since when its readers see data that is older than `healing.lagSeconds`, where that arises at it or on its way from
    /// its upstream, and not by replay that is paused or by sessions that hold it up: those have a name of their own.
    pub late_since: Option<Millis>,
    /// Since when it has a path to the primary.
    pub rooted_since: Option<Millis>,
    /// Since when it has no path to the primary, whoever's fault that is.
    pub unrooted_since: Option<Millis>,
    /// It has no path because of who is above it.
    pub suffers: bool,
    /// Since when it has no walreceiver.
    pub alone_since: Option<Millis>,
    /// Since when its walreceiver is seen to connect at every look, without an answer.
    pub connecting_since: Option<Millis>,
    /// When it was seen so last.
    pub connecting_at: Millis,
    /// The process id of its walreceiver, and when that was first seen.
    pub receiver: Option<(i32, Millis)>,
    /// Since when that process is seen to be stopping.
    pub stopping_since: Option<Millis>,
    /// Where a recovery conflict holds up its replay, and since when.
    pub conflict: Option<(Lsn, Millis)>,
    /// Up to where it has replayed.
    pub replay: Lsn,
    /// When that was first seen.
    pub replayed_at: Millis,
    /// Up to where it had replayed when it was last seen to have read all that it has itself.
    pub read_its_own: Option<Lsn>,
    /// Since when nothing is seen to keep its replay.
    pub ungated_since: Option<Millis>,
    /// How many hops it was from the primary when it last had a path.
    pub hops: Option<usize>,
    /// Since when it is no good as an upstream, by its own fault.
    pub failing_since: Option<Millis>,
    /// Until when it has to stay well before it gets children back.
    pub settling_until: Option<Millis>,
    /// How often it failed, each time within ten settling times after it had got its children back.
    pub failures: u32,
    /// When its postmaster was started, by its own wall clock ([`Facts::started`]).
    pub started: Option<u64>,
    /// When it was seen to be started anew within the last ten minutes, the newest last.
    pub restarts: VecDeque<Millis>,
    /// The last route ordered for it.
    pub ordered: Option<Ordered>,
    /// How often somebody else has put another route in place of ours.
    pub overwritten: u32,
    /// When that was seen last.
    pub overwritten_at: Millis,
    /// When it was last told to reload, be it with a new route.
    pub reloaded_at: Option<Millis>,
    /// How often it was told to reload again since it was last seen to receive from its route.
    pub reloads: u32,
    /// Whom it is seen to receive from, as it tells itself, and since when.
    pub upstream: Option<(NodeName, Millis)>,
    /// Whom it was last seen to receive from by both ends, or at least not against the other's word.
    pub fed_by: Option<NodeName>,
    /// Whom it received from before that, as long as it is the newest look that saw it elsewhere.
    pub left: Option<NodeName>,
    /// When its idle slot on which server was moved forward last.
    pub slots_advanced: BTreeMap<NodeName, Millis>,
    /// Where a slot of it was given up because it kept too much WAL, since the node was last away.
    pub slots_given_up: BTreeSet<NodeName>,
    /// When its disk was tried last: whether it takes a segment of WAL.
    pub disk_tried_at: Option<Millis>,
    /// Upstreams that give it nothing although they are well.
    pub refused: BTreeMap<NodeName, Refused>,
    /// Where it did not arrive although it streamed well before its last order there, and when that was seen.
    pub strayed: Option<(NodeName, Millis)>,
    /// Somebody whom we sent here from elsewhere has arrived since it was started.
    pub took_in: bool,
    /// Somebody whom we sent here has connected since it was started, be it anew.
    pub took_back: bool,
    /// Its routes are ours to set.
    pub routed: bool,
    /// The slots on it, and which of them somebody else removed.
    pub kept: Kept,
}

/// An upstream from which a node gets nothing although it is well: pg_hba.conf, no free walsender, WAL gone, a cut
/// between the two. libpq does not leave the first three by itself (safety.md X3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// How often in a row.
    pub times: u32,
    /// Until when it is not tried again.
    pub until: Millis,
}

/// A route that was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Ordered {
    /// The route.
    pub route: Route,
    /// As what it was written.
    pub conninfo: Conninfo,
    /// Why, as the plan names it.
    pub why: &'static str,
    /// When it was written.
    pub at: Millis,
    /// It was seen installed.
    pub seen_installed: bool,
    /// The node was seen to receive from its first entry since.
    pub followed: bool,
    /// It had a stream and a path to the primary when this was ordered.
    pub streamed: bool,
    /// It received from somebody else then, or from nobody.
    pub moves: bool,
    /// It was seen since, by both ends, to receive from the first entry on a connection that it made for this order.
    pub arrived: bool,
}

impl Memory {
    /// What is remembered of a node.
    pub fn node(&self, node: &NodeName) -> Option<&NodeMemory> {
        self.nodes.get(node)
    }

    /// How long the operator has been blind, in milliseconds; `None` when it is not.
    pub fn blind_for(&self) -> Option<u64> {
        self.blind_since.map(|since| self.at.since(since))
    }

    /// How long a node is not seen, in milliseconds; `None` when it is seen.
    pub fn unseen_for(&self, node: &NodeName) -> Option<u64> {
        self.node(node).and_then(|m| m.unseen_since).map(|since| self.at.since(since))
    }

    /// How long a node has had no path to the primary, in milliseconds; `None` when it has one or it cannot be told.
    pub fn unrooted_for(&self, node: &NodeName) -> Option<u64> {
        self.node(node).and_then(|m| m.unrooted_since).map(|since| self.at.since(since))
    }

    /// How long a node has been no good as an upstream, in milliseconds; `None` when it is good.
    pub fn failing_for(&self, node: &NodeName) -> Option<u64> {
        self.node(node).and_then(|m| m.failing_since).map(|since| self.at.since(since))
    }

    /// Whether a node's walreceiver is the one of the look before. A row for milliseconds, as `streaming` as any, is there
    /// at each attempt at an upstream that then refuses to send (postgres-facts.md 2.3, 5.2).
    pub fn receives_steadily(&self, node: &NodeName) -> bool {
        self.node(node).is_some_and(NodeMemory::receives_steadily)
    }

    /// How long one walreceiver of a node has been stopping, in milliseconds; 0 when it is not.
    pub fn stopping_for(&self, node: &NodeName) -> u64 {
        self.node(node).and_then(|memory| memory.stopping_since).map_or(0, |since| self.at.since(since))
    }

    /// How long one recovery conflict has held up a node's replay, in milliseconds; 0 when none does.
    pub fn conflict_for(&self, node: &NodeName) -> u64 {
        self.node(node).and_then(|m| m.conflict).map_or(0, |(_, since)| self.at.since(since))
    }

    /// Whether a node got nothing from a well upstream a short while ago.
    pub fn is_refused(&self, node: &NodeName, by: &NodeName) -> bool {
        self.node(node).is_some_and(|memory| memory.is_refused(by, self.at))
    }

    /// Whether a node failed a short while ago and is not to get children yet.
    pub fn is_settling(&self, node: &NodeName) -> bool {
        self.node(node).and_then(|m| m.settling_until).is_some_and(|until| until > self.at)
    }

    /// When a step failed last that has not succeeded since.
    pub fn failed_at(&self, server: &NodeName, owner: &NodeName, kind: &'static str) -> Option<Millis> {
        self.failed(server, owner, kind).map(|failed| failed.at)
    }

    /// A step that failed last time. Asked for every step of a plan, and few have failed.
    pub fn failed(&self, server: &NodeName, owner: &NodeName, kind: &'static str) -> Option<&FailedStep> {
        let any = !self.failed_steps.is_empty();
        any.then(|| self.failed_steps.get(&(server.clone(), owner.clone(), kind)))?
    }

    /// Whether a node's readers have seen data older than the bound for at least so long.
    pub fn is_late(&self, node: &NodeName, patience_milliseconds: u64) -> bool {
        let since = self.node(node).and_then(|node| node.late_since);
        since.is_some_and(|since| self.at.since(since) >= patience_milliseconds)
    }

    /// Whether a step failed a moment ago and is to wait to be tried again: twice as long each time, up to ten seconds.
    pub fn is_to_wait(&self, server: &NodeName, owner: &NodeName, kind: &'static str) -> bool {
        let Some(failed) = self.failed(server, owner, kind) else { return false };
        let pause = TRY_AGAIN_MILLISECONDS.saturating_mul(1 << failed.times.saturating_sub(1).min(DOUBLINGS_MAX));
        self.at.since(failed.at) < pause
    }

    /// Brings timers and positions up to date with what is seen now.
    pub fn advance(&mut self, desired: &Desired, nodes: &ByNode<NodeView>, now: Millis) {
        // Who was silent meanwhile cannot be told by one who slept.
        let slept = now.since(self.at) >= SLEPT_MILLISECONDS;
        self.at = now;
        self.deleting_since = self.deleting_since.or(Some(now)).filter(|_| desired.deleting);
        self.forgive(&desired.acknowledged);
        self.note_leavers(desired, nodes);
        self.note_twice(desired, nodes);
        self.learn_primary(desired, nodes);
        let patience = desired.healing.suspect_after_milliseconds;
        for (place, (name, spec)) in desired.nodes.iter().enumerate() {
            let facts = near(nodes, place, name).and_then(NodeView::seen);
            let reached = facts.and_then(|facts| self.newest_reached(facts, facts.position));
            let shown = facts.and_then(|facts| self.newest_reached(facts, facts.shown()));
            let node = self.node_mut(place, name);
            node.routed = desired.groups.get(spec.group).is_some_and(|group| group.management.sets_routes());
            match facts {
                None => {
                    let why = nodes.get(name).and_then(|view| view.unseen.as_ref()).map(|unseen| unseen.why);
                    // One that does not answer has been silent since its last answer; any other said that it goes.
                    let silent = why == Some(WhyUnseen::Timeout) && !slept && node.asked_at > Millis(0);
                    node.unseen_since.get_or_insert(if silent { node.asked_at } else { now });
                }
                Some(facts) => node.see(facts, (reached, shown), patience, now),
            }
        }
        // In the order of the spec, each is found at its place.
        if !self.nodes.keys().is_sorted() {
            self.nodes.sort_unstable_keys();
        }
        let addresses = desired.addresses();
        self.note_namesakes(desired, &addresses, nodes);
        let blind = blind(desired, nodes);
        self.blind_since = self.blind_since.filter(|_| blind).or(blind.then_some(now));
        if blind {
            self.blind_at = Some(now);
        }
        let sight = self.judge(desired, &addresses, nodes);
        self.sight = Some(Arc::new(sight));
        self.compare_orders(desired, nodes);
    }

    /// What is remembered of a node, which most often is at this place.
    fn node_mut(&mut self, place: usize, name: &NodeName) -> &mut NodeMemory {
        if self.nodes.get_index(place).is_some_and(|(there, _)| there == name) {
            &mut self.nodes[place]
        } else {
            self.nodes.entry(name.clone()).or_default()
        }
    }

    fn learn_primary(&mut self, desired: &Desired, nodes: &ByNode<NodeView>) {
        let Primary::Known { name, system_identifier } = true_primary(desired, nodes, self) else { return };
        let Some(facts) = nodes.get(&name).and_then(NodeView::seen) else { return };
        // For good, so not on the word of a minority: a mistyped address may be another cluster's primary.
        // What we run ourselves is called by no address of anybody, and the first server of a tree is alone for a while.
        let ours = |view: &&NodeView| view.seen().is_some_and(|seen| seen.system_identifier == system_identifier);
        let known = || nodes.values().filter(ours).count() * 2 > desired.nodes.len();
        if self.system_identifier.is_none() && (desired.runs_pods() || known()) {
            self.system_identifier = Some(system_identifier);
        }
        if self.primary.as_ref() != Some(&name) || self.timeline != facts.timeline {
            // Positions of different histories are never compared by LSN (safety.md 1.3).
            self.samples.clear();
            self.nodes.values_mut().for_each(|node| (node.reached, node.shown) = (None, None));
        }
        self.timeline = facts.timeline.or(self.timeline);
        self.primary = Some(name);
        if self.samples.back().is_none_or(|newest| newest.at < facts.asked_at) {
            let sample = Sample { at: facts.asked_at, timeline: facts.timeline, position: facts.position };
            self.samples.push_back(sample);
        }
        let kept = desired.healing.suspect_after_milliseconds.saturating_mul(2);
        let old = |sample: &Sample| self.at.since(sample.at) > kept;
        while self.samples.len() > SAMPLES_MAX && self.samples.front().is_some_and(old) {
            self.samples.pop_front();
        }
    }
}

impl NodeMemory {
    /// See [`Memory::is_refused`].
    pub fn is_refused(&self, by: &NodeName, now: Millis) -> bool {
        self.refused.get(by).is_some_and(|refused| refused.until > now)
    }

    /// See [`Memory::receives_steadily`].
    pub fn receives_steadily(&self) -> bool {
        self.receiver.is_some_and(|(_, since)| since < self.asked_at)
    }

    /// Whether it receives nothing because it has not come to the end of the WAL that it has itself, or gets from its archive:
    /// before that it asks nobody.
    pub(crate) fn reads_its_own(&self, facts: &Facts) -> bool {
        let goes_on = facts.asked_at.since(self.replayed_at) < READS_FOR_MILLISECONDS;
        facts.receiver.is_none() && !facts.connecting && self.read_its_own != Some(facts.replay) && goes_on
    }

    fn see(&mut self, facts: &Facts, (reached, shown): (Option<Millis>, Option<Millis>), patience: u64, now: Millis) {
        let is_back = self.unseen_since.take().is_some();
        if is_back {
            self.slots_given_up.clear();
        }
        let alone = facts.in_recovery && facts.receiver.is_none();
        self.alone_since = self.alone_since.filter(|_| alone).or(alone.then_some(facts.asked_at));
        // Once it hangs, the pause without a walreceiver between two attempts is no news.
        let hung = self.connecting_since.is_some_and(|since| self.connecting_at.since(since) >= patience);
        let pauses = hung && facts.asked_at.since(self.connecting_at) < CONNECTS_AGAIN_WITHIN_MILLISECONDS;
        let since = self.connecting_since.or(facts.connecting.then_some(facts.asked_at));
        self.connecting_since = since.filter(|_| alone && (facts.connecting || pauses));
        self.connecting_at = if facts.connecting { facts.asked_at } else { self.connecting_at };
        let pid = facts.receiver.as_ref().map(|receiver| receiver.pid);
        let known = self.receiver.filter(|(known, _)| Some(*known) == pid);
        let stopping = facts.receiver.as_ref().is_some_and(|receiver| receiver.status == "stopping");
        let since = self.stopping_since.filter(|_| known.is_some()).unwrap_or(facts.asked_at);
        self.stopping_since = stopping.then_some(since);
        self.receiver = known.or(pid.map(|pid| (pid, facts.asked_at)));
        let held_at = Some(facts.replay).filter(|_| facts.is_in_conflict());
        let known = self.conflict.filter(|(at, _)| Some(*at) == held_at);
        self.conflict = known.or(held_at.map(|at| (at, now)));
        if facts.replay != self.replay {
            (self.replay, self.replayed_at) = (facts.replay, facts.asked_at);
        }
        self.read_its_own = Some(facts.replay).filter(|_| facts.has_read_its_own()).or(self.read_its_own);
        self.ungated_since = facts.replay_blocked_by().is_none().then(|| self.ungated_since.unwrap_or(now));
        let started_anew = self.started.is_some_and(|started| started != facts.started);
        if started_anew {
            self.restarts.push_back(now);
            // Its pg_hba.conf may be another.
            (self.took_in, self.took_back) = (false, false);
        }
        self.kept.see(facts, now);
        self.started = Some(facts.started);
        while self.restarts.front().is_some_and(|at| now.since(*at) >= FORGIVEN_AFTER_MILLISECONDS) {
            self.restarts.pop_front();
        }
        // One that was just started has had no time to receive anything: how long it stood still before says nothing.
        if facts.position != self.position || started_anew {
            let first_look = self.asked_at == Millis(0) || started_anew || is_back;
            self.position = facts.position;
            let silent_for = facts.receiver.as_ref().map_or(0, |receiver| receiver.silent_for_milliseconds);
            self.advanced_at = if first_look { now } else { advanced_at(facts.asked_at, silent_for, self.asked_at) };
        }
        self.asked_at = facts.asked_at;
        self.reached = self.reached.max(reached);
        self.shown = self.shown.max(shown);
    }
}

/// When a node whose position is another one than at the look before came to it: not before that look, and not after the
/// last word of its upstream. The look that shows it may be a whole tick later.
fn advanced_at(look: Millis, silent_for_milliseconds: u64, look_before: Millis) -> Millis {
    Millis(look.0.saturating_sub(silent_for_milliseconds)).max(look_before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_last_moved_when_its_upstream_last_spoke_and_between_two_looks_whatever_its_clock_says() {
        assert_eq!(advanced_at(Millis(5_000), 700, Millis(4_000)), Millis(4_300));
        assert_eq!(advanced_at(Millis(5_000), 86_400_000, Millis(4_000)), Millis(4_000));
        assert_eq!(advanced_at(Millis(5_000), 0, Millis(4_000)), Millis(5_000));
    }
}
