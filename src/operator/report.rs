//! What is reported: the status as a pure function of what is wanted, seen, planned and done.
//!
//! Nothing in a status may change while nothing happens: no LSN, no count of milliseconds. Lag is told in steps with a
//! margin, times are those of changes, and the text of a condition changes only with what it says.

mod history;
mod retention;
mod texts;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use strum::IntoEnumIterator;

use crate::api::conditions::{ConditionType, Truth, Verdict, set_condition, stored};
use crate::api::reason::{Plain, Reason};
use crate::api::status::{
    GroupStatus, LagBucket, NodeState, NodeStatus, PrimaryStatus, ReplicaTopologyStatus as Status, Summary, Tolerated,
    Tolerates,
};
use crate::model::check::Rejection;
use crate::model::primary::Primary as Seen;
use crate::model::rooted::Rooted;
use crate::model::tree::Edge;
use crate::model::{Desired, Diagnosis, Finding, Group, NodeName, Observed, SessionAttrs, Unseen, WhyUnseen};
use crate::plan::{Done, Outcome, Plan, Planned, Step, Why};

/// How coarsely lag is known: servers are asked once a second, so a node without any lag is seen up to a tick behind.
/// A step of lag is left upwards only beyond this much more.
const LAG_MARGIN_MILLISECONDS: u64 = 1500;

/// Longest message of one node: a fleet that fails as a whole still has to fit into the object.
const NODE_MESSAGE_CHARS: usize = 300;

/// Longest messages of all nodes together: with everything else that is told, the status of five hundred nodes stays below
/// 60 kB whatever fails.
const ALL_MESSAGES_BYTES: usize = 8_000;

/// The status after one pass. As long as a node of the topology has not been tried yet, which is so right after the
/// operator's start, it is the previous status unchanged: a restart of the operator is no news.
pub fn status(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    outcome: &Outcome,
    previous: Option<&Status>,
    generation: i64,
    now: Timestamp,
) -> Status {
    let untried = |unseen: &Unseen| unseen.why == WhyUnseen::NotYet;
    if let Some(previous) = previous
        && observed.nodes.values().any(|view| view.unseen.as_ref().is_some_and(untried))
    {
        return previous.clone();
    }
    let view = View { desired, observed, plan, outcome, previous };
    compose(&view, generation, now)
}

/// The status of a spec that cannot be acted on. Nobody looks at the servers until it is corrected, so what was true of
/// them may be so no more (law 8); their nodes stay as they were seen last.
pub fn rejected(rejections: &[Rejection], previous: Option<&Status>, generation: i64, now: Timestamp) -> Status {
    const NAMED: usize = 5;
    let mut status = previous.cloned().unwrap_or_default();
    status.observed_generation = Some(generation);
    let named: Vec<String> = rejections.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match rejections.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let message = format!("{}{more}. Correct the spec: until then no server is touched.", named.join("; "));
    for kind in [ConditionType::Accepted, ConditionType::Ready] {
        let verdict = Verdict::new(Truth::False, Plain::Invalid, message.clone());
        set_condition(&mut status.conditions, kind, verdict, generation, now);
    }
    let known: Vec<String> = status.conditions.iter().map(|condition| condition.type_.clone()).collect();
    let others = ConditionType::iter().filter(|kind| known.contains(&kind.to_string()));
    for kind in others.filter(|kind| ![ConditionType::Accepted, ConditionType::Ready].contains(kind)) {
        let message = "No server is looked at until the spec is corrected. See Accepted for what to correct.";
        let verdict = Verdict::new(Truth::Unknown, Plain::Invalid, message.to_owned());
        set_condition(&mut status.conditions, kind, verdict, generation, now);
    }
    status.tolerates = status.tolerates.map(|_| tolerates(&crate::plan::Tolerates::default()));
    if let Some(summary) = &mut status.summary {
        summary.lag = LagBucket::Unknown.to_string();
    }
    status
}

/// Everything that a status is made of.
struct View<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    plan: &'a Plan,
    outcome: &'a Outcome,
    previous: Option<&'a Status>,
}

