//! The bound on WAL that idle slots keep on a server: beyond it they are given up, the farthest behind first. Disk before
//! route (safety.md section 3, laws 3 and 16): a server whose disk is full feeds nobody.

use super::super::World;
use super::super::standing::{Standing, VERSION_NUM_MIN, foreign};
use super::super::step::{Plan, Planned, Step, Why};
use super::super::world::At;
use super::{forward, is_absent, leavers};
use crate::model::observed::Slot;
use crate::model::{Facts, Lsn};

/// Fills in `plan.retained_bytes`, and releases what keeps more than the bound.
pub(super) fn hold(world: &World<'_>, plan: &mut Plan) {
    let bound = world.desired.limits.retained_wal_bytes;
    for on in world.all() {
        let Some(facts) = world.seen(on).filter(|facts| is_bounded(world, facts)) else { continue };
        let need = Need::of(world, on, facts);
        let idle: Vec<_> = world.slots(on).filter(|(_, slot)| slot.active_pid.is_none() && !slot.lost).collect();
        let Some(most) = idle.iter().filter_map(|(_, slot)| slot.restart_lsn).map(|lsn| need.bytes_beyond(lsn)).max()
        else {
            continue;
        };
        plan.retained_bytes.insert(on.name.clone(), most);
        if most <= bound {
            continue;
        }
        let behind = |owner: At<'_>, slot: &Slot| Some(need.bytes_beyond(reach(world, owner, on, facts, slot)?));
        let idle = idle.into_iter().filter_map(|(owner, slot)| Some((behind(owner, slot)?, owner)));
        let mut beyond: Vec<_> = idle.filter(|(bytes, _)| *bytes > bound).collect();
        beyond.sort_by(|(one, a), (other, b)| (other, a.name).cmp(&(one, b.name)));
        for (_, owner) in beyond.into_iter().filter(|(_, owner)| is_absent(world, *owner, on)) {
            let why = if leavers::has_left(world, owner.name) { Why::LeftSpec } else { Why::RetainedWal };
            plan.steps.retain(|planned| planned.step.server() != on.name || planned.step.owner() != owner.name);
            plan.steps.push(Planned { step: Step::DropSlot { on: on.name.clone(), owner: owner.name.clone() }, why });
        }
    }
}

/// Nobody may follow a primary that is not the primary, any while several take writes, or a standby that has left the primary's
/// history. Its disk fills as that of any other, however long nobody stops it or clones it anew.
fn is_bounded(world: &World<'_>, facts: &Facts) -> bool {
    !foreign(world, facts) && facts.version_num >= VERSION_NUM_MIN
}

/// Whether a slot may be made where there is none: not for a node so far behind that the slot would have to be given up
/// for it, or was. Such a node gets its fallbacks again when it has come within half the bound, so that what was given up is
/// not made again at once. One that receives from nobody needs a slot to receive anything at all: where the WAL is still
/// there it gets it, given up before or not. Made anew it reserves from the server's last (restart)checkpoint, and what the
/// node needs from before that is there until the next one (postgres-facts.md 2.1, 2.2); if the node does not come in that
/// time, the slot keeps WAL up to the bound once more before it is given up again.
pub(in super::super) fn may_arm(world: &World<'_>, owner: At<'_>, on: At<'_>) -> bool {
    let (Some(owner_facts), Some(facts)) = (world.seen(owner), world.seen(on)) else { return true };
    let bound = world.desired.limits.retained_wal_bytes;
    let behind = Need::of(world, on, facts).bytes_beyond(owner_facts.replay);
    if behind <= if was_given_up(world, owner, on) { bound / 2 } else { bound } {
        return true;
    }
    let needed = owner_facts.replay.segment_start(owner_facts.segment_bytes);
    let there = facts.oldest_wal.is_some_and(|oldest| oldest <= needed);
    owner_facts.in_recovery && owner_facts.receiver.is_none() && there
}

/// Whether `owner` has no slot on `on` because that would keep too much WAL, or did.
pub(in super::super) fn is_given_up(world: &World<'_>, owner: At<'_>, on: At<'_>) -> bool {
    let missing = world.seen(on).is_some() && world.slot(owner, on).is_none();
    missing && (was_given_up(world, owner, on) || !may_arm(world, owner, on))
}

/// Whether the slot of `owner` on `on` was given up since `owner` was last away.
fn was_given_up(world: &World<'_>, owner: At<'_>, on: At<'_>) -> bool {
    world.memory(owner).is_some_and(|memory| memory.slots_given_up.contains(on.name))
}

/// Where a slot keeps WAL from once it is moved forward as far as its owner has got. That of one server under two names is
/// not moved, and none is on a server that nobody may follow.
fn reach(world: &World<'_>, owner: At<'_>, on: At<'_>, facts: &Facts, slot: &Slot) -> Option<Lsn> {
    let moves = world.standing(on) != Standing::Barred && !world.is_twice(owner.name);
    let there = world.seen(owner).filter(|_| moves && world.streams_elsewhere(owner, on.name));
    there.and_then(|owner| forward(owner, facts, slot)).or(slot.restart_lsn)
}

/// The WAL that a server needs itself: for its own recovery, for those that it feeds, for slots of others.
struct Need {
    from: Lsn,
    segment_bytes: u64,
}

impl Need {
    fn of(world: &World<'_>, on: At<'_>, facts: &Facts) -> Self {
        let is_idle_of_ours = |owner: Option<At<'_>>, slot: &Slot| slot.active_pid.is_none() && owner.is_some();
        let all = world.all_slots(on).iter();
        let others = all.filter(|(owner, slot)| !slot.lost && !is_idle_of_ours(*owner, slot));
        let from = others.filter_map(|(_, slot)| slot.restart_lsn).fold(facts.redo, Lsn::min);
        Self { from: from.segment_start(facts.segment_bytes), segment_bytes: facts.segment_bytes }
    }

    /// How much more is kept when it is kept from `restart` on. `wal_status` lies on a standby, so it is computed
    /// (postgres-facts.md 2.4).
    fn bytes_beyond(&self, restart: Lsn) -> u64 {
        self.from.bytes_since(restart.segment_start(self.segment_bytes))
    }
}
