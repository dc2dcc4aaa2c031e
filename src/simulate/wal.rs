//! WAL on its way down, and what becomes of old WAL.

use std::collections::BTreeMap;

use super::server::{Receiver, Server};
use super::stream::history_holds;
use super::world::World;
use crate::model::{Lsn, NodeName, Timeline};

/// What an upstream passes on.
#[derive(Clone)]
struct Source {
    received: Lsn,
    timeline: Timeline,
    history: Vec<(Timeline, Lsn)>,
}

impl World {
    /// Passes WAL down every stream, from those that nobody feeds to the lowest.
    pub(super) fn flow(&mut self, milliseconds: u64) {
        let mut children: BTreeMap<NodeName, Vec<NodeName>> = BTreeMap::new();
        for (name, server) in &self.servers {
            if let Some((from, Receiver::Streaming { silent_since: None, .. })) =
                server.upstream().zip(Some(&server.receiver))
                && server.is_up()
            {
                children.entry(from.clone()).or_default().push(name.clone());
            }
        }
        // Whoever is in a ring is reached from nobody: nothing flows there (postgres-facts.md 7).
        let mut next: Vec<NodeName> = self
            .servers
            .iter()
            .filter(|(_, server)| server.upstream().is_none())
            .map(|(name, _)| name.clone())
            .collect();
        while let Some(name) = next.pop() {
            let Some(below) = children.remove(&name) else { continue };
            for child in below {
                self.receive(&child, &name, milliseconds);
                next.push(child);
            }
        }
        for server in self.servers.values_mut().filter(|server| server.is_up() && !server.paused) {
            server.replayed = server.received;
        }
    }

    fn receive(&mut self, child: &NodeName, from: &NodeName, milliseconds: u64) {
        let Some((upstream, server)) = self.servers.get(from).zip(self.servers.get(child)) else { return };
        if !upstream.is_up() || !history_holds(server, upstream) {
            return;
        }
        let source =
            Source { received: upstream.received, timeline: upstream.timeline, history: upstream.history.clone() };
        let (slot, feedback) = (server.running.slot.clone(), self.settings.feedback);
        let Some(server) = self.servers.get_mut(child) else { return };
        let most = server.receive_bytes_per_second.map(|rate| rate.saturating_mul(milliseconds) / 1000);
        let upto =
            most.map_or(source.received, |most| Lsn(server.received.0.saturating_add(most)).min(source.received));
        server.received = server.received.max(upto);
        if server.timeline != source.timeline {
            (server.timeline, server.history) = (source.timeline, source.history);
        }
        let flushed = server.received;
        let slot = self.servers.get_mut(from).and_then(|upstream| upstream.slots.get_mut(&slot));
        if let Some(slot) = slot {
            slot.restart = flushed;
            slot.holds_xmin = feedback;
        }
    }
}

/// Every server makes a (restart)checkpoint: its redo moves, old segments go, slots beyond the bound are lost.
pub(super) fn checkpoints(world: &mut World) {
    let keep = world.settings.slot_keep_bytes;
    for server in world.servers.values_mut().filter(|server| server.is_up()) {
        server.redo = server.replayed;
        if let Some(bytes) = keep {
            let floor = Lsn(server.received.0.saturating_sub(bytes));
            for slot in server.slots.values_mut().filter(|slot| slot.restart < floor) {
                slot.lost = true;
            }
        }
        remove_old(server);
    }
}

fn remove_old(server: &mut Server) {
    let kept = server.slots.values().filter(|slot| !slot.lost).map(|slot| slot.restart);
    let needed = kept.chain([server.redo]).min().unwrap_or(server.redo);
    server.oldest = server.oldest.max(needed.segment_start(server.segment_bytes));
}
