//! A plan is data: steps with reasons, waits with names. `act` carries steps out and chooses nothing.

use std::collections::BTreeMap;

use std::fmt;
use std::sync::Arc;

use super::pods::Deed;
use super::rollout::Rollout;
use super::tolerates::Tolerates;
use crate::model::rooted::Rooted;
use crate::model::{ByNode, Conninfo, Finding, Lsn, NodeName, Route, Sight};

/// One write on one server. Each is idempotent: doing it twice is doing it once.
#[derive(Debug, Clone, PartialEq, Eq, strum::IntoStaticStr, strum::EnumDiscriminants)]
#[strum_discriminants(name(StepKind), derive(PartialOrd, Ord, Hash, strum::EnumIter, strum::IntoStaticStr))]
pub enum Step {
    /// Write one small WAL record on the primary, so that its position moves and standing still can be seen
    /// (safety.md law 19).
    Heartbeat {
        /// Where.
        primary: NodeName,
    },
    /// Create a physical slot that reserves WAL at once.
    CreateSlot {
        /// Where.
        on: NodeName,
        /// Whose slot.
        owner: NodeName,
    },
    /// Move an idle slot forward to what its owner has replayed, so that WAL can be removed.
    AdvanceSlot {
        /// Where.
        on: NodeName,
        /// Whose slot.
        owner: NodeName,
        /// Where to: at or before the owner's replay position.
        to: Lsn,
    },
    /// Say on the wire, in the owner's place, that an idle slot holds back no transaction; what it keeps of the WAL stays
    /// (safety.md X6). Cleared in memory only: an upstream that crashed may hold it again.
    ClearXmin {
        /// Where.
        on: NodeName,
        /// Whose slot.
        owner: NodeName,
    },
    /// Drop an idle slot and create it anew, which clears an xmin it holds back or brings a lost one to life.
    RecreateSlot {
        /// Where.
        on: NodeName,
        /// Whose slot.
        owner: NodeName,
    },
    /// Drop a slot whose owner is seen streaming elsewhere and whose route does not name this server, or whose owner
    /// was taken out of the spec, or which keeps more WAL than it may.
    DropSlot {
        /// Where.
        on: NodeName,
        /// Whose slot.
        owner: NodeName,
    },
    /// End the walsender that holds a slot for a connection that the slot's owner does not have any more.
    EndSender {
        /// Where.
        on: NodeName,
        /// Whose slot.
        owner: NodeName,
        /// The walsender's process id; another one that holds the slot by now is left alone.
        pid: i32,
    },
    /// Write `primary_conninfo` (and `primary_slot_name` where it differs), and reload.
    SetRoute {
        /// Which node.
        node: NodeName,
        /// The entries, for people and for the record.
        route: Route,
        /// The whole string to write.
        conninfo: Conninfo,
        /// Append one blank, because the string equals the present one and only a changed one reconnects.
        nudge: bool,
        /// The slot name to set; `None` when it is right already.
        slot: Option<String>,
    },
    /// Write a segment of zeroes to the disk of the data and forget it: whether there is place for it is seen then
    /// (`Facts::disk_full`), and by nothing else.
    TryDisk {
        /// Which node.
        node: NodeName,
    },
    /// Reload again: a reload can be lost in the instant in which the upstream dies (postgres-facts.md, "a reload or a
    /// promote can lose a race").
    Reload {
        /// Which node.
        node: NodeName,
    },
}

impl Step {
    /// Which kind of step it is, for labels.
    pub fn kind(&self) -> StepKind {
        self.into()
    }

    /// What an undisturbed tree has done to it all the time: it changes neither the tree nor what it rests on.
    pub fn is_housekeeping(&self) -> bool {
        matches!(
            self,
            Self::Heartbeat { .. } | Self::AdvanceSlot { .. } | Self::ClearXmin { .. } | Self::TryDisk { .. }
        )
    }

    /// The server on which it writes.
    pub fn server(&self) -> &NodeName {
        match self {
            Self::Heartbeat { primary } => primary,
            Self::CreateSlot { on, .. }
            | Self::AdvanceSlot { on, .. }
            | Self::ClearXmin { on, .. }
            | Self::RecreateSlot { on, .. }
            | Self::DropSlot { on, .. }
            | Self::EndSender { on, .. } => on,
            Self::SetRoute { node, .. } | Self::Reload { node } | Self::TryDisk { node } => node,
        }
    }

    /// The node for whose sake it is done.
    pub fn owner(&self) -> &NodeName {
        match self {
            Self::Heartbeat { primary } => primary,
            Self::CreateSlot { owner, .. }
            | Self::AdvanceSlot { owner, .. }
            | Self::ClearXmin { owner, .. }
            | Self::RecreateSlot { owner, .. }
            | Self::DropSlot { owner, .. }
            | Self::EndSender { owner, .. } => owner,
            Self::SetRoute { node, .. } | Self::Reload { node } | Self::TryDisk { node } => node,
        }
    }
}

