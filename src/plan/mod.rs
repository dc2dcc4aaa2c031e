//! The decisions: `plan(desired, observed, now)`, a pure and total function. Same input, same plan.
//!
//! The passes, in their order, each a file: [`standing`] says who may feed whom, [`want`] builds the wanted routes,
//! [`slots`] prepares and releases what they need, [`routes`] installs them where that is safe ([`ready`]),
//! [`heartbeat`] keeps the primary's position moving, [`disk`] has disks tried, [`diagnose`] says what is wrong,
//! [`tolerates`] what a loss would do.

mod adopt;
mod brake;
mod diagnose;
mod disk;
pub mod explain;
mod fallbacks;
mod heartbeat;
mod others;
mod prefer;
mod ready;
mod record;
mod routes;
mod slots;
mod spread;
mod standing;
pub mod step;
mod synchronous;
pub mod tolerates;
mod traffic;
mod want;

pub use adopt::{Adoption, adopt};
pub use explain::{Candidate, Explanation, explain};
pub use record::record;
pub use standing::Standing;
pub use step::{Done, Outcome, Plan, Planned, Readiness, Step, StepKind, Wait, WaitReason, Why};
pub use tolerates::{Tolerated, Tolerates};

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use crate::model::observed::Slot;
use crate::model::primary::Primary;
use crate::model::tree::Edge;
use crate::model::{
    Automation, ByNode, ByNodeRef, Desired, Facts, Management, Millis, NodeName, Observed, Route, Sight,
};

/// How often a calm topology is looked at, in milliseconds.
pub const TICK_MILLISECONDS: u64 = 1_000;

/// How often it is looked at while somebody may soon have stood still for too long, in milliseconds.
const DOUBT_MILLISECONDS: u64 = 200;

/// How often it is looked at while an order is not seen carried out, in milliseconds: the pace at which a lost reload is
/// repeated (postgres-facts.md: none of 120 stalled with 100-150 ms).
pub const VERIFY_MILLISECONDS: u64 = 100;

/// What is to be done now, and why; what is not, and why not.
pub fn plan(desired: &Desired, observed: &Observed, now: Millis) -> Plan {
    let world = World::new(desired, observed, now);
    let mut plan = Plan { look_again_after_milliseconds: TICK_MILLISECONDS, ..Plan::default() };
    if desired.deleting {
        slots::teardown(&world, &mut plan);
    } else {
        want::want(&world, &mut plan);
        slots::prepare_and_release(&world, &mut plan);
        routes::install(&world, &mut plan);
        heartbeat::beat(&world, &mut plan);
        disk::doubt(&world, &mut plan);
        plan.tolerates = tolerates::tolerates(&world, &plan);
    }
    diagnose::diagnose(&world, &mut plan);
    let memory = &observed.memory;
    plan.steps.retain(|p| !memory.is_to_wait(p.step.server(), p.step.owner(), (&p.step).into()));
    withhold(&world, &mut plan);
    let patience = desired.healing.suspect_after_milliseconds;
    if desired.nodes.keys().any(|node| memory.is_in_doubt(node, patience)) {
        plan.look_again_after_milliseconds = plan.look_again_after_milliseconds.min(DOUBT_MILLISECONDS);
    }
    // What was prepared is used as soon as it is seen.
    if plan.steps.iter().any(|planned| !planned.step.is_housekeeping()) {
        plan.look_again_after_milliseconds = VERIFY_MILLISECONDS;
    }
    plan.sight = world.sight;
    plan
}

/// What the passes look at: the input and what follows from it.
struct World<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    now: Millis,
    sight: Sight,
    standing: ByNode<Standing>,
    installed: ByNodeRef<'a, Installed>,
    /// The slots of every server that is seen, with the owners of those that are ours.
    slots: ByNodeRef<'a, Vec<(Option<&'a NodeName>, &'a Slot)>>,
    /// Whose slot has which name.
    owners: IndexMap<&'a str, &'a NodeName, FxBuildHasher>,
}

/// The route that a node had when it was seen last.
struct Installed {
    route: Route,
    /// It is set as we set it, keyword for keyword.
    exactly: bool,
}

