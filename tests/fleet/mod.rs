//! Fleets for the laws of the planner: servers reduced to what routes and slots do to them, in the way
//! postgres-facts.md measured it (libpq goes on to the next entry when one refuses, and sticks to one that lacks the
//! slot). They are input for a pure function, not a stand-in for PostgreSQL: what PostgreSQL does is tested on servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "every test binary compiles this module and uses a part of it")]

pub(crate) mod laws;
pub(crate) mod shapes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waltree::model::observed::{InstalledRoute, Receiver, Sender, Slot};
use waltree::model::{
    ByNode, Conninfo, Desired, Facts, Lsn, Memory, Millis, NodeName, NodeView, Observed, Timeline, Unseen, WhyUnseen,
    tree,
};
use waltree::plan::{Done, Outcome, Plan, Planned, Step, plan, record};

/// Bytes of WAL the primary writes in a tick.
const WAL_A_TICK: u64 = 4 << 20;
pub(crate) const SEGMENT: u64 = 16 << 20;

/// Ticks by which a reload may be late without a reason that can be seen; longer ones are due to paused replay.
const LATE_RELOAD_TICKS: usize = 3;

/// One server.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Server {
    pub(crate) up: bool,
    pub(crate) standby: bool,
    pub(crate) position: Lsn,
    pub(crate) upstream: Option<NodeName>,
    pub(crate) conninfo: Conninfo,
    pub(crate) nudged: bool,
    pub(crate) slot: String,
    pub(crate) slots: BTreeMap<String, Lsn>,
    /// Walreceivers so far that a route began.
    pub(crate) connections: i32,
    pub(crate) timeline: Timeline,
    pub(crate) history: Vec<(Timeline, Lsn)>,
    /// The start of the oldest segment that it has.
    pub(crate) oldest_wal: Lsn,
    /// Slots that were invalidated.
    pub(crate) lost: BTreeSet<String>,
    /// Slots that hold back transactions.
    pub(crate) xmin: BTreeSet<String>,
    /// For so many ticks a route is only written: its reload is late, or replay is paused (safety.md 2.4).
    pub(crate) held: usize,
    /// Its route is written and not in use yet.
    pub(crate) stale: bool,
    /// So many of the next reloads are lost.
    pub(crate) loses: usize,
    /// The last one was: what is written comes into use by another (postgres-facts.md 2.4).
    pub(crate) unloaded: bool,
}

/// Changes what a server says.
type Says = Box<dyn Fn(&NodeName, &mut Facts)>;

/// A fleet, its clock and what the operator remembers of it.
pub(crate) struct Fleet {
    pub(crate) desired: Desired,
    pub(crate) servers: ByNode<Server>,
    pub(crate) now: Millis,
    pub(crate) memory: Memory,
    pub(crate) primary: NodeName,
    /// A server that works and does not let the operator in.
    pub(crate) rejects_us: Option<NodeName>,
    /// Servers that work and of which no answer comes to the operator.
    pub(crate) silent: BTreeSet<NodeName>,
    /// A child and the upstream that lets it connect and gives it nothing: libpq does not go on from there.
    pub(crate) refuses: Option<(NodeName, NodeName)>,
    /// What servers say otherwise than they would.
    pub(crate) says: Says,
    /// Moves ordered so far.
    pub(crate) moves: usize,
}

