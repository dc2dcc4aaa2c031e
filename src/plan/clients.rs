//! By what clients find the servers that run in pods: one Service leads to whoever writes, others to whom labels say.
//!
//! Kubernetes goes on by what it was told last while nobody of ours is there (law 11), so nothing is told that is not known:
//! those that write are led to another only once that is seen to be the primary, and readers away from a standby only when
//! that is seen to be stale or without a path to the primary.

use std::collections::{BTreeMap, BTreeSet};

use super::pods::{Deed, ordered_to_write, seen_primary};
use super::step::Plan;
use crate::model::orders::Role;
use crate::model::pods::{Labels, Pod, Pods};
use crate::model::primary::Primary;
use crate::model::rooted::Rooted;
use crate::model::{Desired, Diagnosis, NodeName, Observed};

/// Fills in what has to be told anew, and whether readers get what they are to get.
pub(super) fn lead(desired: &Desired, observed: &Observed, pods: &Pods, plan: &mut Plan) {
    let published = pods.iter().find(|(_, pod)| pod.is_writer == Some(true)).map(|(node, _)| node);
    let Some(writer) = writer(desired, observed, pods, published) else { return };
    // What is not listed yet may be there, and lead to another (law 8).
    let is_known = pods.values().all(|pod| pod.is_writer.is_some());
    plan.deeds.extend((is_known && published != Some(writer)).then(|| Deed::Publish { writer: writer.clone() }));
    let there = pods.iter().filter(|(node, pod)| *node != writer && pod.labelled.is_some());
    let standbys: BTreeMap<&NodeName, Fitness> =
        there.map(|(node, pod)| (node, fitness(desired, plan, node, pod))).collect();
    plan.all_too_stale = !standbys.is_empty() && standbys.values().all(|fitness| *fitness != Fitness::Fresh);
    let reads = best(standbys.iter().map(|(node, fitness)| (*node, *fitness)));
    let of_groups = desired
        .groups
        .iter()
        .flat_map(|group| best(group.members.iter().filter_map(|node| Some((node, *standbys.get(node)?)))));
    let reads_in_group: BTreeSet<&NodeName> = of_groups.collect();
    let odd = pods.iter().filter_map(|(node, pod)| {
        let says = pod.labelled?;
        let labels = if node == writer {
            Labels::first(Role::Primary)
        } else {
            let (reads, reads_in_group) = (reads.contains(node), reads_in_group.contains(node));
            Labels { role: Role::Standby, reads, reads_in_group }
        };
        (says != Some(labels)).then(|| Deed::Label { node: node.clone(), labels })
    });
    plan.deeds.extend(odd);
}

/// Who writes, as far as that is known; before anybody does, who is to.
fn writer<'a>(
    desired: &'a Desired,
    observed: &'a Observed,
    pods: &'a Pods,
    published: Option<&'a NodeName>,
) -> Option<&'a NodeName> {
    match seen_primary(observed) {
        Some(Primary::Known { name, .. }) => pods.contains_key(name).then_some(name),
        _ if published.is_some() => published,
        _ => {
            let remembered = observed.memory.primary.as_ref().filter(|primary| pods.contains_key(*primary));
            remembered.or_else(|| ordered_to_write(pods)).or_else(|| desired.root()?.members.first())
        }
    }
}

/// What a standby has for readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    /// What they are to have.
    Fresh,
    /// Rows of this tree, and older ones than they are to have.
    Stale,
    /// Rows that the primary may not have, or never had.
    Wrong,
}

fn fitness(desired: &Desired, plan: &Plan, node: &NodeName, pod: &Pod) -> Fitness {
    use Diagnosis::{Diverged, ForeignPrimary, ForeignServer, SameServer, VersionTooOld};
    let wrong = [Diverged, ForeignPrimary, ForeignServer, SameServer, VersionTooOld];
    if plan.findings.iter().any(|finding| finding.node == *node && wrong.contains(&finding.diagnosis)) {
        return Fitness::Wrong;
    }
    let served = pod.labelled.flatten().is_none_or(|labels| labels.reads);
    let as_before = if served { Fitness::Fresh } else { Fitness::Stale };
    let most = desired.reads.max_staleness_seconds * 1000;
    match plan.sight.rooted.get(node) {
        Some(Rooted::Yes { shown_lag_milliseconds: lag, .. }) if *lag > most => Fitness::Stale,
        Some(Rooted::Yes { shown_lag_milliseconds: lag, .. }) if *lag <= most / 2 => Fitness::Fresh,
        Some(Rooted::No(_)) => Fitness::Stale,
        // It is not known, or between the two: whoever is on the edge is not led to and away from all the time.
        Some(Rooted::Yes { .. } | Rooted::Unknown(_)) | None => as_before,
    }
}

/// Those that are fresh; where nobody is, those that are stale.
fn best<'a>(standbys: impl Iterator<Item = (&'a NodeName, Fitness)>) -> BTreeSet<&'a NodeName> {
    let standbys: Vec<(&NodeName, Fitness)> = standbys.filter(|(_, fitness)| *fitness != Fitness::Wrong).collect();
    let best = standbys.iter().map(|(_, fitness)| *fitness).min();
    standbys.into_iter().filter(|(_, fitness)| Some(*fitness) == best).map(|(node, _)| node).collect()
}