/// Who takes writes.
enum Primary<'a> {
    /// This one.
    One(&'a NodeName),
    /// More than one.
    Several(&'a [NodeName]),
    /// Nobody: the whole root group is seen and is on standby.
    Nobody,
    /// It may be one of those that cannot be seen; the one seen last comes first.
    Unseen(&'a NodeName, &'a Unseen),
}

fn compose(view: &View<'_>, generation: i64, now: Timestamp) -> Status {
    let primary = view.primary();
    let mut verdicts = verdicts::all(view, &primary);
    let mut conditions = view.previous.map(|status| status.conditions.clone()).unwrap_or_default();
    let converged = verdicts.get(&ConditionType::Converged).is_some_and(|verdict| verdict.truth == Truth::True);
    for kind in ConditionType::iter() {
        if let Some(verdict) = verdicts.remove(&kind) {
            set_condition(&mut conditions, kind, verdict, generation, now);
        }
    }
    let nodes = view.nodes(&primary);
    let mut status = Status {
        observed_generation: Some(generation),
        conditions,
        system_identifier: view.system_identifier(),
        primary: view.primary_status(&primary, now),
        summary: Some(view.summary(&nodes)),
        tolerates: Some(tolerates(&view.plan.tolerates)),
        groups: view.desired.groups.iter().map(|group| view.group_status(group)).collect(),
        nodes,
        leaving: view.observed.memory.leaving.keys().map(ToString::to_string).collect(),
        acknowledged: view.previous.and_then(|status| status.acknowledged.clone()),
        history: Vec::new(),
    };
    status.history = history::after(view, &status, converged, now);
    status
}

impl View<'_> {
    /// The first finding about a node, which is the worst.
    fn finding(&self, node: &NodeName) -> Option<&Finding> {
        self.plan.findings.iter().find(|finding| &finding.node == node)
    }

    /// Steps that failed when they were tried last, and what was said. Which of them is tried again in this pass, or is due
    /// and not begun, does not show: they come in the order of their servers.
    fn failed(&self) -> BTreeMap<(&NodeName, &NodeName, &'static str), (&Planned, &str)> {
        let before = |planned: &Planned| {
            let (server, owner, kind) = key(planned);
            self.observed.memory.failed(server, owner, kind).map(|failed| failed.error.as_str())
        };
        let planned = self.plan.steps.iter().chain(&self.plan.postponed);
        let mut failed: BTreeMap<_, _> =
            planned.filter_map(|planned| Some((key(planned), (planned, before(planned)?)))).collect();
        for Done { planned, result } in &self.outcome.done {
            match result {
                Ok(()) => failed.remove(&key(planned)),
                Err(error) => failed.insert(key(planned), (planned, error.as_str())),
            };
        }
        failed
    }

    /// Steps that change the tree and did not fail.
    fn under_way(&self) -> Vec<&Planned> {
        let failed = self.failed();
        changes(&self.plan.steps).into_iter().filter(|planned| !failed.contains_key(&key(planned))).collect()
    }

    fn unseen(&self, node: &NodeName) -> Option<&Unseen> {
        self.observed.nodes.get(node).and_then(|view| view.unseen.as_ref())
    }

    /// What deviates about a node, with what to do: what is wrong with it, or why it is not seen.
    fn trouble(&self, node: &NodeName) -> Option<(Reason, String)> {
        let unseen = self.unseen(node);
        match (self.finding(node), unseen) {
            // The finding only says that it is not seen; why it is not says more.
            (Some(Finding { diagnosis: Diagnosis::Unseen, .. }) | None, Some(unseen)) => {
                Some((unseen.why.into(), texts::unseen(unseen)))
            }
            (Some(finding), _) => Some((finding.diagnosis.into(), finding.message.clone())),
            (None, None) => None,
        }
    }

    fn primary(&self) -> Primary<'_> {
        let Some(root) = self.desired.root() else { return Primary::Nobody };
        match &self.plan.sight.primary {
            Seen::Known { name, .. } => return Primary::One(name),
            Seen::Several(names) => return Primary::Several(names),
            Seen::NotSeen => {}
        }
        let known = self.observed.memory.primary.as_ref().map(NodeName::as_str);
        let known = known.or_else(|| self.previous?.primary.as_ref().map(|primary| primary.name.as_str()));
        let unseen = root.members.iter().filter_map(|node| Some((node, self.unseen(node)?)));
        let first = unseen.min_by_key(|(node, _)| Some(node.as_str()) != known);
        first.map_or(Primary::Nobody, |(node, unseen)| Primary::Unseen(node, unseen))
    }

    fn system_identifier(&self) -> Option<String> {
        let known = self.previous.and_then(|status| status.system_identifier.clone());
        known.or_else(|| self.observed.memory.system_identifier.map(|identifier| identifier.to_string()))
    }

    fn primary_status(&self, primary: &Primary<'_>, now: Timestamp) -> Option<PrimaryStatus> {
        let previous = self.previous.and_then(|status| status.primary.clone());
        let Primary::One(node) = primary else { return previous };
        let timeline = self.observed.seen(node).and_then(|facts| facts.timeline).map(|timeline| i64::from(timeline.0));
        let same =
            |known: &PrimaryStatus| known.name == node.as_str() && (timeline.is_none() || known.timeline == timeline);
        let name = node.to_string();
        Some(previous.filter(same).unwrap_or_else(|| PrimaryStatus { name, timeline, since: stored(now) }))
    }

    /// The upstream that a node has left for its present one since the look before.
    fn left(&self, node: &str) -> Option<&str> {
        let memory = self.observed.memory.node(&NodeName::new(node).ok()?)?;
        memory.left.as_ref().map(NodeName::as_str)
    }

    /// The node from which a node is seen to receive: it says so, and the other end does not deny it (law 9).
    fn upstream(&self, node: &NodeName) -> Option<&NodeName> {
        let edge = self.plan.sight.edges.get(node)?;
        edge.upstream().filter(|_| !matches!(edge, Edge::Denied(_)))
    }

    fn nodes(&self, primary: &Primary<'_>) -> Vec<NodeStatus> {
        let members =
            || self.desired.groups.iter().flat_map(|group| group.members.iter().map(move |node| (group, node)));
        let upstreams: Vec<Option<&NodeName>> = members().map(|(_, node)| self.upstream(node)).collect();
        let known = self.previous.map(|status| status.nodes.as_slice()).unwrap_or_default();
        let feeding: BTreeSet<&NodeName> = upstreams.iter().copied().flatten().collect();
        let mut nodes: Vec<NodeStatus> = members()
            .enumerate()
            .map(|(place, (group, node))| {
                let memory = &self.observed.memory;
                let is_primary = matches!(primary, Primary::One(one) if memory.are_one(one, node));
                let upstream = upstreams[place];
                let state = match self.plan.sight.rooted.get(node) {
                    Some(Rooted::No(_)) => NodeState::Unrooted,
                    Some(Rooted::Unknown(_)) | None => NodeState::Unknown,
                    Some(Rooted::Yes { .. }) if is_primary => NodeState::Primary,
                    Some(Rooted::Yes { .. }) if group.is_root() => NodeState::Standby,
                    Some(Rooted::Yes { .. }) if feeding.contains(node) => NodeState::Relay,
                    Some(Rooted::Yes { .. }) => NodeState::Leaf,
                };
                let deviation = self.deviation(node, upstream);
                let before = told(known, place, node.as_str());
                NodeStatus {
                    name: node.as_str().to_owned(),
                    upstream: upstream.map(|upstream| upstream.as_str().to_owned()),
                    state,
                    lag: if is_primary { None } else { self.lag(node, before) },
                    retained_wal_lasts: retention::lasts_on(self, node, before),
                    reason: deviation.as_ref().map(|(reason, _)| reason.to_string()),
                    message: deviation.and_then(|(_, message)| message),
                }
            })
            .collect();
        shorten(&mut nodes);
        nodes
    }

    fn deviation(&self, node: &NodeName, upstream: Option<&NodeName>) -> Option<(Reason, Option<String>)> {
        let short = |text: &str| Some(text.chars().take(NODE_MESSAGE_CHARS).collect());
        if let Some((reason, message)) = self.trouble(node) {
            return Some((reason, short(&message)));
        }
        if let Some(Rooted::No(why) | Rooted::Unknown(why)) = self.plan.sight.rooted.get(node) {
            return Some((Plain::Unrooted.into(), short(why)));
        }
        let route = self.plan.wanted.get(node)?;
        let elsewhere = route.attrs == SessionAttrs::Any && upstream.is_some() && upstream != route.first();
        elsewhere.then_some((Plain::OnFallback.into(), None))
    }

    fn lag(&self, node: &NodeName, told: Option<&NodeStatus>) -> Option<LagBucket> {
        let Some(Rooted::Yes { shown_lag_milliseconds: lag, .. }) = self.plan.sight.rooted.get(node) else {
            return None;
        };
        Some(lag_bucket(*lag, told.and_then(|told| told.lag)))
    }

    fn serves(&self, node: &NodeName) -> bool {
        let bound = self.desired.healing.lag_seconds.saturating_mul(1000);
        matches!(self.plan.sight.rooted.get(node), Some(Rooted::Yes { shown_lag_milliseconds: lag, .. }) if *lag <= bound)
    }

    fn is_rooted(&self, node: &NodeName) -> bool {
        self.plan.sight.is_rooted(node)
    }

    fn group_status(&self, group: &Group) -> GroupStatus {
        let count = |which: &dyn Fn(&NodeName) -> bool| {
            i32::try_from(group.members.iter().filter(|node| which(node)).count()).unwrap_or(i32::MAX)
        };
        GroupStatus {
            name: group.name.to_string(),
            nodes: count(&|_| true),
            rooted: count(&|node| self.is_rooted(node)),
            serving: count(&|node| self.serves(node)),
        }
    }

    /// Fallbacks that would work, and all that the wanted routes name.
    fn fallbacks(&self) -> (usize, usize) {
        let all = || self.plan.fallbacks.values().flatten();
        (all().filter(|(_, readiness)| readiness.is_ready()).count(), all().count())
    }

    fn summary(&self, nodes: &[NodeStatus]) -> Summary {
        let rooted = self.desired.nodes.keys().filter(|node| self.is_rooted(node)).count();
        let (ready, all) = self.fallbacks();
        let deepest = self.plan.sight.rooted.values().filter_map(|rooted| match rooted {
            Rooted::Yes { hops, .. } => Some(*hops),
            _ => None,
        });
        let lag = nodes.iter().filter_map(|node| node.lag).max();
        let nobody = if rooted == 0 { LagBucket::Unknown } else { LagBucket::Second };
        Summary {
            nodes: format!("{rooted}/{}", self.desired.nodes.len()),
            fallbacks: format!("{ready}/{all}"),
            lag: lag.unwrap_or(nobody).to_string(),
            retained_wal_lasts: retention::lasts(self),
            depth: i32::try_from(deepest.max().unwrap_or_default()).unwrap_or(i32::MAX),
        }
    }
}

