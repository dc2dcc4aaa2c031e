//! Rootedness: a path to the true primary along which positions advance. Never taken from `streaming`, which every trap
//! of postgres-facts.md section 6 shows as well.

use std::collections::BTreeSet;

use super::memory::NodeMemory;
use super::observed::Look;
use super::primary::Primary;
use super::tree::Edge;
use super::{ByNode, Desired, Facts, Memory, Millis, NodeName, NodeView, near};

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
pub(crate) fn rooted(desired: &Desired, look: Look<'_>, primary: &Primary, edges: &ByNode<Edge>) -> ByNode<Rooted> {
    let nobody = |why: &str| desired.nodes.keys().map(|name| (name.clone(), Rooted::Unknown(why.to_owned()))).collect();
    let name = match primary {
        Primary::Several(_) => return nobody("more than one server answers as the primary"),
        Primary::Known { name, .. } => Some(name),
        Primary::NotSeen => look.memory.primary.as_ref(),
    };
    let Some(name) = name else { return nobody("no primary is seen") };
    let walk = Walk { desired, look, primary: name, is_seen: *primary != Primary::NotSeen };
    let node = |(place, name)| {
        let (view, edge) = (near(look.nodes, place, name), near(edges, place, name));
        let memory = near(&look.memory.nodes, place, name);
        Node { name, facts: view.and_then(NodeView::seen), memory, edge }
    };
    let nodes: Vec<Node<'_>> = desired.nodes.keys().enumerate().map(node).collect();
    let ways: Vec<Way> = nodes.iter().map(|node| walk.way(node)).collect();
    nodes.iter().enumerate().map(|(place, node)| (node.name.clone(), walk.judge(&nodes, &ways, place))).collect()
}

/// What is known of one node.
#[derive(Clone, Copy)]
struct Node<'a> {
    name: &'a NodeName,
    /// What it says now.
    facts: Option<&'a Facts>,
    memory: Option<&'a NodeMemory>,
    edge: Option<&'a Edge>,
}

/// Where the way from a node to the primary goes on.
enum Way {
    /// It is the primary.
    Primary,
    /// At the node at this place, from which it receives.
    Up(usize),
    /// A relay that we cannot ask may still pass WAL on; its child's own position decides (law 8).
    Unseen,
    /// A walreceiver that is started anew is away for milliseconds: what it had is as fresh as its lag says. So many hops
    /// were left.
    Pauses(usize),
    /// It ends here, and so for everybody below.
    Ends(Rooted),
}

struct Walk<'a> {
    desired: &'a Desired,
    look: Look<'a>,
    /// The true primary, or the last one known.
    primary: &'a NodeName,
    /// Somebody answers as the primary.
    is_seen: bool,
}

