//! What is wrong with where a server's WAL comes from, and with what it makes of it.

use std::collections::BTreeMap;

use super::slots::zombie_cure;
use super::unseen::{RESTARTS_MIN, crash_loop};
use super::{At, Found, World, deed, deed_of_a_route, is_relay};
use crate::model::observed::STATUS_INTERVAL;
use crate::model::rooted::Rooted;
use crate::model::tree::Edge;
use crate::model::{Diagnosis, Facts, Management, NodeName};
use crate::plan::slots::may_arm;
use crate::plan::want::Wanted;
use crate::plan::world::RouteAt;

/// What to do about a lost slot. It is lost again and again where a setting of the upstream says so (postgres-facts.md 12).
const LOST_CURE: &str = "the slot is made anew. If that happens again, raise max_slot_wal_keep_size on its upstream and set \
                         idle_replication_slot_timeout (PostgreSQL 18) to 0";

/// The worst that is wrong with a standby that is seen.
pub(super) fn stream(
    world: &World<'_>,
    wanted: &Wanted<'_>,
    refusals: &BTreeMap<&NodeName, Vec<&str>>,
    node: At<'_>,
    facts: &Facts,
) -> Found {
    let name = node.name;
    if world.is_primary(name) {
        return None;
    }
    let patience = world.desired.healing.suspect_after_milliseconds;
    let memory = &world.observed.memory;
    let failing = world.failing_for(node).is_some_and(|t| t >= patience);
    let unrooted = world.unrooted_for(node).is_some_and(|t| t >= patience);
    let too_low = || parameter_too_low(world, name, facts);
    // A conflict is everyday as long as it lasts no longer than data may be old. And the patience: PostgreSQL's own bound is
    // the same 30 s, after which it takes a moment to end the sessions.
    let bound = world.desired.healing.lag_seconds.saturating_mul(1000).saturating_add(patience);
    let conflict = || memory.conflict_for(name) > bound;
    if let Some(gate) = facts.replay_blocked_by().filter(|_| facts.replay_paused || failing || conflict()) {
        // Replay pauses by itself where a parameter is too low.
        return too_low().or_else(|| Some(replay_blocked(name, gate)));
    }
    // Right after a gate: a walreceiver that has just begun has brought nothing yet.
    let receiver = world.memory(node).and_then(|memory| memory.receiver);
    let lasts = receiver.is_some_and(|(_, since)| memory.at.since(since) >= patience);
    let failing = failing && (lasts || memory.fails_ungated(name, patience));
    // Each move to another upstream ends the old one, which is seen to be stopping for a moment.
    if unrooted && memory.stopping_for(name) >= patience {
        let cure = "Restart the server; nothing less ends it";
        return Some((
            Diagnosis::WalReceiverStuck,
            format!("the walreceiver of {node} is ending and does not end. {cure}."),
        ));
    }
    if failing && facts.disk_full {
        let seen = format!("no space is left on the disk of {node} for a segment of WAL, so nothing reaches it");
        return Some((
            Diagnosis::DiskFull,
            format!("{seen}. Free space there, or give it more; it goes on by itself."),
        ));
    }
    if failing && let Some(Rooted::No(seen)) = world.rooted(node) {
        let (diagnosis, cure) = no_path(world, wanted, node, facts);
        // What is seen may be seen at another node above it; where it is seen at this one, that one is named once.
        let of_whom = if seen.starts_with(&format!("{node} ")) { String::new() } else { format!("{node}: ") };
        return Some((diagnosis, format!("{of_whom}{seen}. {cure}.")));
    }
    if world.memory(node).is_some_and(|memory| memory.restarts.len() >= RESTARTS_MIN) {
        return Some(crash_loop(name));
    }
    half(refusals, name)
        .or_else(|| full(world, node, facts))
        .or_else(|| lagging(world, node, failing))
        .or_else(too_low)
        .or_else(|| {
            let settles = is_relay(world, node) && world.is_settling(node);
            let cure = "Nothing to do: it gets its children back when it has been well long enough";
            settles.then(|| (Diagnosis::Settling, format!("{node} failed a short while ago. {cure}.")))
        })
}

