//! Who is started anew next, for what is taken at a start only: another image, and other values of some parameters.
//!
//! One at a time, those that feed nobody first and the primary last, and only while everybody is well: what is wrong with the
//! first is not done to the second. A relay's children are moved away before. A pod that does not run is replaced at once by
//! one that is made from what the spec says now, as nothing is lost by that.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::pods::Deed;
use super::step::Plan;
use crate::model::orders::{Account, Data};
use crate::model::pods::{MadeFrom, Pod, Pods};
use crate::model::primary::Primary;
use crate::model::rooted::Rooted;
use crate::model::tree::Edge;
use crate::model::{Automation, Desired, Group, NodeName, Observed, Sight};

/// Servers that are to be started anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// All of them, in their order.
    pub left: Vec<Due>,
    /// What the first of them waits for, in words; `None` where it is its turn.
    pub waits: Option<String>,
}

/// One server that is to be started anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Which node.
    pub node: NodeName,
    /// For what.
    pub what: What,
    /// In which way.
    pub how: How,
}

/// After so many starts in vain in a row it is not users' parameters that keep PostgreSQL from coming up: without those it was
/// tried already.
const STARTS_IN_VAIN_MIN: u32 = 4;

/// What a server takes at its next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The image that the spec names now.
    Image,
    /// These parameters.
    Parameters(Vec<String>),
}

/// How a server is started anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// Its pod is replaced; the uid of the present one.
    Replace(String),
    /// Its agent starts PostgreSQL anew; the start that is to end, as it calls it.
    Restart(String),
}

impl Rollout {
    /// Whose turn it is.
    pub fn next(&self) -> Option<&Due> {
        self.left.first().filter(|_| self.waits.is_none())
    }
}

impl Due {
    /// The deed that puts another pod in the place of this one, where it takes that.
    pub(super) fn replaced(&self) -> Option<Deed> {
        match &self.how {
            How::Replace(pod) => Some(Deed::Replace { node: self.node.clone(), pod: pod.clone() }),
            How::Restart(_) => None,
        }
    }

    /// The start of a node's PostgreSQL that is to be followed by another, where that is enough.
    pub(super) fn restarted(&self, node: &NodeName) -> Option<String> {
        match &self.how {
            How::Restart(postmaster) if *node == self.node => Some(postmaster.clone()),
            How::Restart(_) | How::Replace(_) => None,
        }
    }
}

/// What a decision goes by.
struct World<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    pods: &'a Pods,
    sight: &'a Sight,
}

/// Who is to be started anew; `None` where nobody is.
pub(super) fn rollout(desired: &Desired, observed: &Observed, pods: &Pods, sight: &Sight) -> Option<Rollout> {
    let world = World { desired, observed, pods, sight };
    let mut left: Vec<Due> = pods.iter().filter_map(|(node, pod)| due(node, pod)).collect();
    left.sort_by_cached_key(|due| world.turn(due));
    let first = left.first()?;
    let waits = world.not_taken_in(first).or_else(|| world.wait(first).filter(|_| !world.is_broken(first)));
    Some(Rollout { left, waits })
}

/// Whose children are moved away: of pods that are on their way out, and of the one that is started anew next, from before its
/// turn until it is done, so that nobody goes back meanwhile. Not while others who feed somebody are away themselves.
pub fn leaving(desired: &Desired, observed: &Observed, pods: &Pods) -> BTreeSet<NodeName> {
    let Some(sight) = observed.memory.sight.as_ref().filter(|_| may_restart(desired)) else { return BTreeSet::new() };
    let world = World { desired, observed, pods, sight };
    let going = pods.iter().filter(|(_, pod)| pod.made_from == MadeFrom::Leaving).map(|(node, _)| node.clone());
    let first = rollout(desired, observed, pods, sight).and_then(|rollout| rollout.left.into_iter().next());
    let first = first.map(|due| due.node).filter(|first| {
        let mut feeders = pods.keys().filter(|node| *node != first && world.is_feeder(node));
        let (memory, patience) = (&observed.memory, desired.healing.suspect_after_milliseconds);
        feeders.all(|node| memory.unrooted_for(node).is_none_or(|milliseconds| milliseconds < patience))
    });
    going.chain(first).filter(|node| !world.is_primary(node)).collect()
}

