//! A slot that is held by a connection which its owner does not have any more: the other end vanished without a word, a
//! machine or a network lost, and the walsender waits for wal_sender_timeout. Until then its owner is refused there, and
//! libpq does not go on from such an upstream (postgres-facts.md 2.2, safety.md X3).

use super::super::World;
use super::super::step::{Planned, Step, Why};
use super::super::world::At;
use crate::model::observed::Sender;
use crate::model::tree::Edge;

/// A walreceiver that lives replies at least every `wal_receiver_status_interval`, and at most so many milliseconds later.
const REPLY_MARGIN_MILLISECONDS: u64 = 2_000;

/// Ends the walsender that holds `owner`'s slot on `on`, where that is surely the owner's own and surely left.
pub(super) fn end(world: &World<'_>, owner: At<'_>, on: At<'_>) -> Option<Planned> {
    let pid = left_behind(world, owner, on)?;
    let (owner_facts, facts) = (world.seen(owner)?, world.seen(on)?);
    // Who replies is somebody, a namesake maybe (law 12): a connection that is lost never replies again.
    let memory = &world.observed.memory;
    let known = memory.namesakes.get(&(owner.name.clone(), on.name.clone(), pid))?;
    // Where none is sent on its own account, silence says nothing, and the walsender ends by wal_sender_timeout.
    let longest = owner_facts.status_interval_seconds()?.saturating_mul(1000).saturating_add(REPLY_MARGIN_MILLISECONDS);
    let silent = !known.lives && memory.at.since(known.silent_since) >= longest;
    // Whoever shows no connection after the other end has shown its walsender had lost it by then. The two are not asked in
    // one moment, so it is the first look at that walsender that counts, not the last.
    let asked_after = owner_facts.asked_at >= known.since;
    let step = Step::EndSender { on: on.name.clone(), owner: owner.name.clone(), pid };
    (silent && asked_after && facts.may_end_senders).then_some(Planned { step, why: Why::Zombie })
}

/// The walsender of `owner` that holds its slot on `on`, although `owner` has not had that connection for longer than the
/// patience.
pub(in super::super) fn left_behind(world: &World<'_>, owner: At<'_>, on: At<'_>) -> Option<i32> {
    let pid = world.slot(owner, on)?.active_pid?;
    let patience = world.desired.healing.suspect_after_milliseconds;
    left_for(world, owner, on).filter(|t| *t >= patience)?;
    let its_own = |sender: &Sender| sender.pid == pid && sender.application_name == owner.name.as_str();
    world.seen(on)?.senders.iter().any(its_own).then_some(pid)
}

/// How long a node has been seen not to receive from `on`, in milliseconds. One that receives from an address of nobody of
/// ours may receive from it all the same, by another of its names.
fn left_for(world: &World<'_>, owner: At<'_>, on: At<'_>) -> Option<u64> {
    let memory = world.memory(owner)?;
    let since = match world.edge(owner)? {
        Edge::None => memory.alone_since?,
        Edge::Both(upstream) | Edge::ChildOnly(upstream) if upstream != on.name => memory.upstream.as_ref()?.1,
        Edge::Both(_) | Edge::ChildOnly(_) | Edge::Denied(_) | Edge::Stranger(_) => return None,
    };
    Some(world.observed.memory.at.since(since))
}