fn replay_blocked(node: &NodeName, gate: &str) -> (Diagnosis, String) {
    let cure = match gate {
        "RecoveryPause" => "Run pg_wal_replay_resume() there",
        "RecoveryApplyDelay" => "Set recovery_min_apply_delay = 0 there and restart it",
        _ => "End the sessions there that hold it up, or lower max_standby_streaming_delay",
    };
    let lasts = "until then it serves old data and its route cannot change";
    (Diagnosis::ReplayBlocked, format!("replay is blocked on {node}: {gate}. {cure}; {lasts}."))
}

fn parameter_too_low(world: &World<'_>, node: &NodeName, facts: &Facts) -> Found {
    let primary = world.primary()?;
    let theirs = &world.primary_says()?.parameters;
    // As nearly everywhere.
    if facts.parameters == *theirs {
        return None;
    }
    let low = |(name, value): &(&String, &u64)| {
        *name != STATUS_INTERVAL && theirs.get(*name).is_some_and(|theirs| theirs > *value)
    };
    let (name, value) = facts.parameters.iter().find(low)?;
    let theirs = theirs.get(name)?;
    let seen = format!("{name} is {value} on {node} and {theirs} on {primary}, so its replay stops");
    Some((Diagnosis::ParameterTooLow, format!("{seen}. Set it to {theirs} there, and restart it.")))
}

/// Whom each upstream gives nothing although it is well.
pub(super) fn refusals<'a>(world: &World<'a>) -> BTreeMap<&'a NodeName, Vec<&'a str>> {
    let memory = &world.observed.memory;
    let mut refusals: BTreeMap<&NodeName, Vec<&str>> = BTreeMap::new();
    // In the order of the spec: the names are told, and no operator's past may reorder them.
    for (child, remembered) in world.desired.nodes.keys().filter_map(|child| Some((child, memory.node(child)?))) {
        for upstream in remembered.refused.keys().filter(|upstream| memory.is_refused(child, upstream)) {
            refusals.entry(upstream).or_default().push(child.as_str());
        }
    }
    refusals
}

/// It is well and lets in nobody who was last pointed to it.
fn half(refusals: &BTreeMap<&NodeName, Vec<&str>>, node: &NodeName) -> Found {
    let refused = refusals.get(node).map(Vec::as_slice).unwrap_or_default();
    // One alone may be its own fault, or that of the way between them.
    if refused.len() < 2 {
        return None;
    }
    let names = refused.join(", ");
    let cure = "Read its log: pg_hba.conf, the replication user's password, max_wal_senders";
    Some((Diagnosis::HalfRelay, format!("{node} is well, and {names} got nothing from it. {cure}.")))
}

/// It is well, and all its walsenders are somebody else's: nobody is led to it, so that nobody is refused.
fn full(world: &World<'_>, node: At<'_>, facts: &Facts) -> Found {
    let most = facts.parameters.get("max_wal_senders").filter(|_| facts.is_full() && is_relay(world, node))?;
    if world.all().any(|other| world.upstream(other) == Some(node)) {
        return None;
    }
    let cure = "Raise max_wal_senders there, or end what holds them";
    Some((
        Diagnosis::HalfRelay,
        format!(
            "{node} is well, and all of its {most} walsenders are in use by others than nodes of this topology. {cure}."
        ),
    ))
}

fn lagging(world: &World<'_>, node: At<'_>, failing: bool) -> Found {
    let healing = &world.desired.healing;
    let bound = healing.lag_seconds;
    let Some(Rooted::Yes { lag_milliseconds, .. }) = world.rooted(node) else { return None };
    let receives_late = *lag_milliseconds > bound.saturating_mul(1000);
    // Not the present figure: it moves with every look, and the status would be written again with it.
    let seen = || format!("{node} is more than {bound} s behind");
    if is_relay(world, node) {
        // What counts is what it can pass on, which is what it has received.
        let lags = (failing || receives_late) && world.sight.lags_by_itself(node.name);
        let told = || {
            let well = |name: &NodeName| world.observed.memory.failing_for(name).is_none();
            if !failing && world.sight.siblings_lag_too(world.desired, node.name, well) {
                let cure = "Look at the link to their upstreams, and at its disk and CPU; nobody is moved for it";
                return format!("{}, and so are the other relays of its group. {cure}.", seen());
            }
            let cure = "Look at its disk, CPU and network; its children are moved where there is room";
            format!("{}, and its upstream is not. {cure}.", seen())
        };
        return lags.then(|| (Diagnosis::LaggingRelay, told()));
    }
    // What counts is what its readers see, which is what it has replayed.
    let late_since = world.memory(node).and_then(|memory| memory.late_since);
    let late_for = late_since.map(|since| world.observed.memory.at.since(since));
    let lags = late_for.is_some_and(|t| t >= healing.suspect_after_milliseconds);
    let cure = "Look at its disk, CPU and network, at who reads there, and at recovery_min_apply_delay";
    lags.then(|| (Diagnosis::LaggingLeaf, format!("{}. {cure}.", seen())))
}

