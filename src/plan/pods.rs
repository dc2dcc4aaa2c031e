//! What is done about nodes that run in pods: their objects are made, and their agents are told what they are to be.
//!
//! A cluster of databases is made once in the life of a topology (law 10): while no server of it was ever seen, no volume of
//! the root group holds data, and all of them were looked at. Everybody else is cloned, from a standby where there is one.

use std::collections::BTreeSet;

use super::rollout::{self, Due, Rollout};
use super::step::Plan;
use crate::model::orders::{Account, Data, Role};
use crate::model::pods::{Assignment, Labels, Pods};
use crate::model::primary::Primary;
use crate::model::{Desired, NodeName, Observed};

/// One deed about one node. Each is idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Make its objects in Kubernetes as they are to be.
    Make {
        /// Which node.
        node: NodeName,
    },
    /// Tell its agent what it is to be.
    Order {
        /// Which node.
        node: NodeName,
        /// What.
        assignment: Assignment,
    },
    /// Make whatever clients find the tree by, and lead those that write to this node.
    Publish {
        /// Which node.
        writer: NodeName,
    },
    /// Delete its pod, so that another one takes its place that is made from what the spec says now. Its volume stays.
    Replace {
        /// Which node.
        node: NodeName,
        /// The uid of the pod: any other is left alone.
        pod: String,
    },
    /// Delete all of it but its volume: it is not in the spec any more.
    Remove {
        /// Which node.
        node: NodeName,
    },
    /// Have its pod in Kubernetes say what it is.
    Label {
        /// Which node.
        node: NodeName,
        /// What.
        labels: Labels,
    },
}

impl Deed {
    /// The node that it is about.
    pub fn node(&self) -> &NodeName {
        match self {
            Self::Make { node }
            | Self::Order { node, .. }
            | Self::Replace { node, .. }
            | Self::Remove { node }
            | Self::Label { node, .. } => node,
            Self::Publish { writer } => writer,
        }
    }
}

/// Whose data the tree has, and who is to write them.
struct Identity<'a> {
    system_identifier: Option<u64>,
    primary: &'a NodeName,
    /// Whether it is seen to be the primary. If not, nobody's role is changed: it may be another by now (law 8).
    is_seen: bool,
}

/// Fills in the deeds of a plan that is made already.
pub fn tend(desired: &Desired, observed: &Observed, pods: &Pods, plan: &mut Plan) {
    if !rollout::may_restart(desired) || pods.is_empty() {
        return;
    }
    plan.troubles = pods.iter().filter_map(|(node, pod)| Some((node.clone(), pod.trouble()?.to_owned()))).collect();
    plan.pending.extend(pods.iter().filter_map(|(node, pod)| Some((node.clone(), rollout::pending(node, pod)?))));
    let unmade = pods.iter().filter(|(_, pod)| !pod.is_made);
    plan.deeds.extend(unmade.map(|(node, _)| Deed::Make { node: node.clone() }));
    super::clients::lead(desired, observed, pods, plan);
    plan.rollout = rollout::rollout(desired, observed, pods, &plan.sight);
    let next = plan.rollout.as_ref().and_then(Rollout::next);
    let needed = next.filter(|due| rollout::is_still_needed(desired, plan, &due.node)).map(|due| due.node.clone());
    let next = next.filter(|_| needed.is_none()).cloned();
    if let (Some(node), Some(rollout)) = (needed, &mut plan.rollout) {
        rollout.waits = Some(format!("the children of {node} are moved away first"));
    }
    plan.deeds.extend(next.as_ref().and_then(Due::replaced));
    let Some(identity) = identity(desired, observed, pods) else { return };
    let mut busy = cloned_from(pods);
    let world = World { desired, observed, pods, plan, identity };
    let mut orders = Vec::new();
    for (node, pod) in pods {
        let Some(account) = &pod.account else { continue };
        let Some(mut assignment) = assignment(&world, node, account, &mut busy) else { continue };
        // What was ordered once stays in the orders: it says nothing about any other start.
        let ordered = account.orders.as_ref().and_then(|orders| orders.restart.clone());
        let is_due = |restart: &String| account.postmaster.as_ref() == Some(restart);
        let ordered = ordered.filter(|restart| {
            !is_due(restart) || !rollout::is_withdrawn(desired, observed, pods, &world.plan.sight, node)
        });
        assignment.restart = next.as_ref().and_then(|next| next.restarted(node)).or(ordered);
        if !pod.is_current || !follows(account, &assignment) {
            orders.push(Deed::Order { node: node.clone(), assignment });
        }
    }
    plan.deeds.extend(orders);
}

