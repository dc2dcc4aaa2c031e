//! The newest changes of the tree, as a person would tell them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Status, View, texts, told};
use crate::api::conditions::stored;
use crate::api::reason::Plain;
use crate::api::status::{Change, HISTORY_ENTRIES, NodeState, NodeStatus};
use crate::model::NodeName;
use crate::plan::{ORDER_MILLISECONDS, Why};

/// The history after this pass: what differs from the previous status, in front of what was told before. Once the tree is
/// as declared again, with everybody fed and nobody on a fallback, the open entries are given the time it took.
pub(super) fn after(view: &View<'_>, status: &Status, converged: bool, now: Timestamp) -> Vec<Change> {
    let Some(previous) = view.previous else { return Vec::new() };
    let mut entries = changes(view, previous, status)
        .into_iter()
        .map(|(what, why)| Change { at: stored(now), what, why, healed_after_seconds: None })
        .collect::<Vec<_>>();
    entries.extend(previous.history.iter().cloned());
    entries.truncate(HISTORY_ENTRIES);
    let on_fallback = Plain::OnFallback.to_string();
    let is_at_rest = |node: &NodeStatus| is_well(node.state) && node.reason.as_ref() != Some(&on_fallback);
    if converged && status.nodes.iter().all(is_at_rest) {
        for open in entries.iter_mut().filter(|entry| entry.healed_after_seconds.is_none()) {
            open.healed_after_seconds = Some((now.as_second() - open.at.0.as_second()).max(0));
        }
    }
    entries
}

fn changes(view: &View<'_>, previous: &Status, status: &Status) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let (Some(before), Some(primary)) = (&previous.primary, &status.primary)
        && before.name != primary.name
    {
        found.push((format!("{} is the primary in place of {}", primary.name, before.name), "Promoted".to_owned()));
    }
    let mut moved: BTreeMap<(String, &str, &str), Vec<&str>> = BTreeMap::new();
    let mut fell: BTreeMap<(String, &str), Vec<&str>> = BTreeMap::new();
    for (place, node) in status.nodes.iter().enumerate() {
        let Some(before) = told(&previous.nodes, place, &node.name) else { continue };
        if let Some(change) = state_change(before, node) {
            fell.entry(change).or_default().push(&node.name);
        }
        // On its way it may have been seen to receive from nobody.
        let left = || view.left(&node.name);
        if let Some(to) = node.upstream.as_deref()
            && let Some(from) = before.upstream.as_deref().or_else(left)
            && from != to
        {
            moved.entry((why_moved(view, status, (before, from), node), from, to)).or_default().push(&node.name);
        }
    }
    found.extend(
        moved
            .into_iter()
            .map(|((why, from, to), nodes)| (format!("{} moved from {from} to {to}", texts::names(nodes)), why)),
    );
    found.extend(fell.into_iter().map(|((why, what), nodes)| (format!("{} {what}", texts::names(nodes)), why)));
    found
}

fn is_well(state: NodeState) -> bool {
    !matches!(state, NodeState::Unrooted | NodeState::Unknown)
}

/// Why and how the state of a node changed, when it did between well and not well.
fn state_change(before: &NodeStatus, node: &NodeStatus) -> Option<(String, &'static str)> {
    match (is_well(before.state), is_well(node.state)) {
        (true, false) => {
            let what = if node.state == NodeState::Unknown { "cannot be seen" } else { "lost the primary" };
            Some((node.reason.clone().unwrap_or_else(|| Plain::Unrooted.to_string()), what))
        }
        (false, true) => Some((before.reason.clone().unwrap_or_else(|| Plain::Unrooted.to_string()), "came back")),
        _ => None,
    }
}

/// Why a node moved: it was told to, its upstream failed, or PostgreSQL led it back or to where it has not been told to go.
fn why_moved(view: &View<'_>, status: &Status, (before, from): (&NodeStatus, &str), node: &NodeStatus) -> String {
    if let Some(order) = led(view, node) {
        return order.to_owned();
    }
    let on_fallback = Plain::OnFallback.to_string();
    if before.reason.as_ref() == Some(&on_fallback) && node.reason.is_none() {
        return Why::GiveBack.to_string();
    }
    let from = status.nodes.iter().find(|other| other.name == from);
    if let Some(reason) = from.filter(|from| !is_well(from.state)).and_then(|from| from.reason.clone()) {
        return reason;
    }
    if node.reason.as_ref() == Some(&on_fallback) { on_fallback } else { Why::AsDeclared.to_string() }
}

/// Why the order was given that the node followed when it came to where it is. What is ordered in this very pass moved nobody
/// yet, and an order of long ago is not why it comes there once more.
fn led(view: &View<'_>, node: &NodeStatus) -> Option<&'static str> {
    let memory = view.observed.memory.node(&NodeName::new(&node.name).ok()?)?;
    let order = memory.ordered.as_ref().filter(|order| order.moves)?;
    let (upstream, since) = memory.upstream.as_ref()?;
    let follows = order.route.first() == Some(upstream) && node.upstream.as_deref() == Some(upstream.as_str());
    (follows && *since > order.at && since.since(order.at) < ORDER_MILLISECONDS).then_some(order.why)
}
