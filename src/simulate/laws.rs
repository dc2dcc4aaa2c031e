//! The laws of design.md section 3 that can be told from a world.

use std::collections::{BTreeMap, BTreeSet};

use super::server::{Process, Receiver};
use super::world::World;
use crate::model::tree::{Union, entries};
use crate::model::{ByNode, Desired, Facts, NodeName, Observed};
use crate::plan::{Plan, Step, Why};

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
    let mut union: Option<Union<'_>> = None;
    for planned in &plan.steps {
        match &planned.step {
            Step::SetRoute { node, route, .. } => {
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
                broken.extend(
                    route.entries.iter().find(|up| !proven(up)).map(|up| format!("law 2: {planned}; no slot on {up}")),
                );
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

/// What is true of a tree at rest in which every server runs: it is the wanted one, nobody is over his limit, and the
/// slots are exactly those that routes need.
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
    for (node, children) in load(world) {
        let most = desired.fan_out(&node);
        if children > most {
            broken.push(format!("law 7: {children} children on {node}, whose fanOut is {most}"));
        }
    }
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
    }
    broken
}

/// Law 7, by libpq alone: whoever is lost, nobody is over the burst limit, and everybody below it is fed.
pub fn after_any_one_loss(world: &World, desired: &Desired) -> Vec<String> {
    let mut broken = Vec::new();
    for lost in desired.nodes.keys() {
        let mut world = world.clone();
        world.kill(lost);
        world.pass(20);
        let primary_lost = world.servers.get(lost).is_some_and(|server| !server.in_recovery);
        let alone =
            |server: &super::server::Server| server.is_up() && server.in_recovery && server.upstream().is_none();
        if let Some((node, _)) = world.servers.iter().find(|(_, server)| alone(server) && !primary_lost) {
            broken.push(format!("{node} is fed by nobody after the loss of {lost}"));
        }
        for (node, children) in load(&world) {
            let most = desired.burst(&node);
            if children > most {
                broken.push(format!("law 7: {children} on {node} after the loss of {lost}, burst {most}"));
            }
        }
    }
    broken
}

/// Children of every server.
pub(super) fn load(world: &World) -> ByNode<usize> {
    let mut load = ByNode::default();
    let streams = |server: &&super::server::Server| {
        server.process != Process::Down && matches!(server.receiver, Receiver::Streaming { .. })
    };
    for upstream in world.servers.values().filter(streams).filter_map(|server| server.upstream()) {
        *load.entry(upstream.clone()).or_default() += 1;
    }
    load
}

fn name(node: Option<&NodeName>) -> String {
    node.map_or_else(|| "nobody".to_owned(), ToString::to_string)
}
