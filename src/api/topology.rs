//! What a person writes. Only fields that do something; every default is resolved in [`super::convert`], so that a
//! later default reaches the objects that are stored already (kubernetes-facts.md).

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct, its `pub` included, inside a function")]
#![allow(clippy::duplicated_attributes, reason = "each printed column has a name and a type of its own")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::ADDRESS_PATTERN;
use super::quantity::QUANTITY_PATTERN;
use super::schema::plain;
use super::status::ReplicaTopologyStatus;

/// Most groups of one topology. The cost of the CEL rules was measured up to 100 (kubernetes-facts.md).
pub const GROUPS_MAX: usize = 64;
/// Most upstream groups of one group.
pub const UPSTREAMS_MAX: usize = 4;
/// Most hosts of one group.
pub const HOSTS_MAX: usize = 512;
/// Most children of one server: beyond it PostgreSQL's own walsenders are the bottleneck.
pub const FAN_OUT_MAX: i32 = 100;
/// Most hops from the primary to the lowest server.
pub const DEPTH_MAX: i32 = 16;
/// Most WAL streams into one region.
pub const CROSS_REGION_STREAMS_MAX: i32 = 512;
/// Least WAL that idle slots are left, in bytes: four segments. Less would be passed between two moves forward of a slot that
/// nothing is wrong with.
pub const RETAINED_WAL_BYTES_MIN: u64 = 64 << 20;
/// Most WAL that idle slots are left, in bytes.
pub const RETAINED_WAL_BYTES_MAX: u64 = 100 << 40;
/// Shortest silence that can count as a failure: below it, an ordinary pause of a busy machine does.
pub const SUSPECT_AFTER_MILLISECONDS_MIN: i32 = 500;
/// Longest silence that can be asked for: ten minutes.
pub const SUSPECT_AFTER_MILLISECONDS_MAX: i32 = 600_000;
/// Largest bound in seconds: one day.
pub const SECONDS_MAX: i32 = 86_400;
/// A group or host name. The same as [`crate::model::NodeName`] takes.
pub const NAME_PATTERN: &str = "^[a-z]([-a-z0-9]*[a-z0-9])?$";
/// A region or zone: the same as the value of a Kubernetes label.
pub const PLACE_PATTERN: &str = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$";
/// An image, as container runtimes take it: no blanks, and nothing that YAML or a shell would read.
pub const IMAGE_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$";
/// Most parameters of PostgreSQL: it has some four hundred.
pub const PARAMETERS_MAX: usize = 400;
/// Most lines of pg_hba.conf.
pub const HBA_LINES_MAX: usize = 256;
/// Longest line of pg_hba.conf, in bytes.
pub const HBA_LINE_BYTES_MAX: usize = 1024;
/// A name in SQL that nobody has to quote.
pub const SQL_NAME_PATTERN: &str = "^[a-z][a-z0-9_]*$";
/// Longest name in SQL, in bytes.
pub const SQL_NAME_BYTES_MAX: usize = 63;
/// The name of a Kubernetes Secret.
pub const SECRET_PATTERN: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

/// The tree that is wanted. Everything that is left out has the default that its description names.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "waltree.dev",
    version = "v1alpha1",
    kind = "ReplicaTopology",
    plural = "replicatopologies",
    shortname = "rtopo",
    category = "postgres",
    namespaced,
    status = "ReplicaTopologyStatus",
    derive = "PartialEq",
    doc = "A PostgreSQL primary and its replicas, connected as a tree that heals itself.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.primary.name"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.summary.nodes"),
    printcolumn(name = "Fallbacks", type_ = "string", json_path = ".status.summary.fallbacks"),
    printcolumn(name = "Lag", type_ = "string", json_path = ".status.summary.lag"),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("(has(self.groups) ? self.groups[0].name : 'core') == (has(oldSelf.groups) ? oldSelf.groups[0].name : 'core')")
    .message("The first group is the root group; it cannot be removed or renamed. Make another topology instead.")
    .field_path(".groups"))]