impl<'a> World<'a> {
    fn new(desired: &'a Desired, observed: &'a Observed, now: Millis) -> Self {
        let mut world = Self {
            desired,
            observed,
            now,
            sight: Sight::of(desired, observed),
            standing: ByNode::default(),
            installed: installed_routes(desired, observed),
            slots: ByNodeRef::default(),
            owners: desired.nodes.keys().map(|name| (name.slot(), name)).collect(),
        };
        world.slots = desired.nodes.keys().filter_map(|on| Some((on, world.owned(on, observed.seen(on)?)))).collect();
        world.standing = desired.nodes.keys().map(|name| (name.clone(), standing::standing(&world, name))).collect();
        world
    }

    /// The true primary, or the last one known while none is seen.
    fn primary(&self) -> Option<&NodeName> {
        match &self.sight.primary {
            Primary::Known { name, .. } => Some(name),
            Primary::NotSeen | Primary::Several(_) => self.observed.memory.primary.as_ref(),
        }
    }

    fn is_primary(&self, node: &NodeName) -> bool {
        self.primary() == Some(node)
    }

    fn seen(&self, node: &NodeName) -> Option<&'a Facts> {
        self.observed.seen(node)
    }

    fn standing(&self, node: &NodeName) -> Standing {
        self.standing.get(node).copied().unwrap_or(Standing::Barred)
    }

    fn is_rooted(&self, node: &NodeName) -> bool {
        self.sight.is_rooted(node)
    }

    /// The upstream a node receives from now.
    fn upstream(&self, node: &NodeName) -> Option<&NodeName> {
        self.sight.upstream(node)
    }

    /// Whether both ends tell at two looks that `node` receives from a server other than `other`, and it is rooted.
    fn streams_elsewhere(&self, node: &NodeName, other: &NodeName) -> bool {
        self.is_rooted(node)
            && self.observed.memory.receives_steadily(node)
            && matches!(self.sight.edges.get(node), Some(Edge::Both(up)) if up != other)
    }

    /// The slots of a server, with their owners by their names; of nobody when they are somebody else's.
    fn owned(&self, on: &NodeName, facts: &'a Facts) -> Vec<(Option<&'a NodeName>, &'a Slot)> {
        let ours = |owner: &&NodeName| *owner != on && !others::is_his(self, owner, on);
        let owner = |name: &str| self.owners.get(name).copied().filter(ours);
        facts.slots.iter().map(|(name, slot)| (owner(name), slot)).collect()
    }

    /// The slots of a server that is seen, with the owners of those that are ours.
    fn all_slots(&self, on: &NodeName) -> &[(Option<&'a NodeName>, &'a Slot)] {
        self.slots.get(on).map(Vec::as_slice).unwrap_or_default()
    }

    /// The slots of our nodes on a server that is seen, with their owners.
    fn slots(&self, on: &NodeName) -> impl Iterator<Item = (&'a NodeName, &'a Slot)> {
        self.all_slots(on).iter().filter_map(|(owner, slot)| Some(((*owner)?, *slot)))
    }

    fn management(&self, node: &NodeName) -> Management {
        self.desired.group_of(node).map_or(Management::Observe, |group| group.management)
    }

    /// The route a node had when it was seen last; `None` when it named none of ours.
    fn installed(&self, node: &NodeName) -> Option<&Route> {
        self.installed.get(node).map(|installed| &installed.route)
    }

    /// Whether `route` is what a node had when it was seen last, keyword for keyword.
    fn has_installed(&self, node: &NodeName, route: &Route) -> bool {
        self.installed.get(node).is_some_and(|installed| installed.exactly && installed.route == *route)
    }
}

fn installed_routes<'a>(desired: &'a Desired, observed: &Observed) -> ByNodeRef<'a, Installed> {
    let addresses = desired.addresses();
    let installed = |name| {
        let facts = observed.last(name)?;
        let route = standing::installed(&addresses, facts)?;
        Some((name, Installed { exactly: desired.has_installed(name, &route, facts), route }))
    };
    desired.nodes.keys().filter_map(installed).collect()
}

/// Moves what automation or management forbids from the steps to what is withheld.
fn withhold(world: &World<'_>, plan: &mut Plan) {
    let allowed = |planned: &Planned| {
        let routes = world.management(planned.step.server()) == Management::Routes;
        let of_routes = [StepKind::SetRoute, StepKind::Reload, StepKind::Heartbeat, StepKind::TryDisk];
        let needs_routes = of_routes.contains(&planned.step.kind());
        world.desired.automation == Automation::Heal && (routes || !needs_routes)
    };
    let (steps, withheld) = std::mem::take(&mut plan.steps).into_iter().partition(allowed);
    plan.steps = steps;
    plan.withheld = withheld;
}
