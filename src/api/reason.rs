//! Why a condition is as it is: one closed list, which the README's table is tested against.

use std::fmt;

use strum::IntoEnumIterator;

use super::ConditionType;
use crate::model::{Diagnosis, WhyUnseen};

/// The reason of a condition: one of its own, what is wrong with a node, or why a node is not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// One that only conditions have.
    Plain(Plain),
    /// What is wrong with the node that matters most.
    Diagnosis(Diagnosis),
    /// Why the node that matters most is not seen.
    Unseen(WhyUnseen),
}

/// Reasons that only conditions have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::Display, strum::EnumIter, strum::IntoStaticStr)]
pub enum Plain {
    /// The spec passed every check.
    Valid,
    /// The spec was refused; the message names what, where and the cure.
    Invalid,
    /// All is as declared.
    AsDeclared,
    /// It works, but not all of it is as declared; another condition says what.
    Degraded,
    /// It works, and something is being done about the rest.
    Healing,
    /// The primary is seen and takes writes.
    PrimarySeen,
    /// All servers of the root group are seen and all of them are standbys.
    NoPrimary,
    /// Every group has a node that is rooted and not lagging.
    EveryGroupServes,
    /// A group has no node that is rooted and not lagging.
    GroupDown,
    /// No standby in a pod is as fresh as `reads.maxStalenessSeconds` asks; readers get what there is.
    AllTooStale,
    /// Every node has a path to the primary.
    AllRooted,
    /// A node has no path to the primary.
    Unrooted,
    /// Every fallback has its slot, WAL and history; the logins cannot be tried, as hosts have no agent.
    Unproven,
    /// No route has a fallback.
    NoFallbacks,
    /// A fallback lacks something.
    NotReady,
    /// A group has fewer fallbacks than it ought to.
    TooFew,
    /// Steps are being carried out.
    Working,
    /// A step failed.
    StepFailed,
    /// Waits for something that comes by itself.
    Waiting,
    /// Waits for something that a person has to do.
    Blocked,
    /// There are steps that `Observe` forbids.
    ObserveOnly,
    /// A server in a pod is not as it was asked for; the message says what PostgreSQL or its agent says.
    NotAsOrdered,
    /// Servers in pods are started anew one after the other, for another image or for parameters that are taken at a start only.
    RollingOut,
    /// The topology is being deleted.
    Deleting,
    /// There is nothing to do.
    Idle,
    /// The node receives from a fallback of its route.
    OnFallback,
}

impl Reason {
    /// The word itself.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain(reason) => reason.into(),
            Self::Diagnosis(diagnosis) => diagnosis.into(),
            Self::Unseen(why) => why.into(),
        }
    }

    /// Every reason there is.
    pub fn all() -> impl Iterator<Item = Self> {
        Plain::iter()
            .map(Self::Plain)
            .chain(Diagnosis::iter().map(Self::Diagnosis))
            .chain(WhyUnseen::iter().map(Self::Unseen))
    }

    /// The conditions that can have this reason. Empty for the one that only nodes have.
    pub fn conditions(self) -> &'static [ConditionType] {
        use ConditionType::{Accepted, Converged, FallbacksReady, Progressing, Ready, Rooted, Serving, Writable};
        match self {
            Self::Diagnosis(Diagnosis::TwoPrimaries) => &[Ready, Writable, Rooted, Converged],
            Self::Diagnosis(_) => &[Ready, Serving, Rooted, Converged],
            Self::Unseen(_) => &[Ready, Writable, Serving, Rooted, Converged],
            Self::Plain(reason) => match reason {
                Plain::Valid => &[Accepted],
                Plain::Invalid => &[Ready, Accepted, Writable, Serving, Rooted, FallbacksReady, Converged, Progressing],
                Plain::AsDeclared => &[Ready, Converged],
                Plain::Degraded | Plain::Healing => &[Ready],
                Plain::PrimarySeen => &[Writable],
                Plain::NoPrimary => &[Ready, Writable, Rooted, Converged],
                Plain::EveryGroupServes => &[Serving],
                Plain::GroupDown | Plain::AllTooStale => &[Ready, Serving],
                Plain::AllRooted | Plain::Unrooted => &[Rooted],
                Plain::Unproven | Plain::NoFallbacks | Plain::NotReady | Plain::TooFew => &[FallbacksReady],
                Plain::StepFailed | Plain::ObserveOnly | Plain::NotAsOrdered | Plain::RollingOut => &[Converged],
                Plain::Working | Plain::Waiting | Plain::Blocked => &[Converged, Progressing],
                Plain::Deleting | Plain::Idle => &[Progressing],
                Plain::OnFallback => &[],
            },
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Plain> for Reason {
    fn from(reason: Plain) -> Self {
        Self::Plain(reason)
    }
}

impl From<Diagnosis> for Reason {
    fn from(diagnosis: Diagnosis) -> Self {
        Self::Diagnosis(diagnosis)
    }
}

impl From<WhyUnseen> for Reason {
    fn from(why: WhyUnseen) -> Self {
        Self::Unseen(why)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_reasons_share_a_word() {
        let words: BTreeSet<_> = Reason::all().map(Reason::as_str).collect();
        assert_eq!(words.len(), Reason::all().count());
    }

    #[test]
    fn every_condition_has_a_reason_for_true_and_one_for_not() {
        for kind in ConditionType::iter() {
            let reasons = Reason::all().filter(|reason| reason.conditions().contains(&kind)).count();
            assert!(reasons >= 2, "{kind} has {reasons}");
        }
    }
}
