//! What is wrong with slots, whoever streams where.

use super::super::slots::{holding, left_behind};
use super::super::step::StepKind;
use super::super::want::Wanted;
use super::{At, Found, World, deed};
use crate::model::Diagnosis;

/// What is needed is tried again every ten or fifteen seconds, so that it failed longer ago than so, in milliseconds, is history.
const FAILS_FOR_MILLISECONDS: u64 = 60_000;

/// A slot of the node, or one on it, that does harm and could not be helped.
pub(super) fn trouble(world: &World<'_>, wanted: &Wanted<'_>, node: At<'_>) -> Found {
    zombie(world, wanted, node).or_else(|| holds_xmin(world, node))
}

/// A slot that the node needs is held by a connection that it has left, and we may not end that.
fn zombie(world: &World<'_>, wanted: &Wanted<'_>, node: At<'_>) -> Found {
    let lasts = |on: &&At<'_>| left_behind(world, node, **on).is_some() && !may_end(world, node, **on);
    let on = *wanted.get(node)?.entries.iter().find(lasts)?;
    Some((Diagnosis::ZombieSlot, format!("{node} is kept out of {on}. {}.", zombie_cure(world, node, on))))
}

fn may_end(world: &World<'_>, node: At<'_>, on: At<'_>) -> bool {
    let failed = fails(world, node, on, StepKind::EndSender);
    world.seen(on).is_some_and(|facts| facts.may_end_senders) && !failed
}

/// A step for a slot of `owner` on `on` fails these days: what failed once, and was not needed any more, says nothing.
fn fails(world: &World<'_>, owner: At<'_>, on: At<'_>, kind: StepKind) -> bool {
    let failed = world.observed.memory.failed_at(on.name, owner.name, kind.into());
    failed.is_some_and(|at| world.now.since(at) < FAILS_FOR_MILLISECONDS)
}

/// What becomes of the connection that holds a node's slot on `on` and that it has left.
pub(super) fn zombie_cure(world: &World<'_>, node: At<'_>, on: At<'_>) -> String {
    if may_end(world, node, on) {
        return deed(world, "the connection that it does not have, and that holds its slot, is ended");
    }
    let cure = if world.seen(on).is_some_and(|facts| facts.may_end_senders) {
        "Its slot is held by a connection that it does not have, and which our role cannot end: the user that standbys \
         stream as must not be a superuser. Wait for wal_sender_timeout, or end that walsender"
    } else {
        "Its slot is held by a connection that it does not have. GRANT pg_signal_backend to our role on the primary, and it \
         is ended; or wait for wal_sender_timeout"
    };
    cure.to_owned()
}

/// An idle slot on `on` holds back transactions, and to clear it was tried in vain.
fn holds_xmin(world: &World<'_>, on: At<'_>) -> Found {
    let (owner, _) = holding(world, on).find(|(owner, _)| fails(world, *owner, on, StepKind::ClearXmin))?;
    let seen = format!("the slot of {owner} on {on} is idle and holds back vacuum up to the primary");
    let cure = "Let our role in for replication there, pg_hba.conf: host replication waltree, and see that a walsender is free";
    Some((Diagnosis::SlotHoldsXmin, format!("{seen}. {cure}.")))
}
