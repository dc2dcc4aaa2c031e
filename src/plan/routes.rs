//! Installing the wanted routes: only what is proven, never a ring, a few at a time.

use super::brake::Brake;
use super::ready::{self, SlotState};
use super::spread::is_stand_in;
use super::standing::Standing;
use super::step::{Plan, Planned, Step, Wait, WaitReason, Why};
use super::traffic::{Move, Traffic, bytes_again};
use super::want::Wanted;
use super::world::{At, RouteAt};
use super::{VERIFY_MILLISECONDS, World, diagnose, slots, synchronous, twice};
use crate::model::memory::{Ordered, RELOADS_MAX};
use crate::model::primary::Primary;
use crate::model::tree::{Edge, Union};
use crate::model::{Diagnosis, Facts, Management, NodeName, Route, SessionAttrs};

/// How long an order may stay unverified before it no longer counts as under way, in milliseconds: beyond it something
/// else is wrong, which a diagnosis names.
pub const ORDER_MILLISECONDS: u64 = 10_000;

/// How long a node is left on a fallback after its last order before it is asked back to its first entry, in
/// milliseconds: long enough to see that its first entry refuses it (`NodeMemory::refused`).
const GIVE_BACK_AFTER_MILLISECONDS: u64 = 5_000;

/// Between moves that differ by less than so many bytes, about a segment, the order of the groups decides: who is above
/// moves first.
const ALIKE_BYTES: u64 = 16 << 20;

/// Adds the steps that install wanted routes, and what is waited for: who has no path first, and of those who have to be
/// sent least, so that most are well again soonest.
pub(super) fn install(world: &World<'_>, wanted: &Wanted<'_>, plan: &mut Plan) {
    let mut traffic = Traffic::default();
    for node in wanted.routes.iter().map(|(node, _)| *node).filter(|node| is_under_way(world, *node)) {
        // One whose replay is blocked takes nothing until that is over.
        let blocked = world.seen(node).is_some_and(|facts| facts.replay_blocked_by().is_some());
        if let Some(order) = order(world, node).filter(|_| !blocked) {
            traffic.is_on_its_way(world, node, &order.route);
        }
    }
    if traffic.under_way > 0 {
        plan.look_again_after_milliseconds = VERIFY_MILLISECONDS;
    }
    let mut due = Vec::new();
    for &node in world.members.iter().flatten().filter(|node| !world.is_primary(node.name)) {
        match next(world, wanted, plan, node) {
            Ok(None) => {}
            Ok(Some(Next::LookAgain)) => plan.look_again_after_milliseconds = VERIFY_MILLISECONDS,
            Ok(Some(Next::Reload)) => {
                let step = Step::Reload { node: node.name.clone() };
                plan.steps.push(Planned { step, why: Why::Unverified });
            }
            Ok(Some(Next::Move(moved))) => due.push((node.name, moved)),
            Err((reason, message)) => plan.waits.push(Wait { node: node.name.clone(), reason, message }),
        }
    }
    if due.is_empty() {
        return;
    }
    let mut brake = Brake::of(world);
    due.sort_by_key(|(node, moved)| (!moved.urgent, brake.is_strayed(node), moved.bytes / ALIKE_BYTES));
    let mut union = None;
    for (node, moved) in due {
        let union = union.get_or_insert_with(|| Union::of(world.desired, world.observed));
        let held_up = match union.ring(node, &moved.route) {
            Some(through) => {
                let message = format!("{through} may still come to receive from {node}");
                Some((WaitReason::WouldRing, message))
            }
            None => brake.holds_up(world, node, &moved).or_else(|| traffic.holds_up(&moved)),
        };
        if let Some((reason, message)) = held_up {
            plan.waits.push(Wait { node: node.clone(), reason, message });
            continue;
        }
        union.add_route(node, &moved.route);
        traffic.add(&moved);
        brake.add(world, node, &moved);
        plan.steps.push(moved.planned);
    }
}

/// What is to be done next about a node's route.
enum Next {
    /// Tell it again.
    Reload,
    /// It was told a moment ago.
    LookAgain,
    /// Set the route.
    Move(Move),
}

fn order<'a>(world: &World<'a>, node: At<'_>) -> Option<&'a Ordered> {
    world.memory(node).and_then(|memory| memory.ordered.as_ref())
}

/// An order was given a short while ago and no edge that it allows is seen.
fn is_under_way(world: &World<'_>, node: At<'_>) -> bool {
    let Some(order) = order(world, node).filter(|o| world.now.since(o.at) < ORDER_MILLISECONDS) else { return false };
    !matches!(world.edge(node), Some(Edge::Both(upstream)) if order.route.contains(upstream))
}

