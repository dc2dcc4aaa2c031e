//! What is wrong with a server that is not seen.

use std::collections::BTreeMap;

use super::{At, Found, World, is_relay};
use crate::model::{Diagnosis, NodeName, Unseen, WhyUnseen};

/// So many starts within ten minutes are no accident.
pub(super) const RESTARTS_MIN: usize = 3;

/// Why it is not seen, by what can be told of it.
pub(super) fn unseen(world: &World<'_>, zones_down: &BTreeMap<&str, Vec<&NodeName>>, node: &NodeName) -> Found {
    let Unseen { why, detail } = world.observed.nodes.get(node).and_then(|view| view.unseen.as_ref())?;
    let patience = world.desired.healing.suspect_after_milliseconds;
    let memory = &world.observed.memory;
    let long = memory.unseen_for(node).is_some_and(|t| t >= patience);
    let failing = memory.failing_for(node).is_some_and(|t| t >= patience);
    let momentary = matches!(why, WhyUnseen::NotYet | WhyUnseen::Refused | WhyUnseen::Timeout | WhyUnseen::Starting);
    if momentary && !long {
        return None;
    }
    let at = world.at(node);
    let zone = world.zone(at);
    if let Some((zone, nodes)) = zone.and_then(|zone| zones_down.get_key_value(zone)) {
        // Told once, by the first of them; the others say by themselves that they are not seen.
        let message = format!("all {} servers of zone {zone} are out of sight. Look at the zone.", nodes.len());
        return (nodes.first() == Some(&node)).then_some((Diagnosis::ZoneDown, message));
    }
    let restarts = world.memory(node).map_or(0, |memory| memory.restarts.len());
    if restarts >= RESTARTS_MIN {
        return Some(crash_loop(node));
    }
    if momentary && let Some(primary) = succeeded_by(world, node) {
        let seen = format!("{node} cannot be asked ({why}: {detail}), and was the primary before {primary}");
        let cure =
            "Do not start it as it is, as it would take writes: rewind it or clone it anew, and start it as a standby";
        return Some((Diagnosis::ForeignPrimary, format!("{seen}. {cure}.")));
    }
    let start = "Start it, or correct its address and port in the spec";
    let look = "Look at its machine and network, or correct its address in the spec";
    let fed = "; its children have other upstreams";
    Some(match (why, failing) {
        (WhyUnseen::Refused, true) => {
            let (diagnosis, fed) =
                by_place(world, at, fed, [Diagnosis::DeadPrimary, Diagnosis::DeadRelay, Diagnosis::DeadLeaf]);
            (diagnosis, format!("{node} refuses connections ({detail}). {start}{fed}."))
        }
        (WhyUnseen::Timeout, true) => {
            let (diagnosis, fed) =
                by_place(world, at, fed, [Diagnosis::HungPrimary, Diagnosis::HungRelay, Diagnosis::HungLeaf]);
            (diagnosis, format!("{node} does not answer ({detail}). {look}{fed}."))
        }
        _ => (Diagnosis::Unseen, format!("{node} cannot be asked: {why} ({detail}). {}.", cure(*why))),
    })
}

/// Who is the primary now, where this one said last that it is.
fn succeeded_by<'a>(world: &'a World<'_>, node: &NodeName) -> Option<&'a NodeName> {
    let said = world.observed.last(node).is_some_and(|facts| !facts.in_recovery);
    world.primary().filter(|primary| said && *primary != node)
}

/// It comes up and goes down again and again.
pub(super) fn crash_loop(node: &NodeName) -> (Diagnosis, String) {
    let seen = format!("{node} was started again {RESTARTS_MIN} times and more within ten minutes");
    (Diagnosis::CrashLoop, format!("{seen}. Read its log."))
}

/// The name of a fault by where the node stands, and what else is said of a relay.
fn by_place<'a>(world: &World<'_>, node: At<'_>, fed: &'a str, names: [Diagnosis; 3]) -> (Diagnosis, &'a str) {
    let [primary, relay, leaf] = names;
    if world.is_primary(node.name) {
        (primary, "")
    } else if is_relay(world, node) {
        (relay, fed)
    } else {
        (leaf, "")
    }
}

fn cure(why: WhyUnseen) -> &'static str {
    match why {
        WhyUnseen::CredentialsRejected => "Correct username and password in the Secret, or the server's pg_hba.conf",
        WhyUnseen::CredentialsMissing => "Create the Secret or the key, or correct credentialsSecretRef",
        WhyUnseen::TlsFailed => "Check sslMode, ca.crt in the Secret and the server's certificate",
        WhyUnseen::AddressUnknown => "Correct the host's address, or give an IP",
        WhyUnseen::TooManyConnections => "Raise max_connections or reserve one for our role",
        WhyUnseen::BadAnswer => "Check that address and port are a PostgreSQL 15 or later",
        WhyUnseen::Refused | WhyUnseen::Timeout => {
            "Its children are fed, so it may be the way from here to it that is cut"
        }
        WhyUnseen::Starting => "Wait for it, or look at its log",
        WhyUnseen::NotYet => "Nothing to do",
    }
}