/// What a decision about a node goes by.
struct World<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    pods: &'a Pods,
    plan: &'a Plan,
    identity: Identity<'a>,
}

/// What is known of it; `None` while that is not enough to order anything.
fn identity<'a>(desired: &'a Desired, observed: &'a Observed, pods: &'a Pods) -> Option<Identity<'a>> {
    let memory = &observed.memory;
    let root = desired.root()?;
    let seen = match seen_primary(observed) {
        Some(Primary::Known { name, system_identifier }) => Some((name, *system_identifier)),
        _ => None,
    };
    if let Some((primary, identifier)) = seen {
        return Some(Identity { system_identifier: Some(identifier), primary, is_seen: true });
    }
    if let Some(identifier) = memory.system_identifier {
        let primary = memory.primary.as_ref().filter(|primary| pods.contains_key(*primary));
        let primary = primary.or_else(|| ordered_to_write(pods))?;
        return Some(Identity { system_identifier: Some(identifier), primary, is_seen: false });
    }
    // Before anything is made or taken for ours all volumes were looked at: one may hold the rows of an earlier life.
    let accounts: Vec<&Account> = pods.values().map(|pod| pod.account.as_ref()).collect::<Option<_>>()?;
    let first = root.members.first()?;
    let identifiers: BTreeSet<&str> = pods.values().filter_map(|pod| identifier(pod.account.as_ref()?)).collect();
    let mut identifiers = identifiers.into_iter();
    match (identifiers.next(), identifiers.next()) {
        (None, _) if accounts.iter().all(|account| is_untouched(account)) => {
            // One that was told to begin does so, whoever comes first in the spec by now.
            let primary = ordered_to_write(pods).unwrap_or(first);
            Some(Identity { system_identifier: None, primary, is_seen: false })
        }
        (Some(one), None) => {
            let primary = ordered_to_write(pods)?;
            Some(Identity { system_identifier: Some(one.parse().ok()?), primary, is_seen: false })
        }
        _ => None,
    }
}

pub(super) fn seen_primary(observed: &Observed) -> Option<&Primary> {
    observed.memory.sight.as_ref().map(|sight| &sight.primary)
}

/// Whether nothing is there, and nobody was told that something is somewhere.
fn is_untouched(account: &Account) -> bool {
    let told = account.orders.as_ref().is_some_and(|orders| orders.system_identifier.is_some());
    account.data == Data::None && !told
}

fn identifier(account: &Account) -> Option<&str> {
    match &account.data {
        Data::Of(identifier) => Some(identifier),
        Data::None | Data::Unknown => None,
    }
}

/// The one whose agent was ordered last to write, where it is one.
pub(super) fn ordered_to_write(pods: &Pods) -> Option<&NodeName> {
    let writes = |account: &Account| account.orders.as_ref().is_some_and(|orders| orders.role == Role::Primary);
    let mut all = pods.iter().filter(|(_, pod)| pod.account.as_ref().is_some_and(writes)).map(|(node, _)| node);
    all.next().filter(|_| all.next().is_none())
}

/// Who feeds a clone: each has one at a time, as it costs a server's disk and network all that they have.
fn cloned_from(pods: &Pods) -> BTreeSet<NodeName> {
    let cloning = pods.values().filter_map(|pod| pod.account.as_ref()).filter(|account| account.data == Data::None);
    let sources = cloning.filter_map(|account| account.orders.as_ref()?.sources.first());
    sources.filter_map(|source| NodeName::new(&source.node).ok()).collect()
}

