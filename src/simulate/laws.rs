//! The laws of design.md section 3 that can be told from a world.

use std::collections::{BTreeMap, BTreeSet};

use super::limits;
use super::server::Server;
use super::world::World;
use crate::model::tree::{Union, entries};
use crate::model::{Desired, Facts, Lsn, Millis, NodeName, Observed, WhyUnseen};
use crate::plan::{Plan, Step, Why};

/// Whoever only reconnects is back within so long (`slots::is_absent`).
const RECONNECT_SECONDS: u64 = 10;
/// So long the release of what idle slots keep may take when nobody is waited for, in milliseconds: slots are moved forward
/// every ten seconds, and what failed is tried again after ten at most.
const RELEASED_MILLISECONDS: u64 = 15_000;

/// Law 1 as it is seen on the servers: nobody receives from a ring. The sentence says who does.
pub fn at_every_moment(world: &World) -> Option<String> {
    let mut free: BTreeSet<&NodeName> = BTreeSet::new();
    for start in world.servers.keys() {
        let mut passed: BTreeSet<&NodeName> = BTreeSet::new();
        let mut at = Some(start);
        while let Some(node) = at.filter(|node| !free.contains(*node)) {
            if !passed.insert(node) {
                return Some(format!("law 1: {node} receives from itself through others"));
            }
            at = world.servers.get(node).filter(|server| server.is_up()).and_then(|server| server.upstream());
        }
        free.extend(passed);
    }
    None
}

/// What a plan may not do, whatever of it is carried out (laws 1, 2, 3, 8).
pub fn before_writing(desired: &Desired, observed: &Observed, plan: &Plan) -> Vec<String> {
    let mut broken = Vec::new();
    let unseen = plan.steps.iter().filter(|planned| observed.seen(planned.step.server()).is_none());
    broken.extend(unseen.map(|planned| format!("law 8: {planned}, on a server that is not seen")));
    if let Some(planned) = plan.steps.first().filter(|_| sees_little_of_every_zone(desired, observed)) {
        broken.push(format!("law 8: {planned}, while most servers of every zone are silent"));
    }
    let primaries = ambiguous_primaries(desired, observed);
    let mut union: Option<Union<'_>> = None;
    for planned in &plan.steps {
        match &planned.step {
            Step::SetRoute { node, route, .. } => {
                if !primaries.is_empty() {
                    broken.push(format!("law 5: {planned}, and {} all take writes", names(&primaries)));
                }
                let union = union.get_or_insert_with(|| Union::of(desired, observed));
                let before = union.is_cyclic();
                union.add_route(node, route);
                if !before && union.is_cyclic() {
                    broken.push(format!("law 1: {planned}, which can become a ring"));
                }
                let had = observed.last(node).map(|facts| entries(&desired.addresses(), &facts.route.conninfo));
                let proven = |up: &&NodeName| match observed.seen(up) {
                    Some(facts) => facts.slots.contains_key(node.slot()),
                    None => had.as_ref().is_some_and(|had| had.contains(up)),
                };
                // Who is only asked back to the first of his route relies on that one: a fallback that cannot be prepared
                // must not keep him where he was not meant to stay.
                let is_same = had.as_ref().is_some_and(|had| had.iter().eq(route.entries.iter()));
                let relied_on = if is_same { &route.entries[..1] } else { &route.entries };
                let unproven = relied_on.iter().find(|up| !proven(up));
                broken.extend(unproven.map(|up| format!("law 2: {planned}; no slot on {up}")));
            }
            Step::DropSlot { on, owner } if planned.why == Why::RetainedWal => {
                let most = desired.limits.retained_wal_bytes;
                let keeps = |facts: &Facts| Some(facts.redo.bytes_since(facts.slots.get(owner.slot())?.restart_lsn?));
                if observed.seen(on).and_then(keeps).is_none_or(|bytes| bytes <= most) {
                    broken.push(format!("law 3: {planned}, and the bound is not reached"));
                }
            }
            Step::DropSlot { on, owner } if desired.nodes.contains_key(owner) && !desired.deleting => {
                let elsewhere = plan.sight.upstream(owner).is_some_and(|upstream| upstream != on);
                let writes = observed.seen(owner).is_some_and(|facts| !facts.in_recovery);
                if !elsewhere && !writes {
                    broken.push(format!("law 3: {planned}, and {owner} is not seen elsewhere"));
                }
            }
            _ => {}
        }
    }
    broken
}

