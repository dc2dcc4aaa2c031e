//! What can be wrong with a node: one closed list, the source of condition reasons, events, metrics and the README.

use super::NodeName;

/// What is wrong with one node. The name is the reason in events and conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::Display, strum::EnumIter, strum::IntoStaticStr)]
pub enum Diagnosis {
    /// It answers with another system identifier than the topology's: not our data.
    ForeignServer,
    /// PostgreSQL 14 or older: a change of route would need a restart to be safe and rights that cannot be granted.
    VersionTooOld,
    /// More than one server answers as a primary.
    TwoPrimaries,
    /// It was a primary and is not any more, and has not been seen as a standby on the new history.
    ForeignPrimary,
    /// Its process refuses or resets connections, and nobody receives WAL from it.
    DeadNode,
    /// It accepts connections and does not answer, and nobody receives WAL from it.
    HungNode,
    /// It could not be asked at all; what it does is unknown.
    Unseen,
    /// Its WAL is on a branch that the primary's history does not contain.
    Diverged,
    /// It is in a ring of servers that feed each other and nobody else feeds.
    Ring,
    /// It receives from a server that is not in the topology, or from one that its route does not name.
    WrongUpstream,
    /// It has no stream, or its position stands still while the primary's moves.
    CutOff,
    /// It is further behind than `healing.lagSeconds`.
    Lagging,
    /// Replay is paused or blocked, so a new route would not be acted on.
    ReplayBlocked,
    /// A slot it needs does not exist on the upstream it receives from.
    MissingSlot,
    /// A slot of its was invalidated.
    LostSlot,
    /// Somebody else sets its `primary_conninfo` back.
    OtherWriter,
    /// `allow_alter_system = off`.
    AlterSystemOff,
    /// Our role lacks a right.
    MissingGrant,
    /// Its `primary_conninfo` holds a password, is a URI, or is empty, so its foreign keywords cannot be kept.
    UnusableConninfo,
    /// Nothing is wrong with it now; it failed a short while ago and has to stay well before it gets children.
    Settling,
}

impl Diagnosis {
    /// How bad it is: whether the topology cannot be `Ready` as long as it lasts.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Settling | Self::Lagging)
    }
}

/// One diagnosis with what was seen and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which node.
    pub node: NodeName,
    /// What is wrong.
    pub diagnosis: Diagnosis,
    /// What was seen, and what a person is to do, or "Nothing to do".
    pub message: String,
}
