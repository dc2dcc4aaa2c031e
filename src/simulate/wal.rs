//! WAL on its way down, and what becomes of old WAL.

use super::server::{Receiver, Server};
use super::stream::history_holds;
use super::world::World;
use crate::model::{Lsn, Timeline};

/// What an upstream passes on.
struct Source {
    received: Lsn,
    /// Its timeline and the ends of those before, where they are others than the child's.
    branch: Option<(Timeline, Vec<(Timeline, Lsn)>)>,
}

impl World {
    /// Passes WAL down every stream, from those that nobody feeds to the lowest.
    pub(super) fn flow(&mut self, milliseconds: u64) {
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); self.servers.len()];
        // Whoever is in a ring is reached from nobody: nothing flows there (postgres-facts.md 7).
        let mut next = Vec::new();
        for (place, server) in self.servers.values().enumerate() {
            match &server.receiver {
                Receiver::Streaming { from, silent_since: None, .. } if server.is_up() => {
                    if let Some(from) = self.servers.get_index_of(from) {
                        children[from].push(place);
                    }
                }
                Receiver::Streaming { .. } => {}
                Receiver::Away { .. } | Receiver::Connecting { .. } => next.push(place),
            }
        }
        while let Some(place) = next.pop() {
            for child in std::mem::take(&mut children[place]) {
                self.receive(child, place, milliseconds);
                next.push(child);
            }
        }
        for server in self.servers.values_mut().filter(|server| server.is_up() && !server.paused) {
            server.replayed = server.received;
        }
    }

    fn receive(&mut self, child: usize, from: usize, milliseconds: u64) {
        let feedback = self.settings.feedback;
        let (Some((_, upstream)), Some((_, server))) = (self.servers.get_index(from), self.servers.get_index(child))
        else {
            return;
        };
        if !upstream.is_up() || !history_holds(server, upstream) {
            return;
        }
        let branch = (server.timeline != upstream.timeline).then(|| (upstream.timeline, upstream.history.clone()));
        let source = Source { received: upstream.received, branch };
        let Some((_, server)) = self.servers.get_index_mut(child) else { return };
        let most = server.receive_bytes_per_second.map(|rate| rate.saturating_mul(milliseconds) / 1000);
        let upto =
            most.map_or(source.received, |most| Lsn(server.received.0.saturating_add(most)).min(source.received));
        server.received = server.received.max(upto);
        if let Some(branch) = source.branch {
            (server.timeline, server.history) = branch;
        }
        let (flushed, slot) = (server.received, std::mem::take(&mut server.running.slot));
        if let Some((_, upstream)) = self.servers.get_index_mut(from)
            && let Some(slot) = upstream.slots.get_mut(&slot)
        {
            slot.restart = flushed;
            slot.holds_xmin = feedback;
        }
        if let Some((_, server)) = self.servers.get_index_mut(child) {
            server.running.slot = slot;
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
