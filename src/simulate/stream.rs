//! Who receives from whom: libpq's list, the walreceiver and the walsender, with what was measured of them.

use super::server::{Process, Receiver, Sender, Server};
use super::world::World;
use crate::model::tree::primary_only;
use crate::model::{Conninfo, Millis, NodeName};

/// How long the kernel tries to connect when nobody answers and the string does not say, in milliseconds.
const CONNECT_MILLISECONDS: u64 = 130_000;
/// A reload that comes so soon after the stream was lost can be consumed just before the startup process goes to sleep, in
/// milliseconds (postgres-facts.md: "a reload or a promote can lose a race").
const RACE_MILLISECONDS: u64 = 20;
/// One reload of so many that come in that time is lost (3 of 236, 5 of 17).
const RACE_LOST_ONE_OF: usize = 10;

/// What an entry of the list does with a connection.
enum Answer {
    /// libpq goes on to the next entry: nobody listens, or not a primary where one is wanted (safety.md X3).
    NextEntry,
    /// Packets vanish: libpq goes on when the kernel has given up.
    Vanishes,
    /// It accepts and says nothing: libpq waits for ever.
    Hangs,
    /// The attempt ends: login refused, no walsender free, no slot, no WAL, another history (safety.md X3).
    Ends,
    /// WAL flows.
    Streams,
}

impl World {
    /// Every walreceiver and walsender does what it has to do by now.
    pub(super) fn connections(&mut self) {
        for place in 0..self.servers.len() {
            self.walsenders(place);
        }
        for place in 0..self.servers.len() {
            self.walreceiver(place);
        }
    }

    /// Ends walsenders whose child is gone, or silent for longer than `wal_sender_timeout`.
    fn walsenders(&mut self, place: usize) {
        let server = self.servers.get_index_mut(place);
        let ours = server.filter(|(_, server)| server.is_up() && !server.senders.is_empty());
        let taken = ours.map(|(name, server)| (name.clone(), std::mem::take(&mut server.senders)));
        let Some((name, mut senders)) = taken else { return };
        senders.retain_mut(|sender| {
            let child = self.servers.get(&sender.child);
            let cut = self.are_cut(&name, &sender.child);
            let theirs = child.is_some_and(|child| receives(child, &name, sender.receiver_pid));
            if !theirs && !cut {
                return false;
            }
            let silent = cut || child.is_some_and(|child| child.process == Process::Frozen);
            let since = sender.silent_since.filter(|_| silent).or(silent.then_some(self.now));
            sender.silent_since = since;
            since.is_none_or(|since| self.now.since(since) < self.settings.sender_timeout_milliseconds)
        });
        if let Some((_, server)) = self.servers.get_index_mut(place) {
            server.senders = senders;
        }
    }

    /// One step of one walreceiver.
    fn walreceiver(&mut self, place: usize) {
        let server = self.servers.get_index(place).filter(|(_, server)| server.is_up() && server.in_recovery);
        let Some((name, server)) = server.filter(|(name, server)| !self.goes_on(name, server)) else { return };
        let name = &name.clone();
        // A walreceiver is started and ended by the startup process, which does neither while replay is blocked.
        let gate_open = !server.paused;
        if server.reload_due && gate_open {
            let lost = self.now.since(server.lost_at) < RACE_MILLISECONDS
                && matches!(server.receiver, Receiver::Away { .. })
                && self.dice.below(RACE_LOST_ONE_OF) == 0;
            let now = self.now;
            self.change(name, |server| {
                server.reload_due = false;
                if !lost {
                    server.receiver = Receiver::Away { again_at: now };
                }
            });
            self.walsenders_of_child(name);
        }
        let Some(server) = self.servers.get(name) else { return };
        match server.receiver.clone() {
            Receiver::Away { again_at } if gate_open && again_at <= self.now => self.connect(name, 0),
            Receiver::Connecting { place, until: Some(until) } if until <= self.now => self.connect(name, place + 1),
            Receiver::Connecting { place, until: None } => self.thawed(name, place),
            Receiver::Streaming { from, pid, silent_since } => self.keep(name, &from, pid, silent_since, gate_open),
            Receiver::Away { .. } | Receiver::Connecting { .. } => {}
        }
    }

    /// As nearly always: it streams, and what was so a moment ago is so still.
    fn goes_on(&self, name: &NodeName, server: &Server) -> bool {
        let Receiver::Streaming { from, pid, silent_since: None } = &server.receiver else { return false };
        let upstream = self.servers.get(from).filter(|upstream| upstream.process != Process::Frozen);
        !server.reload_due && !self.are_cut(name, from) && upstream.is_some_and(|up| sends(up, name, *pid))
    }

    fn change(&mut self, name: &NodeName, with: impl FnOnce(&mut Server)) {
        if let Some(server) = self.servers.get_mut(name) {
            with(server);
        }
    }

    /// A walreceiver that ends says so: its walsender ends too, unless nothing of it arrives.
    fn walsenders_of_child(&mut self, child: &NodeName) {
        let feeds = |server: &Server| server.is_up() && server.senders.iter().any(|s| s.child == *child);
        let upstreams = self.servers.iter().enumerate().filter(|(_, (name, server))| feeds(server) && *name != child);
        for place in upstreams.map(|(place, _)| place).collect::<Vec<_>>() {
            self.walsenders(place);
        }
    }

    /// A frozen entry that runs again goes on with the login.
    fn thawed(&mut self, name: &NodeName, place: usize) {
        let Some(server) = self.servers.get(name) else { return };
        let entry = hosts(self, &server.running.conninfo).into_iter().nth(place).flatten();
        let frozen = entry.and_then(|entry| self.servers.get(&entry)).is_some_and(|e| e.process == Process::Frozen);
        if !frozen {
            self.connect(name, place);
        }
    }

