//! The conditions: each judged from what is seen and planned, each with what to do.

use std::collections::{BTreeMap, BTreeSet};

use super::{Primary, View, changes, texts};
use crate::api::conditions::{ConditionType, Truth, Verdict};
use crate::api::reason::{Plain, Reason};
use crate::model::rooted::Rooted;
use crate::model::tree::Edge;
use crate::model::{Automation, Diagnosis, Finding, Group, Management, NodeName, about};
use crate::plan::{Planned, Readiness, Step, TICK_MILLISECONDS, Wait, WaitReason, What};

const NOTHING: &str = "Nothing to do.";

/// Every condition of an accepted spec.
pub(super) fn all(view: &View<'_>, primary: &Primary<'_>) -> BTreeMap<ConditionType, Verdict> {
    let mut verdicts = BTreeMap::from([
        (ConditionType::Accepted, Verdict::new(Truth::True, Plain::Valid, format!("The spec is valid. {NOTHING}"))),
        (ConditionType::Writable, writable(view, primary)),
        (ConditionType::Serving, serving(view)),
        (ConditionType::Rooted, rooted(view, primary)),
        (ConditionType::FallbacksReady, fallbacks_ready(view)),
        (ConditionType::Converged, converged(view)),
    ]);
    verdicts.insert(ConditionType::Progressing, progressing(view, &verdicts));
    verdicts.insert(ConditionType::Ready, ready(&verdicts));
    verdicts
}

fn writable(view: &View<'_>, primary: &Primary<'_>) -> Verdict {
    let root = view.desired.root().map(|group| group.name.to_string()).unwrap_or_default();
    match primary {
        Primary::One(node) => {
            let message = format!("{node} is the primary and takes writes. {NOTHING}");
            Verdict::new(Truth::True, Plain::PrimarySeen, message)
        }
        Primary::Several(nodes) => {
            let names = texts::names(nodes.iter().map(NodeName::as_str));
            let message = format!(
                "{names} all take writes, so their data goes apart. Stop all but the one that clients are to use, and make \
                 the others standbys of it."
            );
            Verdict::new(Truth::False, Diagnosis::TwoPrimaries, message)
        }
        Primary::Nobody => {
            let message = format!(
                "No server of {root} is a primary: all are seen, and none takes writes. {}",
                promoted(view, &root, "one of them")
            );
            Verdict::new(Truth::False, Plain::NoPrimary, message)
        }
        Primary::Unseen(node, unseen) => {
            let message = format!(
                "No primary is seen; {node} of {root} may be it. {} If it is lost: {}",
                texts::unseen(unseen),
                promoted(view, &root, &format!("another of {root}"))
            );
            Verdict::new(Truth::Unknown, unseen.why, message)
        }
    }
}

/// Who is to promote whom where no primary is seen. Nobody by hand where another manager keeps the root group, nor where
/// its servers receive from one that is not declared, which may be the primary: then there would be two.
fn promoted(view: &View<'_>, root: &str, whom: &str) -> String {
    let Some(group) = view.desired.root() else { return NOTHING.to_owned() };
    let from = |node: &NodeName| match view.plan.sight.edges.get(node) {
        Some(Edge::Stranger(address)) => Some(format!("{node} receives from {address}, which is not in the topology")),
        _ => None,
    };
    let theirs = group.management == Management::Observe;
    let by_whom = if theirs {
        format!("The manager that keeps {root} promotes {whom}; promote nobody by hand.")
    } else {
        format!("Promote {whom}; waltree never does.")
    };
    match group.members.iter().find_map(from) {
        None => by_whom,
        Some(stranger) => format!(
            "{stranger}. If the primary is there, promote nobody: declare all servers that may be the primary as a group \
             with management: Observe and without upstreams, above {root}, and let {root} name it in upstreams. If not: \
             {by_whom}"
        ),
    }
}

