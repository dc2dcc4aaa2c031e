//! What is wrong, named, with what was seen and what to do: first with the fleet as a whole, then with each node.

mod fleet;
mod slots;
mod stream;
mod unseen;

use super::standing::{VERSION_NUM_MIN, diverged, foreign, is_the_primary, our_identifier};
use super::step::{Plan, Wait, WaitReason};
use super::want::Wanted;
use super::world::{At, RouteAt};
use super::{World, others, twice};
use crate::model::primary::Primary;
use crate::model::{Automation, Diagnosis, Facts, Finding, Management, NodeName};

/// How often a route is put back before we stop fighting (design.md section 7, OtherWriter).
pub(super) const OVERWRITTEN_MAX: u32 = 3;

/// Fills in `plan.findings`, the worst first. While the operator is blind it takes every step out of the plan.
pub(super) fn diagnose(world: &World<'_>, wanted: &Wanted<'_>, plan: &mut Plan) {
    if world.observed.memory.blind_for().is_some() {
        plan.steps.clear();
    }
    if let Some(finding) = fleet::blind(world) {
        let reason = WaitReason::Blind;
        plan.waits = vec![Wait { node: finding.node.clone(), reason, message: finding.message.clone() }];
        plan.findings = vec![finding];
        return;
    }
    let zones = fleet::zones_down(world);
    let refusals = stream::refusals(world);
    for node in world.all() {
        let name = node.name;
        let found = world.seen(node).map_or_else(
            // Before the patience is over too, what is unseen because of us says nothing of them.
            || world.observed.memory.blind_for().map_or_else(|| unseen::unseen(world, &zones, name), |_| None),
            |facts| {
                identity(world, name, facts)
                    .or_else(|| namesake(world, name))
                    .or_else(|| wanted.get(node).and_then(|route| unwritable(world, node, facts, route)))
                    .or_else(|| stream::stream(world, wanted, &refusals, node, facts))
                    .or_else(|| others::removed(world, node))
            },
        );
        let of_slots = world.seen(node).and_then(|_| slots::trouble(world, wanted, node));
        if let Some((diagnosis, message)) = found.into_iter().chain(of_slots).min_by_key(|(diagnosis, _)| *diagnosis) {
            plan.findings.push(Finding { node: name.clone(), diagnosis, message });
        }
    }
    plan.findings.sort_by_key(|finding| finding.diagnosis);
}

/// Whether others are to be fed by it, by the spec.
fn is_relay(world: &World<'_>, node: At<'_>) -> bool {
    let Some(group) = world.group(node) else { return false };
    let feeds_others = || world.desired.groups.iter().any(|other| other.upstreams.contains(&group.name));
    // Where it has none, all members are feeders: they need not be searched.
    if group.relays > 0 { group.feeders().contains(node.name) } else { feeds_others() }
}

/// What we do about it, or what has to be set so that we do it.
fn deed(world: &World<'_>, deed: &str) -> String {
    match world.desired.automation {
        Automation::Observe => format!("Set automation: Heal, and {deed}"),
        Automation::Heal => format!("Nothing to do: {deed}"),
    }
}

/// The same for what needs the right to set a node's route.
fn deed_of_a_route(world: &World<'_>, node: At<'_>, deed: &str) -> String {
    if world.management(node) == Management::Observe {
        return "Correct its primary_conninfo: its group has management: Observe, so we set none there".to_owned();
    }
    self::deed(world, deed)
}

type Found = Option<(Diagnosis, String)>;