#[x_kube(validation = Rule::new("has(self.storage) == has(oldSelf.storage) && (!has(self.storage) || self.storage == oldSelf.storage)")
    .message("The volumes are made, and storage cannot be changed yet. Make another topology instead.")
    .field_path(".storage"))]
#[x_kube(validation = Rule::new("(has(self.postgres) && has(self.postgres.bootstrap)) == (has(oldSelf.postgres) && has(oldSelf.postgres.bootstrap)) && (!has(self.postgres) || !has(self.postgres.bootstrap) || self.postgres.bootstrap == oldSelf.postgres.bootstrap)")
    .message("The database is made, and postgres.bootstrap cannot be changed. Make other databases and roles with SQL.")
    .field_path(".postgres"))]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct ReplicaTopologySpec {
    /// How much waltree does by itself. Observe: it looks and reports, and writes nothing to any server. Heal: it sets
    /// routes and keeps slots; it never promotes a server and never makes one anew. Default: Heal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub automation: Option<AutomationMode>,
    /// What no server may exceed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsSpec>,
    /// When a server counts as failed, and when as well again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healing: Option<HealingSpec>,
    /// What the Services of readers lead to, of servers that run in pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reads: Option<ReadsSpec>,
    /// The PostgreSQL servers that waltree runs itself, in pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresSpec>,
    /// The volume of each server that waltree runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
    /// Groups of servers, top to bottom: a group names only groups written above it. The first is the root group: it has
    /// no upstreams, and one of its servers is the primary. Default: core, of three replicas.
    #[serde(default = "three")]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".to_owned()]),
        validation = Rule::new("self.all(i, g, !has(g.upstreams) || g.upstreams.all(u, self.exists(j, h, j < i && h.name == u)))")
            .message("A group names as upstreams only groups that are written above it. Move the group below its upstreams, or correct the name."),
        validation = Rule::new("self.filter(g, !has(g.upstreams) || g.upstreams.size() == 0).size() == 1")
            .message("Exactly one group, the root group, has no upstreams. Give every other group at least one."),
    )]
    #[schemars(length(min = 1, max = GROUPS_MAX))]
    pub groups: Vec<GroupSpec>,
}

/// Whoever says nothing gets what survives the loss of any one server.
fn three() -> Vec<GroupSpec> {
    vec![GroupSpec { name: "core".to_owned(), replicas: Some(3), ..GroupSpec::default() }]
}

/// How much waltree does by itself.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutomationMode {
    /// Look and report only.
    Observe,
    /// Routes and slots.
    Heal,
}

/// What no server may exceed.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct LimitsSpec {
    /// Children of one server in normal times; right after the loss of a server, one and a half times as many. A group
    /// can say otherwise for its own servers. Default: 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = FAN_OUT_MAX))]
    pub fan_out: Option<i32>,
    /// Hops from the primary to the lowest server. The relays of a group are one hop below the servers that feed it, its
    /// leaves one more. Default: 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = DEPTH_MAX))]
    pub depth: Option<i32>,
    /// WAL streams into one region from other regions. Default: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = CROSS_REGION_STREAMS_MAX))]
    pub cross_region_streams: Option<i32>,
    /// WAL that slots which nobody uses, those of fallbacks and of servers that are away, may keep on one server beyond what
    /// that server needs itself, as a quantity from 64Mi to 100Ti. Beyond it the slots farthest behind are dropped, so that no
    /// disk fills: their servers lose a fallback, and one that was away for so long may have to be cloned anew.
    /// Default: 10Gi.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), regex(pattern = QUANTITY_PATTERN))]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('64Mi')) >= 0 && quantity(self).compareTo(quantity('100Ti')) <= 0")
        .message("retainedWal is a quantity from 64Mi to 100Ti."))]
    pub retained_wal: Option<String>,
}