/// Why a step is done: what events and `kubectl waltree plan` say.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    strum::Display,
    strum::EnumIter,
    strum::EnumMessage,
    strum::IntoStaticStr,
)]
pub enum Why {
    /// The primary has been quiet; its position is to move.
    Quiet,
    /// Nothing reaches the node, by its own fault: its disk may be full.
    Starves,
    /// A fallback is to be ready before it is needed.
    Prepare,
    /// The slot holds more WAL than its owner needs.
    Release,
    /// The slot holds back the transaction horizon for an owner that streams elsewhere.
    ReleaseXmin,
    /// The slot was invalidated.
    SlotLost,
    /// The slot is held by a connection that its owner does not have any more.
    Zombie,
    /// Idle slots kept more WAL there than `limits.retainedWal`.
    RetainedWal,
    /// No route of its owner names this server any more.
    LeftRoute,
    /// Its owner was taken out of the spec.
    LeftSpec,
    /// The route is not the declared one.
    AsDeclared,
    /// The node has no path to the primary.
    Unrooted,
    /// Its upstream lags.
    UpstreamLags,
    /// Its upstream is about to be started anew.
    UpstreamRestarts,
    /// An upstream of its route failed; the fallbacks are arranged anew.
    Rearm,
    /// No declared upstream has room for it: a sibling stands in as a relay.
    Regroup,
    /// Its intended upstream is well again.
    GiveBack,
    /// The route was set and the new sender is not seen yet.
    Unverified,
    /// The topology is being deleted.
    Teardown,
}

/// A step and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What to do.
    pub step: Step,
    /// Why.
    pub why: Why,
}

impl fmt::Display for Planned {
    /// One sentence for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Step::Heartbeat { primary } => write!(f, "write a heartbeat on {primary}"),
            Step::CreateSlot { on, owner } => write!(f, "create the slot of {owner} on {on}"),
            // Without the position: it is another one at each look, and a step that fails is told in a status.
            Step::AdvanceSlot { on, owner, .. } => write!(f, "advance the slot of {owner} on {on}"),
            Step::ClearXmin { on, owner } => write!(f, "clear the xmin of the slot of {owner} on {on}"),
            Step::RecreateSlot { on, owner } => write!(f, "make the slot of {owner} on {on} anew"),
            Step::DropSlot { on, owner } => write!(f, "drop the slot of {owner} on {on}"),
            Step::EndSender { on, owner, .. } => write!(f, "end the walsender on {on} that {owner} has left"),
            Step::SetRoute { node, route, .. } => {
                let entries = route.entries.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" > ");
                write!(f, "point {node} to {entries}")
            }
            Step::TryDisk { node } => write!(f, "try the disk of {node}"),
            Step::Reload { node } => write!(f, "reload {node} again"),
        }?;
        write!(f, " ({})", self.why)
    }
}

/// Something the plan would do but does not now, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Which node.
    pub node: NodeName,
    /// What for; the name people see.
    pub reason: WaitReason,
    /// One sentence.
    pub message: String,
}

/// What a plan can wait for.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    strum::Display,
    strum::EnumIter,
    strum::EnumMessage,
    strum::IntoStaticStr,
)]
pub enum WaitReason {
    /// No primary is seen, so nobody can be called rooted and nobody is moved.
    NoPrimary,
    /// No upstream is left that is rooted, has the WAL and has room.
    NoUpstream,
    /// The wanted edge would close a ring with an edge that is still there.
    WouldRing,
    /// The slot on the upstream is not there yet, or reserves later WAL than the node needs.
    SlotNotReady,
    /// The upstream is behind the node, or on another history.
    UpstreamBehind,
    /// Commits wait for the node as a synchronous standby, and would hang: `synchronous_standby_names` has to change first.
    Synchronous,
    /// Several that were moved lost their stream by it: until that is understood, nobody is moved who streams well.
    NotFollowed,
    /// Enough moves are under way.
    MovesUnderWay,
    /// The node cannot be written to: unseen, or a finding stands against it.
    NotWritable,
    /// Most servers cannot be asked.
    Blind,
}

impl WaitReason {
    /// Whether what is waited for comes by itself, as far as the planner knows.
    pub fn comes_by_itself(self) -> bool {
        matches!(self, Self::MovesUnderWay | Self::SlotNotReady | Self::UpstreamBehind | Self::WouldRing)
    }
}

/// How sure it is that a fallback would work (law 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::Display)]
pub enum Readiness {
    /// Slot, WAL, history and path are right; that the child can log in there was not seen, as it has no agent.
    Unproven,
    /// It would work now, and at any moment may not any more: the slot keeps WAL only from beyond what the child has
    /// replayed. It is ready when the child has come so far.
    Ahead,
    /// Something is missing.
    NotReady,
}

impl Readiness {
    /// Whether it counts as ready.
    pub fn is_ready(self) -> bool {
        match self {
            Self::Unproven => true,
            Self::Ahead | Self::NotReady => false,
        }
    }
}

