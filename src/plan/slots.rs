//! Slots: prepared on every upstream of a route, moved forward while idle, dropped when their owner is seen elsewhere.

mod bound;
mod leavers;
mod xmin;
mod zombie;

pub(super) use bound::{is_given_up, may_arm};
pub(super) use xmin::holding;
pub(super) use zombie::left_behind;

use super::ready::{self, SlotState};
use super::standing::Standing;
use super::step::{Plan, Planned, Step, StepKind, Wait, WaitReason, Why};
use super::want::Wanted;
use super::world::{At, RouteAt};
use super::{World, diagnose, others};
use crate::model::Facts;
use crate::model::memory::NodeMemory;
use crate::model::observed::Slot;
use crate::model::tree::Edge;

/// Within this time a server that only reconnects is back, in milliseconds: twice the default of
/// `wal_retrieve_retry_interval`.
const RECONNECT_MILLISECONDS: u64 = 10_000;

/// How often an idle slot is moved forward, in milliseconds (safety.md 2.6).
const ADVANCE_MILLISECONDS: u64 = 10_000;

/// A slot that could not be made so many times in a row, some five seconds, is not waited for.
const REFUSED_MIN: u32 = 6;
/// As long as it is wanted it is tried every ten seconds: what failed longer ago than so, in milliseconds, is history.
const REFUSED_WITHIN_MILLISECONDS: u64 = 60_000;

/// How long a deletion waits for nodes that are not seen streaming, in milliseconds (design.md section 6).
pub const TEARDOWN_MILLISECONDS: u64 = 60_000;

/// Prepares the slots of wanted routes; releases what holds WAL or a transaction horizon for nobody.
pub(super) fn prepare_and_release(world: &World<'_>, wanted: &Wanted<'_>, plan: &mut Plan) {
    for (owner, route) in &wanted.routes {
        // A slot that its owner will never be told to use would hold WAL for nobody: neither a server of another
        // cluster, version or branch, nor one whose route cannot be written.
        let is_ours = |facts: &&Facts| diagnose::identity(world, owner.name, facts).is_none();
        let Some(facts) = world.seen(*owner).filter(is_ours) else { continue };
        let wanted = will_use(world, *owner, facts, route).then_some(route);
        // What it is pointed to now counts too, whoever did it: without its slot nobody there feeds it.
        let here = world.installed(*owner).into_iter().flat_map(|route| &route.entries);
        let here = here.filter(|on| !route.contains(**on) && facts.route.slot == owner.name.slot());
        for on in wanted.into_iter().flat_map(|route| &route.entries).chain(here) {
            if let Some(planned) = prepare(world, *owner, facts, *on) {
                plan.steps.push(planned);
            }
        }
    }
    for on in world.all() {
        if world.standing(on) == Standing::Barred {
            continue;
        }
        for (owner, _) in world.slots(on).filter(|(_, slot)| slot.active_pid.is_none()) {
            if has_left(world, wanted, owner, on) {
                let step = Step::DropSlot { on: on.name.clone(), owner: owner.name.clone() };
                plan.steps.push(Planned { step, why: Why::LeftRoute });
            }
        }
    }
    xmin::release_of_the_absent(world, &mut plan.steps);
    leavers::release(world, plan);
    bound::hold(world, plan);
}

fn will_use(world: &World<'_>, owner: At<'_>, facts: &Facts, route: &RouteAt<'_>) -> bool {
    let writable = world.management(owner).sets_routes() && diagnose::unwritable(world, owner, facts, route).is_none();
    writable || world.has_installed(owner, route)
}

fn prepare(world: &World<'_>, owner: At<'_>, owner_facts: &Facts, on: At<'_>) -> Option<Planned> {
    let facts = world.seen(on)?;
    if world.standing(on) == Standing::Barred || others::is_his(world, owner, on) {
        return None;
    }
    let slot = world.slot(owner, on);
    let recreate = || Step::RecreateSlot { on: on.name.clone(), owner: owner.name.clone() };
    let (step, why) = match (ready::slot(slot, owner_facts, facts), slot) {
        (SlotState::Missing, _) | (_, None) if others::rests(world, owner, on) => return None,
        (SlotState::Missing, _) | (_, None) => {
            if !may_arm(world, owner, on) {
                return None;
            }
            (Step::CreateSlot { on: on.name.clone(), owner: owner.name.clone() }, Why::Prepare)
        }
        (_, Some(slot)) if slot.active_pid.is_some() => return zombie::end(world, owner, on),
        (SlotState::Useless, Some(_)) => (recreate(), Why::SlotLost),
        (SlotState::TooLate | SlotState::Ahead | SlotState::Ready, Some(slot)) => {
            if !world.streams_elsewhere(owner, on.name) {
                return None;
            }
            let release = || xmin::release(world, owner, owner_facts, on, facts);
            if let Some(planned) = slot.xmin.and_then(|_| release()) {
                return Some(planned);
            }
            let to = forward(owner_facts, facts, slot).filter(|_| is_due(world, owner, on))?;
            (Step::AdvanceSlot { on: on.name.clone(), owner: owner.name.clone(), to }, Why::Release)
        }
    };
    Some(Planned { step, why })
}

/// Whether the server has refused again and again to make a slot, as one does whose max_replication_slots are used up.
pub(super) fn cannot_be_made(world: &World<'_>, owner: At<'_>, on: At<'_>) -> bool {
    let failed = world.observed.memory.failed(on.name, owner.name, StepKind::CreateSlot.into());
    let lately = |at| world.now.since(at) < REFUSED_WITHIN_MILLISECONDS;
    failed.is_some_and(|failed| failed.times >= REFUSED_MIN && lately(failed.at))
}

