//! What is seen. Every field says what it is and where PostgreSQL shows it; "unknown" is a value (law 8).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ByNode, Conninfo, Lsn, Memory, NodeName, Timeline};

/// A point in time in milliseconds of the observer's boot-time clock (law 14). Never compared across machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// Milliseconds from `earlier` up to this point; 0 when `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This point and `milliseconds` more.
    #[must_use]
    pub fn plus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }
}

/// Why a server could not be seen. The name is what conditions and events call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::Display, strum::EnumIter, strum::IntoStaticStr)]
pub enum WhyUnseen {
    /// Not tried yet.
    NotYet,
    /// The port refused, or the connection was reset: no process listens.
    Refused,
    /// It accepted and did not answer within the deadline, or packets vanish.
    Timeout,
    /// Its name could not be resolved.
    AddressUnknown,
    /// It said no to user, password or certificate, or pg_hba.conf has no line for us.
    CredentialsRejected,
    /// The Secret is missing or lacks a key.
    CredentialsMissing,
    /// TLS could not be agreed on.
    TlsFailed,
    /// It is starting, stopping or recovering, and lets nobody in yet; or replay is in the way of whoever asks.
    Starting,
    /// All its connection slots are taken.
    TooManyConnections,
    /// It answered, but not what was asked: the message says what.
    BadAnswer,
}

/// A server that could not be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// The kind of failure.
    pub why: WhyUnseen,
    /// What the server or the network said, without any secret.
    pub detail: String,
}

/// What is known of one node: what it says now, or why it says nothing and what it said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// The last answer ever had, even if it is old. Its routes stay in the union graph (law 8: unseen is not absent).
    pub last: Option<Arc<Facts>>,
    /// Why there is no answer now; `None` when `last` is the present answer.
    pub unseen: Option<Unseen>,
}

impl NodeView {
    /// What the node says now; `None` when it is not seen.
    pub fn seen(&self) -> Option<&Facts> {
        if self.unseen.is_none() { self.last.as_deref() } else { None }
    }
}

/// One walreceiver, from `pg_stat_wal_receiver`. The row is there from the moment the connection is up, so it alone
/// proves nothing (postgres-facts.md 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Process id: another pid means another connection.
    pub pid: i32,
    /// `streaming`, `waiting`, `stopping`, ...
    pub status: String,
    /// The host of the upstream, as written in `primary_conninfo`.
    pub host: String,
    /// The port of the upstream.
    pub port: u16,
    /// The slot it uses there.
    pub slot: Option<String>,
    /// Timeline of the WAL received last.
    pub timeline: Timeline,
    /// How long ago its upstream said anything, in milliseconds; 0 when that is not known. By the wall clock of the server,
    /// which may have been stepped meanwhile: good for choosing between two looks at it, and for no more.
    pub silent_for_milliseconds: u64,
}

/// One walsender, from `pg_stat_replication` joined with the slot it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Process id.
    pub pid: i32,
    /// The child's `application_name`.
    pub application_name: String,
    /// `startup`, `catchup`, `streaming`, ...
    pub state: String,
    /// The slot it holds.
    pub slot: Option<String>,
    /// Commits may wait for the child: its `sync_state` is another than `async`. `None` where our role may not see it.
    pub sync: Option<bool>,
    /// Where the child comes from, as `address:port`; `None` for a socket of the same machine.
    pub client: Option<String>,
    /// When the child replied last, in microseconds of the child's own wall clock: only a change of it tells something.
    pub replied: Option<i64>,
}

/// One physical slot, from `pg_replication_slots`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// A walsender holds it.
    pub active_pid: Option<i32>,
    /// The oldest WAL it keeps; `None` for a slot that reserves nothing or is lost.
    pub restart_lsn: Option<Lsn>,
    /// The transaction horizon it holds back, if any (safety.md X6).
    pub xmin: Option<u64>,
    /// `wal_status = lost` or `invalidation_reason` set: final, only drop and create help. (`wal_status` is otherwise
    /// wrong on a standby, postgres-facts.md 2.1.)
    pub lost: bool,
}

