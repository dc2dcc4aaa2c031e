//! Rootedness: a path to the true primary along which positions advance. Never taken from `streaming`, which every trap
//! of postgres-facts.md section 6 shows as well.

use std::collections::BTreeSet;

use super::primary::Primary;
use super::tree::Edge;
use super::{ByNode, Desired, Facts, Memory, Millis, NodeName, Observed};

/// Whether a node has a path to the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rooted {
    /// It has, and WAL arrives on it.
    Yes {
        /// Edges between it and the primary.
        hops: usize,
        /// How old what it can pass on may be at most, as far as the primary's position was sampled since; 0 when it has
        /// received all that the primary had at the last sample, in milliseconds.
        lag_milliseconds: u64,
        /// How old what its readers see may be at most, in the same way: by what is replayed. Never less.
        shown_lag_milliseconds: u64,
    },
    /// It has none; the sentence says what is seen.
    No(String),
    /// It cannot be told; the sentence says why.
    Unknown(String),
}

impl Rooted {
    /// It has a path.
    pub fn is_yes(&self) -> bool {
        matches!(self, Self::Yes { .. })
    }
}

/// The rootedness of every node.
pub fn rooted(desired: &Desired, observed: &Observed, primary: &Primary, edges: &ByNode<Edge>) -> ByNode<Rooted> {
    let walk = Walk { desired, observed, primary, edges };
    desired.nodes.keys().map(|name| (name.clone(), walk.judge(name))).collect()
}

struct Walk<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    primary: &'a Primary,
    edges: &'a ByNode<Edge>,
}

