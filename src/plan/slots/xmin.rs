//! The transaction horizon that an idle slot holds back: with hot_standby_feedback on along a path it reaches the primary,
//! whose vacuum then removes nothing, for as long as the slot stays (postgres-facts.md 2.2, 9).

use super::super::World;
use super::super::standing::Standing;
use super::super::step::{Planned, Step, StepKind, Why};
use super::super::world::At;
use super::{is_absent, keeps_reservation};
use crate::model::Facts;
use crate::model::observed::Slot;

/// How long the old way is taken where the wire was refused, in milliseconds. Each refusal is a line in that server's log,
/// and pg_hba.conf does not change often.
const WIRE_AGAIN_MILLISECONDS: u64 = 15_000;

/// How an idle slot of an owner that streams elsewhere lets go of transactions. On the wire first: its reservation stays.
/// Where that was refused a short while ago, by dropping and creating, where the new reservation covers the owner: it may
/// lose what was reserved beyond that, but needs no line in pg_hba.conf, and a vacuum that stands still is worse.
pub(super) fn release(
    world: &World<'_>,
    owner: At<'_>,
    owner_facts: &Facts,
    on: At<'_>,
    facts: &Facts,
) -> Option<Planned> {
    let planned = |step| Some(Planned { step, why: Why::ReleaseXmin });
    if may_try_the_wire(world, on, owner) {
        planned(Step::ClearXmin { on: on.name.clone(), owner: owner.name.clone() })
    } else if keeps_reservation(owner_facts, facts) {
        planned(Step::RecreateSlot { on: on.name.clone(), owner: owner.name.clone() })
    } else {
        None
    }
}

/// The slots of owners that are gone, or that receive from somebody who has no path himself. That one is idle is seen at the slot itself, whatever its owner does; only one that
/// reconnects is waited for. Its reservation stays (law 3), so there is no way but the wire.
pub(super) fn release_of_the_absent(world: &World<'_>, steps: &mut Vec<Planned>) {
    for on in world.all().filter(|on| world.standing(*on) != Standing::Barred) {
        for (owner, _) in holding(world, on) {
            let elsewhere = world.streams_elsewhere(owner, on.name);
            if !elsewhere && is_absent(world, owner, on) && may_try_the_wire(world, on, owner) {
                let step = Step::ClearXmin { on: on.name.clone(), owner: owner.name.clone() };
                steps.push(Planned { step, why: Why::ReleaseXmin });
            }
        }
    }
}

/// The idle slots of our nodes that hold back transactions, with their owners.
pub(in super::super) fn holding<'a>(world: &World<'a>, on: At<'_>) -> impl Iterator<Item = (At<'a>, &'a Slot)> {
    world.slots(on).filter(|(_, slot)| slot.active_pid.is_none() && slot.xmin.is_some())
}

fn may_try_the_wire(world: &World<'_>, on: At<'_>, owner: At<'_>) -> bool {
    let failed = world.observed.memory.failed_at(on.name, owner.name, StepKind::ClearXmin.into());
    failed.is_none_or(|at| world.now.since(at) >= WIRE_AGAIN_MILLISECONDS)
}
