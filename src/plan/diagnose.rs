//! What is wrong, named, with what was seen and what to do.

use super::World;
use super::standing::{VERSION_NUM_MIN, diverged, foreign, is_the_primary};
use super::step::Plan;
use crate::model::primary::Primary;
use crate::model::rooted::Rooted;
use crate::model::tree::Edge;
use crate::model::{Diagnosis, Facts, Finding, Management, NodeName, Route, Unseen, WhyUnseen};

/// How often a route is put back before we stop fighting (design.md section 7, OtherWriter).
pub(super) const OVERWRITTEN_MAX: u32 = 3;

/// Fills in `plan.findings`, the worst first.
pub(super) fn diagnose(world: &World<'_>, plan: &mut Plan) {
    for node in world.desired.nodes.keys() {
        let found = world.seen(node).map_or_else(
            || unseen(world, node),
            |facts| {
                identity(world, node, facts)
                    .or_else(|| plan.wanted.get(node).and_then(|route| unwritable(world, node, facts, route)))
                    .or_else(|| stream(world, plan, node, facts))
            },
        );
        if let Some((diagnosis, message)) = found {
            plan.findings.push(Finding { node: node.clone(), diagnosis, message });
        }
    }
    plan.findings.sort_by_key(|finding| finding.diagnosis);
}

type Found = Option<(Diagnosis, String)>;

fn unseen(world: &World<'_>, node: &NodeName) -> Found {
    let Unseen { why, detail } = world.observed.nodes.get(node).and_then(|view| view.unseen.as_ref())?;
    let patience = world.desired.healing.suspect_after_milliseconds;
    let memory = &world.observed.memory;
    let long = memory.unseen_for(node).is_some_and(|t| t >= patience);
    let failing = memory.failing_for(node).is_some_and(|t| t >= patience);
    let found = match why {
        WhyUnseen::NotYet | WhyUnseen::Refused | WhyUnseen::Timeout | WhyUnseen::Starting if !long => return None,
        WhyUnseen::Refused if failing => {
            let cure = "Start it, or correct its address and port in the spec; its children have other upstreams";
            (Diagnosis::DeadNode, format!("{node} refuses connections ({detail}). {cure}."))
        }
        WhyUnseen::Timeout if failing => {
            let cure = "Look at its machine and network, or correct its address in the spec; its children have other upstreams";
            (Diagnosis::HungNode, format!("{node} does not answer ({detail}). {cure}."))
        }
        why => {
            let cure = match why {
                WhyUnseen::CredentialsRejected => {
                    "Correct username and password in the Secret, or the server's pg_hba.conf"
                }
                WhyUnseen::CredentialsMissing => "Create the Secret or the key, or correct credentialsSecretRef",
                WhyUnseen::TlsFailed => "Check sslMode, ca.crt in the Secret and the server's certificate",
                WhyUnseen::AddressUnknown => "Correct the host's address, or give an IP",
                WhyUnseen::TooManyConnections => "Raise max_connections or reserve one for our role",
                WhyUnseen::BadAnswer => "Check that address and port are a PostgreSQL 15 or later",
                WhyUnseen::Refused | WhyUnseen::Timeout => "Its children are fed, so the way from here to it is cut",
                WhyUnseen::Starting => "Wait for it, or look at its log",
                WhyUnseen::NotYet | WhyUnseen::Superseded => "Nothing to do",
            };
            (Diagnosis::Unseen, format!("{node} cannot be asked: {why} ({detail}). {cure}."))
        }
    };
    Some(found)
}