fn serving(view: &View<'_>) -> Verdict {
    let down = |group: &&Group| !group.members.iter().any(|node| view.serves(node));
    let mut groups: Vec<_> = view.desired.groups.iter().filter(down).collect();
    // A group that is surely down says more than one of which it is not known.
    groups.sort_by_key(|group| unclear(view, group).is_some());
    let Some(group) = groups.first() else {
        if view.plan.all_too_stale {
            let seconds = view.desired.reads.max_staleness_seconds;
            let message = format!(
                "No standby that readers could be led to is at most {seconds} s behind, so they are led to all that are of this \
                 tree. See Rooted, and what keeps their replay."
            );
            return Verdict::new(Truth::False, Plain::AllTooStale, message);
        }
        let message = format!("Every group has a node that is rooted and not lagging. {NOTHING}");
        return Verdict::new(Truth::True, Plain::EveryGroupServes, message);
    };
    let seconds = view.desired.healing.lag_seconds;
    let names = texts::names(groups.iter().map(|group| group.name.as_str()));
    let unclear = unclear(view, group);
    let node = unclear.or(group.members.first());
    let why = node.map(|node| about(node.as_str(), &explain(view, node))).unwrap_or_default();
    let message = format!("No node is rooted and at most {seconds} s behind in {names}. {why}");
    let truth = if unclear.is_some() { Truth::Unknown } else { Truth::False };
    let unseen = unclear.and_then(|node| view.unseen(node)).map(|unseen| Reason::from(unseen.why));
    Verdict::new(truth, unseen.unwrap_or(Plain::GroupDown.into()), message)
}

/// The first node of a group of which it is not known whether it is rooted.
fn unclear<'a>(view: &View<'_>, group: &'a Group) -> Option<&'a NodeName> {
    group.members.iter().find(|node| matches!(view.plan.sight.rooted.get(*node), Some(Rooted::Unknown(_)) | None))
}

/// With whom else something is wrong.
fn others(view: &View<'_>, first: &Finding) -> String {
    let others =
        view.plan.findings.iter().filter(|finding| finding.node != first.node && finding.diagnosis.is_failure());
    let others: Vec<String> = others.map(|finding| format!("{} {}", finding.node, finding.diagnosis)).collect();
    if others.is_empty() {
        String::new()
    } else {
        format!(" Also: {}.", texts::names(others.iter().map(String::as_str)))
    }
}

/// What is known about a node that is not rooted, and what to do.
fn explain(view: &View<'_>, node: &NodeName) -> String {
    if let Some((_, message)) = view.trouble(node) {
        return texts::sentence(&message);
    }
    match view.plan.sight.rooted.get(node) {
        Some(Rooted::No(why) | Rooted::Unknown(why)) => {
            let handled = view.under_way().iter().any(|planned| planned.step.owner() == node);
            let cure = if handled { NOTHING } else { "See Converged for what is done about it, and read its log." };
            format!("{} {cure}", texts::sentence(why))
        }
        Some(Rooted::Yes { .. }) => "It lags. See what keeps its replay.".to_owned(),
        None => "It is not known yet. Nothing to do.".to_owned(),
    }
}

fn rooted(view: &View<'_>, primary: &Primary<'_>) -> Verdict {
    let surely =
        view.desired.nodes.keys().filter(|node| matches!(view.plan.sight.rooted.get(*node), Some(Rooted::No(_))));
    let unclear = view
        .desired
        .nodes
        .keys()
        .filter(|node| matches!(view.plan.sight.rooted.get(*node), Some(Rooted::Unknown(_)) | None));
    let mut not: Vec<&NodeName> = surely.collect();
    let truth = if not.is_empty() { Truth::Unknown } else { Truth::False };
    // The worst finding first: the node that is broken says more than those below it.
    let rank = |node: &&NodeName| view.plan.findings.iter().position(|f| &f.node == *node).unwrap_or(usize::MAX);
    not.sort_by_key(rank);
    not.extend(unclear);
    let Some(first) = not.first() else {
        let message = format!("Every node has a path of advancing WAL to the primary. {NOTHING}");
        return Verdict::new(Truth::True, Plain::AllRooted, message);
    };
    let reason = match (view.trouble(first), primary) {
        (Some((reason, _)), _) => reason,
        (None, Primary::Nobody) => Plain::NoPrimary.into(),
        (None, _) => Plain::Unrooted.into(),
    };
    let message = format!(
        "{} of {} nodes {} no proven path to the primary: {}. {}",
        not.len(),
        view.desired.nodes.len(),
        if not.len() == 1 { "has" } else { "have" },
        texts::names(not.iter().map(|node| node.as_str())),
        about(first.as_str(), &explain(view, first)),
    );
    Verdict::new(truth, reason, message)
}