/// The route as it is set on the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstalledRoute {
    /// The running `primary_conninfo`, any password masked before it left the server.
    pub conninfo: Conninfo,
    /// The running `primary_slot_name`; empty for none.
    pub slot: String,
    /// The text ends with the extra blank by which an equal route was made to reconnect last (postgres-facts.md 1.1).
    pub nudged: bool,
    /// It holds a password in clear, so it cannot be written anew without writing the password (postgres-facts.md 13).
    pub has_password: bool,
    /// It is no keyword/value string (a URI, or broken), so its foreign keywords cannot be kept.
    pub unreadable: bool,
    /// The value in the configuration files when that differs from the running one: a later reload or restart would
    /// bring it. `None` when equal or not readable by our role.
    pub pending: Option<Conninfo>,
}

/// What one server said in one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Facts {
    /// When it was asked: whatever it had then, it has now.
    pub asked_at: Millis,
    /// When its answer was here.
    pub at: Millis,
    /// Which cluster's data this is.
    pub system_identifier: u64,
    /// `cluster_name`; empty when it has none.
    pub cluster_name: String,
    /// `server_version_num`.
    pub version_num: u32,
    /// Postmaster start, microseconds of the server's own wall clock; used only to tell one incarnation from the next, and
    /// one server from another. 0 when it is not known.
    pub started: u64,
    /// It is a standby.
    pub in_recovery: bool,
    /// Primary: flushed WAL. Standby: `greatest(receive, replay)`; `pg_last_wal_receive_lsn()` alone goes backwards
    /// after a reconnect (postgres-facts.md 5.2).
    pub position: Lsn,
    /// Standby: replayed WAL; primary: the same as `position`.
    pub replay: Lsn,
    /// The timeline it is really on: the current WAL file's on a primary, `received_tli` on a receiving standby;
    /// `pg_control` lags. `None` on a standby without a walreceiver that never had one.
    pub timeline: Option<Timeline>,
    /// What `pg_control` says of it: the server is on this timeline or a later one.
    pub timeline_at_least: Option<Timeline>,
    /// Where the timelines before [`Facts::timeline`] ended, oldest first; empty when our role cannot read history
    /// files or there are none.
    pub history: Vec<(Timeline, Lsn)>,
    /// Redo position of the last (restart)checkpoint: where a new slot's reservation would begin.
    pub redo: Lsn,
    /// Start of the oldest WAL segment present; `None` when it could not be read.
    pub oldest_wal: Option<Lsn>,
    /// Bytes of a WAL segment.
    pub segment_bytes: u64,
    /// Replay is paused.
    pub replay_paused: bool,
    /// What the startup process waits for: `RecoveryPause`, `RecoveryConflictSnapshot`, ... (postgres-facts.md 1.3).
    pub startup_wait: Option<String>,
    /// The walreceiver, when its row is there.
    pub receiver: Option<Receiver>,
    /// There is a walreceiver that waits for the answer of a server to which it connects; it has no row then
    /// (postgres-facts.md 5.2). A frozen one never answers.
    pub connecting: bool,
    /// The route as installed.
    pub route: InstalledRoute,
    /// Walsenders.
    pub senders: Vec<Sender>,
    /// Physical slots by name.
    pub slots: BTreeMap<String, Slot>,
    /// `synchronous_standby_names`, which acts on a primary only.
    pub synchronous_standby_names: String,
    /// `allow_alter_system`; true before 17.
    pub alter_system_allowed: bool,
    /// A segment of WAL finds no place on the disk of its data. Tried only while it receives nothing.
    pub disk_full: bool,
    /// Rights that our role lacks here, as the SQL that grants them.
    pub missing_grants: Vec<String>,
    /// Our role may end the walsenders of replication users that are no superusers (postgres-facts.md 5.3).
    pub may_end_senders: bool,
    /// Parameters by which a standby must not be below its primary, or its replay stops (postgres-facts.md 14, 19);
    /// `max_wal_senders` is among them. And [`STATUS_INTERVAL`], in seconds, by which it may be.
    pub parameters: BTreeMap<String, u64>,
}

/// How often a walreceiver replies when nothing is to be told.
pub const STATUS_INTERVAL: &str = "wal_receiver_status_interval";
/// What PostgreSQL sets it to by default, in seconds.
const STATUS_INTERVAL_DEFAULT_SECONDS: u64 = 10;

impl Facts {
    /// All its walsenders are in use: whoever else comes is refused, and libpq does not go on from there (safety.md X3).
    pub fn is_full(&self) -> bool {
        self.parameters.get("max_wal_senders").is_some_and(|most| self.senders.len() as u64 >= *most)
    }

