//! Which server is the true primary.

use std::collections::BTreeMap;

use super::{ByNode, Desired, Facts, Memory, NodeName, NodeView};

/// Who is the primary, as far as can be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Primary {
    /// This one.
    Known {
        /// Its name.
        name: NodeName,
        /// The cluster it serves.
        system_identifier: u64,
    },
    /// Nobody of the root group answers as a primary of our cluster, or only one that a promotion left behind.
    #[default]
    NotSeen,
    /// Several answer on the same timeline: PostgreSQL has no defence against following the wrong one
    /// (postgres-facts.md 4.6), so nobody is followed.
    Several(Vec<NodeName>),
}

/// The server of the root group that answers as a primary on the newest timeline seen. One on an older timeline is a
/// deposed primary that came back, whatever else is down (safety.md 2.3). That a newer timeline begins while the primary
/// known goes on answering as one is no promotion that anybody may follow: two servers take writes.
pub fn true_primary(desired: &Desired, nodes: &ByNode<NodeView>, memory: &Memory) -> Primary {
    let ours = memory.system_identifier.or_else(|| common_system_identifier(nodes));
    // Of the root group only: a leaf that somebody promoted does not depose the primary.
    let members = desired.root().map(|root| root.members.as_slice()).unwrap_or_default();
    let seen = |name: &NodeName| nodes.get(name).and_then(NodeView::seen);
    let of_root = || members.iter().filter_map(|name| Some((name, seen(name)?)));
    let of_root = || of_root().filter(|(_, facts)| Some(facts.system_identifier) == ours);
    // A promotion that was undone leaves its number behind; when all are seen and none is on it, it counts no more.
    let remembered = memory.timeline.filter(|_| members.iter().any(|name| seen(name).is_none()));
    let newest = of_root().filter_map(|(_, facts)| facts.timeline).chain(remembered).max();
    let writers: Vec<(&NodeName, &Facts)> = of_root().filter(|(_, facts)| !facts.in_recovery).collect();
    let writers = once(&writers, memory);
    let still_there = writers.iter().any(|(name, facts)| {
        memory.primary.as_ref() == Some(*name) && memory.timeline == facts.timeline && facts.timeline != newest
    });
    let several =
        |writers: &[(&NodeName, &Facts)]| Primary::Several(writers.iter().map(|(name, _)| (*name).clone()).collect());
    if still_there && writers.len() > 1 {
        return several(&writers);
    }
    let primaries: Vec<_> = writers.into_iter().filter(|(_, facts)| facts.timeline == newest).collect();
    match primaries.as_slice() {
        [] => Primary::NotSeen,
        [(name, facts)] => Primary::Known { name: (*name).clone(), system_identifier: facts.system_identifier },
        more => several(more),
    }
}

/// Each server once, however many names it has: by the name that was known as the primary's, or by its first.
fn once<'a>(writers: &[(&'a NodeName, &'a Facts)], memory: &Memory) -> Vec<(&'a NodeName, &'a Facts)> {
    let name_of = |node: &NodeName| {
        let names = writers.iter().map(|(name, _)| *name).filter(|name| memory.are_one(name, node));
        names.min_by_key(|name| memory.primary.as_ref() != Some(*name))
    };
    writers.iter().copied().filter(|(name, _)| name_of(name) == Some(*name)).collect()
}

/// The system identifier that most servers have; on a tie the one that a primary has. Used once, until the topology
/// has recorded its own.
fn common_system_identifier(nodes: &ByNode<NodeView>) -> Option<u64> {
    let mut votes: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
    for facts in nodes.values().filter_map(NodeView::seen) {
        let vote = votes.entry(facts.system_identifier).or_default();
        vote.0 += 1;
        vote.1 |= !facts.in_recovery;
    }
    votes.into_iter().max_by_key(|(_, vote)| *vote).map(|(identifier, _)| identifier)
}
