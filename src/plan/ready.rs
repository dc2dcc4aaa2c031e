//! Whether a node could follow an upstream (law 2).

use super::standing::Standing;
use super::step::{Readiness, WaitReason};
use super::world::At;
use super::{World, slots};
use crate::model::observed::Slot;
use crate::model::{Facts, NodeName};

/// Why a node cannot follow an upstream, with a sentence.
pub(super) type NotYet = (WaitReason, String);

/// The state of a node's slot on an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    /// It does not exist.
    Missing,
    /// It reserves nothing, or was invalidated: only dropping and creating helps.
    Useless,
    /// It reserves from later than the node's replay position, and the WAL before it is gone.
    TooLate,
    /// All the node needs is there, and nothing keeps it there: the slot reserves from later than the node's replay
    /// position, and the next restartpoint may remove what is before it. It comes right when the node has replayed so far.
    Ahead,
    /// All the node needs is there.
    Ready,
}

/// Whether the upstream, with `slot` of the child's, holds what the child would ask for: WAL from the start of the segment
/// of the child's replay position (postgres-facts.md 2.4).
pub(super) fn slot(slot: Option<&Slot>, child_facts: &Facts, upstream: &Facts) -> SlotState {
    let Some(slot) = slot else { return SlotState::Missing };
    let (Some(restart), false) = (slot.restart_lsn, slot.lost) else { return SlotState::Useless };
    let needed = child_facts.replay.segment_start(child_facts.segment_bytes);
    // A slot ahead of the child does not forbid streaming from WAL that is there (postgres-facts.md 2.2), and one that
    // stepped back with a hard restart claims what is gone (14).
    let kept = restart.segment_start(upstream.segment_bytes);
    if upstream.oldest_wal.unwrap_or(kept) > needed {
        SlotState::TooLate
    } else if kept > needed && slot.active_pid.is_none() {
        SlotState::Ahead
    } else {
        // One in use is where its owner has got to.
        SlotState::Ready
    }
}

/// What a node lacks to follow an upstream. Put into words only where somebody reads them: a plan asks for every fallback
/// of every node.
enum Lack {
    ChildUnseen,
    UpstreamUnseen,
    /// Nobody may follow the upstream.
    Barred,
    /// The upstream has none to the primary.
    Path,
    /// The slot.
    Slot,
    /// WAL as old as it needs, which may be of no account when it has streamed on elsewhere.
    Wal,
    /// The same, and it receives from nobody, so it will be needed as it is.
    WalForGood,
    /// What is told already.
    Told(NotYet),
}

impl Lack {
    fn told(self, child: At<'_>, upstream: At<'_>) -> NotYet {
        match self {
            Self::ChildUnseen => (WaitReason::NotWritable, format!("{child} is not seen")),
            Self::UpstreamUnseen => (WaitReason::NotWritable, format!("{upstream} is not seen")),
            Self::Barred => (WaitReason::NoUpstream, format!("{upstream} is one that nobody may follow")),
            Self::Path => (WaitReason::NoUpstream, format!("{upstream} has no path to the primary")),
            Self::Slot => {
                (WaitReason::SlotNotReady, format!("the slot {} on {upstream} is not there yet", child.name.slot()))
            }
            Self::Wal => (WaitReason::SlotNotReady, format!("{upstream} has no WAL as old as {child} needs")),
            Self::WalForGood => (WaitReason::NoUpstream, format!("{upstream} has no WAL as old as {child} needs")),
            Self::Told(not_yet) => not_yet,
        }
    }
}

/// How far `upstream` is prepared as a fallback of `child`.
pub(super) fn fallback(world: &World<'_>, child: At<'_>, upstream: At<'_>) -> Readiness {
    match follows(world, child, upstream) {
        Ok(SlotState::Ahead) => Readiness::Ahead,
        Ok(_) => Readiness::Unproven,
        Err(_) => Readiness::NotReady,
    }
}

/// Why a fallback whose slot is [`SlotState::Ahead`] is not relied on.
pub(super) fn ahead(child: &NodeName, upstream: &NodeName) -> NotYet {
    let slot = child.slot();
    (WaitReason::SlotNotReady, format!("the slot {slot} on {upstream} keeps WAL from beyond what {child} has replayed"))
}

/// Whether `child` could go on from `upstream` if it went there now, and from which slot.
fn follows(world: &World<'_>, child: At<'_>, upstream: At<'_>) -> Result<SlotState, Lack> {
    let (child_facts, facts) = both(world, child, upstream)?;
    if world.standing(upstream) == Standing::Barred {
        return Err(Lack::Barred);
    }
    if !world.is_rooted(upstream) && !world.is_primary(upstream.name) {
        return Err(Lack::Path);
    }
    history(child.name, child_facts, upstream.name, facts).map_err(Lack::Told)?;
    slot_is_ready(world, child, upstream, (child_facts, facts))
}

