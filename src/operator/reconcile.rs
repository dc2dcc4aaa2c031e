//! The straight line: one pass over one topology, read top to bottom. It decides nothing and knows no client: the live
//! operator, the dry run and a simulated world all walk it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::Cluster;
use super::report::{rejected, status};
use crate::api::{Acknowledgement, ReplicaTopology, ReplicaTopologyStatus, acknowledgement, pod_name_faults};
use crate::model::rooted::Rooted;
use crate::model::{Desired, Finding, NodeName, Sight};
use crate::plan::{self, Outcome, Plan, Step, plan};

/// How often a topology that was refused is looked at again; a change of its spec wakes at once.
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(300);

/// What came of one pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Pass {
    /// The spec can be acted on.
    pub accepted: bool,
    /// What a person took note of and was not told before.
    pub acknowledged: Option<Acknowledgement>,
    /// What is to be reported.
    pub status: ReplicaTopologyStatus,
    /// What is wrong with which node.
    pub findings: Vec<Finding>,
    /// What became of the steps.
    pub outcome: Outcome,
    /// How old what readers of each node with a path to the primary see is at most.
    pub lag: BTreeMap<NodeName, Duration>,
    /// WAL that idle slots keep on each server that has any, beyond what it needs itself, in bytes.
    pub retained_bytes: BTreeMap<NodeName, u64>,
    /// Servers on which nobody drops our slots any more, with their owners as far as they are known.
    pub out_of_reach: BTreeMap<NodeName, BTreeSet<NodeName>>,
    /// Slots that their servers did not let go when they were to be dropped last.
    pub not_dropped: BTreeMap<NodeName, BTreeSet<NodeName>>,
    /// Every server was seen, and there is nothing to do or to wait for.
    pub at_rest: bool,
    /// When to look again at the latest.
    pub look_again_after: Duration,
}

/// Looks at one topology and takes the next steps. `previous` is what was reported last; `wall` is wall time, for texts
/// only (law 14).
pub async fn reconcile<C: Cluster>(
    topology: &ReplicaTopology,
    previous: Option<&ReplicaTopologyStatus>,
    cluster: &C,
    wall: Timestamp,
) -> Pass {
    let names = pod_name_faults(topology);
    match if names.is_empty() { Desired::try_from(&topology.spec) } else { Err(names) } {
        Ok(spec) => walk(topology, &spec, previous, cluster, wall).await,
        Err(rejections) => {
            let generation = topology.metadata.generation.unwrap_or_default();
            Pass::refused(rejected(&rejections, previous, generation, wall))
        }
    }
}

/// The same of a spec that was read before, as `spec`: simulated fleets have one for thousands of hours.
pub async fn walk<C: Cluster>(
    topology: &ReplicaTopology,
    spec: &Desired,
    previous: Option<&ReplicaTopologyStatus>,
    cluster: &C,
    wall: Timestamp,
) -> Pass {
    let generation = topology.metadata.generation.unwrap_or_default();
    let deleting = topology.metadata.deletion_timestamp.is_some();
    let taken = previous.and_then(|status| status.acknowledged.as_deref());
    let acknowledged = acknowledgement(topology, spec, taken);
    let nodes = || acknowledged.iter().flat_map(|taken| taken.nodes.clone()).collect();
    let of_now =
        (deleting || acknowledged.is_some()).then(|| Desired { deleting, acknowledged: nodes(), ..spec.clone() });
    let desired = of_now.as_ref().unwrap_or(spec);

    let pods = cluster.pods(desired).await;
    let located = (!pods.is_empty()).then(|| desired.clone().located(&pods));
    let desired = located.as_ref().unwrap_or(desired);
    let observed = cluster.observe(desired).await;
    let leaving = plan::rollout::leaving(desired, &observed, &pods);
    let without = (!leaving.is_empty()).then(|| Desired { leaving, ..desired.clone() });
    let desired = without.as_ref().unwrap_or(desired);
    let mut plan = plan(desired, &observed, cluster.now());
    plan::pods::tend(desired, &observed, &pods, &mut plan);
    plan::removed::remove(desired, &observed, &pods, &cluster.left_over(desired).await, &mut plan);
    let outcome = cluster.carry_out(&plan).await;
    let mut status = status(desired, &observed, &plan, &outcome, previous, generation, wall);

    if let Some(taken) = &acknowledged {
        status.acknowledged = Some(taken.value.clone());
    }

    Pass {
        accepted: true,
        acknowledged,
        status,
        lag: lag(&plan.sight),
        out_of_reach: observed.memory.out_of_reach(desired, &observed.nodes),
        not_dropped: refused(&plan, &outcome),
        at_rest: plan.steps.is_empty()
            && plan.deeds.is_empty()
            && plan.postponed.is_empty()
            && plan.waits.is_empty()
            && observed.nodes.values().all(|view| view.seen().is_some()),
        look_again_after: Duration::from_millis(plan.look_again_after_milliseconds),
        findings: plan.findings,
        retained_bytes: plan.retained_bytes,
        outcome,
    }
}

impl Pass {
    /// A topology that cannot be as written. Nothing is touched: replication goes on as it is.
    fn refused(status: ReplicaTopologyStatus) -> Self {
        Self {
            accepted: false,
            acknowledged: None,
            status,
            findings: Vec::new(),
            outcome: Outcome::default(),
            lag: BTreeMap::new(),
            retained_bytes: BTreeMap::new(),
            out_of_reach: BTreeMap::new(),
            not_dropped: BTreeMap::new(),
            at_rest: true,
            look_again_after: REFUSED_AGAIN_AFTER,
        }
    }
}

/// Slots that could not be dropped when that was tried last, by the server that they are on.
fn refused(plan: &Plan, outcome: &Outcome) -> BTreeMap<NodeName, BTreeSet<NodeName>> {
    let failed = outcome.done.iter().filter(|done| done.result.is_err()).map(|done| &done.planned.step);
    let mut slots: BTreeMap<NodeName, BTreeSet<NodeName>> = BTreeMap::new();
    for step in plan.postponed.iter().map(|planned| &planned.step).chain(failed) {
        if let Step::DropSlot { on, owner } = step {
            slots.entry(on.clone()).or_default().insert(owner.clone());
        }
    }
    slots
}

fn lag(sight: &Sight) -> BTreeMap<NodeName, Duration> {
    let known = |rooted: &Rooted| match rooted {
        Rooted::Yes { shown_lag_milliseconds, .. } => Some(Duration::from_millis(*shown_lag_milliseconds)),
        Rooted::No(_) | Rooted::Unknown(_) => None,
    };
    sight.rooted.iter().filter_map(|(node, rooted)| Some((node.clone(), known(rooted)?))).collect()
}
