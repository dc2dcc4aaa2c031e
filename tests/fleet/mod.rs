//! Fleets for the laws of the planner: servers reduced to what routes and slots do to them, in the way
//! postgres-facts.md measured it (libpq goes on to the next entry when one refuses, and sticks to one that lacks the
//! slot). They are input for a pure function, not a stand-in for PostgreSQL: what PostgreSQL does is tested on servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "every test binary compiles this module and uses a part of it")]

pub(crate) mod shapes;

use std::collections::BTreeMap;
use std::sync::Arc;

use waltree::model::observed::{InstalledRoute, Receiver, Sender, Slot};
use waltree::model::{
    ByNode, Conninfo, Desired, Facts, Lsn, Memory, Millis, NodeName, NodeView, Observed, Timeline, Unseen, WhyUnseen,
    tree,
};
use waltree::plan::{Done, Outcome, Plan, Planned, Step, plan, record};

/// Bytes of WAL the primary writes in a tick.
const WAL_A_TICK: u64 = 4 << 20;
const SEGMENT: u64 = 16 << 20;

/// One server.
#[derive(Debug, Clone)]
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
    }

    fn connect(&mut self, name: &NodeName) {
        let server = &self.servers[name];
        let refused = |up: &NodeName| self.refuses.as_ref() == Some(&(name.clone(), up.clone()));
        let lost = server.upstream.as_ref().is_some_and(|up| !self.servers[up].up || refused(up));
        if !server.standby || !server.up {
            self.servers.get_mut(name).unwrap().upstream = None;
        } else if lost || server.upstream.is_none() {
            let new = self.libpq(name);
            self.servers.get_mut(name).unwrap().upstream = new;
        }
    }

    /// Whom a server ends up with: the first entry that accepts, if that one has its slot.
    fn libpq(&self, name: &NodeName) -> Option<NodeName> {
        let server = &self.servers[name];
        let primary_only = tree::primary_only(&server.conninfo);
        let entries = tree::entries(&self.desired.addresses(), &server.conninfo);
        let accepts = |up: &&NodeName| self.servers[*up].up && !(primary_only && self.servers[*up].standby);
        let first = entries.iter().find(accepts)?;
        let slot = server.slot.is_empty() || self.servers[first].slots.contains_key(&server.slot);
        let refused = self.refuses.as_ref() == Some(&(name.clone(), first.clone()));
        (slot && !refused).then(|| first.clone())
    }

    fn flow(&mut self) {
        for name in self.servers.keys().cloned().collect::<Vec<_>>() {
            if let Some(up) = self.servers[&name].upstream.clone() {
                let position = self.servers[&up].position;
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
            let why = if rejected { WhyUnseen::CredentialsRejected } else { WhyUnseen::Refused };
            let unseen = Unseen { why, detail: why.to_string() };
            let last = server.up.then(|| Arc::new(self.said(name)));
            NodeView { last, unseen: (!server.up || rejected).then_some(unseen) }
        };
        let nodes: ByNode<_> = self.servers.keys().map(|name| (name.clone(), view(name))).collect();
        self.memory.advance(&self.desired, &nodes, self.now);
        Observed { nodes, memory: self.memory.clone() }
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
            timeline: Timeline(1),
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
            restart_lsn: Some(*restart),
            xmin: None,
            lost: false,
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
            timeline: Some(Timeline(1)),
            timeline_at_least: Some(Timeline(1)),
            history: Vec::new(),
            redo: Lsn(server.position.0.saturating_sub(SEGMENT)),
            oldest_wal: Some(Lsn(server.position.0.saturating_sub(2 * SEGMENT)).segment_start(SEGMENT)),
            segment_bytes: SEGMENT,
            replay_paused: false,
            startup_wait: None,
            receiver,
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
    fn carry_out_one(&mut self, planned: Planned) {
        let position = self.servers[planned.step.server()].position;
        let server = self.servers.get_mut(planned.step.server()).unwrap();
        assert!(server.up, "a step on a server that was not seen: {planned:?}");
        match &planned.step {
            Step::Heartbeat { .. } => server.position.0 += 64,
            Step::CreateSlot { owner, .. } | Step::RecreateSlot { owner, .. } => {
                server.slots.insert(owner.slot().to_owned(), Lsn(position.0.saturating_sub(SEGMENT)));
            }
            Step::AdvanceSlot { owner, to, .. } => {
                server.slots.insert(owner.slot().to_owned(), (*to).min(position));
            }
            Step::DropSlot { on, owner } => {
                server.slots.remove(owner.slot());
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
                server.conninfo = conninfo.clone();
                server.nudged = *nudge;
                if let Some(slot) = slot {
                    server.slot.clone_from(slot);
                }
                server.upstream = None;
                server.connections += 1;
                let new = self.libpq(node);
                self.servers.get_mut(node).unwrap().upstream = new;
            }
            // Nothing here holds back transactions, and no connection vanishes without a word.
            Step::Reload { .. } | Step::ClearXmin { .. } | Step::EndSender { .. } | Step::TryDisk { .. } => {}
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

    /// Kills a server, or starts it again as what it was.
    pub(crate) fn set_up(&mut self, name: &NodeName, up: bool) {
        let server = self.servers.get_mut(name).unwrap();
        server.up = up;
        server.upstream = None;
    }

    /// Who receives from whom.
    pub(crate) fn tree(&self) -> ByNode<Option<NodeName>> {
        self.servers.iter().map(|(name, server)| (name.clone(), server.upstream.clone())).collect()
    }
}
