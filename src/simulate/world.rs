//! The servers, the network between them, and time.

use std::collections::{BTreeMap, BTreeSet};

use super::server::{Process, Receiver, SEGMENT_BYTES, SENDERS_MAX, Server, Setting, SlotAt};
use super::{Dice, stream, wal};
use crate::model::{ByNode, Conninfo, Desired, Lsn, Millis, NodeName, NodeSpec, Route};

/// Where the WAL of every world begins.
const BEGIN: Lsn = Lsn(3 * SEGMENT_BYTES);

/// Above every process id that a real server has: those are taken over, and none may mean two connections.
const PID_MAX: i32 = 1 << 23;

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Where the operator runs.
    Operator,
    /// The machine of a server.
    Node(NodeName),
}

/// How the servers are set, in milliseconds; PostgreSQL's own defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// `wal_retrieve_retry_interval`.
    pub retry_milliseconds: u64,
    /// `wal_receiver_timeout`.
    pub receiver_timeout_milliseconds: u64,
    /// `wal_sender_timeout`.
    pub sender_timeout_milliseconds: u64,
    /// `checkpoint_timeout`.
    pub checkpoint_milliseconds: u64,
    /// `max_slot_wal_keep_size`, in bytes; `None` for no bound.
    pub slot_keep_bytes: Option<u64>,
    /// `hot_standby_feedback` of every standby.
    pub feedback: bool,
    /// What the primary writes, in bytes a second.
    pub write_bytes_per_second: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retry_milliseconds: 5_000,
            receiver_timeout_milliseconds: 60_000,
            sender_timeout_milliseconds: 60_000,
            checkpoint_milliseconds: 300_000,
            slot_keep_bytes: None,
            feedback: false,
            write_bytes_per_second: 1 << 20,
        }
    }
}

/// Everything that is.
#[derive(Debug, Clone)]
pub struct World {
    /// The clock.
    pub now: Millis,
    /// Every server, also those that the topology does not name.
    pub servers: ByNode<Server>,
    /// Who listens where.
    addresses: BTreeMap<(String, u16), NodeName>,
    listening: ByNode<(String, u16)>,
    /// Pairs between which every packet vanishes; the smaller first.
    cuts: BTreeSet<(Place, Place)>,
    /// How the servers are set.
    pub settings: Settings,
    /// What chance there is.
    pub dice: Dice,
    pub(super) next_pid: i32,
    next_checkpoint: Millis,
}

impl World {
    /// The servers of a topology as somebody may have left them: each streams from the server that `upstream` gives it,
    /// without slots or names. The first of the root group is the primary.
    pub fn new(desired: &Desired, seed: u64, upstream: impl Fn(&NodeName) -> NodeName) -> Self {
        let primary = desired.root().and_then(|root| root.members.first());
        let address = |name: &NodeName| desired.nodes.get(name).map(|spec| (spec.address.clone(), spec.port));
        let server = |name: &NodeName| {
            let mut server = Server::new(Some(name) != primary, BEGIN);
            if let Some((host, port)) = address(&upstream(name)).filter(|_| server.in_recovery) {
                let setting = plain_setting(&host, port);
                (server.running, server.file) = (setting.clone(), setting);
            }
            server
        };
        let servers = desired.nodes.keys().map(|name| (name.clone(), server(name))).collect();
        let mut world = Self::of(desired, seed, servers, Millis(1_000_000));
        world.pass(1);
        world
    }

    /// These servers, from this time on.
    pub(super) fn of(desired: &Desired, seed: u64, mut servers: ByNode<Server>, now: Millis) -> Self {
        let settings = Settings::default();
        let address = |(name, spec): (&NodeName, &NodeSpec)| (name.clone(), (spec.address.clone(), spec.port));
        let listening: ByNode<_> = desired.nodes.iter().map(address).collect();
        // Those that are not taken from real ones; no two servers have a start in common.
        for (server, starts) in servers.values_mut().filter(|server| server.told.is_none()).zip(1_u64..) {
            server.starts = starts << 32;
        }
        Self {
            now,
            servers,
            addresses: listening.iter().map(|(name, address)| (address.clone(), name.clone())).collect(),
            listening,
            cuts: BTreeSet::new(),
            settings,
            dice: Dice(seed),
            next_pid: PID_MAX,
            next_checkpoint: now.plus(settings.checkpoint_milliseconds),
        }
    }