fn fallbacks_ready(view: &View<'_>) -> Verdict {
    let (ready, all) = view.fallbacks();
    if ready < all {
        let open = view.plan.fallbacks.iter().flat_map(|(node, fallbacks)| {
            let open = fallbacks.iter().filter(|(_, readiness)| !readiness.is_ready());
            open.map(move |(upstream, _)| format!("{upstream} for {node}"))
        });
        let open: Vec<String> = open.collect();
        let waits_for_replay = view.plan.fallbacks.values().flatten().all(|(_, state)| *state != Readiness::NotReady);
        let cure = match (view.under_way().is_empty(), view.desired.automation) {
            (_, Automation::Observe) => "Set automation: Heal to have them prepared.",
            (false, Automation::Heal) => "They are being prepared. Nothing to do.",
            (true, Automation::Heal) if !view.plan.given_up.is_empty() => {
                "Slots that kept more WAL than limits.retainedWal were given up; they are made again when their node is near \
                 enough. Bring it back, or raise the limit."
            }
            (true, Automation::Heal) if waits_for_replay => {
                "Their slots keep WAL only from beyond what these nodes have replayed; they are ready when that is \
                 replayed. Nothing to do."
            }
            (true, Automation::Heal) => "See Converged for what they wait for.",
        };
        let names = texts::names(open.iter().map(String::as_str));
        let message = format!("{ready} of {all} fallbacks are ready; not yet: {names}. {cure}");
        return Verdict::new(Truth::False, Plain::NotReady, message);
    }
    if let Some(shortage) = view.plan.shortages.first() {
        let message = format!(
            "{} Bring back the servers that failed, or give the group more relays, upstreams or fanOut.",
            texts::sentence(shortage)
        );
        return Verdict::new(Truth::False, Plain::TooFew, message);
    }
    if all == 0 {
        return Verdict::new(Truth::True, Plain::NoFallbacks, format!("No route has a fallback. {NOTHING}"));
    }
    let message = format!(
        "{all} of {all} fallbacks have slot, WAL and history. That the logins work is not proven: hosts have no agent that \
         could try them. {NOTHING}"
    );
    Verdict::new(Truth::True, Plain::Unproven, message)
}

/// What comes by itself, as far as the planner knows. Where nothing is ever written, nothing does.
fn comes_by_itself(view: &View<'_>, wait: &Wait) -> bool {
    view.desired.automation != Automation::Observe && wait.reason.comes_by_itself()
}

fn steps_text(steps: &[&Planned]) -> String {
    let all: Vec<String> = steps.iter().map(ToString::to_string).collect();
    texts::names(all.iter().map(String::as_str))
}

