//! The decisions: `plan(desired, observed, now)`, a pure and total function. Same input, same plan.
//!
//! The passes, in their order, each a file: [`standing`] says who may feed whom, [`want`] builds the wanted routes,
//! [`slots`] prepares and releases what they need, [`routes`] installs them where that is safe ([`ready`]),
//! [`heartbeat`] keeps the primary's position moving, [`disk`] has disks tried, [`diagnose`] says what is wrong,
//! [`tolerates`] what a loss would do.

mod adopt;
mod brake;
mod clients;
mod diagnose;
mod disk;
pub mod explain;
mod fallbacks;
mod heartbeat;
mod others;
pub mod pods;
mod prefer;
mod ready;
mod record;
pub mod removed;
pub mod rollout;
mod routes;
mod slots;
mod spread;
mod standing;
pub mod step;
mod synchronous;
pub mod tolerates;
mod traffic;
mod twice;
mod want;
mod world;

pub use adopt::{Adoption, adopt};
pub use explain::{Candidate, Explanation, Intent, explain, fallbacks as installed_fallbacks, intents};
pub use pods::Deed;
pub use record::record;
pub use rollout::{Due, How, Rollout, What};
pub use routes::ORDER_MILLISECONDS;
pub use slots::TEARDOWN_MILLISECONDS;
pub use standing::Standing;
pub use step::{Done, Outcome, Plan, Planned, Readiness, Step, StepKind, Wait, WaitReason, Why};
pub use tolerates::{Tolerated, Tolerates};

use std::sync::Arc;

use self::want::Wanted;
use self::world::World;
use crate::model::{Automation, Desired, Millis, Observed, Sight};

/// How often a calm topology is looked at, in milliseconds.
pub const TICK_MILLISECONDS: u64 = 1_000;

/// How often it is looked at while somebody may soon have stood still for too long, in milliseconds.
const DOUBT_MILLISECONDS: u64 = 200;

/// How often it is looked at while an order is not seen carried out, in milliseconds: the pace at which a lost reload is
/// repeated (postgres-facts.md: none of 120 stalled with 100-150 ms).
pub const VERIFY_MILLISECONDS: u64 = 100;

/// What is to be done now, and why; what is not, and why not.
pub fn plan(desired: &Desired, observed: &Observed, now: Millis) -> Plan {
    let addresses = desired.addresses();
    let seen = || Arc::new(Sight::at(desired, &addresses, observed.into()));
    let sight = observed.memory.sight.clone().unwrap_or_else(seen);
    let world = World::new(desired, &addresses, observed, &sight, now);
    let mut plan = Plan { look_again_after_milliseconds: TICK_MILLISECONDS, ..Plan::default() };
    let wanted = if desired.deleting { Wanted::default() } else { want::want(&world, &mut plan) };
    if desired.deleting {
        slots::teardown(&world, &mut plan);
    } else {
        slots::prepare_and_release(&world, &wanted, &mut plan);
        routes::install(&world, &wanted, &mut plan);
        heartbeat::beat(&world, &mut plan);
        disk::doubt(&world, &mut plan);
        plan.tolerates = tolerates::tolerates(&world, &plan);
    }
    twice::leave(&world, &mut plan);
    diagnose::diagnose(&world, &wanted, &mut plan);
    let memory = &observed.memory;
    withhold(&world, &mut plan);
    postpone(&world, &mut plan);
    let patience = desired.healing.suspect_after_milliseconds;
    if world.all().filter_map(|node| world.memory(node)).any(|node| memory.doubts(node, patience)) {
        plan.look_again_after_milliseconds = plan.look_again_after_milliseconds.min(DOUBT_MILLISECONDS);
    }
    // What was prepared is used as soon as it is seen.
    if plan.steps.iter().any(|planned| !planned.step.is_housekeeping()) {
        plan.look_again_after_milliseconds = VERIFY_MILLISECONDS;
    }
    plan.sight = sight;
    plan
}

/// Moves what failed a moment ago from the steps to what is postponed.
fn postpone(world: &World<'_>, plan: &mut Plan) {
    let memory = &world.observed.memory;
    let waits = |planned: &mut Planned| {
        let step = &planned.step;
        memory.is_to_wait(step.server(), step.owner(), step.into())
    };
    plan.postponed.extend(plan.steps.extract_if(.., waits));
}

/// Moves what automation or management forbids from the steps to what is withheld.
fn withhold(world: &World<'_>, plan: &mut Plan) {
    let allowed = |planned: &Planned| {
        let routes = world.management(planned.step.server()).sets_routes();
        let of_routes = [StepKind::SetRoute, StepKind::Reload, StepKind::Heartbeat, StepKind::TryDisk];
        let needs_routes = of_routes.contains(&planned.step.kind());
        world.desired.automation == Automation::Heal && (routes || !needs_routes)
    };
    plan.withheld = plan.steps.extract_if(.., |planned| !allowed(planned)).collect();
}