fn no_path(world: &World<'_>, wanted: &Wanted<'_>, node: At<'_>, facts: &Facts) -> (Diagnosis, String) {
    let route = |deed| deed_of_a_route(world, node, deed);
    let first = wanted.get(node).and_then(RouteAt::first);
    match world.edge(node) {
        Some(Edge::Stranger(_)) if world.management(node) == Management::Observe => {
            return (
                Diagnosis::WrongUpstream,
                "Write the host that its primary_conninfo names as the address of that server into the spec, or give the \
                 standby an application_name that no other has"
                    .to_owned(),
            );
        }
        Some(Edge::Stranger(_)) => {
            return (Diagnosis::WrongUpstream, route("it is pointed to its declared upstream when that is safe"));
        }
        Some(Edge::Both(_) | Edge::ChildOnly(_) | Edge::Denied(_)) if in_ring(world, node.name) => {
            return (Diagnosis::Ring, route("it is broken at the node nearest the primary"));
        }
        _ if facts.receiver.is_none() && wal_is_gone(world, node.name, facts) => {
            // It may be its own: what is in its pg_wal is read before anybody is asked (postgres-facts.md 2.4).
            let read = world.memory(node).and_then(|memory| memory.read_its_own);
            if read != Some(facts.replay) {
                let cure = "Nothing to do yet: it still reads the WAL that it has itself, or gets from its archive";
                return (cut_off(world, node), cure.to_owned());
            }
            return (
                Diagnosis::WalGone,
                "Restore it from an archive, or clone it anew: no server has the WAL that it needs any more".to_owned(),
            );
        }
        _ => {}
    }
    // Who has lost its slot may be wanted elsewhere by then; what it is pointed to now says why it receives nothing.
    let here = world.installed(node).and_then(RouteAt::first);
    let lost = here.filter(|here| world.slot(node, *here).is_some_and(|slot| slot.lost));
    let seen = lost.or(first).filter(|first| world.seen(*first).is_some() && !world.is_twice(first.name));
    if let (None, Some(first)) = (&facts.receiver, seen) {
        match world.slot(node, first) {
            None if may_arm(world, node, first) => {
                return (Diagnosis::MissingSlot, deed(world, "the slot is created"));
            }
            Some(slot) if slot.lost => return (Diagnosis::LostSlot, deed(world, LOST_CURE)),
            Some(slot) if slot.active_pid.is_some() => {
                return (Diagnosis::ZombieSlot, zombie_cure(world, node, first));
            }
            // None, and it would be of no use: that server does not have the WAL any more, and another has.
            Some(_) | None => {}
        }
    }
    (cut_off(world, node), route("it and its children are given other upstreams where there are any"))
}

fn cut_off(world: &World<'_>, node: At<'_>) -> Diagnosis {
    if is_relay(world, node) { Diagnosis::CutOffRelay } else { Diagnosis::CutOffLeaf }
}

/// Whether no server that has a path holds WAL from the segment of the node's position on.
fn wal_is_gone(world: &World<'_>, node: &NodeName, facts: &Facts) -> bool {
    let needed = facts.position.segment_start(facts.segment_bytes);
    let others = world.desired.nodes.keys().filter(|other| *other != node && world.is_rooted(*other));
    let mut oldest = others.filter_map(|other| world.seen(other)?.oldest_wal).peekable();
    oldest.peek().is_some() && oldest.all(|oldest| oldest > needed)
}

fn in_ring(world: &World<'_>, node: &NodeName) -> bool {
    let mut at = node;
    for _ in 0..world.desired.nodes.len() {
        match world.upstream(at) {
            Some(up) if up.name == node => return true,
            Some(up) => at = up.name,
            None => return false,
        }
    }
    false
}