    /// Goes on with a stream, or notices that it is over.
    fn keep(&mut self, name: &NodeName, from: &NodeName, pid: i32, silent_since: Option<Millis>, gate_open: bool) {
        let cut = self.are_cut(name, from);
        let upstream = self.servers.get(from);
        let silent = cut || upstream.is_some_and(|upstream| upstream.process == Process::Frozen);
        let theirs = upstream.is_some_and(|up| sends(up, name, pid));
        let since = silent_since.filter(|_| silent).or(silent.then_some(self.now));
        let timed_out = since.is_some_and(|t| self.now.since(t) >= self.settings.receiver_timeout_milliseconds);
        let over = (!silent && !theirs) || timed_out;
        let now = self.now;
        self.change(name, |server| {
            server.receiver = if over {
                server.lost_at = now;
                Receiver::Away { again_at: now }
            } else {
                Receiver::Streaming { from: from.clone(), pid, silent_since: since }
            };
        });
        if over && gate_open {
            // The first attempt after a loss is made at once.
            self.connect(name, 0);
        }
    }

    /// libpq's walk along the list from a place on.
    fn connect(&mut self, name: &NodeName, from: usize) {
        let Some(server) = self.servers.get(name) else { return };
        let entries = hosts(self, &server.running.conninfo);
        let patience = server.running.conninfo.get("tcp_user_timeout").and_then(|text| text.parse().ok());
        let again = Receiver::Away { again_at: self.now.plus(self.settings.retry_milliseconds) };
        let mut receiver = again.clone();
        for (place, entry) in entries.iter().enumerate().skip(from) {
            let answer = entry.as_ref().map_or(Answer::NextEntry, |entry| self.answer(name, entry));
            match (answer, entry) {
                (Answer::NextEntry, _) | (_, None) => continue,
                (Answer::Vanishes, _) => {
                    let until = Some(self.now.plus(patience.unwrap_or(CONNECT_MILLISECONDS)));
                    receiver = Receiver::Connecting { place, until };
                }
                (Answer::Hangs, _) => receiver = Receiver::Connecting { place, until: None },
                (Answer::Ends, _) => {}
                (Answer::Streams, Some(entry)) => receiver = self.stream(name, &entry.clone()),
            }
            break;
        }
        self.change(name, |server| server.receiver = receiver);
    }

    fn answer(&self, name: &NodeName, entry: &NodeName) -> Answer {
        let (Some(child), Some(upstream)) = (self.servers.get(name), self.servers.get(entry)) else {
            return Answer::NextEntry;
        };
        if self.are_cut(name, entry) {
            return Answer::Vanishes;
        }
        match upstream.process {
            Process::Down => return Answer::NextEntry,
            Process::Frozen => return Answer::Hangs,
            Process::Up => {}
        }
        if upstream.rejects_replication {
            return Answer::Ends;
        }
        if primary_only(&child.running.conninfo) && upstream.in_recovery {
            return Answer::NextEntry;
        }
        if starts_replication(child, upstream) { Answer::Streams } else { Answer::Ends }
    }

    fn stream(&mut self, name: &NodeName, from: &NodeName) -> Receiver {
        self.next_pid += 2;
        let (pid, sender_pid) = (self.next_pid, self.next_pid + 1);
        if let Some(child) = self.servers.get(name) {
            let setting = child.running.clone();
            let application_name = setting.conninfo.get("application_name").unwrap_or("walreceiver").to_owned();
            let sender = Sender {
                pid: sender_pid,
                receiver_pid: pid,
                child: name.clone(),
                application_name,
                slot: setting.slot,
                silent_since: None,
            };
            self.change(from, |upstream| upstream.senders.push(sender));
        }
        Receiver::Streaming { from: from.clone(), pid, silent_since: None }
    }
}

/// Whether a walsender would begin to send: a free one, the slot there and idle, a history that holds the child's, and
/// the WAL that it asks for.
fn starts_replication(child: &Server, upstream: &Server) -> bool {
    let slot = &child.running.slot;
    let slot_is_there = slot.is_empty() || upstream.slots.get(slot).is_some_and(|slot| !slot.lost);
    let slot_is_free = slot.is_empty() || upstream.holder(slot).is_none();
    let asked = child.received.segment_start(child.segment_bytes);
    upstream.senders.len() < upstream.senders_max
        && slot_is_there
        && slot_is_free
        && child.system_identifier == upstream.system_identifier
        && history_holds(child, upstream)
        && upstream.oldest <= asked
        && upstream.received >= asked
}

/// Whether the child's timeline is in the upstream's history and the child is not beyond the point where that left it.
pub(super) fn history_holds(child: &Server, upstream: &Server) -> bool {
    child.timeline == upstream.timeline
        || upstream.history.iter().any(|(timeline, fork)| *timeline == child.timeline && child.received <= *fork)
}

fn sends(upstream: &Server, child: &NodeName, receiver_pid: i32) -> bool {
    upstream.senders.iter().any(|sender| sender.child == *child && sender.receiver_pid == receiver_pid)
}

fn receives(child: &Server, from: &NodeName, pid: i32) -> bool {
    matches!(&child.receiver, Receiver::Streaming { from: theirs, pid: its, .. } if theirs == from && *its == pid)
}

/// The servers of a connection string, in libpq's order; `None` for an address where nobody is.
fn hosts(world: &World, conninfo: &Conninfo) -> Vec<Option<NodeName>> {
    conninfo.hosts().into_iter().map(|(host, port)| world.node_at(&host, port).cloned()).collect()
}
