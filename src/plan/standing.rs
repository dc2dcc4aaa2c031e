//! Who may feed whom now.

use super::World;
use super::world::{At, RouteAt};
use crate::model::primary::Primary;
use crate::model::tree;
use crate::model::{Facts, NodeName, SessionAttrs, Timeline, WhyUnseen};

/// The oldest PostgreSQL that is managed: earlier ones cannot grant `ALTER SYSTEM` (postgres-facts.md 5.3).
pub(super) const VERSION_NUM_MIN: u32 = 150_000;

/// What a node is good for as an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::Display)]
pub enum Standing {
    /// It may get children.
    Good,
    /// It is in doubt for less than the patience, or cannot be seen while its children are fed, or is in the spec twice: it
    /// keeps the routes that name it and gets no new ones.
    Keeps,
    /// It failed a short while ago: it keeps the children that receive from it now.
    Settling,
    /// It has a path and is too far behind, and its upstream is not; or it is about to be started anew: its children are moved
    /// where there is room.
    Lagging,
    /// It is of no use for longer than the patience.
    Failed,
    /// It is not our data, not on our history, or a primary that is not the primary: nobody may follow it.
    Barred,
}

/// The standing of one node.
pub(super) fn standing(world: &World<'_>, node: At<'_>) -> Standing {
    let failed = world.failing_for(node).is_some_and(|t| t >= world.desired.healing.suspect_after_milliseconds);
    let Some(facts) = world.seen(node) else {
        let useless = || looks_down(world, node.name) || starves_its_children(world, node.name);
        return if failed && useless() { Standing::Failed } else { Standing::Keeps };
    };
    if barred(world, node.name, facts) {
        Standing::Barred
    } else if (failed && world.is_rooted(node)) || (!failed && world.desired.leaving.contains(node.name)) {
        Standing::Lagging
    } else if failed {
        Standing::Failed
    } else if world.is_twice(node.name) {
        Standing::Keeps
    } else if world.is_primary(node.name) {
        Standing::Good
    } else if world.is_settling(node) {
        Standing::Settling
    } else if world.is_rooted(node) {
        Standing::Good
    } else {
        Standing::Keeps
    }
}

/// Nobody answers there. That our password is wrong, say, tells nothing of what the server does (law 8).
fn looks_down(world: &World<'_>, node: &NodeName) -> bool {
    let why = world.observed.nodes.get(node).and_then(|view| view.unseen.as_ref()).map(|unseen| unseen.why);
    matches!(why, Some(WhyUnseen::Refused | WhyUnseen::Timeout | WhyUnseen::Starting))
}

/// What it does is seen at its children: they have stood still for longer than the patience.
fn starves_its_children(world: &World<'_>, node: &NodeName) -> bool {
    let patience = world.desired.healing.suspect_after_milliseconds;
    let memory = &world.observed.memory;
    let mut children = world.sight.edges.iter().filter(|(_, edge)| edge.upstream() == Some(node)).peekable();
    children.peek().is_some() && children.all(|(child, _)| memory.unrooted_for(child).is_some_and(|t| t >= patience))
}

fn barred(world: &World<'_>, node: &NodeName, facts: &Facts) -> bool {
    foreign(world, facts)
        || facts.version_num < VERSION_NUM_MIN
        || (!facts.in_recovery && !is_the_primary(world, node))
        || diverged(world, facts).is_some()
}

/// It holds another cluster's data.
pub(super) fn foreign(world: &World<'_>, facts: &Facts) -> bool {
    our_identifier(world).is_some_and(|ours| ours != facts.system_identifier)
}

/// Whose data the topology holds: what was recorded, or what its primary says.
pub(super) fn our_identifier(world: &World<'_>) -> Option<u64> {
    let recorded = world.observed.memory.system_identifier;
    match &world.sight.primary {
        Primary::Known { system_identifier, .. } => recorded.or(Some(*system_identifier)),
        Primary::NotSeen | Primary::Several(_) => recorded,
    }
}

/// It answers as a primary and is the one that all others are to follow.
pub(super) fn is_the_primary(world: &World<'_>, node: &NodeName) -> bool {
    let memory = &world.observed.memory;
    matches!(&world.sight.primary, Primary::Known { name, .. } if memory.are_one(name, node))
}

/// How a node's WAL has left the primary's history, as a sentence: beyond the fork, or on a timeline that is not in it.
/// `None` also when it cannot be told.
pub(super) fn diverged(world: &World<'_>, facts: &Facts) -> Option<String> {
    let primary = world.primary_says().filter(|primary| !primary.in_recovery)?;
    let (theirs, ours) = (facts.timeline?, primary.timeline?);
    // A history that cannot be read tells nothing. That of the first timeline is empty.
    if theirs == ours || (primary.history.is_empty() && ours > Timeline(1)) {
        return None;
    }
    match primary.history.iter().find(|(timeline, _)| *timeline == theirs) {
        Some((_, fork)) if facts.position <= *fork => None,
        Some((_, fork)) => Some(format!("it holds WAL of timeline {theirs} beyond the fork at {fork}")),
        None => Some(format!("it is on timeline {theirs}, which is not in the history of timeline {ours}")),
    }
}

/// The route that is installed on a server, given those of our nodes that it names; `None` when it names none.
pub(super) fn installed<'a>(entries: Vec<At<'a>>, facts: &Facts) -> Option<RouteAt<'a>> {
    let primary_only = tree::primary_only(&facts.route.conninfo);
    let attrs = if primary_only { SessionAttrs::Primary } else { SessionAttrs::Any };
    (!entries.is_empty()).then_some(RouteAt { entries, attrs })
}