/// The next step of one node towards its wanted route: none when it is there, or what it waits for.
fn next(world: &World<'_>, wanted: &Wanted<'_>, plan: &Plan, node: At<'_>) -> Result<Option<Next>, ready::NotYet> {
    if world.management(node) == Management::Observe {
        return Ok(None);
    }
    let without = |why: &str| (WaitReason::NoPrimary, why.to_owned());
    let no_primary = match &world.sight.primary {
        // Which tree is meant is not known: with a second root every route below it would be another one.
        Primary::Known { name, .. } => twice::told(world, name)
            .map(|told| (WaitReason::NotWritable, format!("{}: {told}, so nobody is moved", Diagnosis::SameServer))),
        Primary::NotSeen => Some(without("no primary is seen, so nobody is moved")),
        // Nothing shows which of two branches a server is on (postgres-facts.md 4.6).
        Primary::Several(_) => Some(without("more than one server answers as the primary, so nobody is moved")),
    };
    let Some(wanted) = wanted.get(node) else {
        return Err(no_primary.unwrap_or_else(|| (WaitReason::NoUpstream, lonely(world, node.name))));
    };
    let Some(facts) = world.seen(node) else {
        let silent = || (WaitReason::NotWritable, "it is not seen, so its route cannot be changed".to_owned());
        let there = world.has_installed(node, wanted);
        return if there { Ok(None) } else { Err(silent()) };
    };
    if let Some((diagnosis, message)) = diagnose::unwritable(world, node, facts, wanted) {
        return Err((WaitReason::NotWritable, format!("{diagnosis}: {message}")));
    }
    if order(world, node).is_some_and(|order| facts.asked_at < order.at) {
        // What it said before the order says nothing about the order; it is being asked.
        return Ok(None);
    }
    let urgent = is_urgent(world, node, facts);
    if world.has_installed(node, wanted) {
        return towards_first(world, plan, node, facts, wanted);
    }
    if let Some(why) = no_primary {
        return Err(why);
    }
    let route = provable(world, node, facts, wanted, urgent)?;
    let route = route.named();
    synchronous::hangs(world, plan, node.name, facts, &route)?;
    let why = reason(world, node, wanted, urgent);
    Ok(Some(Next::Move(set(world, node, facts, route, urgent, why))))
}

/// Nobody is left to point a node to: because nobody has a path, or because it got nothing wherever it was pointed to.
fn lonely(world: &World<'_>, node: &NodeName) -> String {
    let memory = &world.observed.memory;
    let refusers: Vec<&str> =
        world.desired.nodes.keys().filter(|other| memory.is_refused(node, other)).map(NodeName::as_str).collect();
    if refusers.is_empty() {
        return "no upstream is left that has a path to the primary".to_owned();
    }
    format!(
        "no upstream is left: it got nothing from {}, one after the other, and is pointed there again after a while. Read its \
         log: its passfile or certificate, their pg_hba.conf",
        refusers.join(", ")
    )
}

/// No path to the primary for longer than the patience, nothing from an upstream that failed for half of it, or no
/// connection at all.
fn is_urgent(world: &World<'_>, node: At<'_>, facts: &Facts) -> bool {
    let patience = world.desired.healing.suspect_after_milliseconds;
    let memory = &world.observed.memory;
    let long = world.unrooted_for(node).is_some_and(|t| t >= patience);
    let failed = world.upstream(node).is_some_and(|upstream| world.standing(upstream) == Standing::Failed);
    let starves = failed && memory.stands_still(node.name, patience / 2).is_some();
    facts.receiver.is_none() || (long && !world.is_rooted(node)) || starves
}

/// The route is installed; is it in use, and from its first entry?
fn towards_first(
    world: &World<'_>,
    plan: &Plan,
    node: At<'_>,
    facts: &Facts,
    wanted: &RouteAt<'_>,
) -> Result<Option<Next>, ready::NotYet> {
    match (world.upstream(node), wanted.first()) {
        (Some(upstream), Some(first)) if upstream == first => Ok(None),
        (Some(upstream), Some(first)) if wanted.contains(upstream) => {
            let settled = order(world, node).is_none_or(|o| world.now.since(o.at) >= GIVE_BACK_AFTER_MILLISECONDS);
            if wanted.attrs == SessionAttrs::Primary || world.standing(first) != Standing::Good || !settled {
                return Ok(None);
            }
            ready::first(world, node, first, false)?;
            let wanted = wanted.named();
            synchronous::hangs(world, plan, node.name, facts, &wanted)?;
            Ok(Some(Next::Move(set(world, node, facts, wanted, false, Why::GiveBack))))
        }
        // Nobody, or somebody whom the route does not name any more: the reload was lost, or is held up by replay.
        _ if facts.replay_blocked_by().is_some() => Ok(None),
        _ if world.memory(node).is_some_and(|memory| memory.reads_its_own(facts)) => Ok(None),
        _ if wanted.entries.iter().any(|entry| world.standing(*entry) == Standing::Good) => Ok(reload(world, node)),
        _ => Ok(None),
    }
}