/// When a server counts as failed, and when as well again.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct HealingSpec {
    /// How long a server may be silent or stand still before its children are moved, in milliseconds. Default: 2000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = SUSPECT_AFTER_MILLISECONDS_MIN, max = SUSPECT_AFTER_MILLISECONDS_MAX))]
    pub suspect_after_milliseconds: Option<i32>,
    /// How far behind the primary a server may be before it counts as lagging, in seconds: by what it has replayed, which
    /// its readers see, and as a relay by what it has received, which it passes on. Default: 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = SECONDS_MAX))]
    pub lag_seconds: Option<i32>,
    /// How long a server that failed must have been well before it gets its children back, in seconds. Default: 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = SECONDS_MAX))]
    pub settle_seconds: Option<i32>,
}

/// What the Services of readers lead to.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct ReadsSpec {
    /// How old what a standby shows may be, in seconds. Beyond it readers are led to others, until it is no more than half as
    /// old; where no other is left they are led to it still, and Serving says so. Default: 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = SECONDS_MAX))]
    pub max_staleness_seconds: Option<i32>,
}

/// The PostgreSQL servers that waltree runs itself.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct PostgresSpec {
    /// An image of PostgreSQL, 15 or later, whose programs are on its PATH, as those of Docker's official one are.
    /// Default: postgres:17.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = IMAGE_PATTERN))]
    pub image: Option<String>,
    /// Parameters of PostgreSQL, each value as text: over those that waltree begins with, under the few that it sets itself,
    /// which are refused by name. One that PostgreSQL does not take is left out and told; one that it takes at its start only is
    /// told until then. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = PARAMETERS_MAX))]
    pub parameters: BTreeMap<String, String>,
    /// Lines of pg_hba.conf about whoever comes over the network, after those of waltree's own roles and before the last, which
    /// lets in by password over TLS. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = HBA_LINES_MAX), inner(length(min = 1, max = HBA_LINE_BYTES_MAX)))]
    pub hba: Vec<String>,
    /// The database that the first server is made with. Default: app, owned by app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapSpec>,
}

/// The database of an application, made once, when the first server is. Its password is in the Secret NAME-app, with the URI
/// to log in by; whoever changes it there changes it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct BootstrapSpec {
    /// Its name: lower-case letters, digits and '_', beginning with a letter. Default: app.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = SQL_NAME_BYTES_MAX), regex(pattern = SQL_NAME_PATTERN))]
    #[x_kube(validation = Rule::new("!(self in ['postgres', 'template0', 'template1'])")
        .message("Every PostgreSQL has a database of this name already. Choose another."))]
    pub database: Option<String>,
    /// The role that owns it and logs in: lower-case letters, digits and '_', beginning with a letter. Default: app.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = SQL_NAME_BYTES_MAX), regex(pattern = SQL_NAME_PATTERN))]
    #[x_kube(validation = Rule::new("!(self in ['postgres', 'public', 'none', 'waltree', 'waltree_standby']) && !self.startsWith('pg_')")
        .message("This role is PostgreSQL's own, or waltree's. Choose another."))]
    pub owner: Option<String>,
}

/// The volume of each server.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct StorageSpec {
    /// How much a server is given, as a quantity. Default: 1Gi.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), regex(pattern = QUANTITY_PATTERN))]
    pub size: Option<String>,
    /// The StorageClass. Default: that of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_PATTERN))]
    pub class_name: Option<String>,
}