/// Most servers of every zone tell nothing, not even that nobody listens there.
fn sees_little_of_every_zone(desired: &Desired, observed: &Observed) -> bool {
    let mut zones: BTreeMap<Option<&str>, (usize, usize)> = BTreeMap::new();
    for (node, spec) in &desired.nodes {
        let unseen = observed.nodes.get(node).and_then(|view| view.unseen.as_ref());
        let (silent, all) = zones.entry(spec.zone.as_deref()).or_default();
        *silent += usize::from(unseen.is_some_and(|unseen| unseen.why == WhyUnseen::Timeout));
        *all += 1;
    }
    desired.nodes.len() >= 3 && zones.values().all(|(silent, all)| silent * 2 > *all)
}

/// Members of the root group that take writes, when there are several and the newest timeline does not tell which counts:
/// somebody promoted one while the primary went on.
fn ambiguous_primaries<'a>(desired: &'a Desired, observed: &Observed) -> Vec<&'a NodeName> {
    let members = desired.root().map(|root| root.members.as_slice()).unwrap_or_default();
    let timeline = |node: &NodeName| observed.seen(node).filter(|facts| !facts.in_recovery)?.timeline;
    let newest = members.iter().filter_map(timeline).max();
    let known = observed.memory.primary.as_ref().and_then(timeline);
    let writers: Vec<_> = members.iter().filter(|node| timeline(node).is_some()).collect();
    let several = writers.len() > 1 && known.is_some() && known != newest;
    if several { writers } else { Vec::new() }
}

/// Law 3: for how long idle slots have kept more than the bound where the operator can release them.
#[derive(Debug, Clone, Default)]
pub struct Retained {
    since: BTreeMap<(NodeName, String), Millis>,
}

impl Retained {
    /// What is told after a pass of an operator. Whoever may only reconnect is given the time to (`slots::is_absent`), and
    /// slots are moved forward at a pace.
    pub fn after_a_pass(&mut self, world: &World, desired: &Desired) -> Vec<String> {
        let seen = |node: &&NodeName| world.answers(node);
        if desired.nodes.keys().filter(seen).count() * 2 < desired.nodes.len() {
            self.forget();
            return Vec::new();
        }
        let most = desired.limits.retained_wal_bytes;
        let patience = desired.healing.settle_seconds.max(RECONNECT_SECONDS) * 1_000 + RELEASED_MILLISECONDS;
        let before = std::mem::take(&mut self.since);
        let mut broken = Vec::new();
        for (on, server) in world.servers.iter().filter(|(on, _)| seen(on)) {
            for (slot, bytes) in kept_by_idle_slots(server).filter(|(_, bytes)| *bytes > most) {
                let key = (on.clone(), slot.to_owned());
                let since = before.get(&key).copied().unwrap_or(world.now);
                let too_long = world.now.since(since);
                if too_long > patience {
                    broken.push(format!(
                        "law 3: the idle slot {slot} on {on} keeps {bytes} bytes, bound {most}, for {too_long} ms"
                    ));
                }
                self.since.insert(key, since);
            }
        }
        broken
    }

    /// Whether something is to be released.
    pub fn is_beyond(&self) -> bool {
        !self.since.is_empty()
    }

    /// Nobody was there to release anything.
    pub fn forget(&mut self) {
        self.since.clear();
    }
}