impl Fleet {
    /// A fleet in which every standby receives from the server that `upstream` gives it, without slots or names.
    pub(crate) fn new(desired: Desired, upstream: impl Fn(&NodeName) -> NodeName) -> Self {
        let primary = desired.root().unwrap().members[0].clone();
        let server = |name: &NodeName| {
            let standby = *name != primary;
            let up = &desired.nodes[&upstream(name)];
            let text = format!("host={} port={} user=repl", up.address, up.port);
            Server {
                up: true,
                standby,
                position: Lsn(SEGMENT),
                upstream: standby.then(|| upstream(name)),
                conninfo: if standby { Conninfo::parse(&text).unwrap() } else { Conninfo::default() },
                nudged: false,
                slot: String::new(),
                slots: BTreeMap::new(),
                connections: 1,
                timeline: Timeline(1),
                history: Vec::new(),
                oldest_wal: Lsn(0),
                lost: BTreeSet::new(),
                xmin: BTreeSet::new(),
                held: 0,
                stale: false,
                loses: 0,
                unloaded: false,
            }
        };
        let servers = desired.nodes.keys().map(|name| (name.clone(), server(name))).collect();
        Self {
            desired,
            servers,
            now: Millis(1_000),
            memory: Memory::default(),
            primary,
            rejects_us: None,
            silent: BTreeSet::new(),
            refuses: None,
            says: Box::new(|_, _| {}),
            moves: 0,
        }
    }

    /// Time passes: the primary writes, connections that can be made are made, WAL flows.
    pub(crate) fn tick(&mut self, milliseconds: u64) {
        self.now = self.now.plus(milliseconds);
        if self.servers[&self.primary].up {
            self.servers.get_mut(&self.primary).unwrap().position.0 += WAL_A_TICK;
        }
        for name in self.servers.keys().cloned().collect::<Vec<_>>() {
            self.connect(&name);
        }
        // As many passes as there can be hops: WAL reaches the lowest node within the tick.
        for _ in 0..self.desired.limits.depth + 2 {
            self.flow();
        }
        self.servers.values_mut().for_each(Server::remove_wal);
    }

    fn connect(&mut self, name: &NodeName) {
        let server = &self.servers[name];
        let refused = |up: &NodeName| self.refuses.as_ref() == Some(&(name.clone(), up.clone()));
        let lost = server.upstream.as_ref().is_some_and(|up| !self.servers[up].up || refused(up));
        let (waits, begins) = (server.held > 0 || server.unloaded, lost || server.stale || server.upstream.is_none());
        let new = if begins && !waits { self.libpq(name) } else { None };
        let server = self.servers.get_mut(name).unwrap();
        server.held = server.held.saturating_sub(1);
        if !server.standby || !server.up || (waits && lost) {
            server.upstream = None;
        } else if begins && !waits {
            (server.upstream, server.stale) = (new, false);
        }
    }

    /// Whom a server ends up with: the first entry that accepts, if that one has its slot.
    fn libpq(&self, name: &NodeName) -> Option<NodeName> {
        let server = &self.servers[name];
        let primary_only = tree::primary_only(&server.conninfo);
        let entries = tree::entries(&self.desired.addresses(), &server.conninfo);
        let accepts = |up: &&NodeName| self.servers[*up].up && !(primary_only && self.servers[*up].standby);
        let first = entries.iter().find(accepts)?;
        let refused = self.refuses.as_ref() == Some(&(name.clone(), first.clone()));
        (self.serves(first, name) && !refused).then(|| first.clone())
    }

    /// Whether `up` sends WAL to `child` when that asks: its slot is of use, the segment that it asks for is there, and
    /// the child has nothing beyond the fork where the history of `up` left its timeline (postgres-facts.md 2, 4).
    pub(crate) fn serves(&self, up: &NodeName, child: &NodeName) -> bool {
        let (up, child) = (&self.servers[up], &self.servers[child]);
        let slot = child.slot.is_empty() || (up.slots.contains_key(&child.slot) && !up.lost.contains(&child.slot));
        slot && up.oldest_wal <= child.position.segment_start(SEGMENT) && is_ancestor(child, up)
    }

    /// Somebody who receives from himself through others, as the streams are (law 1).
    pub(crate) fn ring(&self) -> Option<&NodeName> {
        self.servers.keys().find(|node| self.above(node).any(|up| up == *node))
    }