impl Walk<'_> {
    fn judge(&self, nodes: &[Node<'_>], ways: &[Way], place: usize) -> Rooted {
        let Node { facts, memory, .. } = nodes[place];
        match (self.path(nodes, ways, place), facts) {
            (Err(verdict), _) => verdict,
            (Ok(_), None) => Rooted::Unknown("it is not seen".to_owned()),
            (Ok(hops), Some(facts)) => Rooted::Yes {
                hops,
                lag_milliseconds: lag_milliseconds(self.look.memory, memory.and_then(|known| known.reached), facts),
                shown_lag_milliseconds: lag_milliseconds(self.look.memory, memory.and_then(|known| known.shown), facts),
            },
        }
    }

    /// Hops from a node to the primary, walking up; or the verdict when the walk ends elsewhere.
    fn path(&self, nodes: &[Node<'_>], ways: &[Way], from: usize) -> Result<usize, Rooted> {
        let (mut at, mut passed) = (from, 0);
        // Whoever comes by a mark again goes round. It is set anew ever more rarely, so that it comes to lie in the ring.
        let mut mark = None;
        while mark != Some(at) {
            if passed == 0 || usize::is_power_of_two(passed) {
                mark = Some(at);
            }
            at = match &ways[at] {
                Way::Primary => return self.end_at_primary(passed),
                Way::Up(up) => *up,
                Way::Unseen if at == from => return Err(Rooted::Unknown(self.unseen(nodes[at].name))),
                Way::Unseen => return Ok(passed + 1),
                Way::Pauses(hops) => return Ok(hops + passed),
                Way::Ends(verdict) => return Err(verdict.clone()),
            };
            passed += 1;
        }
        let mut passed = BTreeSet::new();
        while let (true, Way::Up(up)) = (passed.insert(nodes[at].name), &ways[at]) {
            at = *up;
        }
        let ring = passed.into_iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
        Err(Rooted::No(format!("it receives from a ring of servers: {ring}")))
    }

    fn way(&self, node: &Node<'_>) -> Way {
        let Node { name, facts, memory, edge } = *node;
        if self.look.memory.are_one(name, self.primary) {
            return Way::Primary;
        }
        let Some(facts) = facts else { return Way::Unseen };
        if let Some(why) = self.stands_in_the_way(name, facts, memory) {
            return Way::Ends(Rooted::No(why));
        }
        match edge {
            Some(Edge::Both(up) | Edge::ChildOnly(up) | Edge::Denied(up)) => {
                self.desired.nodes.get_index_of(up).map_or(Way::Unseen, Way::Up)
            }
            Some(Edge::Stranger(address)) => {
                Way::Ends(Rooted::No(format!("{name} receives from {address}, which is not in the topology")))
            }
            // While the primary is away its children receive from nobody: that tells nothing against them.
            Some(Edge::None) | None if self.look.seen(self.primary).is_none() => Way::Ends(self.primary_is_unseen()),
            Some(Edge::None) | None => self.pause(name, memory),
        }
    }

    fn pause(&self, name: &NodeName, memory: Option<&NodeMemory>) -> Way {
        let patience = self.desired.healing.suspect_after_milliseconds;
        let alone_for = memory.and_then(|memory| memory.alone_since).map(|since| self.look.memory.at.since(since));
        match memory.and_then(|memory| memory.hops).filter(|_| alone_for.is_some_and(|t| t < patience)) {
            Some(hops) => Way::Pauses(hops),
            None if self.hangs_in_connect(memory) => {
                Way::Ends(Rooted::No(format!("{name} is connecting, and nobody answers")))
            }
            None => Way::Ends(Rooted::No(format!("{name} receives from nobody"))),
        }
    }

    /// One whose upstreams refuse it connects for milliseconds now and then, which is no state of its own; one that connects
    /// all the time waits for a server that has accepted and does not answer.
    fn hangs_in_connect(&self, node: Option<&NodeMemory>) -> bool {
        let for_so_long = |since| self.look.memory.at.since(since) >= self.desired.healing.suspect_after_milliseconds;
        node.and_then(|memory| memory.connecting_since).is_some_and(for_so_long)
    }

    fn end_at_primary(&self, hops: usize) -> Result<usize, Rooted> {
        let primary = self.primary;
        if !self.is_seen && self.look.seen(primary).is_some() {
            return Err(Rooted::Unknown(format!("{primary} is the primary no more, and no other is seen")));
        }
        match self.look.memory.unseen_for(primary) {
            Some(silence) if silence >= self.desired.healing.suspect_after_milliseconds => {
                Err(self.primary_is_unseen())
            }
            _ => Ok(hops),
        }
    }

    fn primary_is_unseen(&self) -> Rooted {
        Rooted::Unknown(format!("the primary, {}, is not seen: {}", self.primary, self.unseen(self.primary)))
    }

    fn unseen(&self, node: &NodeName) -> String {
        let unseen = self.look.nodes.get(node).and_then(|view| view.unseen.as_ref());
        unseen.map_or_else(|| "not asked yet".to_owned(), |unseen| format!("{}: {}", unseen.why, unseen.detail))
    }

    /// What makes a node no part of the tree, and so nobody below it.
    fn stands_in_the_way(&self, name: &NodeName, facts: &Facts, memory: Option<&NodeMemory>) -> Option<String> {
        let all = self.look.memory;
        if all.system_identifier.is_some_and(|ours| ours != facts.system_identifier) {
            return Some(format!("{name} has another system identifier"));
        }
        if !facts.in_recovery {
            return Some(format!("{name} answers as a primary"));
        }
        all.stood_still(memory?, self.desired.healing.suspect_after_milliseconds)?;
        // The primary's own position would be another one at every look, and the status with it.
        let still = format!("{name} stands still at {} while the primary moves on", facts.position);
        let why = if self.hangs_in_connect(memory) { ": it is connecting, and nobody answers" } else { "" };
        Some(still + why)
    }
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