/// What a node is to be now; `None` where it has to wait.
fn assignment(
    world: &World<'_>,
    node: &NodeName,
    account: &Account,
    busy: &mut BTreeSet<NodeName>,
) -> Option<Assignment> {
    let World { plan, identity, .. } = world;
    let system_identifier = identity.system_identifier;
    let decided = if node == identity.primary { Role::Primary } else { Role::Standby };
    let role = account.orders.as_ref().filter(|_| !identity.is_seen).map_or(decided, |orders| orders.role);
    let ordered = account.orders.iter().flat_map(|orders| &orders.sources);
    let ordered: Vec<NodeName> = ordered.filter_map(|source| NodeName::new(&source.node).ok()).collect();
    let sources = match (&account.data, system_identifier) {
        // Its volume was lost: to clone it and open it would be to go on from what somebody else happened to have.
        (Data::None, Some(_)) if role == Role::Primary => return None,
        // Whoever writes is cloned from nobody; the first of a tree neither.
        (Data::Of(_) | Data::None, _) if role == Role::Primary => Vec::new(),
        // It is not known yet what is there, or whose it has to be.
        (Data::Unknown, _) | (Data::None, None) => return None,
        // It has data: whom it was cloned from is history.
        (Data::Of(_), _) => ordered,
        (Data::None, Some(_)) => {
            let stays = ordered.first().is_some_and(|source| plan.sight.is_rooted(source));
            if stays { ordered } else { sources(world, node, busy)? }
        }
    };
    busy.extend(sources.first().cloned().filter(|_| account.data == Data::None));
    Some(Assignment { role, system_identifier, sources, restart: None })
}

/// Whom it is cloned from. A region grows from its own servers, and the primary gives what nobody else has: who has to wait
/// for its turn waits.
fn sources(world: &World<'_>, node: &NodeName, busy: &BTreeSet<NodeName>) -> Option<Vec<NodeName>> {
    let World { desired, plan, identity, .. } = world;
    let wanted = plan.wanted.get(node).into_iter().flat_map(|route| &route.entries);
    let mut known = BTreeSet::new();
    let there = |source: &&NodeName| *source != node && plan.sight.is_rooted(source);
    let all = wanted.chain(plan.sight.rooted.keys()).filter(there);
    let mut all: Vec<&NodeName> = all.filter(|source| known.insert(*source)).collect();
    let region = desired.region_of(node);
    let rank = |source: &NodeName| match source {
        primary if primary == identity.primary => 2,
        near if desired.region_of(near) == region => 0,
        _ => 1,
    };
    // Stable: what is wanted is before what is not.
    all.sort_by_key(|source| rank(source));
    let best = all.first().map(|source| rank(source))?;
    if best > 0 && awaits_relay(world, node) {
        return None;
    }
    let free: Vec<NodeName> = all.into_iter().filter(|source| !busy.contains(*source)).cloned().collect();
    free.first().is_some_and(|source| rank(source) == best).then_some(free)
}

/// Whether a relay of its own group is on its way, from which it is cloned then: its agent is there, or nobody has seen it
/// yet. One that was there and is gone is not waited for.
fn awaits_relay(world: &World<'_>, node: &NodeName) -> bool {
    let Some(group) = world.desired.group_of(node).filter(|group| group.relays > 0) else { return false };
    let comes = |relay: &NodeName| {
        let is_heard = world.pods.get(relay).is_some_and(|pod| pod.account.is_some());
        is_heard || world.observed.last(relay).is_none()
    };
    !group.feeders().contains(node) && group.feeders().iter().any(comes)
}

/// Whether an agent was told this already.
fn follows(account: &Account, assignment: &Assignment) -> bool {
    account.orders.as_ref().is_some_and(|orders| {
        let sources = orders.sources.iter().map(|source| source.node.as_str());
        let identifier = assignment.system_identifier.map(|identifier| identifier.to_string());
        orders.role == assignment.role
            && orders.system_identifier == identifier
            && orders.restart == assignment.restart
            && sources.eq(assignment.sources.iter().map(NodeName::as_str))
    })
}