/// Whose data it is and on which branch.
pub(super) fn identity(world: &World<'_>, node: &NodeName, facts: &Facts) -> Found {
    if foreign(world, facts) {
        let ours = our_identifier(world).unwrap_or_default();
        let theirs = facts.system_identifier;
        // An upgrade makes another one for all; of one host among others nobody is to think so.
        let members = world.desired.root().map(|root| root.members.as_slice()).unwrap_or_default();
        let mut root = members.iter().filter_map(|member| world.seen(member)).peekable();
        let cure = if root.peek().is_some() && root.all(|facts| foreign(world, facts)) {
            "Correct the addresses. After an upgrade of the whole cluster delete this topology and apply it again; until \
             then it is not touched"
        } else {
            "Correct the host's address, or clone it anew; it is not touched"
        };
        let sentence = format!("{node} has system identifier {theirs}, the topology {ours}. {cure}.");
        return Some((Diagnosis::ForeignServer, sentence));
    }
    if facts.version_num < VERSION_NUM_MIN {
        let version = facts.version_num / 10_000;
        return Some((
            Diagnosis::VersionTooOld,
            format!("{node} is PostgreSQL {version}; upgrade it to 15 or later. It is not touched."),
        ));
    }
    if let Some(told) = twice::told(world, node) {
        return Some((Diagnosis::SameServer, format!("{told}; it is not written to until then.")));
    }
    if !facts.in_recovery && !is_the_primary(world, node) {
        return Some(match &world.sight.primary {
            Primary::Several(names) if names.contains(node) => {
                let names = names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
                let cure = "Stop all but the right one; until then nobody is moved";
                (Diagnosis::TwoPrimaries, format!("{names} all answer as primary. {cure}."))
            }
            _ => {
                let cure = "Rewind or re-clone it and start it as a standby; nobody follows it until then";
                (Diagnosis::ForeignPrimary, format!("{node} answers as a primary and is not the primary. {cure}."))
            }
        });
    }
    diverged(world, facts).map(|seen| {
        let primary = world.primary_says();
        // On a newer timeline than the primary it may hold what was acknowledged last, and the primary be a deposed one that
        // came back (safety.md 1.3): whoever clones then destroys the only copy.
        let cure = if primary.is_some_and(|primary| facts.timeline > primary.timeline) {
            "Its timeline is newer than the primary's: find out which of the two holds the rows that are to stay before \
             anything is rewound or cloned"
        } else {
            "Rewind it from the primary, or re-clone it"
        };
        (Diagnosis::Diverged, format!("{node}: {seen}. {cure}."))
    })
}

/// Another server goes by its name (law 12).
fn namesake(world: &World<'_>, node: &NodeName) -> Found {
    let (on, stranger) = world.observed.memory.strangers(node).next()?;
    let slot = if stranger.holds_slot { " and its slot" } else { "" };
    let from = if stranger.client.is_empty() { "a socket on its machine" } else { &stranger.client };
    let cure = "Stop that server, or give it another cluster_name, application_name and primary_slot_name";
    let seen = format!("a server that is not {node} streams from {on} by its name{slot}, connected from {from}");
    Some((Diagnosis::DuplicateName, format!("{seen}. {cure}.")))
}

/// Why a node's route cannot be written, whatever the route.
pub(super) fn unwritable(world: &World<'_>, node: At<'_>, facts: &Facts, wanted: &RouteAt<'_>) -> Found {
    // Whose server it is comes before everything: also a primary of another cluster is one that a host may name.
    if let Some(found) = identity(world, node.name, facts) {
        return Some(found);
    }
    let there = world.has_installed(node, wanted);
    if !facts.in_recovery || there || world.management(node) == Management::Observe {
        return None;
    }
    overwritten(world, node, facts).or_else(|| unusable(node.name, facts))
}

fn overwritten(world: &World<'_>, node: At<'_>, facts: &Facts) -> Found {
    let times = world.memory(node).map_or(0, |memory| memory.overwritten);
    let cure =
        "Find who writes it (another tool, or configuration management), or set the group's management to Observe";
    (times > OVERWRITTEN_MAX).then(|| {
        let shown = facts.route.conninfo.listeners().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>();
        let what = format!("somebody else has set primary_conninfo of {node} to {}", shown.join(","));
        let done = format!("it was put back {OVERWRITTEN_MAX} times and is left so now");
        (Diagnosis::OtherWriter, format!("{what}; {done}. {cure}."))
    })
}

fn unusable(node: &NodeName, facts: &Facts) -> Found {
    let route = &facts.route;
    if !facts.alter_system_allowed {
        let cure = "Set allow_alter_system = on and reload, or set the group's management to Observe";
        let sentence = format!("{node} has allow_alter_system = off, so its route cannot be set. {cure}.");
        return Some((Diagnosis::AlterSystemOff, sentence));
    }
    if !facts.missing_grants.is_empty() {
        let sql = facts.missing_grants.join(" ");
        let sentence = format!("our role lacks rights on {node}. Run on the primary: {sql}");
        return Some((Diagnosis::MissingGrant, sentence));
    }
    let trouble = if route.has_password {
        "holds a password, and no password is ever written. Move it to a passfile of mode 0600 and set passfile="
    } else if route.unreadable {
        "cannot be read as keyword=value. Write it so"
    } else if route.conninfo.is_empty() {
        "is empty. Set user= and its passfile or certificate once; host and port are set for you"
    } else {
        return None;
    };
    Some((Diagnosis::UnusableConninfo, format!("primary_conninfo of {node} {trouble}.")))
}