fn slot_is_ready(
    world: &World<'_>,
    child: At<'_>,
    upstream: At<'_>,
    (child_facts, facts): (&Facts, &Facts),
) -> Result<SlotState, Lack> {
    // WAL that is gone does not come back by itself; who streams elsewhere comes nearer.
    let alone = child_facts.receiver.is_none();
    match slot(world.slot(child, upstream), child_facts, facts) {
        // Whoever connects at once takes hold of what is there.
        ready @ (SlotState::Ready | SlotState::Ahead) => Ok(ready),
        SlotState::TooLate if alone => Err(Lack::WalForGood),
        SlotState::Missing if alone && !slots::may_arm(world, child, upstream) => Err(Lack::WalForGood),
        SlotState::Missing | SlotState::Useless => Err(Lack::Slot),
        SlotState::TooLate => Err(Lack::Wal),
    }
}

/// Whether `child` would get nothing from `upstream`, as the WAL that it needs is gone there. Of one that receives from nobody
/// that is known when it has read its own up to the end: what it has received and not replayed is not in its position after
/// a start. One that is fed by another meanwhile is better off there until it has come near enough.
pub(super) fn has_lost_what_it_needs(world: &World<'_>, child: At<'_>, upstream: At<'_>) -> bool {
    let Ok((child_facts, facts)) = both(world, child, upstream) else { return false };
    let alone = child_facts.receiver.is_none();
    let has_read = || world.memory(child).is_some_and(|memory| memory.read_its_own == Some(child_facts.replay));
    if world.upstream(child) == Some(upstream) || (alone && !has_read()) {
        return false;
    }
    let needed = child_facts.replay.segment_start(child_facts.segment_bytes);
    let known = world.slot(child, upstream);
    facts.oldest_wal.is_some_and(|oldest| oldest > needed)
        || slot(known, child_facts, facts) == SlotState::TooLate
        || (alone && known.is_none() && !slots::may_arm(world, child, upstream))
}

/// Whether `child` can be made to follow `upstream` now.
pub(super) fn first(world: &World<'_>, child: At<'_>, upstream: At<'_>, urgent: bool) -> Result<(), NotYet> {
    let told = |lack: Lack| lack.told(child, upstream);
    let (child_facts, facts) = both(world, child, upstream).map_err(told)?;
    if world.upstream(child) == Some(upstream) && world.standing(upstream) != Standing::Barred {
        // It follows already; all that may be missing is the slot that its route is to name.
        return slot_is_ready(world, child, upstream, (child_facts, facts)).map(drop).map_err(told);
    }
    follows(world, child, upstream).map_err(told)?;
    if !urgent && facts.in_recovery && facts.receiver.is_none() {
        return Err((WaitReason::NoUpstream, format!("{upstream} receives from nobody at the moment")));
    }
    let segment = child_facts.position.segment_start(child_facts.segment_bytes);
    if facts.position < segment && !urgent {
        return Err((WaitReason::UpstreamBehind, format!("{upstream} is further behind than {child}")));
    }
    Ok(())
}

fn both<'a>(world: &World<'a>, child: At<'_>, upstream: At<'_>) -> Result<(&'a Facts, &'a Facts), Lack> {
    Ok((world.seen(child).ok_or(Lack::ChildUnseen)?, world.seen(upstream).ok_or(Lack::UpstreamUnseen)?))
}

/// The child's timeline is in the upstream's history and the child is not past the point where that history left it.
pub(super) fn history(child: &NodeName, child_facts: &Facts, upstream: &NodeName, facts: &Facts) -> Result<(), NotYet> {
    let (theirs, ours) = match (child_facts.timeline, facts.timeline) {
        (Some(theirs), Some(ours)) => (theirs, ours),
        // Between a lower bound and the newest there is nothing.
        (None, Some(newest)) if child_facts.timeline_at_least == Some(newest) => return Ok(()),
        // On which timeline it is cannot be seen: it must be one that no fork can have left behind.
        (None, _) if facts.history.iter().any(|(_, fork)| *fork < child_facts.position) => {
            return Err((
                WaitReason::UpstreamBehind,
                format!(
                    "the timeline of {child} is not known, and its WAL goes beyond a fork in the history of {upstream}"
                ),
            ));
        }
        _ => return Ok(()),
    };
    if theirs == ours {
        return Ok(());
    }
    let fork = facts.history.iter().find(|(timeline, _)| *timeline == theirs).map(|(_, fork)| *fork);
    match fork {
        Some(fork) if child_facts.position <= fork => Ok(()),
        Some(fork) => Err((
            WaitReason::UpstreamBehind,
            format!("{child} holds WAL of timeline {theirs} beyond the fork at {fork}"),
        )),
        None => Err((
            WaitReason::UpstreamBehind,
            format!("timeline {theirs} of {child} is not known to be in the history of {upstream} (timeline {ours})"),
        )),
    }
}
