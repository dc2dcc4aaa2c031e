//! No stampede: how many moves at a time, and how much an upstream is given to send because of them.

use std::collections::BTreeMap;

use super::World;
use super::ready::NotYet;
use super::step::{Planned, WaitReason};
use super::world::At;
use crate::model::{Facts, NodeName, Route};

/// Planned moves under way at once. A move re-sends up to a segment and the backlog from the new upstream; nodes
/// without a path to the primary do not wait for a place.
const MOVES_AT_ONCE: usize = 8;

/// What one upstream is given to send at once by moves, in bytes: some ten seconds of a network of 1 Gbit/s. Whoever is
/// nearly up to date does not wait behind one that has to be sent everything.
const BYTES_AT_ONCE: u64 = 1 << 30;

/// A route to be set.
pub(super) struct Move {
    /// The step.
    pub(super) planned: Planned,
    /// Its route.
    pub(super) route: Route,
    /// The node has no path to the primary, or no connection at all.
    pub(super) urgent: bool,
    /// What its new upstream will have to send at once, in bytes.
    pub(super) bytes: u64,
}

/// What upstreams have to send because of moves.
#[derive(Default)]
pub(super) struct Traffic {
    /// Moves that are ordered and not seen.
    pub(super) under_way: usize,
    /// Bytes that each upstream has to send for those and for the moves of this plan.
    bytes: BTreeMap<NodeName, u64>,
}

impl Traffic {
    /// Counts a move that was ordered before and is not seen yet.
    pub(super) fn is_on_its_way(&mut self, world: &World<'_>, node: At<'_>, route: &Route) {
        self.under_way += 1;
        if let (Some(first), Some(facts)) = (route.first(), world.seen(node)) {
            self.send(first, bytes_again(world, facts, first));
        }
    }

    fn send(&mut self, upstream: &NodeName, bytes: u64) {
        let sum = self.bytes.entry(upstream.clone()).or_default();
        *sum = sum.saturating_add(bytes);
    }

    /// Counts a move of this plan.
    pub(super) fn add(&mut self, moved: &Move) {
        self.under_way += 1;
        if let Some(first) = moved.route.first() {
            self.send(first, moved.bytes);
        }
    }

    /// Why a move waits for others. One that needs more than the bound is made when it is alone.
    pub(super) fn holds_up(&self, moved: &Move) -> Option<NotYet> {
        let sent = moved.route.first().and_then(|first| Some((first, *self.bytes.get(first)?)));
        match sent {
            _ if !moved.urgent && self.under_way >= MOVES_AT_ONCE => {
                Some((WaitReason::MovesUnderWay, format!("{} other moves are under way", self.under_way)))
            }
            Some((first, sent)) if sent > 0 && sent.saturating_add(moved.bytes) > BYTES_AT_ONCE => {
                Some((WaitReason::MovesUnderWay, format!("{first} has enough to send to others first")))
            }
            _ => None,
        }
    }
}

/// What `upstream` has to send to a node that comes to it: from the start of the segment that the node replays
/// (postgres-facts.md 2.4).
pub(super) fn bytes_again(world: &World<'_>, facts: &Facts, upstream: &NodeName) -> u64 {
    world.seen(upstream).map_or(0, |upstream| bytes_between(facts, upstream))
}

/// The same of two that are seen.
pub(super) fn bytes_between(facts: &Facts, upstream: &Facts) -> u64 {
    upstream.position.bytes_since(facts.replay.segment_start(facts.segment_bytes))
}