/// Whose data it is and on which branch.
pub(super) fn identity(world: &World<'_>, node: &NodeName, facts: &Facts) -> Found {
    if foreign(world, facts) {
        let ours = world.observed.memory.system_identifier.unwrap_or_default();
        let theirs = facts.system_identifier;
        let cure = "Correct the host's address, or clone it anew; it is not touched";
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
    if !facts.in_recovery && !is_the_primary(world, node) {
        return Some(match &world.sight.primary {
            Primary::Several(names) if names.contains(node) => {
                let names = names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
                let cure = "Stop all but the right one; until then nobody is moved";
                (Diagnosis::TwoPrimaries, format!("{names} all answer as primary on one timeline. {cure}."))
            }
            _ => {
                let cure = "Rewind or re-clone it and start it as a standby; nobody follows it until then";
                (Diagnosis::ForeignPrimary, format!("{node} answers as a primary and is not the primary. {cure}."))
            }
        });
    }
    diverged(world, facts)
        .map(|seen| (Diagnosis::Diverged, format!("{node}: {seen}. Rewind it from the primary, or re-clone it.")))
}

/// Why a node's route cannot be written, whatever the route.
pub(super) fn unwritable(world: &World<'_>, node: &NodeName, facts: &Facts, wanted: &Route) -> Found {
    // Whose server it is comes before everything: also a primary of another cluster is one that a host may name.
    if let Some(found) = identity(world, node, facts) {
        return Some(found);
    }
    let there = world.desired.has_installed(node, wanted, facts);
    if !facts.in_recovery || there || world.management(node) == Management::Observe {
        return None;
    }
    overwritten(world, node, facts).or_else(|| unusable(node, facts))
}

fn overwritten(world: &World<'_>, node: &NodeName, facts: &Facts) -> Found {
    let times = world.observed.memory.nodes.get(node).map_or(0, |memory| memory.overwritten);
    let shown = facts.route.conninfo.hosts().iter().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>();
    let cure =
        "Find who writes it (another tool, or configuration management), or set the group's management to Observe";
    (times > OVERWRITTEN_MAX).then(|| {
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

/// Where its WAL comes from.
fn stream(world: &World<'_>, plan: &Plan, node: &NodeName, facts: &Facts) -> Found {
    if world.is_primary(node) {
        return None;
    }
    let patience = world.desired.healing.suspect_after_milliseconds;
    let failing = world.observed.memory.failing_for(node).is_some_and(|t| t >= patience);
    let verdict = world.sight.rooted.get(node);
    if let Some(gate) = facts.replay_blocked_by().filter(|_| facts.replay_paused || failing) {
        let cure = match gate {
            "RecoveryPause" => "Run pg_wal_replay_resume() there",
            "RecoveryApplyDelay" => "Set recovery_min_apply_delay = 0 there and restart it",
            _ => "End the sessions there that hold a snapshot, or lower max_standby_streaming_delay",
        };
        let lasts = "until then it serves old data and its route cannot change";
        return Some((Diagnosis::ReplayBlocked, format!("replay is blocked on {node}: {gate}. {cure}; {lasts}.")));
    }
    if failing && let Some(Rooted::No(seen)) = verdict {
        let (diagnosis, cure) = no_path(world, plan, node, facts);
        return Some((diagnosis, format!("{node}: {seen}. {cure}.")));
    }
    if let Some(Rooted::Yes { lag_milliseconds, .. }) = verdict
        && *lag_milliseconds > world.desired.healing.lag_seconds.saturating_mul(1000)
    {
        let cure = "Look at its disk, CPU and network";
        // Not the present figure: it moves with every look, and the status would be written again with it.
        let bound = world.desired.healing.lag_seconds;
        return Some((Diagnosis::Lagging, format!("{node} is more than {bound} s behind. {cure}.")));
    }
    world.observed.memory.is_settling(node).then(|| {
        let cure = "Nothing to do: it gets its children back when it has been well long enough";
        (Diagnosis::Settling, format!("{node} failed a short while ago. {cure}."))
    })
}

fn no_path(world: &World<'_>, plan: &Plan, node: &NodeName, facts: &Facts) -> (Diagnosis, &'static str) {
    let route = plan.wanted.get(node);
    match world.sight.edges.get(node) {
        Some(Edge::Stranger(_)) => {
            return (
                Diagnosis::WrongUpstream,
                "Nothing to do: it is pointed to its declared upstream when that is safe",
            );
        }
        Some(Edge::Both(_) | Edge::ChildOnly(_) | Edge::Denied(_)) if in_ring(world, node) => {
            return (Diagnosis::Ring, "Nothing to do: it is broken at the node nearest the primary");
        }
        _ => {}
    }
    let first = route.and_then(Route::first).and_then(|first| world.seen(first));
    if let (None, Some(upstream)) = (&facts.receiver, first) {
        match upstream.slots.get(&node.slot()) {
            None => return (Diagnosis::MissingSlot, "Nothing to do: the slot is created"),
            Some(slot) if slot.lost => return (Diagnosis::LostSlot, "Nothing to do: the slot is made anew"),
            Some(_) => {}
        }
    }
    (Diagnosis::CutOff, "Nothing to do: it and its children are given other upstreams where there are any")
}

fn in_ring(world: &World<'_>, node: &NodeName) -> bool {
    let mut at = node;
    for _ in 0..world.desired.nodes.len() {
        match world.upstream(at) {
            Some(up) if up == node => return true,
            Some(up) => at = up,
            None => return false,
        }
    }
    false
}
