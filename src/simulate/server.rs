//! One server: what of a PostgreSQL server decides who receives from whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Conninfo, Facts, Lsn, Millis, NodeName, Timeline};

/// Bytes of a WAL segment, where nothing else is said.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// `max_wal_senders` of a server, where nothing else is said.
pub const SENDERS_MAX: usize = 100;

/// Whether its processes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// They run.
    Up,
    /// They are stopped (SIGSTOP): the kernel accepts connections, and nobody answers.
    Frozen,
    /// There is none.
    Down,
}

/// The two settings of a route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Setting {
    /// `primary_conninfo`.
    pub conninfo: Conninfo,
    /// It ends with one more blank.
    pub nudged: bool,
    /// `primary_slot_name`.
    pub slot: String,
}

/// The walreceiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    /// There is none; the startup process tries again at that time.
    Away {
        /// When.
        again_at: Millis,
    },
    /// It is inside connect, at this entry of its list.
    Connecting {
        /// Place in the list.
        place: usize,
        /// When the kernel gives up; `None` while a frozen server has accepted: never (postgres-facts.md 1.3).
        until: Option<Millis>,
    },
    /// It receives, or believes to.
    Streaming {
        /// From whom.
        from: NodeName,
        /// Its process id, and the connection's name at the other end.
        pid: i32,
        /// Since when nothing came.
        silent_since: Option<Millis>,
    },
}

/// One walsender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Its process id.
    pub pid: i32,
    /// Process id of the walreceiver at the other end.
    pub receiver_pid: i32,
    /// Who is at the other end.
    pub child: NodeName,
    /// The child's `application_name`.
    pub application_name: String,
    /// The slot it holds; empty for none.
    pub slot: String,
    /// Since when the child said nothing.
    pub silent_since: Option<Millis>,
}

/// One physical slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotAt {
    /// The oldest WAL it keeps.
    pub restart: Lsn,
    /// It was invalidated.
    pub lost: bool,
    /// It holds back transactions, as the feedback of its owner said last.
    pub holds_xmin: bool,
    /// What of that is on disk.
    saved: Saved,
}

/// What the last (restart)checkpoint wrote of a slot: a server that crashes comes back with it, however far the slot was
/// moved since and whether its xmin was cleared (safety.md X6, postgres-facts.md 14.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Saved {
    restart: Lsn,
    holds_xmin: bool,
}

impl SlotAt {
    /// A slot that was just made, which writes it to disk.
    pub fn reserving(restart: Lsn) -> Self {
        Self::on_disk(restart, false, false)
    }

    /// A slot that is on disk as it is.
    pub fn on_disk(restart: Lsn, lost: bool, holds_xmin: bool) -> Self {
        Self { restart, lost, holds_xmin, saved: Saved { restart, holds_xmin } }
    }

    /// A (restart)checkpoint writes it to disk.
    pub(super) fn save(&mut self) {
        self.saved = Saved { restart: self.restart, holds_xmin: self.holds_xmin };
    }

    /// Its server starts after a crash. That a slot was invalidated was written to disk at once.
    pub(super) fn recover(&mut self) {
        (self.restart, self.holds_xmin) = (self.saved.restart, self.saved.holds_xmin);
    }
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Server {
    /// Whether it runs.
    pub process: Process,
    /// Which start it is, or when it was: another number is another start, and of another server.
    pub starts: u64,
    /// What a real server said, when this is taken from one: what is not simulated stays as it was.
    pub told: Option<Arc<Facts>>,
    /// Bytes of a WAL segment.
    pub segment_bytes: u64,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Which cluster's data it holds.
    pub system_identifier: u64,
    /// The timeline it is on.
    pub timeline: Timeline,
    /// Where the timelines before ended.
    pub history: Vec<(Timeline, Lsn)>,
    /// A primary's flushed WAL, or what a standby has received.
    pub received: Lsn,
    /// What is replayed.
    pub replayed: Lsn,
    /// Replay is paused, and with it every change of route (postgres-facts.md 1.3).
    pub paused: bool,
    /// Redo of the last (restart)checkpoint.
    pub redo: Lsn,
    /// Start of the oldest segment present.
    pub oldest: Lsn,
    /// What runs.
    pub running: Setting,
    /// What the files say, which the next reload or start brings.
    pub file: Setting,
    /// A reload changed the route; the walreceiver is ended when the startup process next looks.
    pub reload_due: bool,
    /// Slots by name.
    pub slots: BTreeMap<String, SlotAt>,
    /// Walsenders.
    pub senders: Vec<Sender>,
    /// `max_wal_senders`.
    pub senders_max: usize,
    /// The walreceiver.
    pub receiver: Receiver,
    /// When its walreceiver last lost its connection.
    pub lost_at: Millis,
    /// pg_hba.conf has no line for replication.
    pub rejects_replication: bool,
    /// It rejects the operator's password.
    pub rejects_operator: bool,
    /// Most WAL it can take in a second, in bytes; `None` for as much as comes.
    pub receive_bytes_per_second: Option<u64>,
}

impl Server {
    /// A server that runs, with WAL from `at` on.
    pub fn new(in_recovery: bool, at: Lsn) -> Self {
        Self {
            process: Process::Up,
            starts: 1,
            told: None,
            segment_bytes: SEGMENT_BYTES,
            in_recovery,
            system_identifier: 7_300_000_000_000_000_001,
            timeline: Timeline(1),
            history: Vec::new(),
            received: at,
            replayed: at,
            paused: false,
            redo: at,
            oldest: at.segment_start(SEGMENT_BYTES),
            running: Setting::default(),
            file: Setting::default(),
            reload_due: false,
            slots: BTreeMap::new(),
            senders: Vec::new(),
            senders_max: SENDERS_MAX,
            receiver: Receiver::Away { again_at: Millis(0) },
            lost_at: Millis(0),
            rejects_replication: false,
            rejects_operator: false,
            receive_bytes_per_second: None,
        }
    }

    /// Whether its processes run.
    pub fn is_up(&self) -> bool {
        self.process == Process::Up
    }

    /// Whom it receives from, as it believes.
    pub fn upstream(&self) -> Option<&NodeName> {
        if let Receiver::Streaming { from, .. } = &self.receiver { Some(from) } else { None }
    }

    /// The walsender that holds a slot.
    pub fn holder(&self, slot: &str) -> Option<&Sender> {
        self.senders.iter().find(|sender| sender.slot == slot)
    }
}
