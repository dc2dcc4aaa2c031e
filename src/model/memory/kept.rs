//! Slots as they were last seen on one server: which of them went away by somebody else's hand.

use std::collections::BTreeMap;

use crate::model::observed::Slot;
use crate::model::{Facts, Millis};

/// A slot that has stayed for so long is left alone again, in milliseconds: two rounds of Patroni, ten seconds each by
/// default. It looks for slots that it does not know when a server starts, and in each round after one that it could not
/// drop.
const STAYED_MILLISECONDS: u64 = 20_000;

/// A slot that is gone for so long is forgotten, in milliseconds.
const GONE_MILLISECONDS: u64 = 600_000;

/// The slots of one server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    slots: BTreeMap<String, KeptSlot>,
    /// When something of ours was last written there: what was said before says nothing about it.
    written_at: Millis,
}

/// One slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptSlot {
    /// It was there when last looked.
    pub there: bool,
    /// Since when it is so.
    pub since: Millis,
    /// How often somebody else removed it since it last stayed.
    pub removed: u32,
}

impl Kept {
    /// What is known of a slot.
    pub fn slot(&self, name: &str) -> Option<&KeptSlot> {
        self.slots.get(name)
    }

    /// The slots that somebody else removed at least so often since they last stayed.
    pub fn removed(&self, least: u32) -> impl Iterator<Item = &str> {
        self.slots.iter().filter(move |(_, kept)| kept.removed >= least).map(|(name, _)| name.as_str())
    }

    /// We have removed a slot, or made it anew, or may have.
    pub fn ours(&mut self, name: &str, now: Millis) {
        self.slots.remove(name);
        self.written_at = now;
    }

    /// We have made a slot, so it was there: somebody may drop it before it is seen.
    pub fn made(&mut self, name: &str, now: Millis) {
        let removed = self.slots.get(name).map_or(0, |kept| kept.removed);
        self.slots.insert(name.to_owned(), KeptSlot { there: true, since: now, removed });
        self.written_at = now;
    }

    /// Takes in an answer.
    pub(super) fn see(&mut self, facts: &Facts, now: Millis) {
        if facts.asked_at <= self.written_at {
            return;
        }
        // As at nearly every look.
        if self.slots.keys().eq(facts.slots.keys()) {
            for (kept, seen) in self.slots.values_mut().zip(facts.slots.values()) {
                kept.follow(Some(seen), now);
            }
            return;
        }
        self.slots.retain(|name, kept| kept.follow(facts.slots.get(name), now));
        for name in facts.slots.keys().filter(|name| !self.slots.contains_key(*name)).cloned().collect::<Vec<_>>() {
            self.slots.insert(name, KeptSlot { there: true, since: now, removed: 0 });
        }
    }
}

impl KeptSlot {
    /// Whether it is worth remembering still.
    fn follow(&mut self, seen: Option<&Slot>, now: Millis) -> bool {
        let there = seen.is_some();
        if there != self.there {
            self.removed = self.removed.saturating_add(u32::from(!there));
            (self.there, self.since) = (there, now);
        } else if there && now.since(self.since) >= STAYED_MILLISECONDS {
            self.removed = 0;
        }
        there || now.since(self.since) < GONE_MILLISECONDS
    }
}