fn tolerates(planned: &crate::plan::Tolerates) -> Tolerates {
    let told = |tolerated| match tolerated {
        crate::plan::Tolerated::True => Tolerated::True,
        crate::plan::Tolerated::False => Tolerated::False,
        crate::plan::Tolerated::Unknown => Tolerated::Unknown,
    };
    Tolerates {
        node: told(planned.node),
        zone: told(planned.zone),
        region: told(planned.region),
        weakest: planned.weakest.clone(),
    }
}

/// Keeps the messages of the first that deviate, in the order of the spec. What the others lack is still told in a word.
fn shorten(nodes: &mut [NodeStatus]) {
    let mut left = ALL_MESSAGES_BYTES;
    for node in nodes {
        left = left.saturating_sub(node.message.as_ref().map_or(0, String::len));
        node.message.take_if(|_| left == 0);
    }
}

/// What was told of a node before: in the same place as long as the spec is the same.
fn told<'a>(before: &'a [NodeStatus], place: usize, node: &str) -> Option<&'a NodeStatus> {
    let is_it = |told: &&NodeStatus| told.name == node;
    before.get(place).filter(is_it).or_else(|| before.iter().find(is_it))
}

/// What a step does where to whom.
fn key(planned: &Planned) -> (&NodeName, &NodeName, &'static str) {
    (planned.step.server(), planned.step.owner(), (&planned.step).into())
}

