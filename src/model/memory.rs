//! What is remembered between two passes: timers and positions.

use std::collections::{BTreeMap, VecDeque};

use super::{Lsn, Millis, NodeName, Route, Timeline};

/// What is remembered of one topology. It is lost with the operator; every law holds without it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// The node last seen as the true primary.
    pub primary: Option<NodeName>,
    /// Positions of the primary, oldest first.
    pub samples: VecDeque<Sample>,
    /// When a heartbeat was last written.
    pub heartbeat_at: Option<Millis>,
    /// Per node.
    pub nodes: BTreeMap<NodeName, NodeMemory>,
}

/// Where the primary was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it was there at the latest.
    pub at: Millis,
    /// On which timeline.
    pub timeline: Option<Timeline>,
    /// Its flushed WAL.
    pub position: Lsn,
}

/// What is remembered of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeMemory {
    /// Since when it is not seen.
    pub unseen_since: Option<Millis>,
    /// The furthest position ever seen.
    pub position: Lsn,
    /// When that position was first seen.
    pub advanced_at: Millis,
    /// The time of the newest [`Sample`] that this node has reached: it is not staler than that.
    pub reached: Option<Millis>,
    /// Since when it fails as an upstream.
    pub failing_since: Option<Millis>,
    /// Until when it has to stay well before it gets children back.
    pub settling_until: Option<Millis>,
    /// The last route ordered for it.
    pub ordered: Option<Ordered>,
    /// How often somebody else has put another route in place of ours.
    pub overwritten: u32,
}

/// A route that was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    /// The route.
    pub route: Route,
    /// When it was written last.
    pub at: Millis,
    /// When it was last reloaded.
    pub reloaded_at: Millis,
    /// It was seen installed.
    pub seen_installed: bool,
}