/// Whether a slot made anew would still reserve all that the owner needs: it reserves from the upstream's last
/// (restart)checkpoint (postgres-facts.md 2.1), and law 2 wants that at or before the owner's replay position.
fn keeps_reservation(owner: &Facts, on: &Facts) -> bool {
    on.redo.segment_start(on.segment_bytes) <= owner.replay.segment_start(owner.segment_bytes)
}

/// Where an idle slot may be moved, if that frees at least a segment. Never beyond the owner's replay position (law 2);
/// the server clamps it to its own (postgres-facts.md 2.2).
fn forward(owner: &Facts, on: &Facts, slot: &Slot) -> Option<crate::model::Lsn> {
    let to = owner.replay.min(on.replay);
    let frees = slot.restart_lsn?.segment_start(on.segment_bytes) < to.segment_start(on.segment_bytes);
    frees.then_some(to)
}

/// Hundreds of idle slots are not moved forward with each look: what a pause holds back is a few segments.
fn is_due(world: &World<'_>, owner: At<'_>, on: At<'_>) -> bool {
    let last = world.memory(owner).and_then(|memory| memory.slots_advanced.get(on.name));
    last.is_none_or(|at| world.now.since(*at) >= ADVANCE_MILLISECONDS)
}

/// Whether the owner of an idle slot on `on` has not come back to it for longer than a reconnect takes. A primary comes back
/// to none.
fn is_absent(world: &World<'_>, owner: At<'_>, on: At<'_>) -> bool {
    if world.seen(owner).is_some_and(|facts| !facts.in_recovery) {
        return true;
    }
    let patience = world.desired.healing.settle_seconds.saturating_mul(1000).max(RECONNECT_MILLISECONDS);
    let memory = &world.observed.memory;
    if let Some(leaver) = memory.leaving.get(owner.name) {
        return memory.at.since(leaver.active) >= patience;
    }
    let receiver = world.seen(owner).and_then(|facts| facts.receiver.as_ref());
    let by_another_slot = receiver.is_some_and(|receiver| receiver.slot.as_deref() != Some(owner.name.slot()));
    let since = |node: &NodeMemory| match world.edge(owner) {
        Some(Edge::None) => node.alone_since,
        // It receives from somebody whom the spec does not name, or from here by another slot or by none.
        Some(Edge::Stranger(_)) => node.receiver.map(|(_, since)| since),
        Some(edge) if edge.upstream() == Some(on.name) => {
            node.receiver.filter(|_| by_another_slot).map(|(_, since)| since)
        }
        Some(_) => node.upstream.as_ref().map(|(_, since)| *since),
        None => node.unseen_since,
    };
    world.memory(owner).and_then(since).is_some_and(|since| memory.at.since(since) >= patience)
}

/// Law 3: a slot is dropped only after its owner is seen streaming elsewhere, and when no route of the owner, wanted or
/// installed, names the server.
fn has_left(world: &World<'_>, wanted: &Wanted<'_>, owner: At<'_>, on: At<'_>) -> bool {
    // Nearly every idle slot is a fallback of a wanted route, so this is asked first and most often alone.
    let route = wanted.get(owner);
    if route.is_some_and(|route| route.contains(on)) {
        return false;
    }
    if super::standing::is_the_primary(world, owner.name) {
        return true;
    }
    let installed = world.installed(owner).is_some_and(|route| route.contains(on));
    let pending = world.seen(owner).and_then(|facts| facts.route.pending.as_ref()).is_some();
    // An order that was not seen carried out may still be.
    let ordered = world.memory(owner).and_then(|memory| memory.ordered.as_ref());
    let ordered = ordered.is_some_and(|order| !order.seen_installed && order.route.contains(on.name));
    !installed && !pending && !ordered && route.is_some() && world.streams_elsewhere(owner, on.name)
}

/// The topology goes: its nodes stream on where they are, their idle slots are dropped so that nobody's disk fills. The
/// slots of a node that is not seen streaming are kept for a minute: it may come back to any of them, and without a slot
/// it could not (law 3). Then they go too, as nobody is left who would bound what they hold (disk before route).
pub(super) fn teardown(world: &World<'_>, plan: &mut Plan) {
    leavers::release(world, plan);
    let since = world.observed.memory.deleting_since.unwrap_or(world.now);
    let overdue = world.now.since(since) >= TEARDOWN_MILLISECONDS;
    for owner in world.all() {
        let mut idle = world.all().filter(|on| *on != owner && is_idle(world, owner, *on)).peekable();
        if idle.peek().is_none() {
            continue;
        }
        if !overdue && world.upstream(owner).is_none() && !world.is_primary(owner.name) {
            let message = "it is not seen to receive from anybody, so its slots are kept for a minute".to_owned();
            plan.waits.push(Wait { node: owner.name.clone(), reason: WaitReason::NoUpstream, message });
            continue;
        }
        for on in idle.filter(|on| world.upstream(owner) != Some(*on)) {
            let step = Step::DropSlot { on: on.name.clone(), owner: owner.name.clone() };
            plan.steps.push(Planned { step, why: Why::Teardown });
        }
    }
}

fn is_idle(world: &World<'_>, owner: At<'_>, on: At<'_>) -> bool {
    // A slot of that name on a server of somebody else is somebody else's.
    let ours = world.seen(on).filter(|_| world.standing(on) != Standing::Barred && !others::is_his(world, owner, on));
    ours.and_then(|_| world.slot(owner, on)).is_some_and(|slot| slot.active_pid.is_none())
}
