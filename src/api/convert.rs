//! From what a person wrote to what the planner takes: defaults, types, and every check.

use std::collections::{BTreeMap, BTreeSet};

use super::metadata::{is_object_name, object_name_cure};
use super::topology::{
    AutomationMode, CROSS_REGION_STREAMS_MAX, DEPTH_MAX, FAN_OUT_MAX, GROUPS_MAX, GroupSpec, HOSTS_MAX, HealingSpec,
    HostSpec, LimitsSpec, ManagementMode, RETAINED_WAL_BYTES_MAX, RETAINED_WAL_BYTES_MIN, ReadsSpec,
    ReplicaTopologySpec, SECONDS_MAX, SUSPECT_AFTER_MILLISECONDS_MAX, SUSPECT_AFTER_MILLISECONDS_MIN, SslMode,
    UPSTREAMS_MAX,
};
use super::{address, quantity, servers};
use crate::model::check::{Rejection, check};
use crate::model::{
    Automation, BadName, Desired, Group, GroupName, Healing, Limits, Management, NodeName, NodeSpec, Reads,
};

/// How the operator gets into one server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// Name of the Secret in the topology's namespace; `None`: user waltree, database postgres, no password.
    pub secret: Option<String>,
    /// How the connection is encrypted.
    pub ssl_mode: SslMode,
}

/// How the operator gets into a server; `None` for a node that the spec does not name.
pub fn access(spec: &ReplicaTopologySpec, node: &NodeName) -> Option<Access> {
    let group = spec.groups.iter().find(|group| group.hosts.iter().any(|host| host.name == node.as_str()))?;
    Some(Access {
        secret: group.credentials_secret_ref.as_ref().map(|secret| secret.name.clone()),
        ssl_mode: group.ssl_mode.unwrap_or(SslMode::VerifyFull),
    })
}

/// The nodes of a spec that are pods.
pub fn pods(spec: &ReplicaTopologySpec) -> Vec<NodeName> {
    let of_group = |group: &GroupSpec| -> Vec<NodeName> {
        let ordinals = 1..=group.replicas.unwrap_or_default();
        ordinals.filter_map(|ordinal| NodeName::new(&format!("{}-{ordinal}", group.name)).ok()).collect()
    };
    spec.groups.iter().flat_map(of_group).collect()
}

impl TryFrom<&ReplicaTopologySpec> for Desired {
    type Error = Vec<Rejection>;

    /// Fills in the defaults and checks everything again that the API server checked, and what it cannot check.
    /// [`Desired::deleting`] is false: the spec does not know.
    fn try_from(spec: &ReplicaTopologySpec) -> Result<Self, Vec<Rejection>> {
        let mut reader = Reader::default();
        let limits = reader.limits(spec.limits.as_ref());
        let healing = reader.healing(spec.healing.as_ref());
        let reads = reader.reads(spec.reads.as_ref());
        reader.rejections.extend(spec.postgres.iter().flat_map(servers::faults));
        reader.at_most("spec.groups", "groups", spec.groups.len(), GROUPS_MAX);
        let mut nodes = BTreeMap::new();
        let mut groups = Vec::with_capacity(spec.groups.len());
        for (place, group) in spec.groups.iter().enumerate() {
            groups.extend(reader.group(place, group, &limits, &mut nodes));
        }
        let automation = match spec.automation {
            Some(AutomationMode::Observe) => Automation::Observe,
            Some(AutomationMode::Heal) | None => Automation::Heal,
        };
        let nodes = nodes.into_iter().collect();
        let desired = Self {
            automation,
            deleting: false,
            acknowledged: BTreeSet::new(),
            leaving: BTreeSet::new(),
            limits,
            healing,
            reads,
            groups,
            nodes,
        };
        // A group whose name cannot be read is missing from `desired`, so every other check would only mislead.
        if reader.rejections.is_empty() {
            reader.rejections = check(&desired);
        }
        if reader.rejections.is_empty() {
            reader.rejections = mixed(&desired);
        }
        if reader.rejections.is_empty() { Ok(desired) } else { Err(reader.rejections) }
    }
}

/// Pods and hosts in one tree: neither reaches the other yet.
fn mixed(desired: &Desired) -> Vec<Rejection> {
    let is_pods = |group: &Group| group.management == Management::Agent;
    let root = desired.root().is_some_and(is_pods);
    let odd = desired.groups.iter().enumerate().find(|(_, group)| is_pods(group) != root);
    let told = odd.map(|(place, group)| {
        let (is, are) = if root { ("hosts", "replicas") } else { ("replicas", "hosts") };
        let cure =
            format!("a topology has either replicas or hosts: give {} {are}, or make two topologies", group.name);
        Rejection::new(
            format!("spec.groups[{place}].{is}"),
            format!("{} has {is}, and others have {are}: {cure}", group.name),
        )
    });
    told.into_iter().collect()
}