/// Steps that change the tree; the others only keep it as it is and come again and again.
fn changes(steps: &[Planned]) -> Vec<&Planned> {
    let upkeep = |planned: &Planned| match planned.step {
        Step::Reload { .. } => true,
        Step::RecreateSlot { .. } => planned.why == Why::ReleaseXmin,
        _ => planned.step.is_housekeeping(),
    };
    steps.iter().filter(|planned| !upkeep(planned)).collect()
}

/// The step of a lag, given the one told last: that one is kept as long as the lag is not clearly outside it.
fn lag_bucket(milliseconds: u64, told: Option<LagBucket>) -> LagBucket {
    const UPPER: [(LagBucket, u64); 4] = [
        (LagBucket::Second, 1_000),
        (LagBucket::Seconds, 5_000),
        (LagBucket::HalfMinute, 30_000),
        (LagBucket::Minutes, 300_000),
    ];
    let plain = |lag: u64| UPPER.iter().find(|(_, upper)| lag < *upper).map_or(LagBucket::More, |(bucket, _)| *bucket);
    let now = plain(milliseconds);
    match told {
        Some(told) if now > told && told != LagBucket::Unknown => {
            plain((milliseconds * 4 / 5).saturating_sub(LAG_MARGIN_MILLISECONDS)).max(told)
        }
        Some(told) if now < told && told != LagBucket::Unknown => plain(milliseconds * 4 / 3).min(told),
        _ => now,
    }
}

#[cfg(test)]
mod tests;