    /// How often its walreceiver replies when nothing is to be told, in seconds; `None` for never.
    pub fn status_interval_seconds(&self) -> Option<u64> {
        let seconds = self.parameters.get(STATUS_INTERVAL).copied();
        seconds.map_or(Some(STATUS_INTERVAL_DEFAULT_SECONDS), |seconds| (seconds > 0).then_some(seconds))
    }

    /// Up to where those see who read here: what is replayed, or all it has when replay waits for more. What the primary
    /// flushed last may end amid a record, which nobody can replay before the rest of it is written.
    pub fn shown(&self) -> Lsn {
        let waits_for_more = self.startup_wait.as_deref() == Some("RecoveryWalStream");
        if waits_for_more { self.position.max(self.replay) } else { self.replay }
    }

    /// The name by which its upstream knows it, as far as it tells: PostgreSQL takes `cluster_name` where no other is set.
    pub fn application_name(&self) -> &str {
        let set = self.route.conninfo.get("application_name").unwrap_or_default();
        [set, &self.cluster_name].into_iter().find(|name| !name.is_empty()).unwrap_or("walreceiver")
    }

    /// Replay waits for WAL from elsewhere, or for the next try to get it: what the server has of its own in `pg_wal` and gets
    /// from its archive is read before that.
    pub fn has_read_its_own(&self) -> bool {
        self.startup_wait.as_deref().is_some_and(|wait| AT_THE_END.contains(&wait))
    }

    /// What keeps replay, as the startup process tells it: as long as it lasts no change of route is acted on, and no lost
    /// stream is begun anew (postgres-facts.md 1.3). Waiting for WAL, or for the next try, is no such thing.
    pub fn replay_blocked_by(&self) -> Option<&str> {
        let wait = self.startup_wait.as_deref().filter(|wait| GATES.contains(wait) || is_conflict(wait));
        wait.or(self.replay_paused.then_some(GATES[0])).filter(|_| self.in_recovery)
    }

    /// Sessions hold up replay, for as long as max_standby_streaming_delay lets them.
    pub fn is_in_conflict(&self) -> bool {
        self.replay_blocked_by().is_some_and(is_conflict)
    }
}

/// Replay has come to the end of what is there.
const AT_THE_END: [&str; 2] = ["RecoveryWalStream", "RecoveryRetrieveRetryInterval"];

/// Replay is held up by what was set.
const GATES: [&str; 2] = ["RecoveryPause", "RecoveryApplyDelay"];

/// Replay waits for sessions: for their snapshots, or, by names that others wait by too, for a lock on a table or for a page
/// that they hold. The startup process takes no locks but those of the primary that are in conflict with every reader, such
/// as those of VACUUM FULL and ALTER TABLE (measured on 15.18).
fn is_conflict(wait: &str) -> bool {
    wait.starts_with("RecoveryConflict") || wait == "relation" || wait == "BufferPin"
}

/// Everything seen of one topology, and what is remembered of before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Every node of the topology.
    pub nodes: ByNode<NodeView>,
    /// Timers and positions of earlier passes; lost with the operator, so only comfort may rest on it. Shared with whoever
    /// keeps it, as it is only read until the next look.
    pub memory: Arc<Memory>,
}

/// The same, where it is somebody else's.
#[derive(Clone, Copy)]
pub(crate) struct Look<'a> {
    pub(crate) nodes: &'a ByNode<NodeView>,
    pub(crate) memory: &'a Memory,
}

impl<'a> From<&'a Observed> for Look<'a> {
    fn from(observed: &'a Observed) -> Self {
        Self { nodes: &observed.nodes, memory: &observed.memory }
    }
}

impl<'a> Look<'a> {
    /// What a node says now; `None` when it is not seen.
    pub(crate) fn seen(&self, node: &NodeName) -> Option<&'a Facts> {
        self.nodes.get(node).and_then(NodeView::seen)
    }
}

impl Observed {
    /// What a node says now; `None` when it is not seen.
    pub fn seen(&self, node: &NodeName) -> Option<&Facts> {
        self.nodes.get(node).and_then(NodeView::seen)
    }

    /// What a node said last, however old.
    pub fn last(&self, node: &NodeName) -> Option<&Facts> {
        self.nodes.get(node).and_then(|view| view.last.as_deref())
    }
}
