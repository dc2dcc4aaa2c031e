//! From the resource to a live cluster: how each server is reached, and what an earlier operator knew.

use std::collections::BTreeMap;

use crate::api::topology::SslMode as Wanted;
use crate::api::{ReplicaTopology, access, pods};
use crate::model::memory::Leaver;
use crate::model::{Memory, Millis, NodeName, Timeline};
use crate::observe::{ServerAccess, SslMode};
use crate::render::pods::operator_name;

/// How each server is reached.
pub fn accesses(topology: &ReplicaTopology) -> BTreeMap<NodeName, ServerAccess> {
    let spec = &topology.spec;
    // What waltree runs it reaches by a certificate of its own making.
    let own = ServerAccess { secret: Some(operator_name(topology)), ssl_mode: SslMode::VerifyFull };
    let pods = pods(spec).into_iter().map(|node| (node, own.clone()));
    let hosts = spec.groups.iter().flat_map(|group| &group.hosts);
    let names = hosts.filter_map(|host| NodeName::new(&host.name).ok());
    let one = |node: NodeName| {
        let access = access(spec, &node)?;
        let ssl_mode = match access.ssl_mode {
            Wanted::Disable => SslMode::Disable,
            Wanted::Require => SslMode::Require,
            Wanted::VerifyCa => SslMode::VerifyCa,
            Wanted::VerifyFull => SslMode::VerifyFull,
        };
        Some((node, ServerAccess { secret: access.secret, ssl_mode }))
    };
    names.filter_map(one).chain(pods).collect()
}

/// What an earlier operator left in the status: whose data this is, which history was the newest, and who has been in the
/// spec.
pub fn remembered(topology: &ReplicaTopology, now: Millis) -> Memory {
    let status = topology.status.as_ref();
    let primary = status.and_then(|status| status.primary.as_ref());
    let before = status.map(|status| status.nodes.iter().map(|node| &node.name).chain(&status.leaving));
    let before = before.into_iter().flatten().filter_map(|name| NodeName::new(name).ok());
    Memory {
        // Nobody is known to use a slot of theirs, nor whose they are; who is in the spec is no leaver.
        leaving: before.map(|name| (name, Leaver { used: now, active: now, ..Leaver::default() })).collect(),
        system_identifier: status.and_then(|status| status.system_identifier.as_ref()?.parse().ok()),
        primary: primary.and_then(|primary| NodeName::new(&primary.name).ok()),
        timeline: primary.and_then(|primary| u32::try_from(primary.timeline?).ok()).map(Timeline),
        ..Memory::default()
    }
}