impl Walk<'_> {
    fn judge(&self, node: &NodeName) -> Rooted {
        let primary = match self.primary {
            Primary::Several(_) => return Rooted::Unknown("more than one server answers as the primary".to_owned()),
            Primary::Known { name, .. } => Some(name),
            Primary::NotSeen => self.observed.memory.primary.as_ref(),
        };
        let Some(primary) = primary else { return Rooted::Unknown("no primary is seen".to_owned()) };
        match self.path(node, primary) {
            Err(verdict) => verdict,
            Ok(hops) => self
                .observed
                .seen(node)
                .map_or_else(|| Rooted::Unknown("it is not seen".to_owned()), |facts| self.yes(node, facts, hops)),
        }
    }

    fn yes(&self, node: &NodeName, facts: &Facts, hops: usize) -> Rooted {
        let memory = &self.observed.memory;
        let known = memory.node(node);
        Rooted::Yes {
            hops,
            lag_milliseconds: lag_milliseconds(memory, known.and_then(|known| known.reached), facts),
            shown_lag_milliseconds: lag_milliseconds(memory, known.and_then(|known| known.shown), facts),
        }
    }

    /// Hops from `node` to the primary, walking up; or the verdict when the walk ends elsewhere.
    fn path(&self, node: &NodeName, primary: &NodeName) -> Result<usize, Rooted> {
        let patience = self.desired.healing.suspect_after_milliseconds;
        let mut at = node;
        let mut passed = BTreeSet::new();
        loop {
            if !passed.insert(at) {
                return Err(Rooted::No(format!("it receives from a ring of servers: {}", sentence(&passed))));
            }
            if self.observed.memory.are_one(at, primary) {
                return self.end_at_primary(primary, passed.len() - 1);
            }
            let Some(facts) = self.observed.seen(at) else {
                // A relay that we cannot ask may still pass WAL on; its child's own position decides (law 8).
                return if at == node { Err(Rooted::Unknown(self.unseen(at))) } else { Ok(passed.len()) };
            };
            self.stands_in_the_way(at, facts)?;
            at = match self.edges.get(at) {
                Some(Edge::Both(up) | Edge::ChildOnly(up) | Edge::Denied(up)) => up,
                Some(Edge::Stranger(address)) => {
                    return Err(Rooted::No(format!("{at} receives from {address}, which is not in the topology")));
                }
                // While the primary is away its children receive from nobody: that tells nothing against them.
                Some(Edge::None) | None if self.observed.seen(primary).is_none() => {
                    return Err(Rooted::Unknown(format!(
                        "the primary, {primary}, is not seen: {}",
                        self.unseen(primary)
                    )));
                }
                // A walreceiver that is started anew is away for milliseconds: what it had is as fresh as its lag says.
                Some(Edge::None) | None => {
                    let memory = self.observed.memory.node(at);
                    let alone_for =
                        memory.and_then(|memory| memory.alone_since).map(|t| self.observed.memory.at.since(t));
                    let hops = memory.and_then(|memory| memory.hops);
                    return match hops.filter(|_| alone_for.is_some_and(|t| t < patience)) {
                        Some(hops) => Ok(hops + passed.len() - 1),
                        None if self.hangs_in_connect(at) => {
                            Err(Rooted::No(format!("{at} is connecting, and nobody answers")))
                        }
                        None => Err(Rooted::No(format!("{at} receives from nobody"))),
                    };
                }
            };
        }
    }

    /// One whose upstreams refuse it connects for milliseconds now and then, which is no state of its own; one that connects
    /// all the time waits for a server that has accepted and does not answer.
    fn hangs_in_connect(&self, node: &NodeName) -> bool {
        let memory = &self.observed.memory;
        let since = memory.node(node).and_then(|memory| memory.connecting_since);
        since.is_some_and(|since| memory.at.since(since) >= self.desired.healing.suspect_after_milliseconds)
    }

    fn end_at_primary(&self, primary: &NodeName, hops: usize) -> Result<usize, Rooted> {
        let unseen_for = self.observed.memory.unseen_for(primary);
        if *self.primary == Primary::NotSeen && self.observed.seen(primary).is_some() {
            return Err(Rooted::Unknown(format!("{primary} is the primary no more, and no other is seen")));
        }
        match unseen_for {
            Some(silence) if silence >= self.desired.healing.suspect_after_milliseconds => {
                Err(Rooted::Unknown(format!("the primary, {primary}, is not seen: {}", self.unseen(primary))))
            }
            _ => Ok(hops),
        }
    }

    fn unseen(&self, node: &NodeName) -> String {
        let unseen = self.observed.nodes.get(node).and_then(|view| view.unseen.as_ref());
        unseen.map_or_else(|| "not asked yet".to_owned(), |unseen| format!("{}: {}", unseen.why, unseen.detail))
    }

    /// What makes a node on the path no part of the tree.
    fn stands_in_the_way(&self, node: &NodeName, facts: &Facts) -> Result<(), Rooted> {
        let memory = &self.observed.memory;
        if memory.system_identifier.is_some_and(|ours| ours != facts.system_identifier) {
            return Err(Rooted::No(format!("{node} has another system identifier")));
        }
        if !facts.in_recovery {
            return Err(Rooted::No(format!("{node} answers as a primary")));
        }
        match memory.stands_still(node, self.desired.healing.suspect_after_milliseconds) {
            // The primary's own position would be another one at every look, and the status with it.
            Some(_) => {
                let still = format!("{node} stands still at {} while the primary moves on", facts.position);
                let why = if self.hangs_in_connect(node) { ": it is connecting, and nobody answers" } else { "" };
                Err(Rooted::No(still + why))
            }
            None => Ok(()),
        }
    }
}

fn sentence(names: &BTreeSet<&NodeName>) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// How old the data of a node may be at most that has reached the sample of this time: 0 when that is the newest taken
/// before it was asked.
fn lag_milliseconds(memory: &Memory, reached: Option<Millis>, facts: &Facts) -> u64 {
    let Some(due) = memory.samples.iter().rev().find(|sample| sample.at <= facts.asked_at) else { return 0 };
    match reached {
        Some(reached) if reached >= due.at => 0,
        Some(reached) => facts.at.since(reached),
        None => facts.at.since(memory.samples.front().map_or(Millis(0), |oldest| oldest.at)),
    }
}