/// A group of servers with the same upstream groups.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[x_kube(
    validation = Rule::new("has(self.replicas) != has(self.hosts)")
        .message("A group has either replicas, which waltree runs in pods, or hosts, which exist already. Write one of the two."),
    validation = Rule::new("!has(self.relays) || self.relays < (has(self.replicas) ? self.replicas : has(self.hosts) ? self.hosts.size() : 0)")
        .message("relays must be smaller than the number of replicas or hosts: the first of them are the relays and feed the others.")
        .field_path(".relays"),
    validation = Rule::new("!has(self.relays) || self.relays == 0 || (has(self.upstreams) && self.upstreams.size() > 0)")
        .message("The root group has no relays: its primary feeds its other servers. Leave relays out.")
        .field_path(".relays"),
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct GroupSpec {
    /// Name of the group, unique in the topology: lower-case letters, digits and '-', beginning with a letter.
    #[schemars(length(min = 1, max = crate::model::name::NAME_BYTES_MAX), regex(pattern = NAME_PATTERN))]
    pub name: String,
    /// Groups that feed this one, the most wanted first; each is written above this one. None for the root group, of
    /// which one server is the primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(u, self.exists_one(v, v == u))")
            .message("A group names each upstream once. Remove the repeated name.")
    )]
    #[schemars(
        length(max = UPSTREAMS_MAX),
        inner(length(min = 1, max = crate::model::name::NAME_BYTES_MAX), regex(pattern = NAME_PATTERN))
    )]
    pub upstreams: Option<Vec<String>>,
    /// How many servers waltree runs for this group, in pods: GROUP-1, GROUP-2 and so on. Default: none, and hosts instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = HOSTS_MAX))]
    pub replicas: Option<i32>,
    /// How many of the first servers feed the others of this group. 0: each hangs directly below the upstream groups.
    /// Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = HOSTS_MAX - 1))]
    pub relays: Option<i32>,
    /// Children of one server of this group in normal times. Default: limits.fanOut.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = FAN_OUT_MAX))]
    pub fan_out: Option<i32>,
    /// Region of all servers of this group, for limits.crossRegionStreams. Groups without one are in one region together.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = PLACE_PATTERN))]
    pub region: Option<String>,
    /// What waltree may write on the servers of this group. Observe: only the slots of the nodes below; somebody else, say
    /// Patroni, keeps their settings. Routes: also primary_conninfo and primary_slot_name, by SQL. Default: Routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub management: Option<ManagementMode>,
    /// Secret in the namespace of the topology with what is needed to log in on these servers. Keys: `username` (default
    /// waltree), `password`, `tls.crt` and `tls.key` (a client certificate in place of the password), `ca.crt` (what the
    /// servers' certificates are checked against), `dbname` (default postgres). Default: none, which logs in as waltree
    /// on postgres without a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretReference>,
    /// TLS between the operator and these servers; streams between servers keep what their own primary_conninfo says.
    /// Disable: none. Require: encrypted, any certificate. VerifyCa: signed by ca.crt. VerifyFull: and for this address.
    /// Default: VerifyFull.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssl_mode: Option<SslMode>,
    /// Servers that exist already. In a group with relays the first are the relays.
    /// Default: none, and replicas instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    #[schemars(length(min = 1, max = HOSTS_MAX))]
    pub hosts: Vec<HostSpec>,
}

/// What waltree may write on the servers of a group.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManagementMode {
    /// Only slots.
    Observe,
    /// Routes too.
    Routes,
}

/// How the operator's connections are encrypted and whose certificate is taken.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS, with whatever certificate the server shows.
    Require,
    /// TLS, with a certificate signed by `ca.crt`.
    VerifyCa,
    /// TLS, with a certificate signed by `ca.crt` for the address of the host.
    VerifyFull,
}

/// Which Secret.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct SecretReference {
    /// Name of the Secret, in the namespace of the topology.
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_PATTERN))]
    pub name: String,
}

/// One PostgreSQL server, 15 or later.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct HostSpec {
    /// Name of the server, unique in the topology: lower-case letters, digits and '-', beginning with a letter. It
    /// becomes its application_name, and with '_' for '-' the name of its slots.
    #[schemars(length(min = 1, max = crate::model::name::NAME_BYTES_MAX), regex(pattern = NAME_PATTERN))]
    pub name: String,
    /// IP or host name under which both the operator and the other servers reach it. An IP is better: PostgreSQL cannot
    /// give up a name lookup that hangs.
    #[schemars(length(min = 1, max = 253), regex(pattern = ADDRESS_PATTERN))]
    #[x_kube(validation = Rule::new("self.split(':').size() != 2")
        .message("address is an IP or a host name without a port. Write the port in port."))]
    pub address: String,
    /// TCP port of the server. Default: 5432.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// Failure zone, such as a data centre room: the upstreams of one route are taken from different zones where
    /// possible. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = PLACE_PATTERN))]
    pub zone: Option<String>,
}

impl ReplicaTopology {
    /// The conditions reported last.
    pub fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }
}