/// Whether anybody may be started anew at all.
pub(super) fn may_restart(desired: &Desired) -> bool {
    desired.automation == Automation::Heal && !desired.deleting
}

/// Whether a child of a node is to be moved away from it and was not yet.
pub(super) fn is_still_needed(desired: &Desired, plan: &Plan, node: &NodeName) -> bool {
    let is_child = |(child, edge): (&NodeName, &Edge)| {
        let waits = plan.waits.iter().any(|wait| wait.node == *child && !wait.reason.comes_by_itself());
        let fails = plan.postponed.iter().any(|planned| planned.step.owner() == child);
        let is_moved = desired.group_of(child).is_some_and(|group| group.management.sets_routes()) && !waits && !fails;
        let to = plan.wanted.get(child).and_then(|route| route.first());
        is_moved && edge.upstream() == Some(node) && to.is_some_and(|to| to != node)
    };
    desired.leaving.contains(node) && plan.sight.edges.iter().any(is_child)
}

/// Whether an order to start a node anew that it has not followed yet is to be taken back: others are not well by now.
pub(super) fn is_withdrawn(
    desired: &Desired,
    observed: &Observed,
    pods: &Pods,
    sight: &Sight,
    node: &NodeName,
) -> bool {
    let world = World { desired, observed, pods, sight };
    let what = What::Parameters(Vec::new());
    pods.iter().any(|(other, pod)| other != node && world.unwell(other, pod, &what).is_some())
}

fn due(node: &NodeName, pod: &Pod) -> Option<Due> {
    let (uid, what) = match &pod.made_from {
        MadeFrom::Unknown | MadeFrom::Leaving => return None,
        MadeFrom::Before(uid) => (uid, What::Image),
        MadeFrom::Now(uid) => {
            let names = &pod.account.as_ref()?.restart_for;
            (uid, What::Parameters(Some(names).filter(|names| !names.is_empty())?.clone()))
        }
    };
    let account = pod.account.as_ref();
    let how = match (&what, account.and_then(|account| account.postmaster.clone())) {
        (What::Image, _) => How::Replace(uid.clone()),
        (What::Parameters(_), Some(postmaster)) => How::Restart(postmaster),
        // An agent of before does not say which start it is: with the pod it is another. One that is stopped begins by itself.
        (What::Parameters(_), None) if account.is_some_and(|account| account.as_ordered) => How::Replace(uid.clone()),
        (What::Parameters(_), None) => return None,
    };
    Some(Due { node: node.clone(), what, how })
}