/// Reads values and gathers what is wrong with them.
#[derive(Default)]
struct Reader {
    rejections: Vec<Rejection>,
}

impl Reader {
    fn reject(&mut self, field: &str, message: String) {
        self.rejections.push(Rejection::new(field, message));
    }

    fn at_most(&mut self, field: &str, what: &str, count: usize, most: usize) {
        if count > most {
            self.reject(
                field,
                format!("{count} {what} are more than the {most} that are possible: split the topology"),
            );
        }
    }

    /// A number within its bounds, or `default` when it is left out or wrong.
    fn number<T: TryFrom<i32> + Copy>(
        &mut self,
        field: &str,
        value: Option<i32>,
        bounds: std::ops::RangeInclusive<i32>,
        default: T,
    ) -> T {
        let Some(value) = value else { return default };
        match T::try_from(value) {
            Ok(number) if bounds.contains(&value) => number,
            _ => {
                let (low, high) = bounds.into_inner();
                self.reject(field, format!("{value} is not within {low} to {high}: choose a value in between"));
                default
            }
        }
    }

    fn name<T>(&mut self, field: &str, read: Result<T, BadName>) -> Option<T> {
        read.map_err(|bad| self.reject(field, bad.to_string())).ok()
    }

    fn place(&mut self, field: &str, value: Option<&String>) -> Option<String> {
        let value = value?;
        let inner = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let edge = |c: char| c.is_ascii_alphanumeric();
        if value.len() > 63 || !value.chars().all(inner) || !value.starts_with(edge) || !value.ends_with(edge) {
            self.reject(
                field,
                format!(
                    "{value:?} is no region or zone: use 1 to 63 letters, digits, '.', '_' and '-', with a letter or digit \
                     at both ends"
                ),
            );
        }
        Some(value.clone())
    }

    fn limits(&mut self, spec: Option<&LimitsSpec>) -> Limits {
        let spec = spec.cloned().unwrap_or_default();
        let streams = spec.cross_region_streams;
        Limits {
            fan_out: self.number("spec.limits.fanOut", spec.fan_out, 1..=FAN_OUT_MAX, 8),
            depth: self.number("spec.limits.depth", spec.depth, 1..=DEPTH_MAX, 4),
            cross_region_streams: self.number(
                "spec.limits.crossRegionStreams",
                streams,
                1..=CROSS_REGION_STREAMS_MAX,
                2,
            ),
            retained_wal_bytes: self.retained_wal(spec.retained_wal.as_deref()),
        }
    }

    /// By default enough for some hours of an ordinary primary's WAL, a server's restart or its repair, and little enough for
    /// the disk of a replica.
    fn retained_wal(&mut self, text: Option<&str>) -> u64 {
        const DEFAULT: u64 = 10 << 30;
        let Some(text) = text else { return DEFAULT };
        let possible = RETAINED_WAL_BYTES_MIN..=RETAINED_WAL_BYTES_MAX;
        quantity::bytes(text).filter(|bytes| possible.contains(bytes)).unwrap_or_else(|| {
            let cure = "write a number and a unit, such as 25Gi";
            self.reject("spec.limits.retainedWal", format!("{text:?} is no quantity from 64Mi to 100Ti: {cure}"));
            DEFAULT
        })
    }

    fn healing(&mut self, spec: Option<&HealingSpec>) -> Healing {
        let spec = spec.cloned().unwrap_or_default();
        let suspect = SUSPECT_AFTER_MILLISECONDS_MIN..=SUSPECT_AFTER_MILLISECONDS_MAX;
        Healing {
            suspect_after_milliseconds: self.number(
                "spec.healing.suspectAfterMilliseconds",
                spec.suspect_after_milliseconds,
                suspect,
                2000,
            ),
            lag_seconds: self.number("spec.healing.lagSeconds", spec.lag_seconds, 1..=SECONDS_MAX, 30),
            settle_seconds: self.number("spec.healing.settleSeconds", spec.settle_seconds, 0..=SECONDS_MAX, 60),
        }
    }

    fn reads(&mut self, spec: Option<&ReadsSpec>) -> Reads {
        let given = spec.and_then(|spec| spec.max_staleness_seconds);
        let default = Reads::default().max_staleness_seconds;
        let field = "spec.reads.maxStalenessSeconds";
        Reads { max_staleness_seconds: self.number(field, given, 1..=SECONDS_MAX, default) }
    }

