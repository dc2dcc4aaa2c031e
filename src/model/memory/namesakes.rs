//! Walsenders that use the name of one of our nodes and have another server at the other end (law 12, safety.md 1.11).

use std::collections::BTreeSet;

use super::{Memory, Millis};
use crate::model::observed::Sender;
use crate::model::{Addresses, ByNode, Called, Desired, Facts, NodeName, NodeView};

/// A connection that was left is not taken for a stranger's before so much time has passed, in milliseconds: both ends
/// were asked again since.
const LEFT_MILLISECONDS: u64 = 2_000;

/// A walsender of a node's name that is not the node's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namesake {
    /// Since when it is so.
    pub since: Millis,
    /// Whether somebody is there: a connection that the node lost never replies again, however long its walsender stays.
    pub lives: bool,
    /// Since when no new reply of it was seen.
    pub silent_since: Millis,
    /// Where it comes from, as the upstream sees it.
    pub client: String,
    /// Whether it holds the node's slot there.
    pub holds_slot: bool,
    /// The time of its last reply, by its own clock: only a change tells something.
    pub replied: Option<i64>,
}

impl Memory {
    /// Servers that stream by this node's name and are not it, each with the upstream that it streams from.
    pub fn strangers(&self, node: &NodeName) -> impl Iterator<Item = (&NodeName, &Namesake)> {
        let all = self.namesakes.iter().filter(move |((name, ..), namesake)| name == node && namesake.lives);
        all.map(|((_, on, _), namesake)| (on, namesake))
    }

    /// Whether a stranger holds a node's slot on an upstream, so that the node itself gets nothing there.
    pub fn is_taken(&self, node: &NodeName, on: &NodeName) -> bool {
        self.strangers(node).any(|(at, stranger)| at == on && stranger.holds_slot)
    }

    /// Compares the walsenders of every server that is seen with what their owners tell. Of those that are not seen now
    /// nothing new is known (law 8).
    pub(super) fn note_namesakes(&mut self, desired: &Desired, addresses: &Addresses<'_>, nodes: &ByNode<NodeView>) {
        let seen = |name: &NodeName| nodes.get(name).and_then(NodeView::seen);
        let patience = desired.healing.suspect_after_milliseconds.max(LEFT_MILLISECONDS);
        let mut before = std::mem::take(&mut self.namesakes);
        for (on, facts) in desired.nodes.keys().filter_map(|on| Some((on, seen(on)?))) {
            let mut claimed = BTreeSet::new();
            for sender in &facts.senders {
                let owner = nodes.get_key_value(&Called::by_name(&sender.application_name));
                let Some((name, owner)) = owner.and_then(|(name, view)| Some((name, view.seen()?))) else { continue };
                let from =
                    owner.receiver.as_ref().and_then(|receiver| addresses.node_at(&receiver.host, receiver.port));
                // It may be this server by another of its addresses.
                if owner.receiver.is_some() && from.is_none() {
                    continue;
                }
                let steady = owner.in_recovery && self.receives_steadily(name);
                if steady
                    && from.is_some_and(|from| self.are_one(from, on))
                    && same_slot(owner, sender)
                    && claimed.insert(name)
                {
                    continue;
                }
                let key = (name.clone(), on.clone(), sender.pid);
                let old = before.remove(&key);
                let since = old.as_ref().map_or(self.at, |old| old.since);
                let replied = old.as_ref().is_some_and(|old| old.replied != sender.replied);
                let long = facts.asked_at.since(since) >= patience;
                let namesake = Namesake {
                    since,
                    lives: old.as_ref().is_some_and(|old| old.lives) || (replied && long),
                    silent_since: old.as_ref().filter(|_| !replied).map_or(self.at, |old| old.silent_since),
                    client: sender.client.clone().unwrap_or_default(),
                    holds_slot: sender.slot.as_deref() == Some(key.0.slot()),
                    replied: sender.replied,
                };
                self.namesakes.insert(key, namesake);
            }
        }
        // Of whoever left the spec nothing new will ever be known.
        let here = |name: &NodeName| desired.nodes.contains_key(name);
        let unseen = |name: &NodeName| seen(name).is_none();
        before.retain(|(name, on, _), _| here(name) && here(on) && (unseen(name) || unseen(on)));
        self.namesakes.append(&mut before);
    }
}

fn same_slot(owner: &Facts, sender: &Sender) -> bool {
    let slot = owner.receiver.as_ref().and_then(|receiver| receiver.slot.as_deref());
    slot.unwrap_or_default() == sender.slot.as_deref().unwrap_or_default()
}