impl World<'_> {
    fn is_primary(&self, node: &NodeName) -> bool {
        matches!(&self.sight.primary, Primary::Known { name, .. } if name == node)
    }

    fn is_relay(&self, node: &NodeName) -> bool {
        let group = self.desired.group_of(node);
        group.is_some_and(|group| group.relays > 0 && group.feeders().contains(node))
    }

    fn is_candidate(&self, node: &NodeName) -> bool {
        self.desired.group_of(node).is_some_and(Group::is_root)
    }

    fn is_feeder(&self, node: &NodeName) -> bool {
        self.is_relay(node) || self.is_candidate(node)
    }

    fn feeds(&self, node: &NodeName) -> bool {
        self.sight.edges.values().any(|edge| edge.upstream() == Some(node))
    }

    /// What does not run goes first, as it is mended by that; and what does not follow.
    fn turn(&self, due: &Due) -> impl Ord + use<> {
        let node = &due.node;
        let hops = match self.sight.rooted.get(node) {
            Some(Rooted::Yes { hops, .. }) => *hops,
            Some(Rooted::No(_) | Rooted::Unknown(_)) | None => 0,
        };
        let mended = (!self.is_broken(due), !self.is_lame(due));
        (mended, self.is_primary(node), self.is_candidate(node), self.is_relay(node), Reverse(hops), node.clone())
    }

    /// Whether it does not run because of what it was made from, by what Kubernetes or its agent says: that nobody is seen
    /// there may be us (law 8), and who is well all the same is not broken.
    fn is_broken(&self, due: &Due) -> bool {
        let fails = |pod: &Pod| {
            let in_vain =
                |account: &Account| account.postmaster.is_none() && account.starts_in_vain >= STARTS_IN_VAIN_MIN;
            pod.stuck.is_some() || pod.account.as_ref().is_some_and(in_vain)
        };
        due.what == What::Image && !self.sight.is_rooted(&due.node) && self.pods.get(&due.node).is_some_and(fails)
    }

    /// Whether it runs and follows nobody, and nobody loses anything when it is started anew.
    fn is_lame(&self, due: &Due) -> bool {
        let node = &due.node;
        let is_no_clone = |account: &Account| account.data != Data::None;
        let runs = |pod: &Pod| pod.is_made && pod.is_current && pod.account.as_ref().is_some_and(is_no_clone);
        !self.sight.is_rooted(node)
            && !self.is_primary(node)
            && !self.feeds(node)
            && self.pods.get(node).is_some_and(runs)
    }

    /// The pod that would take its place would be made from what was said before.
    fn not_taken_in(&self, first: &Due) -> Option<String> {
        let is_taken_in = self.pods.get(&first.node).is_some_and(|pod| pod.is_made && pod.is_taken_in);
        first_lack(&first.node, &[(is_taken_in, "has objects that Kubernetes has not taken in yet")])
    }

    fn wait(&self, first: &Due) -> Option<String> {
        if !matches!(self.sight.primary, Primary::Known { .. }) {
            return Some("no primary is seen".to_owned());
        }
        let others = self.pods.iter().filter(|(node, _)| **node != first.node || !self.is_lame(first));
        if let Some(why) = others.into_iter().find_map(|(node, pod)| self.unwell(node, pod, &first.what)) {
            return Some(why);
        }
        // Its children need another place meanwhile, and one that failed a short while ago is none. The primary's have none.
        let has_children = self.feeds(&first.node) && !self.is_primary(&first.node);
        let settles = |node: &&NodeName| has_children && self.is_feeder(node) && self.observed.memory.is_settling(node);
        let settling = self.desired.nodes.keys().find(settles);
        settling.map(|node| format!("{node} was away a short while ago"))
    }

    /// What a server does not have that is to be well while another one is away.
    fn unwell(&self, node: &NodeName, pod: &Pod, what: &What) -> Option<String> {
        let Some(account) = &pod.account else { return Some(format!("the agent of {node} is not heard")) };
        // What another image would cure is nothing to wait for.
        let is_old = *what == What::Image && matches!(pod.made_from, MadeFrom::Before(_));
        if !account.trouble.is_empty() && !is_old {
            return Some(format!("{node} has a trouble of its own: {}", account.trouble));
        }
        let patience = self.desired.reads.max_staleness_seconds.saturating_mul(1000);
        let (is_rooted, is_fresh) = match self.sight.rooted.get(node) {
            Some(Rooted::Yes { shown_lag_milliseconds, .. }) => (true, *shown_lag_milliseconds <= patience),
            Some(Rooted::No(_) | Rooted::Unknown(_)) | None => (false, false),
        };
        let follows = [
            // That it has a path may be what was seen of it last.
            (self.sight.edges.contains_key(node), "is not seen"),
            (self.is_primary(node) || self.sight.upstream(node).is_some(), "receives from nobody"),
            (is_rooted, "has no path to the primary"),
            (is_fresh, "is far behind the primary"),
        ];
        pending(node, pod).or_else(|| first_lack(node, &follows))
    }
}

/// What a server is still to be given, or to do: it comes by itself.
pub(super) fn pending(node: &NodeName, pod: &Pod) -> Option<String> {
    let has_pod = matches!(pod.made_from, MadeFrom::Now(_) | MadeFrom::Before(_));
    // Of who is not heard that is known no better.
    let account = pod.account.as_ref();
    let has = [
        (pod.is_made, "has objects in Kubernetes that are not as they are to be yet"),
        (has_pod, "has no pod"),
        (pod.is_ready, "has a pod that is not ready"),
        (pod.is_current || account.is_none(), "was not told all yet"),
        (account.is_none_or(|account| account.as_ordered), "is not as it was ordered yet"),
    ];
    first_lack(node, &has)
}

fn first_lack(node: &NodeName, has: &[(bool, &str)]) -> Option<String> {
    has.iter().find(|(is_so, _)| !is_so).map(|(_, what)| format!("{node} {what}"))
}