    /// Whether the streams lead from a node to the primary.
    pub(crate) fn is_rooted(&self, node: &NodeName) -> bool {
        self.servers[&self.primary].up && (*node == self.primary || self.above(node).any(|up| *up == self.primary))
    }

    /// Whom a node receives from, whom that one receives from, and so on.
    fn above<'a>(&'a self, node: &NodeName) -> impl Iterator<Item = &'a NodeName> + use<'a> {
        let next = |at: &&NodeName| self.servers[*at].upstream.as_ref();
        std::iter::successors(self.servers[node].upstream.as_ref(), next).take(self.servers.len())
    }

    /// The same fleet again; what servers say otherwise is not in it.
    pub(crate) fn copy(&self) -> Self {
        let (rejects_us, refuses) = (self.rejects_us.clone(), self.refuses.clone());
        Self {
            desired: self.desired.clone(),
            servers: self.servers.clone(),
            now: self.now,
            memory: self.memory.clone(),
            primary: self.primary.clone(),
            rejects_us,
            silent: self.silent.clone(),
            refuses,
            says: Box::new(|_, _| {}),
            moves: self.moves,
        }
    }

    fn flow(&mut self) {
        for name in self.servers.keys().cloned().collect::<Vec<_>>() {
            if let Some(up) = self.servers[&name].upstream.clone() {
                let position = self.servers[&up].position;
                if self.servers[&up].timeline != self.servers[&name].timeline {
                    let (timeline, history) = (self.servers[&up].timeline, self.servers[&up].history.clone());
                    let follows = is_ancestor(&self.servers[&name], &self.servers[&up]);
                    let server = self.servers.get_mut(&name).unwrap();
                    if !follows {
                        server.upstream = None;
                        continue;
                    }
                    (server.timeline, server.history) = (timeline, history);
                }
                let server = self.servers.get_mut(&name).unwrap();
                server.position = server.position.max(position);
                let (slot, replay) = (server.slot.clone(), server.position);
                if let Some(restart) = self.servers.get_mut(&up).unwrap().slots.get_mut(&slot) {
                    *restart = replay;
                }
            }
        }
    }

    /// What an operator sees now.
    pub(crate) fn observe(&mut self) -> Observed {
        let view = |name: &NodeName| {
            let server = &self.servers[name];
            let rejected = self.rejects_us.as_ref() == Some(name);
            let why = match (server.up, rejected, self.silent.contains(name)) {
                (true, true, _) => Some(WhyUnseen::CredentialsRejected),
                (true, false, true) => Some(WhyUnseen::Timeout),
                (true, false, false) => None,
                (false, ..) => Some(WhyUnseen::Refused),
            };
            let last = server.up.then(|| Arc::new(self.said(name)));
            NodeView { last, unseen: why.map(|why| Unseen { why, detail: why.to_string() }) }
        };
        let nodes: ByNode<_> = self.servers.keys().map(|name| (name.clone(), view(name))).collect();
        self.memory.advance(&self.desired, &nodes, self.now);
        Observed { nodes, memory: self.memory.clone().into() }
    }

    fn said(&self, name: &NodeName) -> Facts {
        let mut facts = self.facts(name);
        (self.says)(name, &mut facts);
        facts
    }

    fn facts(&self, name: &NodeName) -> Facts {
        let server = &self.servers[name];
        let spec = |up: &NodeName| &self.desired.nodes[up];
        let receiver = server.upstream.as_ref().map(|up| Receiver {
            pid: server.connections,
            status: "streaming".to_owned(),
            host: spec(up).address.clone(),
            port: spec(up).port,
            slot: Some(server.slot.clone()),
            timeline: server.timeline,
            silent_for_milliseconds: 0,
        });
        let children: Vec<_> = self.servers.iter().filter(|(_, s)| s.upstream.as_ref() == Some(name)).collect();
        let pid =
            |owner: &str| children.iter().position(|(_, s)| s.slot == owner).map(|i| i32::try_from(i).unwrap() + 10);
        let app = |s: &Server| s.conninfo.get("application_name").unwrap_or("walreceiver").to_owned();
        let sender = |(i, (_, s)): (usize, &(&NodeName, &Server))| Sender {
            pid: i32::try_from(i).unwrap() + 10,
            application_name: app(s),
            state: "streaming".to_owned(),
            sync: Some(false),
            slot: (!s.slot.is_empty()).then(|| s.slot.clone()),
            client: None,
            replied: None,
        };
        let slot = |owner: &String, restart: &Lsn| Slot {
            active_pid: pid(owner),
            restart_lsn: (!server.lost.contains(owner)).then_some(*restart),
            xmin: server.xmin.contains(owner).then_some(700),
            lost: server.lost.contains(owner),
        };
        Facts {
            asked_at: self.now,
            at: self.now,
            system_identifier: 7,
            cluster_name: String::new(),
            version_num: 150_018,
            started: 0,
            in_recovery: server.standby,
            position: server.position,
            replay: server.position,
            timeline: Some(server.timeline),
            timeline_at_least: Some(server.timeline),
            history: server.history.clone(),
            redo: Lsn(server.position.0.saturating_sub(SEGMENT)),
            oldest_wal: Some(server.oldest_wal),
            segment_bytes: SEGMENT,
            replay_paused: server.held > LATE_RELOAD_TICKS,
            startup_wait: receiver.is_none().then(|| "RecoveryRetrieveRetryInterval".to_owned()),
            receiver,
            connecting: false,
            route: InstalledRoute {
                conninfo: server.conninfo.clone(),
                slot: server.slot.clone(),
                nudged: server.nudged,
                has_password: false,
                unreadable: false,
                pending: None,
            },
            senders: children.iter().enumerate().map(sender).collect(),
            slots: server.slots.iter().map(|(owner, restart)| (owner.clone(), slot(owner, restart))).collect(),
            synchronous_standby_names: String::new(),
            alter_system_allowed: true,
            disk_full: false,
            missing_grants: Vec::new(),
            may_end_senders: true,
            parameters: BTreeMap::new(),
        }
    }

    /// Looks and plans.
    pub(crate) fn plan(&mut self) -> (Observed, Plan) {
        let observed = self.observe();
        let made = plan(&self.desired, &observed, self.now);
        (observed, made)
    }

    /// Carries out the steps that `keep` lets through.
    pub(crate) fn carry_out(&mut self, made: &Plan, keep: impl Fn(usize) -> bool) {
        for (_, planned) in made.steps.iter().enumerate().filter(|(i, _)| keep(*i)) {
            self.carry_out_one(planned.clone());
        }
    }

    /// One step, as a server does it.
    pub(crate) fn carry_out_one(&mut self, planned: Planned) {
        let position = self.servers[planned.step.server()].position;
        let server = self.servers.get_mut(planned.step.server()).unwrap();
        assert!(server.up, "a step on a server that was not seen: {planned:?}");
        match &planned.step {
            Step::Heartbeat { .. } => server.position.0 += 64,
            Step::CreateSlot { owner, .. } | Step::RecreateSlot { owner, .. } => {
                server.forget_slot(owner);
                server.slots.insert(owner.slot().to_owned(), Lsn(position.0.saturating_sub(SEGMENT)));
            }
            Step::AdvanceSlot { owner, to, .. } => {
                server.slots.insert(owner.slot().to_owned(), (*to).min(position));
            }
            Step::DropSlot { on, owner } => {
                server.forget_slot(owner);
                assert!(
                    self.servers.get(owner).is_none_or(|owner| owner.upstream.as_ref() != Some(on)),
                    "law 3: dropped under its owner: {planned:?}"
                );
            }
            Step::SetRoute { node, conninfo, nudge, slot, .. } => {
                self.moves += 1;
                assert!(
                    *nudge || server.conninfo != *conninfo || server.nudged || slot.is_some(),
                    "a move for nothing"
                );
                assert_eq!(conninfo.get("user"), Some("repl"), "what is the user's own is kept: {planned:?}");
                server.conninfo = conninfo.clone();
                server.nudged = *nudge;
                if let Some(slot) = slot {
                    server.slot.clone_from(slot);
                }
                server.connections += 1;
                server.reload();
                server.stale = server.held > 0 || server.unloaded;
                if !server.stale {
                    server.upstream = None;
                    let new = self.libpq(node);
                    self.servers.get_mut(node).unwrap().upstream = new;
                }
            }
            Step::ClearXmin { owner, .. } => {
                server.xmin.remove(owner.slot());
            }
            // One that is only late comes by itself.
            Step::Reload { .. } => server.reload(),
            // No connection vanishes without a word.
            Step::EndSender { .. } | Step::TryDisk { .. } => {}
        }
        record(&mut self.memory, &Outcome { done: vec![Done { planned, result: Ok(()) }] }, self.now);
    }

    /// Children of every server as the streams are now.
    pub(crate) fn load(&self) -> ByNode<usize> {
        let mut load = ByNode::default();
        for up in self.servers.values().filter_map(|server| server.upstream.clone()) {
            *load.entry(up).or_default() += 1;
        }
        load
    }

    /// All but the primary.
    pub(crate) fn standbys(&self) -> Vec<NodeName> {
        self.desired.nodes.keys().filter(|node| **node != self.primary).cloned().collect()
    }

    /// A person clones anew whoever cannot be helped otherwise.
    pub(crate) fn clone_anew(&mut self) {
        let primary = self.servers[&self.primary].clone();
        for node in self.standbys() {
            self.set_up(&node, true);
            let server = self.servers.get_mut(&node).unwrap();
            (server.position, server.oldest_wal) = (primary.position, primary.oldest_wal);
            (server.timeline, server.history) = (primary.timeline, primary.history.clone());
        }
    }

    /// Kills a server, or starts it again as what it was.
    pub(crate) fn set_up(&mut self, name: &NodeName, up: bool) {
        let server = self.servers.get_mut(name).unwrap();
        server.up = up;
        server.upstream = None;
    }

    /// The primary goes on on another timeline, as after a promotion.
    pub(crate) fn begin_timeline(&mut self) {
        let server = self.servers.get_mut(&self.primary).unwrap();
        server.history.push((server.timeline, server.position));
        server.timeline.0 += 1;
    }

    /// Who receives from whom.
    pub(crate) fn tree(&self) -> ByNode<Option<NodeName>> {
        self.servers.iter().map(|(name, server)| (name.clone(), server.upstream.clone())).collect()
    }
}

impl Server {
    fn reload(&mut self) {
        self.unloaded = self.loses > 0;
        self.loses = self.loses.saturating_sub(1);
    }

    fn forget_slot(&mut self, owner: &NodeName) {
        self.slots.remove(owner.slot());
        self.lost.remove(owner.slot());
        self.xmin.remove(owner.slot());
    }

    /// A checkpoint: what neither its own recovery nor a slot needs is removed, and does not come back.
    fn remove_wal(&mut self) {
        let kept = self.slots.iter().filter(|(slot, _)| !self.lost.contains(*slot)).map(|(_, restart)| *restart);
        let needed = kept.fold(Lsn(self.position.0.saturating_sub(2 * SEGMENT)), Lsn::min);
        self.oldest_wal = self.oldest_wal.max(needed.segment_start(SEGMENT));
    }
}

/// Whether what `child` holds is part of what `up` holds or will hold.
fn is_ancestor(child: &Server, up: &Server) -> bool {
    let fork = up.history.iter().find(|(timeline, _)| *timeline == child.timeline).map(|(_, fork)| *fork);
    child.timeline == up.timeline || fork.is_some_and(|fork| child.position <= fork)
}