    /// The server that listens there.
    pub fn node_at(&self, host: &str, port: u16) -> Option<&NodeName> {
        self.addresses.get(&(host.to_owned(), port))
    }

    /// Where a server listens.
    pub fn address_of(&self, node: &NodeName) -> Option<(&str, u16)> {
        self.listening.get(node).map(|(host, port)| (host.as_str(), *port))
    }

    /// Whether packets pass between two places.
    pub fn is_cut(&self, a: &Place, b: &Place) -> bool {
        !self.cuts.is_empty() && self.cuts.contains(&pair(a, b))
    }

    /// Whether packets pass between two servers.
    pub(super) fn are_cut(&self, a: &NodeName, b: &NodeName) -> bool {
        !self.cuts.is_empty() && self.is_cut(&Place::Node(a.clone()), &Place::Node(b.clone()))
    }

    /// Lets packets between two places vanish, or pass again.
    pub fn cut(&mut self, a: &Place, b: &Place, cut: bool) {
        if cut {
            self.cuts.insert(pair(a, b))
        } else {
            self.cuts.remove(&pair(a, b))
        };
    }

    /// The fleet as these routes make it, slots and all, without the way there.
    pub fn install(&mut self, desired: &Desired, routes: &ByNode<Route>) {
        for (node, route) in routes {
            for on in &route.entries {
                if let Some(server) = self.servers.get_mut(on) {
                    let restart = server.replayed;
                    server.slots.insert(node.slot().to_owned(), SlotAt::reserving(restart));
                }
            }
            if let Some(server) = self.servers.get_mut(node) {
                let conninfo = desired.conninfo(node, route, &server.running.conninfo);
                let setting = Setting { conninfo, nudged: false, slot: node.slot().to_owned() };
                (server.running, server.file) = (setting.clone(), setting);
                server.receiver = Receiver::Away { again_at: self.now };
            }
        }
        self.pass(0);
    }

    /// Everything is mended: all servers run, packets pass, nothing is slow or refused, and whoever can follow the primary of
    /// the newest timeline no more is made anew from it.
    pub fn mend(&mut self) {
        self.cuts.clear();
        for name in self.servers.keys().cloned().collect::<Vec<_>>() {
            self.start(&name);
            let Some(server) = self.servers.get_mut(&name) else { continue };
            server.process = Process::Up;
            server.paused = false;
            server.rejects_replication = false;
            server.rejects_operator = false;
            server.senders_max = SENDERS_MAX;
            server.receive_bytes_per_second = None;
        }
        // One by one: whoever is made anew has no old WAL any more that another may need.
        while let Some(name) = self.servers.keys().find(|name| !self.can_follow(name)).cloned() {
            self.reclone(&name);
        }
    }

    /// The server that takes writes on the newest timeline.
    pub(super) fn newest_primary(&self) -> Option<&NodeName> {
        let primaries = self.servers.iter().filter(|(_, server)| server.is_up() && !server.in_recovery);
        primaries.max_by_key(|(_, server)| server.timeline).map(|(name, _)| name)
    }

    /// Whether a server is the primary of the newest timeline, or has nothing that this one has not, while somebody still has
    /// the WAL that it needs.
    fn can_follow(&self, node: &NodeName) -> bool {
        let Some(primary) = self.newest_primary().filter(|primary| *primary != node) else { return true };
        let (Some(server), Some(newest)) = (self.servers.get(node), self.servers.get(primary)) else { return true };
        let needed = server.received.segment_start(server.segment_bytes);
        let mut others = self.servers.iter().filter(|(other, _)| *other != node);
        let has_wal = |other: &Server| other.oldest <= needed && stream::history_holds(server, other);
        server.in_recovery && stream::history_holds(server, newest) && others.any(|(_, other)| has_wal(other))
    }