/// What each idle slot keeps beyond what the server needs for its own recovery and for those that it feeds.
fn kept_by_idle_slots(server: &Server) -> impl Iterator<Item = (&str, u64)> {
    let start = |lsn: Lsn| lsn.segment_start(server.segment_bytes);
    let slots = || server.slots.iter().filter(|(_, slot)| !slot.lost);
    let active = slots().filter(|(name, _)| server.holder(name).is_some()).map(|(_, slot)| slot.restart);
    let needed = start(active.fold(server.redo, Lsn::min));
    let idle = slots().filter(|(name, _)| server.holder(name).is_none());
    idle.map(move |(name, slot)| (name.as_str(), needed.bytes_since(start(slot.restart))))
}

/// What is true of a tree at rest in which every server runs: it is the wanted one, no limit is exceeded, and the slots
/// are exactly those that routes need.
pub fn at_rest(world: &World, desired: &Desired, plan: &Plan) -> Vec<String> {
    let mut broken = Vec::new();
    let steps = plan.steps.iter().filter(|planned| !planned.step.is_housekeeping());
    broken.extend(steps.map(|planned| format!("no rest: {planned}")));
    for (node, route) in &plan.wanted {
        let server = world.servers.get(node);
        let upstream = server.and_then(|server| server.upstream());
        if upstream != route.first() {
            let reason = plan.waits.iter().find(|wait| wait.node == *node).map(|wait| wait.message.as_str());
            let (at, wanted) = (name(upstream), name(route.first()));
            broken.push(format!("{node} receives from {at} in place of {wanted}; {}", reason.unwrap_or("no wait")));
        }
    }
    broken.extend(limits::at_rest(world, desired));
    let owners: BTreeMap<&str, &NodeName> = desired.nodes.keys().map(|node| (node.slot(), node)).collect();
    for (on, server) in &world.servers {
        for (slot, state) in &server.slots {
            if state.holds_xmin && server.holder(slot).is_none() {
                broken.push(format!("law 3: the idle slot {slot} on {on} holds back transactions"));
            }
            let wanted = owners.get(slot.as_str()).and_then(|owner| plan.wanted.get(*owner));
            if !wanted.is_some_and(|route| route.contains(on)) {
                broken.push(format!("the slot {slot} is left over on {on}"));
            }
        }
        let most = desired.limits.retained_wal_bytes;
        let beyond = kept_by_idle_slots(server).filter(|(_, bytes)| *bytes > most);
        broken.extend(beyond.map(|(slot, bytes)| format!("law 3: {slot} on {on} keeps {bytes} bytes, bound {most}")));
    }
    broken
}

/// What is true of a tree that has had time to heal while faults stand: [`limits::while_faults_stand`]. Nothing is asked of an
/// operator that sees little, as it does nothing (law 8).
pub fn while_faults_stand(world: &World, desired: &Desired, observed: &Observed, plan: &Plan) -> Vec<String> {
    if sees_little_of_every_zone(desired, observed) {
        return Vec::new();
    }
    limits::while_faults_stand(world, desired, observed, plan)
}

/// Law 7, by libpq alone: whoever is lost, nobody is over the burst limit, and everybody below it is fed.
pub fn after_any_one_loss(world: &World, desired: &Desired) -> Vec<String> {
    let mut broken = Vec::new();
    for lost in desired.nodes.keys() {
        let mut world = world.clone();
        world.kill(lost);
        world.pass(20);
        let primary_lost = world.servers.get(lost).is_some_and(|server| !server.in_recovery);
        let alone = |server: &Server| server.is_up() && server.in_recovery && server.upstream().is_none();
        if let Some((node, _)) = world.servers.iter().find(|(_, server)| alone(server) && !primary_lost) {
            broken.push(format!("{node} is fed by nobody after the loss of {lost}"));
        }
        broken.extend(limits::after_a_loss(&world, desired, lost));
    }
    broken
}

fn names(nodes: &[&NodeName]) -> String {
    nodes.iter().map(|node| node.as_str()).collect::<Vec<_>>().join(", ")
}

fn name(node: Option<&NodeName>) -> String {
    node.map_or_else(|| "nobody".to_owned(), ToString::to_string)
}