/// A reload is repeated at once while it may have been lost, each time a little later: to a walreceiver of another region,
/// whose login takes some nine round trips, or on a busy machine, a second and a half has to be enough before that counts as
/// a refusal (`NodeMemory::gets_nothing`). Calmly when something else is wrong.
fn reload(world: &World<'_>, node: At<'_>) -> Option<Next> {
    let Some(memory) = world.memory(node) else { return Some(Next::Reload) };
    let quick = memory.reloads < RELOADS_MAX;
    let pace = if quick { VERIFY_MILLISECONDS * u64::from(memory.reloads + 1) } else { ORDER_MILLISECONDS };
    let due = memory.reloaded_at.is_none_or(|at| world.now.since(at) >= pace);
    if due { Some(Next::Reload) } else { quick.then_some(Next::LookAgain) }
}

/// The part of the wanted route that is proven now (law 2), if it is not installed already. Without need nothing is
/// installed until all of it is.
fn provable<'a>(
    world: &World<'_>,
    node: At<'_>,
    facts: &Facts,
    wanted: &RouteAt<'a>,
    urgent: bool,
) -> Result<RouteAt<'a>, ready::NotYet> {
    let (mut entries, mut ahead) = (Vec::new(), None);
    for (place, entry) in wanted.entries.iter().copied().enumerate() {
        if place == 0 {
            ready::first(world, node, entry, urgent)?;
            entries.push(entry);
            continue;
        }
        let had = world.installed(node).is_some_and(|route| route.contains(entry));
        let Some(upstream) = world.seen(entry) else {
            // Not seen at the moment; its slot was proven when it came into the route.
            entries.extend(had.then_some(entry));
            continue;
        };
        if let Err(not_yet) = ready::history(node.name, facts, entry.name, upstream) {
            // Who is well follows the same fork in a moment, and two rewritings would be two reconnects.
            if urgent || world.standing(entry) != Standing::Good {
                continue;
            }
            return Err(not_yet);
        }
        match ready::slot(world.slot(node, entry), facts, upstream) {
            SlotState::Ready => entries.push(entry),
            // It was right when it came into the route, and it would still work.
            SlotState::Ahead if had => entries.push(entry),
            // It was given up, or would be (law 3, the bound wins), or cannot be made: a route without it has to do.
            SlotState::Missing if !slots::may_arm(world, node, entry) || slots::cannot_be_made(world, node, entry) => {}
            SlotState::Missing | SlotState::Useless if !urgent => {
                let sentence = format!("the slot {} on {entry} is not there yet", node.name.slot());
                return Err((WaitReason::SlotNotReady, sentence));
            }
            SlotState::Ahead => ahead = Some(ready::ahead(node.name, entry.name)),
            SlotState::Missing | SlotState::Useless | SlotState::TooLate => {}
        }
    }
    let route = RouteAt { entries, attrs: wanted.attrs };
    if world.has_installed(node, &route) {
        let sentence = || "a fallback of its route cannot be prepared yet".to_owned();
        return Err(ahead.unwrap_or_else(|| (WaitReason::SlotNotReady, sentence())));
    }
    Ok(route)
}

fn reason(world: &World<'_>, node: At<'_>, wanted: &RouteAt<'_>, urgent: bool) -> Why {
    if wanted.first().is_some_and(|first| is_stand_in(world, node, first)) {
        return Why::Regroup;
    }
    let Some(old) = world.installed(node).filter(|_| order(world, node).is_some()) else {
        return if urgent { Why::Unrooted } else { Why::AsDeclared };
    };
    let lost = |entry: &At<'_>| matches!(world.standing(*entry), Standing::Failed | Standing::Barred);
    if urgent {
        Why::Unrooted
    } else if old.entries.iter().any(lost) {
        Why::Rearm
    } else if old.first().is_some_and(|first| world.desired.leaving.contains(first.name)) {
        Why::UpstreamRestarts
    } else if old.first().is_some_and(|first| world.standing(first) == Standing::Lagging) {
        Why::UpstreamLags
    } else if old.first() != wanted.first() {
        Why::GiveBack
    } else {
        Why::Rearm
    }
}

fn set(world: &World<'_>, node: At<'_>, facts: &Facts, route: Route, urgent: bool, why: Why) -> Move {
    let conninfo = world.desired.conninfo(node.name, &route, &facts.route.conninfo);
    // What runs already is only written again where another waits in the files: nobody has to reconnect for that.
    let runs = conninfo == facts.route.conninfo;
    let nudge = runs && (facts.route.pending.is_some() == facts.route.nudged);
    let slot = (facts.route.slot != node.name.slot()).then(|| node.name.slot().to_owned());
    let bytes = route.first().map_or(0, |first| bytes_again(world, facts, first));
    let step = Step::SetRoute { node: node.name.clone(), route: route.clone(), conninfo, nudge, slot };
    Move { planned: Planned { step, why }, route, urgent, bytes }
}