    fn group(
        &mut self,
        place: usize,
        spec: &GroupSpec,
        limits: &Limits,
        nodes: &mut BTreeMap<NodeName, NodeSpec>,
    ) -> Option<Group> {
        let at = |field: &str| format!("spec.groups[{place}].{field}");
        let name = self.name(&at("name"), GroupName::new(&spec.name));
        let written = spec.upstreams.as_deref().unwrap_or_default();
        self.at_most(&at("upstreams"), "upstreams", written.len(), UPSTREAMS_MAX);
        let mut upstreams = Vec::with_capacity(written.len());
        for (index, upstream) in written.iter().enumerate() {
            upstreams.extend(self.name(&at(&format!("upstreams[{index}]")), GroupName::new(upstream)));
        }
        let hosts_max = i32::try_from(HOSTS_MAX).unwrap_or(i32::MAX);
        let relays = self.number(&at("relays"), spec.relays, 0..=hosts_max - 1, 0);
        let fan_out = self.number(&at("fanOut"), spec.fan_out, 1..=FAN_OUT_MAX, limits.fan_out);
        if let Some(secret) = spec.credentials_secret_ref.as_ref().filter(|secret| !is_object_name(&secret.name)) {
            let message = format!("{:?} is no name of a Secret: {}", secret.name, object_name_cure(&secret.name));
            self.reject(&at("credentialsSecretRef.name"), message);
        }
        let region = self.place(&at("region"), spec.region.as_ref());
        self.at_most(&at("hosts"), "hosts", spec.hosts.len(), HOSTS_MAX);
        let mut members = self.pods(place, spec, nodes);
        for (index, host) in spec.hosts.iter().enumerate() {
            let Some(node) = self.host(&at(&format!("hosts[{index}]")), place, host) else { continue };
            members.push(node.name.clone());
            nodes.entry(node.name.clone()).or_insert(node);
        }
        let management = match spec.management {
            _ if spec.replicas.is_some() => Management::Agent,
            Some(ManagementMode::Observe) => Management::Observe,
            Some(ManagementMode::Routes) | None => Management::Routes,
        };
        Some(Group { name: name?, upstreams, relays, region, management, fan_out, members })
    }

    /// The servers of a group that are pods. What says how somebody else's servers are reached says nothing of them.
    fn pods(&mut self, place: usize, spec: &GroupSpec, nodes: &mut BTreeMap<NodeName, NodeSpec>) -> Vec<NodeName> {
        let Some(replicas) = spec.replicas else { return Vec::new() };
        let at = |field: &str| format!("spec.groups[{place}].{field}");
        let group = &spec.name;
        if !spec.hosts.is_empty() {
            let message = format!("{group} has replicas and hosts: write one of the two, or make two groups");
            self.reject(&at("hosts"), message);
        }
        let foreign = [
            ("management", spec.management.is_some()),
            ("credentialsSecretRef", spec.credentials_secret_ref.is_some()),
            ("sslMode", spec.ssl_mode.is_some()),
        ];
        for (field, _) in foreign.into_iter().filter(|(_, is_there)| *is_there) {
            let message = format!("{group} has replicas, which waltree runs and reaches by itself: leave {field} out");
            self.reject(&at(field), message);
        }
        let most = i32::try_from(HOSTS_MAX).unwrap_or(i32::MAX);
        let count: i32 = self.number(&at("replicas"), Some(replicas), 1..=most, 0);
        let mut members = Vec::new();
        for ordinal in 1..=count {
            let field = at("name");
            let Some(name) = self.name(&field, NodeName::new(&format!("{group}-{ordinal}"))) else { break };
            let address = name.to_string();
            let node = NodeSpec { name: name.clone(), group: place, address, hostaddr: None, port: 5432, zone: None };
            members.push(name.clone());
            nodes.entry(name).or_insert(node);
        }
        members
    }

    fn host(&mut self, at: &str, group: usize, spec: &HostSpec) -> Option<NodeSpec> {
        let name = self.name(&format!("{at}.name"), NodeName::new(&spec.name));
        let address = spec.address.as_str();
        if let Some(fault) = address::fault(address) {
            self.reject(&format!("{at}.address"), format!("{address:?} of {} {fault}", spec.name));
        }
        let port = match spec.port {
            None => 5432,
            Some(port) => u16::try_from(port).ok().filter(|port| *port > 0).unwrap_or_else(|| {
                let message = format!("{port} of {} is no TCP port: choose one within 1 to 65535", spec.name);
                self.reject(&format!("{at}.port"), message);
                5432
            }),
        };
        let zone = self.place(&format!("{at}.zone"), spec.zone.as_ref());
        Some(NodeSpec { name: name?, group, address: address.to_owned(), hostaddr: None, port, zone })
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
