//! WAL on its way down, and what becomes of old WAL.

use super::server::{Receiver, Server, SlotAt};
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

/// Every server makes a (restart)checkpoint: its redo moves, slots are saved, old segments go, slots beyond the bound are lost.
/// A standby that has replayed nothing since makes none.
pub(super) fn checkpoints(world: &mut World) {
    let keep = world.settings.slot_keep_bytes;
    for server in world.servers.values_mut().filter(|server| server.is_up() && server.redo != server.replayed) {
        server.redo = server.replayed;
        server.slots.values_mut().for_each(SlotAt::save);
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

#[cfg(test)]
mod tests {
    use crate::model::NodeName;
    use crate::simulate::Drama;
    use crate::simulate::server::SlotAt;
    use crate::simulate::shape::Shape;

    /// `eu-3` goes down, and the xmin of its slot on `eu-1` is cleared.
    #[test]
    fn a_slot_of_a_server_that_crashes_is_where_its_last_checkpoint_wrote_it_with_the_xmin_that_it_held() {
        let mut shape = Shape::default();
        shape.group(&["core", "1"]).unwrap();
        shape.group(&["eu", "4", "relays=2", "upstreams=core"]).unwrap();
        let name = |name: &str| NodeName::new(name).unwrap();
        let mut drama = Drama::new(shape.spec().unwrap(), 1, |_| name("core-1")).unwrap();
        assert!(drama.rest(600_000));
        let mut world = drama.cluster().world().clone();
        world.settings.feedback = true;
        let (relay, leaf) = (name("eu-1"), name("eu-3"));
        let slot = |world: &super::World| -> SlotAt { world.servers[&relay].slots[leaf.slot()] };
        let crash = |world: &mut super::World| {
            world.kill(&relay);
            world.start(&relay);
        };
        world.pass(world.next_checkpoint_in());
        let saved = slot(&world);
        assert!(saved.holds_xmin, "its owner said so");
        world.pass(1_000);
        assert!(slot(&world).restart > saved.restart, "its owner received more");
        world.kill(&leaf);
        world.servers.get_mut(&relay).unwrap().slots.get_mut(leaf.slot()).unwrap().holds_xmin = false;
        let mut checkpointed = world.clone();
        crash(&mut world);
        assert_eq!(slot(&world), saved);

        checkpointed.pass(checkpointed.next_checkpoint_in());
        let moved = slot(&checkpointed);
        crash(&mut checkpointed);
        assert_eq!(slot(&checkpointed), moved);
        assert!(moved.restart > saved.restart && !moved.holds_xmin);
    }
}