/// What is done next, and why; what is not done, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What the plan took for true.
    pub sight: Arc<Sight>,
    /// To be carried out now. Their order does not matter for safety: any prefix and any subset is legal (law 4).
    pub steps: Vec<Planned>,
    /// What would be done if automation or management allowed it.
    pub withheld: Vec<Planned>,
    /// What failed a moment ago and is tried again later; the memory has what came of it.
    pub postponed: Vec<Planned>,
    /// What is waited for.
    pub waits: Vec<Wait>,
    /// What is wrong, by node; the worst first.
    pub findings: Vec<Finding>,
    /// The route that every node ought to have now. A node without any possible upstream is absent.
    pub wanted: ByNode<Route>,
    /// The state of each fallback of each wanted route, in the route's order.
    pub fallbacks: ByNode<Vec<(NodeName, Readiness)>>,
    /// Nodes and those of their fallbacks whose slot was given up, as it kept too much WAL there.
    pub given_up: Vec<(NodeName, NodeName)>,
    /// Of each server that has idle slots of ours: how much WAL they keep there beyond what it needs itself, in bytes.
    pub retained_bytes: BTreeMap<NodeName, u64>,
    /// Nodes that have fewer fallbacks than their group ought to give, as a sentence for each group.
    pub shortages: Vec<String>,
    /// What would be survived.
    pub tolerates: Tolerates,
    /// What is done about pods.
    pub deeds: Vec<Deed>,
    /// Where readers find no standby in a pod that is as fresh as it is to be, and are led to what there is.
    pub all_too_stale: bool,
    /// What keeps servers in pods from being as it was asked for, or from a part of it, as their agents or Kubernetes say.
    pub troubles: ByNode<String>,
    /// What comes by itself of nodes that are pods, or were, as a sentence each.
    pub pending: BTreeMap<NodeName, String>,
    /// Servers that are to be started anew, and who is next; `None` where none is.
    pub rollout: Option<Rollout>,
    /// When to look again at the latest, in milliseconds.
    pub look_again_after_milliseconds: u64,
}

impl Plan {
    /// Whether a step makes a node receive from another server than it does now. To set a route that begins with its
    /// present sender arms its fallbacks and moves nobody.
    pub fn is_move(&self, step: &Step) -> bool {
        matches!(step, Step::SetRoute { node, route, .. } if route.first() != self.sight.upstream(node))
    }

    /// The steps of each server, each with its place in the plan, in the order in which a server that is too slow for all
    /// of them is asked: what heals before what prepares, and last what tidies up.
    pub fn by_server(&self) -> BTreeMap<&NodeName, Vec<(usize, &Planned)>> {
        let mut servers: BTreeMap<&NodeName, Vec<(usize, &Planned)>> = BTreeMap::new();
        for (place, planned) in self.steps.iter().enumerate() {
            servers.entry(planned.step.server()).or_default().push((place, planned));
        }
        for steps in servers.values_mut() {
            steps.sort_by_key(|(_, planned)| self.rank(&planned.step));
        }
        servers
    }

    fn rank(&self, step: &Step) -> u8 {
        match step {
            // One of them a server at most; without the heartbeat nobody could be told from one who stands still.
            Step::SetRoute { .. } | Step::Reload { .. } | Step::Heartbeat { .. } | Step::TryDisk { .. } => 0,
            Step::CreateSlot { owner, .. } | Step::RecreateSlot { owner, .. } | Step::EndSender { owner, .. }
                if !self.sight.rooted.get(owner).is_some_and(Rooted::is_yes) =>
            {
                1
            }
            _ if step.is_housekeeping() => 3,
            _ => 2,
        }
    }
}

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The step and its reason.
    pub planned: Planned,
    /// What the server said when it failed, without any secret.
    pub result: Result<(), String>,
}

/// What became of the steps of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// One entry a step that was begun, in the plan's order. A step that is not here was left to the next pass, as its
    /// server was slow: it neither worked nor failed.
    pub done: Vec<Done>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_server_is_first_asked_for_what_an_orphan_waits_for_and_last_to_tidy_up() {
        let name = |name: &str| NodeName::new(name).unwrap();
        let on = name("relay");
        let create = |owner: &str| Step::CreateSlot { on: on.clone(), owner: name(owner) };
        let steps = [
            Step::AdvanceSlot { on: on.clone(), owner: name("leaf-1"), to: Lsn(1) },
            create("leaf-2"),
            Step::DropSlot { on: on.clone(), owner: name("leaf-3") },
            create("orphan"),
            Step::Reload { node: name("other") },
            Step::Reload { node: on.clone() },
        ];
        let mut plan = Plan { steps: steps.map(|step| Planned { step, why: Why::Prepare }).into(), ..Plan::default() };
        let rooted = Rooted::Yes { hops: 1, lag_milliseconds: 0, shown_lag_milliseconds: 0 };
        Arc::make_mut(&mut plan.sight).rooted.insert(name("leaf-2"), rooted);
        let places = |server: &str| plan.by_server()[&name(server)].iter().map(|(place, _)| *place).collect::<Vec<_>>();
        assert_eq!((places("relay"), places("other")), (vec![5, 3, 1, 2, 0], vec![4]));
    }
}
