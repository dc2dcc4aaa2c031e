//! A world of real servers, as they were seen: what may happen to them is then tried out without them.

use std::sync::Arc;

use super::server::{Process, Receiver, Sender, Server, Setting, SlotAt};
use super::world::World;
use crate::model::{Addresses, ByNode, Desired, Facts, Memory, NodeName, Observed, Timeline};

impl World {
    /// The servers as they were seen last, under the clock by which they were seen. One that is not seen counts as down.
    pub fn seen(desired: &Desired, observed: &Observed) -> Self {
        let addresses = desired.addresses();
        let mut servers: ByNode<Server> = ByNode::default();
        for name in desired.nodes.keys() {
            let server = match observed.last(name) {
                Some(facts) => server(facts, observed.seen(name).is_some()),
                None => Server { process: Process::Down, ..Server::new(true, crate::model::Lsn(0)) },
            };
            servers.insert(name.clone(), server);
        }
        let edges = desired.nodes.keys().filter_map(|name| edge(&addresses, observed, name)).collect::<Vec<_>>();
        for (child, upstream, pid) in edges {
            connect(&mut servers, observed, &child, &upstream, pid);
        }
        let mut world = Self::of(desired, 1, servers, observed.memory.at);
        world.settings.write_bytes_per_second = write_rate(&observed.memory);
        world.pass(0);
        world
    }
}

fn server(facts: &Facts, is_up: bool) -> Server {
    let setting =
        Setting { conninfo: facts.route.conninfo.clone(), nudged: facts.route.nudged, slot: facts.route.slot.clone() };
    let mut file = setting.clone();
    if let Some(pending) = &facts.route.pending {
        file.conninfo = pending.clone();
    }
    let slot = |(name, slot): (&String, &crate::model::observed::Slot)| {
        let lost = slot.lost || slot.restart_lsn.is_none();
        let restart = slot.restart_lsn.unwrap_or(facts.redo);
        (name.clone(), SlotAt::on_disk(restart, lost, slot.xmin.is_some()))
    };
    let new = Server::new(facts.in_recovery, facts.position);
    let senders_max = facts.parameters.get("max_wal_senders").and_then(|most| usize::try_from(*most).ok());
    Server {
        process: if is_up { Process::Up } else { Process::Down },
        starts: facts.started,
        told: Some(Arc::new(facts.clone())),
        segment_bytes: facts.segment_bytes,
        system_identifier: facts.system_identifier,
        timeline: facts.timeline.or(facts.timeline_at_least).unwrap_or(Timeline(1)),
        history: facts.history.clone(),
        replayed: facts.replay,
        paused: facts.replay_blocked_by().is_some(),
        redo: facts.redo,
        oldest: facts.oldest_wal.unwrap_or_else(|| facts.redo.segment_start(facts.segment_bytes)),
        running: setting,
        file,
        slots: facts.slots.iter().map(slot).collect(),
        senders_max: senders_max.unwrap_or(new.senders_max),
        ..new
    }
}

/// A stream between two that are seen: who receives, from whom, and by which walreceiver.
fn edge(addresses: &Addresses<'_>, observed: &Observed, child: &NodeName) -> Option<(NodeName, NodeName, i32)> {
    let receiver = observed.seen(child).filter(|facts| facts.in_recovery)?.receiver.as_ref()?;
    let upstream = addresses.node_at(&receiver.host, receiver.port)?;
    observed.seen(upstream)?;
    Some((child.clone(), upstream.clone(), receiver.pid))
}

fn connect(servers: &mut ByNode<Server>, observed: &Observed, child: &NodeName, upstream: &NodeName, pid: i32) {
    let Some(server) = servers.get_mut(child) else { return };
    server.receiver = Receiver::Streaming { from: upstream.clone(), pid, silent_since: None };
    let application_name = server.running.conninfo.get("application_name").unwrap_or("walreceiver").to_owned();
    let slot = server.running.slot.clone();
    let holder = observed.seen(upstream).and_then(|facts| facts.slots.get(&slot)?.active_pid);
    let sender = Sender {
        pid: holder.unwrap_or(pid),
        receiver_pid: pid,
        child: child.clone(),
        application_name,
        slot,
        silent_since: None,
    };
    if let Some(server) = servers.get_mut(upstream) {
        server.senders.push(sender);
    }
}

/// What the primary wrote a second, by the samples of its position.
fn write_rate(memory: &Memory) -> u64 {
    let (Some(first), Some(last)) = (memory.samples.front(), memory.samples.back()) else { return 0 };
    let milliseconds = last.at.since(first.at);
    last.position.bytes_since(first.position).saturating_mul(1000).checked_div(milliseconds).unwrap_or(0)
}