    /// Makes a server anew from the primary of the newest timeline. Slots are never copied, and who makes it points it to
    /// that primary without one (postgres-facts.md 2.1).
    pub fn reclone(&mut self, node: &NodeName) {
        let Some(primary) = self.newest_primary().filter(|primary| *primary != node).cloned() else { return };
        self.kill(node);
        let setting = self.address_of(&primary).map(|(host, port)| plain_setting(host, port));
        let (Some(source), Some(setting)) = (self.servers.get(&primary).cloned(), setting) else { return };
        if let Some(server) = self.servers.get_mut(node) {
            server.in_recovery = true;
            (server.system_identifier, server.timeline, server.history) =
                (source.system_identifier, source.timeline, source.history);
            (server.received, server.replayed, server.redo) = (source.received, source.received, source.redo);
            server.oldest = source.redo.segment_start(source.segment_bytes);
            server.file = setting;
            server.slots.clear();
        }
        self.start(node);
    }

    /// Lets time pass: servers write, connect, receive, replay, make checkpoints.
    pub fn pass(&mut self, milliseconds: u64) {
        self.now = self.now.plus(milliseconds);
        let written = self.settings.write_bytes_per_second.saturating_mul(milliseconds) / 1000;
        for server in self.servers.values_mut().filter(|server| server.is_up() && !server.in_recovery) {
            server.received.0 = server.received.0.saturating_add(written);
            server.replayed = server.received;
        }
        self.connections();
        self.flow(milliseconds);
        if self.now >= self.next_checkpoint {
            self.next_checkpoint = self.now.plus(self.settings.checkpoint_milliseconds);
            wal::checkpoints(self);
        }
    }

    /// How long it is until the next (restart)checkpoints, which let old WAL go where no slot keeps it, in milliseconds.
    pub(super) fn next_checkpoint_in(&self) -> u64 {
        self.next_checkpoint.since(self.now)
    }

    /// Kills a server's processes.
    pub fn kill(&mut self, node: &NodeName) {
        if let Some(server) = self.servers.get_mut(node) {
            server.process = Process::Down;
            server.senders.clear();
            server.receiver = Receiver::Away { again_at: self.now };
        }
        self.forget_connections_of(node);
    }

    /// The kernel of a dead server ends its connections; where packets vanish nobody hears of it.
    fn forget_connections_of(&mut self, node: &NodeName) {
        let names: Vec<NodeName> = self.servers.keys().filter(|name| !self.are_cut(name, node)).cloned().collect();
        for name in names {
            if let Some(server) = self.servers.get_mut(&name) {
                server.senders.retain(|sender| sender.child != *node);
            }
        }
    }

    /// Starts a server that is down, as what it was, with its slots as they are on disk.
    pub fn start(&mut self, node: &NodeName) {
        let now = self.now;
        let Some(server) = self.servers.get_mut(node).filter(|server| server.process == Process::Down) else { return };
        server.process = Process::Up;
        server.starts += 1;
        server.running = server.file.clone();
        server.reload_due = false;
        server.paused = false;
        server.receiver = Receiver::Away { again_at: now };
        server.slots.values_mut().for_each(SlotAt::recover);
    }

    /// Makes a standby the primary of a new timeline.
    pub fn promote(&mut self, node: &NodeName) {
        let newest = self.servers.values().map(|server| server.timeline.0).max().unwrap_or(1);
        let Some(server) = self.servers.get_mut(node).filter(|server| server.in_recovery && server.is_up()) else {
            return;
        };
        server.in_recovery = false;
        server.history.push((server.timeline, server.received));
        server.timeline = crate::model::Timeline(newest + 1);
        server.replayed = server.received;
        server.receiver = Receiver::Away { again_at: Millis(u64::MAX) };
        self.forget_connections_of(node);
    }
}

fn plain_setting(host: &str, port: u16) -> Setting {
    let mut conninfo = Conninfo::default();
    conninfo.set("host", host);
    conninfo.set("port", &port.to_string());
    conninfo.set("user", "repl");
    Setting { conninfo, nudged: false, slot: String::new() }
}

fn pair(a: &Place, b: &Place) -> (Place, Place) {
    if a <= b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}