fn converged(view: &View<'_>) -> Verdict {
    // What is tried now and then only, and has a finding of its own as long as it fails, would come and go here.
    let told = |step: &Step| matches!(step, Step::ClearXmin { .. } | Step::EndSender { .. } | Step::TryDisk { .. });
    if let Some((planned, error)) = view.failed().into_values().find(|(planned, _)| !told(&planned.step)) {
        let step = steps_text(&[planned]);
        let error = texts::sentence(error);
        let message = format!("{step} failed: {error} It is tried again; if it lasts, read that server's log.");
        return Verdict::new(Truth::False, Plain::StepFailed, message);
    }
    let steps = view.under_way();
    if !steps.is_empty() {
        let message = format!("Being done: {}. {NOTHING}", steps_text(&steps));
        return Verdict::new(Truth::False, Plain::Working, message);
    }
    // What is waited for may be its doing.
    if let Some(same) = view.plan.findings.iter().find(|finding| finding.diagnosis == Diagnosis::SameServer) {
        return Verdict::new(Truth::False, same.diagnosis, about(same.node.as_str(), &texts::sentence(&same.message)));
    }
    // A wait that needs a person says more than one that does not. With automation: Observe the waits are for steps that
    // are withheld, which says more still.
    let withheld = changes(&view.plan.withheld);
    let waits =
        if withheld.is_empty() || view.desired.automation == Automation::Heal { &view.plan.waits[..] } else { &[] };
    if let Some(wait) = waits.iter().find(|wait| !comes_by_itself(view, wait)).or(waits.first()) {
        return waiting(view, wait);
    }
    if !withheld.is_empty() {
        let message = format!(
            "Not done, as Observe forbids it: {}. Set automation: Heal, and management: Routes in the group, to have it done.",
            steps_text(&withheld)
        );
        return Verdict::new(Truth::False, Plain::ObserveOnly, message);
    }
    // As long as a relay settles, its children are elsewhere.
    let stands_against =
        |finding: &&Finding| finding.diagnosis.is_failure() || finding.diagnosis == Diagnosis::Settling;
    if let Some(finding) = view.plan.findings.iter().find(stands_against) {
        let (reason, message) =
            view.trouble(&finding.node).unwrap_or_else(|| (finding.diagnosis.into(), finding.message.clone()));
        let message = about(finding.node.as_str(), &texts::sentence(&message));
        return Verdict::new(Truth::False, reason, format!("{message}{}", others(view, finding)));
    }
    if let Some(alone) = view.plan.wanted.keys().find(|node| is_alone(view, node)) {
        let ours = view.desired.automation == Automation::Heal
            && view.desired.group_of(alone).is_some_and(|group| group.management.sets_routes());
        let what = if ours {
            format!("connects again by itself, or is pointed elsewhere when it does not. {NOTHING}")
        } else {
            "connects again by itself; when it does not, look at its log, as nobody points it elsewhere.".to_owned()
        };
        let message = format!("{alone} receives from nobody at the moment and {what}");
        return Verdict::new(Truth::False, Plain::Waiting, message);
    }
    of_pods(view)
        .unwrap_or_else(|| Verdict::new(Truth::True, Plain::AsDeclared, format!("The tree is as declared. {NOTHING}")))
}

/// What servers in pods do not have yet. What fails is before what only takes its time.
fn of_pods(view: &View<'_>) -> Option<Verdict> {
    let rollout = view.plan.rollout.as_ref();
    if let Some((node, trouble)) = view.plan.troubles.first() {
        // What an image of before cannot do does not hold another one.
        let waits = rollout.is_some_and(|rollout| rollout.waits.is_some());
        let held = if waits { " Nobody is started anew until all are well." } else { "" };
        let message = format!("{}{held}", about(node.as_str(), &texts::sentence(trouble)));
        return Some(Verdict::new(Truth::False, Plain::NotAsOrdered, message));
    }
    let Some(rollout) = rollout else {
        let what = view.plan.pending.values().next()?;
        let message = format!("{} {NOTHING}", texts::sentence(what));
        return Some(Verdict::new(Truth::False, Plain::Waiting, message));
    };
    let nodes = texts::names(rollout.left.iter().map(|due| due.node.as_str()));
    let what = rollout.left.iter().flat_map(|due| match &due.what {
        What::Image => vec!["another image"],
        What::Parameters(names) => names.iter().map(String::as_str).collect(),
    });
    let what: BTreeSet<&str> = what.collect();
    let what = texts::names(what);
    let message = match &rollout.waits {
        None => format!("Started anew one after the other, for {what}: {nodes}. {NOTHING}"),
        Some(why) => {
            format!("To be started anew, for {what}: {nodes}. That waits: {}", texts::sentence(why))
        }
    };
    Some(Verdict::new(Truth::False, Plain::RollingOut, message))
}

/// Seen without a walreceiver for about a tick: one that is started anew is away for milliseconds.
fn is_alone(view: &View<'_>, node: &NodeName) -> bool {
    let Some(memory) = view.observed.memory.node(node).filter(|_| view.observed.seen(node).is_some()) else {
        return false;
    };
    memory.alone_since.is_some_and(|since| memory.asked_at.since(since) >= TICK_MILLISECONDS / 2)
}

fn waiting(view: &View<'_>, wait: &Wait) -> Verdict {
    let what = format!("{} waits: {}", wait.node, texts::sentence(&wait.message));
    if comes_by_itself(view, wait) {
        return Verdict::new(Truth::False, Plain::Waiting, format!("{what} {NOTHING}"));
    }
    if wait.reason == WaitReason::NoPrimary {
        return Verdict::new(Truth::False, Plain::NoPrimary, format!("{what} See Writable for what to do."));
    }
    match view.trouble(&wait.node) {
        Some((reason, message)) if wait.message.contains(&message) => Verdict::new(Truth::False, reason, what),
        Some((reason, message)) => Verdict::new(Truth::False, reason, format!("{what} {}", texts::sentence(&message))),
        None if matches!(wait.reason, WaitReason::Synchronous | WaitReason::NotFollowed) => {
            Verdict::new(Truth::False, Plain::Blocked, what)
        }
        None => Verdict::new(Truth::False, Plain::Blocked, format!("{what} See Rooted for what to do.")),
    }
}

fn progressing(view: &View<'_>, verdicts: &BTreeMap<ConditionType, Verdict>) -> Verdict {
    let steps = view.under_way();
    if view.desired.deleting {
        return Verdict::new(Truth::True, Plain::Deleting, format!("The topology is being deleted. {NOTHING}"));
    }
    if !steps.is_empty() {
        let message = format!("Being done: {}. {NOTHING}", steps_text(&steps));
        return Verdict::new(Truth::True, Plain::Working, message);
    }
    if let Some(wait) = view.plan.waits.iter().find(|wait| comes_by_itself(view, wait)) {
        let message = format!("{} waits: {} {NOTHING}", wait.node, texts::sentence(&wait.message));
        return Verdict::new(Truth::True, Plain::Waiting, message);
    }
    match verdicts.get(&ConditionType::Converged) {
        Some(converged) if !view.plan.waits.is_empty() || converged.reason == Plain::StepFailed.into() => {
            Verdict::new(Truth::False, Plain::Blocked, converged.message.clone())
        }
        _ => Verdict::new(Truth::False, Plain::Idle, format!("There are no steps to carry out. {NOTHING}")),
    }
}

fn ready(verdicts: &BTreeMap<ConditionType, Verdict>) -> Verdict {
    use ConditionType::{Accepted, Converged, FallbacksReady, Progressing, Rooted, Serving, Writable};
    let of = |kinds: &[ConditionType], truth: Truth| {
        kinds.iter().find_map(|kind| Some((*kind, verdicts.get(kind).filter(|verdict| verdict.truth == truth)?)))
    };
    let needed = [Accepted, Writable, Serving];
    for truth in [Truth::False, Truth::Unknown] {
        if let Some((kind, verdict)) = of(&needed, truth) {
            return Verdict::new(truth, verdict.reason, format!("{kind} is {truth}: {}", verdict.message));
        }
    }
    let rest = [Rooted, FallbacksReady, Converged];
    let Some((kind, verdict)) = of(&rest, Truth::False).or_else(|| of(&rest, Truth::Unknown)) else {
        let message = format!("Reads and writes are served and the tree is as declared. {NOTHING}");
        return Verdict::new(Truth::True, Plain::AsDeclared, message);
    };
    let healing = verdicts.get(&Progressing).is_some_and(|verdict| verdict.truth == Truth::True);
    let reason = if healing { Plain::Healing } else { Plain::Degraded };
    let message = format!("Reads and writes are served. {kind} is {}: {}", verdict.truth, verdict.message);
    Verdict::new(Truth::True, reason, message)
}
